//! A model that is split by stages over two devices of the processor: real workers, which are killed, too.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use sensorium_client::{Answer, Client, Job};
use sensorium_wire::limits::COALESCED_PAYLOAD_BYTES_MAX;
use sensorium_wire::receipt::Stage;
use sensorium_wire::result::{Detection, ModelResult};
use sensorium_wire::{Outcome, Reason};
use serde_json::Value;
use support::{Node, ffmpeg, local, media, signal_process};

/// The whole network beside its two stages, each stage on a device of its own.
const SPLIT: &str = "load = [\"nanodet\", \"nanodet-split\"]\n\
    pin = { nanodet = [\"cpu:0\"], nanodet-split = [\"cpu:0\"], nanodet-split-2 = [\"cpu:1\"] }\n\
    [inject]\ncpu_devices = 2\n";
const FRAMES: usize = 4;
const JOBS: usize = 24;
/// How much of a box may differ, in pixels, and of its score: what is computed in batches is added up in another order.
const DIFFERENCE_MAX: f32 = 0.05;

fn start() -> Node {
    let node = Node::launch(SPLIT, &["--models", "cluster/models", "--models", "cluster/stages"]);
    node.both_ready();
    node
}

/// Pictures of a street with people, some seconds apart; small enough to come one after the other on one stream.
fn frames() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let pattern = folder.path().join("%d.jpg");
    let (video, pattern) = (media("vtest.avi"), pattern.to_str().unwrap());
    ffmpeg(&["-i", video.to_str().unwrap(), "-vf", "fps=0.5,scale=512:384", "-frames:v", "4", "-q:v", "5", pattern]);
    let read = |number| std::fs::read(folder.path().join(format!("{number}.jpg"))).unwrap();
    let frames: Vec<_> = (1..=FRAMES).map(read).collect();
    assert!(frames.iter().all(|frame| frame.len() as u64 <= COALESCED_PAYLOAD_BYTES_MAX));
    frames
}

fn boxes(answer: &Answer) -> Vec<Detection> {
    assert!(answer.is_result(), "{:?}", answer.rejection());
    let ModelResult::Detections { detections } = answer.result().unwrap() else { panic!("no boxes") };
    detections
}

fn same(found: &[Detection], expected: &[Detection]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.class, expected.class);
        assert!((found.score - expected.score).abs() < DIFFERENCE_MAX, "{found:?} {expected:?}");
        let sides = found.bbox.iter().zip(expected.bbox);
        assert!(sides.into_iter().all(|(a, b)| (a - b).abs() < DIFFERENCE_MAX), "{found:?} {expected:?}");
    }
}

async fn ask(client: &Client, model: &str, frame: &[u8]) -> Answer {
    client.submit(Job::image(model).deadline_ms(60_000), frame.to_vec()).await.unwrap()
}

/// What the whole network finds in each frame.
async fn expected(client: &Client, frames: &[Vec<u8>]) -> Vec<Vec<Detection>> {
    let mut all = Vec::new();
    for frame in frames {
        all.push(boxes(&ask(client, "nanodet", frame).await));
    }
    assert!(all.iter().all(|boxes| !boxes.is_empty()), "there are people in every frame");
    all
}

#[test]
fn two_stages_on_two_devices_answer_as_one_network() {
    let (node, frames) = (start(), frames());
    local(async {
        let client = node.client().await;
        let expected = expected(&client, &frames).await;
        for (frame, expected) in frames.iter().zip(&expected) {
            let answer = ask(&client, "nanodet-split", frame).await;
            same(&boxes(&answer), expected);
            let receipt = &answer.header.receipt;
            assert_eq!(receipt.device.as_str(), "cpu:0>cpu:1");
            assert_eq!((receipt.attempt, receipt.model_version), (1, 1));
            // Both stages are in the receipt, and their time is there once.
            assert!(receipt.stage_ns.iter().sum::<u64>() <= receipt.node_ns, "more than there was: {receipt:?}");
            assert!(receipt.unaccounted_ns() * 100 <= answer.total_ns, "{receipt:?}");
        }

        let stage = ask(&client, "nanodet-split-2", &frames[0]).await;
        let rejection = stage.rejection().unwrap();
        assert_eq!((stage.header.outcome, rejection.reason), (Outcome::Refused, Reason::UnknownModel));
        assert!(rejection.detail.contains("submit to the first"), "{}", rejection.detail);

        // Less than its second stage alone takes: refused by the header, before any work.
        let soon = Job::image("nanodet-split").deadline_ms(3);
        let late = client.submit(soon, frames[0].clone()).await.unwrap();
        assert_eq!(late.header.outcome, Outcome::Refused, "{:?}", late.header);
        assert_eq!(late.rejection().unwrap().reason, Reason::DeadlineUnreachable);

        let broken = ask(&client, "nanodet-split", b"no picture").await;
        assert_eq!(broken.header.outcome, Outcome::Failed);
        client.close().await;
    });
    let status = node.wait_until("nothing is left", |status| status["engine"]["jobs_in_flight"] == 0);
    assert_eq!(status["engine"]["slab_bytes_out"], 0, "a slot was lost: {status}");
}

