//! One lane: its models and the loop that runs their batches.

use std::os::fd::OwnedFd;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use sensorium_models::repository::Repository;
use sensorium_wire::receipt::Stage;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::{BodyKind, Dtype, Reason, limits};

use crate::backend::Backend;
use crate::clock::now_ns;
use crate::executor::{self, Executor, JobInput, JobOutput, Slice};
use crate::protocol::{
    AnswerEntry, AnswerHead, BatchHead, Injection, JobEntry, LaneReport, LaneSetup, Measured, ModelReport, ModelSetup,
    PACKET_BYTES_MAX, put_packet, read_packet,
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
    pub(super) fn load(setup: &LaneSetup, repository: &Repository, backend: &dyn Backend) -> Self {
        let mut lane = Self { models: Vec::new(), report: LaneReport { modality: setup.modality, models: Vec::new() } };
        for model in &setup.models {
            let name = &model.name;
            let began = Instant::now();
            let mut note = None;
            let loaded = load_model(model, repository, backend, &mut note);
            let load_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let version = repository.models.get(name).map_or(0, |package| package.manifest.version);
            let (executor, outcome) = match loaded {
                Ok((executor, measured)) => (Some(executor), Ok(measured)),
                Err(reason) => (None, Err(reason)),
            };
            lane.models.push(Model { executor });
            lane.report.models.push(ModelReport { name: name.clone(), version, load_ms, outcome, note });
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
    setup: &ModelSetup,
    repository: &Repository,
    backend: &dyn Backend,
    note: &mut Option<String>,
) -> Result<(Box<dyn Executor>, Measured), String> {
    let name = &setup.name;
    let package = repository.models.get(name).ok_or_else(|| format!("{name}: not in the repository"))?;
    let (package, otherwise) = executor::chosen(package, setup.precision);
    *note = otherwise;
    let variant = executor::variant_name(&package, backend);
    // Times of something else say nothing of this.
    let known = setup.known.as_ref().filter(|known| known.variant == variant);
    let alone = (known.is_none() || backend.loads_alone()).then(|| MEASURING.lock());
    let Some(known) = known else {
        let (executor, profile) = executor::load_measured(&package, backend).map_err(|error| error.to_string())?;
        return Ok((executor, Measured { variant, profile }));
    };
    let mut executor = executor::load(&package, backend).map_err(|error| error.to_string())?;
    executor::warm_up(&mut *executor, &package, WARM_UP_RUNS)?;
    drop(alone);
    Ok((executor, known.clone()))
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
    use sensorium_models::manifest::Precision;
    use sensorium_models::{ServiceProfile, Signature, TensorSpec};
    use sensorium_wire::submit::Modality;

    use super::*;
    use crate::backend::{BackendError, LoadOptions, NamedTensor, Network, Tensor, TensorBuffer};
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

    /// A GPU's backend that says which files it was given; its networks answer nothing but zeros.
    struct Zeros {
        name: &'static str,
        loaded: parking_lot::Mutex<Vec<(String, Precision)>>,
    }

    struct Zero(Signature);

    impl Backend for Zeros {
        fn name(&self) -> &'static str {
            self.name
        }

        fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            self.loaded.lock().push((name, options.precision));
            assert_eq!((options.inputs.len(), options.inputs[0].name.as_str()), (1, "x"));
            let spec = |name: &str| TensorSpec { name: name.to_owned(), dtype: Dtype::F32, dims: vec![None, Some(2)] };
            Ok(Box::new(Zero(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] })))
        }
    }

    impl Network for Zero {
        fn signature(&self) -> &Signature {
            &self.0
        }

        fn run(&mut self, inputs: &[NamedTensor<'_>], _: &[&str]) -> Result<Vec<Tensor>, BackendError> {
            let dims = inputs[0].dims.to_vec();
            let data = TensorBuffer::F32(vec![0.0; dims.iter().product()]);
            Ok(vec![Tensor { name: "y".to_owned(), dims, data }])
        }
    }

    const ZEROS: &str = r#"
name = "zeros"
version = 1
modality = "fusion"
description = "Zeros"
source = "written by hand"
licence = "MIT"
file = [{ role = "network", path = "own.onnx", sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" }]

[[variant]]
name = "fp16"
file = [{ role = "network", path = "half.onnx", sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" }]

[placement]
compute = "gpu"

[[input]]
name = "x"
dtype = "f32"
shape = ["N", 2]

[[output]]
name = "y"
dtype = "f32"
shape = ["N", 2]

[prepare]
step = "tensor"

[interpret]
step = "tensor"
"#;

    #[test]
    fn the_variant_that_is_asked_for_is_loaded_and_what_is_known_of_another_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("zeros");
        std::fs::create_dir(&model).unwrap();
        for (file, text) in [("model.toml", ZEROS), ("own.onnx", "abc"), ("half.onnx", "abc")] {
            std::fs::write(model.join(file), text).unwrap();
        }
        let load = |backend: &Zeros, known: Option<Measured>| {
            let repository = Repository::open(&[folder.path().to_owned()], Path::new("weights")).unwrap();
            let setup = ModelSetup { name: "zeros".to_owned(), precision: Precision::Fp16, known };
            let lane = Lane::load(&LaneSetup { modality: Modality::Fusion, models: vec![setup] }, &repository, backend);
            let [model] = &lane.report().models[..] else { panic!("one model is expected") };
            (model.outcome.clone().unwrap(), model.note.clone())
        };
        let backend = |name| Zeros { name, loaded: parking_lot::Mutex::default() };
        let cuda = backend("cuda");
        // No model takes so much: a profile with it was handed in and not measured.
        let marked = |variant: &str| {
            let profile = ServiceProfile { arena_bytes: u64::MAX, ..ServiceProfile::default() };
            Some(Measured { variant: variant.to_owned(), profile })
        };
        let (measured, note) = load(&cuda, marked("fp32"));
        assert_eq!((measured.variant.as_str(), note), ("fp16", None));
        assert!(measured.profile.arena_bytes < u64::MAX && !measured.profile.batches.is_empty());
        assert_eq!(cuda.loaded.lock()[..], [("half.onnx".to_owned(), Precision::Fp16)]);
        assert_eq!(load(&cuda, marked("fp16")).0, marked("fp16").unwrap(), "its own times are believed");
        assert_eq!(load(&backend("tensorrt"), None).0.variant, "fp16-tensorrt");

        std::fs::write(model.join("half.onnx"), "abd").unwrap();
        let damaged = backend("cuda");
        let (measured, note) = load(&damaged, marked("fp16"));
        assert_eq!(measured.variant, "fp32");
        assert!(note.unwrap().starts_with("zeros: fp32 is used instead of fp16: "));
        assert_eq!(damaged.loaded.lock()[..], [("own.onnx".to_owned(), Precision::Fp32)]);
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
