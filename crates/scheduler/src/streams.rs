//! Streams: jobs of one stream for one model run in the order of their arrival.
//!
//! A job follows its predecessor into the same lane and never stands before it there. While the predecessor is in no
//! lane (its worker died, or no lane serves the model) the job is held.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::jobs::{JobSlot, Place};
use crate::lane::LaneSlot;
use crate::queue::Entry;
use crate::scheduler::Scheduler;
use crate::types::{Job, ModelKey, StreamKey};

/// Jobs of each stream and model that have not ended, in the order of their arrival.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Streams {
    #[serde(with = "crate::pairs")]
    jobs: BTreeMap<(StreamKey, ModelKey), VecDeque<JobSlot>>,
}

impl Streams {
    pub(crate) fn contains(&self, stream: StreamKey, model: ModelKey) -> bool {
        self.jobs.contains_key(&(stream, model))
    }

    fn last(&self, job: &Job) -> Option<JobSlot> {
        self.jobs.get(&(job.stream?, job.model))?.back().copied()
    }

    /// The job before this one, and the one behind it.
    fn neighbours(&self, job: &Job, slot: JobSlot) -> (Option<JobSlot>, Option<JobSlot>) {
        let Some(jobs) = job.stream.and_then(|stream| self.jobs.get(&(stream, job.model))) else {
            return (None, None);
        };
        let Some(index) = jobs.iter().position(|other| *other == slot) else {
            return (None, None);
        };
        (index.checked_sub(1).map(|before| jobs[before]), jobs.get(index + 1).copied())
    }

    pub(crate) fn enter(&mut self, job: &Job, slot: JobSlot) {
        if let Some(stream) = job.stream {
            self.jobs.entry((stream, job.model)).or_default().push_back(slot);
        }
    }

    /// A job has ended; gives the one behind it.
    pub(crate) fn leave(&mut self, job: &Job, slot: JobSlot) -> Option<JobSlot> {
        let (_, next) = self.neighbours(job, slot);
        let key = (job.stream?, job.model);
        let jobs = self.jobs.get_mut(&key)?;
        jobs.retain(|other| *other != slot);
        if jobs.is_empty() {
            self.jobs.remove(&key);
        }
        next
    }
}

/// Where a job of a stream may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    Free,
    /// Behind its predecessor.
    Follow(LaneSlot),
    Hold,
}

impl Scheduler {
    /// Where a job that arrives now may go.
    pub(crate) fn course_of_arrival(&self, job: &Job) -> Course {
        self.course_behind(self.streams.last(job), job)
    }

    /// Where a job may go that is here already.
    pub(crate) fn course(&self, slot: JobSlot) -> Course {
        let job = &self.jobs.get(slot).job;
        self.course_behind(self.streams.neighbours(job, slot).0, job)
    }

    fn course_behind(&self, predecessor: Option<JobSlot>, job: &Job) -> Course {
        let Some(predecessor) = predecessor else {
            return Course::Free;
        };
        match self.jobs.get(predecessor).place {
            Place::Queued { lane } | Place::Committed { lane } => {
                let open = self.lanes[lane as usize].as_ref().filter(|lane| !lane.closing);
                let model = open.and_then(|lane| lane.models.iter().find(|model| model.key == job.model));
                // A job that runs in slices comes back to the queue, so nothing may be committed behind it.
                if model.is_some_and(|model| model.slice_ns == 0) { Course::Follow(lane) } else { Course::Hold }
            }
            Place::Waiting | Place::Suspect { .. } | Place::Held => Course::Hold,
        }
    }

    /// A job's place in the order: its deadline, but not before its predecessor's.
    pub(crate) fn entry(&self, job: &Job, now_ns: u64) -> Entry {
        let mut entry = Entry::new(job, now_ns, self.arrivals, self.jobs.next_slot());
        if let Some(last) = self.streams.last(job) {
            entry.order_ns = entry.order_ns.max(self.jobs.get(last).entry.order_ns);
        }
        entry
    }

    /// Queued jobs of the same stream must not be passed by a more urgent one: they become as urgent.
    pub(crate) fn promote_predecessors(&mut self, slot: JobSlot) {
        let record = self.jobs.get(slot);
        let (job, class) = (record.job, record.class);
        let mut next = self.streams.neighbours(&job, slot).0;
        while let Some(before) = next {
            let record = self.jobs.get_mut(before);
            if record.class <= class {
                return;
            }
            let was = std::mem::replace(&mut record.class, class);
            if let Place::Queued { lane } = record.place {
                let entry = record.entry;
                let lane = self.lane_mut(lane);
                if let Some(entry) = lane.dequeue(job.model, usize::from(was), &entry) {
                    let model = lane.model_index(job.model).expect("it was just found there");
                    lane.enqueue(model, usize::from(class), entry);
                }
            }
            next = self.streams.neighbours(&job, before).0;
        }
    }

    /// A job behind a more urgent one of its stream queues among those: the turn of its own class might come first.
    pub(crate) fn follow_predecessor(&mut self, slot: JobSlot) {
        let record = self.jobs.get(slot);
        let Some(before) = self.streams.neighbours(&record.job, slot).0.map(|before| self.jobs.get(before)) else {
            return;
        };
        if matches!(before.place, Place::Queued { .. }) && before.class < record.class {
            let class = before.class;
            self.jobs.get_mut(slot).class = class;
        }
    }

    /// The job is in a lane now: the one behind it may follow.
    pub(crate) fn release_successor(&mut self, slot: JobSlot) {
        let job = self.jobs.get(slot).job;
        if let (_, Some(next)) = self.streams.neighbours(&job, slot) {
            self.release(next);
        }
    }

    /// A held job looks for a place again at the end of this event.
    pub(crate) fn release(&mut self, slot: JobSlot) {
        if self.jobs.get(slot).place == Place::Held {
            self.released.push(slot);
        }
    }

    pub(crate) fn hold(&mut self, slot: JobSlot) {
        let record = self.jobs.get_mut(slot);
        record.place = Place::Held;
        self.held.insert((record.job.deadline_ns, slot));
    }

    pub(crate) fn unhold(&mut self, slot: JobSlot) {
        let deadline_ns = self.jobs.get(slot).job.deadline_ns;
        self.held.remove(&(deadline_ns, slot));
    }
}
