//! The second half of a batch: from rows of the network's outputs to results.

use sensorium_wire::ids::ShortName;
use sensorium_wire::limits;
use sensorium_wire::rejection::{Reason, Rejection};
use sensorium_wire::result::{ClassScore, ModelResult};

use super::preparation::Opened;
use super::{JobAnswer, write, write_result};
use crate::backend::Tensor;
use crate::cuda::arguments::{Found, Outcome};

mod detections;
mod pose;

pub(super) use detections::DetectionsInterpretation;
pub(super) use pose::PoseInterpretation;

/// Makes results of output rows. Rows of one job come in order, rows of different jobs one job after the other.
pub(super) trait Interpretation: Send {
    /// A batch of `jobs` jobs starts.
    fn begin(&mut self, jobs: usize);

    /// What is known of job `job` before its rows come.
    fn expect(&mut self, job: usize, opened: &Opened);

    /// Takes row `row` of `tensors`, which belongs to job `job`.
    fn row(&mut self, job: usize, tensors: &[Tensor], row: usize) -> Result<(), Rejection>;

    /// Takes the boxes that the device found in the only image of job `job`.
    fn boxes(&mut self, job: usize, outcome: &Outcome, found: &[Found]) -> Result<(), Rejection> {
        let _ = (job, outcome, found);
        failed("the model has no boxes")
    }

    /// All rows of the job have been taken: writes its result.
    fn finish(&mut self, job: usize, output: &mut [u8]) -> Result<JobAnswer, Rejection>;
}

fn failed<T>(detail: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection::new(Reason::ExecutionFailed, detail))
}

/// Row `row` of output number `index` as `f32`.
fn f32_row(tensors: &[Tensor], index: usize, row: usize) -> Result<&[f32], Rejection> {
    let Some(tensor) = tensors.get(index) else { return failed(format!("output number {index} was not given")) };
    let elements = tensor.row_elements();
    match tensor.f32s().and_then(|values| values.get(row * elements..(row + 1) * elements)) {
        Some(values) => Ok(values),
        None => failed(format!("output {} is not f32 or has no row {row}", tensor.name)),
    }
}

/// Classes with their probabilities, the mean over a job's rows.
pub(super) struct ClassesInterpretation {
    labels: Vec<ShortName>,
    score_min: f32,
    classes_max: usize,
    /// Per job: rows, work, and the sum of their probabilities.
    sums: Vec<(u32, u32, Vec<f32>)>,
}

impl ClassesInterpretation {
    pub(super) fn new(labels: &[String], score_min: f32, classes_max: u32) -> Self {
        let labels = labels.iter().map(|label| ShortName::cut(label)).collect();
        Self { labels, score_min, classes_max: classes_max as usize, sums: Vec::new() }
    }
}

impl Interpretation for ClassesInterpretation {
    fn begin(&mut self, jobs: usize) {
        self.sums.resize_with(jobs.max(self.sums.len()), Default::default);
    }

    fn expect(&mut self, job: usize, opened: &Opened) {
        let (rows, work, sums) = &mut self.sums[job];
        (*rows, *work) = (0, opened.work);
        sums.clear();
        sums.resize(self.labels.len(), 0.0);
    }

    fn row(&mut self, job: usize, tensors: &[Tensor], row: usize) -> Result<(), Rejection> {
        let scores = f32_row(tensors, 0, row)?;
        let (rows, _, sums) = &mut self.sums[job];
        if scores.len() != sums.len() {
            return failed(format!("{} probabilities for {} labels", scores.len(), sums.len()));
        }
        sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
        *rows += 1;
        Ok(())
    }

    fn finish(&mut self, job: usize, output: &mut [u8]) -> Result<JobAnswer, Rejection> {
        let (windows, work, sums) = &mut self.sums[job];
        #[expect(clippy::cast_precision_loss, reason = "a few hundred windows at most")]
        let count = (*windows).max(1) as f32;
        sums.iter_mut().for_each(|sum| *sum /= count);
        let classes = sensorium_processing::classes::top(sums, &self.labels, self.score_min, self.classes_max);
        write_result(&ModelResult::Classes { classes, windows: *windows }, output, *work)
    }
}

