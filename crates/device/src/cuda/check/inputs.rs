//! Made-up inputs: the same on every machine, and such that every path of the kernels is taken.

use sensorium_models::manifest::{ChannelOrder, Fit, Layout};
use sensorium_processing::image::{ImageStep, ImageView};
use sensorium_wire::submit::PixelFormat;

use crate::cuda::arguments::{DflStep, Geometry, ImageSource, Matrix, PixelLayout, SoundSource};

/// A sequence that looks random (a linear congruential generator, Knuth's MMIX constants).
struct Sequence(u64);

impl Sequence {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 40).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.next() & 255).unwrap_or_default()
    }

    /// 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "24 bits")]
    fn unit(&mut self) -> f32 {
        self.next() as f32 / 16_777_216.0
    }
}

/// A batch of images: a slab, and what lies where.
#[derive(Clone, Debug)]
pub struct Images {
    pub name: &'static str,
    pub step: ImageStep,
    pub slab: Vec<u8>,
    pub sources: Vec<ImageSource>,
}

/// Batches with every pixel format, fit, layout and order of channels; with inputs whose rows are and are not groups of
/// four; with odd sides and offsets.
#[must_use]
pub fn images() -> Vec<Images> {
    let step = |side: (u32, u32), fit, layout, channels| ImageStep {
        width: side.0,
        height: side.1,
        fit,
        channels,
        layout,
        mean: [103.53, 116.28, 123.675],
        std: [57.375, 57.12, 58.395],
    };
    vec![
        batch("416 × 416, planes, letterbox", step((416, 416), Fit::Letterbox, Layout::Nchw, ChannelOrder::Bgr)),
        batch("512 × 512, pixels, stretch", step((512, 512), Fit::Stretch, Layout::Nhwc, ChannelOrder::Rgb)),
        batch("131 × 77, planes, stretch", step((131, 77), Fit::Stretch, Layout::Nchw, ChannelOrder::Rgb)),
        batch("131 × 77, pixels, letterbox", step((131, 77), Fit::Letterbox, Layout::Nhwc, ChannelOrder::Bgr)),
    ]
}

fn batch(name: &'static str, step: ImageStep) -> Images {
    let sides = [(1280, 720), (641, 359), (97, 301), (2, 2), (1, 1), (1, 50), (50, 1)];
    let layouts = [PixelLayout::Rgb24, PixelLayout::Bgr24, PixelLayout::Gray8, PixelLayout::Nv12, PixelLayout::I420];
    let mut sequence = Sequence(1);
    let (mut slab, mut sources) = (vec![0_u8; 1], Vec::new());
    for (slot, (layout, (width, height))) in
        (0_u32..).zip(layouts.into_iter().flat_map(|layout| sides.map(|sides| (layout, sides))))
    {
        let packed = |format| {
            let view = ImageView { width, height, format, bytes: &[] };
            ImageSource::packed(&step, &view, slab.len() as u64, slot)
        };
        let source = match layout {
            PixelLayout::Rgb24 => packed(PixelFormat::Rgb24),
            PixelLayout::Bgr24 => packed(PixelFormat::Bgr24),
            PixelLayout::Gray8 => packed(PixelFormat::Gray8),
            PixelLayout::Nv12 | PixelLayout::I420 => {
                let matrix = if slot % 2 == 0 { Matrix::Bt601 } else { Matrix::Bt709 };
                ImageSource::planar(&step, layout, matrix, (width, height), slab.len() as u64, slot)
            }
        };
        // Enough for every format; the next image then starts at an odd place.
        let bytes = 3 * width as usize * height as usize + 5;
        slab.extend(std::iter::repeat_with(|| sequence.byte()).take(bytes));
        sources.push(source);
    }
    slab.resize(slab.len().next_multiple_of(4), 0);
    Images { name, step, slab, sources }
}

/// Outputs of a detector with distributions: scores and distances of each level.
#[derive(Clone, Debug)]
pub struct Dfl {
    pub name: &'static str,
    pub step: DflStep,
    pub outputs: Vec<(Vec<f32>, Vec<f32>)>,
    pub geometries: Vec<Geometry>,
}

/// One with few candidates, and one with more than suppression looks at.
#[must_use]
pub fn dfl() -> Vec<Dfl> {
    [("few candidates", 0.98_f32, 80_u32, 416), ("more candidates than are looked at", 0.5, 5, 640)]
        .map(|(name, score_min, classes, side)| {
            let step = DflStep::new(&[8, 16, 32], (side, side), 8, classes, score_min).unwrap_or_default();
            let geometries: Vec<Geometry> = (0..2)
                .map(|index| Geometry { width: 1280 + index, height: 720, fitted_width: 640, fitted_height: 360 })
                .collect();
            let mut sequence = Sequence(2);
            let mut values = |count: usize, scale: f32| -> Vec<f32> {
                std::iter::repeat_with(|| scale * sequence.unit()).take(count).collect()
            };
            let outputs = step.levels[..step.level_count as usize].iter().map(|level| {
                let cells = level.cells as usize * geometries.len();
                // A power makes high scores rare; quarters of bins make sharp and flat distributions.
                let scores = values(cells * classes as usize, 1.0);
                let scores = scores.into_iter().map(|score| if classes > 5 { score.powi(4) } else { score });
                (scores.collect(), values(cells * 32, 12.0))
            });
            Dfl { name, step, outputs: outputs.collect(), geometries }
        })
        .into()
}

