//! From a file to a job.

use std::path::Path;

use anyhow::{Context, bail};
use sensorium_client::Job;
use sensorium_processing::npy;

/// A job and its payload.
pub(crate) struct FileJob {
    pub(crate) job: Job,
    pub(crate) payload: Vec<u8>,
}

/// Reads a file and tells by its first bytes what it is.
pub(crate) fn read(model: &str, path: &Path) -> anyhow::Result<FileJob> {
    let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
    if bytes.is_empty() {
        bail!("{}: the file is empty (0 bytes); an image, a WAV file or a .npy tensor is expected", path.display());
    }
    if bytes.starts_with(&[0xff, 0xd8]) || bytes.starts_with(b"\x89PNG") {
        return Ok(FileJob { job: Job::image(model), payload: bytes });
    }
    if bytes.starts_with(b"RIFF") {
        return Ok(FileJob { job: Job::sound(model), payload: bytes });
    }
    if bytes.starts_with(b"\x93NUMPY") {
        let tensor = npy::read(&bytes).with_context(|| format!("{}", path.display()))?;
        let job = Job::tensor(model, tensor.dtype, &tensor.dims);
        return Ok(FileJob { job, payload: bytes[tensor.data.clone()].to_vec() });
    }
    bail!("{}: neither JPEG, PNG, WAV nor .npy (by its first bytes)", path.display())
}
