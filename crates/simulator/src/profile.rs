//! How long a batch of a model takes: medians and 99th percentiles by size, or recorded times.

use crate::chance::{Chance, Z_OF_P99};
use crate::time::ns_of;

/// A measured size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ProfileRow {
    pub(crate) jobs: u16,
    pub(crate) p50_ns: f64,
    pub(crate) p99_ns: f64,
}

/// A model's service times.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// By rising size, at least one.
    rows: Vec<ProfileRow>,
    /// For every size from 1: the median, and the spread of its logarithm.
    sizes: Vec<(f64, f64)>,
    /// Recorded times over their median, as they were recorded; empty = none were.
    recorded: Vec<f64>,
    /// The slowest hundredth of them.
    slowest: Vec<f64>,
}

impl Profile {
    /// `rows` by rising size, at least one.
    pub(crate) fn new(rows: Vec<ProfileRow>, batch_max: u16, samples_ns: &[f64]) -> Self {
        let sizes = (1..=batch_max.max(1)).map(|jobs| {
            let (p50_ns, p99_ns) = (at_size(&rows, jobs, |row| row.p50_ns), at_size(&rows, jobs, |row| row.p99_ns));
            (p50_ns, (p99_ns / p50_ns).ln().max(0.0) / Z_OF_P99)
        });
        let sizes = sizes.collect();
        let mut sorted = samples_ns.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median_ns = sorted.get(sorted.len() / 2).copied().unwrap_or(1.0);
        let ratios = |samples: &[f64]| samples.iter().map(|sample_ns| sample_ns / median_ns).collect();
        let slowest = ratios(&sorted[sorted.len() - sorted.len().div_ceil(100)..]);
        Self { rows, sizes, recorded: ratios(samples_ns), slowest }
    }

    /// The median of a batch of one, in nanoseconds.
    pub(crate) fn single_ns(&self) -> f64 {
        self.median_ns(1)
    }

    pub(crate) fn median_ns(&self, jobs: usize) -> f64 {
        self.sizes[jobs.clamp(1, self.sizes.len()) - 1].0
    }

    /// The factor that luck puts on the median of a batch of this size; with the probability `tail` it comes from
    /// the slowest hundredth. Recorded times come in the order of the recording, the one of this `turn`, because what
    /// slows a device lasts longer than a batch.
    pub(crate) fn luck(&self, jobs: usize, turn: usize, tail: f64, chance: &mut Chance) -> f64 {
        let unlucky = chance.happens(tail);
        if self.recorded.is_empty() {
            let sigma = self.sizes[jobs.clamp(1, self.sizes.len()) - 1].1;
            let z = if unlucky { chance.normal_tail() } else { chance.normal() };
            return (z * sigma).exp();
        }
        if unlucky { self.slowest[chance.below(self.slowest.len())] } else { self.recorded[turn % self.recorded.len()] }
    }

    /// Medians or 99th percentiles as the scheduler is told them, on a device that takes `factor` times as long.
    pub(crate) fn told_ns(&self, factor: f64, pick: fn(&ProfileRow) -> f64) -> Vec<(u16, u64)> {
        self.rows.iter().map(|row| (row.jobs, ns_of(pick(row) * factor, 1))).collect()
    }
}

/// Linear between measured sizes, proportional past the largest, flat below the smallest.
fn at_size(rows: &[ProfileRow], jobs: u16, pick: impl Fn(&ProfileRow) -> f64) -> f64 {
    let above = rows.iter().find(|row| row.jobs >= jobs);
    let below = rows.iter().rev().find(|row| row.jobs <= jobs);
    match (below, above) {
        (Some(low), Some(high)) if low.jobs < high.jobs => {
            let part = f64::from(jobs - low.jobs) / f64::from(high.jobs - low.jobs);
            pick(low) + part * (pick(high) - pick(low))
        }
        (_, Some(row)) => pick(row),
        (Some(row), None) => pick(row) * f64::from(jobs) / f64::from(row.jobs),
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(jobs: u16, p50_ns: f64, p99_ns: f64) -> ProfileRow {
        ProfileRow { jobs, p50_ns, p99_ns }
    }

    fn quantile(profile: &Profile, tail: f64, quantile: f64) -> f64 {
        let mut chance = Chance::new(3, 0);
        let mut draws: Vec<f64> =
            (0..20_001).map(|turn| profile.luck(1, turn, tail, &mut chance) * profile.single_ns()).collect();
        draws.sort_by(f64::total_cmp);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
        let at = (quantile * 20_000.0) as usize;
        draws[at]
    }

    #[test]
    fn sizes_between_the_measured_ones_are_interpolated() {
        let profile = Profile::new(vec![row(1, 100.0, 110.0), row(5, 300.0, 310.0)], 10, &[]);
        let medians = [1, 3, 5, 10].map(|jobs| profile.median_ns(jobs));
        assert_eq!(medians, [100.0, 200.0, 300.0, 600.0]);
    }

    #[test]
    fn draws_have_the_quantiles_of_the_profile() {
        let profile = Profile::new(vec![row(1, 1000.0, 2000.0)], 1, &[]);
        assert!((quantile(&profile, 0.0, 0.5) - 1000.0).abs() < 20.0);
        assert!((quantile(&profile, 0.0, 0.99) - 2000.0).abs() < 80.0);
        assert!(quantile(&profile, 1.0, 0.0) >= 1999.0, "bad luck is above the 99th percentile");
        assert!(quantile(&profile, 0.3, 0.8) >= 1999.0);
    }

    #[test]
    fn draws_have_the_quantiles_of_what_was_recorded() {
        let samples: Vec<f64> = (1..=1000).map(f64::from).collect();
        let profile = Profile::new(vec![row(1, 501.0, 990.0)], 1, &samples);
        assert!((quantile(&profile, 0.0, 0.5) - 500.0).abs() < 15.0);
        assert!((quantile(&profile, 0.0, 0.99) - 990.0).abs() < 5.0);
        assert!(quantile(&profile, 1.0, 0.0) > 990.0);
    }

    #[test]
    fn a_profile_without_spread_has_no_luck() {
        let profile = Profile::new(vec![row(1, 1000.0, 1000.0)], 1, &[]);
        assert_eq!(quantile(&profile, 0.5, 1.0), 1000.0);
        assert_eq!(profile.told_ns(2.0, |row| row.p99_ns), vec![(1, 2000)]);
    }
}
