//! Boxes in pixels of the image that came.

use sensorium_models::Manifest;
use sensorium_models::manifest::{Dim, Interpret};
use sensorium_processing::ProcessingError;
use sensorium_processing::detections::{DflLevel, Selection, dfl, rows};
use sensorium_processing::image::SourceGeometry;
use sensorium_wire::ids::ShortName;
use sensorium_wire::limits;
use sensorium_wire::rejection::Rejection;
use sensorium_wire::result::{Detection, ModelResult};

use super::{Interpretation, f32_row, failed};
use crate::backend::Tensor;
use crate::backend::images::{BoxForm, BoxPlan};
use crate::cuda::arguments::{DflStep, Found, NO_ROW, Outcome, RowsStep};
use crate::executor::preparation::Opened;
use crate::executor::{JobAnswer, refused, write_result};

/// Detections of one image per job.
pub(in crate::executor) struct DetectionsInterpretation {
    form: Form,
    selection: Selection,
    labels: Vec<ShortName>,
    taken: Vec<Taken>,
}

/// How the network writes boxes down.
enum Form {
    Dfl {
        /// Size of the network's input, in pixels.
        input: (u32, u32),
        bins: usize,
        levels: Vec<Level>,
    },
    Rows,
}

/// The outputs of one stride, by their place in the manifest.
struct Level {
    stride: u32,
    scores: usize,
    distances: usize,
}

#[derive(Default)]
struct Taken {
    work: u32,
    source: Option<SourceGeometry>,
    detections: Vec<Detection>,
}

impl DetectionsInterpretation {
    /// For a manifest with one of the detection steps; or what is wrong with it.
    pub(in crate::executor) fn new(manifest: &Manifest, labels: &[String]) -> Result<Self, String> {
        let (form, score_min, iou_max, detections_max) = match &manifest.interpret {
            Interpret::DetectionsDfl { strides, bins, score_min, iou_max, detections_max } => {
                let Some(input) = manifest.prepare.image_size() else {
                    return Err("detections need the size of an image".to_owned());
                };
                let levels = strides.iter().map(|stride| level(manifest, *stride, input, *bins, labels.len()));
                let levels = levels.collect::<Result<_, _>>()?;
                let form = Form::Dfl { input, bins: *bins as usize, levels };
                (form, *score_min, *iou_max, *detections_max)
            }
            Interpret::DetectionRows { score_min, iou_max, detections_max } => {
                match manifest.outputs.first().map(|output| &output.shape[..]) {
                    Some([_, _, Dim::Fixed(6)]) => (Form::Rows, *score_min, *iou_max, *detections_max),
                    _ => return Err("the first output must be [N, rows, 6]".to_owned()),
                }
            }
            other => return Err(format!("interpret step {} finds no boxes", other.name())),
        };
        let selection = Selection { score_min, iou_max, detections_max: detections_max as usize };
        let labels = labels.iter().map(|label| ShortName::cut(label)).collect();
        Ok(Self { form, selection, labels, taken: Vec::new() })
    }

    /// The same for a device that finds boxes itself; `None` when its kernels cannot. `outputs` are those of the network, in
    /// the manifest's order.
    pub(in crate::executor) fn plan(&self, manifest: &Manifest, outputs: &[String]) -> Option<BoxPlan> {
        let classes = u32::try_from(self.labels.len()).ok()?;
        let score_min = self.selection.score_min;
        let form = match &self.form {
            Form::Rows => {
                let Some(Dim::Fixed(rows)) = manifest.outputs.first()?.shape.get(1) else { return None };
                let step = RowsStep { rows: *rows, classes, score_min, reserved: 0 };
                BoxForm::Rows { step, output: outputs.first()?.clone() }
            }
            Form::Dfl { input, bins, levels } => {
                let strides: Vec<u32> = levels.iter().map(|level| level.stride).collect();
                let step = DflStep::new(&strides, *input, u32::try_from(*bins).ok()?, classes, score_min)?;
                let pair =
                    |level: &Level| Some((outputs.get(level.scores)?.clone(), outputs.get(level.distances)?.clone()));
                BoxForm::Dfl { step, outputs: levels.iter().map(pair).collect::<Option<_>>()? }
            }
        };
        // More would not fit a result.
        let detections_max = self.selection.detections_max.min(limits::RESULT_ITEMS_MAX);
        Some(BoxPlan { form, selection: Selection { detections_max, ..self.selection } })
    }
}

/// Finds the outputs of a stride by their shapes: `[N, cells, classes]` and `[N, cells, 4 × bins]`.
fn level(manifest: &Manifest, stride: u32, input: (u32, u32), bins: u32, classes: usize) -> Result<Level, String> {
    let cells = input.0.div_ceil(stride) * input.1.div_ceil(stride);
    let find = |width: u32, not: Option<usize>| {
        let shape = [Dim::Fixed(cells), Dim::Fixed(width)];
        let fits = |(index, output): (usize, &[Dim])| {
            (output.get(1..) == Some(&shape[..]) && Some(index) != not).then_some(index)
        };
        let outputs = manifest.outputs.iter().map(|output| &output.shape[..]).enumerate();
        outputs.map(fits).find_map(|found| found).ok_or_else(|| {
            format!("no output [N,{cells},{width}] for stride {stride}; there are {classes} labels and {bins} bins")
        })
    };
    let scores = find(u32::try_from(classes).unwrap_or(u32::MAX), None)?;
    let distances = find(4 * bins, Some(scores))?;
    Ok(Level { stride, scores, distances })
}

impl Interpretation for DetectionsInterpretation {
    fn begin(&mut self, jobs: usize) {
        self.taken.clear();
        self.taken.resize_with(jobs, Taken::default);
    }

    fn expect(&mut self, job: usize, opened: &Opened) {
        self.taken[job] = Taken { work: opened.work, source: opened.source, detections: Vec::new() };
    }

    fn row(&mut self, job: usize, tensors: &[Tensor], row: usize) -> Result<(), Rejection> {
        let taken = &mut self.taken[job];
        let Some(source) = &taken.source else { return failed("the image's size is not known") };
        let found = match &self.form {
            Form::Rows => rows(f32_row(tensors, 0, row)?, &self.selection, source, &self.labels),
            Form::Dfl { input, bins, levels } => {
                let levels = levels.iter().map(|level| {
                    let scores = f32_row(tensors, level.scores, row)?;
                    let distances = f32_row(tensors, level.distances, row)?;
                    Ok(DflLevel { stride: level.stride, scores, distances })
                });
                let levels = levels.collect::<Result<Vec<_>, Rejection>>()?;
                dfl(&levels, *input, *bins, &self.selection, source, &self.labels)
            }
        };
        taken.detections = found.map_err(refused)?;
        Ok(())
    }

    fn boxes(&mut self, job: usize, outcome: &Outcome, found: &[Found]) -> Result<(), Rejection> {
        if outcome.bad_row != NO_ROW {
            let problem =
                format!("row {} has a class without a label, there are {}", outcome.bad_row, self.labels.len());
            return Err(refused(ProcessingError::Output { what: "of rows", problem }));
        }
        let detection = |found: &Found| {
            let label = self.labels.get(found.class_index as usize).copied().unwrap_or_default();
            Detection { bbox: found.bbox, score: found.score, class: found.class_index, label }
        };
        self.taken[job].detections = found.iter().map(detection).collect();
        Ok(())
    }

    fn finish(&mut self, job: usize, output: &mut [u8]) -> Result<JobAnswer, Rejection> {
        let Taken { work, detections, .. } = std::mem::take(&mut self.taken[job]);
        write_result(&ModelResult::Detections { detections }, output, work)
    }
}
