//! The state of a whole session as one checkpoint: what another node needs to go on with it.
//!
//! Each part of a session is captured at a position of its own, with the latest events that it had given by then: what
//! those say is before the position, everything after it is found again by whoever goes on. It holds no pixels and no
//! sound; both are read again from the source.

use std::ops::Range;

use crate::checkpoint::{CHECKPOINT_BYTES_MAX, CheckpointError, Reader, Writer};
use crate::sound::{SoundEvents, SoundSettings};
use crate::speech::{SAMPLE_RATE_HZ, SpeechSegmenter, SpeechSettings};
use crate::track::{TrackSettings, Tracker};

const KIND: [u8; 4] = *b"SSES";
/// The version that this build writes, and the only one that it reads.
pub const VERSION: u16 = 1;
/// Latest events of one part that are kept.
pub const TAIL_EVENTS_MAX: usize = 24;
/// Bytes of the latest events of one part.
pub const TAIL_BYTES_MAX: usize = 4 << 10;
/// Longest memory of a speech detector, in bytes. A longer one is left out; the detector then starts with none.
pub const DETECTOR_BYTES_MAX: usize = 8 << 10;
/// Segments of speech that may wait for their transcript.
pub const PENDING_MAX: usize = 32;
/// No session lasts longer; below that no sum or product of times overflows.
const MS_MAX: u64 = 1 << 44;

/// The latest events of a part, each as it was sent, the oldest first.
pub type Tail = Vec<Vec<u8>>;

/// Video: what is followed, and how far frames have been looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoState {
    pub width: u32,
    pub height: u32,
    pub frame_rate: f32,
    /// The source has no further frame.
    pub ended: bool,
    /// Number and session time of the last frame that was looked at.
    pub last: Option<(u64, u64)>,
    pub gaps: u64,
    pub tracker: Tracker,
    pub tail: Tail,
}

/// A segment of speech that was not transcribed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untranscribed {
    pub start_ms: u64,
    pub end_ms: u64,
    pub samples: Range<u64>,
}

/// Sound: how far it has been heard, and what was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioState {
    /// The source has no further sound.
    pub ended: bool,
    /// Samples that the speech detector has had.
    pub heard: u64,
    /// The first sample that is needed again.
    pub from: u64,
    pub gaps: u64,
    pub segmenter: SpeechSegmenter,
    /// What the speech detector's model remembers.
    pub detector: Vec<u8>,
    pub sounds: SoundEvents,
    /// The first sample that is in no finished window of the sound classifier.
    pub sounds_from: u64,
    pub pending: Vec<Untranscribed>,
    pub tail: Tail,
}

/// Fusion: a checkpoint of [`crate::FusionWindows`], if the session has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FusionState {
    pub windows: Option<Vec<u8>>,
    pub gaps: u64,
    pub tail: Tail,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionState {
    pub duration_ms: u64,
    pub video: Option<VideoState>,
    pub audio: Option<AudioState>,
    pub fusion: FusionState,
}

impl VideoState {
    /// Frames that were looked at or are reported as lost.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.last.map_or(0, |(number, _)| number + 1)
    }
}

impl SessionState {
    /// The session time that both sides have reached.
    #[must_use]
    pub fn reached_ms(&self) -> u64 {
        let video = self.video.as_ref().filter(|video| !video.ended);
        let video_ms = video.map(|video| video.last.map_or(0, |(_, t_ms)| t_ms));
        let audio = self.audio.as_ref().filter(|audio| !audio.ended);
        let audio_ms = audio.map(|audio| audio.heard * 1000 / u64::from(SAMPLE_RATE_HZ));
        video_ms.into_iter().chain(audio_ms).min().unwrap_or(self.duration_ms)
    }

    /// The state as flat bytes, at most [`CHECKPOINT_BYTES_MAX`]. What does not fit is left out in this order: the latest
    /// events (their loss shows only if the client had not received them), the windows of fusion (evidence of the seconds
    /// that are open), the memory of the speech detector. Tracks, the open segment of speech and positions always fit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let keeps = [(true, true, true), (false, true, true), (false, false, true), (false, false, false)];
        for (tails, windows, detector) in keeps {
            let bytes = self.write(tails, windows, detector);
            if bytes.len() <= CHECKPOINT_BYTES_MAX {
                return bytes;
            }
        }
        unreachable!("256 tracks and a minute of probabilities take 46 KiB")
    }

    fn write(&self, tails: bool, windows: bool, detector: bool) -> Vec<u8> {
        let tail = |events: &Tail| if tails { bounded_tail(events) } else { Vec::new() };
        let mut writer = Writer::new(KIND, VERSION);
        writer.u64(self.duration_ms);
        writer.bool(self.video.is_some());
        if let Some(video) = &self.video {
            writer.u32(video.width);
            writer.u32(video.height);
            writer.f32(video.frame_rate);
            writer.bool(video.ended);
            writer.bool(video.last.is_some());
            let (number, t_ms) = video.last.unwrap_or_default();
            writer.u64(number);
            writer.u64(t_ms);
            writer.u64(video.gaps);
            writer.bytes(&video.tracker.checkpoint());
            write_tail(&mut writer, &tail(&video.tail));
        }
        writer.bool(self.audio.is_some());
        if let Some(audio) = &self.audio {
            writer.bool(audio.ended);
            writer.u64(audio.heard);
            writer.u64(audio.from);
            writer.u64(audio.gaps);
            writer.bytes(&audio.segmenter.checkpoint());
            let fits = detector && audio.detector.len() <= DETECTOR_BYTES_MAX;
            writer.bytes(if fits { &audio.detector } else { &[] });
            writer.bytes(&audio.sounds.checkpoint());
            writer.u64(audio.sounds_from);
            let pending = &audio.pending[..audio.pending.len().min(PENDING_MAX)];
            writer.count(pending.len());
            for waiting in pending {
                writer.u64(waiting.start_ms);
                writer.u64(waiting.end_ms);
                writer.u64(waiting.samples.start);
                writer.u64(waiting.samples.end);
            }
            write_tail(&mut writer, &tail(&audio.tail));
        }
        let kept = self.fusion.windows.as_ref().filter(|_| windows);
        writer.bool(kept.is_some());
        writer.bytes(kept.map_or(&[], Vec::as_slice));
        writer.u64(self.fusion.gaps);
        write_tail(&mut writer, &tail(&self.fusion.tail));
        writer.into_bytes()
    }

    /// Reads a state that another node may have written.
    ///
    /// # Errors
    /// A [`CheckpointError`] that says what in the bytes is wrong; of another version, which one.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let mut reader = Reader::new(bytes, KIND, VERSION)?;
        let duration_ms = time(&mut reader, "duration")?;
        let video = if reader.bool("presence of video")? { Some(read_video(&mut reader)?) } else { None };
        let audio = if reader.bool("presence of sound")? { Some(read_audio(&mut reader)?) } else { None };
        let fused = reader.bool("presence of fusion")?;
        let windows = reader.bytes("windows", CHECKPOINT_BYTES_MAX)?;
        let fusion = FusionState {
            windows: fused.then(|| windows.to_vec()),
            gaps: count(&mut reader)?,
            tail: read_tail(&mut reader)?,
        };
        reader.finish()?;
        Ok(Self { duration_ms, video, audio, fusion })
    }
}

