//! A node in whose worker a kernel writes to memory that is not there, while jobs run. The error is one that ends the use of
//! the GPU for the worker's process: it must be replaced, and only the job that did it may fail.

use std::path::Path;
use std::time::{Duration, Instant};

use sensorium_client::Job;
use sensorium_wire::{Dtype, Outcome, Reason};

use super::checked::{CheckedNode, milliseconds, until};
use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

const LOAD_SECONDS: u32 = 8;
const JOBS_PER_SECOND: u32 = 40;
/// When the job that breaks the device is sent, from the first one.
const SENT_AFTER: Duration = Duration::from_secs(2);
/// A payload with this in front breaks the device.
const PREFIX: &[u8] = b"illegal!";
/// Runs of the job that breaks the device: in a batch with others, and then alone until it is given up.
const RUNS: u64 = 2;
/// How a worker says that its GPU failed it.
const SAID: &str = "the GPU failed for this process";

pub(crate) fn run(paths: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    // A processor has no such error: there the worker just exits, so that the check itself can be tried out.
    let key = if target.gpu.is_some() { "illegal_on_prefix" } else { "exit_on_prefix" };
    let config =
        format!("load = [\"identity\", \"yamnet\"]\n[inject]\n{key} = \"{}\"\n", String::from_utf8_lossy(PREFIX));
    let node = CheckedNode::start(paths, target, out, "illegal", &config)?;
    let mut finding = Finding::default();
    crate::commands::block_on(async {
        let client = node.client().await?;
        let load = node.load("identity:1k=3,identity:200k=1,yamnet=2", JOBS_PER_SECOND, LOAD_SECONDS)?;
        tokio::time::sleep(SENT_AFTER).await;
        let bytes = u32::try_from(PREFIX.len())?;
        let began = Instant::now();
        let answer = client.submit(Job::tensor("identity", Dtype::U8, &[bytes]).deadline_ms(60_000), PREFIX).await?;
        let is_in_service = |device: &serde_json::Value| device["state"] == "ready" && device["worker_pid"].is_u64();
        let device = until(&client, "a worker serves again", is_in_service).await?;
        finding.note("back_ms", milliseconds(began));
        finding.note("workers_replaced", device["restarts"].clone());
        finding.expect(device["restarts"].as_u64() >= Some(RUNS), || "the worker lived on".to_owned());
        let (outcome, reason) = (answer.header.outcome, answer.header.reason);
        finding.expect((outcome, reason) == (Outcome::Failed, Reason::Poisoned), || {
            format!("the job that broke the device ended as {}, {}", outcome.name(), reason.name())
        });
        load.account(&mut finding)
    })??;
    if target.gpu.is_some() {
        finding.expect(node.log().contains(SAID), || format!("no worker said: {SAID}; see illegal/node.log"));
    }
    Ok(finding)
}
