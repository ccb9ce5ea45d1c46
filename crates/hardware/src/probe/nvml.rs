//! GPUs, from NVIDIA's management library, which comes with the driver and is looked for at run time.

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::{Gpu, PcieLink};

/// GPUs that are looked at; no machine has more.
const GPUS_MAX: u32 = 64;

/// The usable GPUs, without their NUMA nodes, and a line about what is missing.
pub(super) fn gpus() -> (Vec<Gpu>, Option<String>) {
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(error) => return (Vec::new(), Some(why_none(&error))),
    };
    let driver_version = nvml.sys_driver_version().unwrap_or_default();
    let cuda_version = nvml.sys_cuda_driver_version().map(cuda_version).unwrap_or_default();
    let count = match nvml.device_count() {
        Ok(count) => count.min(GPUS_MAX),
        Err(error) => return (Vec::new(), Some(why_none(&error))),
    };

    let (mut gpus, mut lost) = (Vec::new(), Vec::new());
    for index in 0..count {
        let parts = nvml.device_by_index(index).and_then(|device| parts(device, &driver_version, &cuda_version));
        match parts {
            Ok(parts) => gpus.extend(parts),
            Err(error) => lost.push(format!("GPU {index}: {error}")),
        }
    }
    for (index, gpu) in (0..).zip(&mut gpus) {
        gpu.index = index;
    }
    let note = match (lost.is_empty(), gpus.is_empty()) {
        (false, _) => Some(format!("not usable: {}", lost.join("; "))),
        (true, true) => Some(format!("the NVIDIA driver {driver_version} is there, and no GPU")),
        (true, false) => None,
    };
    (gpus, note)
}

/// The link of the GPU `uuid`, as it is now: an idle GPU may have slowed it down. `None` where it is not told.
#[must_use]
pub fn pcie_link(uuid: &str) -> Option<PcieLink> {
    let nvml = Nvml::init().ok()?;
    let device = nvml.device_by_uuid(uuid).ok()?;
    Some(PcieLink { generation: device.current_pcie_link_gen().ok()?, width: device.current_pcie_link_width().ok()? })
}

/// The GPU itself, or the instances that it is divided into (the whole then runs nothing).
fn parts(device: Device<'_>, driver_version: &str, cuda_version: &str) -> Result<Vec<Gpu>, NvmlError> {
    let pci = device.pci_info()?;
    let whole = Gpu {
        index: 0,
        name: device.name()?,
        uuid: device.uuid()?,
        memory_bytes: device.memory_info()?.total,
        pci_address: format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device),
        numa_node: None,
        power_limit_mw: device.enforced_power_limit().ok(),
        power_limit_min_mw: device.power_management_limit_constraints().ok().map(|limits| limits.min_limit),
        power_limit_max_mw: device.power_management_limit_constraints().ok().map(|limits| limits.max_limit),
        driver_version: driver_version.to_owned(),
        cuda_version: cuda_version.to_owned(),
    };
    if !device.mig_mode().is_ok_and(|mode| mode.current == 1) {
        return Ok(vec![whole]);
    }
    let instances = (0..device.mig_device_count()?.min(GPUS_MAX)).filter_map(|index| {
        let instance = device.mig_device_by_index(index).ok()?;
        Some(Gpu {
            name: instance.name().unwrap_or_else(|_| format!("{} MIG", whole.name)),
            uuid: instance.uuid().ok()?,
            memory_bytes: instance.memory_info().ok()?.total,
            ..whole.clone()
        })
    });
    Ok(instances.collect())
}

/// `13000` is 13.0, `12040` is 12.4.
fn cuda_version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

fn why_none(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) => {
            "no NVIDIA driver: its library libnvidia-ml.so.1 is not on this machine or in this container".to_owned()
        }
        NvmlError::DriverNotLoaded => {
            "the NVIDIA driver's library is here, but its kernel module is not loaded".to_owned()
        }
        NvmlError::NoPermission => "this process may not open the NVIDIA devices (/dev/nvidia*)".to_owned(),
        other => format!("the NVIDIA driver does not answer: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_versions_are_read_as_the_driver_means_them() {
        assert_eq!(cuda_version(13_000), "13.0");
        assert_eq!(cuda_version(12_040), "12.4");
    }

    #[test]
    fn either_there_are_gpus_or_a_reason_why_not() {
        let (gpus, note) = gpus();
        assert!(!gpus.is_empty() || note.is_some_and(|note| !note.is_empty() && !note.contains('\n')));
    }
}
