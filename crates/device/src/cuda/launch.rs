//! Kernels on a device: loaded once per context, launched with arguments that were checked.
//!
//! The only place that hands arguments to kernels. A launch returns when it is queued: what it wrote is there for later
//! work of the same stream, and an error of the kernel itself shows at the next synchronisation. Which stream, which
//! memory and when is the caller's to say.
#![allow(unsafe_code, reason = "launches kernels, whose arguments the compiler cannot check")]

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError,
    LaunchConfig, PushKernelArg, ValidAsZeroBits,
};
use cudarc::nvrtc::Ptx;
use half::f16;
use thiserror::Error;

use super::arguments::{
    ArgumentError, BATCH_MAX, DflOutputs, DflStep, Found, Geometry, ImageSource, LogMel, LogMelStep, Outcome,
    PrepareStep, RowsStep, SelectStep, SoundSource,
};
use super::cache::CubinCache;
use super::compile::{Arch, CompileError, Nvrtc};
use super::kernels::{self, DETECTIONS, LOG_MEL, LaunchSize, PREPARE, Source};

/// Why a kernel was not launched.
#[derive(Debug, Error)]
pub enum LaunchError {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error("{what}: {error}")]
    Driver { what: &'static str, error: DriverError },
}

fn driver(what: &'static str) -> impl Fn(DriverError) -> LaunchError {
    move |error| LaunchError::Driver { what, error }
}

macro_rules! device_data {
    ($($name:ty),*) => { $(
        // SAFETY: plain data without padding, laid out as the kernels declare it; a test holds the two together.
        unsafe impl DeviceRepr for $name {}
        // SAFETY: whole numbers and floats: zeros are a value.
        unsafe impl ValidAsZeroBits for $name {}
    )* };
}
device_data!(ImageSource, PrepareStep, DflStep, DflOutputs, RowsStep, SelectStep, Geometry, Outcome, Found);
device_data!(SoundSource, LogMelStep);

/// The kernels of one context.
#[derive(Clone, Debug)]
pub struct Kernels {
    prepare_f32: CudaFunction,
    prepare_f16: CudaFunction,
    prepare_i32: CudaFunction,
    candidates_dfl: CudaFunction,
    candidates_rows: CudaFunction,
    select_boxes: CudaFunction,
    log_mel: CudaFunction,
}

/// An element that images can be prepared as: `f32`, `f16`, `i32`.
pub trait PreparedElement: DeviceRepr + super::twin::Element + Kernel {}

impl PreparedElement for f32 {}
impl PreparedElement for f16 {}
impl PreparedElement for i32 {}

/// Out of reach for others, who could name a kernel that writes something else.
mod sealed {
    /// An element with a kernel that writes it.
    pub trait Kernel {
        fn kernel(kernels: &super::Kernels) -> &cudarc::driver::CudaFunction;
    }
}
use sealed::Kernel;

impl Kernel for f32 {
    fn kernel(kernels: &Kernels) -> &CudaFunction {
        &kernels.prepare_f32
    }
}

impl Kernel for f16 {
    fn kernel(kernels: &Kernels) -> &CudaFunction {
        &kernels.prepare_f16
    }
}

impl Kernel for i32 {
    fn kernel(kernels: &Kernels) -> &CudaFunction {
        &kernels.prepare_i32
    }
}

impl Kernels {
    /// Takes every kernel for the context's device from `cache`, compiling what it lacks, and loads it.
    ///
    /// # Errors
    /// When a kernel does not compile, or the driver does not load it.
    pub fn load(context: &Arc<CudaContext>, nvrtc: &Nvrtc, cache: &CubinCache) -> Result<Self, LaunchError> {
        let capability = context.compute_capability().map_err(driver("asking for the compute capability"))?;
        let number = |part: i32| u32::try_from(part).unwrap_or_default();
        let arch = Arch { major: number(capability.0), minor: number(capability.1) };
        let module = |source: &Source| -> Result<Arc<CudaModule>, LaunchError> {
            let cubin = cache.cubin(nvrtc, source, arch)?;
            context.load_module(Ptx::from_binary(cubin.bytes)).map_err(driver("loading a compiled kernel"))
        };
        let entry = |module: &Arc<CudaModule>, name: &str| {
            module.load_function(name).map_err(driver("finding a kernel's entry point"))
        };
        let (prepare, detections, log_mel) = (module(&PREPARE)?, module(&DETECTIONS)?, module(&LOG_MEL)?);
        Ok(Self {
            prepare_f32: entry(&prepare, "prepare_f32")?,
            prepare_f16: entry(&prepare, "prepare_f16")?,
            prepare_i32: entry(&prepare, "prepare_i32")?,
            candidates_dfl: entry(&detections, "candidates_dfl")?,
            candidates_rows: entry(&detections, "candidates_rows")?,
            select_boxes: entry(&detections, "select_boxes")?,
            log_mel: entry(&log_mel, "log_mel")?,
        })
    }

