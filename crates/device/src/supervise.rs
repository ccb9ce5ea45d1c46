//! Starting a worker process, and knowing when it is ready and when it is gone.
//!
//! One thread per device does the blocking work: spawning inside an async task would freeze every connection for as long
//! as the fork takes, and the kernel ties a worker's parent-death signal to the thread that spawned it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::backend::cuda::GpuSetup;
use crate::protocol::{CONTROL_LINE_BYTES_MAX, WorkerReport, WorkerSetup};
use crate::slab::Slab;
use crate::worker::{CONTROL_FD, FIRST_LANE_FD, SLAB_FD};

/// How to start a worker.
#[derive(Clone)]
pub struct WorkerSpec {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub setup: WorkerSetup,
    pub slab: Arc<Slab>,
    /// How long loading may take before the worker is given up, in milliseconds.
    pub ready_ms_max: u64,
}

/// What happened to the worker of one start. `incarnation` is the caller's number for that start.
pub enum WorkerEvent {
    /// The process runs; it is loading.
    Spawned { incarnation: u64, pid: u32 },
    /// Models are loaded and warm; one socket per lane and one per group, in the order of the setup.
    Ready { incarnation: u64, report: WorkerReport, lanes: Vec<OwnedFd>, groups: Vec<OwnedFd> },
    /// It has been reaped: nothing of it touches the slab any more. Sent exactly once per start.
    Exited { incarnation: u64, reason: String },
}

/// The thread that owns a device's worker process.
///
/// Dropping it kills the worker and waits until it has been reaped: afterwards nothing of it touches the slab.
pub struct WorkerSupervisor {
    /// `None` while it is being dropped.
    starts: Option<SyncSender<(u64, WorkerSpec)>>,
    running: Arc<Running>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The worker that runs, as far as those who may kill it need to know.
#[derive(Default)]
struct Running {
    process: Mutex<Option<OwnedFd>>,
    /// No worker is wanted any more: one that is just being spawned is killed as soon as it can be.
    stopping: AtomicBool,
}

impl WorkerSupervisor {
    /// Starts the thread. `notify` is called from it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn launch(device: &str, notify: impl Fn(WorkerEvent) + Send + 'static) -> io::Result<Self> {
        let (starts, orders) = sync_channel(1);
        let running = Arc::new(Running::default());
        let shared = Arc::clone(&running);
        let thread = thread::Builder::new()
            .name(format!("worker {device}"))
            .spawn(move || supervise(&orders, &shared, &notify))?;
        Ok(Self { starts: Some(starts), running, thread: Some(thread) })
    }

    /// Asks for a worker. Only one runs at a time: call it again after `Exited`.
    ///
    /// # Errors
    /// When a start is still waiting or the thread is gone.
    pub fn start(&self, incarnation: u64, spec: WorkerSpec) -> Result<(), &'static str> {
        let starts = self.starts.as_ref().ok_or("the supervising thread is gone")?;
        starts.try_send((incarnation, spec)).map_err(|error| match error {
            TrySendError::Full(_) => "a start is still waiting",
            TrySendError::Disconnected(_) => "the supervising thread is gone",
        })
    }

    /// Kills the running worker, if there is one. `Exited` follows.
    pub fn kill(&self) {
        self.running.kill();
    }

    /// Whether the worker's process runs. One that ended a moment ago does not, although its `Exited` is still to come.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.running.process.lock().as_ref().is_some_and(|pidfd| {
            // Only looks: the supervising thread reaps.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            matches!(rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), look), Ok(None))
        })
    }
}

