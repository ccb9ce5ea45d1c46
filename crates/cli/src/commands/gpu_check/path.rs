//! The whole path of a detector: pixels in payload memory to boxes, at what rate, beside the rate of the network alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use sensorium_device::backend::{CudaBackend, LoadOptions};
use sensorium_device::executor::{self, Executor, JobInput, JobOutput, STARTED_BATCHES_MAX, Slice};
use sensorium_device::slab::SharedMemory;
use sensorium_hardware::Reading;
use sensorium_models::ModelPackage;
use sensorium_models::manifest::{Compute, FileRole, Precision};
use sensorium_processing::image::{Image, ImageLimits, ImageStep, decode};
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::tensor::Dtype;

use super::report::Finding;
use super::target::{Opened, Target};
use crate::paths::Paths;

const DETECTOR: &str = "nanodet";
/// How long each rate is measured.
const MEASURED: Duration = Duration::from_millis(1_500);
/// Between two looks at how busy the GPU is.
const LOOK_MS: u64 = 250;
const WARM_UP_BATCHES: u32 = 5;
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// What is aimed at with 32 images at a time: of the rate of the network alone, and of the time that the GPU is busy.
const SHARE_MIN: f64 = 0.85;
const BUSY_PERCENT_MIN: u32 = 90;

pub(crate) fn run(paths: &Paths, target: &Target, _: &Path) -> anyhow::Result<Finding> {
    let device = target.open()?;
    let picture = decode(&target.picture(paths)?, ImageLimits::default())?;
    let frames = Frames::new(&device, &picture)?;
    let mut finding = Finding::default();
    finding.note("picture", format!("{} x {}", picture.width, picture.height));
    let sizes: &[u16] = if target.gpu.is_some() { &[1, 8, 32] } else { &[1] };
    // The check of the detector has the ways that are left out.
    let ways: &[(Precision, bool)] = match target.gpu {
        Some(_) => &[(Precision::Fp32, true), (Precision::Fp16, true)],
        None => &[(Precision::Fp32, false)],
    };
    let package = target.package(paths, DETECTOR)?;
    for &rows in sizes {
        for &(precision, graphs) in ways {
            let (package, problem) = executor::chosen(&package, precision);
            finding.expect(problem.is_none(), || problem.unwrap_or_default());
            let mut package = package.into_owned();
            let placement = &mut package.manifest.placement;
            (placement.batch_max, placement.graphs) = (rows, graphs);
            let half = if package.precision == Precision::Fp16 { "_fp16" } else { "" };
            let name = format!("batch_{rows}{half}{}", if graphs { "_graphs" } else { "" });
            // The other sizes may work all the same.
            if let Err(error) = measure(&device, target, &package, &frames, (&name, &mut finding)) {
                finding.expect(false, || format!("{name}: {error:#}"));
            }
        }
    }
    Ok(finding)
}

fn measure(
    device: &Opened,
    target: &Target,
    package: &ModelPackage,
    frames: &Frames,
    (name, finding): (&str, &mut Finding),
) -> anyhow::Result<()> {
    let rows = usize::from(package.manifest.placement.batch_max);
    let backend = device.backend(package.manifest.modality)?;
    let mut executor = executor::load(package, &*backend)?;
    let jobs = vec![frames.job(); rows];
    let mut line = Line::new(&mut *executor, &jobs);
    line.run(|batches| batches < WARM_UP_BATCHES)?;
    let busy = target.gpu.as_ref().map(|gpu| Busy::watch(&gpu.uuid)).transpose()?;
    let began = Instant::now();
    let batches = line.run(|_| began.elapsed() < MEASURED)?;
    let per_second =
        f64::from(batches) * f64::from(package.manifest.placement.batch_max) / began.elapsed().as_secs_f64();
    let boxes = line.boxes_min;
    finding.note(format!("{name}_frames_per_s"), per_second);
    finding.expect(boxes > 0, || format!("{name}: no boxes were found in a picture that has some"));
    let Some(busy) = busy else { return Ok(()) };
    let percent = busy.median();
    drop(executor);
    let bare = bare(device, package)?;
    finding.note(format!("{name}_network_alone_frames_per_s"), bare);
    finding.note(format!("{name}_share"), per_second / bare);
    if let Some(percent) = percent {
        finding.note(format!("{name}_busy_percent"), percent);
    }
    if rows == 32 {
        let busy_enough = percent.is_none_or(|percent| percent >= BUSY_PERCENT_MIN);
        finding.note(format!("{name}_as_aimed"), per_second / bare >= SHARE_MIN && busy_enough);
    }
    Ok(())
}

