//! When the sources of a load have something to submit.

use std::sync::Arc;

use crate::chance::Chance;
use crate::time::{SECOND, float, ns_of};

/// The pattern of one source; a trace is that of the whole load.
#[derive(Clone, Debug)]
pub(crate) enum Arrivals {
    Poisson {
        per_s: f64,
    },
    Periodic {
        period_ns: u64,
        jitter_ns: u64,
    },
    Bursts {
        every_ns: u64,
        for_ns: u64,
        burst_per_s: f64,
        base_per_s: f64,
        together: bool,
    },
    /// The rate over a day is `peak · exp(k · (cos - 1))`, a bell around noon; `k` is such that the mean is as given.
    Diurnal {
        peak_per_s: f64,
        k: f64,
        day_ns: u64,
    },
    /// By rising time.
    Trace {
        offsets_ns: Arc<[u64]>,
    },
}

/// One source's progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    phase_ns: u64,
    sent: u64,
}

impl Arrivals {
    pub(crate) fn diurnal(mean_per_s: f64, peak_over_mean: f64, day_ns: u64) -> Self {
        let (mut low, mut high) = (0.0, 700.0);
        for _ in 0..100 {
            let k = f64::midpoint(low, high);
            if peak_over_mean_of(k) < peak_over_mean { low = k } else { high = k }
        }
        Self::Diurnal { peak_per_s: mean_per_s * peak_over_mean, k: low, day_ns }
    }

    /// A source whose phase is drawn; `together` from 0 (anywhere) to 1 (all the same).
    pub(crate) fn source(&self, together: f64, chance: &mut Chance) -> Source {
        let period_ns = match self {
            Self::Periodic { period_ns, .. } => *period_ns,
            Self::Bursts { every_ns, together: false, .. } => *every_ns,
            Self::Poisson { .. } | Self::Bursts { .. } | Self::Diurnal { .. } | Self::Trace { .. } => 0,
        };
        let phase_ns = ns_of(chance.unit() * (1.0 - together) * float(period_ns), 1);
        Source { phase_ns, sent: 0 }
    }

    /// The next arrival after `after_ns`, both counted from the load's start; `None` when there is none before `end_ns`.
    pub(crate) fn next(&self, source: &mut Source, after_ns: u64, end_ns: u64, chance: &mut Chance) -> Option<u64> {
        let at_ns = match self {
            Self::Poisson { per_s } => after_ns.saturating_add(ns_of(chance.exponential() / per_s, SECOND)),
            Self::Periodic { period_ns, jitter_ns } => {
                let due_ns = source.phase_ns.saturating_add(source.sent.saturating_mul(*period_ns));
                due_ns.saturating_add(ns_of(chance.unit() * float(*jitter_ns), 1)).max(after_ns)
            }
            Self::Bursts { .. } => self.in_bursts(source.phase_ns, after_ns, end_ns, chance)?,
            Self::Diurnal { .. } => {
                let peak_per_s = self.peak_per_s();
                let mut at_ns = after_ns;
                loop {
                    at_ns = at_ns.saturating_add(ns_of(chance.exponential() / peak_per_s, SECOND));
                    if at_ns >= end_ns || chance.happens(self.per_s(at_ns) / peak_per_s) {
                        break at_ns;
                    }
                }
            }
            Self::Trace { offsets_ns } => *offsets_ns.get(usize::try_from(source.sent).ok()?)?,
        };
        source.sent += 1;
        (at_ns < end_ns).then_some(at_ns)
    }

    /// Walks through bursts and pauses until an exponential amount of rate has been used up.
    fn in_bursts(&self, phase_ns: u64, after_ns: u64, end_ns: u64, chance: &mut Chance) -> Option<u64> {
        let Self::Bursts { every_ns, for_ns, burst_per_s, base_per_s, .. } = self else { return None };
        let mut left = chance.exponential();
        let mut at_ns = after_ns;
        while at_ns < end_ns {
            let within_ns = (at_ns + every_ns - phase_ns % every_ns) % every_ns;
            let (per_s, piece_ns) = if within_ns < *for_ns {
                (*burst_per_s, for_ns - within_ns)
            } else {
                (*base_per_s, every_ns - within_ns)
            };
            let amount = per_s * float(piece_ns) / float(SECOND);
            if amount >= left && per_s > 0.0 {
                return Some(at_ns.saturating_add(ns_of(left / per_s, SECOND)));
            }
            left -= amount;
            at_ns += piece_ns;
        }
        None
    }

    /// The expected rate of one source (of a trace: of the load, over a second) so long after the load's start.
    pub(crate) fn per_s(&self, at_ns: u64) -> f64 {
        match self {
            Self::Poisson { per_s } => *per_s,
            Self::Periodic { period_ns, .. } => float(SECOND) / float(*period_ns),
            Self::Bursts { every_ns, for_ns, burst_per_s, base_per_s, together } => {
                let share = float(*for_ns) / float(*every_ns);
                match together {
                    true if at_ns % every_ns < *for_ns => *burst_per_s,
                    true => *base_per_s,
                    false => share * burst_per_s + (1.0 - share) * base_per_s,
                }
            }
            Self::Diurnal { peak_per_s, k, day_ns } => {
                let part = float(at_ns % day_ns) / float(*day_ns);
                let bell = (std::f64::consts::TAU * (part - 0.5)).cos();
                peak_per_s * (k * (bell - 1.0)).exp()
            }
            Self::Trace { offsets_ns } => {
                let before = |ns: u64| offsets_ns.partition_point(|offset_ns| *offset_ns < ns);
                let count = before(at_ns.saturating_add(SECOND / 2)) - before(at_ns.saturating_sub(SECOND / 2));
                float(count as u64)
            }
        }
    }

    /// The highest rate that one source comes to.
    pub(crate) fn peak_per_s(&self) -> f64 {
        match self {
            Self::Bursts { burst_per_s, base_per_s, .. } => burst_per_s.max(*base_per_s),
            Self::Diurnal { peak_per_s, .. } => *peak_per_s,
            Self::Poisson { .. } | Self::Periodic { .. } | Self::Trace { .. } => self.per_s(0),
        }
    }
}

/// `exp(k) / I0(k)`, with I0 from the mean over a period of `exp(k·(cos - 1))`.
fn peak_over_mean_of(k: f64) -> f64 {
    const STEPS: u32 = 512;
    let step = std::f64::consts::TAU / f64::from(STEPS);
    let sum: f64 = (0..STEPS).map(|number| (k * ((step * f64::from(number)).cos() - 1.0)).exp()).sum();
    f64::from(STEPS) / sum
}

#[cfg(test)]
mod tests;
