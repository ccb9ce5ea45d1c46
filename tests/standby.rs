//! A device with a standby worker: the one that waits takes over, and nothing is lost, twice or left behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use sensorium_client::{Answer, Job};
use sensorium_wire::{Dtype, Outcome, Reason};
use serde_json::Value;
use support::{Node, PATIENCE, complaint, local, signal_process};

const STANDBY: &str = "load = [\"identity\"]\nstandby_workers = \"all\"\n";

fn identity(bytes: usize) -> Job {
    Job::tensor("identity", Dtype::U8, &[u32::try_from(bytes).unwrap()]).deadline_ms(60_000)
}

fn pid(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap_or_else(|| panic!("{value} is no process id"))).unwrap()
}

/// Waits until a worker serves and another one waits; gives both process ids.
fn pair(node: &Node) -> (u32, u32) {
    let status = node.wait_until("a serving worker and a standby", |status| {
        let device = &status["devices"][0];
        device["state"] == "ready" && device["standby"]["state"] == "ready"
    });
    let device = &status["devices"][0];
    (pid(&device["worker_pid"]), pid(&device["standby"]["pid"]))
}

/// A thousand jobs of different payloads while the node is disturbed: each comes back once, as it was.
fn thousand_echoes(node: &Node, disturb: impl FnOnce() + Send + 'static) {
    local(async {
        let client = node.client().await;
        let disturbing = std::thread::spawn(disturb);
        let jobs = (0..1000_u32).map(|number| {
            let client = client.clone();
            async move {
                let payload = number.to_le_bytes().repeat(256);
                let answer: Answer = client.submit(identity(payload.len()), payload.clone()).await.unwrap();
                assert!(answer.is_result(), "{:?}", answer.rejection());
                assert!(answer.payload == payload, "another job's bytes came back");
            }
        });
        let tasks: Vec<_> = jobs.map(tokio::task::spawn_local).collect();
        for task in tasks {
            task.await.unwrap();
        }
        disturbing.join().unwrap();
        assert_eq!(client.stray_answers(), 0, "a job was answered twice");
    });
}

fn nothing_is_left(node: &Node) {
    let status = node.wait_until("all memory is back", |status| status["engine"]["slab_bytes_out"] == 0);
    let engine = &status["engine"];
    assert_eq!(engine["jobs_in_flight"], 0);
    let count = |key: &str| engine[key].as_u64().unwrap();
    let ended = count("results") + count("expired") + count("failed") + count("cancelled");
    assert_eq!(count("accepted"), ended, "an accepted job has one outcome: {engine}");
}

/// Whether a process has ended, reaped or not.
fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

