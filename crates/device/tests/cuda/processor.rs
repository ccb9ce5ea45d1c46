//! The kernels' own source, compiled for the processor and run thread by thread, against the twins: what the source says
//! is what the twins do. What NVRTC and a GPU make of it is for `check` on a GPU to show.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;
use sensorium_device::cuda::arguments::{Found, Geometry, LogMel, Outcome, PrepareStep, RowsStep, SelectStep};
use sensorium_device::cuda::check::inputs;
use sensorium_device::cuda::kernels::{self, LaunchSize};
use sensorium_device::cuda::twin::{self, Candidates, LevelOutputs};
use tempfile::TempDir;

/// The program that runs kernels; built once.
fn program() -> PathBuf {
    static BUILT: OnceLock<TempDir> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda/processor.cpp");
        // Without contraction, as the twin is compiled.
        let output = Command::new("c++")
            .args(["-std=c++17", "-O1", "-ffp-contract=off", "-w", source, "-o"])
            .arg(folder.path().join("processor"))
            .output()
            .expect("a C++ compiler is installed; run ops/setup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder
    });
    folder.path().join("processor")
}

/// Runs a kernel on these arguments and gives them back as it left them.
fn run(kernel: &str, size: LaunchSize, arguments: &[&[u8]]) -> Vec<Vec<u8>> {
    let (grid, block) = (size.grid, size.block);
    let sizes = [grid.0, grid.1, grid.2, block.0, block.1, block.2].map(|size| size.to_string());
    let mut child =
        Command::new(program()).arg(kernel).args(sizes).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for argument in arguments {
        stdin.write_all(&(argument.len() as u64).to_le_bytes()).unwrap();
        stdin.write_all(argument).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{kernel}: {}", output.status);
    let mut rest = &output.stdout[..];
    let mut given = Vec::new();
    while let Some((bytes, after)) = rest.split_first_chunk::<8>() {
        let (argument, after) = after.split_at(usize::try_from(u64::from_le_bytes(*bytes)).unwrap());
        given.push(argument.to_vec());
        rest = after;
    }
    assert_eq!(given.len(), arguments.len());
    given
}

fn bytes<T: NoUninit>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

fn values<T: AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// Runs an image kernel and compares every bit of what it makes with the twin's.
fn same_images<T: twin::Element, const BYTES: usize>(
    kernel: &str,
    images: &inputs::Images,
    fill: T,
    bits: fn(T) -> [u8; BYTES],
) {
    let step = PrepareStep::from(&images.step);
    step.check(&images.sources, images.slab.len(), images.sources.len()).unwrap();
    let mut expected = vec![fill; step.values() * images.sources.len()];
    let (steps, room) = ([step], vec![0xff; BYTES * expected.len()]);
    let arguments = [bytes(&steps), &images.slab, bytes(&images.sources), &room];
    let given = run(kernel, kernels::prepare(&step, images.sources.len()), &arguments);
    assert!(given[1] == images.slab, "the slab is left as it was");
    twin::prepare(&images.slab, &images.sources, &step, &mut expected);
    let differ = given[3].chunks_exact(BYTES).zip(&expected).position(|(found, expected)| *found != bits(*expected));
    assert_eq!(differ, None, "{kernel}: {}", images.name);
}

#[test]
fn images_come_out_as_from_the_twin() {
    for (index, images) in inputs::images().into_iter().enumerate() {
        same_images("prepare_f32", &images, f32::NAN, f32::to_le_bytes);
        // Groups of four in one layout, and single values in both.
        if index > 0 {
            same_images("prepare_f16", &images, f16::NAN, f16::to_le_bytes);
            same_images("prepare_i32", &images, i32::MIN, i32::to_le_bytes);
        }
    }
}

/// Runs `select_boxes` and compares it with the twin.
fn same_choice(name: &str, candidates: &Candidates, geometries: &[Geometry], detections_max: u32, iou_max: f32) {
    let per_image = u32::try_from(candidates.keys.len() / geometries.len()).unwrap();
    let step = SelectStep { candidates: per_image, detections_max, iou_max, reserved: 0 };
    let outcomes = vec![Outcome { count: 9, ..Outcome::default() }; geometries.len()];
    let found = vec![Found::default(); geometries.len() * detections_max as usize];
    let steps = [step];
    let arguments = [
        bytes(&steps),
        bytes(&candidates.keys),
        bytes(&candidates.boxes),
        bytes(&candidates.classes),
        bytes(geometries),
        bytes(&outcomes),
        bytes(&found),
    ];
    let given = run("select_boxes", kernels::select_boxes(geometries.len()), &arguments);
    let expected = twin::select_boxes(&step, candidates, geometries);
    assert_eq!(values::<Outcome>(&given[5]), expected.0, "{name}");
    assert_eq!(values::<Found>(&given[6]), expected.1, "{name}");
}

/// What a candidate kernel left: keys, boxes (those with a key) and classes.
fn same_candidates(name: &str, given: &[Vec<u8>], expected: &Candidates) {
    let keys: Vec<u64> = values(&given[1]);
    let boxes: Vec<[f32; 4]> = values(&given[2]);
    assert!(keys == expected.keys, "{name}: keys");
    assert!(values::<u32>(&given[3]) == expected.classes, "{name}: classes");
    for (place, _) in keys.iter().enumerate().filter(|(_, key)| **key != 0) {
        assert_eq!(boxes[place], expected.boxes[place], "{name}: box {place}");
    }
}

#[test]
fn distributions_become_boxes_as_in_the_twin() {
    for dfl in inputs::dfl() {
        let images = dfl.geometries.len();
        let places = dfl.step.candidates as usize * images;
        let (keys, boxes, classes) = (vec![7_u64; places], vec![0.0_f32; 4 * places], vec![7_u32; places]);
        let step = [dfl.step];
        let mut arguments = vec![bytes(&step), bytes(&keys), bytes(&boxes), bytes(&classes)];
        arguments.extend(dfl.outputs.iter().flat_map(|(scores, distances)| [bytes(scores), bytes(distances)]));
        let given = run("candidates_dfl", kernels::candidates_dfl(&dfl.step, images), &arguments);
        let views: Vec<_> = dfl.outputs.iter().map(|(scores, distances)| LevelOutputs { scores, distances }).collect();
        let expected = twin::candidates_dfl(&dfl.step, &views, images);
        same_candidates(dfl.name, &given, &expected);
        for (detections_max, iou_max) in [(100, 0.5), (1, 0.0), (1024, 0.9)] {
            same_choice(dfl.name, &expected, &dfl.geometries, detections_max, iou_max);
        }
    }
}

/// Runs `candidates_rows` and `select_boxes` on as many images of `rows` rows as there are geometries.
fn same_rows(rows: u32, score_min: f32, output: &[f32], geometries: &[Geometry]) {
    let step = RowsStep { rows, classes: 3, score_min, reserved: 0 };
    step.check(geometries.len(), output.len()).unwrap();
    let places = rows as usize * geometries.len();
    let (keys, boxes, classes) = (vec![7_u64; places], vec![0.0_f32; 4 * places], vec![7_u32; places]);
    let steps = [step];
    let arguments = [bytes(&steps), bytes(&keys), bytes(&boxes), bytes(&classes), bytes(output)];
    let given = run("candidates_rows", kernels::candidates_rows(&step, geometries.len()), &arguments);
    let expected = twin::candidates_rows(&step, output, geometries.len());
    let name = format!("{rows} rows, threshold {score_min}");
    same_candidates(&name, &given, &expected);
    same_choice(&name, &expected, geometries, 300, 0.5);
}

#[test]
fn rows_become_boxes_as_in_the_twin() {
    let output = inputs::rows();
    let geometry = Geometry { width: 640, height: 360, fitted_width: 320, fitted_height: 180 };
    // From everything to nothing.
    for score_min in [0.0, 0.1, 0.7, 0.9975, 2.0] {
        same_rows(6000, score_min, &output, &[geometry; 2]);
    }
    // Around the sizes of warps, blocks and what is looked at; all rows but those with NaN are candidates.
    for rows in [1, 2, 3, 31, 33, 511, 512, 513, 1025, 4095, 4096, 4097, 4110] {
        same_rows(rows, 0.0, &output[..6 * rows as usize], &[geometry]);
    }
}

#[test]
fn the_best_boxes_of_crowds_hide_the_others_as_in_the_twin() {
    let rows = u32::from(inputs::CROWDS * inputs::CROWD_ROWS);
    let geometry = Geometry { width: 640, height: 360, fitted_width: 640, fitted_height: 360 };
    same_rows(rows, 0.0, &inputs::crowds(), &[geometry; 2]);
}

#[test]
fn sound_becomes_bands_as_in_the_twin() {
    let mel = LogMel::audioset();
    let (samples, sounds) = inputs::sound();
    let mut expected = vec![f32::NAN; 268 * 64];
    mel.check(&sounds, samples.len(), expected.len()).unwrap();
    let step = [mel.step];
    let arguments = [
        bytes(&step),
        bytes(&samples),
        bytes(&sounds),
        bytes(&mel.window),
        bytes(&mel.turns),
        bytes(&mel.bands_first),
        bytes(&mel.weights),
        bytes(&expected),
    ];
    let given = run("log_mel", kernels::log_mel(&mel.step, 171, sounds.len()), &arguments);
    twin::log_mel(&mel, &samples, &sounds, &mut expected);
    let found: Vec<f32> = values(&given[7]);
    assert!(found.iter().map(|value| value.to_bits()).eq(expected.iter().map(|value| value.to_bits())));
}
