//! What a session reports while it runs. Times are milliseconds of the session's clock: 0 = first sample of the source.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::ShortName;
use crate::receipt::Receipt;
use crate::result::{ClassScore, Detection};

/// One tracked object in one frame.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Track {
    /// Stable while the object is followed, from 1.
    pub id: u64,
    #[serde(rename = "box")]
    pub bbox: [f32; 4],
    pub score: f32,
    pub class: u32,
    pub label: ShortName,
    /// Frames since the object was first seen.
    pub age_frames: u32,
}

/// The kinds of events.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventBody {
    /// The session has started: what was found in the source.
    Opened {
        video: bool,
        audio: bool,
        width: u32,
        height: u32,
        frame_rate: f32,
        sample_rate_hz: u32,
        duration_ms: u64,
    },
    Detection {
        frame: u64,
        detections: Vec<Detection>,
    },
    Track {
        frame: u64,
        tracks: Vec<Track>,
    },
    /// A sound class became audible (`active`) or ceased.
    Sound {
        active: bool,
        start_ms: u64,
        end_ms: u64,
        label: ShortName,
        score: f32,
    },
    /// Speech started (`active`) or ended; `start_ms` and `end_ms` bound the segment so far.
    Speech {
        active: bool,
        start_ms: u64,
        end_ms: u64,
    },
    Transcript {
        start_ms: u64,
        end_ms: u64,
        r#final: bool,
        text: String,
    },
    Fusion {
        start_ms: u64,
        end_ms: u64,
        events: Vec<ClassScore>,
        intensity: f32,
    },
    /// Evidence that was not looked at: `units` frames or audio chunks between the two times, and why.
    Gap {
        modality: ShortName,
        start_ms: u64,
        end_ms: u64,
        units: u64,
        reason: String,
    },
    /// Something the user should know that is not evidence (no audio in the file, for example).
    Notice {
        text: String,
    },
    /// The last event: everything of the source was looked at or reported as a gap (`complete`), or `error` says why not.
    Closed {
        complete: bool,
        frames: u64,
        audio_ms: u64,
        gaps: u64,
        error: String,
    },
    /// The session goes on after its node or the connection was lost. What follows comes from the state at `from_ms`, so
    /// events of evidence after it may come again; the SDK leaves those out.
    Resumed {
        /// Rises whenever the session changes hands.
        epoch: u64,
        from_ms: u64,
        /// Which node has it now.
        node: ShortName,
    },
    /// So many events of a source were not sent to this watcher: it reads too slowly, or came back too late.
    Missed {
        events: u64,
    },
}

/// One event of a session.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, serde::Serialize)]
pub struct Event {
    /// Session time of the evidence, in milliseconds.
    pub t_ms: u64,
    /// Number within the session, from 0, without holes.
    pub number: u64,
    #[serde(flatten)]
    pub body: EventBody,
    /// Receipt of the job that the event rests on; absent for events that needed none.
    #[serde(skip)]
    pub receipt: Option<Receipt>,
}
