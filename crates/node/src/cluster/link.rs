//! The connection that carries jobs to one neighbour and its answers back.
//!
//! Small jobs share one stream per urgency, large ones have a stream of their own, as between client and node. What an
//! answer means is not known here: it goes to whoever the link was made with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use sensorium_cluster::NodeId;
use sensorium_transport::{Outbox, OutboxError, Payload, read_answers};
use sensorium_wire::codec::FrameWriter;
use sensorium_wire::peer::{ForwardHeader, RecallHeader};
use sensorium_wire::{AnswerHeader, JobId, Kind, Urgency};
use tokio::runtime::Handle;

use super::trips::Correlation;

/// Bytes of jobs that may wait to be written to one neighbour. A neighbour that takes nothing is not asked any more.
const OUTBOX_BYTES_MAX: usize = 64 << 20;
/// What a link is taken to carry before anything was measured, in bytes per second: 1 Gbit/s.
const RATE_BYTES_PER_S: u64 = 125_000_000;
/// Uploads from this size say something about the rate.
const MEASURED_BYTES_MIN: u64 = 256 << 10;
/// How long a payload may wait for the neighbour to take it, in milliseconds.
pub(super) const UPLOAD_MS_MAX: u64 = 10_000;

/// Takes the answers of a link.
pub(super) trait Answers: Send + Sync + 'static {
    fn answered(&self, from: NodeId, correlation: Correlation, header: AnswerHeader, payload: Bytes);
}

/// See the module.
pub(super) struct Link {
    pub(super) peer: NodeId,
    pub(super) connection: quinn::Connection,
    outboxes: [Outbox; 4],
    answers: Arc<dyn Answers>,
    rate_bytes_per_s: AtomicU64,
}

impl Link {
    /// Starts the streams; their tasks run on `io` until the connection ends.
    pub(super) fn start(
        peer: NodeId,
        connection: quinn::Connection,
        answers: Arc<dyn Answers>,
        io: &Handle,
    ) -> Arc<Self> {
        let outboxes = std::array::from_fn(|_| Outbox::new(OUTBOX_BYTES_MAX));
        let link =
            Arc::new(Self { peer, connection, outboxes, answers, rate_bytes_per_s: AtomicU64::new(RATE_BYTES_PER_S) });
        for urgency in Urgency::ALL {
            io.spawn(Arc::clone(&link).coalesced(urgency));
        }
        let accepting = Arc::clone(&link);
        io.spawn(async move {
            // Large answers to small jobs come on streams of their own.
            while let Ok(stream) = accepting.connection.accept_uni().await {
                tokio::spawn(Arc::clone(&accepting).read(stream));
            }
            accepting.outboxes.iter().for_each(Outbox::close);
        });
        link
    }

    /// What a transfer may count on, in bytes per second.
    pub(super) fn rate_bytes_per_s(&self) -> u64 {
        self.rate_bytes_per_s.load(Ordering::Relaxed)
    }

    /// Sends a small job.
    ///
    /// # Errors
    /// When the neighbour takes nothing, or is gone.
    pub(super) fn send(
        &self,
        correlation: Correlation,
        header: &ForwardHeader,
        payload: &[Bytes],
    ) -> Result<(), OutboxError> {
        let bytes = payload.iter().map(|piece| piece.len() as u64).sum();
        let payload = match payload {
            [] => Bytes::new(),
            [piece] => piece.clone(),
            pieces => pieces.concat().into(),
        };
        let mut writer = FrameWriter::default();
        self.outboxes[header.submit.urgency as usize]
            .push(|out| writer.put(out, Kind::Forward, correlation.0, header, bytes), Payload::Shared(payload))
    }

    /// Opens the stream of a large job; its payload follows by the caller.
    pub(super) async fn open(
        self: &Arc<Self>,
        correlation: Correlation,
        header: &ForwardHeader,
        payload_bytes: u64,
    ) -> Option<Upload> {
        let (mut stream, answers) = self.connection.open_bi().await.ok()?;
        let _ = stream.set_priority(priority(header.submit.urgency));
        tokio::spawn(Arc::clone(self).read(answers));
        let mut head = BytesMut::new();
        FrameWriter::default().put(&mut head, Kind::Forward, correlation.0, header, payload_bytes);
        stream.write_chunk(head.freeze()).await.ok()?;
        Some(Upload { link: Arc::clone(self), stream, began: Instant::now(), bytes: 0 })
    }

    /// Takes a job back; a neighbour that does not hear it runs it for nothing.
    pub(super) fn recall(&self, urgency: Urgency, job_id: JobId, principal: [u8; 16]) {
        let mut writer = FrameWriter::default();
        let header = RecallHeader { job_id, principal };
        let _ =
            self.outboxes[urgency as usize].push(|out| writer.put(out, Kind::Recall, 0, &header, 0), Payload::EMPTY);
    }

    async fn coalesced(self: Arc<Self>, urgency: Urgency) {
        let outbox = self.outboxes[urgency as usize].clone();
        outbox.wait_for_first().await;
        let Ok((mut send, recv)) = self.connection.open_bi().await else { return outbox.close() };
        let _ = send.set_priority(priority(urgency));
        tokio::spawn(Arc::clone(&self).read(recv));
        outbox.write_to(&mut send).await;
    }

    /// Reads answers from one stream until it ends.
    async fn read(self: Arc<Self>, stream: quinn::RecvStream) {
        read_answers(stream, |correlation, header, payload| {
            self.answers.answered(self.peer, Correlation(correlation), header, payload);
            true
        })
        .await;
    }
}

/// A large payload on its way to a neighbour.
pub(super) struct Upload {
    link: Arc<Link>,
    stream: quinn::SendStream,
    began: Instant,
    bytes: u64,
}

impl Upload {
    /// Sends a piece; `false` when the neighbour does not want it (its answer says why) or is gone.
    pub(crate) async fn write(&mut self, piece: Bytes) -> bool {
        self.bytes += piece.len() as u64;
        let wait = Duration::from_millis(UPLOAD_MS_MAX);
        tokio::time::timeout(wait, self.stream.write_chunk(piece)).await.is_ok_and(|written| written.is_ok())
    }

    /// The payload is complete.
    pub(crate) fn finish(mut self) {
        if self.stream.finish().is_err() || self.bytes < MEASURED_BYTES_MIN {
            return;
        }
        let Self { link, stream, began, bytes } = self;
        tokio::spawn(async move {
            let wait = Duration::from_millis(UPLOAD_MS_MAX);
            if tokio::time::timeout(wait, stream.stopped()).await.is_ok_and(|ended| matches!(ended, Ok(None))) {
                let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
                let measured = bytes.saturating_mul(1_000_000) / us;
                // An eighth of each new measurement: single transfers are noisy.
                let before = link.rate_bytes_per_s.load(Ordering::Relaxed);
                link.rate_bytes_per_s.store(before - before / 8 + measured / 8, Ordering::Relaxed);
            }
        });
    }
}

/// The streams' priorities, by urgency: `critical` first.
fn priority(urgency: Urgency) -> i32 {
    3 - i32::from(urgency as u8)
}
