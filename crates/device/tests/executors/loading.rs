//! Loading, profiling, and the steps that need no model of the project: tensor and identity.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use proptest::prelude::*;
use sensorium_device::backend::BackendError;
use sensorium_device::executor::{Executor, LoadError, load, load_measured};
use sensorium_models::{ModelError, ModelPackage};
use sensorium_wire::BodyKind;
use sensorium_wire::receipt::Stage;
use sensorium_wire::rejection::Reason;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::tensor::Dtype;
use tempfile::TempDir;

use crate::cache::{cached, cpu, package};
use crate::harness::{Job, run, run_one, run_staged, run_with};
use crate::onnx;

const MANIFEST: &str = r#"
name = "adder"
version = 1
modality = "fusion"
description = "Adds 1 and 2"
source = "written by hand"
licence = "MIT"

[[file]]
role = "network"
path = "adder.onnx"
sha256 = "DIGEST"

[placement]
batch_max = 4

[[input]]
name = "x"
dtype = "f32"
shape = ["N", 2]

[[output]]
name = "y"
dtype = "f32"
shape = ["N", 2]

[prepare]
step = "tensor"

[interpret]
step = "tensor"
"#;

fn sha256(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// A model that adds, after `change` of its manifest.
fn adder(change: impl Fn(String) -> String) -> (TempDir, ModelPackage) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("adder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("adder.onnx"), onnx::rows()).unwrap();
    let manifest = MANIFEST.replace("DIGEST", &sha256(&folder.join("adder.onnx")));
    fs::write(folder.join("model.toml"), change(manifest)).unwrap();
    let package = ModelPackage::open(&folder, root.path()).unwrap();
    (root, package)
}

fn loaded() -> Box<dyn Executor> {
    let (_root, package) = adder(|manifest| manifest);
    load(&package, &cpu()).unwrap()
}

#[test]
fn rows_of_many_jobs_run_together_and_come_back_apart() {
    let mut executor = loaded();
    let jobs = [
        Job::tensor(&[2], &[1.0, 1.0]),
        Job::tensor(&[3, 2], &[2.0, 2.0, 3.0, 3.0, 4.0, 4.0]),
        Job::tensor(&[3], &[0.0; 3]),
        Job::tensor(&[1, 2], &[5.0, 5.0]),
        Job::tensor(&[6, 2], &[6.0; 12]),
        Job { dtype: Dtype::I32, ..Job::tensor(&[2], &[0.0, 0.0]) },
        Job { payload: PayloadKind::Pcm, ..Job::tensor(&[2], &[0.0, 0.0]) },
        Job { bytes: vec![0; 7], ..Job::tensor(&[2], &[]) },
        Job::tensor(&[0, 2], &[]),
        Job::tensor(&[2], &[7.0, f32::NAN]),
    ];
    let answers = run(executor.as_mut(), &jobs);
    for (index, dims, expected) in [
        (0, &[2][..], vec![2.0, 3.0]),
        (1, &[3, 2], vec![3.0, 4.0, 4.0, 5.0, 5.0, 6.0]),
        (3, &[1, 2], vec![6.0, 7.0]),
        (4, &[6, 2], [7.0, 8.0].repeat(6)),
    ] {
        assert_eq!(answers[index].f32s(), expected);
        let answer = answers[index].answer.as_ref().unwrap();
        assert_eq!((answer.dims(), answer.body, answer.work as usize), (dims, BodyKind::Tensor, expected.len()));
    }
    answers[2].refused(Reason::InvalidShape, "takes [2] or [N,2]");
    answers[5].refused(Reason::InvalidShape, "takes a tensor of f32");
    answers[6].refused(Reason::InvalidShape, "Pcm");
    answers[7].refused(Reason::InvalidShape, "7 bytes");
    answers[8].refused(Reason::InvalidShape, "");
    assert!(answers[9].f32s()[1].is_nan());
    run_with(executor.as_mut(), &jobs[..1], 7)[0].refused(Reason::ExecutionFailed, "8 bytes");
    assert!(run(executor.as_mut(), &[]).is_empty());
}

#[test]
fn what_does_not_fit_together_is_not_loaded() {
    let backend = cpu();
    let error = |change: &dyn Fn(String) -> String| {
        let (_root, package) = adder(change);
        load(&package, &backend).err().expect("it should not load")
    };
    let message = error(&|manifest| manifest.replace("shape = [\"N\", 2]", "shape = [\"N\", 3]")).to_string();
    assert!(message.contains("input x.shape[1]: the manifest says 3") && message.ends_with("has 2"), "{message}");
    let message = error(&|manifest| manifest.replace("name = \"y\"", "name = \"z\"")).to_string();
    assert!(message.contains("output z.name: the manifest says z") && message.ends_with("has y"), "{message}");
    let message = error(&|manifest| manifest.replace("\"f32\"", "\"i64\"")).to_string();
    assert!(message.contains("input x.dtype: the manifest says i64"), "{message}");
    let zeros = "0".repeat(64);
    let digest = error(&|manifest| {
        let start = manifest.find("sha256 = \"").unwrap() + 10;
        format!("{}{zeros}{}", &manifest[..start], &manifest[start + 64..])
    });
    assert!(matches!(digest, LoadError::Model(ModelError::Digest { .. })), "{digest}");

    // A network that is broken although its checksum is right.
    let (root, package) = adder(|manifest| manifest);
    let file = root.path().join("adder/adder.onnx");
    fs::write(&file, b"not a network").unwrap();
    let manifest = MANIFEST.replace("DIGEST", &sha256(&file));
    fs::write(package.manifest_file(), manifest).unwrap();
    let package = ModelPackage::open(&package.folder, root.path()).unwrap();
    let error = load(&package, &backend).err().unwrap();
    assert!(
        matches!(&error, LoadError::Backend(BackendError::Load { file, .. }) if file.ends_with("adder.onnx")),
        "{error}"
    );
    fs::remove_file(&file).unwrap();
    let error = load(&package, &backend).err().unwrap().to_string();
    assert!(error.contains("the network file is not there; run ops/setup"), "{error}");
}

#[test]
fn a_pose_needs_a_label_for_every_point() {
    let original = package("movenet").folder;
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("movenet");
    fs::create_dir(&folder).unwrap();
    let labels = fs::read_to_string(original.join("coco17.txt")).unwrap().replace("right ankle\n", "");
    fs::write(folder.join("coco17.txt"), labels).unwrap();
    let [before, after] = [&original, &folder].map(|folder| sha256(&folder.join("coco17.txt")));
    let manifest = fs::read_to_string(original.join("model.toml")).unwrap().replace(&before, &after);
    fs::write(folder.join("model.toml"), manifest).unwrap();
    let package = ModelPackage::open(&folder, &cached("models")).unwrap();
    let message = load(&package, &cpu()).err().expect("it should not load").to_string();
    assert!(message.contains("[N,1,16,3]") && message.contains("16 labels"), "{message}");
}

#[test]
fn every_model_of_the_project_loads_and_is_measured() {
    let backend = cpu();
    for model in ["identity", "fusion", "silero-vad", "yamnet", "nanodet", "centernet", "movenet", "moonshine"] {
        let package = package(model);
        let start = std::time::Instant::now();
        drop(load(&package, &backend).unwrap_or_else(|error| panic!("{error}")));
        let load_ms = start.elapsed().as_millis();
        let (_, profile) = load_measured(&package, &backend).unwrap_or_else(|error| panic!("{error}"));
        let batch_max = package.manifest.placement.batch_max;
        let sizes: Vec<_> = profile.batches.iter().map(|batch| batch.jobs).collect();
        assert_eq!(sizes, if batch_max == 1 { vec![1] } else { vec![1, batch_max] }, "{model}");
        for batch in &profile.batches {
            assert!(batch.runs > 0 && batch.total.p50_ns > 0 && batch.total.p50_ns <= batch.total.p99_ns, "{model}");
            assert!(batch.infer.p50_ns <= batch.total.p99_ns, "{model}: {batch:?}");
        }
        println!("{model}: loaded in {load_ms} ms, {:?}", profile.batches);
    }
}

#[test]
fn a_delay_shows_in_the_stage_that_it_was_put_in() {
    let mut executor = loaded();
    let jobs = [Job::tensor(&[2], &[1.0, 1.0]), Job::tensor(&[2], &[2.0, 2.0]), Job::tensor(&[3], &[0.0; 3])];
    for slow in [Stage::Prepare, Stage::Infer, Stage::Interpret] {
        // Long enough that a busy machine is not taken for a delay.
        let delay = Duration::from_millis(40);
        let pause = |stage| {
            if stage == slow {
                std::thread::sleep(delay)
            }
        };
        let answers = run_staged(executor.as_mut(), &jobs, 64, &pause);
        for ran in &answers[..2] {
            let times = ran.times;
            for (stage, ns) in [
                (Stage::Prepare, times.prepare_ns),
                (Stage::Infer, times.infer_ns),
                (Stage::Interpret, times.interpret_ns),
            ] {
                assert_eq!(stage == slow, u128::from(ns) >= delay.as_nanos(), "{slow:?}: {times:?}");
            }
        }
        assert_eq!(answers[2].times.infer_ns, 0, "what was refused did not run");
    }
}

/// Jobs as a faulty or hostile client could send them past the header's checks.
fn any_job() -> impl Strategy<Value = Job> {
    let dims = proptest::collection::vec(prop_oneof![0..20_u32, any::<u32>()], 0..4);
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    let state = prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u8>(), 1280), bytes.clone()];
    let codes = (0..5_u8, 0..9_u8, 0..3_u8);
    (codes, dims, prop_oneof![Just(16_000), any::<u32>()], state, bytes).prop_map(
        |((payload, dtype, pixels), dims, sample_rate_hz, state, bytes)| Job {
            payload: PayloadKind::from_code(payload).unwrap(),
            dtype: Dtype::from_code(dtype).unwrap(),
            pixels: PixelFormat::from_code(pixels).unwrap(),
            dims,
            sample_rate_hz,
            state,
            bytes,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_is_answered_or_refused(jobs in proptest::collection::vec(any_job(), 1..6)) {
        thread_local! {
            static EXECUTORS: RefCell<Vec<Box<dyn Executor>>> = RefCell::new(
                ["fusion", "silero-vad", "yamnet", "nanodet", "identity", "moonshine"]
                    .map(|model| load(&package(model), &cpu()).unwrap())
                    .into(),
            );
        }
        EXECUTORS.with_borrow_mut(|executors| {
            for executor in executors {
                for ran in run(executor.as_mut(), &jobs) {
                    if let Err(rejection) = ran.answer {
                        assert!(rejection.reason != Reason::None && rejection.reason != Reason::Internal);
                        assert!(!rejection.detail.is_empty());
                    }
                }
            }
        });
    }

    #[test]
    fn identity_gives_back_what_it_got(payload in proptest::collection::vec(any::<u8>(), 0..600), kind in 0..5_u8) {
        let mut executor = load(&package("identity"), &cpu()).unwrap();
        let kind = PayloadKind::from_code(kind).unwrap();
        let mut job = Job { payload: kind, ..Job::bytes(payload.clone()) };
        if kind == PayloadKind::RawFrame {
            job.dims = vec![1, u32::try_from(payload.len() / 3).unwrap()];
            job.bytes.truncate(payload.len() / 3 * 3);
        }
        let ran = run_one(executor.as_mut(), &job);
        prop_assert_eq!(ran.body(), &job.bytes[..]);
        let answer = ran.answer.clone().unwrap();
        let described: u32 = answer.dims().iter().product();
        prop_assert_eq!((described as usize, answer.body), (job.bytes.len(), BodyKind::Tensor));
        if let Some(room) = job.bytes.len().checked_sub(1) {
            run_with(executor.as_mut(), &[job], room)[0].refused(Reason::ExecutionFailed, "leaves room for");
        }
    }
}
