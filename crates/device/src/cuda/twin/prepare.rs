//! Twin of `kernels/prepare.cu`.

use half::f16;

use crate::cuda::arguments::{ImageSource, Matrix, PixelLayout, PrepareStep};

/// A value of a network's input.
pub trait Element: Copy {
    /// As the kernel stores it.
    fn of(value: f32) -> Self;
}

impl Element for f32 {
    fn of(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Element for i32 {
    #[expect(clippy::cast_possible_truncation, reason = "clamping is what the kernel does, too")]
    fn of(value: f32) -> Self {
        value.round_ties_even() as Self
    }
}

/// Writes the row of every source. The batch must have passed [`PrepareStep::check`].
///
/// # Panics
/// When something outside `slab` is read or outside `out` written: never, for a checked batch.
pub fn prepare<T: Element>(slab: &[u8], sources: &[ImageSource], step: &PrepareStep, out: &mut [T]) {
    let plane = step.width as usize * step.height as usize;
    for source in sources {
        let image = &mut out[3 * plane * source.slot as usize..][..3 * plane];
        for y in 0..step.height {
            for x in 0..step.width {
                let value = if y < source.fitted_height && x < source.fitted_width {
                    pixel(slab, source, step, x, y)
                } else {
                    [0.0; 3]
                };
                let at = y as usize * step.width as usize + x as usize;
                for (channel, value) in value.into_iter().enumerate() {
                    let place = if step.layout == 0 { channel * plane + at } else { 3 * at + channel };
                    image[place] = T::of(value);
                }
            }
        }
    }
}

/// Between `first` and the one after it.
#[derive(Clone, Copy)]
struct Tap {
    first: usize,
    weight: f32,
}

fn tap(index: u32, result: u32, source: u32) -> Tap {
    let whole = (2 * index + 1) * source;
    if whole <= result {
        return Tap { first: 0, weight: 0.0 };
    }
    let over = 2 * result;
    let first = (whole - result) / over;
    #[expect(clippy::cast_precision_loss, reason = "below twice the longest side, exact in f32")]
    let weight = |rest: u32| rest as f32 / over as f32;
    if first + 1 < source {
        Tap { first: first as usize, weight: weight(whole - result - first * over) }
    } else if source > 1 {
        Tap { first: source as usize - 2, weight: 1.0 }
    } else {
        Tap { first: 0, weight: 0.0 }
    }
}

fn between(first: f32, second: f32, weight: f32) -> f32 {
    first + (second - first) * weight
}

fn pixel(slab: &[u8], source: &ImageSource, step: &PrepareStep, x: u32, y: u32) -> [f32; 3] {
    let row = tap(y, source.fitted_height, source.height);
    let column = tap(x, source.fitted_width, source.width);
    let below = row.first + usize::from(source.height > 1);
    let upper = across(slab, source, row.first, column);
    let lower = across(slab, source, below, column);
    let value: [f32; 3] = std::array::from_fn(|channel| between(upper[channel], lower[channel], row.weight));
    let is = |layout: PixelLayout| source.format == layout as u32;
    let value = if is(PixelLayout::Nv12) || is(PixelLayout::I420) { colour(source.matrix, value) } else { value };
    let swap = is(PixelLayout::Bgr24) != (step.channels != 0);
    std::array::from_fn(|channel| {
        let taken = value[if swap { 2 - channel } else { channel }];
        (taken - step.mean[channel]) * step.scale[channel]
    })
}

/// An offset into the slab; one that no memory has becomes an index that no slab has.
fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// One row of the source at a column's tap.
fn across(slab: &[u8], source: &ImageSource, row: usize, column: Tap) -> [f32; 3] {
    let first = column.first;
    let second = first + usize::from(source.width > 1);
    let line = place(source.offset) + row * source.stride as usize;
    let byte = |at: usize| f32::from(slab[at]);
    let packed = source.format == PixelLayout::Rgb24 as u32 || source.format == PixelLayout::Bgr24 as u32;
    if packed {
        let at = line + 3 * first;
        if source.width > 1 {
            let bytes = six(slab, at);
            return std::array::from_fn(|channel| {
                between(f32::from(bytes[channel]), f32::from(bytes[channel + 3]), column.weight)
            });
        }
        return std::array::from_fn(|channel| byte(at + channel));
    }
    let luma = between(byte(line + first), byte(line + second), column.weight);
    if source.format == PixelLayout::Gray8 as u32 {
        return [luma; 3];
    }
    let chroma_row = (row / 2) * source.chroma_stride as usize;
    let interleaved = source.format == PixelLayout::Nv12 as u32;
    let u = place(source.chroma_offset) + chroma_row;
    let v = if interleaved { u + 1 } else { place(source.chroma_offset_second) + chroma_row };
    let step = if interleaved { 2 } else { 1 };
    let (one, other) = ((first / 2) * step, (second / 2) * step);
    [
        luma,
        between(byte(u + one), byte(u + other), column.weight),
        between(byte(v + one), byte(v + other), column.weight),
    ]
}

/// Six bytes by way of aligned words, as the kernel reads them: each word must lie within the slab.
fn six(slab: &[u8], at: usize) -> [u8; 6] {
    let off = at % 4;
    let aligned = &slab[at - off..][..if off == 3 { 12 } else { 8 }];
    std::array::from_fn(|index| aligned[off + index])
}

fn colour(matrix: u32, [y, u, v]: [f32; 3]) -> [f32; 3] {
    let [red_v, green_u, green_v, blue_u] = if matrix == Matrix::Bt709 as u32 {
        [1.792_741_1, 0.213_248_61, 0.532_909_3, 2.112_401_8]
    } else {
        [1.596_026_8, 0.391_762_3, 0.812_967_66, 2.017_232_2]
    };
    let y = (y - 16.0) * 1.164_383_5;
    let (u, v) = (u - 128.0, v - 128.0);
    [y + v * red_v, y - u * green_u - v * green_v, y + u * blue_u].map(|value: f32| value.clamp(0.0, 255.0))
}
