use proptest::prelude::*;
use sensorium_models::manifest::Fit;

use super::super::tests::step;
use super::*;

/// The definition, in f64, pixel by pixel.
fn reference(step: &ImageStep, image: &ImageView<'_>, (fitted_width, fitted_height): (u32, u32)) -> Vec<f64> {
    let (width, height) = (step.width as usize, step.height as usize);
    let mut out = vec![0.0; step.values()];
    let pixel = |x: usize, y: usize, channel: usize| {
        let index = y * image.width as usize + x;
        f64::from(match image.format {
            PixelFormat::Rgb24 => image.bytes[index * 3 + channel],
            PixelFormat::Bgr24 => image.bytes[index * 3 + 2 - channel],
            PixelFormat::Gray8 => image.bytes[index],
        })
    };
    let place = |index: usize, result: u32, source: u32| {
        let at = ((f64::from(u32::try_from(index).unwrap()) + 0.5) * f64::from(source) / f64::from(result) - 0.5)
            .clamp(0.0, f64::from(source - 1));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let first = at.floor() as usize;
        (first, (first + 1).min(source as usize - 1), at.fract())
    };
    for y in 0..fitted_height as usize {
        let (y1, y2, down) = place(y, fitted_height, image.height);
        for x in 0..fitted_width as usize {
            let (x1, x2, across) = place(x, fitted_width, image.width);
            for channel in 0..3 {
                let colour = if step.channels == ChannelOrder::Rgb { channel } else { 2 - channel };
                let upper = pixel(x1, y1, colour) * (1.0 - across) + pixel(x2, y1, colour) * across;
                let lower = pixel(x1, y2, colour) * (1.0 - across) + pixel(x2, y2, colour) * across;
                let value = upper * (1.0 - down) + lower * down;
                let index = match step.layout {
                    Layout::Nchw => channel * width * height + y * width + x,
                    Layout::Nhwc => (y * width + x) * 3 + channel,
                };
                out[index] = (value - f64::from(step.mean[channel])) / f64::from(step.std[channel]);
            }
        }
    }
    out
}

fn any_step() -> impl Strategy<Value = ImageStep> {
    (1_u32..40, 1_u32..40, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(width, height, fit, bgr, nhwc)| {
        ImageStep {
            fit: if fit { Fit::Letterbox } else { Fit::Stretch },
            channels: if bgr { ChannelOrder::Bgr } else { ChannelOrder::Rgb },
            layout: if nhwc { Layout::Nhwc } else { Layout::Nchw },
            mean: [103.53, 116.28, 123.675],
            std: [57.375, 57.12, 58.395],
            ..step(width, height)
        }
    })
}

proptest! {
    #[test]
    fn it_is_the_definition_to_a_few_units_in_the_last_place(
        step in any_step(),
        (width, height) in (1_u32..50, 1_u32..50),
        format in prop_oneof![Just(PixelFormat::Rgb24), Just(PixelFormat::Bgr24), Just(PixelFormat::Gray8)],
        noise in proptest::collection::vec(any::<u8>(), 50 * 50 * 3),
    ) {
        let bytes = &noise[..(width * height) as usize * format.bytes_per_pixel()];
        let image = ImageView { width, height, format, bytes };
        let mut out = vec![f32::NAN; step.values()];
        let geometry = prepare_into(&step, image, &mut out).unwrap();
        let expected = reference(&step, &image, (geometry.fitted_width, geometry.fitted_height));
        for (index, (value, expected)) in out.iter().zip(&expected).enumerate() {
            prop_assert!((f64::from(*value) - expected).abs() < 2e-5, "value {index}: {value} instead of {expected}");
        }
    }
}

#[test]
fn known_values() {
    // Two pixels to four: a quarter, then three quarters of the way; clamped at the ends.
    let image = ImageView { width: 2, height: 1, format: PixelFormat::Gray8, bytes: &[0, 100] };
    let mut out = [0.0; 12];
    prepare_into(&step(4, 1), image, &mut out).unwrap();
    assert_eq!(out[..4], [0.0, 25.0, 75.0, 100.0]);
    // Letterbox: the lower half is the mean.
    let letterbox = ImageStep { fit: Fit::Letterbox, mean: [10.0; 3], ..step(2, 2) };
    let mut out = [9.0; 12];
    let geometry = prepare_into(&letterbox, image, &mut out).unwrap();
    assert_eq!((geometry.fitted_width, geometry.fitted_height), (2, 1));
    assert_eq!(out[..4], [-10.0, 90.0, 0.0, 0.0]);
}

#[test]
fn what_does_not_fit_is_named() {
    let image = ImageView { width: 2, height: 2, format: PixelFormat::Rgb24, bytes: &[0; 11] };
    let text = prepare_into(&step(2, 2), image, &mut [0.0; 12]).unwrap_err().to_string();
    assert_eq!(text, "2 × 2 pixels of rgb24 need 12 bytes, 11 were given");
    let whole = ImageView { bytes: &[0; 12], ..image };
    let error = prepare_into(&step(2, 2), whole, &mut [0.0; 11]).unwrap_err();
    assert_eq!(error, ProcessingError::InputValues { expected: 12, values: 11 });
    let none = ImageView { width: 0, bytes: &[], ..image };
    assert_eq!(prepare_into(&step(2, 2), none, &mut [0.0; 12]), Err(ProcessingError::Empty("image")));
    let huge = ImageView { width: u32::MAX, height: u32::MAX, ..image };
    assert!(matches!(prepare_into(&step(2, 2), huge, &mut [0.0; 12]), Err(ProcessingError::ImageBytes { .. })));
}
