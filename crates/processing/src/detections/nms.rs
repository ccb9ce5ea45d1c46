//! Greedy non-maximum suppression per class.

use super::{CANDIDATES_MAX, Candidate, area};

/// Keeps, for each class on its own, the best box and every next best that overlaps none of those kept by more than
/// `iou_max` (intersection ÷ union). The result is in the order of score, equal scores in the order given: the same
/// candidates always give the same result. Boxes or scores that are not finite are dropped, and all after the best
/// [`CANDIDATES_MAX`].
#[must_use]
pub fn nms(mut candidates: Vec<Candidate>, iou_max: f32) -> Vec<Candidate> {
    candidates.retain(|candidate| candidate.score.is_finite() && candidate.bbox.iter().all(|side| side.is_finite()));
    // Finite, so that this is a total order; the sort is stable.
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    candidates.truncate(CANDIDATES_MAX);
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let duplicate =
            kept.iter().any(|better| better.class == candidate.class && iou(better.bbox, candidate.bbox) > iou_max);
        if !duplicate {
            kept.push(candidate);
        }
    }
    kept
}

/// Intersection ÷ union; 0 where there is no union.
fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let common = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - common;
    if union > 0.0 { common / union } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(bbox: [f32; 4], score: f32, class: u32) -> Candidate {
        Candidate { bbox, score, class }
    }

    #[test]
    fn the_best_of_overlapping_boxes_of_one_class_stays() {
        let kept = nms(
            vec![
                candidate([0.0, 0.0, 10.0, 10.0], 0.5, 0),
                candidate([1.0, 0.0, 11.0, 10.0], 0.9, 0),
                candidate([0.0, 0.0, 10.0, 10.0], 0.6, 1),
                candidate([20.0, 0.0, 30.0, 10.0], 0.4, 0),
                candidate([0.0, 0.0, f32::NAN, 10.0], 0.99, 0),
                candidate([0.0, 0.0, 10.0, 10.0], f32::NAN, 0),
            ],
            0.55,
        );
        assert_eq!(kept.iter().map(|kept| kept.score).collect::<Vec<_>>(), [0.9, 0.6, 0.4]);
    }

    #[test]
    fn overlap_is_intersection_over_union() {
        assert!((iou([0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0]) - 1.0 / 3.0).abs() < 1e-6);
        assert!(iou([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 3.0, 2.0]).abs() < 1e-6);
        assert!(iou([5.0, 5.0, 1.0, 1.0], [5.0, 5.0, 1.0, 1.0]).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn what_is_kept_does_not_overlap_and_explains_what_is_not(
            boxes in proptest::collection::vec((0_u8..20, 0_u8..20, 1_u8..9, 1_u8..9, 0_u8..8, 0_u32..3), 0..60),
            iou_max in 0.1_f32..0.9,
        ) {
            let candidates: Vec<Candidate> = boxes
                .iter()
                .map(|&(x, y, w, h, score, class)| {
                    let [x, y, w, h, score] = [x, y, w, h, score].map(f32::from);
                    candidate([x, y, x + w, y + h], score / 8.0, class)
                })
                .collect();
            let kept = nms(candidates.clone(), iou_max);
            prop_assert!(kept.is_sorted_by(|a, b| a.score >= b.score));
            for (index, one) in kept.iter().enumerate() {
                for other in &kept[..index] {
                    prop_assert!(one.class != other.class || iou(one.bbox, other.bbox) <= iou_max);
                }
            }
            for candidate in &candidates {
                let explained = kept.iter().any(|kept| {
                    kept == candidate
                        || kept.class == candidate.class
                            && kept.score >= candidate.score
                            && iou(kept.bbox, candidate.bbox) > iou_max
                });
                prop_assert!(explained, "{candidate:?} vanished");
            }
            prop_assert_eq!(nms(kept.clone(), iou_max), kept);
        }
    }
}