    /// Makes a row of `out` of every source in `slab`, which must start on 4 bytes (device memory does). `descriptors` is
    /// room for as many sources; it may be used again once this launch is done.
    ///
    /// # Errors
    /// When the batch does not fit the memory, or the driver refuses.
    pub fn prepare<T: PreparedElement>(
        &self,
        stream: &Arc<CudaStream>,
        step: &PrepareStep,
        sources: &[ImageSource],
        slab: &CudaSlice<u8>,
        descriptors: &mut CudaSlice<ImageSource>,
        out: &mut CudaSlice<T>,
    ) -> Result<(), LaunchError> {
        self.prepare_in_turn(stream, step, (sources, sources.len()), slab, descriptors, out, None)
    }

    /// The same in batches of `per_launch`, one after the other. For measurements: `events` are recorded before the first
    /// and after the last, and descriptors are sent before that.
    ///
    /// # Errors
    /// When something does not fit the memory, or the driver refuses.
    #[expect(clippy::too_many_arguments, reason = "what a launch needs, and what times it")]
    pub fn prepare_in_turn<T: PreparedElement>(
        &self,
        stream: &Arc<CudaStream>,
        step: &PrepareStep,
        (sources, per_launch): (&[ImageSource], usize),
        slab: &CudaSlice<u8>,
        descriptors: &mut CudaSlice<ImageSource>,
        out: &mut CudaSlice<T>,
        events: Option<(&CudaEvent, &CudaEvent)>,
    ) -> Result<(), LaunchError> {
        step.check(sources, slab.len(), out.len() / step.values().max(1))?;
        fits("the list of sources", descriptors.len(), sources.len())?;
        stream.memcpy_htod(sources, descriptors).map_err(driver("sending descriptors of images"))?;
        if let Some((began, _)) = events {
            began.record(stream).map_err(driver("timing the preparation of images"))?;
        }
        for from in (0..sources.len()).step_by(per_launch.max(1)) {
            let images = per_launch.max(1).min(sources.len() - from);
            let batch = descriptors.slice(from..from + images);
            let mut launch = stream.launch_builder(T::kernel(self));
            launch.arg(slab).arg(&batch).arg(step).arg(&mut *out);
            // SAFETY: the arguments are those of `prepare_*` in order and type; the batch was checked against the lengths
            // of the memory, and `descriptors` holds it from `from` on.
            unsafe { launch.launch(config(kernels::prepare(step, images))) }
                .map_err(driver("launching the preparation of images"))?;
        }
        if let Some((_, ended)) = events {
            ended.record(stream).map_err(driver("timing the preparation of images"))?;
        }
        Ok(())
    }

    /// Boxes of a detector whose distances are distributions; `outputs` are scores and distances of each level.
    ///
    /// # Errors
    /// When sizes do not fit, or the driver refuses.
    pub fn detect_dfl(
        &self,
        stream: &Arc<CudaStream>,
        step: &DflStep,
        outputs: &[(&CudaSlice<f32>, &CudaSlice<f32>)],
        selection: (f32, &[Geometry]),
        boxes: &mut BoxBuffers,
    ) -> Result<(), LaunchError> {
        let (iou_max, geometries) = selection;
        let images = geometries.len();
        step.check(images)?;
        let levels = &step.levels[..step.level_count as usize];
        fits("the list of outputs", outputs.len(), levels.len())?;
        let mut addresses = DflOutputs::default();
        let mut guards = Vec::with_capacity(2 * levels.len());
        for (index, (level, (scores, distances))) in levels.iter().zip(outputs).enumerate() {
            let cells = level.cells as usize * images;
            fits("an output of scores", scores.len(), cells * step.classes as usize)?;
            fits("an output of distances", distances.len(), cells * 4 * step.bins as usize)?;
            let (scores, scores_guard) = scores.device_ptr(stream);
            let (distances, distances_guard) = distances.device_ptr(stream);
            (addresses.scores[index], addresses.distances[index]) = (scores, distances);
            guards.extend([scores_guard, distances_guard]);
        }
        boxes.check(step.candidates, images)?;
        let mut launch = stream.launch_builder(&self.candidates_dfl);
        launch.arg(step).arg(&addresses).arg(&mut boxes.keys).arg(&mut boxes.boxes).arg(&mut boxes.classes);
        // SAFETY: the arguments are those of `candidates_dfl` in order and type; every output and buffer is as long as the
        // step says for so many images, and the addresses are kept alive by the borrowed slices.
        unsafe { launch.launch(config(kernels::candidates_dfl(step, images))) }
            .map_err(driver("launching the decoding of boxes"))?;
        drop(guards);
        self.select(stream, step.candidates, iou_max, geometries, boxes)
    }

