//! Short names for nodes and models: the same 64 bits on every machine, without anyone giving out numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A node of the cluster, by its name in the topology.
///
/// Two names of one topology never share an id; [`crate::Topology::parse`] refuses such files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// A model in one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelId(pub u64);

impl NodeId {
    /// FNV-1a (64 bits) of the name's bytes.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(fnv1a(FNV_OFFSET, name.as_bytes()))
    }
}

impl ModelId {
    /// FNV-1a (64 bits) of the name's bytes, a zero byte and the version as four little-endian bytes.
    #[must_use]
    pub fn of(name: &str, version: u32) -> Self {
        let hash = fnv1a(FNV_OFFSET, name.as_bytes());
        Self(fnv1a(fnv1a(hash, &[0]), &version.to_le_bytes()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Offset basis and prime of the 64-bit hash by Fowler, Noll and Vo.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_published_hash() {
        assert_eq!(NodeId::of(""), NodeId(0xcbf2_9ce4_8422_2325));
        assert_eq!(NodeId::of("a"), NodeId(0xaf63_dc4c_8601_ec8c));
        assert_eq!(NodeId::of("foobar"), NodeId(0x8594_4171_f739_67e8));
        assert_ne!(ModelId::of("nanodet", 1), ModelId::of("nanodet", 2));
        assert_ne!(ModelId::of("nanodet", 1), ModelId::of("nanodet1", 1));
        assert_eq!(NodeId::of("a").to_string(), "af63dc4c8601ec8c");
    }
}
