//! One lane: its queues by model and class of urgency, and what is committed to its worker.

use std::collections::VecDeque;

use sensorium_wire::Modality;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::COMMITTED_BATCHES_MAX;
use crate::jobs::JobSlot;
use crate::prediction::Prediction;
use crate::queue::{EdfQueue, Entry};
use crate::service::{ModelPolicy, ServiceTimes};
use crate::types::{BatchId, DeviceId, LaneId, ModelKey};

/// Index into the table of lanes; reused after the lane has gone.
pub(crate) type LaneSlot = u32;
/// Classes of urgency, most urgent first.
pub(crate) const CLASSES: usize = 4;
/// Most that a class can be owed, in nanoseconds: after a long wait it does not take over the lane.
const CREDIT_NS_MAX: u64 = 1_000_000_000;
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LaneModel {
    pub(crate) key: ModelKey,
    pub(crate) times: ServiceTimes,
    pub(crate) run_ns_max: u64,
    pub(crate) batch_wait_ns: u64,
    pub(crate) slice_ns: u64,
    pub(crate) queues: [EdfQueue; CLASSES],
    pub(crate) arrivals: Arrivals,
    /// When a batch last ended or a probe was let in.
    pub(crate) noted_ns: u64,
}

/// How fast jobs arrive, for the question whether waiting for another is worth it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Arrivals {
    last_ns: u64,
    /// Moving mean of the time between two; 0 = unknown.
    pub(crate) gap_ns: u64,
    /// Since when a batch waits for more; 0 = none does.
    pub(crate) waiting_since_ns: u64,
}

impl Arrivals {
    pub(crate) fn note(&mut self, now_ns: u64) {
        if self.last_ns > 0 {
            let gap_ns = now_ns.saturating_sub(self.last_ns);
            self.gap_ns = if self.gap_ns == 0 { gap_ns } else { self.gap_ns - self.gap_ns / 8 + gap_ns / 8 };
        }
        self.last_ns = now_ns;
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CommittedBatch {
    pub(crate) id: BatchId,
    pub(crate) jobs: SmallVec<[JobSlot; 8]>,
    /// Index into the lane's models.
    pub(crate) model: usize,
    /// Of its largest job.
    pub(crate) work: u64,
    /// When it was dispatched or the batch before it ended, whichever is later.
    pub(crate) started_ns: u64,
    pub(crate) predicted_ns: u64,
    pub(crate) spread_ns: u64,
    pub(crate) run_ns_max: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    pub(crate) device: DeviceId,
    pub(crate) modality: Modality,
    pub(crate) models: Vec<LaneModel>,
    /// Oldest first; only the first can have been started.
    pub(crate) committed: VecDeque<CommittedBatch>,
    pub(crate) queued: usize,
    pub(crate) class_jobs: [usize; CLASSES],
    /// Time that a class is owed by those above it.
    pub(crate) credit_ns: [u64; CLASSES],
    /// Of the device, in thousandths.
    pub(crate) share_permille: u16,
    /// Time it used, divided by its share: the lane of a crowded device with the least comes next.
    pub(crate) spent_ns: u64,
    /// Pool of interchangeable lanes, and its place there.
    pub(crate) pool: (usize, usize),
    pub(crate) closing: bool,
    /// When it wants to be looked at; `u64::MAX` = never.
    pub(crate) wake_ns: u64,
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
                    batch_wait_ns: policy.batch_wait_ns,
                    slice_ns: policy.slice_ns,
                    queues: Default::default(),
                    arrivals: Arrivals::default(),
                    noted_ns: 0,
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
            class_jobs: [0; CLASSES],
            credit_ns: [0; CLASSES],
            share_permille: crate::plan::Shares::default().of(modality),
            spent_ns: 0,
            pool: (0, 0),
            closing: false,
            wake_ns: u64::MAX,
            jobs_completed: 0,
            batches_completed: 0,
            busy_ns: 0,
        }
    }

