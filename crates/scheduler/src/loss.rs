//! Devices and lanes that come, close and die, and places for the jobs that they leave behind.

use sensorium_wire::{Modality, Reason};

use crate::DEATHS_ALONE_MAX;
use crate::device::Device;
use crate::event::{Command, Handled};
use crate::jobs::{JobSlot, Place};
use crate::lane::{Lane, LaneSlot};
use crate::plan::DeviceKind;
use crate::queue::Entry;
use crate::scheduler::Scheduler;
use crate::service::{Learned, ModelPolicy};
use crate::streams::Course;
use crate::types::{DeviceId, LaneId, ModelKey};

/// Slowest and fastest that a device can say it is, in percent of the measured times.
const TIME_PERCENT: std::ops::RangeInclusive<u32> = 10..=2_000;

impl Scheduler {
    pub(crate) fn device_added(&mut self, device: DeviceId, kind: DeviceKind, lanes_at_once_max: usize) -> Handled {
        if self.devices.contains_key(&device) {
            return Handled::Duplicate;
        }
        self.devices.insert(device, Device::new(kind, lanes_at_once_max));
        self.planner.devices_changed();
        Handled::Applied
    }

    pub(crate) fn lane_opened(
        &mut self,
        id: LaneId,
        device: DeviceId,
        modality: Modality,
        models: &[(ModelKey, ModelPolicy)],
        out: &mut Vec<Command>,
    ) -> Handled {
        if self.lane_slots.contains_key(&id) {
            return Handled::Duplicate;
        }
        let mut lane = Lane::new(id, device, modality, models);
        let slot = self.lane_slots_free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            LaneSlot::try_from(self.lanes.len() - 1).expect("far fewer than 2^32 lanes fit into memory")
        });
        let pool = self.pools.find(modality, lane.models.iter().map(|model| model.key).collect());
        lane.pool = (pool, self.pools.get_mut(pool).enter(slot));
        for served in &mut lane.models {
            let model = self.models.entry(served.key).or_default();
            model.lanes.push(slot);
            if !model.pools.contains(&pool) {
                model.pools.push(pool);
            }
            served.noted_ns = self.now_ns;
            served.times.reserve.begin(self.now_ns);
        }
        let state = self.devices.entry(device).or_default();
        state.lanes.push(slot);
        lane.share_permille = state.shares.of(modality);
        if state.time_percent != 100 {
            let percent = u64::from(state.time_percent);
            lane.models.iter_mut().for_each(|model| model.times.scale(percent));
        }
        self.lanes[slot as usize] = Some(lane);
        self.lane_slots.insert(id, slot);
        self.planner.devices_changed();
        self.dispatch(device, out);
        Handled::Applied
    }

    /// What a lane has learned about its models, to be kept for the next one; empty when there is no such lane.
    #[must_use]
    pub fn learned(&self, lane: LaneId) -> Vec<(ModelKey, Learned)> {
        let Some(slot) = self.lane_slots.get(&lane) else {
            return Vec::new();
        };
        self.lane(*slot).models.iter().map(|model| (model.key, model.times.learned())).collect()
    }

    /// The device says how fast it is. What was learned is scaled by the change.
    pub(crate) fn load_report(&mut self, device: DeviceId, time_percent: u32) -> Handled {
        let Some(state) = self.devices.get_mut(&device) else {
            return Handled::Stale;
        };
        let now = time_percent.clamp(*TIME_PERCENT.start(), *TIME_PERCENT.end());
        let was = std::mem::replace(&mut state.time_percent, now);
        if now != was {
            let percent = 100 * u64::from(now) / u64::from(was);
            for slot in state.lanes.clone() {
                self.lane_mut(slot).models.iter_mut().for_each(|model| model.times.scale(percent));
                self.touch(slot);
            }
        }
        Handled::Applied
    }

    pub(crate) fn lane_closed(&mut self, id: LaneId, out: &mut Vec<Command>) -> Handled {
        let Some(slot) = self.lane_slots.get(&id).copied() else {
            return Handled::Stale;
        };
        let lane = self.lane_mut(slot);
        lane.closing = true;
        let (device, idle) = (lane.device, lane.committed.is_empty());
        let queued = self.withdraw(slot);
        self.device_mut(device).lost_ns = self.now_ns;
        if idle {
            self.forget_lane(slot);
        }
        self.place_again(&queued);
        self.planner.devices_changed();
        self.dispatch_all(out);
        Handled::Applied
    }

    pub(crate) fn device_lost(&mut self, device: DeviceId, out: &mut Vec<Command>) -> Handled {
        let now_ns = self.now_ns;
        let Some(state) = self.devices.get_mut(&device) else {
            return Handled::Stale;
        };
        state.replacing = false;
        state.lost_ns = now_ns;
        // The next worker starts afresh.
        state.time_percent = 100;
        let alone = state.suspect_batch.take();
        let lanes = state.lanes.clone();
        let mut innocent: Vec<Entry> = Vec::new();
        let mut suspects: Vec<JobSlot> = Vec::new();
        for slot in lanes {
            innocent.extend(self.withdraw(slot));
            let committed = std::mem::take(&mut self.lane_mut(slot).committed);
            for (index, batch) in committed.into_iter().enumerate() {
                let ran_alone = alone == Some(batch.id);
                for job in batch.jobs {
                    let record = self.jobs.get_mut(job);
                    if record.cancelled {
                        self.forget_job(job);
                    } else if index == 0 {
                        record.deaths_alone += u8::from(ran_alone);
                        suspects.push(job);
                    } else {
                        // Batches of a lane run in order, so this one cannot have been started.
                        record.attempt -= u32::from(record.slices == 0);
                        record.start_over();
                        innocent.push(record.entry);
                    }
                }
            }
            self.forget_lane(slot);
        }
        for job in suspects {
            let record = self.jobs.get_mut(job);
            record.start_over();
            if record.deaths_alone >= DEATHS_ALONE_MAX {
                self.fail(job, Reason::Poisoned, out);
            } else {
                record.place = Place::Suspect { device };
                let entry = record.entry;
                self.add_suspect(device, entry);
            }
        }
        innocent.sort_unstable();
        self.place_again(&innocent);
        self.planner.devices_changed();
        self.dispatch_all(out);
        Handled::Applied
    }

    pub(crate) fn add_suspect(&mut self, device: DeviceId, entry: Entry) {
        self.device_mut(device).suspects.insert(entry);
        self.with_suspects.insert(device);
    }

    pub(crate) fn take_suspect(&mut self, device: DeviceId, entry: &Entry) {
        let suspects = &mut self.device_mut(device).suspects;
        suspects.remove(entry);
        if suspects.is_empty() {
            self.with_suspects.remove(&device);
        }
    }

    /// Takes a lane off its models and its jobs out of its queues. What was done of them in slices is lost with it.
    fn withdraw(&mut self, slot: LaneSlot) -> Vec<Entry> {
        let now_ns = self.now_ns;
        let lane = self.lanes[slot as usize].as_mut().expect("a device's lanes are here");
        let mut queued = Vec::with_capacity(lane.queued);
        lane.queued = 0;
        lane.class_jobs = [0; crate::lane::CLASSES];
        self.pools.get_mut(lane.pool.0).leave(lane.pool.1);
        for served in &mut lane.models {
            queued.extend(served.queues.iter_mut().flat_map(crate::queue::EdfQueue::drain));
            if let Some(model) = self.models.get_mut(&served.key) {
                // A lane that is closing has been taken off already.
                if let Some(index) = model.lanes.iter().position(|other| *other == slot) {
                    model.lanes.remove(index);
                    model.lost_ns = Some(now_ns);
                }
            }
        }
        for entry in &queued {
            self.jobs.get_mut(entry.slot).start_over();
        }
        queued.sort_unstable();
        queued
    }

    /// Finds a place for jobs that were accepted before, in the order of their entries: the best lane that has room, or
    /// else their model's queue. Promises are kept, so nothing is refused here. A job of a stream stays behind its
    /// predecessor.
    pub(crate) fn place_again(&mut self, entries: &[Entry]) {
        // None of them is in a lane now, so none can be followed before it has found its place.
        for entry in entries {
            self.jobs.get_mut(entry.slot).place = Place::Waiting;
        }
        for entry in entries {
            let slot = entry.slot;
            let lane = match self.course(slot) {
                Course::Free => self.lane_again(slot),
                Course::Follow(lane) if self.lane(lane).queued < self.settings.queue_jobs_max => Some(lane),
                Course::Follow(_) | Course::Hold => {
                    self.hold(slot);
                    continue;
                }
            };
            if let Some(lane) = lane {
                self.enqueue(slot, lane);
            } else {
                let record = self.jobs.get_mut(slot);
                record.place = Place::Waiting;
                let (model, entry) = (record.job.model, record.entry);
                self.models.entry(model).or_default().waiting.insert(entry);
                self.waiting += 1;
            }
        }
    }

    /// Removes a lane that holds no jobs.
    pub(crate) fn forget_lane(&mut self, slot: LaneSlot) {
        let Some(lane) = self.lanes[slot as usize].take() else {
            return;
        };
        debug_assert!(lane.committed.is_empty() && lane.queued == 0, "its jobs were taken out first");
        self.wakes.remove(&(lane.wake_ns, slot));
        self.lane_slots.remove(&lane.id);
        self.device_mut(lane.device).lanes.retain(|other| *other != slot);
        self.lane_slots_free.push(slot);
    }

    pub(crate) fn dispatch_all(&mut self, out: &mut Vec<Command>) {
        let devices: Vec<DeviceId> = self.devices.keys().copied().collect();
        for device in devices {
            self.dispatch(device, out);
        }
    }
}

#[cfg(test)]
mod tests;