fn read_video(reader: &mut Reader<'_>) -> Result<VideoState, CheckpointError> {
    let (width, height, frame_rate) = (reader.u32("width")?, reader.u32("height")?, reader.f32("frame rate")?);
    let ended = reader.bool("end of video")?;
    let any = reader.bool("presence of a frame")?;
    let (number, t_ms) = (time(reader, "number of a frame")?, time(reader, "time of a frame")?);
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels * 3 > sensorium_wire::limits::PAYLOAD_BYTES_MAX || frame_rate <= 0.0 {
        return Err(CheckpointError::Invalid { what: "size or rate of the video" });
    }
    let gaps = count(reader)?;
    let tracker = Tracker::restore(TrackSettings::default(), reader.bytes("tracks", CHECKPOINT_BYTES_MAX)?)?;
    let tail = read_tail(reader)?;
    Ok(VideoState { width, height, frame_rate, ended, last: any.then_some((number, t_ms)), gaps, tracker, tail })
}

fn read_audio(reader: &mut Reader<'_>) -> Result<AudioState, CheckpointError> {
    let ended = reader.bool("end of sound")?;
    let (heard, from) = (time(reader, "samples")?, time(reader, "samples")?);
    let gaps = count(reader)?;
    let segmenter = SpeechSegmenter::restore(SpeechSettings::default(), reader.bytes("speech", CHECKPOINT_BYTES_MAX)?)?;
    let detector = reader.bytes("memory of the speech detector", DETECTOR_BYTES_MAX)?.to_vec();
    let sounds = SoundEvents::restore(SoundSettings::default(), reader.bytes("sounds", CHECKPOINT_BYTES_MAX)?)?;
    let sounds_from = time(reader, "samples")?;
    let mut pending = Vec::new();
    for _ in 0..reader.count("number of segments", PENDING_MAX)? {
        let (start_ms, end_ms) = (time(reader, "start of a segment")?, time(reader, "end of a segment")?);
        let samples = time(reader, "samples")?..time(reader, "samples")?;
        if samples.start < from || samples.end > heard || samples.is_empty() || end_ms < start_ms {
            return Err(CheckpointError::Invalid { what: "segment" });
        }
        pending.push(Untranscribed { start_ms, end_ms, samples });
    }
    if from > heard || sounds_from < from {
        return Err(CheckpointError::Invalid { what: "position in the sound" });
    }
    let tail = read_tail(reader)?;
    Ok(AudioState { ended, heard, from, gaps, segmenter, detector, sounds, sounds_from, pending, tail })
}

/// A time, or a number of samples or frames.
fn time(reader: &mut Reader<'_>, what: &'static str) -> Result<u64, CheckpointError> {
    let value = reader.u64(what)?;
    if value > MS_MAX { Err(CheckpointError::Invalid { what }) } else { Ok(value) }
}

fn count(reader: &mut Reader<'_>) -> Result<u64, CheckpointError> {
    time(reader, "number of gaps")
}

/// The newest events that fit.
fn bounded_tail(events: &Tail) -> Tail {
    let mut bytes = 0;
    let newest = events.iter().rev().take(TAIL_EVENTS_MAX).take_while(|event| {
        bytes += event.len();
        bytes <= TAIL_BYTES_MAX
    });
    let mut kept: Tail = newest.cloned().collect();
    kept.reverse();
    kept
}

fn write_tail(writer: &mut Writer, events: &Tail) {
    writer.count(events.len());
    events.iter().for_each(|event| writer.bytes(event));
}

fn read_tail(reader: &mut Reader<'_>) -> Result<Tail, CheckpointError> {
    let events = reader.count("number of events", TAIL_EVENTS_MAX)?;
    (0..events).map(|_| reader.bytes("event", TAIL_BYTES_MAX).map(<[u8]>::to_vec)).collect()
}

#[cfg(test)]
mod tests;
