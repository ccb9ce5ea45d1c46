//! What a machine is made of, and which of its cores and memory belong to which device.
//!
//! [`probe`] asks NVML, hwloc and the kernel, and answers with one plain [`Inventory`]; [`plan`] divides it, purely: the
//! same inventory and options always give the same [`Plan`]. Nothing here binds a thread, allocates memory or changes a
//! setting of the machine: whoever starts the threads does.

mod error;
mod health;
mod inventory;
mod link;
mod plan;
mod probe;
mod render;

pub use error::HardwareError;
pub use health::{GpuSample, Health, HealthJudge, Reading, XIDS_MAX};
pub use inventory::{
    Cache, CacheKind, Core, Gpu, HugePages, Inventory, Limits, Nic, NumaNode, Package, ShmemHugePages,
};
pub use link::PcieLink;
pub use plan::{CpuDevices, DeviceKind, DevicePlan, Plan, PlanOptions, plan};
pub use probe::{pcie_link, probe, watch};
pub use render::render;
