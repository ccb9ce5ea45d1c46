//! A backend beside the processor: everything runs on both, and what they answer is compared.
//!
//! It is for checks, not for serving. What goes on from a run is the processor's answer, so that a difference shows where
//! it arises and not in all that follows from it.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use sensorium_models::Signature;
use sensorium_processing::image::ImageView;
use serde::Serialize;

use super::images::{FoundBoxes, ImageAnswer, ImageNetwork, ImagePlan};
use super::{Backend, BackendError, CpuBackend, LoadOptions, NamedTensor, Network, Placed, Tensor, TensorBuffer};
use crate::cuda::arguments::Found;
use crate::cuda::twin::TwinImages;

/// Two floats agree when they differ by at most this much, or by [`RELATIVE_MAX`] of the processor's.
pub const ABSOLUTE_MAX: f32 = 1e-3;
/// See [`ABSOLUTE_MAX`].
pub const RELATIVE_MAX: f32 = 1e-3;

/// What was compared so far, and how it differed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Differences {
    pub runs: u64,
    pub values: u64,
    /// Values that do not agree.
    pub apart: u64,
    /// Largest difference of two floats.
    pub largest: f32,
    /// The first output that did not agree.
    pub first: Option<String>,
}

impl Differences {
    fn tell(&mut self, apart: u64, what: impl FnOnce() -> String) {
        self.apart += apart;
        if apart > 0 && self.first.is_none() {
            self.first = Some(what());
        }
    }
}

/// See the module.
pub struct TwinBackend {
    subject: Box<dyn Backend>,
    reference: CpuBackend,
    /// Whether steps around a network may be the device's.
    images: bool,
    differences: Arc<Mutex<Differences>>,
}

impl TwinBackend {
    #[must_use]
    pub fn new(subject: Box<dyn Backend>, reference: CpuBackend) -> Self {
        Self { subject, reference, images: true, differences: Arc::default() }
    }

    /// One that compares the outputs of networks themselves, also where the device does the steps around them.
    #[must_use]
    pub fn of_tensors(subject: Box<dyn Backend>, reference: CpuBackend) -> Self {
        Self { images: false, ..Self::new(subject, reference) }
    }

    /// What was found so far.
    #[must_use]
    pub fn differences(&self) -> Differences {
        self.differences.lock().clone()
    }
}

impl Backend for TwinBackend {
    fn name(&self) -> &'static str {
        self.subject.name()
    }

    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        let subject = self.subject.load(file, options)?;
        let reference = self.reference.load(file, options)?;
        Ok(Box::new(TwinNetwork { subject, reference, differences: Arc::clone(&self.differences) }))
    }

    fn load_images(
        &self,
        file: &Path,
        options: &LoadOptions<'_>,
        plan: &ImagePlan,
    ) -> Result<Option<Box<dyn ImageNetwork>>, BackendError> {
        if !self.images {
            return Ok(None);
        }
        let Some(subject) = self.subject.load_images(file, options, plan)? else { return Ok(None) };
        let network = self.reference.load(file, options)?;
        let reference = TwinImages::new(file, network, plan, (options.outputs, subject.images_max()))?;
        let differences = Arc::clone(&self.differences);
        let score_min = plan.boxes.as_ref().map_or(0.0, |boxes| boxes.selection.score_min);
        Ok(Some(Box::new(TwinImageNetwork { subject, reference, score_min, differences })))
    }

    fn check(&self) -> Result<(), String> {
        self.subject.check()
    }

    fn access_illegally(&self) -> Result<(), String> {
        self.subject.access_illegally()
    }
}

struct TwinImageNetwork {
    subject: Box<dyn ImageNetwork>,
    reference: TwinImages,
    score_min: f32,
    differences: Arc<Mutex<Differences>>,
}

impl ImageNetwork for TwinImageNetwork {
    fn signature(&self) -> &Signature {
        self.subject.signature()
    }

    fn placed(&self) -> Option<&Placed> {
        self.subject.placed()
    }

    fn images_max(&self) -> usize {
        self.subject.images_max()
    }

