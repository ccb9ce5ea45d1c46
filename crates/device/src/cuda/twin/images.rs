//! Twin of a device that does the steps around a network of images: the kernels' twins around a network on the processor.
//!
//! What a GPU answers is compared with it, and what uses such a device is tested with it where there is none. It waits where
//! a GPU would not: a batch is computed when it is started.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use sensorium_models::Signature;
use sensorium_processing::image::{ImageView, SourceGeometry};
use sensorium_wire::tensor::Dtype;

use super::{LevelOutputs, candidates_dfl, candidates_rows, prepare, select_boxes};
use crate::backend::images::{BoxForm, BoxPlan, FoundBoxes, ImageAnswer, ImageNetwork, ImagePlan, STARTED_BATCHES_MAX};
use crate::backend::{BackendError, NamedTensor, Network, Placed, Tensor, TensorBuffer};
use crate::cuda::arguments::{Geometry, ImageSource, PrepareStep, SelectStep};

/// See the module.
pub struct TwinImages {
    file: PathBuf,
    network: Box<dyn Network>,
    plan: ImagePlan,
    outputs: Vec<String>,
    images_max: usize,
    started: VecDeque<Result<ImageAnswer, BackendError>>,
}

impl TwinImages {
    /// Puts the steps of `plan` around `network`, which is that in `file`. `outputs` are asked for where the plan finds no
    /// boxes.
    ///
    /// # Errors
    /// [`BackendError::Load`] when the plan does not fit.
    pub fn new(
        file: &Path,
        network: Box<dyn Network>,
        plan: &ImagePlan,
        (outputs, images_max): (&[&str], usize),
    ) -> Result<Self, BackendError> {
        let unfit = |message: String| BackendError::Load { file: file.to_owned(), message };
        plan.check(network.signature()).map_err(unfit)?;
        let outputs = match &plan.boxes {
            Some(boxes) => boxes.outputs().map(str::to_owned).collect(),
            None => outputs.iter().map(|name| (*name).to_owned()).collect(),
        };
        let (file, plan) = (file.to_owned(), plan.clone());
        let images_max = if network.signature().inputs[0].dims[0].is_some() { 1 } else { images_max };
        Ok(Self { file, network, plan, outputs, images_max, started: VecDeque::new() })
    }

    fn failed(&self, message: String) -> BackendError {
        BackendError::Run { file: self.file.clone(), message }
    }

    fn compute(&mut self, images: &[ImageView<'_>]) -> Result<ImageAnswer, BackendError> {
        let input = &self.network.signature().inputs[0];
        let (name, dtype) = (input.name.clone(), input.dtype);
        let data = self.prepared(images, dtype)?;
        let dims: Vec<usize> = [images.len()].into_iter().chain(self.plan.step.dims()).collect();
        let wanted: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        let tensors = self.network.run(&[NamedTensor { name: &name, dims: &dims, data: data.view() }], &wanted)?;
        match &self.plan.boxes {
            None => Ok(ImageAnswer::Tensors(tensors)),
            Some(boxes) => {
                let geometries = images.iter().map(|image| SourceGeometry::fit(&self.plan.step, image).into());
                let geometries: Vec<Geometry> = geometries.collect();
                found(boxes, &tensors, &geometries)
                    .map(ImageAnswer::Boxes)
                    .ok_or_else(|| self.failed("the outputs are not what boxes are found in".to_owned()))
            }
        }
    }

    fn prepared(&self, images: &[ImageView<'_>], dtype: Dtype) -> Result<TensorBuffer, BackendError> {
        let (mut slab, mut sources) = (Vec::new(), Vec::new());
        for (slot, image) in (0..).zip(images) {
            sources.push(ImageSource::packed(&self.plan.step, image, slab.len() as u64, slot));
            slab.extend_from_slice(image.bytes);
        }
        slab.resize(slab.len().next_multiple_of(4), 0);
        let step = PrepareStep::from(&self.plan.step);
        step.check(&sources, slab.len(), images.len()).map_err(|error| self.failed(error.to_string()))?;
        let values = images.len() * step.values();
        Ok(if dtype == Dtype::I32 {
            let mut out = vec![0_i32; values];
            prepare(&slab, &sources, &step, &mut out);
            TensorBuffer::I32(out)
        } else {
            let mut out = vec![0.0_f32; values];
            prepare(&slab, &sources, &step, &mut out);
            TensorBuffer::F32(out)
        })
    }
}

/// The boxes in outputs that have the names and, by the model's own check, the shapes of the plan.
fn found(plan: &BoxPlan, tensors: &[Tensor], geometries: &[Geometry]) -> Option<FoundBoxes> {
    let images = geometries.len();
    let values = |name: &str, each: u32| {
        let values = tensors.iter().find(|tensor| tensor.name == name)?.f32s()?;
        (values.len() == images * each as usize).then_some(values)
    };
    let candidates = match &plan.form {
        BoxForm::Dfl { step, outputs } => {
            let levels = step.levels.iter().zip(outputs).map(|(level, (scores, distances))| {
                let scores = values(scores, level.cells * step.classes)?;
                Some(LevelOutputs { scores, distances: values(distances, level.cells * 4 * step.bins)? })
            });
            candidates_dfl(step, &levels.collect::<Option<Vec<_>>>()?, images)
        }
        BoxForm::Rows { step, output } => candidates_rows(step, values(output, step.rows * 6)?, images),
    };
    let places = plan.selection.detections_max;
    let detections_max = u32::try_from(places).ok()?;
    let select =
        SelectStep { candidates: plan.candidates(), detections_max, iou_max: plan.selection.iou_max, reserved: 0 };
    let (outcomes, found) = select_boxes(&select, &candidates, geometries);
    Some(FoundBoxes { outcomes, found, places })
}

impl ImageNetwork for TwinImages {
    fn signature(&self) -> &Signature {
        self.network.signature()
    }

    fn placed(&self) -> Option<&Placed> {
        self.network.placed()
    }

    fn images_max(&self) -> usize {
        self.images_max
    }

    fn start(&mut self, images: &[ImageView<'_>]) -> Result<(), BackendError> {
        if self.started.len() == STARTED_BATCHES_MAX {
            return Err(self.failed(format!("{STARTED_BATCHES_MAX} batches are started already")));
        }
        if images.is_empty() || images.len() > self.images_max {
            return Err(self.failed(format!("{} images; 1 to {} are taken", images.len(), self.images_max)));
        }
        let answer = self.compute(images);
        self.started.push_back(answer);
        Ok(())
    }

    fn finish(&mut self) -> Result<ImageAnswer, BackendError> {
        self.started.pop_front().unwrap_or_else(|| Err(self.failed("no batch was started".to_owned())))
    }
}
