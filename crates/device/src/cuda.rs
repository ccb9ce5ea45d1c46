//! CUDA kernels: their sources, compiling and keeping them, launching them, and the scalar twins they are held to.
//!
//! Everything but [`launch`], [`check`], [`rates`] and [`partition`] works without a GPU and without CUDA's driver. Nothing here decides when a
//! kernel runs or owns a device: contexts, streams and memory belong to the caller.

pub mod arguments;
pub mod cache;
pub mod check;
pub mod compile;
pub mod kernels;
pub mod launch;
pub mod partition;
pub mod rates;
pub mod twin;
