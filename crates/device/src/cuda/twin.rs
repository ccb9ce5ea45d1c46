//! Scalar twins of the kernels: plain Rust that does what each thread does, in its order.
//!
//! Tests compare them with the code that processors run, and a GPU's results with them. They index with checks, so that a
//! read outside the source is a panic in a test and not a wrong picture. Nothing serves with them: they are slow.

mod detections;
mod images;
mod logmel;
mod prepare;

pub use detections::{Candidates, LevelOutputs, candidates_dfl, candidates_rows, select_boxes};
pub use images::TwinImages;
pub use logmel::log_mel;
pub use prepare::{Element, prepare};