    fn start(&mut self, images: &[ImageView<'_>]) -> Result<(), BackendError> {
        self.subject.start(images)?;
        self.reference.start(images)
    }

    fn is_done(&self) -> bool {
        self.subject.is_done()
    }

    fn finish(&mut self) -> Result<ImageAnswer, BackendError> {
        let (found, expected) = (self.subject.finish()?, self.reference.finish()?);
        let mut differences = self.differences.lock();
        differences.runs += 1;
        match (&found, &expected) {
            (ImageAnswer::Tensors(found), ImageAnswer::Tensors(expected)) => {
                for (found, expected) in found.iter().zip(expected) {
                    compare(&mut differences, found, expected);
                }
            }
            (ImageAnswer::Boxes(found), ImageAnswer::Boxes(expected)) => {
                boxes(&mut differences, found, expected, self.score_min);
            }
            _ => differences.tell(1, || "boxes and outputs".to_owned()),
        }
        Ok(expected)
    }
}

/// Looks for each box that is clearly above the threshold on the other side: same class, same place and score within the
/// bounds, where the unit of places is [`PLACE_PIXELS`].
fn boxes(differences: &mut Differences, found: &FoundBoxes, expected: &FoundBoxes, score_min: f32) {
    if found.outcomes.len() != expected.outcomes.len() {
        let (found, expected) = (found.outcomes.len(), expected.outcomes.len());
        return differences.tell(1, || format!("boxes of {expected} images (found {found})"));
    }
    for image in 0..expected.outcomes.len() {
        let of = |boxes: &FoundBoxes| boxes.of(image).map(|(_, found)| found.to_vec()).unwrap_or_default();
        let (found, expected) = (of(found), of(expected));
        for (ours, theirs) in [(&found, &expected), (&expected, &found)] {
            let clear = ours.iter().filter(|one| one.score > score_min + ABSOLUTE_MAX);
            for one in clear {
                differences.values += 5;
                let same = theirs.iter().filter(|other| other.class_index == one.class_index);
                let nearest = same.map(|other| distance(one, other)).fold(f32::INFINITY, f32::min);
                if nearest <= ABSOLUTE_MAX {
                    differences.largest = differences.largest.max(nearest);
                } else {
                    differences.tell(1, || format!("image {image}: {one:?} is on one side alone"));
                }
            }
        }
    }
}

/// Unit of the differences between places, in pixels of the image: half a pixel is agreement.
const PLACE_PIXELS: f32 = 500.0;

fn distance(a: &Found, b: &Found) -> f32 {
    let sides = a.bbox.iter().zip(&b.bbox).map(|(a, b)| (a - b).abs() / PLACE_PIXELS);
    sides.fold((a.score - b.score).abs(), f32::max)
}

struct TwinNetwork {
    subject: Box<dyn Network>,
    reference: Box<dyn Network>,
    differences: Arc<Mutex<Differences>>,
}

impl Network for TwinNetwork {
    fn signature(&self) -> &Signature {
        self.subject.signature()
    }

    fn placed(&self) -> Option<&Placed> {
        self.subject.placed()
    }

