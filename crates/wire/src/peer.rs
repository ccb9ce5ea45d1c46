//! What nodes say to each other: who they are, jobs that they hand on, checkpoints of sessions.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{JobId, ShortName};
use crate::limits;
use crate::principal::Tier;
use crate::submit::SubmitHeader;

/// A job that a node hands on to another. The entry node alone answers the client.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct ForwardHeader {
    /// The client's header; `budget_us` is what is left, less the way there and back.
    pub submit: SubmitHeader,
    /// The first half of the SHA-256 of `TENANT/NAME`: jobs of different principals are different jobs.
    pub principal: [u8; 16],
    /// The nodes that have had the job, by id, the entry node first; 0 = none. It never goes back to one of them.
    pub visited: [u64; limits::HOPS_MAX],
    /// 1 = the entry node has seen the role `critical`. Believed only of a node that has the role itself.
    pub critical: u8,
    pub reserved: [u8; 7],
}

impl ForwardHeader {
    /// The nodes that have had the job.
    pub fn visited(&self) -> impl Iterator<Item = u64> + '_ {
        self.visited.iter().copied().take_while(|node| *node != 0)
    }

    /// Whether `node` may hand the job on once more; `false` when the nodes it may pass are used up.
    #[must_use]
    pub fn visit(&mut self, node: u64) -> bool {
        let Some(free) = self.visited.iter_mut().find(|node| **node == 0) else { return false };
        *free = node;
        true
    }
}

/// Takes a forwarded job back.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct RecallHeader {
    pub job_id: JobId,
    /// As in [`ForwardHeader`].
    pub principal: [u8; 16],
}

/// The first frame of a control connection, from both sides.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct HelloHeader {
    /// A different number each time the node starts.
    pub instance: u64,
    pub cluster: ShortName,
    pub name: ShortName,
    pub region: ShortName,
    /// Code of the tier.
    pub tier: u8,
    pub reserved: [u8; 7],
}

impl HelloHeader {
    /// The tier, unless its code is unknown.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        Tier::ALL.get(usize::from(self.tier)).copied()
    }
}

/// What a [`CheckpointHeader`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CheckpointAct {
    /// The payload is the session's state, to be kept. Also the answer to [`Self::Ask`], empty when nothing is kept.
    State = 0,
    /// The session has ended: what is kept of it can go.
    Ended = 1,
    /// The sender owns the session from this epoch on.
    Claim = 2,
    /// What is kept of this session? Alone on its stream.
    Ask = 3,
    /// A state was not taken: the session is in this newer epoch.
    Refused = 4,
}

impl CheckpointAct {
    pub const ALL: [Self; 5] = [Self::State, Self::Ended, Self::Claim, Self::Ask, Self::Refused];
}

/// The state of a session, for the node that goes on with it when its owner is lost.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct CheckpointHeader {
    /// As in [`ForwardHeader`].
    pub principal: [u8; 16],
    pub session: u64,
    /// Rises whenever the session moves; an older one is refused.
    pub epoch: u64,
    /// Number of the checkpoint within its epoch.
    pub number: u64,
    /// Code of the [`CheckpointAct`].
    pub act: u8,
    pub reserved: [u8; 3],
    /// In an answer to [`CheckpointAct::Ask`]: how long ago the state came to whoever keeps it, in milliseconds.
    pub age_ms: u32,
}

impl CheckpointHeader {
    /// What it is about, unless its code is unknown.
    #[must_use]
    pub fn act(&self) -> Option<CheckpointAct> {
        CheckpointAct::ALL.get(usize::from(self.act)).copied()
    }

    #[must_use]
    pub const fn with(mut self, act: CheckpointAct) -> Self {
        self.act = act as u8;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_passes_a_bounded_number_of_nodes() {
        let mut header = ForwardHeader::default();
        assert!((1..=limits::HOPS_MAX as u64).all(|node| header.visit(node)));
        assert!(!header.visit(9));
        assert_eq!(header.visited().collect::<Vec<_>>(), [1, 2, 3]);
    }
}
