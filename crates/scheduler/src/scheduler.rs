//! The state, and which part of the crate handles which event.

use std::collections::{BTreeMap, BTreeSet};

use sensorium_wire::Reason;
use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::device::Device;
use crate::event::{Command, Event, Handled};
use crate::jobs::{JobRecord, JobSlot, Jobs, Place};
use crate::lane::{Lane, LaneSlot};
use crate::planner::Planner;
use crate::pools::Pools;
use crate::queue::{EdfQueue, Entry};
use crate::streams::Streams;
use crate::types::{DeviceId, JobKey, LaneId, ModelKey};

/// A model, wherever it runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Model {
    /// Open lanes that serve it.
    pub(crate) lanes: Vec<LaneSlot>,
    /// Pools that have had such lanes.
    pub(crate) pools: Vec<usize>,
    /// Jobs that no lane had room for when theirs went away, or that wait for a lane to come back.
    pub(crate) waiting: EdfQueue,
    /// When a lane that served it last went away.
    pub(crate) lost_ns: Option<u64>,
}

/// Admission, queues, batches, shares and recovery as a pure state machine.
///
/// Cost of an event: a few look-ups in small trees, a binary search per model of the lane that is asked, and an insertion
/// at the end of a ring; all of it grows with the logarithm of devices and jobs at most. Cancelling, plans and events that
/// move jobs cost more; they are rare. The whole state can be written down and read again, so that a log of events needs
/// no beginning of time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scheduler {
    pub(crate) settings: Settings,
    pub(crate) now_ns: u64,
    pub(crate) draining: bool,
    pub(crate) batches: u64,
    pub(crate) arrivals: u64,
    pub(crate) waiting: usize,
    pub(crate) jobs: Jobs,
    /// Held jobs by deadline.
    pub(crate) held: BTreeSet<(u64, JobSlot)>,
    /// Held jobs that look for a place at the end of this event.
    pub(crate) released: Vec<JobSlot>,
    pub(crate) streams: Streams,
    pub(crate) lanes: Vec<Option<Lane>>,
    pub(crate) lane_slots_free: Vec<LaneSlot>,
    pub(crate) lane_slots: BTreeMap<LaneId, LaneSlot>,
    pub(crate) pools: Pools,
    pub(crate) devices: BTreeMap<DeviceId, Device>,
    pub(crate) with_suspects: BTreeSet<DeviceId>,
    pub(crate) models: BTreeMap<ModelKey, Model>,
    /// When which lane wants to be looked at.
    pub(crate) wakes: BTreeSet<(u64, LaneSlot)>,
    pub(crate) planner: Planner,
}

