//! Carrying out what the scheduler decides, and turning a worker's answer into a receipt.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::net::SendFlags;
use sensorium_device::clock::now_ns;
use sensorium_device::protocol::{AnswerEntry, AnswerHead, BatchHead, JobEntry, put_packet};
use sensorium_scheduler::{BatchId, BatchJobs, Command, Event, Handled, JobKey, LaneId, ModelKey};
use sensorium_wire::ids::Name;
use sensorium_wire::receipt::Stage;
use sensorium_wire::{
    AnswerHeader, BodyKind, Dtype, Modality, Outcome, Reason, Receipt, Rejection, SubmitHeader, limits,
};

use super::answer::{AnswerPayload, Delivered};
use super::edge::Evidence;
use super::lanes::SentBatch;
use super::records::{Record, Times};
use super::retained::Known;
use super::{Core, Engine};

/// What a batch's packet says about all its jobs.
pub(super) struct Ran {
    pub(super) head: AnswerHead,
    pub(super) sent_ns: u64,
    pub(super) collected_ns: u64,
    pub(super) device_name: Name<16>,
    /// What of the model ran.
    pub(super) variant: Name<16>,
    pub(super) modality: Modality,
    pub(super) jobs: usize,
}

/// What a worker is told of a payload as it came.
fn described(header: &SubmitHeader) -> JobEntry {
    JobEntry {
        state_bytes: header.state_bytes,
        sample_rate_hz: header.sample_rate_hz,
        shape: header.shape,
        payload: header.payload as u8,
        dtype: header.dtype as u8,
        pixels: header.pixels as u8,
        rank: header.rank,
        ..JobEntry::default()
    }
}

/// What is impossible about an answer; `None` when it is sound.
pub(super) fn implausible(
    head: &AnswerHead,
    entry: &AnswerEntry,
    capacity: u64,
    sent_ns: u64,
    collected_ns: u64,
    sliced: bool,
) -> Option<&'static str> {
    let stages =
        [entry.prepare_ns, entry.infer_ns, entry.interpret_ns].iter().try_fold(0_u64, |sum, ns| sum.checked_add(*ns));
    if entry.output_bytes > capacity {
        Some("its output is longer than its slot")
    } else if BodyKind::from_code(entry.body).is_none() || Dtype::from_code(entry.dtype).is_none() {
        Some("its body has an unknown type")
    } else if usize::from(entry.rank) > limits::RANK_MAX {
        Some("its body has too many dimensions")
    } else if head.received_ns < sent_ns || head.finished_ns < head.received_ns || head.finished_ns > collected_ns {
        Some("its times are out of order")
    } else if entry.unfinished > u8::from(sliced) {
        Some("it is unfinished, though it was to run to its end")
    } else if stages.is_none_or(|ns| ns > head.finished_ns - head.received_ns) {
        Some("its stages take longer than the batch")
    } else {
        None
    }
}

/// Where the time of one run went, from queue to collection.
pub(super) fn stages_of_run(times: &Times, entry: &AnswerEntry, ran: &Ran) -> [u64; Stage::COUNT] {
    let worked = entry.prepare_ns + entry.infer_ns + entry.interpret_ns;
    let mut stages = [0; Stage::COUNT];
    let mut set = |stage: Stage, ns: u64| stages[stage as usize] = ns;
    set(Stage::Queue, times.dispatched_ns - times.queued_ns);
    set(Stage::Dispatch, ran.head.received_ns - ran.sent_ns);
    set(Stage::Batch, ran.head.finished_ns - ran.head.received_ns - worked);
    set(Stage::Prepare, entry.prepare_ns);
    set(Stage::Infer, entry.infer_ns);
    set(Stage::Interpret, entry.interpret_ns);
    set(Stage::Collect, ran.collected_ns - ran.head.finished_ns);
    stages
}

