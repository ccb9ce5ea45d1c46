//! Running models for a session, on the same path as every client's jobs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sensorium_device::clock::now_ns;
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::{PayloadKind, SubmitHeader, Urgency};
use sensorium_wire::{AnswerHeader, BodyKind, JobId, Name, Outcome, Reason, Receipt, codec};
use tokio::sync::oneshot;

use crate::cluster::{Accepted, Cluster, Origin};
use crate::engine::{Caller, Reply};

/// The models of a session's parts.
pub(super) const DETECTOR: &str = "nanodet";
pub(super) const SPEECH: &str = "silero-vad";
pub(super) const SOUNDS: &str = "yamnet";
pub(super) const TRANSCRIBER: &str = "moonshine";
pub(super) const FUSION: &str = "fusion";

/// Deadline of a job in a fast session, which waits rather than drops, in microseconds.
const FAST_BUDGET_US: u64 = 120_000_000;
/// Deadline of a transcript at real speed: it follows its speech and nothing waits for it, in microseconds.
const TRANSCRIPT_BUDGET_US: u64 = 10_000_000;
/// How long a fast session keeps trying a job that is refused for now, in milliseconds.
const RETRY_MS_MAX: u64 = 120_000;
const RETRY_PAUSE_MS_MAX: u64 = 200;

/// A model's result and the receipt of its job.
pub(super) type Inferred = (ModelResult, Receipt);

/// Submits a session's jobs. Cheap to clone.
#[derive(Clone)]
pub(super) struct Inference {
    cluster: Arc<Cluster>,
    caller: Caller,
    origin: Origin,
    fast: bool,
    budget_us: u64,
    /// Number of the session, for its streams.
    session: u64,
}

/// The one stream of a session, as far as jobs go: each model has its own order in it.
const SESSION_STREAM: u64 = 1;

/// A job to be: what its payload is and by when.
pub(super) struct Request<'a> {
    pub(super) model: &'static str,
    pub(super) header: SubmitHeader,
    pub(super) shape: &'a [u32],
    /// State, then payload.
    pub(super) pieces: [&'a [u8]; 2],
}

impl<'a> Request<'a> {
    pub(super) fn new(model: &'static str, payload: PayloadKind, shape: &'a [u32], bytes: &'a [u8]) -> Self {
        let header = SubmitHeader { payload, ..SubmitHeader::default() };
        Self { model, header, shape, pieces: [&[], bytes] }
    }
}

/// A job in flight.
pub(super) struct Pending {
    answer: oneshot::Receiver<(AnswerHeader, Bytes)>,
    cancel: Option<(Arc<Cluster>, Caller, JobId)>,
}

impl Inference {
    pub(super) fn new(cluster: Arc<Cluster>, caller: Caller, origin: Origin, fast: bool, budget_us: u64) -> Self {
        Self { cluster, caller, origin, fast, budget_us, session: rand::random() }
    }

    pub(super) fn is_fast(&self) -> bool {
        self.fast
    }

    /// What this session sees calls for the plan of critical moments.
    pub(super) fn critical_moment(&self, for_ms: u64) {
        self.cluster.engine.critical_moment(for_ms);
    }

    /// Whether this node or one in reach knows the model.
    pub(super) fn has(&self, model: &str) -> bool {
        self.cluster.engine.models.find(model).is_some() || self.cluster.knows(model)
    }

    /// What the session does without, in sentences.
    pub(super) fn missing_models(&self) -> Vec<String> {
        [
            (DETECTOR, "no objects are found"),
            (SPEECH, "no speech is found"),
            (SOUNDS, "no sounds are named"),
            (TRANSCRIBER, "no speech is transcribed"),
            (FUSION, "video and sound are not fused"),
        ]
        .into_iter()
        .filter(|(model, _)| !self.has(model))
        .map(|(model, lacking)| format!("the node does not run the model {model}: {lacking}"))
        .collect()
    }

