//! The first half of a batch: from payloads to rows of the network's input.

use sensorium_models::manifest::{Dim, Prepare};
use sensorium_processing::image::SourceGeometry;
use sensorium_processing::sound::Windows;
use sensorium_wire::rejection::{Reason, Rejection};
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::tensor::{Dtype, tensor_bytes};

use super::stage::StagePreparation;
use super::{JobInput, sound, work};
use crate::backend::TensorBuffer;

pub(super) mod image;

pub(super) use image::ImagePreparation;

/// Makes rows of payloads, one job at a time.
pub(super) trait Preparation: Send {
    /// Reads the payload of `job`; its rows are asked for next.
    fn open(&mut self, job: &JobInput<'_>) -> Result<Opened, Rejection>;

    /// Shape of a row of the job that was opened last.
    fn row_dims(&self) -> &[usize];

    /// Appends row number `row` of the job that was opened last.
    fn row(&mut self, job: &JobInput<'_>, row: usize, data: &mut TensorBuffer) -> Result<(), Rejection>;
}

/// What is known of a job once its payload has been read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opened {
    pub(super) rows: usize,
    pub(super) work: u32,
    /// Where an image's pixels came from.
    pub(super) source: Option<SourceGeometry>,
    /// Whether the payload named the number of its rows as a dimension of its own.
    pub(super) batched: bool,
}

fn invalid<T>(detail: String) -> Result<T, Rejection> {
    Err(Rejection::new(Reason::InvalidPayload, detail))
}

fn only_f32() -> Rejection {
    Rejection::new(Reason::Internal, "the input's rows are not f32")
}

/// Sound in overlapping windows.
pub(super) struct WindowsPreparation {
    sample_rate_hz: u32,
    windows: Windows,
    row_dims: [usize; 1],
    samples: Vec<f32>,
}

impl WindowsPreparation {
    /// Most windows of one job; eight minutes for a model that looks at every half second.
    const ROWS_MAX: usize = 1024;

    pub(super) fn new(sample_rate_hz: u32, window: u32, hop: u32, context: u32) -> Self {
        let windows = Windows { window: window as usize, hop: hop as usize, context: context as usize };
        Self { sample_rate_hz, windows, row_dims: [windows.values()], samples: Vec::new() }
    }
}

impl Preparation for WindowsPreparation {
    fn open(&mut self, job: &JobInput<'_>) -> Result<Opened, Rejection> {
        self.samples = sound::samples(job, self.sample_rate_hz)?;
        let rows = self.windows.count(self.samples.len());
        if rows > Self::ROWS_MAX {
            return invalid(format!(
                "{} samples at {} Hz make {rows} windows; at most {} are taken",
                self.samples.len(),
                self.sample_rate_hz,
                Self::ROWS_MAX
            ));
        }
        Ok(Opened { rows, work: work(rows), ..Opened::default() })
    }

    fn row_dims(&self) -> &[usize] {
        &self.row_dims
    }

    fn row(&mut self, _job: &JobInput<'_>, row: usize, data: &mut TensorBuffer) -> Result<(), Rejection> {
        let values = data.grow_f32(self.windows.values()).ok_or_else(only_f32)?;
        self.windows.write(&[], &self.samples, row, values);
        Ok(())
    }
}

/// A tensor as it came, row by row.
pub(super) struct TensorPreparation {
    input: String,
    dtype: Dtype,
    /// Of a row; `None` varies.
    shape: Vec<Option<u32>>,
    row_dims: Vec<usize>,
}

impl TensorPreparation {
    /// For an input `name` with the dimensions `shape`, the first of which counts rows.
    pub(super) fn new(name: &str, dtype: Dtype, shape: &[Dim]) -> Self {
        let fixed = |dim: &Dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Named(_) => None,
        };
        let shape = shape.iter().skip(1).map(fixed).collect();
        Self { input: name.to_owned(), dtype, shape, row_dims: Vec::new() }
    }

