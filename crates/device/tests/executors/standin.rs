//! The backend of GPUs as it is, on stand-ins for CUDA's driver and ONNX Runtime's CUDA provider: networks that are only
//! queued, in memory of their own, with kernels, copies and events that run late and in an order that a seed chooses.

use std::path::Path;
use std::sync::Arc;

use sensorium_device::backend::cuda::{GpuSetup, KernelSetup};
use sensorium_device::backend::images::{ImageNetwork, ImagePlan};
use sensorium_device::backend::{Backend, BackendError, CudaBackend, CudaDevice, LoadOptions, Network};
use sensorium_device::cuda::compile::NvrtcSearch;
use sensorium_models::manifest::Compute;
use sensorium_wire::Modality;

use crate::build::{cubins, onnxruntime, seeds, sensorium_cache, with_stand_in};
use crate::contract::contract;
use crate::{images, models};

/// The stand-in's identifier.
const UUID: &str = "GPU-00112233-4455-6677-8899-aabbccddeeff";

fn device() -> Arc<CudaDevice> {
    let nvrtc = NvrtcSearch { named: None, cache: Some(sensorium_cache()) };
    let kernels = Some(KernelSetup { nvrtc, folder: cubins() });
    let setup = GpuSetup { uuid: UUID.to_owned(), kernels, ..GpuSetup::first(8 << 30) };
    CudaDevice::open(&onnxruntime().unwrap(), &setup).unwrap_or_else(|error| panic!("{error}"))
}

/// A lane whose networks are all on the GPU, whatever their manifests say, with or without recorded launches.
struct Lane {
    backend: CudaBackend,
    graphs: bool,
}

impl Lane {
    fn new(device: &Arc<CudaDevice>, graphs: bool) -> Self {
        Self { backend: CudaBackend::new(device, Modality::Visual).unwrap(), graphs }
    }

    fn options<'a>(&self, options: &LoadOptions<'a>) -> LoadOptions<'a> {
        LoadOptions { compute: Compute::Gpu, graphs: self.graphs, ..*options }
    }
}

impl Backend for Lane {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        self.backend.load(file, &self.options(options))
    }

    fn load_images(
        &self,
        file: &Path,
        options: &LoadOptions<'_>,
        plan: &ImagePlan,
    ) -> Result<Option<Box<dyn ImageNetwork>>, BackendError> {
        let network = self.backend.load_images(file, &self.options(options), plan)?;
        assert!(network.is_some(), "the GPU prepares images itself");
        Ok(network)
    }
}

#[test]
fn the_backend_of_gpus_keeps_the_contract() {
    for seed in seeds(3) {
        with_stand_in("standin::any_network", seed, &[("STANDIN_POOLS", if seed == 1 { "0" } else { "1" })]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn any_network() {
    let device = device();
    for modality in Modality::ALL {
        let backend = CudaBackend::new(&device, modality).unwrap();
        for (compute, graphs) in
            [(Compute::Mixed, false), (Compute::Gpu, false), (Compute::Gpu, true), (Compute::Cpu, false)]
        {
            contract(&backend, &LoadOptions { compute, graphs, ..LoadOptions::default() });
        }
    }
}

#[test]
fn models_of_images_on_a_gpu() {
    for seed in seeds(3) {
        with_stand_in("standin::images_of_all_kinds", seed, &[]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn images_of_all_kinds() {
    let device = device();
    for graphs in [false, true] {
        let lane = Lane::new(&device, graphs);
        images::contract(&lane);
        models::nanodet(&lane);
        models::centernet(&lane);
        models::movenet(&lane);
    }
}

#[test]
fn models_of_tensors_on_a_gpu() {
    for seed in seeds(2) {
        with_stand_in("standin::tensors_of_all_kinds", seed, &[]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn tensors_of_all_kinds() {
    let device = device();
    for graphs in [false, true] {
        let lane = Lane::new(&device, graphs);
        models::fusion(&lane);
    }
    models::yamnet(&Lane::new(&device, false));
}
