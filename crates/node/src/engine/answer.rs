//! Answers and the ways they go back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use sensorium_device::slab::{Slot, SlotBytes};
use sensorium_transport::{Outbox, Payload};
use sensorium_wire::codec::FrameWriter;
use sensorium_wire::ids::ShortName;
use sensorium_wire::{AnswerHeader, BodyKind, JobId, Outcome, Receipt, Rejection, limits};
use tokio::sync::oneshot;

use super::{CallerId, Engine};

/// What a connection has in flight.
#[derive(Debug, Default)]
pub struct InFlight {
    pub jobs: AtomicU32,
    pub bytes: AtomicU64,
}

/// Where an answer goes.
pub enum Reply {
    /// To a stream of a connection.
    Stream {
        outbox: Outbox,
        correlation: u64,
        /// The job had this stream to itself: it ends after the answer.
        own_stream: bool,
        /// Opens streams for large answers to small jobs.
        connection: quinn::Connection,
        credits: Option<(Arc<InFlight>, u64)>,
    },
    /// To a session of this node.
    Local(Option<oneshot::Sender<(AnswerHeader, Bytes)>>),
}

impl Reply {
    /// Gives the job's credits back; once.
    fn settle(&mut self) {
        if let Self::Stream { credits, .. } = self
            && let Some((in_flight, bytes)) = credits.take()
        {
            in_flight.jobs.fetch_sub(1, Ordering::Relaxed);
            in_flight.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.settle();
    }
}

/// An answer on its way out.
pub struct Delivered {
    pub header: AnswerHeader,
    pub payload: AnswerPayload,
}

pub enum AnswerPayload {
    Bytes(Bytes),
    /// The leading bytes of an output slot.
    Slot(Slot, u64),
}

impl AnswerPayload {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Slot(_, bytes) => *bytes,
        }
    }

    /// As bytes that can be kept. Small ones are copied, so that the slot is free at once.
    fn into_bytes(self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Slot(slot, bytes) if bytes <= limits::COALESCED_PAYLOAD_BYTES_MAX => {
                Bytes::copy_from_slice(slot.read(bytes))
            }
            Self::Slot(slot, bytes) => Bytes::from_owner(SlotBytes::new(slot, bytes)),
        }
    }
}

impl Delivered {
    /// An answer whose payload is in memory.
    pub fn new(header: AnswerHeader, payload: Bytes) -> Self {
        Self { header, payload: AnswerPayload::Bytes(payload) }
    }

    pub(super) fn from_retained(answer: Box<(AnswerHeader, Bytes)>) -> Self {
        Self { header: answer.0, payload: AnswerPayload::Bytes(answer.1) }
    }

    /// What it says, where that is a sentence.
    pub(crate) fn text(&self) -> String {
        match &self.payload {
            AnswerPayload::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            AnswerPayload::Slot(..) => String::new(),
        }
    }

    /// An answer that is not a result.
    pub fn rejection(job_id: JobId, outcome: Outcome, rejection: Rejection, node: ShortName) -> Self {
        let mut detail = rejection.detail.into_bytes();
        detail.truncate(limits::DETAIL_BYTES_MAX);
        let header = AnswerHeader {
            job_id,
            outcome,
            reason: rejection.reason,
            retry_after_us: rejection.retry_after_us,
            body: if detail.is_empty() { BodyKind::Empty } else { BodyKind::Text },
            receipt: Receipt { node, ..Receipt::default() },
            ..AnswerHeader::default()
        };
        Self { header, payload: AnswerPayload::Bytes(detail.into()) }
    }
}

thread_local! {
    static WRITER: std::cell::RefCell<FrameWriter> = std::cell::RefCell::default();
}

impl Engine {
    /// Hands over the final answer of a job that another node has done, and keeps it for whoever asks again.
    pub fn answer_from_elsewhere(&self, caller: CallerId, reply: Option<Reply>, answer: Delivered) {
        if answer.header.outcome != Outcome::Refused {
            self.retain((caller, answer.header.job_id), &answer);
        }
        if let Some(reply) = reply {
            self.send(reply, answer);
        }
    }

    /// Hands an answer over. A receiver that is gone is not an error: its job was cancelled or will be asked for again.
    pub(crate) fn send(&self, mut reply: Reply, answer: Delivered) {
        reply.settle();
        match &mut reply {
            Reply::Local(sender) => {
                if let Some(sender) = sender.take() {
                    let _ = sender.send((answer.header, answer.payload.into_bytes()));
                }
            }
            Reply::Stream { outbox, correlation, own_stream, connection, .. } => {
                send_to_stream(outbox, *correlation, *own_stream, connection, answer);
            }
        }
    }
}

fn send_to_stream(
    outbox: &Outbox,
    correlation: u64,
    own_stream: bool,
    connection: &quinn::Connection,
    answer: Delivered,
) {
    let bytes = answer.payload.len();
    let put = |outbox: &Outbox, payload: Payload<'_>| {
        let written = WRITER.with_borrow_mut(|writer| {
            outbox.push(|out| writer.put_answer(out, correlation, &answer.header, bytes), payload)
        });
        if written == Err(sensorium_transport::OutboxError::Full) {
            connection.close(1_u32.into(), b"answers are not read");
        }
    };
    if bytes <= limits::COALESCED_PAYLOAD_BYTES_MAX {
        match &answer.payload {
            AnswerPayload::Bytes(payload) => put(outbox, Payload::Copied(payload)),
            AnswerPayload::Slot(slot, bytes) => put(outbox, Payload::Copied(slot.read(*bytes))),
        }
    } else if own_stream {
        let header = answer.header;
        let payload = answer.payload.into_bytes();
        WRITER.with_borrow_mut(|writer| {
            let _ = outbox.push(|out| writer.put_answer(out, correlation, &header, bytes), Payload::Shared(payload));
        });
    } else {
        send_alone(correlation, connection.clone(), answer);
    }
    if own_stream {
        outbox.finish();
    }
}

/// A large answer to a small job gets a stream of its own, so that it does not hold up the others.
fn send_alone(correlation: u64, connection: quinn::Connection, answer: Delivered) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return connection.close(1_u32.into(), b"no runtime for a large answer");
    };
    runtime.spawn(async move {
        let Ok(mut stream) = connection.open_uni().await else { return };
        let mut head = bytes::BytesMut::new();
        FrameWriter::default().put_answer(&mut head, correlation, &answer.header, answer.payload.len());
        let mut pieces = [head.freeze(), answer.payload.into_bytes()];
        if stream.write_all_chunks(&mut pieces).await.is_ok() {
            let _ = stream.finish();
        }
    });
}