    /// Boxes of a detector that gives rows of x1, y1, x2, y2, score, class.
    ///
    /// # Errors
    /// When sizes do not fit, or the driver refuses.
    pub fn detect_rows(
        &self,
        stream: &Arc<CudaStream>,
        step: &RowsStep,
        output: &CudaSlice<f32>,
        selection: (f32, &[Geometry]),
        boxes: &mut BoxBuffers,
    ) -> Result<(), LaunchError> {
        let (iou_max, geometries) = selection;
        let images = geometries.len();
        step.check(images, output.len())?;
        boxes.check(step.rows, images)?;
        let mut launch = stream.launch_builder(&self.candidates_rows);
        launch.arg(step).arg(output).arg(&mut boxes.keys).arg(&mut boxes.boxes).arg(&mut boxes.classes);
        // SAFETY: the arguments are those of `candidates_rows` in order and type; output and buffers are as long as the
        // step says for so many images.
        unsafe { launch.launch(config(kernels::candidates_rows(step, images))) }
            .map_err(driver("launching the reading of rows"))?;
        self.select(stream, step.rows, iou_max, geometries, boxes)
    }

    fn select(
        &self,
        stream: &Arc<CudaStream>,
        candidates: u32,
        iou_max: f32,
        geometries: &[Geometry],
        boxes: &mut BoxBuffers,
    ) -> Result<(), LaunchError> {
        let step = SelectStep { candidates, detections_max: boxes.detections_max, iou_max, reserved: 0 };
        step.check(geometries, boxes.found.len())?;
        stream.memcpy_htod(geometries, &mut boxes.geometries).map_err(driver("sending sizes of images"))?;
        let mut launch = stream.launch_builder(&self.select_boxes);
        launch.arg(&step).arg(&boxes.keys).arg(&boxes.boxes).arg(&boxes.classes).arg(&boxes.geometries);
        launch.arg(&mut boxes.outcomes).arg(&mut boxes.found);
        // SAFETY: the arguments are those of `select_boxes` in order and type; the buffers were checked to hold the
        // candidates of so many images, and were filled by the launch before on the same stream.
        unsafe { launch.launch(config(kernels::select_boxes(geometries.len()))) }
            .map_err(driver("launching the choice of boxes"))?;
        Ok(())
    }

    /// Writes the log-mel frames of every sound in `samples`, `bands` values each, to `out`.
    ///
    /// # Errors
    /// When the batch does not fit the memory, or the driver refuses.
    pub fn log_mel(
        &self,
        stream: &Arc<CudaStream>,
        tables: &LogMelTables,
        sounds: &[SoundSource],
        samples: &CudaSlice<f32>,
        descriptors: &mut CudaSlice<SoundSource>,
        out: &mut CudaSlice<f32>,
    ) -> Result<(), LaunchError> {
        tables.mel.check(sounds, samples.len(), out.len())?;
        fits("the list of sounds", descriptors.len(), sounds.len())?;
        stream.memcpy_htod(sounds, descriptors).map_err(driver("sending descriptors of sounds"))?;
        let frames_max = sounds.iter().map(|sound| sound.frames).max().unwrap_or(1);
        let step = tables.mel.step;
        let mut launch = stream.launch_builder(&self.log_mel);
        launch.arg(&step).arg(samples).arg(&*descriptors).arg(&tables.window).arg(&tables.turns);
        launch.arg(&tables.bands_first).arg(&tables.weights).arg(out);
        // SAFETY: the arguments are those of `log_mel` in order and type; the batch was checked against the lengths of the
        // memory, and the tables are those that were made for this step.
        unsafe { launch.launch(config(kernels::log_mel(&step, frames_max, sounds.len()))) }
            .map_err(driver("launching log-mel"))?;
        Ok(())
    }
}

/// Device memory for the boxes of a batch, made once.
#[derive(Debug)]
pub struct BoxBuffers {
    candidates_max: u32,
    images_max: usize,
    detections_max: u32,
    pub(super) keys: CudaSlice<u64>,
    pub(super) boxes: CudaSlice<f32>,
    pub(super) classes: CudaSlice<u32>,
    geometries: CudaSlice<Geometry>,
    outcomes: CudaSlice<Outcome>,
    found: CudaSlice<Found>,
}

