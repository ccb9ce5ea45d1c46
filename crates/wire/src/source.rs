//! Sources: cameras and microphones that nodes open themselves. Who owns one, and who watches it.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{Name, ShortName};
use crate::limits;

/// The name of a source.
pub type SourceName = Name<{ limits::SOURCE_NAME_BYTES_MAX }>;
/// An IP address and port, as text.
pub type AddressText = Name<64>;

/// Whether `text` may be a source's name: 1 to 128 of `a-z A-Z 0-9 . _ -`.
#[must_use]
pub fn is_source_name(text: &str) -> bool {
    (1..=limits::SOURCE_NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Asks for the events of a source, from the next one on.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct WatchHeader {
    pub source: SourceName,
    /// Of the events that the client has had last; 0 = it has had none.
    pub epoch: u64,
    /// With `epoch`: the number of the first event of that epoch that it has not had.
    pub next_event: u64,
}

/// Who owns a source. The first frame of every answer to [`WatchHeader`]; the last one when another node owns it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct OwnerHeader {
    /// Rises whenever the source changes hands; 0 = not known here.
    pub epoch: u64,
    /// When it is worth asking again, in milliseconds, where nobody is known to own it.
    pub retry_after_ms: u64,
    /// The owner, or a node that may know it; empty = nobody is known.
    pub node: ShortName,
    /// Where that node serves clients.
    pub api: AddressText,
    /// 1 = the node that answers owns it: events follow on this stream.
    pub here: u8,
    pub reserved: [u8; 7],
}

/// What a [`LeaseAskHeader`] wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LeaseAct {
    /// A lease, or more of the one that is held.
    Ask = 0,
    /// To give the lease back: the source is not used any more.
    Release = 1,
}

impl LeaseAct {
    pub const ALL: [Self; 2] = [Self::Ask, Self::Release];
}

/// Asks the grantor of a source for its lease. Who asks is who the certificate says.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct LeaseAskHeader {
    pub source: SourceName,
    /// The epoch that the asker holds; 0 = none.
    pub epoch: u64,
    /// Code of the [`LeaseAct`].
    pub act: u8,
    pub reserved: [u8; 7],
}

impl LeaseAskHeader {
    /// What it wants, unless its code is unknown.
    #[must_use]
    pub fn act(&self) -> Option<LeaseAct> {
        LeaseAct::ALL.get(usize::from(self.act)).copied()
    }
}

/// How a question for a lease was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LeaseVerdict {
    Granted = 0,
    /// Somebody else has it, for another `left_ms`.
    Held = 1,
    /// The grantor was started a moment ago and grants nothing new for another `left_ms`.
    Starting = 2,
    /// Too many sources are held.
    Full = 3,
    /// The grantor's cluster file has no such source, names another grantor, or does not list the asker.
    Stranger = 4,
    /// It was given back.
    Released = 5,
}

impl LeaseVerdict {
    pub const ALL: [Self; 6] = [Self::Granted, Self::Held, Self::Starting, Self::Full, Self::Stranger, Self::Released];
}

/// The grantor's answer.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct LeaseAnswerHeader {
    /// Of the lease, or of the one that somebody else holds.
    pub epoch: u64,
    /// How long the lease is, from when it was asked for, in milliseconds.
    pub ttl_ms: u64,
    /// Id of the node that holds it; 0 = nobody.
    pub holder: u64,
    pub left_ms: u64,
    /// Code of the [`LeaseVerdict`].
    pub verdict: u8,
    pub reserved: [u8; 7],
}

impl LeaseAnswerHeader {
    /// How it was decided, unless its code is unknown.
    #[must_use]
    pub fn verdict(&self) -> Option<LeaseVerdict> {
        LeaseVerdict::ALL.get(usize::from(self.verdict)).copied()
    }

    #[must_use]
    pub const fn with(mut self, verdict: LeaseVerdict) -> Self {
        self.verdict = verdict as u8;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sources_are_plain_and_bounded() {
        assert!(is_source_name("door-2.left_A") && is_source_name(&"a".repeat(128)));
        assert!(!is_source_name("") && !is_source_name(&"a".repeat(129)) && !is_source_name("a b"));
    }

    #[test]
    fn unknown_codes_are_none() {
        assert_eq!(LeaseAskHeader { act: 2, ..Default::default() }.act(), None);
        assert_eq!(LeaseAnswerHeader { verdict: 6, ..Default::default() }.verdict(), None);
        assert!(LeaseVerdict::ALL.iter().enumerate().all(|(code, verdict)| *verdict as usize == code));
    }
}
