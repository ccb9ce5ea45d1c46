//! How long a batch takes, from a model's measured profile.

use serde::{Deserialize, Serialize};

/// Largest batch that the scheduler forms, whatever a model allows.
pub const JOBS_PER_BATCH_MAX: u16 = 1024;
/// A batch must take less than this share of the time of as many single jobs to count as a gain, in percent. A few
/// percent are within what a measurement scatters, and every batch delays its first job.
const GAIN_BELOW_PERCENT: u128 = 95;

/// What the scheduler knows about one model on one lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPolicy {
    /// Most jobs in one batch, at least 1.
    pub batch_max: u16,
    /// A batch that runs longer is taken for hung, in nanoseconds; 0 = never.
    pub run_ns_max: u64,
    /// Median service time by batch size: (jobs, nanoseconds), by rising size. Empty = not measured.
    pub service_p50_ns: Vec<(u16, u64)>,
    /// 99th percentile, likewise. Empty = as the median.
    pub service_p99_ns: Vec<(u16, u64)>,
    /// Whether batches are worth forming; see [`ModelPolicy::new`].
    pub batching_gains: bool,
}

impl ModelPolicy {
    /// A policy whose `batching_gains` follows from the profile: false when batches were measured and none takes less
    /// than 95 % of the time of as many single jobs, true otherwise.
    #[must_use]
    pub fn new(
        batch_max: u16,
        run_ns_max: u64,
        service_p50_ns: Vec<(u16, u64)>,
        service_p99_ns: Vec<(u16, u64)>,
    ) -> Self {
        let batching_gains = batching_gains(&service_p50_ns);
        Self { batch_max, run_ns_max, service_p50_ns, service_p99_ns, batching_gains }
    }
}

fn batching_gains(profile: &[(u16, u64)]) -> bool {
    let Some(single) = profile.iter().find(|(jobs, _)| *jobs == 1) else {
        return true;
    };
    let mut batches = profile.iter().filter(|(jobs, _)| *jobs > 1).peekable();
    batches.peek().is_none()
        || batches
            .any(|(jobs, ns)| u128::from(*ns) * 100 < u128::from(single.1) * u128::from(*jobs) * GAIN_BELOW_PERCENT)
}

/// Service times of every batch size, looked up without arithmetic.
#[derive(Clone, Debug)]
pub(crate) struct ServiceTimes {
    /// Index 0 = a batch of one.
    p50_ns: Vec<u64>,
    p99_ns: Vec<u64>,
}

impl ServiceTimes {
    pub(crate) fn new(policy: &ModelPolicy) -> Self {
        let batch_max = if policy.batching_gains { policy.batch_max.clamp(1, JOBS_PER_BATCH_MAX) } else { 1 };
        let table = |profile: &[(u16, u64)]| (1..=batch_max).map(|jobs| interpolate(profile, jobs)).collect();
        let p50_ns: Vec<u64> = table(&policy.service_p50_ns);
        let mut p99_ns: Vec<u64> = table(&policy.service_p99_ns);
        p99_ns.iter_mut().zip(&p50_ns).for_each(|(p99, p50)| *p99 = (*p99).max(*p50));
        Self { p50_ns, p99_ns }
    }

    pub(crate) fn batch_max(&self) -> usize {
        self.p50_ns.len()
    }

    /// Median time of one batch; `jobs` from 1.
    pub(crate) fn p50_ns(&self, jobs: usize) -> u64 {
        self.p50_ns[jobs.clamp(1, self.p50_ns.len()) - 1]
    }

    pub(crate) fn p99_ns(&self, jobs: usize) -> u64 {
        self.p99_ns[jobs.clamp(1, self.p99_ns.len()) - 1]
    }