impl Drop for WorkerSupervisor {
    fn drop(&mut self) {
        self.running.stopping.store(true, Ordering::SeqCst);
        self.starts.take();
        self.running.kill();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Running {
    fn kill(&self) {
        if let Some(pidfd) = &*self.process.lock() {
            // It may have died by itself already; then there is nothing to do.
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

fn supervise(orders: &Receiver<(u64, WorkerSpec)>, running: &Running, notify: &(impl Fn(WorkerEvent) + Send)) {
    while let Ok((incarnation, spec)) = orders.recv() {
        if running.stopping.load(Ordering::SeqCst) {
            return;
        }
        let reason = match run_one(incarnation, &spec, running, notify) {
            Ok(reason) => reason,
            Err(error) => format!("could not be started: {error}"),
        };
        notify(WorkerEvent::Exited { incarnation, reason });
    }
}

/// Runs one worker from spawn to reaping; says how it ended.
fn run_one(
    incarnation: u64,
    spec: &WorkerSpec,
    running: &Running,
    notify: &(impl Fn(WorkerEvent) + Send),
) -> io::Result<String> {
    let (control, worker_control) = UnixStream::pair()?;
    let mut sockets = Vec::new();
    let mut mappings = vec![
        FdMapping { parent_fd: worker_control.into(), child_fd: CONTROL_FD },
        FdMapping { parent_fd: spec.slab.fd().try_clone_to_owned()?, child_fd: SLAB_FD },
    ];
    let socket_count = spec.setup.lanes.len() + spec.setup.groups.len();
    for (child_fd, _) in (FIRST_LANE_FD..).zip(0..socket_count) {
        let (node, worker) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockets.push(node);
        mappings.push(FdMapping { parent_fd: worker, child_fd });
    }
    let mut command = Command::new(&spec.program);
    // A group of its own: Ctrl-C in a terminal is the node's to handle.
    let environment = spec.setup.gpu.as_ref().map(GpuSetup::environment).unwrap_or_default();
    command.args(&spec.arguments).envs(environment).stdin(Stdio::null()).process_group(0);
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    let mut child = command.spawn()?;
    // The mappings hold the worker's ends; without this drop its death would never be seen as an end of file.
    drop(command);

    let pid = child.id();
    let pidfd = rustix::process::Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?)
        .map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
        .transpose()?;
    *running.process.lock() = pidfd;
    if running.stopping.load(Ordering::SeqCst) {
        running.kill();
    }
    notify(WorkerEvent::Spawned { incarnation, pid });
    let groups = sockets.split_off(spec.setup.lanes.len());
    let outcome = converse(incarnation, spec, control, (sockets, groups), notify);
    reap(&mut child, running, outcome)
}

/// Sets the worker up, reports that it is ready, and returns when its control stream ends.
fn converse(
    incarnation: u64,
    spec: &WorkerSpec,
    mut control: UnixStream,
    (lanes, groups): (Vec<OwnedFd>, Vec<OwnedFd>),
    notify: &(impl Fn(WorkerEvent) + Send),
) -> io::Result<()> {
    let mut line = serde_json::to_vec(&spec.setup)?;
    line.push(b'\n');
    control.write_all(&line)?;
    control.set_read_timeout(Some(Duration::from_millis(spec.ready_ms_max.max(1))))?;
    let mut answer = String::new();
    BufReader::new(control.as_fd().try_clone_to_owned().map(UnixStream::from)?)
        .take(CONTROL_LINE_BYTES_MAX)
        .read_line(&mut answer)
        .map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, format!("not ready after {} ms", spec.ready_ms_max))
            }
            _ => error,
        })?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before it was ready"));
    }
    let report = serde_json::from_str(&answer)?;
    notify(WorkerEvent::Ready { incarnation, report, lanes, groups });
    control.set_read_timeout(None)?;
    // A ready worker says nothing more: whatever ends this read is its end.
    let mut byte = [0];
    control.read(&mut byte).map(|_| ())
}

/// Makes sure that the process is gone and says how it ended.
fn reap(child: &mut Child, running: &Running, outcome: io::Result<()>) -> io::Result<String> {
    // The stream can end a moment before the process does; a process that outlives it is of no use.
    let _ = child.kill();
    let status = child.wait()?;
    running.process.lock().take();
    Ok(match outcome {
        Ok(()) => status.to_string(),
        Err(error) => format!("{error} ({status})"),
    })
}
