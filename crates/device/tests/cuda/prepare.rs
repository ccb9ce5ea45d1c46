//! The twin of the image kernels against the processor's preparation, over real frames and made-up ones.

use half::f16;
use proptest::prelude::*;
use sensorium_device::cuda::arguments::{ArgumentError, ImageSource, Matrix, PixelLayout, PrepareStep};
use sensorium_device::cuda::twin;
use sensorium_models::manifest::{ChannelOrder, Fit, Layout};
use sensorium_processing::image::{ImageStep, ImageView, SourceGeometry, prepare_into};
use sensorium_wire::submit::PixelFormat;

use crate::media::{VIDEOS, frame, slab};
use crate::setup::package;

/// What the processor makes of an image.
fn processor(step: &ImageStep, image: ImageView<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; step.values()];
    prepare_into(step, image, &mut out).unwrap();
    out
}

/// What the twin makes of a checked batch.
fn twin<T: twin::Element>(step: &ImageStep, slab: &[u8], sources: &[ImageSource], fill: T) -> Vec<T> {
    let mut out = vec![fill; step.values() * sources.len()];
    let step = PrepareStep::from(step);
    step.check(sources, slab.len(), sources.len()).unwrap();
    twin::prepare(slab, sources, &step, &mut out);
    out
}

fn worst(found: impl IntoIterator<Item = f32>, expected: &[f32]) -> f32 {
    let found: Vec<f32> = found.into_iter().collect();
    assert_eq!(found.len(), expected.len());
    // What is not a number counts as far off.
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst, off| if off <= worst { worst } else { off })
}

/// The steps of the project's own models that take images.
fn steps() -> Vec<(String, ImageStep)> {
    ["nanodet", "centernet", "movenet"]
        .map(|name| (name.to_owned(), ImageStep::from_prepare(&package(name).manifest.prepare).unwrap()))
        .into()
}

#[test]
fn real_frames_come_out_as_on_the_processor() {
    let mut frames = Vec::new();
    for (video, width, height) in VIDEOS {
        for (format, name) in
            [(PixelFormat::Rgb24, "rgb24"), (PixelFormat::Bgr24, "bgr24"), (PixelFormat::Gray8, "gray")]
        {
            frames.push((video, width, height, format, frame(video, 30, &format!("-pix_fmt {name}"))));
        }
    }
    for (model, step) in steps() {
        for fit in [Fit::Letterbox, Fit::Stretch] {
            let step = ImageStep { fit, ..step };
            // All in one slab, at odd places, as one batch.
            let mut bytes = vec![7; 5];
            let mut sources = Vec::new();
            let mut expected = Vec::new();
            for (slot, (_, width, height, format, pixels)) in (0..).zip(&frames) {
                let view = ImageView { width: *width, height: *height, format: *format, bytes: pixels };
                sources.push(ImageSource::packed(&step, &view, bytes.len() as u64, slot));
                bytes.extend_from_slice(pixels);
                bytes.push(7);
                expected.extend(processor(&step, view));
            }
            let slab = slab(0, &bytes);
            // Positions are exact here and rounded to f64 there: a weight may differ in its last place, which is 2e-5 of
            // a level of 255; subtraction and scaling round once each.
            let scale = step.std.iter().fold(0.0_f32, |scale, std| scale.max(1.0 / std));
            let bound = 6e-5 * scale;
            let found = twin(&step, &slab, &sources, f32::NAN);
            let off = worst(found.iter().copied(), &expected);
            assert!(off <= bound, "{model}, {fit:?}: off by {off}, at most {bound}");
            // Half precision: one rounding more, 2^-11 of the value.
            let halves = twin(&step, &slab, &sources, f16::NAN);
            for (half, exact) in halves.iter().zip(&expected) {
                let off = (half.to_f32() - exact).abs();
                assert!(off <= bound + exact.abs() / 2048.0 + 1e-7, "{model}, {fit:?}: {half} for {exact}");
            }
            // Whole numbers: off by one where the exact value lies on the border, which is rare.
            let whole = twin(&step, &slab, &sources, i32::MIN);
            let differ = whole.iter().zip(&expected).filter(|(whole, exact)| {
                #[expect(clippy::cast_precision_loss, reason = "levels of a picture")]
                let off = (**whole as f32 - **exact).abs();
                assert!(off <= 0.5 + bound, "{model}: {whole} for {exact}");
                off > 0.5
            });
            assert!(differ.count() * 10_000 < whole.len(), "{model}");
        }
    }
}

