//! What one rule did, counted without locks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Steps of the histogram for each doubling of the time.
const STEPS: u32 = 4;
/// The first bucket ends here, in nanoseconds, as a power of two.
const FIRST_LOG2: u32 = 7;
/// 128 ns to 8 ms, and one for all that is longer.
const BUCKETS: usize = 16 * STEPS as usize + 1;

pub(super) struct Counts {
    pub(super) fired: AtomicU64,
    pub(super) failed: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Counts {
    fn default() -> Self {
        Self { fired: AtomicU64::new(0), failed: AtomicU64::new(0), buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl Counts {
    /// One look that took so long.
    pub(super) fn took(&self, ns: u64) {
        self.buckets[bucket(ns)].fetch_add(1, Ordering::Relaxed);
    }

    /// The time that 99 of 100 looks were done in, in nanoseconds: the upper end of a bucket, so at most a quarter too
    /// long. 0 before the first look.
    pub(super) fn p99_ns(&self) -> u64 {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let mut left = total - total / 100;
        let found = counts.iter().position(|count| {
            left = left.saturating_sub(*count);
            left == 0
        });
        if total == 0 { 0 } else { upper_end_ns(found.unwrap_or(BUCKETS - 1)) }
    }
}

fn bucket(ns: u64) -> usize {
    let Some(log2) = ns.checked_ilog2().filter(|log2| *log2 >= FIRST_LOG2) else { return 0 };
    // The two bits below the highest tell the quarter.
    let quarter = usize::try_from(ns >> (log2 - 2) & 3).unwrap_or(0);
    ((log2 - FIRST_LOG2) as usize * STEPS as usize + quarter + 1).min(BUCKETS - 1)
}

fn upper_end_ns(bucket: usize) -> u64 {
    let Some(steps) = bucket.checked_sub(1) else { return 1 << FIRST_LOG2 };
    let start = 1_u64 << (FIRST_LOG2 as usize + steps / STEPS as usize);
    start + start / 4 * (steps as u64 % u64::from(STEPS) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_below_the_upper_end_of_its_bucket_and_not_far_below() {
        for ns in (0..20_000).chain((0..4_000).map(|step| step * 2_000)) {
            let end = upper_end_ns(bucket(ns));
            assert!(ns < end, "{ns} {end}");
            assert!(end <= 160 || end <= ns + ns / 4 + 1, "{ns} {end}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_99th_of_a_hundred_is_found() {
        let counts = Counts::default();
        assert_eq!(counts.p99_ns(), 0);
        (0..99).for_each(|_| counts.took(1_000));
        assert_eq!(counts.p99_ns(), 1_024);
        counts.took(1_000_000);
        assert_eq!(counts.p99_ns(), 1_024);
        counts.took(1_000_000);
        counts.took(1_000_000);
        assert!(counts.p99_ns() >= 1_000_000);
    }
}
