//! What models say, in terms that applications use. One level of vectors over fixed-size items.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::ShortName;

/// One object: a box in pixels of the input image (x1, y1, x2, y2; origin top left) with its class.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Detection {
    #[serde(rename = "box")]
    pub bbox: [f32; 4],
    /// Probability, 0 to 1.
    pub score: f32,
    pub class: u32,
    pub label: ShortName,
}

/// One class or event with its probability.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ClassScore {
    pub class: u32,
    pub score: f32,
    pub label: ShortName,
}

/// One point of a body, in pixels of the input image (origin top left) and within it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Keypoint {
    pub x: f32,
    pub y: f32,
    /// How sure the model is, 0 to 1.
    pub score: f32,
    pub label: ShortName,
}

/// The result of one job, by what the model's `interpret` step makes.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, serde::Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ModelResult {
    /// Objects, best first.
    Detections { detections: Vec<Detection> },
    /// Best classes first. For audio longer than one window: the mean over `windows` windows.
    Classes { classes: Vec<ClassScore>, windows: u32 },
    /// Probability of speech per window of `window_ms`, and the state to send with the next job.
    Speech {
        probabilities: Vec<f32>,
        window_ms: u32,
        #[serde(skip)]
        state: Vec<u8>,
    },
    /// Recognised text.
    Transcript { text: String, tokens: u32 },
    /// Probabilities of events in one fusion window, and how intense the moment is (0 to 1).
    Fusion { events: Vec<ClassScore>, intensity: f32 },
    /// Every point of one body that the model knows, in the order of its labels, however unsure it is.
    Pose { keypoints: Vec<Keypoint> },
}
