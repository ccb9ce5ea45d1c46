//! The contract of backends on a GPU, in a process of its own: it loads another library of ONNX Runtime than the processor's
//! tests. Runs with `SENSORIUM_GPU_TESTS=1`; a machine without a GPU then fails it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "executors/contract.rs"]
mod contract;
#[expect(dead_code, reason = "the contract needs some of it")]
#[path = "executors/onnx.rs"]
mod onnx;

use std::path::PathBuf;

use sensorium_device::backend::cuda::GpuSetup;
use sensorium_device::backend::{CudaBackend, CudaDevice, LoadOptions};
use sensorium_models::manifest::Compute;
use sensorium_wire::Modality;

#[test]
fn a_gpu_keeps_the_contract() {
    if std::env::var("SENSORIUM_GPU_TESTS").as_deref() != Ok("1") {
        println!("not run: SENSORIUM_GPU_TESTS is not 1");
        return;
    }
    let library = std::env::var_os("SENSORIUM_ONNXRUNTIME_GPU").map(PathBuf::from);
    let library = library.expect("SENSORIUM_ONNXRUNTIME_GPU names the library of onnxruntime-gpu");
    // No identifier: the first GPU that this process sees.
    let device = CudaDevice::open(&library, &GpuSetup::first(8 << 30)).unwrap_or_else(|error| panic!("{error}"));
    for modality in Modality::ALL {
        let backend = CudaBackend::new(&device, modality).unwrap_or_else(|error| panic!("{error}"));
        for (compute, graphs) in
            [(Compute::Mixed, false), (Compute::Gpu, false), (Compute::Gpu, true), (Compute::Cpu, false)]
        {
            contract::contract(&backend, &LoadOptions { compute, graphs, ..LoadOptions::default() });
        }
    }
}
