//! A device actor: owns one device's worker processes and the lanes of the one that serves.
//!
//! A worker that dies, hangs or talks nonsense is killed, reaped and replaced; only after it has been reaped does the
//! scheduler hear of it, so that no memory is given out again while a dying process may still write to it.
//!
//! A device with a standby has two places for workers. Whichever is ready first serves; the other one waits, loaded and
//! warm, and takes over when the first has been reaped. It decides nothing else: what becomes of jobs is the scheduler's.

mod memory;
mod place;
mod quarantine;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use sensorium_device::backend::cuda::GpuProvider;
use sensorium_device::clock::now_ns;
use sensorium_device::protocol::{LaneReport, WorkerReport, WorkerSetup};
use sensorium_device::supervise::{WorkerEvent, WorkerSpec};
use sensorium_hardware::Health;
use sensorium_scheduler::{DeviceId, LaneId};
use sensorium_wire::Name;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use self::place::{Place, ReadyWorker, Stage};
use self::quarantine::Quarantine;
use crate::board::{Board, DeviceState, StandbyState, StandbyStatus};
use crate::cluster::{Answering, Envoy, Subject};
use crate::engine::{Engine, LaneModel};
use crate::group::GroupTable;
use crate::lane_reader;
use crate::restart::{History, Part, Verdict};

/// How long a dead worker's queued answers may take to be read, in milliseconds.
const DRAIN_MS_MAX: u64 = 200;
/// How long a worker may take to load its models, in milliseconds.
const READY_MS_MAX: u64 = 120_000;
/// The same beside another worker, at the least priority.
const STANDBY_READY_MS_MAX: u64 = 600_000;
/// The same where TensorRT may have to compile them first, which takes minutes.
const COMPILED_MS_MAX: u64 = 1_200_000;
/// How often is looked whether another worker of the same GPU has loaded, and for how long at most, in milliseconds.
const LOADING_LOOK_MS: u64 = 200;
const LOADING_WAIT_MS_MAX: u64 = 10_000;
/// The place whose worker is started first.
const FIRST: usize = 0;

/// See the module.
pub struct DeviceActor;

#[derive(Clone)]
pub struct DeviceArgs {
    pub device: DeviceId,
    pub engine: Arc<Engine>,
    pub board: Arc<Board>,
    pub groups: Arc<GroupTable>,
    /// The binary that is run as a worker, and its arguments.
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub setup: WorkerSetup,
    /// Whether a second worker is to be kept.
    pub standby: bool,
    /// Where the lanes' sockets are read: the API thread.
    pub io: Handle,
}

/// What a device actor is told.
#[derive(RactorMessage)]
pub enum DeviceMessage {
    /// By the supervising thread of one of its places.
    Worker(WorkerEvent),
    /// By a lane's reader or the scheduler: the worker that has this lane is not sound. Legal at any time; a dead worker is
    /// not killed twice, and its successor is not to blame.
    ReplaceWorker { lane: LaneId, reason: String },
    /// By itself, after a pause: start the next worker in this place.
    Start(usize),
    /// By the thread that watches GPUs, after each look.
    Health(Health),
}

pub struct DeviceRun {
    args: DeviceArgs,
    /// One, or two with a standby; none while it is being dropped.
    places: Vec<Place>,
    /// Starts so far, in all places.
    incarnations: u64,
    /// How long the next one has waited for another worker to load.
    waited_ms: u64,
    /// Lanes of the worker that serves, and who reads their sockets.
    lanes: Vec<LaneId>,
    readers: Vec<JoinHandle<()>>,
    /// What the worker that serves said of its models.
    serving: Vec<LaneReport>,
    history: History,
    standby_history: History,
    standby: StandbyStatus,
    /// Since its GPU went bad; `None` = in service.
    quarantine: Option<Quarantine>,
    gpu_history: History,
}

impl DeviceRun {
    /// The place whose worker serves.
    fn server(&self) -> Option<usize> {
        self.places.iter().position(|place| matches!(place.stage, Stage::Serving))
    }

    fn start(&mut self, at: usize) -> Result<(), ActorProcessingErr> {
        let standby = self.server().is_some();
        let spec = WorkerSpec {
            program: self.args.program.clone(),
            arguments: self.args.arguments.clone(),
            setup: WorkerSetup { standby, ..self.args.setup.clone() },
            slab: Arc::clone(&self.args.engine.slab),
            ready_ms_max: match &self.args.setup.gpu {
                Some(gpu) if gpu.provider == GpuProvider::Tensorrt => COMPILED_MS_MAX,
                Some(_) | None if standby => STANDBY_READY_MS_MAX,
                Some(_) | None => READY_MS_MAX,
            },
        };
        let place = self.places.get_mut(at).ok_or("the device is being given up")?;
        if !place.is_free() {
            return Ok(());
        }
        self.incarnations += 1;
        place.start(self.incarnations, spec)?;
        place.is_second = standby;
        Ok(())
    }

