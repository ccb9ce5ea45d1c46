//! Starting and stopping a node.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorRef};
use sensorium_device::backend::cuda::KernelSetup;
use sensorium_device::slab::{Slab, SlabError};
use sensorium_hardware::HardwareError;
use sensorium_models::repository::Repository;
use sensorium_models::{ModelError, ModelPackage};
use sensorium_pipelines::EvidenceSpec;
use sensorium_scheduler::DeviceId;
use sensorium_transport::pki::{self, Bundle};
use sensorium_transport::{ALPN_API, ALPN_CONTROL, ALPN_PEER, Dialer, EndpointError, Listener, Liveness, PkiError};
use thiserror::Error;
use tokio::sync::mpsc;

use crate::actors::device::{DeviceArgs, DeviceMessage};
use crate::actors::devices::DeviceSupervisorArgs;
use crate::actors::endpoint::{EndpointArgs, Serve};
use crate::actors::groups::GroupSupervisorArgs;
use crate::actors::monitor::MonitorArgs;
use crate::actors::node::{NodeArgs, NodeMessage, NodeSupervisor};
use crate::actors::scheduler::SchedulerArgs;
use crate::actors::sessions::SessionSupervisorArgs;
use crate::actors::sources::SourceSupervisorArgs;
use crate::board::{Board, DeviceState};
use crate::cluster::{self, Cluster, ClusterArgs, Membership, Plane};
use crate::config::{ConfigError, NodeConfig};
use crate::data::{DataDirectory, DataError, DataLock, NodeFile};
use crate::desk::NodeDesk;
use crate::engine::{Engine, EngineSetup, EventLog, EventLogError, LearnedTimes, ModelTable};
use crate::gateway::{Desk, Gateway};
use crate::group::{self, GroupTable};
use crate::health::Watch;
use crate::machine;
use crate::pins::Pins;
use crate::session::SessionLimits;
use crate::session::live::Tools;
use crate::source::{OwnSetting, Sources};
use crate::threads::RuntimeThread;

/// Where a node finds what it needs.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    pub config: NodeConfig,
    pub data: DataDirectory,
    /// ONNX Runtime's library.
    pub onnxruntime: PathBuf,
    /// The same with a CUDA provider beside it, for GPUs; need not exist, and then GPUs are not used.
    pub onnxruntime_gpu: PathBuf,
    /// Where GPUs' kernels come from.
    pub kernels: KernelSetup,
    /// Model repositories, in order of precedence.
    pub repositories: Vec<PathBuf>,
    /// Where model files are that do not lie beside their manifest.
    pub weights: PathBuf,
    /// Where TensorRT keeps the networks that it compiled; made when it is used.
    pub engines: PathBuf,
    /// The binary that is run as a worker, and its arguments.
    pub program: PathBuf,
    pub worker_arguments: Vec<String>,
    /// Its arguments to run it as a guard (see [`crate::guard`]), before the program that is guarded.
    pub guard_arguments: Vec<String>,
    pub ffmpeg: PathBuf,
    /// The node's name where the configuration gives none.
    pub host_name: String,
    /// The cluster that the node belongs to, if it belongs to one.
    pub membership: Option<Membership>,
}

