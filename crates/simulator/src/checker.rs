//! What must hold whatever happens. The checker sees only events and commands and keeps books of its own, in which every
//! look-up costs a logarithm at most, so that it can watch ten thousand devices.
//!
//! It does not look into queues and does not judge how good a decision is; the scheduler's own simulation does that.

use std::collections::{BTreeMap, VecDeque};

use sensorium_scheduler::{
    BatchId, BatchJobs, COMMITTED_BATCHES_MAX, Command, DeviceId, Event, Handled, JobKey, LaneId, ModelKey, Plan,
    SHARE_PERMILLE_MAX, StreamKey,
};

/// A job without an outcome.
#[derive(Clone, Copy, Debug)]
struct Live {
    model: ModelKey,
    deadline_ns: u64,
    stream: Option<StreamKey>,
    /// The lane that holds it in a batch.
    owner: Option<LaneId>,
    /// The lane whose slice it had last.
    slice_of: Option<LaneId>,
}

#[derive(Debug)]
struct OpenLane {
    device: DeviceId,
    batch_max: Vec<(ModelKey, u16)>,
    /// Oldest first.
    committed: VecDeque<(BatchId, Vec<JobKey>)>,
}

/// The books. Every method gives a sentence that says which rule was broken.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    live: BTreeMap<JobKey, Live>,
    lanes: BTreeMap<LaneId, OpenLane>,
    devices: BTreeMap<DeviceId, Vec<LaneId>>,
    /// Jobs without an outcome by stream and model, in the order of their arrival.
    streams: BTreeMap<(StreamKey, ModelKey), VecDeque<JobKey>>,
    epoch: u64,
    last_batch: u64,
}

impl Checker {
    /// Accepted jobs that have no outcome yet.
    pub(crate) fn live_jobs(&self) -> usize {
        self.live.len()
    }

    /// Enters what came of an event.
    pub(crate) fn check(
        &mut self,
        now_ns: u64,
        event: &Event,
        handled: Handled,
        commands: &[Command],
    ) -> Result<(), String> {
        match handled {
            Handled::Applied => self.enter(event)?,
            Handled::Duplicate => return Err(format!("{event:?} counts as a duplicate; its number is new")),
            Handled::Stale => self.may_be_stale(event)?,
        }
        for command in commands {
            match command {
                Command::Dispatch { lane, batch, model, jobs, epoch, .. } => {
                    if *epoch != self.epoch {
                        return Err(format!("{batch:?} carries epoch {epoch}; {} is in force", self.epoch));
                    }
                    self.dispatch(now_ns, *lane, *batch, *model, jobs)?;
                }
                Command::Refuse { key, .. } => match event {
                    Event::JobArrived(job) if job.key == *key => self.end(*key, "refused").map(drop)?,
                    _ => return Err(format!("{key:?} was refused after it had been accepted")),
                },
                Command::Expire { key } => self.end_at_rest(*key, "expired")?,
                Command::Fail { key, .. } => self.end_at_rest(*key, "failed")?,
                Command::Cancelled { key, running } => {
                    let owner = self.end(*key, "cancelled")?.owner;
                    if owner.is_some() != *running {
                        return Err(format!("{key:?} was cancelled as running = {running}; it is with {owner:?}"));
                    }
                }
                Command::ReplaceWorker { device, why } => {
                    let open = self.lanes.get(&why.lane).filter(|open| open.device == *device);
                    let oldest = open.and_then(|open| open.committed.front()).map(|(batch, _)| *batch);
                    if oldest != Some(why.batch) {
                        return Err(format!("{why:?} is not what {device:?} runs, which is {oldest:?}"));
                    }
                }
                Command::PlanChanged(plan) => self.plan(plan)?,
            }
        }
        Ok(())
    }

    /// Call when nothing is left to happen.
    pub(crate) fn finish(&self) -> Result<(), String> {
        match self.live.keys().next() {
            Some(first) => Err(format!("{} accepted jobs have no outcome, {first:?} among them", self.live.len())),
            None => Ok(()),
        }
    }

