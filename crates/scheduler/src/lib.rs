//! The scheduler as a state machine: [`Scheduler::handle`] takes a time and an event and appends commands.
//!
//! It admits or refuses jobs, keeps a bounded earliest-deadline-first queue per lane, forms batches, and decides what
//! happens to the jobs of a worker that died or hangs. It deliberately has no clock, does no I/O, starts no threads and
//! draws no random numbers: the same events give the same commands, so that an incident can be replayed from its log.
//! It never sees a payload and never talks to a worker; whoever calls it carries out the commands.

mod admission;
mod config;
mod decay;
mod device;
mod dispatch;
mod event;
mod fairness;
mod finish;
#[cfg(test)]
mod fixture;
mod jobs;
mod lane;
mod loss;
mod pairs;
mod pipeline;
mod plan;
mod planner;
mod pools;
mod prediction;
mod queue;
mod ranking;
mod ratios;
mod replay;
mod reserve;
mod scheduler;
mod service;
mod snapshot;
mod streams;
mod tick;
mod turn;
mod types;

pub use admission::{Outlook, Refusal};
pub use config::Settings;
pub use event::{BatchJobs, BatchedJob, Command, Event, Handled, Hung, Unfinished};
pub use pipeline::JobStage;
pub use plan::{
    Amount, DeviceKind, OnCpu, Plan, PlanPolicy, PlanRow, PolicyError, PolicyKind, SHARE_PERMILLE_MAX, Shares,
};
pub use ratios::Ratios;
pub use replay::{LOG_FORMAT, LogEntry, LogHead, Replay, ReplayError, Step};
pub use scheduler::Scheduler;
pub use service::{BATCH_WAIT_NS_DEFAULT, JOBS_PER_BATCH_MAX, Learned, ModelPolicy, ProfileError};
pub use snapshot::{LaneSnapshot, Position, Snapshot};
pub use types::{BatchId, DeviceId, Job, JobKey, LaneId, ModelKey, PrincipalKey, StreamKey, virtual_deadline_ns};

/// Batches that may be committed to one lane: one that runs and one that waits behind it, so that the worker never
/// waits for the node, and a change of mind takes effect within a batch.
pub const COMMITTED_BATCHES_MAX: usize = 2;
/// Times that a job may kill a worker while it runs alone before it is given up.
pub const DEATHS_ALONE_MAX: u8 = 2;
