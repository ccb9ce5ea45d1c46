//! Groups of devices in a node, with a worker process for each member: they come together, notice a member that dies,
//! hangs or is taken out of service, and come together again; jobs go on meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use sensorium_client::Job;
use sensorium_wire::Dtype;
use serde_json::Value;
use support::{Node, block_on, signal_process};

const THREE: &str = "load = [\"identity\"]\n\
    [[group]]\nname = \"features\"\ndevices = [\"cpu:2\", \"cpu:0\", \"cpu:1\"]\n\
    wait_ms_max = 400\npulse_ms = 100\npulse_values = 1001\n\
    [inject]\nprocessor_devices = 3\n";

fn is_ready(status: &Value) -> bool {
    status["groups"][0]["state"] == "ready"
}

fn start(config: &str) -> (Node, Value) {
    let node = Node::start(config);
    let status = node.wait_until("the group is ready", is_ready);
    (node, status)
}

fn worker(status: &Value, device: &str) -> u32 {
    let devices = status["devices"].as_array().unwrap();
    let device = devices.iter().find(|found| found["name"] == device).unwrap();
    u32::try_from(device["worker_pid"].as_u64().unwrap()).unwrap()
}

/// Jobs that all devices may have; each must come back as it was.
fn echoes(node: &Node, count: u32) {
    block_on(async {
        let client = node.client().await;
        for number in 0..count {
            let payload = number.to_le_bytes().repeat(16);
            let job = Job::tensor("identity", Dtype::U8, &[64]).deadline_ms(60_000);
            let answer = client.submit(job, payload.clone()).await.unwrap();
            assert!(answer.is_result(), "{:?}", answer.rejection());
            assert!(answer.payload == payload);
        }
    });
}

#[test]
fn a_group_comes_together_and_is_exercised() {
    let (node, status) = start(THREE);
    let group = &status["groups"][0];
    assert_eq!(group["devices"], serde_json::json!(["cpu:2", "cpu:0", "cpu:1"]), "{group}");
    assert_eq!((&group["transport"], &group["generation"]), (&Value::from("host"), &Value::from(1)), "{group}");
    assert!(group["missing"].as_array().unwrap().is_empty() && group["last_reason"].is_null(), "{group}");
    let pulses = group["pulses"].as_u64().unwrap();
    let status = node.wait_until("further exercises", |status| {
        is_ready(status) && status["groups"][0]["pulses"].as_u64().unwrap() >= pulses + 3
    });
    assert!(status["groups"][0]["pulse"]["all_gather_us"].as_f64().unwrap() > 0.0, "{status}");
    let output = node.run(&["status"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("group features ready over host: cpu:2, cpu:0, cpu:1 in generation 1"), "{text}");
}

#[test]
fn a_member_that_is_killed_is_replaced_and_the_group_with_it() {
    let (node, before) = start(THREE);
    signal_process(worker(&before, "cpu:0"), "KILL");
    echoes(&node, 50);
    let after = node.wait_until("another generation", |status| {
        is_ready(status) && status["groups"][0]["generation"].as_u64().unwrap() > 1
    });
    let reason = after["groups"][0]["last_reason"].as_str().unwrap();
    assert!(reason.contains("is gone"), "{reason}");
    for device in ["cpu:1", "cpu:2"] {
        assert_eq!(worker(&before, device), worker(&after, device), "the others' workers are left alone");
    }
    assert_ne!(worker(&before, "cpu:0"), worker(&after, "cpu:0"));
}

#[test]
fn a_member_that_hangs_breaks_the_group_until_it_goes_on_and_disturbs_nobody() {
    let (node, before) = start(THREE);
    let stopped = worker(&before, "cpu:1");
    signal_process(stopped, "STOP");
    let broken = node.wait_until("broken", |status| {
        let group = &status["groups"][0];
        group["state"] != "ready" && group["silent"] == serde_json::json!(["cpu:1"])
    });
    let reason = broken["groups"][0]["last_reason"].as_str().unwrap();
    assert!(reason.contains("rank"), "{reason}");
    // Told once: the generation does not rise while it is silent, however often the others could try.
    let generation = broken["groups"][0]["generation"].as_u64().unwrap();
    let status = node.wait_until("an alert", |status| !status["alerts"].as_array().unwrap().is_empty());
    assert!(status["alerts"][0].as_str().unwrap().contains("cpu:1 does not answer"), "{}", status["alerts"]);
    assert_eq!(status["groups"][0]["generation"].as_u64(), Some(generation));
    for device in ["cpu:0", "cpu:2"] {
        assert_eq!(worker(&before, device), worker(&status, device), "nobody is disturbed");
    }
    signal_process(stopped, "CONT");
    let after = node.wait_until("ready again", is_ready);
    assert_eq!(worker(&after, "cpu:1"), stopped, "the same worker");
    assert_eq!(after["groups"][0]["generation"].as_u64(), Some(generation + 1));
    echoes(&node, 20);
}

#[test]
fn a_device_out_of_service_is_waited_for() {
    let inject = "lose_device_after_ms = 4000\nlose_device_for_ms = 3000\n";
    let node = Node::launch(&format!("{THREE}{inject}"), &[]);
    node.wait_until("a member is missing", |status| {
        let missing = status["groups"][0]["missing"] == serde_json::json!(["cpu:0"]);
        missing && status["devices"][0]["state"] == "quarantined" && !is_ready(status)
    });
    echoes(&node, 20);
    let status = node.wait_until("ready again", is_ready);
    assert_eq!(status["devices"][0]["state"], "ready", "{status}");
}

#[test]
fn several_members_that_are_killed_at_once_come_back_together() {
    let (node, mut status) = start(THREE);
    for killed in [&["cpu:0", "cpu:2"][..], &["cpu:0", "cpu:1", "cpu:2"], &["cpu:1"]] {
        let generation = status["groups"][0]["generation"].as_u64().unwrap();
        for device in killed {
            signal_process(worker(&status, device), "KILL");
        }
        let before = status.clone();
        status = node.wait_until("all together again", |status| {
            let devices = status["devices"].as_array().unwrap();
            is_ready(status)
                && status["groups"][0]["generation"].as_u64().unwrap() > generation
                && devices.iter().all(|device| device["worker_pid"].is_u64())
        });
        for device in killed {
            assert_ne!(worker(&before, device), worker(&status, device));
        }
    }
}

#[test]
fn a_group_of_devices_that_are_not_there_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("node.toml");
    let with = |devices: &str| {
        let group = format!("[[group]]\nname = \"features\"\ndevices = {devices}\n");
        std::fs::write(&config, format!("listen = \"127.0.0.1:0\"\nlisten_cluster = \"127.0.0.1:0\"\n{group}"))
            .unwrap();
        let mut command = support::sensorium();
        command.arg("node").arg("--config").arg(&config).arg("--data").arg(data.path());
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = with("[\"cpu:0\", \"cpu:77\"]");
    assert!(text.contains("group \"features\": there is no device cpu:77; there are cpu:0"), "{text}");
    let text = with("[\"cpu:0\", \"cpu:0\"]");
    assert!(text.contains("group \"features\": cpu:0 is in it twice"), "{text}");
    let text = with("[\"cpu:0\"]");
    assert!(text.contains("has 1 devices; 2 to 16 are expected"), "{text}");
}
