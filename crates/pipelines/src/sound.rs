//! From classes of overlapping windows to sounds that begin and end.
//!
//! A class becomes active at a high score and ends after its score has been low in two windows in a row: networks for
//! AudioSet are judged at thresholds around 0.3, and their scores for a steady sound scatter widely. A window is longer
//! than the step to the next, so each window speaks for one step around its middle: those stretches neither overlap nor
//! leave holes.

use std::collections::BTreeMap;

use sensorium_wire::EventBody;
use sensorium_wire::ids::{Name, ShortName};
use sensorium_wire::result::ClassScore;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckpointError, Reader, Writer};

const KIND: [u8; 4] = *b"SSND";
const VERSION: u16 = 1;

/// Most sounds that are active at once; more are not reported until one ends.
pub const SOUNDS_MAX: usize = 32;

/// When a sound counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SoundSettings {
    /// Score that makes a class active. Default 0.3.
    pub on_min: f32,
    /// Below this it is silent. Default 0.15.
    pub off_below: f32,
    /// Silent windows in a row that end a sound. Default 2.
    pub off_windows: u32,
    /// Step from one window to the next, in milliseconds. Default 480 (YAMNet).
    pub hop_ms: u64,
    /// Classes that are no sounds. Default `Silence`.
    pub ignored: Vec<String>,
}

