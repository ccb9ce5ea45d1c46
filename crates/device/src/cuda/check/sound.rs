//! The log-mel kernel.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::{CheckResult, inputs};
use crate::cuda::arguments::LogMel;
use crate::cuda::launch::{Kernels, LaunchError, LogMelTables};
use crate::cuda::twin;

/// As a share of a frame's loudest band: the two contract products and sums differently, and each is within 1e-6.
const SHARE_MAX: f64 = 2e-6;

pub(super) fn check(stream: &Arc<CudaStream>, kernels: &Kernels) -> Vec<CheckResult> {
    let name = "log-mel";
    vec![CheckResult::of(name, run(name, stream, kernels))]
}

fn run(name: &str, stream: &Arc<CudaStream>, kernels: &Kernels) -> Result<CheckResult, LaunchError> {
    let failed = |error| LaunchError::Driver { what: "memory of a check", error };
    let mel = LogMel::audioset();
    let bands = mel.step.bands as usize;
    let (samples, sounds) = inputs::sound();
    let rows = sounds.iter().map(|sound| (sound.first_row + sound.frames) as usize).max().unwrap_or(0);
    let tables = LogMelTables::upload(stream, &mel)?;
    let sent = stream.clone_htod(&samples).map_err(failed)?;
    let mut descriptors = stream.alloc_zeros(sounds.len()).map_err(failed)?;
    let mut out = stream.alloc_zeros(rows * bands).map_err(failed)?;
    kernels.log_mel(stream, &tables, &sounds, &sent, &mut descriptors, &mut out)?;
    let found = stream.clone_dtoh(&out).map_err(failed)?;
    let mut expected = vec![f32::NAN; rows * bands];
    twin::log_mel(&mel, &samples, &sounds, &mut expected);
    let frames = found.chunks_exact(bands).zip(expected.chunks_exact(bands));
    let pairs = frames.flat_map(|(found, expected)| {
        let loudest = expected.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // Differences of the bands themselves, not of their logarithms.
        let share = move |value: &f32| f64::from(value - loudest).exp();
        found.iter().map(share).zip(expected.iter().map(share)).collect::<Vec<_>>()
    });
    Ok(CheckResult::new(name, SHARE_MAX, pairs))
}
