//! Whether two results of one job agree, and how far apart they are: answers of networks in other arithmetic are compared
//! by what they say, because numbers inside a network may differ by more than it matters.
//!
//! It is for checks and tests, not for serving.

use sensorium_wire::result::{Detection, ModelResult};
use serde::Serialize;

/// How far two results may be apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Largest difference of two probabilities or scores.
    pub score: f32,
    /// Least overlap of two boxes of the same object, as intersection over union.
    pub iou_min: f32,
}

/// Networks in half precision against those in single precision.
pub const HALF: Bounds = Bounds { score: 0.02, iou_min: 0.9 };

/// How far results were apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Apart {
    /// Largest difference of two scores.
    pub score: f32,
    /// Least overlap of two boxes; 1 where there are none.
    pub iou_least: f32,
    /// Scores that were compared.
    pub compared: usize,
}

impl Default for Apart {
    fn default() -> Self {
        Self { score: 0.0, iou_least: 1.0, compared: 0 }
    }
}

impl Apart {
    fn scores(&mut self, found: f32, expected: f32) {
        let difference = (found - expected).abs();
        // No number is never within a bound.
        self.score = self.score.max(if difference.is_nan() { f32::INFINITY } else { difference });
        self.compared += 1;
    }

    /// The farther of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            score: self.score.max(other.score),
            iou_least: self.iou_least.min(other.iou_least),
            compared: self.compared + other.compared,
        }
    }
}

/// Compares what was found with what was expected.
///
/// A box or class of one side that is less sure than `score_min` (below which the model drops it) and the bound together may
/// be missing on the other. Of sounds the likeliest must be the same where it is the likeliest by more than the bound.
///
/// # Errors
/// A sentence with what has no counterpart, or is too far from it, or with results that are not compared: transcripts, poses
/// and speech, whose models have no variants.
pub fn agree(found: &ModelResult, expected: &ModelResult, score_min: f32, bounds: Bounds) -> Result<Apart, String> {
    let mut apart = Apart::default();
    match (found, expected) {
        (ModelResult::Detections { detections: found }, ModelResult::Detections { detections: expected }) => {
            let sure = score_min + bounds.score;
            boxes(&mut apart, expected, found, sure, bounds).map_err(|wanted| format!("{wanted} is missing"))?;
            boxes(&mut apart, found, expected, sure, bounds).map_err(|wanted| format!("{wanted} is not expected"))?;
        }
        (ModelResult::Classes { classes: found, .. }, ModelResult::Classes { classes: expected, .. }) => {
            let sure = score_min + bounds.score;
            for (ours, theirs, what) in [(expected, found, "missing"), (found, expected, "not expected")] {
                for class in ours {
                    match theirs.iter().find(|other| other.class == class.class) {
                        Some(other) => apart.scores(other.score, class.score),
                        None if class.score < sure => {}
                        None => return Err(format!("class {} ({:.3}) is {what}", class.label, class.score)),
                    }
                }
            }
            if let (Some(first), [best, rest @ ..]) = (found.first(), &expected[..])
                && rest.first().is_none_or(|second| best.score - second.score > bounds.score)
                && first.class != best.class
            {
                return Err(format!("the likeliest is {}, expected {}", first.label, best.label));
            }
        }
        (
            ModelResult::Fusion { events: found, intensity: found_intensity },
            ModelResult::Fusion { events: expected, intensity },
        ) => {
            if found.len() != expected.len() {
                return Err(format!("{} events, expected {}", found.len(), expected.len()));
            }
            found.iter().zip(expected).for_each(|(found, expected)| apart.scores(found.score, expected.score));
            apart.scores(*found_intensity, *intensity);
        }
        _ => return Err("results of these kinds are not compared".to_owned()),
    }
    if apart.score <= bounds.score {
        return Ok(apart);
    }
    Err(format!("scores are {} apart; at most {} is expected", apart.score, bounds.score))
}