/// Sends `jobs` jobs of all frames at once; `disturb` is called with the number of answers after each.
async fn crowd(
    node: &Node,
    frames: &[Vec<u8>],
    jobs: usize,
    disturb: impl Fn(usize) + 'static,
) -> Vec<(usize, Answer)> {
    let client = node.client().await;
    let expected = expected(&client, frames).await;
    let (answered, disturb) = (Rc::new(Cell::new(0)), Rc::new(disturb));
    let tasks: Vec<_> = (0..jobs)
        .map(|number| {
            let (client, frame) = (client.clone(), frames[number % FRAMES].clone());
            let (answered, disturb) = (Rc::clone(&answered), Rc::clone(&disturb));
            tokio::task::spawn_local(async move {
                let answer = ask(&client, "nanodet-split", &frame).await;
                answered.set(answered.get() + 1);
                disturb(answered.get());
                (answered.get(), answer)
            })
        })
        .collect();
    let mut answers = Vec::new();
    for (number, task) in tasks.into_iter().enumerate() {
        let (place, answer) = task.await.unwrap();
        same(&boxes(&answer), &expected[number % FRAMES]);
        answers.push((place, answer));
    }
    client.close().await;
    answers
}

#[test]
fn a_killed_worker_of_either_stage_loses_no_job_and_repeats_no_finished_stage() {
    let (node, frames) = (start(), frames());
    for stage in [1, 0] {
        let pid = |status: &Value| u32::try_from(status["devices"][stage]["worker_pid"].as_u64().unwrap()).unwrap();
        let before = pid(&node.both_ready());
        let answers = local(crowd(&node, &frames, JOBS, move |answered| {
            // Stopped first, so that it has something in its hands.
            if answered == 1 {
                signal_process(before, "STOP");
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(300));
                    signal_process(before, "KILL");
                });
            }
        }));
        assert_eq!(answers.len(), JOBS);
        let again = answers.iter().filter(|(_, answer)| answer.header.receipt.attempt > 1).count();
        // What was in its hands, and nothing else: two batches at most.
        assert!((1..=8).contains(&again), "stage {}: {again} of {JOBS} jobs ran again", stage + 1);
        let status = node.wait_until("another worker", |status| {
            let device = &status["devices"][stage];
            device["state"] == "ready" && device["restarts"] == 1 && status["engine"]["jobs_in_flight"] == 0
        });
        assert_ne!(pid(&status), before);
        assert_eq!(status["engine"]["slab_bytes_out"], 0, "a slot was lost: {status}");
    }
    // The receipts' times add up also for those that ran again.
    local(async {
        for (_, answer) in crowd(&node, &frames, 8, |_| ()).await {
            let receipt = &answer.header.receipt;
            assert!(receipt.stage_ns.iter().sum::<u64>() <= receipt.node_ns, "{receipt:?}");
            assert!(receipt.stage_ns[Stage::Infer as usize] > 0);
        }
    });
}

