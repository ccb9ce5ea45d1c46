//! What a user can set.

use serde::{Deserialize, Serialize};

/// The scheduler's options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Jobs that one lane may have queued, and that may wait per model for a lane to come back. Default 4,096. More
    /// means later refusals and longer waits, and the cost of an insertion in front grows with it; at 65,536 it is some
    /// tens of microseconds in the worst case. Values below 1 count as 1.
    pub queue_jobs_max: usize,
    /// How long after the loss of a lane its jobs wait for it to come back, in nanoseconds. Default 5 s. Raise it when
    /// models take longer to load than that.
    pub restart_wait_ns: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { queue_jobs_max: 4096, restart_wait_ns: 5_000_000_000 }
    }
}