    /// Starts a job. A fast session waits while it is refused for now.
    pub(super) async fn start(&self, request: &Request<'_>) -> Result<Pending, String> {
        let began = now_ns();
        loop {
            match self.try_start(request) {
                Ok(pending) => return Ok(pending),
                Err((reason, retry_after_us, detail)) => {
                    let passing =
                        matches!(reason, Reason::Overloaded | Reason::ModelUnavailable | Reason::DeadlineUnreachable);
                    let waited_ms = (now_ns() - began) / 1_000_000;
                    if !self.fast || !passing || waited_ms > RETRY_MS_MAX {
                        return Err(detail);
                    }
                    let pause_ms = (retry_after_us / 1000).clamp(1, RETRY_PAUSE_MS_MAX);
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
            }
        }
    }

    fn try_start(&self, request: &Request<'_>) -> Result<Pending, (Reason, u64, String)> {
        let bytes = request.pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut header = request.header;
        header.job_id = JobId(rand::random());
        header.model = Name::cut(request.model);
        header.urgency = Urgency::High;
        // A session's jobs for one model are a stream: they run in the order in which they were started.
        header.session = self.session;
        header.stream = SESSION_STREAM;
        header.state_bytes = u32::try_from(request.pieces[0].len()).unwrap_or(u32::MAX);
        header.budget_us = match (self.fast, request.model) {
            (true, _) => FAST_BUDGET_US,
            (false, TRANSCRIBER) => TRANSCRIPT_BUDGET_US,
            (false, _) => self.budget_us,
        };
        let header = header
            .with_shape(request.shape)
            .ok_or_else(|| (Reason::Internal, 0, "a session's job has too many dimensions".to_owned()))?;
        if let Some(answer) = self.cluster.engine.at_once(self.caller, &header, bytes, now_ns()) {
            // Gaps are named by what comes before the first colon.
            return Err((Reason::Rule, 0, format!("a rule says {}", answer.text())));
        }
        let accepted = self
            .cluster
            .accept(self.caller, &self.origin, &header, bytes)
            .map_err(|rejection| (rejection.reason, rejection.retry_after_us, rejection.to_string()))?;
        let [state, payload] = request.pieces;
        let (sender, answer) = oneshot::channel();
        let reply = Reply::Local(Some(sender));
        match accepted {
            Accepted::Here(mut admitted) => {
                if !admitted.write(0, state) || !admitted.write(state.len() as u64, payload) {
                    return Err((Reason::Internal, 0, "a session's job does not fit its slot".to_owned()));
                }
                self.cluster.engine.submit(*admitted, reply);
            }
            Accepted::Away(departure) => {
                let pieces = [state, payload].into_iter().filter(|piece| !piece.is_empty());
                self.cluster.depart(*departure, pieces.map(Bytes::copy_from_slice).collect(), reply);
            }
        }
        Ok(Pending { answer, cancel: Some((Arc::clone(&self.cluster), self.caller, header.job_id)) })
    }

    /// Runs a job and waits for it; a fast session tries again what was refused for now after all.
    pub(super) async fn run(&self, request: &Request<'_>) -> Result<Inferred, String> {
        let mut tries = 0;
        loop {
            match self.start(request).await?.wait().await {
                Ok(inferred) => return Ok(inferred),
                Err(Refusal { passing: true, .. }) if self.fast && tries < 100 => tries += 1,
                Err(refusal) => return Err(refusal.detail),
            }
            tokio::time::sleep(Duration::from_millis(RETRY_PAUSE_MS_MAX)).await;
        }
    }
}

/// Why a job has no result.
pub(super) struct Refusal {
    /// It may work later.
    pub(super) passing: bool,
    pub(super) detail: String,
}

impl Pending {
    /// Whether the answer is there.
    pub(super) async fn ready(&mut self) -> Result<Inferred, Refusal> {
        let answer = (&mut self.answer).await;
        self.cancel = None;
        let refusal = |passing: bool, detail: String| Refusal { passing, detail };
        let Ok((header, payload)) = answer else { return Err(refusal(false, "the job got no answer".to_owned())) };
        if header.outcome != Outcome::Result {
            let passing = header.outcome == Outcome::Refused;
            let detail = String::from_utf8_lossy(&payload).into_owned();
            return Err(refusal(passing, format!("{}: {detail}", header.reason.name())));
        }
        match (header.body, codec::decode(&payload)) {
            (BodyKind::Result, Some(result)) => Ok((result, header.receipt)),
            _ => Err(refusal(false, "the model's answer is no result".to_owned())),
        }
    }

    pub(super) async fn wait(mut self) -> Result<Inferred, Refusal> {
        self.ready().await
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some((cluster, caller, job_id)) = self.cancel.take() {
            cluster.cancel(caller.id, job_id);
        }
    }
}
