//! From queues to batches: at most two committed per lane, and a suspect alone on its device.

use smallvec::SmallVec;

use crate::COMMITTED_BATCHES_MAX;
use crate::event::{BatchJobs, BatchedJob, Command};
use crate::jobs::{JobSlot, Place};
use crate::lane::{CommittedBatch, LaneSlot};
use crate::queue::Entry;
use crate::scheduler::Scheduler;
use crate::types::{BatchId, DeviceId};

/// A suspect that could run now, and where.
#[derive(Clone, Copy)]
struct Runnable {
    entry: Entry,
    lane: LaneSlot,
    model: usize,
}

impl Scheduler {
    /// Commits what the device's lanes have room for.
    ///
    /// A suspect takes its turn by deadline: lanes still commit what is due before it, then they run dry, then it runs
    /// with nothing beside it.
    pub(crate) fn dispatch(&mut self, device: DeviceId, out: &mut Vec<Command>) {
        let Some(state) = self.devices.get(&device) else {
            return;
        };
        if state.replacing || state.suspect_batch.is_some() {
            return;
        }
        let suspect = if state.suspects.is_empty() { None } else { self.next_suspect(device, out) };
        let lanes = self.devices[&device].lanes.len();
        for index in 0..lanes {
            let slot = self.devices[&device].lanes[index];
            loop {
                if self.waiting > 0 {
                    self.refill(slot);
                }
                if !self.commit_batch(slot, suspect.as_ref(), out) {
                    break;
                }
            }
        }
        if let Some(suspect) = suspect {
            let lanes = &self.devices[&device].lanes;
            if lanes.iter().all(|slot| self.lane(*slot).committed.is_empty()) {
                self.device_mut(device).suspects.remove(&suspect.entry);
                let batch = self.commit(suspect.lane, suspect.model, &[suspect.entry.slot], out);
                self.device_mut(device).suspect_batch = Some(batch);
            }
        }
    }

    /// The earliest suspect that a lane of the device can take. Those whose deadline has passed end here.
    fn next_suspect(&mut self, device: DeviceId, out: &mut Vec<Command>) -> Option<Runnable> {
        self.expire_suspects(device, out);
        let state = &self.devices[&device];
        state.suspects.iter().find_map(|entry| {
            let key = self.jobs.get(entry.slot).job.model;
            let serving = |slot: &LaneSlot| {
                let lane = self.lane(*slot);
                if lane.closing { None } else { lane.model_index(key).map(|model| (*slot, model)) }
            };
            let (lane, model) = state.lanes.iter().find_map(serving)?;
            Some(Runnable { entry: *entry, lane, model })
        })
    }

    /// Moves waiting jobs of the lane's models into the room that it has.
    pub(crate) fn refill(&mut self, slot: LaneSlot) {
        let lane = self.lanes[slot as usize].as_mut().expect("a device's lanes are here");
        if lane.closing {
            return;
        }
        for index in 0..lane.models.len() {
            let Some(model) = self.models.get_mut(&lane.models[index].key) else {
                continue;
            };
            while lane.queued < self.settings.queue_jobs_max {
                let Some(entry) = model.waiting.pop_first() else {
                    break;
                };
                self.waiting -= 1;
                self.jobs.get_mut(entry.slot).place = Place::Queued { lane: slot };
                lane.enqueue(index, entry);
            }
        }
    }

    /// Commits one batch if the lane has a credit and a job that is due before the suspect that waits for its turn.
    fn commit_batch(&mut self, slot: LaneSlot, suspect: Option<&Runnable>, out: &mut Vec<Command>) -> bool {
        let lane = self.lane(slot);
        if lane.closing || lane.committed.len() >= COMMITTED_BATCHES_MAX {
            return false;
        }
        let Some((model, head)) = self.next_head(slot, out) else {
            return false;
        };
        if suspect.is_some_and(|suspect| suspect.entry < head) {
            return false;
        }
        let lane = self.lane(slot);
        let begin_ns = self.now_ns.saturating_add(lane.committed_ns(self.now_ns));
        let left_ns = self.jobs.get(head.slot).job.deadline_ns.saturating_sub(begin_ns);
        let queue = &lane.models[model];
        let size = queue.times.fitting(queue.queue.len(), left_ns);
        let mut jobs: SmallVec<[JobSlot; 8]> = SmallVec::new();
        while jobs.len() < size {
            let Some(entry) = self.lane_mut(slot).pop_first(model) else {
                break;
            };
            if self.expired(&entry) {
                self.expire(entry.slot, out);
            } else {
                jobs.push(entry.slot);
            }
        }
        self.commit(slot, model, &jobs, out);
        true
    }

    /// The lane's earliest job that has not expired, and its model; those that have expired end here.
    fn next_head(&mut self, slot: LaneSlot, out: &mut Vec<Command>) -> Option<(usize, Entry)> {
        loop {
            let (model, head) = self.lane(slot).head()?;
            if !self.expired(&head) {
                return Some((model, head));
            }
            self.lane_mut(slot).pop_first(model);
            self.expire(head.slot, out);
        }
    }

    fn commit(&mut self, slot: LaneSlot, model: usize, jobs: &[JobSlot], out: &mut Vec<Command>) -> BatchId {
        self.batches += 1;
        let batch = BatchId(self.batches);
        let mut batched = BatchJobs::new();
        for job in jobs {
            let record = self.jobs.get_mut(*job);
            record.place = Place::Committed { lane: slot };
            record.attempt += 1;
            batched.push(BatchedJob { key: record.job.key, attempt: record.attempt, slice: 0 });
        }
        let started_ns = self.now_ns;
        let lane = self.lane_mut(slot);
        let predicted_ns = lane.models[model].times.p50_ns(jobs.len());
        let run_ns_max = lane.models[model].run_ns_max;
        lane.committed.push_back(CommittedBatch {
            id: batch,
            jobs: jobs.iter().copied().collect(),
            started_ns,
            predicted_ns,
            run_ns_max,
        });
        out.push(Command::Dispatch { lane: lane.id, batch, model: lane.models[model].key, jobs: batched, epoch: 0, predicted_ns });
        batch
    }
}

#[cfg(test)]
mod tests;
