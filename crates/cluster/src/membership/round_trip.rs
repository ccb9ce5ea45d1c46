//! How long the way to a neighbour and back takes, without comparing the clocks of two machines.
//!
//! Each report echoes the newest sending time that its sender had from the receiver, and how long it was kept:
//!
//! ```text
//! sample   = now - echo_us - echo_delay_us               all on the receiver's clock, but for a duration on the sender's
//! smallest = the least of the last 8 samples
//! estimate = the first sample; then estimate + (smallest - estimate) / 4
//! ```
//!
//! The least of several, because what a sample has too much is time that a busy node let the report wait, and reports
//! are few; smoothed, so that predictions do not jump. A way that became shorter is known after a few reports, one that
//! became longer after about a second.

const SAMPLES: usize = 8;
/// Samples above are not believed, in microseconds: they come from a report that was kept somewhere, or from a faulty peer.
const SAMPLE_US_MAX: u64 = 10_000_000;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    samples: [u32; SAMPLES],
    /// Ten a second: never overflows.
    taken: usize,
    estimate_us: u32,
}

impl RoundTrip {
    /// Takes a sample; `None` and impossible ones are left out.
    pub(super) fn measured(&mut self, us: Option<u64>) {
        let Some(us) = us.filter(|us| *us <= SAMPLE_US_MAX).and_then(|us| u32::try_from(us.max(1)).ok()) else {
            return;
        };
        self.samples[self.taken % SAMPLES] = us;
        self.taken += 1;
        let kept = if self.taken < SAMPLES { &self.samples[..self.taken] } else { &self.samples[..] };
        let smallest_us = kept.iter().copied().min().unwrap_or(us);
        self.estimate_us = match self.estimate_us {
            0 => us,
            estimate_us if smallest_us < estimate_us => estimate_us - (estimate_us - smallest_us).div_ceil(4),
            estimate_us => estimate_us + (smallest_us - estimate_us).div_ceil(4),
        };
    }

    /// 0 = none yet.
    pub(super) fn us(&self) -> u32 {
        self.estimate_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: impl IntoIterator<Item = u64>) -> u32 {
        let mut round_trip = RoundTrip::default();
        samples.into_iter().for_each(|us| round_trip.measured(Some(us)));
        round_trip.us()
    }

    #[test]
    fn the_estimate_keeps_to_the_smallest_and_follows_a_changed_way() {
        assert_eq!(after([]), 0);
        assert_eq!(after([5_000]), 5_000);
        assert_eq!(after([0]), 1, "0 would mean unknown");
        let noisy = (0..100).map(|at| 5_000 + (at * 7_919) % 4 * 1_000);
        assert_eq!(after(noisy), 5_000);
        assert_eq!(after([5_000; 8].into_iter().chain([1_000; 40])), 1_000);
        assert_eq!(after([5_000; 8].into_iter().chain([9_000; 7])), 5_000, "not yet");
        assert_eq!(after([5_000; 8].into_iter().chain([9_000; 50])), 9_000);
    }

    #[test]
    fn impossible_samples_change_nothing() {
        let mut round_trip = RoundTrip::default();
        round_trip.measured(Some(700));
        round_trip.measured(None);
        round_trip.measured(Some(SAMPLE_US_MAX + 1));
        assert_eq!(round_trip.us(), 700);
    }
}
