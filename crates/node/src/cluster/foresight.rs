//! How well completions of forwarded jobs are foreseen: a window of what was expected and what it took.

use std::collections::VecDeque;

use serde::Serialize;

/// Jobs that are remembered.
const WINDOW_JOBS_MAX: usize = 1_024;

/// The last forwarded jobs.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    /// Expected and actual time, in microseconds.
    window: VecDeque<(u64, u64)>,
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
    pub(super) fn note(&mut self, expected_us: u64, took_us: u64) {
        if self.window.len() >= WINDOW_JOBS_MAX {
            self.window.pop_front();
        }
        self.window.push_back((expected_us.max(1), took_us));
    }

    pub(super) fn status(&self) -> ForesightStatus {
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
            foresight.note(expected, took);
        }
        let status = foresight.status();
        assert_eq!((status.jobs, status.expected_p50_us, status.took_p50_us), (3, 100, 90));
        assert_eq!(status.ratio_p50_permille, 1_000);
    }
}
