//! What the scheduler is told and what it answers.

use sensorium_wire::{Modality, Reason};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::service::ModelPolicy;
use crate::types::{BatchId, DeviceId, Job, JobKey, LaneId, ModelKey};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A model exists; until a lane serves it, its jobs are refused as `ModelUnavailable` instead of `UnknownModel`.
    ModelAdded {
        model: ModelKey,
    },
    /// A worker is ready to take batches of these models. The lane's number is fresh.
    LaneOpened {
        lane: LaneId,
        device: DeviceId,
        modality: Modality,
        models: Vec<(ModelKey, ModelPolicy)>,
    },
    /// Planned: nothing new is dispatched, what is committed ends, queued jobs move to other lanes or wait for one.
    LaneClosed {
        lane: LaneId,
    },
    /// The device's worker died, with all its lanes.
    DeviceLost {
        device: DeviceId,
    },
    JobArrived(Job),
    /// A batch ended; its jobs have their results (or their own errors, which the caller reports).
    BatchDone {
        lane: LaneId,
        batch: BatchId,
        service_ns: u64,
    },
    JobCancelled {
        key: JobKey,
    },
    /// Time has passed: expires queued jobs and notices hung batches. Send it every few milliseconds.
    Tick,
    /// Refuse new jobs from now on; what was accepted is still done.
    Drain,
}

/// One job of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchedJob {
    pub key: JobKey,
    /// How often the job was started on a worker, from 1.
    pub attempt: u32,
}

/// The jobs of a batch, earliest deadline first. Small batches are stored in place.
pub type BatchJobs = SmallVec<[BatchedJob; 8]>;

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Send this batch to the lane. Batches of one lane run in the order of their dispatch.
    Dispatch {
        lane: LaneId,
        batch: BatchId,
        model: ModelKey,
        jobs: BatchJobs,
    },
    /// The job is not accepted; 0 = trying again does not help without a change.
    Refuse {
        key: JobKey,
        reason: Reason,
        retry_after_us: u64,
    },
    /// The job's deadline passed while it was queued.
    Expire {
        key: JobKey,
    },
    Fail {
        key: JobKey,
        reason: Reason,
    },
    /// The job was taken back; when it was `running`, its batch goes on and its result is to be thrown away.
    Cancelled {
        key: JobKey,
        running: bool,
    },
    /// Kill the device's worker and start another, then send [`Event::DeviceLost`].
    ReplaceWorker {
        device: DeviceId,
        why: Hung,
    },
}

/// A batch that runs longer than its model may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hung {
    pub lane: LaneId,
    pub batch: BatchId,
    pub limit_ns: u64,
}

/// Whether an event meant anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub enum Handled {
    Applied,
    /// It names a lane, batch, device or job that is not (or no longer) known: a late answer is to be dropped.
    Stale,
    /// A lane or job with this number exists already; nothing was changed and no command answers it.
    Duplicate,
}
