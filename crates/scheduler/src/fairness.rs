//! Fair shares among principals: who asks for more than its part cannot take what the others ask for.
//!
//! What was accepted is never taken back, so fairness is a matter of admission: a principal that offers more than its
//! fair part may fill a lane's queue only as far as leaves room for what the others have lately been offering, each up
//! to its own fair part. Where nobody else offers anything there is no limit, and with one principal no cost.

use serde::{Deserialize, Serialize};

use crate::decay::{MEMORY_NS, decayed};
use crate::types::PrincipalKey;

/// Room that is kept for a principal beyond what it offered, in percent, so that it can grow.
const HEADROOM_PERCENT: u64 = 125;
/// Principals that are remembered per pool; of more, the one that was silent for longest is forgotten.
const PRINCIPALS_MAX: usize = 256;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Use {
    principal: PrincipalKey,
    class: u8,
    /// Service time offered, decayed.
    offered_ns: u64,
    at_ns: u64,
}

impl Use {
    fn offered_ns(&self, now_ns: u64) -> u64 {
        decayed(self.offered_ns, now_ns.saturating_sub(self.at_ns))
    }
}

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Principals {
    uses: Vec<Use>,
}

impl Principals {
    /// Notes that a principal wants so much time in a class, granted or not.
    pub(crate) fn note(&mut self, now_ns: u64, principal: PrincipalKey, class: u8, time_ns: u64) {
        if let Some(known) = self.uses.iter_mut().find(|known| known.principal == principal && known.class == class) {
            known.offered_ns = known.offered_ns(now_ns).saturating_add(time_ns);
            known.at_ns = now_ns;
            return;
        }
        if self.uses.len() >= PRINCIPALS_MAX {
            let silent = self.uses.iter().enumerate().min_by_key(|(_, known)| known.at_ns).map(|(index, _)| index);
            silent.map(|index| self.uses.swap_remove(index));
        }
        self.uses.push(Use { principal, class, offered_ns: time_ns, at_ns: now_ns });
    }

    /// Which part of the time until its deadline a principal's queued work of this class may fill, in thousandths, in a
    /// pool of so many lanes. 1000 = there is no limit.
    pub(crate) fn limit_permille(&self, now_ns: u64, principal: PrincipalKey, class: u8, lanes: usize) -> u64 {
        if self.uses.len() <= 1 {
            return 1000;
        }
        let capacity_ns = MEMORY_NS.saturating_mul(lanes.max(1) as u64);
        let parts = self.uses.iter().filter(|known| known.class == class).filter_map(|known| {
            let offered_ns = known.offered_ns(now_ns);
            (offered_ns > 0).then(|| (known.principal, offered_ns.saturating_mul(1000) / capacity_ns))
        });
        let parts: smallvec::SmallVec<[(PrincipalKey, u64); 8]> = parts.collect();
        if parts.len() <= 1 {
            return 1000;
        }
        let fair = 1000 / parts.len() as u64;
        let own = parts.iter().find(|(other, _)| *other == principal).map_or(0, |(_, part)| *part);
        if own <= fair {
            return 1000;
        }
        let others = parts.iter().filter(|(other, _)| *other != principal);
        let kept: u64 = others.map(|(_, part)| (part * HEADROOM_PERCENT / 100).min(fair)).sum();
        1000_u64.saturating_sub(kept).max(fair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const GREEDY: PrincipalKey = PrincipalKey(1);
    const MODEST: PrincipalKey = PrincipalKey(2);

    #[test]
    fn room_is_kept_for_who_asks_for_less_than_its_part() {
        let mut principals = Principals::default();
        assert_eq!(principals.limit_permille(0, GREEDY, 2, 1), 1000);
        for round in 0..100 {
            principals.note(round * 10 * MS, GREEDY, 2, 20 * MS);
            principals.note(round * 10 * MS, MODEST, 2, MS);
        }
        let now_ns = 990 * MS;
        assert_eq!(principals.limit_permille(now_ns, MODEST, 2, 1), 1000);
        let limit = principals.limit_permille(now_ns, GREEDY, 2, 1);
        assert!((900..960).contains(&limit), "the modest one offered some 6 %: {limit}");
        assert_eq!(principals.limit_permille(now_ns, GREEDY, 1, 1), 1000, "another class");
        assert_eq!(principals.limit_permille(now_ns + MEMORY_NS, GREEDY, 2, 1), 1000, "forgotten");
    }

    #[test]
    fn two_greedy_ones_get_half_each() {
        let mut principals = Principals::default();
        for round in 0..100 {
            principals.note(round * 10 * MS, GREEDY, 2, 20 * MS);
            principals.note(round * 10 * MS, MODEST, 2, 15 * MS);
        }
        assert_eq!(principals.limit_permille(990 * MS, GREEDY, 2, 1), 500);
        assert_eq!(principals.limit_permille(990 * MS, MODEST, 2, 1), 500);
    }

    #[test]
    fn memory_is_bounded() {
        let mut principals = Principals::default();
        for principal in 0..10_000 {
            principals.note(u64::from(principal), PrincipalKey(principal), 0, MS);
        }
        assert_eq!(principals.uses.len(), PRINCIPALS_MAX);
    }
}
