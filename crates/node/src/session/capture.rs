//! Capturing a session's state while its parts go on.
//!
//! Who wants a state raises a number ([`Cuts`]). Each part sees it between two pieces of its work, writes down where it is,
//! and sends that down the same channel as its evidence. Fusion, at the other end, so knows exactly which evidence lies
//! before it: what it has of each side when that side's word arrives belongs to the state ([`Capture`]). Nobody waits.

use std::sync::Arc;

use sensorium_pipelines::FusionWindows;
use sensorium_pipelines::fusion::Source;
use sensorium_pipelines::session::{AudioState, FusionState, SessionState, VideoState};
use tokio::sync::watch;

/// The wish for a state, as a number that rises. Cheap to clone; each clone hears of each wish once, or of the latest.
#[derive(Clone)]
pub(super) struct Cuts {
    wanted: watch::Sender<u64>,
    seen: watch::Receiver<u64>,
}

impl Cuts {
    pub(super) fn new() -> Self {
        let (wanted, seen) = watch::channel(0);
        Self { wanted, seen }
    }

    /// Somebody wants a state.
    pub(super) fn want(&self) {
        self.wanted.send_modify(|number| *number += 1);
    }

    /// The next wish that this clone has not seen.
    pub(super) async fn next(&mut self) -> u64 {
        let _ = self.seen.changed().await;
        *self.seen.borrow_and_update()
    }
}

/// One side of a session.
pub(super) enum Side<T> {
    Runs,
    /// It has come to its end, in this state.
    Ended(Box<T>),
}

/// What fusion begins with. A side that the session does not have is `None`.
pub(super) struct Begin {
    pub(super) video: Option<Side<VideoState>>,
    pub(super) audio: Option<Side<AudioState>>,
    pub(super) state: FusionState,
    pub(super) duration_ms: u64,
}

/// Both sides at one number.
pub(super) struct Captured {
    pub(super) video: Option<VideoState>,
    pub(super) audio: Option<AudioState>,
    pub(super) windows: Option<FusionWindows>,
}

/// One side that was captured, and what fusion had then.
struct Half<T> {
    number: u64,
    state: Box<T>,
    windows: Option<FusionWindows>,
}

/// Puts the sides together.
pub(super) struct Capture {
    duration_ms: u64,
    video: Option<Side<VideoState>>,
    audio: Option<Side<AudioState>>,
    video_half: Option<Half<VideoState>>,
    audio_half: Option<Half<AudioState>>,
    states: watch::Sender<Option<Arc<SessionState>>>,
}

impl Capture {
    pub(super) fn new(
        duration_ms: u64,
        video: Option<Side<VideoState>>,
        audio: Option<Side<AudioState>>,
        states: watch::Sender<Option<Arc<SessionState>>>,
    ) -> Self {
        Self { duration_ms, video, audio, video_half: None, audio_half: None, states }
    }

    /// Video was captured; `windows` is what fusion has now.
    pub(super) fn video(
        &mut self,
        number: u64,
        state: Box<VideoState>,
        windows: Option<&FusionWindows>,
    ) -> Option<Captured> {
        if let Some(other) = self.audio_half.take_if(|half| half.number == number) {
            let windows = joined(windows, Source::Audio, other.windows);
            return Some(Captured { video: Some(*state), audio: Some(*other.state), windows });
        }
        let audio = match &self.audio {
            Some(Side::Runs) => {
                self.video_half = Some(Half { number, state, windows: windows.cloned() });
                return None;
            }
            Some(Side::Ended(audio)) => Some((**audio).clone()),
            None => None,
        };
        Some(Captured { video: Some(*state), audio, windows: windows.cloned() })
    }

    /// Sound was captured.
    pub(super) fn audio(
        &mut self,
        number: u64,
        state: Box<AudioState>,
        windows: Option<&FusionWindows>,
    ) -> Option<Captured> {
        if let Some(other) = self.video_half.take_if(|half| half.number == number) {
            let windows = joined(windows, Source::Video, other.windows);
            return Some(Captured { video: Some(*other.state), audio: Some(*state), windows });
        }
        let video = match &self.video {
            Some(Side::Runs) => {
                self.audio_half = Some(Half { number, state, windows: windows.cloned() });
                return None;
            }
            Some(Side::Ended(video)) => Some((**video).clone()),
            None => None,
        };
        Some(Captured { video, audio: Some(*state), windows: windows.cloned() })
    }

    /// There is no more video. Sound that was waiting for it to be captured gets its end.
    pub(super) fn video_ended(&mut self, state: Box<VideoState>, windows: Option<&FusionWindows>) -> Option<Captured> {
        self.video = Some(Side::Ended(state.clone()));
        let number = self.audio_half.as_ref()?.number;
        self.video(number, state, windows)
    }

    /// There is no more sound.
    pub(super) fn audio_ended(&mut self, state: Box<AudioState>, windows: Option<&FusionWindows>) -> Option<Captured> {
        self.audio = Some(Side::Ended(state.clone()));
        let number = self.video_half.as_ref()?.number;
        self.audio(number, state, windows)
    }

    /// The newest state takes the place of the one before, whether that was sent or not.
    pub(super) fn publish(&self, video: Option<VideoState>, audio: Option<AudioState>, fusion: FusionState) {
        let state = SessionState { duration_ms: self.duration_ms, video, audio, fusion };
        self.states.send_replace(Some(Arc::new(state)));
    }
}

/// What fusion has now, but of `source` only what it had before.
fn joined(now: Option<&FusionWindows>, source: Source, before: Option<FusionWindows>) -> Option<FusionWindows> {
    Some(now?.with_earlier(source, &before?))
}