impl BoxBuffers {
    /// Room for `images_max` images of `candidates_max` cells or rows, of which `detections_max` become boxes.
    ///
    /// # Errors
    /// When a number is out of range, or the device has not so much memory.
    pub fn new(
        stream: &Arc<CudaStream>,
        candidates_max: u32,
        images_max: usize,
        detections_max: u32,
    ) -> Result<Self, LaunchError> {
        if !(1..=BATCH_MAX).contains(&images_max) {
            return Err(ArgumentError::Batch { count: images_max }.into());
        }
        let step = SelectStep { candidates: candidates_max, detections_max, iou_max: 1.0, reserved: 0 };
        step.check(&[Geometry::default()], usize::MAX)?;
        let places = candidates_max as usize * images_max;
        let full = driver("allocating memory for boxes");
        Ok(Self {
            candidates_max,
            images_max,
            detections_max,
            keys: stream.alloc_zeros(places).map_err(&full)?,
            boxes: stream.alloc_zeros(4 * places).map_err(&full)?,
            classes: stream.alloc_zeros(places).map_err(&full)?,
            geometries: stream.alloc_zeros(images_max).map_err(&full)?,
            outcomes: stream.alloc_zeros(images_max).map_err(&full)?,
            found: stream.alloc_zeros(detections_max as usize * images_max).map_err(&full)?,
        })
    }

    /// What the last launch on `stream` found in its `images` images, once it is done.
    ///
    /// # Errors
    /// What the driver says; among it errors of the kernels themselves.
    pub fn read(&self, stream: &Arc<CudaStream>, images: usize) -> Result<(Vec<Outcome>, Vec<Found>), LaunchError> {
        let failed = driver("reading boxes back");
        let mut outcomes = stream.clone_dtoh(&self.outcomes).map_err(&failed)?;
        let mut found = stream.clone_dtoh(&self.found).map_err(&failed)?;
        stream.synchronize().map_err(&failed)?;
        outcomes.truncate(images);
        found.truncate(images.saturating_mul(self.detections_max as usize));
        Ok((outcomes, found))
    }

    /// Boxes that there is room for in each image.
    #[must_use]
    pub fn places(&self) -> usize {
        self.detections_max as usize
    }

    /// Queues the copy of what the last launch found in as many images as `outcomes` has places. From pinned memory the caller
    /// must wait for `stream` before it looks.
    ///
    /// # Errors
    /// When there are not so many images or places, or the driver refuses.
    pub fn download(
        &self,
        stream: &Arc<CudaStream>,
        outcomes: &mut [Outcome],
        found: &mut [Found],
    ) -> Result<(), LaunchError> {
        let images = outcomes.len();
        fits("the buffer of images", self.images_max, images)?;
        fits("the list of boxes", found.len(), images * self.places())?;
        let failed = driver("reading boxes back");
        stream.memcpy_dtoh(&self.outcomes.slice(..images), outcomes).map_err(&failed)?;
        stream.memcpy_dtoh(&self.found.slice(..images * self.places()), found).map_err(&failed)
    }

    fn check(&self, candidates: u32, images: usize) -> Result<(), ArgumentError> {
        fits("the buffer of candidates", self.candidates_max as usize, candidates as usize)?;
        fits("the buffer of images", self.images_max, images)
    }
}

/// A log-mel step's tables on a device.
#[derive(Debug)]
pub struct LogMelTables {
    mel: LogMel,
    window: CudaSlice<f32>,
    turns: CudaSlice<f32>,
    bands_first: CudaSlice<u32>,
    weights: CudaSlice<f32>,
}

impl LogMelTables {
    /// Sends the tables.
    ///
    /// # Errors
    /// What the driver says.
    pub fn upload(stream: &Arc<CudaStream>, mel: &LogMel) -> Result<Self, LaunchError> {
        let failed = driver("sending tables of log-mel");
        Ok(Self {
            window: stream.clone_htod(&mel.window).map_err(&failed)?,
            turns: stream.clone_htod(&mel.turns).map_err(&failed)?,
            bands_first: stream.clone_htod(&mel.bands_first).map_err(&failed)?,
            weights: stream.clone_htod(&mel.weights).map_err(&failed)?,
            mel: mel.clone(),
        })
    }
}

fn config(size: LaunchSize) -> LaunchConfig {
    LaunchConfig { grid_dim: size.grid, block_dim: size.block, shared_mem_bytes: 0 }
}

fn fits(what: &'static str, values: usize, needed: usize) -> Result<(), ArgumentError> {
    let needed = needed as u128;
    if values as u128 >= needed { Ok(()) } else { Err(ArgumentError::Room { what, values, needed }) }
}
