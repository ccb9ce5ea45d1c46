//! The kernels: their sources, options and entry points, and how large a launch of each is.
//!
//! Pure functions of sizes; nothing here touches a device.

use super::arguments::{BATCH_MAX, DflStep, LogMelStep, PrepareStep, RowsStep};

/// A file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name, as messages of the compiler show it.
    pub name: &'static str,
    pub text: &'static str,
    /// Options beyond architecture and language.
    pub options: &'static [&'static str],
    /// Entry points that it must have.
    pub entries: &'static [&'static str],
}

/// The shared structures and one file, with the places that messages name.
macro_rules! source {
    ($file:literal) => {
        concat!(
            "#line 1 \"arguments.cuh\"\n",
            include_str!("../../kernels/arguments.cuh"),
            "#line 1 \"",
            $file,
            "\"\n",
            include_str!(concat!("../../kernels/", $file))
        )
    };
}

/// Images to rows of a network's input. Without contraction, so that it rounds as the processor does.
pub const PREPARE: Source = Source {
    name: "prepare.cu",
    text: source!("prepare.cu"),
    options: &["--fmad=false"],
    entries: &["prepare_f32", "prepare_f16", "prepare_i32"],
};

/// Outputs of detectors to boxes. Without contraction, as above.
pub const DETECTIONS: Source = Source {
    name: "detections.cu",
    text: source!("detections.cu"),
    options: &["--fmad=false"],
    entries: &["candidates_dfl", "candidates_rows", "select_boxes"],
};

/// Sound to log-mel frames.
pub const LOG_MEL: Source =
    Source { name: "logmel.cu", text: source!("logmel.cu"), options: &[], entries: &["log_mel"] };

/// Work of a known length, for measurements.
pub const PARTITION: Source =
    Source { name: "partition.cu", text: source!("partition.cu"), options: &[], entries: &["wait_clocks"] };

/// All sources.
pub const SOURCES: [Source; 4] = [PREPARE, DETECTIONS, LOG_MEL, PARTITION];

/// How many blocks of how many threads: x, y, z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchSize {
    pub grid: (u32, u32, u32),
    pub block: (u32, u32, u32),
}

/// Pixels that one thread of the image kernels makes.
const PIXELS_PER_THREAD: u32 = 4;
/// Threads of a block of candidates.
const CANDIDATE_THREADS: u32 = 256;
const WARP: u32 = 32;
/// Threads of the block that finds an image's boxes.
const SELECT_THREADS: u32 = 512;
/// Threads of a frame of sound, and frames of a block.
const FRAME_LANES: u32 = 64;
const FRAMES_PER_BLOCK: u32 = 4;

/// For the `prepare_*` kernels on a checked batch.
#[must_use]
pub fn prepare(step: &PrepareStep, images: usize) -> LaunchSize {
    let block = (WARP, 8, 1);
    let across = step.width.div_ceil(PIXELS_PER_THREAD * block.0);
    LaunchSize { grid: (across, step.height.div_ceil(block.1), batch(images)), block }
}

/// For `candidates_dfl` on a checked batch: a warp a cell.
#[must_use]
pub fn candidates_dfl(step: &DflStep, images: usize) -> LaunchSize {
    let cells = step.candidates.div_ceil(CANDIDATE_THREADS / WARP);
    LaunchSize { grid: (cells, batch(images), 1), block: (CANDIDATE_THREADS, 1, 1) }
}

/// For `candidates_rows` on a checked batch: a thread a row.
#[must_use]
pub fn candidates_rows(step: &RowsStep, images: usize) -> LaunchSize {
    LaunchSize { grid: (step.rows.div_ceil(CANDIDATE_THREADS), batch(images), 1), block: (CANDIDATE_THREADS, 1, 1) }
}

/// For `select_boxes` on a checked batch: a block an image.
#[must_use]
pub fn select_boxes(images: usize) -> LaunchSize {
    LaunchSize { grid: (batch(images), 1, 1), block: (SELECT_THREADS, 1, 1) }
}

/// For `log_mel` on a checked batch whose longest sound has `frames_max` frames.
#[must_use]
pub fn log_mel(_step: &LogMelStep, frames_max: u32, sounds: usize) -> LaunchSize {
    LaunchSize {
        grid: (frames_max.div_ceil(FRAMES_PER_BLOCK), batch(sounds), 1),
        block: (FRAME_LANES, FRAMES_PER_BLOCK, 1),
    }
}

/// A size that was checked before.
#[expect(clippy::cast_possible_truncation, reason = "at most BATCH_MAX")]
fn batch(count: usize) -> u32 {
    count.min(BATCH_MAX) as u32
}
