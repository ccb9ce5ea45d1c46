//! `sensorium node`.

use std::process::ExitCode;

use anyhow::Context;
use sensorium_node::{Node, NodeConfig, NodeOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::NodeArguments;
use crate::error::Outcome;
use crate::paths::Paths;

pub(crate) fn run(paths: &Paths, arguments: &NodeArguments) -> Outcome {
    let mut config = match &arguments.config {
        Some(path) => NodeConfig::read(path)?,
        None => NodeConfig::default(),
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
        repositories,
        weights: paths.weights(),
        program: std::env::current_exe().context("the path of this binary")?,
        worker_arguments: vec!["worker".to_owned(), "--parent".to_owned(), std::process::id().to_string()],
        ffmpeg: "ffmpeg".into(),
        host_name: host_name(),
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
                            Ok(()) => tracing::info!("ready"),
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
    let left = node.shutdown();
    if left > 0 {
        anyhow::bail!("{left} jobs were not answered in time");
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
