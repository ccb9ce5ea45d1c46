//! A real node as a real process, for tests of the whole: its own data directory, ports that the system chooses, and an
//! end that is always made, by signal.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary is a crate of its own, uses a part of it, and fails where it cannot go on"
)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sensorium_client::{Client, ClientConfig, Job};
use sensorium_transport::pki::Authority;
use sensorium_wire::{Dtype, PixelFormat, Principal, Role, Tier};
use serde_json::Value;
use tempfile::TempDir;

pub mod camera;
pub mod cluster;
pub mod watching;

/// How long anything is waited for. Slow machines are slow; nothing is judged by it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The binary under test.
pub fn sensorium() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sensorium"))
}

/// An authority that nothing else knows of; its folder is gone when this returns.
pub fn authority() -> Authority {
    Authority::create(&tempfile::tempdir().unwrap().path().join("ca")).unwrap()
}

/// The cache that `ops/setup` fills.
pub fn cache() -> PathBuf {
    let given = std::env::var_os("SENSORIUM_CACHE").map(PathBuf::from);
    let standard = || {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        base.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"))
            .join("sensorium")
    };
    let cache = given.unwrap_or_else(standard);
    assert!(cache.join("lib/libonnxruntime.so").exists(), "{} is not filled: run ops/setup", cache.display());
    cache
}

/// A media file of the cache.
pub fn media(name: &str) -> PathBuf {
    cache().join("media").join(name)
}

/// A running node.
pub struct Node {
    pub data: TempDir,
    child: Child,
    log: PathBuf,
    /// What started it, if it was not started directly.
    program: Vec<String>,
    /// What it was started with, but for the data directory.
    arguments: Vec<OsString>,
}

impl Node {
    /// Starts a node with this configuration (TOML; addresses are added) and waits until it is ready.
    pub fn start(config: &str) -> Self {
        let node = Self::launch(config, &[]);
        node.wait_until("a device is ready", |status| status["devices"][0]["state"] == "ready");
        node
    }

    /// Starts a node of this name whose certificate, like its clients', is of an authority that others share; waits until
    /// it is ready.
    pub fn start_of(authority: &Authority, name: &str, config: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let issue = |holder: &str, roles: &[Role], tier| {
            let (tenant, name) = ("local".to_owned(), holder.to_owned());
            let bundle = authority.issue(&Principal { tenant, name, roles: roles.to_vec(), tier }, &[], 1).unwrap();
            bundle
                .write(&data.path().join("certificates").join(if tier.is_some() { "node" } else { "client" }))
                .unwrap();
        };
        issue(name, &[Role::Peer], Some(Tier::Edge));
        issue("tester", &[Role::Submit, Role::Critical, Role::Operate], None);
        let node = Self::launch_in(data, &format!("name = {name:?}\n{config}"), &[]);
        node.wait_until("a device is ready", |status| status["devices"][0]["state"] == "ready");
        node
    }

    /// Starts a node without waiting for it to be ready; it listens when this returns.
    pub fn launch(config: &str, arguments: &[&str]) -> Self {
        Self::launch_in(tempfile::tempdir().unwrap(), config, arguments)
    }

    /// The same on a data directory that has something in it.
    pub fn launch_in(data: TempDir, config: &str, arguments: &[&str]) -> Self {
        let path = data.path().join("test.toml");
        let addresses = "listen = \"127.0.0.1:0\"\nlisten_cluster = \"127.0.0.1:0\"\n";
        std::fs::write(&path, format!("{addresses}{config}")).unwrap();
        let fixed = [OsString::from("--config"), path.into_os_string()];
        Self::launch_with(data, fixed.into_iter().chain(arguments.iter().map(OsString::from)).collect())
    }

    /// Starts a node on a data directory with these arguments; it listens when this returns.
    pub fn launch_with(data: TempDir, arguments: Vec<OsString>) -> Self {
        Self::launch_under(&[], data, arguments)
    }

