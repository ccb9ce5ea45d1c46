//! The machine as plain data: what `sensorium` prints, records and plans with.

use serde::{Deserialize, Serialize};

/// What this process may use of the machine. CPU numbers and NUMA node numbers are the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    pub gpus: Vec<Gpu>,
    /// Why there is no GPU, or why one is missing; one line.
    pub gpu_note: Option<String>,
    pub packages: Vec<Package>,
    pub numa_nodes: Vec<NumaNode>,
    pub cores: Vec<Core>,
    pub caches: Vec<Cache>,
    /// Network cards, those with a link first, then by name. Virtual interfaces are left out.
    pub nics: Vec<Nic>,
    /// Huge pages for shared memory; `None` = the kernel has none.
    pub shmem_huge_pages: Option<ShmemHugePages>,
    pub limits: Limits,
}

/// One GPU, or one instance of a GPU that is divided (MIG).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Position among the usable GPUs, in PCI order. A device is selected by `uuid`: CUDA counts in an order of its own.
    pub index: u32,
    pub name: String,
    pub uuid: String,
    pub memory_bytes: u64,
    /// `0000:17:00.0`, as in sysfs.
    pub pci_address: String,
    /// `None` where the firmware does not say.
    pub numa_node: Option<u32>,
    /// The limit in force, in milliwatts.
    pub power_limit_mw: Option<u32>,
    pub power_limit_min_mw: Option<u32>,
    pub power_limit_max_mw: Option<u32>,
    pub driver_version: String,
    /// Newest CUDA that the driver can run, `13.0`.
    pub cuda_version: String,
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    pub id: u32,
    /// What the processor calls itself; empty where unknown.
    pub model: String,
}

/// Memory and the CPUs nearest to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    pub os_index: u32,
    /// 0 when it has none that this process may use.
    pub memory_bytes: u64,
    /// May be empty, and in rare machines two nodes share CPUs.
    pub cpus: Vec<u32>,
    pub huge_pages: Vec<HugePages>,
}

/// Huge pages of one size on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    pub page_bytes: u64,
    pub total: u64,
    pub free: u64,
}

/// A core, with the CPUs (hardware threads) of it that this process may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Counted over the whole machine.
    pub id: u32,
    pub package: u32,
    pub numa_node: u32,
    /// SMT siblings; never empty.
    pub cpus: Vec<u32>,
}

/// A cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    pub level: u32,
    pub bytes: u64,
    pub kind: CacheKind,
    /// The CPUs that share it.
    pub cpus: Vec<u32>,
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheKind {
    Unified,
    Data,
    Instruction,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    pub name: String,
    pub up: bool,
    /// `None` where the firmware does not say.
    pub numa_node: Option<u32>,
}

/// `/sys/kernel/mm/transparent_hugepage/shmem_enabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShmemHugePages {
    Always,
    WithinSize,
    /// Where asked for with `madvise`.
    Advise,
    /// Asking succeeds, silently without effect.
    Never,
    Deny,
    Force,
}

impl ShmemHugePages {
    pub const ALL: [Self; 6] = [Self::Always, Self::WithinSize, Self::Advise, Self::Never, Self::Deny, Self::Force];

    /// As the kernel writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::WithinSize => "within_size",
            Self::Advise => "advise",
            Self::Never => "never",
            Self::Deny => "deny",
            Self::Force => "force",
        }
    }
}

/// Limits of this process; `None` = none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory that may be locked.
    pub memlock_bytes: Option<u64>,
    /// Memory of the control group (the container).
    pub memory_bytes: Option<u64>,
    /// CPU time of the control group, in thousandths of a CPU.
    pub cpu_quota_milli: Option<u32>,
}
