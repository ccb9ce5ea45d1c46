//! Points of a body in pixels of the image that came.

use sensorium_models::Manifest;
use sensorium_models::manifest::Dim;
use sensorium_processing::image::SourceGeometry;
use sensorium_processing::pose::pose;
use sensorium_wire::ids::ShortName;
use sensorium_wire::rejection::Rejection;
use sensorium_wire::result::{Keypoint, ModelResult};

use super::{Interpretation, f32_row, failed};
use crate::backend::Tensor;
use crate::executor::preparation::Opened;
use crate::executor::{JobAnswer, refused, work, write_result};

/// One body per job.
pub(in crate::executor) struct PoseInterpretation {
    /// Size of the network's input, in pixels.
    input: (u32, u32),
    labels: Vec<ShortName>,
    taken: Vec<Taken>,
}

#[derive(Default)]
struct Taken {
    work: u32,
    source: Option<SourceGeometry>,
    keypoints: Vec<Keypoint>,
}

impl PoseInterpretation {
    /// For a manifest with the step `pose`; or what is wrong with it.
    pub(in crate::executor) fn new(manifest: &Manifest, labels: &[String]) -> Result<Self, String> {
        let Some(input) = manifest.prepare.image_size() else {
            return Err("a pose needs the size of an image".to_owned());
        };
        let points = work(labels.len());
        let expected = [Dim::Fixed(1), Dim::Fixed(points), Dim::Fixed(3)];
        if manifest.outputs.first().and_then(|output| output.shape.get(1..)) != Some(&expected[..]) {
            return Err(format!("the first output must be [N,1,{points},3]; there are {points} labels"));
        }
        let labels = labels.iter().map(|label| ShortName::cut(label)).collect();
        Ok(Self { input, labels, taken: Vec::new() })
    }
}

impl Interpretation for PoseInterpretation {
    fn begin(&mut self, jobs: usize) {
        self.taken.clear();
        self.taken.resize_with(jobs, Taken::default);
    }

    fn expect(&mut self, job: usize, opened: &Opened) {
        self.taken[job] = Taken { work: opened.work, source: opened.source, keypoints: Vec::new() };
    }

    fn row(&mut self, job: usize, tensors: &[Tensor], row: usize) -> Result<(), Rejection> {
        let taken = &mut self.taken[job];
        let Some(source) = &taken.source else { return failed("the image's size is not known") };
        taken.keypoints = pose(f32_row(tensors, 0, row)?, self.input, source, &self.labels).map_err(refused)?;
        Ok(())
    }

    fn finish(&mut self, job: usize, output: &mut [u8]) -> Result<JobAnswer, Rejection> {
        let Taken { work, keypoints, .. } = std::mem::take(&mut self.taken[job]);
        write_result(&ModelResult::Pose { keypoints }, output, work)
    }
}
