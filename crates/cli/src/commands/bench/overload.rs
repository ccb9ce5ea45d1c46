//! `sensorium bench overload`: more than a model can do, at times that nobody chose, and what becomes of every job.
//!
//! First the model alone and its capacity, both measured now; then an open loop: arrivals do not wait for answers, and an
//! answer's time counts from the arrival's place in the schedule, so that a client which falls behind cannot make the
//! node look good. What is on time is judged here and not from what the node says.

mod arrivals;
mod offer;
mod record;
mod report;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hdrhistogram::Histogram;
use sensorium_client::{Answer, Client, Job};
use sensorium_models::manifest::{Manifest, Prepare};
use sensorium_wire::{Dtype, limits};

use self::offer::Offer;
use self::report::{Report, Setting};
use crate::arguments::BenchOverloadArguments;
use crate::commands::sample::Sample;
use crate::error::Outcome;
use crate::paths::Paths;
use crate::show;

/// Deadline of jobs that measure speed and not refusals: far away.
const FAR_DEADLINE_MS: u64 = 60_000;
/// How long one job at a time is measured, in seconds.
const ALONE_SECONDS: f64 = 2.0;
/// How long the capacity is measured, after a tenth of it to warm up, in seconds.
const CAPACITY_SECONDS: f64 = 5.0;
/// Jobs in flight meanwhile: two batches of four, so that a device always has its next one.
const CAPACITY_JOBS_IN_FLIGHT: usize = 8;
/// Payload bytes for models that take any tensor.
const ANY_TENSOR_BYTES: u32 = 1024;
/// When after the last arrival a fresh job is sent, in milliseconds.
const FRESH_AFTER_MS: u64 = 150;
/// Highest load that may be asked for.
const LOAD_MAX: f64 = 100.0;

