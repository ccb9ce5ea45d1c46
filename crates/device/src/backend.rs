//! What a device must be able to do: load a network and run it on tensors.
//!
//! A backend knows nothing of jobs, images or sound; that is the executors' part. Each kind of device implements these
//! two traits and passes the same contract tests.

use std::fs;
use std::path::{Path, PathBuf};

use sensorium_models::Signature;
use sensorium_models::manifest::{Compute, Precision, TensorEntry};
use thiserror::Error;

pub mod cpu;
pub mod cuda;
pub mod images;
pub mod placement;
mod runtime;
mod tensor;
pub mod twin;

pub use cpu::CpuBackend;
pub use cuda::{CudaBackend, CudaDevice, GpuFault, GpuProvider};
pub use images::{ImageNetwork, ImagePlan};
pub use placement::Placed;
pub use tensor::{NamedTensor, Tensor, TensorBuffer, TensorData};

/// A kind of device that runs networks.
pub trait Backend: Send {
    /// For example `cpu`. What is learned of a model under one name holds for that name.
    fn name(&self) -> &'static str;

    /// Loads the network in `file`. Weights may lie in other files of the same folder, never outside it; operators
    /// are the standard ones.
    ///
    /// # Errors
    /// [`BackendError::Load`], [`BackendError::Misplaced`] or [`BackendError::Unsupported`], with the file.
    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError>;

    /// Loads the network in `file` with the steps around it; `None` where the device does not do them itself.
    ///
    /// # Errors
    /// As [`Self::load`], and [`BackendError::Load`] when the plan does not fit the network.
    fn load_images(
        &self,
        file: &Path,
        options: &LoadOptions<'_>,
        plan: &ImagePlan,
    ) -> Result<Option<Box<dyn ImageNetwork>>, BackendError> {
        let _ = (file, options, plan);
        Ok(None)
    }

    /// Memory that networks take, in bytes, of all in this process; `None` where it is not known. The difference between
    /// two calls around loading and warming a model is what the model takes.
    fn memory_bytes_now(&self) -> Option<u64> {
        memory_bytes_now()
    }

    /// Whether nothing else may be loaded or warmed in this process meanwhile.
    fn loads_alone(&self) -> bool {
        false
    }

    /// Whether networks can still run: an error of a GPU can end that for the whole process.
    ///
    /// # Errors
    /// Why the process must be replaced.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Writes to memory of the GPU that is not there, for tests of what follows: [`Self::check`] fails from then on.
    ///
    /// # Errors
    /// Why it could not; the device is sound.
    fn access_illegally(&self) -> Result<(), String> {
        Err("there is no GPU whose memory could be accessed illegally".to_owned())
    }
}

/// What a network is loaded for. The default: one thread, batches of one, on whichever processor.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions<'a> {
    /// Threads that compute on a CPU, as far as the process has cores.
    pub threads: usize,
    /// Most rows of a batch.
    pub rows_max: usize,
    pub compute: Compute,
    pub graphs: bool,
    /// The outputs that will be asked for, where that is known; recorded launches compute these and no others. Empty = all.
    pub outputs: &'a [&'a str],
    /// What the network's own floats are.
    pub precision: Precision,
    /// Its inputs as the manifest has them, where that is known; a backend that compiles for shapes needs them.
    pub inputs: &'a [TensorEntry],
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self {
            threads: 1,
            rows_max: 1,
            compute: Compute::Mixed,
            graphs: false,
            outputs: &[],
            precision: Precision::Fp32,
            inputs: &[],
        }
    }
}

/// A loaded network. One thread uses it at a time.
pub trait Network: Send {
    /// Its inputs and outputs. Outputs that are not tensors of a known type are left out.
    fn signature(&self) -> &Signature;

    /// Where its operators are computed; `None` where that is not known.
    fn placed(&self) -> Option<&Placed> {
        None
    }

    /// Runs it once and gives the outputs named in `wanted`, in that order.
    ///
    /// # Errors
    /// [`BackendError::Run`] when an input does not fit or the network fails on it; the network stays usable.
    fn run(&mut self, inputs: &[NamedTensor<'_>], wanted: &[&str]) -> Result<Vec<Tensor>, BackendError>;
}

/// Why a backend cannot do what it was asked to.
#[derive(Debug, Error)]
pub enum BackendError {
    #[error(
        "ONNX Runtime cannot be loaded from {}: {message}; run ops/setup, or say where it is with --onnxruntime",
        library.display()
    )]
    Library { library: PathBuf, message: String },
    /// A process can hold one copy only.
    #[error("ONNX Runtime is loaded from {} already; {} cannot be loaded as well", loaded.display(), asked.display())]
    OtherLibrary { loaded: PathBuf, asked: PathBuf },
    #[error("{}: cannot be loaded: {message}", file.display())]
    Load { file: PathBuf, message: String },
    #[error("{}: input {tensor} is {found}; expected a tensor of a known type", file.display())]
    Unsupported { file: PathBuf, tensor: String, found: String },
    #[error("{}: {message}", file.display())]
    Run { file: PathBuf, message: String },
    /// It could run, but not where the manifest promises.
    #[error("{}: {message}", file.display())]
    Misplaced { file: PathBuf, message: String },
    #[error(transparent)]
    Gpu(#[from] GpuFault),
}

/// Resident memory of this process in bytes; `None` when the system does not say.
///
/// The difference between two calls around loading and warming a model is what the model takes: runtimes keep their
/// arenas to themselves and do not report them. It counts whole pages, and pages that other threads touch meanwhile, so
/// models are loaded one after the other.
#[must_use]
pub fn memory_bytes_now() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_shows() {
        let before = memory_bytes_now().unwrap();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = memory_bytes_now().unwrap();
        assert!(after >= before + (48 << 20), "{before} {after} {}", block.len());
    }
}
