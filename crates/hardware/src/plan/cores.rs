//! Cores that are left to hand out, by NUMA node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use crate::Core;

/// A node with at least this many cores can afford that the SMT siblings of its I/O cores stay idle.
const CORES_FOR_IDLE_SIBLINGS: usize = 8;

/// Cores by NUMA node, in the order of their ids, each a list of CPUs.
#[derive(Clone, Debug)]
pub(super) struct Cores {
    nodes: BTreeMap<u32, VecDeque<Vec<u32>>>,
}

/// What network I/O gets.
#[derive(Debug)]
pub(super) struct IoCores {
    pub(super) io_cpus: Vec<u32>,
    pub(super) idle_cpus: Vec<u32>,
}

/// Shows CPU numbers as ranges, `0-3,8`.
pub(crate) struct LogicalCpus<'a>(pub(crate) &'a [u32]);

impl Cores {
    /// Takes every CPU once, whatever the inventory repeats.
    pub(super) fn new(cores: &[Core]) -> Self {
        let mut ordered: Vec<&Core> = cores.iter().collect();
        ordered.sort_by(|a, b| (a.id, &a.cpus).cmp(&(b.id, &b.cpus)));
        let mut seen = BTreeSet::new();
        let mut nodes: BTreeMap<u32, VecDeque<Vec<u32>>> = BTreeMap::new();
        for core in ordered {
            let mut cpus: Vec<u32> = core.cpus.iter().copied().filter(|cpu| seen.insert(*cpu)).collect();
            cpus.sort_unstable();
            if !cpus.is_empty() {
                nodes.entry(core.numa_node).or_default().push_back(cpus);
            }
        }
        Self { nodes }
    }

    /// The nodes that had cores.
    pub(super) fn nodes(&self) -> impl Iterator<Item = u32> {
        self.nodes.keys().copied()
    }

    /// How many cores a node has.
    pub(super) fn on(&self, node: u32) -> usize {
        self.nodes.get(&node).map_or(0, VecDeque::len)
    }

    /// The node of a CPU's core.
    pub(super) fn node_of(&self, cpu: u32) -> Option<u32> {
        self.nodes.iter().find(|(_, cores)| cores.iter().flatten().any(|other| *other == cpu)).map(|(node, _)| *node)
    }

    pub(super) fn cpu_count(&self) -> usize {
        self.nodes.values().flatten().map(Vec::len).sum()
    }

    /// The CPUs of one node or of all, ascending.
    pub(super) fn cpus(&self, node: Option<u32>) -> Vec<u32> {
        let nodes = self.nodes.iter().filter(|(number, _)| node.is_none_or(|node| node == **number));
        let mut cpus: Vec<u32> = nodes.flat_map(|(_, cores)| cores.iter().flatten().copied()).collect();
        cpus.sort_unstable();
        cpus
    }

    /// Takes up to `count` CPUs for network I/O: from the node `first`, then from the others in order, and never a CPU that
    /// one of the `needed` devices of a node will miss. Each comes from a core of its own as long as there are cores.
    pub(super) fn take_io(&mut self, count: usize, first: Option<u32>, needed: impl Fn(u32) -> usize) -> IoCores {
        let mut order: Vec<u32> = self.nodes().collect();
        order.sort_by_key(|node| Some(*node) != first);
        let mut taken = IoCores { io_cpus: Vec::new(), idle_cpus: Vec::new() };
        for node in order {
            let missing = count - taken.io_cpus.len();
            let Some(cores) = self.nodes.get_mut(&node) else { continue };
            take_from(cores, missing, needed(node), &mut taken);
        }
        taken
    }

