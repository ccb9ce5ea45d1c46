//! How batches take longer or shorter than the profile says: a histogram of ratios that forgets.

use serde::{Deserialize, Serialize};

/// Steps of a sixteenth of an octave (4.4 %): finer than what repeated measurements of one batch scatter.
const STEPS_PER_OCTAVE: usize = 16;
/// From a quarter to sixteen times the profile.
const OCTAVES: usize = 6;
const STEPS: usize = STEPS_PER_OCTAVE * OCTAVES;
/// A ratio of one, in 1/1024.
const ONE: u64 = 1024;
/// Lower bound of the first step.
const LOWEST: u64 = ONE / 4;
/// Samples after which all counts are halved: what is older than about as many batches hardly counts.
const SAMPLES_MAX: u16 = 512;
/// How many samples the profile itself counts for, so that the first few batches do not overturn it.
const PRIOR_SAMPLES: u16 = 20;
/// The quantiles are read again after so many samples.
const READ_EVERY: u16 = 8;

/// Lower bounds of the steps in 1/1024, doubled from octave to octave.
const BOUNDS: [u64; STEPS] = bounds();

const fn bounds() -> [u64; STEPS] {
    // 2^(i/16) in billionths.
    const ROOTS: [u64; STEPS_PER_OCTAVE] = [
        1_000_000_000,
        1_044_273_782,
        1_090_507_733,
        1_138_788_635,
        1_189_207_115,
        1_241_857_812,
        1_296_839_555,
        1_354_255_547,
        1_414_213_562,
        1_476_826_146,
        1_542_210_825,
        1_610_490_332,
        1_681_792_831,
        1_756_252_160,
        1_834_008_086,
        1_915_206_561,
    ];
    let mut bounds = [0; STEPS];
    let mut step = 0;
    while step < STEPS {
        bounds[step] = (LOWEST << (step / STEPS_PER_OCTAVE)) * ROOTS[step % STEPS_PER_OCTAVE] / 1_000_000_000;
        step += 1;
    }
    bounds
}

/// The last so many samples are looked at by themselves: a device that turns slow stays slow for a while.
const RECENT: usize = 5;

/// Which quantiles are wanted: the median, or that of the last few samples if it is higher, and the 99th percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    /// In 1/1024 of the profile's median.
    pub(crate) middle: u32,
    pub(crate) tail: u32,
}

/// See the module. The same samples give the same quantiles on every machine: there is no floating point in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ratios {
    counts: Vec<u16>,
    total: u16,
    unread: u16,
    recent: [u32; RECENT],
    next: u8,
    quantiles: Quantiles,
    /// Of all samples.
    median: u32,
}

impl Ratios {
    /// What a profile says before anything was seen: its median, and its 99th percentile once.
    pub(crate) fn of_profile(p50_ns: u64, p99_ns: u64) -> Self {
        let mut ratios = Self {
            counts: vec![0; STEPS],
            total: PRIOR_SAMPLES,
            unread: 0,
            recent: [0; RECENT],
            next: 0,
            quantiles: Quantiles { middle: 1024, tail: 1024 },
            median: 1024,
        };
        ratios.counts[step(ONE)] += PRIOR_SAMPLES - 1;
        ratios.counts[step(ratio(p99_ns, p50_ns))] += 1;
        ratios.read();
        ratios
    }

    /// Whether it can have been made here: what was learned comes from a file, and files are damaged.
    pub(crate) fn is_sound(&self) -> bool {
        let total: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        self.counts.len() == STEPS
            && total == u64::from(self.total)
            && self.total < SAMPLES_MAX
            && usize::from(self.next) < RECENT
            && self.unread < SAMPLES_MAX
    }

    pub(crate) fn quantiles(&self) -> Quantiles {
        self.quantiles
    }

    /// Notes a batch that took `took_ns` where the profile says `profile_ns`.
    pub(crate) fn note(&mut self, took_ns: u64, profile_ns: u64) {
        if profile_ns == 0 {
            return;
        }
        let step = step(ratio(took_ns, profile_ns));
        self.recent[usize::from(self.next)] = u32::try_from(middle_of(step)).unwrap_or(u32::MAX);
        self.next = if usize::from(self.next) + 1 < RECENT { self.next + 1 } else { 0 };
        self.counts[step] += 1;
        self.total += 1;
        if self.total >= SAMPLES_MAX {
            self.forget();
        }
        self.unread += 1;
        if self.unread >= READ_EVERY || self.total < 4 * PRIOR_SAMPLES {
            self.read();
        }
        self.combine();
    }

    /// Trusts what was seen so far only half as much.
    pub(crate) fn forget(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
        self.total = self.counts.iter().sum();
    }

