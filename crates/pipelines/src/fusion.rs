//! Windows of evidence: what camera and microphone said in one second, as the sixteen numbers that the fusion network
//! takes.
//!
//! Evidence comes late and out of order, because models take their time. Each source therefore says how far it has
//! come ([`FusionWindows::mark`]); a window closes when every source is past it, or when the furthest is so far ahead
//! that waiting would not help. Evidence for a window that has closed is counted and dropped. What the numbers mean is
//! written in `cluster/models/fusion/README.md`.

mod evidence;
mod window;

use std::collections::VecDeque;

use sensorium_wire::EventBody;
use sensorium_wire::event::Track;
use sensorium_wire::result::ClassScore;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckpointError, Reader, Writer};
use crate::sound::spoken_for_ms;
pub use evidence::{EvidenceError, EvidenceSpec, FEATURES, SOUND_GROUPS};
use evidence::{Labels, Scales};
use window::Window;

const KIND: [u8; 4] = *b"SFUS";
const VERSION: u16 = 1;
/// Open windows that a checkpoint holds; what lies further ahead is left out, and its evidence is missing after a
/// restore.
pub const CHECKPOINT_WINDOWS_MAX: usize = 128;

/// Numbers in a row of evidence.
pub const FEATURES_COUNT: usize = 16;
/// Windows that may be open at once. Evidence further ahead is dropped.
pub const WINDOWS_MAX: usize = 256;

/// Who gives evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Frames with their tracks.
    Video,
    /// Sound: speech probabilities, classes, loudness.
    Audio,
    /// Transcripts, which come after the speech that they are about.
    Text,
}

impl Source {
    const COUNT: usize = 3;
}

/// How windows close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FusionSettings {
    /// How far one source may run ahead before a window closes without the others, in milliseconds. Default 2,000;
    /// sources that are read as fast as possible need more. At most what [`WINDOWS_MAX`] windows cover.
    pub late_ms_max: u64,
    /// Step between sound windows, in milliseconds. Default 480 (YAMNet).
    pub sound_hop_ms: u64,
}

impl Default for FusionSettings {
    fn default() -> Self {
        Self { late_ms_max: 2_000, sound_hop_ms: 480 }
    }
}

/// The evidence of one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FusionRow {
    pub start_ms: u64,
    pub end_ms: u64,
    /// In the order of [`FEATURES`], each 0 to 1.
    pub features: [f32; FEATURES_COUNT],
    /// Whether there was any evidence of the kind; its features are 0 otherwise.
    pub video: bool,
    pub audio: bool,
}

impl FusionRow {
    /// The event of this window, with what the network made of it.
    #[must_use]
    pub const fn body(&self, events: Vec<ClassScore>, intensity: f32) -> EventBody {
        EventBody::Fusion { start_ms: self.start_ms, end_ms: self.end_ms, events, intensity }
    }
}

/// Collects the evidence of one session.
#[derive(Clone, Debug)]
pub struct FusionWindows {
    labels: Labels,
    scales: Scales,
    window_ms: u64,
    late_ms_max: u64,
    sound_hop_ms: u64,
    /// How far each expected source has come.
    marks_ms: [Option<u64>; Source::COUNT],
    /// Number of the first open window.
    next: u64,
    open: VecDeque<Window>,
    dropped: u64,
    skipped: u64,
}

impl FusionWindows {
    /// Windows that wait for `sources`.
    ///
    /// # Errors
    /// An [`EvidenceError`] when the description is not of the sixteen features.
    pub fn new(spec: &EvidenceSpec, settings: FusionSettings, sources: &[Source]) -> Result<Self, EvidenceError> {
        let (labels, scales) = spec.compile()?;
        let mut marks_ms = [None; Source::COUNT];
        for source in sources {
            marks_ms[*source as usize] = Some(0);
        }
        let late_ms_max = settings.late_ms_max.min(spec.window_ms * (WINDOWS_MAX as u64 - 2));
        Ok(Self {
            labels,
            scales,
            window_ms: spec.window_ms,
            late_ms_max,
            sound_hop_ms: settings.sound_hop_ms,
            marks_ms,
            next: 0,
            open: VecDeque::new(),
            dropped: 0,
            skipped: 0,
        })
    }

