//! Backends and executors with the real runtime and the project's own models.
//!
//! They need what `ops/setup` fetches; without it they fail and say so.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "executors/backends.rs"]
mod backends;
#[path = "standin/build.rs"]
mod build;
#[path = "executors/cache.rs"]
mod cache;
#[path = "executors/contract.rs"]
mod contract;
#[path = "executors/harness.rs"]
mod harness;
#[path = "executors/images.rs"]
mod images;
#[path = "executors/loading.rs"]
mod loading;
#[path = "executors/media.rs"]
mod media;
#[path = "executors/models.rs"]
mod models;
#[path = "executors/onnx.rs"]
mod onnx;
#[path = "executors/placement.rs"]
mod placement;
#[path = "executors/reference.rs"]
mod reference;
#[path = "executors/slices.rs"]
mod slices;
#[path = "executors/standin.rs"]
mod standin;
#[path = "executors/standin_worker.rs"]
mod standin_worker;
#[path = "executors/variants.rs"]
mod variants;