    /// Everything takes `percent` of the time that it took.
    pub(crate) fn scale(&mut self, percent: u64) {
        let mut scaled = vec![0; STEPS];
        for (at, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            scaled[step(middle_of(at).saturating_mul(percent) / 100)] += count;
        }
        self.counts = scaled;
        self.recent = [0; RECENT];
        self.read();
    }

    fn read(&mut self) {
        self.unread = 0;
        self.median = self.quantile(500);
        self.quantiles.tail = self.quantile(990);
        self.combine();
    }

    /// The median of the last few samples does not care for a single stall.
    fn combine(&mut self) {
        let mut recent = self.recent;
        recent.sort_unstable();
        self.quantiles.middle = self.median.max(recent[RECENT / 2]);
    }

    fn quantile(&self, permille: u32) -> u32 {
        let wanted = (u32::from(self.total) * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u32::from(*count);
            if seen >= wanted {
                return u32::try_from(middle_of(at)).unwrap_or(u32::MAX);
            }
        }
        1024
    }
}

/// In 1/1024.
fn ratio(ns: u64, of_ns: u64) -> u64 {
    let ratio = u128::from(ns) * u128::from(ONE) / u128::from(of_ns.max(1));
    u64::try_from(ratio).unwrap_or(u64::MAX)
}

fn step(ratio: u64) -> usize {
    BOUNDS.partition_point(|bound| *bound <= ratio).saturating_sub(1)
}

/// The ratio that a step stands for. One is the middle of its step, so that the profile reproduces itself.
fn middle_of(step: usize) -> u64 {
    if BOUNDS[step] == ONE { ONE } else { BOUNDS[step] * 1022 / 1000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_reproduces_itself() {
        let ratios = Ratios::of_profile(1_000, 1_200);
        assert_eq!(ratios.quantiles().middle, 1024);
        let tail = ratios.quantiles().tail;
        assert!((1_170..=1_290).contains(&tail), "{tail}");
    }

    #[test]
    fn it_follows_a_device_that_became_slower() {
        let mut ratios = Ratios::of_profile(1_000, 1_100);
        for _ in 0..600 {
            ratios.note(2_000, 1_000);
        }
        let Quantiles { middle, tail } = ratios.quantiles();
        assert!((1_950..=2_150).contains(&middle) && tail >= middle && tail < 2_300, "{middle} {tail}");
    }

    #[test]
    fn a_slow_spell_is_believed_after_three_batches_and_over_soon() {
        let mut ratios = Ratios::of_profile(1_000, 1_100);
        (0..300).for_each(|_| ratios.note(1_000, 1_000));
        (0..2).for_each(|_| ratios.note(1_500, 1_000));
        assert!(ratios.quantiles().middle < 1_100);
        ratios.note(1_500, 1_000);
        assert!(ratios.quantiles().middle > 1_450);
        (0..3).for_each(|_| ratios.note(1_000, 1_000));
        assert!(ratios.quantiles().middle < 1_100);
    }

    #[test]
    fn one_stall_does_not_set_the_tail() {
        let mut ratios = Ratios::of_profile(1_000, 1_100);
        for sample in 0..300 {
            ratios.note(if sample == 200 { 9_000 } else { 1_000 + sample % 50 }, 1_000);
        }
        assert!(ratios.quantiles().tail < 1_400, "{:?}", ratios.quantiles());
    }

    #[test]
    fn frequent_stalls_do() {
        let mut ratios = Ratios::of_profile(1_000, 1_100);
        for sample in 0..400 {
            ratios.note(if sample % 20 == 0 { 3_000 } else { 1_000 }, 1_000);
        }
        assert!(ratios.quantiles().tail > 2_800, "{:?}", ratios.quantiles());
    }

    #[test]
    fn scaling_moves_all_of_it() {
        let mut ratios = Ratios::of_profile(1_000, 1_100);
        ratios.scale(300);
        assert!((2_950..=3_250).contains(&ratios.quantiles().middle), "{:?}", ratios.quantiles());
    }

    #[test]
    fn what_a_damaged_file_says_is_noticed() {
        let sound = Ratios::of_profile(1_000, 1_100);
        assert!(sound.is_sound());
        let broken: [fn(&mut Ratios); 4] = [
            |ratios| ratios.counts.truncate(5),
            |ratios| ratios.total = 7,
            |ratios| ratios.next = 200,
            |ratios| ratios.counts[3] = u16::MAX,
        ];
        for damage in broken {
            let mut ratios = sound.clone();
            damage(&mut ratios);
            assert!(!ratios.is_sound(), "{ratios:?}");
        }
    }

    #[test]
    fn extremes_do_not_panic() {
        let mut ratios = Ratios::of_profile(0, u64::MAX);
        ratios.note(u64::MAX, 1);
        ratios.note(0, u64::MAX);
        ratios.note(5, 0);
        ratios.scale(u64::MAX);
        for _ in 0..100_000 {
            ratios.note(7, 7);
        }
        assert!(ratios.total < SAMPLES_MAX);
    }
}
