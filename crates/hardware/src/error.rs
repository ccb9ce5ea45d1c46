//! Why there is no inventory.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why the machine could not be looked at. A machine without a GPU is not an error.
#[derive(Debug, Error)]
pub enum HardwareError {
    #[error("hwloc cannot read this machine's topology: {0}")]
    Topology(String),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds {found:?} where {expected} was expected", path.display())]
    Format { path: PathBuf, found: String, expected: &'static str },
    #[error("hwloc and the kernel agree on no processor that this process may use (allowed: {allowed:?})")]
    NoCpu { allowed: Vec<u32> },
}
