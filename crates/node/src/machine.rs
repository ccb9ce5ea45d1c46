//! Which devices a node runs on this machine, and what their workers are told.

use std::collections::BTreeSet;
use std::path::Path;

use sensorium_device::backend::cuda::{GpuSetup, KernelSetup};
use sensorium_device::protocol::{LaneSetup, ModelSetup, WorkerSetup};
use sensorium_hardware::{CpuDevices, DeviceKind, DevicePlan, Gpu, HardwareError, Inventory, Plan, PlanOptions};
use sensorium_models::manifest::{Compute, Precision};
use sensorium_models::{Manifest, ModelPackage};
use sensorium_wire::Modality;

use crate::config::NodeConfig;
use crate::engine::{Engine, LearnedTimes};
use crate::node::NodeOptions;
use crate::pins::Pins;

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
    multiply(&mut plan, options.config.inject.cpu_devices);
    Ok(plan)
}

/// Puts `count` devices in place of each of the processor's: several devices where the machine has one, for tests.
fn multiply(plan: &mut Plan, count: u32) {
    if count < 2 {
        return;
    }
    let (cpus, mut devices): (Vec<_>, Vec<_>) =
        plan.devices.drain(..).partition(|device| device.kind == DeviceKind::Cpu);
    let copies = cpus.iter().flat_map(|device| (0..count).map(|_| device.clone()));
    devices.extend((0_u32..).zip(copies).map(|(at, device)| DevicePlan { name: format!("cpu:{at}"), ..device }));
    plan.devices = devices;
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

/// The NUMA nodes that payload memory should come from: those of the devices, ascending.
pub(crate) fn payload_nodes(plan: &Plan) -> Vec<u32> {
    let nodes: BTreeSet<u32> = plan.devices.iter().filter_map(|device| device.numa_node).collect();
    nodes.into_iter().collect()
}

/// What a device's worker is told.
pub(crate) fn worker_setup(
    options: &NodeOptions,
    packages: &[ModelPackage],
    engine: &Engine,
    known: &LearnedTimes,
    pins: &Pins,
    device: &DevicePlan,
    cpus: Vec<u32>,
) -> WorkerSetup {
    let gpu = gpu_setup(device, &options.config, &options.engines, &options.kernels);
    let onnxruntime = if gpu.is_some() { &options.onnxruntime_gpu } else { &options.onnxruntime };
    let lanes = Modality::ALL.map(|modality| LaneSetup {
        modality,
        models: packages
            .iter()
            .filter(|package| package.manifest.modality == modality)
            .filter(|package| pins.allow(&package.manifest, device))
            .map(|package| ModelSetup {
                name: package.manifest.name.clone(),
                precision: if gpu.is_some() { precision(&options.config, &package.manifest) } else { Precision::Fp32 },
                known: known.measured(&device.name, &package.manifest.name, package.manifest.version),
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
        standby: false,
    }
}

/// What a model's networks compute in on a GPU: what the configuration says, for models that have a variant for it, else
/// what the manifest says.
fn precision(config: &NodeConfig, manifest: &Manifest) -> Precision {
    match config.gpu_precision {
        // The processor's networks compute in what it has.
        _ if manifest.placement.compute == Compute::Cpu => Precision::Fp32,
        Some(wanted) if manifest.has(wanted) => wanted,
        Some(_) => Precision::Fp32,
        None => manifest.placement.gpu_precision,
    }
}

fn gpu_setup(device: &DevicePlan, config: &NodeConfig, engines: &Path, kernels: &KernelSetup) -> Option<GpuSetup> {
    match &device.kind {
        DeviceKind::Cuda { uuid, .. } => Some(GpuSetup {
            uuid: uuid.clone(),
            memory_bytes: device.memory_bytes,
            numa_node: device.numa_node,
            quotas: config.gpu_quota_mib,
            provider: config.gpu_provider,
            engines: engines.to_owned(),
            kernels: config.gpu_kernels.then(|| kernels.clone()),
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
    fn the_configuration_decides_on_precision_where_a_model_has_a_variant() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster/models");
        let open = |name: &str| ModelPackage::open(&repository.join(name), Path::new("weights")).unwrap().manifest;
        let (mut detector, voice) = (open("nanodet"), open("silero-vad"));
        let of = |wanted, manifest: &Manifest| {
            precision(&NodeConfig { gpu_precision: wanted, ..NodeConfig::default() }, manifest)
        };
        assert_eq!(of(None, &detector), Precision::Fp32);
        assert_eq!(of(Some(Precision::Fp16), &detector), Precision::Fp16);
        assert_eq!(of(Some(Precision::Fp16), &voice), Precision::Fp32, "it has none");
        detector.placement.gpu_precision = Precision::Fp16;
        assert_eq!(of(None, &detector), Precision::Fp16);
        assert_eq!(of(Some(Precision::Fp32), &detector), Precision::Fp32);
    }

    #[test]
    fn a_gpu_is_a_device_of_its_own_with_three_lanes() {
        let plan = divide(&machine(vec![gpu(0, "13.0")]), CpuDevices::Always);
        let names: Vec<_> = plan.devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["cuda:0", "cpu:0", "cpu:1"]);
        let [gpu, cpu, _] = &plan.devices[..] else { panic!("{names:?}") };
        assert_eq!(announced(gpu, &gpu.cpus), (sensorium_scheduler::DeviceKind::Accelerator, 3));
        assert_eq!(announced(cpu, &[1, 2]), (sensorium_scheduler::DeviceKind::Cpu, 2));
        let kernels = KernelSetup { nvrtc: Default::default(), folder: "kernels".into() };
        let setup = gpu_setup(gpu, &NodeConfig::default(), Path::new("engines"), &kernels).unwrap();
        assert_eq!((setup.uuid.as_str(), setup.numa_node), ("GPU-0", Some(1)));
        assert!(
            setup.memory_bytes < 80 << 30 && gpu_setup(cpu, &NodeConfig::default(), Path::new(""), &kernels).is_none()
        );
        let mut plan = plan.clone();
        multiply(&mut plan, 2);
        let names: Vec<_> = plan.devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["cuda:0", "cpu:0", "cpu:1", "cpu:2", "cpu:3"]);
        assert_eq!(payload_nodes(&divide(&machine(vec![super::tests::gpu(0, "13.0")]), CpuDevices::Always)), [0, 1]);
        assert_eq!(payload_nodes(&divide(&machine(vec![super::tests::gpu(0, "13.0")]), CpuDevices::Never)), [1]);
        assert_eq!(divide(&machine(vec![super::tests::gpu(0, "13.0")]), CpuDevices::WithoutGpu).devices.len(), 1);
    }
}
