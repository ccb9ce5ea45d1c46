//! A network that is split by stages beside the same network whole: the same boxes, what the split costs, and that no job is
//! lost with a worker of either stage. The stages are on two GPUs where there are two.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sensorium_client::{Client, Job};
use sensorium_device::executor::agreement::{Bounds, agree};
use sensorium_hardware::DeviceKind;
use sensorium_wire::PixelFormat;
use sensorium_wire::result::ModelResult;
use serde_json::Value;
use tokio::task::JoinSet;

use super::checked::{CheckedNode, kill_worker, median, milliseconds, status, until_devices};
use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

const WHOLE: &str = "nanodet";
const FIRST: &str = "nanodet-split";
const SECOND: &str = "nanodet-split-2";
/// A raw frame: width and height.
const FRAME: (u32, u32) = (640, 480);
/// Payload memory holds what each of them needs, and what its first stage gives.
const IN_FLIGHT: usize = 8;
/// Rounds of the whole network and the split one, in turns.
const ROUNDS: usize = 5;
const ROUNDS_TRIED: usize = 1;
const ROUND: Duration = Duration::from_secs(2);
/// What is computed in parts is added up in another order, and else the same.
const BOUNDS: Bounds = Bounds { score: 0.001, iou_min: 0.99 };

pub(crate) fn run(paths: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    let mut finding = Finding::default();
    if target.package(paths, FIRST).is_err() {
        finding.note("stages", "not run: no repository has nanodet-split; it is in cluster/stages");
        return Ok(finding);
    }
    let (first, second) = devices(target)?;
    finding.note("devices", format!("{first}, {second}"));
    if first == second {
        finding.note("several_gpus", "unproven here: both stages are on one GPU");
    }
    let inject = if target.gpu.is_none() { "[inject]\ncpu_devices = 2\n" } else { "" };
    let pins = format!("pin = {{ {WHOLE} = [\"{first}\"], {FIRST} = [\"{first}\"], {SECOND} = [\"{second}\"] }}\n");
    let config = format!("load = [\"{WHOLE}\", \"{FIRST}\"]\n{pins}{inject}");
    crate::commands::block_on(async {
        let node = CheckedNode::start(paths, target, out, "stages", &config)?;
        let client = node.client().await?;
        let picture = target.picture(paths)?;
        let all_ready = |devices: &[Value]| devices.iter().all(|device| device["state"] == "ready");
        let devices = until_devices(&client, "all devices are ready", all_ready).await?;
        let (whole, split) = (boxes(&client, WHOLE, &picture).await?, boxes(&client, FIRST, &picture).await?);
        // All of them count, however sure the network is of them.
        match agree(&split, &whole, 0.0, BOUNDS) {
            Ok(apart) => {
                finding.note("boxes", apart.compared);
                finding.expect(apart.compared > 0, || "nothing is found in the picture".to_owned());
            }
            Err(problem) => finding.expect(false, || problem),
        }

        let rounds = if target.gpu.is_some() { ROUNDS } else { ROUNDS_TRIED };
        let (mut ratios, mut rates) = (Vec::new(), [Vec::new(), Vec::new()]);
        let mut waits = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let mut rate = [0.0; 2];
            for (at, model) in [WHOLE, FIRST].into_iter().enumerate() {
                rate[at] = frames_per_second(&client, model).await?;
                rates[at].push(rate[at]);
                waits[at].push(alone_ms(&client, model).await?);
            }
            ratios.push(rate[1] / rate[0]);
        }
        for (at, name) in ["whole", "split"].into_iter().enumerate() {
            finding.note(format!("{name}_frames_per_s"), median(&mut rates[at]));
            finding.note(format!("{name}_alone_ms"), median(&mut waits[at]));
        }
        finding.note("split_rate_ratio_median", median(&mut ratios));
        let second = devices.iter().find(|device| device["name"] == second.as_str());
        killed(&client, second.context("the second stage has a device")?, &mut finding).await
    })??;
    Ok(finding)
}

/// Where the stages go: two GPUs if there are two, or one, or two devices of the processor.
fn devices(target: &Target) -> anyhow::Result<(String, String)> {
    if target.gpu.is_none() {
        return Ok(("cpu:0".to_owned(), "cpu:1".to_owned()));
    }
    let plan = sensorium_hardware::plan(&sensorium_hardware::probe()?, &sensorium_hardware::PlanOptions::default());
    let gpus = plan.devices.into_iter().filter(|device| matches!(device.kind, DeviceKind::Cuda { .. }));
    let mut names = gpus.map(|device| device.name);
    let first = names.next().context("a GPU is expected")?;
    let second = names.next().unwrap_or_else(|| first.clone());
    Ok((first, second))
}

async fn boxes(client: &Client, model: &str, picture: &[u8]) -> anyhow::Result<ModelResult> {
    let answer = client.submit(Job::image(model).deadline_ms(30_000), picture.to_vec()).await?;
    ensure!(answer.is_result(), "{model}: {:?}", answer.rejection());
    Ok(answer.result()?)
}

async fn one_frame(client: Client, model: &'static str) -> anyhow::Result<u32> {
    let job = Job::frame(model, FRAME.0, FRAME.1, PixelFormat::Rgb24).deadline_ms(30_000);
    let pixels = vec![90; FRAME.0 as usize * FRAME.1 as usize * 3];
    let answer = client.submit(job, pixels).await?;
    ensure!(answer.is_result(), "{model}: {:?}", answer.rejection());
    Ok(answer.header.receipt.attempt)
}

/// So many in flight all the time.
async fn frames_per_second(client: &Client, model: &'static str) -> anyhow::Result<f64> {
    let (mut running, mut done) = (JoinSet::new(), 0_u32);
    let began = Instant::now();
    (0..IN_FLIGHT).for_each(|_| drop(running.spawn(one_frame(client.clone(), model))));
    while let Some(frame) = running.join_next().await {
        frame??;
        done += 1;
        if began.elapsed() < ROUND {
            running.spawn(one_frame(client.clone(), model));
        }
    }
    Ok(f64::from(done) / began.elapsed().as_secs_f64())
}

/// Median time of one frame at a time.
async fn alone_ms(client: &Client, model: &'static str) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        one_frame(client.clone(), model).await?;
        times.push(milliseconds(began));
    }
    Ok(median(&mut times))
}

/// The worker of the second stage is killed while jobs are in flight: all are answered.
async fn killed(client: &Client, second: &Value, finding: &mut Finding) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    (0..IN_FLIGHT).for_each(|_| drop(running.spawn(one_frame(client.clone(), FIRST))));
    // So that they are on their way.
    status(client).await?;
    kill_worker(second)?;
    let (mut answered, mut again) = (0_usize, 0_usize);
    while let Some(frame) = running.join_next().await {
        again += usize::from(frame?? > 1);
        answered += 1;
    }
    finding.note("killed_answered", answered);
    finding.note("killed_ran_again", again);
    finding.expect(answered == IN_FLIGHT, || format!("{answered} of {IN_FLIGHT} jobs were answered after a kill"));
    Ok(())
}
