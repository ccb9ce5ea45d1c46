//! Networks that take images: what stands around them on a device that does those steps itself.
//!
//! On a processor the executor resizes and normalises images and finds boxes in the outputs. A device with kernels of its own
//! does both beside the network, so that pixels go to it as they came and only answers come back. It is given all that
//! when the network is loaded, as a plan, and then only images.

use sensorium_models::Signature;
use sensorium_processing::detections::Selection;
use sensorium_processing::image::{ImageStep, ImageView};
use sensorium_wire::tensor::Dtype;

use super::{BackendError, Placed, Tensor};
use crate::cuda::arguments::{DflStep, Found, Outcome, RowsStep};

/// Batches that may be started before the first of them is finished: one is computed while the next is copied.
pub const STARTED_BATCHES_MAX: usize = 2;

/// The steps around a network.
#[derive(Clone, Debug, PartialEq)]
pub struct ImagePlan {
    pub step: ImageStep,
    /// `None`: the outputs are wanted as they are.
    pub boxes: Option<BoxPlan>,
}

/// How boxes are found in a network's outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct BoxPlan {
    pub form: BoxForm,
    pub selection: Selection,
}

/// How a network writes boxes down.
#[derive(Clone, Debug, PartialEq)]
pub enum BoxForm {
    /// Distances as distributions; the names of scores and distances of each level of the step, in its order.
    Dfl { step: DflStep, outputs: Vec<(String, String)> },
    /// Rows of x1, y1, x2, y2, score, class.
    Rows { step: RowsStep, output: String },
}

/// What came of a batch of images.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageAnswer {
    /// The outputs that were wanted, a row for each image.
    Tensors(Vec<Tensor>),
    Boxes(FoundBoxes),
}

/// Boxes of a batch of images.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundBoxes {
    /// For each image.
    pub outcomes: Vec<Outcome>,
    /// `places` for each image, of which its outcome says how many are filled.
    pub found: Vec<Found>,
    pub places: usize,
}

impl FoundBoxes {
    /// Outcome and boxes of one image, best first.
    #[must_use]
    pub fn of(&self, image: usize) -> Option<(&Outcome, &[Found])> {
        let outcome = self.outcomes.get(image)?;
        let places = self.found.get(image * self.places..(image + 1) * self.places)?;
        Some((outcome, places.get(..outcome.count as usize)?))
    }
}

/// A network with the steps around it, on a device. One thread uses it at a time.
///
/// Batches are finished in the order in which they were started.
pub trait ImageNetwork: Send {
    fn signature(&self) -> &Signature;

    /// Where the network's operators are computed; `None` where that is not known.
    fn placed(&self) -> Option<&Placed> {
        None
    }

    /// Most images of one batch.
    fn images_max(&self) -> usize;

    /// Starts a batch and does not wait for it. What the images' bytes are until the batch is finished is what it is run on.
    ///
    /// # Errors
    /// [`BackendError::Run`] when there are no images, too many, one that does not fit, or [`STARTED_BATCHES_MAX`] batches
    /// are started already; nothing is started then.
    fn start(&mut self, images: &[ImageView<'_>]) -> Result<(), BackendError>;

    /// Whether [`Self::finish`] would not wait.
    fn is_done(&self) -> bool {
        true
    }

    /// Waits for the batch that was started first.
    ///
    /// # Errors
    /// [`BackendError::Run`] when it failed, or none was started; batches started after it go on.
    fn finish(&mut self) -> Result<ImageAnswer, BackendError>;
}

impl ImagePlan {
    /// Whether the plan fits a network: one input, of floats or whole numbers, for a batch of such images, and outputs of
    /// floats under the names that boxes are found in.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, signature: &Signature) -> Result<(), String> {
        let [input] = &signature.inputs[..] else {
            return Err(format!("{} inputs; images are one", signature.inputs.len()));
        };
        if !matches!(input.dtype, Dtype::F32 | Dtype::I32) {
            return Err(format!("input {} is of {}; images become f32 or i32", input.name, input.dtype.name()));
        }
        let fits = |(dim, wanted): (&Option<u32>, usize)| dim.is_none_or(|dim| dim as usize == wanted);
        let sides = self.step.dims();
        let first = matches!(input.dims.first(), Some(None | Some(1)));
        if input.dims.len() != 4 || !first || !input.dims[1..].iter().zip(sides).all(fits) {
            return Err(format!("input {} is {:?}; expected [N, {sides:?}]", input.name, input.dims));
        }
        for name in self.boxes.iter().flat_map(BoxPlan::outputs) {
            let output = signature.outputs.iter().find(|output| output.name == name);
            match output.map(|output| output.dtype) {
                Some(Dtype::F32) => {}
                Some(other) => return Err(format!("output {name} is of {}; boxes are found in f32", other.name())),
                None => return Err(format!("there is no output {name}")),
            }
        }
        Ok(())
    }
}

impl BoxPlan {
    /// The outputs that boxes are found in.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        let (pairs, single) = match &self.form {
            BoxForm::Dfl { outputs, .. } => (&outputs[..], None),
            BoxForm::Rows { output, .. } => (&[][..], Some(output.as_str())),
        };
        pairs.iter().flat_map(|(scores, distances)| [scores.as_str(), distances.as_str()]).chain(single)
    }

    /// Places for candidates of one image.
    #[must_use]
    pub fn candidates(&self) -> u32 {
        match &self.form {
            BoxForm::Dfl { step, .. } => step.candidates,
            BoxForm::Rows { step, .. } => step.rows,
        }
    }
}
