//! The node's desk: questions and sessions that come through the gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use ractor::ActorRef;
use sensorium_models::ModelPackage;
use sensorium_transport::Payload;
use sensorium_wire::Kind;
use sensorium_wire::codec::put_frame;
use tokio::sync::watch;

use crate::actors::sessions::SessionsMessage;
use crate::board::Board;
use crate::cluster::Cluster;
use crate::data::NodeFile;
use crate::engine::Engine;
use crate::gateway::{Desk, SessionRequest};
use crate::group::GroupTable;
use crate::pins::Pins;
use crate::source::Sources;
use crate::status::NodeStatus;

/// See the module.
pub struct NodeDesk {
    file: NodeFile,
    started: Instant,
    engine: Arc<Engine>,
    cluster: Arc<Cluster>,
    board: Arc<Board>,
    groups: Arc<GroupTable>,
    sources: Arc<Sources>,
    models: String,
    pins: BTreeMap<String, Vec<String>>,
    sessions: Mutex<Option<ActorRef<SessionsMessage>>>,
    running: AtomicUsize,
    /// A clone for each source that is to be closed before the node ends.
    open_sources: Arc<()>,
    stopping: watch::Sender<bool>,
}

impl NodeDesk {
    pub(crate) fn new(
        file: NodeFile,
        sources: Arc<Sources>,
        cluster: Arc<Cluster>,
        (board, groups): (Arc<Board>, Arc<GroupTable>),
        packages: &[ModelPackage],
        pins: Pins,
    ) -> Arc<Self> {
        let manifests: Vec<_> = packages.iter().map(|package| &package.manifest).collect();
        let models = serde_json::to_string(&manifests).unwrap_or_default();
        Arc::new(Self {
            file,
            started: Instant::now(),
            engine: Arc::clone(&cluster.engine),
            cluster,
            board,
            groups,
            sources,
            models,
            pins: pins.into_shown(),
            sessions: Mutex::new(None),
            running: AtomicUsize::new(0),
            open_sources: Arc::default(),
            stopping: watch::Sender::new(false),
        })
    }

    /// The session supervisor is up (again).
    pub fn set_sessions(&self, supervisor: ActorRef<SessionsMessage>) {
        *self.sessions.lock() = Some(supervisor);
    }

    /// Counts a session for as long as the guard lives; `None` when `sessions_max` are running.
    pub fn enter(self: &Arc<Self>, sessions_max: usize) -> Option<SessionGuard> {
        let before = self.running.fetch_add(1, Ordering::SeqCst);
        let guard = SessionGuard(Arc::clone(self));
        (before < sessions_max).then_some(guard)
    }

    pub fn sessions(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Whoever holds it has something to close when the node stops.
    pub(crate) fn closing(&self) -> Arc<()> {
        Arc::clone(&self.open_sources)
    }

    /// Sources that are not closed yet.
    pub fn open_sources(&self) -> usize {
        Arc::strong_count(&self.open_sources) - 1
    }

    /// Jobs that other nodes have.
    pub fn away(&self) -> usize {
        self.cluster.away()
    }

    /// Tells running sessions to end.
    pub fn stop_sessions(&self) {
        self.stopping.send_replace(true);
    }

    /// Becomes true when sessions are to end.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    fn alerts(&self) -> Vec<String> {
        self.board.alerts().into_iter().chain(self.engine.rule_alerts()).collect()
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            name: self.file.name.clone(),
            pid: self.file.pid,
            version: env!("CARGO_PKG_VERSION"),
            api: self.file.api.to_string(),
            peer: self.file.cluster.to_string(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            sessions: self.sessions(),
            alerts: self.alerts(),
            devices: self.board.devices(),
            groups: self.groups.status(),
            engine: self.engine.snapshot(),
            plan: self.engine.plan(),
            pins: self.pins.clone(),
            cluster: self.cluster.status(),
            sources: self.sources.status(),
            edge: self.engine.edge_status(),
        }
    }
}

/// A running session.
pub struct SessionGuard(Arc<NodeDesk>);

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Desk for NodeDesk {
    fn answer(&self, question: &str) -> Option<String> {
        match question {
            "status" => serde_json::to_string(&self.status()).ok(),
            "models" => Some(self.models.clone()),
            _ => None,
        }
    }

    fn open_session(&self, request: SessionRequest) {
        let supervisor = self.sessions.lock().clone();
        let events = request.events.clone();
        let refused = match supervisor {
            Some(supervisor) => supervisor.cast(SessionsMessage::Open(Box::new(request))).is_err(),
            None => true,
        };
        if refused {
            let reason = "the node is starting or stopping; try again in a second";
            let _ = events.push(
                |out| put_frame(out, Kind::Error, 0, &[], reason.len() as u64),
                Payload::Copied(reason.as_bytes()),
            );
            events.finish();
        }
    }
}
