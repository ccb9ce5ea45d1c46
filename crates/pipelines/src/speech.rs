//! From probabilities of speech to segments of speech.
//!
//! One probability covers 32 ms (512 samples at 16 kHz). A segment opens at a high probability and stays open until it
//! has been low for a while; what is reported is when speech began and ended, not when that was decided. It does not
//! hold any sound: segments name the samples that a transcriber should get.

use std::ops::Range;

use sensorium_wire::EventBody;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckpointError, Reader, Writer};

/// Time that one probability covers.
pub const WINDOW_MS: u64 = 32;
/// Samples that one probability covers, at [`SAMPLE_RATE_HZ`].
pub const WINDOW_SAMPLES: u64 = 512;
pub const SAMPLE_RATE_HZ: u32 = 16_000;
/// Longest segment that can be asked for; it bounds what is kept.
pub const SEGMENT_MS_MAX: u64 = 60_000;
const SAMPLES_PER_MS: u64 = WINDOW_SAMPLES / WINDOW_MS;
/// A beginning of fewer windows than this that is followed by as many silent ones was a click, not speech.
const CLICK_WINDOWS: u64 = 3;
const KIND: [u8; 4] = *b"SSPC";
const VERSION: u16 = 1;

/// When speech begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpeechSettings {
    /// Probability that opens a segment. Default 0.5.
    pub open_min: f32,
    /// Below this a segment's silence begins. Default 0.35.
    pub close_below: f32,
    /// Silence that ends a segment, in milliseconds. Default 400: pauses inside a sentence are shorter.
    pub silence_ms_min: u64,
    /// Shorter speech is not reported, in milliseconds. Default 200.
    pub speech_ms_min: u64,
    /// How long the probability stays high after the voice has ended, in milliseconds; taken off the reported end.
    /// Default 128. Measured with Silero VAD 6.2 on read speech with known ends: 126, 144 and 162.
    pub release_ms: u64,
    /// Sound before and after a segment that a transcriber gets as well, in milliseconds. Default 200: it needs some
    /// context, and weak first consonants lie there.
    pub pad_ms: u64,
    /// Longer segments are cut where speech is least likely, in milliseconds. Default 20,000, at most 60,000.
    pub segment_ms_max: u64,
}

impl Default for SpeechSettings {
    fn default() -> Self {
        Self {
            open_min: 0.5,
            close_below: 0.35,
            silence_ms_min: 400,
            speech_ms_min: 200,
            release_ms: 128,
            pad_ms: 200,
            segment_ms_max: 20_000,
        }
    }
}

impl SpeechSettings {
    /// Values that would contradict each other are moved to the nearest that do not.
    fn sane(mut self) -> Self {
        self.close_below = self.close_below.min(self.open_min);
        self.segment_ms_max = self.segment_ms_max.clamp(1_000, SEGMENT_MS_MAX);
        self.silence_ms_min = self.silence_ms_min.clamp(WINDOW_MS, self.segment_ms_max);
        self.speech_ms_min = self.speech_ms_min.min(self.segment_ms_max / 4);
        self.release_ms = self.release_ms.min(self.segment_ms_max / 4);
        self
    }
}

/// A stretch of speech, in milliseconds of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeechSegment {
    pub start_ms: u64,
    pub end_ms: u64,
    /// The samples to transcribe, with padding, at 16 kHz; 0 = the first sample of the stream. Samples of a gap count.
    pub samples: Range<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpeechEvent {
    Started { start_ms: u64 },
    Ended(SpeechSegment),
}

impl SpeechEvent {
    /// As a session reports it.
    #[must_use]
    pub const fn body(&self) -> EventBody {
        match self {
            Self::Started { start_ms } => EventBody::Speech { active: true, start_ms: *start_ms, end_ms: *start_ms },
            Self::Ended(segment) => {
                EventBody::Speech { active: false, start_ms: segment.start_ms, end_ms: segment.end_ms }
            }
        }
    }
}

/// Windows are numbered from the last gap.
#[derive(Clone, Debug, PartialEq)]
struct Open {
    start: u64,
    /// One past the last window of speech.
    end: u64,
    /// Windows at or above the opening probability.
    loud: u64,
    announced: bool,
    /// It continues a segment that was cut, so the sound before it has been transcribed.
    continues: bool,
    /// From `start` on.
    probabilities: Vec<f32>,
}

