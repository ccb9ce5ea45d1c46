//! The node supervisor: the root of the tree.
//!
//! Owns the parts that a node cannot do without, restarts them by the table in [`crate::restart`], and asks for the
//! node to stop when one of them is beyond repair.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;
use sensorium_device::clock::now_ns;
use tokio::sync::mpsc;

use super::devices::{DeviceSupervisor, DeviceSupervisorArgs};
use super::endpoint::{EndpointActor, EndpointArgs};
use super::groups::{GroupSupervisor, GroupSupervisorArgs};
use super::monitor::{MonitorActor, MonitorArgs};
use super::scheduler::{SchedulerActor, SchedulerArgs};
use super::sessions::{SessionSupervisor, SessionSupervisorArgs};
use super::sources::{SourceSupervisor, SourceSupervisorArgs};
use crate::cluster::{ClusterActor, ClusterArgs};
use crate::engine::Engine;
use crate::restart::{History, Part, Verdict};

/// The root supervisor.
pub struct NodeSupervisor;

/// What it starts its children with.
#[derive(Clone)]
pub struct NodeArgs {
    pub engine: Arc<Engine>,
    pub devices: DeviceSupervisorArgs,
    pub groups: GroupSupervisorArgs,
    pub sessions: SessionSupervisorArgs,
    pub sources: SourceSupervisorArgs,
    pub scheduler: SchedulerArgs,
    pub monitor: MonitorArgs,
    pub gateway: EndpointArgs,
    pub cluster_listener: EndpointArgs,
    /// `None` for a node that is alone.
    pub cluster: Option<ClusterArgs>,
    /// Told why the node must stop.
    pub fatal: mpsc::Sender<String>,
}

/// From the supervisor to itself, after a pause.
#[derive(RactorMessage)]
pub enum NodeMessage {
    Restart(Part),
}

pub struct NodeState {
    args: NodeArgs,
    parts: HashMap<ActorId, Part>,
    histories: HashMap<&'static str, History>,
}

impl NodeState {
    async fn start(&mut self, part: Part, me: ActorCell) -> Result<(), ActorProcessingErr> {
        let args = self.args.clone();
        let id = match part {
            Part::DeviceSupervisor => Actor::spawn_linked(None, DeviceSupervisor, args.devices, me).await?.0.get_id(),
            Part::GroupSupervisor => Actor::spawn_linked(None, GroupSupervisor, args.groups, me).await?.0.get_id(),
            Part::Scheduler => Actor::spawn_linked(None, SchedulerActor, args.scheduler, me).await?.0.get_id(),
            Part::SessionSupervisor => {
                Actor::spawn_linked(None, SessionSupervisor, args.sessions, me).await?.0.get_id()
            }
            Part::Gateway => Actor::spawn_linked(None, EndpointActor, args.gateway, me).await?.0.get_id(),
            Part::ClusterListener => {
                Actor::spawn_linked(None, EndpointActor, args.cluster_listener, me).await?.0.get_id()
            }
            Part::Cluster => match args.cluster {
                Some(cluster) => Actor::spawn_linked(None, ClusterActor, cluster, me).await?.0.get_id(),
                None => return Ok(()),
            },
            Part::Monitor => Actor::spawn_linked(None, MonitorActor, args.monitor, me).await?.0.get_id(),
            Part::SourceSupervisor => Actor::spawn_linked(None, SourceSupervisor, args.sources, me).await?.0.get_id(),
            Part::Worker
            | Part::Standby
            | Part::Gpu
            | Part::DeviceActor
            | Part::Group
            | Part::GroupActor
            | Part::SourceProcess
            | Part::SourceActor
            | Part::Camera => return Ok(()),
        };
        self.parts.insert(id, part);
        Ok(())
    }

    async fn failed(&mut self, part: Part, reason: &str, me: &ActorRef<NodeMessage>) {
        let history = self.histories.entry(name(part)).or_insert_with(|| History::new(part));
        match history.failed(now_ns() / 1_000_000) {
            Verdict::RestartAfter { wait_ms } => {
                tracing::warn!(part = name(part), reason, wait_ms, "failed; restarting");
                me.send_after(Duration::from_millis(wait_ms), move || NodeMessage::Restart(part));
            }
            Verdict::GiveUp => tracing::error!(part = name(part), reason, "failed too often; given up"),
            Verdict::StopNode => {
                let reason = format!("{} failed too often: {reason}", name(part));
                let _ = self.args.fatal.send(reason).await;
            }
        }
    }
}

fn name(part: Part) -> &'static str {
    match part {
        Part::Worker => "worker",
        Part::Standby => "standby worker",
        Part::Gpu => "gpu",
        Part::DeviceActor => "device actor",
        Part::DeviceSupervisor => "device supervisor",
        Part::Group => "group",
        Part::GroupActor => "group actor",
        Part::GroupSupervisor => "group supervisor",
        Part::Scheduler => "scheduler actor",
        Part::Gateway => "gateway",
        Part::ClusterListener => "cluster listener",
        Part::Cluster => "cluster actor",
        Part::SessionSupervisor => "session supervisor",
        Part::Monitor => "monitor actor",
        Part::SourceProcess => "source process",
        Part::SourceSupervisor => "source supervisor",
        Part::SourceActor => "source actor",
        Part::Camera => "camera",
    }
}

impl Actor for NodeSupervisor {
    type Msg = NodeMessage;
    type State = NodeState;
    type Arguments = NodeArgs;

    async fn pre_start(&self, me: ActorRef<NodeMessage>, args: NodeArgs) -> Result<NodeState, ActorProcessingErr> {
        let mut state = NodeState { args, parts: HashMap::new(), histories: HashMap::new() };
        for part in [
            Part::Monitor,
            Part::Scheduler,
            Part::GroupSupervisor,
            Part::DeviceSupervisor,
            Part::SessionSupervisor,
            Part::Gateway,
            Part::Cluster,
            Part::ClusterListener,
            Part::SourceSupervisor,
        ] {
            state.start(part, me.get_cell()).await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<NodeMessage>,
        message: NodeMessage,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NodeMessage::Restart(part) => {
                if let Err(error) = state.start(part, me.get_cell()).await {
                    state.failed(part, &error.to_string(), &me).await;
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<NodeMessage>,
        event: SupervisionEvent,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        let Some((cell, reason)) = super::ended(event) else { return Ok(()) };
        if let Some(part) = state.parts.remove(&cell.get_id()) {
            state.failed(part, &reason, &me).await;
        }
        Ok(())
    }
}
