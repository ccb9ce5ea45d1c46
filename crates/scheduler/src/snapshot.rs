//! The state as status pages and tests see it.

use sensorium_wire::Modality;
use serde::{Deserialize, Serialize};

use crate::jobs::Place;
use crate::scheduler::Scheduler;
use crate::types::{DeviceId, JobKey, LaneId};

/// One lane now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneSnapshot {
    pub lane: LaneId,
    pub device: DeviceId,
    pub modality: Modality,
    /// Nothing new is dispatched.
    pub closing: bool,
    /// Of its device, in thousandths.
    pub share_permille: u16,
    pub queued_jobs: usize,
    pub committed_batches: usize,
    pub committed_jobs: usize,
    /// Since the lane opened.
    pub completed_jobs: u64,
    pub completed_batches: u64,
    /// Service time that its batches reported, since the lane opened.
    pub busy_ns: u64,
    /// Predicted time until everything committed and queued is done.
    pub backlog_ns: u64,
}

/// Everything that a status page shows of the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// By lane number.
    pub lanes: Vec<LaneSnapshot>,
    /// Jobs accepted and not ended.
    pub jobs: usize,
    /// Of these, waiting for a lane to come back or to have room.
    pub waiting_jobs: usize,
    /// Of these, waiting to be run alone.
    pub suspect_jobs: usize,
    /// Of these, held for an earlier job of their stream.
    pub held_jobs: usize,
    pub draining: bool,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Position {
    Queued { lane: LaneId },
    Waiting,
    Held,
    Suspect { device: DeviceId },
    Committed { lane: LaneId },
}

impl Scheduler {
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let lanes = self.lane_slots.values().map(|slot| {
            let lane = self.lane(*slot);
            LaneSnapshot {
                lane: lane.id,
                device: lane.device,
                modality: lane.modality,
                closing: lane.closing,
                share_permille: lane.share_permille,
                queued_jobs: lane.queued,
                committed_batches: lane.committed.len(),
                committed_jobs: lane.committed.iter().map(|batch| batch.jobs.len()).sum(),
                completed_jobs: lane.jobs_completed,
                completed_batches: lane.batches_completed,
                busy_ns: lane.busy_ns,
                backlog_ns: lane.backlog_ns(self.now_ns),
            }
        });
        Snapshot {
            lanes: lanes.collect(),
            jobs: self.jobs.len(),
            waiting_jobs: self.waiting,
            suspect_jobs: self.with_suspects.iter().map(|device| self.devices[device].suspects.len()).sum(),
            held_jobs: self.held.len(),
            draining: self.draining,
        }
    }

    /// Where a job is that has not ended; `None` when there is no such job.
    #[must_use]
    pub fn position(&self, key: JobKey) -> Option<Position> {
        let record = self.jobs.get(self.jobs.find(key)?);
        Some(match record.place {
            Place::Queued { lane } => Position::Queued { lane: self.lane(lane).id },
            Place::Waiting => Position::Waiting,
            Place::Held => Position::Held,
            Place::Suspect { device } => Position::Suspect { device },
            Place::Committed { lane } => Position::Committed { lane: self.lane(lane).id },
        })
    }
}
