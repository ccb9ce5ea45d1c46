//! How soon a device whose worker was killed answers again, without and with a standby worker.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sensorium_client::{Client, Job};
use sensorium_wire::Dtype;
use serde_json::Value;

use super::checked::{CheckedNode, kill_worker, median, milliseconds, until};
use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

/// How often the worker of each node is killed.
const KILLS: usize = 3;
/// After this long without a job everything that a start left to do is done.
const SETTLED: Duration = Duration::from_millis(500);
const JOB_BYTES: u32 = 1024;
/// What is aimed at on a GPU, in milliseconds.
const WITHOUT_MS_MAX: f64 = 3_000.0;
const WITH_MS_MAX: f64 = 1_000.0;

pub(crate) fn run(paths: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    let mut finding = Finding::default();
    crate::commands::block_on(async {
        for (name, workers, ms_max) in [("without", "none", WITHOUT_MS_MAX), ("with", "all", WITH_MS_MAX)] {
            let mut first_answer_ms = kills(paths, target, out, name, workers).await?;
            let middle = median(&mut first_answer_ms);
            finding.note(format!("{name}_first_answer_ms_median"), middle);
            finding.note(format!("{name}_first_answer_ms_least"), first_answer_ms[0]);
            finding.note(format!("{name}_first_answer_ms_greatest"), first_answer_ms[KILLS - 1]);
            finding.expect(target.gpu.is_none() || middle <= ms_max, || {
                format!("{name} a standby the first answer came after {middle:.0} ms; {ms_max} is aimed at")
            });
        }
        anyhow::Ok(())
    })??;
    finding.note("kills", KILLS);
    Ok(finding)
}

/// All models, one kill after the other; gives the times from each kill to the first answer after it.
async fn kills(paths: &Paths, target: &Target, out: &Path, name: &str, workers: &str) -> anyhow::Result<Vec<f64>> {
    let config = format!("standby_workers = \"{workers}\"\n");
    let node = CheckedNode::start(paths, target, out, &format!("standby-{name}"), &config)?;
    let client = node.client().await?;
    let has_standby = workers != "none";
    let mut times_ms = Vec::new();
    for kill in 0..KILLS {
        let device = until(&client, "the workers are ready", |device| {
            device["state"] == "ready" && (!has_standby || device["standby"]["state"] == "ready")
        });
        let device = device.await?;
        answer(&client).await?;
        tokio::time::sleep(SETTLED).await;
        let killed = Instant::now();
        kill_worker(&device)?;
        // Sent after the kill: whoever answers is not the one that was killed, which was waiting for work.
        answer(&client).await?;
        times_ms.push(milliseconds(killed));
        let is_back = |device: &Value| device["state"] == "ready" && device["restarts"] == kill + 1;
        let device = until(&client, "another worker serves", is_back).await?;
        ensure!(
            !has_standby || device["standby"]["promotions"] == kill + 1,
            "a new worker was started instead of the standby: {device}; see {}",
            node.folder().join("node.log").display()
        );
    }
    Ok(times_ms)
}

async fn answer(client: &Client) -> anyhow::Result<()> {
    let job = Job::tensor("identity", Dtype::U8, &[JOB_BYTES]).deadline_ms(60_000);
    let answer = client.submit(job, vec![7; JOB_BYTES as usize]).await?;
    ensure!(answer.is_result(), "a job ended: {:?}", answer.rejection());
    Ok(())
}
