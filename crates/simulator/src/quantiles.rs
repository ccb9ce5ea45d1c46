//! Quantiles of many numbers in little memory: counts in buckets of less than half a percent.

use serde::Serialize;

/// Buckets for each power of two.
const PER_OCTAVE: u64 = 256;

/// Counts of numbers by size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quantiles {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

/// What a report shows, in the unit of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QuantileReport {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

impl Quantiles {
    pub(crate) fn add(&mut self, number: u64) {
        let bucket = bucket_of(number);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max = self.max.max(number);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The nearest rank, rounded up by less than half a percent; 0 when there are no numbers.
    pub(crate) fn at(&self, permille: u64) -> u64 {
        let rank = (self.count * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_bound(bucket).min(self.max);
            }
        }
        self.max
    }

    pub(crate) fn report(&self) -> QuantileReport {
        QuantileReport { p50: self.at(500), p90: self.at(900), p99: self.at(990), max: self.max }
    }
}

fn bucket_of(number: u64) -> usize {
    let octave = u64::from(number.max(1).ilog2());
    let shift = octave.saturating_sub(u64::from(PER_OCTAVE.ilog2()));
    // Numbers below twice the buckets of an octave are their own buckets.
    usize::try_from(shift * PER_OCTAVE + (number >> shift)).unwrap_or(usize::MAX)
}

fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PER_OCTAVE {
        return bucket;
    }
    let shift = bucket / PER_OCTAVE - 1;
    ((bucket - shift * PER_OCTAVE + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        let mut quantiles = Quantiles::default();
        assert_eq!(quantiles.at(990), 0);
        (1..=100).for_each(|number| quantiles.add(number));
        assert_eq!(quantiles.report(), QuantileReport { p50: 50, p90: 90, p99: 99, max: 100 });
    }

    proptest! {
        #[test]
        fn quantiles_are_near_the_sorted_ones(mut numbers in prop::collection::vec(0..1_u64 << 50, 1..300), cut in 0..300_usize) {
            let (mut left, mut right) = (Quantiles::default(), Quantiles::default());
            for (index, number) in numbers.iter().enumerate() {
                if index < cut { left.add(*number) } else { right.add(*number) }
            }
            left.merge(&right);
            numbers.sort_unstable();
            for permille in [1, 500, 900, 990, 1000] {
                let exact = numbers[(numbers.len() * permille).div_ceil(1000) - 1];
                let near = left.at(permille as u64);
                prop_assert!(near >= exact && near - exact <= exact / 250, "{near} for {exact}");
            }
        }
    }
}
