//! Batches as they come from the node, and their answers.
#![allow(unsafe_code, reason = "writes to output slots in shared memory")]

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use sensorium_wire::receipt::Stage;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::{BodyKind, Dtype, Reason, limits};

use crate::backend::Backend;
use crate::clock::now_ns;
use crate::executor::{Executor, JobInput, JobOutput, Slice};
use crate::protocol::{AnswerEntry, AnswerHead, BatchHead, Injection, JobEntry, put_packet, read_packet};
use crate::slab::SharedMemory;

/// Between two looks at a device while a packet may come, in nanoseconds; the system adds about as much (its timer slack).
const LOOK_NS: i64 = 50_000;
const NANOSECONDS_PER_MICROSECOND: u64 = 1000;

/// What came of looking for a packet.
pub(super) enum Received {
    /// Of so many bytes.
    Batch(usize),
    Nothing,
    End,
}

pub(super) fn receive(socket: &OwnedFd, packet: &mut [u8], flags: RecvFlags) -> Result<Received, String> {
    loop {
        return match rustix::net::recv(socket, &mut *packet, flags) {
            Ok((0, _)) => Ok(Received::End),
            Ok((bytes, _)) => Ok(Received::Batch(bytes)),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Err(error) => Err(format!("socket: {error}")),
        };
    }
}

/// A packet that is there or comes before `is_done`. A device tells in no way that can be waited for together with a socket, so
/// both are looked at in turn.
pub(super) fn receive_until(
    socket: &OwnedFd,
    packet: &mut [u8],
    is_done: impl Fn() -> bool,
) -> Result<Received, String> {
    loop {
        // An answer that is there does not wait for another batch to be opened.
        if is_done() {
            return Ok(Received::Nothing);
        }
        match receive(socket, packet, RecvFlags::DONTWAIT)? {
            Received::Nothing => {}
            received => return Ok(received),
        }
        let wait = Timespec { tv_sec: 0, tv_nsec: LOOK_NS };
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("socket: {error}")),
        }
    }
}

/// A batch that came and was not answered yet.
pub(super) struct Batch {
    pub(super) head: BatchHead,
    pub(super) jobs: Vec<JobEntry>,
    received_ns: u64,
}

impl Batch {
    pub(super) fn read(packet: &[u8], injection: &Injection) -> Result<Self, String> {
        injection.pause(Stage::Dispatch);
        let received_ns = now_ns();
        let (head, jobs) = read_packet::<BatchHead, JobEntry>(packet, |head| head.jobs)
            .ok_or_else(|| format!("a packet of {} bytes that is no batch", packet.len()))?;
        injection.pause(Stage::Batch);
        Ok(Self { head, jobs: jobs.collect(), received_ns })
    }

    /// Whether a payload starts with `prefix`.
    pub(super) fn has(&self, memory: &SharedMemory, prefix: Option<&str>) -> bool {
        self.jobs.iter().any(|job| starts_with(memory, job, prefix))
    }

    /// The jobs as executors see them; faults that a payload asks for happen here.
    pub(super) fn inputs<'a>(
        &'a self,
        memory: &'a SharedMemory,
        injection: &Injection,
    ) -> Result<Vec<JobInput<'a>>, String> {
        let mut inputs = Vec::with_capacity(self.jobs.len());
        for job in &self.jobs {
            if starts_with(memory, job, injection.exit_on_prefix.as_deref()) {
                return Err(format!("run {}: told to exit by [inject]", job.run));
            }
            if starts_with(memory, job, injection.hang_on_prefix.as_deref()) {
                loop {
                    std::thread::park();
                }
            }
            inputs.push(input(memory, job).ok_or_else(|| format!("run {}: its input is out of bounds", job.run))?);
        }
        Ok(inputs)
    }

    /// Where the answers go.
    fn outputs<'a>(&self, memory: &'a SharedMemory) -> Result<Vec<JobOutput<'a>>, String> {
        let mut outputs = Vec::with_capacity(self.jobs.len());
        for job in &self.jobs {
            // SAFETY: the node assigned this slot to this job alone, and no two runs of a job are under way at once: a slice
            // is sent after the one before was answered, and runs are never sent twice to one worker.
            let bytes = unsafe { memory.write_access(job.output_offset, job.output_bytes_max) }
                .ok_or_else(|| format!("run {}: its output is out of bounds", job.run))?;
            outputs.push(JobOutput::new(bytes));
        }
        Ok(outputs)
    }
}

/// The way of answers, one batch at a time.
pub(super) struct Answers<'a> {
    socket: &'a OwnedFd,
    memory: &'a SharedMemory,
    injection: &'a Injection,
    packet: Vec<u8>,
    /// When the batch before was done, by both clocks: what was done for the next one until then took none of the lane's time.
    free: (Instant, u64),
}

