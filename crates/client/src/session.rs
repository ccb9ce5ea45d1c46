//! A media file as a session: the file goes up, events come down.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use sensorium_wire::codec::FrameWriter;
use sensorium_wire::session::SessionHeader;
use sensorium_wire::{Event, EventBody, Kind, Name};
use tokio::io::AsyncReadExt;

use crate::ClientError;
use crate::frames::{Broken, Frames};
use crate::inner::{ConnectedNode, Inner};
use crate::seen::Seen;

/// The file is read in pieces of this size.
const PIECE_BYTES: usize = 256 << 10;

/// How often a session is taken up without an event in between.
const RESUMES_MAX: u32 = 16;

/// How a session runs.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// As fast as it goes without dropping, instead of at the source's own speed.
    pub fast: bool,
    /// Time from capture to answer that a frame or audio chunk may take at real speed, in milliseconds. Default 500.
    pub budget_ms: u64,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { fast: false, budget_ms: 500 }
    }
}

/// An open session. When its node or the connection is lost it goes on by itself, on the next connection of the client.
pub struct Session {
    inner: Arc<Inner>,
    options: SessionOptions,
    path: PathBuf,
    file_bytes: u64,
    /// Under this number it is taken up again.
    session: u64,
    stream: Stream,
    opened: Instant,
    seen: Seen,
    /// Takings up since the last event.
    resumes: u32,
    /// The last event has come.
    closed: bool,
}

/// What comes from one node.
struct Stream {
    frames: Frames,
    upload: tokio::task::JoinHandle<Result<(), ClientError>>,
    connection: quinn::Connection,
    node: ConnectedNode,
}

pub(crate) async fn open(inner: &Arc<Inner>, options: SessionOptions, file: &Path) -> Result<Session, ClientError> {
    let (source, file_bytes) = open_file(file).await?;
    let (connection, node) = inner.connected().await?;
    let opened = Instant::now();
    let header = header(&options, file, rand::random());
    let stream = start(connection, node, header, source, file_bytes, file).await;
    Ok(Session {
        inner: Arc::clone(inner),
        options,
        path: file.to_owned(),
        file_bytes,
        session: header.session,
        stream: stream.map_err(|(node, error)| lost(&node, opened, 0, &error))?,
        opened,
        seen: Seen::default(),
        resumes: 0,
        closed: false,
    })
}

async fn open_file(path: &Path) -> Result<(tokio::fs::File, u64), ClientError> {
    let file_error = |source| ClientError::File { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(file_error)?;
    let metadata = file.metadata().await.map_err(file_error)?;
    if !metadata.is_file() {
        return Err(ClientError::Invalid(format!("{}: not a regular file", path.display())));
    }
    Ok((file, metadata.len()))
}

fn header(options: &SessionOptions, file: &Path, session: u64) -> SessionHeader {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    SessionHeader {
        session,
        budget_us: options.budget_ms.saturating_mul(1000),
        fast: u8::from(options.fast),
        name: Name::cut(&name),
        ..SessionHeader::default()
    }
}

/// Opens the stream and sends the file beside what is read from it.
async fn start(
    connection: quinn::Connection,
    node: ConnectedNode,
    header: SessionHeader,
    file: tokio::fs::File,
    file_bytes: u64,
    path: &Path,
) -> Result<Stream, (ConnectedNode, quinn::ConnectionError)> {
    let (send, recv) = match connection.open_bi().await {
        Ok(streams) => streams,
        Err(error) => return Err((node, error)),
    };
    let path = path.to_owned();
    let upload = tokio::spawn(async move {
        upload(send, file, &header, file_bytes).await.map_err(|source| ClientError::File { path, source })
    });
    Ok(Stream { frames: Frames::new(recv), upload, connection, node })
}

fn lost(node: &ConnectedNode, opened: Instant, events: u64, error: &quinn::ConnectionError) -> ClientError {
    if *error == quinn::ConnectionError::LocallyClosed {
        return ClientError::Closed;
    }
    session_lost(node, opened, events, error.to_string())
}

fn session_lost(node: &ConnectedNode, opened: Instant, events: u64, reason: String) -> ClientError {
    ClientError::SessionLost {
        node: node.name.clone(),
        address: node.address,
        after_ms: u64::try_from(opened.elapsed().as_millis()).unwrap_or(u64::MAX),
        events,
        reason,
    }
}

async fn upload(
    mut send: quinn::SendStream,
    mut file: tokio::fs::File,
    header: &SessionHeader,
    file_bytes: u64,
) -> std::io::Result<()> {
    let mut head = BytesMut::new();
    FrameWriter::default().put(&mut head, Kind::Session, 1, header, file_bytes);
    if send.write_chunk(head.freeze()).await.is_err() {
        return Ok(());
    }
    let mut left = file_bytes;
    while left > 0 {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        if file.read_buf(&mut piece).await? == 0 {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was read",
            ));
        }
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= piece.len() as u64;
        // A node that does not want the rest stops the stream and says why in an event.
        if send.write_chunk(piece.freeze()).await.is_err() {
            return Ok(());
        }
    }
    let _ = send.finish();
    Ok(())
}

