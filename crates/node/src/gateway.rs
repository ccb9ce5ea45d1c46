//! The API endpoint: who connects, what they may do, and their frames.
//!
//! Runs on a thread of its own with a current_thread runtime, which also reads the lanes' sockets: a job then crosses no
//! thread between the packet that brought it and the packet that answers it.

mod connection;
mod stream;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sensorium_transport::{Listener, Outbox};
use sensorium_wire::{Principal, session::SessionHeader};

use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::source::Sources;
use upload::Spool;

/// Connections that may be open at once. More are turned away with a reason.
const CONNECTIONS_MAX: usize = 16_384;

/// Something a client may ask for besides jobs.
pub(crate) trait Desk: Send + Sync {
    /// The answer to a question (`status`, `models`) as JSON; `None` for a question that is not known.
    fn answer(&self, question: &str) -> Option<String>;
    /// Takes over a session whose media file is complete. Events go to `events`, which it finishes.
    fn open_session(&self, request: SessionRequest);
}

/// A session that a client wants.
pub struct SessionRequest {
    pub header: SessionHeader,
    pub principal: Principal,
    pub caller: crate::engine::Caller,
    pub media: SpoolFile,
    pub events: Outbox,
}

/// An uploaded file, deleted when it is dropped.
pub struct SpoolFile {
    pub path: PathBuf,
    pub bytes: u64,
    /// Counts the connection's sessions.
    _session: Arc<()>,
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "spool file not deleted");
        }
    }
}

/// What connections share.
pub struct Gateway {
    pub engine: Arc<Engine>,
    pub cluster: Arc<Cluster>,
    pub(crate) desk: Arc<dyn Desk>,
    pub(crate) sources: Arc<Sources>,
    spool: Spool,
    connections: AtomicUsize,
}

impl Gateway {
    /// `spool` is the folder for uploads.
    pub(crate) fn new(cluster: Arc<Cluster>, desk: Arc<dyn Desk>, sources: Arc<Sources>, spool: PathBuf) -> Arc<Self> {
        let engine = Arc::clone(&cluster.engine);
        let (spool, connections) = (Spool::new(spool), AtomicUsize::new(0));
        Arc::new(Self { engine, cluster, desk, sources, spool, connections })
    }

    /// Serves the jobs that a neighbour hands on, until its connection ends.
    pub(crate) async fn serve_node(self: &Arc<Self>, connection: quinn::Connection, principal: Principal) {
        connection::serve_node(self, connection, principal).await;
    }

    /// Accepts connections until the listener is closed.
    pub(crate) async fn serve(self: Arc<Self>, listener: Arc<Listener>) {
        while let Some(connecting) = listener.accept().await {
            let gateway = Arc::clone(&self);
            tokio::spawn(async move {
                let open = gateway.connections.fetch_add(1, Ordering::Relaxed);
                connection::serve(&gateway, connecting, open < CONNECTIONS_MAX).await;
                gateway.connections.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}
