//! Which job leaves when: a function of the seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One job of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Microseconds after the start.
    pub(super) offset_us: u64,
    /// Which part of the mix.
    pub(super) part: usize,
}

/// `jobs` jobs at `rate_per_s`, as a Poisson process, and of which part each is. `weights` are not all zero.
pub(super) fn schedule(jobs: u64, rate_per_s: f64, weights: &[u32], seed: u64) -> Vec<Due> {
    let mut random = StdRng::seed_from_u64(seed);
    let whole: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let mut at_s = 0.0_f64;
    let due = std::iter::repeat_with(|| {
        // The inverse of the exponential distribution; 1 - x is above 0, so that its logarithm is finite.
        at_s -= (1.0 - random.random::<f64>()).ln() / rate_per_s;
        let mut drawn = random.random_range(0..whole);
        let part = weights.iter().position(|weight| {
            let here = drawn < u64::from(*weight);
            drawn = drawn.saturating_sub(u64::from(*weight));
            here
        });
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive; a float's cast saturates"
        )]
        let offset_us = (at_s * 1e6) as u64;
        Due { offset_us, part: part.unwrap_or(0) }
    });
    due.take(usize::try_from(jobs).unwrap_or(usize::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_and_the_weights_hold() {
        let jobs = schedule(10_000, 100.0, &[3, 1], 7);
        assert_eq!(jobs, schedule(10_000, 100.0, &[3, 1], 7));
        assert_ne!(jobs, schedule(10_000, 100.0, &[3, 1], 8));
        assert!(jobs.is_sorted_by_key(|due| due.offset_us));
        let first = jobs.iter().filter(|due| due.part == 0).count();
        assert!((7_200..7_800).contains(&first), "{first}");
        // 100 s at 100 a second; standard deviation 1 s.
        let last_s = jobs.last().unwrap().offset_us / 1_000_000;
        assert!((95..105).contains(&last_s), "{last_s}");
    }
}
