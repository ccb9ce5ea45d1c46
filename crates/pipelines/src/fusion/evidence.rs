//! `evidence.toml`: the features' names, scales, and the labels that they are made from.

use std::collections::BTreeMap;

use sensorium_wire::ids::ShortName;
use sensorium_wire::result::ClassScore;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::FEATURES_COUNT;

/// The features in the order of the network's input. This code computes these and no others.
pub const FEATURES: [&str; FEATURES_COUNT] = [
    "person_count_mean",
    "person_count_max",
    "vehicle_count_mean",
    "new_tracks",
    "track_speed_mean",
    "track_speed_max",
    "speech_ratio",
    "words_per_second",
    "sound_speech",
    "sound_music",
    "sound_alarm",
    "sound_vehicle",
    "sound_crowd",
    "sound_impact",
    "sound_tone",
    "loudness",
];
/// The groups of sounds, in the order of their features.
pub const SOUND_GROUPS: [&str; 7] =
    ["sound_speech", "sound_music", "sound_alarm", "sound_vehicle", "sound_crowd", "sound_impact", "sound_tone"];
/// Class of persons in the visual models.
const PERSON: &str = "person";
const WINDOW_MS_MAX: u64 = 60_000;

/// What the fusion network's inputs are made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceSpec {
    /// Length of a window.
    pub window_ms: u64,
    #[serde(rename = "feature")]
    pub features: Vec<FeatureSpec>,
    pub vehicles: VehicleLabels,
    /// Group → classes whose highest score is its evidence.
    pub sounds: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSpec {
    pub name: String,
    /// The value that becomes 1; above is clipped.
    pub full_scale: f32,
}

/// Classes of the visual models that count as vehicles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VehicleLabels {
    pub labels: Vec<String>,
}

/// Why a description of evidence cannot be used.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum EvidenceError {
    #[error("{found} features, expected {FEATURES_COUNT}")]
    Count { found: usize },
    #[error("feature {index} is {found:?}, expected {expected:?}")]
    Feature { index: usize, found: String, expected: &'static str },
    #[error("full_scale of {name:?} is {found}, expected a number above 0")]
    Scale { name: String, found: f32 },
    #[error("window_ms is {found}, expected 1 to {WINDOW_MS_MAX}")]
    Window { found: u64 },
    #[error("no classes for the sound group {group:?}")]
    MissingGroup { group: &'static str },
    #[error("unknown sound group {group:?}")]
    UnknownGroup { group: String },
}

pub(super) type Scales = [f32; FEATURES_COUNT];

/// The labels as results carry them: cut to the length of a label.
#[derive(Clone, Debug)]
pub(super) struct Labels {
    person: ShortName,
    vehicles: Vec<ShortName>,
    groups: [Vec<ShortName>; SOUND_GROUPS.len()],
}

impl EvidenceSpec {
    /// Checks the description and prepares it for use.
    pub(super) fn compile(&self) -> Result<(Labels, Scales), EvidenceError> {
        if self.window_ms == 0 || self.window_ms > WINDOW_MS_MAX {
            return Err(EvidenceError::Window { found: self.window_ms });
        }
        if self.features.len() != FEATURES_COUNT {
            return Err(EvidenceError::Count { found: self.features.len() });
        }
        let mut scales = [1.0; FEATURES_COUNT];
        for (index, (feature, expected)) in self.features.iter().zip(FEATURES).enumerate() {
            if feature.name != expected {
                return Err(EvidenceError::Feature { index, found: feature.name.clone(), expected });
            }
            if !(feature.full_scale.is_finite() && feature.full_scale > 0.0) {
                return Err(EvidenceError::Scale { name: feature.name.clone(), found: feature.full_scale });
            }
            scales[index] = feature.full_scale;
        }
        if let Some(group) = self.sounds.keys().find(|group| !SOUND_GROUPS.contains(&group.as_str())) {
            return Err(EvidenceError::UnknownGroup { group: group.clone() });
        }
        let names = |labels: &[String]| labels.iter().map(|label| ShortName::cut(label)).collect();
        let mut groups: [Vec<ShortName>; SOUND_GROUPS.len()] = Default::default();
        for (labels, group) in groups.iter_mut().zip(SOUND_GROUPS) {
            *labels = names(self.sounds.get(group).ok_or(EvidenceError::MissingGroup { group })?);
        }
        let vehicles = names(&self.vehicles.labels);
        Ok((Labels { person: ShortName::cut(PERSON), vehicles, groups }, scales))
    }
}

impl Labels {
    pub(super) fn is_person(&self, label: &ShortName) -> bool {
        *label == self.person
    }

    pub(super) fn is_vehicle(&self, label: &ShortName) -> bool {
        self.vehicles.contains(label)
    }

    /// The highest score of each group.
    pub(super) fn group_scores(&self, classes: &[ClassScore]) -> [f32; SOUND_GROUPS.len()] {
        let mut scores = [0.0_f32; SOUND_GROUPS.len()];
        for (score, labels) in scores.iter_mut().zip(&self.groups) {
            let of_group = classes.iter().filter(|class| labels.contains(&class.label));
            *score = of_group.map(|class| class.score).fold(0.0, f32::max);
        }
        scores
    }
}
