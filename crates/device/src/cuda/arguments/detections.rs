//! What the detection kernels are given, and what they give.

use sensorium_processing::image::SourceGeometry;

use super::shared;

/// Most strides of one detector.
pub const LEVELS_MAX: usize = 8;
/// Most candidates that suppression looks at, best first: as on a processor.
pub const CANDIDATES_MAX: usize = sensorium_processing::detections::CANDIDATES_MAX;
/// [`Outcome::bad_row`] when every row was good.
pub const NO_ROW: u32 = u32::MAX;
/// Class of a row whose class has no label.
pub const BAD_CLASS: u32 = u32::MAX;

shared! {
    /// One stride of a detector.
    pub struct DflLevel {
        /// Pixels of the network's input per cell, each way.
        pub stride: u32,
        /// Cells in a row.
        pub columns: u32,
        pub cells: u32,
        /// Place of its first cell among those of all levels.
        pub first: u32,
    }
}

shared! {
    /// A detector whose distances are distributions.
    pub struct DflStep {
        pub levels: [DflLevel; LEVELS_MAX],
        pub level_count: u32,
        pub classes: u32,
        pub bins: u32,
        /// Cells of all levels: each gives at most one candidate.
        pub candidates: u32,
        /// Least probability, 0 to 1.
        pub score_min: f32,
        pub reserved: u32,
    }
}

impl DflStep {
    /// A detector with these strides and an input of so many pixels; `None` for more than [`LEVELS_MAX`] strides, a
    /// stride of 0, or more cells than can be counted.
    #[must_use]
    pub fn new(strides: &[u32], input: (u32, u32), bins: u32, classes: u32, score_min: f32) -> Option<Self> {
        let mut step = Self { classes, bins, score_min, ..Self::default() };
        if strides.len() > LEVELS_MAX || strides.contains(&0) {
            return None;
        }
        for (level, stride) in step.levels.iter_mut().zip(strides) {
            let columns = input.0.div_ceil(*stride);
            let cells = columns.checked_mul(input.1.div_ceil(*stride))?;
            *level = DflLevel { stride: *stride, columns, cells, first: step.candidates };
            step.level_count += 1;
            step.candidates = step.candidates.checked_add(cells)?;
        }
        Some(step)
    }
}

shared! {
    /// Device addresses of a detector's outputs, for each level `[images, cells, classes]` and `[images, cells, 4 × bins]`.
    pub struct DflOutputs {
        pub scores: [u64; LEVELS_MAX],
        pub distances: [u64; LEVELS_MAX],
    }
}

shared! {
    /// A detector that gives rows of x1, y1, x2, y2, score, class.
    pub struct RowsStep {
        /// Of one image.
        pub rows: u32,
        pub classes: u32,
        pub score_min: f32,
        pub reserved: u32,
    }
}

shared! {
    /// Which candidates become boxes.
    pub struct SelectStep {
        /// Places for candidates of one image.
        pub candidates: u32,
        /// Most boxes of one image.
        pub detections_max: u32,
        /// Two boxes of one class that overlap by more are one object.
        pub iou_max: f32,
        pub reserved: u32,
    }
}

shared! {
    /// How an image was fitted to the network's input; the fields of [`SourceGeometry`].
    pub struct Geometry {
        pub width: u32,
        pub height: u32,
        pub fitted_width: u32,
        pub fitted_height: u32,
    }
}

impl From<SourceGeometry> for Geometry {
    fn from(source: SourceGeometry) -> Self {
        let SourceGeometry { width, height, fitted_width, fitted_height } = source;
        Self { width, height, fitted_width, fitted_height }
    }
}

shared! {
    /// What came of an image.
    pub struct Outcome {
        /// Boxes that were found.
        pub count: u32,
        /// Candidates above the threshold.
        pub candidates: u32,
        /// First row above the threshold whose class has no label, or [`NO_ROW`].
        pub bad_row: u32,
        pub reserved: u32,
    }
}

shared! {
    /// A box in pixels of the source image: x1, y1, x2, y2.
    pub struct Found {
        pub bbox: [f32; 4],
        pub score: f32,
        pub class_index: u32,
    }
}
