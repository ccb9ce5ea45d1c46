//! What must hold whatever happens, kept apart from the scheduler's own state: it sees only events, commands and the
//! public view, and keeps its own books.

use std::collections::BTreeMap;

use sensorium_scheduler::{
    BatchId, COMMITTED_BATCHES_MAX, Command, DEATHS_ALONE_MAX, DeviceId, Event, Handled, Job, JobKey, LaneId, ModelKey,
    Position, Scheduler, StreamKey, virtual_deadline_ns,
};
use sensorium_wire::{Reason, Urgency};

/// Deadline or virtual deadline, number of the arrival.
type Order = (u64, u64);
/// No time of the driver's models reaches it: what expires earlier than this before its deadline was not hopeless.
const HOPELESS_NS_MAX: u64 = 80_000_000;

struct LiveJob {
    job: Job,
    order: Order,
    starts: u32,
    /// Slices of this start that have ended.
    slices: u32,
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
    /// Jobs of each stream and model that have no outcome, as they arrived.
    streams: BTreeMap<(StreamKey, ModelKey), Vec<JobKey>>,
    epoch: u64,
    arrivals: u64,
    last_batch: u64,
    pub(crate) completed: u64,
    pub(crate) sliced: u64,
    pub(crate) plans: u64,
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

    /// Whether the order of these two matters by itself.
    pub(crate) fn orders(&self, one: JobKey, other: JobKey) -> bool {
        let class = |key| self.live.get(&key).filter(|live| live.job.stream.is_none()).map(|live| live.job.urgency);
        class(one).is_some() && class(one) == class(other)
    }

