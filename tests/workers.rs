//! What survives a worker that dies, hangs or talks nonsense: everything but the worker.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use sensorium_client::{Answer, Job};
use sensorium_wire::{Dtype, Outcome, Reason};
use support::{Node, events, local, media, signal_process};

const IDENTITY: &str = "load = [\"identity\"]\n";

fn identity(bytes: usize) -> Job {
    Job::tensor("identity", Dtype::U8, &[u32::try_from(bytes).unwrap()]).deadline_ms(60_000)
}

/// A thousand jobs of different payloads, each of which must come back as it was.
async fn thousand_echoes(node: &Node, disturb: impl FnOnce() + Send + 'static) -> Vec<Answer> {
    let client = node.client().await;
    let disturbing = std::thread::spawn(disturb);
    let jobs = (0..1000_u32).map(|number| {
        let client = client.clone();
        async move {
            let payload = number.to_le_bytes().repeat(256);
            let answer = client.submit(identity(payload.len()), payload.clone()).await.unwrap();
            assert!(answer.is_result(), "{:?}", answer.rejection());
            assert!(answer.payload == payload, "another job's bytes came back");
            answer
        }
    });
    let tasks: Vec<_> = jobs.map(|job| tokio::task::spawn_local(job)).collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    disturbing.join().unwrap();
    answers
}

#[test]
fn a_killed_worker_loses_no_job_and_comes_back() {
    let node = Node::start(IDENTITY);
    let worker = node.worker_pid();
    local(thousand_echoes(&node, move || signal_process(worker, "KILL")));
    let status = node.wait_until("another worker", |status| {
        status["devices"][0]["state"] == "ready" && status["devices"][0]["restarts"] == 1
    });
    assert_ne!(status["devices"][0]["worker_pid"], worker);
    assert_eq!(status["engine"]["jobs_in_flight"], 0);
    assert_eq!(status["engine"]["slab_bytes_out"], 0, "a slot was lost: {status}");
}

#[test]
fn a_device_that_is_lost_gets_no_worker_until_it_is_back() {
    let inject = "[inject]\nlose_device_after_ms = 2500\nlose_device_for_ms = 2000\n";
    let node = Node::start(&format!("{IDENTITY}{inject}"));
    node.wait_until("a device out of service", |status| {
        let device = &status["devices"][0];
        device["state"] == "quarantined" && device["worker_pid"].is_null()
    });
    let status = node.wait_until("an alert", |status| !status["alerts"].as_array().unwrap().is_empty());
    let alert = status["alerts"][0].as_str().unwrap().to_owned();
    assert!(alert.contains("taken out of service: it has left the bus"), "{alert}");
    // A job that comes now waits for the device.
    let answer = local(async {
        let client = node.client().await;
        client.submit(identity(8), b"patience".to_vec()).await.unwrap()
    });
    assert!(answer.is_result(), "{:?}", answer.rejection());
    let status = node.wait_until("the device in service", |status| status["devices"][0]["state"] == "ready");
    assert!(status["devices"][0]["restarts"].as_u64() >= Some(1), "{status}");
}

#[test]
fn a_worker_that_hangs_is_replaced_and_its_jobs_run_again() {
    let models = support::identity_soon_hung();
    let node = Node::start(&format!("models = [{:?}]\n", models.path()));
    let worker = node.worker_pid();
    local(thousand_echoes(&node, move || signal_process(worker, "STOP")));
    let status = node.wait_until("replaced", |status| status["devices"][0]["restarts"] == 1);
    let exit = status["devices"][0]["last_exit"].as_str().unwrap();
    assert!(exit.contains("300 ms"), "{exit}");
}

#[test]
fn a_job_that_kills_workers_is_given_up_and_its_neighbours_are_not() {
    let node = Node::start(&format!("{IDENTITY}[inject]\nexit_on_prefix = \"poison\"\n"));
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
}

#[test]
fn a_worker_that_talks_nonsense_is_replaced() {
    let node = Node::start(&format!("{IDENTITY}[inject]\nnonsense_on_prefix = \"babble\"\n"));
    local(async {
        let client = node.client().await;
        // Whoever makes a worker babble makes its successors babble, too: in the end it is poisoned.
        let answer = client.submit(identity(6), &b"babble"[..]).await.unwrap();
        assert_eq!(answer.header.reason, Reason::Poisoned);
        assert!(client.submit(identity(4), &b"good"[..]).await.unwrap().is_result());
    });
    let status = node.wait_until("settled", |status| status["devices"][0]["state"] == "ready");
    let exit = status["devices"][0]["last_exit"].as_str().unwrap();
    assert!(exit.contains("answer"), "{exit}");
}

#[test]
fn an_illegal_access_on_purpose_is_for_gpus_and_said_to_do_nothing_elsewhere() {
    let node = Node::start(&format!(
        "{IDENTITY}cpu_devices = \"always\"\ngpus = false\n[inject]\nillegal_on_prefix = \"bad\"\n"
    ));
    let answer = local(async {
        let client = node.client().await;
        client.submit(identity(7), &b"bad job"[..]).await.unwrap()
    });
    assert!(answer.is_result() && answer.payload[..] == b"bad job"[..], "{:?}", answer.rejection());
    assert!(node.log().contains("illegal_on_prefix of [inject] is for GPUs and does nothing here"), "{}", node.log());
    assert_eq!(node.status().unwrap()["devices"][0]["restarts"], 0);
}

