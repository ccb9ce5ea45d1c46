//! `sensorium gpu-check` on a machine without a GPU: it claims nothing; its checks are tried out on the processor.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::sensorium;

fn gpu_check(out: &Path, arguments: &[&str]) -> Output {
    let mut command = sensorium();
    command.arg("gpu-check").arg("--out").arg(out).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.output().unwrap()
}

fn report(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("gpu-report.json")).unwrap()).unwrap()
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rows = report["rows"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// A street and a sentence, as `ops/gpu-check` gives them.
fn reference() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let street = folder.path().join("street.jpg");
    let film = support::media("vtest.avi");
    support::ffmpeg(&["-i", film.to_str().unwrap(), "-frames:v", "1", "-q:v", "2", street.to_str().unwrap()]);
    let speech = support::media("librivox/sense_and_sensibility_01_austen_64kb-0870.wav");
    fs::copy(speech, folder.path().join("speech.wav")).unwrap();
    folder
}

/// Whether this machine has a GPU: then the tests of its absence have nothing to say.
fn has_gpu() -> bool {
    Command::new("nvidia-smi").arg("-L").output().is_ok_and(|output| output.status.success())
}

#[test]
fn without_a_gpu_nothing_is_claimed() {
    if has_gpu() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let output = gpu_check(out.path(), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("no GPU: 0 of ") && last.ends_with(" GPU checks ran"), "{text}");
    assert!(!out.path().join("gpu-report.json").exists());
}

#[test]
fn checks_pass_on_the_processor_and_say_so() {
    let out = tempfile::tempdir().unwrap();
    let reference = reference();
    let mut arguments = vec!["--device", "cpu", "--only", "contract,answers,restart,path,stages"];
    arguments.extend(["--models", "cluster/models", "--models", "cluster/stages"]);
    arguments.extend(["--reference", reference.path().to_str().unwrap()]);
    let output = gpu_check(out.path(), &arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("5 of 5 checks, on the processor: nothing is said of a GPU, passed"), "{text}");
    let report = report(out.path());
    assert_eq!((&report["device"], &report["checks"]), (&Value::from("cpu"), &Value::from(5)));
    let answers = &row(&report, "answers")["values"];
    assert_eq!(answers["nanodet_largest_difference"].as_f64(), Some(0.0), "{answers}");
    assert!(answers["nanodet_values"].as_u64() > Some(1000) && answers["movenet_picture_values"].is_u64(), "{answers}");
    let path = &row(&report, "path")["values"];
    assert!(path["batch_1_frames_per_s"].as_f64().unwrap() > 0.0 && path["batch_1_busy_percent"].is_null(), "{path}");
    for model in ["nanodet", "yamnet", "fusion"] {
        let apart = answers[format!("{model}_fp16_score_difference")].as_f64().unwrap();
        assert!(apart > 0.0 && apart <= 0.02, "{model}: {answers}");
    }
    assert!(answers["nanodet_fp16_iou_least"].as_f64().unwrap() >= 0.9, "{answers}");
    let stages = &row(&report, "stages")["values"];
    assert!(stages["boxes"].as_u64() > Some(0) && stages["killed_answered"] == 8, "{stages}");
    assert!(stages["split_frames_per_s"].as_f64() > Some(0.0) && stages["several_gpus"].is_null(), "{stages}");
    let restart = &row(&report, "restart")["values"];
    assert!(restart["back_ms_median"].as_f64().unwrap() > 0.0 && restart["kills"] == 3, "{restart}");
}

/// The check of PyTorch with this interpreter; gives its row.
fn torch(out: &Path, reference: &Path, python: &Path) -> Value {
    let mut command = sensorium();
    command.args(["gpu-check", "--device", "cpu", "--only", "torch"]).env("PYTHON", python);
    command.arg("--out").arg(out).arg("--reference").arg(reference).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    row(&report(out), "torch").clone()
}