/// Why a node cannot start.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("hardware: {0}")]
    Hardware(#[from] HardwareError),
    #[error("payload memory: {0}")]
    Slab(#[from] SlabError),
    #[error("models: {0}")]
    Models(#[from] ModelError),
    #[error("models: none in {0:?}; give a repository with --models")]
    NoModels(Vec<PathBuf>),
    #[error("models: {name:?} in `load` is not in the repository; there are {known}")]
    UnknownModel { name: String, known: String },
    #[error("{path}: {reason}")]
    Evidence { path: PathBuf, reason: String },
    #[error("ONNX Runtime: {path} does not exist; run ops/setup or give its library with --onnxruntime")]
    OnnxRuntime { path: PathBuf },
    #[error("certificates: {0}")]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("starting threads: {0}")]
    Threads(#[from] io::Error),
    #[error(transparent)]
    EventLog(#[from] EventLogError),
    #[error("cluster: no node {name:?} in it; there are {known}")]
    UnknownNode { name: String, known: String },
    #[error("starting actors: {0}")]
    Actors(String),
}

/// A running node. Dropping it without [`Self::shutdown`] stops it without answering what is in flight.
pub struct Node {
    pub file: NodeFile,
    engine: Arc<Engine>,
    board: Arc<Board>,
    desk: Arc<NodeDesk>,
    listener: Arc<Listener>,
    cluster_listener: Arc<Listener>,
    supervisor: ActorRef<NodeMessage>,
    fatal: mpsc::Receiver<String>,
    drain_ms_max: u64,
    service_times: PathBuf,
    _watch: Option<Watch>,
    // Dropped in this order: actors first, then the threads they use.
    _control: RuntimeThread,
    api: RuntimeThread,
    cluster: RuntimeThread,
    _media: tokio::runtime::Runtime,
    _lock: DataLock,
}

impl Node {
    /// Starts a node and announces it in its data directory. Its devices go on loading models; see
    /// [`Self::readiness`].
    ///
    /// # Errors
    /// [`NodeError`], in words that say what to do.
    pub fn start(options: NodeOptions) -> Result<Self, NodeError> {
        let NodeOptions { config, data, .. } = &options;
        config.check()?;
        check_membership(options.membership.as_ref())?;
        if !options.onnxruntime.exists() {
            return Err(NodeError::OnnxRuntime { path: options.onnxruntime.clone() });
        }
        let lock = data.lock()?;
        let bundle = certificates(data, config)?;
        let packages = load_models(&options)?;
        let plan = machine::plan_devices(&options)?;
        let pins = Pins::new(config, &packages, &plan.devices)?;
        for note in &plan.notes {
            tracing::info!("{note}");
        }

        let io_cpus: &[u32] = if plan.pinned { &plan.io_cpus } else { &[] };
        let api = RuntimeThread::start("api", io_cpus.get(..1).unwrap_or_default())?;
        let cluster_thread = RuntimeThread::start("cluster", io_cpus.last_chunk::<1>().map_or(&[], |last| &last[..]))?;
        let control = RuntimeThread::start("control", &[])?;
        let media =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("media").enable_all().build()?;

        let slab = Slab::create_on(&config.slab, &machine::payload_nodes(&plan))?;
        let groups = group::plan(&config.group, &plan.devices).map_err(ConfigError::from)?;
        let groups = Arc::new(GroupTable::new(groups));
        let board = Arc::new(Board::default());
        let name = config.name.clone().unwrap_or_else(|| options.host_name.clone());
        let models = ModelTable::new(packages.iter().map(|package| &package.manifest));
        let learned = LearnedTimes::read(&data.service_times());
        let known = learned.clone();
        let log = match config.event_log_bytes_max {
            0 => None,
            bytes_max => {
                let names = models.iter().map(|model| model.name.clone()).collect();
                Some(EventLog::start(&data.events(), bytes_max, &name, names)?)
            }
        };
        let hung_board = Arc::clone(&board);
        let setup = EngineSetup {
            node: name.clone(),
            slab,
            models,
            settings: config.settings(),
            injection: config.inject.clone(),
            learned,
            rules: config.rules()?,
            cache_bytes_max: config.cache_bytes_max,
            log,
        };
        let engine = Engine::new(setup, move |device, lane, reason| {
            if let Some(actor) = hung_board.address(device) {
                let _ = actor.cast(DeviceMessage::ReplaceWorker { lane, reason });
            }
        });

        let (listener, cluster_listener) = {
            let _api = api.handle().enter();
            let listener = Listener::bind(config.listen, &bundle, &[ALPN_API], Liveness::API)?;
            let _cluster = cluster_thread.handle().enter();
            (listener, Listener::bind(config.listen_cluster, &bundle, &[ALPN_PEER, ALPN_CONTROL], Liveness::PEER)?)
        };
        let (listener, cluster_listener) = (Arc::new(listener), Arc::new(cluster_listener));
        let file =
            NodeFile { name, pid: std::process::id(), api: listener.address()?, cluster: cluster_listener.address()? };

        let mut devices = Vec::new();
        for (number, device) in (0_u32..).zip(&plan.devices) {
            let cpus = if plan.pinned { device.cpus.clone() } else { Vec::new() };
            board.add(&device.name, cpus.clone());
            let (kind, at_once) = machine::announced(device, &cpus);
            engine.add_device(DeviceId(number), kind, at_once);
            let mut setup = machine::worker_setup(&options, &packages, &engine, &known, &pins, device, cpus);
            setup.groups = groups.names_of(&device.name);
            devices.push(DeviceArgs {
                device: DeviceId(number),
                engine: Arc::clone(&engine),
                board: Arc::clone(&board),
                groups: Arc::clone(&groups),
                program: options.program.clone(),
                arguments: options.worker_arguments.clone(),
                setup,
                standby: config.standby_workers.of(&device.kind),
                io: api.handle().clone(),
            });
        }
        let limits = SessionLimits {
            sessions_max: config.sessions_max,
            ffmpeg: options.ffmpeg.clone(),
            evidence: fusion_evidence(&packages)?,
        };
        let cluster = Cluster::new(Arc::clone(&engine), options.membership.clone(), &file.name, api.handle().clone());
        let sources = Sources::new(Arc::clone(&cluster), &config.source);
        let (shown, cluster_shown) = ((Arc::clone(&board), Arc::clone(&groups)), Arc::clone(&cluster));
        let desk = NodeDesk::new(file.clone(), Arc::clone(&sources), cluster_shown, shown, &packages, pins);
        let gateway =
            Gateway::new(Arc::clone(&cluster), Arc::clone(&desk) as Arc<_>, Arc::clone(&sources), data.spool());
        let plane = Plane::default();
        let cluster_args = if cluster.is_alone() {
            None
        } else {
            let answering = Arc::clone(&desk);
            Some(ClusterArgs {
                cluster: Arc::clone(&cluster),
                gateway: Arc::clone(&gateway),
                plane: Arc::clone(&plane),
                control: dialer(&cluster_thread, &bundle, ALPN_CONTROL, config)?,
                jobs: dialer(&api, &bundle, ALPN_PEER, config)?,
                io: cluster_thread.handle().clone(),
                answering: Arc::new(move |question| answering.answer(question)),
            })
        };
        let watch = Watch::start(&plan, &config.inject, &board)?;
        let (fatal_sender, fatal) = mpsc::channel(1);
        let args = NodeArgs {
            engine: Arc::clone(&engine),
            devices: DeviceSupervisorArgs { devices },
            groups: GroupSupervisorArgs::new(&groups),
            sources: SourceSupervisorArgs {
                sources,
                setting: OwnSetting {
                    cluster: Arc::clone(&cluster),
                    limits: limits.clone(),
                    tools: Tools {
                        ffmpeg: options.ffmpeg.clone(),
                        guard: options.program.clone(),
                        guard_arguments: options.guard_arguments.iter().map(Into::into).collect(),
                    },
                    media: media.handle().clone(),
                    stopping: desk.stopping(),
                },
                desk: Arc::clone(&desk),
            },
            sessions: SessionSupervisorArgs {
                cluster: Arc::clone(&cluster),
                media: media.handle().clone(),
                limits,
                desk: Arc::clone(&desk),
            },
            scheduler: SchedulerArgs {
                engine: Arc::clone(&engine),
                cluster: Arc::clone(&cluster),
                service_times: data.service_times(),
            },
            monitor: MonitorArgs {
                engine: Arc::clone(&engine),
                board: Arc::clone(&board),
                groups: Arc::clone(&groups),
            },
            cluster_listener: {
                let (cluster, gateway) = (Arc::clone(&cluster), Arc::clone(&gateway));
                endpoint(&cluster_thread, &cluster_listener, move |listener| {
                    Box::pin(cluster::serve(Arc::clone(&cluster), Arc::clone(&gateway), Arc::clone(&plane), listener))
                })
            },
            gateway: endpoint(&api, &listener, move |listener| Box::pin(Arc::clone(&gateway).serve(listener))),
            cluster: cluster_args,
            fatal: fatal_sender,
        };
        let (supervisor, _) = control
            .handle()
            .block_on(Actor::spawn(None, NodeSupervisor, args))
            .map_err(|error| NodeError::Actors(error.to_string()))?;
        data.announce(&file)?;
        Ok(Self {
            file,
            engine,
            board,
            desk,
            listener,
            cluster_listener,
            supervisor,
            fatal,
            drain_ms_max: config.drain_ms_max,
            service_times: data.service_times(),
            _watch: watch,
            _control: control,
            api,
            cluster: cluster_thread,
            _media: media,
            _lock: lock,
        })
    }

    /// Whether every device has loaded what it can; `None` while some are still loading for the first time.
    /// `Some(Err)` says what went wrong when no device became ready.
    pub fn readiness(&self) -> Option<Result<(), String>> {
        if !self.board.settled() {
            return None;
        }
        let devices = self.board.devices();
        if devices.iter().any(|device| device.state == DeviceState::Ready) {
            return Some(Ok(()));
        }
        let reasons: Vec<_> = devices
            .iter()
            .map(|device| format!("{}: {}", device.name, device.last_exit.as_deref().unwrap_or("not ready")))
            .collect();
        Some(Err(reasons.join("; ")))
    }

    /// Waits until something happens that a node cannot recover from; gives the reason.
    pub async fn wait_for_fatal(&mut self) -> String {
        match self.fatal.recv().await {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    fn is_busy(&self) -> bool {
        self.engine.in_flight() > 0 || self.desk.away() > 0 || self.desk.sessions() > 0 || self.desk.open_sources() > 0
    }

    /// Refuses new work, answers what was accepted, and stops. Returns how many jobs were left when time was up.
    pub fn shutdown(self) -> usize {
        self.engine.drain();
        self.listener.refuse_new();
        self.desk.stop_sessions();
        let began = Instant::now();
        while self.is_busy() && began.elapsed() < Duration::from_millis(self.drain_ms_max) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let left = self.engine.in_flight() + self.desk.away();
        self.engine.learned().write(&self.service_times);
        // The answers are in the connections' buffers: closing right away would throw them away.
        std::thread::sleep(Duration::from_millis(50));
        // The actors first: to them an endpoint that closes would be a failure to recover from.
        self.supervisor.stop(None);
        self.api.handle().block_on(self.listener.close("the node stopped"));
        self.cluster.handle().block_on(self.cluster_listener.close("the node stopped"));
        left
    }
}

fn dialer(thread: &RuntimeThread, bundle: &Bundle, alpn: &[u8], config: &NodeConfig) -> Result<Dialer, EndpointError> {
    let _runtime = thread.handle().enter();
    Dialer::new(bundle, alpn, Liveness::PEER, config.listen_cluster.is_ipv6())
}

fn check_membership(membership: Option<&Membership>) -> Result<(), NodeError> {
    let Some(Membership { topology, name }) = membership else { return Ok(()) };
    if topology.node(name).is_some() {
        return Ok(());
    }
    let known: Vec<_> = topology.nodes.iter().map(|node| node.name.as_str()).collect();
    Err(NodeError::UnknownNode { name: name.clone(), known: known.join(", ") })
}

fn endpoint(
    thread: &RuntimeThread,
    listener: &Arc<Listener>,
    serve: impl Fn(Arc<Listener>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static,
) -> EndpointArgs {
    let listener = Arc::clone(listener);
    let serve: Serve = Arc::new(move || serve(Arc::clone(&listener)));
    EndpointArgs { runtime: thread.handle().clone(), serve }
}

/// The node's certificates: those that were put into the data directory, or development ones.
fn certificates(data: &DataDirectory, config: &NodeConfig) -> Result<Bundle, PkiError> {
    let folder = data.certificates();
    let given = folder.join("node");
    if given.join("cert.pem").exists() && !folder.join("ca").exists() {
        return Bundle::read(&given);
    }
    let made = pki::development(&folder, &config.hosts)?;
    if made.created {
        tracing::warn!(
            folder = %folder.display(),
            "no certificates: made development ones; see sensorium ca for a cluster's own"
        );
    }
    Ok(made.node)
}

fn load_models(options: &NodeOptions) -> Result<Vec<ModelPackage>, NodeError> {
    let mut repository = Repository::open(&options.repositories, &options.weights)?;
    for (folder, error) in &repository.broken {
        tracing::error!(folder, %error, "model not usable");
    }
    let wanted = &options.config.load;
    for name in wanted {
        if !repository.models.contains_key(name) {
            // One that is there and cannot be used says why.
            if let Some(at) = repository.broken.iter().position(|(broken, _)| broken == name) {
                return Err(repository.broken.swap_remove(at).1.into());
            }
            let known: Vec<_> = repository.models.keys().map(String::as_str).collect();
            return Err(NodeError::UnknownModel { name: name.clone(), known: known.join(", ") });
        }
    }
    // The later stages of a model come with it.
    let mut wanted = wanted.clone();
    let mut at = 0;
    while let Some(package) = wanted.get(at).and_then(|name| repository.models.get(name)) {
        wanted.extend(package.manifest.next.iter().filter(|next| !wanted.contains(next)).cloned().collect::<Vec<_>>());
        at += 1;
    }
    let packages: Vec<_> = repository
        .models
        .into_values()
        .filter(|package| wanted.is_empty() || wanted.contains(&package.manifest.name))
        .collect();
    if packages.is_empty() {
        return Err(NodeError::NoModels(options.repositories.clone()));
    }
    Ok(packages)
}

/// The fusion model's description of its inputs, `evidence.toml` in its folder.
fn fusion_evidence(packages: &[ModelPackage]) -> Result<Option<Arc<EvidenceSpec>>, NodeError> {
    let Some(package) = packages.iter().find(|package| package.manifest.name == "fusion") else { return Ok(None) };
    let path = package.folder.join("evidence.toml");
    let wrong = |reason: String| NodeError::Evidence { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    let spec = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    Ok(Some(Arc::new(spec)))
}
