//! A media file as a session: the file goes up, events come down.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use sensorium_transport::{FrameReader, Step};
use sensorium_wire::codec::{self, FrameWriter};
use sensorium_wire::session::SessionHeader;
use sensorium_wire::{Event, Kind, Name};
use tokio::io::AsyncReadExt;

use crate::ClientError;
use crate::inner::{ConnectedNode, Inner};

/// The file is read in pieces of this size.
const PIECE_BYTES: usize = 256 << 10;

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

/// An open session.
pub struct Session {
    stream: quinn::RecvStream,
    reader: FrameReader,
    chunk: Bytes,
    payload: Vec<u8>,
    kind: Option<Kind>,
    upload: tokio::task::JoinHandle<Result<(), ClientError>>,
    node: ConnectedNode,
    opened: Instant,
    events: u64,
}

pub(crate) async fn open(inner: &Arc<Inner>, options: SessionOptions, file: &Path) -> Result<Session, ClientError> {
    let file_error = |source| ClientError::File { path: file.to_owned(), source };
    let source = tokio::fs::File::open(file).await.map_err(file_error)?;
    let metadata = source.metadata().await.map_err(file_error)?;
    if !metadata.is_file() {
        return Err(ClientError::Invalid(format!("{}: not a regular file", file.display())));
    }
    let (connection, node) = inner.connected().await?;
    let opened = Instant::now();
    let (send, stream) = connection.open_bi().await.map_err(|error| lost(&node, opened, 0, &error))?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let header = SessionHeader {
        session: rand::random(),
        budget_us: options.budget_ms.saturating_mul(1000),
        fast: u8::from(options.fast),
        reserved: [0; 7],
        name: Name::cut(&name),
    };
    let path = file.to_owned();
    let upload = tokio::spawn(async move {
        upload(send, source, &header, metadata.len()).await.map_err(|source| ClientError::File { path, source })
    });
    Ok(Session {
        stream,
        reader: FrameReader::default(),
        chunk: Bytes::new(),
        payload: Vec::new(),
        kind: None,
        upload,
        node,
        opened,
        events: 0,
    })
}

fn lost(node: &ConnectedNode, opened: Instant, events: u64, error: &quinn::ConnectionError) -> ClientError {
    if *error == quinn::ConnectionError::LocallyClosed {
        return ClientError::Closed;
    }
    ClientError::SessionLost {
        node: node.name.clone(),
        address: node.address,
        after_ms: u64::try_from(opened.elapsed().as_millis()).unwrap_or(u64::MAX),
        events,
        reason: error.to_string(),
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
        &self.node
    }

    /// The next event; `None` after the last one.
    ///
    /// # Errors
    /// [`ClientError::SessionLost`] when the connection is lost: a session ends with its node, and another one has to be
    /// opened. Also when the file cannot be read to its end, or the node breaks the protocol.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let mut input = &self.chunk[..];
            let step = self.reader.step(&mut input).map_err(|error| ClientError::Protocol(error.to_string()))?;
            let mut done = false;
            match step {
                Step::Head(prelude) => self.kind = Some(prelude.kind),
                Step::Payload(bytes) => self.payload.extend_from_slice(bytes),
                Step::End => done = true,
                Step::More => {
                    let piece = self.stream.read_chunk(usize::MAX, true).await;
                    let broken = |error| match error {
                        quinn::ReadError::ConnectionLost(error) => lost(&self.node, self.opened, self.events, &error),
                        error => ClientError::Protocol(format!("the session broke off: {error}")),
                    };
                    match piece.map_err(broken)? {
                        Some(piece) => self.chunk = piece.bytes,
                        None if self.reader.is_between_frames() => return self.finish().await,
                        None => return Err(ClientError::Protocol("the session ended inside an event".to_owned())),
                    }
                    continue;
                }
            }
            let used = self.chunk.len() - input.len();
            let _ = self.chunk.split_to(used);
            if done {
                let payload = std::mem::take(&mut self.payload);
                self.events += u64::from(self.kind == Some(Kind::Event));
                return match self.kind {
                    Some(Kind::Event) => codec::decode(&payload)
                        .map(Some)
                        .ok_or_else(|| ClientError::Protocol("an event is not a valid archive".to_owned())),
                    Some(Kind::Error) => Err(ClientError::Refused(String::from_utf8_lossy(&payload).into_owned())),
                    other => Err(ClientError::Protocol(format!("an event was expected, not {other:?}"))),
                };
            }
        }
    }

    async fn finish(&mut self) -> Result<Option<Event>, ClientError> {
        if self.upload.is_finished() {
            (&mut self.upload).await.map_err(|error| ClientError::Protocol(error.to_string()))??;
        }
        Ok(None)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.upload.abort();
    }
}