/// Planes of one frame.
struct Planes<'a> {
    layout: PixelLayout,
    width: usize,
    height: usize,
    bytes: &'a [u8],
}

impl Planes<'_> {
    fn sample(&self, x: usize, y: usize) -> [f64; 3] {
        let Self { layout, width, height, bytes } = self;
        let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
        let (x2, y2) = (x / 2, y / 2);
        let chroma = &bytes[width * height..];
        let [u, v] = match layout {
            PixelLayout::Nv12 => [0, 1].map(|part| chroma[y2 * 2 * half_width + 2 * x2 + part]),
            _ => [0, half_width * half_height].map(|plane| chroma[plane + y2 * half_width + x2]),
        };
        [bytes[y * width + x], u, v].map(f64::from)
    }
}

/// ITU-R BT.601 or BT.709 from its luma weights, limited range, in f64, not clamped.
fn convert(matrix: Matrix, [y, u, v]: [f64; 3]) -> [f64; 3] {
    let (red, blue) = match matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
    };
    let green = 1.0 - red - blue;
    let (luma, cb, cr) = ((y - 16.0) / 219.0, (u - 128.0) / 224.0, (v - 128.0) / 224.0);
    let r = luma + 2.0 * (1.0 - red) * cr;
    let b = luma + 2.0 * (1.0 - blue) * cb;
    let g = (luma - red * r - blue * b) / green;
    [r, g, b].map(|value| value * 255.0)
}

#[test]
fn planar_frames_are_converted_by_their_standard() {
    for (video, width, height) in VIDEOS {
        for (layout, name) in [(PixelLayout::Nv12, "nv12"), (PixelLayout::I420, "yuv420p")] {
            let bytes = frame(video, 20, &format!("-pix_fmt {name}"));
            let planes = Planes { layout, width: width as usize, height: height as usize, bytes: &bytes };
            for matrix in [Matrix::Bt601, Matrix::Bt709] {
                // At its own size nothing is interpolated: every pixel is the standard's.
                let same = ImageStep { width, height, ..plain() };
                let source = ImageSource::planar(&same, layout, matrix, (width, height), 3, 0);
                let found = twin(&same, &slab(3, &bytes), &[source], f32::NAN);
                for (index, rgb) in found.chunks_exact(3).enumerate() {
                    let exact = convert(matrix, planes.sample(index % planes.width, index / planes.width));
                    for (found, exact) in rgb.iter().zip(exact) {
                        let off = (f64::from(*found) - exact.clamp(0.0, 255.0)).abs();
                        assert!(off < 1e-4, "{video}, {name}, {matrix:?}, pixel {index}: {found} for {exact}");
                    }
                }
            }
            // Resized: against the processor's preparation of what ffmpeg makes of the frame (which rounds to 8 bits and
            // interpolates chroma). A wrong matrix, range or order of planes is off by ten levels and more.
            let words = "-sws_flags accurate_rnd+full_chroma_int -pix_fmt rgb24";
            let rgb = frame(video, 20, words);
            let view = ImageView { width, height, format: PixelFormat::Rgb24, bytes: &rgb };
            for (model, step) in steps() {
                let step = ImageStep { mean: [0.0; 3], std: [1.0; 3], ..step };
                let source = ImageSource::planar(&step, layout, Matrix::Bt601, (width, height), 0, 0);
                let found = twin(&step, &slab(0, &bytes), &[source], f32::NAN);
                let expected = processor(&step, view);
                let sum: f64 = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).sum();
                #[expect(clippy::cast_precision_loss, reason = "a count of values of one picture")]
                let mean = sum / found.len() as f64;
                assert!(mean < 1.5, "{video}, {name}, {model}: off by {mean} levels on average");
            }
        }
    }
}

