//! The model repository on disk: manifests, checksums, checks of a manifest against what a network really takes.
//!
//! This crate reads manifests and hashes files; it never parses ONNX (only workers do) and runs nothing.

pub mod manifest;
