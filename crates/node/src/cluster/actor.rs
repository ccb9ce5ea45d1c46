//! The cluster actor: owns the pure membership and does what it says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::{NodeServer, RactorMessage};
use sensorium_cluster::{Command, Event, Hello, LoadEntry, LoadReport, Membership, ModelId, NodeId, Standing};
use sensorium_device::clock::now_ns;
use sensorium_transport::Dialer;
use sensorium_wire::peer::HelloHeader;
use sensorium_wire::{Name, Principal, Tier, frame};
use tokio::runtime::Handle;

use super::control::{Control, ControlPlane, Plane};
use super::envoy::{Answering, Envoy, Subject};
use super::{Cluster, rollcall};
use crate::gateway::Gateway;

/// Longest message between remote actors, in bytes; they carry questions, never jobs.
const REMOTE_MESSAGE_BYTES_MAX: u64 = 256 << 10;
/// Pause before a job connection is dialled again, in milliseconds.
const LINK_PAUSE_MS: u64 = 50;
const LINK_PAUSE_MS_MAX: u64 = 1_000;
const CLOSE_LOST: u32 = 5;

/// See the module.
pub struct ClusterActor;

#[derive(Clone)]
pub struct ClusterArgs {
    pub cluster: Arc<Cluster>,
    pub gateway: Arc<Gateway>,
    pub plane: Plane,
    /// Dials control connections, on the cluster thread.
    pub control: Dialer,
    /// Dials job connections, on the API thread.
    pub jobs: Dialer,
    /// The cluster thread's runtime.
    pub io: Handle,
    /// Answers questions about this node.
    pub answering: Answering,
}

/// From control connections and its own timer.
#[derive(RactorMessage)]
pub enum ClusterMessage {
    Tick,
    Judge { hello: Box<HelloHeader>, principal: Principal, reply: RpcReplyPort<Result<NodeId, String>> },
    Connected(Control),
    Disconnected { control: Control, reason: String },
    DialFailed { peer: NodeId, reason: String },
    Report { peer: NodeId, report: LoadReport },
}

pub struct ClusterState {
    args: ClusterArgs,
    membership: Membership,
    plane: ControlPlane,
    connections: HashMap<NodeId, Control>,
    /// Standings of the view before, to notice who has become silent.
    standings: HashMap<NodeId, Standing>,
    commands: Vec<Command>,
    rollcall: tokio::task::JoinHandle<()>,
}

impl Drop for ClusterState {
    fn drop(&mut self) {
        self.rollcall.abort();
    }
}

impl Actor for ClusterActor {
    type Msg = ClusterMessage;
    type State = ClusterState;
    type Arguments = ClusterArgs;

    async fn pre_start(
        &self,
        me: ActorRef<ClusterMessage>,
        args: ClusterArgs,
    ) -> Result<ClusterState, ActorProcessingErr> {
        let belongs = args.cluster.membership.clone().ok_or("a node that is alone has no cluster actor")?;
        let instance: u64 = rand::random();
        let membership = Membership::new(&belongs.topology, &belongs.name, instance, rand::random())?;
        let name = &belongs.topology.cluster;
        // TLS has proven who is who; the cookie only keeps clusters apart. No node is dialled behind our back.
        let server = NodeServer::new(
            0,
            name.clone(),
            belongs.name.clone(),
            "localhost".to_owned(),
            None,
            Some(NodeConnectionMode::Isolated),
        )
        .with_listen_addr([127, 0, 0, 1].into())
        .with_max_inbound_frame_size(REMOTE_MESSAGE_BYTES_MAX);
        let (remote_actors, _) = Actor::spawn_linked(None, server, (), me.get_cell()).await?;
        Actor::spawn_linked(None, Envoy, (Subject::Node, Arc::clone(&args.answering)), me.get_cell()).await?;
        let spec = membership.view(now_ns()).me;
        let hello = HelloHeader {
            instance,
            cluster: Name::cut(name),
            name: Name::cut(&spec.name),
            region: Name::cut(&spec.region),
            tier: spec.tier as u8,
            ..HelloHeader::default()
        };
        let plane = ControlPlane { actor: me.clone(), remote_actors, hello };
        *args.plane.lock() = Some(plane.clone());
        for parent in args.cluster.parents() {
            args.cluster.io.spawn(keep_link(
                Arc::clone(&args.cluster),
                Arc::clone(&args.gateway),
                args.jobs.clone(),
                parent,
                me.clone(),
            ));
        }
        let rollcall = tokio::spawn(rollcall::repeat(Arc::clone(&args.cluster)));
        me.cast(ClusterMessage::Tick)?;
        Ok(ClusterState {
            args,
            membership,
            plane,
            connections: HashMap::new(),
            standings: HashMap::new(),
            commands: Vec::new(),
            rollcall,
        })
    }

