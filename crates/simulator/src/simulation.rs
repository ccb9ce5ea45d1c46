//! One run: what happens is told to the scheduler, what it decides is carried out, and the checker watches both.

mod devices;
mod items;
mod jobs;
mod queue;

use sensorium_scheduler::{Command, Event, Handled, LaneId, Learned, ModelKey, Scheduler};
use thiserror::Error;

use crate::arrivals::Source;
use crate::chance::Chance;
use crate::checker::Checker;
use crate::misfortune::Misfortune;
use crate::report::Report;
use crate::scenario::{Fault, Scenario};
use crate::tally::Tally;
use crate::time::{SECOND, seconds};
use devices::Devices;
use items::Items;
use queue::{Happening, Queue};

/// How long after the last arrival accepted jobs may take to end, in virtual time.
const DRAIN_NS_MAX: u64 = 600 * SECOND;

/// Generators of chance: one for each of these, and from the last on one for each load.
const OF_SERVICE: u64 = 0;
const OF_MISFORTUNE: u64 = 1;
const OF_CLIENTS: u64 = 2;
const OF_LOADS: u64 = 16;

/// What decides: the scheduler, or something around it in a test.
pub trait Decide {
    fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Command>) -> Handled;
    /// When the first of these models must be done so that all can be done, one after the other.
    fn stage_deadline_ns(&self, now_ns: u64, deadline_ns: u64, models: &[ModelKey]) -> u64;
    /// What is to be told to the lane's successor.
    fn learned(&self, lane: LaneId) -> Vec<(ModelKey, Learned)>;
}

impl Decide for Scheduler {
    fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Command>) -> Handled {
        Self::handle(self, now_ns, event, out)
    }

    fn stage_deadline_ns(&self, now_ns: u64, deadline_ns: u64, models: &[ModelKey]) -> u64 {
        Self::stage_deadline_ns(self, now_ns, deadline_ns, models)
    }

    fn learned(&self, lane: LaneId) -> Vec<(ModelKey, Learned)> {
        Self::learned(self, lane)
    }
}

/// A rule did not hold.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("a rule was broken at {at_s:.6} s, with seed {seed} and misfortune {misfortune}: {rule}")]
pub struct Broken {
    pub seed: u64,
    pub misfortune: Misfortune,
    pub at_s: f64,
    pub rule: String,
}

/// Plays a scenario.
///
/// # Errors
/// [`Broken`] at the first command that breaks a rule, or when accepted jobs never end.
pub fn simulate(scenario: &Scenario, seed: u64, misfortune: Misfortune) -> Result<Report, Broken> {
    simulate_with(scenario, seed, misfortune, Scheduler::new(scenario.settings.clone()))
}

/// Plays a scenario with another decider.
///
/// # Errors
/// As [`simulate`].
pub fn simulate_with<D: Decide>(
    scenario: &Scenario,
    seed: u64,
    misfortune: Misfortune,
    decider: D,
) -> Result<Report, Broken> {
    let mut simulation = Simulation::new(scenario, seed, misfortune, decider);
    match simulation.run() {
        Ok(()) => Ok(simulation.tally.report(scenario, seed, misfortune.to_string(), simulation.events)),
        Err(rule) => Err(Broken { seed, misfortune, at_s: seconds(simulation.now_ns), rule }),
    }
}

struct Simulation<'a, D> {
    scenario: &'a Scenario,
    misfortune: Misfortune,
    decider: D,
    checker: Checker,
    tally: Tally,
    queue: Queue,
    now_ns: u64,
    events: u64,
    /// Used again for each event.
    out: Vec<Command>,
    devices: Devices,
    items: Items,
    faults: Vec<Fault>,
    /// By load; a trace has one source for the whole load.
    sources: Vec<Vec<Source>>,
    of_loads: Vec<Chance>,
    of_service: Chance,
    of_clients: Chance,
}

impl<'a, D: Decide> Simulation<'a, D> {
    fn new(scenario: &'a Scenario, seed: u64, misfortune: Misfortune, decider: D) -> Self {
        let mut faults = scenario.faults.clone();
        faults.extend(misfortune.faults(scenario, &mut Chance::new(seed, OF_MISFORTUNE)));
        Self {
            scenario,
            misfortune,
            decider,
            checker: Checker::default(),
            tally: Tally::new(scenario),
            queue: Queue::default(),
            now_ns: 0,
            events: 0,
            out: Vec::new(),
            devices: Devices::new(scenario),
            items: Items::default(),
            faults,
            sources: Vec::new(),
            of_loads: (OF_LOADS..).take(scenario.loads.len()).map(|part| Chance::new(seed, part)).collect(),
            of_service: Chance::new(seed, OF_SERVICE),
            of_clients: Chance::new(seed, OF_CLIENTS),
        }
    }

