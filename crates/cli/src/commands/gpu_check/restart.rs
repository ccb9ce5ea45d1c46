//! How soon a worker that was killed is back.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sensorium_device::protocol::{LaneSetup, ModelSetup, WorkerReport, WorkerSetup};
use sensorium_device::slab::{Slab, default_classes};
use sensorium_device::supervise::{WorkerEvent, WorkerSpec, WorkerSupervisor};
use sensorium_models::manifest::Precision;
use sensorium_wire::Modality;

use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

/// A worker may take so long to load its models, in milliseconds.
const READY_MS_MAX: u64 = 60_000;
/// How often it is killed.
const KILLS: usize = 3;

pub(crate) fn run(paths: &Paths, target: &Target, _: &Path) -> anyhow::Result<Finding> {
    let slab = Slab::create(&default_classes())?;
    let mut spec = WorkerSpec {
        program: std::env::current_exe()?,
        arguments: vec!["worker".to_owned(), "--parent".to_owned(), std::process::id().to_string()],
        setup: setup(paths, target, slab.memory_bytes())?,
        slab,
        ready_ms_max: READY_MS_MAX,
    };
    let (events, told) = mpsc::channel();
    let supervisor = WorkerSupervisor::launch("gpu-check", move |event| {
        let _ = events.send(event);
    })?;
    let mut finding = Finding::default();
    let began = Instant::now();
    supervisor.start(0, spec.clone()).map_err(anyhow::Error::msg)?;
    let (report, mut lanes) = ready(&told)?;
    finding.note("first_ready_ms", milliseconds(began));
    let broken = report.lanes.iter().flat_map(|lane| &lane.models).find_map(|model| {
        let error = model.outcome.as_ref().err()?;
        Some(format!("{}: {error}", model.name))
    });
    finding.expect(broken.is_none(), || broken.clone().unwrap_or_default());
    remember(&mut spec.setup, &report);
    let mut back_ms: Vec<f64> = Vec::new();
    for incarnation in 1..=KILLS {
        let began = Instant::now();
        supervisor.kill();
        exited(&told)?;
        supervisor.start(u64::try_from(incarnation)?, spec.clone()).map_err(anyhow::Error::msg)?;
        // The lanes of the one before are open until here: a worker whose lanes close ends by itself.
        lanes = ready(&told)?.1;
        back_ms.push(milliseconds(began));
    }
    drop(lanes);
    back_ms.sort_by(f64::total_cmp);
    finding.note("kills", KILLS);
    finding.note("back_ms_median", back_ms[KILLS / 2]);
    finding.note("back_ms_longest", back_ms[KILLS - 1]);
    Ok(finding)
}

fn setup(paths: &Paths, target: &Target, slab_bytes: u64) -> anyhow::Result<WorkerSetup> {
    let packages = target.packages(paths)?;
    let lanes = Modality::ALL.map(|modality| LaneSetup {
        modality,
        models: packages
            .iter()
            .filter(|package| package.manifest.modality == modality)
            .map(|package| ModelSetup { name: package.manifest.name.clone(), precision: Precision::Fp32, known: None })
            .collect(),
    });
    Ok(WorkerSetup {
        device: format!("{}:0", target.kind()),
        gpu: target.gpu.clone(),
        cpus: Vec::new(),
        nice: 0,
        onnxruntime: target.library.clone(),
        repositories: paths.repositories.clone(),
        weights: paths.weights(),
        slab_bytes,
        lanes: lanes.into_iter().filter(|lane| !lane.models.is_empty()).collect(),
        groups: Vec::new(),
        injection: None,
        standby: false,
    })
}

/// What was measured is not measured again, as in a node.
fn remember(setup: &mut WorkerSetup, report: &WorkerReport) {
    for (lane, reported) in setup.lanes.iter_mut().zip(&report.lanes) {
        for (model, reported) in lane.models.iter_mut().zip(&reported.models) {
            model.known = reported.outcome.as_ref().ok().cloned();
        }
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn next(told: &mpsc::Receiver<WorkerEvent>) -> anyhow::Result<WorkerEvent> {
    told.recv_timeout(Duration::from_millis(READY_MS_MAX)).context("nothing was heard of the worker")
}

fn ready(told: &mpsc::Receiver<WorkerEvent>) -> anyhow::Result<(WorkerReport, Vec<OwnedFd>)> {
    loop {
        match next(told)? {
            WorkerEvent::Spawned { .. } => {}
            WorkerEvent::Ready { report, lanes, .. } => return Ok((report, lanes)),
            WorkerEvent::Exited { reason, .. } => bail!("the worker ended before it was ready: {reason}"),
        }
    }
}

fn exited(told: &mpsc::Receiver<WorkerEvent>) -> anyhow::Result<()> {
    match next(told)? {
        WorkerEvent::Exited { .. } => Ok(()),
        WorkerEvent::Spawned { .. } | WorkerEvent::Ready { .. } => bail!("a worker that was killed goes on"),
    }
}
