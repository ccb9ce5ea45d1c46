//! `sensorium bench job`: one model in a closed loop.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hdrhistogram::Histogram;
use sensorium_client::Client;
use sensorium_device::backend::CpuBackend;
use sensorium_device::executor::{self, JobInput, JobOutput, Slice};
use sensorium_models::repository::Repository;
use sensorium_wire::limits;
use sensorium_wire::submit::PixelFormat;
use serde_json::json;

use crate::arguments::BenchJobArguments;
use crate::commands::sample::Sample;
use crate::error::Outcome;
use crate::paths::Paths;

/// Deadline of the jobs: far away, since this measures speed and not refusals.
const DEADLINE_MS: u64 = 60_000;
/// In-process calls for the floor, at most, and for how long.
const FLOOR_CALLS_MAX: u32 = 2_000;
const FLOOR_SECONDS_MAX: f64 = 2.0;

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
    let sample = Sample::new(&package.manifest, arguments.bytes)?;
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
    let one = || client.submit(sample.job(model).deadline_ms(DEADLINE_MS), sample.bytes.clone());
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
