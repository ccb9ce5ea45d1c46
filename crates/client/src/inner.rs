//! What the clones of a client and its tasks share: the jobs without an answer, and where they are sent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use sensorium_transport::{Dialer, Outbox, Payload};
use sensorium_wire::codec::FrameWriter;
use sensorium_wire::session::CancelHeader;
use sensorium_wire::{AnswerHeader, JobId, Kind, Outcome, Reason, SubmitHeader, Urgency};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::credits::Credits;
use crate::loan::Pool;
use crate::pending::{Pending, Waiter};
use crate::transit::Transit;
use crate::{Answer, ClientConfig, ClientError, FailedDial, NODES_MAX, upload};

/// Jobs that may wait in an outbox, in bytes; credits keep it far lower.
const OUTBOX_BYTES_MAX: usize = 256 << 20;
/// How long closing waits for what is queued to be acknowledged, in milliseconds.
const FLUSH_MS_MAX: u64 = 1_000;

/// A node that a client is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedNode {
    pub name: String,
    pub address: SocketAddr,
}

pub(crate) struct Inner {
    pub(crate) config: ClientConfig,
    pub(crate) dialer: Dialer,
    pub(crate) pool: Pool,
    pub(crate) credits: Credits,
    pub(crate) reconnects: AtomicU32,
    pub(crate) stray_answers: AtomicU64,
    /// Number of the last connection that was given up because its node is stopping.
    pub(crate) leaving: watch::Sender<u64>,
    /// Told when a connection is up and when there will be none any more.
    changed: watch::Sender<()>,
    next_number: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where jobs go now.
    live: Option<Live>,
    /// To nodes that are stopping: what they accepted is still answered there.
    lingering: Vec<Live>,
    pending: HashMap<JobId, Pending>,
    /// Set when there will be no further connection: what unanswered jobs end with.
    ended: Option<Arc<dyn Fn() -> ClientError + Send + Sync>>,
    writer: FrameWriter,
    transit: Transit,
    skipped: Vec<FailedDial>,
}

/// A connection that jobs are sent on.
pub(crate) struct Live {
    pub(crate) number: u64,
    pub(crate) node: ConnectedNode,
    pub(crate) connection: quinn::Connection,
    /// One coalesced stream per urgency.
    pub(crate) outboxes: [Outbox; 4],
    /// Those that write the outboxes; each ends when what it wrote has been acknowledged.
    pub(crate) writers: Vec<JoinHandle<()>>,
}

impl Live {
    /// Ends it at once; what is queued is lost.
    fn close(&self) {
        self.outboxes.iter().for_each(Outbox::close);
        self.connection.close(0_u32.into(), b"client closed");
    }
}

impl Inner {
    pub(crate) fn new(config: ClientConfig, dialer: Dialer) -> Self {
        Self {
            config,
            dialer,
            pool: Pool::default(),
            credits: Credits::default(),
            reconnects: AtomicU32::new(0),
            stray_answers: AtomicU64::new(0),
            leaving: watch::Sender::new(0),
            changed: watch::Sender::new(()),
            next_number: AtomicU64::new(1),
            state: Mutex::new(State::default()),
        }
    }