impl Scheduler {
    /// Settings that make no sense are for the caller to refuse ([`Settings::check`]); here they are used as they are.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            planner: Planner::new(settings.plan.clone()),
            settings: Settings { queue_jobs_max: settings.queue_jobs_max.max(1), ..settings },
            now_ns: 0,
            draining: false,
            batches: 0,
            arrivals: 0,
            waiting: 0,
            jobs: Jobs::default(),
            held: BTreeSet::new(),
            released: Vec::new(),
            streams: Streams::default(),
            lanes: Vec::new(),
            lane_slots_free: Vec::new(),
            lane_slots: BTreeMap::new(),
            pools: Pools::default(),
            devices: BTreeMap::new(),
            with_suspects: BTreeSet::new(),
            models: BTreeMap::new(),
            wakes: BTreeSet::new(),
        }
    }

    /// Takes one event and appends what is to be done about it. `now_ns` is the caller's monotonic clock; a time before
    /// the last one counts as the last one.
    pub fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Command>) -> Handled {
        self.now_ns = self.now_ns.max(now_ns);
        let handled = match event {
            Event::ModelAdded { model } => {
                self.models.entry(model).or_default();
                Handled::Applied
            }
            Event::DeviceAdded { device, kind, lanes_at_once_max } => {
                self.device_added(device, kind, usize::from(lanes_at_once_max))
            }
            Event::LaneOpened { lane, device, modality, models } => {
                self.lane_opened(lane, device, modality, &models, out)
            }
            Event::LaneClosed { lane } => self.lane_closed(lane, out),
            Event::DeviceLost { device } => self.device_lost(device, out),
            Event::LoadReport { device, time_percent } => self.load_report(device, time_percent),
            Event::JobArrived(job) => self.job_arrived(&job, out),
            Event::JobContinued(job) => self.job_continued(&job, out),
            Event::BatchDone { lane, batch, service_ns, unfinished } => {
                self.batch_done(lane, batch, service_ns, &unfinished, out)
            }
            Event::JobCancelled { key } => self.job_cancelled(key, out),
            Event::CriticalMoment { until_ns } => {
                self.planner.critical_until_ns = until_ns;
                self.replan(out);
                Handled::Applied
            }
            Event::PolicyChanged { policy } => {
                self.settings.plan = policy.clone();
                self.planner.set_policy(policy);
                self.replan(out);
                Handled::Applied
            }
            Event::Tick => {
                self.tick(out);
                Handled::Applied
            }
            Event::Drain => {
                self.draining = true;
                Handled::Applied
            }
        };
        if !self.released.is_empty() {
            self.place_released(out);
        }
        handled
    }

    pub(crate) fn lane(&self, slot: LaneSlot) -> &Lane {
        self.lanes[slot as usize].as_ref().expect("lane slots are held only while their lane is here")
    }

    pub(crate) fn lane_mut(&mut self, slot: LaneSlot) -> &mut Lane {
        self.lanes[slot as usize].as_mut().expect("lane slots are held only while their lane is here")
    }

    pub(crate) fn device_mut(&mut self, device: DeviceId) -> &mut Device {
        self.devices.get_mut(&device).expect("devices are never forgotten")
    }

    fn job_cancelled(&mut self, key: JobKey, out: &mut Vec<Command>) -> Handled {
        let Some(slot) = self.jobs.find(key) else {
            return Handled::Stale;
        };
        let place = self.jobs.get(slot).place;
        let running = matches!(place, Place::Committed { .. });
        if running {
            self.jobs.cancel(slot);
        } else {
            self.take_from_queue(slot);
            self.forget_job(slot);
        }
        out.push(Command::Cancelled { key, running });
        match place {
            // A suspect that goes away may have held its device's lanes back.
            Place::Suspect { device } => self.dispatch(device, out),
            Place::Queued { lane } => self.touch(lane),
            Place::Waiting | Place::Committed { .. } | Place::Held => {}
        }
        Handled::Applied
    }

    /// Takes a job that is not committed out of whatever queue it is in; its record stays.
    fn take_from_queue(&mut self, slot: JobSlot) {
        let record = self.jobs.get(slot);
        let (entry, model, class, place) = (record.entry, record.job.model, usize::from(record.class), record.place);
        match place {
            Place::Queued { lane } => {
                self.lane_mut(lane).dequeue(model, class, &entry);
            }
            Place::Waiting => {
                if let Some(model) = self.models.get_mut(&model) {
                    self.waiting -= usize::from(model.waiting.remove(&entry).is_some());
                }
            }
            Place::Suspect { device } => self.take_suspect(device, &entry),
            Place::Held => self.unhold(slot),
            Place::Committed { .. } => {}
        }
    }

    /// Ends a job that has left its queue.
    pub(crate) fn expire(&mut self, slot: JobSlot, out: &mut Vec<Command>) {
        let record = self.forget_job(slot);
        out.push(Command::Expire { key: record.job.key });
    }

    /// Ends a job that a lane had promised to do in time; its next promises are more careful.
    pub(crate) fn break_promise(&mut self, lane: LaneSlot, model: usize, slot: JobSlot, out: &mut Vec<Command>) {
        self.count_promise(lane, model, slot, false);
        self.expire(slot, out);
    }

    /// Whether the lane kept what it promised of a job. Nothing was promised of a probe.
    pub(crate) fn count_promise(&mut self, lane: LaneSlot, model: usize, slot: JobSlot, kept: bool) {
        let (record, now_ns) = (self.jobs.get(slot), self.now_ns);
        if record.probe || record.cancelled {
            return;
        }
        let accepted_ns = record.accepted_ns;
        let reserve = &mut self.lane_mut(lane).models[model].times.reserve;
        if kept {
            reserve.kept(1);
        } else {
            reserve.missed(accepted_ns, now_ns);
        }
    }

    pub(crate) fn fail(&mut self, slot: JobSlot, reason: Reason, out: &mut Vec<Command>) {
        let record = self.forget_job(slot);
        out.push(Command::Fail { key: record.job.key, reason });
    }

    /// Removes a job that has left its queue; a job of its stream that was held for it may go on.
    pub(crate) fn forget_job(&mut self, slot: JobSlot) -> JobRecord {
        let job = self.jobs.get(slot).job;
        if job.stream.is_some()
            && let Some(next) = self.streams.leave(&job, slot)
        {
            self.release(next);
        }
        self.jobs.remove(slot)
    }

    /// Finds places for held jobs whose predecessors have moved on.
    fn place_released(&mut self, out: &mut Vec<Command>) {
        // Placing one may release the next, so the list grows while it is worked off; every job is placed once.
        let mut index = 0;
        while index < self.released.len() {
            let slot = self.released[index];
            index += 1;
            if self.jobs.is_held(slot) {
                self.unhold(slot);
                let entry: Entry = self.jobs.get(slot).entry;
                self.place_and_dispatch(&[entry], out);
            }
        }
        self.released.clear();
    }

    /// Finds places for jobs that were accepted before, and lets the devices of these places go on.
    pub(crate) fn place_and_dispatch(&mut self, entries: &[Entry], out: &mut Vec<Command>) {
        self.place_again(entries);
        for entry in entries {
            if self.jobs.is_here(entry)
                && let Place::Queued { lane } = self.jobs.get(entry.slot).place
            {
                let device = self.lane(lane).device;
                self.dispatch(device, out);
            }
        }
    }
}