/// Finds the speech of one audio stream.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeechSegmenter {
    settings: SpeechSettings,
    origin_ms: u64,
    /// Session time of window 0.
    base_ms: u64,
    windows: u64,
    open: Option<Open>,
    /// End of the samples that the last segment named.
    samples_named: u64,
}

impl SpeechSegmenter {
    /// `origin_ms` is the session's time of the stream's first sample.
    #[must_use]
    pub fn new(settings: SpeechSettings, origin_ms: u64) -> Self {
        let settings = settings.sane();
        Self { settings, origin_ms, base_ms: origin_ms, windows: 0, open: None, samples_named: 0 }
    }

    /// Takes the probabilities of the next windows. One that is no number counts as silence.
    pub fn push(&mut self, probabilities: &[f32]) -> Vec<SpeechEvent> {
        let mut events = Vec::new();
        for probability in probabilities {
            self.push_one(if probability.is_finite() { probability.clamp(0.0, 1.0) } else { 0.0 }, &mut events);
        }
        events
    }

    /// The next `ms` milliseconds of sound were not looked at. Speech does not reach across.
    pub fn gap(&mut self, ms: u64) -> Vec<SpeechEvent> {
        let events = self.finish();
        self.base_ms = self.base_ms.saturating_add(self.windows * WINDOW_MS).saturating_add(ms);
        self.windows = 0;
        events
    }

    /// The stream has ended; ends what is open.
    pub fn finish(&mut self) -> Vec<SpeechEvent> {
        let mut events = Vec::new();
        if let Some(open) = self.open.take() {
            self.announce_if_long(&open, &mut events);
            if open.announced || !events.is_empty() {
                events.push(self.ended(&open));
            }
        }
        events
    }

    /// Session time up to which it is settled what is speech: nothing before it will be part of a later segment.
    #[must_use]
    pub fn settled_ms(&self) -> u64 {
        self.ms(self.open.as_ref().map_or(self.windows, |open| open.start))
    }

    fn push_one(&mut self, probability: f32, events: &mut Vec<SpeechEvent>) {
        let window = self.windows;
        self.windows += 1;
        let Some(mut open) = self.open.take() else {
            if probability >= self.settings.open_min {
                let probabilities = vec![probability];
                self.open = Some(Open {
                    start: window,
                    end: window + 1,
                    loud: 1,
                    announced: false,
                    continues: false,
                    probabilities,
                });
            }
            return;
        };
        open.probabilities.push(probability);
        let loud = probability >= self.settings.open_min;
        open.loud += u64::from(loud);
        // In between the two thresholds speech goes on but does not come back.
        if loud || (probability >= self.settings.close_below && open.end == window) {
            open.end = window + 1;
        }
        if !open.announced {
            let before = events.len();
            self.announce_if_long(&open, events);
            open.announced = events.len() > before;
        }
        let silent = self.windows - open.end;
        if !open.announced && silent >= CLICK_WINDOWS && open.loud < CLICK_WINDOWS {
            return;
        }
        if silent * WINDOW_MS >= self.settings.silence_ms_min {
            if open.announced {
                events.push(self.ended(&open));
            }
            return;
        }
        if (self.windows - open.start) * WINDOW_MS >= self.settings.segment_ms_max {
            self.open = self.cut(&open, events);
            return;
        }
        self.open = Some(open);
    }

    fn announce_if_long(&self, open: &Open, events: &mut Vec<SpeechEvent>) {
        let long_ms = ((open.end - open.start) * WINDOW_MS).saturating_sub(self.settings.release_ms);
        if !open.announced && long_ms >= self.settings.speech_ms_min {
            events.push(SpeechEvent::Started { start_ms: self.ms(open.start) });
        }
    }

    /// Ends a segment that has become too long at the least likely window of its second half, and goes on from there.
    fn cut(&mut self, open: &Open, events: &mut Vec<SpeechEvent>) -> Option<Open> {
        let half = open.probabilities.len() / 2;
        let second_half = open.probabilities.iter().enumerate().skip(half);
        // The later of two that are equal, so that steady speech fills the segment.
        let quietest = second_half.rev().min_by(|a, b| a.1.total_cmp(b.1)).map_or(half, |(index, _)| index);
        let at = open.start + quietest as u64;
        if open.end <= at || !open.announced {
            // Speech is over already; only the silence after it was not long enough yet.
            if open.announced {
                events.push(self.ended(open));
            }
            return None;
        }
        let samples = self.samples(open, at, false);
        self.samples_named = samples.end;
        events.push(SpeechEvent::Ended(SpeechSegment { start_ms: self.ms(open.start), end_ms: self.ms(at), samples }));
        events.push(SpeechEvent::Started { start_ms: self.ms(at) });
        let probabilities = open.probabilities[quietest..].to_vec();
        let loud = probabilities.iter().filter(|probability| **probability >= self.settings.open_min).count() as u64;
        Some(Open { start: at, end: open.end, loud, announced: true, continues: true, probabilities })
    }

