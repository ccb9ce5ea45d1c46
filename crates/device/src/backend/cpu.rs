//! The processor: ONNX Runtime's CPU provider.

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::session::Session;
use sensorium_models::Signature;

use super::placement::{self, Assignment, Placed};
use super::{Backend, BackendError, LoadOptions, NamedTensor, Network, Tensor, runtime};

/// Networks on the processor.
#[derive(Debug)]
pub struct CpuBackend {
    environment: Environment,
}

impl CpuBackend {
    /// Loads ONNX Runtime from `library` unless that was done before.
    ///
    /// # Errors
    /// [`BackendError::Library`] when it cannot be loaded, [`BackendError::OtherLibrary`] when another one is in use.
    pub fn open(library: &Path) -> Result<Self, BackendError> {
        Ok(Self { environment: runtime::environment(library)? })
    }

    /// Which operators of the network in `file` the runtime computes, and by which provider: here always the
    /// processor's. A GPU is handed the same operators, as simplification comes before placement.
    ///
    /// # Errors
    /// As [`Backend::load`].
    pub fn assignments(&self, file: &Path) -> Result<Vec<Assignment>, BackendError> {
        let failed = |error: ort::Error| BackendError::Load { file: file.to_owned(), message: error.to_string() };
        let session = runtime::builder(&self.environment, 1)
            .and_then(|builder| placement::recorded(builder)?.commit_from_file(file))
            .map_err(failed)?;
        // A session of the processor wants no input elsewhere; if it did, what is said of a GPU's would be wrong as well.
        debug_assert!(placement::inputs_on_gpu(&session).is_ok_and(|inputs| inputs.iter().all(|on_gpu| !on_gpu)));
        placement::assignments(&session).map_err(failed)
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        let failed = |message: String| BackendError::Load { file: file.to_owned(), message };
        let full = file.canonicalize().map_err(|error| failed(error.to_string()))?;
        let session = runtime::builder(&self.environment, options.threads)
            .and_then(|builder| placement::recorded(builder)?.commit_from_file(&full))
            .map_err(|error| failed(error.to_string()))?;
        let signature = runtime::signature(file, &session)?;
        let placed = Placed::of(&placement::assignments(&session).map_err(|error| failed(error.to_string()))?);
        Ok(Box::new(CpuNetwork { file: file.to_owned(), session, signature, placed }))
    }
}

struct CpuNetwork {
    file: PathBuf,
    session: Session,
    signature: Signature,
    placed: Placed,
}

impl Network for CpuNetwork {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn placed(&self) -> Option<&Placed> {
        Some(&self.placed)
    }

    fn run(&mut self, inputs: &[NamedTensor<'_>], wanted: &[&str]) -> Result<Vec<Tensor>, BackendError> {
        runtime::check_wanted(&self.file, &self.signature, wanted)?;
        runtime::run(&mut self.session, inputs, wanted)
            .map_err(|error| BackendError::Run { file: self.file.clone(), message: error.to_string() })
    }
}