    /// Whether the next start has to wait, but not for ever: two workers that load at once on one GPU would each take the
    /// other's memory for their own.
    fn has_to_wait(&mut self) -> bool {
        let loads = self.places.iter().any(|place| matches!(place.stage, Stage::Loading));
        let waits = self.args.setup.gpu.is_some() && loads && self.waited_ms < LOADING_WAIT_MS_MAX;
        self.waited_ms = if waits { self.waited_ms + LOADING_LOOK_MS } else { 0 };
        waits
    }

    fn spawned(&mut self, at: usize, pid: u32) {
        self.places[at].pid = Some(pid);
        if self.server().is_none() {
            self.args.board.spawned(self.args.device.0, pid);
        }
        // It was ordered a moment before its GPU went bad, when there was no process to kill yet.
        if self.quarantine.is_some() || matches!(self.places[at].stage, Stage::Ending) {
            self.places[at].kill();
        }
    }

    fn ready(
        &mut self,
        me: &ActorRef<DeviceMessage>,
        at: usize,
        worker: ReadyWorker,
    ) -> Result<(), ActorProcessingErr> {
        if self.quarantine.is_some() || !matches!(self.places[at].stage, Stage::Loading) {
            return Ok(());
        }
        if self.server().is_none() {
            return self.serve(me, at, worker);
        }
        let device = &self.args.setup.device;
        match place::lacks(&worker.report.lanes, &self.serving) {
            None => {
                tracing::info!(device, "a standby worker is ready");
                self.places[at].stage = Stage::Waiting(worker);
                self.standby.note = None;
            }
            Some(lacking) => {
                tracing::warn!(device, lacking, "no standby worker: it lacks a model that the serving one has");
                self.standby.note = Some(format!("it lacks a model that the serving one has: {lacking}"));
                self.places[at].kill();
            }
        }
        Ok(())
    }

    /// Jobs go to this worker from now on.
    fn serve(
        &mut self,
        me: &ActorRef<DeviceMessage>,
        at: usize,
        worker: ReadyWorker,
    ) -> Result<(), ActorProcessingErr> {
        let ReadyWorker { report, lanes, groups } = worker;
        self.places[at].stage = Stage::Serving;
        self.remember(&report);
        self.serving = report.lanes.clone();
        let args = &self.args;
        let mut broken = Vec::new();
        for note in &report.notes {
            tracing::warn!(device = args.setup.device, "{note}");
        }
        for (lane_report, socket) in report.lanes.into_iter().zip(lanes) {
            let socket = Arc::new(socket);
            let mut models = Vec::new();
            for (index, model) in (0_u32..).zip(lane_report.models) {
                match (model.outcome, args.engine.models.find(&model.name)) {
                    (Ok(measured), Some(info)) => models.push(LaneModel {
                        key: info.key,
                        index,
                        load_ms: model.load_ms,
                        variant: Name::cut(&measured.variant),
                        profile: measured.profile,
                        placement: model.placement.bounded(),
                    }),
                    (Ok(_), None) => broken.push((model.name, "not in the node's repository".to_owned())),
                    (Err(reason), _) => {
                        tracing::error!(device = args.setup.device, model = model.name, reason, "model not loaded");
                        broken.push((model.name, reason));
                    }
                }
            }
            let lane = args.engine.open_lane(
                args.device,
                &args.setup.device,
                lane_report.modality,
                Arc::clone(&socket),
                models,
            );
            self.lanes.push(lane);
            let (engine, me) = (Arc::clone(&args.engine), me.clone());
            self.readers.push(args.io.spawn(async move {
                if let Err(reason) = lane_reader::read(&engine, lane, socket).await {
                    let _ = me.cast(DeviceMessage::ReplaceWorker { lane, reason });
                }
            }));
        }
        args.board.ready(args.device.0, self.places[at].pid, broken, report.notes);
        self.args.groups.sit(&self.args.setup.device, groups);
        tracing::info!(device = args.setup.device, "ready");
        self.order_standby()
    }

