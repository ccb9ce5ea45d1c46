//! What a run comes to.

use std::collections::BTreeMap;

use sensorium_scheduler::Plan;
use sensorium_wire::{Modality, Reason};
use serde::Serialize;

use crate::quantiles::QuantileReport;
use crate::time::{MS, float, seconds};

/// Most changes of plan that a report lists.
pub const PLANS_LISTED_MAX: usize = 200;

/// The result of a run; the same scenario, seed and misfortune give the same report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub scenario: String,
    pub seed: u64,
    pub misfortune: String,
    pub virtual_s: f64,
    /// Events that the scheduler was told.
    pub events: u64,
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// Results on time per virtual second.
    pub goodput_per_s: f64,
    /// Results on time among accepted jobs that were not cancelled; 1 when there were none.
    pub on_time_of_accepted: f64,
    /// From submission to answer, of everything that had a result.
    pub latency_us: QuantileReport,
    /// How far a batch's end was from what was predicted at its dispatch, in percent of the prediction: the median.
    pub prediction_error_percent: f64,
    /// The smallest time that was left of a deadline, in microseconds; negative = too late. `None` = no deadlines.
    pub margin_us: Option<i64>,
    /// Accepted jobs without a result on time though they had not been cancelled, and whose devices did not die.
    pub misses: u64,
    pub first_miss: Option<Miss>,
    /// The same of jobs during whose life a device died that has their model.
    pub missed_by_loss: u64,
    pub first_miss_by_loss: Option<Miss>,
    pub refused_as: BTreeMap<&'static str, u64>,
    pub workers_lost: u64,
    pub workers_replaced: u64,
    pub loads: Vec<LoadReport>,
    pub utilisation: Vec<Utilisation>,
    pub plan_changes: u64,
    /// The first of them.
    pub plans: Vec<PlanChange>,
}

/// Jobs by how they ended. A pipeline counts as one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// Submitted, not counting repetitions.
    pub offered: u64,
    pub accepted: u64,
    /// After all repetitions.
    pub refused: u64,
    pub retries: u64,
    pub on_time: u64,
    pub late: u64,
    pub expired: u64,
    /// Also: a later stage of a pipeline was refused.
    pub failed: u64,
    pub cancelled: u64,
    /// Accepted, and no outcome at the end.
    pub lost: u64,
}

impl Outcomes {
    pub(crate) fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.retries += other.retries;
        self.on_time += other.on_time;
        self.late += other.late;
        self.expired += other.expired;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.lost += other.lost;
    }

    pub(crate) fn on_time_of_accepted(&self) -> f64 {
        let wanted = self.accepted - self.cancelled;
        if wanted == 0 { 1.0 } else { float(self.on_time) / float(wanted) }
    }
}

/// One load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadReport {
    pub load: String,
    #[serde(flatten)]
    pub outcomes: Outcomes,
    pub on_time_of_accepted: f64,
    pub latency_us: QuantileReport,
}

/// How busy the lanes of a group of devices were.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Utilisation {
    pub device: String,
    pub modality: Modality,
    /// Busy time over the time in which the lanes were there.
    pub busy: f64,
}

/// A plan that came into force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanChange {
    pub at_ms: f64,
    pub epoch: u64,
    pub level: u8,
    /// Shares of visual, audio and fusion in thousandths, on the average of the devices.
    pub shares: [u16; 3],
}

impl PlanChange {
    pub(crate) fn new(at_ns: u64, plan: &Plan) -> Self {
        let devices = u64::try_from(plan.devices.len()).unwrap_or(1).max(1);
        let mean = |modality: Modality| {
            let sum: u64 = plan.devices.iter().map(|(_, shares)| u64::from(shares.of(modality))).sum();
            u16::try_from(sum / devices).unwrap_or(u16::MAX)
        };
        Self { at_ms: float(at_ns) / float(MS), epoch: plan.epoch, level: plan.level, shares: Modality::ALL.map(mean) }
    }
}

/// How an accepted job missed its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HowMissed {
    Late,
    Expired,
    Failed(Reason),
    /// A later stage of its pipeline was refused.
    RefusedMidway(Reason),
}

/// An accepted job without a result on time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Miss {
    pub at_s: f64,
    pub load: String,
    /// Number of the job among those that its load submitted, from 1.
    pub job: u64,
    pub how: HowMissed,
}

impl std::fmt::Display for Miss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {:.3} s: job {} of load {} ", self.at_s, self.job, self.load)?;
        match self.how {
            HowMissed::Late => f.write_str("was late"),
            HowMissed::Expired => f.write_str("expired"),
            HowMissed::Failed(reason) => write!(f, "failed: {}", reason.name()),
            HowMissed::RefusedMidway(reason) => write!(f, "was refused midway: {}", reason.name()),
        }
    }
}

impl Miss {
    pub(crate) fn new(at_ns: u64, load: &str, job: u64, how: HowMissed) -> Self {
        Self { at_s: seconds(at_ns), load: load.to_owned(), job, how }
    }
}
