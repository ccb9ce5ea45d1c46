//! What is told to a neighbour: what this node offers itself, and what can be reached through it.

use std::collections::BTreeMap;

use super::{Link, Standing};
use crate::{ENTRIES_MAX, HOPS_MAX, LoadEntry, ModelId, NodeId};

/// The entries of a report to `links[to]`: own ones first, then for each model the best offer of others, then the
/// second best.
///
/// Nothing that is offered by the receiver or was learned from it goes back to it, and nothing goes further than a job
/// may. What is offered far away therefore disappears from all views soon after it disappeared from the nearest one, even
/// where there is a loop of several parents.
pub(super) fn entries(own: &[LoadEntry], links: &[Link], to: usize, me: NodeId) -> Vec<LoadEntry> {
    let receiver = links[to].id;
    let mut offers: BTreeMap<ModelId, Vec<LoadEntry>> = BTreeMap::new();
    let others = links.iter().enumerate().filter(|(at, link)| *at != to && is_usable(link));
    for (_, link) in others {
        for entry in &link.entries {
            // The receiver's hops are one more than the sender's, and a job's one more than those that are told.
            let hops = entry.hops.saturating_add(1);
            if hops < HOPS_MAX && entry.node != receiver && entry.node != me {
                let way_us = entry.way_us.saturating_add(link.round_trip_us());
                offers.entry(entry.model).or_default().push(LoadEntry { hops, way_us, ..*entry });
            }
        }
    }
    let best: Vec<[Option<LoadEntry>; 2]> = offers.into_values().map(best_two).collect();
    let others = (0..2).flat_map(|rank| best.iter().filter_map(move |two| two[rank]));
    own.iter().copied().chain(others).take(ENTRIES_MAX).collect()
}

/// Work is sent only to those that are alive and whose distance is known.
fn is_usable(link: &Link) -> bool {
    link.standing == Standing::Alive && link.round_trip_us() > 0
}

/// The offer that would be done first, and the first of another tier, so that the receiver can choose by cost; if there
/// is none, the second.
fn best_two(mut offers: Vec<LoadEntry>) -> [Option<LoadEntry>; 2] {
    offers.sort_by_key(|entry| (done_us(entry), entry.hops, entry.node));
    let Some(first) = offers.first().copied() else { return [None, None] };
    let others = || offers.iter().filter(|entry| entry.node != first.node);
    let second = others().find(|entry| entry.tier != first.tier).or_else(|| others().next());
    [Some(first), second.copied()]
}

fn done_us(entry: &LoadEntry) -> u64 {
    u64::from(entry.way_us) + u64::from(entry.queue_us) + u64::from(entry.service_us)
}