fn plain() -> ImageStep {
    ImageStep {
        width: 8,
        height: 8,
        fit: Fit::Stretch,
        channels: ChannelOrder::Rgb,
        layout: Layout::Nhwc,
        mean: [0.0; 3],
        std: [1.0; 3],
    }
}

fn any_step() -> impl Strategy<Value = ImageStep> {
    (1_u32..40, 1_u32..40, any::<[bool; 3]>()).prop_map(|(width, height, [letterbox, bgr, nchw])| ImageStep {
        width,
        height,
        fit: if letterbox { Fit::Letterbox } else { Fit::Stretch },
        channels: if bgr { ChannelOrder::Bgr } else { ChannelOrder::Rgb },
        layout: if nchw { Layout::Nchw } else { Layout::Nhwc },
        mean: [103.53, 116.28, 123.675],
        std: [57.375, 57.12, 58.395],
    })
}

fn any_packed() -> impl Strategy<Value = PixelFormat> {
    prop_oneof![Just(PixelFormat::Rgb24), Just(PixelFormat::Bgr24), Just(PixelFormat::Gray8)]
}

/// Numbers near the ends of what may be, and of what fits.
fn any_number() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..80, Just(1 << 14), Just((1 << 14) + 1), Just(1 << 31), any::<u32>()]
}