/// Every box of `ours` that is sure enough has a counterpart; else the first that has none, in words.
fn boxes(apart: &mut Apart, ours: &[Detection], theirs: &[Detection], sure: f32, bounds: Bounds) -> Result<(), String> {
    for wanted in ours.iter().filter(|wanted| wanted.score >= sure) {
        let overlaps = theirs
            .iter()
            .filter(|other| other.class == wanted.class)
            .map(|other| (overlap(&other.bbox, &wanted.bbox), other.score));
        match overlaps.max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((iou, score)) if iou >= bounds.iou_min => {
                apart.iou_least = apart.iou_least.min(iou);
                apart.scores(score, wanted.score);
            }
            _ => return Err(format!("{} at {:.0?} ({:.3})", wanted.label, wanted.bbox, wanted.score)),
        }
    }
    Ok(())
}

/// Intersection over union of two boxes x1, y1, x2, y2.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |b: &[f32; 4]| (b[2] - b[0]).max(0.0) * (b[3] - b[1]).max(0.0);
    let both = area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let either = area(a) + area(b) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use sensorium_wire::Name;
    use sensorium_wire::result::ClassScore;

    use super::*;

    fn found(boxes: &[([f32; 4], f32)]) -> ModelResult {
        let detection = |(bbox, score): &([f32; 4], f32)| Detection {
            bbox: *bbox,
            score: *score,
            class: 0,
            label: Name::cut("person"),
        };
        ModelResult::Detections { detections: boxes.iter().map(detection).collect() }
    }

    fn heard(scores: &[(u32, f32)]) -> ModelResult {
        let class =
            |(class, score): &(u32, f32)| ClassScore { class: *class, score: *score, label: Name::cut("sound") };
        ModelResult::Classes { classes: scores.iter().map(class).collect(), windows: 1 }
    }

    const SQUARE: [f32; 4] = [0.0, 0.0, 100.0, 100.0];

    #[test]
    fn the_same_boxes_agree_and_others_do_not() {
        let expected = found(&[(SQUARE, 0.8)]);
        let near = agree(&found(&[([0.0, 0.0, 100.0, 95.0], 0.79)]), &expected, 0.4, HALF).unwrap();
        assert!((near.iou_least - 0.95).abs() < 1e-6 && (near.score - 0.01).abs() < 1e-6, "{near:?}");
        let error = |results: &ModelResult| agree(results, &expected, 0.4, HALF).unwrap_err();
        assert!(error(&found(&[([0.0, 0.0, 100.0, 85.0], 0.8)])).contains("is missing"));
        assert!(error(&found(&[(SQUARE, 0.77)])).contains("0.02 is expected"));
        assert!(error(&found(&[(SQUARE, f32::NAN)])).contains("apart"));
        assert!(error(&found(&[(SQUARE, 0.8), ([200.0, 0.0, 300.0, 100.0], 0.5)])).contains("is not expected"));
        let unsure = found(&[(SQUARE, 0.8), ([200.0, 0.0, 300.0, 100.0], 0.41)]);
        assert!(agree(&unsure, &expected, 0.4, HALF).is_ok(), "it may be just below the threshold on the other side");
    }

    #[test]
    fn the_likeliest_sound_is_the_same_where_it_is_clear() {
        let expected = heard(&[(1, 0.9), (2, 0.3)]);
        assert!(agree(&heard(&[(1, 0.89), (2, 0.31), (3, 0.06)]), &expected, 0.05, HALF).is_ok());
        assert!(agree(&heard(&[(1, 0.9)]), &expected, 0.05, HALF).unwrap_err().contains("missing"));
        assert!(agree(&heard(&[(2, 0.9), (1, 0.9)]), &expected, 0.05, HALF).is_err());
        let close = heard(&[(1, 0.50), (2, 0.49)]);
        assert!(agree(&heard(&[(2, 0.50), (1, 0.49)]), &close, 0.05, HALF).is_ok(), "neither is clearly the likeliest");
        assert!(agree(&heard(&[]), &found(&[]), 0.05, HALF).is_err(), "another kind of result");
    }
}