impl Session {
    /// The node that runs it.
    #[must_use]
    pub fn node(&self) -> &ConnectedNode {
        &self.stream.node
    }

    /// The next event; `None` after the last one. When the node or the connection is lost, or the node stops and hands the
    /// session over, it is taken up on the client's next connection: the file is sent again, an [`sensorium_wire::EventBody::Resumed`] (or a notice that it
    /// starts from the beginning) comes, and then what the application has not had. Numbers go on without holes.
    ///
    /// # Errors
    /// [`ClientError::SessionLost`] when nobody takes the session up. Also when the file cannot be read to its end or is
    /// not the same any more, or the node breaks the protocol.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            match self.stream.next().await {
                Ok(Some(event)) => {
                    self.resumes = 0;
                    self.closed |= matches!(event.body, EventBody::Closed { .. });
                    if let Some(event) = self.seen.admit(event) {
                        return Ok(Some(event));
                    }
                }
                Ok(None) if self.closed => return Ok(None),
                // No last event: the node is stopping, and another has the state.
                Ok(None) => {
                    self.inner.leave_node(&self.stream.connection);
                    let reason = "the node is stopping".to_owned();
                    self.resume(session_lost(&self.stream.node, self.opened, self.seen.events, reason)).await?;
                }
                Err(Broken::Connection(error)) => {
                    self.resume(lost(&self.stream.node, self.opened, self.seen.events, &error)).await?;
                }
                Err(Broken::Stream(reason)) => {
                    return Err(ClientError::Protocol(format!("the session broke off: {reason}")));
                }
                Err(Broken::Content(error)) => return Err(error),
            }
        }
    }

    /// Opens the session again, on the next connection that there is.
    async fn resume(&mut self, mut lost_by: ClientError) -> Result<(), ClientError> {
        loop {
            self.resumes += 1;
            if matches!(lost_by, ClientError::Closed) || self.resumes > RESUMES_MAX {
                return Err(lost_by);
            }
            let Ok((connection, node)) = self.inner.connected_after(&self.stream.connection).await else {
                return Err(lost_by);
            };
            let (file, bytes) = open_file(&self.path).await?;
            if bytes != self.file_bytes {
                let (path, before) = (self.path.display(), self.file_bytes);
                return Err(ClientError::Invalid(format!(
                    "{path}: {bytes} bytes now, {before} when the session was opened; it cannot go on"
                )));
            }
            let header = SessionHeader {
                resume: 1,
                next_event: self.seen.events,
                seen_ms: self.seen.latest_ms,
                ..header(&self.options, &self.path, self.session)
            };
            match start(connection, node, header, file, bytes, &self.path).await {
                Ok(stream) => {
                    tracing::debug!(node = stream.node.name, session = self.session, "session taken up");
                    self.stream = stream;
                    self.seen.goes_on();
                    return Ok(());
                }
                Err((node, error)) => lost_by = lost(&node, self.opened, self.seen.events, &error),
            }
        }
    }
}

impl Stream {
    async fn next(&mut self) -> Result<Option<Event>, Broken> {
        match self.frames.next(|_, _| Ok(())).await? {
            Some(frame) => frame.event().map(Some).map_err(Broken::Content),
            None => self.finish().await.map_err(Broken::Content),
        }
    }

    async fn finish(&mut self) -> Result<Option<Event>, ClientError> {
        if self.upload.is_finished() {
            (&mut self.upload).await.map_err(|error| ClientError::Protocol(error.to_string()))??;
        }
        Ok(None)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.upload.abort();
    }
}
