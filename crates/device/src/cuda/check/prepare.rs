//! The image kernels.

use std::sync::Arc;

use cudarc::driver::{CudaStream, ValidAsZeroBits};
use half::f16;

use super::{CheckResult, inputs};
use crate::cuda::arguments::PrepareStep;
use crate::cuda::launch::{Kernels, LaunchError, PreparedElement};
use crate::cuda::twin;

pub(super) fn check(stream: &Arc<CudaStream>, kernels: &Kernels) -> Vec<CheckResult> {
    // The kernel is compiled to round as the twin does, so that 0 is expected; what is accepted is two units in the last
    // place of values up to 3, one unit of half precision, and one whole number on a border.
    let mut results = Vec::new();
    for images in inputs::images() {
        let name = |element: &str| format!("prepare {element}: {}", images.name);
        let single = name("f32");
        results.push(CheckResult::of(&single, run::<f32>(&single, 5e-7, stream, kernels, &images)));
        let half = name("f16");
        results.push(CheckResult::of(&half, run::<f16>(&half, 2e-3, stream, kernels, &images)));
        let whole = name("i32");
        results.push(CheckResult::of(&whole, run::<i32>(&whole, 1.0, stream, kernels, &images)));
    }
    results
}

fn run<T: PreparedElement + ValidAsZeroBits + Into<f64>>(
    name: &str,
    bound: f64,
    stream: &Arc<CudaStream>,
    kernels: &Kernels,
    images: &inputs::Images,
) -> Result<CheckResult, LaunchError> {
    let failed = |error| LaunchError::Driver { what: "memory of a check", error };
    let step = PrepareStep::from(&images.step);
    let values = step.values() * images.sources.len();
    let slab = stream.clone_htod(&images.slab).map_err(failed)?;
    let mut descriptors = stream.alloc_zeros(images.sources.len()).map_err(failed)?;
    let mut out = stream.alloc_zeros::<T>(values).map_err(failed)?;
    kernels.prepare(stream, &step, &images.sources, &slab, &mut descriptors, &mut out)?;
    let found = stream.clone_dtoh(&out).map_err(failed)?;
    let mut expected = vec![T::of(f32::INFINITY); values];
    twin::prepare(&images.slab, &images.sources, &step, &mut expected);
    Ok(CheckResult::new(name, bound, found.into_iter().map(Into::into).zip(expected.into_iter().map(Into::into))))
}
