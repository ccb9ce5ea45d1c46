//! How fast the kernels are on a real GPU, in steady state, beside copies within its memory.
//!
//! Times are taken by the GPU's own events, medians over many repetitions; what lies between two repetitions is larger than
//! the GPU's caches where memory is the measure. For whoever has a GPU: nothing in this crate's tests calls it with one.

use std::collections::BTreeSet;
use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DriverError, ValidAsZeroBits};
use half::f16;
use sensorium_models::manifest::{ChannelOrder, Fit, Layout};
use sensorium_processing::image::{ImageStep, ImageView};
use sensorium_wire::submit::PixelFormat;
use serde::{Deserialize, Serialize};

use super::arguments::{DflStep, Geometry, ImageSource, LogMel, Matrix, PixelLayout, PrepareStep, SoundSource};
use super::check::inputs;
use super::launch::{BoxBuffers, Kernels, LaunchError, LogMelTables, PreparedElement};

/// Bytes of the copy that others are measured by: more than any cache holds.
const COPY_BYTES: usize = 256 << 20;
/// Images of one repetition, whatever the batch: more than any cache holds.
const IMAGES: usize = 64;
const REPETITIONS: usize = 30;
/// Repetitions before those that count.
const WARM_UP: usize = 5;
/// Smallest piece of memory that is read: a sector of the GPU's caches, in bytes.
const SECTOR_BYTES: u64 = 32;

/// What was measured of one kernel on one kind of batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Which kernel, on what, in which batch.
    pub name: String,
    /// For one batch.
    pub us: f64,
    /// What `us` is about: images, or frames of sound; 0 for a copy.
    pub items: u64,
    /// Read and written in it; 0 where memory is not the measure. Of what is read, the sectors that hold it.
    pub bytes: u64,
}

impl Rate {
    /// Read and written, in bytes a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.us * 1e6
    }

    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
    pub fn items_per_second(&self) -> f64 {
        self.items as f64 / self.us * 1e6
    }
}

fn failed(error: DriverError) -> LaunchError {
    LaunchError::Driver { what: "a measurement", error }
}

/// The GPU's clock around work on a stream.
struct Clock {
    stream: Arc<CudaStream>,
    began: CudaEvent,
    ended: CudaEvent,
}

impl Clock {
    fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let timed = || context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        Ok(Self { stream: context.new_stream()?, began: timed()?, ended: timed()? })
    }

    /// The median time of `work`, which records the events itself.
    fn median_us(&self, mut work: impl FnMut(&Self) -> Result<(), LaunchError>) -> Result<f64, LaunchError> {
        let mut times = Vec::with_capacity(REPETITIONS);
        for repetition in 0..WARM_UP + REPETITIONS {
            work(self)?;
            let ms = self.began.elapsed_ms(&self.ended).map_err(failed)?;
            if repetition >= WARM_UP {
                times.push(f64::from(ms) * 1e3);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[REPETITIONS / 2])
    }

    fn around(&self, work: impl FnOnce() -> Result<(), LaunchError>) -> Result<(), LaunchError> {
        self.began.record(&self.stream).map_err(failed)?;
        work()?;
        self.ended.record(&self.stream).map_err(failed)
    }
}

/// Measures a copy within the GPU first, then every kernel.
///
/// # Errors
/// When the GPU has too little memory, or refuses something.
pub fn measure(context: &Arc<CudaContext>, kernels: &Kernels) -> Result<Vec<Rate>, LaunchError> {
    let clock = Clock::new(context).map_err(failed)?;
    let mut rates = vec![copy(&clock)?];
    for batch in [1, 8, 32, 64] {
        for case in cases() {
            rates.push(match case.element {
                Element::Single => prepare::<f32>(&clock, kernels, &case, batch)?,
                Element::Half => prepare::<f16>(&clock, kernels, &case, batch)?,
                Element::Whole => prepare::<i32>(&clock, kernels, &case, batch)?,
            });
        }
    }
    for images in [1, 8, 32] {
        rates.push(detections(&clock, kernels, images)?);
    }
    for sounds in [1, 16, 64] {
        rates.push(log_mel(&clock, kernels, sounds)?);
    }
    Ok(rates)
}

fn copy(clock: &Clock) -> Result<Rate, LaunchError> {
    let from = clock.stream.alloc_zeros::<u8>(COPY_BYTES).map_err(failed)?;
    let mut to = clock.stream.alloc_zeros::<u8>(COPY_BYTES).map_err(failed)?;
    let us = clock.median_us(|clock| clock.around(|| clock.stream.memcpy_dtod(&from, &mut to).map_err(failed)))?;
    Ok(Rate { name: "copy".to_owned(), us, items: 0, bytes: 2 * COPY_BYTES as u64 })
}

