//! What is kept of other nodes' sessions, so that one of them can go on here when its owner is lost.
//!
//! A session has one state, its newest. States are bytes here; they are kept for a while after the last one came, and
//! of too many the one that was not renewed for longest goes. The epochs of sessions are remembered for longer than
//! their states, so that an owner of yesterday is refused.

use std::collections::BTreeMap;

use crate::lease::{EpochGate, StaleEpoch};

/// States that are kept at once.
pub const CHECKPOINTS_MAX: usize = 4_096;
/// Bytes of states that are kept at once.
pub const CHECKPOINT_BYTES_KEPT_MAX: usize = 64 << 20;
/// How long a state is kept after it came, in milliseconds: a client finds the next node in far less.
pub const CHECKPOINT_KEEP_MS: u64 = 30_000;

/// A state that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub epoch: u64,
    /// Number within the epoch.
    pub number: u64,
    pub state: Vec<u8>,
    kept_ms: u64,
}

impl Checkpoint {
    /// How long ago it came, in milliseconds.
    #[must_use]
    pub const fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.kept_ms)
    }
}

/// The states of sessions, by stream (a number that stands for principal and session).
#[derive(Clone, Debug, Default)]
pub struct CheckpointStore {
    gate: EpochGate,
    kept: BTreeMap<u64, Checkpoint>,
    /// When each state came, the oldest first.
    by_age: BTreeMap<(u64, u64), ()>,
    bytes: usize,
}

impl CheckpointStore {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a state in place of the one before. A number that is not newer within its epoch changes nothing.
    ///
    /// # Errors
    /// [`StaleEpoch`] when the session is in a newer epoch.
    pub fn keep(
        &mut self,
        now_ms: u64,
        stream: u64,
        epoch: u64,
        number: u64,
        state: Vec<u8>,
    ) -> Result<(), StaleEpoch> {
        self.gate.accept(stream, epoch)?;
        self.expire(now_ms);
        if self.kept.get(&stream).is_some_and(|kept| (kept.epoch, kept.number) >= (epoch, number)) {
            return Ok(());
        }
        self.remove(stream);
        while self.kept.len() >= CHECKPOINTS_MAX || self.bytes + state.len() > CHECKPOINT_BYTES_KEPT_MAX {
            let Some((_, oldest)) = self.by_age.first_key_value().map(|(key, ())| *key) else { break };
            self.remove(oldest);
        }
        self.bytes += state.len();
        self.by_age.insert((now_ms, stream), ());
        self.kept.insert(stream, Checkpoint { epoch, number, state, kept_ms: now_ms });
        Ok(())
    }

    /// Somebody owns the session from this epoch on. The state is kept until the new owner's first.
    ///
    /// # Errors
    /// [`StaleEpoch`] when the session is in a newer epoch.
    pub fn claim(&mut self, stream: u64, epoch: u64) -> Result<(), StaleEpoch> {
        self.gate.accept(stream, epoch)
    }

    /// The session has ended: its state goes. Its epoch is remembered.
    ///
    /// # Errors
    /// [`StaleEpoch`] when the session is in a newer epoch, and so has not ended.
    pub fn end(&mut self, stream: u64, epoch: u64) -> Result<(), StaleEpoch> {
        self.gate.accept(stream, epoch)?;
        self.remove(stream);
        Ok(())
    }

    /// What is kept of a session.
    pub fn find(&self, now_ms: u64, stream: u64) -> Option<&Checkpoint> {
        self.kept.get(&stream).filter(|kept| kept.age_ms(now_ms) <= CHECKPOINT_KEEP_MS)
    }

    /// The newest epoch of a session, as far as it was heard; 0 = never heard.
    #[must_use]
    pub fn newest(&self, stream: u64) -> u64 {
        self.gate.newest(stream).unwrap_or(0)
    }

