//! Images, encoded or raw, as rows of one picture each.

use sensorium_models::manifest::Prepare;
use sensorium_processing::image::{Image, ImageLimits, ImageStep, ImageView, SourceGeometry, decode, prepare_into};
use sensorium_wire::rejection::{Reason, Rejection};
use sensorium_wire::submit::PayloadKind;

use super::{Opened, Preparation};
use crate::backend::TensorBuffer;
use crate::executor::{JobInput, refused, work};

/// Decodes, resizes and normalises one image per job.
pub(in crate::executor) struct ImagePreparation {
    step: ImageStep,
    row_dims: [usize; 3],
    /// The image that was opened last, if it had to be decoded.
    decoded: Option<Image>,
    /// One row before it is rounded, for networks that take integers.
    exact: Vec<f32>,
}

impl ImagePreparation {
    /// For an `image` step; or why not.
    pub(in crate::executor) fn new(prepare: &Prepare) -> Result<Self, String> {
        let step = ImageStep::from_prepare(prepare)
            .ok_or_else(|| format!("prepare step {} makes no images", prepare.name()))?;
        let row_dims = step.dims();
        Ok(Self { step, row_dims, decoded: None, exact: Vec::new() })
    }
}

/// Decodes the payload of `job` where it is encoded.
pub(in crate::executor) fn decoded(job: &JobInput<'_>) -> Result<Option<Image>, Rejection> {
    match job.payload {
        PayloadKind::RawFrame => Ok(None),
        PayloadKind::EncodedImage => decode(job.bytes, ImageLimits::default()).map(Some).map_err(refused),
        PayloadKind::Tensor | PayloadKind::Pcm | PayloadKind::EncodedAudio => Err(Rejection::new(
            Reason::InvalidPayload,
            format!("{:?}; the model takes images, raw or as JPEG or PNG", job.payload),
        )),
    }
}

/// The image of `job`: what was decoded of it, or the frame that it is.
pub(in crate::executor) fn view<'a>(
    decoded: Option<&'a Image>,
    job: &JobInput<'a>,
) -> Result<ImageView<'a>, Rejection> {
    match (decoded, job.dims) {
        (Some(image), _) => Ok(image.view()),
        (None, [height, width]) => {
            Ok(ImageView { width: *width, height: *height, format: job.pixels, bytes: job.bytes })
        }
        (None, dims) => {
            let detail = format!("shape {dims:?}; a raw frame needs [height, width]");
            Err(Rejection::new(Reason::InvalidShape, detail))
        }
    }
}

/// What is known of an image that is to be fitted as `step` says.
pub(in crate::executor) fn opened(step: &ImageStep, view: &ImageView<'_>) -> Opened {
    let pixels = u64::from(view.width) * u64::from(view.height);
    let work = work(usize::try_from(pixels).unwrap_or(usize::MAX));
    Opened { rows: 1, work, source: Some(SourceGeometry::fit(step, view)), batched: false }
}

impl Preparation for ImagePreparation {
    fn open(&mut self, job: &JobInput<'_>) -> Result<Opened, Rejection> {
        self.decoded = decoded(job)?;
        Ok(opened(&self.step, &view(self.decoded.as_ref(), job)?))
    }

    fn row_dims(&self) -> &[usize] {
        &self.row_dims
    }

    fn row(&mut self, job: &JobInput<'_>, _row: usize, data: &mut TensorBuffer) -> Result<(), Rejection> {
        if let Some(values) = data.grow_f32(self.step.values()) {
            return prepare_into(&self.step, view(self.decoded.as_ref(), job)?, values).map(drop).map_err(refused);
        }
        let mut exact = std::mem::take(&mut self.exact);
        exact.resize(self.step.values(), 0.0);
        let prepared = view(self.decoded.as_ref(), job)
            .and_then(|view| prepare_into(&self.step, view, &mut exact).map_err(refused));
        self.exact = exact;
        prepared?;
        if data.extend_rounded(&self.exact) { Ok(()) } else { Err(only_f32_or_i32()) }
    }
}

fn only_f32_or_i32() -> Rejection {
    Rejection::new(Reason::Internal, "the input's rows are neither f32 nor i32")
}
