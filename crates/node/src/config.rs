//! A node's configuration. Every option has a default; a node needs no file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use sensorium_cluster::{NodeSpec, SourceError, SourceSpec, check_alone};
use sensorium_device::backend::cuda::{GpuProvider, GpuQuotas};
use sensorium_device::protocol::Injection;
use sensorium_device::slab::{SlabClass, default_classes};
use sensorium_hardware::{CpuDevices, DeviceKind};
use sensorium_models::manifest::Precision;
use sensorium_pipelines::{RuleError, RuleSet, RuleSpec};
use sensorium_scheduler::{PlanPolicy, Settings};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::group::{self, GroupSpec, GroupSpecError};

/// How long jobs wait for a worker to come back: all models may have to be loaded.
const RESTART_WAIT_NS: u64 = 30_000_000_000;

/// Most that a processor device may be made into, for tests.
const CPU_DEVICES_MAX: u32 = 4;
/// Most that `cache_bytes_max` may be.
const CACHE_BYTES_MAX: u64 = 64 << 30;

/// The configuration, as in `sensorium node --config FILE`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// The node's name in receipts and logs. Default: the host's name. At most 32 bytes.
    pub name: Option<String>,
    /// UDP address of the API. Default 127.0.0.1:7401; port 0 lets the system choose. Use 0.0.0.0 or [::] to serve
    /// other machines.
    pub listen: SocketAddr,
    /// UDP address for other nodes. Default 127.0.0.1:7402.
    pub listen_cluster: SocketAddr,
    /// Names and addresses that development certificates are to be valid for, besides localhost.
    pub hosts: Vec<String>,
    /// Folders with models, in order of precedence. Default: the repository that comes with Sensorium.
    pub models: Vec<PathBuf>,
    /// Models to load; empty = all.
    pub load: Vec<String>,
    /// Size classes of payload memory; see `slab::default_classes`.
    pub slab: Vec<SlabClass>,
    /// Jobs that one lane may have queued. Default 4,096. Higher means later refusals under overload.
    pub queue_jobs_max: usize,
    /// Least shares of a lane by urgency (critical, high, standard, batch) while there is such work, in thousandths.
    /// Default 0, 200, 100, 50.
    pub share_min_permille: [u16; 4],
    /// How shares of devices follow the load; docs/configuration.md has the default table.
    pub plan: PlanPolicy,
    /// Bytes that the log of scheduling decisions may take on disk, for `sensorium replay`. Default 0: none is kept.
    pub event_log_bytes_max: u64,
    /// Whether GPUs are used. Default true; a machine without one runs on its processors either way.
    pub gpus: bool,
    /// Most GPU memory that each lane's models may take, in MiB. Default visual 4096, audio 1024, fusion 2048, less in
    /// proportion on a card where that does not fit.
    pub gpu_quota_mib: GpuQuotas,
    /// Whether GPUs resize and normalise images and find boxes themselves, with kernels of ours that NVRTC compiles. Default true;
    /// without NVRTC the processor does it either way.
    pub gpu_kernels: bool,
    /// What networks compute in on GPUs: `fp32` or `fp16`, for models that have a variant for it. Default: what each manifest
    /// says, which is `fp32` unless it says something else.
    pub gpu_precision: Option<Precision>,
    /// Which of ONNX Runtime's providers computes on GPUs: `cuda` (the default) or `tensorrt` where that is installed.
    pub gpu_provider: GpuProvider,
    /// Names of the devices that may run a model, by the model's name. Default: all of a kind that its manifest allows.
    pub pin: BTreeMap<String, Vec<String>>,
    /// Which devices the processors are: `without_gpu` (the default) only where no GPU is used, `always` beside GPUs too,
    /// `never`.
    pub cpu_devices: CpuDevices,
    /// Which devices keep a second worker, loaded and warm, that takes over when the serving one is lost: `none` (the default),
    /// `gpu`, `all`. Each takes the memory of its models once more.
    pub standby_workers: StandbyWorkers,
    /// Added to the workers' niceness, 0 to 19. Default 5: network I/O comes first on a busy CPU.
    pub worker_nice: u8,
    /// How long a stopping node waits for accepted work, in milliseconds. Default 30,000.
    pub drain_ms_max: u64,
    /// Sessions that may run at once. Default 64; each holds a decoder process.
    pub sessions_max: usize,
    /// Bytes of answers that are kept for jobs that allow an older answer. Default 64 MiB; 0 keeps none.
    pub cache_bytes_max: u64,
    /// Conditions that are looked at before and after jobs; docs/edge.md tells how they are written. Default none.
    pub rule: Vec<RuleSpec>,
    /// Cameras and microphones that the node opens itself; docs/sources.md. Not for nodes of a cluster, whose file has them.
    pub source: Vec<SourceSpec>,
    /// Groups of devices whose workers exchange features; docs/gpu.md. Default none.
    pub group: Vec<GroupSpec>,
    /// Faults put in on purpose, for tests.
    pub inject: Injection,
}