/// Probabilities of events and the intensity of the moment; one row per job.
pub(super) struct FusionInterpretation {
    events: Vec<ShortName>,
    taken: Vec<(u32, Vec<ClassScore>, f32)>,
}

impl FusionInterpretation {
    pub(super) fn new(events: &[String]) -> Self {
        Self { events: events.iter().map(|event| ShortName::cut(event)).collect(), taken: Vec::new() }
    }
}

impl Interpretation for FusionInterpretation {
    fn begin(&mut self, jobs: usize) {
        self.taken.clear();
        self.taken.resize_with(jobs, Default::default);
    }

    fn expect(&mut self, job: usize, opened: &Opened) {
        self.taken[job].0 = opened.work;
    }

    fn row(&mut self, job: usize, tensors: &[Tensor], row: usize) -> Result<(), Rejection> {
        let scores = f32_row(tensors, 0, row)?;
        let [intensity] = f32_row(tensors, 1, row)? else { return failed("intensity is not one number per row") };
        if scores.len() != self.events.len() {
            return failed(format!("{} probabilities for {} events", scores.len(), self.events.len()));
        }
        let (_, events, taken) = &mut self.taken[job];
        if !events.is_empty() {
            return Err(Rejection::new(Reason::InvalidShape, "one row per job is fused"));
        }
        let scores = (0..).zip(scores).zip(&self.events);
        events.extend(scores.map(|((class, score), label)| ClassScore { class, score: *score, label: *label }));
        *taken = *intensity;
        Ok(())
    }

    fn finish(&mut self, job: usize, output: &mut [u8]) -> Result<JobAnswer, Rejection> {
        let (work, events, intensity) = std::mem::take(&mut self.taken[job]);
        write_result(&ModelResult::Fusion { events, intensity }, output, work)
    }
}

/// The first output as it is: a job's rows one after the other.
#[derive(Default)]
pub(super) struct TensorInterpretation {
    taken: Vec<Rows>,
}

#[derive(Default)]
struct Rows {
    opened: Opened,
    dtype: sensorium_wire::Dtype,
    dims: Vec<usize>,
    bytes: Vec<u8>,
    rows: usize,
}

impl Interpretation for TensorInterpretation {
    fn begin(&mut self, jobs: usize) {
        self.taken.clear();
        self.taken.resize_with(jobs, Default::default);
    }

    fn expect(&mut self, job: usize, opened: &Opened) {
        self.taken[job].opened = *opened;
    }

    fn row(&mut self, job: usize, tensors: &[Tensor], row: usize) -> Result<(), Rejection> {
        let Some(tensor) = tensors.first() else { return failed("no output was given") };
        let taken = &mut self.taken[job];
        let dims = tensor.dims.get(1..).unwrap_or_default();
        if taken.rows > 0 && dims != taken.dims {
            return failed(format!("rows of different shapes, {dims:?} and {:?}", taken.dims));
        }
        let data = tensor.data.view();
        let row_bytes = tensor.row_elements() * data.dtype().bytes();
        let Some(bytes) = data.bytes().get(row * row_bytes..(row + 1) * row_bytes) else {
            return failed(format!("output {} has no row {row}", tensor.name));
        };
        taken.dims = dims.to_vec();
        taken.dtype = data.dtype();
        taken.bytes.extend_from_slice(bytes);
        taken.rows += 1;
        Ok(())
    }

    fn finish(&mut self, job: usize, output: &mut [u8]) -> Result<JobAnswer, Rejection> {
        let taken = &self.taken[job];
        // A job of several rows without a dimension for them (windows of sound) gets one.
        let leading = (taken.opened.batched || taken.rows != 1).then_some(taken.rows);
        let dims: Option<Vec<u32>> = leading.iter().chain(&taken.dims).map(|dim| u32::try_from(*dim).ok()).collect();
        write(&taken.bytes, output)?;
        dims.and_then(|dims| JobAnswer::tensor(taken.dtype, &dims, taken.bytes.len(), taken.opened.work))
            .map_or_else(|| failed(format!("an output of more than {} dimensions", limits::RANK_MAX)), Ok)
    }
}
