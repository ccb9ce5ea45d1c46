//! Measurements of a GPU's link and of networks alone, for checks.
#![allow(unsafe_code, reason = "copies payload memory to a GPU without waiting for each copy")]

use std::path::Path;
use std::time::{Duration, Instant};

use cudarc::driver::{DevicePtrMut, DriverError};

use super::driver;
use super::{CudaBackend, CudaDevice, GpuFault, PinnedSlab};
use crate::backend::{BackendError, LoadOptions};

/// Batches that are queued before the first of them is waited for.
const QUEUED_BATCHES_MAX: u32 = 8;

impl CudaBackend {
    /// Batches a second of the network in `file` alone: rows that lie in its input already, of the shape `row_dims`, and outputs
    /// that stay where they are. The network's outputs are those of `options`.
    ///
    /// # Errors
    /// As loading or running it.
    pub fn bare_batches_per_second(
        &self,
        file: &Path,
        options: &LoadOptions<'_>,
        row_dims: &[usize],
        time: Duration,
    ) -> Result<f64, BackendError> {
        let mut network = self.load_on_gpu(file, options, Ok)?;
        let wanted: Vec<String> = options.outputs.iter().map(|name| (*name).to_owned()).collect();
        let mut queue = |batches: u32| {
            for _ in 0..batches {
                network
                    .run_filled(row_dims, options.rows_max, &wanted, |_, _| Ok(()), |_, _| Ok(()))
                    .map_err(|failure| network.failed(failure))?;
            }
            self.lane.streams.compute.synchronize().map_err(|error| network.failed(error.into()))
        };
        queue(QUEUED_BATCHES_MAX)?;
        let (began, mut batches) = (Instant::now(), 0_u32);
        while began.elapsed() < time {
            queue(QUEUED_BATCHES_MAX)?;
            batches += QUEUED_BATCHES_MAX;
        }
        Ok(f64::from(batches) / began.elapsed().as_secs_f64())
    }
}

/// Bytes a second at which the first `copy_bytes` bytes of registered payload memory go to the GPU, over `copies` copies one after the
/// other.
///
/// # Errors
/// What the driver says, or that the memory is shorter.
pub fn upload_bytes_per_second(
    device: &CudaDevice,
    pinned: &PinnedSlab,
    copy_bytes: usize,
    copies: u32,
) -> Result<f64, GpuFault> {
    let during = "measuring the link";
    let failed = |error: DriverError| device.fault(error, during);
    let Some(from) = pinned.memory().read(0, copy_bytes as u64) else {
        return Err(GpuFault::Other {
            code: 0,
            during: format!("{during}: payload memory is shorter than {copy_bytes}"),
        });
    };
    let stream = device.context.new_stream().map_err(failed)?;
    let mut to = stream.alloc_zeros::<u8>(copy_bytes).map_err(failed)?;
    stream.synchronize().map_err(failed)?;
    let address = {
        let (address, _guard) = to.device_ptr_mut(&stream);
        address
    };
    let copy = || {
        // SAFETY: `to` has as many bytes as `from`, and both outlive the wait that follows the copies.
        unsafe { driver::upload(&stream, from, address) }
    };
    copy().map_err(failed)?;
    stream.synchronize().map_err(failed)?;
    let began = Instant::now();
    let outcome = (0..copies).try_for_each(|_| copy());
    // Waited for whatever happened: the copies read memory that is not ours to keep.
    stream.synchronize().map_err(failed)?;
    outcome.map_err(failed)?;
    #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
    let bytes = copy_bytes as f64 * f64::from(copies);
    Ok(bytes / began.elapsed().as_secs_f64())
}
