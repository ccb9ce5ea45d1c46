//! Jobs and their answers without a worker.

use sensorium_device::executor::{Executor, JobAnswer, JobInput, JobOutput, Slice, StageTimes};
use sensorium_wire::BodyKind;
use sensorium_wire::codec;
use sensorium_wire::receipt::Stage;
use sensorium_wire::rejection::{Reason, Rejection};
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::tensor::Dtype;

/// A job that owns its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) payload: PayloadKind,
    pub(crate) dtype: Dtype,
    pub(crate) dims: Vec<u32>,
    pub(crate) pixels: PixelFormat,
    pub(crate) sample_rate_hz: u32,
    pub(crate) state: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
}

impl Job {
    fn of(payload: PayloadKind, dtype: Dtype, dims: &[u32], bytes: Vec<u8>) -> Self {
        let dims = dims.to_vec();
        Self { payload, dtype, dims, pixels: PixelFormat::Rgb24, sample_rate_hz: 0, state: Vec::new(), bytes }
    }

    pub(crate) fn tensor(dims: &[u32], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::of(PayloadKind::Tensor, Dtype::F32, dims, bytes)
    }

    pub(crate) fn bytes(bytes: Vec<u8>) -> Self {
        let dims = [u32::try_from(bytes.len()).unwrap()];
        Self::of(PayloadKind::Tensor, Dtype::U8, &dims, bytes)
    }

    pub(crate) fn frame(height: u32, width: u32, bytes: Vec<u8>) -> Self {
        Self::of(PayloadKind::RawFrame, Dtype::U8, &[height, width], bytes)
    }

    pub(crate) fn image(bytes: Vec<u8>) -> Self {
        Self::of(PayloadKind::EncodedImage, Dtype::U8, &[], bytes)
    }

    pub(crate) fn wav(bytes: Vec<u8>) -> Self {
        Self::of(PayloadKind::EncodedAudio, Dtype::U8, &[], bytes)
    }

    /// Mono PCM at 16 kHz.
    pub(crate) fn pcm(samples: &[i16]) -> Self {
        let bytes = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let dims = [u32::try_from(samples.len()).unwrap(), 1];
        Self { sample_rate_hz: 16_000, ..Self::of(PayloadKind::Pcm, Dtype::I16, &dims, bytes) }
    }

    pub(crate) fn input(&self, slice: Slice) -> JobInput<'_> {
        JobInput {
            payload: self.payload,
            dtype: self.dtype,
            dims: &self.dims,
            pixels: self.pixels,
            sample_rate_hz: self.sample_rate_hz,
            state: &self.state,
            bytes: &self.bytes,
            slice,
        }
    }
}

/// What became of a job.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) answer: Result<JobAnswer, Rejection>,
    pub(crate) times: StageTimes,
    pub(crate) unfinished: bool,
    pub(crate) body: Vec<u8>,
}

impl Ran {
    /// The decoded result of a job that must have one.
    pub(crate) fn result(&self) -> ModelResult {
        let answer = self.answer.as_ref().unwrap();
        assert_eq!(answer.body, BodyKind::Result);
        codec::decode(self.body()).expect("the body is a valid archive")
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body[..self.answer.as_ref().unwrap().bytes]
    }

    pub(crate) fn f32s(&self) -> Vec<f32> {
        assert_eq!(self.answer.as_ref().unwrap().dtype, Dtype::F32);
        self.body().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    /// Asserts that the job was refused for `reason` with a sentence that holds `part`.
    pub(crate) fn refused(&self, reason: Reason, part: &str) {
        let rejection = self.answer.as_ref().expect_err("the job should have been refused");
        assert_eq!(rejection.reason, reason, "{rejection}");
        assert!(rejection.detail.contains(part), "{rejection}");
    }
}

/// Runs jobs as one batch, each with `room` bytes for its answer.
pub(crate) fn run_with(executor: &mut dyn Executor, jobs: &[Job], room: usize) -> Vec<Ran> {
    run_staged(executor, jobs, room, &|_| ())
}

/// The same, calling `on_stage` in each stage.
pub(crate) fn run_staged(executor: &mut dyn Executor, jobs: &[Job], room: usize, on_stage: &dyn Fn(Stage)) -> Vec<Ran> {
    let inputs: Vec<_> = jobs.iter().map(|job| job.input(Slice::default())).collect();
    run_inputs(executor, &inputs, room, on_stage)
}

/// Runs one job for one slice.
pub(crate) fn run_slice(executor: &mut dyn Executor, job: &Job, slice: Slice) -> Ran {
    run_inputs(executor, &[job.input(slice)], 64 << 10, &|_| ()).pop().unwrap()
}

fn run_inputs(executor: &mut dyn Executor, inputs: &[JobInput<'_>], room: usize, on_stage: &dyn Fn(Stage)) -> Vec<Ran> {
    let mut rooms = vec![vec![0xaa; room]; inputs.len()];
    let mut outputs: Vec<_> = rooms.iter_mut().map(|bytes| JobOutput::new(bytes)).collect();
    executor.run(inputs, &mut outputs, on_stage);
    let done: Vec<_> = outputs.into_iter().map(|output| (output.answer, output.times, output.unfinished)).collect();
    let ran = |((answer, times, unfinished), body)| Ran { answer, times, unfinished, body };
    done.into_iter().zip(rooms).map(ran).collect()
}

pub(crate) fn run(executor: &mut dyn Executor, jobs: &[Job]) -> Vec<Ran> {
    run_with(executor, jobs, 64 << 10)
}

pub(crate) fn run_one(executor: &mut dyn Executor, job: &Job) -> Ran {
    run(executor, std::slice::from_ref(job)).pop().unwrap()
}
