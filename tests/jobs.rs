//! Jobs through a whole node: good ones give what the reference gives, bad ones an error that says what is wrong.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use sensorium_client::{Answer, Client, Job};
use sensorium_wire::{Dtype, Outcome, PixelFormat, Reason};
use serde_json::Value;
use support::{Node, block_on, complaint, ffmpeg, media, quiet_second, spoken};

fn reference(model: &str) -> Value {
    let path = format!("tests/data/reference/{model}.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Why a job was not done, its outcome first.
fn why(answer: &Answer) -> (Outcome, Reason, String) {
    let rejection = answer.rejection().expect("this job cannot be done");
    assert!(!rejection.detail.is_empty(), "{rejection}");
    (answer.header.outcome, rejection.reason, rejection.detail)
}

/// A small frame: it shares a stream with other jobs.
fn frame() -> (Job, Vec<u8>) {
    (Job::frame("nanodet", 120, 90, PixelFormat::Rgb24).deadline_ms(60_000), vec![90; 120 * 90 * 3])
}

async fn refused(client: &Client, job: Job, payload: impl Into<Vec<u8>>) -> (Outcome, Reason, String) {
    let answer = client.submit(job.deadline_ms(60_000), payload.into()).await.unwrap();
    why(&answer)
}

#[test]
fn bad_payloads_and_headers_are_refused_in_words() {
    let node = Node::start("load = [\"nanodet\", \"yamnet\", \"identity\"]\n");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };

    // Through the command line.
    let picture = folder.path().join("whole.jpg");
    ffmpeg(&["-i", media("vtest.avi").to_str().unwrap(), "-frames:v", "1", picture.to_str().unwrap()]);
    let picture = std::fs::read(picture).unwrap();
    let (half, done) = node.submit("nanodet", &file("half.jpg", &picture[..picture.len() / 2]), &[]);
    assert_eq!(
        (&half["outcome"], &half["reason"], done),
        (&"failed".into(), &"invalid_payload".into(), false),
        "{half}"
    );
    assert!(half["detail"].as_str().unwrap().contains("JPEG"), "{half}");

    let sound = std::fs::read(media("librivox/sense_and_sensibility_01_austen_64kb-0930.wav")).unwrap();
    for (at, lie) in [(40, u32::MAX), (24, 7), (22, 0xffff_ffff), (16, 3)] {
        let mut lying = sound.clone();
        lying[at..at + 4].copy_from_slice(&lie.to_le_bytes());
        let (answer, done) = node.submit("yamnet", &file("lying.wav", &lying), &[]);
        // A length that is too long is taken for what a stream writes; the rest cannot be heard at all.
        if !done {
            assert_eq!(
                (&answer["outcome"], &answer["reason"]),
                (&"failed".into(), &"invalid_payload".into()),
                "{answer}"
            );
            assert!(!answer["detail"].as_str().unwrap().is_empty(), "{answer}");
        } else {
            assert_eq!(at, 40, "byte {at}: {answer}");
        }
    }
    for (name, bytes, expected) in [("empty.png", &b""[..], "0 bytes"), ("letter.txt", &b"Dear"[..], "first bytes")] {
        let output = node.command(&["submit", "--model", "nanodet"]).arg(file(name, bytes)).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(complaint(&output).contains(expected), "{}", complaint(&output));
    }
    node.proves_healthy();

    block_on(async {
        let client = node.client().await;
        let (outcome, reason, detail) = refused(&client, Job::image("nanodet"), []).await;
        assert_eq!((outcome, reason), (Outcome::Failed, Reason::InvalidPayload), "{detail}");
        assert!(detail.contains("empty"), "{detail}");

        let (outcome, reason, detail) = refused(&client, Job::image("nanodte"), [0; 9]).await;
        assert_eq!((outcome, reason), (Outcome::Refused, Reason::UnknownModel), "{detail}");
        assert!(detail.contains("nanodte") && detail.contains("did you mean \"nanodet\""), "{detail}");

        let short = refused(&client, Job::tensor("identity", Dtype::F32, &[5]), [0; 16]).await;
        assert_eq!((short.0, short.1), (Outcome::Refused, Reason::InvalidShape), "{}", short.2);
        assert!(short.2.contains("20 bytes") && short.2.contains("16"), "{}", short.2);
        for job in [
            Job::tensor("nanodet", Dtype::F32, &[3, 16, 16]),
            Job::tensor("nanodet", Dtype::U8, &[3, 16, 64]),
            Job::frame("nanodet", 32, 31, PixelFormat::Rgb24),
        ] {
            let (outcome, reason, detail) = refused(&client, job, [0; 3072]).await;
            assert!(matches!(outcome, Outcome::Refused | Outcome::Failed), "{detail}");
            assert!(matches!(reason, Reason::InvalidShape | Reason::InvalidPayload), "{reason:?}: {detail}");
        }
        let (_, reason, detail) = refused(&client, Job::pcm("yamnet", Dtype::U8, 100, 1, 16_000), [0; 100]).await;
        assert_eq!(reason, Reason::InvalidHeader, "{detail}");
        assert!(detail.contains("i16 or f32"), "{detail}");
        let (_, _, detail) = refused(&client, Job::sound("nanodet"), sound.clone()).await;
        assert!(detail.contains("nanodet") || detail.contains("image"), "{detail}");

        let (job, payload) = frame();
        let late = why(&client.submit(job.deadline_ms(0), payload).await.unwrap());
        assert_eq!((late.0, late.1), (Outcome::Refused, Reason::DeadlinePassed), "{}", late.2);
        // A machine that is slow may use up so short a time before the node has the job at all: then that is said.
        let soon = loop {
            let (job, payload) = frame();
            let answer = why(&client.submit(job.deadline_ms(3), payload).await.unwrap());
            assert_eq!(answer.0, Outcome::Refused, "{}", answer.2);
            if answer.1 != Reason::DeadlinePassed {
                break answer;
            }
        };
        assert_eq!(soon.1, Reason::DeadlineUnreachable, "{}", soon.2);
        assert!(soon.2.starts_with("nanodet cannot be done within ") && soon.2.contains(" ms "), "{}", soon.2);

        // 33 MiB are refused by the header: most of them never leave this side.
        let large = vec![1_u8; 33 << 20];
        let bytes = u32::try_from(large.len()).unwrap();
        let sent = || client.connection().unwrap().stats().udp_tx.bytes;
        let before = sent();
        let (outcome, reason, detail) = refused(&client, Job::tensor("identity", Dtype::U8, &[bytes]), large).await;
        assert_eq!((outcome, reason), (Outcome::Refused, Reason::PayloadTooLarge), "{detail}");
        assert!(detail.contains(&bytes.to_string()) && detail.contains("33554432"), "{detail}");
        assert!(sent() - before < 16 << 20, "{} bytes went out", sent() - before);
        client.close().await;
    });
    node.proves_healthy();
    let status = node.wait_until("all memory is back", |status| status["engine"]["slab_bytes_out"] == 0);
    assert_eq!(status["devices"][0]["restarts"], 0, "{status}");
}

#[test]
fn lanes_do_not_wait_for_each_other_and_jobs_can_be_taken_back() {
    let node = Node::start("load = [\"nanodet\", \"yamnet\"]\n");
    block_on(tokio::task::LocalSet::new().run_until(async {
        let client = node.client().await;
        let order = RefCell::new(Vec::new());
        let submit = async |name: &'static str, (job, payload): (Job, Vec<u8>)| {
            let answer = client.submit(job, payload).await.unwrap();
            assert!(answer.is_result(), "{:?}", answer.rejection());
            order.borrow_mut().push(name);
        };
        let seeing = futures_util::future::join_all((0..20).map(|_| submit("nanodet", frame())));
        futures_util::join!(seeing, submit("yamnet", quiet_second()));
        let order = order.into_inner();
        assert_eq!(order.len(), 21);
        assert_eq!(order.last(), Some(&"nanodet"), "the sound waited for every picture: {order:?}");

        // Every second one is large and has a stream of its own.
        let large = || (Job::frame("nanodet", 480, 360, PixelFormat::Rgb24).deadline_ms(60_000), vec![90; 518_400]);
        let mut tasks: Vec<_> = (0..40)
            .map(|at: u32| {
                let (client, (job, payload)) = (client.clone(), if at.is_multiple_of(2) { frame() } else { large() });
                tokio::task::spawn_local(async move { client.submit(job, payload).await })
            })
            .collect();
        loop {
            let status: Value = serde_json::from_str(&client.query("status").await.unwrap()).unwrap();
            if status["engine"]["accepted"] == 61 {
                assert!(
                    status["engine"]["jobs_in_flight"].as_u64() > Some(20),
                    "too quick to take jobs back: {status}"
                );
                break;
            }
        }
        // The last ones wait in the queue still.
        let (kept, taken_back) = tasks.split_at_mut(20);
        taken_back.iter().for_each(tokio::task::JoinHandle::abort);
        for task in &mut *taken_back {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        for task in kept {
            assert!(task.await.unwrap().unwrap().is_result());
        }
        client.close().await;
    }));
    let status = node.wait_until("nothing is stuck", |status| {
        status["engine"]["jobs_in_flight"] == 0 && status["engine"]["slab_bytes_out"] == 0
    });
    let (cancelled, results) = (&status["engine"]["cancelled"], &status["engine"]["results"]);
    assert!(cancelled.as_u64() > Some(0), "{status}");
    assert_eq!(cancelled.as_u64().unwrap() + results.as_u64().unwrap(), 61, "{status}");
    node.proves_healthy();
}

#[test]
fn an_upload_that_is_taken_back_ends_at_once() {
    let node = Node::start("load = [\"identity\"]\n");
    const BYTES: u32 = 16 << 20;
    let payload: &'static [u8] = vec![1; BYTES as usize].leak();
    block_on(async {
        let client = node.client().await;
        let sent = || client.connection().unwrap().stats().udp_tx.bytes;
        // More often than a connection may have streams open.
        for _ in 0..300 {
            let before = sent();
            let begun = async {
                while sent() < before + 50_000 {
                    tokio::task::yield_now().await;
                }
            };
            let job = Job::tensor("identity", Dtype::U8, &[BYTES]).deadline_ms(60_000);
            tokio::select! {
                answer = client.submit(job, payload) => panic!("done before it could be taken back: {answer:?}"),
                () = begun => {}
            }
        }
        let answer = client.submit(Job::tensor("identity", Dtype::U8, &[BYTES]).deadline_ms(60_000), payload).await;
        assert!(answer.unwrap().payload == payload);
        client.close().await;
    });
    let status = node.wait_until("nothing is left", |status| status["engine"]["slab_bytes_out"] == 0);
    assert_eq!(status["engine"]["accepted"], 1, "jobs that were taken back were done: {status}");
}

type Box4 = [f64; 4];

/// Intersection over union, both clipped to an image.
fn overlap(a: &Value, b: &Value, [width, height]: [f64; 2]) -> f64 {
    let clip = |value: &Value| -> Box4 {
        let side = |at: usize| number(&value["box"][at]).clamp(0.0, if at.is_multiple_of(2) { width } else { height });
        std::array::from_fn(side)
    };
    let area = |[x1, y1, x2, y2]: Box4| (x2 - x1).max(0.0) * (y2 - y1).max(0.0);
    let (a, b) = (clip(a), clip(b));
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    both / (area(a) + area(b) - both)
}

/// Everything of `wanted` that scores clearly above `score_min` is in `found`.
fn assert_found(wanted: &[Value], found: &[Value], score_min: f64, size: [f64; 2], place: &str) {
    for wanted in wanted.iter().filter(|wanted| number(&wanted["score"]) >= score_min + 0.02) {
        let same = found.iter().any(|found| {
            found["label"] == wanted["label"]
                && (number(&found["score"]) - number(&wanted["score"])).abs() <= 0.02
                && overlap(found, wanted, size) >= 0.95
        });
        assert!(same, "{place}: {wanted} is not among {found:?}");
    }
}

/// A frame of a film as PNG.
fn extract(film: &Path, frame: u64, folder: &Path) -> PathBuf {
    let picture = folder.join(format!("{}.png", frame));
    let select = format!("select=eq(n\\,{frame})");
    let arguments = ["-vf", &select, "-frames:v", "1", "-pix_fmt", "rgb24", picture.to_str().unwrap()];
    ffmpeg(&[&["-i", film.to_str().unwrap()][..], &arguments].concat());
    picture
}

/// Part of a recording as WAV.
fn cut(recording: &Value, folder: &Path) -> PathBuf {
    let source = support::cache().join(recording["file"].as_str().unwrap());
    let (start, samples) = (number(&recording["start_sample"]), number(&recording["samples"]));
    let sound = folder.join("cut.wav");
    let trim = format!("atrim=start_sample={start}:end_sample={}", start + samples);
    let arguments = ["-i", source.to_str().unwrap(), "-af", &trim, "-c:a", "pcm_s16le", sound.to_str().unwrap()];
    ffmpeg(&arguments);
    sound
}

#[test]
fn answers_are_those_of_the_reference() {
    // A user's own model: a folder with a manifest, and the files beside it.
    let own = tempfile::tempdir().unwrap();
    let gate = own.path().join("gate");
    std::fs::create_dir(&gate).unwrap();
    let manifest = std::fs::read_to_string("cluster/models/nanodet/model.toml").unwrap();
    let manifest =
        manifest.replace("name = \"nanodet\"", "name = \"gate\"").replace("score_min = 0.4", "score_min = 0.7");
    assert!(manifest.contains("score_min = 0.7"), "the manifest is written otherwise now");
    std::fs::write(gate.join("model.toml"), manifest).unwrap();
    std::fs::copy("cluster/models/nanodet/coco80.txt", gate.join("coco80.txt")).unwrap();
    std::os::unix::fs::symlink(support::cache().join("models/nanodet/nanodet.onnx"), gate.join("nanodet.onnx"))
        .unwrap();

    let load = "load = [\"gate\", \"nanodet\", \"movenet\", \"moonshine\", \"yamnet\"]";
    let node = Node::start(&format!("models = [{:?}, \"cluster/models\"]\n{load}\n", own.path()));
    let folder = tempfile::tempdir().unwrap();
    let answer = |model: &str, file: &Path| -> Value {
        let (answer, done) = node.submit(model, file, &["--deadline", "60s"]);
        assert!(done, "{answer}");
        answer["answer"].clone()
    };

    let nanodet = reference("nanodet");
    for frame in list(&nanodet, "frames") {
        let picture = extract(
            &support::cache().join(frame["file"].as_str().unwrap()),
            frame["frame"].as_u64().unwrap(),
            folder.path(),
        );
        let (found, size) = (answer("nanodet", &picture), [number(&frame["width"]), number(&frame["height"])]);
        let (found, wanted) = (list(&found, "detections"), list(frame, "detections"));
        let place = format!("{} frame {}", frame["file"], frame["frame"]);
        assert_found(wanted, found, 0.4, size, &place);
        assert_found(found, wanted, 0.4, size, &place);
        let sure: Vec<_> = found.iter().filter(|found| number(&found["score"]) >= 0.7).cloned().collect();
        assert_eq!(list(&answer("gate", &picture), "detections"), sure, "{place}");
    }
    // A whole frame with one person; the others of the reference are parts of frames.
    let persons = reference("movenet");
    let whole = |person: &&Value| person["part"][2] == person["width"] && person["part"][3] == person["height"];
    for person in list(&persons, "persons").iter().filter(whole) {
        let film = support::cache().join(person["file"].as_str().unwrap());
        let picture = extract(&film, person["frame"].as_u64().unwrap(), folder.path());
        let found = answer("movenet", &picture);
        assert_eq!(found["type"], "pose");
        for (found, wanted) in list(&found, "keypoints").iter().zip(list(person, "keypoints")) {
            let off = |key: &str| (number(&found[key]) - number(&wanted[key])).abs();
            assert!(found["label"] == wanted["label"] && off("score") <= 0.02, "{found} {wanted}");
            let seen = number(&wanted["score"]) >= 0.3;
            assert!(!seen || (off("x") < 2.0 && off("y") < 2.0), "{found} {wanted}");
        }
        let shown = node.command(&["submit", "--model", "movenet"]).arg(&picture).output().unwrap();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.status.success() && text.contains("nose") && text.contains("right ankle"), "{text}");
    }
    for recording in list(&reference("moonshine"), "recordings") {
        let heard = answer("moonshine", &cut(recording, folder.path()));
        assert_eq!(heard["text"], recording["text"], "{}", recording["file"]);
        assert_eq!(spoken(heard["text"].as_str().unwrap()), recording["normalised"].as_str().unwrap());
    }
    for sound in list(&reference("yamnet"), "sounds") {
        let heard = answer("yamnet", &cut(sound, folder.path()));
        let (top, wanted) = (&heard["classes"][0], &sound["classes"][0]);
        assert_eq!((&top["label"], &heard["windows"]), (&wanted["label"], &sound["windows"]), "{heard}");
        assert!((number(&top["score"]) - number(&wanted["score"])).abs() < 0.01, "{heard}");
    }
}

