//! The node among others: who is there, where jobs go, and what comes back.
//!
//! ```text
//! gateway, sessions ─▶ Cluster::accept ─┬─▶ this node's engine
//!                                       └─▶ trips ─▶ link (peer/1) ─▶ a neighbour's gateway
//! cluster actor ─ membership ─▶ view (read without locks by accept)
//!       ▲ control/1: greetings, load reports (datagrams), remote actors (ractor_cluster)
//! ```
//!
//! What is decided stands in the pure crate `sensorium-cluster`; here it is carried out. A node without a topology has a
//! `Cluster` too: it is alone, and every job is its own.

mod actor;
mod choose;
mod control;
mod envoy;
mod forward;
mod leases;
mod link;
mod rollcall;
mod serve;
mod sessions;
mod status;
mod trips;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;
use sensorium_cluster::{Foresight, NodeId, NodeSpec, Standing, TierCost, Topology, View};
use sensorium_wire::Tier;
use tokio::runtime::Handle;

use crate::engine::Engine;

pub use actor::{ClusterActor, ClusterArgs};
pub use control::Plane;
pub use envoy::{Answering, Envoy, Subject};
pub use forward::{Accepted, Departure, Passing};
pub use serve::serve;
pub(crate) use sessions::{KeptState, Owned, SessionKey};
pub use status::ClusterStatus;
pub use trips::Origin;

use leases::Leases;
use link::Link;
use rollcall::SeenNode;
use sessions::Sessions;
use trips::Trips;

/// Which node of which cluster this is.
#[derive(Clone, Debug)]
pub struct Membership {
    pub topology: Topology,
    /// The node's name in it.
    pub name: String,
}

/// See the module.
pub struct Cluster {
    pub(crate) engine: Arc<Engine>,
    membership: Option<Membership>,
    id: NodeId,
    tier: Tier,
    cost: TierCost,
    view: ArcSwap<View>,
    /// Connections for jobs, by neighbour.
    links: DashMap<NodeId, Arc<Link>>,
    trips: Mutex<Trips>,
    foresight: Mutex<Foresight>,
    /// What nodes in reach said of themselves last, by name.
    seen: Mutex<BTreeMap<String, SeenNode>>,
    sessions: Sessions,
    leases: Leases,
    counters: Counters,
    /// Where the tasks of links run.
    io: Handle,
}

/// What became of forwarded jobs since the node started.
#[derive(Debug, Default)]
struct Counters {
    forwarded: AtomicU64,
    /// Attempts after the first.
    rerouted: AtomicU64,
    /// Jobs that ended because the node that had them was lost.
    lost: AtomicU64,
    /// Answers that came too late to be of use.
    stray: AtomicU64,
}

impl Cluster {
    /// `io` is the runtime of the API thread: answers of other nodes go from there to clients without another hop.
    pub fn new(engine: Arc<Engine>, membership: Option<Membership>, name: &str, io: Handle) -> Arc<Self> {
        let spec = membership.as_ref().and_then(|membership| membership.topology.node(&membership.name)).cloned();
        let me = spec.unwrap_or_else(|| alone(name));
        let cost = membership.as_ref().map_or_else(TierCost::default, |membership| membership.topology.cost);
        let leases = Leases::new(membership.as_ref());
        Arc::new(Self {
            engine,
            leases,
            membership,
            id: me.id(),
            tier: me.tier,
            cost,
            view: ArcSwap::from_pointee(View { me, neighbours: Vec::new() }),
            links: DashMap::new(),
            trips: Mutex::default(),
            foresight: Mutex::default(),
            seen: Mutex::default(),
            sessions: Sessions::default(),
            counters: Counters::default(),
            io,
        })
    }

    /// Whether there are no others, as far as the configuration goes.
    pub fn is_alone(&self) -> bool {
        self.membership.is_none()
    }

    /// The cluster's file, and this node's name in it.
    pub(crate) fn topology(&self) -> Option<(&Topology, &str)> {
        self.membership.as_ref().map(|membership| (&membership.topology, membership.name.as_str()))
    }

    /// The cluster's name; empty for a node that is alone.
    pub(crate) fn cluster_name(&self) -> &str {
        self.membership.as_ref().map_or("", |membership| &membership.topology.cluster)
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn name_of(&self, node: NodeId) -> String {
        let nodes = self.membership.iter().flat_map(|membership| &membership.topology.nodes);
        nodes.clone().find(|spec| spec.id() == node).map_or_else(|| node.to_string(), |spec| spec.name.clone())
    }

    fn publish(&self, view: View) {
        self.view.store(Arc::new(view));
    }

    fn neighbours(&self) -> Vec<NodeSpec> {
        let membership = self.membership.as_ref();
        membership.map_or_else(Vec::new, |membership| membership.topology.neighbours(&membership.name))
    }

    /// The neighbours that this node dials.
    fn parents(&self) -> Vec<NodeSpec> {
        let view = self.view.load();
        self.neighbours().into_iter().filter(|node| view.me.parents.contains(&node.name)).collect()
    }

    fn is_neighbour(&self, node: NodeId) -> bool {
        self.neighbours().iter().any(|neighbour| neighbour.id() == node)
    }

    fn stands(&self, node: NodeId, standing: Standing) -> bool {
        self.view.load().stands(node, standing)
    }

    /// Jobs can go to this neighbour over this connection.
    fn link(self: &Arc<Self>, peer: NodeId, connection: &quinn::Connection) {
        let link = Link::start(peer, connection.clone(), Arc::clone(self) as Arc<_>, &self.io);
        self.links.insert(peer, link);
    }

    /// The connection has ended: what went over it goes elsewhere.
    fn unlink(&self, peer: NodeId, connection: &quinn::Connection) {
        let same = |link: &Arc<Link>| link.connection.stable_id() == connection.stable_id();
        if self.links.remove_if(&peer, |_, link| same(link)).is_some() {
            self.give_up_on(peer);
        }
    }
}

/// A node that belongs to no cluster: it is its own edge.
fn alone(name: &str) -> NodeSpec {
    let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    NodeSpec {
        name: name.to_owned(),
        tier: Tier::Edge,
        region: String::new(),
        api: nowhere,
        peer: nowhere,
        parents: Vec::new(),
        options: toml::Table::new(),
    }
}
