//! A job without an answer: who waits for it, where it was sent, and what is left of its budget.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sensorium_wire::{AnswerHeader, Outcome, SubmitHeader, limits};
use smallvec::SmallVec;
use tokio::sync::{Notify, oneshot};

use crate::transit::Transit;
use crate::{Answer, ClientError};

/// One caller of `submit`.
pub(crate) struct Waiter {
    pub(crate) number: u64,
    pub(crate) since: Instant,
    pub(crate) done: oneshot::Sender<Result<Answer, ClientError>>,
}

pub(crate) struct Pending {
    pub(crate) correlation: u64,
    /// As it was handed over: with the budget of that moment.
    header: SubmitHeader,
    pub(crate) payload: Bytes,
    since: Instant,
    /// Number of the connection on which the answer is awaited; `None` when it is to be sent.
    pub(crate) on: Option<u64>,
    pub(crate) sent: u32,
    /// Usually one. More when the same job id is submitted again before it is answered.
    waiters: SmallVec<[Waiter; 1]>,
    /// Ends the upload of a large job that nobody waits for any more.
    pub(crate) taken_back: Arc<Notify>,
}

impl Pending {
    pub(crate) fn new(header: SubmitHeader, payload: Bytes, waiter: Waiter) -> Self {
        Self {
            correlation: waiter.number,
            header,
            payload,
            since: waiter.since,
            on: None,
            sent: 0,
            waiters: SmallVec::from_buf([waiter]),
            taken_back: Arc::default(),
        }
    }

    pub(crate) fn urgency(&self) -> sensorium_wire::Urgency {
        self.header.urgency
    }

    /// Whether the payload gets a stream of its own.
    pub(crate) fn is_large(&self) -> bool {
        self.payload.len() as u64 > limits::COALESCED_PAYLOAD_BYTES_MAX
    }

    /// Whether its deadline passed while it waited. A job that had no time to begin with is for the node to refuse.
    pub(crate) fn is_late(&self) -> bool {
        self.header.budget_us > 0 && self.since.elapsed() >= Duration::from_micros(self.header.budget_us)
    }

    /// The header as it goes out now.
    pub(crate) fn header(&self, transit: Transit) -> SubmitHeader {
        let spent_us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut header = self.header;
        header.budget_us = transit.less(header.budget_us.saturating_sub(spent_us));
        header
    }

    /// It goes out on the connection `number`.
    pub(crate) fn send_on(&mut self, number: u64) {
        // The header of the first time says what the caller said.
        self.header.attempt = self.header.attempt.saturating_add(u32::from(self.sent > 0));
        self.sent = self.sent.saturating_add(1);
        self.on = Some(number);
    }

    pub(crate) fn join(&mut self, waiter: Waiter) {
        self.waiters.push(waiter);
    }

    /// Forgets one who waits; whether nobody is left.
    pub(crate) fn leave(&mut self, number: u64) -> bool {
        self.waiters.retain(|waiter| waiter.number != number);
        self.waiters.is_empty()
    }

    pub(crate) fn answer(self, header: AnswerHeader, payload: &Bytes) {
        for Waiter { since, done, .. } in self.waiters {
            let total_ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let _ = done.send(Ok(Answer { header, payload: payload.clone(), total_ns }));
        }
    }

    pub(crate) fn fail(self, error: impl Fn() -> ClientError) {
        for waiter in self.waiters {
            let _ = waiter.done.send(Err(error()));
        }
    }

    pub(crate) fn expire(self) {
        let (job_id, sent) = (self.header.job_id, self.sent);
        self.fail(|| ClientError::Expired { job_id, sent });
    }

    /// What the way took, for an answer to what was sent once; `None` when it cannot be told.
    pub(crate) fn network_ns(&self, header: &AnswerHeader) -> Option<u64> {
        let node_ns = header.hops().first().map_or(header.receipt.node_ns, |hop| hop.node_ns);
        let total_ns = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // An answer that the node had kept tells of an earlier run.
        (self.sent == 1 && header.outcome == Outcome::Result).then(|| total_ns.checked_sub(node_ns)).flatten()
    }
}
