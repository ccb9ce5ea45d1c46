//! How long a batch takes: a model's measured profile, corrected by what its batches took since.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use thiserror::Error;

use crate::ratios::{Quantiles, Ratios};
use crate::reserve::Reserve;

/// Largest batch that the scheduler forms, whatever a model allows.
pub const JOBS_PER_BATCH_MAX: u16 = 1024;
/// How long a batch waits for more jobs by default.
pub const BATCH_WAIT_NS_DEFAULT: u64 = 5_000_000;
/// A batch must take less than this share of the time of as many single jobs to count as a gain, in percent. A few
/// percent are within what a measurement scatters, and every batch delays its first job.
const GAIN_BELOW_PERCENT: u128 = 95;
/// No prediction is longer, so that sums stay far from the end of their range: an hour.
const TIME_NS_MAX: u64 = 3_600_000_000_000;
/// Sizes of work that are told apart per model and lane.
const WORK_SIZES_MAX: usize = 8;

/// What the scheduler knows about one model on one lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPolicy {
    /// Most jobs in one batch, at least 1.
    pub batch_max: u16,
    /// How long a batch waits for more jobs while waiting is free, in nanoseconds.
    pub batch_wait_ns: u64,
    /// A batch that runs longer is taken for hung, in nanoseconds; 0 = never.
    pub run_ns_max: u64,
    /// Jobs run for about so long at a time, then the lane chooses again, in nanoseconds; 0 = to their end.
    pub slice_ns: u64,
    /// Median service time by batch size: (jobs, nanoseconds), by rising size. Empty = not measured.
    pub service_p50_ns: Vec<(u16, u64)>,
    /// 99th percentile, likewise. Empty = as the median.
    pub service_p99_ns: Vec<(u16, u64)>,
    /// Whether batches are worth forming; see [`ModelPolicy::new`].
    pub batching_gains: bool,
    /// What an earlier lane learned; empty = nothing.
    pub learned: Learned,
}

/// What was learned about a model on a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// For all its jobs (0) and by the power of two of their work (1 = work 1, 2 = work 2 to 3, ...).
    ratios: Vec<(u8, Ratios)>,
    reserve: Reserve,
}

/// What is wrong with a profile.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProfileError {
    #[error("batch_max is 0; at least 1 is expected")]
    BatchMax,
    #[error("a batch of 0 jobs is in the profile")]
    NoJobs,
    #[error("the time of a batch of {jobs} is 0; times are longer than nothing")]
    Zero { jobs: u16 },
    #[error("a batch of {jobs} comes after one of {before}; sizes must rise")]
    Order { jobs: u16, before: u16 },
    #[error("a batch of {jobs} has a 99th percentile of {p99_ns} ns below its median of {p50_ns} ns")]
    Tail { jobs: u16, p50_ns: u64, p99_ns: u64 },
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
        Self {
            batch_max,
            batch_wait_ns: BATCH_WAIT_NS_DEFAULT,
            run_ns_max,
            slice_ns: 0,
            service_p50_ns,
            service_p99_ns,
            batching_gains,
            learned: Learned::default(),
        }
    }

    /// Whether the profile can be true. The scheduler takes any; one that is wrong makes it predict nonsense.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ProfileError> {
        if self.batch_max == 0 {
            return Err(ProfileError::BatchMax);
        }
        for profile in [&self.service_p50_ns, &self.service_p99_ns] {
            let mut before = 0;
            for (jobs, ns) in profile {
                match (*jobs, *ns) {
                    (0, _) => return Err(ProfileError::NoJobs),
                    (jobs, 0) => return Err(ProfileError::Zero { jobs }),
                    (jobs, _) if jobs <= before => return Err(ProfileError::Order { jobs, before }),
                    (jobs, _) => before = jobs,
                }
            }
        }
        for (jobs, p50_ns) in &self.service_p50_ns {
            let p99_ns = self.service_p99_ns.iter().find(|(other, _)| other == jobs).map_or(*p50_ns, |(_, ns)| *ns);
            if p99_ns < *p50_ns {
                return Err(ProfileError::Tail { jobs: *jobs, p50_ns: *p50_ns, p99_ns });
            }
        }
        Ok(())
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

/// Expected times of every batch size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServiceTimes {
    /// The profile's median; index 0 = a batch of one.
    profile_ns: Vec<u64>,
    /// How all batches differ from it.
    all: Ratios,
    /// How those differ whose largest job has this power of two of work.
    by_work: SmallVec<[(u8, Ratios); 1]>,
    gains: bool,
    /// What broken promises have taught to keep back.
    pub(crate) reserve: Reserve,
}

