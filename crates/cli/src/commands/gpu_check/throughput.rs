//! How fast networks run, alone and beside each other. Copies to the device and back are part of each run.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sensorium_device::backend::cuda::GpuProvider;
use sensorium_device::backend::{Backend, LoadOptions, NamedTensor, Network, TensorBuffer};
use sensorium_device::executor;
use sensorium_models::ModelPackage;
use sensorium_models::manifest::{Compute, FileRole, Precision};
use sensorium_wire::tensor::Dtype;

use super::report::Finding;
use super::target::{Opened, Target};
use crate::paths::Paths;

/// One network of each modality.
const MODELS: [&str; 3] = ["nanodet", "yamnet", "fusion"];
const DETECTOR: &str = MODELS[0];
const SOUND: &str = MODELS[1];
const WARM_UP_RUNS: u32 = 5;
/// How long each rate is measured.
const MEASURED: Duration = Duration::from_secs(3);
/// The same for each way of running the detector, of which there are many.
const EACH_WAY: Duration = Duration::from_millis(1_500);
/// Rows of the batches that follow each other where the size changes.
const IN_TURN_ROWS: [usize; 2] = [8, 5];
/// Pause between two pieces of sound.
const SOUND_EVERY: Duration = Duration::from_millis(20);
/// What is aimed at: sound beside a full GPU takes at most this much longer, at the slowest hundredth.
const SOUND_RATIO_MAX: f64 = 1.5;

/// A loaded network with inputs for it.
struct Loaded {
    network: Box<dyn Network>,
    inputs: Vec<(String, Vec<usize>, TensorBuffer)>,
    outputs: Vec<String>,
    rows: usize,
}

impl Loaded {
    fn new(
        backend: &dyn Backend,
        package: &ModelPackage,
        rows: usize,
        compute: Compute,
        graphs: bool,
    ) -> anyhow::Result<Self> {
        let outputs: Vec<String> = package.manifest.outputs.iter().map(|output| output.name.clone()).collect();
        let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let threads = usize::from(package.manifest.placement.threads);
        let options = LoadOptions {
            threads,
            rows_max: rows,
            compute,
            graphs,
            outputs: &names,
            precision: package.precision,
            inputs: &package.manifest.inputs,
        };
        let network = backend.load(package.file(FileRole::Network)?, &options)?;
        let mut loaded = Self { network, inputs: Vec::new(), outputs, rows };
        loaded.resize(rows)?;
        for _ in 0..WARM_UP_RUNS {
            loaded.run()?;
        }
        Ok(loaded)
    }

    /// Makes inputs for batches of this size.
    fn resize(&mut self, rows: usize) -> anyhow::Result<()> {
        self.inputs.clear();
        for spec in &self.network.signature().inputs {
            let dims: Vec<usize> = spec.dims.iter().map(|dim| dim.map_or(rows, |dim| dim as usize)).collect();
            let elements = dims.iter().product();
            let data = match spec.dtype {
                Dtype::F32 => TensorBuffer::F32(vec![0.5; elements]),
                Dtype::I32 => TensorBuffer::I32(vec![1; elements]),
                other => bail!("input {} is of {}", spec.name, other.name()),
            };
            self.inputs.push((spec.name.clone(), dims, data));
        }
        self.rows = rows;
        Ok(())
    }

    fn of(device: &Opened, package: &ModelPackage, rows: usize) -> anyhow::Result<Self> {
        let placement = &package.manifest.placement;
        let backend = device.backend(package.manifest.modality)?;
        Self::new(&*backend, package, rows, placement.compute, placement.graphs)
    }

    /// Runs once; gives how long it took, in milliseconds.
    fn run(&mut self) -> anyhow::Result<f64> {
        let inputs: Vec<_> =
            self.inputs.iter().map(|(name, dims, data)| NamedTensor { name, dims, data: data.view() }).collect();
        let wanted: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        let began = Instant::now();
        self.network.run(&inputs, &wanted)?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }

