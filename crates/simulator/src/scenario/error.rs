//! What can be wrong with a scenario's files.

use thiserror::Error;

/// Why a scenario cannot be played, with the place that says so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScenarioError {
    /// Not TOML, an unknown key or name, or a value of the wrong type.
    #[error("{file}:{line}: {message}")]
    Syntax { file: String, line: usize, message: String },
    /// A value that makes no sense.
    #[error("{file}:{line}: {field}: {problem}")]
    Value { file: String, line: usize, field: String, problem: String },
    /// Something without which nothing happens.
    #[error("{files}: {problem}")]
    Lacking { files: String, problem: &'static str },
}
