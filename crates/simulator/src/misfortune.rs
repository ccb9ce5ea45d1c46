//! How unlucky a run is made on purpose.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::chance::Chance;
use crate::scenario::{Fault, FaultKind, Scenario};
use crate::time::{float, ns_of};

/// Batches that come from the slowest hundredth at full strength of `tail`, as a share of all.
const TAIL_SHARE_MAX: f64 = 0.25;
/// Share of every group of devices that dies at full strength of `loss`.
const LOSS_SHARE_MAX: f64 = 0.5;
/// Devices slow down to so many times their service time at full strength of `slow`, and for this part of the run.
const SLOW_FACTOR_MAX: f64 = 2.0;
const SLOW_PART: f64 = 0.2;
/// How far from the expected peak faults strike, as a part of the run.
const PEAK_SPREAD: f64 = 0.05;

/// Four strengths in thousandths, each from 0 (as the scenario says) to 1,000: `tail` (batches are slow more often than
/// measured), `together` (sources and bursts coincide), `loss` (devices die at the peak), `slow` (a device of each
/// group is slow at the peak, and nobody says so). Written as `0.25,0,1,0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misfortune {
    pub(crate) permille: [u16; 4],
}

/// Not four numbers from 0 to 1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?}: four numbers from 0 to 1 are expected, for tail, together, loss, slow: 0.25,0,1,0")]
pub struct MisfortuneError {
    text: String,
}

impl Misfortune {
    /// Nothing but what the scenario says.
    pub const NONE: Self = Self { permille: [0; 4] };

    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    fn strength(self, of: usize) -> f64 {
        f64::from(self.permille[of]) / 1000.0
    }

    /// The probability that a batch is among the slowest, beyond what the profile says.
    pub(crate) fn tail(self) -> f64 {
        self.strength(0) * TAIL_SHARE_MAX
    }

    pub(crate) fn together(self) -> f64 {
        self.strength(1)
    }

    /// The faults that it adds to a scenario.
    pub(crate) fn faults(self, scenario: &Scenario, chance: &mut Chance) -> Vec<Fault> {
        let (loss, slow) = (self.strength(2), self.strength(3));
        let run = float(scenario.run_ns);
        let mut faults = Vec::new();
        for group in &scenario.groups {
            let spread = (chance.unit() * 2.0 - 1.0) * PEAK_SPREAD;
            let at_ns = Some(ns_of(float(scenario.peak_ns()) + spread * run, 1));
            let (lost, unlucky) =
                (rounded(f64::from(group.count) * loss * LOSS_SHARE_MAX), chance.below(group.count as usize));
            let first = chance.below((group.count - lost.min(group.count - 1)) as usize);
            let device = |skip: usize| group.first + u32::try_from(skip).unwrap_or(0);
            if lost > 0 {
                let kind = FaultKind::Lose { restart_ns: group.restart_ns };
                faults.push(Fault { at_ns, device_first: device(first), devices: lost, kind });
            }
            if slow > 0.0 {
                let factor = 1.0 + slow * (SLOW_FACTOR_MAX - 1.0);
                let kind = FaultKind::Slow { factor, for_ns: ns_of(run * SLOW_PART, 1), reported: false };
                faults.push(Fault { at_ns, device_first: device(unlucky), devices: 1, kind });
            }
        }
        faults
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most half of a count, or 1 of 1")]
fn rounded(devices: f64) -> u32 {
    devices.round() as u32
}

impl fmt::Display for Misfortune {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [tail, together, loss, slow] = self.permille.map(|permille| f64::from(permille) / 1000.0);
        write!(f, "{tail},{together},{loss},{slow}")
    }
}

impl FromStr for Misfortune {
    type Err = MisfortuneError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || MisfortuneError { text: text.to_owned() };
        let mut permille = [0; 4];
        let mut parts = text.split(',');
        for strength in &mut permille {
            let number: f64 = parts.next().and_then(|part| part.trim().parse().ok()).ok_or_else(wrong)?;
            if !(0.0..=1.0).contains(&number) {
                return Err(wrong());
            }
            *strength = u16::try_from(rounded(number * 1000.0)).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self { permille }) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_four_strengths_are_taken() {
        for text in ["", "0,0,0", "0,0,0,0,0", "0,0,0,1.1", "-0.1,0,0,0", "a,0,0,0", "NaN,0,0,0"] {
            let error = text.parse::<Misfortune>().unwrap_err();
            assert!(error.to_string().contains("four numbers from 0 to 1"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_played_again(permille in prop::array::uniform4(0..=1000_u16)) {
            let misfortune = Misfortune { permille };
            prop_assert_eq!(misfortune.to_string().parse(), Ok(misfortune));
        }
    }
}
