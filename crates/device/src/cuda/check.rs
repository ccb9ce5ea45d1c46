//! Kernels on a real GPU against their twins, on made-up inputs that are the same every time.
//!
//! For whoever has a GPU: nothing in this crate's tests calls it with one. It allocates a few hundred MiB for a moment and
//! leaves nothing behind.

mod detections;
pub mod inputs;
mod prepare;
mod sound;

use std::sync::Arc;

use cudarc::driver::CudaContext;
use serde::{Deserialize, Serialize};

use super::launch::{Kernels, LaunchError};

/// What one comparison showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Which kernel, on what.
    pub name: String,
    /// How many values were compared.
    pub values: usize,
    /// The largest difference, in the values' unit; bounds are stated where the comparison is.
    pub worst: f64,
    pub bound: f64,
    /// Why there was nothing to compare, or what is wrong beside the difference.
    pub problem: Option<String>,
}

impl CheckResult {
    #[must_use]
    pub fn passed(&self) -> bool {
        self.problem.is_none() && self.values > 0 && self.worst <= self.bound
    }

    fn new(name: &str, bound: f64, pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut result = Self { name: name.to_owned(), values: 0, worst: 0.0, bound, problem: None };
        for (found, expected) in pairs {
            let off = (found - expected).abs();
            result.values += 1;
            // What is not a number is as far off as can be.
            result.worst = if off <= result.worst {
                result.worst
            } else if off.is_nan() {
                f64::INFINITY
            } else {
                off
            };
        }
        result
    }

    fn of(name: &str, result: Result<Self, LaunchError>) -> Self {
        result.unwrap_or_else(|error| Self {
            problem: Some(error.to_string()),
            ..Self::new(name, 0.0, std::iter::empty())
        })
    }
}

/// Runs every kernel on made-up inputs and compares it with its twin.
#[must_use]
pub fn kernels_against_twins(context: &Arc<CudaContext>, kernels: &Kernels) -> Vec<CheckResult> {
    let stream = context.default_stream();
    [prepare::check(&stream, kernels), detections::check(&stream, kernels), sound::check(&stream, kernels)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_or_nothing_to_compare_is_no_pass() {
        assert!(CheckResult::new("a", 0.1, [(1.0, 1.05), (2.0, 2.0)]).passed());
        assert!(!CheckResult::new("a", 0.1, [(1.0, 1.2)]).passed());
        assert!(!CheckResult::new("a", 0.1, [(f64::NAN, 1.0), (1.0, 1.0)]).passed());
        assert!(!CheckResult::new("a", 0.1, []).passed());
        let failed = CheckResult { problem: Some("no".to_owned()), ..CheckResult::new("a", 0.1, [(1.0, 1.0)]) };
        assert!(!failed.passed());
    }
}
