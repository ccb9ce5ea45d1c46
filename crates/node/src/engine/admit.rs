//! From a header to a queued job.

use std::sync::atomic::Ordering;

use sensorium_device::clock::now_ns;
use sensorium_device::slab::{SlabError, Slot};
use sensorium_scheduler::{Event, Job, JobKey, ModelKey, PrincipalKey, Refusal, StreamKey};
use sensorium_wire::receipt::Stage;
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::{JobId, Outcome, Reason, Rejection, Role, SubmitHeader, Urgency};

use super::answer::{Delivered, Reply};
use super::cache::CacheKey;
use super::records::{Record, Times};
use super::retained::Known;
use super::stages::{Promise, Row};
use super::{CallerId, Engine};

/// Retry hint when payload memory is exhausted: about one small batch, in microseconds.
const SLAB_RETRY_AFTER_US: u64 = 20_000;

/// Who submits.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub id: CallerId,
    /// May mark work `critical`.
    pub critical: bool,
}

impl Caller {
    /// What the role says about a principal's submissions.
    pub fn new(id: CallerId, principal: &sensorium_wire::Principal) -> Self {
        Self { id, critical: principal.has(Role::Critical) }
    }
}

/// A job whose header was accepted: it has memory, and waits for its payload.
pub struct Admitted {
    pub header: SubmitHeader,
    pub input: Slot,
    pub(super) output: Slot,
    pub(super) caller: CallerId,
    pub(super) input_bytes: u64,
    /// As the scheduler will hear of it, but for its number.
    pub(super) job: Job,
    pub(super) times: Times,
    /// Of a model that is split: its later stages.
    pub(super) row: Option<Box<Row>>,
    /// Where its answer is kept, once its payload has been held to its digest.
    pub(super) cache: Option<Box<CacheKey>>,
}

/// The number of jobs that are only asked about; no record ever has it.
pub(super) const NO_RECORD: JobKey = JobKey(u64::MAX);

/// The job as the scheduler sees it.
pub(super) fn scheduled(
    caller: CallerId,
    header: &SubmitHeader,
    payload_bytes: u64,
    model: ModelKey,
    deadline_ns: u64,
) -> Job {
    let dims = header.dims().iter().map(|dim| u64::from(*dim));
    let work = match header.payload {
        PayloadKind::RawFrame => dims.product(),
        PayloadKind::Pcm => dims.take(1).product(),
        PayloadKind::Tensor | PayloadKind::EncodedImage | PayloadKind::EncodedAudio => payload_bytes,
    };
    Job {
        urgency: header.urgency,
        payload_bytes,
        work,
        stream: (header.stream != 0).then(|| stream_key(caller, header)),
        principal: PrincipalKey(caller),
        ..Job::new(NO_RECORD, model, deadline_ns)
    }
}

