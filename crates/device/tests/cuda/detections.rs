//! The twin of the detection kernels against the processor's code, on what the project's own detectors give for real
//! frames and on made-up outputs.

use proptest::prelude::*;
use sensorium_device::backend::{Backend, LoadOptions, NamedTensor, Tensor, TensorData};
use sensorium_device::cuda::arguments::{BAD_CLASS, DflStep, Found, Geometry, NO_ROW, Outcome, RowsStep, SelectStep};
use sensorium_device::cuda::check::inputs;
use sensorium_device::cuda::twin::{self, Candidates, LevelOutputs};
use sensorium_models::manifest::{FileRole, Interpret};
use sensorium_processing::ProcessingError;
use sensorium_processing::detections::{DflLevel, Selection, dfl, rows};
use sensorium_processing::image::{ImageStep, ImageView, SourceGeometry, prepare_into};
use sensorium_wire::ids::ShortName;
use sensorium_wire::result::Detection;
use sensorium_wire::submit::PixelFormat;

use crate::media::{VIDEOS, frame};
use crate::setup::{cpu, package};

/// What a model's network gives for real frames, one row each, and how the frames were fitted.
fn outputs(model: &str, frames: &[(usize, u32)]) -> (Vec<Vec<Tensor>>, Vec<SourceGeometry>) {
    let package = package(model);
    let step = ImageStep::from_prepare(&package.manifest.prepare).unwrap();
    let options = LoadOptions { threads: 2, ..LoadOptions::default() };
    let mut network = cpu().load(package.file(FileRole::Network).unwrap(), &options).unwrap();
    let input = &package.manifest.inputs[0];
    let names: Vec<&str> = package.manifest.outputs.iter().map(|output| output.name.as_str()).collect();
    let sides = [step.height as usize, step.width as usize];
    let dims = match step.layout {
        sensorium_models::manifest::Layout::Nchw => [1, 3, sides[0], sides[1]],
        sensorium_models::manifest::Layout::Nhwc => [1, sides[0], sides[1], 3],
    };
    let run = |(video, number): &(usize, u32)| {
        let (video, width, height) = VIDEOS[*video];
        let bytes = frame(video, *number, "-pix_fmt rgb24");
        let view = ImageView { width, height, format: PixelFormat::Rgb24, bytes: &bytes };
        let mut values = vec![0.0; step.values()];
        let geometry = prepare_into(&step, view, &mut values).unwrap();
        let tensor = NamedTensor { name: &input.name, dims: &dims, data: TensorData::F32(&values) };
        (network.run(&[tensor], &names).unwrap(), geometry)
    };
    frames.iter().map(run).unzip()
}

fn labels(count: usize) -> Vec<ShortName> {
    (0..count).map(|class| ShortName::cut(&format!("class {class}"))).collect()
}

fn geometries(sources: &[SourceGeometry]) -> Vec<Geometry> {
    sources.iter().map(|source| Geometry::from(*source)).collect()
}

/// The twin's boxes of one image as the processor would give them.
fn detections(image: usize, selected: &(Vec<Outcome>, Vec<Found>), labels: &[ShortName]) -> Vec<Detection> {
    let (outcomes, found) = selected;
    let per_image = found.len() / outcomes.len();
    let found = &found[image * per_image..][..outcomes[image].count as usize];
    let detection = |found: &Found| Detection {
        bbox: found.bbox,
        score: found.score,
        class: found.class_index,
        label: labels[found.class_index as usize],
    };
    found.iter().map(detection).collect()
}

fn select(candidates: &Candidates, selection: &Selection, sources: &[SourceGeometry]) -> (Vec<Outcome>, Vec<Found>) {
    let step = SelectStep {
        candidates: u32::try_from(candidates.keys.len() / sources.len()).unwrap(),
        detections_max: u32::try_from(selection.detections_max).unwrap(),
        iou_max: selection.iou_max,
        reserved: 0,
    };
    step.check(&geometries(sources), sources.len() * selection.detections_max).unwrap();
    twin::select_boxes(&step, candidates, &geometries(sources))
}

const FRAMES: [(usize, u32); 5] = [(0, 0), (0, 300), (0, 700), (1, 60), (2, 100)];