    /// The error is the sentence about the rule that was broken.
    fn run(&mut self) -> Result<(), String> {
        self.begin()?;
        let run_ns = self.scenario.run_ns;
        while let Some((at_ns, happening)) = self.queue.pop() {
            let over = at_ns >= run_ns && self.checker.live_jobs() == 0;
            if over || at_ns >= run_ns.saturating_add(DRAIN_NS_MAX) {
                break;
            }
            self.now_ns = at_ns;
            self.happen(happening)?;
        }
        self.devices.end(run_ns, &mut self.tally);
        self.count_lost();
        self.checker.finish()
    }

    fn begin(&mut self) -> Result<(), String> {
        let scenario = self.scenario;
        let models = scenario.models.len() * scenario.sites as usize;
        for model in (0..).take(models).map(ModelKey) {
            self.tell(Event::ModelAdded { model })?;
        }
        for (group, of_group) in scenario.groups.iter().enumerate() {
            for device in of_group.devices() {
                let (kind, lanes_at_once_max) = (of_group.kind, of_group.lanes_at_once_max);
                self.tell(Event::DeviceAdded { device, kind, lanes_at_once_max })?;
                self.open_lanes(device, group)?;
            }
        }
        self.queue.push(scenario.tick_ns, Happening::Tick);
        let peak_ns = scenario.peak_ns();
        for (number, fault) in (0..).zip(&self.faults) {
            self.queue.push(fault.at_ns.unwrap_or(peak_ns), Happening::Fault { number });
        }
        for (from_ns, until_ns) in &scenario.moments {
            self.queue.push(*from_ns, Happening::Moment { until_ns: *until_ns });
        }
        for (number, (at_ns, _)) in (0..).zip(&scenario.policies) {
            self.queue.push(*at_ns, Happening::Policy { number });
        }
        self.open_sources();
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Tick => {
                self.queue.push(self.now_ns.saturating_add(self.scenario.tick_ns), Happening::Tick);
                self.tell(Event::Tick)
            }
            Happening::Arrival { load, source } => self.arrive(load, source),
            Happening::Again { item } => self.submit_again(item),
            Happening::Cancel { key } => self.cancel(key),
            Happening::BatchEnd { lane, batch } => self.batch_ends(lane, batch),
            Happening::Fault { number } => self.strike(number),
            Happening::Recovery { number } => self.recover(number),
            Happening::Loss { device, restart_ns } => self.lose(device, restart_ns),
            Happening::Restart { device } => self.restart(device),
            Happening::Moment { until_ns } => self.tell(Event::CriticalMoment { until_ns }),
            Happening::Policy { number } => {
                let policy = self.scenario.policies[number as usize].1.clone();
                self.tell(Event::PolicyChanged { policy })
            }
        }
    }

    /// Tells the scheduler, checks its answer and carries it out. Commands never make anything happen at once but the
    /// start of a batch, so that events do not nest.
    fn tell(&mut self, event: Event) -> Result<(), String> {
        self.events += 1;
        let mut out = std::mem::take(&mut self.out);
        let handled = self.decider.handle(self.now_ns, event.clone(), &mut out);
        self.checker.check(self.now_ns, &event, handled, &out)?;
        for command in out.drain(..) {
            match command {
                Command::Dispatch { lane, batch, model, jobs, predicted_ns, .. } => {
                    self.take_batch(lane, batch, model, jobs, predicted_ns);
                }
                Command::Refuse { key, reason, retry_after_us, .. } => self.items.refuse(key, reason, retry_after_us),
                Command::Expire { key } => self.expired(key),
                Command::Fail { key, reason } => self.failed(key, reason),
                Command::Cancelled { key, running } => self.cancelled(key, running),
                Command::ReplaceWorker { device, .. } => self.replace(device),
                Command::PlanChanged(plan) => self.tally.plan(self.now_ns, &plan),
            }
        }
        self.out = out;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
