//! Where a job could go: the pure routing, asked with what this node knows now.

use sensorium_cluster::{Ask, Candidate, Here, ModelId, NodeId, Standing, candidates, rank};
use sensorium_device::clock::now_ns;
use sensorium_wire::{SubmitHeader, limits};
use smallvec::SmallVec;

use super::Cluster;
use super::forward::RESERVE_US;
use super::trips::Origin;
use crate::engine::Caller;

/// Work that takes no longer than this is light: `critical` work of that kind stays on the edge. In microseconds.
const LIGHT_US_MAX: u64 = 30_000;
/// Jobs that may be with one neighbour at once; it grants no more.
const JOBS_WITH_ONE_MAX: usize = limits::JOBS_IN_FLIGHT_MAX as usize;

/// A node that is to have a job, and what that is expected to take, without a margin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) candidate: Candidate,
    pub(super) expected_us: u64,
}

impl Cluster {
    /// Where the job could go, the best first; those in `tried` are left out.
    pub(super) fn ranked(
        &self,
        caller: Caller,
        origin: &Origin,
        header: &SubmitHeader,
        payload_bytes: u64,
        tried: &[NodeId],
    ) -> SmallVec<[Choice; 8]> {
        let view = self.view.load();
        let model = ModelId::of(header.model.as_str(), 0);
        let prospect =
            if tried.contains(&self.id) { None } else { self.engine.prospect(caller, header, payload_bytes) };
        let stream = self.engine.stream(caller, header);
        if let (Some((_, true)), Some(prospect)) = (stream, prospect) {
            // Jobs of this stream are in flight here: one that went elsewhere could overtake them.
            let expected_us = prospect.sure_us;
            return SmallVec::from_slice(&[Choice { candidate: self.own(expected_us), expected_us }]);
        }
        let away = stream.and_then(|(stream, _)| self.trips.lock().node_of(stream));
        let visited: SmallVec<[NodeId; 8]> = origin.visited.iter().chain(tried).copied().collect();
        let light_us = prospect.map_or_else(|| view.typical_us(model), |prospect| Some(prospect.own_us));
        let ask = Ask {
            budget_us: header.budget_us.saturating_sub(RESERVE_US),
            payload_bytes,
            urgency: header.urgency,
            visited: &visited,
            hops_left: u8::try_from(limits::HOPS_MAX.saturating_sub(origin.visited.len())).unwrap_or(0),
            light: light_us.is_some_and(|us| us <= LIGHT_US_MAX),
            stick_to: away,
        };
        // The scheduler would accept it, so by its own margin it is on time here.
        let here = Here { predicted_us: prospect.map(|prospect| prospect.sure_us.min(ask.budget_us)) };
        let rate = |node: NodeId| self.links.get(&node).map_or(0, |link| link.rate_bytes_per_s());
        let mut found = candidates(&view, model, &ask, here, &self.cost, rate);
        let expected = self.foresight.lock().apply(now_ns(), &view, model, ask.budget_us, &mut found);
        found.retain(|candidate| candidate.via.is_none_or(|via| self.links.contains_key(&via) && self.has_room(via)));
        if let Some(node) = away
            && found.iter().any(|candidate| candidate.node == node)
        {
            found.retain(|candidate| candidate.node == node);
        }
        rank(&ask, &mut found);
        let choices = found.into_iter().map(|candidate| {
            let known = expected.iter().find(|(node, _)| *node == candidate.node);
            Choice { candidate, expected_us: known.map_or(candidate.predicted_us, |(_, us)| *us) }
        });
        choices.collect()
    }

    fn own(&self, predicted_us: u64) -> Candidate {
        let (tier, cost) = (self.tier, self.cost.of(self.tier));
        Candidate { node: self.id, via: None, tier, hops: 0, cost, predicted_us, way_us: 0 }
    }

    fn has_room(&self, via: NodeId) -> bool {
        self.trips.lock().count_with(via) < JOBS_WITH_ONE_MAX
    }

    /// Whether a neighbour is not alive, so that what is known of the cluster is not all there is.
    pub(super) fn misses_neighbours(&self) -> bool {
        self.view.load().neighbours.iter().any(|neighbour| neighbour.standing != Standing::Alive)
    }

    /// Whether some node in reach has the model.
    pub fn knows(&self, model: &str) -> bool {
        self.view.load().typical_us(ModelId::of(model, 0)).is_some()
    }
}
