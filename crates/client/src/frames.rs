//! A stream that brings one frame after the other, each read whole: the events of sessions and sources.

use bytes::Bytes;
use sensorium_transport::{FrameReader, Step};
use sensorium_wire::{Event, Kind, codec, limits};

use crate::ClientError;

/// See the module.
pub(crate) struct Frames {
    recv: quinn::RecvStream,
    reader: FrameReader,
    chunk: Bytes,
    /// What there is of the present frame: a caller may stop waiting in the middle of one.
    kind: Option<Kind>,
    payload: Vec<u8>,
}

/// What a frame brought besides its header.
pub(crate) struct Frame {
    kind: Kind,
    payload: Vec<u8>,
}

/// Why nothing more comes.
pub(crate) enum Broken {
    Connection(quinn::ConnectionError),
    /// Only the stream is gone, in words.
    Stream(String),
    /// What came cannot be used.
    Content(ClientError),
}

impl Frames {
    pub(crate) fn new(recv: quinn::RecvStream) -> Self {
        Self { recv, reader: FrameReader::default(), chunk: Bytes::new(), kind: None, payload: Vec::new() }
    }

    /// The next frame; `None` when the stream has ended behind the last one. `head` sees its kind and header first.
    ///
    /// # Errors
    /// [`Broken`]; also what `head` refuses, and a payload that is longer than any event.
    pub(crate) async fn next(
        &mut self,
        mut head: impl FnMut(Kind, &[u8]) -> Result<(), ClientError>,
    ) -> Result<Option<Frame>, Broken> {
        loop {
            let mut input = &self.chunk[..];
            let step = self.reader.step(&mut input).map_err(|error| protocol(error.to_string()))?;
            let mut done = None;
            match step {
                Step::Head(prelude) if prelude.payload_bytes > limits::EVENT_BYTES_MAX => {
                    let (bytes, bytes_max) = (prelude.payload_bytes, limits::EVENT_BYTES_MAX);
                    return Err(protocol(format!("an event of {bytes} bytes; at most {bytes_max} are taken")));
                }
                Step::Head(prelude) => {
                    self.kind = Some(prelude.kind);
                    head(prelude.kind, self.reader.header()).map_err(Broken::Content)?;
                }
                Step::Payload(bytes) => self.payload.extend_from_slice(bytes),
                Step::End => done = self.kind.take(),
                Step::More => {
                    match self.recv.read_chunk(usize::MAX, true).await {
                        Ok(Some(piece)) => self.chunk = piece.bytes,
                        Ok(None) if self.reader.is_between_frames() => return Ok(None),
                        Ok(None) => return Err(Broken::Stream("it ended inside a frame".to_owned())),
                        Err(quinn::ReadError::ConnectionLost(error)) => return Err(Broken::Connection(error)),
                        Err(error) => return Err(Broken::Stream(error.to_string())),
                    }
                    continue;
                }
            }
            let used = self.chunk.len() - input.len();
            let _ = self.chunk.split_to(used);
            if let Some(kind) = done {
                return Ok(Some(Frame { kind, payload: std::mem::take(&mut self.payload) }));
            }
        }
    }
}

impl Frame {
    /// The event in it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it holds the node's reason instead, [`ClientError::Protocol`] when it holds neither.
    pub(crate) fn event(self) -> Result<Event, ClientError> {
        match self.kind {
            Kind::Event => codec::decode(&self.payload)
                .ok_or_else(|| ClientError::Protocol("an event is not a valid archive".to_owned())),
            Kind::Error => Err(ClientError::Refused(String::from_utf8_lossy(&self.payload).into_owned())),
            other => Err(ClientError::Protocol(format!("an event was expected, not {other:?}"))),
        }
    }
}

fn protocol(what: String) -> Broken {
    Broken::Content(ClientError::Protocol(what))
}
