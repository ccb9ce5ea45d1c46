//! What is kept back beyond the margin, because promises were broken: it grows when accepted jobs were not on time and
//! shrinks with every one that was.
//!
//! The margin knows how much batches scatter one by one. It does not know how slow spells follow each other, what other
//! lanes will want, or whatever else nobody has thought of. This only counts what came of it: a stochastic
//! approximation of the quantile that is wanted (Robbins and Monro, 1951), with steps of a fixed size, so that it also
//! follows when things change. Promises that were broken together count once: those that were given before the first of
//! them was known to be broken could not know better.

use serde::{Deserialize, Serialize};

/// Promises kept for each time that some are broken. One in 1,000 may be, and three or four break together.
const KEPT_PER_MISS: u64 = 4_000;
/// One broken promise adds this part of a job's own time.
const STEPS_PER_JOB: u64 = 4;
/// It never grows beyond so many times a job's own time: what would need more is not a matter of chance.
const JOBS_MAX: u64 = 2;

/// Time that is kept back, in billionths of a job's own expected time, so that it fits larger work as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reserve {
    billionths: u64,
    /// Promises that were given before have been counted.
    since_ns: u64,
}

impl Reserve {
    const ONE: u64 = 1_000_000_000;
    const STEP: u64 = Self::ONE / STEPS_PER_JOB;
    const MAX: u64 = JOBS_MAX * Self::ONE;

    /// For a lane that is opened now. What another lane promised does not count.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        self.since_ns = now_ns;
    }

    /// A promise that was given at `accepted_ns` was broken.
    pub(crate) fn missed(&mut self, accepted_ns: u64, now_ns: u64) {
        if accepted_ns >= self.since_ns {
            self.since_ns = now_ns;
            self.billionths = (self.billionths + Self::STEP).min(Self::MAX);
        }
    }

    /// So many were kept.
    pub(crate) fn kept(&mut self, jobs: u64) {
        self.billionths = self.billionths.saturating_sub((Self::STEP / KEPT_PER_MISS).saturating_mul(jobs));
    }

    /// For a job that takes `own_ns` by itself.
    pub(crate) fn of_ns(self, own_ns: u64) -> u64 {
        let ns = u128::from(own_ns) * u128::from(self.billionths) / u128::from(Self::ONE);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Whether it can have been made here: it may come from a file.
    pub(crate) fn is_sound(self) -> bool {
        self.billionths <= Self::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_miss_in_as_many_as_allowed_leaves_it_where_it_is() {
        let mut reserve = Reserve::default();
        reserve.missed(1, 2);
        let before_ns = reserve.of_ns(1_000_000);
        assert_eq!(before_ns, 250_000);
        for at_ns in 3..13 {
            reserve.kept(KEPT_PER_MISS);
            reserve.missed(at_ns, at_ns + 1);
        }
        assert_eq!(reserve.of_ns(1_000_000), before_ns);
        reserve.kept(KEPT_PER_MISS);
        assert_eq!(reserve.of_ns(1_000_000), 0);
    }

    #[test]
    fn what_breaks_together_counts_once() {
        let mut reserve = Reserve::default();
        reserve.begin(100);
        reserve.missed(50, 110);
        assert_eq!(reserve.of_ns(1_000), 0, "promised by another lane");
        reserve.missed(105, 200);
        reserve.missed(120, 201);
        reserve.missed(199, 230);
        assert_eq!(reserve.of_ns(1_000), 250);
        reserve.missed(200, 300);
        assert_eq!(reserve.of_ns(1_000), 500);
    }

    #[test]
    fn it_is_bounded_and_never_negative() {
        let mut reserve = Reserve::default();
        reserve.kept(u64::MAX);
        assert_eq!(reserve.of_ns(1_000), 0);
        (0..1_000).for_each(|at_ns| reserve.missed(at_ns, at_ns));
        assert_eq!(reserve.of_ns(1_000), 2_000);
        assert_eq!(reserve.of_ns(u64::MAX), u64::MAX);
        assert!(reserve.is_sound());
        assert!(!Reserve { billionths: u64::MAX, since_ns: 0 }.is_sound());
    }
}
