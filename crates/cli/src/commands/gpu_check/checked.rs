//! A node that is checked: this program on a data directory of its own, what it says of itself, and a load on it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use sensorium_client::Client;
use sensorium_node::DataDirectory;
use serde_json::Value;

use super::report::Finding;
use super::target::Target;
use crate::arguments::Reach;
use crate::paths::Paths;

/// How long a node may take to get into the state that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked.
const POLL: Duration = Duration::from_millis(5);

/// A process that is ended when its owner goes.
pub(super) struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// See the module. It ends when this goes.
pub(super) struct CheckedNode<'a> {
    paths: Paths,
    target: &'a Target,
    folder: PathBuf,
    _process: Ended,
}

impl<'a> CheckedNode<'a> {
    /// Starts one that keeps its files and logs in `out/NAME`, with this configuration besides addresses and devices.
    pub(super) fn start(
        paths: &Paths,
        target: &'a Target,
        out: &Path,
        name: &str,
        config: &str,
    ) -> anyhow::Result<Self> {
        let folder = out.join(name);
        let data = folder.join("data");
        // What an earlier run left would be taken for this one's.
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(&folder)?;
        let file = folder.join("node.toml");
        let gpus = target.gpu.is_some();
        let fixed = format!("listen = \"127.0.0.1:0\"\nlisten_cluster = \"127.0.0.1:0\"\ngpus = {gpus}\n");
        fs::write(&file, format!("{fixed}{config}"))?;
        let paths = Paths { data: DataDirectory::new(&data), ..paths.clone() };
        let process = command(&paths, target, &folder, "node")?.arg("node").arg("--config").arg(&file).spawn()?;
        Ok(Self { paths, target, folder, _process: Ended(process) })
    }

    /// Where its files and logs are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it logged, its workers' words among it.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("node.log")).unwrap_or_default()
    }

    /// A connection to it, once it listens and its first device is ready.
    pub(super) async fn client(&self) -> anyhow::Result<Client> {
        let began = Instant::now();
        let reach = Reach { nodes: Vec::new(), bundle: None };
        let client = loop {
            match self.paths.connect(&reach).await {
                Ok(client) => break client,
                Err(error) if began.elapsed() > PATIENCE => {
                    return Err(error.context(format!("its log is {}", self.folder.join("node.log").display())));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        };
        until(&client, "a device is ready", |device| device["state"] == "ready").await?;
        Ok(client)
    }

    /// Jobs at a steady rate, from a process of its own that accounts for each of them.
    pub(super) fn load(&self, mix: &str, jobs_per_second: u32, seconds: u32) -> anyhow::Result<Load> {
        let output = self.folder.join("load.json");
        let mut command = command(&self.paths, self.target, &self.folder, "load")?;
        command.args(["load", "--json", "--mix", mix, "--deadline", "20s", "--seconds", &seconds.to_string()]);
        command.args(["--rate", &jobs_per_second.to_string()]).stdout(File::create(&output)?);
        Ok(Load { process: Ended(command.spawn()?), output })
    }
}

/// A load that runs.
pub(super) struct Load {
    process: Ended,
    output: PathBuf,
}

impl Load {
    /// Waits for its end; notes its account, and that every job was answered once and none failed.
    pub(super) fn account(mut self, finding: &mut Finding) -> anyhow::Result<()> {
        let status = self.process.0.wait()?;
        let tally: Value = serde_json::from_slice(&fs::read(&self.output)?).context("what sensorium load says")?;
        for key in ["jobs", "result", "refused", "expired", "failed", "lost", "twice"] {
            if !tally[key].is_null() {
                finding.note(key, tally[key].clone());
            }
        }
        let output = self.output.display();
        finding.expect(status.success(), || format!("a job was lost or answered twice; see {output}"));
        finding.expect(tally["failed"].as_u64() == Some(0), || format!("jobs failed; see {output}"));
        Ok(())
    }
}

/// This program, on a node's data directory.
fn command(paths: &Paths, target: &Target, folder: &Path, log: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--data").arg(paths.data.root()).arg("--cache").arg(&paths.cache);
    // One library for whatever the node runs on: a packed folder has no other.
    command.arg("--onnxruntime").arg(&target.library).arg("--onnxruntime-gpu").arg(&target.library);
    for repository in &paths.repositories {
        command.arg("--models").arg(repository);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(folder.join(format!("{log}.log")))?);
    Ok(command)
}

/// Everything that the node says of itself.
pub(super) async fn status(client: &Client) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&client.query("status").await?)?)
}

/// Waits until the node's first device is as wanted, and gives it.
pub(super) async fn until(client: &Client, what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    Ok(until_devices(client, what, |devices| devices.first().is_some_and(&is)).await?.swap_remove(0))
}

/// The same of all its devices.
pub(super) async fn until_devices(
    client: &Client,
    what: &str,
    is: impl Fn(&[Value]) -> bool,
) -> anyhow::Result<Vec<Value>> {
    let began = Instant::now();
    loop {
        let Value::Array(devices) = status(client).await?["devices"].take() else { bail!("a node has devices") };
        if is(&devices) {
            return Ok(devices);
        }
        if began.elapsed() > PATIENCE {
            bail!("{what}: not so after {} s; the devices are {}", PATIENCE.as_secs(), Value::Array(devices));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Kills a device's worker.
pub(super) fn kill_worker(device: &Value) -> anyhow::Result<()> {
    let pid = device["worker_pid"].as_u64().context("the device has no worker")?;
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a worker has a process")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

pub(super) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The middle one, and the upper middle one of an even number; 0 of none.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
