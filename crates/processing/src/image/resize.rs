//! Bilinear resizing and normalisation in one pass.

use sensorium_models::manifest::{ChannelOrder, Layout};
use sensorium_wire::submit::PixelFormat;

use super::{ImageStep, ImageView, SourceGeometry};
use crate::error::ProcessingError;

/// Resizes and normalises `image` as `step` says and writes it to `out`, which has [`ImageStep::values`] values.
///
/// Bilinear with half-pixel centres and no antialiasing: the pixel (x, y) of the result is sampled at
/// `(x + 0.5) × source ÷ result − 0.5`, clamped to the image, as OpenCV's `INTER_LINEAR` does but in floating point
/// without rounding to 8 bits in between. Then `(value − mean) ÷ std`. What letterboxing leaves over is filled with the
/// mean, which is 0 once normalised.
///
/// # Errors
/// When the image has no pixels, its bytes do not fit its size, or `out` has another length.
pub fn prepare_into(
    step: &ImageStep,
    image: ImageView<'_>,
    out: &mut [f32],
) -> Result<SourceGeometry, ProcessingError> {
    image.check()?;
    if step.values() != out.len() || out.is_empty() {
        return Err(ProcessingError::InputValues { expected: step.values(), values: out.len() });
    }
    let geometry = SourceGeometry::fit(step, &image);
    if (geometry.fitted_width, geometry.fitted_height) != (step.width, step.height) {
        out.fill(0.0);
    }
    match image.format {
        PixelFormat::Rgb24 => resize::<3>(step, &image, &geometry, [0, 1, 2], out),
        PixelFormat::Bgr24 => resize::<3>(step, &image, &geometry, [2, 1, 0], out),
        PixelFormat::Gray8 => resize::<1>(step, &image, &geometry, [0, 0, 0], out),
    }
    Ok(geometry)
}

/// Where a column or row of the result is sampled: between `first` and `second`, at `weight` of the way.
#[derive(Clone, Copy)]
struct Sample {
    first: usize,
    second: usize,
    weight: f32,
}

fn sample(index: u32, result: u32, source: u32) -> Sample {
    let last = source - 1;
    let at = (f64::from(index) + 0.5) * f64::from(source) / f64::from(result) - 0.5;
    let at = at.clamp(0.0, f64::from(last));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=last, a u32")]
    let first = at.floor() as u32;
    #[expect(clippy::cast_possible_truncation, reason = "a fraction; f32 holds it to 1 part in 2^24")]
    let weight = (at - f64::from(first)) as f32;
    Sample { first: first as usize, second: first.min(last.saturating_sub(1)) as usize + usize::from(last > 0), weight }
}

/// A row of the source resized across; in the layout of the result, so that the pass down is one loop without strides.
struct Row {
    source: usize,
    values: Vec<f32>,
}

/// `red_green_blue` says where in a source pixel of `BYTES` bytes the colours are.
fn resize<const BYTES: usize>(
    step: &ImageStep,
    image: &ImageView<'_>,
    geometry: &SourceGeometry,
    red_green_blue: [usize; 3],
    out: &mut [f32],
) {
    let (fitted_width, fitted_height) = (geometry.fitted_width as usize, geometry.fitted_height);
    let [red, green, blue] = red_green_blue;
    let channels = match step.channels {
        ChannelOrder::Rgb => [red, green, blue],
        ChannelOrder::Bgr => [blue, green, red],
    };
    let columns: Vec<Sample> =
        (0..geometry.fitted_width).map(|column| sample(column, geometry.fitted_width, image.width)).collect();
    let (pixels, _) = image.bytes.as_chunks::<BYTES>();
    let width = image.width as usize;
    let across = |source: usize, row: &mut Row| {
        if row.source == source {
            return;
        }
        row.source = source;
        let pixels = &pixels[source * width..(source + 1) * width];
        match step.layout {
            Layout::Nhwc => across_interleaved(pixels, &columns, channels, &mut row.values),
            Layout::Nchw => across_planar(pixels, &columns, channels, &mut row.values),
        }
    };
    let normal = Normal::new(step, fitted_width);
    let empty = || Row { source: usize::MAX, values: vec![0.0; fitted_width * 3] };
    let (mut upper, mut lower) = (empty(), empty());
    let (plane, stride) = (step.width as usize * step.height as usize, step.width as usize);
    for y in 0..fitted_height {
        let Sample { first, second, weight } = sample(y, fitted_height, image.height);
        // Going down, what was the lower row often becomes the upper one.
        if lower.source == first {
            std::mem::swap(&mut upper, &mut lower);
        }
        across(first, &mut upper);
        across(second, &mut lower);
        let y = y as usize;
        match step.layout {
            Layout::Nhwc => {
                let out = &mut out[y * stride * 3..][..fitted_width * 3];
                down(&upper.values, &lower.values, weight, &normal.mean, &normal.scale, out);
            }
            Layout::Nchw => {
                for channel in 0..3 {
                    let range = channel * fitted_width..(channel + 1) * fitted_width;
                    let out = &mut out[channel * plane + y * stride..][..fitted_width];
                    let (mean, scale) = (&normal.mean[range.clone()], &normal.scale[range.clone()]);
                    down(&upper.values[range.clone()], &lower.values[range], weight, mean, scale, out);
                }
            }
        }
    }
}

/// Mean and 1 ÷ std for every value of a row.
struct Normal {
    mean: Vec<f32>,
    scale: Vec<f32>,
}

impl Normal {
    fn new(step: &ImageStep, fitted_width: usize) -> Self {
        let row = |of: [f32; 3]| match step.layout {
            Layout::Nhwc => of.repeat(fitted_width),
            Layout::Nchw => of.iter().flat_map(|value| std::iter::repeat_n(*value, fitted_width)).collect(),
        };
        Self { mean: row(step.mean), scale: row(step.std.map(|std| 1.0 / std)) }
    }
}

#[inline]
fn between(first: u8, second: u8, weight: f32) -> f32 {
    let (first, second) = (f32::from(first), f32::from(second));
    first + (second - first) * weight
}

fn across_planar<const BYTES: usize>(
    pixels: &[[u8; BYTES]],
    columns: &[Sample],
    [a, b, c]: [usize; 3],
    values: &mut [f32],
) {
    let (plane_a, rest) = values.split_at_mut(columns.len());
    let (plane_b, plane_c) = rest.split_at_mut(columns.len());
    for (((column, value_a), value_b), value_c) in columns.iter().zip(plane_a).zip(plane_b).zip(plane_c) {
        let (first, second) = (pixels[column.first], pixels[column.second]);
        *value_a = between(first[a], second[a], column.weight);
        *value_b = between(first[b], second[b], column.weight);
        *value_c = between(first[c], second[c], column.weight);
    }
}

fn across_interleaved<const BYTES: usize>(
    pixels: &[[u8; BYTES]],
    columns: &[Sample],
    channels: [usize; 3],
    values: &mut [f32],
) {
    let (values, _) = values.as_chunks_mut::<3>();
    for (column, value) in columns.iter().zip(values) {
        let (first, second) = (pixels[column.first], pixels[column.second]);
        *value = channels.map(|channel| between(first[channel], second[channel], column.weight));
    }
}

fn down(upper: &[f32], lower: &[f32], weight: f32, mean: &[f32], scale: &[f32], out: &mut [f32]) {
    let rows = upper.iter().zip(lower).zip(mean.iter().zip(scale));
    for (out, ((upper, lower), (mean, scale))) in out.iter_mut().zip(rows) {
        *out = (upper + (lower - upper) * weight - mean) * scale;
    }
}

#[cfg(test)]
mod tests;
