//! The connection that carries jobs to one neighbour and its answers back.
//!
//! Small jobs share one stream per urgency, large ones have a stream of their own, as between client and node. What an
//! answer means is not known here: it goes to whoever the link was made with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sensorium_cluster::NodeId;
use sensorium_transport::{FrameReader, Outbox, OutboxError, Payload, Step, read_answers};
use sensorium_wire::codec::{FrameWriter, decode_header};
use sensorium_wire::peer::{CheckpointHeader, ForwardHeader, RecallHeader};
use sensorium_wire::source::{LeaseAnswerHeader, LeaseAskHeader};
use sensorium_wire::{AnswerHeader, JobId, Kind, Urgency, limits};
use tokio::runtime::Handle;

use super::trips::Correlation;

/// Bytes of jobs that may wait to be written to one neighbour. A neighbour that takes nothing is not asked any more.
const OUTBOX_BYTES_MAX: usize = 64 << 20;
/// Bytes of checkpoints that may wait to be written to one neighbour. What comes beyond is left out: newer ones follow.
const CHECKPOINTS_QUEUED_BYTES_MAX: usize = 4 << 20;
/// How long a measured rate is believed, in milliseconds: a link that was slow once would never be asked again.
const RATE_BELIEVED_MS: u64 = 10_000;
/// Uploads from this size say something about the rate.
const MEASURED_BYTES_MIN: u64 = 256 << 10;
/// Priority of the checkpoints' stream.
const CHECKPOINT_PRIORITY: i32 = -1;
/// Priority of questions for leases.
const LEASE_PRIORITY: i32 = 4;
/// How long a payload may wait for the neighbour to take it, in milliseconds.
pub(super) const UPLOAD_MS_MAX: u64 = 10_000;

/// Takes the answers of a link.
pub(super) trait Answers: Send + Sync + 'static {
    fn answered(&self, from: NodeId, correlation: Correlation, header: AnswerHeader, payload: Bytes);
    /// A checkpoint was not taken.
    fn refused(&self, from: NodeId, header: &CheckpointHeader);
}

