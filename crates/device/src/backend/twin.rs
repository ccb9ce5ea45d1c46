//! A backend beside the processor: everything runs on both, and what they answer is compared.
//!
//! It is for checks, not for serving. What goes on from a run is the processor's answer, so that a difference shows where
//! it arises and not in all that follows from it.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use sensorium_models::Signature;
use serde::Serialize;

use super::{Backend, BackendError, CpuBackend, LoadOptions, NamedTensor, Network, Placed, Tensor, TensorBuffer};

/// Two floats agree when they differ by at most this much, or by [`RELATIVE_MAX`] of the processor's.
pub const ABSOLUTE_MAX: f32 = 1e-3;
/// See [`ABSOLUTE_MAX`].
pub const RELATIVE_MAX: f32 = 1e-3;

/// What was compared so far, and how it differed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Differences {
    pub runs: u64,
    pub values: u64,
    /// Values that do not agree.
    pub apart: u64,
    /// Largest difference of two floats.
    pub largest: f32,
    /// The first output that did not agree.
    pub first: Option<String>,
}

/// See the module.
pub struct TwinBackend {
    subject: Box<dyn Backend>,
    reference: CpuBackend,
    differences: Arc<Mutex<Differences>>,
}

impl TwinBackend {
    #[must_use]
    pub fn new(subject: Box<dyn Backend>, reference: CpuBackend) -> Self {
        Self { subject, reference, differences: Arc::default() }
    }

    /// What was found so far.
    #[must_use]
    pub fn differences(&self) -> Differences {
        self.differences.lock().clone()
    }
}

impl Backend for TwinBackend {
    fn name(&self) -> &'static str {
        self.subject.name()
    }

    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        let subject = self.subject.load(file, options)?;
        let reference = self.reference.load(file, options)?;
        Ok(Box::new(TwinNetwork { subject, reference, differences: Arc::clone(&self.differences) }))
    }

    fn check(&self) -> Result<(), String> {
        self.subject.check()
    }

    fn access_illegally(&self) -> Result<(), String> {
        self.subject.access_illegally()
    }
}

struct TwinNetwork {
    subject: Box<dyn Network>,
    reference: Box<dyn Network>,
    differences: Arc<Mutex<Differences>>,
}

impl Network for TwinNetwork {
    fn signature(&self) -> &Signature {
        self.subject.signature()
    }

    fn placed(&self) -> Option<&Placed> {
        self.subject.placed()
    }

    fn run(&mut self, inputs: &[NamedTensor<'_>], wanted: &[&str]) -> Result<Vec<Tensor>, BackendError> {
        let found = self.subject.run(inputs, wanted)?;
        let expected = self.reference.run(inputs, wanted)?;
        let mut differences = self.differences.lock();
        differences.runs += 1;
        for (found, expected) in found.iter().zip(&expected) {
            compare(&mut differences, found, expected);
        }
        Ok(expected)
    }
}

fn compare(differences: &mut Differences, found: &Tensor, expected: &Tensor) {
    let count = expected.data.len() as u64;
    differences.values += count;
    let apart = if found.name != expected.name || found.dims != expected.dims {
        count.max(1)
    } else {
        match (&found.data, &expected.data) {
            (TensorBuffer::F32(found), TensorBuffer::F32(expected)) => floats(differences, found, expected),
            (found, expected) if found.dtype() == expected.dtype() => {
                let size = expected.dtype().bytes();
                let pairs = found.view().bytes().chunks_exact(size).zip(expected.view().bytes().chunks_exact(size));
                pairs.filter(|(found, expected)| found != expected).count() as u64
            }
            _ => count.max(1),
        }
    };
    if apart > 0 && differences.first.is_none() {
        let (name, dims) = (&expected.name, &expected.dims);
        differences.first = Some(format!("{apart} of {count} values of {name} {dims:?} (found {:?})", found.dims));
    }
    differences.apart += apart;
}

fn floats(differences: &mut Differences, found: &[f32], expected: &[f32]) -> u64 {
    let mut apart = 0;
    for (found, expected) in found.iter().zip(expected) {
        let difference = (found - expected).abs();
        // Both no number, or both the same infinity, is agreement; `difference` is then no number.
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        let bound = ABSOLUTE_MAX.max(RELATIVE_MAX * expected.abs());
        if same {
            continue;
        }
        if !difference.is_finite() || difference > bound {
            apart += 1;
        }
        differences.largest = if difference.is_nan() { f32::INFINITY } else { differences.largest.max(difference) };
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor { name: "y".to_owned(), dims: vec![values.len()], data: TensorBuffer::F32(values.to_vec()) }
    }

    fn apart(found: &Tensor, expected: &Tensor) -> u64 {
        let mut differences = Differences::default();
        compare(&mut differences, found, expected);
        assert_eq!(differences.apart > 0, differences.first.is_some());
        differences.apart
    }

    #[test]
    fn what_differs_by_more_than_the_bound_is_counted() {
        assert_eq!(apart(&tensor(&[1.0, 1000.5]), &tensor(&[1.0005, 1000.0])), 0);
        assert_eq!(apart(&tensor(&[1.01, 1002.0, 0.5]), &tensor(&[1.0, 1000.0, 0.5])), 2);
        assert_eq!(apart(&tensor(&[f32::NAN, f32::INFINITY]), &tensor(&[f32::NAN, f32::INFINITY])), 0);
        assert_eq!(apart(&tensor(&[f32::NAN, 1.0]), &tensor(&[1.0, f32::INFINITY])), 2);
        assert_eq!(apart(&tensor(&[1.0]), &tensor(&[1.0, 2.0])), 2, "another shape");
        let whole = |values: &[i64]| Tensor { data: TensorBuffer::I64(values.to_vec()), ..tensor(&[0.0; 2]) };
        assert_eq!(apart(&whole(&[1, 2]), &whole(&[1, 3])), 1);
    }
}
