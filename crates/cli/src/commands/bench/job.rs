//! `sensorium bench job`: one model in a closed loop.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hdrhistogram::Histogram;
use sensorium_client::{Client, Job};
use sensorium_device::backend::CpuBackend;
use sensorium_device::executor::{self, JobInput, JobOutput, Slice};
use sensorium_models::manifest::{Manifest, Prepare};
use sensorium_models::repository::Repository;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::{Dtype, limits};
use serde_json::json;

use crate::arguments::BenchJobArguments;
use crate::error::Outcome;
use crate::paths::Paths;

/// Deadline of the jobs: far away, since this measures speed and not refusals.
const DEADLINE_MS: u64 = 60_000;
/// In-process calls for the floor, at most, and for how long.
const FLOOR_CALLS_MAX: u32 = 2_000;
const FLOOR_SECONDS_MAX: f64 = 2.0;

/// A payload that suits a model, and how to describe it.
struct Sample {
    kind: PayloadKind,
    dtype: Dtype,
    dims: Vec<u32>,
    sample_rate_hz: u32,
    bytes: Bytes,
}

pub(super) fn run(paths: &Paths, arguments: &BenchJobArguments) -> Outcome {
    if arguments.concurrency == 0 || arguments.concurrency > limits::JOBS_IN_FLIGHT_MAX as usize {
        bail!("--concurrency {}: 1 to {} is expected", arguments.concurrency, limits::JOBS_IN_FLIGHT_MAX);
    }
    if !(0.1..=3600.0).contains(&arguments.seconds) {
        bail!("--seconds {}: 0.1 to 3600 is expected", arguments.seconds);
    }
    let repository = Repository::open(&paths.repositories, &paths.weights())?;
    let package = repository
        .models
        .get(&arguments.model)
        .with_context(|| format!("no model {:?} in the repository; sensorium models lists them", arguments.model))?;
    let sample = sample(&package.manifest, arguments.bytes)?;
    let floor_ns = floor(paths, package, &sample)?;
    let measured = super::super::block_on(async {
        let client = paths.connect(&arguments.reach).await?;
        let measured = measure(&client, &arguments.model, &sample, arguments).await;
        client.close().await;
        measured
    })??;
    let (latencies, rate_per_s) = measured;
    let us = |ns: u64| crate::show::micros(ns);
    let at = |quantile: f64| us(latencies.value_at_quantile(quantile));
    if arguments.json {
        println!(
            "{}",
            json!({
                "model": arguments.model, "concurrency": arguments.concurrency, "bytes": sample.bytes.len(),
                "jobs": latencies.len(), "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999),
                "rate_per_s": rate_per_s, "floor_p50_us": us(floor_ns),
            })
        );
    } else {
        println!(
            "{}: {} jobs of {} bytes, {} in flight: {rate_per_s:.0} a second",
            arguments.model,
            latencies.len(),
            sample.bytes.len(),
            arguments.concurrency
        );
        println!("latency: p50 {} µs, p99 {} µs, p99.9 {} µs", at(0.5), at(0.99), at(0.999));
        println!("the same model called in this process: p50 {} µs", us(floor_ns));
    }
    Ok(ExitCode::SUCCESS)
}

/// A payload of noise: never only zeros, which some kernels are quicker on.
fn sample(manifest: &Manifest, bytes: u32) -> anyhow::Result<Sample> {
    let noise = |count: usize| -> Vec<u8> {
        let mut state = 0x9e37_79b9_u32;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(count)
        .collect()
    };
    let pcm = |samples: u32, sample_rate_hz: u32| {
        let sound = noise(samples as usize)
            .iter()
            .flat_map(|byte| (f32::from(*byte) / 512.0 - 0.25).to_le_bytes())
            .collect::<Vec<u8>>();
        Sample {
            kind: PayloadKind::Pcm,
            dtype: Dtype::F32,
            dims: vec![samples, 1],
            sample_rate_hz,
            bytes: sound.into(),
        }
    };
    let raw = |kind, dtype, dims, bytes: Vec<u8>| Sample { kind, dtype, dims, sample_rate_hz: 0, bytes: bytes.into() };
    Ok(match &manifest.prepare {
        Prepare::Image { .. } => raw(PayloadKind::RawFrame, Dtype::U8, vec![480, 640], noise(640 * 480 * 3)),
        Prepare::Windows { sample_rate_hz, window_samples, .. } => pcm(*window_samples, *sample_rate_hz),
        Prepare::Utterance { sample_rate_hz, .. } => pcm(*sample_rate_hz * 2, *sample_rate_hz),
        Prepare::Tensor {} => match manifest.inputs.first() {
            None => raw(PayloadKind::Tensor, Dtype::U8, vec![bytes], noise(bytes as usize)),
            Some(input) => {
                let dims: Vec<u32> = input
                    .shape
                    .iter()
                    .map(|dim| match dim {
                        sensorium_models::manifest::Dim::Fixed(size) => *size,
                        sensorium_models::manifest::Dim::Named(_) => 1,
                    })
                    .collect();
                let count: u32 = dims.iter().product();
                let values = noise(count as usize);
                let bytes = match input.dtype {
                    Dtype::F32 => values.iter().flat_map(|byte| (f32::from(*byte) / 256.0).to_le_bytes()).collect(),
                    Dtype::U8 => values,
                    other => bail!("no sample payload for inputs of type {}", other.name()),
                };
                raw(PayloadKind::Tensor, input.dtype, dims, bytes)
            }
        },
    })
}

