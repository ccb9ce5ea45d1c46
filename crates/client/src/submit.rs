//! One job, from the call to its one answer or error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sensorium_wire::{JobId, Outcome, SubmitHeader, limits};

use crate::inner::Inner;
use crate::{Answer, ClientError, Job};

/// How long after its deadline a job's answer is still waited for, in milliseconds.
pub(crate) const SILENCE_MS_MAX: u64 = 10_000;

/// Takes a job back when its future is dropped.
struct Waiting<'a> {
    inner: &'a Inner,
    job_id: JobId,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.abandon(self.job_id, self.number);
    }
}

pub(crate) async fn submit(inner: &Arc<Inner>, job: Job, payload: Bytes) -> Result<Answer, ClientError> {
    let began = Instant::now();
    let mut retries = job.refusals_retried_max;
    let mut header = job.into_header()?;
    if header.freshness_us > 0 {
        header.digest = digest(&payload).await;
    }
    let budget_us = header.budget_us;
    let left_us = || budget_us.saturating_sub(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    loop {
        let answer = once(inner, header, payload.clone()).await?;
        let pause_us = answer.header.retry_after_us;
        let again = answer.header.outcome == Outcome::Refused && retries > 0 && pause_us > 0 && pause_us < left_us();
        if !again {
            return Ok(answer);
        }
        retries -= 1;
        tokio::time::sleep(Duration::from_micros(pause_us)).await;
        header.budget_us = left_us();
        header.attempt = header.attempt.saturating_add(1);
    }
}

/// SHA-256 of a payload; a long one is hashed on another thread.
async fn digest(payload: &Bytes) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    if payload.len() as u64 <= limits::COALESCED_PAYLOAD_BYTES_MAX {
        return Sha256::digest(payload).into();
    }
    let shared = payload.clone();
    let hashed = tokio::task::spawn_blocking(move || Sha256::digest(&shared).into()).await;
    hashed.unwrap_or_else(|_| Sha256::digest(payload).into())
}

async fn once(inner: &Arc<Inner>, mut header: SubmitHeader, payload: Bytes) -> Result<Answer, ClientError> {
    let began = Instant::now();
    let (job_id, budget) = (header.job_id, Duration::from_micros(header.budget_us));
    let exchange = async {
        let _credits = inner.credits.take(payload.len()).await?;
        // The deadline counts from the call: what was spent waiting for credits is gone.
        let waited_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        header.budget_us = header.budget_us.saturating_sub(waited_us);
        let (number, answer) = inner.register(header, payload)?;
        let _waiting = Waiting { inner, job_id, number };
        answer.await.map_err(|_| ClientError::Closed)?
    };
    let mut exchange = std::pin::pin!(exchange);
    if let Ok(outcome) = tokio::time::timeout(budget, &mut exchange).await {
        return outcome;
    }
    // A node answers every job, so its word is waited for. Where no node has the job there is nothing to wait for.
    if let Some(error) = inner.unsent(job_id) {
        return Err(error);
    }
    let silence = Duration::from_millis(SILENCE_MS_MAX);
    tokio::time::timeout(silence, exchange).await.map_err(|_| ClientError::Silent { waited_ms: SILENCE_MS_MAX })?
}