    async fn handle(
        &self,
        me: ActorRef<ClusterMessage>,
        message: ClusterMessage,
        state: &mut ClusterState,
    ) -> Result<(), ActorProcessingErr> {
        let now = now_ns();
        match message {
            ClusterMessage::Tick => {
                state.membership.set_load(state.load());
                state.step(now, Event::Tick);
                let next_ns = state.membership.next_tick_ns().saturating_sub(now_ns()).max(1_000_000);
                me.send_after(Duration::from_nanos(next_ns), || ClusterMessage::Tick);
            }
            ClusterMessage::Judge { hello, principal, reply } => {
                let judged = judge(&state.membership, now, &hello, &principal);
                let _ = reply.send(judged);
            }
            ClusterMessage::Connected(control) => {
                let (peer, instance) = (control.peer, control.instance);
                if let Some(before) = state.connections.insert(peer, control) {
                    before.connection.close(CLOSE_LOST.into(), b"a newer connection takes its place");
                }
                state.step(now, Event::Connected { peer, instance });
            }
            ClusterMessage::Disconnected { control: Control { peer, instance, connection }, reason } => {
                let same = |known: &Control| known.connection.stable_id() == connection.stable_id();
                if state.connections.get(&peer).is_some_and(same) {
                    state.connections.remove(&peer);
                }
                // Membership counts connections: it hears of the end of each one that it heard of.
                state.step(now, Event::Disconnected { peer, instance, reason });
            }
            ClusterMessage::DialFailed { peer, reason } => state.step(now, Event::DialFailed { peer, reason }),
            ClusterMessage::Report { peer, report } => state.step(now, Event::Report { peer, report }),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<ClusterMessage>,
        event: SupervisionEvent,
        _state: &mut ClusterState,
    ) -> Result<(), ActorProcessingErr> {
        // The envoy and ractor_cluster's server live as long as this actor: it starts again with new ones.
        match crate::actors::ended(event) {
            Some((_, reason)) => Err(format!("remote actors: {reason}").into()),
            None => Ok(()),
        }
    }

    async fn post_stop(
        &self,
        _me: ActorRef<ClusterMessage>,
        state: &mut ClusterState,
    ) -> Result<(), ActorProcessingErr> {
        for control in state.connections.values() {
            control.connection.close(0_u32.into(), b"the node stopped");
        }
        Ok(())
    }
}

fn judge(membership: &Membership, now_ns: u64, hello: &HelloHeader, principal: &Principal) -> Result<NodeId, String> {
    let tier: Tier = hello.tier().ok_or_else(|| format!("{} names tier {}, which is none", hello.name, hello.tier))?;
    let hello = Hello {
        cluster: hello.cluster.to_string(),
        name: hello.name.to_string(),
        tier,
        region: hello.region.to_string(),
        instance: hello.instance,
        version: frame::VERSION,
    };
    membership.greet(now_ns, &hello, &principal.name, principal.tier).map_err(|refusal| refusal.to_string())
}

impl ClusterState {
    /// What this node offers now.
    fn load(&self) -> Vec<LoadEntry> {
        let cluster = &self.args.cluster;
        let us = |ns: u64| u32::try_from(ns / 1000).unwrap_or(u32::MAX);
        let entries = cluster.engine.load().into_iter().map(|load| {
            let outlook = load.outlook;
            let queue_ns = outlook.expected_ns.saturating_sub(outlook.own_ns);
            LoadEntry {
                model: ModelId::of(&load.model.name, 0),
                node: cluster.id,
                tier: cluster.tier,
                hops: 0,
                service_us: us(outlook.sure_ns.saturating_sub(queue_ns)),
                typical_us: us(outlook.own_ns),
                queue_us: us(queue_ns),
                way_us: 0,
            }
        });
        entries.collect()
    }

