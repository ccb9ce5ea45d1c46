//! `sensorium topology`: reads a cluster file, says what is wrong with it, and shows what each node would get.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use sensorium_cluster::Topology;
use sensorium_node::NodeConfig;
use serde_json::{Value, json};

use crate::arguments::TopologyArguments;
use crate::error::Outcome;

/// Largest cluster file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

pub(crate) fn run(arguments: &TopologyArguments) -> Outcome {
    let topology = read(&arguments.file)?;
    for node in &topology.nodes {
        check_options(&topology, &node.name)
            .with_context(|| format!("{}: options of node {}", arguments.file.display(), node.name))?;
    }
    if arguments.json {
        println!("{}", as_json(&topology)?);
    } else {
        lines(&topology).iter().for_each(|line| println!("{line}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads and checks a cluster file, without its nodes' options.
///
/// # Errors
/// With the file's name and what is wrong in it.
pub(super) fn read(path: &Path) -> anyhow::Result<Topology> {
    let name = || path.display().to_string();
    let bytes = std::fs::metadata(path).with_context(name)?.len();
    anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{}: {bytes} bytes; at most {FILE_BYTES_MAX} are read", path.display());
    let text = std::fs::read_to_string(path).with_context(name)?;
    Topology::parse(&text).with_context(name)
}

/// Whether a node would start with what the file gives it.
fn check_options(topology: &Topology, name: &str) -> anyhow::Result<()> {
    let config: NodeConfig = topology.options_of(name).try_into()?;
    Ok(config.check()?)
}

fn as_json(topology: &Topology) -> anyhow::Result<Value> {
    let node = |node: &sensorium_cluster::NodeSpec| {
        anyhow::Ok(json!({
            "name": node.name,
            "tier": node.tier.name(),
            "region": node.region,
            "api": node.api,
            "peer": node.peer,
            "parents": node.parents,
            "options": serde_json::to_value(topology.options_of(&node.name))?,
        }))
    };
    Ok(json!({
        "cluster": topology.cluster,
        "timing": topology.timing,
        "cost": topology.cost,
        "sources": topology.sources.iter().map(|source| json!({
            "name": source.name,
            "uri": source.shown_uri(),
            "nodes": source.nodes,
            "grantor": topology.grantor_of(source).map(|grantor| &grantor.name),
            "lease_ms": source.lease_ms,
            "budget_ms": source.budget_ms,
            "tenants": source.tenants,
        })).collect::<Vec<_>>(),
        "nodes": topology.nodes.iter().map(node).collect::<Result<Vec<_>, _>>()?,
    }))
}

fn lines(topology: &Topology) -> Vec<String> {
    let (timing, cost) = (&topology.timing, &topology.cost);
    let mut lines = vec![
        format!("cluster {}: {} nodes", topology.cluster, topology.nodes.len()),
        format!(
            "load reports every {} ms, suspicion after {} ms, loss after {} ms; cost of a job: edge {}, regional {}, central {}",
            timing.report_ms, timing.suspect_ms, timing.lost_ms, cost.edge, cost.regional, cost.central
        ),
    ];
    let width = topology.nodes.iter().map(|node| node.name.len()).max().unwrap_or(0);
    for node in &topology.nodes {
        let parents = if node.parents.is_empty() { "none".to_owned() } else { node.parents.join(", ") };
        lines.push(format!(
            "{:<width$}  {:<8} {}  api {}  peer {}  parents: {parents}",
            node.name,
            node.tier.name(),
            node.region,
            node.api,
            node.peer
        ));
        for (key, value) in &topology.options_of(&node.name) {
            lines.push(format!("{:<width$}    {key} = {value}", ""));
        }
    }
    for source in &topology.sources {
        lines.push(format!(
            "source {}  {}  opened by: {}  lease of {} ms from {}",
            source.name,
            source.shown_uri(),
            source.nodes.join(", "),
            source.lease_ms,
            topology.grantor_of(source).map_or("nobody", |grantor| &grantor.name)
        ));
    }
    lines
}
