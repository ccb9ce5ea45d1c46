//! Where pixels of a network's input come from.

use sensorium_models::manifest::Fit;

use super::{ImageStep, ImageView};

/// Maps boxes in pixels of a network's input to boxes in pixels of the source image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SourceGeometry {
    /// Size of the source image, in pixels.
    pub width: u32,
    pub height: u32,
    /// The part of the network's input that shows the source, from its top left corner, in pixels.
    pub fitted_width: u32,
    pub fitted_height: u32,
}

impl SourceGeometry {
    /// How `image` is fitted to a network's input. With letterbox, the longer side (relative to the input) fills the
    /// input and the other is rounded to whole pixels, at least one.
    #[must_use]
    pub fn fit(step: &ImageStep, image: &ImageView<'_>) -> Self {
        let (width, height) = (image.width, image.height);
        let (fitted_width, fitted_height) = match step.fit {
            Fit::Stretch => (step.width, step.height),
            Fit::Letterbox => {
                let (across, down) =
                    (u64::from(step.width) * u64::from(height), u64::from(step.height) * u64::from(width));
                if across <= down {
                    (step.width, scaled(height, step.width, width, step.height))
                } else {
                    (scaled(width, step.height, height, step.width), step.height)
                }
            }
        };
        Self { width, height, fitted_width, fitted_height }
    }

    /// The box in source pixels, clipped to the image.
    #[must_use]
    pub fn to_source(&self, bbox: [f32; 4]) -> [f32; 4] {
        #[expect(clippy::cast_precision_loss, reason = "sides of images are far below 2^24 pixels")]
        let [width, height, fitted_width, fitted_height] =
            [self.width, self.height, self.fitted_width, self.fitted_height].map(|side| side as f32);
        let across = |x: f32| (x * (width / fitted_width.max(1.0))).clamp(0.0, width);
        let down = |y: f32| (y * (height / fitted_height.max(1.0))).clamp(0.0, height);
        [across(bbox[0]), down(bbox[1]), across(bbox[2]), down(bbox[3])]
    }
}

/// `side × numerator ÷ denominator`, rounded to the nearest, 1 to `side_max`.
fn scaled(side: u32, numerator: u32, denominator: u32, side_max: u32) -> u32 {
    let denominator = u64::from(denominator.max(1));
    let rounded = (u64::from(side) * u64::from(numerator) + denominator / 2) / denominator;
    u32::try_from(rounded).unwrap_or(side_max).min(side_max).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::step;
    use super::*;
    use sensorium_wire::submit::PixelFormat;

    fn fit(fit: Fit, (width, height): (u32, u32)) -> SourceGeometry {
        let image = ImageView { width, height, format: PixelFormat::Rgb24, bytes: &[] };
        SourceGeometry::fit(&crate::image::ImageStep { fit, ..step(416, 416) }, &image)
    }

    #[test]
    fn a_stretched_box_comes_back_on_each_axis_on_its_own() {
        let geometry = fit(Fit::Stretch, (768, 576));
        let source = geometry.to_source([104.0, 104.0, 208.0, 416.0]);
        assert_eq!(source, [192.0, 144.0, 384.0, 576.0]);
        assert_eq!(geometry.to_source([-5.0, -5.0, 500.0, 500.0]), [0.0, 0.0, 768.0, 576.0]);
    }

    #[test]
    fn letterbox_keeps_the_aspect_ratio() {
        let geometry = fit(Fit::Letterbox, (768, 576));
        assert_eq!((geometry.fitted_width, geometry.fitted_height), (416, 312));
        assert_eq!(geometry.to_source([0.0, 156.0, 416.0, 312.0]), [0.0, 288.0, 768.0, 576.0]);
        let geometry = fit(Fit::Letterbox, (576, 768));
        assert_eq!((geometry.fitted_width, geometry.fitted_height), (312, 416));
        let geometry = fit(Fit::Letterbox, (8192, 1));
        assert_eq!((geometry.fitted_width, geometry.fitted_height), (416, 1));
    }
}
