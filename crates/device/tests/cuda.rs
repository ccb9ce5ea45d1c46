//! CUDA kernels without a GPU: NVRTC compiles them, the cache keeps them, and their twins agree with the processor's code.
//!
//! They need what `ops/setup` fetches; without it they fail and say so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "cuda/cache.rs"]
mod cache;
#[path = "cuda/compile.rs"]
mod compile;
#[path = "cuda/detections.rs"]
mod detections;
#[path = "cuda/logmel.rs"]
mod logmel;
#[path = "cuda/media.rs"]
mod media;
#[path = "cuda/prepare.rs"]
mod prepare;
#[path = "executors/cache.rs"]
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
mod setup;
