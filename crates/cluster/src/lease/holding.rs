//! The owner's side of a lease.

use super::{Lease, NS_PER_MS};

/// What the guard takes off a lease: a share, in thousandths, for clocks that differ (two that are 1 % off in opposite
/// directions differ by 2 %), and a fixed part, in milliseconds, for what happens between looking and acting.
const GUARD_PERMILLE: u64 = 30;
const GUARD_MS: u64 = 5;

/// One source, as its owner or a node that wants to be sees it. All times are the node's own monotonic clock.
///
/// To ask or to renew: send [`Self::claim`]'s epoch and remember when; give the answer to [`Self::granted`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Of the last lease, also after it lapsed; 0 = there was none.
    epoch: u64,
    until_ns: u64,
    renew_ns: u64,
    /// Answers to what was asked until then do not count.
    gave_up_ns: Option<u64>,
}

impl Holding {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The epoch, while the lease is valid. Without one, the source must not be used.
    #[must_use]
    pub fn epoch(&self, now_ns: u64) -> Option<u64> {
        (now_ns < self.until_ns).then_some(self.epoch)
    }

    /// What to ask with now.
    #[must_use]
    pub fn claim(&self, now_ns: u64) -> Option<u64> {
        self.epoch(now_ns)
    }

    /// When to ask for more: a third of the lease after the last successful question.
    #[must_use]
    pub const fn renew_ns(&self) -> u64 {
        self.renew_ns
    }

    /// When the lease lapses unless it is renewed.
    #[must_use]
    pub const fn until_ns(&self) -> u64 {
        self.until_ns
    }

    /// The grantor's answer to what was asked at `asked_ns`. Whether the source may be used now.
    pub fn granted(&mut self, now_ns: u64, asked_ns: u64, lease: Lease) -> bool {
        let valid = self.epoch(now_ns).is_some();
        let counts = self.gave_up_ns.is_none_or(|gave_up_ns| asked_ns > gave_up_ns)
            && asked_ns <= now_ns
            // A renewal that comes after the lapse is nothing: in between, the source may have changed hands.
            && (lease.epoch > self.epoch || (lease.epoch == self.epoch && valid));
        if counts {
            let ttl_ms = lease.ttl_ms.min(super::LEASE_TTL_MS_MAX);
            let guard_ms = (ttl_ms * GUARD_PERMILLE).div_ceil(1000) + GUARD_MS;
            let until_ns = asked_ns.saturating_add(ttl_ms.saturating_sub(guard_ms) * NS_PER_MS);
            if lease.epoch > self.epoch || until_ns > self.until_ns {
                self.until_ns = until_ns;
                self.renew_ns = asked_ns.saturating_add(ttl_ms * NS_PER_MS / 3);
            }
            self.epoch = lease.epoch;
        }
        self.epoch(now_ns).is_some()
    }

    /// Stops using the source at once; the epoch that was held is to be told to the grantor ([`super::LeaseTable::release`])
    /// after everything that uses the source has stopped.
    pub fn give_up(&mut self, now_ns: u64) -> Option<u64> {
        let held = self.epoch(now_ns);
        self.until_ns = self.until_ns.min(now_ns);
        self.gave_up_ns = Some(now_ns);
        held
    }
}
