//! The jobs that are in flight, found by number in constant time.

use std::collections::HashMap;

use sensorium_device::slab::Slot;
use sensorium_scheduler::{Job, JobKey, ModelKey};
use sensorium_wire::SubmitHeader;
use sensorium_wire::receipt::Stage;

use super::CallerId;
use super::answer::Reply;
use super::cache::CacheKey;
use super::stages::Row;

/// One job in flight.
pub(super) struct Record {
    pub(super) header: SubmitHeader,
    pub(super) caller: CallerId,
    pub(super) model: ModelKey,
    pub(super) input: Slot,
    pub(super) input_bytes: u64,
    pub(super) output: Slot,
    /// `None` once it has been answered (a cancelled job that still runs).
    pub(super) reply: Option<Reply>,
    pub(super) deadline_ns: u64,
    /// The run that counts; answers of any other are stale. 0 = not dispatched.
    pub(super) run: u64,
    pub(super) attempt: u32,
    pub(super) times: Times,
    /// Time that earlier slices of this job took, by stage.
    pub(super) before_ns: [u64; Stage::COUNT],
    /// Of a model that is split: how far it is.
    pub(super) row: Option<Box<Row>>,
    /// Where its answer is kept.
    pub(super) cache: Option<Box<CacheKey>>,
}

/// Readings of the monotonic clock on the way.
#[derive(Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) header_ns: u64,
    /// Admission by the header, before the payload; part of the stage `admit`.
    pub(super) admitted_ns: u64,
    pub(super) received_ns: u64,
    /// When it was queued first.
    pub(super) submitted_ns: u64,
    /// When it was queued last.
    pub(super) queued_ns: u64,
    pub(super) dispatched_ns: u64,
}

impl Times {
    /// It is queued for the first time.
    pub(super) fn submitted_at(self, now_ns: u64) -> Self {
        Self { submitted_ns: now_ns, queued_ns: now_ns, ..self }
    }
}

#[derive(Default)]
pub(super) struct Records {
    slots: Vec<(u32, Option<Record>)>,
    free: Vec<u32>,
    live: usize,
    /// Jobs that are at an earlier stage, by the model of the later one.
    coming: HashMap<ModelKey, u64>,
}

impl Records {
    pub(super) fn insert(&mut self, record: Record) -> JobKey {
        self.live += 1;
        for (job, _) in record.row.iter().flat_map(|row| &row.later) {
            *self.coming.entry(job.model).or_default() += 1;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).expect("jobs in flight are bounded far below 2^32")
        });
        let slot = &mut self.slots[index as usize];
        slot.1 = Some(record);
        JobKey(u64::from(slot.0) << 32 | u64::from(index))
    }

    pub(super) fn get_mut(&mut self, key: JobKey) -> Option<&mut Record> {
        let (generation, index) = split(key);
        self.slots.get_mut(index).filter(|slot| slot.0 == generation)?.1.as_mut()
    }

    pub(super) fn remove(&mut self, key: JobKey) -> Option<Record> {
        let (generation, index) = split(key);
        let slot = self.slots.get_mut(index).filter(|slot| slot.0 == generation)?;
        let record = slot.1.take()?;
        for (job, _) in record.row.iter().flat_map(|row| &row.later) {
            left(&mut self.coming, job.model);
        }
        // A number is never used twice, so that a late command cannot hit another job.
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(u32::try_from(index).expect("indices are 32 bits"));
        self.live -= 1;
        Some(record)
    }

    /// Jobs that will come to this stage, but are at one before it.
    pub(super) fn coming(&self, model: ModelKey) -> u64 {
        self.coming.get(&model).copied().unwrap_or(0)
    }

    /// The next stage of a job, which begins now, and the room for what it gives.
    pub(super) fn next_stage(&mut self, key: JobKey) -> Option<(Job, Slot)> {
        let (job, output) = self.get_mut(key)?.row.as_mut()?.later.pop()?;
        left(&mut self.coming, job.model);
        Some((job, output))
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }
}

/// A job that was coming to this stage has come, or never will.
fn left(coming: &mut HashMap<ModelKey, u64>, model: ModelKey) {
    if let Some(jobs) = coming.get_mut(&model) {
        *jobs = jobs.saturating_sub(1);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "takes a 64-bit key apart into its two 32-bit halves")]
fn split(key: JobKey) -> (u32, usize) {
    ((key.0 >> 32) as u32, key.0 as u32 as usize)
}
