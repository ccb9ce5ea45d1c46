//! A node whose worker is killed while jobs run: each job must have one outcome, and the worker must come back.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

const READY: Duration = Duration::from_secs(60);
const LOAD_SECONDS: u32 = 8;
const JOBS_PER_SECOND: u32 = 40;
/// When the worker is killed, from the first job.
const KILLED_AFTER: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

pub(crate) fn run(paths: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    let folder = out.join("killed");
    fs::create_dir_all(&folder)?;
    let config = folder.join("node.toml");
    let gpus = target.gpu.is_some();
    fs::write(
        &config,
        format!(
            "listen = \"127.0.0.1:0\"\nlisten_cluster = \"127.0.0.1:0\"\ngpus = {gpus}\nload = [\"identity\", \"yamnet\"]\n"
        ),
    )?;
    let node = Ended(sensorium(paths, target, &folder, "node")?.arg("node").arg("--config").arg(&config).spawn()?);
    let worker = ready(paths, target, &folder, 0).context("the node's log is in killed/node.log")?;
    let mut load = sensorium(paths, target, &folder, "load")?;
    let load_output = folder.join("load.json");
    load.args(["load", "--json", "--mix", "identity:1k=3,identity:200k=1,yamnet=2", "--deadline", "20s"]);
    load.args(["--seconds", &LOAD_SECONDS.to_string(), "--rate", &JOBS_PER_SECOND.to_string()]);
    let mut load = Ended(load.stdout(File::create(&load_output)?).spawn()?);
    std::thread::sleep(KILLED_AFTER);
    let killed = Instant::now();
    let pid = Pid::from_raw(i32::try_from(worker)?).context("a worker has a process")?;
    kill_process(pid, Signal::KILL)?;
    let again = ready(paths, target, &folder, 1)?;
    let back_ms = killed.elapsed().as_secs_f64() * 1e3;
    let status = load.0.wait()?;
    let tally: Value = serde_json::from_slice(&fs::read(&load_output)?).context("what sensorium load says")?;
    let mut finding = Finding::default();
    finding.note("back_ms", back_ms);
    for key in ["jobs", "result", "refused", "expired", "failed", "lost", "twice"] {
        if !tally[key].is_null() {
            finding.note(key, tally[key].clone());
        }
    }
    finding.expect(again != worker, || "the same worker".to_owned());
    finding.expect(status.success(), || "a job was lost or answered twice; see killed/load.json".to_owned());
    finding.expect(tally["failed"].as_u64() == Some(0), || "jobs failed; see killed/load.json".to_owned());
    drop(node);
    Ok(finding)
}

/// A process that is ended when its owner goes.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program, on a data directory of its own.
fn sensorium(paths: &Paths, target: &Target, folder: &Path, log: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--data").arg(folder.join("data")).arg("--cache").arg(&paths.cache);
    // One library for whatever the node runs on: a packed folder has no other.
    command.arg("--onnxruntime").arg(&target.library).arg("--onnxruntime-gpu").arg(&target.library);
    for repository in &paths.repositories {
        command.arg("--models").arg(repository);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(folder.join(format!("{log}.log")))?);
    Ok(command)
}

/// Waits until the node's device is ready after so many replacements; gives the worker's process id.
fn ready(paths: &Paths, target: &Target, folder: &Path, restarts: u64) -> anyhow::Result<u64> {
    let began = Instant::now();
    while began.elapsed() < READY {
        let output =
            sensorium(paths, target, folder, "status")?.args(["status", "--json"]).stdout(Stdio::piped()).output()?;
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let device = &status["devices"][0];
        if device["state"] == "ready"
            && device["restarts"].as_u64() >= Some(restarts)
            && let Some(pid) = device["worker_pid"].as_u64()
        {
            return Ok(pid);
        }
        std::thread::sleep(POLL);
    }
    bail!("no device was ready after {} s", READY.as_secs())
}
