//! Half precision against single precision, on real pictures and recordings: the bounds are those that `gpu-check` holds a
//! GPU to. The processor has no 16-bit arithmetic for most operators and computes in 32 bits between rounded weights and
//! values, so that a GPU's own rounding comes on top of what is seen here.

use std::fs;

use sensorium_device::backend::Backend;
use sensorium_device::executor::agreement::{Apart, HALF, agree};
use sensorium_device::executor::{Executor, chosen, load, variant_name};
use sensorium_models::manifest::{FileRole, Interpret, Precision};
use sensorium_models::{ModelPackage, Repository};

use crate::cache::{cached, cpu, package, root};
use crate::harness::{Job, run_one};
use crate::media::frame;

fn both(name: &str, backend: &dyn Backend) -> [Box<dyn Executor>; 2] {
    let package = package(name);
    let (half, note) = chosen(&package, Precision::Fp16);
    assert_eq!((half.precision, note), (Precision::Fp16, None), "run ops/setup");
    assert_eq!(variant_name(&half, backend), "fp16");
    [&*half, &package].map(|package| load(package, backend).unwrap_or_else(|error| panic!("{error}")))
}

/// How far the two are apart over all jobs, which must be within the bounds.
fn apart(name: &str, jobs: &[Job], compared_min: usize) -> Apart {
    let score_min = match package(name).manifest.interpret {
        Interpret::DetectionsDfl { score_min, .. } | Interpret::Classes { score_min, .. } => score_min,
        _ => 0.0,
    };
    let [mut half, mut single] = both(name, &cpu());
    let mut apart = Apart::default();
    for (number, job) in jobs.iter().enumerate() {
        let (found, expected) = (run_one(half.as_mut(), job).result(), run_one(single.as_mut(), job).result());
        let one = agree(&found, &expected, score_min, HALF);
        apart = apart.and(one.unwrap_or_else(|error| panic!("{name}, job {number}: {error}")));
    }
    assert!(apart.compared >= compared_min && apart.score > 0.0, "{apart:?}: it is not another network");
    apart
}

#[test]
fn boxes_stay_where_they_are() {
    let mut jobs: Vec<_> =
        (0..8).map(|number| Job::frame(576, 768, frame("vtest.avi", number * 95, 576, 768))).collect();
    jobs.push(Job::frame(272, 640, frame("bikes.mp4", 100, 272, 640)));
    let apart = apart("nanodet", &jobs, 40);
    assert!(apart.score < 0.002 && apart.iou_least > 0.99, "{apart:?}: it was 0.0003 and 0.998 when it was made");
}

#[test]
fn sounds_are_called_the_same() {
    let recordings = ["0870", "0880", "0890", "0920", "0930"].map(|number| {
        Job::wav(
            fs::read(cached(&format!("media/librivox/sense_and_sensibility_01_austen_64kb-{number}.wav"))).unwrap(),
        )
    });
    let jobs: Vec<_> = recordings.into_iter().chain([Job::wav(fs::read(cached("media/demo.wav")).unwrap())]).collect();
    let apart = apart("yamnet", &jobs, 20);
    assert!(apart.score < 0.002, "{apart:?}: it was 0.0003 when it was made");
}

#[test]
fn events_are_as_likely() {
    let share = |row: u16, at: u16| f32::from((row * 37 + at * 53) % 256) / 255.0;
    let jobs: Vec<_> =
        (0..64).map(|row| Job::tensor(&[16], &(0..16).map(|at| share(row, at)).collect::<Vec<_>>())).collect();
    let apart = apart("fusion", &jobs, 400);
    assert!(apart.score < 0.005, "{apart:?}");
}

/// A copy of a model whose variant is in the given state.
fn copy(change: impl FnOnce(&std::path::Path)) -> (tempfile::TempDir, ModelPackage) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("models/fusion");
    fs::create_dir_all(&model).unwrap();
    let own = root().join("cluster/models/fusion/model.toml");
    fs::copy(own, model.join("model.toml")).unwrap();
    let original = package("fusion");
    fs::copy(original.file(FileRole::Network).unwrap(), model.join("fusion.onnx")).unwrap();
    change(&model.join("fusion-fp16.onnx"));
    let repository = Repository::open(&[folder.path().join("models")], &folder.path().join("weights")).unwrap();
    (folder, repository.models["fusion"].clone())
}

#[test]
fn a_variant_that_is_missing_or_damaged_is_one_line_and_the_model_serves() {
    let original = package("fusion").in_precision(Precision::Fp16).unwrap();
    let good = fs::read(original.file(FileRole::Network).unwrap()).unwrap();
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    let (_missing, missing) = copy(|_| ());
    let (_damaged, damaged) = copy(|file| fs::write(file, &damaged).unwrap());
    let (_whole, whole) = copy(|file| fs::write(file, &good).unwrap());
    for (package, part) in [(&missing, "the network file is not there; run ops/setup"), (&damaged, "sha256 is")] {
        let (own, note) = chosen(package, Precision::Fp16);
        let note = note.unwrap();
        assert!(note.starts_with("fusion: fp32 is used instead of fp16: ") && note.contains(part), "{note}");
        assert!(!note.contains('\n') && own.precision == Precision::Fp32);
        load(&own, &cpu()).unwrap_or_else(|error| panic!("{error}"));
    }
    let (half, note) = chosen(&whole, Precision::Fp16);
    assert_eq!((half.precision, note), (Precision::Fp16, None));
    load(&half, &cpu()).unwrap_or_else(|error| panic!("{error}"));
    let without = package("silero-vad");
    let (own, note) = chosen(&without, Precision::Fp16);
    assert!(own.precision == Precision::Fp32 && note.unwrap().contains("lists no such variant"));
}