    fn enter(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::JobArrived(job) | Event::JobContinued(job) => {
                let (model, deadline_ns, stream) = (job.model, job.deadline_ns, job.stream);
                let live = Live { model, deadline_ns, stream, owner: None, slice_of: None };
                if self.live.insert(job.key, live).is_some() {
                    return Err(format!("{:?} was taken twice", job.key));
                }
                if let Some(stream) = stream {
                    self.streams.entry((stream, model)).or_default().push_back(job.key);
                }
            }
            Event::LaneOpened { lane, device, models, .. } => {
                let batch_max = models.iter().map(|(model, policy)| (*model, policy.batch_max)).collect();
                self.lanes.insert(*lane, OpenLane { device: *device, batch_max, committed: VecDeque::new() });
                self.devices.entry(*device).or_default().push(*lane);
            }
            Event::DeviceLost { device } => {
                for lane in self.devices.remove(device).unwrap_or_default() {
                    let committed = self.lanes.remove(&lane).map(|open| open.committed).unwrap_or_default();
                    for key in committed.iter().flat_map(|(_, jobs)| jobs) {
                        if let Some(live) = self.live.get_mut(key) {
                            live.owner = None;
                        }
                    }
                }
            }
            Event::BatchDone { lane, batch, unfinished, .. } => self.batch_done(*lane, *batch, unfinished)?,
            Event::LaneClosed { .. }
            | Event::ModelAdded { .. }
            | Event::DeviceAdded { .. }
            | Event::LoadReport { .. }
            | Event::JobCancelled { .. }
            | Event::CriticalMoment { .. }
            | Event::PolicyChanged { .. }
            | Event::Tick
            | Event::Drain => {}
        }
        Ok(())
    }

    fn may_be_stale(&self, event: &Event) -> Result<(), String> {
        let known = match event {
            Event::BatchDone { lane, batch, .. } => {
                let open = self.lanes.get(lane);
                open.is_some_and(|open| open.committed.iter().any(|(committed, _)| committed == batch))
            }
            Event::JobCancelled { key } => self.live.contains_key(key),
            Event::DeviceLost { device } => self.devices.contains_key(device),
            _ => true,
        };
        if known { Err(format!("{event:?} counts as stale; it names what is there")) } else { Ok(()) }
    }

    fn batch_done(&mut self, lane: LaneId, batch: BatchId, unfinished: &[JobKey]) -> Result<(), String> {
        let open = self.lanes.get_mut(&lane).ok_or_else(|| format!("{batch:?} of a lane that is gone was applied"))?;
        match open.committed.front() {
            Some((oldest, _)) if *oldest == batch => {}
            _ => return Err(format!("{batch:?} of {lane:?} was applied, but is not the oldest committed there")),
        }
        let jobs = open.committed.pop_front().map(|(_, jobs)| jobs).unwrap_or_default();
        for key in jobs {
            if !unfinished.contains(&key) {
                self.complete(key)?;
            } else if let Some(live) = self.live.get_mut(&key) {
                live.owner = None;
                live.slice_of = Some(lane);
            }
        }
        Ok(())
    }

    /// A job has its result, unless it was cancelled before.
    fn complete(&mut self, key: JobKey) -> Result<(), String> {
        let Some(live) = self.live.get(&key) else { return Ok(()) };
        if let Some(stream) = live.stream {
            let first = self.streams.get(&(stream, live.model)).and_then(|jobs| jobs.front());
            if first != Some(&key) {
                return Err(format!("{key:?} overtook {first:?} of its stream {stream:?}"));
            }
        }
        self.end(key, "done").map(drop)
    }

    fn end_at_rest(&mut self, key: JobKey, how: &str) -> Result<(), String> {
        match self.end(key, how)?.owner {
            Some(lane) => Err(format!("{key:?} {how} while it is committed to {lane:?}")),
            None => Ok(()),
        }
    }

    fn end(&mut self, key: JobKey, how: &str) -> Result<Live, String> {
        let live = self.live.remove(&key).ok_or_else(|| format!("{key:?} {how}, but it has no open outcome"))?;
        if let Some(stream) = live.stream
            && let Some(jobs) = self.streams.get_mut(&(stream, live.model))
        {
            jobs.retain(|other| *other != key);
            if jobs.is_empty() {
                self.streams.remove(&(stream, live.model));
            }
        }
        Ok(live)
    }

    fn dispatch(
        &mut self,
        now_ns: u64,
        lane: LaneId,
        batch: BatchId,
        model: ModelKey,
        jobs: &BatchJobs,
    ) -> Result<(), String> {
        if batch.0 <= self.last_batch {
            return Err(format!("{batch:?} is not new"));
        }
        self.last_batch = batch.0;
        let open = self.lanes.get_mut(&lane).ok_or_else(|| format!("{batch:?} went to {lane:?}, which is gone"))?;
        let served = open.batch_max.iter().find(|(served, _)| *served == model);
        let batch_max = served.map(|(_, max)| usize::from(*max)).ok_or_else(|| format!("{lane:?} lacks {model:?}"))?;
        if open.committed.len() >= COMMITTED_BATCHES_MAX {
            return Err(format!("{batch:?} is one more than {COMMITTED_BATCHES_MAX} committed to {lane:?}"));
        }
        if jobs.is_empty() || jobs.len() > batch_max {
            return Err(format!("{batch:?} has {} jobs; 1 to {batch_max} are allowed", jobs.len()));
        }
        for job in jobs {
            let key = job.key;
            let live = self.live.get_mut(&key).ok_or_else(|| format!("{key:?} was dispatched after its end"))?;
            if let Some(owner) = live.owner {
                return Err(format!("{key:?} went to {lane:?} while {owner:?} has it"));
            }
            if live.model != model {
                return Err(format!("{key:?} is for {:?}, its batch for {model:?}", live.model));
            }
            if live.deadline_ns <= now_ns {
                return Err(format!("{key:?} was dispatched {} ns after its deadline", now_ns - live.deadline_ns));
            }
            if job.slice > 0 && live.slice_of != Some(lane) {
                return Err(format!("{key:?} goes on in {lane:?}; its last slice was with {:?}", live.slice_of));
            }
            live.owner = Some(lane);
        }
        open.committed.push_back((batch, jobs.iter().map(|job| job.key).collect()));
        Ok(())
    }

    fn plan(&mut self, plan: &Plan) -> Result<(), String> {
        if plan.epoch != self.epoch + 1 {
            return Err(format!("the plan of epoch {} follows that of epoch {}", plan.epoch, self.epoch));
        }
        self.epoch = plan.epoch;
        for (device, shares) in &plan.devices {
            let together: u32 = shares.0.iter().map(|share| u32::from(*share)).sum();
            if together > u32::from(SHARE_PERMILLE_MAX) {
                return Err(format!("{device:?} has shares of {together} thousandths"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