#[test]
fn torch_is_measured_where_it_is_and_left_out_in_one_line_where_it_is_not() {
    let (out, reference) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let none = torch(out.path(), reference.path(), Path::new("/nowhere/python3"));
    assert_eq!(none["verdict"], "skipped", "{none}");
    assert!(none["skipped"].as_str().unwrap().contains("no script to compare with"), "{none}");
    fs::write(reference.path().join("torch_compile.py"), "the interpreter below does not read it").unwrap();
    let none = torch(out.path(), reference.path(), Path::new("/nowhere/python3"));
    assert!(none["skipped"].as_str().unwrap().contains("no /nowhere/python3"), "{none}");

    // Interpreters that end as the script does: without PyTorch, and with figures.
    let python = out.path().join("python");
    let says = |text: &str| {
        fs::write(&python, format!("#!/bin/sh\n{text}\n")).unwrap();
        Command::new("chmod").arg("755").arg(&python).status().unwrap();
        torch(out.path(), reference.path(), &python)
    };
    let none = says("exit 3");
    assert!(none["skipped"].as_str().unwrap().starts_with("no PyTorch that can use the device"), "{none}");
    let ours = r#"{"values": {"batch_32_fp16_graphs_frames_per_s": 1500.0}, "error": null}"#;
    fs::write(out.path().join("detector.json"), ours).unwrap();
    let figures = r#"{"values": {"torch": "2", "compiled_batch_32_with_copies_frames_per_s": 2000.0}, "error": null}"#;
    let measured = says(&format!("while [ \"$1\" != --out ]; do shift; done\necho '{figures}' > \"$2\""));
    assert_eq!((&measured["verdict"], &measured["values"]["torch"]), (&Value::from("passed"), &Value::from("2")));
    assert_eq!(measured["values"]["batch_32_ours_to_compiled"], 0.75, "{measured}");
}

#[test]
fn a_group_of_workers_survives_one_that_dies_and_one_that_hangs() {
    let out = tempfile::tempdir().unwrap();
    let output = gpu_check(out.path(), &["--device", "cpu", "--only", "group"]);
    let log = fs::read_to_string(out.path().join("group.log")).unwrap_or_default();
    assert!(output.status.success(), "{}{log}", String::from_utf8_lossy(&output.stdout));
    let report = report(out.path());
    let values = &row(&report, "group")["values"];
    assert_eq!(values["ranks"], 3);
    assert!(values["several_ranks"].is_null() && values["nccl"].is_null(), "{values}");
    assert!(values["all_gather_16384_kib_us"].as_f64().unwrap() > 0.0, "{values}");
    // Not before the limit of a wait, which is what finds a member that hangs.
    assert!(values["hung_noticed_ms"].as_u64().unwrap() >= 1_000, "{values}");
    assert!(values["killed_back_ms"].as_u64() >= values["killed_noticed_ms"].as_u64(), "{values}");
}

#[test]
fn checks_of_a_node_that_is_disturbed_pass_on_the_processor() {
    let out = tempfile::tempdir().unwrap();
    // Small models: what is tested here is the checks, and each start measures all models.
    let models = out.path().join("models");
    for name in ["identity", "yamnet", "fusion", "nanodet"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/models").join(name);
        fs::create_dir_all(models.join(name)).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), models.join(name).join(file.file_name())).unwrap();
        }
    }
    let only = ["--device", "cpu", "--only", "killed,illegal,standby,shares", "--models", models.to_str().unwrap()];
    let output = gpu_check(out.path(), &only);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let report = report(out.path());
    for name in ["killed", "illegal", "shares"] {
        let values = &row(&report, name)["values"];
        assert!(values["result"].as_u64() > Some(0) && values["result"] == values["jobs"], "{name}: {values}");
    }
    let killed = &row(&report, "killed")["values"];
    assert_eq!((&killed["beside_pairs"], &killed["beside_p99_ratio_median"]), (&1.into(), &Value::Null), "{killed}");
    assert!(row(&report, "illegal")["values"]["workers_replaced"].as_u64() >= Some(2));
    let standby = &row(&report, "standby")["values"];
    for key in ["without_first_answer_ms_median", "with_first_answer_ms_median"] {
        assert!(standby[key].as_f64() > Some(0.0), "{standby}");
    }
    let shares = &row(&report, "shares")["values"];
    assert!(shares["orders"] == 8 && shares["batches_under_an_old_plan"] == 0, "{shares}");
}

#[test]
fn a_check_that_fails_does_not_keep_the_others_from_running() {
    let out = tempfile::tempdir().unwrap();
    let models = out.path().join("models");
    fs::create_dir_all(models.join("identity")).unwrap();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/models/identity/model.toml");
    fs::copy(manifest, models.join("identity/model.toml")).unwrap();
    let arguments = ["--device", "cpu", "--only", "contract,restart", "--models", models.to_str().unwrap()];
    let output = gpu_check(out.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let report = report(out.path());
    let contract = row(&report, "contract");
    assert_eq!(contract["verdict"], "failed");
    assert!(contract["error"].as_str().unwrap().contains("there is no model fusion"), "{contract}");
    assert_eq!(row(&report, "restart")["verdict"], "passed");
}

#[test]
fn no_check_starts_when_the_time_is_over() {
    let out = tempfile::tempdir().unwrap();
    let output = gpu_check(out.path(), &["--device", "cpu", "--seconds-max", "0"]);
    assert_eq!(output.status.code(), Some(1));
    let report = report(out.path());
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() >= 6 && rows.iter().all(|row| row["verdict"] == "not_run"), "{report}");
}
