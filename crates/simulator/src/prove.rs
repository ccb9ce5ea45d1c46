//! A search for bad luck: many runs, each more unlucky than the ones before, and from the worst ones on.
//!
//! It proves nothing in the sense of mathematics. It says how hard was looked, what the worst was, and how to see it again.

use serde::{Serialize, Serializer};

use crate::chance::Chance;
use crate::misfortune::Misfortune;
use crate::report::{Miss, Report};
use crate::scenario::Scenario;
use crate::simulation::{Broken, simulate};
use crate::time::float;

/// The worst runs, from which the search goes on.
const WORST_KEPT: usize = 5;
/// Runs that only explore, at the beginning; later every second one does.
const EXPLORING_FIRST: u64 = 8;
/// How far a strength moves from that of a bad run, in thousandths.
const STEP_PERMILLE: u16 = 150;

/// What a miss of a job is, during whose life a device died that has its model: nobody could know when it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    /// Counted apart.
    Excused,
    /// A miss like any other.
    Counted,
}

/// What the search came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proof {
    pub scenario: String,
    /// Runs that were made.
    pub tried: u64,
    /// Accepted jobs of all runs together, and the smallest share that a run accepted.
    pub accepted: u64,
    pub accepted_share_min: f64,
    /// The first miss that was found; the search ends with it.
    pub miss: Option<FoundMiss>,
    /// The smallest time left of a deadline, over all runs.
    pub worst: Option<Bound>,
    /// Misses of jobs during whose life a device died that has their model.
    pub missed_by_loss: u64,
}

/// A miss, and the run that has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundMiss {
    pub seed: u64,
    pub misfortune: Misfortune,
    #[serde(flatten)]
    pub miss: Miss,
}

/// The worst run of those without a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bound {
    pub margin_us: i64,
    pub seed: u64,
    pub misfortune: Misfortune,
}

impl Serialize for Misfortune {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Makes `seeds` runs, from the scenario's seed on, or fewer when one has a miss.
///
/// # Errors
/// [`Broken`] when a run breaks a rule.
pub fn prove(scenario: &Scenario, seeds: u64, losses: Losses) -> Result<Proof, Broken> {
    search(scenario, seeds, losses, |seed, misfortune| simulate(scenario, seed, misfortune))
}

fn search(
    scenario: &Scenario,
    seeds: u64,
    losses: Losses,
    mut run: impl FnMut(u64, Misfortune) -> Result<Report, Broken>,
) -> Result<Proof, Broken> {
    let mut proof = Proof {
        scenario: scenario.name.clone(),
        tried: 0,
        accepted: 0,
        accepted_share_min: 1.0,
        miss: None,
        worst: None,
        missed_by_loss: 0,
    };
    let mut chance = Chance::new(scenario.seed, u64::MAX);
    let mut worst: Vec<Bound> = Vec::with_capacity(WORST_KEPT + 1);
    for number in 0..seeds {
        let mut seed = scenario.seed.wrapping_add(number);
        let exploring = number < EXPLORING_FIRST || number % 2 == 0 || worst.is_empty();
        let misfortune = if exploring {
            explore(float(number + 1) / float(seeds), &mut chance)
        } else {
            let from = worst[chance.below(worst.len())];
            if chance.happens(0.5) {
                seed = from.seed;
            }
            climb(from.misfortune, &mut chance)
        };
        let report = run(seed, misfortune)?;
        proof.tried += 1;
        proof.missed_by_loss += report.missed_by_loss;
        proof.accepted += report.outcomes.accepted;
        let share = float(report.outcomes.accepted) / float(report.outcomes.offered.max(1));
        proof.accepted_share_min = proof.accepted_share_min.min(share);
        let by_loss = report.first_miss_by_loss.filter(|_| losses == Losses::Counted);
        if let Some(miss) = report.first_miss.or(by_loss) {
            proof.miss = Some(FoundMiss { seed, misfortune, miss });
            return Ok(proof);
        }
        if let Some(margin_us) = report.margin_us {
            worst.push(Bound { margin_us, seed, misfortune });
            worst.sort_by_key(|bound| bound.margin_us);
            worst.truncate(WORST_KEPT);
            proof.worst = worst.first().copied();
        }
    }
    Ok(proof)
}

/// Strengths from 0 to `strength`; each is 0 in three of ten runs, so that misfortunes come alone, too. The first runs are
/// nearly without any.
fn explore(strength: f64, chance: &mut Chance) -> Misfortune {
    let mut draw = || if chance.happens(0.3) { 0 } else { permille(chance.unit() * strength) };
    Misfortune { permille: [draw(), draw(), draw(), draw()] }
}

/// A bad run's neighbour.
fn climb(from: Misfortune, chance: &mut Chance) -> Misfortune {
    let step = |strength: u16, chance: &mut Chance| {
        let step = permille(chance.unit() * f64::from(STEP_PERMILLE) / 1000.0);
        // Two steps of three go towards more.
        if chance.happens(0.67) { (strength + step).min(1000) } else { strength.saturating_sub(step) }
    };
    Misfortune { permille: from.permille.map(|strength| step(strength, chance)) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1")]
fn permille(strength: f64) -> u16 {
    (strength.clamp(0.0, 1.0) * 1000.0).round() as u16
}

#[cfg(test)]
mod tests;
