//! A device actor: owns one device's worker process and its lanes.
//!
//! A worker that dies, hangs or talks nonsense is killed, reaped and replaced; only after it has been reaped does the
//! scheduler hear of it, so that no memory is given out again while a dying process may still write to it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use sensorium_device::clock::now_ns;
use sensorium_device::protocol::{WorkerReport, WorkerSetup};
use sensorium_device::supervise::{WorkerEvent, WorkerSpec, WorkerSupervisor};
use sensorium_hardware::Health;
use sensorium_scheduler::DeviceId;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::board::{Board, DeviceState};
use crate::cluster::{Answering, Envoy, Subject};
use crate::engine::{Engine, LaneModel};
use crate::group::GroupTable;
use crate::lane_reader;
use crate::restart::{History, Part, Verdict};

/// How long a dead worker's queued answers may take to be read, in milliseconds.
const DRAIN_MS_MAX: u64 = 200;
/// How long a worker may take to load its models, in milliseconds.
const READY_MS_MAX: u64 = 120_000;

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
    /// Where the lanes' sockets are read: the API thread.
    pub io: Handle,
}

/// What a device actor is told.
#[derive(RactorMessage)]
pub enum DeviceMessage {
    /// By its supervising thread.
    Worker(WorkerEvent),
    /// By a lane's reader or the scheduler: the worker is not sound. Legal at any time; a dead worker is not killed
    /// twice.
    ReplaceWorker {
        /// Set by who speaks of one certain worker: its successor is not to blame.
        incarnation: Option<u64>,
        reason: String,
    },
    /// By itself, after a pause: start the next worker.
    Start,
    /// By the thread that watches GPUs, after each look.
    Health(Health),
}

pub struct DeviceRun {
    args: DeviceArgs,
    /// `None` while it is being dropped.
    supervisor: Option<WorkerSupervisor>,
    incarnation: u64,
    readers: Vec<JoinHandle<()>>,
    /// A worker was ordered that has not been reaped.
    is_running: bool,
    history: History,
    /// Since its GPU went bad; `None` = in service.
    quarantine: Option<Quarantine>,
    gpu_history: History,
}

/// A device out of service.
struct Quarantine {
    reason: String,
    /// Its worker is gone.
    is_empty: bool,
    /// The next worker was ordered.
    is_leaving: bool,
}

impl DeviceRun {
    fn start(&mut self) -> Result<(), ActorProcessingErr> {
        self.incarnation += 1;
        self.is_running = true;
        let spec = WorkerSpec {
            program: self.args.program.clone(),
            arguments: self.args.arguments.clone(),
            setup: self.args.setup.clone(),
            slab: Arc::clone(&self.args.engine.slab),
            ready_ms_max: READY_MS_MAX,
        };
        let supervisor = self.supervisor.as_ref().ok_or("the device is being given up")?;
        supervisor.start(self.incarnation, spec).map_err(Into::into)
    }