    /// One frame: its tracks, how many of them are new, and their speeds in heights per second.
    pub fn add_frame(&mut self, t_ms: u64, tracks: &[Track], new_tracks: u32, speeds: impl Iterator<Item = f32>) {
        let (mut persons, mut vehicles) = (0_u16, 0_u16);
        for track in tracks {
            persons = persons.saturating_add(u16::from(self.labels.is_person(&track.label)));
            vehicles = vehicles.saturating_add(u16::from(self.labels.is_vehicle(&track.label)));
        }
        if let Some(window) = self.window_at(t_ms) {
            window.add_frame(persons, vehicles, new_tracks, speeds);
        }
    }

    /// Probabilities of speech, one per `window_ms` milliseconds from `start_ms` on.
    pub fn add_speech(&mut self, start_ms: u64, window_ms: u32, probabilities: &[f32]) {
        let mut middle_ms = start_ms.saturating_add(u64::from(window_ms) / 2);
        for probability in probabilities {
            if let Some(window) = self.window_at(middle_ms) {
                window.add_speech(*probability);
            }
            middle_ms = middle_ms.saturating_add(u64::from(window_ms));
        }
    }

    /// A transcript: its words are spread evenly over its time.
    pub fn add_words(&mut self, start_ms: u64, end_ms: u64, text: &str) {
        let words = f32::from(u16::try_from(text.split_whitespace().count()).unwrap_or(u16::MAX));
        self.spread(start_ms, end_ms, |window, share, _| window.words += words * share);
    }

    /// Classes of one sound window.
    pub fn add_sounds(&mut self, start_ms: u64, end_ms: u64, classes: &[ClassScore]) {
        let groups = self.labels.group_scores(classes);
        let (from_ms, to_ms) = spoken_for_ms(start_ms, end_ms, self.sound_hop_ms);
        self.spread(from_ms, to_ms, |window, _, _| window.add_sounds(&groups));
    }

    /// Mono samples in -1 to 1 that cover the time, for the loudness.
    pub fn add_samples(&mut self, start_ms: u64, end_ms: u64, samples: &[f32]) {
        let power = mean_power(samples);
        self.spread(start_ms, end_ms, |window, _, ms| window.add_power(power, ms));
    }

    /// The source has given all its evidence before `until_ms`. Gives the windows that are closed by that, in order.
    pub fn mark(&mut self, source: Source, until_ms: u64) -> Vec<FusionRow> {
        let mark_ms = &mut self.marks_ms[source as usize];
        *mark_ms = Some(mark_ms.unwrap_or(0).max(until_ms));
        let slowest_ms = self.marks_ms.iter().flatten().min().copied().unwrap_or(0);
        let fastest_ms = self.marks_ms.iter().flatten().max().copied().unwrap_or(0);
        self.close_before(slowest_ms.max(fastest_ms.saturating_sub(self.late_ms_max)) / self.window_ms)
    }

    /// The session has ended: closes every window that has evidence.
    pub fn finish(&mut self) -> Vec<FusionRow> {
        self.close_before(self.next + self.open.len() as u64)
    }

    /// Pieces of evidence that came too late, or that are too far ahead of what was marked.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Windows without evidence that were left out because a source leapt ahead.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The state in which one source has come only as far as it had in `earlier`, a state that this one came from, and the
    /// others as far as here. So states of sources that are captured one after the other make one checkpoint.
    #[must_use]
    pub fn with_earlier(&self, source: Source, earlier: &Self) -> Self {
        let mut joined = self.clone();
        let none = Window::default();
        for (number, window) in (self.next..).zip(&mut joined.open) {
            let at = number.checked_sub(earlier.next).and_then(|at| usize::try_from(at).ok());
            let before = at.and_then(|at| earlier.open.get(at)).unwrap_or(&none);
            if source == Source::Video {
                window.take_video(before);
            } else {
                let mut audio = before.clone();
                audio.take_video(window);
                *window = audio;
            }
        }
        joined.marks_ms[source as usize] = earlier.marks_ms[source as usize];
        joined
    }