#[test]
fn ten_kills_change_nothing_in_the_events_of_a_fast_run() {
    let node = Node::start("");
    let clip = media("demo.mkv");
    let run = |node: &Node| node.command(&["run", "--fast", "--json"]).arg(&clip).output().unwrap();
    let comparable = |output: &std::process::Output| {
        let mut events = events(output);
        for event in &mut events {
            let object = event.as_object_mut().unwrap();
            object.remove("receipt");
            // The order between video and sound is not fixed; within each it is, by the times.
            object.remove("number");
        }
        let mut lines: Vec<String> = events.iter().map(ToString::to_string).collect();
        lines.sort();
        lines
    };
    let undisturbed = run(&node);
    assert!(undisturbed.status.success(), "{}", support::complaint(&undisturbed));
    let disturbed = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&node));
        for kills in 0..10 {
            let status = node.wait_until("a worker is ready", |status| {
                status["devices"][0]["restarts"] == kills && status["devices"][0]["state"] == "ready"
            });
            // Some work gets done between two kills, so that each hits the run at another place.
            let results = status["engine"]["results"].as_u64().unwrap();
            node.wait_until("work is done", |status| status["engine"]["results"].as_u64() > Some(results + 10));
            signal_process(u32::try_from(status["devices"][0]["worker_pid"].as_u64().unwrap()).unwrap(), "KILL");
            if running.is_finished() {
                break;
            }
        }
        assert!(!running.is_finished(), "the run was over before the tenth kill: make it longer");
        running.join().unwrap()
    });
    assert!(disturbed.status.success(), "{}", support::complaint(&disturbed));
    let (before, after) = (comparable(&undisturbed), comparable(&disturbed));
    assert!(before.len() > 800, "{} events", before.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after);
    }
    assert_eq!(before.len(), after.len());
}

#[test]
fn at_real_speed_what_a_restart_cost_is_told_as_a_gap() {
    let node = Node::start("load = [\"nanodet\"]\n");
    let clip = media("carphone_pristine.mp4");
    let worker = node.worker_pid();
    let output = std::thread::scope(|scope| {
        let running =
            scope.spawn(|| node.command(&["run", "--json", "--budget", "200ms"]).arg(&clip).output().unwrap());
        node.wait_until("frames flow", |status| status["engine"]["results"].as_u64() > Some(3));
        signal_process(worker, "KILL");
        running.join().unwrap()
    });
    assert!(output.status.success(), "{}", support::complaint(&output));
    let events = events(&output);
    let lost: u64 =
        events.iter().filter(|event| event["kind"] == "gap").map(|gap| gap["units"].as_u64().unwrap()).sum();
    let seen = events.iter().filter(|event| event["kind"] == "detection").count() as u64;
    let last = events.last().unwrap();
    assert!(lost > 0, "nothing was lost?");
    assert_eq!(lost + seen, last["frames"].as_u64().unwrap(), "every frame is either looked at or in a gap");
}

#[test]
fn memory_of_jobs_taken_back_while_they_run_comes_back_even_if_the_worker_dies() {
    let node = Node::start(&format!("{IDENTITY}[inject]\nhang_on_prefix = \"stuck\"\n"));
    let worker = node.worker_pid();
    local(async {
        let client = node.client().await;
        let stuck = client.submit(identity(5), &b"stuck"[..]);
        // Given up on by its client once it runs.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), stuck).await;
        loop {
            let status: serde_json::Value = serde_json::from_str(&client.query("status").await.unwrap()).unwrap();
            if status["engine"]["cancelled"] == 1 {
                let out = status["engine"]["slab_bytes_out"].as_u64();
                break assert!(out > Some(0), "a running job's memory must not be given out: {status}");
            }
        }
    });
    signal_process(worker, "KILL");
    node.wait_until("all memory is back", |status| {
        status["engine"]["jobs_in_flight"] == 0 && status["engine"]["slab_bytes_out"] == 0
    });
}

#[test]
fn sounds_that_were_not_named_in_time_are_told_as_gaps() {
    let node = Node::start("load = [\"yamnet\"]\n[inject]\ndelay_stage = \"infer\"\ndelay_us = 400000\n");
    let clip = media("librivox/sense_and_sensibility_01_austen_64kb-0880.wav");
    let output = node.command(&["run", "--json", "--budget", "200ms"]).arg(&clip).output().unwrap();
    assert!(output.status.success(), "{}", support::complaint(&output));
    let events = events(&output);
    let told = |event: &&serde_json::Value| {
        event["kind"] == "gap" && event["reason"].as_str().unwrap().starts_with("sounds not named: deadline_expired")
    };
    let gap = events.iter().find(told).unwrap_or_else(|| panic!("silence: {events:?}"));
    assert_eq!(gap["modality"], "audio");
    assert!(gap["units"].as_u64() > Some(1), "{gap}");
    assert!(!events.iter().any(|event| event["kind"] == "sound"), "a late answer was used: {events:?}");
    assert!(events.last().unwrap()["gaps"].as_u64() >= Some(1));
}
