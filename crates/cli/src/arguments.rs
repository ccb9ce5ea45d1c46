//! What can be typed.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sensorium_simulator::Misfortune;
use sensorium_wire::Urgency;

use crate::commands::load::Mix;

/// Live video and audio through neural networks, answered before a deadline.
#[derive(Debug, Parser)]
#[command(name = "sensorium", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) places: Places,
    /// What to log: error, warn, info, debug, or a filter such as sensorium_node=debug.
    #[arg(long, global = true, value_name = "FILTER", env = "SENSORIUM_LOG")]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where things are. Node and client of one machine find each other through the data directory.
#[derive(Args, Debug)]
pub(crate) struct Places {
    /// Data directory. Default: sensorium in the user's data directory (XDG).
    #[arg(long, global = true, value_name = "DIR", env = "SENSORIUM_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Cache that ops/setup fills: models, media, libraries. Default: sensorium in the user's cache directory (XDG).
    #[arg(long, global = true, value_name = "DIR", env = "SENSORIUM_CACHE")]
    pub(crate) cache: Option<PathBuf>,
    /// Model repository; may be given several times. Default: cluster/models of the project.
    #[arg(long, global = true, value_name = "DIR", env = "SENSORIUM_MODELS", value_delimiter = ':')]
    pub(crate) models: Vec<PathBuf>,
    /// ONNX Runtime's library. Default: lib/libonnxruntime.so in the cache.
    #[arg(long, global = true, value_name = "FILE", env = "SENSORIUM_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// The same for GPUs, from onnxruntime-gpu, with its CUDA provider beside it. Default: lib/gpu/libonnxruntime.so in the
    /// cache; where it is missing, GPUs are not used.
    #[arg(long, global = true, value_name = "FILE", env = "SENSORIUM_ONNXRUNTIME_GPU")]
    pub(crate) onnxruntime_gpu: Option<PathBuf>,
    /// NVRTC, which compiles the CUDA kernels. Default: cuda/lib/libnvrtc.so.13 in the cache, or else the system's.
    #[arg(long, global = true, value_name = "FILE", env = "SENSORIUM_NVRTC")]
    pub(crate) nvrtc: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node: the devices of this machine, and the API that others submit to.
    Node(NodeArguments),
    /// Run one device. Started by a node; not for people.
    #[command(hide = true)]
    Worker(WorkerArguments),
    /// Run a program for as long as a node says. Started by a node; not for people.
    #[command(hide = true)]
    Guard(GuardArguments),
    /// Run a media file as a session: what is seen, heard and said, as it happens.
    Run(RunArguments),
    /// Watch a camera or microphone that nodes have open: what is seen, heard and said, as it happens.
    Watch(WatchArguments),
    /// Run one job: an image, a sound file, or a .npy tensor.
    Submit(SubmitArguments),
    /// Show a node, its devices, lanes and queues.
    Status(StatusArguments),
    /// Show how the devices are shared between video, sound and fusion, or call a critical moment.
    Plan(PlanArguments),
    /// Replay a node's log of scheduling decisions: what was decided and why.
    Replay(ReplayArguments),
    /// Measure.
    Bench(BenchArguments),
    /// Send many jobs and account for every one: nothing may be lost or answered twice.
    Load(LoadArguments),
    /// Play a scenario with the real scheduler in virtual time.
    Simulate(SimulateArguments),
    /// Look for bad luck in which an accepted job would miss its deadline.
    Prove(ProveArguments),
    /// Check a cluster file and show its nodes, with what each would get.
    Topology(TopologyArguments),
    /// Check and measure what a GPU does here; writes gpu-report.json. Without a GPU it says so.
    GpuCheck(GpuCheckArguments),
    /// Show this machine's hardware and how it would be used.
    Hardware(HardwareArguments),
    /// List the models and check their files.
    Models(ModelsArguments),
    /// Make certificates: an authority for a cluster, bundles for its nodes and clients.
    Ca(CaArguments),
}

#[derive(Args, Debug)]
pub(crate) struct NodeArguments {
    /// Configuration file (TOML). Every option has a default; docs/configuration.md lists them.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// File of the cluster that the node belongs to (TOML), with its place, addresses and options; docs/cluster.md.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub(crate) cluster: Option<PathBuf>,
    /// The node's name in the cluster's file. Default: the host's name.
    #[arg(long, value_name = "NAME", requires = "cluster")]
    pub(crate) name: Option<String>,
    /// UDP address of the API, for example 0.0.0.0:7401. Overrides the configuration.
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// UDP address for other nodes. Overrides the configuration.
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen_cluster: Option<SocketAddr>,
}

#[derive(Args, Debug)]
pub(crate) struct WorkerArguments {
    /// Process id of the node that started it.
    #[arg(long)]
    pub(crate) parent: u32,
}

