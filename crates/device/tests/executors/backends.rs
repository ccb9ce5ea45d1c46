//! Backends: the contract on the processor, and what is said of a runtime that is missing.

use std::fs;

use sensorium_device::backend::{BackendError, CpuBackend, LoadOptions};

use crate::cache::{cached, cpu};
use crate::contract::contract;

#[test]
fn the_processor_keeps_the_contract() {
    contract(&cpu(), &LoadOptions::default());
}

#[test]
fn a_missing_or_foreign_runtime_is_a_sentence() {
    let missing = CpuBackend::open("/nowhere/libonnxruntime.so".as_ref()).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/libonnxruntime.so") && missing.contains("run ops/setup"), "{missing}");
    assert!(missing.contains("--onnxruntime"), "{missing}");

    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("libother.so");
    fs::write(&other, b"not a library").unwrap();
    // Whichever test was first: the other library is never taken for the runtime.
    assert!(CpuBackend::open(&other).is_err());

    cpu();
    assert!(matches!(CpuBackend::open(&other), Err(BackendError::OtherLibrary { .. })));
    assert!(CpuBackend::open(&cached("lib/libonnxruntime.so.1.31.1")).is_ok(), "the same file by another name");
}