    /// Takes all cores of a node and divides them into `count` blocks of neighbours, as even as whole cores allow; by
    /// single CPUs where there are fewer cores than blocks. `None` when there are fewer CPUs than blocks.
    pub(super) fn split(&mut self, node: u32, count: usize) -> Option<Vec<Vec<u32>>> {
        let mut units: VecDeque<Vec<u32>> = self.nodes.remove(&node).unwrap_or_default();
        if units.len() < count {
            units = units.into_iter().flatten().map(|cpu| vec![cpu]).collect();
        }
        if units.len() < count || count == 0 {
            return None;
        }
        let (even, more) = (units.len() / count, units.len() % count);
        let blocks = (0..count).map(|block| {
            let size = even + usize::from(block < more);
            let mut cpus: Vec<u32> = units.drain(..size).flatten().collect();
            cpus.sort_unstable();
            cpus
        });
        Some(blocks.collect())
    }
}

/// Takes up to `missing` CPUs from one node's cores, of which `needed` CPUs must stay.
fn take_from(cores: &mut VecDeque<Vec<u32>>, missing: usize, needed: usize, taken: &mut IoCores) {
    let cpus: usize = cores.iter().map(Vec::len).sum();
    let count = missing.min(cpus.saturating_sub(needed));
    let siblings_idle = cores.len() >= CORES_FOR_IDLE_SIBLINGS.max(count + needed);
    let mut siblings = VecDeque::new();
    for _ in 0..count {
        // Only a node with fewer cores than I/O needs comes to its siblings.
        let Some(mut core) = cores.pop_front().or_else(|| siblings.pop_front()) else { break };
        taken.io_cpus.push(core.remove(0));
        if core.is_empty() {
            continue;
        }
        if siblings_idle {
            taken.idle_cpus.append(&mut core);
        } else {
            siblings.push_back(core);
        }
    }
    // What is left of a core that was begun is handed out last.
    cores.append(&mut siblings);
}

impl fmt::Display for LogicalCpus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.to_vec();
        cpus.sort_unstable();
        for (position, run) in cpus.chunk_by(|a, b| a.checked_add(1) == Some(*b)).enumerate() {
            let comma = if position > 0 { "," } else { "" };
            match run {
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [only] => write!(f, "{comma}{only}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cores` cores of two CPUs, numbered as the kernel does: first threads, then siblings.
    fn smt(cores: u32) -> Cores {
        let cores: Vec<_> =
            (0..cores).map(|id| Core { id, package: 0, numa_node: 0, cpus: vec![id, id + cores] }).collect();
        Cores::new(&cores)
    }

    #[test]
    fn io_takes_cores_of_its_own_and_on_a_large_node_their_siblings_stay_idle() {
        let mut large = smt(16);
        let io = large.take_io(2, None, |_| 1);
        assert_eq!((io.io_cpus, io.idle_cpus), (vec![0, 1], vec![16, 17]));
        assert_eq!(large.on(0), 14);

        let mut small = smt(4);
        let io = small.take_io(2, None, |_| 1);
        assert_eq!((io.io_cpus, io.idle_cpus), (vec![0, 1], vec![]));
        assert_eq!(small.cpus(None), [2, 3, 4, 5, 6, 7]);
        // Whole cores first; the halves go to the last block.
        assert_eq!(small.split(0, 2).unwrap(), [vec![2, 3, 6, 7], vec![4, 5]]);
    }

    #[test]
    fn io_takes_siblings_only_where_cores_are_out_and_nothing_that_a_device_needs() {
        let mut one = smt(1);
        assert_eq!(one.clone().take_io(2, None, |_| 0).io_cpus, [0, 1]);
        assert_eq!(one.take_io(2, None, |_| 1).io_cpus, [0]);
        assert_eq!(one.split(0, 1).unwrap(), [[1]]);
    }

    #[test]
    fn fewer_cores_than_blocks_are_divided_by_cpu_and_fewer_cpus_not_at_all() {
        assert_eq!(smt(2).split(0, 3).unwrap(), [vec![0, 2], vec![1], vec![3]]);
        assert_eq!(smt(2).split(0, 5), None);
        assert_eq!(smt(2).split(7, 1), None);
    }

    #[test]
    fn cpus_are_shown_as_ranges() {
        assert_eq!(LogicalCpus(&[8, 0, 1, 2, 5]).to_string(), "0-2,5,8");
        assert_eq!(LogicalCpus(&[]).to_string(), "");
    }
}
