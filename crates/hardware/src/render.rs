//! An inventory and a plan as text for people.

use std::fmt::Write as _;

use crate::plan::LogicalCpus;
use crate::{CacheKind, DeviceKind, Gpu, Inventory, Plan};

/// A tree of the machine and of who gets what.
#[must_use]
pub fn render(inventory: &Inventory, plan: &Plan) -> String {
    let mut machine = Tree::new("machine");
    for package in &inventory.packages {
        let cores: Vec<_> = inventory.cores.iter().filter(|core| core.package == package.id).collect();
        let cpus: usize = cores.iter().map(|core| core.cpus.len()).sum();
        machine.leaf(format!("package {}  {}  {}", package.id, package.model, cores_and_cpus(cores.len(), cpus)));
    }
    for node in &inventory.numa_nodes {
        let cores = inventory.cores.iter().filter(|core| core.numa_node == node.os_index).count();
        let title = format!(
            "NUMA node {}  {}  {}",
            node.os_index,
            bytes(node.memory_bytes),
            match cores {
                0 => "no CPU".to_owned(),
                _ => format!("{}: {}", cores_and_cpus(cores, node.cpus.len()), LogicalCpus(&node.cpus)),
            }
        );
        let mut tree = Tree::new(title);
        for pages in node.huge_pages.iter().filter(|pages| pages.total > 0) {
            tree.leaf(format!("{} of {} huge pages of {} free", pages.free, pages.total, bytes(pages.page_bytes)));
        }
        for nic in inventory.nics.iter().filter(|nic| nic.numa_node == Some(node.os_index)) {
            tree.leaf(nic_line(&nic.name, nic.up));
        }
        for gpu in inventory.gpus.iter().filter(|gpu| gpu.numa_node == Some(node.os_index)) {
            tree.leaf(gpu_line(gpu));
        }
        machine.children.push(tree);
    }
    let is_known = |node: Option<u32>| inventory.numa_nodes.iter().any(|known| Some(known.os_index) == node);
    for nic in inventory.nics.iter().filter(|nic| !is_known(nic.numa_node)) {
        machine.leaf(format!("{}  (NUMA node unknown)", nic_line(&nic.name, nic.up)));
    }
    for gpu in inventory.gpus.iter().filter(|gpu| !is_known(gpu.numa_node)) {
        machine.leaf(format!("{}  (NUMA node unknown)", gpu_line(gpu)));
    }
    if let Some(note) = &inventory.gpu_note {
        machine.leaf(format!("{}: {note}", if inventory.gpus.is_empty() { "no GPU" } else { "GPUs" }));
    }
    if let Some(caches) = caches(inventory) {
        machine.leaf(format!("caches  {caches}"));
    }
    machine.leaf(limits(inventory));

    let mut division = Tree::new(if plan.pinned { "plan  pinned" } else { "plan  not pinned" });
    division.leaf(format!("network I/O  {}", cpus(&plan.io_cpus)));
    if !plan.idle_cpus.is_empty() {
        division.leaf(format!("kept idle  {}", cpus(&plan.idle_cpus)));
    }
    for device in &plan.devices {
        let node = device.numa_node.map_or_else(|| "any node".to_owned(), |node| format!("node {node}"));
        let memory = match &device.kind {
            DeviceKind::Cuda { .. } => {
                format!("{} + {} host memory of {node}", bytes(device.memory_bytes), bytes(device.host_memory_bytes))
            }
            DeviceKind::Cpu => format!("{} of {node}", bytes(device.memory_bytes)),
        };
        let mut tree = Tree::new(format!("{}  {}  {memory}", device.name, cpus(&device.cpus)));
        if let DeviceKind::Cuda { uuid, .. } = &device.kind {
            tree.leaf(uuid.clone());
        }
        division.children.push(tree);
    }
    if !plan.spare_cpus.is_empty() {
        division.leaf(format!("everything else  {}", cpus(&plan.spare_cpus)));
    }
    for note in &plan.notes {
        division.leaf(format!("note: {note}"));
    }

    let mut text = String::new();
    machine.write(&mut text);
    division.write(&mut text);
    text
}

