//! How soon the dispatcher follows an order of new shares, read from the node's own log of what it decided.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use sensorium_device::clock::now_ns;
use sensorium_scheduler::{Command, LogEntry};
use serde_json::Value;

use super::checked::{CheckedNode, median, status};
use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

/// How often new shares are ordered.
const ORDERS: usize = 8;
/// How long they are ordered for, in milliseconds, and how long the load then has to be calm before the old ones return.
const ORDER_MS: u64 = 300;
const DWELL_MS: u64 = 200;
/// From an order to the next.
const EVERY: Duration = Duration::from_millis(1_000);
const LOAD_SECONDS: u32 = 12;
const JOBS_PER_SECOND: u32 = 300;
const LOG_BYTES_MAX: u64 = 256 << 20;

pub(crate) fn run(paths: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    let config = format!(
        "load = [\"identity\", \"fusion\"]\nevent_log_bytes_max = {LOG_BYTES_MAX}\n[plan]\nkind = \"table\"\ndwell_ms = {DWELL_MS}\n"
    );
    let node = CheckedNode::start(paths, target, out, "shares", &config)?;
    let mut finding = Finding::default();
    let ordered_ns = crate::commands::block_on(async {
        let client = node.client().await?;
        let load = node.load("identity:1k=4,fusion=1", JOBS_PER_SECOND, LOAD_SECONDS)?;
        tokio::time::sleep(EVERY).await;
        let mut ordered_ns = Vec::new();
        for _ in 0..ORDERS {
            ordered_ns.push(now_ns());
            let plan: Value = serde_json::from_str(&client.query(&format!("critical-moment {ORDER_MS}")).await?)?;
            ensure!(plan["level"].as_u64() > Some(0), "a critical moment changed no plan: {plan}");
            tokio::time::sleep(EVERY).await;
        }
        load.account(&mut finding)?;
        finding.note("plan_epoch", status(&client).await?["plan"]["epoch"].clone());
        anyhow::Ok(ordered_ns)
    })??;
    drop(node);
    let mut followed = Followed::default();
    for segment in segments(&out.join("shares/data/events"))? {
        followed.read(&segment).with_context(|| segment.display().to_string())?;
    }
    followed.note(&ordered_ns, &mut finding)?;
    Ok(finding)
}

/// The log's segments, oldest first.
fn segments(folder: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut found: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    Ok(found)
}

/// When plans came into force, and when the first batch under each was sent, by their epochs.
#[derive(Default)]
struct Followed {
    changes: Vec<(u64, u64)>,
    first_batch: Vec<(u64, u64)>,
    epoch: u64,
    stale_batches: u64,
}

impl Followed {
    fn read(&mut self, segment: &Path) -> anyhow::Result<()> {
        // The first line is the state, the last one may be half of one.
        let lines = BufReader::new(File::open(segment)?).lines().skip(1);
        for entry in lines.filter_map(|line| serde_json::from_str::<LogEntry>(&line.ok()?).ok()) {
            for command in &entry.commands {
                self.hear(entry.at_ns, command);
            }
        }
        Ok(())
    }

    fn hear(&mut self, at_ns: u64, command: &Command) {
        match command {
            Command::PlanChanged(plan) => {
                self.epoch = plan.epoch;
                self.changes.push((plan.epoch, at_ns));
            }
            Command::Dispatch { epoch, .. } if *epoch < self.epoch => self.stale_batches += 1,
            Command::Dispatch { epoch, .. } => {
                if self.first_batch.last().is_none_or(|(last, _)| last < epoch) {
                    self.first_batch.push((*epoch, at_ns));
                }
            }
            Command::Refuse { .. }
            | Command::Expire { .. }
            | Command::Fail { .. }
            | Command::Cancelled { .. }
            | Command::ReplaceWorker { .. } => {}
        }
    }

    fn note(&self, ordered_ns: &[u64], finding: &mut Finding) -> anyhow::Result<()> {
        let (mut in_force_us, mut followed_us) = (Vec::new(), Vec::new());
        #[expect(clippy::cast_precision_loss, reason = "microseconds for display")]
        let us = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e3;
        for ordered in ordered_ns {
            let change = self.changes.iter().find(|(_, at_ns)| at_ns >= ordered);
            let (epoch, changed_ns) = change.context("an order that changed no plan in the log")?;
            let batch = self.first_batch.iter().find(|(first, _)| first >= epoch);
            let (_, sent_ns) = batch.context("no batch was sent under the new plan")?;
            in_force_us.push(us(*ordered, *changed_ns));
            followed_us.push(us(*ordered, *sent_ns));
        }
        finding.note("orders", ordered_ns.len());
        finding.note("order_to_plan_us_median", median(&mut in_force_us));
        finding.note("order_to_first_batch_us_median", median(&mut followed_us));
        finding.note("order_to_first_batch_us_greatest", followed_us.last().copied().unwrap_or(0.0));
        finding.note("batches_under_an_old_plan", self.stale_batches);
        let stale = self.stale_batches;
        finding.expect(stale == 0, || format!("{stale} batches were sent under a plan that was not in force any more"));
        Ok(())
    }
}
