//! One lane: its models and the loop that runs their batches.

use std::os::fd::OwnedFd;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use sensorium_models::profile::ServiceProfile;
use sensorium_models::repository::Repository;
use sensorium_wire::receipt::Stage;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::{BodyKind, Dtype, Reason, limits};

use crate::backend::Backend;
use crate::clock::now_ns;
use crate::executor::{self, Executor, JobInput, JobOutput};
use crate::protocol::{
    AnswerEntry, AnswerHead, BatchHead, Injection, JobEntry, LaneReport, LaneSetup, ModelReport, ModelSetup,
    PACKET_BYTES_MAX, put_packet, read_packet,
};
use crate::slab::SharedMemory;

/// Lanes load beside each other, but only one model is measured at a time: both its times and its memory (what the process
/// grows by) would otherwise be its neighbours' as well.
static MEASURING: Mutex<()> = Mutex::new(());
/// Runs that warm a model whose times are known.
const WARM_UP_RUNS: u32 = 1;

pub(super) struct Lane {
    models: Vec<Model>,
    report: LaneReport,
}

struct Model {
    executor: Option<Box<dyn Executor>>,
}

impl Lane {
    /// Loads, warms and measures the lane's models. One that cannot be loaded is reported; the others work.
    pub(super) fn load(setup: &LaneSetup, repository: &Repository, backend: &dyn Backend) -> Self {
        let mut lane = Self { models: Vec::new(), report: LaneReport { modality: setup.modality, models: Vec::new() } };
        for ModelSetup { name, profile } in &setup.models {
            let began = Instant::now();
            let loaded = load_model(name, profile.as_ref(), repository, backend);
            let load_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let version = repository.models.get(name).map_or(0, |package| package.manifest.version);
            let (executor, outcome) = match loaded {
                Ok((executor, profile)) => (Some(executor), Ok(profile)),
                Err(reason) => (None, Err(reason)),
            };
            lane.models.push(Model { executor });
            lane.report.models.push(ModelReport { name: name.clone(), version, load_ms, outcome });
        }
        lane
    }

    pub(super) fn report(&self) -> LaneReport {
        self.report.clone()
    }

    /// Runs batches until the node closes the socket.
    ///
    /// # Errors
    /// When the node sends what no sound node sends, or the socket fails.
    pub(super) fn run(&mut self, socket: &OwnedFd, memory: &SharedMemory, injection: &Injection) -> Result<(), String> {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        let mut answer = Vec::with_capacity(PACKET_BYTES_MAX);
        loop {
            let bytes = match rustix::net::recv(socket, &mut packet[..], RecvFlags::empty()) {
                Ok((bytes, _)) => bytes,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(format!("socket: {error}")),
            };
            if bytes == 0 {
                return Ok(());
            }
            injection.pause(Stage::Dispatch);
            let received_ns = now_ns();
            let (head, jobs) = read_packet::<BatchHead, JobEntry>(&packet[..bytes], |head| head.jobs)
                .ok_or_else(|| format!("a packet of {bytes} bytes that is no batch"))?;
            injection.pause(Stage::Batch);
            let jobs: Vec<JobEntry> = jobs.collect();
            let model = self
                .models
                .get_mut(head.model as usize)
                .and_then(|model| model.executor.as_deref_mut())
                .ok_or_else(|| format!("batch {} is for model {}, which is not loaded", head.batch, head.model))?;
            let entries = run_batch(model, &jobs, memory, injection)?;
            let head =
                AnswerHead { batch: head.batch, received_ns, finished_ns: now_ns(), jobs: head.jobs, reserved: 0 };
            put_packet(&mut answer, &head, entries);
            if jobs.iter().any(|job| starts_with(memory, job, injection.nonsense_on_prefix.as_deref())) {
                answer.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7));
            }
            rustix::net::send(socket, &answer, SendFlags::NOSIGNAL).map_err(|error| format!("socket: {error}"))?;
        }
    }
}

fn load_model(
    name: &str,
    known: Option<&ServiceProfile>,
    repository: &Repository,
    backend: &dyn Backend,
) -> Result<(Box<dyn Executor>, ServiceProfile), String> {
    let package = repository.models.get(name).ok_or_else(|| format!("{name}: not in the repository"))?;
    let Some(profile) = known else {
        let _alone = MEASURING.lock();
        return executor::load_measured(package, backend).map_err(|error| error.to_string());
    };
    let mut executor = executor::load(package, backend).map_err(|error| error.to_string())?;
    executor::warm_up(&mut *executor, package, WARM_UP_RUNS)?;
    Ok((executor, profile.clone()))
}

/// Runs one batch and gives the answers' entries, in the order of the jobs.
#[allow(unsafe_code, reason = "writes to output slots in shared memory")]
fn run_batch(
    executor: &mut dyn Executor,
    jobs: &[JobEntry],
    memory: &SharedMemory,
    injection: &Injection,
) -> Result<Vec<AnswerEntry>, String> {
    let mut inputs = Vec::with_capacity(jobs.len());
    let mut outputs = Vec::with_capacity(jobs.len());
    for job in jobs {
        if starts_with(memory, job, injection.exit_on_prefix.as_deref()) {
            return Err(format!("run {}: told to exit by [inject]", job.run));
        }
        if starts_with(memory, job, injection.hang_on_prefix.as_deref()) {
            loop {
                std::thread::park();
            }
        }
        inputs.push(input(memory, job).ok_or_else(|| format!("run {}: its input is out of bounds", job.run))?);
        // SAFETY: the node assigned this slot to this run alone, and runs are never sent twice to one worker.
        let bytes = unsafe { memory.write_access(job.output_offset, job.output_bytes_max) }
            .ok_or_else(|| format!("run {}: its output is out of bounds", job.run))?;
        outputs.push(JobOutput::new(bytes));
    }
    executor.run(&inputs, &mut outputs, &|stage| injection.pause(stage));
    Ok(jobs.iter().zip(&mut outputs).map(|(job, output)| entry(job, output)).collect())
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
    })
}

fn entry(job: &JobEntry, output: &mut JobOutput<'_>) -> AnswerEntry {
    let times = output.times;
    let mut entry = AnswerEntry {
        run: job.run,
        prepare_ns: times.prepare_ns,
        infer_ns: times.infer_ns,
        interpret_ns: times.interpret_ns,
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
