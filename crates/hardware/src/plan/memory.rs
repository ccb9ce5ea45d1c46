//! Host memory, by NUMA node, shared among the devices that draw on it.

use std::collections::BTreeMap;

use crate::Inventory;

/// Memory for devices, node by node.
#[derive(Debug)]
pub(super) struct Memory {
    /// What devices may take of each node that has memory, and how many draw on it.
    nodes: BTreeMap<u32, (u64, u64)>,
}

impl Memory {
    /// Counts the devices by the nodes that they want memory of.
    pub(super) fn new(inventory: &Inventory, homes: impl Iterator<Item = Option<u32>>) -> Self {
        let total: u64 = inventory.numa_nodes.iter().fold(0, |sum, node| sum.saturating_add(node.memory_bytes));
        let limit = inventory.limits.memory_bytes.unwrap_or(u64::MAX).min(total);
        let mut memory = Self { nodes: BTreeMap::new() };
        for node in inventory.numa_nodes.iter().filter(|node| node.memory_bytes > 0) {
            // A container's limit falls on the nodes as their memory does.
            let scaled = u128::from(node.memory_bytes) * u128::from(limit) / u128::from(total);
            let usable = u64::try_from(scaled * 3 / 4).unwrap_or(u64::MAX);
            memory.nodes.entry(node.os_index).or_insert((usable, 0));
        }
        for home in homes {
            if let Some(node) = memory.nearest(home)
                && let Some((_, devices)) = memory.nodes.get_mut(&node)
            {
                *devices += 1;
            }
        }
        memory
    }

    /// The node that a device at `home` gets memory of, and how much.
    pub(super) fn share(&self, home: Option<u32>) -> (Option<u32>, u64) {
        let node = self.nearest(home);
        let bytes =
            node.and_then(|node| self.nodes.get(&node)).map_or(0, |(usable, devices)| usable / (*devices).max(1));
        (node, bytes)
    }

    /// The node itself if it has memory, else the one with the nearest number: the inventory knows no distances.
    fn nearest(&self, home: Option<u32>) -> Option<u32> {
        let home = home.unwrap_or(0);
        self.nodes.keys().copied().min_by_key(|node| (node.abs_diff(home), *node))
    }
}