    /// Starts a worker beside the one that serves, if one is wanted, there is a place for it, and its memory is there.
    fn order_standby(&mut self) -> Result<(), ActorProcessingErr> {
        let Some(at) = self.places.iter().position(|place| matches!(place.stage, Stage::Empty)) else { return Ok(()) };
        if let Err(reason) = memory::fits_twice(self.args.setup.gpu.as_ref(), &self.serving) {
            tracing::warn!(device = self.args.setup.device, reason, "no standby worker");
            self.standby.note = Some(reason);
            return Ok(());
        }
        self.start(at)
    }

    /// Keeps what was measured for the next worker.
    fn remember(&mut self, report: &WorkerReport) {
        for (lane, reported) in self.args.setup.lanes.iter_mut().zip(&report.lanes) {
            for (model, reported) in lane.models.iter_mut().zip(&reported.models) {
                model.known = reported.outcome.as_ref().ok().cloned();
            }
        }
    }

    async fn exited(
        &mut self,
        me: &ActorRef<DeviceMessage>,
        at: usize,
        reason: &str,
    ) -> Result<(), ActorProcessingErr> {
        let stage = std::mem::replace(&mut self.places[at].stage, Stage::Empty);
        self.places[at].pid = None;
        match stage {
            Stage::Serving => {}
            Stage::Empty | Stage::Resting => return Ok(()),
            // The device's only hope, whatever it was meant to be.
            Stage::Loading if self.server().is_none() => {}
            Stage::Ending if !self.places[at].is_second && self.server().is_none() => {}
            Stage::Loading | Stage::Waiting(_) | Stage::Ending => {
                self.standby_exited(me, at, &stage, reason);
                return Ok(());
            }
        }
        let why = self.quarantine.as_ref().map_or(reason, |quarantine| &quarantine.reason);
        self.args.groups.leave(&self.args.setup.device, why);
        // What the worker answered before it died still counts.
        for reader in self.readers.drain(..) {
            let _ = tokio::time::timeout(Duration::from_millis(DRAIN_MS_MAX), reader).await;
        }
        self.lanes.clear();
        let (device, board) = (self.args.device, Arc::clone(&self.args.board));
        self.args.engine.lose_device(device);
        if self.quarantine.is_some() {
            board.exited(device.0, DeviceState::Quarantined, reason);
            return Ok(());
        }
        let Verdict::RestartAfter { wait_ms } = self.history.failed(now_ns() / 1_000_000) else {
            board.exited(device.0, DeviceState::Failed, reason);
            return Ok(());
        };
        board.exited(device.0, DeviceState::Restarting, reason);
        tracing::warn!(device = self.args.setup.device, reason, wait_ms, "worker gone; starting another");
        self.places[at].stage = Stage::Resting;
        self.promote(me)?;
        me.send_after(Duration::from_millis(wait_ms), move || DeviceMessage::Start(at));
        Ok(())
    }

    /// Lets the worker that waits serve, if there is one.
    fn promote(&mut self, me: &ActorRef<DeviceMessage>) -> Result<(), ActorProcessingErr> {
        let waiting = self.places.iter_mut().enumerate().find_map(|(at, place)| Some((at, place.take_waiting()?)));
        let Some((at, worker)) = waiting else { return Ok(()) };
        self.standby.promotions += 1;
        // Whoever has an answer of the new one can also see that it took over.
        self.show_standby();
        tracing::info!(device = self.args.setup.device, "the standby worker takes over");
        self.serve(me, at, worker)
    }

    /// A worker is gone that did not serve. Nobody else notices.
    fn standby_exited(&mut self, me: &ActorRef<DeviceMessage>, at: usize, stage: &Stage, reason: &str) {
        if matches!(stage, Stage::Ending) {
            // Killed in a quarantine, or because it will not do: the next is tried beside the next worker that serves.
            return;
        }
        self.standby.note = Some(reason.to_owned());
        let device = &self.args.setup.device;
        let Verdict::RestartAfter { wait_ms } = self.standby_history.failed(now_ns() / 1_000_000) else {
            tracing::error!(device, reason, "standby worker given up");
            return;
        };
        self.standby.restarts = self.standby_history.restarts;
        tracing::warn!(device, reason, wait_ms, "standby worker gone; starting another");
        self.places[at].stage = Stage::Resting;
        me.send_after(Duration::from_millis(wait_ms), move || DeviceMessage::Start(at));
    }

