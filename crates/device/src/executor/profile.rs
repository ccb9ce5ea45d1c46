//! Measures a freshly loaded model on made-up payloads, which also warms it.

use std::time::{Duration, Instant};

use sensorium_models::ModelPackage;
use sensorium_models::manifest::{Interpret, Prepare};
use sensorium_models::profile::{BatchProfile, Quantiles, ServiceProfile};
use sensorium_processing::image::SourceGeometry;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::tensor::Dtype;

use super::{Executor, JobInput, JobOutput, Slice, stage};

/// Batches that run before anything is measured.
const WARM_UP_RUNS: u32 = 3;
/// How long one batch size is measured, unless it takes longer to run it [`RUNS_MIN`] times.
const MEASURE_MAX: Duration = Duration::from_millis(200);
/// One run could have been disturbed by anything.
const RUNS_MIN: usize = 2;
/// Enough for a median; the tail is a first guess.
const RUNS_MAX: usize = 200;
/// Size of the made-up image.
const IMAGE: [u32; 2] = [480, 640];

/// Runs `executor` on noise: batches of one, then of `batch_max` jobs. `arena_bytes` is left at 0, because only who
/// loads the model knows the memory before; see [`crate::backend::memory_bytes_now`].
///
/// Images are raw frames of 640 × 480, sound is PCM at the model's rate of a second or as many whole windows as fit one,
/// tensors are one row.
///
/// # Errors
/// The rejection of a made-up job: the model cannot serve.
pub fn profile(executor: &mut dyn Executor, package: &ModelPackage) -> Result<ServiceProfile, String> {
    let batch_max = package.manifest.placement.batch_max;
    let payload = Payload::of(package);
    let mut room = payload.room(package, batch_max);
    let mut batches = Vec::new();
    warm_up(executor, package, WARM_UP_RUNS)?;
    for jobs in [1, batch_max] {
        if batches.last().is_some_and(|last: &BatchProfile| last.jobs == jobs) {
            continue;
        }
        let room = &mut room[..usize::from(jobs)];
        // The first run of a batch size sets up memory for it.
        let first = Instant::now();
        run(executor, &payload, room)?;
        let mut samples = Samples::default();
        let first_ran = first.elapsed();
        let start = Instant::now();
        while samples.total.len() < RUNS_MIN
            || (samples.total.len() < RUNS_MAX && start.elapsed() + first_ran < MEASURE_MAX)
        {
            samples.push(run(executor, &payload, room)?);
        }
        batches.push(samples.profile(jobs));
    }
    Ok(ServiceProfile { batches, arena_bytes: 0 })
}

/// Runs `executor` on noise `runs` times, so that its memory is set up: enough for a model whose profile is known.
///
/// # Errors
/// The rejection of a made-up job: the model cannot serve.
pub fn warm_up(executor: &mut dyn Executor, package: &ModelPackage, runs: u32) -> Result<(), String> {
    let payload = Payload::of(package);
    let mut room = payload.room(package, 1);
    (0..runs).try_for_each(|_| run(executor, &payload, &mut room).map(drop))
}

/// A payload that the model takes.
struct Payload {
    payload: PayloadKind,
    dtype: Dtype,
    dims: Vec<u32>,
    sample_rate_hz: u32,
    /// Of a stage of a network: where the image came from.
    state: Vec<u8>,
    bytes: Vec<u8>,
}

impl Payload {
    fn of(package: &ModelPackage) -> Self {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let pcm = |noise: &mut Noise, sample_rate_hz: u32, samples: u32| Self {
            payload: PayloadKind::Pcm,
            dtype: Dtype::I16,
            dims: vec![samples, 1],
            sample_rate_hz,
            state: Vec::new(),
            // A quarter of full scale, like speech.
            bytes: (0..samples).flat_map(|_| (noise.sample() >> 2).to_le_bytes()).collect(),
        };
        match &package.manifest.prepare {
            Prepare::Image { .. } => Self {
                payload: PayloadKind::RawFrame,
                dtype: Dtype::U8,
                dims: IMAGE.to_vec(),
                sample_rate_hz: 0,
                state: Vec::new(),
                bytes: (0..IMAGE[0] * IMAGE[1] * 3).map(|_| noise.byte()).collect(),
            },
            Prepare::Windows { sample_rate_hz, window_samples, .. } => {
                let windows = (sample_rate_hz / window_samples).max(1);
                pcm(&mut noise, *sample_rate_hz, windows * window_samples)
            }
            Prepare::Utterance { sample_rate_hz, .. } => pcm(&mut noise, *sample_rate_hz, *sample_rate_hz),
            Prepare::Tensor {} | Prepare::Stage { .. } => {
                let input = package.manifest.inputs.first();
                let dtype = input.map_or(Dtype::U8, |input| input.dtype);
                let dims = match (&package.manifest.interpret, input) {
                    (Interpret::Identity { .. }, _) | (_, None) => vec![1024],
                    (_, Some(input)) => input.one_row(),
                };
                let elements: u32 = dims.iter().product();
                let bytes = (0..elements).flat_map(|_| noise.element(dtype)).collect();
                let [height, width] = IMAGE;
                let fitted =
                    |(fitted_width, fitted_height)| SourceGeometry { width, height, fitted_width, fitted_height };
                let state = match &package.manifest.prepare {
                    Prepare::Stage { .. } => stage::head(package.manifest.prepare.image_size().map(fitted)).to_vec(),
                    _ => Vec::new(),
                };
                Self { payload: PayloadKind::Tensor, dtype, dims, sample_rate_hz: 0, state, bytes }
            }
        }
    }

