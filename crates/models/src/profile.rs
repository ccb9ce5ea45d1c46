//! How long a model takes on a device, measured when it was loaded. Plain data: measuring is the worker's, predicting
//! the scheduler's.

use serde::{Deserialize, Serialize};

/// Median and tail of a duration, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50_ns: u64,
    pub p99_ns: u64,
}

impl Quantiles {
    /// The nearest-rank quantiles of `samples_ns`, which is sorted in place; zero when it is empty.
    #[must_use]
    pub fn of(samples_ns: &mut [u64]) -> Self {
        samples_ns.sort_unstable();
        let at = |percent: usize| {
            let rank = (samples_ns.len() * percent).div_ceil(100).max(1);
            samples_ns.get(rank - 1).copied().unwrap_or_default()
        };
        Self { p50_ns: at(50), p99_ns: at(99) }
    }
}

/// Times of one whole batch of `jobs` jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchProfile {
    pub jobs: u16,
    /// How many batches were measured.
    pub runs: u32,
    /// Prepare, infer and interpret together, as one clock saw them.
    pub total: Quantiles,
    /// Sum over the jobs of the batch.
    pub prepare: Quantiles,
    /// Once per batch.
    pub infer: Quantiles,
    /// Sum over the jobs of the batch.
    pub interpret: Quantiles,
}

/// What running a model costs on the device that measured it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceProfile {
    /// By rising `jobs`; 1 and the manifest's `batch_max` at least.
    pub batches: Vec<BatchProfile>,
    /// Memory that loading and warming the model took, in bytes.
    pub arena_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        assert_eq!(Quantiles::of(&mut []), Quantiles::default());
        assert_eq!(Quantiles::of(&mut [7]), Quantiles { p50_ns: 7, p99_ns: 7 });
        let mut samples: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(Quantiles::of(&mut samples), Quantiles { p50_ns: 100, p99_ns: 198 });
    }
}
