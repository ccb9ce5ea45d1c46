//! From a batch of jobs to their answers: prepare, infer, interpret.
//!
//! An executor owns a model's networks on one device and is used by one thread. It knows nothing of queues, sockets or
//! deadlines. A job that cannot be done fails alone; its neighbours in the batch are answered.

use std::time::Instant;

use sensorium_processing::ProcessingError;
use sensorium_wire::BodyKind;
use sensorium_wire::codec;
use sensorium_wire::limits;
use sensorium_wire::receipt::Stage;
use sensorium_wire::rejection::{Reason, Rejection};
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::tensor::Dtype;

pub mod agreement;
mod batch;
mod identity;
mod images;
mod interpretation;
mod load;
mod preparation;
mod profile;
mod sound;
mod speech;
mod stage;
mod suspended;
mod transcript;

pub use crate::backend::images::STARTED_BATCHES_MAX;
pub use load::{LoadError, chosen, load, load_measured, variant_name};
pub use profile::{profile, warm_up};
pub use suspended::SUSPENDED_JOBS_MAX;

/// One job as its executor sees it: the header's fields that matter, and the bytes.
#[derive(Clone, Copy, Debug)]
pub struct JobInput<'a> {
    pub payload: PayloadKind,
    pub dtype: Dtype,
    pub dims: &'a [u32],
    pub pixels: PixelFormat,
    pub sample_rate_hz: u32,
    /// The model's state from the job before; empty = start afresh.
    pub state: &'a [u8],
    /// The payload without the state.
    pub bytes: &'a [u8],
    pub slice: Slice,
}

/// For how long a job is to be run this time. The default: to its end, from its start.
///
/// Executors whose jobs cannot be sliced ignore it and run to the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Number of this run, under which the work is kept if it is not finished; without one (0) it runs to its end.
    pub run: u64,
    /// Number of the run that this one continues; 0 = it starts. The payload must be the same.
    ///
    /// When that run's work is gone (only [`SUSPENDED_JOBS_MAX`] are kept, the latest) the job starts over and runs to its
    /// end whatever its budget: jobs that take turns would otherwise drop each other's work for ever.
    pub continues: u64,
    /// After how long the job is to stop, in nanoseconds; 0 = it runs to its end. It stops after the step in which the time
    /// is up, so every slice does something.
    pub budget_ns: u64,
}

/// Where a job's answer goes.
#[derive(Debug)]
pub struct JobOutput<'a> {
    /// Room for the encoded body.
    pub bytes: &'a mut [u8],
    /// Of this slice alone.
    pub times: StageTimes,
    /// An empty one while the job is unfinished.
    pub answer: Result<JobAnswer, Rejection>,
    /// The slice ended before the job did; another run is to continue this one.
    pub unfinished: bool,
}

/// What lies in the output after a job was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobAnswer {
    pub body: BodyKind,
    /// How much of the output is used.
    pub bytes: usize,
    /// Type and shape, for [`BodyKind::Tensor`].
    pub dtype: Dtype,
    pub dims: [u32; limits::RANK_MAX],
    pub rank: u8,
    /// How much work it was, in what its service time grows with: pixels of an image, windows of sound, tokens of a
    /// transcript, elements of a tensor.
    pub work: u32,
}

/// Where a job's time went. A batch infers once, and that time counts for each of its jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    pub prepare_ns: u64,
    pub infer_ns: u64,
    pub interpret_ns: u64,
}

/// Runs batches of one model.
pub trait Executor: Send {
    /// Runs `jobs` and sets `times`, `answer` and `unfinished` of the outputs at the same places. Outputs beyond the jobs
    /// stay as they are. More jobs than the model's `batch_max` are run in several steps.
    ///
    /// `on_stage` is called within the measurement of each stage, per job in prepare and interpret and per run of a
    /// network in infer; faults that are put in on purpose delay there. Usually it does nothing.
    fn run(&mut self, jobs: &[JobInput<'_>], outputs: &mut [JobOutput<'_>], on_stage: &dyn Fn(Stage));