fn any_offset() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..600, any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Small sides, any start, rows with padding: the same as the processor makes of the rows without it.
    #[test]
    fn padded_images_come_out_as_on_the_processor(
        step in any_step(),
        (width, height, padding, start) in (1_u32..50, 1_u32..50, 0_u32..9, 0_usize..9),
        format in any_packed(),
        noise in proptest::collection::vec(any::<u8>(), 59 * 50 * 3),
    ) {
        let row_bytes = width * u32::try_from(format.bytes_per_pixel()).unwrap();
        let stride = row_bytes + padding;
        let mut rows = noise[..(stride * height) as usize].to_vec();
        // The padding of the last row need not be there.
        rows.truncate(((height - 1) * stride + row_bytes) as usize);
        let packed: Vec<u8> = rows.chunks(stride as usize).flat_map(|row| &row[..row_bytes as usize]).copied().collect();
        let view = ImageView { width, height, format, bytes: &packed };
        let source = ImageSource { stride, ..ImageSource::packed(&step, &view, start as u64, 0) };
        let found = twin(&step, &slab(start, &rows), &[source], f32::NAN);
        let off = worst(found, &processor(&step, view));
        prop_assert!(off <= 6e-5, "off by {}", off);
    }

    /// Planes with odd sides and any strides.
    #[test]
    fn planes_with_odd_sides_are_read_where_they_lie(
        (width, height, start) in (1_u32..30, 1_u32..30, 0_usize..9),
        nv12 in any::<bool>(),
        noise in proptest::collection::vec(any::<u8>(), 30 * 30 * 2),
    ) {
        let layout = if nv12 { PixelLayout::Nv12 } else { PixelLayout::I420 };
        let step = ImageStep { width, height, ..plain() };
        let bytes_needed = (width * height + 2 * width.div_ceil(2) * height.div_ceil(2)) as usize;
        let bytes = &noise[..bytes_needed];
        let source = ImageSource::planar(&step, layout, Matrix::Bt709, (width, height), start as u64, 0);
        let slab = slab(start, bytes);
        // It ends where it should: a slab that is shorter by one word is refused.
        let short = PrepareStep::from(&step).check(&[source], slab.len() - 4, 1).unwrap_err();
        let refused = matches!(short, ArgumentError::Outside { .. });
        prop_assert!(refused, "{}", short);
        let found = twin(&step, &slab, &[source], f32::NAN);
        let planes = Planes { layout, width: width as usize, height: height as usize, bytes };
        for (index, rgb) in found.chunks_exact(3).enumerate() {
            let exact = convert(Matrix::Bt709, planes.sample(index % planes.width, index / planes.width));
            for (found, exact) in rgb.iter().zip(exact) {
                prop_assert!((f64::from(*found) - exact.clamp(0.0, 255.0)).abs() < 1e-4);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    /// Whatever the numbers are: the check refuses them with a sentence, or nothing outside is read or written.
    #[test]
    fn a_batch_that_passes_the_check_stays_within_the_memory(
        step in any_step(),
        offsets in any_offset().prop_flat_map(|_| [any_offset(), any_offset(), any_offset()]),
        numbers in prop::array::uniform7(any_number()),
        (format, matrix, slot, words) in (0_u32..6, 0_u32..3, 0_u32..3, 0_usize..700),
        fits in any::<bool>(),
    ) {
        let [width, height, stride, chroma_stride, fitted_width, fitted_height, _] = numbers;
        let mut source = ImageSource {
            offset: offsets[0], chroma_offset: offsets[1], chroma_offset_second: offsets[2],
            width, height, stride, chroma_stride, format, matrix, fitted_width, fitted_height, slot, reserved: 0,
        };
        if fits {
            // Most wholly random ones are refused early; these are near the border.
            source.width = width % 24;
            source.height = height % 24;
            source.stride = (source.width * 3 + stride % 5).saturating_sub(1);
            source.chroma_stride = source.width + chroma_stride % 3;
            (source.fitted_width, source.fitted_height) = (fitted_width % 41, fitted_height % 41);
        }
        let step = PrepareStep::from(&step);
        let slab = vec![9_u8; 4 * words];
        let slots = 2;
        match step.check(&[source], slab.len(), slots) {
            Ok(()) => {
                let mut out = vec![f32::NAN; step.values() * slots];
                twin::prepare(&slab, &[source], &step, &mut out);
                let row = &out[step.values() * slot as usize..][..step.values()];
                prop_assert!(row.iter().all(|value| value.is_finite()), "all of the row is written");
            }
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let step = plain();
    let view = ImageView { width: 4, height: 4, format: PixelFormat::Rgb24, bytes: &[] };
    let good = ImageSource::packed(&step, &view, 0, 0);
    let check = |sources: &[ImageSource], slab_bytes: usize| {
        PrepareStep::from(&step).check(sources, slab_bytes, 1).map_err(|error| error.to_string())
    };
    assert_eq!(check(&[good], 48), Ok(()));
    let outside = "image 0: the first plane ends at byte 48, the slab has 44";
    assert_eq!(check(&[good], 44).unwrap_err(), outside);
    assert_eq!(check(&[good], 47).unwrap_err(), "a slab of 47 bytes; its length must be a multiple of 4");
    assert_eq!(check(&[], 48).unwrap_err(), "a batch of 0; 1 to 1024 are taken");
    let narrow = ImageSource { stride: 11, ..good };
    let text = "image 1: the stride is 11; expected at least 12 bytes for the first plane";
    assert_eq!(check(&[good, narrow], 48).unwrap_err(), text);
    let none = ImageSource { width: 0, ..good };
    assert_eq!(check(&[none], 48).unwrap_err(), "image 0: the width is 0; expected 1 to 16384 pixels");
    let elsewhere = ImageSource { slot: 1, ..good };
    assert_eq!(check(&[elsewhere], 48).unwrap_err(), "image 0: the slot is 1; expected less than 1");
    let geometry = SourceGeometry::fit(&step, &view);
    assert_eq!((good.fitted_width, good.fitted_height), (geometry.fitted_width, geometry.fitted_height));
}