    pub(crate) fn outboxes() -> [Outbox; 4] {
        std::array::from_fn(|_| Outbox::new(OUTBOX_BYTES_MAX))
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn connection(&self) -> Option<quinn::Connection> {
        self.state.lock().live.as_ref().map(|live| live.connection.clone())
    }

    pub(crate) fn node(&self) -> Option<ConnectedNode> {
        self.state.lock().live.as_ref().map(|live| live.node.clone())
    }

    /// The connection in use; waits for one while nodes are being dialled.
    pub(crate) async fn connected(&self) -> Result<(quinn::Connection, ConnectedNode), ClientError> {
        self.connected_other(None).await
    }

    /// The connection that comes after `gone`, which has broken.
    pub(crate) async fn connected_after(
        &self,
        gone: &quinn::Connection,
    ) -> Result<(quinn::Connection, ConnectedNode), ClientError> {
        self.connected_other(Some(gone.stable_id())).await
    }

    async fn connected_other(&self, gone: Option<usize>) -> Result<(quinn::Connection, ConnectedNode), ClientError> {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let state = self.state.lock();
                let usable = |live: &&Live| gone.is_none_or(|gone| live.connection.stable_id() != gone);
                if let Some(live) = state.live.as_ref().filter(usable) {
                    return Ok((live.connection.clone(), live.node.clone()));
                }
                if state.ended.is_some() {
                    return Err(ClientError::Closed);
                }
            }
            changed.changed().await.map_err(|_| ClientError::Closed)?;
        }
    }

    pub(crate) fn skipped(&self) -> Vec<FailedDial> {
        self.state.lock().skipped.clone()
    }

    pub(crate) fn expected_transit(&self) -> Duration {
        Duration::from_nanos(self.state.lock().transit.expected_ns())
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.state.lock().ended.is_some()
    }

    /// A connection is up: everything that is on no other goes out on it.
    pub(crate) fn install(self: &Arc<Self>, live: Live, skipped: Vec<FailedDial>) {
        let round_trip_ns = u64::try_from(live.connection.rtt().as_nanos()).unwrap_or(u64::MAX);
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return live.close();
        }
        state.transit = Transit::new(round_trip_ns);
        state.skipped = skipped;
        state.live = Some(live);
        self.send_pending(&mut state);
        drop(state);
        self.changed.send_replace(());
    }

    /// Sends what is on no connection, the oldest first, if there is one. What has no time left ends here: a node would
    /// only refuse it.
    fn send_pending(self: &Arc<Self>, state: &mut State) {
        if let Some(error) = &state.ended {
            let left = state.pending.extract_if(|_, job| job.on.is_none());
            return left.for_each(|(_, job)| job.fail(&**error));
        }
        if state.live.is_none() {
            return;
        }
        let mut ready = Vec::new();
        let late = state.pending.extract_if(|job_id, job| {
            if job.on.is_none() && !job.is_late() {
                ready.push((job.correlation, *job_id));
            }
            job.on.is_none() && job.is_late()
        });
        late.for_each(|(_, job)| job.expire());
        ready.sort_unstable();
        for (_, job_id) in ready {
            self.send(state, job_id);
        }
    }

    /// Sends a job on the connection in use, if there is one.
    fn send(self: &Arc<Self>, state: &mut State, job_id: JobId) {
        let State { live: Some(live), pending, writer, transit, .. } = state else { return };
        let Some(job) = pending.get_mut(&job_id) else { return };
        job.send_on(live.number);
        let header = job.header(*transit);
        if job.is_large() {
            let (payload, taken_back) = (job.payload.clone(), Arc::clone(&job.taken_back));
            let (connection, number) = (live.connection.clone(), live.number);
            let upload = upload::Upload { number, correlation: job.correlation, header, payload, taken_back };
            tokio::spawn(upload.run(Arc::downgrade(self), connection));
            return;
        }
        // A closed outbox means that the connection has just died: the job is sent again when the next one is up.
        let bytes = job.payload.len() as u64;
        let _ = live.outboxes[header.urgency as usize].push(
            |out| writer.put(out, Kind::Submit, job.correlation, &header, bytes),
            Payload::Shared(job.payload.clone()),
        );
    }

    /// Registers a job and, if there is a connection just now, sends it. Gives the number of this caller. A job id that
    /// is without an answer is not sent again: its answer is for both.
    pub(crate) fn register(
        self: &Arc<Self>,
        header: SubmitHeader,
        payload: Bytes,
    ) -> Result<(u64, oneshot::Receiver<Result<Answer, ClientError>>), ClientError> {
        let (done, answer) = oneshot::channel();
        let number = self.next_number();
        let waiter = Waiter { number, since: Instant::now(), done };
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.ended.is_some() {
            return Err(ClientError::Closed);
        }
        match state.pending.entry(header.job_id) {
            Entry::Occupied(mut job) => job.get_mut().join(waiter),
            Entry::Vacant(entry) => {
                entry.insert(Pending::new(header, payload, waiter));
                self.send(state, header.job_id);
            }
        }
        Ok((number, answer))
    }

    /// An answer came on the connection `number`. Partial answers are not used by any model yet and are dropped.
    pub(crate) fn complete(self: &Arc<Self>, number: u64, correlation: u64, header: AnswerHeader, payload: &Bytes) {
        if header.outcome == Outcome::Partial {
            return;
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Entry::Occupied(mut job) = state.pending.entry(header.job_id) else {
            self.stray_answers.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if job.get().correlation != correlation {
            self.stray_answers.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let stopping = header.outcome == Outcome::Refused && header.reason == Reason::ShuttingDown;
        if stopping && self.config.addresses.len() > 1 {
            // Not this node's any more; it may be another's already.
            if job.get().on == Some(number) {
                job.get_mut().on = None;
            } else {
                self.stray_answers.fetch_add(1, Ordering::Relaxed);
            }
            self.leave(state, number);
            return self.send_pending(state);
        }
        let job = job.remove();
        if let Some(network_ns) = job.network_ns(&header)
            && state.live.as_ref().is_some_and(|live| live.number == number)
        {
            state.transit.observe(network_ns);
        }
        drop(guard);
        job.answer(header, payload);
    }

    /// The node at the end of this connection is stopping, a session says.
    pub(crate) fn leave_node(&self, connection: &quinn::Connection) {
        let mut state = self.state.lock();
        let number = state.live.as_ref().filter(|live| live.connection.stable_id() == connection.stable_id());
        if let Some(number) = number.map(|live| live.number) {
            self.leave(&mut state, number);
        }
    }

    /// The node at the end of this connection is stopping: nothing more is sent to it, what it accepted is waited for.
    fn leave(&self, state: &mut State, number: u64) {
        let Some(live) = state.live.take_if(|live| live.number == number) else { return };
        tracing::debug!(node = live.node.name, address = %live.node.address, "the node is stopping");
        state.lingering.push(live);
        if state.lingering.len() > NODES_MAX {
            // Its jobs go elsewhere when the one that watches it hears of its end.
            state.lingering[0].connection.close(0_u32.into(), b"too many nodes are stopping");
        }
        self.leaving.send_replace(number);
    }

    /// The connection `number` is gone: what was unanswered there is to be sent elsewhere.
    pub(crate) fn lost(self: &Arc<Self>, number: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let gone = state.live.take_if(|live| live.number == number);
        let lingered = state.lingering.iter().position(|live| live.number == number);
        for live in gone.into_iter().chain(lingered.map(|at| state.lingering.remove(at))) {
            live.outboxes.iter().for_each(Outbox::close);
        }
        let mut late = Vec::new();
        for (job_id, job) in &mut state.pending {
            if job.on == Some(number) {
                job.on = None;
                late.extend(job.is_late().then_some(*job_id));
            }
        }
        late.iter().filter_map(|job_id| state.pending.remove(job_id)).for_each(Pending::expire);
        self.send_pending(state);
    }

    /// Whether no node has the job: then no answer can come.
    pub(crate) fn unsent(&self, job_id: JobId) -> Option<ClientError> {
        let state = self.state.lock();
        let job = state.pending.get(&job_id)?;
        job.on.is_none().then_some(ClientError::Expired { job_id, sent: job.sent })
    }

    /// The application no longer waits.
    pub(crate) fn abandon(&self, job_id: JobId, number: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Entry::Occupied(mut job) = state.pending.entry(job_id) else { return };
        if !job.get_mut().leave(number) {
            return;
        }
        let job = job.remove();
        job.taken_back.notify_one();
        let on = state.live.iter().chain(&state.lingering).find(|live| job.on == Some(live.number));
        if let Some(live) = on {
            let (header, writer) = (CancelHeader { job_id }, &mut state.writer);
            let _ = live.outboxes[job.urgency() as usize]
                .push(|out| writer.put(out, Kind::Cancel, job.correlation, &header, 0), Payload::EMPTY);
        }
    }

    /// There will be no further connection: everything unanswered fails, but for what a stopping node has accepted.
    pub(crate) fn end(self: &Arc<Self>, error: impl Fn() -> ClientError + Send + Sync + 'static) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.ended = Some(Arc::new(error));
        for job in state.pending.values_mut() {
            job.on = job.on.filter(|number| state.lingering.iter().any(|live| live.number == *number));
        }
        self.send_pending(state);
        drop(guard);
        self.changed.send_replace(());
    }

    /// Ends everything, after what is queued has been sent; what is unanswered fails.
    pub(crate) async fn close(self: &Arc<Self>) {
        let (live, lingering) = {
            let mut state = self.state.lock();
            (state.live.take(), std::mem::take(&mut state.lingering))
        };
        lingering.iter().for_each(Live::close);
        self.end(|| ClientError::Closed);
        if let Some(live) = live {
            live.outboxes.iter().for_each(Outbox::finish);
            let flushed = async {
                for writer in live.writers {
                    let _ = writer.await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_millis(FLUSH_MS_MAX), flushed).await;
        }
        self.dialer.close("client closed");
        self.dialer.settle().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        state.live.iter().chain(&state.lingering).for_each(Live::close);
        self.dialer.close("client closed");
    }
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