    /// Tells the board where the second worker stands.
    fn show_standby(&mut self) {
        if !self.args.standby {
            return;
        }
        let server = self.server();
        let second = self.places.iter().enumerate().find_map(|(at, place)| match place.stage {
            Stage::Waiting(_) => Some((StandbyState::Ready, place.pid)),
            Stage::Loading if server.is_some_and(|server| server != at) => Some((StandbyState::Loading, place.pid)),
            Stage::Empty | Stage::Resting | Stage::Loading | Stage::Serving | Stage::Ending => None,
        });
        (self.standby.state, self.standby.pid) = second.unwrap_or_default();
        self.args.board.set_standby(self.args.device.0, self.standby.clone());
    }

    fn place_of(&self, incarnation: u64) -> Option<usize> {
        self.places.iter().position(|place| place.is_of(incarnation))
    }

    async fn worker(&mut self, me: &ActorRef<DeviceMessage>, event: WorkerEvent) -> Result<(), ActorProcessingErr> {
        let (WorkerEvent::Spawned { incarnation, .. }
        | WorkerEvent::Ready { incarnation, .. }
        | WorkerEvent::Exited { incarnation, .. }) = event;
        let Some(at) = self.place_of(incarnation) else { return Ok(()) };
        match event {
            WorkerEvent::Spawned { pid, .. } => self.spawned(at, pid),
            WorkerEvent::Ready { report, lanes, groups, .. } => {
                self.ready(me, at, ReadyWorker { report, lanes, groups })?;
            }
            WorkerEvent::Exited { reason, .. } => self.exited(me, at, &reason).await?,
        }
        Ok(())
    }

    fn replace(&mut self, lane: LaneId, reason: &str) {
        let Some(server) = self.server().filter(|_| self.lanes.contains(&lane)) else { return };
        tracing::warn!(device = self.args.setup.device, reason, "replacing the worker");
        self.args.board.blame(self.args.device.0, reason);
        self.places[server].kill();
    }
}

impl Actor for DeviceActor {
    type Msg = DeviceMessage;
    type State = DeviceRun;
    type Arguments = DeviceArgs;

    async fn pre_start(&self, me: ActorRef<DeviceMessage>, args: DeviceArgs) -> Result<DeviceRun, ActorProcessingErr> {
        let mut places: Vec<Place> = Vec::new();
        for _ in 0..=u8::from(args.standby) {
            places.push(Place::new(&args.setup.device, me.clone())?);
        }
        let (board, device, node) = (Arc::clone(&args.board), args.device.0, args.engine.node);
        let answering: Answering = Arc::new(move |question| match question {
            "describe" => {
                let mut status = serde_json::to_value(board.devices().get(device as usize)?).ok()?;
                status["node"] = node.as_str().into();
                Some(status.to_string())
            }
            _ => None,
        });
        Actor::spawn_linked(None, Envoy, (Subject::Device, answering), me.get_cell()).await?;
        let mut run = DeviceRun {
            args,
            places,
            incarnations: 0,
            waited_ms: 0,
            lanes: Vec::new(),
            readers: Vec::new(),
            serving: Vec::new(),
            history: History::new(Part::Worker),
            standby_history: History::new(Part::Standby),
            standby: StandbyStatus::default(),
            quarantine: None,
            gpu_history: History::new(Part::Gpu),
        };
        run.start(FIRST)?;
        run.show_standby();
        Ok(run)
    }

    async fn handle(
        &self,
        me: ActorRef<DeviceMessage>,
        message: DeviceMessage,
        run: &mut DeviceRun,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DeviceMessage::Start(at) => {
                let is_due = matches!(run.places[at].stage, Stage::Resting);
                if !run.may_start() {
                    // Ordered before its GPU went bad: the next comes when it is well.
                    run.places[at].stage.no_start_is_coming();
                } else if is_due && run.has_to_wait() {
                    me.send_after(Duration::from_millis(LOADING_LOOK_MS), move || DeviceMessage::Start(at));
                } else if is_due {
                    run.start(at)?;
                }
            }
            DeviceMessage::Health(health) => run.healed_or_not(&me, health),
            DeviceMessage::ReplaceWorker { lane, reason } => run.replace(lane, &reason),
            DeviceMessage::Worker(event) => run.worker(&me, event).await?,
        }
        run.show_standby();
        Ok(())
    }
}

/// However the actor ends (a failure skips its `post_stop`), its workers go with it, and what they held is given back only
/// after that.
impl Drop for DeviceRun {
    fn drop(&mut self) {
        self.places.iter_mut().for_each(Place::kill);
        self.places.clear();
        self.args.groups.leave(&self.args.setup.device, "its device's actor ended");
        self.args.engine.lose_device(self.args.device);
    }
}