#[derive(Clone, Copy)]
enum Element {
    Single,
    Half,
    Whole,
}

/// Frames of one kind, and what they become.
struct Case {
    name: &'static str,
    step: ImageStep,
    source: (u32, u32, PixelLayout),
    element: Element,
}

fn cases() -> [Case; 3] {
    let step = |side, fit, channels, layout| ImageStep {
        width: side,
        height: side,
        fit,
        channels,
        layout,
        mean: [103.53, 116.28, 123.675],
        std: [57.375, 57.12, 58.395],
    };
    [
        Case {
            name: "rgb_720p_to_416_f32",
            step: step(416, Fit::Letterbox, ChannelOrder::Bgr, Layout::Nchw),
            source: (1280, 720, PixelLayout::Rgb24),
            element: Element::Single,
        },
        Case {
            name: "nv12_1080p_to_640_f16",
            step: step(640, Fit::Letterbox, ChannelOrder::Rgb, Layout::Nchw),
            source: (1920, 1080, PixelLayout::Nv12),
            element: Element::Half,
        },
        Case {
            name: "rgb_1080p_to_512_i32",
            step: step(512, Fit::Stretch, ChannelOrder::Rgb, Layout::Nhwc),
            source: (1920, 1080, PixelLayout::Rgb24),
            element: Element::Whole,
        },
    ]
}

impl Case {
    fn source_bytes(&self) -> usize {
        let (width, height, layout) = self.source;
        let pixels = width as usize * height as usize;
        if layout == PixelLayout::Rgb24 { 3 * pixels } else { pixels + pixels / 2 }
    }

    fn image(&self, at: usize) -> ImageSource {
        let (width, height, layout) = self.source;
        let offset = (at * self.source_bytes()) as u64;
        let slot = u32::try_from(at).unwrap_or(u32::MAX);
        if layout == PixelLayout::Rgb24 {
            let view = ImageView { width, height, format: PixelFormat::Rgb24, bytes: &[] };
            return ImageSource::packed(&self.step, &view, offset, slot);
        }
        ImageSource::planar(&self.step, layout, Matrix::Bt709, (width, height), offset, slot)
    }

    /// Bytes of one frame that are read: the sectors that hold a value that some pixel needs.
    fn bytes_read(&self) -> u64 {
        let image = self.image(0);
        let rows = taps(image.fitted_height, image.height);
        let columns = taps(image.fitted_width, image.width);
        let plane = |rows: BTreeSet<u32>, bytes: BTreeSet<u32>| {
            let sectors: BTreeSet<u64> = bytes.into_iter().map(|byte| u64::from(byte) / SECTOR_BYTES).collect();
            rows.len() as u64 * sectors.len() as u64 * SECTOR_BYTES
        };
        if self.source.2 == PixelLayout::Rgb24 {
            return plane(rows, columns.iter().flat_map(|column| 3 * column..3 * column + 3).collect());
        }
        let halves = |taps: &BTreeSet<u32>| taps.iter().map(|tap| tap / 2).collect::<BTreeSet<u32>>();
        let chroma = halves(&columns).into_iter().flat_map(|column| [2 * column, 2 * column + 1]).collect();
        plane(rows.clone(), columns) + plane(halves(&rows), chroma)
    }
}

/// The rows or columns of a source that a result of so many is made from, as the kernel has them.
fn taps(result: u32, source: u32) -> BTreeSet<u32> {
    let first = |index: u32| {
        let whole = (2 * index + 1) * source;
        (whole.saturating_sub(result) / (2 * result)).min(source.saturating_sub(2))
    };
    (0..result).flat_map(|index| [first(index), (first(index) + 1).min(source - 1)]).collect()
}

fn prepare<T: PreparedElement + ValidAsZeroBits>(
    clock: &Clock,
    kernels: &Kernels,
    case: &Case,
    batch: usize,
) -> Result<Rate, LaunchError> {
    let stream = &clock.stream;
    let step = PrepareStep::from(&case.step);
    let sources: Vec<ImageSource> = (0..IMAGES).map(|at| case.image(at)).collect();
    let slab = stream.alloc_zeros::<u8>((IMAGES * case.source_bytes()).next_multiple_of(4)).map_err(failed)?;
    let mut out = stream.alloc_zeros::<T>(IMAGES * step.values()).map_err(failed)?;
    let mut descriptors = stream.alloc_zeros(IMAGES).map_err(failed)?;
    let us = clock.median_us(|clock| {
        let events = Some((&clock.began, &clock.ended));
        kernels.prepare_in_turn(stream, &step, (&sources, batch), &slab, &mut descriptors, &mut out, events)
    })?;
    let written = (step.values() * size_of::<T>()) as u64;
    #[expect(clippy::cast_precision_loss, reason = "a small number of launches")]
    let launches = IMAGES.div_ceil(batch) as f64;
    Ok(Rate {
        name: format!("prepare_{}_batch_{batch}", case.name),
        us: us / launches,
        items: batch as u64,
        bytes: batch as u64 * (case.bytes_read() + written),
    })
}

