//! Batches that end: what they teach, and what comes next.

use crate::event::{Command, Handled};
use crate::jobs::{JobSlot, Place};
use crate::lane::{CommittedBatch, LaneSlot};
use crate::queue::Entry;
use crate::scheduler::Scheduler;
use crate::types::{BatchId, JobKey, LaneId};

/// A batch that ended in less than this share of what was expected of a probe contradicts what was learned, in percent.
const CONTRADICTED_BELOW_PERCENT: u64 = 80;

impl Scheduler {
    pub(crate) fn batch_done(
        &mut self,
        lane: LaneId,
        batch: BatchId,
        service_ns: u64,
        unfinished: &[JobKey],
        out: &mut Vec<Command>,
    ) -> Handled {
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
        let device = lane.device;
        self.spend(slot, service_ns);
        // What counts for the next prediction is the time until the answer is here, not only the worker's part of it; a
        // clock that jumped does not count.
        let elapsed_ns = now_ns.saturating_sub(done.started_ns);
        let took_ns = elapsed_ns.clamp(service_ns, service_ns.saturating_mul(2).saturating_add(1_000_000));
        let suspect = self.device_mut(device).suspect_batch == Some(batch);
        if suspect {
            self.device_mut(device).suspect_batch = None;
        }
        self.learn(slot, &done, took_ns, unfinished);
        let homeless = self.end_jobs(slot, &done, took_ns, unfinished, suspect);
        let lane = self.lane(slot);
        if lane.closing && lane.committed.is_empty() {
            self.forget_lane(slot);
        }
        self.place_and_dispatch(&homeless, out);
        self.dispatch(device, out);
        Handled::Applied
    }

    fn learn(&mut self, slot: LaneSlot, done: &CommittedBatch, took_ns: u64, unfinished: &[JobKey]) {
        let now_ns = self.now_ns;
        let (mut sliced_ns, mut probe) = (0, false);
        for job in &done.jobs {
            let record = self.jobs.get(*job);
            sliced_ns = sliced_ns.max(record.sliced_ns);
            probe |= record.probe;
        }
        let model = &mut self.lane_mut(slot).models[done.model];
        model.noted_ns = now_ns;
        // A part of a job says nothing about whole ones; its last slice ends the sum.
        if !unfinished.is_empty() {
            return;
        }
        let took_ns = took_ns.saturating_add(sliced_ns);
        let expected_ns = model.times.expected_ns(done.jobs.len(), done.work);
        if probe && took_ns < expected_ns / 100 * CONTRADICTED_BELOW_PERCENT {
            model.times.doubt();
        }
        model.times.note(done.jobs.len(), done.work, took_ns);
    }

    fn end_jobs(
        &mut self,
        slot: LaneSlot,
        done: &CommittedBatch,
        took_ns: u64,
        unfinished: &[JobKey],
        suspect: bool,
    ) -> Vec<Entry> {
        let mut completed = 0;
        let mut homeless: Vec<Entry> = Vec::new();
        for job in &done.jobs {
            let record = self.jobs.get(*job);
            if record.cancelled || !unfinished.contains(&record.job.key) {
                let on_time = record.job.deadline_ns >= self.now_ns;
                self.count_promise(slot, done.model, *job, on_time);
                completed += u64::from(!self.forget_job(*job).cancelled);
            } else {
                homeless.extend(self.continue_later(*job, slot, took_ns, suspect));
            }
        }
        self.lane_mut(slot).jobs_completed += completed;
        homeless
    }

    /// A job's slice ended: it queues again in the same lane, whose worker holds what was done. When the lane is closing
    /// that is lost, and its entry is given back.
    fn continue_later(&mut self, job: JobSlot, slot: LaneSlot, took_ns: u64, suspect: bool) -> Option<Entry> {
        let lane = self.lane(slot);
        let (closing, device) = (lane.closing, lane.device);
        let record = self.jobs.get_mut(job);
        record.slices += 1;
        record.sliced_ns = record.sliced_ns.saturating_add(took_ns);
        let entry = record.entry;
        if suspect {
            record.place = Place::Suspect { device };
            self.add_suspect(device, entry);
            return None;
        }
        if closing {
            record.start_over();
            return Some(entry);
        }
        self.enqueue(job, slot);
        None
    }
}