/// Streams of different principals and sessions are different streams.
pub(super) fn stream_key(caller: CallerId, header: &SubmitHeader) -> StreamKey {
    // FNV-1a over the three numbers; two streams that share a key by chance only wait for each other now and then.
    let numbers = [u64::from(caller), header.session, header.stream];
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
    StreamKey(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

impl Admitted {
    /// Writes a piece of the payload; `false` when it does not fit what the header announced.
    #[must_use]
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> bool {
        self.input.write(at, bytes)
    }

    /// When its header was decoded.
    pub fn header_ns(&self) -> u64 {
        self.times.header_ns
    }
}

impl Engine {
    /// Judges what does not depend on where the job is run: limits, rights.
    ///
    /// # Errors
    /// The rejection to send.
    pub fn judge(&self, caller: Caller, header: &SubmitHeader, payload_bytes: u64) -> Result<(), Rejection> {
        header.check(payload_bytes)?;
        if header.urgency == Urgency::Critical && !caller.critical {
            return Err(Rejection::new(
                Reason::Forbidden,
                "urgency critical needs a certificate with the role critical (sensorium ca issue --role critical)",
            ));
        }
        Ok(())
    }

    /// Judges a header before any byte of the payload is taken: limits, rights, model, deadline, prediction, memory.
    ///
    /// # Errors
    /// The rejection to send.
    pub fn admit(&self, caller: Caller, header: &SubmitHeader, payload_bytes: u64) -> Result<Admitted, Rejection> {
        let header_ns = now_ns();
        self.judge(caller, header, payload_bytes)?;
        let name = header.model.as_str();
        let Some(model) = self.models.find(name) else {
            let hint = self.models.nearest(name).map_or_else(
                || "sensorium models lists those there are".to_owned(),
                |nearest| format!("did you mean {nearest:?}?"),
            );
            return Err(Rejection::new(Reason::UnknownModel, format!("no model {name:?}; {hint}")));
        };
        if header.model_version != 0 && header.model_version != model.version {
            return Err(Rejection::new(
                Reason::UnknownModel,
                format!("no version {} of {name}; the current one is {}", header.model_version, model.version),
            ));
        }
        if model.is_stage {
            let detail = format!("{name} goes on where another model ends (next in its manifest); submit to the first");
            return Err(Rejection::new(Reason::UnknownModel, detail));
        }
        if self.draining.load(Ordering::Relaxed) {
            return Err(Rejection::new(Reason::ShuttingDown, "the node is stopping"));
        }
        let budget_ns = header.budget_us.saturating_mul(1000);
        let deadline_ns = header_ns.saturating_add(budget_ns);
        let job = scheduled(caller.id, header, payload_bytes, model.key, deadline_ns);
        if let Some(work) = self.works.get(model.key.0 as usize) {
            work.store(job.work, Ordering::Relaxed);
        }
        let promise = self.promise_early(header_ns, &job).map_err(|(refused, refusal)| {
            let Refusal { reason, retry_after_us, .. } = refusal;
            // Of a model in stages it may be a later one that is missing or busy.
            let name = self.models.get(refused).map_or(name, |stage| &stage.name);
            Rejection::new(reason, explain(reason, name, header.budget_us)).retry_after_us(retry_after_us)
        })?;
        let allocate = |bytes| self.slab.allocate(bytes).map_err(|error| explain_slab(&error));
        let (input, output) = (allocate(payload_bytes)?, allocate(model.output_bytes(payload_bytes))?);
        let row = promise
            .row(|stage| allocate(self.models.get(stage).map_or(0, |stage| stage.output_bytes(stage.input_bytes))))?;
        self.injection.pause(Stage::Admit);
        Ok(Admitted {
            header: *header,
            input,
            output,
            caller: caller.id,
            input_bytes: payload_bytes,
            job: promise.first(),
            row,
            times: Times { header_ns, admitted_ns: now_ns(), ..Times::default() },
            cache: None,
        })
    }

    /// Asks whether a job would be refused. If so the scheduler hears of it, because plans and fair shares follow what is
    /// offered, not only what is granted. Gives the model that refuses, with the reason.
    fn promise_early(&self, now_ns: u64, job: &Job) -> Result<Promise, (ModelKey, Refusal)> {
        let mut core = self.core.lock();
        self.models.promise((&core.scheduler, &core.records), now_ns, job).map_err(|(refused, refusal)| {
            let _ = self.handle_at(&mut core, now_ns, Event::JobArrived(refused));
            (refused.model, refusal)
        })
    }

    /// Takes a job that was sent before: its answer, given already or to come, goes to `reply`, and its payload is not
    /// needed again. Gives the reply back when the job id is new.
    ///
    /// # Errors
    /// The reply of a job that is to be admitted.
    pub fn rejoin(&self, caller: CallerId, job_id: JobId, reply: Reply) -> Result<(), Reply> {
        let earlier = self.known.get(&(caller, job_id)).map(|known| match &*known {
            Known::InFlight(key) => Earlier::InFlight(*key),
            Known::Answered(answer) => Earlier::Answered(answer.clone()),
        });
        match earlier {
            None => return Err(reply),
            Some(Earlier::Answered(answer)) => self.send(reply, Delivered::from_retained(answer)),
            Some(Earlier::InFlight(key)) => match self.core.lock().records.get_mut(key) {
                // Answered between the two look-ups: admitting it finds the answer.
                None => return Err(reply),
                // The old reply's connection is taken for lost.
                Some(record) => record.reply = Some(reply),
            },
        }
        Ok(())
    }

    /// Queues a job whose payload is complete. From here on `reply` gets exactly one final answer.
    ///
    /// A job id that is in flight already is not run again: the new reply takes the place of the old one, whose
    /// connection is taken for lost. One that was answered gets that answer.
    pub fn submit(&self, admitted: Admitted, reply: Reply) {
        let Admitted { header, input, output, caller, input_bytes, job, mut times, row, cache } = admitted;
        self.injection.pause(Stage::Receive);
        times.received_ns = now_ns();
        let deadline_ns = times.header_ns.saturating_add(header.budget_us.saturating_mul(1000));
        let id = (caller, header.job_id);
        let mut core = self.core.lock();
        let key = core.records.insert(Record {
            header,
            caller,
            model: job.model,
            input,
            input_bytes,
            output,
            reply: Some(reply),
            deadline_ns,
            run: 0,
            attempt: 0,
            times: times.submitted_at(now_ns()),
            before_ns: [0; Stage::COUNT],
            row,
            cache,
        });
        if let Some(earlier) = self.claim(id, key) {
            let record = core.records.remove(key).expect("just inserted");
            let Some(reply) = record.reply else { return };
            match earlier {
                Earlier::InFlight(first) => {
                    if let Some(record) = core.records.get_mut(first) {
                        record.reply = Some(reply);
                    }
                }
                Earlier::Answered(answer) => {
                    drop(core);
                    self.send(reply, Delivered::from_retained(answer));
                }
            }
            return;
        }
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let _ = self.handle(&mut core, Event::JobArrived(Job { key, ..job }));
    }

    /// Answers a job that was not accepted, whose header was decoded at `header_ns`; the receipt says how long that took.
    pub fn refuse(&self, header: &SubmitHeader, reply: Reply, rejection: Rejection, header_ns: u64) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        let mut answer = Delivered::rejection(header.job_id, Outcome::Refused, rejection, self.node);
        let receipt = &mut answer.header.receipt;
        receipt.node_ns = now_ns().saturating_sub(header_ns);
        receipt.stage_ns[Stage::Admit as usize] = receipt.node_ns;
        self.send(reply, answer);
    }

    /// The caller takes a job back. Nothing happens when it is not in flight.
    pub fn cancel(&self, caller: CallerId, job_id: JobId) {
        let Some(key) = self.known.get(&(caller, job_id)).and_then(|known| match *known {
            Known::InFlight(key) => Some(key),
            Known::Answered(_) => None,
        }) else {
            return;
        };
        let mut core = self.core.lock();
        let _ = self.handle(&mut core, Event::JobCancelled { key });
    }

    fn claim(&self, id: (CallerId, JobId), key: JobKey) -> Option<Earlier> {
        use dashmap::Entry;
        match self.known.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(Known::InFlight(key));
                None
            }
            Entry::Occupied(entry) => Some(match entry.get() {
                Known::InFlight(first) => Earlier::InFlight(*first),
                Known::Answered(answer) => Earlier::Answered(answer.clone()),
            }),
        }
    }
}

enum Earlier {
    InFlight(JobKey),
    Answered(Box<(sensorium_wire::AnswerHeader, bytes::Bytes)>),
}

/// A sentence for a refusal of the scheduler.
pub(super) fn explain(reason: Reason, model: &str, budget_us: u64) -> String {
    match reason {
        Reason::DeadlinePassed => "the deadline had passed when the job arrived".to_owned(),
        Reason::DeadlineUnreachable => {
            format!("{model} cannot be done within {}.{} ms from now", budget_us / 1000, budget_us % 1000 / 100)
        }
        Reason::Overloaded => format!("the queue for {model} is full"),
        Reason::ModelUnavailable => format!("no device runs {model} now; sensorium status says why"),
        Reason::ShuttingDown => "the node is stopping".to_owned(),
        other => format!("{model}: {}", other.name()),
    }
}

fn explain_slab(error: &SlabError) -> Rejection {
    match error {
        SlabError::TooLarge { .. } => Rejection::new(Reason::PayloadTooLarge, error.to_string()),
        SlabError::Exhausted { .. } | SlabError::Create { .. } | SlabError::Classes => {
            Rejection::new(Reason::Overloaded, error.to_string()).retry_after_us(SLAB_RETRY_AFTER_US)
        }
    }
}
