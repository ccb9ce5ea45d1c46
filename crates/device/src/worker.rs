//! The worker process: one device, run for the node that started it.
//!
//! It holds only what can be rebuilt. Each lane has a thread, a socket and model sessions of its own; a lane's thread
//! waits for a batch, runs it, and answers. When the node is gone the worker goes too.

mod descriptors;
mod lane;
mod memory_policy;
mod noting;
mod priority;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use sensorium_models::ModelError;
use sensorium_models::repository::Repository;
use thiserror::Error;

use crate::backend::{Backend, BackendError, CpuBackend, CudaBackend, CudaDevice};
use crate::group::member;
use crate::protocol::{CONTROL_LINE_BYTES_MAX, LaneReport, WorkerReport, WorkerSetup};
use crate::slab::SharedMemory;

/// The control stream.
pub const CONTROL_FD: i32 = 3;
/// The payload memory.
pub const SLAB_FD: i32 = 4;
/// The first lane's socket; the others follow, then those of groups.
pub const FIRST_LANE_FD: i32 = 5;

/// Why a worker cannot work.
#[derive(Debug, Error)]
pub enum WorkerError {
    #[error("the worker command is started by a node, not by hand")]
    NotInherited,
    #[error("the node that started this worker is gone")]
    Orphaned,
    #[error("setup: {0}")]
    Setup(String),
    #[error("control stream: {0}")]
    Control(#[from] io::Error),
    #[error("models: {0}")]
    Models(#[from] ModelError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("lane: {0}")]
    Lane(String),
}

/// Runs the worker until the node ends it. `parent` is the node's process id.
///
/// # Errors
/// [`WorkerError`]. A lane that is told nonsense ends the process too: its node is not sound.
pub fn run(parent: u32) -> Result<(), WorkerError> {
    // Asked for first: if the node dies from here on, so do we. The check covers a node that was quicker.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get().unsigned_abs()) != Some(parent) {
        return Err(WorkerError::Orphaned);
    }
    let mut control = UnixStream::from(descriptors::inherited(CONTROL_FD).ok_or(WorkerError::NotInherited)?);
    let setup = read_setup(&control)?;
    settle(&setup);
    let lowered = if setup.standby { priority::Lowered::now() } else { None };
    let slab = descriptors::inherited(SLAB_FD).ok_or(WorkerError::NotInherited)?;
    let memory = Arc::new(SharedMemory::map(slab, setup.slab_bytes)?);
    let gpu = match &setup.gpu {
        Some(gpu) => Some(CudaDevice::open(&setup.onnxruntime, gpu)?),
        None => None,
    };
    if let Some(gpu) = &gpu
        && let Err(error) = gpu.read_from(Arc::clone(&memory))
    {
        tracing::warn!(%error, "payload memory is not pinned");
    }
    if gpu.is_none() && setup.injection.as_ref().is_some_and(|inject| inject.illegal_on_prefix.is_some()) {
        tracing::warn!(device = setup.device, "illegal_on_prefix of [inject] is for GPUs and does nothing here");
    }
    let repository = Arc::new(Repository::open(&setup.repositories, &setup.weights)?);
    let mut sockets = Vec::new();
    for (fd, _) in (FIRST_LANE_FD..).zip(0..setup.lanes.len() + setup.groups.len()) {
        sockets.push(descriptors::inherited(fd).ok_or(WorkerError::NotInherited)?);
    }
    let groups = sockets.split_off(setup.lanes.len());

    let setup = Arc::new(setup);
    let (reports, lanes_ready) = mpsc::channel();
    let (ended, lane_ended) = mpsc::channel();
    for (number, socket) in sockets.into_iter().enumerate() {
        let backend: Box<dyn Backend> = match &gpu {
            Some(gpu) => Box::new(CudaBackend::new(gpu, setup.lanes[number].modality)?),
            None => Box::new(CpuBackend::open(&setup.onnxruntime)?),
        };
        spawn_lane(number, socket, backend, &setup, &memory, &repository, &reports, &ended)?;
    }
    drop(reports);

    let mut lanes: Vec<(usize, LaneReport)> = lanes_ready.iter().collect();
    if lanes.len() != setup.lanes.len() {
        return Err(WorkerError::Lane("a lane ended while it was loading".to_owned()));
    }
    lanes.sort_by_key(|(number, _)| *number);
    if let Some(lowered) = lowered {
        lowered.raise();
    }
    let lanes: Vec<LaneReport> = lanes.into_iter().map(|(_, report)| report).collect();
    let notes = gpu.as_ref().and_then(|gpu| gpu.note()).map(str::to_owned);
    let of_models = lanes.iter().flat_map(|lane| &lane.models).filter_map(|model| model.note.clone());
    let notes = notes.into_iter().chain(of_models).collect();
    let report = WorkerReport { lanes, notes };
    for (name, socket) in setup.groups.iter().zip(groups) {
        spawn_member(name, socket, gpu.clone())?;
    }
    let mut line = serde_json::to_vec(&report).map_err(io::Error::from)?;
    line.push(b'\n');
    control.write_all(&line)?;

    // The node says nothing more; the end of its stream is the end of this process.
    let watch = control.try_clone()?;
    let control_ended = ended.clone();
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        let _ = (&watch).read(&mut [0]);
        let _ = control_ended.send(Ok(()));
    })?;
    drop(ended);
    lane_ended.recv().unwrap_or(Ok(())).map_err(WorkerError::Lane)
}