#[test]
fn nanodet_finds_the_boxes_that_it_finds_on_the_processor() {
    let Interpret::DetectionsDfl { strides, bins, detections_max, .. } = package("nanodet").manifest.interpret else {
        panic!("nanodet has another step")
    };
    let (tensors, sources) = outputs("nanodet", &FRAMES);
    let labels = labels(80);
    let mut found_in_all = 0;
    // At the manifest's threshold, and so low that suppression has work and every cell is a candidate.
    for (score_min, iou_max) in [(0.4, 0.55), (0.1, 0.55), (0.02, 0.3), (0.0, 0.6)] {
        let step = DflStep::new(&strides, (416, 416), bins, 80, score_min).unwrap();
        step.check(FRAMES.len()).unwrap();
        // For each level the outputs of all frames, one after the other, as a batch has them.
        let of_level = |cells: usize, width: usize, not: Option<usize>| {
            let fits = |(index, tensor): (usize, &Tensor)| tensor.dims == [1, cells, width] && Some(index) != not;
            let index = tensors[0].iter().enumerate().position(fits).unwrap();
            let values: Vec<f32> = tensors.iter().flat_map(|row| row[index].f32s().unwrap()).copied().collect();
            (index, values)
        };
        let levels: Vec<(Vec<f32>, Vec<f32>)> = step.levels[..strides.len()]
            .iter()
            .map(|level| {
                let (index, scores) = of_level(level.cells as usize, 80, None);
                (scores, of_level(level.cells as usize, 4 * bins as usize, Some(index)).1)
            })
            .collect();
        let views: Vec<LevelOutputs<'_>> =
            levels.iter().map(|(scores, distances)| LevelOutputs { scores, distances }).collect();
        let selection = Selection { score_min, iou_max, detections_max: detections_max as usize };
        let candidates = twin::candidates_dfl(&step, &views, FRAMES.len());
        let selected = select(&candidates, &selection, &sources);
        for (image, source) in sources.iter().enumerate() {
            let levels: Vec<DflLevel<'_>> = (step.levels.iter().zip(&levels))
                .map(|(level, (scores, distances))| {
                    let row = |values: &'_ [f32]| values.len() / FRAMES.len();
                    let (score_row, distance_row) = (row(scores), row(distances));
                    DflLevel {
                        stride: level.stride,
                        scores: &scores[image * score_row..][..score_row],
                        distances: &distances[image * distance_row..][..distance_row],
                    }
                })
                .collect();
            let expected = dfl(&levels, (416, 416), bins as usize, &selection, source, &labels).unwrap();
            // Same operations in the same order: to the bit.
            assert_eq!(detections(image, &selected, &labels), expected, "threshold {score_min}, image {image}");
            assert_eq!(selected.0[image].bad_row, NO_ROW);
            found_in_all += expected.len();
        }
        if score_min == 0.0 {
            assert!(selected.0.iter().all(|outcome| outcome.candidates == step.candidates), "{:?}", selected.0);
        }
    }
    assert!(found_in_all > 100, "{found_in_all}");
}

#[test]
fn centernet_finds_the_boxes_that_it_finds_on_the_processor() {
    let (tensors, sources) = outputs("centernet", &FRAMES[..2]);
    let labels = labels(80);
    for (score_min, iou_max) in [(0.3, 0.55), (0.05, 0.3)] {
        let selection = Selection { score_min, iou_max, detections_max: 100 };
        let step = RowsStep { rows: 100, classes: 80, score_min, reserved: 0 };
        let output: Vec<f32> = tensors.iter().flat_map(|row| row[0].f32s().unwrap()).copied().collect();
        step.check(2, output.len()).unwrap();
        let selected = select(&twin::candidates_rows(&step, &output, 2), &selection, &sources);
        for (image, source) in sources.iter().enumerate() {
            let expected = rows(&output[image * 600..][..600], &selection, source, &labels).unwrap();
            assert_eq!(detections(image, &selected, &labels), expected);
            assert!(!expected.is_empty());
        }
    }
}

/// Compares the twin with the processor on rows; the processor refuses what the twin marks.
fn compare_rows(values: &[[f32; 6]], classes: u32, selection: &Selection) -> Result<(), TestCaseError> {
    let source = SourceGeometry { width: 200, height: 100, fitted_width: 50, fitted_height: 40 };
    let labels = labels(classes as usize);
    let count = u32::try_from(values.len()).unwrap();
    let step = RowsStep { rows: count, classes, score_min: selection.score_min, reserved: 0 };
    let selected = select(&twin::candidates_rows(&step, values.as_flattened(), 1), selection, &[source]);
    let bad_row = selected.0[0].bad_row;
    match rows(values.as_flattened(), selection, &source, &labels) {
        Ok(expected) => {
            prop_assert_eq!(bad_row, NO_ROW);
            prop_assert_eq!(detections(0, &selected, &labels), expected);
        }
        Err(ProcessingError::Output { problem, .. }) => {
            let named = problem.starts_with(&format!("row {bad_row} has class"));
            prop_assert!(named, "{} for row {}", problem, bad_row);
        }
        Err(other) => return Err(TestCaseError::fail(other.to_string())),
    }
    Ok(())
}

fn any_side() -> impl Strategy<Value = f32> {
    prop_oneof![20 => (-20_i16..70).prop_map(f32::from), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY)]
}