    /// Room for the answers of `jobs` jobs.
    fn room(&self, package: &ModelPackage, jobs: u16) -> Vec<Vec<u8>> {
        let bytes = match package.manifest.placement.output_bytes_max {
            0 => self.bytes.len(),
            bytes => bytes as usize,
        };
        vec![vec![0; bytes]; usize::from(jobs)]
    }

    fn job(&self) -> JobInput<'_> {
        JobInput {
            payload: self.payload,
            dtype: self.dtype,
            dims: &self.dims,
            pixels: PixelFormat::Rgb24,
            sample_rate_hz: self.sample_rate_hz,
            state: &self.state,
            bytes: &self.bytes,
            // Whole jobs are measured: their slices follow from the model's slice length.
            slice: Slice::default(),
        }
    }
}

/// Numbers without a pattern, the same every time (xorshift64*; Vigna 2016).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn sample(&mut self) -> i16 {
        let [high, low, ..] = self.next().to_be_bytes();
        i16::from_be_bytes([high, low])
    }

    /// Little-endian bytes of a small number: 0 to 1, or 0 or 1 for integers.
    fn element(&mut self, dtype: Dtype) -> Vec<u8> {
        let byte = self.byte();
        match dtype {
            Dtype::F32 => (f32::from(byte) / 255.0).to_le_bytes().to_vec(),
            Dtype::F64 => (f64::from(byte) / 255.0).to_le_bytes().to_vec(),
            Dtype::F16 => vec![0, 0],
            Dtype::U8 | Dtype::I8 | Dtype::Bool => vec![byte & 1],
            Dtype::I16 => u16::from(byte & 1).to_le_bytes().to_vec(),
            Dtype::I32 => u32::from(byte & 1).to_le_bytes().to_vec(),
            Dtype::I64 => u64::from(byte & 1).to_le_bytes().to_vec(),
        }
    }
}

/// Times of one batch: total, and the sums of its stages.
struct Run {
    total_ns: u64,
    prepare_ns: u64,
    infer_ns: u64,
    interpret_ns: u64,
}

fn run(executor: &mut dyn Executor, payload: &Payload, room: &mut [Vec<u8>]) -> Result<Run, String> {
    let jobs: Vec<_> = room.iter().map(|_| payload.job()).collect();
    let mut outputs: Vec<_> = room.iter_mut().map(|bytes| JobOutput::new(bytes)).collect();
    let start = Instant::now();
    executor.run(&jobs, &mut outputs, &|_| ());
    let total_ns = super::elapsed_ns(start);
    if let Some(rejection) = outputs.iter().find_map(|output| output.answer.as_ref().err()) {
        return Err(rejection.to_string());
    }
    let sum = |part: fn(&JobOutput<'_>) -> u64| outputs.iter().map(part).sum();
    Ok(Run {
        total_ns,
        prepare_ns: sum(|output| output.times.prepare_ns),
        infer_ns: outputs.iter().map(|output| output.times.infer_ns).max().unwrap_or(0),
        interpret_ns: sum(|output| output.times.interpret_ns),
    })
}

#[derive(Default)]
struct Samples {
    total: Vec<u64>,
    prepare: Vec<u64>,
    infer: Vec<u64>,
    interpret: Vec<u64>,
}

impl Samples {
    fn push(&mut self, run: Run) {
        self.total.push(run.total_ns);
        self.prepare.push(run.prepare_ns);
        self.infer.push(run.infer_ns);
        self.interpret.push(run.interpret_ns);
    }

    fn profile(mut self, jobs: u16) -> BatchProfile {
        BatchProfile {
            jobs,
            runs: u32::try_from(self.total.len()).unwrap_or(u32::MAX),
            total: Quantiles::of(&mut self.total),
            prepare: Quantiles::of(&mut self.prepare),
            infer: Quantiles::of(&mut self.infer),
            interpret: Quantiles::of(&mut self.interpret),
        }
    }
}