/// Which devices keep a second worker that waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StandbyWorkers {
    #[default]
    None,
    /// GPUs, whose workers take longest to come back.
    Gpu,
    All,
}

impl StandbyWorkers {
    /// Whether a device of this kind keeps one.
    #[must_use]
    pub const fn of(self, kind: &DeviceKind) -> bool {
        match (self, kind) {
            (Self::None, _) | (Self::Gpu, DeviceKind::Cpu) => false,
            (Self::All, _) | (Self::Gpu, DeviceKind::Cuda { .. }) => true,
        }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            listen_cluster: SocketAddr::from(([127, 0, 0, 1], 7402)),
            hosts: Vec::new(),
            models: Vec::new(),
            load: Vec::new(),
            slab: default_classes(),
            queue_jobs_max: 4096,
            share_min_permille: Settings::default().share_min_permille,
            plan: PlanPolicy::default(),
            event_log_bytes_max: 0,
            gpus: true,
            gpu_quota_mib: GpuQuotas::default(),
            gpu_kernels: true,
            gpu_precision: None,
            gpu_provider: GpuProvider::default(),
            pin: BTreeMap::new(),
            cpu_devices: CpuDevices::default(),
            standby_workers: StandbyWorkers::default(),
            worker_nice: 5,
            drain_ms_max: 30_000,
            sessions_max: 64,
            cache_bytes_max: 64 << 20,
            rule: Vec::new(),
            source: Vec::new(),
            group: Vec::new(),
            inject: Injection::default(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Parse { path: PathBuf, reason: String },
    #[error("options of {node}: {reason}")]
    Options { node: String, reason: String },
    #[error("{field}: {reason}")]
    Value { field: &'static str, reason: String },
    /// A model is to run where it cannot.
    #[error("pin.{model}: {reason}")]
    Pin { model: String, reason: String },
    #[error(transparent)]
    Rule(#[from] RuleError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Group(#[from] GroupSpecError),
}

impl NodeConfig {
    /// What the scheduler is told.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            queue_jobs_max: self.queue_jobs_max,
            restart_wait_ns: RESTART_WAIT_NS,
            share_min_permille: self.share_min_permille,
            plan: self.plan.clone(),
            ..Settings::default()
        }
    }

    /// The rules, ready to be asked.
    ///
    /// # Errors
    /// [`RuleError`], with the rule's name, the place in its condition, and what is wrong there.
    pub fn rules(&self) -> Result<RuleSet, ConfigError> {
        Ok(RuleSet::compile(&self.rule)?)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], with the line, and for an unknown key the nearest known one.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            reason: with_nearest_key(&error.to_string()),
        })?;
        config.check()?;
        Ok(config)
    }

    /// The configuration of a node of a cluster: its options from the cluster's file, and from there also its name and
    /// its addresses, unless the options say where it listens.
    ///
    /// # Errors
    /// [`ConfigError`], for an unknown key the nearest known one.
    pub fn of_member(spec: &NodeSpec, options: toml::Table) -> Result<Self, ConfigError> {
        let listens = |key| options.contains_key(key);
        let (api, peer) = (listens("listen"), listens("listen_cluster"));
        let mut config: Self = options.try_into().map_err(|error: toml::de::Error| ConfigError::Options {
            node: spec.name.clone(),
            reason: with_nearest_key(&error.to_string()),
        })?;
        if !api {
            config.listen = spec.api;
        }
        if !peer {
            config.listen_cluster = spec.peer;
        }
        config.name = Some(spec.name.clone());
        if !config.source.is_empty() {
            let reason = "sources of a cluster stand in its file as [[source]], not in a node's options".to_owned();
            return Err(ConfigError::Options { node: spec.name.clone(), reason });
        }
        config.check()?;
        Ok(config)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`ConfigError::Value`], with the field and what was expected.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field, reason: &str| Err(ConfigError::Value { field, reason: reason.to_owned() });
        if self.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > 32) {
            return wrong("name", "1 to 32 bytes are expected");
        }
        if self.worker_nice > 19 {
            return wrong("worker_nice", "0 to 19 is expected");
        }
        if !(1..=65_536).contains(&self.queue_jobs_max) {
            return wrong("queue_jobs_max", "1 to 65536 is expected");
        }
        if let Err(error) = self.settings().check() {
            return wrong("scheduling", &error.to_string());
        }
        if !(1..=4096).contains(&self.sessions_max) {
            return wrong("sessions_max", "1 to 4096 is expected");
        }
        if self.drain_ms_max > 3_600_000 {
            return wrong("drain_ms_max", "at most 3600000 is expected");
        }
        if self.cache_bytes_max > CACHE_BYTES_MAX {
            return wrong("cache_bytes_max", &format!("at most {CACHE_BYTES_MAX} is expected"));
        }
        for (model, devices) in &self.pin {
            let wrong = |reason: &str| Err(ConfigError::Pin { model: model.clone(), reason: reason.to_owned() });
            let twice = (1..devices.len()).any(|at| devices[..at].contains(&devices[at]));
            if devices.is_empty() || twice {
                return wrong("a list of different names of devices is expected, such as [\"cuda:0\"]");
            }
        }
        if self.inject.cpu_devices > CPU_DEVICES_MAX {
            return wrong("inject.cpu_devices", &format!("at most {CPU_DEVICES_MAX} is expected"));
        }
        group::check(&self.group)?;
        check_alone(&self.source)?;
        self.rules().map(|_| ())
    }
}