    /// Runs one after the other for `time`, with a pause between them; gives the times, ascending.
    fn run_for(&mut self, time: Duration, every: Option<Duration>) -> anyhow::Result<Times> {
        let began = Instant::now();
        let mut ms = Vec::new();
        while began.elapsed() < time {
            ms.push(self.run()?);
            if let Some(every) = every {
                thread::sleep(every);
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        ms.sort_by(f64::total_cmp);
        Ok(Times { ms, seconds, rows: self.rows })
    }
}

struct Times {
    /// Never empty.
    ms: Vec<f64>,
    seconds: f64,
    rows: usize,
}

impl Times {
    fn quantile(&self, permille: usize) -> f64 {
        self.ms[(self.ms.len() - 1) * permille / 1000]
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
    fn rows_per_second(&self) -> f64 {
        (self.ms.len() * self.rows) as f64 / self.seconds
    }
}

/// The detector, batch by batch.
pub(super) fn detector(paths: &Paths, target: &Target, _: &Path) -> anyhow::Result<Finding> {
    let device = target.open()?;
    let package = target.package(paths, DETECTOR)?;
    let mut finding = Finding::default();
    let (half, problem) = executor::chosen(&package, Precision::Fp16);
    finding.expect(problem.is_none(), || problem.clone().unwrap_or_default());
    let ways = [(&package, false), (&package, true), (&*half, false), (&*half, true)];
    for rows in [1, 8, 32] {
        for (package, graphs) in ways {
            let precision = if package.precision == Precision::Fp16 { "_fp16" } else { "" };
            let name = format!("batch_{rows}{precision}{}", if graphs { "_graphs" } else { "" });
            // A backend for each: what one has loaded counts against its quota.
            let times = device
                .backend(package.manifest.modality)
                .and_then(|backend| Loaded::new(&*backend, package, rows, Compute::Gpu, graphs))
                .and_then(|mut loaded| loaded.run_for(EACH_WAY, None));
            match times {
                Ok(times) => {
                    finding.note(format!("{name}_frames_per_s"), times.rows_per_second());
                    finding.note(format!("{name}_ms_median"), times.quantile(500));
                    finding.note(format!("{name}_ms_p99"), times.quantile(990));
                }
                // The other sizes may work all the same.
                Err(error) => finding.expect(false, || format!("{name}: {error:#}")),
            }
        }
    }
    if let Err(error) = in_turn(&device, &package, &mut finding) {
        finding.expect(false, || format!("batches of two sizes in turn: {error:#}"));
    }
    Ok(finding)
}

/// How long a batch takes that is of another size than the one before it, beside one that is not: ONNX Runtime plans convolutions
/// anew when the size changes, but not where launches are recorded.
fn in_turn(device: &Opened, package: &ModelPackage, finding: &mut Finding) -> anyhow::Result<()> {
    for (graphs, name) in [(false, ""), (true, "_graphs")] {
        let backend = device.backend(package.manifest.modality)?;
        let mut loaded = Loaded::new(&*backend, package, IN_TURN_ROWS[0], Compute::Gpu, graphs)?;
        let same = loaded.run_for(EACH_WAY, None)?;
        finding.note(format!("batch_8{name}_same_size_ms_median"), same.quantile(500));
        let (mut ms, began) = (Vec::new(), Instant::now());
        while began.elapsed() < EACH_WAY {
            for rows in IN_TURN_ROWS {
                loaded.resize(rows)?;
                let took = loaded.run()?;
                if rows == IN_TURN_ROWS[0] {
                    ms.push(took);
                }
            }
        }
        ms.sort_by(f64::total_cmp);
        finding.note(format!("batch_8{name}_after_another_size_ms_median"), ms[(ms.len() - 1) / 2]);
    }
    Ok(())
}

/// The detector as TensorRT compiles it, where that is installed.
pub(super) fn tensorrt(paths: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    let mut target = target.clone();
    let gpu = target.gpu.as_mut().context("TensorRT needs a GPU")?;
    gpu.provider = GpuProvider::Tensorrt;
    gpu.engines = out.join("engines");
    let device = target.open()?;
    if let Some(note) = device.gpu.as_ref().and_then(|gpu| gpu.note()) {
        return Ok(Finding::skipped(note));
    }
    let own = target.package(paths, DETECTOR)?;
    let (half, problem) = executor::chosen(&own, Precision::Fp16);
    let mut finding = Finding::default();
    finding.expect(problem.is_none(), || problem.clone().unwrap_or_default());
    for package in [&own, &*half] {
        let name = package.precision.name();
        let backend = device.backend(package.manifest.modality)?;
        let began = Instant::now();
        let mut loaded = Loaded::new(&*backend, package, 32, Compute::Gpu, false)?;
        finding.note(format!("{name}_compiled_in_s"), began.elapsed().as_secs_f64());
        let times = loaded.run_for(EACH_WAY, None)?;
        finding.note(format!("batch_32_{name}_frames_per_s"), times.rows_per_second());
        finding.note(format!("batch_32_{name}_ms_median"), times.quantile(500));
    }
    super::half::compare(&mut finding, &device, &target, &own)?;
    Ok(finding)
}

/// The three modalities, each alone and then at once.
pub(super) fn together(paths: &Paths, target: &Target, _: &Path) -> anyhow::Result<Finding> {
    let device = target.open()?;
    let mut finding = Finding::default();
    let mut loaded = Vec::new();
    for name in MODELS {
        let mut model = Loaded::of(&device, &target.package(paths, name)?, 1)?;
        finding.note(format!("{name}_alone_per_s"), model.run_for(MEASURED, None)?.rows_per_second());
        loaded.push(model);
    }
    let outcomes: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> =
            loaded.iter_mut().map(|model| scope.spawn(move || model.run_for(MEASURED, None))).collect();
        running.into_iter().map(|thread| thread.join()).collect()
    });
    for (name, outcome) in MODELS.iter().zip(outcomes) {
        let times = outcome.map_err(|_| anyhow::anyhow!("{name} panicked"))?.with_context(|| (*name).to_owned())?;
        finding.note(format!("{name}_together_per_s"), times.rows_per_second());
    }
    Ok(finding)
}

/// Sound alone, and beside a detector that fills the device.
pub(super) fn critical(paths: &Paths, target: &Target, _: &Path) -> anyhow::Result<Finding> {
    let device = target.open()?;
    let mut sound = Loaded::of(&device, &target.package(paths, SOUND)?, 1)?;
    let rows = if target.gpu.is_some() { 32 } else { 1 };
    let mut detector = Loaded::of(&device, &target.package(paths, DETECTOR)?, rows)?;
    let mut finding = Finding::default();
    let alone = sound.run_for(MEASURED, Some(SOUND_EVERY))?;
    let stop = AtomicBool::new(false);
    let (beside, filled) = thread::scope(|scope| {
        let filling = scope.spawn(|| {
            let mut runs = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                detector.run()?;
                runs += 1;
            }
            anyhow::Ok(runs)
        });
        let beside = sound.run_for(MEASURED, Some(SOUND_EVERY));
        stop.store(true, Ordering::Relaxed);
        (beside, filling.join())
    });
    let beside = beside?;
    let runs = filled.map_err(|_| anyhow::anyhow!("the detector panicked"))??;
    let ratio = beside.quantile(990) / alone.quantile(990);
    finding.note("alone_ms_p99", alone.quantile(990));
    finding.note("beside_ms_p99", beside.quantile(990));
    finding.note("p99_ratio", ratio);
    finding.note("detector_batches", runs);
    finding.note("pieces_of_sound", beside.ms.len());
    if target.gpu.is_some() {
        finding.expect(ratio <= SOUND_RATIO_MAX, || format!("{ratio:.2} times as long; {SOUND_RATIO_MAX} is aimed at"));
    }
    Ok(finding)
}
