//! Groups of devices: broadcast and all-gather of 32-bit floats between the workers of several devices.
//!
//! A group is opt-in and on no job's way. Each member's worker has a thread and a socket for each of its groups, over which
//! the node orders what is done ([`orders`]); [`member`] carries it out over a [`Transport`]: NCCL between GPUs ([`nccl`]),
//! sockets between workers ([`host`]). Every wait has a limit in milliseconds and ends at once when the node says
//! something else. When members come together and what follows when one is lost is decided by [`lifecycle`], which
//! touches nothing.
//!
//! It moves values and does not say what they mean; no reductions, no elements but `f32`.

pub mod host;
pub mod lifecycle;
pub mod member;
pub mod nccl;
pub mod orders;
mod wait;

use std::time::Duration;

use thiserror::Error;

pub use wait::Wait;

/// Most members of a group.
pub const RANKS_MAX: u32 = 16;
/// Most values that one member gives at once: 16 MiB.
pub const VALUES_MAX: usize = 1 << 22;
/// Most values that all members give together: 64 MiB.
pub const GATHERED_VALUES_MAX: usize = 1 << 24;
/// Least and most that a wait for others may be limited to, in milliseconds.
pub const WAIT_MS_MIN: u64 = 50;
pub const WAIT_MS_MAX: u64 = 60_000;

/// Why a collective was not done.
#[derive(Debug, Error)]
pub enum GroupError {
    #[error("{what}: no values; 1 to {VALUES_MAX} are expected")]
    Empty { what: &'static str },
    #[error("{what}: {values} values of a member; at most {VALUES_MAX} are taken")]
    TooLarge { what: &'static str, values: usize },
    #[error("all-gather: {values} values of all members; at most {GATHERED_VALUES_MAX} are taken")]
    GatheredTooLarge { values: usize },
    #[error("all-gather: room for {found} values; {ranks} members give {expected}")]
    Room { found: usize, expected: usize, ranks: u32 },
    #[error("rank {rank} of {ranks}; ranks are 0 to {}", ranks.saturating_sub(1))]
    Rank { rank: u32, ranks: u32 },
    #[error("a group of {ranks}; 1 to {RANKS_MAX} members are taken")]
    Ranks { ranks: u32 },
    #[error("{what}: not done after {limit_ms} ms; waited for {whom}")]
    TimedOut { what: &'static str, limit_ms: u64, whom: String },
    #[error("{what}: the node says something else")]
    Interrupted { what: &'static str },
    #[error("rank {rank} is gone: {reason}")]
    Lost { rank: usize, reason: String },
    #[error("rank {rank} does something else: {found} where {expected} is expected")]
    OutOfStep { rank: usize, found: String, expected: String },
    #[error("{what}: value {at} of rank {rank} is {found}; expected {expected}")]
    Wrong { what: &'static str, rank: usize, at: usize, found: f32, expected: f32 },
    #[error("{what}: {message}")]
    System { what: &'static str, message: String },
    #[error("NCCL: {0}")]
    Library(String),
    #[error("the group failed before; it is of no more use")]
    Broken,
}

impl GroupError {
    /// Whether only the call was wrong: nothing was sent, and the group can be used on.
    #[must_use]
    pub const fn is_argument(&self) -> bool {
        matches!(
            self,
            Self::Empty { .. }
                | Self::TooLarge { .. }
                | Self::GatheredTooLarge { .. }
                | Self::Room { .. }
                | Self::Rank { .. }
        )
    }
}

/// A member's end of a group that has come together. All members call the same functions in the same order with as many
/// values; after an error that is not [`GroupError::is_argument`] the group is of no more use.
pub trait Transport {
    /// This member, from 0.
    fn rank(&self) -> u32;

    fn ranks(&self) -> u32;

    /// Gives every member the values of `root`; says how long the exchange took, without copies to and from a device.
    ///
    /// # Errors
    /// [`GroupError`].
    fn broadcast(&mut self, root: u32, values: &mut [f32], wait: &Wait<'_>) -> Result<Duration, GroupError>;

    /// Gives every member the values of all, in the order of their ranks; says how long the exchange took.
    ///
    /// # Errors
    /// [`GroupError`].
    fn all_gather(&mut self, mine: &[f32], all: &mut [f32], wait: &Wait<'_>) -> Result<Duration, GroupError>;
}

/// Refuses a group that cannot be.
pub(crate) const fn check_ranks(rank: u32, ranks: u32) -> Result<(), GroupError> {
    if ranks == 0 || ranks > RANKS_MAX {
        return Err(GroupError::Ranks { ranks });
    }
    if rank >= ranks {
        return Err(GroupError::Rank { rank, ranks });
    }
    Ok(())
}

/// Refuses a broadcast that no transport takes.
pub(crate) const fn check_broadcast(root: u32, ranks: u32, values: usize) -> Result<(), GroupError> {
    if root >= ranks {
        return Err(GroupError::Rank { rank: root, ranks });
    }
    check_values("broadcast", values)
}

/// Refuses an all-gather that no transport takes.
pub(crate) fn check_all_gather(ranks: u32, mine: usize, all: usize) -> Result<(), GroupError> {
    check_values("all-gather", mine)?;
    let expected = mine * ranks as usize;
    if expected > GATHERED_VALUES_MAX {
        return Err(GroupError::GatheredTooLarge { values: expected });
    }
    if all != expected {
        return Err(GroupError::Room { found: all, expected, ranks });
    }
    Ok(())
}

const fn check_values(what: &'static str, values: usize) -> Result<(), GroupError> {
    if values == 0 {
        return Err(GroupError::Empty { what });
    }
    if values > VALUES_MAX {
        return Err(GroupError::TooLarge { what, values });
    }
    Ok(())
}