impl<'a> Answers<'a> {
    pub(super) fn new(socket: &'a OwnedFd, memory: &'a SharedMemory, injection: &'a Injection) -> Self {
        let free = (Instant::now(), now_ns());
        Self { socket, memory, injection, packet: Vec::new(), free }
    }

    /// Runs a batch and answers it.
    pub(super) fn run(
        &mut self,
        executor: &mut dyn Executor,
        batch: &Batch,
        backend: &dyn Backend,
    ) -> Result<(), String> {
        let inputs = batch.inputs(self.memory, self.injection)?;
        let mut outputs = batch.outputs(self.memory)?;
        executor.run(&inputs, &mut outputs, &|stage| self.injection.pause(stage));
        self.answer(batch, &mut outputs, backend)
    }

    /// Waits for a batch that was started and answers it.
    pub(super) fn finish(
        &mut self,
        executor: &mut dyn Executor,
        batch: &Batch,
        backend: &dyn Backend,
    ) -> Result<(), String> {
        let mut outputs = batch.outputs(self.memory)?;
        executor.finish(&mut outputs, self.free.0, &|stage| self.injection.pause(stage));
        self.answer(batch, &mut outputs, backend)
    }

    fn answer(&mut self, batch: &Batch, outputs: &mut [JobOutput<'_>], backend: &dyn Backend) -> Result<(), String> {
        // What a broken device left behind is no answer.
        backend.check()?;
        let entries = batch.jobs.iter().zip(outputs).map(|(job, output)| entry(job, output));
        let finished_ns = now_ns();
        let BatchHead { batch: number, jobs, .. } = batch.head;
        let received_ns = batch.received_ns.max(self.free.1);
        let head = AnswerHead { batch: number, received_ns, finished_ns, jobs, reserved: 0 };
        self.free = (Instant::now(), finished_ns);
        put_packet(&mut self.packet, &head, entries);
        let nonsense = self.injection.nonsense_on_prefix.as_deref();
        if batch.has(self.memory, nonsense) {
            self.packet.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7));
        }
        rustix::net::send(self.socket, &self.packet, SendFlags::NOSIGNAL)
            .map_err(|error| format!("socket: {error}"))?;
        Ok(())
    }
}

fn input<'a>(memory: &'a SharedMemory, job: &'a JobEntry) -> Option<JobInput<'a>> {
    let bytes = memory.read(job.input_offset, job.input_bytes)?;
    let (state, bytes) = bytes.split_at_checked(job.state_bytes as usize)?;
    Some(JobInput {
        payload: PayloadKind::from_code(job.payload)?,
        dtype: Dtype::from_code(job.dtype)?,
        dims: job.shape.get(..usize::from(job.rank))?,
        pixels: PixelFormat::from_code(job.pixels)?,
        sample_rate_hz: job.sample_rate_hz,
        state,
        bytes,
        slice: Slice {
            run: job.run,
            continues: job.continues,
            budget_ns: u64::from(job.slice_us) * NANOSECONDS_PER_MICROSECOND,
        },
    })
}

fn entry(job: &JobEntry, output: &mut JobOutput<'_>) -> AnswerEntry {
    let times = output.times;
    let mut entry = AnswerEntry {
        run: job.run,
        prepare_ns: times.prepare_ns,
        infer_ns: times.infer_ns,
        interpret_ns: times.interpret_ns,
        unfinished: u8::from(output.unfinished),
        ..AnswerEntry::default()
    };
    match &output.answer {
        Ok(answer) => {
            entry.output_bytes = answer.bytes as u64;
            entry.body = answer.body as u8;
            entry.dtype = answer.dtype as u8;
            entry.shape = answer.dims;
            entry.rank = answer.rank;
        }
        Err(rejection) => {
            // The sentence goes where the result would have gone.
            let mut end = rejection.detail.len().min(limits::DETAIL_BYTES_MAX).min(output.bytes.len());
            while !rejection.detail.is_char_boundary(end) {
                end -= 1;
            }
            output.bytes[..end].copy_from_slice(&rejection.detail.as_bytes()[..end]);
            entry.output_bytes = end as u64;
            entry.body = BodyKind::Text as u8;
            entry.reason = if rejection.reason == Reason::None { Reason::Internal } else { rejection.reason } as u8;
        }
    }
    entry
}

fn starts_with(memory: &SharedMemory, job: &JobEntry, prefix: Option<&str>) -> bool {
    prefix.is_some_and(|prefix| {
        memory.read(job.input_offset, job.input_bytes).is_some_and(|bytes| {
            bytes.get(job.state_bytes as usize..).is_some_and(|b| b.starts_with(prefix.as_bytes()))
        })
    })
}