    /// The state as flat bytes, below 10 KiB.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        let mut writer = Writer::new(KIND, VERSION);
        writer.u64(self.window_ms);
        for mark_ms in &self.marks_ms {
            writer.bool(mark_ms.is_some());
            writer.u64(mark_ms.unwrap_or(0));
        }
        writer.u64(self.next);
        writer.u64(self.dropped);
        writer.u64(self.skipped);
        writer.count(self.open.len().min(CHECKPOINT_WINDOWS_MAX));
        self.open.iter().take(CHECKPOINT_WINDOWS_MAX).for_each(|window| window.write(&mut writer));
        writer.finish()
    }

    /// Goes on from a checkpoint with the description, settings and sources that this was made with.
    ///
    /// # Errors
    /// A [`CheckpointError`] that says what in the bytes is wrong; nothing is changed then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let mut reader = Reader::new(bytes, KIND, VERSION)?;
        if reader.u64("length of a window")? != self.window_ms {
            return Err(CheckpointError::Invalid { what: "length of a window" });
        }
        let mut marks_ms = self.marks_ms;
        for mark_ms in &mut marks_ms {
            let known = reader.bool("presence of a mark")?;
            *mark_ms = known.then_some(reader.u64("mark")?);
        }
        let (next, dropped, skipped) = (reader.u64("window")?, reader.u64("dropped")?, reader.u64("skipped")?);
        let count = reader.count("number of windows", CHECKPOINT_WINDOWS_MAX)?;
        let mut open = VecDeque::with_capacity(count);
        for _ in 0..count {
            open.push_back(Window::read(&mut reader)?);
        }
        reader.finish()?;
        // No session lasts that long; below that nothing here overflows.
        if next > u64::MAX >> 20 || dropped > u64::MAX >> 1 || skipped > u64::MAX >> 1 {
            return Err(CheckpointError::Invalid { what: "window" });
        }
        (self.marks_ms, self.next, self.dropped, self.skipped, self.open) = (marks_ms, next, dropped, skipped, open);
        Ok(())
    }

    /// Closes the windows below a number. A source that leaps ahead closes what is open and leaves the rest out.
    fn close_before(&mut self, end: u64) -> Vec<FusionRow> {
        let mut rows = Vec::new();
        while self.next < end && rows.len() < WINDOWS_MAX {
            let window = self.open.pop_front().unwrap_or_default();
            let start_ms = self.next * self.window_ms;
            rows.push(window.row(start_ms, start_ms + self.window_ms, &self.scales));
            self.next += 1;
        }
        if self.next < end {
            self.skipped += end - self.next;
            self.next = end;
        }
        rows
    }

    fn window_at(&mut self, t_ms: u64) -> Option<&mut Window> {
        self.window(t_ms / self.window_ms)
    }

    fn window(&mut self, number: u64) -> Option<&mut Window> {
        let index = number.checked_sub(self.next).and_then(|ahead| usize::try_from(ahead).ok());
        let Some(index) = index.filter(|index| *index < WINDOWS_MAX) else {
            self.dropped += 1;
            return None;
        };
        if index >= self.open.len() {
            self.open.resize_with(index + 1, Window::default);
        }
        self.open.get_mut(index)
    }

    /// Calls `add` with each window that the time touches, the share of the time that lies in it, and that part's
    /// milliseconds.
    fn spread(&mut self, start_ms: u64, end_ms: u64, mut add: impl FnMut(&mut Window, f32, f32)) {
        let end_ms = end_ms.max(start_ms.saturating_add(1));
        let length_ms = end_ms - start_ms;
        let (mut at_ms, window_ms) = (start_ms, self.window_ms);
        while at_ms < end_ms {
            let number = at_ms / window_ms;
            let until_ms = end_ms.min((number + 1).saturating_mul(window_ms));
            #[expect(
                clippy::cast_precision_loss,
                reason = "a part of a window is far below 2^24 ms; the share may round"
            )]
            let (part_ms, share) = ((until_ms - at_ms) as f32, (until_ms - at_ms) as f32 / length_ms as f32);
            let next = self.next;
            match self.window(number) {
                Some(window) => add(window, share, part_ms),
                // Nothing further ahead will fit either, and the time may be absurdly long.
                None if number >= next => return,
                None => {
                    // Skip what is closed in one step.
                    at_ms = until_ms.max((next * window_ms).min(end_ms));
                    continue;
                }
            }
            at_ms = until_ms;
        }
    }
}

/// Mean square of samples; those that are no numbers count as silence.
#[must_use]
pub fn mean_power(samples: &[f32]) -> f32 {
    if samples.is_empty() {
        return 0.0;
    }
    let sum: f64 = samples.iter().filter(|sample| sample.is_finite()).map(|sample| f64::from(*sample).powi(2)).sum();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a mean of squares of samples")]
    let mean = (sum / samples.len() as f64) as f32;
    mean
}

#[cfg(test)]
mod tests;