impl ServiceTimes {
    pub(crate) fn new(policy: &ModelPolicy) -> Self {
        let batch_max = if policy.batching_gains { policy.batch_max.clamp(1, JOBS_PER_BATCH_MAX) } else { 1 };
        let table = |profile: &[(u16, u64)]| (1..=batch_max).map(|jobs| interpolate(profile, jobs)).collect();
        let profile_ns: Vec<u64> = table(&policy.service_p50_ns);
        let p99_ns = interpolate(&policy.service_p99_ns, 1).max(profile_ns[0]);
        let mut times = Self {
            all: Ratios::of_profile(profile_ns[0], p99_ns),
            profile_ns,
            by_work: SmallVec::new(),
            gains: policy.batching_gains,
            reserve: if policy.learned.reserve.is_sound() { policy.learned.reserve } else { Reserve::default() },
        };
        for (size, ratios) in policy.learned.ratios.iter().filter(|(_, ratios)| ratios.is_sound()) {
            match *size {
                0 => times.all = ratios.clone(),
                size if times.by_work.len() < WORK_SIZES_MAX => times.by_work.push((size, ratios.clone())),
                _ => {}
            }
        }
        times
    }

    pub(crate) fn learned(&self) -> Learned {
        let by_work = self.by_work.iter().cloned();
        let ratios = std::iter::once((0, self.all.clone())).chain(by_work).collect();
        // For another lane, at another time.
        let mut reserve = self.reserve;
        reserve.begin(0);
        Learned { ratios, reserve }
    }

    pub(crate) fn batch_max(&self) -> usize {
        self.profile_ns.len()
    }

    /// Whether larger batches are worth waiting for.
    pub(crate) fn gains(&self) -> bool {
        self.gains && self.profile_ns.len() > 1
    }

    /// Time of one batch at the median; `jobs` from 1.
    pub(crate) fn expected_ns(&self, jobs: usize, work: u64) -> u64 {
        scaled(self.profile(jobs), self.quantiles(work).middle)
    }

    /// How much longer than that one in a hundred batches takes.
    pub(crate) fn spread_ns(&self, jobs: usize, work: u64) -> u64 {
        let Quantiles { middle, tail } = self.quantiles(work);
        scaled(self.profile(jobs), tail.saturating_sub(middle))
    }

    /// What the profile says before anything was learned.
    pub(crate) fn profile(&self, jobs: usize) -> u64 {
        self.profile_ns[jobs.clamp(1, self.profile_ns.len()) - 1]
    }

    /// Time of `jobs` jobs in batches as full as they get, at the median.
    pub(crate) fn backlog_ns(&self, jobs: usize) -> u64 {
        let (full, rest) = (jobs / self.batch_max(), jobs % self.batch_max());
        let rest_ns = if rest == 0 { 0 } else { self.expected_ns(rest, 0) };
        self.expected_ns(self.batch_max(), 0).saturating_mul(full as u64).saturating_add(rest_ns)
    }

    /// The largest batch of at most `jobs` that fits into `left_ns` with its spread. When not even one job fits it is
    /// all of them: the first is late anyway, and small batches would make more jobs late. For the same reason nothing
    /// is made smaller while there are more jobs than the largest batch takes.
    pub(crate) fn fitting(&self, jobs: usize, left_ns: u64) -> usize {
        if jobs > self.batch_max() {
            return self.batch_max();
        }
        let fits = |size: &usize| self.expected_ns(*size, 0).saturating_add(self.spread_ns(*size, 0)) <= left_ns;
        (1..=jobs).rev().find(fits).unwrap_or(jobs)
    }

    /// A batch ended: the next predictions know.
    pub(crate) fn note(&mut self, jobs: usize, work: u64, took_ns: u64) {
        let profile_ns = self.profile(jobs);
        self.all.note(took_ns, profile_ns);
        let size = size_of_work(work);
        if size == 0 {
            return;
        }
        if let Some((_, ratios)) = self.by_work.iter_mut().find(|(known, _)| *known == size) {
            ratios.note(took_ns, profile_ns);
        } else if self.by_work.len() < WORK_SIZES_MAX {
            let mut ratios = self.ratios(work).clone();
            // What is known of other sizes is only a hint for this one.
            for _ in 0..FORGET_FOR_ANOTHER_SIZE {
                ratios.forget();
            }
            ratios.note(took_ns, profile_ns);
            self.by_work.push((size, ratios));
        }
    }

    /// Believes less of what was learned: a batch contradicts it that was let in to find out.
    pub(crate) fn doubt(&mut self) {
        let all = std::iter::once(&mut self.all).chain(self.by_work.iter_mut().map(|(_, ratios)| ratios));
        for ratios in all {
            for _ in 0..FORGET_FOR_ANOTHER_SIZE {
                ratios.forget();
            }
        }
    }

