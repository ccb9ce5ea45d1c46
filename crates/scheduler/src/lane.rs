//! One lane: its queues by model, and what is committed to its worker.

use std::collections::VecDeque;

use sensorium_wire::Modality;
use smallvec::SmallVec;

use crate::COMMITTED_BATCHES_MAX;
use crate::jobs::JobSlot;
use crate::queue::{EdfQueue, Entry};
use crate::service::{ModelPolicy, ServiceTimes};
use crate::types::{BatchId, DeviceId, LaneId, ModelKey};

/// Index into the table of lanes; reused after the lane has gone.
pub(crate) type LaneSlot = u32;

#[derive(Clone, Debug)]
pub(crate) struct LaneModel {
    pub(crate) key: ModelKey,
    pub(crate) times: ServiceTimes,
    pub(crate) run_ns_max: u64,
    pub(crate) queue: EdfQueue,
}

#[derive(Clone, Debug)]
pub(crate) struct CommittedBatch {
    pub(crate) id: BatchId,
    pub(crate) jobs: SmallVec<[JobSlot; 8]>,
    /// When it was dispatched or the batch before it ended, whichever is later.
    pub(crate) started_ns: u64,
    pub(crate) predicted_ns: u64,
    pub(crate) run_ns_max: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    pub(crate) device: DeviceId,
    pub(crate) modality: Modality,
    pub(crate) models: Vec<LaneModel>,
    /// Oldest first; only the first can have been started.
    pub(crate) committed: VecDeque<CommittedBatch>,
    pub(crate) queued: usize,
    pub(crate) closing: bool,
    pub(crate) jobs_completed: u64,
    pub(crate) batches_completed: u64,
    pub(crate) busy_ns: u64,
}

impl Lane {
    pub(crate) fn new(id: LaneId, device: DeviceId, modality: Modality, models: &[(ModelKey, ModelPolicy)]) -> Self {
        let mut lane_models: Vec<LaneModel> = Vec::with_capacity(models.len());
        for (key, policy) in models {
            // A model that is named twice is served once, by its first policy.
            if lane_models.iter().all(|model| model.key != *key) {
                lane_models.push(LaneModel {
                    key: *key,
                    times: ServiceTimes::new(policy),
                    run_ns_max: policy.run_ns_max,
                    queue: EdfQueue::default(),
                });
            }
        }
        Self {
            id,
            device,
            modality,
            models: lane_models,
            committed: VecDeque::with_capacity(COMMITTED_BATCHES_MAX),
            queued: 0,
            closing: false,
            jobs_completed: 0,
            batches_completed: 0,
            busy_ns: 0,
        }
    }

    pub(crate) fn model_index(&self, key: ModelKey) -> Option<usize> {
        self.models.iter().position(|model| model.key == key)
    }

    pub(crate) fn enqueue(&mut self, model: usize, entry: Entry) {
        self.models[model].queue.insert(entry);
        self.queued += 1;
    }

    pub(crate) fn dequeue(&mut self, key: ModelKey, entry: &Entry) {
        let found = self.models.iter_mut().any(|model| model.key == key && model.queue.remove(entry));
        debug_assert!(found, "a queued job is in the queue of its lane");
        self.queued -= usize::from(found);
    }

    /// The model whose first job is the earliest, and that job.
    pub(crate) fn head(&self) -> Option<(usize, Entry)> {
        if self.queued == 0 {
            return None;
        }
        let heads = self.models.iter().enumerate();
        heads.filter_map(|(index, model)| Some((index, *model.queue.first()?))).min_by_key(|(_, entry)| *entry)
    }

    pub(crate) fn pop_first(&mut self, model: usize) -> Option<Entry> {
        let entry = self.models[model].queue.pop_first();
        self.queued -= usize::from(entry.is_some());
        entry
    }

    /// What is left of the committed batches, by their predictions.
    pub(crate) fn committed_ns(&self, now_ns: u64) -> u64 {
        let Some(running) = self.committed.front() else {
            return 0;
        };
        let left_ns = running.predicted_ns.saturating_sub(now_ns.saturating_sub(running.started_ns));
        self.committed.iter().skip(1).fold(left_ns, |total, batch| total.saturating_add(batch.predicted_ns))
    }

    /// Everything committed and queued.
    pub(crate) fn backlog_ns(&self, now_ns: u64) -> u64 {
        let queued = self.models.iter().map(|model| model.times.backlog_ns(model.queue.len()));
        queued.fold(self.committed_ns(now_ns), u64::saturating_add)
    }

    /// How long until a job at this place in the order would be done: what is committed, what is ahead of it, and its
    /// own batch, which is taken at the 99th percentile.
    pub(crate) fn completion_ns(&self, now_ns: u64, model: usize, entry: &Entry) -> u64 {
        let mut total = self.committed_ns(now_ns);
        for (index, other) in self.models.iter().enumerate() {
            let ahead = other.queue.ahead_of(entry);
            if index == model {
                let together = ahead % other.times.batch_max();
                total = total
                    .saturating_add(other.times.backlog_ns(ahead - together))
                    .saturating_add(other.times.p99_ns(together + 1));
            } else if ahead > 0 {
                total = total.saturating_add(other.times.backlog_ns(ahead));
            }
        }
        total
    }
}
