//! Refuses what an owner of yesterday still sends.

use std::collections::BTreeMap;

use thiserror::Error;

/// Streams that a gate remembers. Beyond, the one that was not used for longest is forgotten, and the next epoch that it
/// comes with is taken as it is.
pub const STREAMS_MAX: usize = 65_536;

/// Somebody works in an epoch that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("epoch {epoch} of stream {stream:016x} has passed; it is now in epoch {newest}")]
pub struct StaleEpoch {
    pub stream: u64,
    pub epoch: u64,
    pub newest: u64,
}

/// The newest epoch of each stream.
#[derive(Clone, Debug, Default)]
pub struct EpochGate {
    /// Epoch, and when it was last used, in uses of the gate.
    streams: BTreeMap<u64, (u64, u64)>,
    by_use: BTreeMap<u64, u64>,
    uses: u64,
}

impl EpochGate {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets an epoch pass that is not older than what the stream has had, and remembers it.
    ///
    /// # Errors
    /// [`StaleEpoch`], with the newest.
    pub fn accept(&mut self, stream: u64, epoch: u64) -> Result<(), StaleEpoch> {
        if let Some((newest, used)) = self.streams.get(&stream).copied() {
            if epoch < newest {
                return Err(StaleEpoch { stream, epoch, newest });
            }
            self.by_use.remove(&used);
        } else if self.streams.len() >= STREAMS_MAX
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.streams.remove(&oldest);
        }
        self.uses += 1;
        self.by_use.insert(self.uses, stream);
        self.streams.insert(stream, (epoch, self.uses));
        Ok(())
    }

    /// The newest epoch of a stream.
    #[must_use]
    pub fn newest(&self, stream: u64) -> Option<u64> {
        self.streams.get(&stream).map(|(epoch, _)| *epoch)
    }

    /// For a stream that has ended for good.
    pub fn forget(&mut self, stream: u64) {
        if let Some((_, used)) = self.streams.remove(&stream) {
            self.by_use.remove(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_epoch_is_refused_and_says_which_is_newest() {
        let mut gate = EpochGate::new();
        assert_eq!(gate.accept(1, 5), Ok(()));
        assert_eq!(gate.accept(1, 5), Ok(()));
        assert_eq!(gate.accept(1, 7), Ok(()));
        assert_eq!(gate.accept(2, 1), Ok(()));
        let error = gate.accept(1, 6).unwrap_err();
        assert_eq!(error, StaleEpoch { stream: 1, epoch: 6, newest: 7 });
        assert_eq!(error.to_string(), "epoch 6 of stream 0000000000000001 has passed; it is now in epoch 7");
        assert_eq!(gate.newest(1), Some(7));
        gate.forget(1);
        assert_eq!((gate.newest(1), gate.newest(2)), (None, Some(1)));
    }

    #[test]
    fn only_what_was_not_used_for_longest_is_forgotten() {
        let mut gate = EpochGate::new();
        for stream in 0..STREAMS_MAX as u64 {
            gate.accept(stream, 9).unwrap();
        }
        gate.accept(0, 9).unwrap();
        gate.accept(u64::MAX, 1).unwrap();
        assert_eq!((gate.newest(0), gate.newest(1), gate.newest(2)), (Some(9), None, Some(9)));
        assert_eq!((gate.streams.len(), gate.by_use.len()), (STREAMS_MAX, STREAMS_MAX));
    }
}