    fn ended(&mut self, open: &Open) -> SpeechEvent {
        let start_ms = self.ms(open.start);
        let end_ms = self.ms(open.end).saturating_sub(self.settings.release_ms).max(start_ms + WINDOW_MS);
        let samples = self.samples(open, open.end, true);
        self.samples_named = samples.end;
        SpeechEvent::Ended(SpeechSegment { start_ms, end_ms, samples })
    }

    /// Samples of a segment that ends with window `end`. Padding neither reaches into the segment before nor past what
    /// has been heard, and there is none where a segment was cut.
    fn samples(&self, open: &Open, end: u64, pad_end: bool) -> Range<u64> {
        let sample = |window: u64| (self.base_ms - self.origin_ms + window * WINDOW_MS) * SAMPLES_PER_MS;
        let pad = self.settings.pad_ms * SAMPLES_PER_MS;
        let pad_start = if open.continues { 0 } else { pad };
        let start = sample(open.start).saturating_sub(pad_start).max(self.samples_named).max(sample(0));
        let released = self.settings.release_ms * SAMPLES_PER_MS;
        let end = if pad_end {
            (sample(end).saturating_sub(released) + pad).max(sample(end)).min(sample(self.windows))
        } else {
            sample(end)
        };
        start.min(end)..end
    }

    const fn ms(&self, window: u64) -> u64 {
        self.base_ms + window * WINDOW_MS
    }

    /// The state as flat bytes: 40 bytes, and some more while a segment is open.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        let mut writer = Writer::new(KIND, VERSION);
        writer.u64(self.origin_ms);
        writer.u64(self.base_ms);
        writer.u64(self.windows);
        writer.u64(self.samples_named);
        writer.bool(self.open.is_some());
        if let Some(open) = &self.open {
            writer.u64(open.start);
            writer.u64(open.end);
            writer.bool(open.announced);
            writer.bool(open.continues);
            writer.count(open.probabilities.len());
            open.probabilities.iter().for_each(|probability| writer.f32(*probability));
        }
        writer.finish()
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// A [`CheckpointError`] that says what in the bytes is wrong.
    pub fn restore(settings: SpeechSettings, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let settings = settings.sane();
        let mut reader = Reader::new(bytes, KIND, VERSION)?;
        let (origin_ms, base_ms) = (reader.u64("origin")?, reader.u64("time of the first window")?);
        let (windows, samples_named) = (reader.u64("number of windows")?, reader.u64("samples")?);
        // A stream of a hundred thousand years is not one; below that no product or sum here overflows.
        let long = u64::MAX >> 14;
        if base_ms < origin_ms || base_ms > long || windows > long / WINDOW_MS || samples_named > long {
            return Err(CheckpointError::Invalid { what: "time" });
        }
        let open = if reader.bool("presence of a segment")? {
            let (start, end) = (reader.u64("start")?, reader.u64("end")?);
            let (announced, continues) = (reader.bool("announcement")?, reader.bool("continuation")?);
            let windows_max = usize::try_from(SEGMENT_MS_MAX / WINDOW_MS).unwrap_or(0) + 1;
            let count = reader.count("number of probabilities", windows_max)?;
            let mut probabilities = Vec::with_capacity(count);
            for _ in 0..count {
                probabilities.push(reader.unit_f32("probability")?);
            }
            if start >= end || end > windows || start + count as u64 != windows {
                return Err(CheckpointError::Invalid { what: "segment" });
            }
            let loud = probabilities.iter().filter(|probability| **probability >= settings.open_min).count() as u64;
            Some(Open { start, end, loud, announced, continues, probabilities })
        } else {
            None
        };
        reader.finish()?;
        Ok(Self { settings, origin_ms, base_ms, windows, open, samples_named })
    }
}

#[cfg(test)]
mod tests;