impl Record {
    /// A slice of the job has run, and it waits for the next.
    pub(super) fn add_slice(&mut self, entry: &AnswerEntry, ran: &Ran) {
        let stages = stages_of_run(&self.times, entry, ran);
        self.before_ns.iter_mut().zip(stages).for_each(|(ns, run_ns)| *ns += run_ns);
        self.times.queued_ns = ran.collected_ns;
    }

    /// What was done of the job is lost, and that time counts as waiting.
    fn start_over(&mut self) {
        let lost_ns: u64 = self.before_ns.iter().sum();
        self.before_ns = [0; Stage::COUNT];
        self.before_ns[Stage::Queue as usize] = lost_ns;
    }
}

impl Engine {
    /// Tells the scheduler and carries out what it says.
    pub(super) fn handle(&self, core: &mut Core, event: Event) -> Handled {
        self.handle_at(core, now_ns(), event)
    }

    pub(super) fn handle_at(&self, core: &mut Core, now_ns: u64, event: Event) -> Handled {
        let mut commands = std::mem::take(&mut core.commands);
        let handled = match &mut core.log {
            None => core.scheduler.handle(now_ns, event, &mut commands),
            Some(log) => {
                log.begin(&core.scheduler);
                let handled = core.scheduler.handle(now_ns, event.clone(), &mut commands);
                log.note(now_ns, event, &commands);
                handled
            }
        };
        for command in commands.drain(..) {
            match command {
                Command::Dispatch { lane, batch, model, jobs, .. } => self.dispatch(core, lane, batch, model, &jobs),
                // Refused by its header already.
                Command::Refuse { key, .. } if core.records.get_mut(key).is_none() => {}
                Command::Refuse { key, reason, retry_after_us, .. } => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    self.counters.accepted.fetch_sub(1, Ordering::Relaxed);
                    self.end(core, key, Outcome::Refused, |record, model| {
                        Rejection::new(reason, super::admit::explain(reason, model, record.header.budget_us))
                            .retry_after_us(retry_after_us)
                    });
                }
                Command::Expire { key } => {
                    self.counters.expired.fetch_add(1, Ordering::Relaxed);
                    self.end(core, key, Outcome::Expired, |record, _| {
                        Rejection::new(
                            Reason::DeadlineExpired,
                            format!("not done within {} ms: expired in the queue", record.header.budget_us / 1000),
                        )
                    });
                }
                Command::Fail { key, reason } => {
                    self.counters.failed.fetch_add(1, Ordering::Relaxed);
                    self.end(core, key, Outcome::Failed, |record, model| {
                        let detail = match reason {
                            Reason::Poisoned => format!(
                                "{model} died on this input again while it ran alone ({} attempts); do not send it again",
                                record.attempt
                            ),
                            other => other.name().to_owned(),
                        };
                        Rejection::new(reason, detail)
                    });
                }
                Command::Cancelled { key, running } => self.cancelled(core, key, running),
                Command::ReplaceWorker { device, why } => {
                    let limit_ms = why.limit_ns / 1_000_000;
                    (self.on_hung)(device.0, why.lane, format!("batch {} runs longer than {limit_ms} ms", why.batch.0));
                }
                Command::PlanChanged(plan) => {
                    tracing::debug!(epoch = plan.epoch, level = plan.level, "plan");
                }
            }
        }
        core.commands = commands;
        handled
    }

    fn dispatch(&self, core: &mut Core, lane: LaneId, batch: BatchId, model: ModelKey, jobs: &BatchJobs) {
        self.injection.pause(Stage::Queue);
        let sent_ns = now_ns();
        let link = core.lanes.get_mut(&lane).expect("the scheduler dispatches to open lanes only");
        let index = link.models.iter().find(|known| known.key == model).map_or(0, |known| known.index);
        let slice_us = self.models.get(model).map_or(0, |info| info.slice_ms.saturating_mul(1000));
        let mut sent =
            SentBatch { batch, model: index, sent_ns, sliced: slice_us > 0, jobs: Vec::with_capacity(jobs.len()) };
        let (records, next_run) = (&mut core.records, &mut core.next_run);
        let entries = jobs.iter().filter_map(|job| {
            let record = records.get_mut(job.key)?;
            let continues = if job.slice > 0 { record.run } else { 0 };
            record.run = *next_run;
            record.attempt = job.attempt;
            record.times.dispatched_ns = sent_ns;
            if job.slice == 0 {
                record.start_over();
            }
            *next_run += 1;
            sent.jobs.push((job.key, record.run));
            Some(JobEntry {
                run: record.run,
                continues,
                input_offset: record.input.offset(),
                input_bytes: record.input_bytes,
                output_offset: record.output.offset(),
                output_bytes_max: record.output.capacity(),
                slice_us,
                ..record.row.as_ref().and_then(|row| row.fed).unwrap_or_else(|| described(&record.header))
            })
        });
        let count = u32::try_from(jobs.len()).expect("batches are at most 64 jobs");
        put_packet(&mut core.packet, &BatchHead { batch: batch.0, sent_ns, model: index, jobs: count }, entries);
        debug_assert_eq!(sent.jobs.len(), jobs.len(), "every job of a batch has a record");
        // At most two batches are committed, so the socket always has room; if sending fails all the same the worker is
        // dying, and the jobs run again once it has been reaped.
        if let Err(error) = rustix::net::send(&*link.socket, &core.packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            tracing::debug!(lane = lane.0, %error, "batch not sent");
        }
        link.committed.push_back(sent);
    }

    /// Ends a job that did not run to a result.
    fn end(&self, core: &mut Core, key: JobKey, outcome: Outcome, why: impl FnOnce(&Record, &str) -> Rejection) {
        let Some(record) = core.records.remove(key) else { return };
        let model = self.models.get(record.model).map_or("", |info| info.name.as_str());
        let rejection = why(&record, model);
        let mut answer = Delivered::rejection(record.header.job_id, outcome, rejection, self.node);
        answer.header.receipt = self.receipt_without_run(&record, now_ns());
        self.deliver(record, answer, outcome != Outcome::Refused);
    }

    fn cancelled(&self, core: &mut Core, key: JobKey, running: bool) {
        self.counters.cancelled.fetch_add(1, Ordering::Relaxed);
        let why = || Rejection::new(Reason::CancelledByClient, "taken back by the client");
        if !running {
            return self.end(core, key, Outcome::Cancelled, |_, _| why());
        }
        // A worker still uses its memory: the record stays until the batch ends, the answer goes out now.
        let Some(record) = core.records.get_mut(key) else { return };
        let answer = Delivered::rejection(record.header.job_id, Outcome::Cancelled, why(), self.node);
        let id = (record.caller, record.header.job_id);
        if let Some(reply) = record.reply.take() {
            self.retain(id, &answer);
            self.send(reply, answer);
        }
    }

    /// A run ended: the job's answer goes out. Gives what rules are to look at.
    pub(super) fn finish_run(&self, mut record: Record, entry: &AnswerEntry, ran: &Ran) -> Option<Box<Evidence>> {
        record.reply.as_ref()?;
        self.injection.pause(Stage::Answer);
        let now = now_ns();
        let receipt = self.receipt(&record, entry, ran, now);
        let job_id = record.header.job_id;
        let reason = Reason::from_code(entry.reason).unwrap_or(Reason::Internal);
        let header = AnswerHeader {
            job_id,
            receipt,
            shape: entry.shape,
            outcome: if reason == Reason::None { Outcome::Result } else { Outcome::Failed },
            reason,
            body: BodyKind::from_code(entry.body).unwrap_or_default(),
            dtype: Dtype::from_code(entry.dtype).unwrap_or_default(),
            rank: entry.rank,
            ..AnswerHeader::default()
        };
        let evidence = self.look(&mut record, &header, entry.output_bytes);
        if now > record.deadline_ns {
            self.counters.expired.fetch_add(1, Ordering::Relaxed);
            let late_us = (now - record.deadline_ns) / 1000;
            let detail = format!("done {late_us} µs after its deadline of {} ms", record.header.budget_us / 1000);
            let rejection = Rejection::new(Reason::DeadlineExpired, detail);
            let mut answer = Delivered::rejection(job_id, Outcome::Expired, rejection, self.node);
            answer.header.receipt = receipt;
            self.deliver(record, answer, true);
            return evidence;
        }
        let ended = if reason == Reason::None { &self.counters.results } else { &self.counters.failed };
        ended.fetch_add(1, Ordering::Relaxed);
        let Record { output, reply, caller, .. } = record;
        let payload = AnswerPayload::Slot(output, entry.output_bytes);
        let answer = Delivered { header, payload };
        self.retain((caller, job_id), &answer);
        if let Some(reply) = reply {
            self.send(reply, answer);
        }
        evidence
    }

    fn deliver(&self, record: Record, answer: Delivered, retain: bool) {
        let id = (record.caller, record.header.job_id);
        if retain {
            self.retain(id, &answer);
        } else {
            self.known.remove(&id);
        }
        if let Some(reply) = record.reply {
            self.send(reply, answer);
        }
    }

    /// Keeps an answer for resubmission, unless it is large: such a job is run again.
    pub(super) fn retain(&self, id: (super::CallerId, sensorium_wire::JobId), answer: &Delivered) {
        let payload = match &answer.payload {
            AnswerPayload::Bytes(bytes) => bytes.clone(),
            AnswerPayload::Slot(slot, bytes) if *bytes <= limits::COALESCED_PAYLOAD_BYTES_MAX => {
                Bytes::copy_from_slice(slot.read(*bytes))
            }
            AnswerPayload::Slot(..) => {
                self.known.remove(&id);
                return;
            }
        };
        let bytes = payload.len();
        self.known.insert(id, Known::Answered(Box::new((answer.header, payload))));
        self.retained.lock().note(id, bytes, |oldest| {
            self.known.remove_if(&oldest, |_, known| matches!(known, Known::Answered(_)));
        });
    }

    fn receipt_without_run(&self, record: &Record, now: u64) -> Receipt {
        let times = &record.times;
        let mut receipt =
            Receipt { node: self.node, node_ns: now - times.header_ns, attempt: record.attempt, ..Receipt::default() };
        receipt.stage_ns[Stage::Admit as usize] =
            times.admitted_ns - times.header_ns + (times.submitted_ns - times.received_ns);
        receipt.stage_ns[Stage::Receive as usize] = times.received_ns - times.admitted_ns;
        receipt.stage_ns[Stage::Queue as usize] = now - times.queued_ns;
        receipt.stage_ns.iter_mut().zip(record.before_ns).for_each(|(ns, before_ns)| *ns += before_ns);
        let mut model = self.models.get(record.model);
        if let Some(row) = &record.row {
            // The client knows the first.
            model = self.models.find(record.header.model.as_str());
            receipt.stage_ns.iter_mut().zip(row.done_ns).for_each(|(ns, done_ns)| *ns += done_ns);
            receipt.attempt = receipt.attempt.max(row.attempt);
        }
        receipt.model_version = model.map_or(0, |info| info.version);
        receipt
    }

    fn receipt(&self, record: &Record, entry: &AnswerEntry, ran: &Ran, now: u64) -> Receipt {
        let times = &record.times;
        let mut receipt = self.receipt_without_run(record, now);
        // It did not wait until now.
        receipt.stage_ns[Stage::Queue as usize] -= now - times.queued_ns;
        receipt.stage_ns.iter_mut().zip(stages_of_run(times, entry, ran)).for_each(|(ns, run_ns)| *ns += run_ns);
        receipt.stage_ns[Stage::Answer as usize] = now - ran.collected_ns;
        receipt.device = record.row.as_ref().map_or(ran.device_name, |row| row.devices_with(ran.device_name));
        receipt.variant = ran.variant;
        receipt.lane = ran.modality as u8;
        receipt.batch_size = u16::try_from(ran.jobs).unwrap_or(u16::MAX);
        receipt
    }
}
