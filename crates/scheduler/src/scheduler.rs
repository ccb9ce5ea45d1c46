//! The state, and which part of the crate handles which event.

use std::collections::BTreeMap;

use sensorium_wire::Reason;

use crate::config::Settings;
use crate::device::Device;
use crate::event::{Command, Event, Handled};
use crate::jobs::{JobSlot, Jobs, Place};
use crate::lane::{Lane, LaneSlot};
use crate::queue::{EdfQueue, Entry};
use crate::types::{BatchId, DeviceId, JobKey, LaneId, ModelKey};

/// A model, wherever it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// Open lanes that serve it.
    pub(crate) lanes: Vec<LaneSlot>,
    /// Jobs that no lane had room for when theirs went away, or that wait for a lane to come back.
    pub(crate) waiting: EdfQueue,
    /// When a lane that served it last went away.
    pub(crate) lost_ns: Option<u64>,
}

/// Admission, queues, batches and recovery as a pure state machine.
///
/// Cost of an event: a few look-ups in small trees, a binary search per model of the lanes that serve the job, and an
/// insertion at the end of a ring. Cancelling and events that move jobs cost more; they are rare.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(crate) settings: Settings,
    pub(crate) now_ns: u64,
    pub(crate) draining: bool,
    pub(crate) batches: u64,
    pub(crate) arrivals: u64,
    pub(crate) waiting: usize,
    pub(crate) jobs: Jobs,
    pub(crate) lanes: Vec<Option<Lane>>,
    pub(crate) lane_slots_free: Vec<LaneSlot>,
    pub(crate) lane_slots: BTreeMap<LaneId, LaneSlot>,
    pub(crate) devices: BTreeMap<DeviceId, Device>,
    pub(crate) models: BTreeMap<ModelKey, Model>,
}

impl Scheduler {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: Settings { queue_jobs_max: settings.queue_jobs_max.max(1), ..settings },
            now_ns: 0,
            draining: false,
            batches: 0,
            arrivals: 0,
            waiting: 0,
            jobs: Jobs::default(),
            lanes: Vec::new(),
            lane_slots_free: Vec::new(),
            lane_slots: BTreeMap::new(),
            devices: BTreeMap::new(),
            models: BTreeMap::new(),
        }
    }

    /// Takes one event and appends what is to be done about it. `now_ns` is the caller's monotonic clock; a time before
    /// the last one counts as the last one.
    pub fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Command>) -> Handled {
        self.now_ns = self.now_ns.max(now_ns);
        match event {
            Event::ModelAdded { model } => {
                self.models.entry(model).or_default();
                Handled::Applied
            }
            Event::LaneOpened { lane, device, modality, models } => {
                self.lane_opened(lane, device, modality, &models, out)
            }
            Event::LaneClosed { lane } => self.lane_closed(lane, out),
            Event::DeviceLost { device } => self.device_lost(device, out),
            Event::JobArrived(job) => self.job_arrived(&job, out),
            Event::DeviceAdded { .. }
            | Event::LoadReport { .. }
            | Event::CriticalMoment { .. }
            | Event::PolicyChanged { .. } => Handled::Applied,
            Event::BatchDone { lane, batch, service_ns, .. } => self.batch_done(lane, batch, service_ns, out),
            Event::JobCancelled { key } => self.job_cancelled(key, out),
            Event::Tick => {
                self.tick(out);
                Handled::Applied
            }
            Event::Drain => {
                self.draining = true;
                Handled::Applied
            }
        }
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

    fn batch_done(&mut self, lane: LaneId, batch: BatchId, service_ns: u64, out: &mut Vec<Command>) -> Handled {
        let Some(slot) = self.lane_slots.get(&lane).copied() else {
            return Handled::Stale;
        };
        let now_ns = self.now_ns;
        let lane = self.lane_mut(slot);
        let Some(index) = lane.committed.iter().position(|committed| committed.id == batch) else {
            return Handled::Stale;
        };
        let done = lane.committed.remove(index).expect("the position was just found");
        if let Some(next) = lane.committed.front_mut() {
            next.started_ns = now_ns;
        }
        lane.batches_completed += 1;
        lane.busy_ns = lane.busy_ns.saturating_add(service_ns);
        let (device, ended) = (lane.device, lane.closing && lane.committed.is_empty());
        let mut completed = 0;
        for job in &done.jobs {
            completed += u64::from(!self.jobs.remove(*job).cancelled);
        }
        self.lane_mut(slot).jobs_completed += completed;
        if self.device_mut(device).suspect_batch == Some(batch) {
            self.device_mut(device).suspect_batch = None;
        }
        if ended {
            self.forget_lane(slot);
        }
        self.dispatch(device, out);
        Handled::Applied
    }

    fn job_cancelled(&mut self, key: JobKey, out: &mut Vec<Command>) -> Handled {
        let Some(slot) = self.jobs.find(key) else {
            return Handled::Stale;
        };
        let record = self.jobs.get(slot);
        let running = matches!(record.place, Place::Committed { .. });
        // A suspect that goes away may have held its device's lanes back.
        let device = if let Place::Suspect { device } = record.place { Some(device) } else { None };
        if running {
            self.jobs.cancel(slot);
        } else {
            self.take_from_queue(slot);
            self.jobs.remove(slot);
        }
        out.push(Command::Cancelled { key, running });
        if let Some(device) = device {
            self.dispatch(device, out);
        }
        Handled::Applied
    }

    /// Takes a job that is not committed out of whatever queue it is in; its record stays.
    fn take_from_queue(&mut self, slot: JobSlot) {
        let record = self.jobs.get(slot);
        let (entry, model, place) = (record.entry, record.job.model, record.place);
        match place {
            Place::Queued { lane } => self.lane_mut(lane).dequeue(model, &entry),
            Place::Waiting => {
                if let Some(model) = self.models.get_mut(&model) {
                    self.waiting -= usize::from(model.waiting.remove(&entry));
                }
            }
            Place::Suspect { device } => {
                self.device_mut(device).suspects.remove(&entry);
            }
            Place::Committed { .. } => {}
        }
    }

    /// Whether the deadline of this entry's job has passed.
    pub(crate) fn expired(&self, entry: &Entry) -> bool {
        self.jobs.get(entry.slot).job.deadline_ns <= self.now_ns
    }

    /// Ends a job that has left its queue.
    pub(crate) fn expire(&mut self, slot: JobSlot, out: &mut Vec<Command>) {
        let record = self.jobs.remove(slot);
        out.push(Command::Expire { key: record.job.key });
    }

    pub(crate) fn fail(&mut self, slot: JobSlot, reason: Reason, out: &mut Vec<Command>) {
        let record = self.jobs.remove(slot);
        out.push(Command::Fail { key: record.job.key, reason });
    }
}
