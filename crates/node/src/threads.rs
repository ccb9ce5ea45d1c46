//! The node's threads. QUIC runs on current_thread runtimes, each on a thread of its own: a flood of clients then cannot
//! delay the word between nodes, and no job waits for a thread of a pool to wake.

use std::io;
use std::thread;

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread that runs a current_thread runtime until it is dropped.
pub(crate) struct RuntimeThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl RuntimeThread {
    /// Starts the thread, kept on `cpus` unless that is empty.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub(crate) fn start(name: &str, cpus: &[u32]) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let cpus = cpus.to_vec();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            pin(&cpus);
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for RuntimeThread {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Keeps the calling thread on `cpus`. Best effort: a container may forbid it, and then any core will do.
fn pin(cpus: &[u32]) {
    if cpus.is_empty() {
        return;
    }
    let mut set = CpuSet::new();
    for cpu in cpus {
        let cpu = *cpu as usize;
        if cpu < CpuSet::MAX_CPU {
            set.set(cpu);
        }
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(?cpus, %error, "thread not pinned");
    }
}
