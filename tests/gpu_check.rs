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
    let output = gpu_check(out.path(), &["--device", "cpu", "--only", "contract,answers,restart"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("3 of 3 checks, on the processor: nothing is said of a GPU, passed"), "{text}");
    let report = report(out.path());
    assert_eq!((&report["device"], &report["checks"]), (&Value::from("cpu"), &Value::from(3)));
    let answers = &row(&report, "answers")["values"];
    assert_eq!(answers["nanodet_largest_difference"].as_f64(), Some(0.0), "{answers}");
    let restart = &row(&report, "restart")["values"];
    assert!(restart["back_ms_median"].as_f64().unwrap() > 0.0 && restart["kills"] == 3, "{restart}");
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
