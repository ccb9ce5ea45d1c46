//! From class probabilities to the best classes.

use std::cmp::Ordering;

use sensorium_wire::ids::ShortName;
use sensorium_wire::limits;
use sensorium_wire::result::ClassScore;

/// The classes with a probability of at least `score_min`, best first, at most `classes_max` and never more than
/// [`limits::RESULT_ITEMS_MAX`]. Equal probabilities keep the order of their classes. A class without a label gets an
/// empty one; a probability that is not a number is left out.
#[must_use]
pub fn top(probabilities: &[f32], labels: &[ShortName], score_min: f32, classes_max: usize) -> Vec<ClassScore> {
    let label = |class: u32| labels.get(class as usize).copied().unwrap_or_default();
    let mut classes: Vec<ClassScore> = (0..)
        .zip(probabilities)
        .filter(|(_, score)| **score >= score_min)
        .map(|(class, score)| ClassScore { class, score: *score, label: label(class) })
        .collect();
    // The sort is stable; what is not a number did not pass the filter.
    classes.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal));
    classes.truncate(classes_max.min(limits::RESULT_ITEMS_MAX));
    classes
}

/// The mean over rows of `classes` probabilities each; empty when there is no whole row. What is left over after the
/// last whole row is ignored.
#[must_use]
pub fn mean(rows: &[f32], classes: usize) -> Vec<f32> {
    if classes == 0 || rows.len() < classes {
        return Vec::new();
    }
    // f64, so that an hour of windows loses nothing.
    let mut sums = vec![0.0_f64; classes];
    for row in rows.chunks_exact(classes) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of rows in memory is far below 2^52")]
    let count = (rows.len() / classes) as f64;
    #[expect(clippy::cast_possible_truncation, reason = "a mean of f32 values is in the range of f32")]
    sums.iter().map(|sum| (sum / count) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(labels: &[&str]) -> Vec<ShortName> {
        labels.iter().map(|label| ShortName::cut(label)).collect()
    }

    #[test]
    fn best_first_and_equal_ones_in_the_order_of_their_classes() {
        let labels = names(&["a", "b", "c", "d", "e"]);
        let classes = top(&[0.2, 0.5, f32::NAN, 0.5, 0.9], &labels, 0.3, 3);
        let found: Vec<_> = classes.iter().map(|class| (class.class, class.label.to_string())).collect();
        assert_eq!(found, [(4, "e".to_owned()), (1, "b".to_owned()), (3, "d".to_owned())]);
        assert_eq!(top(&[0.2, 0.5], &labels, 0.0, 1).len(), 1);
        assert_eq!(top(&[0.2, 0.3], &labels, 0.3, 9).len(), 1);
    }

    #[test]
    fn the_mean_is_per_class() {
        assert_eq!(mean(&[1.0, 0.0, 0.5, 0.5, 0.0, 1.0], 2), [0.5, 0.5]);
        assert_eq!(mean(&[1.0, 0.0, 7.0], 2), [1.0, 0.0]);
        assert!(mean(&[1.0], 2).is_empty());
        assert!(mean(&[1.0], 0).is_empty());
    }
}