    /// The device says that everything takes `percent` of the time that it took.
    pub(crate) fn scale(&mut self, percent: u64) {
        self.all.scale(percent);
        self.by_work.iter_mut().for_each(|(_, ratios)| ratios.scale(percent));
    }

    fn quantiles(&self, work: u64) -> Quantiles {
        self.ratios(work).quantiles()
    }

    /// What is known of this size of work, or of the nearest.
    fn ratios(&self, work: u64) -> &Ratios {
        let size = size_of_work(work);
        if size == 0 || self.by_work.is_empty() {
            return &self.all;
        }
        let nearest = self.by_work.iter().min_by_key(|(known, _)| (known.abs_diff(size), u8::MAX - known));
        nearest.map_or(&self.all, |(_, ratios)| ratios)
    }
}

/// How often what was learned is halved before it serves as a hint.
const FORGET_FOR_ANOTHER_SIZE: u32 = 4;

fn scaled(ns: u64, ratio: u32) -> u64 {
    let scaled = u128::from(ns) * u128::from(ratio) / 1024;
    u64::try_from(scaled).unwrap_or(u64::MAX).min(TIME_NS_MAX)
}

fn size_of_work(work: u64) -> u8 {
    u8::try_from(u64::BITS - work.leading_zeros()).unwrap_or(u8::MAX)
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
        assert_eq!(times.expected_ns(1, 0), 100);
        assert_eq!(times.expected_ns(3, 0), 200);
        assert_eq!(times.expected_ns(5, 0), 300);
        assert_eq!(times.expected_ns(8, 0), 480);
        let spread_ns = times.spread_ns(2, 0);
        assert!((140..=165).contains(&spread_ns), "as the profile's tail for one job: {spread_ns}");
        assert_eq!(times.backlog_ns(0), 0);
        assert_eq!(times.backlog_ns(9), 580);
    }

    #[test]
    fn zero_sizes_and_huge_times_do_not_panic() {
        let times = ServiceTimes::new(&ModelPolicy {
            batching_gains: true,
            ..ModelPolicy::new(0, 0, vec![(0, u64::MAX), (2, u64::MAX)], vec![])
        });
        assert_eq!(times.batch_max(), 1);
        assert_eq!(times.backlog_ns(10), 10 * TIME_NS_MAX);
    }

    #[test]
    fn the_batch_shrinks_to_what_the_first_deadline_allows() {
        let times = ServiceTimes::new(&ModelPolicy::new(4, 0, vec![(1, 100), (4, 200)], vec![]));
        assert_eq!(times.fitting(4, 1_000), 4);
        assert_eq!(times.fitting(4, 199), 3);
        assert_eq!(times.fitting(4, 110), 1);
        assert_eq!(times.fitting(3, 50), 3);
        assert_eq!(times.fitting(9, 110), 4);
    }

    #[test]
    fn sizes_of_work_are_told_apart() {
        let mut times = ServiceTimes::new(&ModelPolicy::new(1, 0, vec![(1, 1_000)], vec![]));
        for _ in 0..200 {
            times.note(1, 100, 1_000);
            times.note(1, 10_000, 4_000);
        }
        let (small_ns, large_ns) = (times.expected_ns(1, 100), times.expected_ns(1, 10_000));
        assert!((950..1_100).contains(&small_ns) && (3_900..4_200).contains(&large_ns), "{small_ns} {large_ns}");
        assert_eq!(times.expected_ns(1, 9_000), large_ns, "the same power of two");
        assert_eq!(times.expected_ns(1, 1 << 60), large_ns, "nearest");
        let learned = ModelPolicy { learned: times.learned(), ..ModelPolicy::new(1, 0, vec![(1, 1_000)], vec![]) };
        assert_eq!(ServiceTimes::new(&learned).expected_ns(1, 10_000), large_ns, "kept for the next lane");
    }

    #[test]
    fn profiles_that_cannot_be_true_are_named() {
        let policy =
            |p50: &[(u16, u64)], p99: &[(u16, u64)]| ModelPolicy::new(4, 0, p50.to_vec(), p99.to_vec()).check();
        assert_eq!(policy(&[(1, 10), (4, 20)], &[(1, 12)]), Ok(()));
        assert_eq!(policy(&[(1, 0)], &[]), Err(ProfileError::Zero { jobs: 1 }));
        assert_eq!(policy(&[(0, 5)], &[]), Err(ProfileError::NoJobs));
        assert_eq!(policy(&[(4, 5), (1, 2)], &[]), Err(ProfileError::Order { jobs: 1, before: 4 }));
        assert_eq!(policy(&[(1, 5)], &[(1, 4)]), Err(ProfileError::Tail { jobs: 1, p50_ns: 5, p99_ns: 4 }));
    }
}