    /// Median time of `jobs` jobs in batches as full as they get.
    pub(crate) fn backlog_ns(&self, jobs: usize) -> u64 {
        let (full, rest) = (jobs / self.batch_max(), jobs % self.batch_max());
        let rest_ns = if rest == 0 { 0 } else { self.p50_ns(rest) };
        self.p50_ns(self.batch_max()).saturating_mul(full as u64).saturating_add(rest_ns)
    }

    /// The largest batch of at most `jobs` whose 99th percentile fits into `left_ns`. When not even one job fits it is
    /// all of them: the first is late anyway, and small batches would make more jobs late.
    pub(crate) fn fitting(&self, jobs: usize, left_ns: u64) -> usize {
        let jobs = jobs.min(self.batch_max());
        (1..=jobs).rev().find(|size| self.p99_ns(*size) <= left_ns).unwrap_or(jobs)
    }
}

/// Linear between measured sizes, proportional past the largest, flat below the smallest.
fn interpolate(profile: &[(u16, u64)], jobs: u16) -> u64 {
    let above = profile.iter().find(|(size, _)| *size >= jobs);
    let below = profile.iter().rev().find(|(size, _)| *size <= jobs && *size > 0);
    match (below, above) {
        (None, None) => 0,
        (None, Some((_, ns))) => *ns,
        (Some((size, ns)), None) => scale(*ns, jobs, *size),
        (Some((low, low_ns)), Some((high, high_ns))) => {
            if high == low {
                return *low_ns;
            }
            let rise = scale(high_ns.saturating_sub(*low_ns), jobs - low, high - low);
            low_ns.saturating_add(rise)
        }
    }
}

fn scale(ns: u64, numerator: u16, denominator: u16) -> u64 {
    let scaled = u128::from(ns) * u128::from(numerator) / u128::from(denominator.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_without_gain_turns_batching_off() {
        let flat = ModelPolicy::new(8, 0, vec![(1, 42), (4, 166)], vec![]);
        assert!(!flat.batching_gains);
        assert_eq!(ServiceTimes::new(&flat).batch_max(), 1);
        let gain = ModelPolicy::new(8, 0, vec![(1, 42), (4, 80)], vec![]);
        assert!(gain.batching_gains);
        assert_eq!(ServiceTimes::new(&gain).batch_max(), 8);
        assert!(ModelPolicy::new(8, 0, vec![(1, 42)], vec![]).batching_gains, "nothing measured speaks against it");
        assert!(ModelPolicy::new(8, 0, vec![], vec![]).batching_gains);
    }

    #[test]
    fn sizes_that_were_not_measured_are_interpolated() {
        let times = ServiceTimes::new(&ModelPolicy::new(8, 0, vec![(1, 100), (5, 300)], vec![(1, 200)]));
        assert_eq!(times.p50_ns(1), 100);
        assert_eq!(times.p50_ns(3), 200);
        assert_eq!(times.p50_ns(5), 300);
        assert_eq!(times.p50_ns(8), 480);
        assert_eq!(times.p99_ns(2), 400);
        assert_eq!(times.backlog_ns(0), 0);
        assert_eq!(times.backlog_ns(9), 580);
    }

    #[test]
    fn zero_sizes_and_huge_times_do_not_panic() {
        let times = ServiceTimes::new(&ModelPolicy {
            batch_max: 0,
            run_ns_max: 0,
            service_p50_ns: vec![(0, u64::MAX), (2, u64::MAX)],
            service_p99_ns: vec![],
            batching_gains: true,
        });
        assert_eq!(times.batch_max(), 1);
        assert_eq!(times.backlog_ns(10), u64::MAX);
    }

    #[test]
    fn the_batch_shrinks_to_what_the_first_deadline_allows() {
        let times = ServiceTimes::new(&ModelPolicy::new(4, 0, vec![(1, 100), (4, 200)], vec![]));
        assert_eq!(times.fitting(4, 1_000), 4);
        assert_eq!(times.fitting(4, 199), 3);
        assert_eq!(times.fitting(4, 110), 1);
        assert_eq!(times.fitting(3, 50), 3);
    }
}
