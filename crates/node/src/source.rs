//! Sources: cameras and microphones that nodes open themselves.
//!
//! ```text
//! SourceActor ─ own: asks the grantor for the lease, renews it ─▶ session/live.rs: ffmpeg, parts ─▶ Ring ─▶ watchers
//! ```
//! Every node knows all sources of its cluster: those that it may open, and of the others whom to ask.

mod own;
mod ring;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use sensorium_cluster::{NodeId, NodeSpec, SourceSpec};
use sensorium_device::clock::now_ns;
use sensorium_wire::{Principal, Role};
use serde::Serialize;

use crate::cluster::Cluster;

pub(crate) use own::{OwnSetting, own};
pub(crate) use ring::Ring;
pub(crate) use watch::serve;

/// Watchers of a node.
pub(crate) const WATCHERS_MAX: usize = 256;

/// What this node has to do with a source.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// The node is alone: it owns the source.
    Alone,
    /// It may own it when this node, which may be itself, gives it the lease. So many others are preferred.
    Candidate { grantor: NodeSpec, rank: usize },
    /// Others may own it.
    Elsewhere,
}

/// One source, as this node knows it.
pub(crate) struct Source {
    pub(crate) spec: SourceSpec,
    pub(crate) place: Place,
    state: Mutex<State>,
    frames: AtomicU64,
    /// When something came from it last; 0 = never.
    gave_ns: AtomicU64,
    reopened: AtomicU64,
    watchers: AtomicUsize,
    /// Events that watchers were not sent.
    missed: AtomicU64,
}

#[derive(Default)]
struct State {
    /// While this node owns it.
    ring: Option<Arc<Ring>>,
    /// Who else owns it, as the grantor said last, and in which epoch.
    other: Option<(NodeId, u64)>,
    /// Why this node does not own it, or why it has nothing from it.
    reason: String,
}

/// A source in the node's status.
#[derive(Clone, Debug, Serialize)]
pub struct SourceStatus {
    pub name: String,
    pub uri: String,
    /// `owned` by this node, `held` by another, `waiting` for its lease, or `elsewhere`: not for this node to open.
    pub standing: &'static str,
    /// The node that owns it, as far as is known here.
    pub owner: Option<String>,
    /// Of the owner's lease; 0 = not known here.
    pub epoch: u64,
    /// Why this node does not own it, or has nothing from it; empty when all is well.
    pub reason: String,
    pub frames: u64,
    /// How long ago something came from it, in milliseconds; absent = nothing yet.
    pub last_ms: Option<u64>,
    /// How often it was opened again.
    pub reopened: u64,
    pub watchers: usize,
    /// Events that watchers here were not sent, because they read too slowly.
    pub missed: u64,
}

