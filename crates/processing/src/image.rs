//! Images to network inputs.
//!
//! Decodes JPEG and PNG, and resizes and normalises in one pass. Orientation tags, colour profiles and transparency are
//! ignored: a camera's frames have none, and a network was trained on plain pixels.

mod decode;
mod geometry;
mod resize;

use sensorium_models::manifest::{ChannelOrder, Fit, Layout, Prepare};
use sensorium_wire::submit::PixelFormat;

use crate::error::ProcessingError;

pub use decode::decode;
pub use geometry::SourceGeometry;
pub use resize::prepare_into;

/// How large an image may be. Checked against the file's header before memory is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Longest side, in pixels. Default 8,192.
    pub side_pixels_max: u32,
    /// Most pixels in all. Default 32 Mi, which take 96 MiB when decoded.
    pub pixels_max: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { side_pixels_max: 8192, pixels_max: 32 << 20 }
    }
}

impl ImageLimits {
    fn check(self, width: u32, height: u32) -> Result<(), ProcessingError> {
        let Self { side_pixels_max, pixels_max } = self;
        let fits = (1..=side_pixels_max).contains(&width)
            && (1..=side_pixels_max).contains(&height)
            && u64::from(width) * u64::from(height) <= pixels_max;
        if fits { Ok(()) } else { Err(ProcessingError::ImageSize { width, height, side_pixels_max, pixels_max }) }
    }
}

/// A decoded image: rows from top to bottom without padding, three bytes (red, green, blue) per pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub width: u32,
    pub height: u32,
    pub rgb: Vec<u8>,
}

impl Image {
    #[must_use]
    pub fn view(&self) -> ImageView<'_> {
        ImageView { width: self.width, height: self.height, format: PixelFormat::Rgb24, bytes: &self.rgb }
    }
}

/// An image in memory that someone else owns: rows from top to bottom without padding.
#[derive(Clone, Copy, Debug)]
pub struct ImageView<'a> {
    pub width: u32,
    pub height: u32,
    pub format: PixelFormat,
    pub bytes: &'a [u8],
}

impl ImageView<'_> {
    /// Checks that there are pixels, and as many bytes as they need.
    ///
    /// # Errors
    /// [`ProcessingError::Empty`] or [`ProcessingError::ImageBytes`].
    pub fn check(&self) -> Result<(), ProcessingError> {
        let Self { width, height, format, bytes } = *self;
        if width == 0 || height == 0 {
            return Err(ProcessingError::Empty("image"));
        }
        let expected = (u64::from(width) * u64::from(height)).checked_mul(format.bytes_per_pixel() as u64);
        if expected == Some(bytes.len() as u64) {
            return Ok(());
        }
        let format = match format {
            PixelFormat::Rgb24 => "rgb24",
            PixelFormat::Bgr24 => "bgr24",
            PixelFormat::Gray8 => "gray8",
        };
        let expected = expected.unwrap_or(u64::MAX);
        Err(ProcessingError::ImageBytes { width, height, format, expected, bytes: bytes.len() })
    }
}

/// What `prepare.step = "image"` of a manifest says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageStep {
    pub width: u32,
    pub height: u32,
    pub fit: Fit,
    pub channels: ChannelOrder,
    pub layout: Layout,
    /// Per channel, in the order of `channels`; pixels are 0 to 255.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl ImageStep {
    /// The fields of a [`Prepare::Image`]; `None` for other steps.
    #[must_use]
    pub fn from_prepare(prepare: &Prepare) -> Option<Self> {
        match *prepare {
            Prepare::Image { width, height, fit, channels, layout, mean, std } => {
                Some(Self { width, height, fit, channels, layout, mean, std })
            }
            Prepare::Windows { .. } | Prepare::Utterance { .. } | Prepare::Tensor {} | Prepare::Stage { .. } => None,
        }
    }

    /// Dimensions of one image in the network's input.
    #[must_use]
    pub const fn dims(&self) -> [usize; 3] {
        let (width, height) = (self.width as usize, self.height as usize);
        match self.layout {
            Layout::Nchw => [3, height, width],
            Layout::Nhwc => [height, width, 3],
        }
    }

    /// Values of one image in the network's input: width × height × 3.
    #[must_use]
    pub const fn values(&self) -> usize {
        self.width as usize * self.height as usize * 3
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Stretch, RGB, NCHW, values as they are.
    pub(crate) fn step(width: u32, height: u32) -> ImageStep {
        ImageStep {
            width,
            height,
            fit: Fit::Stretch,
            channels: ChannelOrder::Rgb,
            layout: Layout::Nchw,
            mean: [0.0; 3],
            std: [1.0; 3],
        }
    }

    #[test]
    fn a_step_is_read_from_the_manifest() {
        let ImageStep { width, height, fit, channels, layout, mean, std } = step(4, 3);
        let prepare = Prepare::Image { width, height, fit, channels, layout, mean, std };
        assert_eq!(ImageStep::from_prepare(&prepare), Some(step(4, 3)));
        assert_eq!(ImageStep::from_prepare(&Prepare::Tensor {}), None);
        assert_eq!((step(4, 3).values(), step(4, 3).dims()), (36, [3, 3, 4]));
    }
}