    /// Jobs of a batch that are of this model.
    pub(crate) fn jobs_of(&self, batch: BatchId, model: ModelKey) -> Vec<JobKey> {
        let batches = self.lanes.values().flat_map(|open| &open.committed);
        let jobs = batches.filter(|(id, _)| *id == batch).flat_map(|(_, jobs)| jobs.iter().copied());
        jobs.filter(|key| self.live.get(key).is_some_and(|live| live.job.model == model)).collect()
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
            Event::JobArrived(job) | Event::JobContinued(job) => {
                let due_ns = match job.deadline_ns {
                    u64::MAX => virtual_deadline_ns(now_ns, job.urgency),
                    deadline_ns => deadline_ns,
                };
                let order = (due_ns, self.arrivals);
                self.arrivals += 1;
                if let Some(stream) = job.stream {
                    self.streams.entry((stream, job.model)).or_default().push(job.key);
                }
                let live = LiveJob { job: *job, order, starts: 0, slices: 0, suspect: false, deaths_alone: 0 };
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
                    self.start_over(*lane);
                }
                self.forget_if_closed(*lane);
            }
            Event::DeviceLost { device } => self.device_lost(*device, must_fail),
            Event::BatchDone { lane, batch, unfinished, .. } => {
                let open =
                    self.lanes.get_mut(lane).ok_or_else(|| format!("{batch:?} of an unknown lane was applied"))?;
                let closing = open.closing;
                let index = open.committed.iter().position(|(committed, _)| committed == batch);
                let index = index.ok_or_else(|| format!("{batch:?} was applied though it is not committed"))?;
                let (_, jobs) = open.committed.remove(index);
                for key in jobs {
                    let Some(live) = self.live.get_mut(&key) else { continue };
                    if unfinished.contains(&key) {
                        // A worker that closes forgets what it has begun.
                        live.slices = if closing && !live.suspect { 0 } else { live.slices + 1 };
                        self.sliced += 1;
                        continue;
                    }
                    self.completed += 1;
                    self.end(key, "completed")?;
                }
                self.forget_if_closed(*lane);
            }
            Event::ModelAdded { .. }
            | Event::DeviceAdded { .. }
            | Event::LoadReport { .. }
            | Event::CriticalMoment { .. }
            | Event::PolicyChanged { .. }
            | Event::JobCancelled { .. }
            | Event::Tick
            | Event::Drain => {}
        }
        Ok(())
    }

    /// A lane's worker forgets what was begun: its queued jobs start again elsewhere.
    fn start_over(&mut self, lane: LaneId) {
        for (key, live) in &mut self.live {
            if self.positions.get(key) == Some(&Position::Queued { lane }) {
                live.slices = 0;
            }
        }
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
            self.start_over(lane);
            let Some(open) = self.lanes.remove(&lane) else { continue };
            for (index, (_, jobs)) in open.committed.into_iter().enumerate() {
                for key in jobs {
                    let Some(live) = self.live.get_mut(&key) else { continue };
                    let fresh = live.slices == 0;
                    live.slices = 0;
                    if index > 0 {
                        live.starts -= u32::from(fresh);
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
            Command::Dispatch { lane, batch, model, jobs, epoch, .. } => {
                if *epoch != self.epoch {
                    return Err(format!("{batch:?} was decided under plan {epoch}, {} is in force", self.epoch));
                }
                let keys: Vec<JobKey> = jobs.iter().map(|job| job.key).collect();
                self.dispatch(now_ns, *lane, *batch, *model, &keys)?;
                for job in jobs {
                    let live = &self.live[&job.key];
                    if (job.attempt, job.slice) != (live.starts, live.slices) {
                        return Err(format!("{job:?}, but it is start {} slice {}", live.starts, live.slices));
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
                if live.job.deadline_ns > now_ns.saturating_add(HOPELESS_NS_MAX) {
                    return Err(format!("{key:?} expired though it could have been on time"));
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
            Command::PlanChanged(plan) => {
                self.plans += 1;
                if plan.epoch != self.epoch + 1 {
                    return Err(format!("plan {} follows {}", plan.epoch, self.epoch));
                }
                self.epoch = plan.epoch;
                let over =
                    plan.devices.iter().find(|(_, shares)| shares.0.iter().map(|s| u32::from(*s)).sum::<u32>() > 1000);
                over.map_or(Ok(()), |(device, shares)| Err(format!("{device:?} is given {shares:?}")))
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
        let live = self.live.remove(&key).ok_or_else(|| format!("{key:?} {how}, but it has no open outcome"))?;
        if let Some(stream) = live.job.stream
            && let Some(jobs) = self.streams.get_mut(&(stream, live.job.model))
        {
            jobs.retain(|other| *other != key);
        }
        Ok(live)
    }

    /// Whether every earlier job of its stream has ended or is committed to this lane.
    fn in_order(&self, key: JobKey, lane: LaneId, before: &[JobKey]) -> bool {
        let job = &self.live[&key].job;
        let Some(jobs) = job.stream.and_then(|stream| self.streams.get(&(stream, job.model))) else {
            return true;
        };
        let open = &self.lanes[&lane];
        let mut earlier = jobs.iter().take_while(|other| **other != key);
        earlier.all(|other| before.contains(other) || open.committed.iter().any(|(_, jobs)| jobs.contains(other)))
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
        let mut last: BTreeMap<Urgency, Order> = BTreeMap::new();
        let mut suspects = 0;
        for (index, key) in keys.iter().enumerate() {
            self.not_committed(*key, "dispatched")?;
            if self.live.contains_key(key) && !self.in_order(*key, lane, &keys[..index]) {
                return Err(format!("{key:?} overtakes a job of its stream"));
            }
            let live = self.live.get_mut(key).ok_or_else(|| format!("{key:?} was dispatched after its end"))?;
            if live.job.model != model || live.job.deadline_ns <= now_ns {
                return Err(format!("{key:?} is of another model than {batch:?}, or has expired"));
            }
            if live.job.stream.is_none() {
                let last = last.insert(live.job.urgency, live.order);
                if last.is_some_and(|last| last > live.order) {
                    return Err(format!("{batch:?} is not in the order of deadlines"));
                }
            }
            live.starts += u32::from(live.slices == 0);
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
            // Jobs whose slice has ended come back to a queue that has filled meanwhile.
            let begun = |(key, live): &(&JobKey, &LiveJob)| {
                live.slices > 0 && scheduler.position(**key) == Some(Position::Queued { lane: lane.lane })
            };
            let begun = self.live.iter().filter(begun).count();
            if lane.queued_jobs > self.queue_jobs_max + begun || lane.committed_batches > COMMITTED_BATCHES_MAX {
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
            for other in left.get(lane).into_iter().flatten() {
                // Streams have an order of their own; classes have their turns.
                if other.job.stream.is_some() || other.job.model != *model {
                    continue;
                }
                let mut dispatched = jobs.iter().filter_map(|job| self.live.get(&job.key));
                let over = dispatched.find(|live| {
                    !live.suspect
                        && live.job.stream.is_none()
                        && live.job.urgency == other.job.urgency
                        && other.order < live.order
                });
                if over.is_some() {
                    return Err(format!("{:?} was passed over by {jobs:?}", other.job.key));
                }
            }
        }
        Ok(())
    }
}
