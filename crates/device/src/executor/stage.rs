//! What one stage of a network gives to the next: where the pixels came from, then the rows of a tensor.
//!
//! The head is the same for every row, 16 bytes: width and height of the image and of the part of the first network's input
//! that shows it, each 32 bits, little-endian; all 0 where there was no image. It travels as the job's state does, before
//! the payload.

use sensorium_models::manifest::Dim;
use sensorium_models::stages::HEAD_BYTES;
use sensorium_processing::image::SourceGeometry;
use sensorium_wire::rejection::{Reason, Rejection};
use sensorium_wire::tensor::Dtype;

use super::interpretation::{Interpretation, TensorInterpretation};
use super::preparation::{Opened, Preparation, TensorPreparation};
use super::{JobAnswer, JobInput};
use crate::backend::{Tensor, TensorBuffer};

const HEAD: usize = HEAD_BYTES as usize;

/// The head of an image, or of none.
pub(super) fn head(source: Option<SourceGeometry>) -> [u8; HEAD] {
    let sides =
        source.map_or([0; 4], |source| [source.width, source.height, source.fitted_width, source.fitted_height]);
    let mut head = [0; HEAD];
    for (to, side) in head.chunks_exact_mut(4).zip(sides) {
        to.copy_from_slice(&side.to_le_bytes());
    }
    head
}

/// Reads a head; `None` when it is none.
fn source(head: &[u8]) -> Option<Option<SourceGeometry>> {
    let head: &[u8; HEAD] = head.try_into().ok()?;
    let mut sides = head.chunks_exact(4).map(|side| u32::from_le_bytes([side[0], side[1], side[2], side[3]]));
    let mut side = || sides.next().unwrap_or_default();
    let source = SourceGeometry { width: side(), height: side(), fitted_width: side(), fitted_height: side() };
    Some((source.width > 0 && source.height > 0).then_some(source))
}

/// Rows of what the stage before gave.
pub(super) struct StagePreparation(TensorPreparation);

impl StagePreparation {
    /// For an input `name` with the dimensions `shape`, the first of which counts rows.
    pub(super) fn new(name: &str, dtype: Dtype, shape: &[Dim]) -> Self {
        Self(TensorPreparation::new(name, dtype, shape))
    }
}

impl Preparation for StagePreparation {
    fn open(&mut self, job: &JobInput<'_>) -> Result<Opened, Rejection> {
        let Some(source) = source(job.state) else {
            let detail = format!("{} bytes before the tensor; a stage is given {HEAD}", job.state.len());
            return Err(Rejection::new(Reason::InvalidPayload, detail));
        };
        Ok(Opened { source, ..self.0.open(job)? })
    }

    fn row_dims(&self) -> &[usize] {
        self.0.row_dims()
    }

    fn row(&mut self, job: &JobInput<'_>, row: usize, data: &mut TensorBuffer) -> Result<(), Rejection> {
        self.0.row(job, row, data)
    }
}

/// The first output, for the next stage.
#[derive(Default)]
pub(super) struct StageInterpretation {
    tensors: TensorInterpretation,
    /// Per job.
    heads: Vec<[u8; HEAD]>,
}

impl Interpretation for StageInterpretation {
    fn begin(&mut self, jobs: usize) {
        self.tensors.begin(jobs);
        self.heads.clear();
        self.heads.resize(jobs, [0; HEAD]);
    }

    fn expect(&mut self, job: usize, opened: &Opened) {
        self.tensors.expect(job, opened);
        self.heads[job] = head(opened.source);
    }

    fn row(&mut self, job: usize, tensors: &[Tensor], row: usize) -> Result<(), Rejection> {
        self.tensors.row(job, tensors, row)
    }

    fn finish(&mut self, job: usize, output: &mut [u8]) -> Result<JobAnswer, Rejection> {
        let Some((room, rest)) = output.split_first_chunk_mut::<HEAD>() else {
            let detail = format!("room for {} bytes; a stage gives {HEAD} before its tensor", output.len());
            return Err(Rejection::new(Reason::ExecutionFailed, detail));
        };
        *room = self.heads[job];
        let answer = self.tensors.finish(job, rest)?;
        Ok(JobAnswer { bytes: answer.bytes + HEAD, ..answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_a_round_trip_and_other_lengths_do_not() {
        let image = SourceGeometry { width: 640, height: 480, fitted_width: 416, fitted_height: 312 };
        assert_eq!(source(&head(Some(image))), Some(Some(image)));
        assert_eq!(source(&head(None)), Some(None));
        assert_eq!(source(&[]), None);
        assert_eq!(source(&[1; HEAD + 1]), None);
    }
}