/// Boxes from distributions, as NanoDet gives them; sending the sizes of the images is part of it.
fn detections(clock: &Clock, kernels: &Kernels, images: usize) -> Result<Rate, LaunchError> {
    let stream = &clock.stream;
    let [few, _] = &inputs::dfl()[..] else { return Err(failed(missing())) };
    let step: DflStep = few.step;
    let repeated = |values: &Vec<f32>| -> Result<CudaSlice<f32>, LaunchError> {
        let one = values.len() / few.geometries.len();
        let all: Vec<f32> = (0..images).flat_map(|image| &values[image % 2 * one..][..one]).copied().collect();
        stream.clone_htod(&all).map_err(failed)
    };
    let mut sent = Vec::new();
    for (scores, distances) in &few.outputs {
        sent.push((repeated(scores)?, repeated(distances)?));
    }
    let outputs: Vec<_> = sent.iter().map(|(scores, distances)| (scores, distances)).collect();
    let geometries: Vec<Geometry> = (0..images).map(|image| few.geometries[image % 2]).collect();
    let mut boxes = BoxBuffers::new(stream, step.candidates, images, 100)?;
    let us = clock.median_us(|clock| {
        clock.around(|| kernels.detect_dfl(stream, &step, &outputs, (0.5, &geometries), &mut boxes))
    })?;
    Ok(Rate { name: format!("detections_batch_{images}"), us, items: images as u64, bytes: 0 })
}

fn missing() -> DriverError {
    DriverError(cudarc::driver::sys::CUresult::CUDA_ERROR_INVALID_VALUE)
}

/// Sounds of 96 frames, which is what a network of sound takes at once; sending their descriptors is part of it.
fn log_mel(clock: &Clock, kernels: &Kernels, count: usize) -> Result<Rate, LaunchError> {
    const FRAMES: u32 = 96;
    let stream = &clock.stream;
    let mel = LogMel::audioset();
    let (samples, _) = inputs::sound();
    let sounds: Vec<SoundSource> = (0_u32..)
        .take(count)
        .map(|at| SoundSource { offset: u64::from(at) * 37, frames: FRAMES, first_row: at * FRAMES })
        .collect();
    let tables = LogMelTables::upload(stream, &mel)?;
    let sent = stream.clone_htod(&samples).map_err(failed)?;
    let mut descriptors = stream.alloc_zeros(count).map_err(failed)?;
    let frames = count * FRAMES as usize;
    let mut out = stream.alloc_zeros(frames * mel.step.bands as usize).map_err(failed)?;
    let us = clock.median_us(|clock| {
        clock.around(|| kernels.log_mel(stream, &tables, &sounds, &sent, &mut descriptors, &mut out))
    })?;
    Ok(Rate { name: format!("log_mel_batch_{count}"), us, items: frames as u64, bytes: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_counted_in_sectors() {
        assert_eq!(taps(2, 4), BTreeSet::from([0, 1, 2, 3]));
        assert_eq!(taps(1, 100), BTreeSet::from([49, 50]));
        assert_eq!(taps(4, 1), BTreeSet::from([0]));
        let [small, planar, wide] = cases();
        // 234 rows of the result need two rows each of 720; in a row every sector has something.
        assert_eq!(small.bytes_read(), 468 * 3840);
        assert!(planar.bytes_read() < 1920 * 1080 * 3 / 2 && planar.bytes_read() > 1920 * 1080 / 2);
        // 1080 ÷ 512 is more than two, so that some rows are left out.
        assert_eq!(wide.bytes_read(), 1024 * 5760);
        for case in [small, planar, wide] {
            let step = PrepareStep::from(&case.step);
            let sources: Vec<_> = (0..IMAGES).map(|at| case.image(at)).collect();
            step.check(&sources, IMAGES * case.source_bytes(), IMAGES).unwrap();
        }
        let rate = Rate { name: String::new(), us: 2.0, items: 4, bytes: 8000 };
        assert!((rate.bytes_per_second() - 4e9).abs() < 1.0 && (rate.items_per_second() - 2e6).abs() < 1.0);
    }

    #[test]
    fn the_sounds_fit_what_they_are_cut_from() {
        let (samples, _) = inputs::sound();
        let sounds: Vec<_> =
            (0_u32..64).map(|at| SoundSource { offset: u64::from(at) * 37, frames: 96, first_row: at * 96 }).collect();
        LogMel::audioset().check(&sounds, samples.len(), 64 * 96 * 64).unwrap();
    }
}