#[expect(clippy::too_many_arguments, reason = "one caller; everything a lane's thread takes along")]
fn spawn_lane(
    number: usize,
    socket: OwnedFd,
    mut backend: Box<dyn Backend>,
    setup: &Arc<WorkerSetup>,
    memory: &Arc<SharedMemory>,
    repository: &Arc<Repository>,
    reports: &mpsc::Sender<(usize, LaneReport)>,
    ended: &mpsc::Sender<Result<(), String>>,
) -> io::Result<()> {
    let (setup, memory, repository) = (Arc::clone(setup), Arc::clone(memory), Arc::clone(repository));
    let (reports, ended) = (reports.clone(), ended.clone());
    let name = setup.lanes[number].modality.name();
    thread::Builder::new().name(format!("lane {name}")).spawn(move || {
        let mut lane = lane::Lane::load(&setup.lanes[number], &repository, &mut *backend, setup.standby);
        let _ = reports.send((number, lane.report()));
        drop(reports);
        let injection = setup.injection.clone().unwrap_or_default();
        let _ = ended.send(lane.run(&socket, &memory, &injection, &*backend));
    })?;
    Ok(())
}

/// A group's thread. Its end is no reason to end the worker: lanes do not need it, and the node sees the socket close.
fn spawn_member(name: &str, socket: OwnedFd, gpu: Option<Arc<CudaDevice>>) -> io::Result<()> {
    let group = name.to_owned();
    thread::Builder::new().name(format!("group {name}")).spawn(move || {
        if let Err(error) = member::run(&socket, gpu.as_ref()) {
            tracing::error!(group, %error, "no member any more");
        }
    })?;
    Ok(())
}

fn read_setup(control: &UnixStream) -> Result<WorkerSetup, WorkerError> {
    let mut line = String::new();
    BufReader::new(control.try_clone()?.take(CONTROL_LINE_BYTES_MAX)).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(|error| WorkerError::Setup(error.to_string()))
}

/// Takes the place that the node planned: niceness, memory and cores. Best effort, as a container may forbid either.
fn settle(setup: &WorkerSetup) {
    if let Err(error) = rustix::process::nice(setup.nice) {
        tracing::debug!(nice = setup.nice, %error, "niceness not set");
    }
    if let Some(node) = setup.gpu.as_ref().and_then(|gpu| gpu.numa_node)
        && let Err(error) = memory_policy::prefer(node)
    {
        tracing::debug!(node, %error, "memory is taken from any NUMA node");
    }
    if setup.cpus.is_empty() {
        return;
    }
    let mut set = CpuSet::new();
    for cpu in setup.cpus.iter().filter(|cpu| (**cpu as usize) < CpuSet::MAX_CPU) {
        set.set(*cpu as usize);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(cpus = ?setup.cpus, %error, "not kept on its cores");
    }
}