impl Source {
    fn new(spec: SourceSpec, place: Place) -> Self {
        Self {
            spec,
            place,
            state: Mutex::default(),
            frames: AtomicU64::new(0),
            gave_ns: AtomicU64::new(0),
            reopened: AtomicU64::new(0),
            watchers: AtomicUsize::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// A frame came.
    pub(crate) fn frame(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    /// Something came.
    pub(crate) fn gave(&self) {
        self.gave_ns.store(now_ns(), Ordering::Relaxed);
    }

    pub(crate) fn reopened(&self) {
        self.reopened.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn away(&self, reason: &str) {
        reason.clone_into(&mut self.state.lock().reason);
    }

    pub(crate) fn up(&self) {
        self.state.lock().reason.clear();
    }

    fn owned(&self, ring: &Arc<Ring>) {
        *self.state.lock() = State { ring: Some(Arc::clone(ring)), ..State::default() };
    }

    fn disowned(&self, other: Option<(NodeId, u64)>, reason: &str) {
        *self.state.lock() = State { ring: None, other, reason: reason.to_owned() };
    }

    fn ring(&self) -> Option<Arc<Ring>> {
        self.state.lock().ring.clone()
    }

    fn status(&self, cluster: &Cluster) -> SourceStatus {
        let state = self.state.lock();
        let gave_ns = self.gave_ns.load(Ordering::Relaxed);
        let granted = cluster.lease_holder(&self.spec.name);
        let (standing, owner, epoch) = match (&state.ring, state.other.or(granted), &self.place) {
            (Some(ring), _, _) => ("owned", Some(cluster.engine.node.to_string()), ring.epoch),
            (None, Some((node, epoch)), _) => ("held", Some(cluster.name_of(node)), epoch),
            (None, None, Place::Elsewhere) => ("elsewhere", None, 0),
            (None, None, _) => ("waiting", None, 0),
        };
        SourceStatus {
            name: self.spec.name.clone(),
            uri: self.spec.shown_uri(),
            standing,
            owner,
            epoch,
            reason: state.reason.clone(),
            frames: self.frames.load(Ordering::Relaxed),
            last_ms: (gave_ns > 0).then(|| now_ns().saturating_sub(gave_ns) / 1_000_000),
            reopened: self.reopened.load(Ordering::Relaxed),
            watchers: self.watchers.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
        }
    }
}

/// All sources that this node knows.
pub(crate) struct Sources {
    by_name: BTreeMap<String, Arc<Source>>,
    cluster: Arc<Cluster>,
    watchers: Arc<()>,
}

impl Sources {
    /// Those of the cluster, or of the configuration of a node that is alone.
    pub(crate) fn new(cluster: Arc<Cluster>, alone: &[SourceSpec]) -> Arc<Self> {
        let places = match cluster.topology() {
            None => alone.iter().map(|spec| (spec.clone(), Place::Alone)).collect(),
            Some((topology, me)) => {
                let place = |spec: &SourceSpec| {
                    let rank = spec.nodes.iter().position(|node| node == me);
                    match (rank, topology.grantor_of(spec)) {
                        (Some(rank), Some(grantor)) => Place::Candidate { grantor: grantor.clone(), rank },
                        _ => Place::Elsewhere,
                    }
                };
                topology.sources.iter().map(|spec| (spec.clone(), place(spec))).collect::<Vec<_>>()
            }
        };
        let named = |(spec, place): (SourceSpec, Place)| (spec.name.clone(), Arc::new(Source::new(spec, place)));
        Arc::new(Self { by_name: places.into_iter().map(named).collect(), cluster, watchers: Arc::default() })
    }

    /// Those that this node may open.
    pub(crate) fn to_open(&self) -> Vec<Arc<Source>> {
        let open = self.by_name.values().filter(|source| !matches!(source.place, Place::Elsewhere));
        open.cloned().collect()
    }

    pub(crate) fn status(&self) -> Vec<SourceStatus> {
        self.by_name.values().map(|source| source.status(&self.cluster)).collect()
    }

    /// A source that this client may watch, and its place among the watchers.
    ///
    /// # Errors
    /// A sentence for the client.
    pub(crate) fn admit(&self, name: &str, principal: &Principal) -> Result<(Arc<Source>, Arc<()>), String> {
        if !principal.has(Role::Submit) {
            return Err("watching a source needs a certificate with the role submit".to_owned());
        }
        let may = |source: &Source| source.spec.tenants.is_empty() || source.spec.tenants.contains(&principal.tenant);
        let Some(source) = self.by_name.get(name) else {
            let theirs = self.by_name.values().filter(|source| may(source));
            let known: Vec<_> = theirs.take(8).map(|source| source.spec.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!("there is no source {name:?}; known are: {known}"));
        };
        if !may(source) {
            return Err(format!("source {name} is not for tenant {}", principal.tenant));
        }
        if Arc::strong_count(&self.watchers) > WATCHERS_MAX {
            return Err(format!("{WATCHERS_MAX} watchers are here, the node's limit; try another node or later"));
        }
        Ok((Arc::clone(source), Arc::clone(&self.watchers)))
    }
}
