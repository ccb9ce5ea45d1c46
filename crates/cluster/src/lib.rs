//! What nodes of a cluster decide: who is there, where a job goes, and who owns a stream.
//!
//! Everything is a state machine or a function: times are arguments, commands are results, and the one place that needs
//! chance (the jitter of reconnecting) has a seed. It deliberately has no clock, no sockets and no threads, and knows
//! nothing of QUIC or actors: whoever calls it dials, sends and receives. So the same code runs in a node and in tests
//! that play loss, delay and partitions in virtual time.

mod checkpoints;
mod foresight;
mod ids;
mod lease;
mod membership;
mod report;
mod routing;
mod topology;

pub use checkpoints::{CHECKPOINT_BYTES_KEPT_MAX, CHECKPOINT_KEEP_MS, CHECKPOINTS_MAX, Checkpoint, CheckpointStore};
pub use foresight::{Foresight, ForesightStatus};
pub use ids::{ModelId, NodeId};
pub use lease::{
    EpochGate, Held, Holding, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, LEASES_MAX, Lease, LeaseRefusal, LeaseTable,
    SOURCE_BYTES_MAX, STREAMS_MAX, StaleEpoch,
};
pub use membership::{
    Command, DIAL_MS_MAX, DIAL_PAUSE_MS_MAX, DIAL_PAUSE_MS_MIN, Event, Hello, Membership, Neighbour, Refusal, Standing,
    View,
};
pub use report::{ENTRIES_MAX, LoadEntry, LoadReport, REPORT_BYTES_MAX};
pub use routing::{
    Ask, Candidate, Candidates, Here, RATE_UNKNOWN_BYTES_PER_S, REMOTE_BUDGET_PERMILLE_MAX, STICKY_COST_TIMES_MAX,
    candidates, rank,
};
pub use topology::{
    Input, NODE_NAME_BYTES_MAX, NODES_MAX, NodeSpec, PARENTS_MAX, SOURCE_BUDGET_MS_MAX, SOURCE_BUDGET_MS_MIN,
    SOURCE_NODES_MAX, SOURCE_TENANTS_MAX, SOURCES_MAX, SourceError, SourceSpec, TIMING_MS_MAX, TIMING_MS_MIN, TierCost,
    Timing, Topology, TopologyError, URI_BYTES_MAX, check_alone,
};

/// How often a job may be handed on. With three tiers, three hops reach every node of a region and a central one from
/// everywhere.
pub const HOPS_MAX: u8 = 3;
