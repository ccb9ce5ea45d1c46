//! The one final answer of a job, and the numbered partial ones before it.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::JobId;
use crate::limits;
use crate::receipt::{Hop, Receipt};
use crate::rejection::Reason;
use crate::tensor::Dtype;

coded! {
    /// How a job ended; `Partial` does not end it.
    #[derive(Default)]
    pub enum Outcome {
        #[default]
        Result = 0 "result",
        Partial = 1 "partial",
        /// Not accepted; nothing was run.
        Refused = 2 "refused",
        /// Accepted, not done in time; no result is shown as if it were.
        Expired = 3 "expired",
        Failed = 4 "failed",
        Cancelled = 5 "cancelled",
    }
}

coded! {
    /// How an answer's payload is to be read.
    #[derive(Default)]
    pub enum BodyKind {
        /// No payload.
        #[default]
        Empty = 0 "empty",
        /// A UTF-8 sentence about an error.
        Text = 1 "text",
        /// The raw bytes of a tensor, `dtype` and `shape` in the header.
        Tensor = 2 "tensor",
        /// An rkyv archive of [`crate::result::ModelResult`].
        Result = 3 "result",
    }
}

/// The header of an answer. Flat, like every header.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct AnswerHeader {
    pub job_id: JobId,
    /// When a refused job is worth sending again, in microseconds; 0 = not without a change.
    pub retry_after_us: u64,
    pub receipt: Receipt,
    pub shape: [u32; limits::RANK_MAX],
    /// Number of a partial answer, from 0; the final one has the highest.
    pub number: u32,
    pub outcome: Outcome,
    pub reason: Reason,
    pub body: BodyKind,
    pub dtype: Dtype,
    pub rank: u8,
    pub reserved: [u8; 7],
    /// The nodes that handed the job on, the entry node first. On the wire only where there is one.
    pub hops: [Hop; limits::HOPS_MAX],
}

impl AnswerHeader {
    /// The nodes that handed the job on, the entry node first.
    #[must_use]
    pub fn hops(&self) -> &[Hop] {
        let count = self.hops.iter().take_while(|hop| !hop.node.is_empty()).count();
        &self.hops[..count]
    }

    /// Notes a node that hands the answer on, before those that did so already.
    pub fn passed(&mut self, hop: Hop) {
        self.hops.rotate_right(1);
        self.hops[0] = hop;
    }

    #[must_use]
    pub fn dims(&self) -> &[u32] {
        &self.shape[..usize::from(self.rank).min(limits::RANK_MAX)]
    }
}