    /// Most jobs of a batch that can be started while the one before is still computed; 0: this executor only runs.
    fn started_jobs_max(&self) -> usize {
        0
    }

    /// Starts a batch of at most [`Self::started_jobs_max`] jobs and does not wait for it. Payloads stay as they are until
    /// it is finished. At most [`STARTED_BATCHES_MAX`] batches are started at a time.
    fn start(&mut self, jobs: &[JobInput<'_>], on_stage: &dyn Fn(Stage)) {
        let _ = (jobs, on_stage);
    }

    /// Whether [`Self::finish`] would not wait.
    fn is_done(&self) -> bool {
        true
    }

    /// Waits for the batch that was started first, and sets the outputs at the places of its jobs as [`Self::run`] does.
    /// What was done before `since`, beside the batch before, is in none of the times.
    fn finish(&mut self, outputs: &mut [JobOutput<'_>], since: Instant, on_stage: &dyn Fn(Stage)) {
        let _ = (outputs, since, on_stage);
    }
}

impl<'a> JobOutput<'a> {
    /// An output that was not written yet.
    #[must_use]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        // The empty sentence allocates nothing: this is on every job's path.
        let answer = Err(Rejection::new(Reason::Internal, String::new()));
        Self { bytes, times: StageTimes::default(), answer, unfinished: false }
    }
}

impl JobAnswer {
    /// The dimensions in use.
    #[must_use]
    pub fn dims(&self) -> &[u32] {
        &self.dims[..usize::from(self.rank).min(limits::RANK_MAX)]
    }

    /// A tensor of `bytes` bytes that is in the output already; `None` when it has too many dimensions.
    fn tensor(dtype: Dtype, dims: &[u32], bytes: usize, work: u32) -> Option<Self> {
        let mut all = [0; limits::RANK_MAX];
        all.get_mut(..dims.len())?.copy_from_slice(dims);
        Some(Self { body: BodyKind::Tensor, bytes, dtype, dims: all, rank: u8::try_from(dims.len()).ok()?, work })
    }
}

/// Encodes `result` into `output`.
fn write_result(result: &ModelResult, output: &mut [u8], work: u32) -> Result<JobAnswer, Rejection> {
    let archive = codec::encode(result);
    write(&archive, output)?;
    Ok(JobAnswer { body: BodyKind::Result, bytes: archive.len(), work, ..JobAnswer::default() })
}

/// Copies `bytes` to the start of `output`.
fn write(bytes: &[u8], output: &mut [u8]) -> Result<(), Rejection> {
    let room = output.len();
    let target = output.get_mut(..bytes.len()).ok_or_else(|| {
        Rejection::new(
            Reason::ExecutionFailed,
            format!("a result of {} bytes; the model's output_bytes_max leaves room for {room}", bytes.len()),
        )
    })?;
    target.copy_from_slice(bytes);
    Ok(())
}

/// What is wrong with a payload, as the answer to its job.
fn refused(error: ProcessingError) -> Rejection {
    let reason = match &error {
        ProcessingError::ImageBytes { .. } | ProcessingError::PartialFrame { .. } => Reason::InvalidShape,
        ProcessingError::InputValues { .. } => Reason::Internal,
        ProcessingError::Output { .. } => Reason::ExecutionFailed,
        ProcessingError::Empty(_)
        | ProcessingError::UnknownImage(_)
        | ProcessingError::Truncated { .. }
        | ProcessingError::Corrupt { .. }
        | ProcessingError::Unsupported { .. }
        | ProcessingError::ImageSize { .. }
        | ProcessingError::SampleRate { .. }
        | ProcessingError::Channels { .. }
        | ProcessingError::TooLong { .. }
        | ProcessingError::SampleValue { .. } => Reason::InvalidPayload,
    };
    Rejection::new(reason, error.to_string())
}

/// Nanoseconds since `start`.
fn elapsed_ns(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A count as the receipt's `work`.
fn work(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