    pub(crate) fn model_index(&self, key: ModelKey) -> Option<usize> {
        self.models.iter().position(|model| model.key == key)
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.queued > 0 || !self.committed.is_empty()
    }

    pub(crate) fn enqueue(&mut self, model: usize, class: usize, entry: Entry) {
        self.models[model].queues[class].insert(entry);
        self.queued += 1;
        self.class_jobs[class] += 1;
    }

    pub(crate) fn dequeue(&mut self, key: ModelKey, class: usize, entry: &Entry) -> Option<Entry> {
        let index = self.model_index(key)?;
        let found = self.models[index].queues[class].remove(entry)?;
        self.left(class, 1);
        Some(found)
    }

    pub(crate) fn pop_first(&mut self, model: usize, class: usize) -> Option<Entry> {
        let entry = self.models[model].queues[class].pop_first()?;
        self.left(class, 1);
        Some(entry)
    }

    /// So many jobs of a class were taken out of its queues.
    pub(crate) fn left(&mut self, class: usize, jobs: usize) {
        self.queued -= jobs;
        self.class_jobs[class] -= jobs;
        if self.class_jobs[class] == 0 {
            self.credit_ns[class] = 0;
        }
    }

    /// The earliest job of a class, and its model.
    pub(crate) fn head(&self, class: usize) -> Option<(usize, Entry)> {
        if self.class_jobs[class] == 0 {
            return None;
        }
        let heads = self.models.iter().enumerate();
        heads.filter_map(|(index, model)| Some((index, *model.queues[class].first()?))).min_by_key(|(_, entry)| *entry)
    }

    /// Classes below the one that was served are owed their shares of the time; the served one has had it.
    pub(crate) fn charge(&mut self, class: usize, took_ns: u64, share_min_permille: &[u16; CLASSES]) {
        for (other, share) in share_min_permille.iter().enumerate() {
            if other == class {
                self.credit_ns[other] = self.credit_ns[other].saturating_sub(took_ns);
            } else if self.class_jobs[other] > 0 {
                let owed_ns = took_ns.saturating_mul(u64::from(*share)) / 1000;
                self.credit_ns[other] = self.credit_ns[other].saturating_add(owed_ns).min(CREDIT_NS_MAX);
            }
        }
    }

    /// What is left of the committed batches. One that takes longer than predicted is expected to end within its
    /// spread, and after that any moment.
    pub(crate) fn committed(&self, now_ns: u64) -> Prediction {
        let mut prediction = Prediction::default();
        for (index, batch) in self.committed.iter().enumerate() {
            if index > 0 {
                prediction.add(batch.predicted_ns, batch.spread_ns);
                continue;
            }
            let elapsed_ns = now_ns.saturating_sub(batch.started_ns);
            if elapsed_ns < batch.predicted_ns {
                prediction.add(batch.predicted_ns - elapsed_ns, batch.spread_ns);
            } else {
                let over_ns = elapsed_ns - batch.predicted_ns;
                prediction.add(batch.predicted_ns / 16, batch.spread_ns.saturating_sub(over_ns));
            }
        }
        prediction
    }

    /// Everything committed and queued, at the median.
    pub(crate) fn backlog_ns(&self, now_ns: u64) -> u64 {
        let mut total_ns = self.committed(now_ns).expected_ns;
        if self.queued > 0 {
            for model in &self.models {
                total_ns = model.queues.iter().fold(total_ns, |sum, queue| sum.saturating_add(model.cost_ns(queue)));
            }
        }
        total_ns
    }