    fn agrees(&self, dims: &[u32]) -> bool {
        dims.len() == self.shape.len()
            && dims.iter().zip(&self.shape).all(|(dim, shape)| *dim > 0 && shape.is_none_or(|size| size == *dim))
    }
}

impl Preparation for TensorPreparation {
    fn open(&mut self, job: &JobInput<'_>) -> Result<Opened, Rejection> {
        let (rows, dims, batched) = match job.dims {
            dims if self.agrees(dims) => (1, dims, false),
            [rows, dims @ ..] if *rows > 0 && self.agrees(dims) => (*rows, dims, true),
            _ => {
                let shape = self.shape.iter().map(|dim| dim.map_or_else(|| "?".to_owned(), |size| size.to_string()));
                let shape = shape.collect::<Vec<_>>().join(",");
                let detail = format!("shape {:?}; input {} takes [{shape}] or [N,{shape}]", job.dims, self.input);
                return Err(Rejection::new(Reason::InvalidShape, detail));
            }
        };
        if job.payload != PayloadKind::Tensor || job.dtype != self.dtype {
            return Err(Rejection::new(
                Reason::InvalidShape,
                format!(
                    "{:?} of {}; input {} takes a tensor of {}",
                    job.payload,
                    job.dtype.name(),
                    self.input,
                    self.dtype.name()
                ),
            ));
        }
        let expected = tensor_bytes(job.dtype, job.dims);
        if expected != Some(job.bytes.len() as u64) {
            let detail = format!("{} bytes for {:?} of {}", job.bytes.len(), job.dims, job.dtype.name());
            return Err(Rejection::new(Reason::InvalidShape, detail));
        }
        self.row_dims.clear();
        self.row_dims.extend(dims.iter().map(|dim| *dim as usize));
        let elements = job.bytes.len() / job.dtype.bytes();
        Ok(Opened { rows: rows as usize, work: work(elements), batched, ..Opened::default() })
    }

    fn row_dims(&self) -> &[usize] {
        &self.row_dims
    }

    fn row(&mut self, job: &JobInput<'_>, row: usize, data: &mut TensorBuffer) -> Result<(), Rejection> {
        let row_bytes = self.row_dims.iter().product::<usize>() * self.dtype.bytes();
        match job.bytes.get(row * row_bytes..(row + 1) * row_bytes) {
            Some(bytes) if data.extend_from_bytes(bytes) => Ok(()),
            _ => invalid(format!("row {row} is not {row_bytes} bytes of {}", self.dtype.name())),
        }
    }
}

/// The preparation for a manifest's step, whose first input is `name`; or why there is none.
pub(super) fn of(step: &Prepare, name: &str, dtype: Dtype, shape: &[Dim]) -> Result<Box<dyn Preparation>, String> {
    let only_f32 = |preparation: Box<dyn Preparation>| match dtype {
        Dtype::F32 => Ok(preparation),
        other => Err(format!("prepare step {} makes f32, input {name} is {}", step.name(), other.name())),
    };
    match step {
        Prepare::Image { .. } => match dtype {
            Dtype::F32 | Dtype::I32 => Ok(Box::new(ImagePreparation::new(step)?)),
            other => Err(format!("prepare step image makes f32 or i32, input {name} is {}", other.name())),
        },
        Prepare::Windows { sample_rate_hz, window_samples, hop_samples, context_samples } => only_f32(Box::new(
            WindowsPreparation::new(*sample_rate_hz, *window_samples, *hop_samples, *context_samples),
        )),
        Prepare::Tensor {} => Ok(Box::new(TensorPreparation::new(name, dtype, shape))),
        Prepare::Stage { .. } => Ok(Box::new(StagePreparation::new(name, dtype, shape))),
        Prepare::Utterance { .. } => Err("prepare step utterance makes no rows".to_owned()),
    }
}
