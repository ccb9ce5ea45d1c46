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

use super::noting::Noting;
use crate::backend::Backend;
use crate::clock::now_ns;
use crate::executor::{self, Executor, JobInput, JobOutput, Slice};
use crate::protocol::{
    AnswerEntry, AnswerHead, BatchHead, Injection, JobEntry, LaneReport, LaneSetup, ModelReport, ModelSetup,
    PACKET_BYTES_MAX, PlacementReport, put_packet, read_packet,
};
use crate::slab::SharedMemory;

/// Lanes load beside each other, but only one model is measured at a time: both its times and its memory (what the process
/// grows by) would otherwise be its neighbours' as well.
static MEASURING: Mutex<()> = Mutex::new(());
/// Runs that warm a model whose times are known.
const WARM_UP_RUNS: u32 = 1;
const NANOSECONDS_PER_MICROSECOND: u64 = 1000;

pub(super) struct Lane {
    models: Vec<Model>,
    report: LaneReport,
}

struct Model {
    executor: Option<Box<dyn Executor>>,
}

impl Lane {
    /// Loads, warms and measures the lane's models. One that cannot be loaded is reported; the others work.
    ///
    /// `gently`: one model after the other in the whole process, because another worker serves meanwhile.
    pub(super) fn load(setup: &LaneSetup, repository: &Repository, backend: &mut dyn Backend, gently: bool) -> Self {
        let mut lane = Self { models: Vec::new(), report: LaneReport { modality: setup.modality, models: Vec::new() } };
        for ModelSetup { name, profile } in &setup.models {
            let began = Instant::now();
            let backend = Noting::new(backend);
            let loaded = load_model(name, profile.as_ref(), repository, &backend, gently);
            let load_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let manifest = repository.models.get(name).map(|package| &package.manifest);
            let version = manifest.map_or(0, |manifest| manifest.version);
            let compute = manifest.map(|manifest| manifest.placement.compute).unwrap_or_default();
            let (executor, outcome, placement) = match loaded {
                Ok((executor, profile)) => (Some(executor), Ok(profile), backend.placed().report(compute)),
                Err(reason) => (None, Err(reason), PlacementReport::default()),
            };
            lane.models.push(Model { executor });
            lane.report.models.push(ModelReport { name: name.clone(), version, load_ms, outcome, placement });
        }
        lane
    }

    pub(super) fn report(&self) -> LaneReport {
        self.report.clone()
    }

    /// Runs batches until the node closes the socket.
    ///
    /// # Errors
    /// When the node sends what no sound node sends, the socket fails, or the device ended for this process: the batch
    /// is then not answered, and the node runs it again elsewhere.
    pub(super) fn run(
        &mut self,
        socket: &OwnedFd,
        memory: &SharedMemory,
        injection: &Injection,
        backend: &dyn Backend,
    ) -> Result<(), String> {
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
            if jobs.iter().any(|job| starts_with(memory, job, injection.illegal_on_prefix.as_deref())) {
                // What it does to the GPU shows below.
                if let Err(reason) = backend.access_illegally() {
                    tracing::warn!(reason, "illegal_on_prefix of [inject] did nothing");
                }
            }
            let entries = run_batch(model, &jobs, memory, injection)?;
            backend.check()?;
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
    gently: bool,
) -> Result<(Box<dyn Executor>, ServiceProfile), String> {
    let package = repository.models.get(name).ok_or_else(|| format!("{name}: not in the repository"))?;
    let alone = (known.is_none() || gently || backend.loads_alone()).then(|| MEASURING.lock());
    let Some(profile) = known else {
        return executor::load_measured(package, backend).map_err(|error| error.to_string());
    };
    let mut executor = executor::load(package, backend).map_err(|error| error.to_string())?;
    executor::warm_up(&mut *executor, package, WARM_UP_RUNS)?;
    drop(alone);
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
        // SAFETY: the node assigned this slot to this job alone, and no two runs of a job are under way at once: a slice is
        // sent after the one before was answered, and runs are never sent twice to one worker.
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::thread;

    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    use sensorium_wire::submit::Modality;

    use super::*;
    use crate::backend::{BackendError, LoadOptions, Network};
    use crate::executor::JobAnswer;

    /// Leaves every job once and answers its continuation with the payload; says what slices it was given.
    struct OnceLeft {
        slices: mpsc::Sender<Slice>,
    }

    impl Executor for OnceLeft {
        fn run(&mut self, jobs: &[JobInput<'_>], outputs: &mut [JobOutput<'_>], _: &dyn Fn(Stage)) {
            for (job, output) in jobs.iter().zip(outputs) {
                self.slices.send(job.slice).unwrap();
                output.times.infer_ns = 7;
                output.unfinished = job.slice.continues == 0;
                output.answer = Ok(JobAnswer::default());
                if !output.unfinished {
                    output.bytes[..job.bytes.len()].copy_from_slice(job.bytes);
                    let bytes = job.bytes.len();
                    output.answer = Ok(JobAnswer { body: BodyKind::Result, bytes, ..JobAnswer::default() });
                }
            }
        }
    }

    /// A backend that is only asked whether it is sound.
    struct Sound;

    impl Backend for Sound {
        fn name(&self) -> &'static str {
            "sound"
        }

        fn load(&self, file: &Path, _: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
            Err(BackendError::Load { file: file.to_owned(), message: "nothing is loaded".to_owned() })
        }
    }

