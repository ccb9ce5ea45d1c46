//! The rules that every topology keeps.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use sensorium_wire::Tier;
use sensorium_wire::principal::is_plain_name;

use super::error::nearest;
use super::{
    NODE_NAME_BYTES_MAX, NODES_MAX, NodeSpec, PARENTS_MAX, TIMING_MS_MAX, TIMING_MS_MIN, Timing, Topology,
    TopologyError,
};
use crate::NodeId;

/// Names come first, so that later complaints can name nodes; loops before tiers, because a loop is the better answer.
pub(super) fn check(topology: &Topology) -> Result<(), TopologyError> {
    if !is_plain_name(&topology.cluster) {
        return Err(TopologyError::ClusterName { name: topology.cluster.clone() });
    }
    timing(&topology.timing)?;
    if let Some(tier) = Tier::ALL.into_iter().find(|tier| topology.cost.of(*tier) == 0) {
        return Err(TopologyError::NoCost { tier });
    }
    if topology.nodes.is_empty() {
        return Err(TopologyError::NoNodes);
    }
    if topology.nodes.len() > NODES_MAX {
        return Err(TopologyError::TooManyNodes { nodes: topology.nodes.len() });
    }
    let by_name = names(&topology.nodes)?;
    addresses(&topology.nodes)?;
    for node in &topology.nodes {
        parents(node, &by_name)?;
    }
    no_loop(&topology.nodes, &by_name)?;
    topology.nodes.iter().try_for_each(|node| tiers(node, &by_name))?;
    Ok(super::source::check(topology)?)
}

type ByName<'a> = BTreeMap<&'a str, &'a NodeSpec>;

fn timing(timing: &Timing) -> Result<(), TopologyError> {
    let Timing { report_ms, suspect_ms, lost_ms } = *timing;
    for (key, ms) in [("report_ms", report_ms), ("suspect_ms", suspect_ms), ("lost_ms", lost_ms)] {
        if !(TIMING_MS_MIN..=TIMING_MS_MAX).contains(&ms) {
            return Err(TopologyError::TimingRange { key, ms });
        }
    }
    if report_ms < suspect_ms && suspect_ms < lost_ms {
        Ok(())
    } else {
        Err(TopologyError::TimingOrder { report_ms, suspect_ms, lost_ms })
    }
}

fn names(nodes: &[NodeSpec]) -> Result<ByName<'_>, TopologyError> {
    let mut by_name = ByName::new();
    let mut by_id: BTreeMap<NodeId, &str> = BTreeMap::new();
    for node in nodes {
        if !is_plain_name(&node.name) || node.name.len() > NODE_NAME_BYTES_MAX {
            return Err(TopologyError::NodeName { name: node.name.clone() });
        }
        if !is_plain_name(&node.region) {
            return Err(TopologyError::Region { node: node.name.clone(), region: node.region.clone() });
        }
        if by_name.insert(node.name.as_str(), node).is_some() {
            return Err(TopologyError::NameTwice { name: node.name.clone() });
        }
        if let Some(first) = by_id.insert(node.id(), &node.name) {
            return Err(TopologyError::SameId { first: first.to_owned(), second: node.name.clone() });
        }
    }
    Ok(by_name)
}

fn addresses(nodes: &[NodeSpec]) -> Result<(), TopologyError> {
    let mut taken: BTreeMap<SocketAddr, (&str, &'static str)> = BTreeMap::new();
    for node in nodes {
        for (role, address) in [("api", node.api), ("peer", node.peer)] {
            if address.port() == 0 {
                return Err(TopologyError::NoPort { node: node.name.clone(), role, address });
            }
            if let Some((first, first_role)) = taken.insert(address, (&node.name, role)) {
                let (first, second) = (first.to_owned(), node.name.clone());
                return Err(TopologyError::AddressTwice { address, first, first_role, second, second_role: role });
            }
        }
    }
    Ok(())
}

fn parents(node: &NodeSpec, by_name: &ByName<'_>) -> Result<(), TopologyError> {
    if node.parents.len() > PARENTS_MAX {
        return Err(TopologyError::TooManyParents { node: node.name.clone(), parents: node.parents.len() });
    }
    for (at, parent) in node.parents.iter().enumerate() {
        let (node_name, parent_name) = (node.name.clone(), parent.clone());
        if *parent == node.name {
            return Err(TopologyError::OwnParent { node: node_name });
        }
        if node.parents[..at].contains(parent) {
            return Err(TopologyError::ParentTwice { node: node_name, parent: parent_name });
        }
        if !by_name.contains_key(parent.as_str()) {
            let others = by_name.keys().copied().filter(|name| *name != node.name);
            let nearest = nearest(parent, others).map(str::to_owned);
            return Err(TopologyError::UnknownParent { node: node_name, parent: parent_name, nearest });
        }
    }
    Ok(())
}

/// Walks from every node towards the roots. A node whose ancestors are all known to be without a loop is not walked
/// again, so the work is bounded by the number of edges.
fn no_loop(nodes: &[NodeSpec], by_name: &ByName<'_>) -> Result<(), TopologyError> {
    let mut done: BTreeMap<&str, ()> = BTreeMap::new();
    for start in nodes {
        // The way from `start`, and for each node on it how many of its parents were looked at.
        let mut way: Vec<(&NodeSpec, usize)> = vec![(start, 0)];
        while let Some((node, looked_at)) = way.last_mut() {
            let node: &NodeSpec = node;
            let Some(parent) = node.parents.get(*looked_at) else {
                done.insert(&node.name, ());
                way.pop();
                continue;
            };
            *looked_at += 1;
            if done.contains_key(parent.as_str()) {
                continue;
            }
            if let Some(at) = way.iter().position(|(on_way, _)| on_way.name == *parent) {
                let mut through: Vec<String> = way[at..].iter().map(|(node, _)| node.name.clone()).collect();
                through.push(parent.clone());
                return Err(TopologyError::Loop { through });
            }
            way.extend(by_name.get(parent.as_str()).map(|parent| (*parent, 0)));
        }
    }
    Ok(())
}

fn tiers(node: &NodeSpec, by_name: &ByName<'_>) -> Result<(), TopologyError> {
    let parents = node.parents.iter().filter_map(|parent| by_name.get(parent.as_str()));
    let lower = |parent: &&&NodeSpec| parent.tier <= node.tier;
    parents.clone().find(lower).map_or(Ok(()), |parent| {
        Err(TopologyError::ParentTier {
            node: node.name.clone(),
            tier: node.tier,
            parent: parent.name.clone(),
            parent_tier: parent.tier,
        })
    })
}
