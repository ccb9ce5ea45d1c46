//! What calls CUDA's driver, NCCL and ONNX Runtime's CUDA provider, against stand-ins for them: kernels, launches, copies,
//! streams and events run as they are, on a processor.
//!
//! The loader reads its path once, so each test that uses the stand-in runs in a process of its own, once for each of a few
//! seeds: the seed is the order in which queued work runs. `SENSORIUM_STANDIN_SEEDS=N` tries N of them. It shows nothing of a
//! GPU itself; see `standin/driver.cpp`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "standin/build.rs"]
mod build;
#[path = "standin/kernels.rs"]
mod kernels;
#[path = "standin/nccl.rs"]
mod nccl;
