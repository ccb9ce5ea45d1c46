//! The detection kernels: candidates against the twin's, then the choice among the GPU's own candidates, to the bit.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use super::{CheckResult, inputs};
use crate::cuda::arguments::{Geometry, RowsStep, SelectStep};
use crate::cuda::launch::{BoxBuffers, Kernels, LaunchError};
use crate::cuda::twin::{self, Candidates, LevelOutputs};

const DETECTIONS_MAX: u32 = 300;
const IOU_MAX: f32 = 0.5;
/// Pixels; the exponential of the two differs by some units in the last place.
const BOX_PIXELS_MAX: f64 = 1e-3;

pub(super) fn check(stream: &Arc<CudaStream>, kernels: &Kernels) -> Vec<CheckResult> {
    let distributions = inputs::dfl().into_iter().map(|dfl| {
        let name = format!("boxes from distributions: {}", dfl.name);
        CheckResult::of(&name, run_dfl(&name, stream, kernels, &dfl))
    });
    let crowd_rows = u32::from(inputs::CROWDS * inputs::CROWD_ROWS);
    let rows = [("boxes from rows", 6000, inputs::rows()), ("boxes of crowds", crowd_rows, inputs::crowds())];
    let rows = rows.map(|(name, rows, output)| CheckResult::of(name, run_rows(name, stream, kernels, rows, &output)));
    distributions.chain(rows).collect()
}

fn failed(error: cudarc::driver::DriverError) -> LaunchError {
    LaunchError::Driver { what: "memory of a check", error }
}

fn run_dfl(
    name: &str,
    stream: &Arc<CudaStream>,
    kernels: &Kernels,
    dfl: &inputs::Dfl,
) -> Result<CheckResult, LaunchError> {
    let images = dfl.geometries.len();
    let sent = dfl.outputs.iter().map(|(scores, distances)| {
        Ok((stream.clone_htod(scores).map_err(failed)?, stream.clone_htod(distances).map_err(failed)?))
    });
    let sent: Vec<(CudaSlice<f32>, CudaSlice<f32>)> = sent.collect::<Result<_, LaunchError>>()?;
    let outputs: Vec<_> = sent.iter().map(|(scores, distances)| (scores, distances)).collect();
    let mut boxes = BoxBuffers::new(stream, dfl.step.candidates, images, DETECTIONS_MAX)?;
    kernels.detect_dfl(stream, &dfl.step, &outputs, (IOU_MAX, &dfl.geometries), &mut boxes)?;
    let views: Vec<_> = dfl.outputs.iter().map(|(scores, distances)| LevelOutputs { scores, distances }).collect();
    let expected = twin::candidates_dfl(&dfl.step, &views, images);
    compare(name, stream, &boxes, &expected, &dfl.geometries)
}

fn run_rows(
    name: &str,
    stream: &Arc<CudaStream>,
    kernels: &Kernels,
    rows: u32,
    output: &[f32],
) -> Result<CheckResult, LaunchError> {
    let geometries = [Geometry { width: 640, height: 360, fitted_width: 320, fitted_height: 180 }; 2];
    let step = RowsStep { rows, classes: 3, score_min: 0.1, reserved: 0 };
    let sent = stream.clone_htod(output).map_err(failed)?;
    let mut boxes = BoxBuffers::new(stream, step.rows, geometries.len(), DETECTIONS_MAX)?;
    kernels.detect_rows(stream, &step, &sent, (IOU_MAX, &geometries), &mut boxes)?;
    let expected = twin::candidates_rows(&step, output, geometries.len());
    compare(name, stream, &boxes, &expected, &geometries)
}

fn compare(
    name: &str,
    stream: &Arc<CudaStream>,
    boxes: &BoxBuffers,
    expected: &Candidates,
    geometries: &[Geometry],
) -> Result<CheckResult, LaunchError> {
    let found = Candidates {
        keys: stream.clone_dtoh(&boxes.keys).map_err(failed)?,
        boxes: stream.clone_dtoh(&boxes.boxes).map_err(failed)?.as_chunks::<4>().0.to_vec(),
        classes: stream.clone_dtoh(&boxes.classes).map_err(failed)?,
    };
    let (outcomes, chosen) = boxes.read(stream, geometries.len())?;
    // Boxes without a key are not written.
    let written = (0..found.keys.len()).filter(|at| found.keys[*at] != 0);
    let pairs = written.flat_map(|at| found.boxes[at].into_iter().zip(expected.boxes[at]));
    let pairs = pairs.map(|(found, expected)| (f64::from(found), f64::from(expected)));
    let mut result = CheckResult::new(name, BOX_PIXELS_MAX, pairs);
    let step = SelectStep {
        candidates: u32::try_from(found.keys.len() / geometries.len()).unwrap_or(u32::MAX),
        detections_max: DETECTIONS_MAX,
        iou_max: IOU_MAX,
        reserved: 0,
    };
    let (twin_outcomes, twin_chosen) = twin::select_boxes(&step, &found, geometries);
    let same_chosen = (0..geometries.len()).all(|image| {
        let from = image * DETECTIONS_MAX as usize;
        let count = outcomes[image].count.min(DETECTIONS_MAX) as usize;
        chosen[from..from + count] == twin_chosen[from..from + count]
    });
    let problems = [
        (found.keys != expected.keys, "scores or their order differ from the twin's"),
        (found.classes != expected.classes, "classes differ from the twin's"),
        (outcomes != twin_outcomes, "the counts of boxes differ from the twin's"),
        (!same_chosen, "the boxes chosen differ from the twin's"),
    ];
    result.problem = problems.iter().find(|(wrong, _)| *wrong).map(|(_, problem)| (*problem).to_owned());
    Ok(result)
}
