//! Where a job goes: a prediction for each node that could run it, and an order among them.
//!
//! ```text
//! predicted = link round trip + way + bytes / rate + queue + service        for a node reached through a neighbour
//! predicted = what the scheduler of this node says                          for this node
//! ```
//!
//! Link round trip, way (from the neighbour to the node and back), queue and service (the 99th percentile of one job
//! alone) are those of [`View`]; the rate is what was last measured towards the neighbour. A payload passes through nodes as
//! it comes, so its transfer is counted once. The result's transfer is not: results are small.
//!
//! Nothing here remembers anything, and nothing is promised: the node that a job is handed to decides again, by its own
//! view, with what is left of the budget. That ends, because a job knows where it was and how often it may be handed on.

use sensorium_wire::{Tier, Urgency};
use smallvec::SmallVec;

use crate::{HOPS_MAX, LoadEntry, ModelId, Neighbour, NodeId, Standing, TierCost, View};

/// How much of the budget a prediction for another node may take, in thousandths. The rest is for what reports are too
/// old to know: predictions for this node need no such margin.
pub const REMOTE_BUDGET_PERMILLE_MAX: u64 = 900;
/// A stream stays with the node of its last job while that costs at most so many times what the best choice costs.
pub const STICKY_COST_TIMES_MAX: u64 = 2;
/// Counted while a neighbour's rate is not known, in bytes per second: 1 Gbit/s. With less, large jobs would not be sent to
/// where nothing was measured, and nothing ever would be.
pub const RATE_UNKNOWN_BYTES_PER_S: u64 = 125_000_000;

/// The candidates for a job. Few, so that none is allocated in most cases; at most one per node of the cluster.
pub type Candidates = SmallVec<[Candidate; 8]>;

/// A node that could run the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    /// The neighbour to hand the job to; `None` = it stays here.
    pub via: Option<NodeId>,
    pub tier: Tier,
    /// How often the job would be handed on; 0 = it stays here.
    pub hops: u8,
    pub cost: u32,
    /// From now until the answer is back here, in microseconds.
    pub predicted_us: u64,
    /// The part of it that is the round trip to `node`, in microseconds.
    pub way_us: u32,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What is left, in microseconds.
    pub budget_us: u64,
    pub payload_bytes: u64,
    pub urgency: Urgency,
    /// The nodes that the job has been at. This one need not be among them.
    pub visited: &'a [NodeId],
    /// How often the job may still be handed on, at most [`HOPS_MAX`].
    pub hops_left: u8,
    /// Whether the model is one that an edge node runs with ease.
    pub light: bool,
    /// Where the stream's last job ran.
    pub stick_to: Option<NodeId>,
}

/// What this node's scheduler says of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    /// `None` = it cannot be on time here, or there is no such model.
    pub predicted_us: Option<u64>,
}

/// The nodes that could run a job of `model`, in no particular order, also those that would be late. For each node the
/// fastest way to it. `rate_bytes_per_s` is what was measured towards a neighbour; 0 = not known.
///
/// Only neighbours that are alive and whose distance is known are counted, and no job is handed to where it was.
pub fn candidates(
    view: &View,
    model: ModelId,
    ask: &Ask<'_>,
    here: Here,
    cost: &TierCost,
    rate_bytes_per_s: impl Fn(NodeId) -> u64,
) -> Candidates {
    let me = view.me.id();
    let mut found = Candidates::new();
    let hops_left = ask.hops_left.min(HOPS_MAX);
    let usable = |neighbour: &&Neighbour| {
        hops_left > 0
            && neighbour.standing == Standing::Alive
            && neighbour.round_trip_us > 0
            && !ask.visited.contains(&neighbour.id())
    };
    for neighbour in view.neighbours.iter().filter(usable) {
        let via = neighbour.id();
        let mut transfer_us = None;
        let possible = |entry: &&LoadEntry| {
            entry.model == model && entry.hops < hops_left && entry.node != me && !ask.visited.contains(&entry.node)
        };
        for entry in neighbour.entries.iter().filter(possible) {
            let transfer_us =
                *transfer_us.get_or_insert_with(|| transfer_us_of(ask.payload_bytes, rate_bytes_per_s(via)));
            let way_us = neighbour.round_trip_us.saturating_add(entry.way_us);
            let run_us = u64::from(way_us) + u64::from(entry.queue_us) + u64::from(entry.service_us);
            found.push(Candidate {
                node: entry.node,
                via: Some(via),
                tier: entry.tier,
                hops: entry.hops + 1,
                cost: cost.of(entry.tier),
                predicted_us: run_us.saturating_add(transfer_us),
                way_us,
            });
        }
    }
    // Of several ways to one node, the fastest, then the one with the fewest hops.
    found.sort_unstable_by_key(|candidate| (candidate.node, candidate.predicted_us, candidate.hops, candidate.via));
    found.dedup_by_key(|candidate| candidate.node);
    if let Some(predicted_us) = here.predicted_us {
        let tier = view.me.tier;
        let cost = cost.of(tier);
        found.push(Candidate { node: me, via: None, tier, hops: 0, cost, predicted_us, way_us: 0 });
    }
    found
}

/// Removes those that would be late and puts the others in the order of preference: the first is the choice, the second
/// the fallback.
///
/// | urgency | order |
/// |---|---|
/// | `critical`, light model | this node, then lower tiers before higher |
/// | `critical` otherwise, `high` | lower tiers before higher, so central only when neither edge nor regional meets |
/// | `standard`, `batch` | lowest cost |
///
/// Ties go to the earlier answer, then to the lower [`NodeId`]. A node that the stream is to stick to comes first, unless
/// it costs more than [`STICKY_COST_TIMES_MAX`] times what the first does; `critical` work on a light model does not stick.
pub fn rank(ask: &Ask<'_>, candidates: &mut Candidates) {
    let remote_us_max = u128::from(ask.budget_us) * u128::from(REMOTE_BUDGET_PERMILLE_MAX) / 1000;
    candidates.retain(|candidate| match candidate.via {
        Some(_) => u128::from(candidate.predicted_us) <= remote_us_max,
        None => candidate.predicted_us <= ask.budget_us,
    });
    candidates.sort_unstable_by_key(|candidate| {
        let remote = candidate.via.is_some();
        let first = match ask.urgency {
            Urgency::Critical if ask.light => (u32::from(remote), candidate.tier as u32),
            Urgency::Critical | Urgency::High => (candidate.tier as u32, 0),
            Urgency::Standard | Urgency::Batch => (candidate.cost, 0),
        };
        (first, candidate.predicted_us, candidate.node)
    });
    let Some(first) = candidates.first() else { return };
    if ask.urgency == Urgency::Critical && ask.light {
        return;
    }
    let cost_max = u64::from(first.cost) * STICKY_COST_TIMES_MAX;
    let sticky = |candidate: &Candidate| Some(candidate.node) == ask.stick_to && u64::from(candidate.cost) <= cost_max;
    if let Some(at) = candidates.iter().position(sticky) {
        candidates[..=at].rotate_right(1);
    }
}

fn transfer_us_of(bytes: u64, rate_bytes_per_s: u64) -> u64 {
    let rate = if rate_bytes_per_s == 0 { RATE_UNKNOWN_BYTES_PER_S } else { rate_bytes_per_s };
    u64::try_from(u128::from(bytes) * 1_000_000 / u128::from(rate)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
