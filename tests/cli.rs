//! The command line: mistakes get a sentence that says what to do, and the exit status tells programs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use sensorium_client::Job;
use sensorium_wire::PixelFormat;
use serde_json::Value;
use support::{Node, block_on, complaint, sensorium};

/// Runs a command that must not work; gives what it complains of.
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?} worked: {}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.code().is_some(), "{command:?}: {}", output.status);
    complaint(&output)
}

fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

fn in_project(arguments: &[&str], data: &Path) -> Command {
    let mut command = sensorium();
    command.args(arguments).arg("--data").arg(data).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

#[test]
fn mistakes_without_a_node_say_what_to_do() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();

    holds(&refused(in_project(&["--fly"], data).arg("status")), &["--fly"]);
    holds(&refused(in_project(&["submit", "--modle", "nanodet", "x.png"], data).arg("--json")), &["--model"]);
    holds(&refused(&mut in_project(&["sumbit"], data)), &["submit"]);
    holds(&refused(&mut in_project(&["submit", "--model", "nanodet"], data)), &["<FILE>"]);
    holds(&refused(&mut in_project(&["run", "--budget", "fast", "x.mkv"], data)), &["--budget"]);
    holds(&refused(&mut in_project(&["submit", "--model", "m", "--urgency", "max", "x"], data)), &["critical"]);

    let missing = data.join("none.png");
    let missing = missing.to_str().unwrap();
    holds(&refused(&mut in_project(&["submit", "--model", "nanodet", missing], data)), &["none.png", "No such file"]);
    holds(&refused(&mut in_project(&["run", missing], data)), &["none.png", "no such file"]);

    let overload = |option: &str, value: &str| {
        refused(&mut in_project(&["bench", "overload", "--model", "nanodet", option, value], data))
    };
    holds(&overload("--load", "0"), &["--load 0", "more than 0", "capacity"]);
    holds(&overload("--load", "-2"), &["--load -2", "more than 0"]);
    holds(&overload("--load", "NaN"), &["--load NaN", "more than 0"]);
    holds(&overload("--seconds", "0"), &["--seconds 0", "0.5 to 3600"]);
    holds(&overload("--deadline", "0ms"), &["--deadline 0s", "at most 1h"]);

    let start = ["no node runs", "sensorium node"];
    holds(&overload("--load", "2"), &start);
    holds(&refused(&mut in_project(&["status"], data)), &start);
    holds(&refused(&mut in_project(&["run", "Cargo.toml"], data)), &start);

    let no_runtime = in_project(&["node", "--onnxruntime", "/nonexistent", "--listen", "127.0.0.1:0"], data)
        .args(["--listen-cluster", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert!(!no_runtime.status.success());
    holds(&complaint(&no_runtime), &["ONNX Runtime", "/nonexistent", "ops/setup", "--onnxruntime"]);

    let config = data.join("node.toml");
    let node = |text: &str| {
        std::fs::write(&config, text).unwrap();
        refused(in_project(&["node"], data).arg("--config").arg(&config))
    };
    holds(&node("queue_jobs = 5\n"), &["node.toml", "unknown field `queue_jobs`", "did you mean `queue_jobs_max`?"]);
    holds(&node("queue_jobs_max = 0\n"), &["queue_jobs_max", "1 to 65536"]);
    holds(&node("listen = \n"), &["node.toml", "listen"]);
    holds(&node("load = [\"nanodte\"]\n"), &["nanodte", "nanodet"]);
    holds(&node("models = [\"/nonexistent\"]\n"), &["/nonexistent"]);
    holds(&refused(in_project(&["node"], data).arg("--config").arg(data.join("none.toml"))), &["none.toml"]);
}

#[test]
fn scenarios_are_played_and_proven_without_a_node() {
    let data = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| in_project(arguments, data.path()).output().unwrap();
    let city = "cluster/scenarios/city.toml";
    let played = |seed| {
        let output = run(&["simulate", city, "--seconds", "0.5", "--seed", seed, "--json"]);
        assert!(output.status.success(), "{}", complaint(&output));
        let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let object = report.as_object_mut().unwrap();
        assert!(object.remove("wall_s").is_some() && object.remove("events_per_wall_s").is_some());
        assert!(report["accepted"].as_u64().unwrap() > 10, "{report}");
        report.to_string()
    };
    assert_eq!(played("3"), played("3"));
    assert_ne!(played("3"), played("4"));
    let shown = run(&["simulate", city, "--seconds", "0.5"]);
    holds(&String::from_utf8_lossy(&shown.stdout), &["city, seed 7", "crossings", "results on time a second", "busy"]);

    let (topology, load) = ("cluster/scenarios/prove/two-gpus.toml", "cluster/scenarios/prove/ten-cameras.toml");
    let output = run(&["prove", topology, load, "--seeds", "3", "--seconds", "1", "--json"]);
    let proof: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!proof["miss"].is_null())), "{proof}");
    holds(proof["replay"].as_str().unwrap(), &["sensorium simulate", topology, load, "--seed", "--misfortune"]);

    let scenario = data.path().join("world.toml");
    let wrong = |text: &str| {
        std::fs::write(&scenario, text).unwrap();
        refused(in_project(&["simulate"], data.path()).arg(&scenario))
    };
    holds(&wrong("seconds = 5\nmodle = 3\n"), &["world.toml:2", "did you mean `model`?"]);
    holds(&wrong("seconds = 0\n"), &["world.toml:1: seconds: is 0"]);
    let text = std::fs::read_to_string("cluster/scenarios/bench-nanodet.toml").unwrap();
    let traced = text.replace("{ poisson_per_s = 6 }", "{ trace = \"none.csv\" }");
    holds(&wrong(&traced), &["world.toml:", "arrivals: none.csv: No such file"]);
    holds(&refused(&mut in_project(&["simulate", city, "--misfortune", "1,2"], data.path())), &["four numbers"]);
    holds(&refused(&mut in_project(&["simulate", "none.toml"], data.path())), &["none.toml"]);
}

