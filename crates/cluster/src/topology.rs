//! Who belongs to a cluster: one TOML file, the same on every node.
//!
//! Reading is from text that the caller hands over; this crate opens no files. What is read is checked as a whole, so
//! that the rest of the crate can rely on it: names and addresses are unique, and the parents of a node are of a higher
//! tier, which makes the nodes a tree (a node may have several parents, so strictly a graph without loops).

mod check;
mod error;
mod source;

use core::net::SocketAddr;

use sensorium_wire::Tier;
use serde::{Deserialize, Serialize};

pub use error::TopologyError;
pub use source::{
    Input, SOURCE_BUDGET_MS_MAX, SOURCE_BUDGET_MS_MIN, SOURCE_NODES_MAX, SOURCE_TENANTS_MAX, SOURCES_MAX, SourceError,
    SourceSpec, URI_BYTES_MAX, check_alone,
};

/// Most nodes of a cluster.
pub const NODES_MAX: usize = 256;
/// Most parents of a node.
pub const PARENTS_MAX: usize = 4;
/// Longest name of a node, in bytes: it fits into a receipt.
pub const NODE_NAME_BYTES_MAX: usize = 32;
/// Shortest and longest of every time in `[timing]`, in milliseconds.
pub const TIMING_MS_MIN: u64 = 10;
pub const TIMING_MS_MAX: u64 = 60_000;

/// A cluster, as in `cluster/three-tier.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The cluster's name. Nodes of another cluster are refused.
    pub cluster: String,
    #[serde(default)]
    pub timing: Timing,
    #[serde(default)]
    pub cost: TierCost,
    /// Options of every node, in the form of a node's configuration file.
    #[serde(default)]
    pub defaults: toml::Table,
    #[serde(rename = "node", default)]
    pub nodes: Vec<NodeSpec>,
    /// Cameras and microphones that nodes open themselves.
    #[serde(rename = "source", default)]
    pub sources: Vec<SourceSpec>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Unique in the cluster, 1 to 32 of `a-z A-Z 0-9 . _ -`; the name in the node's certificate.
    pub name: String,
    pub tier: Tier,
    /// A label: nodes of one region are near each other.
    pub region: String,
    /// UDP address for clients.
    pub api: SocketAddr,
    /// UDP address for the other nodes.
    pub peer: SocketAddr,
    /// Names of the nodes that this one dials, the preferred first; each of a higher tier.
    #[serde(default)]
    pub parents: Vec<String>,
    /// Options of this node, laid over the topology's `defaults`.
    #[serde(default)]
    pub options: toml::Table,
}

impl NodeSpec {
    #[must_use]
    pub fn id(&self) -> crate::NodeId {
        crate::NodeId::of(&self.name)
    }
}

/// How fast nodes notice each other. `report_ms < suspect_ms < lost_ms`, each 10 to 60,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// Between two load reports to a neighbour, in milliseconds. Default 100.
    pub report_ms: u64,
    /// Silence after which no work is sent to a neighbour, in milliseconds. Default 300.
    pub suspect_ms: u64,
    /// Silence after which a neighbour's connection is given up, in milliseconds. Default 1,000.
    pub lost_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { report_ms: 100, suspect_ms: 300, lost_ms: 1_000 }
    }
}

/// What running a job costs, by tier, in units that mean nothing beyond their ratio. At least 1 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierCost {
    /// Default 1.
    pub edge: u32,
    /// Default 3.
    pub regional: u32,
    /// Default 10.
    pub central: u32,
}

impl Default for TierCost {
    fn default() -> Self {
        Self { edge: 1, regional: 3, central: 10 }
    }
}

impl TierCost {
    #[must_use]
    pub const fn of(&self, tier: Tier) -> u32 {
        match tier {
            Tier::Edge => self.edge,
            Tier::Regional => self.regional,
            Tier::Central => self.central,
        }
    }
}

impl Topology {
    /// Reads and checks a topology.
    ///
    /// # Errors
    /// [`TopologyError`]: what is wrong with which node, and for TOML the line.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        let topology: Self = toml::from_str(text).map_err(|error| TopologyError::toml(text, &error))?;
        check::check(&topology)?;
        Ok(topology)
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeSpec> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The nodes that `name` is connected with: its parents as it lists them, then its children as the file lists them.
    /// Empty for a name that is not of this topology.
    #[must_use]
    pub fn neighbours(&self, name: &str) -> Vec<NodeSpec> {
        let parents = self.node(name).into_iter().flat_map(|node| &node.parents).filter_map(|parent| self.node(parent));
        let children = self.nodes.iter().filter(|node| node.parents.iter().any(|parent| parent == name));
        parents.chain(children).cloned().collect()
    }

    /// The options of a node: `defaults`, and over them its own, table by table. Arrays and other values are replaced
    /// as a whole. For a name that is not of this topology, the defaults.
    #[must_use]
    pub fn options_of(&self, name: &str) -> toml::Table {
        let mut options = self.defaults.clone();
        if let Some(node) = self.node(name) {
            lay_over(&mut options, &node.options);
        }
        options
    }
}

fn lay_over(below: &mut toml::Table, above: &toml::Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
