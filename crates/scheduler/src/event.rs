//! What the scheduler is told and what it answers.

use sensorium_wire::{Modality, Reason};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::plan::{DeviceKind, Plan, PlanPolicy};
use crate::service::ModelPolicy;
use crate::types::{BatchId, DeviceId, Job, JobKey, LaneId, ModelKey};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A model exists; until a lane serves it, its jobs are refused as `ModelUnavailable` instead of `UnknownModel`.
    ModelAdded {
        model: ModelKey,
    },
    /// A device exists. One whose lanes open without this counts as an accelerator without a bound on its lanes.
    DeviceAdded {
        device: DeviceId,
        kind: DeviceKind,
        /// Lanes that may work at once without slowing each other, at least 1: the cores of a CPU device. When more of
        /// them have work they take turns by their shares.
        lanes_at_once_max: u16,
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
    /// The device runs slower than its profile says, for example because it is hot; 100 = as measured, 200 = everything
    /// takes twice as long. What was learned before is scaled at once, and batches then teach the rest.
    LoadReport {
        device: DeviceId,
        time_percent: u32,
    },
    JobArrived(Job),
    /// A job that was accepted goes on with another model, the next stage of its own: under the same key, once its batch is
    /// done. It is not refused; without a lane it waits, and fails as `ModelUnavailable` when none comes in time.
    JobContinued(Job),
    /// A batch ended; its jobs have their results (or their own errors, which the caller reports), but for those in
    /// `unfinished`: their slice ended, and they go on in a later batch of the same lane.
    BatchDone {
        lane: LaneId,
        batch: BatchId,
        service_ns: u64,
        unfinished: Unfinished,
    },
    JobCancelled {
        key: JobKey,
    },
    /// Somebody who may, or a rule, says that the next moments matter: the plan for critical moments is in force until
    /// then. A time in the past ends it.
    CriticalMoment {
        until_ns: u64,
    },
    /// How shares follow the load from now on.
    PolicyChanged {
        policy: PlanPolicy,
    },
    /// Time has passed: expires queued jobs, notices hung batches, commits what waited, adapts the plan. Send it every
    /// few milliseconds.
    Tick,
    /// Refuse new jobs from now on; what was accepted is still done.
    Drain,
}

/// The jobs of a batch that want another slice.
pub type Unfinished = SmallVec<[JobKey; 2]>;

/// One job of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchedJob {
    pub key: JobKey,
    /// How often the job was started on a worker, from 1. The slices of one attempt share its number.
    pub attempt: u32,
    /// The slice of this attempt, from 0.
    pub slice: u32,
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
        /// Of the plan under which this was decided.
        epoch: u64,
        /// How long the batch should take, at the median.
        predicted_ns: u64,
    },
    /// The job is not accepted; 0 = trying again does not help without a change.
    Refuse {
        key: JobKey,
        reason: Reason,
        retry_after_us: u64,
        /// How long it would have taken, from now; 0 = not the reason.
        predicted_ns: u64,
    },
    /// The job's deadline passed while it was queued, or is so near that it cannot be met any more.
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
    /// The shares are these from now on. Nothing is to be done but to show it.
    PlanChanged(Plan),
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
