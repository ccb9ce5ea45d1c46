//! What can be wrong with a model's files, each with the file, the field and what was expected.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::manifest::FileRole;

/// Why a model cannot be used.
#[derive(Debug, Error)]
pub enum ModelError {
    #[error("{}: cannot be read: {source}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{}: {bytes} bytes; at most {bytes_max} are read", file.display())]
    TooLarge { file: PathBuf, bytes: u64, bytes_max: u64 },
    /// The text is not TOML.
    #[error("{}:{line}: not valid TOML: {message}", file.display())]
    Syntax { file: PathBuf, line: usize, message: String },
    #[error("{}: {field}: unknown key{}", file.display(), suggestion(nearest.as_deref()))]
    UnknownKey { file: PathBuf, field: String, nearest: Option<String> },
    /// A value is missing, of the wrong type or out of range.
    #[error("{}: {field}: {problem}", file.display())]
    Field { file: PathBuf, field: String, problem: String },
    #[error("{}: a model named {name} was found before, in {}", file.display(), first.display())]
    Duplicate { file: PathBuf, name: String, first: PathBuf },
    /// The manifest names it, nobody put it there.
    #[error("{}: the {role} file is not there; run ops/setup", file.display())]
    Missing { file: PathBuf, role: FileRole },
    #[error("{}: sha256 is {actual}, the manifest says {expected}; delete it and run ops/setup", file.display())]
    Digest { file: PathBuf, expected: String, actual: String },
    /// The network takes or gives something else than the manifest says.
    #[error("{}: {field}: the manifest says {expected}, the network in {} has {found}", file.display(), network.display())]
    Signature { file: PathBuf, network: PathBuf, field: String, expected: String, found: String },
    #[error("{}:{line}: {problem}", file.display())]
    Labels { file: PathBuf, line: usize, problem: String },
    #[error("model {model} has no {role} file; its manifest lists none")]
    NoSuchFile { model: String, role: FileRole },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean {key}?"))
}
