//! Asks the machine, source by source.

mod hwloc;
mod nvml;
mod sysfs;
mod watch;

use std::path::Path;

use crate::{HardwareError, Inventory};

pub use nvml::pcie_link;
pub use watch::watch;

/// Looks at this machine: NVML for GPUs, hwloc for cores, caches and NUMA nodes, sysfs and procfs for the rest. Only what
/// this process may use is reported, so that a container sees its own share. Takes some tens of milliseconds, up to
/// seconds where a GPU's driver has to be woken.
///
/// # Errors
/// [`HardwareError`]. No GPU and no driver are not errors: [`Inventory::gpu_note`] says why there is none.
pub fn probe() -> Result<Inventory, HardwareError> {
    let root = Path::new("/");
    let allowed = sysfs::allowed(root)?;
    let mut topology = hwloc::topology(&allowed)?;
    for node in &mut topology.numa_nodes {
        node.huge_pages = sysfs::huge_pages(root, node.os_index);
    }
    let (mut gpus, gpu_note) = nvml::gpus();
    for gpu in &mut gpus {
        gpu.numa_node = sysfs::pci_numa_node(root, &gpu.pci_address);
    }
    Ok(Inventory {
        gpus,
        gpu_note,
        packages: topology.packages,
        numa_nodes: topology.numa_nodes,
        cores: topology.cores,
        caches: topology.caches,
        nics: sysfs::nics(root),
        shmem_huge_pages: sysfs::shmem_huge_pages(root),
        limits: sysfs::limits(root)?,
    })
}
