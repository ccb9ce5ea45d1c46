//! Divides a machine among its devices: which cores, which memory, and what stays for network I/O.
//!
//! Pure: no clock, no I/O, no chance. Whole cores are handed out in blocks of neighbours, which share caches, and a device
//! gets cores and memory of the NUMA node that it is attached to. It does not decide what runs on a device; the scheduler
//! does.

mod cores;
mod memory;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use self::cores::LogicalCpus;
use self::cores::{Cores, IoCores};
use self::memory::Memory;
use crate::{Gpu, Inventory};

/// Which CPU devices there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuDevices {
    /// One per NUMA node, beside GPUs, which then get fewer cores.
    Always,
    /// One per NUMA node where the machine has no GPU. The default.
    #[default]
    WithoutGpu,
    /// None: a machine without a GPU then has no device and only routes.
    Never,
}

/// What an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanOptions {
    /// Default `without_gpu`. Change it to use the CPUs of a GPU machine for light models, at the price of the cores that
    /// feed the GPUs.
    pub cpu_devices: CpuDevices,
    /// Whether threads may be bound to cores. Default true. Turn it off where other programs share the machine: a bound
    /// thread cannot make way.
    pub pin: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { cpu_devices: CpuDevices::default(), pin: true }
    }
}

/// Who gets what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether the sets below are disjoint and threads are to be bound to them. If not, they overlap and only tell how
    /// much there is.
    pub pinned: bool,
    /// For the threads that move packets: the first is the api port's, the second (or the same) the cluster port's.
    pub io_cpus: Vec<u32>,
    /// SMT siblings of `io_cpus`, left alone so that nothing shares a core with network I/O.
    pub idle_cpus: Vec<u32>,
    /// CPUs of no device, for everything else: ffmpeg, sessions, fusion.
    pub spare_cpus: Vec<u32>,
    /// GPUs first, then CPU devices, each in the order of their numbers.
    pub devices: Vec<DevicePlan>,
    /// What is unusual, in sentences for people.
    pub notes: Vec<String>,
}

/// What one device gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    /// `cuda:N` with the GPU's index, `cpu:N` with the NUMA node's number.
    pub name: String,
    pub kind: DeviceKind,
    /// Where its host memory should come from; `None` = anywhere.
    pub numa_node: Option<u32>,
    /// Ascending; never empty.
    pub cpus: Vec<u32>,
    /// Threads inside one operator of a network: 1, because many small jobs side by side beat one job on many cores.
    pub threads: u32,
    /// What models and their buffers may take on the device, in bytes: of a GPU's memory nine tenths; of a CPU device's
    /// the same as `host_memory_bytes`.
    pub memory_bytes: u64,
    /// The share of the machine's memory for this device's slabs and processes, in bytes: three quarters of the NUMA node
    /// (or of the container's limit), divided among its devices.
    pub host_memory_bytes: u64,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum DeviceKind {
    Cuda { gpu: u32, uuid: String },
    Cpu,
}

/// Divides the machine.
#[must_use]
pub fn plan(inventory: &Inventory, options: &PlanOptions) -> Plan {
    let mut notes = Vec::new();
    let cores = Cores::new(&inventory.cores);
    let devices = devices(inventory, options.cpu_devices, &cores, &mut notes);
    if cores.cpu_count() == 0 {
        notes.push("the inventory has no CPU: nothing can run".to_owned());
        return Plan {
            pinned: false,
            io_cpus: Vec::new(),
            idle_cpus: Vec::new(),
            spare_cpus: Vec::new(),
            devices: Vec::new(),
            notes,
        };
    }

    let division = match divide(inventory, options, &cores, &devices) {
        Ok(division) => division,
        Err(reason) => {
            notes.push(format!("{reason}: network I/O and devices share CPUs, and nothing is pinned"));
            overlapping(&cores, &devices)
        }
    };
    if division.pinned && division.io_cpus.len() < io_count(cores.cpu_count()) {
        notes.push(format!("only {} CPU could be kept for network I/O", division.io_cpus.len()));
    }
    if !division.idle_cpus.is_empty() {
        notes.push(format!(
            "CPU {} stay idle beside network I/O, as SMT siblings of its cores",
            LogicalCpus(&division.idle_cpus)
        ));
    }
    note_quota(inventory, cores.cpu_count(), &mut notes);

    let memory = Memory::new(inventory, devices.iter().map(|device| device.memory_home));
    let devices = devices.into_iter().zip(division.device_cpus).map(|(device, cpus)| {
        let (numa_node, host_memory_bytes) = memory.share(device.memory_home);
        if numa_node != device.memory_home
            && let (Some(wanted), Some(found)) = (device.memory_home, numa_node)
        {
            notes.push(format!("{}: NUMA node {wanted} has no memory, it gets that of node {found}", device.name));
        }
        let memory_bytes = device.gpu.map_or(host_memory_bytes, |gpu| gpu.memory_bytes / 10 * 9);
        let kind =
            device.gpu.map_or(DeviceKind::Cpu, |gpu| DeviceKind::Cuda { gpu: gpu.index, uuid: gpu.uuid.clone() });
        DevicePlan { name: device.name, kind, numa_node, cpus, threads: 1, memory_bytes, host_memory_bytes }
    });
    let devices = devices.collect();
    Plan {
        pinned: division.pinned,
        io_cpus: division.io_cpus,
        idle_cpus: division.idle_cpus,
        spare_cpus: division.spare_cpus,
        devices,
        notes,
    }
}

/// A device before it has anything.
struct Wanted<'a> {
    name: String,
    gpu: Option<&'a Gpu>,
    /// The NUMA node whose cores it gets; has cores.
    home: u32,
    /// The NUMA node that it is attached to.
    memory_home: Option<u32>,
}

