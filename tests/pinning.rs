//! Which device runs which model: two devices of the processor, with real workers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeSet;
use std::process::Command;

use sensorium_client::{Client, Job};
use sensorium_wire::Dtype;
use serde_json::Value;
use support::{Node, block_on, quiet_second, sensorium};

const TWO_DEVICES: &str = "[inject]\ncpu_devices = 2\n";

/// The models that a device has ready, by the node's status.
fn models(status: &Value, device: &str) -> BTreeSet<String> {
    let lanes = status["engine"]["lanes"].as_array().unwrap().iter().filter(|lane| lane["device"] == device);
    let models = lanes.flat_map(|lane| lane["models"].as_array().unwrap());
    models.map(|model| model["name"].as_str().unwrap().to_owned()).collect()
}

/// The devices that ran 40 jobs which came at once.
async fn devices_of(client: &Client, job: impl Fn() -> (Job, Vec<u8>)) -> BTreeSet<String> {
    let answers = (0..40).map(|_| {
        let ((job, payload), client) = (job(), client.clone());
        async move { client.submit(job.deadline_ms(60_000), payload).await.unwrap() }
    });
    let tasks: Vec<_> = answers.map(tokio::task::spawn_local).collect();
    let mut devices = BTreeSet::new();
    for task in tasks {
        let answer = task.await.unwrap();
        assert!(answer.is_result(), "{:?}", answer.rejection());
        assert_eq!(answer.header.receipt.variant.as_str(), "fp32");
        devices.insert(answer.header.receipt.device.to_string());
    }
    devices
}

#[test]
fn a_pinned_model_runs_where_it_is_pinned_and_the_others_everywhere() {
    let pins = "load = [\"identity\", \"yamnet\"]\npin = { yamnet = [\"cpu:1\"] }\n";
    let node = Node::start(&format!("{pins}{TWO_DEVICES}"));
    let status = node.both_ready();
    assert_eq!(models(&status, "cpu:0"), ["identity".to_owned()].into());
    assert_eq!(models(&status, "cpu:1"), ["identity".to_owned(), "yamnet".to_owned()].into());
    assert_eq!(status["pins"]["yamnet"], serde_json::json!(["cpu:1"]), "{status}");
    let shown = String::from_utf8(node.run(&["status"]).stdout).unwrap();
    assert!(shown.contains("yamnet is pinned to cpu:1") && shown.contains("v1 fp32"), "{shown}");
    block_on(tokio::task::LocalSet::new().run_until(async {
        let client = node.client().await;
        assert_eq!(devices_of(&client, quiet_second).await, ["cpu:1".to_owned()].into());
        let echo = || (Job::tensor("identity", Dtype::U8, &[1 << 20]), vec![7; 1 << 20]);
        let everywhere = devices_of(&client, echo).await;
        assert_eq!(everywhere, ["cpu:0".to_owned(), "cpu:1".to_owned()].into());
        client.close().await;
    }));
}

fn refusal(config: &str) -> String {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("node.toml");
    std::fs::write(&file, format!("listen = \"127.0.0.1:0\"\nlisten_cluster = \"127.0.0.1:0\"\n{config}")).unwrap();
    let mut command: Command = sensorium();
    let output = command.args(["node", "--config"]).arg(&file).arg("--data").arg(data.path()).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_node_with_a_pin_that_cannot_hold_says_so_and_does_not_start() {
    let load = "load = [\"identity\", \"yamnet\"]\n";
    let device = refusal(&format!("{load}pin = {{ yamnet = [\"cpu:7\"] }}\n{TWO_DEVICES}"));
    assert!(device.contains("pin.yamnet: there is no device cpu:7; this node has cpu:0, cpu:1"), "{device}");
    let model = refusal(&format!("{load}pin = {{ yament = [\"cpu:0\"] }}\n"));
    assert!(model.contains("pin.yament: there is no such model; this node loads identity, yamnet"), "{model}");
    let none = refusal(&format!("{load}pin = {{ yamnet = [] }}\n"));
    assert!(none.contains("pin.yamnet: a list of different names of devices is expected"), "{none}");
}
