//! The executor of models whose rows are independent: each job makes rows of one input tensor, rows of many jobs run
//! together, and each job's rows of the outputs make its result.

use std::path::PathBuf;
use std::time::Instant;

use sensorium_wire::receipt::Stage;
use sensorium_wire::rejection::{Reason, Rejection};

use super::interpretation::Interpretation;
use super::preparation::Preparation;
use super::{Executor, JobInput, JobOutput, StageTimes, elapsed_ns};
use crate::backend::{NamedTensor, Network, Tensor, TensorBuffer};

/// Runs jobs in chunks of at most `rows_max` rows. Only one job's decoded payload is held at a time.
pub(super) struct BatchExecutor {
    pub(super) network: Box<dyn Network>,
    pub(super) manifest_file: PathBuf,
    pub(super) input: String,
    pub(super) outputs: Vec<String>,
    pub(super) rows_max: usize,
    pub(super) preparation: Box<dyn Preparation>,
    pub(super) interpretation: Box<dyn Interpretation>,
    pub(super) chunk: Chunk,
    /// Per job of the batch: why it cannot be answered.
    pub(super) failures: Vec<Option<Rejection>>,
}

/// Rows that wait to be run.
pub(super) struct Chunk {
    data: TensorBuffer,
    /// Of one row.
    dims: Vec<usize>,
    /// Whose rows they are: index of the job.
    jobs: Vec<usize>,
}

impl Chunk {
    pub(super) fn new(data: TensorBuffer) -> Self {
        Self { data, dims: Vec::new(), jobs: Vec::new() }
    }
}

impl Executor for BatchExecutor {
    fn run(&mut self, jobs: &[JobInput<'_>], outputs: &mut [JobOutput<'_>], on_stage: &dyn Fn(Stage)) {
        let count = jobs.len().min(outputs.len());
        self.interpretation.begin(count);
        self.failures.clear();
        self.failures.resize(count, None);
        for (index, job) in jobs[..count].iter().enumerate() {
            outputs[index].times = StageTimes::default();
            outputs[index].unfinished = false;
            if let Err(rejection) = self.rows_of(index, job, outputs, on_stage) {
                self.failures[index] = Some(rejection);
            }
        }
        self.flush(outputs, on_stage);
        for (index, output) in outputs[..count].iter_mut().enumerate() {
            let start = Instant::now();
            output.answer = match self.failures[index].take() {
                Some(rejection) => Err(rejection),
                None => {
                    on_stage(Stage::Interpret);
                    self.interpretation.finish(index, output.bytes)
                }
            };
            output.times.interpret_ns += elapsed_ns(start);
        }
    }
}

impl BatchExecutor {
    /// Prepares a job's rows, running the chunk whenever it is full.
    fn rows_of(
        &mut self,
        index: usize,
        job: &JobInput<'_>,
        outputs: &mut [JobOutput<'_>],
        on_stage: &dyn Fn(Stage),
    ) -> Result<(), Rejection> {
        let start = Instant::now();
        on_stage(Stage::Prepare);
        let opened = self.preparation.open(job);
        outputs[index].times.prepare_ns += elapsed_ns(start);
        let opened = opened?;
        self.interpretation.expect(index, &opened);
        for row in 0..opened.rows {
            if self.chunk.jobs.len() == self.rows_max || self.chunk.dims != self.preparation.row_dims() {
                self.flush(outputs, on_stage);
                self.chunk.dims.clear();
                self.chunk.dims.extend_from_slice(self.preparation.row_dims());
            }
            // What failed in an earlier chunk need not be tried further.
            if self.failures[index].is_some() {
                break;
            }
            let start = Instant::now();
            let whole = self.chunk.data.len();
            let filled = self.preparation.row(job, row, &mut self.chunk.data);
            outputs[index].times.prepare_ns += elapsed_ns(start);
            if filled.is_err() {
                self.chunk.data.truncate(whole);
            }
            filled?;
            self.chunk.jobs.push(index);
        }
        Ok(())
    }

    /// Runs the rows that wait and hands each row's outputs to the interpretation.
    fn flush(&mut self, outputs: &mut [JobOutput<'_>], on_stage: &dyn Fn(Stage)) {
        if self.chunk.jobs.is_empty() {
            return;
        }
        let start = Instant::now();
        on_stage(Stage::Infer);
        let result = self.infer();
        let infer_ns = elapsed_ns(start);
        let mut last = None;
        for (row, &job) in self.chunk.jobs.iter().enumerate() {
            let output = &mut outputs[job];
            if last.replace(job) != Some(job) {
                output.times.infer_ns += infer_ns;
            }
            let start = Instant::now();
            let taken = match &result {
                Ok(tensors) => self.interpretation.row(job, tensors, row),
                Err(rejection) => Err(rejection.clone()),
            };
            output.times.interpret_ns += elapsed_ns(start);
            if let Err(rejection) = taken {
                self.failures[job] = Some(rejection);
            }
        }
        self.chunk.jobs.clear();
        self.chunk.data.clear();
    }

    fn infer(&mut self) -> Result<Vec<Tensor>, Rejection> {
        let failed = |detail: String| Rejection::new(Reason::ExecutionFailed, detail);
        let rows = self.chunk.jobs.len();
        let mut dims = Vec::with_capacity(1 + self.chunk.dims.len());
        dims.push(rows);
        dims.extend_from_slice(&self.chunk.dims);
        let wanted: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        let input = NamedTensor { name: &self.input, dims: &dims, data: self.chunk.data.view() };
        let tensors = self.network.run(&[input], &wanted).map_err(|error| failed(error.to_string()))?;
        match tensors.iter().find(|tensor| tensor.dims.first() != Some(&rows)) {
            None => Ok(tensors),
            Some(tensor) => Err(failed(format!(
                "{}: output {} has the shape {:?}; expected {rows} rows",
                self.manifest_file.display(),
                tensor.name,
                tensor.dims
            ))),
        }
    }
}