#[derive(Args, Debug)]
pub(crate) struct GuardArguments {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

/// How to reach a node.
#[derive(Args, Clone, Debug)]
pub(crate) struct Reach {
    /// Address of a node's API; several, in order of preference, with commas or by giving it again: the first that answers
    /// is used, and when it is gone the next one. Default: the node of the data directory.
    #[arg(
        long = "node",
        visible_alias = "connect",
        value_name = "ADDR",
        env = "SENSORIUM_NODE",
        value_delimiter = ','
    )]
    pub(crate) nodes: Vec<SocketAddr>,
    /// Folder with the client's certificate bundle. Default: the data directory's.
    #[arg(long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct RunArguments {
    /// The media file.
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// As fast as it goes without dropping anything, instead of at the file's own speed.
    #[arg(long)]
    pub(crate) fast: bool,
    /// One event a line as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Folder for events.jsonl and transcript.srt.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Time from capture to answer that a frame may take at real speed; later ones become gaps.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = humantime::parse_duration)]
    pub(crate) budget: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct WatchArguments {
    /// The source, by name; sensorium status lists them.
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// One event a line as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// End after so many events. Default: never.
    #[arg(long, value_name = "N")]
    pub(crate) events: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct SubmitArguments {
    /// The model, by name; sensorium models lists them.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: String,
    /// JPEG, PNG, WAV or .npy.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Time until the answer must be there, for example 100ms.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Duration,
    /// An answer that was given to the same payload not longer ago than so many milliseconds will do.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) fresh_within: u64,
    /// How much it matters.
    #[arg(long, value_enum, default_value_t = UrgencyArgument::Standard)]
    pub(crate) urgency: UrgencyArgument,
    /// One JSON object with the answer and its receipt.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum UrgencyArgument {
    Critical,
    High,
    Standard,
    Batch,
}

impl From<UrgencyArgument> for Urgency {
    fn from(urgency: UrgencyArgument) -> Self {
        match urgency {
            UrgencyArgument::Critical => Self::Critical,
            UrgencyArgument::High => Self::High,
            UrgencyArgument::Standard => Self::Standard,
            UrgencyArgument::Batch => Self::Batch,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// The next so much time is critical; 0s ends it. Needs a certificate with the role critical or operate.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) critical_moment: Option<Duration>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReplayArguments {
    /// A segment (events-N.jsonl) or the folder of a log (events in the data directory).
    #[arg(value_name = "LOG")]
    pub(crate) segments: PathBuf,
    /// Only this job, by its number in the log.
    #[arg(long, value_name = "KEY")]
    pub(crate) job: Option<u64>,
    /// Only the summary.
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    pub(crate) what: Bench,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// One model, closed loop: so many jobs in flight, for so long.
    Job(BenchJobArguments),
    /// One model, open loop: more than it can do, at random times, and what becomes of it.
    Overload(BenchOverloadArguments),
    /// What the job's way costs without Sensorium: a bare UDP round trip and a plain QUIC transfer.
    Floor(BenchFloorArguments),
}

#[derive(Args, Debug)]
pub(crate) struct BenchJobArguments {
    /// The model, by name.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: String,
    /// Jobs in flight.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) concurrency: usize,
    /// How long to measure, after a tenth of it to warm up.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Payload bytes for models that take any tensor.
    #[arg(long, value_name = "B", default_value_t = 1024)]
    pub(crate) bytes: u32,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchOverloadArguments {
    /// The model, by name.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: String,
    /// What is offered, as a multiple of the capacity that is measured first.
    #[arg(long, value_name = "X", default_value_t = 2.0, allow_negative_numbers = true)]
    pub(crate) load: f64,
    /// Time from a job's scheduled arrival until its answer must be there.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Duration,
    /// How long jobs are offered.
    #[arg(long, value_name = "S", default_value_t = 20.0, allow_negative_numbers = true)]
    pub(crate) seconds: f64,
    /// Seed of the arrival times.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// What is sent: JPEG, PNG, WAV or .npy. Default: for models of pictures a frame of the demonstration's street camera
    /// as JPEG, if ops/setup has fetched it; else noise.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Folder for arrivals.csv, service.csv and latency.csv, from which the run can be simulated.
    #[arg(long, value_name = "DIR")]
    pub(crate) record: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchFloorArguments {
    /// Payload bytes of the round trip and the transfer.
    #[arg(long, value_name = "B", default_value_t = 1024)]
    pub(crate) bytes: u32,
    /// How many round trips.
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub(crate) rounds: u32,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct GpuCheckArguments {
    /// Folder for gpu-report.json, gpu-report.txt and a log of each check.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// After so many seconds no further check is started, and the running one is ended.
    #[arg(long, value_name = "S", default_value_t = 480)]
    pub(crate) seconds_max: u64,
    /// Only these checks, with commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Folder with pictures, sounds and a network for PyTorch to compare with, as ops/gpu-check makes it.
    #[arg(long, value_name = "DIR")]
    pub(crate) reference: Option<PathBuf>,
    /// Try the checks themselves out on the processor; that says nothing of a GPU.
    #[arg(long, value_name = "DEVICE", default_value = "cuda", hide = true)]
    pub(crate) device: CheckedDevice,
    /// One check, in the process that gpu-check started for it.
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) check: Option<String>,
    /// What that check is of, as JSON.
    #[arg(long, value_name = "JSON", hide = true)]
    pub(crate) target: Option<String>,
}

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckedDevice {
    Cuda,
    Cpu,
}

#[derive(Args, Debug)]
pub(crate) struct LoadArguments {
    /// How many jobs.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) jobs: u64,
    /// Instead of --jobs: as many as the rate gives in this time.
    #[arg(long, value_name = "S", conflicts_with = "jobs", allow_negative_numbers = true)]
    pub(crate) seconds: Option<f64>,
    /// Jobs a second, at random times.
    #[arg(long, value_name = "X", default_value_t = 100.0, allow_negative_numbers = true)]
    pub(crate) rate: f64,
    /// Connections that the jobs are spread over.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) clients: usize,
    /// What is sent and how often: MODEL[:BYTES][@URGENCY][=WEIGHT], several with commas.
    #[arg(long, value_name = "MIX", default_value = "identity:1k=12,identity:200k=3,movenet=2,silero-vad=3")]
    pub(crate) mix: Mix,
    /// Time from a job's place in the schedule until its answer must be there.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Duration,
    /// Seed of the times and of the order of the mix.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// File for one JSON object a line: every job and how it ended.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SimulateArguments {
    /// The scenario (TOML); the tables of several files are put together. cluster/scenarios has some.
    #[arg(required = true)]
    pub(crate) scenario: Vec<PathBuf>,
    /// Where chance begins; the same seed gives the same run. Default: the scenario's.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Virtual seconds. Default: the scenario's.
    #[arg(long, value_name = "S")]
    pub(crate) seconds: Option<f64>,
    /// How unlucky the run is made, as prove writes it: tail, together, loss, slow, each from 0 to 1.
    #[arg(long, value_name = "A,B,C,D", default_value_t = Misfortune::NONE)]
    pub(crate) misfortune: Misfortune,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ProveArguments {
    /// Devices and models (TOML).
    pub(crate) topology: PathBuf,
    /// Loads, faults and the length of a run (TOML).
    pub(crate) load: PathBuf,
    /// Runs to make, each unluckier than the ones before.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) seeds: u64,
    /// Virtual seconds of a run. Default: the file's.
    #[arg(long, value_name = "S")]
    pub(crate) seconds: Option<f64>,
    /// A job that misses because a device died under it counts as a miss.
    #[arg(long)]
    pub(crate) count_loss: bool,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TopologyArguments {
    /// The cluster file (TOML), such as cluster/three-tier.toml.
    pub(crate) file: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct HardwareArguments {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ModelsArguments {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Do not read the model files, only the manifests.
    #[arg(long)]
    pub(crate) no_check: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CaArguments {
    #[command(subcommand)]
    pub(crate) what: Ca,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Make a new authority: ca.pem for everyone, ca.key for nobody but you.
    Init {
        /// Folder for it.
        #[arg(long, value_name = "DIR", default_value = "ca")]
        out: PathBuf,
    },
    /// Issue a bundle (ca.pem, cert.pem, key.pem) for a client or a node.
    Issue(IssueArguments),
}

#[derive(Args, Debug)]
pub(crate) struct IssueArguments {
    /// Folder of the authority.
    #[arg(long, value_name = "DIR", default_value = "ca")]
    pub(crate) ca: PathBuf,
    /// Folder for the bundle.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Whose it is: letters, digits, dot, dash, underscore.
    #[arg(long)]
    pub(crate) name: String,
    /// Organisation that quotas and results belong to.
    #[arg(long, default_value = "default")]
    pub(crate) tenant: String,
    /// What the holder may do: submit, critical, operate, peer. May be given several times.
    #[arg(long = "role", value_name = "ROLE", default_values_t = ["submit".to_owned()])]
    pub(crate) roles: Vec<String>,
    /// For nodes: edge, regional or central.
    #[arg(long)]
    pub(crate) tier: Option<String>,
    /// For nodes: host names or addresses of it. May be given several times.
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Days until it expires.
    #[arg(long, default_value_t = 365)]
    pub(crate) days: u32,
}
