//! Lanes that open, close and die, and what passes with time: expiry, hung batches, waits that were in vain.

use sensorium_wire::{Modality, Reason};

use crate::DEATHS_ALONE_MAX;
use crate::event::{Command, Handled, Hung};
use crate::jobs::{JobSlot, Place};
use crate::lane::{Lane, LaneSlot};
use crate::queue::Entry;
use crate::scheduler::Scheduler;
use crate::service::ModelPolicy;
use crate::types::{DeviceId, LaneId, ModelKey};

impl Scheduler {
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
        let lane = Lane::new(id, device, modality, models);
        let slot = self.lane_slots_free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            LaneSlot::try_from(self.lanes.len() - 1).expect("far fewer than 2^32 lanes fit into memory")
        });
        for model in &lane.models {
            self.models.entry(model.key).or_default().lanes.push(slot);
        }
        self.lanes[slot as usize] = Some(lane);
        self.lane_slots.insert(id, slot);
        self.devices.entry(device).or_default().lanes.push(slot);
        self.dispatch(device, out);
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
                        self.jobs.remove(job);
                    } else if index == 0 {
                        record.deaths_alone += u8::from(ran_alone);
                        suspects.push(job);
                    } else {
                        // Batches of a lane run in order, so this one cannot have been started.
                        record.attempt -= 1;
                        innocent.push(record.entry);
                    }
                }
            }
            self.forget_lane(slot);
        }
        for job in suspects {
            let record = self.jobs.get_mut(job);
            if record.deaths_alone >= DEATHS_ALONE_MAX {
                self.fail(job, Reason::Poisoned, out);
            } else {
                record.place = Place::Suspect { device };
                let entry = record.entry;
                self.device_mut(device).suspects.insert(entry);
            }
        }
        self.place_again(&innocent);
        self.dispatch_all(out);
        Handled::Applied
    }

    pub(crate) fn tick(&mut self, out: &mut Vec<Command>) {
        let mut expired: Vec<JobSlot> = Vec::new();
        let (jobs, now_ns) = (&self.jobs, self.now_ns);
        let has_expired = |entry: &Entry| jobs.get(entry.slot).job.deadline_ns <= now_ns;
        for lane in self.lanes.iter_mut().flatten() {
            for model in &mut lane.models {
                let before = model.queue.len();
                model.queue.take_expired(now_ns, |entry| {
                    let gone = has_expired(entry);
                    expired.extend(gone.then_some(entry.slot));
                    gone
                });
                lane.queued -= before - model.queue.len();
            }
        }
        for model in self.models.values_mut() {
            let before = model.waiting.len();
            model.waiting.take_expired(now_ns, |entry| {
                let gone = has_expired(entry);
                expired.extend(gone.then_some(entry.slot));
                gone
            });
            self.waiting -= before - model.waiting.len();
        }
        for slot in expired {
            self.expire(slot, out);
        }
        let devices: Vec<DeviceId> = self.devices.keys().copied().collect();
        for device in devices {
            self.expire_suspects(device, out);
            self.replace_if_hung(device, out);
        }
        self.give_up_waits(out);
        self.dispatch_all(out);
    }

    pub(crate) fn expire_suspects(&mut self, device: DeviceId, out: &mut Vec<Command>) {
        let mut expired: Vec<JobSlot> = Vec::new();
        let (jobs, now_ns) = (&self.jobs, self.now_ns);
        let Some(state) = self.devices.get_mut(&device) else {
            return;
        };
        state.suspects.take_expired(now_ns, |entry| {
            let gone = jobs.get(entry.slot).job.deadline_ns <= now_ns;
            expired.extend(gone.then_some(entry.slot));
            gone
        });
        for slot in expired {
            self.expire(slot, out);
        }
    }

    fn replace_if_hung(&mut self, device: DeviceId, out: &mut Vec<Command>) {
        let now_ns = self.now_ns;
        let state = &self.devices[&device];
        if state.replacing {
            return;
        }
        let hung = state.lanes.iter().find_map(|slot| {
            let lane = self.lane(*slot);
            let running = lane.committed.front()?;
            let over = running.run_ns_max > 0 && now_ns.saturating_sub(running.started_ns) > running.run_ns_max;
            over.then_some(Hung { lane: lane.id, batch: running.id, limit_ns: running.run_ns_max })
        });
        if let Some(why) = hung {
            self.device_mut(device).replacing = true;
            out.push(Command::ReplaceWorker { device, why });
        }
    }

    /// Ends the wait of jobs whose lane did not come back in time. Suspects go to another device if there is one.
    fn give_up_waits(&mut self, out: &mut Vec<Command>) {
        let (now_ns, wait_ns) = (self.now_ns, self.settings.restart_wait_ns);
        let mut failed: Vec<JobSlot> = Vec::new();
        for model in self.models.values_mut() {
            let over = model.lost_ns.is_none_or(|lost_ns| now_ns >= lost_ns.saturating_add(wait_ns));
            if over && model.lanes.is_empty() && !model.waiting.is_empty() {
                self.waiting -= model.waiting.len();
                failed.extend(model.waiting.drain().map(|entry| entry.slot));
            }
        }
        let mut moved: Vec<(Entry, DeviceId, DeviceId)> = Vec::new();
        for (device, state) in &self.devices {
            if state.suspects.is_empty() || now_ns < state.lost_ns.saturating_add(wait_ns) {
                continue;
            }
            for entry in state.suspects.iter() {
                let lanes = self.models.get(&self.jobs.get(entry.slot).job.model).map_or(&[][..], |model| &model.lanes);
                let mut serving = lanes.iter().map(|slot| self.lane(*slot).device);
                if serving.clone().all(|other| other != *device) {
                    match serving.next() {
                        Some(other) => moved.push((*entry, *device, other)),
                        None => failed.push(entry.slot),
                    }
                }
            }
        }
        for (entry, from, to) in moved {
            self.device_mut(from).suspects.remove(&entry);
            self.device_mut(to).suspects.insert(entry);
            self.jobs.get_mut(entry.slot).place = Place::Suspect { device: to };
        }
        for slot in failed {
            let record = self.jobs.get(slot);
            if let Place::Suspect { device } = record.place {
                let entry = record.entry;
                self.device_mut(device).suspects.remove(&entry);
            }
            self.fail(slot, Reason::ModelUnavailable, out);
        }
    }

    /// Takes a lane off its models and its jobs out of its queues.
    fn withdraw(&mut self, slot: LaneSlot) -> Vec<Entry> {
        let now_ns = self.now_ns;
        let lane = self.lanes[slot as usize].as_mut().expect("a device's lanes are here");
        let mut queued = Vec::with_capacity(lane.queued);
        lane.queued = 0;
        for model in &mut lane.models {
            queued.extend(model.queue.drain());
            if let Some(model) = self.models.get_mut(&model.key) {
                // A lane that is closing has been taken off already.
                if let Some(index) = model.lanes.iter().position(|other| *other == slot) {
                    model.lanes.remove(index);
                    model.lost_ns = Some(now_ns);
                }
            }
        }
        queued
    }

    /// Finds a place for accepted jobs that lost theirs: the lane that would do them first, or the model's own queue.
    fn place_again(&mut self, entries: &[Entry]) {
        for entry in entries {
            let job = self.jobs.get(entry.slot).job;
            let best = self.models.get(&job.model).and_then(|model| self.best_lane(self.now_ns, model, &job, entry));
            let place = if let Some((slot, _)) = best {
                let lane = self.lane_mut(slot);
                let model = lane.model_index(job.model).expect("a model's lanes serve it");
                lane.enqueue(model, *entry);
                Place::Queued { lane: slot }
            } else {
                self.models.entry(job.model).or_default().waiting.insert(*entry);
                self.waiting += 1;
                Place::Waiting
            };
            self.jobs.get_mut(entry.slot).place = place;
        }
    }

    /// Removes a lane that holds no jobs.
    pub(crate) fn forget_lane(&mut self, slot: LaneSlot) {
        let Some(lane) = self.lanes[slot as usize].take() else {
            return;
        };
        debug_assert!(lane.committed.is_empty() && lane.queued == 0, "its jobs were taken out first");
        self.lane_slots.remove(&lane.id);
        self.device_mut(lane.device).lanes.retain(|other| *other != slot);
        self.lane_slots_free.push(slot);
    }

    fn dispatch_all(&mut self, out: &mut Vec<Command>) {
        let devices: Vec<DeviceId> = self.devices.keys().copied().collect();
        for device in devices {
            self.dispatch(device, out);
        }
    }
}

#[cfg(test)]
mod tests;