struct Division {
    pinned: bool,
    io_cpus: Vec<u32>,
    idle_cpus: Vec<u32>,
    spare_cpus: Vec<u32>,
    /// In the order of the devices.
    device_cpus: Vec<Vec<u32>>,
}

/// CPUs that network I/O should have on a machine with so many.
const fn io_count(cpu_count: usize) -> usize {
    match cpu_count {
        0..=2 => 0,
        3..=7 => 1,
        _ => 2,
    }
}

fn devices<'a>(
    inventory: &'a Inventory,
    cpu_devices: CpuDevices,
    cores: &Cores,
    notes: &mut Vec<String>,
) -> Vec<Wanted<'a>> {
    let mut gpus: Vec<&Gpu> = inventory.gpus.iter().collect();
    gpus.sort_by(|a, b| (a.index, &a.uuid).cmp(&(b.index, &b.uuid)));

    let mut load: BTreeMap<u32, usize> = cores.nodes().map(|node| (node, 0)).collect();
    let own_node = |gpu: &Gpu| node_with_cores(inventory, cores, gpu.numa_node?);
    for node in gpus.iter().filter_map(|gpu| own_node(gpu)) {
        *load.entry(node).or_default() += 1;
    }
    let mut wanted = Vec::new();
    for gpu in gpus {
        let name = format!("cuda:{}", gpu.index);
        let home = own_node(gpu).or_else(|| {
            // The node with the most cores for each of its GPUs, this one counted in; the first of several.
            let node = load.iter().max_by(|(a, a_load), (b, b_load)| {
                let (a_share, b_share) = (cores.on(**a) * (*b_load + 1), cores.on(**b) * (*a_load + 1));
                a_share.cmp(&b_share).then(b.cmp(a))
            });
            let node = *node?.0;
            *load.entry(node).or_default() += 1;
            let why = match gpu.numa_node {
                None => "its NUMA node is unknown".to_owned(),
                Some(own) => format!("its NUMA node {own} has no CPU for this process"),
            };
            notes.push(format!("{name}: {why}, it gets cores of node {node}"));
            Some(node)
        });
        if let Some(home) = home {
            wanted.push(Wanted { name, gpu: Some(gpu), home, memory_home: gpu.numa_node.or(Some(home)) });
        }
    }
    let with_cpus = match cpu_devices {
        CpuDevices::Always => true,
        CpuDevices::WithoutGpu => wanted.is_empty(),
        CpuDevices::Never => false,
    };
    if with_cpus {
        wanted.extend(cores.nodes().map(|node| Wanted {
            name: format!("cpu:{node}"),
            gpu: None,
            home: node,
            memory_home: Some(node),
        }));
    }
    if wanted.is_empty() {
        notes.push("no device: this node only routes".to_owned());
    }
    wanted
}

/// The node itself if cores are counted to it, else the one whose cores it shares.
fn node_with_cores(inventory: &Inventory, cores: &Cores, node: u32) -> Option<u32> {
    if cores.on(node) > 0 {
        return Some(node);
    }
    let shared = inventory.numa_nodes.iter().find(|known| known.os_index == node)?.cpus.iter().min()?;
    cores.node_of(*shared)
}

/// Disjoint sets, or why there are none.
fn divide(
    inventory: &Inventory,
    options: &PlanOptions,
    cores: &Cores,
    devices: &[Wanted<'_>],
) -> Result<Division, String> {
    if !options.pin {
        return Err("pinning is turned off".to_owned());
    }
    let io_count = io_count(cores.cpu_count());
    if io_count == 0 {
        return Err(format!("only {} CPU", cores.cpu_count()));
    }
    let first = inventory.nics.iter().find_map(|nic| node_with_cores(inventory, cores, nic.numa_node?));
    let mut homes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (position, device) in devices.iter().enumerate() {
        homes.entry(device.home).or_default().push(position);
    }
    let mut left = cores.clone();
    let IoCores { io_cpus, idle_cpus } = left.take_io(io_count, first, |node| homes.get(&node).map_or(0, Vec::len));
    if io_cpus.is_empty() {
        return Err("every CPU is needed by a device".to_owned());
    }
    let mut device_cpus = vec![Vec::new(); devices.len()];
    for (node, positions) in &homes {
        let blocks = left
            .split(*node, positions.len())
            .ok_or_else(|| format!("NUMA node {node} has fewer CPUs than its {} devices", positions.len()))?;
        for (position, block) in positions.iter().zip(blocks) {
            device_cpus[*position] = block;
        }
    }
    Ok(Division { pinned: true, io_cpus, idle_cpus, spare_cpus: left.cpus(None), device_cpus })
}

/// Everyone everywhere on its own node.
fn overlapping(cores: &Cores, devices: &[Wanted<'_>]) -> Division {
    let all = cores.cpus(None);
    let io_count = io_count(all.len());
    let io_cpus = match io_count {
        0 => all.clone(),
        _ => cores.clone().take_io(io_count, None, |_| 0).io_cpus,
    };
    Division {
        pinned: false,
        io_cpus,
        idle_cpus: Vec::new(),
        spare_cpus: all,
        device_cpus: devices.iter().map(|device| cores.cpus(Some(device.home))).collect(),
    }
}

fn note_quota(inventory: &Inventory, cpu_count: usize, notes: &mut Vec<String>) {
    let Some(milli) = inventory.limits.cpu_quota_milli else { return };
    if u64::from(milli) < cpu_count as u64 * 1000 {
        notes.push(format!(
            "the control group grants the time of {}.{:03} CPUs while {cpu_count} may be used: when they all run, all \
             are stopped for the rest of the period",
            milli / 1000,
            milli % 1000,
        ));
    }
}