pub(super) fn run(paths: &Paths, arguments: &BenchOverloadArguments) -> Outcome {
    check(arguments)?;
    if let Some(folder) = &arguments.record {
        std::fs::create_dir_all(folder).with_context(|| format!("--record {}", folder.display()))?;
    }
    let report = super::super::block_on(async {
        let client = paths.connect(&arguments.reach).await?;
        let report = measure(&client, &paths.cache, arguments).await;
        client.close().await;
        report
    })??;
    if let Some(folder) = &arguments.record {
        record::write(folder, &report).with_context(|| format!("--record {}", folder.display()))?;
    }
    if arguments.json {
        println!("{}", report.json());
    } else {
        report.lines().iter().for_each(|line| println!("{line}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn check(arguments: &BenchOverloadArguments) -> anyhow::Result<()> {
    if !(arguments.load > 0.0 && arguments.load <= LOAD_MAX) {
        bail!("--load {}: more than 0 and at most {LOAD_MAX} is expected; 1 is the capacity", arguments.load);
    }
    if !(0.5..=3600.0).contains(&arguments.seconds) {
        bail!("--seconds {}: 0.5 to 3600 is expected", arguments.seconds);
    }
    let deadline_us = arguments.deadline.as_micros();
    if deadline_us == 0 || deadline_us > u128::from(limits::BUDGET_US_MAX) {
        bail!("--deadline {}: more than 0 and at most 1h is expected", humantime::format_duration(arguments.deadline));
    }
    Ok(())
}

async fn measure(client: &Client, cache: &Path, arguments: &BenchOverloadArguments) -> anyhow::Result<Report> {
    let model = arguments.model.as_str();
    let sample = Arc::new(sample(client, model, arguments.file.as_deref(), cache).await?);
    let unloaded_p50_ns = alone(client, model, &sample).await?;
    check_deadline(arguments.deadline, unloaded_p50_ns)?;
    let capacity_per_s = capacity(client, model, &sample).await?;
    let setting = Setting {
        model: model.to_owned(),
        load: arguments.load,
        deadline: arguments.deadline,
        seconds: arguments.seconds,
        seed: arguments.seed,
        payload: sample.what.clone(),
        capacity_per_s,
        unloaded_p50_ns,
    };
    let arrivals = arrivals::poisson(arguments.load * capacity_per_s, arguments.seconds, arguments.seed)?;
    let last = Duration::from_micros(arrivals.last().copied().unwrap_or(0));
    let offer = Offer { client, model, sample: &sample, deadline: arguments.deadline };
    let (endings, fresh) = tokio::try_join!(offer.run(&arrivals), async {
        // By the clock, whatever becomes of the others: what is left of them would be in its way.
        tokio::time::sleep(last + Duration::from_millis(FRESH_AFTER_MS)).await;
        one(client, model, &sample).await
    })?;
    let fresh_ns = fresh.0.is_result().then(|| nanos(fresh.1));
    Ok(Report { setting, endings, fresh_ns, transit_ns: nanos(client.expected_transit()) })
}

/// A payload for the model, by the manifest that the node has of it.
async fn sample(client: &Client, model: &str, file: Option<&Path>, cache: &Path) -> anyhow::Result<Sample> {
    let manifests: Vec<Manifest> = serde_json::from_str(&client.query("models").await?)
        .context("the node's list of models is not understood; is it of another version?")?;
    if let Some(manifest) = manifests.iter().find(|manifest| manifest.name == model) {
        let camera = || match manifest.prepare {
            Prepare::Image { .. } => Sample::camera(model, cache),
            _ => None,
        };
        return match file {
            Some(file) => Sample::of_file(model, file),
            None => camera().map_or_else(|| Sample::new(manifest, ANY_TENSOR_BYTES), Ok),
        };
    }
    // The node says what is wrong with the name, as it does to every client.
    let job = Job::tensor(model, Dtype::U8, &[1]).deadline_ms(FAR_DEADLINE_MS);
    let answer = client.submit(job, vec![0]).await?;
    match answer.rejection() {
        Some(rejection) => bail!("--model {model}: {rejection}"),
        None => bail!("--model {model}: the node runs it but does not list it"),
    }
}

/// One job with a far deadline, and what it took from call to answer.
async fn one(client: &Client, model: &str, sample: &Sample) -> anyhow::Result<(Answer, Duration)> {
    let began = Instant::now();
    let answer = client.submit(sample.job(model).deadline_ms(FAR_DEADLINE_MS), sample.bytes.clone()).await?;
    Ok((answer, began.elapsed()))
}

fn done(answer: &Answer) -> anyhow::Result<()> {
    match answer.rejection() {
        Some(rejection) => bail!("a job ended as {}: {rejection}", answer.header.outcome.name()),
        None => Ok(()),
    }
}

/// Median of one job at a time, in nanoseconds.
async fn alone(client: &Client, model: &str, sample: &Sample) -> anyhow::Result<u64> {
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 600_000_000_000, 3)?;
    // The first one pays for what is only done once.
    done(&one(client, model, sample).await?.0)?;
    let began = Instant::now();
    while latencies.is_empty() || began.elapsed().as_secs_f64() < ALONE_SECONDS {
        let (answer, took) = one(client, model, sample).await?;
        done(&answer)?;
        latencies.record(nanos(took).max(1))?;
    }
    Ok(latencies.value_at_quantile(0.5))
}

fn check_deadline(deadline: Duration, unloaded_p50_ns: u64) -> anyhow::Result<()> {
    if nanos(deadline) > unloaded_p50_ns {
        return Ok(());
    }
    let enough_ms = unloaded_p50_ns.saturating_mul(4).div_ceil(1_000_000);
    bail!(
        "--deadline {}: one job alone takes {} (p50), so that none could be on time; try --deadline {enough_ms}ms",
        humantime::format_duration(deadline),
        show::duration(unloaded_p50_ns),
    )
}

/// Jobs a second in a closed loop that keeps the device busy.
async fn capacity(client: &Client, model: &str, sample: &Sample) -> anyhow::Result<f64> {
    let warm = Duration::from_secs_f64(CAPACITY_SECONDS / 10.0);
    let whole = warm + Duration::from_secs_f64(CAPACITY_SECONDS);
    let began = Instant::now();
    let (mut since, mut count) = (None, 0_u32);
    let mut flying: FuturesUnordered<_> = (0..CAPACITY_JOBS_IN_FLIGHT).map(|_| one(client, model, sample)).collect();
    let mut rate_per_s = None;
    while let Some(answer) = flying.next().await {
        done(&answer?.0)?;
        let elapsed = began.elapsed();
        match since {
            // From answer to answer: neither end has a part of a job.
            None => since = (elapsed >= warm).then_some(elapsed),
            Some(since) if rate_per_s.is_none() => {
                count += 1;
                if elapsed >= whole {
                    rate_per_s = Some(f64::from(count) / (elapsed - since).as_secs_f64().max(1e-6));
                }
            }
            // Those that are still out are waited for: nothing of this phase is to be in the next one's way.
            Some(_) => {}
        }
        if rate_per_s.is_none() {
            flying.push(one(client, model, sample));
        }
    }
    rate_per_s.context("no job was answered")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
