//! What can be wrong with a topology.

use core::net::SocketAddr;

use sensorium_wire::Tier;
use thiserror::Error;

use super::{NODE_NAME_BYTES_MAX, NODES_MAX, PARENTS_MAX, TIMING_MS_MAX, TIMING_MS_MIN};

/// Why a topology cannot be used, in words for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopologyError {
    #[error("line {line}: {reason}")]
    Toml { line: usize, reason: String },
    #[error("no nodes; at least one [[node]] is expected")]
    NoNodes,
    #[error("{nodes} nodes; at most {NODES_MAX} are expected")]
    TooManyNodes { nodes: usize },
    #[error("cluster = {name:?}: 1 to 64 of a-z A-Z 0-9 . _ - are expected")]
    ClusterName { name: String },
    #[error("node {name:?}: a name of 1 to {NODE_NAME_BYTES_MAX} of a-z A-Z 0-9 . _ - is expected")]
    NodeName { name: String },
    #[error("node {node}: region = {region:?}: 1 to 64 of a-z A-Z 0-9 . _ - are expected")]
    Region { node: String, region: String },
    #[error("node {name} is there twice")]
    NameTwice { name: String },
    #[error("nodes {first} and {second} have the same id; rename one of them")]
    SameId { first: String, second: String },
    #[error("node {node}: {role} = {address}: a port other than 0 is expected, for others to find the node")]
    NoPort { node: String, role: &'static str, address: SocketAddr },
    #[error("{address} is both {first}'s {first_role} and {second}'s {second_role} address")]
    AddressTwice {
        address: SocketAddr,
        first: String,
        first_role: &'static str,
        second: String,
        second_role: &'static str,
    },
    #[error("node {node}: there is no node {parent} for its parent{}", did_you_mean(.nearest.as_deref()))]
    UnknownParent { node: String, parent: String, nearest: Option<String> },
    #[error("node {node} has itself as a parent")]
    OwnParent { node: String },
    #[error("node {node} has the parent {parent} twice")]
    ParentTwice { node: String, parent: String },
    #[error("node {node} has {parents} parents; at most {PARENTS_MAX} are expected")]
    TooManyParents { node: String, parents: usize },
    #[error("parents in a loop: {}", .through.join(" -> "))]
    Loop { through: Vec<String> },
    #[error("node {node} ({}) has the parent {parent} ({}); a higher tier is expected", .tier.name(), .parent_tier.name())]
    ParentTier { node: String, tier: Tier, parent: String, parent_tier: Tier },
    #[error("timing: {key} = {ms}: {TIMING_MS_MIN} to {TIMING_MS_MAX} ms are expected")]
    TimingRange { key: &'static str, ms: u64 },
    #[error(
        "timing: report_ms = {report_ms}, suspect_ms = {suspect_ms}, lost_ms = {lost_ms}: each is expected to be longer \
         than the one before"
    )]
    TimingOrder { report_ms: u64, suspect_ms: u64, lost_ms: u64 },
    #[error("cost: {} = 0: at least 1 is expected", .tier.name())]
    NoCost { tier: Tier },
    #[error("there is no node {name} in this topology{}", did_you_mean(.nearest.as_deref()))]
    UnknownNode { name: String, nearest: Option<String> },
    #[error(transparent)]
    Source(#[from] super::SourceError),
}

impl TopologyError {
    pub(super) fn toml(text: &str, error: &toml::de::Error) -> Self {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        Self::Toml { line, reason: with_nearest_key(error.message()) }
    }

    /// For a name that `known` does not have.
    pub(crate) fn unknown_node<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        Self::UnknownNode { name: name.to_owned(), nearest: nearest(name, known).map(str::to_owned) }
    }
}

/// The known name that was most probably meant: at most half of its letters differ.
pub(super) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let ranked = known.map(|known| (strsim::damerau_levenshtein(unknown, known), known));
    let bound = unknown.chars().count().div_ceil(2).max(1);
    ranked.min().filter(|(distance, _)| *distance <= bound).map(|(_, known)| known)
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

/// Adds the nearest known key to serde's message about an unknown one.
fn with_nearest_key(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (quoted.next(), message.contains("unknown ")) else { return message.to_owned() };
    let known: Vec<&str> = quoted.collect();
    format!("{message}{}", did_you_mean(nearest(unknown, known.into_iter())))
}
