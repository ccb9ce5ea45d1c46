//! Who owns a source: at most one node at a time, without comparing clocks.
//!
//! One node, the grantor, keeps a [`LeaseTable`]; each owner keeps a [`Holding`]. A lease is a duration. The owner counts it
//! from when it **asked**, the grantor from when it **granted**, which is later; so the owner has stopped before the grantor
//! lets anyone else in, however long messages take and whether they arrive or not. The guard makes up for clocks that
//! run at different speeds, up to 1 % off true time each:
//!
//! ```text
//! owner:   valid until     asked   + ttl - guard        guard = 3 % of ttl + 5 ms
//! grantor: taken until     granted + ttl
//! ```
//!
//! Every change of owner has a new, higher **epoch**, by which an [`EpochGate`] refuses what an old owner still sends. A lease
//! that lapsed is never revived: its owner asks anew and gets a higher epoch.
//!
//! **The grantor restarts.** It knows nothing of leases that it gave in its earlier life, so for [`LEASE_TTL_MS_MAX`] it
//! grants nothing new. An owner goes on by asking with the epoch it holds; of two that claim, the higher epoch is the
//! later one. The answer counts for the owner only if its lease is still valid when it comes, which a claim that was
//! delayed past somebody else's grant cannot be.
//!
//! What this does not do: a source has one grantor. Two grantors of one source know nothing of each other.

mod gate;
mod holding;

use std::collections::BTreeMap;

use thiserror::Error;

pub use gate::{EpochGate, STREAMS_MAX, StaleEpoch};
pub use holding::Holding;

use crate::NodeId;

/// Shortest and longest lease, in milliseconds. The longest is also how long a grantor that was started waits.
pub const LEASE_TTL_MS_MIN: u64 = 200;
pub const LEASE_TTL_MS_MAX: u64 = 2_000;
/// Sources of one grantor.
pub const LEASES_MAX: usize = 4_096;
/// Longest name of a source, in bytes.
pub const SOURCE_BYTES_MAX: usize = 128;

/// Epochs above are not believed from a claim, so that a faulty owner cannot use them up.
const CLAIMED_EPOCH_MAX: u64 = 1 << 62;
const NS_PER_MS: u64 = 1_000_000;

/// What an owner may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Rises whenever the source changes hands; at least 1.
    pub epoch: u64,
    /// From when it was asked for, in milliseconds, less the guard: [`Holding`] does the sum.
    pub ttl_ms: u64,
}

/// Somebody's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub by: NodeId,
    pub epoch: u64,
    /// Until it lapses if it is not renewed, in milliseconds.
    pub left_ms: u64,
}

/// Why there is no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LeaseRefusal {
    /// Also the asker itself, if it does not know the epoch: then an answer was lost, or it was started anew.
    #[error("the source is held by node {by} for another {left_ms} ms")]
    Held { by: NodeId, left_ms: u64 },
    #[error("leases of an earlier life of the grantor may still run; ask again in {left_ms} ms")]
    Starting { left_ms: u64 },
    #[error("{LEASES_MAX} sources are held; no more are possible")]
    Full,
    #[error("the name of a source is 1 to {SOURCE_BYTES_MAX} bytes long; this one has {bytes}")]
    Name { bytes: usize },
}

/// The grantor's side.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    ttl_ms: u64,
    settled_ns: u64,
    /// Every new epoch is above.
    epoch_floor: u64,
    sources: BTreeMap<String, Record>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    holder: NodeId,
    epoch: u64,
    /// The lease has run out or was released from here on.
    until_ns: u64,
}

impl LeaseTable {
    /// For a grantor that starts now. `ttl_ms` is brought into [`LEASE_TTL_MS_MIN`]..=[`LEASE_TTL_MS_MAX`]. `epoch_floor`: not below the
    /// epochs of any earlier life, such as the seconds of the wall clock at the start, times 2^20; a clock that went
    /// back costs no exclusiveness, but gates refuse new owners until their claims have raised the epoch again.
    #[must_use]
    pub fn new(now_ns: u64, ttl_ms: u64, epoch_floor: u64) -> Self {
        Self {
            ttl_ms: ttl_ms.clamp(LEASE_TTL_MS_MIN, LEASE_TTL_MS_MAX),
            settled_ns: now_ns.saturating_add(LEASE_TTL_MS_MAX * NS_PER_MS),
            epoch_floor: epoch_floor.min(CLAIMED_EPOCH_MAX),
            sources: BTreeMap::new(),
        }
    }