#[test]
fn one_broken_model_hides_no_other() {
    let repository = tempfile::tempdir().unwrap();
    let folder = repository.path().join("nanodet");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy("cluster/models/nanodet/model.toml", folder.join("model.toml")).unwrap();
    std::fs::copy("cluster/models/nanodet/coco80.txt", folder.join("coco80.txt")).unwrap();
    let network = std::fs::read(support::cache().join("models/nanodet/nanodet.onnx")).unwrap();
    std::fs::write(folder.join("nanodet.onnx"), &network[..network.len() / 2]).unwrap();
    let load = "load = [\"nanodet\", \"yamnet\"]";
    let node = Node::start(&format!("models = [{:?}, \"cluster/models\"]\n{load}\n", repository.path()));
    let status = node.status().unwrap();
    let broken = list(&status["devices"][0], "broken_models");
    assert_eq!((broken.len(), &broken[0][0]), (1, &"nanodet".into()), "{status}");
    let reason = broken[0][1].as_str().unwrap();
    assert!(reason.contains(folder.join("nanodet.onnx").to_str().unwrap()) && reason.contains("sha256"), "{reason}");
    let shown = node.run(&["status"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(reason), "{shown:?}");
    node.wait_until("an alert tells of it", |status| {
        list(status, "alerts").iter().any(|alert| alert.as_str().unwrap().contains("does not run nanodet"))
    });
    block_on(async {
        let client = node.client().await;
        let (job, payload) = frame();
        let (outcome, reason, detail) = refused(&client, job, payload).await;
        assert_eq!((outcome, reason), (Outcome::Refused, Reason::ModelUnavailable), "{detail}");
        assert!(detail.contains("nanodet") && detail.contains("status"), "{detail}");
        client.close().await;
    });
    node.proves_healthy();
}