    fn step(&mut self, now_ns: u64, event: Event) {
        let mut commands = std::mem::take(&mut self.commands);
        self.membership.handle(now_ns, event, &mut commands);
        let mut changed = false;
        for command in commands.drain(..) {
            match command {
                Command::Dial { peer } => self.dial(peer),
                Command::Close { peer, reason } => {
                    if let Some(control) = self.connections.remove(&peer) {
                        control.connection.close(CLOSE_LOST.into(), reason.as_bytes());
                    }
                }
                Command::Send { peer, report } => {
                    if let Some(control) = self.connections.get(&peer) {
                        control.report(&report);
                    }
                }
                Command::Changed => changed = true,
                Command::Notice { peer, text } => {
                    tracing::info!(node = self.args.cluster.name_of(peer), "{text}");
                }
            }
        }
        self.commands = commands;
        if changed {
            self.publish(now_ns);
        }
    }

    fn dial(&self, peer: NodeId) {
        let view = self.args.cluster.view.load();
        let known = self.args.cluster.neighbours();
        drop(view);
        let Some(spec) = known.into_iter().find(|spec| spec.id() == peer) else { return };
        self.args.io.spawn(self.plane.clone().dial(self.args.control.clone(), spec));
    }

    fn publish(&mut self, now_ns: u64) {
        let view = self.membership.view(now_ns);
        let mut silent = Vec::new();
        for neighbour in &view.neighbours {
            let peer = neighbour.spec.id();
            let before = self.standings.insert(peer, neighbour.standing);
            if before == Some(Standing::Alive) && neighbour.standing != Standing::Alive {
                silent.push(peer);
            }
        }
        self.args.cluster.publish(view);
        // After the new view is out: what they have is given to others, who are chosen by it.
        for peer in silent {
            self.args.cluster.give_up_on(peer);
        }
    }
}

/// Keeps the job connection to a parent for as long as the cluster actor lives.
async fn keep_link(
    cluster: Arc<Cluster>,
    gateway: Arc<Gateway>,
    dialer: Dialer,
    parent: sensorium_cluster::NodeSpec,
    actor: ActorRef<ClusterMessage>,
) {
    let peer = parent.id();
    let mut pause_ms = LINK_PAUSE_MS;
    while actor.get_status() != ractor::ActorStatus::Stopped {
        if cluster.stands(peer, Standing::Alive)
            && let Ok(connecting) = dialer.dial(parent.peer)
            && let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_millis(LINK_PAUSE_MS_MAX), connecting).await
        {
            match sensorium_transport::peer_principal(&connection) {
                Ok(principal) if NodeId::of(&principal.name) == peer => {
                    pause_ms = LINK_PAUSE_MS;
                    cluster.link(peer, &connection);
                    gateway.serve_node(connection.clone(), principal).await;
                    cluster.unlink(peer, &connection);
                }
                other => {
                    let shown = other.map_or_else(|error| error.to_string(), |principal| principal.name);
                    tracing::warn!(node = parent.name, "its job port answers with another certificate: {shown}");
                    connection.close(CLOSE_LOST.into(), b"another node was expected here");
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        pause_ms =
            if cluster.stands(peer, Standing::Alive) { (pause_ms * 2).min(LINK_PAUSE_MS_MAX) } else { LINK_PAUSE_MS };
    }
}
