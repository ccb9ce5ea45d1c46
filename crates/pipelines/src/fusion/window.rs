//! One window's sums and the numbers made of them.

use super::evidence::{SOUND_GROUPS, Scales};
use super::{FEATURES_COUNT, FusionRow};
use crate::checkpoint::{CheckpointError, Reader, Writer};

/// From this probability on a stretch counts as speech.
const SPEECH_MIN: f32 = 0.5;
/// Loudness that counts as nothing.
const QUIET_DBFS: f32 = -60.0;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Window {
    frames: u32,
    persons: u32,
    persons_max: u16,
    vehicles: u32,
    new_tracks: u32,
    speeds: u32,
    speed_sum: f32,
    speed_max: f32,
    speech_parts: u32,
    speech_loud: u32,
    pub(super) words: f32,
    groups: [f32; SOUND_GROUPS.len()],
    sounds: u32,
    /// Power × milliseconds.
    energy: f32,
    energy_ms: f32,
}

impl Window {
    /// Takes what frames said from another state of the same window.
    pub(super) fn take_video(&mut self, other: &Self) {
        *self = Self {
            frames: other.frames,
            persons: other.persons,
            persons_max: other.persons_max,
            vehicles: other.vehicles,
            new_tracks: other.new_tracks,
            speeds: other.speeds,
            speed_sum: other.speed_sum,
            speed_max: other.speed_max,
            ..self.clone()
        };
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        for count in [self.frames, self.persons, self.persons_max.into(), self.vehicles, self.new_tracks] {
            writer.u32(count);
        }
        for count in [self.speeds, self.speech_parts, self.speech_loud, self.sounds] {
            writer.u32(count);
        }
        for number in [self.speed_sum, self.speed_max, self.words, self.energy, self.energy_ms] {
            writer.f32(number);
        }
        self.groups.iter().for_each(|score| writer.f32(*score));
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CheckpointError> {
        let mut window = Self {
            frames: reader.u32("frames")?,
            persons: reader.u32("persons")?,
            persons_max: u16::try_from(reader.u32("persons")?)
                .map_err(|_| CheckpointError::Invalid { what: "number of persons" })?,
            vehicles: reader.u32("vehicles")?,
            new_tracks: reader.u32("tracks")?,
            speeds: reader.u32("speeds")?,
            speech_parts: reader.u32("parts of speech")?,
            speech_loud: reader.u32("parts of speech")?,
            sounds: reader.u32("sounds")?,
            speed_sum: reader.f32("speed")?,
            speed_max: reader.f32("speed")?,
            words: reader.f32("words")?,
            energy: reader.f32("energy")?,
            energy_ms: reader.f32("energy")?,
            groups: Default::default(),
        };
        for score in &mut window.groups {
            *score = reader.f32("score")?;
        }
        Ok(window)
    }

    pub(super) fn add_frame(
        &mut self,
        persons: u16,
        vehicles: u16,
        new_tracks: u32,
        speeds: impl Iterator<Item = f32>,
    ) {
        self.frames = self.frames.saturating_add(1);
        self.persons = self.persons.saturating_add(persons.into());
        self.persons_max = self.persons_max.max(persons);
        self.vehicles = self.vehicles.saturating_add(vehicles.into());
        self.new_tracks = self.new_tracks.saturating_add(new_tracks);
        for speed in speeds.filter(|speed| speed.is_finite()) {
            // Each speed is clipped, so that one wild track does not stand for all.
            let speed = speed.clamp(0.0, 1.0);
            self.speeds = self.speeds.saturating_add(1);
            self.speed_sum += speed;
            self.speed_max = self.speed_max.max(speed);
        }
    }

    pub(super) fn add_speech(&mut self, probability: f32) {
        self.speech_parts = self.speech_parts.saturating_add(1);
        self.speech_loud = self.speech_loud.saturating_add(u32::from(probability >= SPEECH_MIN));
    }

    pub(super) fn add_sounds(&mut self, groups: &[f32; SOUND_GROUPS.len()]) {
        self.sounds = self.sounds.saturating_add(1);
        for (highest, score) in self.groups.iter_mut().zip(groups) {
            *highest = highest.max(*score);
        }
    }

    pub(super) fn add_power(&mut self, power: f32, ms: f32) {
        self.energy += power * ms;
        self.energy_ms += ms;
    }

    pub(super) fn row(&self, start_ms: u64, end_ms: u64, scales: &Scales) -> FusionRow {
        #[expect(clippy::cast_precision_loss, reason = "counts of one window; the ratio may round")]
        let mean = |sum: u32, count: u32| if count == 0 { 0.0 } else { sum as f32 / count as f32 };
        #[expect(clippy::cast_precision_loss, reason = "counts of one window and its length may round")]
        let (new_tracks, seconds, speeds) =
            (self.new_tracks as f32, (end_ms - start_ms) as f32 / 1000.0, self.speeds.max(1) as f32);
        let mut features = [0.0_f32; FEATURES_COUNT];
        features[..8].copy_from_slice(&[
            mean(self.persons, self.frames),
            f32::from(self.persons_max),
            mean(self.vehicles, self.frames),
            new_tracks,
            self.speed_sum / speeds,
            self.speed_max,
            mean(self.speech_loud, self.speech_parts),
            self.words / seconds,
        ]);
        features[8..15].copy_from_slice(&self.groups);
        features[15] = self.loudness();
        for (feature, scale) in features.iter_mut().zip(scales) {
            let scaled = *feature / scale;
            *feature = if scaled.is_finite() { scaled.clamp(0.0, 1.0) } else { 0.0 };
        }
        let audio = self.speech_parts > 0 || self.sounds > 0 || self.energy_ms > 0.0 || self.words > 0.0;
        FusionRow { start_ms, end_ms, features, video: self.frames > 0, audio }
    }

    /// RMS level, -60 dBFS and below as 0, 0 dBFS as 1. A full-scale square wave has 0 dBFS.
    fn loudness(&self) -> f32 {
        if self.energy_ms <= 0.0 || self.energy <= 0.0 {
            return 0.0;
        }
        let dbfs = 10.0 * (self.energy / self.energy_ms).log10();
        (1.0 - dbfs / QUIET_DBFS).clamp(0.0, 1.0)
    }
}
