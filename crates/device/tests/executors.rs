//! Backends and executors with the real runtime and the project's own models.
//!
//! They need what `ops/setup` fetches; without it they fail and say so.

#[path = "executors/backends.rs"]
mod backends;
#[path = "executors/cache.rs"]
mod cache;
#[path = "executors/onnx.rs"]
mod onnx;
