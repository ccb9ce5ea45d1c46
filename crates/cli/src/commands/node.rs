//! `sensorium node`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use sensorium_cluster::Topology;
use sensorium_node::{Membership, Node, NodeConfig, NodeOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::NodeArguments;
use crate::error::Outcome;
use crate::notify;
use crate::paths::Paths;

pub(crate) fn run(paths: &Paths, arguments: &NodeArguments) -> Outcome {
    let (mut config, membership) = match (&arguments.config, &arguments.cluster) {
        (Some(path), _) => (NodeConfig::read(path)?, None),
        (None, Some(path)) => member(path, arguments.name.as_deref())?,
        (None, None) => (NodeConfig::default(), None),
    };
    if let Some(listen) = arguments.listen {
        config.listen = listen;
    }
    if let Some(listen) = arguments.listen_cluster {
        config.listen_cluster = listen;
    }
    let repositories = if config.models.is_empty() || paths.repositories_given {
        paths.repositories.clone()
    } else {
        config.models.clone()
    };
    let options = NodeOptions {
        config,
        data: paths.data.clone(),
        onnxruntime: paths.onnxruntime.clone(),
        onnxruntime_gpu: paths.onnxruntime_gpu.clone(),
        kernels: paths.kernels(),
        repositories,
        weights: paths.weights(),
        engines: paths.cache.join("tensorrt"),
        program: std::env::current_exe().context("the path of this binary")?,
        worker_arguments: vec!["worker".to_owned(), "--parent".to_owned(), std::process::id().to_string()],
        guard_arguments: vec!["guard".to_owned(), "--".to_owned()],
        ffmpeg: "ffmpeg".into(),
        host_name: host_name(),
        membership,
    };
    let mut node = Node::start(options)?;
    tracing::info!(name = node.file.name, api = %node.file.api, cluster = %node.file.cluster, data = %paths.data.root().display(), "listening; devices are loading models");
    let ready = super::block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut told = false;
        loop {
            let tick = tokio::time::sleep(std::time::Duration::from_millis(20));
            tokio::select! {
                _ = terminate.recv() => return Ok::<_, anyhow::Error>(None),
                _ = interrupt.recv() => return Ok(None),
                reason = node.wait_for_fatal() => return Ok(Some(reason)),
                () = tick, if !told => {
                    if let Some(outcome) = node.readiness() {
                        told = true;
                        match outcome {
                            Ok(()) => {
                                tracing::info!("ready");
                                notify::tell(notify::State::Ready);
                            }
                            Err(reason) => return Ok(Some(format!("no device became ready: {reason}"))),
                        }
                    }
                }
            }
        }
    })??;
    if let Some(reason) = ready {
        node.shutdown();
        anyhow::bail!("{reason}");
    }
    tracing::info!("stopping: answering what was accepted");
    notify::tell(notify::State::Stopping);
    let left = node.shutdown();
    if left > 0 {
        anyhow::bail!("{left} jobs were not answered in time");
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The configuration of one node of a cluster. Without a name it is the host's.
fn member(path: &Path, name: Option<&str>) -> anyhow::Result<(NodeConfig, Option<Membership>)> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let topology = Topology::parse(&text).with_context(|| path.display().to_string())?;
    let name = name.map_or_else(host_name, str::to_owned);
    let Some(spec) = topology.node(&name) else {
        let known: Vec<_> = topology.nodes.iter().map(|node| node.name.as_str()).collect();
        anyhow::bail!("{}: no node {name:?}; give one with --name: {}", path.display(), known.join(", "));
    };
    let config = NodeConfig::of_member(spec, topology.options_of(&name))
        .with_context(|| format!("{}: options of {name}", path.display()))?;
    Ok((config, Some(Membership { topology, name })))
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