struct Tree {
    title: String,
    children: Vec<Self>,
}

impl Tree {
    fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), children: Vec::new() }
    }

    fn leaf(&mut self, title: String) {
        self.children.push(Self::new(title));
    }

    fn write(&self, text: &mut String) {
        text.push_str(&self.title);
        text.push('\n');
        self.write_children(text, &mut String::new());
    }

    fn write_children(&self, text: &mut String, indent: &mut String) {
        for (position, child) in self.children.iter().enumerate() {
            let is_last = position + 1 == self.children.len();
            let (branch, stem) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let _ = writeln!(text, "{indent}{branch}{}", child.title);
            let length = indent.len();
            indent.push_str(stem);
            child.write_children(text, indent);
            indent.truncate(length);
        }
    }
}

fn gpu_line(gpu: &Gpu) -> String {
    let mut line = format!("GPU {}  {}  {}  {}", gpu.index, gpu.name, bytes(gpu.memory_bytes), gpu.pci_address);
    if let Some(limit) = gpu.power_limit_mw {
        let _ = write!(line, "  {} W", limit / 1000);
        if let (Some(min), Some(max)) = (gpu.power_limit_min_mw, gpu.power_limit_max_mw) {
            let _ = write!(line, " (of {} to {})", min / 1000, max / 1000);
        }
    }
    let _ = write!(line, "  driver {}, CUDA {}", gpu.driver_version, gpu.cuda_version);
    line
}

fn nic_line(name: &str, up: bool) -> String {
    format!("network {name}{}", if up { "" } else { "  down" })
}

/// One item per level and kind: how many, and of what size.
fn caches(inventory: &Inventory) -> Option<String> {
    let mut kinds: Vec<_> = inventory.caches.iter().map(|cache| (cache.level, cache.kind, cache.bytes)).collect();
    kinds.sort_unstable();
    let items = kinds.chunk_by(|a, b| a == b).map(|run| {
        let (level, kind, size) = run[0];
        let letter = match kind {
            CacheKind::Unified => "",
            CacheKind::Data => "d",
            CacheKind::Instruction => "i",
        };
        format!("L{level}{letter} {} × {}", run.len(), bytes(size))
    });
    let items: Vec<_> = items.collect();
    (!items.is_empty()).then(|| items.join(", "))
}

fn limits(inventory: &Inventory) -> String {
    let limits = &inventory.limits;
    let mut items =
        vec![format!("locked memory {}", limits.memlock_bytes.map_or_else(|| "unlimited".to_owned(), bytes))];
    if let Some(limit) = limits.memory_bytes {
        items.push(format!("memory {}", bytes(limit)));
    }
    if let Some(milli) = limits.cpu_quota_milli {
        items.push(format!("CPU time {}.{:03}", milli / 1000, milli % 1000));
    }
    let pages = inventory.shmem_huge_pages.map_or("not supported", crate::ShmemHugePages::name);
    items.push(format!("huge pages for shared memory: {pages}"));
    format!("limits  {}", items.join(", "))
}

fn cores_and_cpus(cores: usize, cpus: usize) -> String {
    format!("{cores} {}, {cpus} {}", if cores == 1 { "core" } else { "cores" }, if cpus == 1 { "CPU" } else { "CPUs" })
}

fn cpus(cpus: &[u32]) -> String {
    format!("CPU {}", LogicalCpus(cpus))
}

fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut whole, mut rest, mut unit) = (bytes, 0, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        (whole, rest, unit) = (whole / 1024, whole % 1024, unit + 1);
    }
    match rest * 10 / 1024 {
        0 => format!("{whole} {}", UNITS[unit]),
        tenths => format!("{whole}.{tenths} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_with_one_digit_at_most() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(32 << 20), "32 MiB");
        assert_eq!(bytes((7 << 30) + (1 << 29)), "7.5 GiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
    }
}