/// Rows with scores, classes and boxes that are not numbers, and classes that there are not; 6,000 for each of two images.
#[must_use]
pub fn rows() -> Vec<f32> {
    let mut sequence = Sequence(3);
    let row = |index: u32| {
        let (x, y) = (600.0 * sequence.unit(), 300.0 * sequence.unit());
        let (width, height) = (80.0 * sequence.unit(), 80.0 * sequence.unit());
        // Quarters of hundredths, so that many are equal.
        let score = (400.0 * sequence.unit()).floor() / 400.0;
        let class = (3.0 * sequence.unit()).floor();
        match index % 1000 {
            17 => [x, f32::NAN, x + width, y + height, score, class],
            18 => [x, y, f32::INFINITY, y + height, score, class],
            19 => [x, y, x + width, y + height, f32::NAN, 99.0],
            20 if index > 6000 => [x, y, x + width, y + height, 1.0, 99.0],
            _ => [x, y, x + width, y + height, score, class],
        }
    };
    (0..12_000).flat_map(row).collect()
}

/// Crowds of a [`crowds`] image, rows of a crowd, and rows of it that are kept at most 0.5 of overlap.
pub const CROWDS: u16 = 40;
pub const CROWD_ROWS: u16 = 6;
pub const CROWD_KEPT: u16 = 3;

/// Two images of crowds: in each the best box hides three of its class, and leaves one of another class in the same
/// place and one that overlaps it by a third. The best boxes of all are the leaders in the first image, and one whole
/// crowd in the second, so that whoever skips any of the best boxes when it suppresses keeps too much.
#[must_use]
pub fn crowds() -> Vec<f32> {
    let shifts: [(f32, f32); CROWD_ROWS as usize] =
        [(0.0, 0.0), (0.0, 1.0), (20.0, 0.0), (2.0, 0.0), (4.0, 0.0), (6.0, 0.0)];
    let row = |image: u16, crowd: u16, member: u16| {
        let rank = if image == 0 { member * CROWDS + crowd } else { crowd * CROWD_ROWS + member };
        let (x, y) = (10.0 + 75.0 * f32::from(crowd % 8), 5.0 + 65.0 * f32::from(crowd / 8));
        let (shift, class) = shifts[usize::from(member)];
        [x + shift, y, x + shift + 40.0, y + 40.0, 0.99 - f32::from(rank) / 512.0, class]
    };
    // The best come last in the second image: their place says nothing.
    let order = |image: u16, at: u16| if image == 0 { at } else { CROWDS * CROWD_ROWS - 1 - at };
    let images = (0..2).flat_map(|image| (0..CROWDS * CROWD_ROWS).map(move |at| (image, order(image, at))));
    images.flat_map(|(image, at)| row(image, at / CROWD_ROWS, at % CROWD_ROWS)).collect()
}

/// Noise with tones in it, and three sounds of it that overlap; frames that are and are not whole groups of four.
#[must_use]
pub fn sound() -> (Vec<f32>, Vec<SoundSource>) {
    let mut sequence = Sequence(4);
    let samples = (0_u16..48_000).map(|index| {
        let time = f32::from(index) / 16_000.0;
        let tone = (std::f32::consts::TAU * 440.0 * time).sin() * 0.4 * time;
        tone + 0.05 * (sequence.unit() - 0.5)
    });
    let sounds = [
        SoundSource { offset: 0, frames: 96, first_row: 0 },
        SoundSource { offset: 15_999, frames: 1, first_row: 96 },
        SoundSource { offset: 20_001, frames: 171, first_row: 97 },
    ];
    (samples.collect(), sounds.into())
}

#[cfg(test)]
mod tests {
    use crate::cuda::arguments::{CANDIDATES_MAX, LogMel, NO_ROW, PrepareStep, RowsStep, SelectStep};
    use crate::cuda::twin;

    use super::*;

    #[test]
    fn the_inputs_may_be_run_and_take_every_path() {
        for images in images() {
            let slots = images.sources.len();
            PrepareStep::from(&images.step).check(&images.sources, images.slab.len(), slots).unwrap();
            assert!(images.sources.iter().any(|source| source.offset % 4 == 1 && source.format == 0));
        }
        let mut most = 0;
        for dfl in dfl() {
            dfl.step.check(dfl.geometries.len()).unwrap();
            let outputs: Vec<_> =
                dfl.outputs.iter().map(|(scores, distances)| twin::LevelOutputs { scores, distances }).collect();
            let candidates = twin::candidates_dfl(&dfl.step, &outputs, dfl.geometries.len());
            let step = SelectStep { candidates: dfl.step.candidates, detections_max: 100, iou_max: 0.5, reserved: 0 };
            let (outcomes, _) = twin::select_boxes(&step, &candidates, &dfl.geometries);
            assert!(outcomes.iter().all(|outcome| outcome.count > 10), "{}: {outcomes:?}", dfl.name);
            most = most.max(outcomes[0].candidates);
        }
        assert!(most as usize > CANDIDATES_MAX, "{most}");
        let step = RowsStep { rows: 6000, classes: 3, score_min: 0.1, reserved: 0 };
        step.check(2, rows().len()).unwrap();
        let candidates = twin::candidates_rows(&step, &rows(), 2);
        let step = SelectStep { candidates: 6000, detections_max: 300, iou_max: 0.5, reserved: 0 };
        let geometry = Geometry { width: 640, height: 360, fitted_width: 640, fitted_height: 360 };
        let (outcomes, _) = twin::select_boxes(&step, &candidates, &[geometry; 2]);
        assert_eq!((outcomes[0].bad_row, outcomes[1].bad_row), (NO_ROW, 20));
        let (samples, sounds) = sound();
        LogMel::audioset().check(&sounds, samples.len(), 268 * 64).unwrap();
    }
}