    /// When a job at this place in the order would be done: what is committed, what is ahead of it, its own batch.
    /// `stretch` is what queued work is lengthened by, in thousandths, because other lanes take turns with this one.
    pub(crate) fn completion(
        &self,
        now_ns: u64,
        place: &PlaceInLane<'_>,
        share_min_permille: &[u16; CLASSES],
        stretch_permille: u64,
    ) -> Prediction {
        let mut prediction = self.committed(now_ns);
        let mut queue = Prediction::default();
        for class in 0..place.class {
            if self.class_jobs[class] > 0 {
                for model in &self.models {
                    model.add_all(&model.queues[class], &mut queue);
                }
            }
        }
        let own = &self.models[place.model];
        // Jobs ahead that are in the same batch.
        let mut together = 0;
        for (index, model) in self.models.iter().enumerate() {
            let waiting = &model.queues[place.class];
            let ahead = waiting.ahead_of(place.entry);
            if index == place.model && model.times.gains() {
                together = ahead % model.times.batch_max();
                if ahead > together {
                    model.add_first(waiting, ahead - together, &mut queue);
                }
            } else if ahead > 0 {
                model.add_first(waiting, ahead, &mut queue);
            }
        }
        // Classes below have their turns in between.
        let lower = place.class + 1..CLASSES;
        let below: u64 =
            lower.filter(|class| self.class_jobs[*class] > 0).map(|class| u64::from(share_min_permille[class])).sum();
        // Later ones join it until it starts.
        let jobs = if own.times.gains() {
            let wait_ns = prediction.expected_ns.saturating_add(queue.expected_ns);
            let joining = wait_ns.checked_div(own.arrivals.gap_ns).unwrap_or(0);
            (together + 1).saturating_add(usize::try_from(joining).unwrap_or(usize::MAX)).min(own.times.batch_max())
        } else {
            1
        };
        let own_ns = own.times.expected_ns(jobs, place.work);
        let mut own_turn = Prediction::default();
        own_turn.add(own_ns, own.times.spread_ns(jobs, place.work));
        queue.stretch(1000, 1000 - below.min(900));
        queue.stretch(stretch_permille, 1000);
        own_turn.stretch(stretch_permille, 1000);
        prediction.append(&queue);
        prediction.append(&own_turn);
        prediction
    }
}

/// A job that asks for a place in a lane.
pub(crate) struct PlaceInLane<'a> {
    /// Index into the lane's models.
    pub(crate) model: usize,
    pub(crate) class: usize,
    pub(crate) entry: &'a Entry,
    pub(crate) work: u64,
}

impl LaneModel {
    /// What one more job adds: its own time, or its part of a full batch.
    pub(crate) fn unit_ns(&self, work: u64) -> u64 {
        if self.times.gains() {
            let jobs = self.times.batch_max();
            self.times.expected_ns(jobs, 0) / jobs as u64
        } else {
            self.times.expected_ns(1, work)
        }
    }

    /// How long a batch of it may hold the device.
    pub(crate) fn longest_batch_ns(&self) -> u64 {
        let whole_ns = self.times.expected_ns(self.times.batch_max(), 0);
        if self.slice_ns > 0 { whole_ns.min(self.slice_ns) } else { whole_ns }
    }

    /// Time for everything in one of its queues.
    pub(crate) fn cost_ns(&self, queue: &EdfQueue) -> u64 {
        if self.times.gains() { self.times.backlog_ns(queue.len()) } else { queue.total_ns() }
    }

    fn add_all(&self, queue: &EdfQueue, prediction: &mut Prediction) {
        if !queue.is_empty() {
            prediction.add(self.cost_ns(queue), 0);
            prediction.add_spreads(self.batches(queue.len()), self.times.spread_ns(self.largest(queue.len()), 0));
        }
    }

    fn add_first(&self, queue: &EdfQueue, jobs: usize, prediction: &mut Prediction) {
        let time_ns = if self.times.gains() { self.times.backlog_ns(jobs) } else { queue.first_ns(jobs) };
        prediction.add(time_ns, 0);
        prediction.add_spreads(self.batches(jobs), self.times.spread_ns(self.largest(jobs), 0));
    }

    fn batches(&self, jobs: usize) -> usize {
        jobs.div_ceil(self.times.batch_max())
    }

    fn largest(&self, jobs: usize) -> usize {
        jobs.min(self.times.batch_max())
    }
}
