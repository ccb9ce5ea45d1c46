//! A GPU's link to the machine.

use serde::{Deserialize, Serialize};

/// PCI Express as a GPU and its slot have agreed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PcieLink {
    pub generation: u32,
    /// Lanes of the link.
    pub width: u32,
}

impl PcieLink {
    /// What the link carries in one direction before the heads of packets are taken off (these take about a tenth):
    /// transfers a second and lane, less the line code. `None` for a generation that is not known here.
    #[must_use]
    pub fn bytes_per_second(self) -> Option<u64> {
        // PCI Express Base Specification: 8b/10b up to generation 2, 128b/130b up to 5, flits of 242 in 256 bytes in 6.
        let megabytes_per_lane = match self.generation {
            1 => 250,
            2 => 500,
            3 => 984,
            4 => 1_969,
            5 => 3_938,
            6 => 7_563,
            _ => return None,
        };
        Some(u64::from(self.width) * megabytes_per_lane * 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_as_fast_as_its_lanes_together() {
        let of = |generation, width| PcieLink { generation, width }.bytes_per_second();
        assert_eq!(of(5, 16), Some(63_008_000_000));
        assert_eq!(of(3, 8), Some(7_872_000_000));
        assert_eq!(of(9, 16), None);
    }
}