    fn ready(&mut self, me: &ActorRef<DeviceMessage>, report: WorkerReport, lanes: Vec<OwnedFd>, groups: Vec<OwnedFd>) {
        self.remember(&report);
        let args = &self.args;
        let mut broken = Vec::new();
        for (lane_report, socket) in report.lanes.into_iter().zip(lanes) {
            let socket = Arc::new(socket);
            let mut models = Vec::new();
            for (index, model) in (0_u32..).zip(lane_report.models) {
                match (model.outcome, args.engine.models.find(&model.name)) {
                    (Ok(profile), Some(info)) => {
                        models.push(LaneModel { key: info.key, index, load_ms: model.load_ms, profile });
                    }
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
            let (engine, me, incarnation) = (Arc::clone(&args.engine), me.clone(), Some(self.incarnation));
            self.readers.push(args.io.spawn(async move {
                if let Err(reason) = lane_reader::read(&engine, lane, socket).await {
                    let _ = me.cast(DeviceMessage::ReplaceWorker { incarnation, reason });
                }
            }));
        }
        args.board.ready(args.device.0, broken);
        args.groups.sit(&args.setup.device, groups);
        tracing::info!(device = args.setup.device, "ready");
    }

    /// Keeps what was measured for the next worker.
    fn remember(&mut self, report: &WorkerReport) {
        for (lane, reported) in self.args.setup.lanes.iter_mut().zip(&report.lanes) {
            for (model, reported) in lane.models.iter_mut().zip(&reported.models) {
                model.profile = reported.outcome.as_ref().ok().cloned();
            }
        }
    }

    /// Takes the device out of service when its GPU goes bad, and back when the GPU is well and the worker gone. A worker
    /// that loads its models and runs a made-up job of each is the test that it passes before jobs come again.
    fn healed_or_not(&mut self, me: &ActorRef<DeviceMessage>, health: Health) {
        match (health, &mut self.quarantine) {
            (Health::Healthy, None) => {}
            (Health::Bad(reason), None) => {
                tracing::error!(device = self.args.setup.device, reason, "taken out of service");
                self.args.board.quarantine(self.args.device.0, &reason);
                self.args.board.blame(self.args.device.0, &format!("taken out of service: {reason}"));
                // Between two workers there is nothing to wait for.
                self.quarantine = Some(Quarantine { reason, is_empty: !self.is_running, is_leaving: false });
                if let Some(supervisor) = &self.supervisor {
                    supervisor.kill();
                }
            }
            // It went bad again before the next worker was started.
            (Health::Bad(reason), Some(quarantine)) => {
                quarantine.reason = reason;
                quarantine.is_leaving = false;
            }
            (Health::Healthy, Some(quarantine)) if quarantine.is_empty && !quarantine.is_leaving => {
                let Verdict::RestartAfter { wait_ms } = self.gpu_history.failed(now_ns() / 1_000_000) else {
                    let reason = format!("went bad too often; the last time: {}", quarantine.reason);
                    tracing::error!(device = self.args.setup.device, reason, "given up");
                    // Nothing leaves this: no further worker is ordered.
                    quarantine.is_empty = false;
                    return self.args.board.give_up(self.args.device.0, &reason);
                };
                quarantine.is_leaving = true;
                tracing::warn!(device = self.args.setup.device, wait_ms, "well again; starting a worker");
                me.send_after(Duration::from_millis(wait_ms), || DeviceMessage::Start);
            }
            (Health::Healthy, Some(_)) => {}
        }
    }

    async fn exited(&mut self, me: &ActorRef<DeviceMessage>, reason: &str) {
        let why = self.quarantine.as_ref().map_or(reason, |quarantine| &quarantine.reason);
        self.args.groups.leave(&self.args.setup.device, why);
        // What the worker answered before it died still counts.
        for reader in self.readers.drain(..) {
            let _ = tokio::time::timeout(Duration::from_millis(DRAIN_MS_MAX), reader).await;
        }
        self.is_running = false;
        self.args.engine.lose_device(self.args.device);
        if let Some(quarantine) = &mut self.quarantine {
            quarantine.is_empty = true;
            return self.args.board.exited(self.args.device.0, DeviceState::Quarantined, reason);
        }
        let Verdict::RestartAfter { wait_ms } = self.history.failed(now_ns() / 1_000_000) else {
            return self.args.board.exited(self.args.device.0, DeviceState::Failed, reason);
        };
        tracing::warn!(device = self.args.setup.device, reason, wait_ms, "worker gone; starting another");
        self.args.board.exited(self.args.device.0, DeviceState::Restarting, reason);
        me.send_after(Duration::from_millis(wait_ms), || DeviceMessage::Start);
    }
}

impl Actor for DeviceActor {
    type Msg = DeviceMessage;
    type State = DeviceRun;
    type Arguments = DeviceArgs;

    async fn pre_start(&self, me: ActorRef<DeviceMessage>, args: DeviceArgs) -> Result<DeviceRun, ActorProcessingErr> {
        let address = me.clone();
        let supervisor = WorkerSupervisor::launch(&args.setup.device, move |event| {
            // An actor that is gone has killed its worker when it was dropped.
            let _ = address.cast(DeviceMessage::Worker(event));
        })?;
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
        let history = History::new(Part::Worker);
        let mut run = DeviceRun {
            args,
            supervisor: Some(supervisor),
            incarnation: 0,
            readers: Vec::new(),
            is_running: false,
            history,
            quarantine: None,
            gpu_history: History::new(Part::Gpu),
        };
        run.start()?;
        Ok(run)
    }

    async fn handle(
        &self,
        me: ActorRef<DeviceMessage>,
        message: DeviceMessage,
        run: &mut DeviceRun,
    ) -> Result<(), ActorProcessingErr> {
        let device = run.args.device.0;
        match message {
            DeviceMessage::Start if run.is_running => {}
            // Ordered before its GPU went bad: the next comes when it is well.
            DeviceMessage::Start if run.quarantine.as_ref().is_some_and(|quarantine| !quarantine.is_leaving) => {}
            DeviceMessage::Start => {
                if run.quarantine.take().is_some() {
                    run.args.board.released(device);
                }
                run.start()?;
            }
            DeviceMessage::Health(health) => run.healed_or_not(&me, health),
            DeviceMessage::ReplaceWorker { incarnation: Some(other), .. } if other != run.incarnation => {}
            DeviceMessage::ReplaceWorker { reason, .. } => {
                tracing::warn!(device = run.args.setup.device, reason, "replacing the worker");
                run.args.board.blame(device, &reason);
                if let Some(supervisor) = &run.supervisor {
                    supervisor.kill();
                }
            }
            DeviceMessage::Worker(WorkerEvent::Spawned { incarnation, pid }) => {
                if incarnation == run.incarnation {
                    run.args.board.spawned(device, pid);
                    // It was ordered a moment before its GPU went bad, when there was no process to kill yet.
                    if let (Some(_), Some(supervisor)) = (&run.quarantine, &run.supervisor) {
                        supervisor.kill();
                    }
                }
            }
            DeviceMessage::Worker(WorkerEvent::Ready { incarnation, report, lanes, groups }) => {
                if incarnation == run.incarnation && run.quarantine.is_none() {
                    run.ready(&me, report, lanes, groups);
                }
            }
            DeviceMessage::Worker(WorkerEvent::Exited { incarnation, reason }) => {
                if incarnation == run.incarnation {
                    run.exited(&me, &reason).await;
                }
            }
        }
        Ok(())
    }
}

/// However the actor ends (a failure skips its `post_stop`), its worker goes with it, and what the worker held is given
/// back only after that.
impl Drop for DeviceRun {
    fn drop(&mut self) {
        self.supervisor.take();
        self.args.groups.leave(&self.args.setup.device, "its device's actor ended");
        self.args.engine.lose_device(self.args.device);
    }
}
