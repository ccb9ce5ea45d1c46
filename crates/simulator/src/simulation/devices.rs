//! Devices and their lanes: batches run one after the other, devices die, come back and become slow.

use std::collections::VecDeque;

use sensorium_scheduler::{BatchId, BatchJobs, DeviceId, Event, LaneId, Learned, ModelKey, Unfinished};
use sensorium_wire::Modality;

use super::queue::Happening;
use super::{Decide, Simulation};
use crate::scenario::{DeviceGroup, FaultKind, Scenario};
use crate::tally::Tally;
use crate::time::{float, ns_of};

/// A batch that a lane has been given.
#[derive(Debug)]
struct Batch {
    id: BatchId,
    model: ModelKey,
    jobs: BatchJobs,
    dispatched_ns: u64,
    /// When it should end, by the scheduler's predictions.
    predicted_end_ns: u64,
    started_ns: u64,
}

/// How far apart lanes begin in a recording of service times.
const LANES_APART: usize = 997;

/// One incarnation of a lane.
#[derive(Debug)]
struct Lane {
    device: u32,
    modality: Modality,
    opened_ns: u64,
    alive: bool,
    /// Oldest first; the first one runs.
    batches: VecDeque<Batch>,
    /// Batches started.
    turns: usize,
}

#[derive(Clone, Debug)]
struct Device {
    group: u32,
    /// Empty while its worker is dead.
    lanes: Vec<LaneId>,
    running: u16,
    /// Of the faults that hold.
    slowness: f64,
    replacing: bool,
    /// While its worker is dead: what the scheduler had learned about its models, which a node keeps.
    learned: Vec<(ModelKey, Learned)>,
}

/// All of them, by number.
#[derive(Debug)]
pub(super) struct Devices {
    devices: Vec<Device>,
    /// By the number of the lane, which is never used again.
    lanes: Vec<Lane>,
    run_ns: u64,
}

impl DeviceGroup {
    pub(super) fn devices(&self) -> impl Iterator<Item = DeviceId> + use<> {
        (self.first..self.first + self.count).map(DeviceId)
    }
}

impl Devices {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let mut devices = Vec::new();
        for (group, of_group) in (0..).zip(&scenario.groups) {
            let device =
                Device { group, lanes: Vec::new(), running: 0, slowness: 1.0, replacing: false, learned: Vec::new() };
            devices.extend(of_group.devices().map(|_| device.clone()));
        }
        Self { devices, lanes: Vec::new(), run_ns: scenario.run_ns }
    }

    fn busy(&self, tally: &mut Tally, lane: &Lane, from_ns: u64, until_ns: u64) {
        let ns = until_ns.min(self.run_ns).saturating_sub(from_ns);
        tally.busy(self.group_of(lane), lane.modality, ns);
    }

    fn group_of(&self, lane: &Lane) -> usize {
        self.devices[lane.device as usize].group as usize
    }

    /// A lane is gone, or the run is over.
    fn close(&self, lane: &Lane, now_ns: u64, tally: &mut Tally) {
        let available_ns = now_ns.min(self.run_ns).saturating_sub(lane.opened_ns);
        tally.available(self.group_of(lane), lane.modality, available_ns);
        if let Some(running) = lane.batches.front() {
            self.busy(tally, lane, running.started_ns, now_ns);
        }
    }

    pub(super) fn end(&mut self, run_ns: u64, tally: &mut Tally) {
        self.lanes.iter().filter(|lane| lane.alive).for_each(|lane| self.close(lane, run_ns, tally));
    }
}