    #[test]
    fn slices_reach_the_executor_and_unfinished_jobs_are_said_to_be() {
        let memory = SharedMemory::create(8192).unwrap();
        assert!(memory.write(0, b"sound"));
        let (slices, seen) = mpsc::channel();
        let mut lane = Lane {
            models: vec![Model { executor: Some(Box::new(OnceLeft { slices })) }],
            report: LaneReport { modality: Modality::Audio, models: Vec::new() },
        };
        let (node, worker) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let job = JobEntry { input_bytes: 5, output_offset: 4096, output_bytes_max: 4096, ..Default::default() };
        let first = JobEntry { run: 3, slice_us: 40_000, ..job };
        let second = JobEntry { run: 5, continues: 3, slice_us: 0, ..job };
        let answers = thread::scope(|scope| {
            let lane = scope.spawn(|| {
                // The socket ends with this thread, or a lane that failed would leave the other side waiting.
                let worker = worker;
                lane.run(&worker, &memory, &Injection::default(), &Sound)
            });
            let mut answers = Vec::new();
            let mut packet = Vec::new();
            for entry in [first, second] {
                put_packet(&mut packet, &BatchHead { batch: entry.run, jobs: 1, ..Default::default() }, [entry]);
                rustix::net::send(&node, &packet, SendFlags::empty()).unwrap();
                let mut answer = vec![0; PACKET_BYTES_MAX];
                let (bytes, _) = rustix::net::recv(&node, &mut answer[..], RecvFlags::empty()).unwrap();
                let read = read_packet::<AnswerHead, AnswerEntry>(&answer[..bytes], |head| head.jobs);
                answers.extend(read.unwrap().1);
            }
            drop(node);
            lane.join().unwrap().unwrap();
            answers
        });
        let seen: Vec<_> = seen.iter().take(2).collect();
        let expected =
            [Slice { run: 3, continues: 0, budget_ns: 40_000_000 }, Slice { run: 5, continues: 3, budget_ns: 0 }];
        assert_eq!(seen, expected);
        let brief =
            |entry: &AnswerEntry| (entry.run, entry.unfinished, entry.reason, entry.output_bytes, entry.infer_ns);
        assert_eq!(answers.iter().map(brief).collect::<Vec<_>>(), [(3, 1, 0, 0, 7), (5, 0, 0, 5, 7)]);
        assert_eq!(memory.read(4096, 5), Some(&b"sound"[..]));
    }
}