#[test]
fn jobs_of_a_stream_are_answered_in_their_order_and_one_that_is_taken_back_is_gone() {
    let (node, frames) = (start(), frames());
    local(async {
        let client = node.client().await;
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..16_u64)
            .map(|number| {
                let (client, order) = (client.clone(), Rc::clone(&order));
                let frame = frames[usize::try_from(number).unwrap() % FRAMES].clone();
                // Later ones have less time.
                let deadline_ms = 60_000 - 1_000 * number;
                let job = Job::image("nanodet-split").deadline_ms(deadline_ms);
                let job = job.stream(7, number, 1, i64::try_from(number).unwrap());
                tokio::task::spawn_local(async move {
                    let answer = client.submit(job, frame).await.unwrap();
                    assert!(answer.is_result(), "{:?}", answer.rejection());
                    order.borrow_mut().push(number);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.borrow(), (0..16).collect::<Vec<_>>());

        // Given up by the client in the middle: nothing of it stays.
        for wait_ms in [5, 60, 120] {
            let job = Job::image("nanodet-split").deadline_ms(60_000);
            let submitted = client.submit(job, frames[0].clone());
            let given_up = tokio::time::timeout(Duration::from_millis(wait_ms), submitted).await;
            drop(given_up);
        }
        client.close().await;
    });
    let status = node.wait_until("nothing is left", |status| {
        status["engine"]["jobs_in_flight"] == 0 && status["engine"]["slab_bytes_out"] == 0
    });
    assert_eq!(status["engine"]["failed"].as_u64().unwrap_or(0), 0, "{status}");
}

#[test]
fn of_more_than_can_be_done_in_time_each_has_one_outcome() {
    let (node, frames) = (start(), frames());
    let (mut results, mut refused) = (0, 0);
    local(async {
        let client = node.client().await;
        expected(&client, &frames).await;
        for deadline_ms in [150, 400, 1_000] {
            let asked = (0..60_usize).map(|number| {
                let (client, frame) = (client.clone(), frames[number % FRAMES].clone());
                let job = Job::image("nanodet-split").deadline_ms(deadline_ms).retry_refusals(0);
                tokio::task::spawn_local(async move { client.submit(job, frame).await.unwrap() })
            });
            for task in asked.collect::<Vec<_>>() {
                match task.await.unwrap().header.outcome {
                    Outcome::Result => results += 1,
                    Outcome::Refused => refused += 1,
                    Outcome::Expired => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        client.close().await;
    });
    assert!(results > 0 && refused > 0, "{results} results, {refused} refused");
    let status = node.wait_until("nothing is left", |status| {
        status["engine"]["jobs_in_flight"] == 0 && status["engine"]["slab_bytes_out"] == 0
    });
    assert!(status["devices"].as_array().unwrap().iter().all(|device| device["restarts"] == 0), "{status}");
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

#[test]
fn a_later_stage_that_cannot_be_loaded_is_named() {
    let models = tempfile::tempdir().unwrap();
    for name in ["nanodet-split", "nanodet-split-2"] {
        let folder = models.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let manifest = std::fs::read_to_string(format!("cluster/stages/{name}/model.toml")).unwrap();
        std::fs::write(folder.join("model.toml"), manifest.replace("nanodet-split-2.onnx", "gone.onnx")).unwrap();
    }
    let repository = models.path().to_str().unwrap();
    let node = Node::launch("load = [\"nanodet-split\"]\n", &["--models", repository]);
    node.wait_until("a device is ready", |status| status["devices"][0]["state"] == "ready");
    let answer = local(async { ask(&node.client().await, "nanodet-split", b"not looked at").await });
    let rejection = answer.rejection().unwrap();
    assert_eq!((answer.header.outcome, rejection.reason), (Outcome::Refused, Reason::ModelUnavailable));
    assert!(rejection.detail.contains("no device runs nanodet-split-2 now"), "{}", rejection.detail);
    drop(node);

    // Without its manifest the first cannot be used either, and says why.
    std::fs::remove_dir_all(models.path().join("nanodet-split-2")).unwrap();
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("node.toml");
    std::fs::write(&config, "load = [\"nanodet-split\"]\n").unwrap();
    let mut command = support::sensorium();
    command.args(["node", "--models", repository, "--listen", "127.0.0.1:0", "--listen-cluster", "127.0.0.1:0"]);
    let output = command.arg("--config").arg(&config).arg("--data").arg(data.path()).output().unwrap();
    let said = support::complaint(&output);
    assert!(!output.status.success() && said.contains("next: nanodet-split-2; there is no such model"), "{said}");
}
