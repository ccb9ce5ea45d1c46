//! The cluster as a node sees it, for status pages.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use sensorium_cluster::{ForesightStatus, Standing};
use sensorium_wire::Tier;
use serde::Serialize;

use super::Cluster;
use super::rollcall::SeenNode;

/// This node's place, and the neighbours it knows.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterStatus {
    pub cluster: String,
    pub tier: Tier,
    pub region: String,
    pub neighbours: Vec<NeighbourStatus>,
    /// Schedulers and devices of nodes in reach, by the node's name, as they said of themselves within the last second.
    pub seen: BTreeMap<String, SeenNode>,
    /// Jobs that other nodes have now.
    pub away: usize,
    pub forwarded: u64,
    pub rerouted: u64,
    pub lost: u64,
    pub stray: u64,
    pub foresight: ForesightStatus,
    /// States of sessions that are kept here, of other nodes and of this one, and their bytes.
    pub checkpoints: usize,
    pub checkpoint_bytes: usize,
    pub checkpoints_sent: u64,
    /// Checkpoints of owners of yesterday.
    pub checkpoints_refused: u64,
    pub sessions_resumed: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct NeighbourStatus {
    pub name: String,
    pub tier: Tier,
    pub region: String,
    pub peer: String,
    /// Whether this node dials it.
    pub parent: bool,
    pub standing: &'static str,
    pub round_trip_us: u32,
    /// Whether jobs can go there now.
    pub linked: bool,
    pub rate_bytes_per_s: u64,
    /// Models in reach that way.
    pub models: usize,
    /// Why it is not alive, where that is known.
    pub reason: String,
}

impl Cluster {
    /// The cluster as this node sees it; `None` when it belongs to none.
    pub fn status(&self) -> Option<ClusterStatus> {
        let membership = self.membership.as_ref()?;
        let view = self.view.load();
        let neighbours = view.neighbours.iter().map(|neighbour| {
            let link = self.links.get(&neighbour.spec.id());
            let mut models: Vec<_> = neighbour.entries.iter().map(|entry| entry.model).collect();
            models.sort_unstable();
            models.dedup();
            NeighbourStatus {
                name: neighbour.spec.name.clone(),
                tier: neighbour.spec.tier,
                region: neighbour.spec.region.clone(),
                peer: neighbour.spec.peer.to_string(),
                parent: neighbour.parent,
                standing: standing(neighbour.standing),
                round_trip_us: neighbour.round_trip_us,
                linked: link.is_some(),
                rate_bytes_per_s: link.map_or(0, |link| link.rate_bytes_per_s()),
                models: models.len(),
                reason: neighbour.reason.clone(),
            }
        });
        let (checkpoints, checkpoint_bytes) = self.sessions.size();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Some(ClusterStatus {
            cluster: membership.topology.cluster.clone(),
            tier: self.tier,
            region: view.me.region.clone(),
            neighbours: neighbours.collect(),
            seen: self.seen.lock().clone(),
            away: self.away(),
            forwarded: count(&self.counters.forwarded),
            rerouted: count(&self.counters.rerouted),
            lost: count(&self.counters.lost),
            stray: count(&self.counters.stray),
            foresight: self.foresight.lock().status(),
            checkpoints,
            checkpoint_bytes,
            checkpoints_sent: count(&self.sessions.sent),
            checkpoints_refused: count(&self.sessions.refused),
            sessions_resumed: count(&self.sessions.resumed),
        })
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Dialling => "dialling",
        Standing::Alive => "alive",
        Standing::Suspect => "suspect",
        Standing::Lost => "lost",
    }
}