    /// The same through another program, which is given the node's command line.
    pub fn launch_under(program: &[&str], data: TempDir, arguments: Vec<OsString>) -> Self {
        let log = data.path().join("log");
        let program: Vec<String> = program.iter().map(|word| (*word).to_owned()).collect();
        let child = spawn(&program, data.path(), &arguments, &log);
        let mut node = Self { data, child, log, program, arguments };
        let began = Instant::now();
        while !node.data.path().join("node.json").exists() {
            assert!(node.child.try_wait().unwrap().is_none(), "the node ended: {}", node.log());
            assert!(began.elapsed() < PATIENCE, "the node does not listen: {}", node.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        node
    }

    /// What the node has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the node.
    pub fn signal(&self, signal: &str) {
        signal_process(self.pid(), signal);
    }

    /// Waits for the node's end; gives whether it ended well.
    pub fn wait(&mut self) -> bool {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            assert!(began.elapsed() < PATIENCE, "the node does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A command that talks to this node.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = sensorium();
        command.args(arguments).arg("--data").arg(self.data.path()).current_dir(env!("CARGO_MANIFEST_DIR"));
        command
    }

    /// Runs a command that talks to this node to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs `sensorium submit --json` and gives the answer and whether the exit status was success.
    pub fn submit(&self, model: &str, file: &Path, more: &[&str]) -> (Value, bool) {
        let mut command = self.command(&["submit", "--json", "--model", model]);
        let output = command.args(more).arg(file).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let value = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("no JSON: {text}{}", String::from_utf8_lossy(&output.stderr)));
        (value, output.status.success())
    }

    /// The node's status; `None` when it does not answer.
    pub fn status(&self) -> Option<Value> {
        let output = self.run(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until the status is as wanted, and gives it.
    pub fn wait_until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            if let Some(status) = self.status().filter(|status| is(status)) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: not so; {:?}\n{}", self.status(), self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until two devices are ready, and there are no others.
    pub fn both_ready(&self) -> Value {
        self.wait_until("both devices are ready", |status| {
            let devices = status["devices"].as_array().unwrap();
            devices.len() == 2 && devices.iter().all(|device| device["state"] == "ready")
        })
    }

    /// The process id of the worker, once there is a ready one.
    pub fn worker_pid(&self) -> u32 {
        let status = self.wait_until("a worker runs", |status| {
            status["devices"][0]["state"] == "ready" && status["devices"][0]["worker_pid"].is_u64()
        });
        u32::try_from(status["devices"][0]["worker_pid"].as_u64().unwrap()).unwrap()
    }

    /// Configuration of a client of this node.
    pub fn client_config(&self) -> ClientConfig {
        let text = std::fs::read_to_string(self.data.path().join("node.json")).unwrap();
        let node: Value = serde_json::from_str(&text).unwrap();
        let address = node["api"].as_str().unwrap().parse().unwrap();
        ClientConfig::from_bundle(&self.data.path().join("certificates/client"), address).unwrap()
    }

    /// A client of this node.
    pub async fn client(&self) -> Client {
        Client::connect(self.client_config()).await.unwrap()
    }
}

fn spawn(program: &[String], data: &Path, arguments: &[OsString], log: &Path) -> Child {
    let mut command = match program {
        [] => sensorium(),
        [program, words @ ..] => {
            let mut command = Command::new(program);
            command.args(words).arg(env!("CARGO_BIN_EXE_sensorium"));
            command
        }
    };
    command.arg("node").args(arguments).arg("--data").arg(data).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.stdout(Stdio::null()).stderr(std::fs::File::create(log).unwrap()).spawn().unwrap()
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal (`KILL`, `STOP`, `TERM`, …) to a process.
pub fn signal_process(pid: u32, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill -{signal} {pid}");
}

/// Runs a future on a current_thread runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The same for futures that start tasks which stay on their thread.
pub fn local<T>(future: impl Future<Output = T>) -> T {
    block_on(tokio::task::LocalSet::new().run_until(future))
}

/// Runs ffmpeg on test material.
pub fn ffmpeg(arguments: &[&str]) {
    let output = Command::new("ffmpeg").args(["-nostdin", "-v", "error", "-y"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "ffmpeg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Standard error of a finished command.
pub fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The events of `sensorium run --json`.
pub fn events(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

impl Node {
    /// Starts the same node again: same configuration, same data directory. It may have ended already.
    pub fn restart(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal("TERM");
            assert!(self.wait(), "the node did not end well: {}", self.log());
        }
        self.child = spawn(&self.program, self.data.path(), &self.arguments, &self.log);
        self.wait_until("a device is ready", |status| status["devices"][0]["state"] == "ready");
    }

    /// An address of the node: `api` or `cluster`.
    pub fn address(&self, port: &str) -> std::net::SocketAddr {
        let text = std::fs::read_to_string(self.data.path().join("node.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()[port].as_str().unwrap().parse().unwrap()
    }

    /// One good job, as a client would send it now: the proof that the node has taken no harm.
    pub fn proves_healthy(&self) {
        block_on(async {
            let client = self.client().await;
            let status: Value = serde_json::from_str(&client.query("status").await.unwrap()).unwrap();
            let lanes = status["engine"]["lanes"].as_array().unwrap();
            let model = lanes.iter().flat_map(|lane| lane["models"].as_array().unwrap());
            let names: Vec<_> = model.map(|model| model["name"].as_str().unwrap().to_owned()).collect();
            let is = |name: &str| names.iter().any(|known| known == name);
            let (job, payload) = if is("identity") {
                (Job::tensor("identity", Dtype::U8, &[4]), b"good".to_vec())
            } else if is("yamnet") {
                quiet_second()
            } else {
                assert!(is("nanodet"), "{names:?}");
                (Job::frame("nanodet", 64, 48, PixelFormat::Rgb24), vec![90; 64 * 48 * 3])
            };
            let answer = client.submit(job.deadline_ms(60_000), payload).await.unwrap();
            assert!(answer.is_result(), "{:?}", answer.rejection());
            client.close().await;
        });
    }
}

/// A second of silence for yamnet.
pub fn quiet_second() -> (Job, Vec<u8>) {
    (Job::pcm("yamnet", Dtype::I16, 16_000, 1, 16_000).deadline_ms(60_000), vec![0; 32_000])
}

/// Process ids of the children of `parent` that run `program`.
pub fn children(parent: u32, program: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // PID (NAME) STATE PPID …; zombies do not count.
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        (name == program && state != "Z" && fields.next()? == parent.to_string()).then_some(pid)
    });
    processes.collect()
}

/// What was said, without case, punctuation and abbreviations: words and single spaces.
pub fn spoken(text: &str) -> String {
    let text = text.to_lowercase().replace("mr.", "mister").replace(|c: char| !c.is_alphanumeric(), " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A repository with a copy of the model `identity` that is taken for hung after 300 ms.
pub fn identity_soon_hung() -> TempDir {
    let models = tempfile::tempdir().unwrap();
    let folder = models.path().join("identity");
    std::fs::create_dir(&folder).unwrap();
    let manifest = std::fs::read_to_string("cluster/models/identity/model.toml").unwrap();
    let line = manifest.lines().find(|line| line.starts_with("run_ms_max")).expect("the manifest sets run_ms_max");
    std::fs::write(folder.join("model.toml"), manifest.replace(line, "run_ms_max = 300")).unwrap();
    models
}
