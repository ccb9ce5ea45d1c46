//! What the clones of a client and its tasks share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use sensorium_transport::{Dialer, Outbox, Payload};
use sensorium_wire::codec::FrameWriter;
use sensorium_wire::session::CancelHeader;
use sensorium_wire::{AnswerHeader, Kind, Outcome, SubmitHeader, Urgency, limits};
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::loan::Pool;
use crate::{Answer, ClientConfig, ClientError};

/// Answers that may wait in an outbox, in bytes; credits keep it far lower.
const OUTBOX_BYTES_MAX: usize = 256 << 20;

pub(crate) struct Inner {
    pub(crate) config: ClientConfig,
    pub(crate) dialer: Dialer,
    pub(crate) pool: Pool,
    pub(crate) jobs: Semaphore,
    pub(crate) bytes: Semaphore,
    /// What the semaphores were filled up to.
    pub(crate) granted: Mutex<(u32, u64)>,
    pub(crate) closing: Notify,
    state: Mutex<State>,
    next_correlation: AtomicU64,
    pub(crate) reconnects: AtomicU32,
    /// Final answers that no job waited for.
    pub(crate) unexpected: AtomicU64,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    pending: HashMap<u64, Pending>,
    closed: bool,
    writer: FrameWriter,
}

pub(crate) struct Live {
    pub(crate) connection: quinn::Connection,
    /// One coalesced stream per urgency.
    pub(crate) outboxes: [Outbox; 4],
}

struct Pending {
    header: SubmitHeader,
    payload: Bytes,
    started: Instant,
    done: oneshot::Sender<Result<Answer, ClientError>>,
    /// Ends the upload of a large job that nobody waits for any more.
    taken_back: Arc<Notify>,
}

impl Inner {
    pub(crate) fn new(config: ClientConfig, dialer: Dialer) -> Self {
        Self {
            config,
            dialer,
            pool: Pool::default(),
            jobs: Semaphore::new(0),
            bytes: Semaphore::new(0),
            granted: Mutex::new((0, 0)),
            closing: Notify::new(),
            state: Mutex::new(State::default()),
            next_correlation: AtomicU64::new(1),
            reconnects: AtomicU32::new(0),
            unexpected: AtomicU64::new(0),
        }
    }

    pub(crate) fn outboxes() -> [Outbox; 4] {
        std::array::from_fn(|_| Outbox::new(OUTBOX_BYTES_MAX))
    }

    pub(crate) fn connection(&self) -> Option<quinn::Connection> {
        self.state.lock().live.as_ref().map(|live| live.connection.clone())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Ends everything; what is unanswered fails.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        if let Some(live) = state.live.take() {
            live.outboxes.iter().for_each(Outbox::close);
            live.connection.close(0_u32.into(), b"client closed");
        }
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for (_, job) in pending {
            let _ = job.done.send(Err(ClientError::Closed));
        }
        self.closing.notify_waiters();
    }

    /// The connection is up: everything unanswered goes out (again). Returns the large jobs, which need streams.
    pub(crate) fn install(&self, live: Live) -> Vec<u64> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut large = Vec::new();
        for (correlation, job) in &mut state.pending {
            job.header.attempt += 1;
            let spent_us = u64::try_from(job.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            let mut header = job.header;
            header.budget_us = header.budget_us.saturating_sub(spent_us);
            if is_large(&job.payload) {
                large.push(*correlation);
            } else {
                put(&live.outboxes, &mut state.writer, *correlation, &header, &job.payload);
            }
        }
        state.live = Some(live);
        large
    }

    /// The connection is gone.
    pub(crate) fn uninstall(&self) {
        if let Some(live) = self.state.lock().live.take() {
            live.outboxes.iter().for_each(Outbox::close);
        }
    }

    /// The connection will not come back: everything unanswered fails.
    pub(crate) fn give_up(&self, error: impl Fn() -> ClientError) {
        let mut state = self.state.lock();
        state.closed = true;
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for (_, job) in pending {
            let _ = job.done.send(Err(error()));
        }
    }

    /// Registers a job and, unless it is large or there is no connection just now, sends it.
    #[expect(clippy::type_complexity, reason = "one caller, which takes it apart at once")]
    pub(crate) fn register(
        &self,
        header: SubmitHeader,
        payload: Bytes,
    ) -> Result<(u64, Option<quinn::Connection>, oneshot::Receiver<Result<Answer, ClientError>>), ClientError> {
        let (done, answer) = oneshot::channel();
        let correlation = self.next_correlation.fetch_add(1, Ordering::Relaxed);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.closed {
            return Err(ClientError::Closed);
        }
        let mut needs_stream = None;
        if let Some(live) = &state.live {
            if is_large(&payload) {
                needs_stream = Some(live.connection.clone());
            } else {
                put(&live.outboxes, &mut state.writer, correlation, &header, &payload);
            }
        }
        state.pending.insert(
            correlation,
            Pending { header, payload, started: Instant::now(), done, taken_back: Arc::default() },
        );
        Ok((correlation, needs_stream, answer))
    }

    /// Header and payload of a registered job, for a stream of its own, and what tells that it was taken back.
    pub(crate) fn job(&self, correlation: u64) -> Option<(SubmitHeader, Bytes, Arc<Notify>)> {
        let state = self.state.lock();
        state.pending.get(&correlation).map(|job| (job.header, job.payload.clone(), Arc::clone(&job.taken_back)))
    }

    /// An answer came. Partial answers are not used by any model yet and are dropped.
    pub(crate) fn complete(&self, correlation: u64, header: AnswerHeader, payload: Bytes) {
        if header.outcome == Outcome::Partial {
            return;
        }
        let Some(job) = self.state.lock().pending.remove(&correlation) else {
            self.unexpected.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let total_ns = u64::try_from(job.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let _ = job.done.send(Ok(Answer { header, payload, total_ns }));
    }

    /// The application no longer waits.
    pub(crate) fn abandon(&self, correlation: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(job) = state.pending.remove(&correlation) else { return };
        job.taken_back.notify_one();
        if let Some(live) = &state.live {
            let header = CancelHeader { job_id: job.header.job_id };
            let writer = &mut state.writer;
            let _ = live.outboxes[job.header.urgency as usize]
                .push(|out| writer.put(out, Kind::Cancel, correlation, &header, 0), Payload::EMPTY);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether a payload gets a stream of its own.
pub(crate) fn is_large(payload: &Bytes) -> bool {
    payload.len() as u64 > limits::COALESCED_PAYLOAD_BYTES_MAX
}

fn put(outboxes: &[Outbox; 4], writer: &mut FrameWriter, correlation: u64, header: &SubmitHeader, payload: &Bytes) {
    // A closed outbox means that the connection has just died: the job is sent again when the next one is up.
    let _ = outboxes[header.urgency as usize].push(
        |out| writer.put(out, Kind::Submit, correlation, header, payload.len() as u64),
        Payload::Shared(payload.clone()),
    );
}

/// The coalesced streams' priorities, by urgency: `critical` first.
pub(crate) fn priority(urgency: Urgency) -> i32 {
    match urgency {
        Urgency::Critical => 3,
        Urgency::High => 2,
        Urgency::Standard => 1,
        Urgency::Batch => 0,
    }
}