/// Frames a second of the network alone.
fn bare(device: &Opened, package: &ModelPackage) -> anyhow::Result<f64> {
    let manifest = &package.manifest;
    let gpu = device.gpu.as_ref().context("a network alone is measured on a GPU")?;
    let backend = CudaBackend::new(gpu, manifest.modality)?;
    let outputs: Vec<&str> = manifest.outputs.iter().map(|output| output.name.as_str()).collect();
    let placement = &manifest.placement;
    let rows = usize::from(placement.batch_max);
    let options = LoadOptions {
        threads: usize::from(placement.threads),
        rows_max: rows,
        compute: Compute::Gpu,
        graphs: placement.graphs,
        outputs: &outputs,
        precision: package.precision,
        inputs: &manifest.inputs,
    };
    let step = ImageStep::from_prepare(&manifest.prepare).context("a model of images is expected")?;
    let file = package.file(FileRole::Network)?;
    let batches = backend.bare_batches_per_second(file, &options, &step.dims(), MEASURED)?;
    Ok(batches * f64::from(placement.batch_max))
}

/// A frame in payload memory.
struct Frames {
    memory: Arc<SharedMemory>,
    dims: [u32; 2],
    bytes: u64,
}

impl Frames {
    fn new(device: &Opened, picture: &Image) -> anyhow::Result<Self> {
        let bytes = picture.rgb.len() as u64;
        let memory = Arc::new(SharedMemory::create(bytes.next_multiple_of(2 << 20))?);
        anyhow::ensure!(memory.write(0, &picture.rgb), "the picture does not fit the memory that was made for it");
        if let Some(gpu) = &device.gpu {
            gpu.read_from(Arc::clone(&memory))?;
        }
        Ok(Self { memory, dims: [picture.height, picture.width], bytes })
    }

    fn job(&self) -> JobInput<'_> {
        JobInput {
            payload: PayloadKind::RawFrame,
            dtype: Dtype::U8,
            dims: &self.dims,
            pixels: PixelFormat::Rgb24,
            sample_rate_hz: 0,
            state: &[],
            bytes: self.memory.read(0, self.bytes).unwrap_or_default(),
            slice: Slice::default(),
        }
    }
}

/// One batch after the other, as a lane runs them: the next is started while one is computed, where the executor can.
struct Line<'a> {
    executor: &'a mut dyn Executor,
    jobs: &'a [JobInput<'a>],
    rooms: Vec<Vec<u8>>,
    /// Fewest boxes of an answer.
    boxes_min: usize,
}

impl<'a> Line<'a> {
    fn new(executor: &'a mut dyn Executor, jobs: &'a [JobInput<'a>]) -> Self {
        Self { executor, jobs, rooms: vec![vec![0; ANSWER_BYTES_MAX]; jobs.len()], boxes_min: usize::MAX }
    }

    /// Runs batches for as long as `more` says of their number; gives how many.
    fn run(&mut self, more: impl Fn(u32) -> bool) -> anyhow::Result<u32> {
        let ahead = if self.executor.started_jobs_max() >= self.jobs.len() { STARTED_BATCHES_MAX } else { 0 };
        let (mut started, mut finished) = (0, 0);
        let mut since = Instant::now();
        while more(finished) || (ahead > 0 && started > finished) {
            if ahead == 0 {
                self.answered(None)?;
                finished += 1;
                continue;
            }
            while more(finished) && (started - finished) < u32::try_from(ahead)? {
                self.executor.start(self.jobs, &|_| ());
                started += 1;
            }
            self.answered(Some(since))?;
            since = Instant::now();
            finished += 1;
        }
        Ok(finished)
    }

    fn answered(&mut self, since: Option<Instant>) -> anyhow::Result<()> {
        let mut outputs: Vec<_> = self.rooms.iter_mut().map(|room| JobOutput::new(room)).collect();
        match since {
            Some(since) => self.executor.finish(&mut outputs, since, &|_| ()),
            None => self.executor.run(self.jobs, &mut outputs, &|_| ()),
        }
        for output in outputs {
            let answer = output.answer.map_err(|rejection| anyhow::anyhow!("{rejection}"))?;
            let body = output.bytes.get(..answer.bytes).unwrap_or_default();
            let boxes = match sensorium_wire::codec::decode(body) {
                Some(sensorium_wire::result::ModelResult::Detections { detections }) => detections.len(),
                _ => 0,
            };
            self.boxes_min = self.boxes_min.min(boxes);
        }
        Ok(())
    }
}

/// A thread that looks at how busy the GPU is.
struct Busy {
    stop: mpsc::Sender<()>,
    looks: thread::JoinHandle<Vec<u32>>,
}

impl Busy {
    fn watch(uuid: &str) -> anyhow::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let uuids = [uuid.to_owned()];
        let looks = thread::Builder::new().name("busy".to_owned()).spawn(move || {
            let mut looks = Vec::new();
            let wait =
                || matches!(stopped.recv_timeout(Duration::from_millis(LOOK_MS)), Err(RecvTimeoutError::Timeout));
            sensorium_hardware::watch(&uuids, wait, |_, reading| {
                if let Reading::Sample(sample) = reading {
                    looks.extend(sample.busy_percent);
                }
            });
            looks
        })?;
        Ok(Self { stop, looks })
    }

    /// Of all looks but the first two, which are of the time before; `None` where the GPU does not say.
    fn median(self) -> Option<u32> {
        let _ = self.stop.send(());
        let looks = self.looks.join().ok()?;
        let mut looks = looks.get(2..)?.to_vec();
        looks.sort_unstable();
        looks.get(looks.len() / 2).copied()
    }
}