/// See the module.
pub(super) struct Link {
    pub(super) peer: NodeId,
    pub(super) connection: quinn::Connection,
    outboxes: [Outbox; 4],
    checkpoints: Outbox,
    answers: Arc<dyn Answers>,
    /// The rate that was measured, and when last.
    rate: Mutex<Option<(u64, Instant)>>,
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
        let checkpoints = Outbox::new(CHECKPOINTS_QUEUED_BYTES_MAX);
        let link = Arc::new(Self { peer, connection, outboxes, checkpoints, answers, rate: Mutex::new(None) });
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
            accepting.checkpoints.close();
        });
        io.spawn(Arc::clone(&link).checkpointing());
        link
    }

    /// What a transfer may count on, in bytes per second; 0 = nothing was measured of late.
    pub(super) fn rate_bytes_per_s(&self) -> u64 {
        let believed = |(_, at): &(u64, Instant)| at.elapsed() < Duration::from_millis(RATE_BELIEVED_MS);
        self.rate.lock().filter(believed).map_or(0, |(rate, _)| rate)
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

    /// Sends a session's checkpoint, or a word about it.
    ///
    /// # Errors
    /// When the neighbour takes nothing, or is gone.
    pub(super) fn checkpoint(&self, header: &CheckpointHeader, state: Bytes) -> Result<(), OutboxError> {
        let (mut writer, bytes) = (FrameWriter::default(), state.len() as u64);
        self.checkpoints.push(|out| writer.put(out, Kind::Checkpoint, 0, header, bytes), Payload::Shared(state))
    }

    /// Asks the neighbour what it keeps of a session.
    pub(super) async fn ask_checkpoint(&self, header: &CheckpointHeader) -> Option<(CheckpointHeader, Vec<u8>)> {
        let (mut send, recv) = self.connection.open_bi().await.ok()?;
        let mut frame = Vec::new();
        FrameWriter::default().put(&mut frame, Kind::Checkpoint, 0, header, 0);
        send.write_all(&frame).await.ok()?;
        let _ = send.finish();
        let mut answer = None;
        read_checkpoints(recv, |header, state| {
            answer = Some((header, state));
            false
        })
        .await;
        answer
    }

    /// Asks the neighbour for a lease.
    pub(super) async fn ask_lease(&self, header: &LeaseAskHeader) -> Option<LeaseAnswerHeader> {
        let (mut send, mut recv) = self.connection.open_bi().await.ok()?;
        // In front of every job: an answer that comes late costs the source.
        let _ = send.set_priority(LEASE_PRIORITY);
        let mut frame = Vec::new();
        FrameWriter::default().put(&mut frame, Kind::LeaseAsk, 0, header, 0);
        send.write_all(&frame).await.ok()?;
        let _ = send.finish();
        let bytes = recv.read_to_end(limits::HEADER_BYTES_MAX).await.ok()?;
        let (mut reader, mut input) = (FrameReader::default(), &bytes[..]);
        match reader.step(&mut input) {
            Ok(Step::Head(prelude)) if prelude.kind == Kind::LeaseAnswer => {
                decode_header(Kind::LeaseAnswer, reader.header()).ok()
            }
            other => {
                tracing::warn!(?other, "an answer about a lease was expected");
                None
            }
        }
    }

    /// Writes checkpoints on a stream of their own and hears what is refused.
    async fn checkpointing(self: Arc<Self>) {
        self.checkpoints.wait_for_first().await;
        let Ok((mut send, recv)) = self.connection.open_bi().await else { return self.checkpoints.close() };
        // Behind every job: a state that comes a little later loses nothing.
        let _ = send.set_priority(CHECKPOINT_PRIORITY);
        let hearing = Arc::clone(&self);
        tokio::spawn(async move {
            read_checkpoints(recv, |header, _| {
                hearing.answers.refused(hearing.peer, &header);
                true
            })
            .await;
        });
        self.checkpoints.write_to(&mut send).await;
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
                // The round trip is counted apart; a transfer that hides within it says only that the rate is high.
                let took = began.elapsed().saturating_sub(link.connection.rtt());
                let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(100);
                let measured = bytes.saturating_mul(1_000_000) / us;
                let before = link.rate_bytes_per_s();
                // An eighth of each new measurement: single transfers are noisy.
                let rate = if before == 0 { measured } else { before - before / 8 + measured / 8 };
                *link.rate.lock() = Some((rate, Instant::now()));
            }
        });
    }
}

/// The streams' priorities, by urgency: `critical` first.
fn priority(urgency: Urgency) -> i32 {
    3 - i32::from(urgency as u8)
}

/// Reads checkpoint frames until the stream ends, is out of step, or `taken` says `false`.
async fn read_checkpoints(mut stream: quinn::RecvStream, mut taken: impl FnMut(CheckpointHeader, Vec<u8>) -> bool) {
    let (mut reader, mut current) = (FrameReader::default(), None);
    while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
        let mut input = &chunk.bytes[..];
        loop {
            match reader.step(&mut input) {
                Ok(Step::More) => break,
                Ok(Step::Head(prelude)) if prelude.kind == Kind::Checkpoint => {
                    match decode_header(Kind::Checkpoint, reader.header()) {
                        Ok(header) => current = Some((header, Vec::new())),
                        Err(error) => return tracing::warn!(%error, "checkpoint"),
                    }
                }
                Ok(Step::Head(prelude)) => return tracing::warn!(kind = ?prelude.kind, "a checkpoint was expected"),
                Ok(Step::Payload(bytes)) => {
                    if let Some((_, state)) = &mut current {
                        state.extend_from_slice(bytes);
                    }
                }
                Ok(Step::End) => {
                    if let Some((header, state)) = current.take()
                        && !taken(header, state)
                    {
                        return;
                    }
                }
                Err(error) => return tracing::warn!(%error, "checkpoints"),
            }
        }
    }
}
