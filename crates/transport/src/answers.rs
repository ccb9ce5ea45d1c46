//! Answers as they come in on one stream.

use bytes::Bytes;
use sensorium_wire::codec::decode_answer;
use sensorium_wire::{AnswerHeader, Kind};

use crate::frames::{FrameReader, Step};

/// Reads answers until the stream ends, is out of step, or `answered` (correlation, header, payload) says `false`.
/// Nothing is returned: what was not answered when the stream ends is the business of whoever waits for it.
pub async fn read_answers(mut stream: quinn::RecvStream, mut answered: impl FnMut(u64, AnswerHeader, Bytes) -> bool) {
    let mut reader = FrameReader::default();
    let mut chunks: [Bytes; 32] = std::array::from_fn(|_| Bytes::new());
    let mut current: Option<(u64, AnswerHeader, Vec<u8>)> = None;
    while let Ok(Some(count)) = stream.read_chunks(&mut chunks).await {
        for chunk in &mut chunks[..count] {
            let chunk = std::mem::take(chunk);
            let mut input = &chunk[..];
            loop {
                match reader.step(&mut input) {
                    Ok(Step::More) => break,
                    Ok(Step::Head(prelude)) if prelude.kind == Kind::Answer => match decode_answer(reader.header()) {
                        Ok(header) => {
                            let bytes = usize::try_from(prelude.payload_bytes).unwrap_or(0);
                            current = Some((prelude.correlation, header, Vec::with_capacity(bytes)));
                        }
                        Err(error) => return tracing::warn!(%error, "answer"),
                    },
                    Ok(Step::Head(prelude)) => tracing::warn!(kind = ?prelude.kind, "an answer was expected"),
                    Ok(Step::Payload(bytes)) => {
                        if let Some((_, _, payload)) = &mut current {
                            payload.extend_from_slice(bytes);
                        }
                    }
                    Ok(Step::End) => {
                        if let Some((correlation, header, payload)) = current.take()
                            && !answered(correlation, header, payload.into())
                        {
                            return;
                        }
                    }
                    Err(error) => return tracing::warn!(%error, "answers"),
                }
            }
        }
    }
}
