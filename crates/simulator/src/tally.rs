//! Counting, while a run goes on.

use std::collections::BTreeMap;

use sensorium_scheduler::Plan;
use sensorium_wire::{Modality, Reason};

use crate::quantiles::Quantiles;
use crate::report::{HowMissed, LoadReport, Miss, Outcomes, PLANS_LISTED_MAX, PlanChange, Report, Utilisation};
use crate::scenario::Scenario;
use crate::time::{US, float, seconds};

/// How an accepted job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// `left_ns` of the deadline; negative = late. `None` = it had no deadline.
    Done {
        latency_ns: u64,
        left_ns: Option<i64>,
    },
    Missed(HowMissed),
    Cancelled,
}

#[derive(Debug, Default)]
struct OfLoad {
    outcomes: Outcomes,
    latency_us: Quantiles,
}

/// Everything that a report is made of.
#[derive(Debug)]
pub(crate) struct Tally {
    loads: Vec<OfLoad>,
    /// Busy and available nanoseconds by group of devices and modality.
    lanes: Vec<[(u64, u64); 3]>,
    /// In thousandths.
    prediction_errors: Quantiles,
    margin_ns: Option<i64>,
    misses: u64,
    first_miss: Option<Miss>,
    missed_by_loss: u64,
    first_miss_by_loss: Option<Miss>,
    refused_as: BTreeMap<&'static str, u64>,
    plan_changes: u64,
    plans: Vec<PlanChange>,
    pub(crate) workers_lost: u64,
    pub(crate) workers_replaced: u64,
}

impl Tally {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            loads: scenario.loads.iter().map(|_| OfLoad::default()).collect(),
            lanes: vec![[(0, 0); 3]; scenario.groups.len()],
            prediction_errors: Quantiles::default(),
            margin_ns: None,
            misses: 0,
            first_miss: None,
            missed_by_loss: 0,
            first_miss_by_loss: None,
            refused_as: BTreeMap::new(),
            plan_changes: 0,
            plans: Vec::new(),
            workers_lost: 0,
            workers_replaced: 0,
        }
    }

    /// Gives the number of the job within its load.
    pub(crate) fn offered(&mut self, load: usize) -> u64 {
        let outcomes = &mut self.loads[load].outcomes;
        outcomes.offered += 1;
        outcomes.offered
    }

    pub(crate) fn accepted(&mut self, load: usize) {
        self.loads[load].outcomes.accepted += 1;
    }

    pub(crate) fn retried(&mut self, load: usize) {
        self.loads[load].outcomes.retries += 1;
    }

    pub(crate) fn refused(&mut self, load: usize, reason: Reason) {
        self.loads[load].outcomes.refused += 1;
        *self.refused_as.entry(reason.name()).or_default() += 1;
    }

    /// An accepted job ended; `excused` when a device died that could have been its own.
    pub(crate) fn ended(&mut self, load: usize, end: End, excused: bool, miss: impl FnOnce(HowMissed) -> Miss) {
        let of_load = &mut self.loads[load];
        let how = match end {
            End::Done { latency_ns, left_ns } => {
                of_load.latency_us.add(latency_ns / US);
                let late = left_ns.is_some_and(|left_ns| left_ns < 0);
                *(if late { &mut of_load.outcomes.late } else { &mut of_load.outcomes.on_time }) += 1;
                if let Some(left_ns) = left_ns.filter(|_| !excused) {
                    self.margin_ns = Some(self.margin_ns.map_or(left_ns, |margin_ns| margin_ns.min(left_ns)));
                }
                late.then_some(HowMissed::Late)
            }
            End::Missed(how) => {
                let outcomes = &mut of_load.outcomes;
                *(if how == HowMissed::Expired { &mut outcomes.expired } else { &mut outcomes.failed }) += 1;
                Some(how)
            }
            End::Cancelled => {
                of_load.outcomes.cancelled += 1;
                None
            }
        };
        match how {
            Some(how) if excused => {
                self.missed_by_loss += 1;
                self.first_miss_by_loss.get_or_insert_with(|| miss(how));
            }
            Some(how) => {
                self.misses += 1;
                self.first_miss.get_or_insert_with(|| miss(how));
            }
            None => {}
        }
    }

    pub(crate) fn lost(&mut self, load: usize) {
        self.loads[load].outcomes.lost += 1;
    }

    pub(crate) fn busy(&mut self, group: usize, modality: Modality, ns: u64) {
        self.lanes[group][modality as usize].0 += ns;
    }

    pub(crate) fn available(&mut self, group: usize, modality: Modality, ns: u64) {
        self.lanes[group][modality as usize].1 += ns;
    }

    pub(crate) fn predicted(&mut self, predicted_ns: u64, actual_ns: u64) {
        self.prediction_errors.add(actual_ns.abs_diff(predicted_ns).saturating_mul(1000) / predicted_ns.max(1));
    }

    pub(crate) fn plan(&mut self, now_ns: u64, plan: &Plan) {
        self.plan_changes += 1;
        if self.plans.len() < PLANS_LISTED_MAX {
            self.plans.push(PlanChange::new(now_ns, plan));
        }
    }

    pub(crate) fn report(self, scenario: &Scenario, seed: u64, misfortune: String, events: u64) -> Report {
        let (mut outcomes, mut latency_us) = (Outcomes::default(), Quantiles::default());
        for of_load in &self.loads {
            outcomes.add(&of_load.outcomes);
            latency_us.merge(&of_load.latency_us);
        }
        let loads = scenario.loads.iter().zip(&self.loads).map(|(load, of_load)| LoadReport {
            load: load.name.clone(),
            outcomes: of_load.outcomes,
            on_time_of_accepted: of_load.outcomes.on_time_of_accepted(),
            latency_us: of_load.latency_us.report(),
        });
        let utilisation = scenario.groups.iter().zip(&self.lanes).flat_map(|(group, lanes)| {
            group.lanes.iter().map(|(modality, _)| {
                let (busy_ns, available_ns) = lanes[*modality as usize];
                let busy = float(busy_ns) / float(available_ns.max(1));
                Utilisation { device: group.name.clone(), modality: *modality, busy }
            })
        });
        Report {
            scenario: scenario.name.clone(),
            seed,
            misfortune,
            virtual_s: seconds(scenario.run_ns),
            events,
            outcomes,
            goodput_per_s: float(outcomes.on_time) / seconds(scenario.run_ns),
            on_time_of_accepted: outcomes.on_time_of_accepted(),
            latency_us: latency_us.report(),
            prediction_error_percent: float(self.prediction_errors.at(500)) / 10.0,
            margin_us: self.margin_ns.map(|margin_ns| margin_ns / 1000),
            misses: self.misses,
            first_miss: self.first_miss,
            missed_by_loss: self.missed_by_loss,
            first_miss_by_loss: self.first_miss_by_loss,
            refused_as: self.refused_as,
            workers_lost: self.workers_lost,
            workers_replaced: self.workers_replaced,
            loads: loads.collect(),
            utilisation: utilisation.collect(),
            plan_changes: self.plan_changes,
            plans: self.plans,
        }
    }
}
