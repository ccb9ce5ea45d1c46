//! What a user can set.

use serde::{Deserialize, Serialize};

use crate::plan::{PlanPolicy, PolicyError};

/// The scheduler's options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Jobs that one lane may have queued, and that may wait per model for a lane to come back. Default 4,096. More
    /// means later refusals and longer waits, and the cost of an insertion in front grows with it; at 65,536 it is some
    /// tens of microseconds in the worst case. Values below 1 count as 1.
    pub queue_jobs_max: usize,
    /// How long after the loss of a lane its jobs wait for it to come back, in nanoseconds. Default 5 s. Raise it when
    /// models take longer to load than that.
    pub restart_wait_ns: u64,
    /// How far ahead of the end of a batch the next one is committed, in nanoseconds. Default 4 ms. Earlier means that it is
    /// decided with less knowledge (a fuller batch, a more urgent job); less than two ticks means that the worker may
    /// wait for it.
    pub commit_ahead_ns: u64,
    /// What a class of urgency gets of a lane at the least while it has work, in thousandths: critical, high, standard,
    /// batch. Default 0, 200, 100, 50; together at most 900. Critical needs none: it comes first.
    pub share_min_permille: [u16; 4],
    /// How shares of devices follow the load.
    pub plan: PlanPolicy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue_jobs_max: 4096,
            restart_wait_ns: 5_000_000_000,
            commit_ahead_ns: 4_000_000,
            share_min_permille: [0, 200, 100, 50],
            plan: PlanPolicy::default(),
        }
    }
}

impl Settings {
    /// # Errors
    /// Shares that are too much together, or a policy that makes no sense.
    pub fn check(&self) -> Result<(), PolicyError> {
        let together: u32 = self.share_min_permille.iter().map(|share| u32::from(*share)).sum();
        if together > 900 {
            return Err(PolicyError::ClassShares { together });
        }
        self.plan.check()
    }
}
