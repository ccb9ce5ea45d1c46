//! What the kernel tells in files: what this process may use, huge pages, where PCI devices sit, limits.
//!
//! Every function takes the folder that stands for `/`, so that tests can bring their own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{HardwareError, HugePages, Limits, Nic, ShmemHugePages};

/// Longest file that is read, in bytes: longer ones are not what they should be.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Numbers of CPUs and nodes are below this; the kernel's own bound is 8,192.
const INDEX_MAX: u32 = 1 << 16;

/// What the kernel lets this process use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) cpus: BTreeSet<u32>,
    pub(super) memory_nodes: BTreeSet<u32>,
}

/// Affinity, container and boot options taken together.
pub(super) fn allowed(root: &Path) -> Result<Allowed, HardwareError> {
    let path = root.join("proc/self/status");
    let text = read(&path)?;
    let list = |key: &str, expected| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)).map_or("", str::trim);
        parse_list(value).ok_or_else(|| HardwareError::Format { path: path.clone(), found: value.to_owned(), expected })
    };
    Ok(Allowed {
        cpus: list("Cpus_allowed_list:", "a list of CPUs")?,
        memory_nodes: list("Mems_allowed_list:", "a list of NUMA nodes")?,
    })
}

/// Huge pages of a NUMA node, by size. None where the kernel has none.
pub(super) fn huge_pages(root: &Path, node: u32) -> Vec<HugePages> {
    let folder = root.join(format!("sys/devices/system/node/node{node}/hugepages"));
    let mut pages: Vec<_> = entries(&folder)
        .into_iter()
        .filter_map(|(name, path)| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some(HugePages {
                page_bytes: kib.checked_mul(1024)?,
                total: number(&path.join("nr_hugepages"))?,
                free: number(&path.join("free_hugepages"))?,
            })
        })
        .collect();
    pages.sort_by_key(|pages| pages.page_bytes);
    pages
}

/// The NUMA node of a PCI device; `None` where the firmware did not say (the kernel then writes -1).
pub(super) fn pci_numa_node(root: &Path, pci_address: &str) -> Option<u32> {
    node_number(&root.join("sys/bus/pci/devices").join(pci_address).join("numa_node"))
}

/// Network cards: what has a device behind it.
pub(super) fn nics(root: &Path) -> Vec<Nic> {
    let mut nics: Vec<_> = entries(&root.join("sys/class/net"))
        .into_iter()
        .filter_map(|(name, path)| {
            // A virtio card's device has no NUMA node; the PCI device above it may.
            let device = fs::canonicalize(path.join("device")).ok()?;
            let numa_node = device.ancestors().take(4).find_map(|folder| node_number(&folder.join("numa_node")));
            let up = read(&path.join("operstate")).is_ok_and(|state| state.trim() == "up");
            Some(Nic { name, up, numa_node })
        })
        .collect();
    nics.sort_by(|a, b| b.up.cmp(&a.up).then_with(|| a.name.cmp(&b.name)));
    nics
}

/// The setting in brackets.
pub(super) fn shmem_huge_pages(root: &Path) -> Option<ShmemHugePages> {
    let text = read(&root.join("sys/kernel/mm/transparent_hugepage/shmem_enabled")).ok()?;
    let (_, rest) = text.split_once('[')?;
    let (chosen, _) = rest.split_once(']')?;
    ShmemHugePages::ALL.into_iter().find(|setting| setting.name() == chosen)
}

/// Limits of this process and of the control groups (version 2) around it, of which the narrowest counts.
pub(super) fn limits(root: &Path) -> Result<Limits, HardwareError> {
    let path = root.join("proc/self/limits");
    let text = read(&path)?;
    let soft = text
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|line| line.split_whitespace().next())
        .unwrap_or("");
    let memlock_bytes = match soft {
        "unlimited" => None,
        number => Some(number.parse().map_err(|_| HardwareError::Format {
            path: path.clone(),
            found: number.to_owned(),
            expected: "a number of bytes for locked memory",
        })?),
    };

    let mut limits = Limits { memlock_bytes, memory_bytes: None, cpu_quota_milli: None };
    let mount = root.join("sys/fs/cgroup");
    let groups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    // Inside a container the path may be the host's, and then only the mount itself is there.
    for folder in mount.join(own).ancestors().take_while(|folder| folder.starts_with(&mount)) {
        if let Some(bytes) = number(&folder.join("memory.max")) {
            limits.memory_bytes = Some(limits.memory_bytes.map_or(bytes, |known| known.min(bytes)));
        }
        if let Some(quota) = read(&folder.join("cpu.max")).ok().and_then(|text| parse_quota(&text)) {
            limits.cpu_quota_milli = Some(limits.cpu_quota_milli.map_or(quota, |known| known.min(quota)));
        }
    }
    Ok(limits)
}

/// `0-3,8` as the kernel writes it; `None` when it is not such a list, or empty.
fn parse_list(text: &str) -> Option<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= INDEX_MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// `200000 100000` are 2,000 thousandths of a CPU; `max` is no quota.
fn parse_quota(text: &str) -> Option<u32> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    u32::try_from(quota.checked_mul(1000)?.checked_div(period)?).ok()
}

fn node_number(path: &Path) -> Option<u32> {
    // -1, for unknown, is no number of this type.
    read(path).ok()?.trim().parse().ok()
}

fn number(path: &Path) -> Option<u64> {
    read(path).ok()?.trim().parse().ok()
}

fn read(path: &Path) -> Result<String, HardwareError> {
    use std::io::Read as _;
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|source| HardwareError::Read { path: path.to_owned(), source })?;
    Ok(text)
}

/// Names and paths in a folder; none where it cannot be read.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

#[cfg(test)]
mod tests;
