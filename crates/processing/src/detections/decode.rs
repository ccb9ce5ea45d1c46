//! Rows and distributions to candidate boxes.

use sensorium_wire::ids::ShortName;
use sensorium_wire::result::Detection;

use super::{Candidate, Selection, detections};
use crate::error::ProcessingError;
use crate::image::SourceGeometry;

/// The outputs of one stride of an anchor-free detector, for one image.
#[derive(Clone, Copy, Debug)]
pub struct DflLevel<'a> {
    /// Pixels of the network's input per cell, each way.
    pub stride: u32,
    /// Class probabilities, `[cells, classes]`; cells row by row.
    pub scores: &'a [f32],
    /// Unnormalised distributions of the distances left, top, right and bottom, `[cells, 4 × bins]`.
    pub distances: &'a [f32],
}

/// Boxes of a detector whose distances are distributions (generalised focal loss, Li et al. 2020, as NanoDet has it).
///
/// Per cell: the class of the highest probability; from the centre `((column + 0.5) × stride, (row + 0.5) × stride)` the
/// distances `stride × Σ i × softmax(bins)[i]`. `input` is the width and height of the network's input in pixels.
///
/// # Errors
/// When an output's length does not fit the number of cells, classes and bins.
pub fn dfl(
    levels: &[DflLevel<'_>],
    input: (u32, u32),
    bins: usize,
    selection: &Selection,
    geometry: &SourceGeometry,
    labels: &[ShortName],
) -> Result<Vec<Detection>, ProcessingError> {
    let mut candidates = Vec::new();
    for level in levels {
        let columns = check(level, input, bins, labels.len())?;
        for (cell, scores) in level.scores.chunks_exact(labels.len()).enumerate() {
            let (class, score) = best(scores);
            if score < selection.score_min {
                continue;
            }
            let distances = &level.distances[cell * 4 * bins..(cell + 1) * 4 * bins];
            #[expect(clippy::cast_precision_loss, reason = "cells and strides are far below 2^24")]
            let (column, row, stride) = ((cell % columns) as f32, (cell / columns) as f32, level.stride as f32);
            let (x, y) = ((column + 0.5) * stride, (row + 0.5) * stride);
            let side = |index: usize| expectation(&distances[index * bins..(index + 1) * bins]) * stride;
            candidates.push(Candidate { bbox: [x - side(0), y - side(1), x + side(2), y + side(3)], score, class });
        }
    }
    Ok(detections(candidates, selection, geometry, labels))
}

/// Boxes of a detector that gives them ready: rows of x1, y1, x2, y2 (pixels of the network's input), score, class.
///
/// # Errors
/// When the output is not a whole number of rows, or a row that is kept has a class without a label.
pub fn rows(
    rows: &[f32],
    selection: &Selection,
    geometry: &SourceGeometry,
    labels: &[ShortName],
) -> Result<Vec<Detection>, ProcessingError> {
    let what = "of rows";
    let (rows, []) = rows.as_chunks::<6>() else {
        let problem = format!("{} values are not rows of x1, y1, x2, y2, score and class", rows.len());
        return Err(ProcessingError::Output { what, problem });
    };
    let mut candidates = Vec::new();
    for (index, [x1, y1, x2, y2, score, class]) in rows.iter().copied().enumerate() {
        if score.is_nan() || score < selection.score_min {
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "label files have at most 16,384 lines")]
        let known = class >= 0.0 && class < labels.len() as f32 && class.fract() == 0.0;
        if !known {
            let problem = format!("row {index} has class {class}, there are {} labels", labels.len());
            return Err(ProcessingError::Output { what, problem });
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number within the labels")]
        let class = class as u32;
        candidates.push(Candidate { bbox: [x1, y1, x2, y2], score, class });
    }
    Ok(detections(candidates, selection, geometry, labels))
}

/// Checks the lengths of a level's outputs; gives the number of columns.
fn check(
    level: &DflLevel<'_>,
    (width, height): (u32, u32),
    bins: usize,
    classes: usize,
) -> Result<usize, ProcessingError> {
    let what = "of distributions";
    let DflLevel { stride, scores, distances } = level;
    if *stride == 0 || bins == 0 || classes == 0 {
        let problem = format!("stride {stride}, {bins} bins and {classes} labels; none may be 0");
        return Err(ProcessingError::Output { what, problem });
    }
    let (columns, rows) = (width.div_ceil(*stride) as usize, height.div_ceil(*stride) as usize);
    let cells = columns * rows;
    if cells.checked_mul(classes) != Some(scores.len()) || cells.checked_mul(4 * bins) != Some(distances.len()) {
        let problem = format!(
            "stride {stride} has {} scores and {} distances; {columns} × {rows} cells need {classes} scores and 4 × {bins} distances each",
            scores.len(),
            distances.len()
        );
        return Err(ProcessingError::Output { what, problem });
    }
    Ok(columns)
}

/// The first of the highest scores and its index; what is not a number loses against everything.
fn best(scores: &[f32]) -> (u32, f32) {
    (0..)
        .zip(scores)
        .fold((0, f32::NEG_INFINITY), |best, (class, score)| if *score > best.1 { (class, *score) } else { best })
}

/// The mean of the bins' numbers under the softmax of their values.
fn expectation(bins: &[f32]) -> f32 {
    let largest = bins.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weighted, mut number) = (0.0_f32, 0.0_f32, 0.0_f32);
    for bin in bins {
        let weight = (bin - largest).exp();
        sum += weight;
        weighted += weight * number;
        number += 1.0;
    }
    weighted / sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: SourceGeometry = SourceGeometry { width: 64, height: 32, fitted_width: 32, fitted_height: 32 };
    const SELECTION: Selection = Selection { score_min: 0.4, iou_max: 0.55, detections_max: 10 };

    fn labels() -> Vec<ShortName> {
        ["cat", "dog"].iter().map(|label| ShortName::cut(label)).collect()
    }

    #[test]
    fn a_cell_with_sharp_distributions_gives_its_box() {
        // 4 × 4 cells of 8 pixels, 3 bins. Cell 6 (row 1, column 2) has its centre at (20, 12).
        let mut scores = vec![0.0; 16 * 2];
        let mut distances = vec![0.0; 16 * 12];
        scores[6 * 2 + 1] = 0.75;
        for (side, bin) in [(0, 1), (1, 0), (2, 1), (3, 2)] {
            distances[6 * 12 + side * 3 + bin] = 100.0;
        }
        let level = DflLevel { stride: 8, scores: &scores, distances: &distances };
        let found = dfl(&[level], (32, 32), 3, &SELECTION, &GEOMETRY, &labels()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].class, found[0].label.as_str(), found[0].score), (1, "dog", 0.75));
        // Left 8, top 0, right 8, bottom 16; x is doubled on the way to the source.
        assert_eq!(found[0].bbox, [24.0, 12.0, 56.0, 28.0]);
        // An even distribution has its mean in the middle.
        assert!((expectation(&[2.0, 2.0, 2.0]) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn outputs_of_the_wrong_length_are_named() {
        let level = DflLevel { stride: 8, scores: &[0.0; 32], distances: &[0.0; 191] };
        let text = dfl(&[level], (32, 32), 3, &SELECTION, &GEOMETRY, &labels()).unwrap_err().to_string();
        assert!(text.contains("191 distances; 4 × 4 cells"), "{text}");
        let level = DflLevel { stride: 0, ..level };
        assert!(dfl(&[level], (32, 32), 3, &SELECTION, &GEOMETRY, &labels()).is_err());
        assert!(rows(&[0.0; 7], &SELECTION, &GEOMETRY, &labels()).is_err());
    }

    #[test]
    fn rows_are_clipped_and_labelled() {
        let output = [
            [-4.0, 0.0, 8.0, 8.0, 0.5, 1.0],
            [0.0, 0.0, 8.0, 8.0, 0.39, 0.0],
            [16.0, 16.0, 40.0, 40.0, 0.9, 0.0],
            [40.0, 40.0, 50.0, 50.0, 0.8, 0.0],
            [0.0, 0.0, 0.0, 0.0, f32::NAN, 9.0],
        ];
        let found = rows(output.as_flattened(), &SELECTION, &GEOMETRY, &labels()).unwrap();
        let boxes: Vec<_> = found.iter().map(|found| (found.bbox, found.label.as_str())).collect();
        assert_eq!(boxes, [([32.0, 16.0, 64.0, 32.0], "cat"), ([0.0, 0.0, 16.0, 8.0], "dog")]);
        for class in [2.0, -1.0, 0.5, f32::NAN] {
            let output = [0.0, 0.0, 8.0, 8.0, 0.5, class];
            assert!(rows(&output, &SELECTION, &GEOMETRY, &labels()).is_err(), "{class}");
        }
    }
}
