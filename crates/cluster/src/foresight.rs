//! How well completions of forwarded jobs are foreseen, and what that teaches.
//!
//! Reports say how another node sees itself a moment ago; what its jobs took, seen from here, corrects that. For each node
//! and model the correction follows the median of actual by expected time: a step up when a job took longer than
//! foreseen, the same step down when it did not.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use smallvec::SmallVec;

use crate::{Candidates, ModelId, NodeId, View};

/// Jobs that are remembered.
const WINDOW_JOBS_MAX: usize = 1_024;
/// Nodes and models of which a correction is kept; the topology bounds the former, and more are not corrected.
const CORRECTIONS_MAX: usize = 4_096;
/// One step of a correction, and how far it may go, in thousandths.
const STEP_PERMILLE: u64 = 20;
const CORRECTION_PERMILLE_MIN: u64 = 300;
const CORRECTION_PERMILLE_MAX: u64 = 3_000;
/// Without jobs a correction goes half of its way back in this time: or what a slow spell has taught would keep jobs away
/// for good.
const FORGOTTEN_BY_HALF_NS: u64 = 2_000_000_000;

/// The last forwarded jobs.
#[derive(Debug, Default)]
pub struct Foresight {
    /// Expected and actual time, in microseconds.
    window: VecDeque<(u64, u64)>,
    corrections: BTreeMap<(NodeId, ModelId), Correction>,
}

#[derive(Clone, Copy, Debug)]
struct Correction {
    permille: u64,
    noted_ns: u64,
}

impl Correction {
    fn at(self, now_ns: u64) -> u64 {
        let halves = (now_ns.saturating_sub(self.noted_ns) / FORGOTTEN_BY_HALF_NS).min(32);
        if self.permille >= 1000 {
            1000 + ((self.permille - 1000) >> halves)
        } else {
            1000 - ((1000 - self.permille) >> halves)
        }
    }
}

/// What a status page shows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ForesightStatus {
    pub jobs: usize,
    pub expected_p50_us: u64,
    pub took_p50_us: u64,
    /// Median of actual by expected time, in thousandths.
    pub ratio_p50_permille: u64,
}

impl Foresight {
    /// What is to be expected when reports make one expect `us`.
    #[must_use]
    pub fn corrected_us(&self, now_ns: u64, (node, model): (NodeId, ModelId), us: u64) -> u64 {
        let permille = self.corrections.get(&(node, model)).map_or(1000, |correction| correction.at(now_ns));
        us.saturating_mul(permille) / 1000
    }

    /// Corrects the predictions for other nodes. Gives, by node, what a job is to be expected to take there, without a
    /// margin. As in a node's own admission, where times scatter widely at most half of the time that is left beyond what
    /// is expected is kept as a margin; the node itself judges again.
    pub fn apply(
        &self,
        now_ns: u64,
        view: &View,
        model: ModelId,
        budget_us: u64,
        candidates: &mut Candidates,
    ) -> SmallVec<[(NodeId, u64); 8]> {
        let mut expected = SmallVec::new();
        for candidate in candidates.iter_mut() {
            let Some(via) = candidate.via else { continue };
            let margin_us = view.margin_us(via, candidate.node, model);
            let reported_us = candidate.predicted_us.saturating_sub(margin_us);
            let expected_us = self.corrected_us(now_ns, (candidate.node, model), reported_us);
            candidate.predicted_us = expected_us + margin_us.min(budget_us.saturating_sub(expected_us) / 2);
            expected.push((candidate.node, expected_us));
        }
        expected
    }

    /// A job of this model took so long at a node, which was foreseen, with its correction, as `expected_us`.
    pub fn note(&mut self, now_ns: u64, of: (NodeId, ModelId), expected_us: u64, took_us: u64) {
        if self.corrections.len() < CORRECTIONS_MAX || self.corrections.contains_key(&of) {
            let before = self.corrections.get(&of).map_or(1000, |correction| correction.at(now_ns));
            let step = (before * STEP_PERMILLE / 1000).max(1);
            let moved = if took_us > expected_us { before + step } else { before - step };
            let permille = moved.clamp(CORRECTION_PERMILLE_MIN, CORRECTION_PERMILLE_MAX);
            self.corrections.insert(of, Correction { permille, noted_ns: now_ns });
        }
        if self.window.len() >= WINDOW_JOBS_MAX {
            self.window.pop_front();
        }
        self.window.push_back((expected_us.max(1), took_us));
    }

    /// The window in numbers.
    #[must_use]
    pub fn status(&self) -> ForesightStatus {
        let median = |of: fn(&(u64, u64)) -> u64| {
            let mut values: Vec<u64> = self.window.iter().map(of).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or(0)
        };
        ForesightStatus {
            jobs: self.window.len(),
            expected_p50_us: median(|(expected, _)| *expected),
            took_p50_us: median(|(_, took)| *took),
            ratio_p50_permille: median(|(expected, took)| took.saturating_mul(1000) / expected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ratio_is_that_of_single_jobs() {
        let mut foresight = Foresight::default();
        assert_eq!(foresight.status(), ForesightStatus::default());
        for (expected, took) in [(100, 90), (1_000, 1_100), (10, 10)] {
            foresight.note(0, (NodeId(1), ModelId(1)), expected, took);
        }
        let status = foresight.status();
        assert_eq!((status.jobs, status.expected_p50_us, status.took_p50_us), (3, 100, 90));
        assert_eq!(status.ratio_p50_permille, 1_000);
    }

    #[test]
    fn the_correction_follows_what_jobs_take() {
        let of = (NodeId(1), ModelId(7));
        let mut foresight = Foresight::default();
        assert_eq!(foresight.corrected_us(0, of, 100), 100);
        // Reports say 100, and it takes 60, now and then 500.
        for job in 0..400 {
            let expected_us = foresight.corrected_us(0, of, 100_000);
            foresight.note(0, of, expected_us, if job % 10 == 0 { 500_000 } else { 60_000 });
        }
        let learned = foresight.corrected_us(0, of, 100_000);
        assert!((55_000..=66_000).contains(&learned), "{learned}");
        assert_eq!(foresight.corrected_us(0, (NodeId(2), of.1), 100), 100, "another node is another matter");
        for _ in 0..1_000 {
            foresight.note(0, of, 1, 1_000_000);
        }
        assert_eq!(foresight.corrected_us(0, of, 1_000), CORRECTION_PERMILLE_MAX, "bounded");
        assert_eq!(foresight.corrected_us(FORGOTTEN_BY_HALF_NS, of, 1_000), 2_000, "half forgotten");
        assert_eq!(foresight.corrected_us(u64::MAX, of, 1_000), 1_000, "forgotten");
    }
}
