//! A question to the node, and its reply.

use std::time::Duration;

use sensorium_transport::{FrameReader, Step};
use sensorium_wire::codec::put_frame;
use sensorium_wire::{Kind, limits};

use crate::ClientError;
use crate::inner::Inner;
use crate::submit::SILENCE_MS_MAX;

pub(crate) async fn query(inner: &Inner, question: &str) -> Result<String, ClientError> {
    let (connection, node) = inner.connected().await?;
    let lost = |reason: String| ClientError::Lost { address: node.address, waited_ms: 0, reason, tried: Vec::new() };
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| lost(error.to_string()))?;
    let mut frame = Vec::new();
    put_frame(&mut frame, Kind::Query, 1, &[], question.len() as u64);
    frame.extend_from_slice(question.as_bytes());
    send.write_all(&frame).await.map_err(|error| lost(error.to_string()))?;
    let _ = send.finish();
    let limit = usize::try_from(limits::QUERY_BYTES_MAX).unwrap_or(usize::MAX) + limits::HEADER_BYTES_MAX;
    let bytes = tokio::time::timeout(Duration::from_millis(SILENCE_MS_MAX), recv.read_to_end(limit))
        .await
        .map_err(|_| ClientError::Silent { waited_ms: SILENCE_MS_MAX })?
        .map_err(|error| match error {
            quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(error)) => lost(error.to_string()),
            error => ClientError::Protocol(error.to_string()),
        })?;
    let (mut reader, mut input, mut kind, mut text) = (FrameReader::default(), &bytes[..], None, Vec::new());
    loop {
        match reader.step(&mut input).map_err(|error| ClientError::Protocol(error.to_string()))? {
            Step::Head(prelude) => kind = Some(prelude.kind),
            Step::Payload(bytes) => text.extend_from_slice(bytes),
            Step::End | Step::More => break,
        }
    }
    let text = String::from_utf8(text).map_err(|_| ClientError::Protocol("the reply is not UTF-8".to_owned()))?;
    match kind {
        Some(Kind::Reply) => Ok(text),
        Some(Kind::Error) => Err(ClientError::Refused(text)),
        other => Err(ClientError::Protocol(format!("a reply was expected, not {other:?}"))),
    }
}