    /// Lets go what is too old.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some(((kept_ms, stream), ())) = self.by_age.first_key_value()
            && kept_ms.saturating_add(CHECKPOINT_KEEP_MS) < now_ms
        {
            self.remove(*stream);
        }
    }

    /// States that are kept, and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.kept.len(), self.bytes)
    }

    fn remove(&mut self, stream: u64) {
        if let Some(gone) = self.kept.remove(&stream) {
            self.by_age.remove(&(gone.kept_ms, stream));
            self.bytes -= gone.state.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_newest_state_of_the_newest_epoch_is_kept() {
        let mut store = CheckpointStore::new();
        store.keep(0, 7, 1, 4, vec![4]).unwrap();
        store.keep(1, 7, 1, 3, vec![3]).unwrap();
        assert_eq!(store.find(2, 7).unwrap().state, [4], "an overtaken one changes nothing");
        store.claim(7, 2).unwrap();
        assert_eq!((store.find(2, 7).unwrap().epoch, store.newest(7)), (1, 2), "until the new owner's first");
        let refused = store.keep(3, 7, 1, 9, vec![9]).unwrap_err();
        assert_eq!((refused.epoch, refused.newest), (1, 2));
        assert!(store.end(7, 1).is_err());
        store.keep(4, 7, 2, 1, vec![2, 1]).unwrap();
        assert_eq!(store.find(4, 7).map(|kept| (kept.epoch, kept.number, kept.age_ms(9))), Some((2, 1, 5)));
        assert_eq!(store.size(), (1, 2));
        store.end(7, 2).unwrap();
        assert_eq!((store.find(5, 7), store.size(), store.newest(7)), (None, (0, 0), 2));
        assert!(store.keep(6, 7, 1, 1, vec![]).is_err(), "its epoch is remembered");
    }

    #[test]
    fn a_state_is_kept_for_a_while() {
        let mut store = CheckpointStore::new();
        store.keep(1_000, 1, 1, 1, vec![1]).unwrap();
        store.keep(2_000, 2, 1, 1, vec![1]).unwrap();
        assert!(store.find(1_000 + CHECKPOINT_KEEP_MS, 1).is_some());
        assert!(store.find(1_001 + CHECKPOINT_KEEP_MS, 1).is_none());
        store.expire(1_001 + CHECKPOINT_KEEP_MS);
        assert_eq!((store.size(), store.newest(1)), ((1, 1), 1));
    }

    #[test]
    fn of_too_many_the_one_not_renewed_for_longest_goes() {
        let mut store = CheckpointStore::new();
        for stream in 0..CHECKPOINTS_MAX as u64 {
            store.keep(stream, stream, 1, 1, vec![0; 10]).unwrap();
        }
        store.keep(5_000, 0, 1, 2, vec![0; 10]).unwrap();
        store.keep(5_000, 9_999, 1, 1, vec![0; 10]).unwrap();
        assert!(store.find(5_000, 0).is_some() && store.find(5_000, 1).is_none());
        assert_eq!(store.size(), (CHECKPOINTS_MAX, CHECKPOINTS_MAX * 10));
        store.keep(5_001, 10_000, 1, 1, vec![0; CHECKPOINT_BYTES_KEPT_MAX]).unwrap();
        assert_eq!(store.size(), (1, CHECKPOINT_BYTES_KEPT_MAX));
    }

    proptest! {
        #[test]
        fn the_books_are_right(
            acts in prop::collection::vec((0..4_u8, 0..5_u64, 0..4_u64, 0..4_u64, 0..50_usize, 0..20_000_u64), 0..100)
        ) {
            let (mut store, mut now_ms) = (CheckpointStore::new(), 0);
            let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
            for (act, stream, epoch, number, bytes, later_ms) in acts {
                now_ms += later_ms;
                let accepted = match act {
                    0 | 1 => store.keep(now_ms, stream, epoch, number, vec![0; bytes]).is_ok(),
                    2 => store.claim(stream, epoch).is_ok(),
                    _ => store.end(stream, epoch).is_ok(),
                };
                let known = newest.entry(stream).or_default();
                prop_assert_eq!(accepted, epoch >= *known);
                *known = (*known).max(epoch);
                store.expire(now_ms);
                let kept: Vec<_> = (0..5).filter_map(|stream| store.find(now_ms, stream).cloned()).collect();
                prop_assert!(kept.iter().all(|kept| kept.age_ms(now_ms) <= CHECKPOINT_KEEP_MS));
                prop_assert_eq!(store.size(), (kept.len(), kept.iter().map(|kept| kept.state.len()).sum()));
            }
        }
    }
}
