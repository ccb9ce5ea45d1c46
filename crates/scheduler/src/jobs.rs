//! Every job that was accepted and has not ended: a slab, and an index by the caller's key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::lane::LaneSlot;
use crate::queue::Entry;
use crate::types::{DeviceId, Job, JobKey};

/// Index into the slab; reused after the job has ended.
pub(crate) type JobSlot = u32;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    Queued {
        lane: LaneSlot,
    },
    /// In its model's queue, until a lane that serves it has room.
    Waiting,
    /// To be run alone on this device.
    Suspect {
        device: DeviceId,
    },
    Committed {
        lane: LaneSlot,
    },
    /// In no queue: an earlier job of its stream must find its place first.
    Held,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    pub(crate) job: Job,
    /// Which class of urgency it queues in: its own, or a higher one when another job of its stream is more urgent.
    pub(crate) class: u8,
    pub(crate) entry: Entry,
    pub(crate) place: Place,
    pub(crate) accepted_ns: u64,
    /// Times that it was started on a worker.
    pub(crate) attempt: u32,
    /// Slices of this attempt that have run, and their time.
    pub(crate) slices: u32,
    pub(crate) sliced_ns: u64,
    /// It was let in to find out whether what was learned still holds.
    pub(crate) probe: bool,
    /// Times that it killed a worker while it ran alone.
    pub(crate) deaths_alone: u8,
    /// It has its outcome already and only fills a place in a running batch.
    pub(crate) cancelled: bool,
}

impl JobRecord {
    /// What was done of it is lost.
    pub(crate) fn start_over(&mut self) {
        self.slices = 0;
        self.sliced_ns = 0;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Jobs {
    records: Vec<Option<JobRecord>>,
    free: Vec<JobSlot>,
    by_key: BTreeMap<JobKey, JobSlot>,
}

impl Jobs {
    /// Jobs without an outcome.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn contains(&self, key: JobKey) -> bool {
        self.by_key.contains_key(&key)
    }

    pub(crate) fn find(&self, key: JobKey) -> Option<JobSlot> {
        self.by_key.get(&key).copied()
    }

    /// The slot that the next [`Self::insert`] will use.
    pub(crate) fn next_slot(&self) -> JobSlot {
        self.free.last().copied().unwrap_or_else(|| {
            JobSlot::try_from(self.records.len()).expect("bounded queues hold far fewer than 2^32 jobs")
        })
    }

    pub(crate) fn insert(&mut self, job: Job, entry: Entry, place: Place, accepted_ns: u64) {
        let slot = entry.slot;
        self.by_key.insert(job.key, slot);
        let record = Some(JobRecord {
            class: job.urgency as u8,
            job,
            entry,
            place,
            accepted_ns,
            attempt: 0,
            slices: 0,
            sliced_ns: 0,
            probe: false,
            deaths_alone: 0,
            cancelled: false,
        });
        if self.free.pop().is_some() {
            self.records[slot as usize] = record;
        } else {
            self.records.push(record);
        }
    }

    pub(crate) fn get(&self, slot: JobSlot) -> &JobRecord {
        self.records[slot as usize].as_ref().expect("slots are held only while their job is here")
    }

    pub(crate) fn get_mut(&mut self, slot: JobSlot) -> &mut JobRecord {
        self.records[slot as usize].as_mut().expect("slots are held only while their job is here")
    }

    /// Whether the slot still has a job, and that is held.
    pub(crate) fn is_held(&self, slot: JobSlot) -> bool {
        self.records[slot as usize].as_ref().is_some_and(|record| record.place == Place::Held)
    }

    /// Whether the job of this entry has not ended.
    pub(crate) fn is_here(&self, entry: &Entry) -> bool {
        self.records[entry.slot as usize].as_ref().is_some_and(|record| record.entry == *entry)
    }

    /// Forgets a job and frees its slot.
    pub(crate) fn remove(&mut self, slot: JobSlot) -> JobRecord {
        let record = self.records[slot as usize].take().expect("slots are held only while their job is here");
        if !record.cancelled {
            self.by_key.remove(&record.job.key);
        }
        self.free.push(slot);
        record
    }

    /// Marks a committed job as ended; its slot stays until its batch is done, its key is free at once.
    pub(crate) fn cancel(&mut self, slot: JobSlot) {
        let record = self.get_mut(slot);
        record.cancelled = true;
        let key = record.job.key;
        self.by_key.remove(&key);
    }
}
