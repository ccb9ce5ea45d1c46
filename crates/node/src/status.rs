//! The node's status as JSON shows it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::board::DeviceStatus;
use crate::cluster::ClusterStatus;
use crate::engine::{EdgeStatus, EngineSnapshot, PlanStatus};
use crate::group::GroupStatus;
use crate::source::SourceStatus;

/// Everything that `sensorium status` shows.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    pub name: String,
    pub pid: u32,
    pub version: &'static str,
    pub api: String,
    /// Address for other nodes.
    pub peer: String,
    pub uptime_ms: u64,
    pub sessions: usize,
    /// What is wrong now, in sentences; empty when all is well.
    pub alerts: Vec<String>,
    pub devices: Vec<DeviceStatus>,
    /// Groups of devices; empty where none is configured.
    pub groups: Vec<GroupStatus>,
    pub engine: EngineSnapshot,
    pub plan: PlanStatus,
    /// Models that are not for all devices, with those that run them.
    pub pins: BTreeMap<String, Vec<String>>,
    /// The cluster as this node sees it; absent for one that is alone.
    pub cluster: Option<ClusterStatus>,
    /// The sources that this node knows, by name.
    pub sources: Vec<SourceStatus>,
    #[serde(flatten)]
    pub edge: EdgeStatus,
}