impl Default for SoundSettings {
    fn default() -> Self {
        Self { on_min: 0.3, off_below: 0.15, off_windows: 2, hop_ms: 480, ignored: vec!["Silence".to_owned()] }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Active {
    label: ShortName,
    start_ms: u64,
    end_ms: u64,
    score_max: f32,
    silent_windows: u32,
}

/// Follows the sounds of one audio stream.
#[derive(Clone, Debug, PartialEq)]
pub struct SoundEvents {
    settings: SoundSettings,
    ignored: Vec<ShortName>,
    active: BTreeMap<u32, Active>,
}

/// The stretch that a window speaks for: one step around its middle.
#[must_use]
pub const fn spoken_for_ms(start_ms: u64, end_ms: u64, hop_ms: u64) -> (u64, u64) {
    let length_ms = end_ms.saturating_sub(start_ms);
    if length_ms <= hop_ms {
        return (start_ms, end_ms);
    }
    let from_ms = start_ms + (length_ms - hop_ms) / 2;
    (from_ms, from_ms + hop_ms)
}

impl SoundEvents {
    #[must_use]
    pub fn new(settings: SoundSettings) -> Self {
        let ignored = settings.ignored.iter().map(|label| ShortName::cut(label)).collect();
        Self { settings, ignored, active: BTreeMap::new() }
    }

    /// Takes the classes of one window; classes that are not named count as 0. Gives `Sound` events: those that ended,
    /// then those that began, by class.
    pub fn push(&mut self, start_ms: u64, end_ms: u64, classes: &[ClassScore]) -> Vec<EventBody> {
        let (from_ms, to_ms) = spoken_for_ms(start_ms, end_ms, self.settings.hop_ms);
        let mut events = Vec::new();
        let settings = &self.settings;
        self.active.retain(|class, active| {
            let score = classes.iter().find(|other| other.class == *class).map_or(0.0, |class| class.score);
            if score >= settings.off_below {
                active.end_ms = active.end_ms.max(to_ms);
                active.score_max = active.score_max.max(score);
                active.silent_windows = 0;
                return true;
            }
            active.silent_windows += 1;
            if active.silent_windows < settings.off_windows {
                return true;
            }
            events.push(active.body(false));
            false
        });
        let mut begun: Vec<&ClassScore> = classes
            .iter()
            .filter(|class| class.score >= settings.on_min && !self.active.contains_key(&class.class))
            .filter(|class| !self.ignored.contains(&class.label))
            .collect();
        // When there is no room for all, the surest ones come in.
        begun.sort_by(|a, b| b.score.total_cmp(&a.score));
        begun.truncate(SOUNDS_MAX - self.active.len().min(SOUNDS_MAX));
        begun.sort_by_key(|class| class.class);
        begun.dedup_by_key(|class| class.class);
        for class in begun {
            let active = Active {
                label: class.label,
                start_ms: from_ms,
                end_ms: to_ms,
                score_max: class.score,
                silent_windows: 0,
            };
            events.push(active.body(true));
            self.active.insert(class.class, active);
        }
        events
    }

    /// The stream has ended or has a gap: ends what is active.
    pub fn finish(&mut self) -> Vec<EventBody> {
        std::mem::take(&mut self.active).into_values().map(|active| active.body(false)).collect()
    }

    /// The state as flat bytes, below 2 KiB.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        let mut writer = Writer::new(KIND, VERSION);
        writer.count(self.active.len());
        for (class, active) in &self.active {
            writer.u32(*class);
            writer.put(&active.label.0);
            writer.u64(active.start_ms);
            writer.u64(active.end_ms);
            writer.f32(active.score_max);
            writer.u32(active.silent_windows);
        }
        writer.finish()
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// A [`CheckpointError`] that says what in the bytes is wrong.
    pub fn restore(settings: SoundSettings, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let mut reader = Reader::new(bytes, KIND, VERSION)?;
        let mut sounds = Self::new(settings);
        for _ in 0..reader.count("number of sounds", SOUNDS_MAX)? {
            let class = reader.u32("class")?;
            let active = Active {
                label: Name(reader.array("label")?),
                start_ms: reader.u64("start")?,
                end_ms: reader.u64("end")?,
                score_max: reader.f32("score")?,
                silent_windows: reader.u32("silent windows")?,
            };
            if active.end_ms < active.start_ms || active.silent_windows >= sounds.settings.off_windows {
                return Err(CheckpointError::Invalid { what: "sound" });
            }
            if sounds.active.insert(class, active).is_some() {
                return Err(CheckpointError::Invalid { what: "class that is there twice" });
            }
        }
        reader.finish()?;
        Ok(sounds)
    }
}

impl Active {
    const fn body(&self, active: bool) -> EventBody {
        EventBody::Sound {
            active,
            start_ms: self.start_ms,
            end_ms: self.end_ms,
            label: self.label,
            score: self.score_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class(class: u32, label: &str, score: f32) -> ClassScore {
        ClassScore { class, score, label: ShortName::cut(label) }
    }

    /// Windows of 975 ms every 480 ms, with these scores of one class.
    fn play(scores: &[f32]) -> Vec<(bool, u64, u64, f32)> {
        let mut sounds = SoundEvents::new(SoundSettings::default());
        let mut events = Vec::new();
        for (window, score) in (0_u64..).zip(scores) {
            events.extend(sounds.push(window * 480, window * 480 + 975, &[class(7, "Dial tone", *score)]));
        }
        events.extend(sounds.finish());
        events
            .into_iter()
            .map(|event| match event {
                EventBody::Sound { active, start_ms, end_ms, score, .. } => (active, start_ms, end_ms, score),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_sound_begins_high_and_ends_low() {
        let events = play(&[0.0, 0.2, 0.6, 0.2, 0.9, 0.16, 0.1, 0.0, 0.0, 0.29]);
        assert_eq!(events, [(true, 1_207, 1_687, 0.6), (false, 1_207, 3_127, 0.9)]);
    }

    #[test]
    fn one_silent_window_does_not_end_it() {
        assert_eq!(play(&[0.5, 0.0, 0.5, 0.0, 0.0, 0.5]).iter().filter(|event| event.0).count(), 2);
    }

    #[test]
    fn the_end_of_the_stream_ends_it() {
        assert_eq!(play(&[0.5, 0.7]), [(true, 247, 727, 0.5), (false, 247, 1_207, 0.7)]);
    }

    #[test]
    fn silence_is_no_sound_and_the_number_is_bounded() {
        let mut sounds = SoundEvents::new(SoundSettings::default());
        assert!(sounds.push(0, 975, &[class(494, "Silence", 1.0)]).is_empty());
        let many: Vec<ClassScore> = (0_u16..100).map(|n| class(n.into(), "x", 0.3 + f32::from(n) / 200.0)).collect();
        assert_eq!(sounds.push(480, 1_455, &many).len(), SOUNDS_MAX);
        assert!(sounds.push(960, 1_935, &many).is_empty());
        assert_eq!(sounds.finish().len(), SOUNDS_MAX);
        let twice = [class(1, "a", 0.5), class(1, "a", 0.6)];
        assert_eq!(sounds.push(0, 975, &twice).len(), 1);
    }

    #[test]
    fn windows_speak_for_stretches_without_holes() {
        assert_eq!(spoken_for_ms(0, 975, 480), (247, 727));
        assert_eq!(spoken_for_ms(480, 1_455, 480), (727, 1_207));
        assert_eq!(spoken_for_ms(5, 300, 480), (5, 300));
    }

    #[test]
    fn restored_sounds_go_on() {
        let mut sounds = SoundEvents::new(SoundSettings::default());
        sounds.push(0, 975, &[class(7, "Dial tone", 0.5), class(9, "Whistle", 0.4)]);
        sounds.push(480, 1_455, &[class(7, "Dial tone", 0.9)]);
        let mut restored = SoundEvents::restore(SoundSettings::default(), &sounds.checkpoint()).unwrap();
        assert_eq!(restored, sounds);
        assert_eq!(restored.push(960, 1_935, &[]), sounds.push(960, 1_935, &[]));
        assert_eq!(restored.finish(), sounds.finish());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..200), headed in any::<bool>()) {
            let bytes = if headed { [&b"SSND\x01\x00"[..], &tail].concat() } else { tail };
            if let Ok(mut sounds) = SoundEvents::restore(SoundSettings::default(), &bytes) {
                let _ = sounds.push(0, 975, &[class(1, "a", 0.5)]);
                prop_assert!(sounds.finish().len() <= SOUNDS_MAX);
            }
        }
    }
}
