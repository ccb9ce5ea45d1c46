//! The model repository on disk: manifests, checksums, checks of a manifest against what a network really takes, and
//! the measured profiles of models.
//!
//! This crate reads manifests and hashes files; it never parses ONNX (only workers do) and runs nothing.

pub mod error;
pub mod labels;
pub mod manifest;
mod parse;
pub mod profile;
pub mod repository;
pub mod signature;
pub mod stages;
mod validate;

pub use error::ModelError;
pub use manifest::Manifest;
pub use profile::ServiceProfile;
pub use repository::{ModelPackage, Repository};
pub use signature::{Signature, TensorSpec};
