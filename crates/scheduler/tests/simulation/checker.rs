//! What must hold whatever happens, kept apart from the scheduler's own state: it sees only events, commands and the
//! public view, and keeps its own books.

use std::collections::BTreeMap;

use sensorium_scheduler::{
    BatchId, COMMITTED_BATCHES_MAX, Command, DEATHS_ALONE_MAX, DeviceId, Event, Handled, Job, JobKey, LaneId, ModelKey,
    Position, Scheduler, virtual_deadline_ns,
};
use sensorium_wire::{Reason, Urgency};

/// Deadline or virtual deadline, urgency, number of the arrival.
type Order = (u64, Urgency, u64);

struct LiveJob {
    job: Job,
    order: Order,
    starts: u32,
    suspect: bool,
    deaths_alone: u8,
}

struct OpenLane {
    device: DeviceId,
    closing: bool,
    batch_max: BTreeMap<ModelKey, u16>,
    committed: Vec<(BatchId, Vec<JobKey>)>,
}

/// The books. Every method gives an error that says which rule was broken.
#[derive(Default)]
pub(crate) struct Checker {
    queue_jobs_max: usize,
    live: BTreeMap<JobKey, LiveJob>,
    lanes: BTreeMap<LaneId, OpenLane>,
    positions: BTreeMap<JobKey, Position>,
    arrivals: u64,
    last_batch: u64,
    pub(crate) completed: u64,
    pub(crate) ended: u64,
    pub(crate) poisoned: u64,
    pub(crate) suspects_run: u64,
}

impl Checker {
    pub(crate) fn new(queue_jobs_max: usize) -> Self {
        Self { queue_jobs_max, ..Self::default() }
    }