    fn run(&mut self, inputs: &[NamedTensor<'_>], wanted: &[&str]) -> Result<Vec<Tensor>, BackendError> {
        let found = self.subject.run(inputs, wanted)?;
        let expected = self.reference.run(inputs, wanted)?;
        let mut differences = self.differences.lock();
        differences.runs += 1;
        for (found, expected) in found.iter().zip(&expected) {
            compare(&mut differences, found, expected);
        }
        Ok(expected)
    }
}

fn compare(differences: &mut Differences, found: &Tensor, expected: &Tensor) {
    let count = expected.data.len() as u64;
    differences.values += count;
    let apart = if found.name != expected.name || found.dims != expected.dims {
        count.max(1)
    } else {
        match (&found.data, &expected.data) {
            (TensorBuffer::F32(found), TensorBuffer::F32(expected)) => floats(differences, found, expected),
            (found, expected) if found.dtype() == expected.dtype() => {
                let size = expected.dtype().bytes();
                let pairs = found.view().bytes().chunks_exact(size).zip(expected.view().bytes().chunks_exact(size));
                pairs.filter(|(found, expected)| found != expected).count() as u64
            }
            _ => count.max(1),
        }
    };
    let (name, dims) = (&expected.name, &expected.dims);
    differences.tell(apart, || format!("{apart} of {count} values of {name} {dims:?} (found {:?})", found.dims));
}

fn floats(differences: &mut Differences, found: &[f32], expected: &[f32]) -> u64 {
    let mut apart = 0;
    for (found, expected) in found.iter().zip(expected) {
        let difference = (found - expected).abs();
        // Both no number, or both the same infinity, is agreement; `difference` is then no number.
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        let bound = ABSOLUTE_MAX.max(RELATIVE_MAX * expected.abs());
        if same {
            continue;
        }
        if !difference.is_finite() || difference > bound {
            apart += 1;
        }
        differences.largest = if difference.is_nan() { f32::INFINITY } else { differences.largest.max(difference) };
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor { name: "y".to_owned(), dims: vec![values.len()], data: TensorBuffer::F32(values.to_vec()) }
    }

    fn apart(found: &Tensor, expected: &Tensor) -> u64 {
        let mut differences = Differences::default();
        compare(&mut differences, found, expected);
        assert_eq!(differences.apart > 0, differences.first.is_some());
        differences.apart
    }

    #[test]
    fn boxes_that_are_clearly_seen_need_a_counterpart() {
        let one = Found { bbox: [10.0, 20.0, 110.0, 220.0], score: 0.9, class_index: 3 };
        let moved = |by: f32| Found { bbox: one.bbox.map(|side| side + by), ..one };
        let of = |found: &[Found]| {
            let count = u32::try_from(found.len()).unwrap();
            let mut places = found.to_vec();
            places.resize(4, Found::default());
            let outcomes = vec![crate::cuda::arguments::Outcome { count, ..Default::default() }];
            FoundBoxes { outcomes, found: places, places: 4 }
        };
        let apart = |found: &[Found], expected: &[Found]| {
            let mut differences = Differences::default();
            boxes(&mut differences, &of(found), &of(expected), 0.5);
            differences.apart
        };
        assert_eq!(apart(&[moved(0.3)], &[one]), 0);
        assert_eq!(apart(&[moved(3.0)], &[one]), 2, "each is missed on the other side");
        assert_eq!(apart(&[one, Found { score: 0.5, ..moved(90.0) }], &[one]), 0, "hardly above the threshold");
        assert_eq!(apart(&[one], &[one, moved(90.0)]), 1);
        assert_eq!(apart(&[Found { class_index: 4, ..one }], &[one]), 2);
        let mut differences = Differences::default();
        boxes(&mut differences, &of(&[one]), &FoundBoxes { outcomes: Vec::new(), ..of(&[]) }, 0.5);
        assert_eq!(differences.apart, 1);
    }

    #[test]
    fn what_differs_by_more_than_the_bound_is_counted() {
        assert_eq!(apart(&tensor(&[1.0, 1000.5]), &tensor(&[1.0005, 1000.0])), 0);
        assert_eq!(apart(&tensor(&[1.01, 1002.0, 0.5]), &tensor(&[1.0, 1000.0, 0.5])), 2);
        assert_eq!(apart(&tensor(&[f32::NAN, f32::INFINITY]), &tensor(&[f32::NAN, f32::INFINITY])), 0);
        assert_eq!(apart(&tensor(&[f32::NAN, 1.0]), &tensor(&[1.0, f32::INFINITY])), 2);
        assert_eq!(apart(&tensor(&[1.0]), &tensor(&[1.0, 2.0])), 2, "another shape");
        let whole = |values: &[i64]| Tensor { data: TensorBuffer::I64(values.to_vec()), ..tensor(&[0.0; 2]) };
        assert_eq!(apart(&whole(&[1, 2]), &whole(&[1, 3])), 1);
    }
}
