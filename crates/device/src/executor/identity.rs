//! Gives the payload back: measures the path without a network. Allocates nothing.

use std::time::Instant;

use sensorium_wire::receipt::Stage;
use sensorium_wire::rejection::{Reason, Rejection};
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::tensor::Dtype;

use super::{Executor, JobAnswer, JobInput, JobOutput, StageTimes, elapsed_ns, work, write};

/// Copies each payload to its output, as a tensor.
pub(super) struct IdentityExecutor {
    /// 0 = the whole payload.
    pub(super) answer_bytes_max: usize,
}

impl Executor for IdentityExecutor {
    fn run(&mut self, jobs: &[JobInput<'_>], outputs: &mut [JobOutput<'_>], on_stage: &dyn Fn(Stage)) {
        for (job, output) in jobs.iter().zip(outputs) {
            let start = Instant::now();
            on_stage(Stage::Prepare);
            let prepared = Instant::now();
            on_stage(Stage::Infer);
            output.answer = match self.answer_bytes_max {
                0 => copy(job, output.bytes),
                bytes_max => copy_start(job, bytes_max, output.bytes),
            };
            let infer_ns = elapsed_ns(prepared);
            let inferred = Instant::now();
            on_stage(Stage::Interpret);
            let prepare_ns = u64::try_from((prepared - start).as_nanos()).unwrap_or(u64::MAX);
            output.unfinished = false;
            output.times = StageTimes { prepare_ns, infer_ns, interpret_ns: elapsed_ns(inferred) };
        }
    }
}

/// The payload's first bytes, as bytes.
fn copy_start(job: &JobInput<'_>, bytes_max: usize, output: &mut [u8]) -> Result<JobAnswer, Rejection> {
    let start = &job.bytes[..job.bytes.len().min(bytes_max)];
    write(start, output)?;
    JobAnswer::tensor(Dtype::U8, &[work(start.len())], start.len(), work(job.bytes.len()))
        .ok_or_else(|| Rejection::new(Reason::Internal, "one dimension is always allowed"))
}

fn copy(job: &JobInput<'_>, output: &mut [u8]) -> Result<JobAnswer, Rejection> {
    write(job.bytes, output)?;
    let bytes = job.bytes.len();
    let frame;
    let length = [work(bytes)];
    // Only tensors and PCM describe their bytes by type and shape alone.
    let (dtype, dims) = match (job.payload, job.dims) {
        (PayloadKind::Tensor | PayloadKind::Pcm, dims) => (job.dtype, dims),
        (PayloadKind::RawFrame, [height, width]) => {
            frame = [*height, *width, work(job.pixels.bytes_per_pixel())];
            (Dtype::U8, &frame[..])
        }
        (PayloadKind::RawFrame | PayloadKind::EncodedImage | PayloadKind::EncodedAudio, _) => (Dtype::U8, &length[..]),
    };
    JobAnswer::tensor(dtype, dims, bytes, work(bytes))
        .ok_or_else(|| Rejection::new(Reason::InvalidShape, format!("{} dimensions", dims.len())))
}
