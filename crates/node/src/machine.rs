//! Which devices a node runs on this machine, and what their workers are told.

use std::path::Path;

use sensorium_device::backend::cuda::{GpuQuotas, GpuSetup};
use sensorium_device::protocol::{LaneSetup, ModelSetup, WorkerSetup};
use sensorium_hardware::{CpuDevices, DeviceKind, DevicePlan, Gpu, HardwareError, Inventory, Plan, PlanOptions};
use sensorium_models::ModelPackage;
use sensorium_models::manifest;
use sensorium_wire::Modality;

use crate::engine::{Engine, LearnedTimes};
use crate::node::NodeOptions;

/// Oldest CUDA that the libraries for GPUs run on, by its first number.
const CUDA_MAJOR_MIN: u32 = 13;
/// Lanes that a GPU runs at once: one for each modality, each with streams of its own.
const GPU_LANES_AT_ONCE: u16 = 3;

/// Looks at the machine and divides it. GPUs that cannot be used are left out, with a line that says why: the node runs on
/// with what it has.
pub(crate) fn plan_devices(options: &NodeOptions) -> Result<Plan, HardwareError> {
    let mut inventory = sensorium_hardware::probe()?;
    if let Some(note) = &inventory.gpu_note {
        tracing::info!("{note}");
    }
    let library = &options.onnxruntime_gpu;
    for reason in leave_out(&mut inventory, options.config.gpus, library, library.exists()) {
        tracing::warn!("{reason}");
    }
    let mut plan = divide(&inventory, options.config.cpu_devices);
    multiply(&mut plan, options.config.inject.processor_devices);
    Ok(plan)
}

/// Makes several devices of each processor device, on the same cores, for tests.
fn multiply(plan: &mut Plan, times: u32) {
    if times < 2 {
        return;
    }
    let mut processors = 0;
    for device in std::mem::take(&mut plan.devices) {
        if device.kind != DeviceKind::Cpu {
            plan.devices.push(device);
            continue;
        }
        for _ in 0..times {
            plan.devices.push(DevicePlan { name: format!("cpu:{processors}"), ..device.clone() });
            processors += 1;
        }
    }
}

fn divide(inventory: &Inventory, cpu_devices: CpuDevices) -> Plan {
    sensorium_hardware::plan(inventory, &PlanOptions { cpu_devices, ..PlanOptions::default() })
}