    pub(crate) fn live_jobs(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn live_keys(&self) -> Vec<JobKey> {
        self.live.keys().copied().collect()
    }

    /// Oldest committed batch of every lane, then the ones behind.
    pub(crate) fn committed(&self) -> Vec<(LaneId, BatchId)> {
        let lanes = self.lanes.iter();
        lanes.flat_map(|(lane, open)| open.committed.iter().map(|(batch, _)| (*lane, *batch))).collect()
    }

    pub(crate) fn open_lanes(&self) -> Vec<(LaneId, DeviceId)> {
        self.lanes.iter().map(|(lane, open)| (*lane, open.device)).collect()
    }

    /// A device that runs a suspect now.
    pub(crate) fn device_with_suspect(&self) -> Option<DeviceId> {
        let suspect = |key: &JobKey| self.live.get(key).is_some_and(|live| live.suspect);
        let lane = self.lanes.values().find(|open| open.committed.iter().any(|(_, jobs)| jobs.iter().any(suspect)))?;
        Some(lane.device)
    }

    /// Call before the event is handled.
    pub(crate) fn before(&mut self, scheduler: &Scheduler) {
        let keys = self.live.keys();
        self.positions = keys.filter_map(|key| Some((*key, scheduler.position(*key)?))).collect();
    }

    /// Call with what came of the event.
    pub(crate) fn after(
        &mut self,
        now_ns: u64,
        event: &Event,
        handled: Handled,
        commands: &[Command],
        scheduler: &Scheduler,
    ) -> Result<(), String> {
        let mut must_fail = Vec::new();
        if handled == Handled::Applied {
            self.enter(now_ns, event, &mut must_fail)?;
        } else if !commands.is_empty() {
            return Err(format!("{handled:?} with commands {commands:?}"));
        }
        for command in commands {
            self.command(now_ns, event, command, &mut must_fail)?;
        }
        if !must_fail.is_empty() {
            return Err(format!("{must_fail:?} killed a worker alone often enough and did not fail"));
        }
        self.queues(commands, scheduler)
    }

    fn enter(&mut self, now_ns: u64, event: &Event, must_fail: &mut Vec<JobKey>) -> Result<(), String> {
        match event {
            Event::JobArrived(job) => {
                let due_ns = match job.deadline_ns {
                    u64::MAX => virtual_deadline_ns(now_ns, job.urgency),
                    deadline_ns => deadline_ns,
                };
                let order = (due_ns, job.urgency, self.arrivals);
                self.arrivals += 1;
                let live = LiveJob { job: *job, order, starts: 0, suspect: false, deaths_alone: 0 };
                if self.live.insert(job.key, live).is_some() {
                    return Err(format!("{:?} was taken twice", job.key));
                }
            }
            Event::LaneOpened { lane, device, models, .. } => {
                let batch_max = |batch_max, gains| if gains { batch_max } else { 1 };
                let models =
                    models.iter().map(|(key, policy)| (*key, batch_max(policy.batch_max, policy.batching_gains)));
                let open =
                    OpenLane { device: *device, closing: false, batch_max: models.collect(), committed: Vec::new() };
                self.lanes.insert(*lane, open);
            }
            Event::LaneClosed { lane } => {
                if let Some(open) = self.lanes.get_mut(lane) {
                    open.closing = true;
                }
                self.forget_if_closed(*lane);
            }
            Event::DeviceLost { device } => self.device_lost(*device, must_fail),
            Event::BatchDone { lane, batch, .. } => {
                let open =
                    self.lanes.get_mut(lane).ok_or_else(|| format!("{batch:?} of an unknown lane was applied"))?;
                let index = open.committed.iter().position(|(committed, _)| committed == batch);
                let index = index.ok_or_else(|| format!("{batch:?} was applied though it is not committed"))?;
                let (_, jobs) = open.committed.remove(index);
                for key in jobs {
                    if self.live.remove(&key).is_some() {
                        self.completed += 1;
                        self.ended += 1;
                    }
                }
                self.forget_if_closed(*lane);
            }
            Event::ModelAdded { .. } | Event::JobCancelled { .. } | Event::Tick | Event::Drain => {}
        }
        Ok(())
    }

    fn forget_if_closed(&mut self, lane: LaneId) {
        if self.lanes.get(&lane).is_some_and(|open| open.closing && open.committed.is_empty()) {
            self.lanes.remove(&lane);
        }
    }

    fn device_lost(&mut self, device: DeviceId, must_fail: &mut Vec<JobKey>) {
        let lost: Vec<LaneId> =
            self.lanes.iter().filter(|(_, open)| open.device == device).map(|(lane, _)| *lane).collect();
        for lane in lost {
            let Some(open) = self.lanes.remove(&lane) else { continue };
            for (index, (_, jobs)) in open.committed.into_iter().enumerate() {
                for key in jobs {
                    let Some(live) = self.live.get_mut(&key) else { continue };
                    if index > 0 {
                        live.starts -= 1;
                    } else if live.suspect {
                        live.deaths_alone += 1;
                        if live.deaths_alone >= DEATHS_ALONE_MAX {
                            must_fail.push(key);
                        }
                    } else {
                        live.suspect = true;
                    }
                }
            }
        }
    }

    fn command(
        &mut self,
        now_ns: u64,
        event: &Event,
        command: &Command,
        must_fail: &mut Vec<JobKey>,
    ) -> Result<(), String> {
        match command {
            Command::Dispatch { lane, batch, model, jobs } => {
                let keys: Vec<JobKey> = jobs.iter().map(|job| job.key).collect();
                self.dispatch(now_ns, *lane, *batch, *model, &keys)?;
                for job in jobs {
                    let starts = self.live[&job.key].starts;
                    if job.attempt != starts {
                        return Err(format!("{:?} says attempt {}, it is number {starts}", job.key, job.attempt));
                    }
                }
                Ok(())
            }
            Command::Refuse { key, .. } => match event {
                Event::JobArrived(job) if job.key == *key => self.end(*key, "refused").map(drop),
                _ => Err(format!("{key:?} was refused after it had been accepted")),
            },
            Command::Expire { key } => {
                let live = self.end(*key, "expired")?;
                if live.job.deadline_ns > now_ns {
                    return Err(format!("{key:?} expired before its deadline"));
                }
                self.not_committed(*key, "expired")
            }
            Command::Fail { key, reason } => {
                self.end(*key, "failed")?;
                if *reason == Reason::Poisoned {
                    self.poisoned += 1;
                    let index = must_fail.iter().position(|other| other == key);
                    must_fail.remove(index.ok_or_else(|| format!("{key:?} was called poisoned too early"))?);
                }
                self.not_committed(*key, "failed")
            }
            Command::Cancelled { key, running } => {
                self.end(*key, "cancelled")?;
                let committed = self.not_committed(*key, "cancelled").is_err();
                if committed == *running { Ok(()) } else { Err(format!("{key:?} cancelled: running is not {running}")) }
            }
            Command::ReplaceWorker { device, why } => {
                let open = self.lanes.get(&why.lane).ok_or("a lane that is gone hangs")?;
                let oldest = open.committed.first().map(|(batch, _)| *batch);
                if open.device == *device && oldest == Some(why.batch) {
                    Ok(())
                } else {
                    Err(format!("{why:?} is not what {device:?} runs"))
                }
            }
        }
    }

    fn end(&mut self, key: JobKey, how: &str) -> Result<LiveJob, String> {
        self.ended += 1;
        self.live.remove(&key).ok_or_else(|| format!("{key:?} {how}, but it has no open outcome"))
    }

    fn not_committed(&self, key: JobKey, how: &str) -> Result<(), String> {
        let mut committed = self.lanes.values().flat_map(|open| &open.committed);
        if committed.any(|(_, jobs)| jobs.contains(&key)) {
            Err(format!("{key:?} {how} while it runs"))
        } else {
            Ok(())
        }
    }

    fn dispatch(
        &mut self,
        now_ns: u64,
        lane: LaneId,
        batch: BatchId,
        model: ModelKey,
        keys: &[JobKey],
    ) -> Result<(), String> {
        if batch.0 <= self.last_batch {
            return Err(format!("{batch:?} is not new"));
        }
        self.last_batch = batch.0;
        let open = self.lanes.get(&lane).ok_or_else(|| format!("{batch:?} went to {lane:?}, which is gone"))?;
        let device = open.device;
        let batch_max = *open.batch_max.get(&model).ok_or_else(|| format!("{lane:?} does not serve {model:?}"))?;
        if open.closing || open.committed.len() >= COMMITTED_BATCHES_MAX {
            return Err(format!("{batch:?} is too much for {lane:?}"));
        }
        if keys.is_empty() || keys.len() > usize::from(batch_max) {
            return Err(format!("{batch:?} has {} jobs, at most {batch_max} are allowed", keys.len()));
        }
        let beside: Vec<JobKey> = self.on_device(device);
        let mut last: Option<Order> = None;
        let mut suspects = 0;
        for key in keys {
            self.not_committed(*key, "dispatched")?;
            let live = self.live.get_mut(key).ok_or_else(|| format!("{key:?} was dispatched after its end"))?;
            if live.job.model != model || live.job.deadline_ns <= now_ns {
                return Err(format!("{key:?} is of another model than {batch:?}, or has expired"));
            }
            if last.is_some_and(|last| last > live.order) {
                return Err(format!("{batch:?} is not in the order of deadlines"));
            }
            last = Some(live.order);
            live.starts += 1;
            suspects += u64::from(live.suspect);
        }
        let suspect_beside = beside.iter().any(|key| self.live.get(key).is_some_and(|live| live.suspect));
        if suspect_beside || (suspects > 0 && (keys.len() > 1 || !beside.is_empty())) {
            return Err(format!("{batch:?}: a suspect is not alone on {device:?}"));
        }
        self.suspects_run += suspects;
        if let Some(open) = self.lanes.get_mut(&lane) {
            open.committed.push((batch, keys.to_vec()));
        }
        Ok(())
    }

    fn on_device(&self, device: DeviceId) -> Vec<JobKey> {
        let lanes = self.lanes.values().filter(|open| open.device == device);
        lanes.flat_map(|open| open.committed.iter().flat_map(|(_, jobs)| jobs.iter().copied())).collect()
    }

    /// Bounds, agreement with the public view, and the order: what a batch left behind in its lane is due later.
    fn queues(&self, commands: &[Command], scheduler: &Scheduler) -> Result<(), String> {
        let snapshot = scheduler.snapshot();
        if snapshot.jobs != self.live.len() {
            return Err(format!("{} jobs are held, {} have no outcome", snapshot.jobs, self.live.len()));
        }
        for lane in &snapshot.lanes {
            if lane.queued_jobs > self.queue_jobs_max || lane.committed_batches > COMMITTED_BATCHES_MAX {
                return Err(format!("{:?} is over its bounds: {lane:?}", lane.lane));
            }
        }
        if snapshot.lanes.len() != self.lanes.len() {
            return Err(format!("{} lanes are held, {} are open", snapshot.lanes.len(), self.lanes.len()));
        }
        let mut left: BTreeMap<LaneId, Vec<&LiveJob>> = BTreeMap::new();
        for (key, live) in &self.live {
            match scheduler.position(*key) {
                None => return Err(format!("{key:?} is nowhere")),
                // A job that was waiting may have come into the lane after the batch was formed.
                Some(Position::Queued { lane }) if self.positions.get(key) == Some(&Position::Queued { lane }) => {
                    left.entry(lane).or_default().push(live);
                }
                Some(Position::Committed { lane }) => {
                    let mut batches = self.lanes.get(&lane).into_iter().flat_map(|open| &open.committed);
                    if !batches.any(|(_, jobs)| jobs.contains(key)) {
                        return Err(format!("{key:?} counts as committed to {lane:?}, which was not told"));
                    }
                }
                Some(_) => {}
            }
        }
        for command in commands {
            let Command::Dispatch { lane, model, jobs, .. } = command else { continue };
            let order = |key: &JobKey| self.live.get(key).filter(|live| !live.suspect).map(|live| live.order);
            let (Some(first), Some(last)) =
                (jobs.first().and_then(|job| order(&job.key)), jobs.last().and_then(|job| order(&job.key)))
            else {
                continue;
            };
            for other in left.get(lane).into_iter().flatten() {
                let bound = if other.job.model == *model { last } else { first };
                if other.order < bound {
                    return Err(format!("{:?} was passed over by {jobs:?}", other.job.key));
                }
            }
        }
        Ok(())
    }
}