impl<D: Decide> Simulation<'_, D> {
    /// A worker is ready: its lanes open, under numbers that were never used.
    pub(super) fn open_lanes(&mut self, device: DeviceId, group: usize) -> Result<(), String> {
        let scenario = self.scenario;
        let of_group = &scenario.groups[group];
        let site = scenario.site_of(of_group, device);
        for (modality, served) in &of_group.lanes {
            let lane = LaneId(u32::try_from(self.devices.lanes.len()).map_err(|_| "too many lanes".to_owned())?);
            let (device, modality, opened_ns) = (device.0, *modality, self.now_ns);
            self.devices.lanes.push(Lane {
                device,
                modality,
                opened_ns,
                alive: true,
                batches: VecDeque::new(),
                turns: 0,
            });
            self.devices.devices[device as usize].lanes.push(lane);
            let learned = &mut self.devices.devices[device as usize].learned;
            let policies = served.iter().map(|model| {
                let key = scenario.model_key(site, *model);
                let at = learned.iter().position(|(of, _)| *of == key);
                let learned = at.map_or_else(Learned::default, |at| learned.swap_remove(at).1);
                (key, scenario.models[*model].policy(of_group.time_factor, learned))
            });
            let models = policies.collect();
            self.tell(Event::LaneOpened { lane, device: DeviceId(device), modality, models })?;
        }
        Ok(())
    }

    pub(super) fn take_batch(
        &mut self,
        lane: LaneId,
        batch: BatchId,
        model: ModelKey,
        jobs: BatchJobs,
        predicted_ns: u64,
    ) {
        for job in jobs.iter().filter(|job| job.slice == 0) {
            self.items.start(job.key);
        }
        let batches = &mut self.devices.lanes[lane.0 as usize].batches;
        let free_ns = batches.back().map_or(0, |ahead| ahead.predicted_end_ns).max(self.now_ns);
        batches.push_back(Batch {
            id: batch,
            model,
            jobs,
            dispatched_ns: self.now_ns,
            predicted_end_ns: free_ns.saturating_add(predicted_ns),
            started_ns: 0,
        });
        if batches.len() == 1 {
            self.start_batch(lane);
        }
    }

    /// Draws how long the lane's first batch takes.
    fn start_batch(&mut self, lane: LaneId) {
        let of_lane = &mut self.devices.lanes[lane.0 as usize];
        let Some(batch) = of_lane.batches.front_mut() else { return };
        let device = &mut self.devices.devices[of_lane.device as usize];
        let group = &self.scenario.groups[device.group as usize];
        let model = self.scenario.model(batch.model);
        device.running += 1;
        let crowd = f64::from(device.running) / f64::from(group.lanes_at_once_max);
        let crowding = if crowd > 1.0 { group.contention.unwrap_or(crowd) } else { 1.0 };
        let speed = group.time_factor * device.slowness * crowding;
        let median_ns = model.profile.median_ns(batch.jobs.len()) * speed;
        let (tail, chance) = (self.misfortune.tail(), &mut self.of_service);
        // Lanes go through a recording from different places.
        let turn = of_lane.turns + lane.0 as usize * LANES_APART;
        of_lane.turns += 1;
        let mut longest_ns: f64 = 0.0;
        if model.slice_ns > 0 {
            for job in &batch.jobs {
                let luck = self.items.luck(job.key, || model.profile.luck(batch.jobs.len(), turn, tail, chance));
                longest_ns = longest_ns.max(median_ns * luck * self.items.factor(job.key, self.scenario));
            }
            longest_ns = longest_ns.min(float(model.slice_ns));
            for job in &batch.jobs {
                self.items.advance(job.key, longest_ns / median_ns, self.scenario);
            }
        } else {
            let factors: f64 = batch.jobs.iter().map(|job| self.items.factor(job.key, self.scenario)).sum();
            let mean_factor = factors / float(batch.jobs.len() as u64);
            longest_ns = median_ns * model.profile.luck(batch.jobs.len(), turn, tail, chance) * mean_factor;
        }
        if chance.happens(group.hiccup_probability) {
            longest_ns += float(group.hiccup_ns);
        }
        batch.started_ns = self.now_ns;
        let end_ns = self.now_ns.saturating_add(ns_of(longest_ns, 1).max(1));
        self.queue.push(end_ns, Happening::BatchEnd { lane, batch: batch.id });
    }

    pub(super) fn batch_ends(&mut self, lane: LaneId, batch: BatchId) -> Result<(), String> {
        let of_lane = &mut self.devices.lanes[lane.0 as usize];
        if !of_lane.alive {
            return Ok(()); // Its worker died over it.
        }
        let done = of_lane.batches.pop_front().filter(|done| done.id == batch);
        let done = done.ok_or_else(|| format!("{lane:?} ended {batch:?}, which it does not run"))?;
        self.devices.devices[of_lane.device as usize].running -= 1;
        let of_lane = &self.devices.lanes[lane.0 as usize];
        self.devices.busy(&mut self.tally, of_lane, done.started_ns, self.now_ns);
        let predicted_ns = done.predicted_end_ns.saturating_sub(done.dispatched_ns);
        self.tally.predicted(predicted_ns, self.now_ns - done.dispatched_ns);
        self.start_batch(lane);
        let sliced = self.scenario.model(done.model).slice_ns > 0;
        let keys = done.jobs.iter().map(|job| job.key);
        let unfinished: Unfinished = keys.filter(|key| sliced && self.items.unfinished(*key)).collect();
        let service_ns = self.now_ns - done.started_ns;
        self.tell(Event::BatchDone { lane, batch, service_ns, unfinished: unfinished.clone() })?;
        for job in done.jobs.iter().filter(|job| !unfinished.contains(&job.key)) {
            self.stage_done(job.key)?;
        }
        Ok(())
    }

    pub(super) fn strike(&mut self, number: u32) -> Result<(), String> {
        let fault = self.faults[number as usize].clone();
        for device in (fault.device_first..fault.device_first + fault.devices).map(DeviceId) {
            match fault.kind {
                FaultKind::Lose { restart_ns } => self.lose(device, restart_ns)?,
                FaultKind::Slow { factor, reported, .. } => self.slow(device, factor, reported)?,
            }
        }
        if let FaultKind::Slow { for_ns, .. } = fault.kind {
            self.queue.push(self.now_ns.saturating_add(for_ns), Happening::Recovery { number });
        }
        Ok(())
    }

    pub(super) fn recover(&mut self, number: u32) -> Result<(), String> {
        let fault = self.faults[number as usize].clone();
        let FaultKind::Slow { factor, reported, .. } = fault.kind else { return Ok(()) };
        for device in (fault.device_first..fault.device_first + fault.devices).map(DeviceId) {
            self.slow(device, 1.0 / factor, reported)?;
        }
        Ok(())
    }

    /// Batches that run already take as long as was drawn.
    fn slow(&mut self, device: DeviceId, factor: f64, reported: bool) -> Result<(), String> {
        let of_device = &mut self.devices.devices[device.0 as usize];
        of_device.slowness *= factor;
        if !reported {
            return Ok(());
        }
        let time_percent = u32::try_from(ns_of(of_device.slowness * 100.0, 1)).unwrap_or(u32::MAX);
        self.tell(Event::LoadReport { device, time_percent })
    }

    /// The scheduler takes a worker for hung.
    pub(super) fn replace(&mut self, device: DeviceId) {
        let of_device = &mut self.devices.devices[device.0 as usize];
        if !of_device.lanes.is_empty() && !of_device.replacing {
            of_device.replacing = true;
            self.tally.workers_replaced += 1;
            let restart_ns = self.scenario.groups[of_device.group as usize].restart_ns;
            self.queue.push(self.now_ns, Happening::Loss { device, restart_ns });
        }
    }

    pub(super) fn lose(&mut self, device: DeviceId, restart_ns: u64) -> Result<(), String> {
        let of_device = &mut self.devices.devices[device.0 as usize];
        let lanes = std::mem::take(&mut of_device.lanes);
        if lanes.is_empty() {
            return Ok(()); // It is dead already.
        }
        (of_device.running, of_device.replacing) = (0, false);
        of_device.learned = lanes.iter().flat_map(|lane| self.decider.learned(*lane)).collect();
        let group = of_device.group as usize;
        for lane in lanes {
            let of_lane = &self.devices.lanes[lane.0 as usize];
            self.devices.close(of_lane, self.now_ns, &mut self.tally);
            let of_lane = &mut self.devices.lanes[lane.0 as usize];
            of_lane.alive = false;
            for job in std::mem::take(&mut of_lane.batches).iter().flat_map(|batch| &batch.jobs) {
                self.items.forget_cancelled(job.key);
            }
        }
        self.tally.workers_lost += 1;
        let of_group = &self.scenario.groups[group];
        let site = self.scenario.site_of(of_group, device);
        for model in of_group.lanes.iter().flat_map(|(_, models)| models) {
            self.items.device_died(self.now_ns, self.scenario.model_key(site, *model));
        }
        self.queue.push(self.now_ns.saturating_add(restart_ns), Happening::Restart { device });
        self.tell(Event::DeviceLost { device })
    }

    pub(super) fn restart(&mut self, device: DeviceId) -> Result<(), String> {
        let group = self.devices.devices[device.0 as usize].group as usize;
        self.open_lanes(device, group)
    }
}