fn wait_until_gone(pids: [u32; 2]) {
    let began = Instant::now();
    while !pids.into_iter().all(is_gone) {
        assert!(began.elapsed() < PATIENCE, "of {pids:?} one lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_standby_takes_over_from_a_killed_worker_again_and_again() {
    let node = Node::start(STANDBY);
    let mut seen = HashSet::new();
    for kills in 1..=3_u64 {
        let (serving, waiting) = pair(&node);
        assert!(seen.insert(serving), "a dead worker serves");
        thousand_echoes(&node, move || signal_process(serving, "KILL"));
        let status = node.wait_until("another worker serves", |status| {
            status["devices"][0]["restarts"] == kills && status["devices"][0]["state"] == "ready"
        });
        let device = &status["devices"][0];
        assert_eq!(pid(&device["worker_pid"]), waiting, "the one that waited serves: {device}");
        assert_eq!(device["standby"]["promotions"], kills);
        let exit = device["last_exit"].as_str().unwrap();
        assert!(exit.contains("signal: 9"), "{exit}");
    }
    pair(&node);
    nothing_is_left(&node);
}

#[test]
fn a_standby_that_dies_is_replaced_and_the_serving_worker_never_notices() {
    let node = Node::start(STANDBY);
    let (serving, waiting) = pair(&node);
    thousand_echoes(&node, move || signal_process(waiting, "KILL"));
    let status = node.wait_until("another standby", |status| {
        let standby = &status["devices"][0]["standby"];
        standby["state"] == "ready" && standby["pid"] != waiting
    });
    let device = &status["devices"][0];
    assert_eq!((pid(&device["worker_pid"]), &device["restarts"]), (serving, &Value::from(0)));
    assert_eq!((&device["standby"]["promotions"], &device["standby"]["restarts"]), (&0.into(), &1.into()));
    nothing_is_left(&node);
}

#[test]
fn a_mixed_load_is_accounted_for_to_the_last_job_while_workers_are_killed() {
    let node = Node::start("load = [\"identity\", \"fusion\", \"silero-vad\"]\nstandby_workers = \"all\"\n");
    let mix = "identity:1k=6,identity:200k=1,fusion=2,silero-vad=1";
    let arguments = ["load", "--json", "--seconds", "6", "--rate", "150", "--deadline", "60s", "--mix", mix];
    let output = std::thread::scope(|scope| {
        let load = scope.spawn(|| node.run(&arguments));
        let mut kills = 0_u64;
        while !load.is_finished() && kills < 4 {
            let (serving, waiting) = pair(&node);
            // In turn the one that serves, the one that waits, and both.
            match kills % 3 {
                0 => signal_process(serving, "KILL"),
                1 => signal_process(waiting, "KILL"),
                _ => [waiting, serving].into_iter().for_each(|worker| signal_process(worker, "KILL")),
            }
            kills += 1;
            let killed = if kills % 3 == 2 { waiting } else { serving };
            node.wait_until("the kill was noticed", |status| {
                let device = &status["devices"][0];
                device["worker_pid"] != killed && device["standby"]["pid"] != killed
            });
        }
        assert!(kills > 0, "the load was over before the first kill");
        load.join().unwrap()
    });
    assert!(output.status.success(), "{}", complaint(&output));
    let tally: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(tally["jobs"], tally["result"], "{tally}");
    assert_eq!((&tally["lost"], &tally["twice"]), (&0.into(), &0.into()), "{tally}");
    nothing_is_left(&node);
}

#[test]
fn both_workers_end_with_their_node_whether_it_stops_or_is_killed() {
    for signal in ["TERM", "KILL"] {
        let mut node = Node::start(STANDBY);
        let (serving, waiting) = pair(&node);
        let text = String::from_utf8(node.run(&["status"]).stdout).unwrap();
        assert!(text.contains(&format!("standby ready: worker {waiting}, took over 0 times")), "{text}");
        node.signal(signal);
        assert_eq!(node.wait(), signal == "TERM");
        wait_until_gone([serving, waiting]);
    }
}

#[test]
fn both_workers_killed_at_once_lose_no_job() {
    let node = Node::start(STANDBY);
    let (serving, waiting) = pair(&node);
    thousand_echoes(&node, move || {
        signal_process(waiting, "KILL");
        signal_process(serving, "KILL");
    });
    let (now_serving, now_waiting) = pair(&node);
    for dead in [serving, waiting] {
        assert!(now_serving != dead && now_waiting != dead);
    }
    nothing_is_left(&node);
}

#[test]
fn a_standby_takes_over_from_a_worker_that_hangs() {
    let models = support::identity_soon_hung();
    let node = Node::start(&format!("models = [{:?}]\nstandby_workers = \"all\"\n", models.path()));
    let (serving, waiting) = pair(&node);
    thousand_echoes(&node, move || signal_process(serving, "STOP"));
    let status = node.wait_until("replaced", |status| {
        status["devices"][0]["restarts"] == 1 && status["devices"][0]["state"] == "ready"
    });
    let device = &status["devices"][0];
    assert_eq!(pid(&device["worker_pid"]), waiting);
    let exit = device["last_exit"].as_str().unwrap();
    assert!(exit.contains("300 ms"), "{exit}");
    nothing_is_left(&node);
}

#[test]
fn a_standby_that_lacks_a_model_of_the_serving_worker_is_refused_until_that_one_is_replaced() {
    let models = tempfile::tempdir().unwrap();
    let weights = support::cache().join("models");
    for (from, name) in
        [(Path::new("cluster/models"), "identity"), (Path::new("cluster/models"), "fusion"), (&weights, "fusion")]
    {
        let folder = models.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for file in std::fs::read_dir(from.join(name)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
    let network = models.path().join("fusion/fusion.onnx");
    let whole = std::fs::read(&network).unwrap();
    let node = Node::start(&format!("models = [{:?}]\nstandby_workers = \"all\"\n", models.path()));
    let (serving, waiting) = pair(&node);
    // From now on the model cannot be loaded any more; the serving worker has it.
    std::fs::write(&network, b"no network").unwrap();
    signal_process(waiting, "KILL");
    let status = node.wait_until("a refused standby", |status| {
        let standby = &status["devices"][0]["standby"];
        standby["state"] == "none" && standby["note"].as_str().is_some_and(|note| note.contains("lacks a model"))
    });
    let device = &status["devices"][0];
    let note = device["standby"]["note"].as_str().unwrap();
    assert!(note.contains("fusion") && !note.contains('\n'), "{note}");
    assert_eq!((pid(&device["worker_pid"]), &device["state"]), (serving, &Value::from("ready")));
    assert!(device["broken_models"].as_array().unwrap().is_empty(), "the serving worker has all models: {device}");
    thousand_echoes(&node, || ());
    // With the model back, the next worker that serves gets a standby again.
    std::fs::write(&network, whole).unwrap();
    thousand_echoes(&node, move || signal_process(serving, "KILL"));
    let status = node.wait_until("another worker", |status| status["devices"][0]["restarts"] == 1);
    assert_eq!(status["devices"][0]["standby"]["promotions"], 0);
    pair(&node);
    nothing_is_left(&node);
}

#[test]
fn a_job_that_kills_workers_kills_standbys_too_and_is_given_up() {
    let node = Node::start(&format!("{STANDBY}[inject]\nexit_on_prefix = \"poison\"\n"));
    pair(&node);
    local(async {
        let client = node.client().await;
        let poison = client.submit(identity(6), &b"poison"[..]);
        let innocent: Vec<_> = (0..50).map(|_| client.submit(identity(5), &b"water"[..])).collect();
        let (poison, innocent) = futures_util::join!(poison, futures_util::future::join_all(innocent));
        let poison = poison.unwrap();
        assert_eq!((poison.header.outcome, poison.header.reason), (Outcome::Failed, Reason::Poisoned));
        for answer in innocent {
            assert!(answer.unwrap().is_result());
        }
    });
    pair(&node);
    nothing_is_left(&node);
}

#[test]
fn a_device_that_is_lost_has_neither_worker_until_it_is_back() {
    let inject = "[inject]\nlose_device_after_ms = 6000\nlose_device_for_ms = 2000\n";
    let node = Node::start(&format!("{STANDBY}{inject}"));
    let (serving, waiting) = pair(&node);
    node.wait_until("a device out of service", |status| {
        let device = &status["devices"][0];
        device["state"] == "quarantined" && device["worker_pid"].is_null() && device["standby"]["state"] == "none"
    });
    for worker in [serving, waiting] {
        assert!(!Path::new(&format!("/proc/{worker}")).exists(), "worker {worker} lives on");
    }
    // A job that comes now waits for the device.
    let answer = local(async {
        let client = node.client().await;
        client.submit(identity(8), b"patience".to_vec()).await.unwrap()
    });
    assert!(answer.is_result(), "{:?}", answer.rejection());
    let (serving_now, waiting_now) = pair(&node);
    assert!(![serving, waiting].contains(&serving_now) && ![serving, waiting].contains(&waiting_now));
    assert_eq!(node.status().unwrap()["devices"][0]["standby"]["promotions"], 0, "a killed standby was promoted");
}

#[test]
fn models_are_told_with_their_operators_and_standbys_only_where_wanted() {
    let node = Node::start("load = [\"fusion\", \"identity\"]\n");
    let status = node.status().unwrap();
    assert!(status["devices"][0]["standby"].is_null());
    let lanes = status["engine"]["lanes"].as_array().unwrap();
    let models = lanes.iter().flat_map(|lane| lane["models"].as_array().unwrap());
    let placement = |name: &str| &models.clone().find(|model| model["name"] == name).unwrap()["placement"];
    let fusion = placement("fusion");
    assert_eq!(fusion["compute"], "gpu", "what its manifest promises of a GPU: {fusion}");
    let count = fusion["operators"]["CPUExecutionProvider"].as_u64().unwrap();
    let kinds: u64 = fusion["off_gpu"].as_array().unwrap().iter().map(|kind| kind[1].as_u64().unwrap()).sum();
    assert!(count > 0 && kinds == count, "{fusion}");
    assert_eq!(placement("identity")["operators"], serde_json::json!({}), "it has no network");
    let output = node.run(&["status"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("operators: {count} on CPU")) && !text.contains("standby"), "{text}");
}