    /// Grants or renews a lease. `held_epoch` is what [`Holding::claim`] says: the epoch of a lease that the asker holds
    /// as it asks.
    ///
    /// # Errors
    /// [`LeaseRefusal`].
    pub fn ask(
        &mut self,
        now_ns: u64,
        source: &str,
        holder: NodeId,
        held_epoch: Option<u64>,
    ) -> Result<Lease, LeaseRefusal> {
        if source.is_empty() || source.len() > SOURCE_BYTES_MAX {
            return Err(LeaseRefusal::Name { bytes: source.len() });
        }
        let known = self.sources.get(source).copied();
        let claimed = held_epoch.filter(|epoch| (1..=CLAIMED_EPOCH_MAX).contains(epoch));
        let epoch = match known {
            Some(record) if record.runs(now_ns) && record.holder == holder && held_epoch == Some(record.epoch) => {
                record.epoch
            }
            _ if now_ns < self.settled_ns => self.adopted(now_ns, known, claimed)?,
            Some(record) if record.runs(now_ns) => return Err(record.refusal(now_ns)),
            _ => {
                let newest = known.map_or(0, |record| record.epoch).max(self.epoch_floor).max(claimed.unwrap_or(0));
                newest.saturating_add(1)
            }
        };
        if known.is_none() && self.sources.len() >= LEASES_MAX && !self.forget_one(now_ns) {
            return Err(LeaseRefusal::Full);
        }
        let until_ns = now_ns.saturating_add(self.ttl_ms * NS_PER_MS);
        self.sources.insert(source.to_owned(), Record { holder, epoch, until_ns });
        Ok(Lease { epoch, ttl_ms: self.ttl_ms })
    }

    /// An owner gives its lease back, after it has stopped. Whether it was its own.
    pub fn release(&mut self, now_ns: u64, source: &str, holder: NodeId, epoch: u64) -> bool {
        match self.sources.get_mut(source) {
            Some(record) if record.runs(now_ns) && (record.holder, record.epoch) == (holder, epoch) => {
                record.until_ns = now_ns;
                true
            }
            _ => false,
        }
    }

    /// What a node that is no longer heard still holds, by source. Nothing is taken from it: it may be cut off and
    /// working. When `left_ms` has passed, others may ask.
    #[must_use]
    pub fn lost(&self, now_ns: u64, node: NodeId) -> Vec<(String, Held)> {
        let held = self.sources.iter().filter(|(_, record)| record.runs(now_ns) && record.holder == node);
        held.map(|(source, record)| (source.clone(), record.held(now_ns))).collect()
    }

    /// Who holds a source.
    #[must_use]
    pub fn holder(&self, now_ns: u64, source: &str) -> Option<Held> {
        self.sources.get(source).filter(|record| record.runs(now_ns)).map(|record| record.held(now_ns))
    }

    /// While the grantor's start is too recent to grant anything new: an owner's claim, if nothing newer is known.
    fn adopted(&self, now_ns: u64, known: Option<Record>, claimed: Option<u64>) -> Result<u64, LeaseRefusal> {
        let newest = known.map_or(0, |record| record.epoch);
        match (claimed, known) {
            (Some(claimed), _) if claimed > newest => Ok(claimed),
            (_, Some(record)) if record.runs(now_ns) => Err(record.refusal(now_ns)),
            _ => Err(LeaseRefusal::Starting { left_ms: (self.settled_ns - now_ns).div_ceil(NS_PER_MS) }),
        }
    }

    /// Makes room. Epochs stay above that of the source that is forgotten. Whether there was one that nobody holds.
    fn forget_one(&mut self, now_ns: u64) -> bool {
        let free = self.sources.iter().find(|(_, record)| !record.runs(now_ns));
        let Some((source, record)) = free.map(|(source, record)| (source.clone(), *record)) else { return false };
        self.epoch_floor = self.epoch_floor.max(record.epoch);
        self.sources.remove(&source);
        true
    }
}

impl Record {
    fn runs(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns
    }

    fn held(&self, now_ns: u64) -> Held {
        let left_ms = self.until_ns.saturating_sub(now_ns).div_ceil(NS_PER_MS);
        Held { by: self.holder, epoch: self.epoch, left_ms }
    }

    fn refusal(&self, now_ns: u64) -> LeaseRefusal {
        let Held { by, left_ms, .. } = self.held(now_ns);
        LeaseRefusal::Held { by, left_ms }
    }
}

#[cfg(test)]
mod tests;