/// Adds the nearest known key to serde's message about an unknown one.
fn with_nearest_key(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (quoted.next(), message.contains("unknown field")) else { return message.to_owned() };
    let nearest = quoted.min_by_key(|known| strsim::damerau_levenshtein(unknown, known));
    match nearest {
        Some(known) => format!("{message}\ndid you mean `{known}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<NodeConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        NodeConfig::read(&path)
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(read("").unwrap(), NodeConfig::default());
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let message = read("lisen = \"127.0.0.1:1\"").unwrap_err().to_string();
        assert!(message.contains("did you mean `listen`?"), "{message}");
    }

    #[test]
    fn a_bad_rule_is_told_by_its_name_and_place() {
        let rule = "[[rule]]\nname = \"near\"\non = \"job\"\nthen = \"refuse\"\ntext = \"no\"\nwhen = ";
        assert_eq!(read(&format!("{rule}'job.stream == 1'")).unwrap().rule[0].name, "near");
        let message = read(&format!("{rule}'job.strem == 1'")).unwrap_err().to_string();
        assert!(message.starts_with("rule \"near\": when, line 1, column 4: a job has no field strem"), "{message}");
        let message = read("[[rule]]\nnam = \"near\"").unwrap_err().to_string();
        assert!(message.contains("did you mean `name`?"), "{message}");
    }

    #[test]
    fn standby_workers_are_for_whom_it_says() {
        let gpu = DeviceKind::Cuda { gpu: 0, uuid: "GPU-1".to_owned() };
        let of = |text: &str| {
            let workers = read(text).unwrap().standby_workers;
            (workers.of(&DeviceKind::Cpu), workers.of(&gpu))
        };
        assert_eq!(of(""), (false, false));
        assert_eq!(of("standby_workers = \"gpu\""), (false, true));
        assert_eq!(of("standby_workers = \"all\""), (true, true));
        let message = read("standby_workers = \"some\"").unwrap_err().to_string();
        assert!(message.contains("`none`, `gpu`, `all`"), "{message}");
    }

    #[test]
    fn values_out_of_range_name_the_field() {
        let message = read("worker_nice = 20").unwrap_err().to_string();
        assert_eq!(message, "worker_nice: 0 to 19 is expected");
        assert!(read("listen = \"localhost\"").is_err());
        let message = read("pin = { nanodet = [] }").unwrap_err().to_string();
        assert!(message.starts_with("pin.nanodet: a list of different names"), "{message}");
        let message = read("gpu_precision = \"fp8\"").unwrap_err().to_string();
        assert!(message.contains("fp16"), "{message}");
        let config =
            read("gpu_precision = \"fp16\"\ngpu_provider = \"tensorrt\"\npin = { nanodet = [\"cuda:0\"] }").unwrap();
        assert_eq!((config.gpu_precision, config.gpu_provider), (Some(Precision::Fp16), GpuProvider::Tensorrt));
    }
}
