//! Identifiers: fixed size, so that headers stay flat.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

/// The client's name for one job, unique per principal: the idempotency key. Sixteen random bytes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct JobId(pub [u8; 16]);

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A short UTF-8 name stored in place, padded with zero bytes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name<const N: usize>(pub [u8; N]);

/// The name of a model, node or label.
pub type ShortName = Name<32>;

impl<const N: usize> Name<N> {
    /// The name, or `None` when it is longer than `N` bytes or holds a zero byte.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if text.len() > N || text.bytes().any(|byte| byte == 0) {
            return None;
        }
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self(bytes))
    }

    /// The name, cut at the last character that fits into `N` bytes. For labels that are only shown.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let mut end = text.len().min(N);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self::new(text[..end].split('\0').next().unwrap_or("")).unwrap_or_default()
    }

    /// The text; empty when the bytes are not UTF-8, which only a faulty peer sends.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(N);
        std::str::from_utf8(&self.0[..end]).unwrap_or("")
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }
}

impl<const N: usize> Default for Name<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> fmt::Debug for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl<const N: usize> fmt::Display for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> serde::Serialize for Name<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_what_fits_and_refuse_what_does_not() {
        assert_eq!(Name::<8>::new("nanodet").unwrap().as_str(), "nanodet");
        assert_eq!(Name::<8>::new("12345678").unwrap().as_str(), "12345678");
        assert!(Name::<8>::new("123456789").is_none());
        assert!(Name::<8>::new("a\0b").is_none());
        assert_eq!(Name::<4>::cut("aäää").as_str(), "aä");
    }
}
