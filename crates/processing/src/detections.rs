//! From outputs of detection networks to boxes in source pixels.

mod decode;
mod nms;

use sensorium_wire::ids::ShortName;
use sensorium_wire::limits;
use sensorium_wire::result::Detection;

use crate::image::SourceGeometry;

pub use decode::{DflLevel, dfl, rows};
pub use nms::nms;

/// Most candidates that suppression looks at, best first: its time grows with their square.
pub const CANDIDATES_MAX: usize = 4096;

/// Which boxes are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selection {
    /// Least probability, 0 to 1.
    pub score_min: f32,
    /// Two boxes of one class that overlap by more than this (intersection ÷ union) are one object.
    pub iou_max: f32,
    /// Most boxes; never more than [`limits::RESULT_ITEMS_MAX`].
    pub detections_max: usize,
}

/// A box that a network proposes, in pixels of the network's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// x1, y1, x2, y2.
    pub bbox: [f32; 4],
    pub score: f32,
    pub class: u32,
}

/// Suppresses duplicates and maps what is left to the source image, best first. Boxes that have no area within the image
/// are dropped.
#[must_use]
pub fn detections(
    candidates: Vec<Candidate>,
    selection: &Selection,
    geometry: &SourceGeometry,
    labels: &[ShortName],
) -> Vec<Detection> {
    let kept = nms(candidates, selection.iou_max).into_iter().map(|candidate| Detection {
        bbox: geometry.to_source(candidate.bbox),
        score: candidate.score,
        class: candidate.class,
        label: labels.get(candidate.class as usize).copied().unwrap_or_default(),
    });
    kept.filter(|detection| area(detection.bbox) > 0.0)
        .take(selection.detections_max.min(limits::RESULT_ITEMS_MAX))
        .collect()
}

/// In square pixels; 0 for a box that is inside out.
fn area([x1, y1, x2, y2]: [f32; 4]) -> f32 {
    (x2 - x1).max(0.0) * (y2 - y1).max(0.0)
}
