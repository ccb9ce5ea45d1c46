//! What the image kernels are given.

use sensorium_models::manifest::{ChannelOrder, Layout};
use sensorium_processing::image::{ImageStep, ImageView, SourceGeometry};
use sensorium_wire::submit::PixelFormat;

use super::shared;

/// Longest side of an image or a network's input, in pixels.
pub const SIDE_PIXELS_MAX: u32 = 16_384;

/// How an image's bytes are laid out; the numbers are the kernels'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PixelLayout {
    /// Three bytes a pixel: red, green, blue.
    Rgb24 = 0,
    /// Three bytes a pixel: blue, green, red.
    Bgr24 = 1,
    /// One byte a pixel.
    Gray8 = 2,
    /// A plane of luma, then one of U and V in turn for each two by two pixels.
    Nv12 = 3,
    /// A plane of luma, one of U, one of V, each value of which is for two by two pixels.
    I420 = 4,
}

impl PixelLayout {
    pub(super) const ALL: [Self; 5] = [Self::Rgb24, Self::Bgr24, Self::Gray8, Self::Nv12, Self::I420];
}

impl From<PixelFormat> for PixelLayout {
    fn from(format: PixelFormat) -> Self {
        match format {
            PixelFormat::Rgb24 => Self::Rgb24,
            PixelFormat::Bgr24 => Self::Bgr24,
            PixelFormat::Gray8 => Self::Gray8,
        }
    }
}

/// How limited-range luma and chroma (16 to 235 and 16 to 240) become red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Matrix {
    /// ITU-R BT.601: standard definition.
    Bt601 = 0,
    /// ITU-R BT.709: high definition.
    Bt709 = 1,
}

shared! {
    /// One image of a batch, as it lies in the slab.
    pub struct ImageSource {
        /// First byte of the first plane, from the slab's start.
        pub offset: u64,
        /// First byte of the plane of chroma (NV12) or of U (I420); else 0.
        pub chroma_offset: u64,
        /// First byte of the plane of V (I420); else 0.
        pub chroma_offset_second: u64,
        /// In pixels.
        pub width: u32,
        pub height: u32,
        /// Bytes from one row to the next, in the first plane and in those of chroma.
        pub stride: u32,
        pub chroma_stride: u32,
        /// A [`PixelLayout`].
        pub format: u32,
        /// A [`Matrix`]; only for NV12 and I420.
        pub matrix: u32,
        /// The part of the network's input that shows the image, from its top left corner, in pixels.
        pub fitted_width: u32,
        pub fitted_height: u32,
        /// Which row of the network's input it becomes.
        pub slot: u32,
        pub reserved: u32,
    }
}

impl ImageSource {
    /// A packed image (RGB, BGR, grey) without padding, `offset` bytes into the slab, that becomes row `slot`.
    #[must_use]
    pub fn packed(step: &ImageStep, image: &ImageView<'_>, offset: u64, slot: u32) -> Self {
        let stride = u64::from(image.width) * image.format.bytes_per_pixel() as u64;
        Self {
            offset,
            // What does not fit is refused with the rest of the batch.
            stride: u32::try_from(stride).unwrap_or(u32::MAX),
            format: PixelLayout::from(image.format) as u32,
            ..Self::fitted(step, image.width, image.height, slot)
        }
    }

    /// NV12 or I420 without padding: the planes follow each other; chroma has half the sides, rounded up.
    #[must_use]
    pub fn planar(
        step: &ImageStep,
        layout: PixelLayout,
        matrix: Matrix,
        (width, height): (u32, u32),
        offset: u64,
        slot: u32,
    ) -> Self {
        let chroma_offset = offset.saturating_add(u64::from(width) * u64::from(height));
        let interleaved = layout == PixelLayout::Nv12;
        let chroma_stride = width.div_ceil(2).saturating_mul(if interleaved { 2 } else { 1 });
        let second = chroma_offset.saturating_add(u64::from(chroma_stride) * u64::from(height.div_ceil(2)));
        Self {
            offset,
            chroma_offset,
            chroma_offset_second: if interleaved { 0 } else { second },
            stride: width,
            chroma_stride,
            format: layout as u32,
            matrix: matrix as u32,
            ..Self::fitted(step, width, height, slot)
        }
    }

    fn fitted(step: &ImageStep, width: u32, height: u32, slot: u32) -> Self {
        let view = ImageView { width, height, format: PixelFormat::Gray8, bytes: &[] };
        // Images without pixels are refused with the rest of the batch.
        let geometry = SourceGeometry::fit(step, &view);
        let (fitted_width, fitted_height) = (geometry.fitted_width, geometry.fitted_height);
        Self { width, height, fitted_width, fitted_height, slot, ..Self::default() }
    }
}

shared! {
    /// What is done to every image of a batch.
    pub struct PrepareStep {
        /// Of the network's input, in pixels.
        pub width: u32,
        pub height: u32,
        /// 0: planes of channels (NCHW); 1: pixels of channels (NHWC).
        pub layout: u32,
        /// 0: red, green, blue; 1: blue, green, red.
        pub channels: u32,
        /// In the order of `channels`; pixels are 0 to 255.
        pub mean: [f32; 3],
        /// 1 ÷ standard deviation.
        pub scale: [f32; 3],
    }
}

impl From<&ImageStep> for PrepareStep {
    fn from(step: &ImageStep) -> Self {
        Self {
            width: step.width,
            height: step.height,
            layout: match step.layout {
                Layout::Nchw => 0,
                Layout::Nhwc => 1,
            },
            channels: match step.channels {
                ChannelOrder::Rgb => 0,
                ChannelOrder::Bgr => 1,
            },
            mean: step.mean,
            scale: step.std.map(|std| 1.0 / std),
        }
    }
}