fn any_row() -> impl Strategy<Value = [f32; 6]> {
    // Eighths, so that many scores are equal.
    let score = prop_oneof![
        20 => (0_u8..9).prop_map(|score| f32::from(score) / 8.0),
        1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(-0.0_f32), 1 => Just(-1.0_f32),
    ];
    let class =
        prop_oneof![60 => (0_u8..3).prop_map(f32::from), 1 => Just(3.0_f32), 1 => Just(0.5_f32), 1 => Just(f32::NAN)];
    (any_side(), any_side(), any_side(), any_side(), score, class).prop_map(|row| row.into())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]
    #[test]
    fn strange_rows_come_out_as_on_the_processor(
        values in proptest::collection::vec(any_row(), 1..50),
        score_min in prop_oneof![Just(0.0_f32), 0.0_f32..1.0],
        iou_max in 0.0_f32..1.0,
        detections_max in 1_usize..20,
    ) {
        compare_rows(&values, 3, &Selection { score_min, iou_max, detections_max })?;
    }
}

#[test]
fn only_the_best_of_very_many_candidates_are_looked_at() {
    // More than suppression looks at, with many equal scores at the border, spread so that few overlap.
    let values: Vec<[f32; 6]> = (0_u16..6000)
        .map(|index| {
            let (x, y) = (f32::from(index % 50), f32::from(index / 50 % 40));
            let score = f32::from(index.wrapping_mul(7919) % 64) / 64.0;
            [x, y, x + 0.9, y + 0.9, score, f32::from(index % 3)]
        })
        .collect();
    compare_rows(&values, 3, &Selection { score_min: 0.0, iou_max: 0.5, detections_max: 1024 }).unwrap();
}

#[test]
fn the_best_boxes_hide_those_of_their_class_that_overlap_them_and_no_others() {
    let (crowds, rows) = (inputs::CROWDS, inputs::CROWDS * inputs::CROWD_ROWS);
    let output = inputs::crowds();
    let step = RowsStep { rows: u32::from(rows), classes: 3, score_min: 0.0, reserved: 0 };
    step.check(2, output.len()).unwrap();
    let source = SourceGeometry { width: 640, height: 360, fitted_width: 640, fitted_height: 360 };
    let selection = Selection { score_min: 0.0, iou_max: 0.5, detections_max: 300 };
    let (outcomes, found) = select(&twin::candidates_rows(&step, &output, 2), &selection, &[source; 2]);
    for (image, values) in output.chunks_exact(6 * usize::from(rows)).enumerate() {
        // By construction, whatever any implementation says: the first three of each crowd, best first.
        let mut expected: Vec<[f32; 6]> = values.chunks_exact(6).map(|row| row.try_into().unwrap()).collect();
        expected.sort_by(|a, b| b[4].total_cmp(&a[4]));
        expected.retain(|row| {
            let crowd_left = (row[0] - 10.0).rem_euclid(75.0);
            [0.0, 20.0].contains(&crowd_left)
        });
        assert_eq!(expected.len(), usize::from(crowds * inputs::CROWD_KEPT));
        assert_eq!(outcomes[image].count as usize, expected.len(), "image {image}");
        for (found, row) in found[image * 300..].iter().zip(&expected) {
            assert_eq!((&found.bbox[..], found.score), (&row[..4], row[4]), "image {image}");
        }
    }
    for image in output.chunks_exact(6 * usize::from(rows)) {
        let values: Vec<[f32; 6]> = image.chunks_exact(6).map(|row| row.try_into().unwrap()).collect();
        compare_rows(&values, 3, &selection).unwrap();
    }
}

#[test]
fn outputs_that_do_not_fit_are_named() {
    let step = RowsStep { rows: 100, classes: 80, score_min: 0.3, reserved: 0 };
    let text = step.check(2, 1199).unwrap_err().to_string();
    assert_eq!(text, "the output of rows has 1199 values; 1200 are needed");
    assert!(RowsStep { classes: 0, ..step }.check(1, 600).is_err());
    assert!(DflStep::new(&[8; 9], (416, 416), 8, 80, 0.4).is_none());
    assert!(DflStep::new(&[0], (416, 416), 8, 80, 0.4).is_none());
    assert!(DflStep::new(&[1], (u32::MAX, u32::MAX), 8, 80, 0.4).is_none());
    assert!(DflStep::new(&[], (416, 416), 8, 80, 0.4).unwrap().check(1).is_err());
    let mut step = DflStep::new(&[8, 16], (416, 416), 8, 80, 0.4).unwrap();
    assert_eq!((step.levels[1].first, step.candidates), (2704, 3380));
    step.check(1).unwrap();
    step.levels[1].first += 1;
    assert!(step.check(1).unwrap_err().to_string().contains("a level's first cell is 2705; expected 2704"));
    assert_eq!(BAD_CLASS, u32::MAX);
}
