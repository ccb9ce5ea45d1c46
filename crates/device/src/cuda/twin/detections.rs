//! Twin of `kernels/detections.cu`.

use crate::cuda::arguments::{
    BAD_CLASS, CANDIDATES_MAX, DflStep, Found, Geometry, NO_ROW, Outcome, RowsStep, SelectStep,
};

/// Outputs of one level: `[images, cells, classes]` and `[images, cells, 4 × bins]`.
#[derive(Clone, Copy, Debug)]
pub struct LevelOutputs<'a> {
    pub scores: &'a [f32],
    pub distances: &'a [f32],
}

/// A place for every cell or row of every image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates {
    /// Larger for a higher score, and for an earlier place among equal ones; 0 for none.
    pub keys: Vec<u64>,
    /// Boxes in pixels of the network's input; only those with a key mean anything.
    pub boxes: Vec<[f32; 4]>,
    pub classes: Vec<u32>,
}

/// Larger for a higher score, and for an earlier place among equal scores.
fn key_of(score: f32, place: u32) -> u64 {
    let bits = score.to_bits();
    let ordered = if bits & 0x8000_0000 == 0 { bits | 0x8000_0000 } else { !bits };
    u64::from(ordered) << 32 | u64::from(!place)
}

fn score_of(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered & 0x8000_0000 == 0 { !ordered } else { ordered & 0x7fff_ffff })
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half of a key")]
fn place_of(key: u64) -> usize {
    !(key as u32) as usize
}

#[expect(clippy::cast_precision_loss, reason = "sides, cells and bins are far below 2^24")]
fn exact(value: u32) -> f32 {
    value as f32
}

/// Candidates of a detector whose distances are distributions.
#[must_use]
pub fn candidates_dfl(step: &DflStep, outputs: &[LevelOutputs<'_>], images: usize) -> Candidates {
    let mut candidates = Candidates::default();
    let (classes, bins) = (step.classes as usize, step.bins as usize);
    for image in 0..images {
        for place in 0..step.candidates {
            let levels = &step.levels[..step.level_count as usize];
            let index = levels.iter().rposition(|level| place >= level.first).unwrap_or(0);
            let (level, output) = (&levels[index], &outputs[index]);
            let cell = place - level.first;
            let row = image * level.cells as usize + cell as usize;
            let (mut score, mut best) = (f32::NEG_INFINITY, 0);
            for (class, value) in (0..).zip(&output.scores[row * classes..(row + 1) * classes]) {
                if *value > score {
                    (score, best) = (*value, class);
                }
            }
            let (mut key, mut bbox) = (0, [0.0; 4]);
            if score >= step.score_min && score.is_finite() {
                let stride = exact(level.stride);
                let distances = &output.distances[row * 4 * bins..(row + 1) * 4 * bins];
                let side = |side: usize| expectation(&distances[side * bins..(side + 1) * bins]) * stride;
                let x = (exact(cell % level.columns) + 0.5) * stride;
                let y = (exact(cell / level.columns) + 0.5) * stride;
                bbox = [x - side(0), y - side(1), x + side(2), y + side(3)];
                key = if bbox.iter().all(|side| side.is_finite()) { key_of(score, place) } else { 0 };
            }
            candidates.keys.push(key);
            candidates.boxes.push(bbox);
            candidates.classes.push(best);
        }
    }
    candidates
}

fn expectation(bins: &[f32]) -> f32 {
    let largest = bins.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weighted) = (0.0_f32, 0.0_f32);
    for (number, bin) in (0..).zip(bins) {
        let weight = (bin - largest).exp();
        sum += weight;
        weighted += weight * exact(number);
    }
    weighted / sum
}

/// Candidates of a detector that gives rows of x1, y1, x2, y2, score, class.
#[must_use]
pub fn candidates_rows(step: &RowsStep, output: &[f32], images: usize) -> Candidates {
    let mut candidates = Candidates::default();
    for image in 0..images {
        for place in 0..step.rows {
            let at = image * step.rows as usize + place as usize;
            let row = &output[6 * at..6 * at + 6];
            let bbox = [row[0], row[1], row[2], row[3]];
            let (score, class) = (row[4], row[5]);
            let (mut key, mut index) = (0, 0);
            if score >= step.score_min {
                let known = class >= 0.0 && class < exact(step.classes) && class.fract() == 0.0;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number in range")]
                let class = class as u32;
                index = if known { class } else { BAD_CLASS };
                let finite = score.is_finite() && bbox.iter().all(|side| side.is_finite());
                key = if known && finite { key_of(score, place) } else { 0 };
            }
            candidates.keys.push(key);
            candidates.boxes.push(bbox);
            candidates.classes.push(index);
        }
    }
    candidates
}

/// The boxes of each image: `detections_max` places for each, of which [`Outcome::count`] are filled.
#[must_use]
pub fn select_boxes(step: &SelectStep, candidates: &Candidates, geometries: &[Geometry]) -> (Vec<Outcome>, Vec<Found>) {
    let mut outcomes = Vec::new();
    let mut found = vec![Found::default(); geometries.len() * step.detections_max as usize];
    for (image, geometry) in geometries.iter().enumerate() {
        let range = image * step.candidates as usize..(image + 1) * step.candidates as usize;
        let (keys, classes) = (&candidates.keys[range.clone()], &candidates.classes[range.clone()]);
        let boxes = &candidates.boxes[range];
        let mut best: Vec<u64> = keys.iter().copied().filter(|key| *key != 0).collect();
        let total = best.len();
        best.sort_unstable_by(|a, b| b.cmp(a));
        best.truncate(CANDIDATES_MAX);
        let mut gone = vec![false; best.len()];
        let places = &mut found[image * step.detections_max as usize..][..step.detections_max as usize];
        let mut kept = 0;
        for at in 0..best.len() {
            if kept == places.len() {
                break;
            }
            if gone[at] {
                continue;
            }
            let place = place_of(best[at]);
            let bbox = to_source(boxes[place], geometry);
            if area(bbox) > 0.0 {
                places[kept] = Found { bbox, score: score_of(best[at]), class_index: classes[place] };
                kept += 1;
            }
            for other in at + 1..best.len() {
                let other_place = place_of(best[other]);
                if classes[other_place] == classes[place] && overlap(boxes[place], boxes[other_place]) > step.iou_max {
                    gone[other] = true;
                }
            }
        }
        let bad_row = classes.iter().position(|class| *class == BAD_CLASS);
        let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        outcomes.push(Outcome {
            count: count(kept),
            candidates: count(total),
            bad_row: bad_row.map_or(NO_ROW, count),
            reserved: 0,
        });
    }
    (outcomes, found)
}

fn area([x1, y1, x2, y2]: [f32; 4]) -> f32 {
    (x2 - x1).max(0.0) * (y2 - y1).max(0.0)
}

fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let common = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let both = area(a) + area(b) - common;
    if both > 0.0 { common / both } else { 0.0 }
}

fn to_source(bbox: [f32; 4], geometry: &Geometry) -> [f32; 4] {
    let [width, height, fitted_width, fitted_height] =
        [geometry.width, geometry.height, geometry.fitted_width, geometry.fitted_height].map(exact);
    let across = |x: f32| (x * (width / fitted_width.max(1.0))).max(0.0).min(width);
    let down = |y: f32| (y * (height / fitted_height.max(1.0))).max(0.0).min(height);
    [across(bbox[0]), down(bbox[1]), across(bbox[2]), down(bbox[3])]
}