impl Sample {
    fn job(&self, model: &str) -> Job {
        let job = match self.kind {
            PayloadKind::RawFrame => Job::frame(model, self.dims[1], self.dims[0], PixelFormat::Rgb24),
            PayloadKind::Pcm => Job::pcm(model, self.dtype, self.dims[0], self.dims[1], self.sample_rate_hz),
            PayloadKind::Tensor | PayloadKind::EncodedImage | PayloadKind::EncodedAudio => {
                Job::tensor(model, self.dtype, &self.dims)
            }
        };
        job.deadline_ms(DEADLINE_MS)
    }
}

async fn measure(
    client: &Client,
    model: &str,
    sample: &Sample,
    arguments: &BenchJobArguments,
) -> anyhow::Result<(Histogram<u64>, f64)> {
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 600_000_000_000, 3)?;
    let warm = Duration::from_secs_f64(arguments.seconds / 10.0);
    let whole = warm + Duration::from_secs_f64(arguments.seconds);
    let began = Instant::now();
    let mut measuring_since = None;
    let one = || client.submit(sample.job(model), sample.bytes.clone());
    let mut flying: FuturesUnordered<_> = (0..arguments.concurrency).map(|_| one()).collect();
    while let Some(answer) = flying.next().await {
        let answer = answer?;
        if let Some(rejection) = answer.rejection() {
            bail!("a job ended as {}: {rejection}", answer.header.outcome.name());
        }
        let elapsed = began.elapsed();
        if elapsed >= warm {
            if measuring_since.is_none() {
                measuring_since = Some(Instant::now());
            } else {
                latencies.record(answer.total_ns)?;
            }
        }
        if elapsed >= whole {
            break;
        }
        flying.push(one());
    }
    let seconds = measuring_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
    if latencies.is_empty() {
        bail!("no job ended within the time; give more with --seconds");
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
    let rate = latencies.len() as f64 / seconds;
    drop(flying);
    Ok((latencies, rate))
}

/// Median of the same model's executor called in this process, prepare to interpret.
fn floor(paths: &Paths, package: &sensorium_models::ModelPackage, sample: &Sample) -> anyhow::Result<u64> {
    let backend = CpuBackend::open(&paths.onnxruntime)?;
    let mut executor = executor::load(package, &backend)?;
    let room = match package.manifest.placement.output_bytes_max {
        0 => sample.bytes.len().max(1024),
        bytes => bytes as usize,
    };
    let mut room = vec![0; room];
    let input = JobInput {
        payload: sample.kind,
        dtype: sample.dtype,
        dims: &sample.dims,
        pixels: PixelFormat::Rgb24,
        sample_rate_hz: sample.sample_rate_hz,
        state: &[],
        bytes: &sample.bytes,
        slice: Slice::default(),
    };
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 600_000_000_000, 3)?;
    let began = Instant::now();
    for _ in 0..FLOOR_CALLS_MAX {
        let mut outputs = [JobOutput::new(&mut room)];
        let call = Instant::now();
        executor.run(&[input], &mut outputs, &|_| {});
        latencies.record(u64::try_from(call.elapsed().as_nanos())?.max(1))?;
        if let Err(rejection) = &outputs[0].answer {
            bail!("in this process: {rejection}");
        }
        if began.elapsed().as_secs_f64() > FLOOR_SECONDS_MAX {
            break;
        }
    }
    Ok(latencies.value_at_quantile(0.5))
}
