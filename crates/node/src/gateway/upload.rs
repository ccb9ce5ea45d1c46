//! Media files on their way in: written to the node's spool folder, bounded, gone when the session is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sensorium_wire::limits;
use sensorium_wire::session::SessionHeader;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use super::SpoolFile;

/// Uploads that may be under way at once in a node.
const UPLOADS_MAX: usize = 256;

/// Writes to a spool file, in bytes: each is a hop to a thread and back, and packets are small.
const WRITE_BYTES: usize = 256 << 10;

/// The spool folder.
pub(super) struct Spool {
    folder: PathBuf,
    open: Arc<()>,
    next: AtomicU64,
}

/// One file that is being received.
pub(super) struct Upload {
    header: SessionHeader,
    file: BufWriter<File>,
    media: SpoolFile,
    _open: Arc<()>,
}

impl Spool {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, open: Arc::new(()), next: AtomicU64::new(1) }
    }

    /// `sessions` is the connection's token: one clone for each of its sessions.
    pub(super) async fn open(&self, header: SessionHeader, bytes: u64, sessions: &Arc<()>) -> Result<Upload, String> {
        if Arc::strong_count(sessions) > limits::SESSIONS_MAX as usize {
            return Err(format!("{} sessions are open on this connection, its limit", limits::SESSIONS_MAX));
        }
        if bytes == 0 {
            return Err("the media file is empty (0 bytes)".to_owned());
        }
        if Arc::strong_count(&self.open) > UPLOADS_MAX {
            return Err(format!("{UPLOADS_MAX} uploads are under way; try again later"));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}-{number}", std::process::id()));
        let file = File::create_new(&path).await.map_err(|error| format!("spool file: {error}"))?;
        Ok(Upload {
            header,
            file: BufWriter::with_capacity(WRITE_BYTES, file),
            media: SpoolFile { path, bytes, _session: Arc::clone(sessions) },
            _open: Arc::clone(&self.open),
        })
    }
}

impl Upload {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.file.write_all(bytes).await.map_err(|error| format!("spool file: {error}"))
    }

    pub(super) async fn finish(mut self) -> Result<(SessionHeader, SpoolFile), String> {
        self.file.flush().await.map_err(|error| format!("spool file: {error}"))?;
        Ok((self.header, self.media))
    }
}
