//! A node whose worker is killed while jobs run: each job must have one outcome, the worker must come back, and a device of
//! another kind in the same node must not notice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use sensorium_client::Client;
use sensorium_models::ModelPackage;
use tokio::task::JoinSet;

use super::checked::{CheckedNode, kill_worker, median, milliseconds, until};
use super::report::Finding;
use super::target::Target;
use crate::commands::sample::Sample;
use crate::paths::Paths;

const LOAD_SECONDS: u32 = 8;
const JOBS_PER_SECOND: u32 = 40;
/// When the worker is killed, from the first job.
const KILLED_AFTER: Duration = Duration::from_secs(2);
/// The model that the processor runs beside a GPU whose worker is killed.
const BESIDE: &str = "yamnet";
/// Rounds of two halves, a calm one and one with a kill; fewer where only the check itself is tried out.
const PAIRS: usize = 5;
const PAIRS_TRIED: usize = 1;
const HALF: Duration = Duration::from_secs(3);
/// Between two jobs for the device beside.
const EVERY: Duration = Duration::from_millis(20);
/// What is aimed at: the slowest hundredth beside a kill is at most this much longer, at the median of the pairs.
const RATIO_MAX: f64 = 1.05;

pub(crate) fn run(paths: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    let mut finding = Finding::default();
    crate::commands::block_on(async {
        under_load(paths, target, out, &mut finding).await?;
        beside(paths, target, out, &mut finding).await
    })??;
    Ok(finding)
}

async fn under_load(paths: &Paths, target: &Target, out: &Path, finding: &mut Finding) -> anyhow::Result<()> {
    let node = CheckedNode::start(paths, target, out, "killed", "load = [\"identity\", \"yamnet\"]\n")?;
    let client = node.client().await?;
    let load = node.load("identity:1k=3,identity:200k=1,yamnet=2", JOBS_PER_SECOND, LOAD_SECONDS)?;
    tokio::time::sleep(KILLED_AFTER).await;
    let before = until(&client, "a worker serves", |device| device["state"] == "ready").await?;
    let killed = Instant::now();
    kill_worker(&before)?;
    let after = until(&client, "another worker serves", |device| {
        device["state"] == "ready" && device["restarts"] == 1 && device["worker_pid"].is_u64()
    });
    let after = after.await?;
    finding.note("back_ms", milliseconds(killed));
    finding.expect(after["worker_pid"] != before["worker_pid"], || "the same worker".to_owned());
    load.account(finding)
}

/// How long jobs of the processor take while the worker of the GPU beside it is killed, against calm times.
async fn beside(paths: &Paths, target: &Target, out: &Path, finding: &mut Finding) -> anyhow::Result<()> {
    let package = target.package(paths, BESIDE)?;
    let sample = Sample::new(&package.manifest, 0)?;
    let models = only_for_the_processor(&package, &out.join("killed-beside/models"))?;
    let repositories = [models].into_iter().chain(paths.repositories.iter().cloned()).collect();
    let paths = Paths { repositories, ..paths.clone() };
    let config = format!("cpu_devices = \"always\"\nload = [\"identity\", \"nanodet\", \"{BESIDE}\"]\n");
    let node = CheckedNode::start(&paths, target, out, "killed-beside", &config)?;
    let client = node.client().await?;
    let pairs = if target.gpu.is_some() { PAIRS } else { PAIRS_TRIED };
    let (mut ratios, mut devices) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        // Which half comes first alternates: what drifts meanwhile falls on both.
        let mut p99 = [0.0, 0.0];
        for half in if pair % 2 == 0 { [0, 1] } else { [1, 0] } {
            let device = until(&client, "a worker serves", |device| device["state"] == "ready").await?;
            if half == 1 {
                kill_worker(&device)?;
            }
            p99[half] = steady(&client, &sample, &mut devices).await?;
        }
        ratios.push(p99[1] / p99[0]);
    }
    let own = until(&client, "a worker serves", |device| device["state"] == "ready").await?;
    finding.note("beside_pairs", pairs);
    // Without a GPU there is one device, which is killed itself: the ratio would say nothing.
    if target.gpu.is_some() {
        finding.expect(devices.iter().all(|device| own["name"] != device.as_str()), || {
            format!("jobs of the processor ran on {}", own["name"])
        });
        let ratio = median(&mut ratios);
        finding.note("beside_p99_ratio_median", ratio);
        finding.note("beside_p99_ratio_least", ratios.first().copied().unwrap_or(0.0));
        finding.note("beside_p99_ratio_greatest", ratios.last().copied().unwrap_or(0.0));
        finding.expect(ratio <= RATIO_MAX, || {
            format!("beside a kill the slowest hundredth takes {ratio:.3} times as long; {RATIO_MAX} is aimed at")
        });
    }
    Ok(())
}

/// Jobs at a steady rate; gives the 99th percentile of their times in milliseconds, and adds the devices that ran them.
async fn steady(client: &Client, sample: &Sample, devices: &mut Vec<String>) -> anyhow::Result<f64> {
    let mut answers = JoinSet::new();
    let began = Instant::now();
    let mut ticks = tokio::time::interval(EVERY);
    while began.elapsed() < HALF {
        ticks.tick().await;
        let (client, job, bytes) = (client.clone(), sample.job(BESIDE).deadline_ms(20_000), sample.bytes.clone());
        answers.spawn(async move { client.submit(job, bytes).await });
    }
    let mut times = Vec::new();
    while let Some(answer) = answers.join_next().await {
        let answer = answer??;
        anyhow::ensure!(answer.is_result(), "a job of the processor ended: {:?}", answer.rejection());
        let device = answer.header.receipt.device.to_string();
        if !devices.contains(&device) {
            devices.push(device);
        }
        #[expect(clippy::cast_precision_loss, reason = "milliseconds for display")]
        times.push(answer.total_ns as f64 / 1e6);
    }
    times.sort_by(f64::total_cmp);
    let at = (times.len().saturating_sub(1)) * 99 / 100;
    times.get(at).copied().context("no job was answered")
}

/// A repository with a copy of a model's manifest that keeps it off GPUs; its files are found by its name.
fn only_for_the_processor(package: &ModelPackage, repository: &Path) -> anyhow::Result<PathBuf> {
    let folder = repository.join(&package.manifest.name);
    fs::create_dir_all(&folder)?;
    let text = fs::read_to_string(package.manifest_file())?;
    let devices = text.lines().find(|line| line.starts_with("devices")).context("a manifest names its devices")?;
    fs::write(folder.join("model.toml"), text.replace(devices, "devices = [\"cpu\"]"))?;
    for file in package.files.values().filter(|file| file.parent() == Some(&package.folder)) {
        fs::copy(file, folder.join(file.file_name().unwrap_or_default()))?;
    }
    Ok(repository.to_owned())
}