#[test]
fn models_hardware_and_certificates_need_no_node() {
    let data = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| in_project(arguments, data.path()).output().unwrap();
    let json = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();

    let good = run(&["models", "--json"]);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stdout));
    let names: Vec<_> = json(&good).as_array().unwrap().iter().map(|row| row["manifest"]["name"].to_string()).collect();
    assert!(names.contains(&"\"nanodet\"".to_owned()), "{names:?}");
    assert!(run(&["models", "--no-check"]).status.success());

    // One broken manifest is told, with file and field, and hides no other model.
    let folder = tempfile::tempdir().unwrap();
    for name in ["identity", "broken"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        let manifest = std::fs::read_to_string("cluster/models/identity/model.toml").unwrap();
        let manifest = manifest.replace("\"identity\"\nversion", &format!("\"{name}\"\nversion"));
        let manifest = if name == "broken" { manifest.replace("batch_max", "bach_max") } else { manifest };
        std::fs::write(folder.path().join(name).join("model.toml"), manifest).unwrap();
    }
    let broken = run(&["models", "--models", folder.path().to_str().unwrap()]);
    assert_eq!(broken.status.code(), Some(1));
    let text = String::from_utf8_lossy(&broken.stdout);
    holds(&text, &["broken/model.toml", "bach_max", "did you mean", "batch_max", "identity"]);
    let rows = json(&run(&["models", "--json", "--models", folder.path().to_str().unwrap()]));
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows.iter().filter(|row| row["problem"].is_null()).count(), 1, "{rows:?}");

    let hardware = run(&["hardware", "--json"]);
    assert!(hardware.status.success());
    let hardware = json(&hardware);
    assert!(!hardware["plan"]["devices"].as_array().unwrap().is_empty(), "{hardware}");
    assert!(hardware["inventory"].is_object(), "{hardware}");
    assert!(!run(&["hardware"]).stdout.is_empty());

    let ca = data.path().join("ca");
    let ca = ca.to_str().unwrap();
    let out = data.path().join("bundle");
    let out = out.to_str().unwrap();
    assert!(run(&["ca", "init", "--out", ca]).status.success());
    holds(&complaint(&run(&["ca", "init", "--out", ca])), &["ca.", "exist"]);
    let issue = |more: &[&str]| run(&[&["ca", "issue", "--ca", ca, "--out", out, "--name"], more].concat());
    holds(&complaint(&issue(&["a b"])), &["--name", "letters"]);
    holds(&complaint(&issue(&["a", "--role", "fly"])), &["--role fly", "submit"]);
    holds(&complaint(&issue(&["a", "--tier", "middle"])), &["--tier middle", "regional"]);
    holds(&complaint(&issue(&["a", "--days", "0"])), &["0", "days"]);
    assert!(issue(&["a"]).status.success());
}

#[test]
fn two_nodes_do_not_get_in_each_others_way() {
    let node = Node::start("load = [\"identity\"]\n");
    let (pid, taken) = (node.pid().to_string(), node.address("api").to_string());
    let same_data = refused(&mut node.command(&["node", "--listen", "127.0.0.1:0", "--listen-cluster", "127.0.0.1:0"]));
    holds(&same_data, &["another node", &pid, "--data"]);

    let other = tempfile::tempdir().unwrap();
    let arguments = ["node", "--listen", &taken, "--listen-cluster", "127.0.0.1:0"];
    let same_port = refused(&mut in_project(&arguments, other.path()));
    holds(&same_port, &["cannot listen", &taken, "another process", "--listen"]);
    assert!(!other.path().join("node.json").exists(), "a node that did not start left its address");
    node.proves_healthy();

    // A port that nobody listens on: said in time, not waited for without end.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let dead = refused(&mut node.command(&["status", "--node", &nobody]));
    holds(&dead, &["no node answers", &nobody, "sensorium node"]);
    let bundle = refused(&mut node.command(&["status", "--bundle", "/nonexistent"]));
    holds(&bundle, &["/nonexistent", "bundle"]);
    node.proves_healthy();
}

#[test]
fn what_was_accepted_is_answered_before_the_end() {
    let mut node = Node::start("load = [\"nanodet\"]\n");
    let answers = block_on(async {
        let client = node.client().await;
        let jobs = (0..20).map(|_| {
            let job = Job::frame("nanodet", 320, 240, PixelFormat::Rgb24).deadline_ms(60_000);
            client.submit(job, vec![90; 320 * 240 * 3])
        });
        let stopping = async {
            loop {
                let status: Value = serde_json::from_str(&client.query("status").await.unwrap()).unwrap();
                if status["engine"]["accepted"] == 20 {
                    assert_ne!(status["engine"]["jobs_in_flight"], 0, "all was done before the signal came");
                    return node.signal("TERM");
                }
            }
        };
        futures_util::join!(futures_util::future::join_all(jobs), stopping).0
    });
    for answer in answers {
        let answer = answer.unwrap();
        assert!(answer.is_result(), "{:?}", answer.rejection());
    }
    assert!(node.wait(), "{}", node.log());
    holds(&refused(&mut node.command(&["status"])), &["no node runs", "sensorium node"]);
}