/// Drops the GPUs that cannot be used from the inventory; says why.
fn leave_out(inventory: &mut Inventory, wanted: bool, library: &Path, library_exists: bool) -> Vec<String> {
    if inventory.gpus.is_empty() || !wanted {
        inventory.gpus.clear();
        return Vec::new();
    }
    if !library_exists {
        let count = inventory.gpus.len();
        inventory.gpus.clear();
        return vec![format!(
            "{count} GPUs are not used: {} does not exist; give the library of onnxruntime-gpu with --onnxruntime-gpu",
            library.display()
        )];
    }
    let too_old = |gpu: &Gpu| major(&gpu.cuda_version).is_some_and(|major| major < CUDA_MAJOR_MIN);
    let reasons = inventory.gpus.iter().filter(|gpu| too_old(gpu)).map(|gpu| {
        format!(
            "GPU {} is not used: its driver {} runs CUDA {} and {CUDA_MAJOR_MIN}.0 is needed; install driver 580 or newer",
            gpu.index, gpu.driver_version, gpu.cuda_version
        )
    });
    let reasons = reasons.collect();
    inventory.gpus.retain(|gpu| !too_old(gpu));
    reasons
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// What the scheduler is told of a device: its kind, and how many lanes it runs at once without slowing them.
pub(crate) fn announced(device: &DevicePlan, cpus: &[u32]) -> (sensorium_scheduler::DeviceKind, u16) {
    match &device.kind {
        DeviceKind::Cuda { .. } => (sensorium_scheduler::DeviceKind::Accelerator, GPU_LANES_AT_ONCE),
        DeviceKind::Cpu => {
            let cores = match cpus {
                [] => std::thread::available_parallelism().map_or(1, usize::from),
                cpus => cpus.len(),
            };
            (sensorium_scheduler::DeviceKind::Cpu, u16::try_from(cores).unwrap_or(u16::MAX))
        }
    }
}

/// What a device's worker is told.
pub(crate) fn worker_setup(
    options: &NodeOptions,
    packages: &[ModelPackage],
    engine: &Engine,
    known: &LearnedTimes,
    device: &DevicePlan,
    cpus: Vec<u32>,
) -> WorkerSetup {
    let gpu = gpu_setup(device, options.config.gpu_quota_mib);
    let kind = if gpu.is_some() { manifest::DeviceKind::Cuda } else { manifest::DeviceKind::Cpu };
    let onnxruntime = if gpu.is_some() { &options.onnxruntime_gpu } else { &options.onnxruntime };
    let lanes = Modality::ALL.map(|modality| LaneSetup {
        modality,
        models: packages
            .iter()
            .filter(|package| package.manifest.modality == modality)
            .filter(|package| package.manifest.placement.devices.contains(&kind))
            .map(|package| ModelSetup {
                name: package.manifest.name.clone(),
                profile: known.profile(&device.name, &package.manifest.name, package.manifest.version),
            })
            .collect(),
    });
    WorkerSetup {
        device: device.name.clone(),
        gpu,
        cpus,
        nice: i32::from(options.config.worker_nice),
        onnxruntime: onnxruntime.clone(),
        repositories: options.repositories.clone(),
        weights: options.weights.clone(),
        slab_bytes: engine.slab.memory_bytes(),
        lanes: lanes.into_iter().filter(|lane| !lane.models.is_empty()).collect(),
        groups: Vec::new(),
        injection: Some(options.config.inject.clone()),
    }
}

fn gpu_setup(device: &DevicePlan, quotas: GpuQuotas) -> Option<GpuSetup> {
    match &device.kind {
        DeviceKind::Cuda { uuid, .. } => Some(GpuSetup {
            uuid: uuid.clone(),
            memory_bytes: device.memory_bytes,
            numa_node: device.numa_node,
            quotas,
        }),
        DeviceKind::Cpu => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32, cuda_version: &str) -> Gpu {
        Gpu {
            index,
            name: "NVIDIA H100".to_owned(),
            uuid: format!("GPU-{index}"),
            memory_bytes: 80 << 30,
            pci_address: format!("0000:0{index}:00.0"),
            numa_node: Some(1),
            power_limit_mw: None,
            power_limit_min_mw: None,
            power_limit_max_mw: None,
            driver_version: "580.1".to_owned(),
            cuda_version: cuda_version.to_owned(),
        }
    }

    /// Two NUMA nodes with eight cores each, and these GPUs.
    fn machine(gpus: Vec<Gpu>) -> Inventory {
        let core = |id: u32| sensorium_hardware::Core { id, package: 0, numa_node: id / 8, cpus: vec![id] };
        let node = |os_index: u32| sensorium_hardware::NumaNode {
            os_index,
            memory_bytes: 64 << 30,
            cpus: (os_index * 8..os_index * 8 + 8).collect(),
            huge_pages: Vec::new(),
        };
        Inventory {
            gpus,
            cores: (0..16).map(core).collect(),
            numa_nodes: (0..2).map(node).collect(),
            ..Inventory::default()
        }
    }

    #[test]
    fn gpus_that_cannot_be_used_are_told_and_left_out() {
        let library = Path::new("/cache/libonnxruntime.so");
        let mut inventory = machine(vec![gpu(0, "13.0"), gpu(1, "12.8")]);
        let reasons = leave_out(&mut inventory, true, library, true);
        assert!(reasons.len() == 1 && reasons[0].contains("GPU 1") && reasons[0].contains("12.8"), "{reasons:?}");
        assert_eq!(inventory.gpus, [gpu(0, "13.0")]);
        let reasons = leave_out(&mut inventory, true, library, false);
        assert!(reasons[0].contains("/cache/libonnxruntime.so does not exist"), "{reasons:?}");
        assert!(inventory.gpus.is_empty());
        assert!(leave_out(&mut inventory, true, library, false).is_empty(), "without a GPU nothing is missing");
        let mut inventory = machine(vec![gpu(0, "13.0")]);
        assert!(leave_out(&mut inventory, false, library, true).is_empty() && inventory.gpus.is_empty());
    }

    #[test]
    fn a_gpu_is_a_device_of_its_own_with_three_lanes() {
        let plan = divide(&machine(vec![gpu(0, "13.0")]), CpuDevices::Always);
        let names: Vec<_> = plan.devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["cuda:0", "cpu:0", "cpu:1"]);
        let [gpu, cpu, _] = &plan.devices[..] else { panic!("{names:?}") };
        assert_eq!(announced(gpu, &gpu.cpus), (sensorium_scheduler::DeviceKind::Accelerator, 3));
        assert_eq!(announced(cpu, &[1, 2]), (sensorium_scheduler::DeviceKind::Cpu, 2));
        let setup = gpu_setup(gpu, GpuQuotas::default()).unwrap();
        assert_eq!((setup.uuid.as_str(), setup.numa_node), ("GPU-0", Some(1)));
        assert!(setup.memory_bytes < 80 << 30 && gpu_setup(cpu, GpuQuotas::default()).is_none());
        assert_eq!(divide(&machine(vec![super::tests::gpu(0, "13.0")]), CpuDevices::WithoutGpu).devices.len(), 1);
    }
}
