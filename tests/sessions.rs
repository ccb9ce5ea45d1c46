//! Media files as sessions: what is found in them, what is wrong with them, and what survives a fault on the way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;
use support::{Node, children, complaint, events, ffmpeg, media, signal_process, spoken};

/// Everything that the demonstration needs.
const DEMO_MODELS: &str = "load = [\"nanodet\", \"silero-vad\", \"moonshine\", \"yamnet\", \"fusion\"]\n";

fn run(node: &Node, file: &Path, more: &[&str]) -> Output {
    node.command(&["run", "--fast", "--json"]).args(more).arg(file).output().unwrap()
}

fn whole(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", complaint(output));
    let events = events(output);
    let numbers: Vec<_> = events.iter().map(|event| event["number"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "events are lost or out of order: {numbers:?}");
    let last = events.last().unwrap();
    assert_eq!((last["kind"].as_str(), last["complete"].as_bool()), (Some("closed"), Some(true)), "{last}");
    events
}

fn of_kind<'a>(events: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
    events.iter().filter(move |event| event["kind"] == kind)
}

fn at(event: &Value, field: &str) -> i64 {
    event[field].as_i64().unwrap_or_else(|| panic!("no {field} in {event}"))
}

/// The strongest class of a fusion event, and the intensity.
fn moment(event: &Value) -> (String, f64) {
    let classes = event["events"].as_array().unwrap();
    let score = |class: &Value| class["score"].as_f64().unwrap();
    let top = classes.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
    (top["label"].as_str().unwrap().to_owned(), event["intensity"].as_f64().unwrap())
}

#[test]
fn the_demonstration_is_understood() {
    let node = Node::start(DEMO_MODELS);
    let out = tempfile::tempdir().unwrap();
    let output = run(&node, &media("demo.mkv"), &["--out", out.path().to_str().unwrap()]);
    let events = whole(&output);
    let truth: Value = serde_json::from_slice(&std::fs::read(media("demo.truth.json")).unwrap()).unwrap();
    let told = truth["speech"].as_array().unwrap();

    let segments: Vec<_> = of_kind(&events, "speech").filter(|event| event["active"] == false).collect();
    let transcripts: Vec<_> = of_kind(&events, "transcript").filter(|event| event["final"] == true).collect();
    assert_eq!((segments.len(), transcripts.len()), (told.len(), told.len()), "{segments:?} {transcripts:?}");
    for ((segment, transcript), told) in segments.iter().zip(&transcripts).zip(told) {
        for side in ["start_ms", "end_ms"] {
            assert!((at(segment, side) - at(told, side)).abs() <= 100, "{side}: {segment}, truth {told}");
        }
        assert_eq!(spoken(transcript["text"].as_str().unwrap()), told["text"].as_str().unwrap());
    }

    let tone = &truth["tone"];
    let in_tone =
        |event: &Value| at(event, "start_ms") < at(tone, "end_ms") && at(event, "end_ms") > at(tone, "start_ms");
    let names = ["Sine wave", "Dial tone", "Telephone", "Busy signal"];
    let heard = of_kind(&events, "sound").filter(|sound| in_tone(sound));
    let heard: Vec<_> = heard.map(|sound| sound["label"].as_str().unwrap()).collect();
    assert!(heard.iter().any(|label| names.contains(label)), "the tone is not heard: {heard:?}");

    let moments: Vec<_> = of_kind(&events, "fusion").filter(|event| in_tone(event)).map(moment).collect();
    assert!(moments.iter().any(|(label, intensity)| label == "alarm" && *intensity >= 0.5), "{moments:?}");
    let others = of_kind(&events, "fusion").filter(|event| at(event, "end_ms") <= 15_000).map(moment);
    for (label, intensity) in others {
        assert_ne!(label, "alarm", "an alarm (intensity {intensity}) before anything sounds");
    }

    assert_eq!(of_kind(&events, "gap").count(), 0);
    let last = events.last().unwrap();
    assert_eq!((&last["frames"], &last["gaps"]), (&truth["frames"], &Value::from(0)), "{last}");
    // The file's sound ends a packet or two (of 64 ms) before its video.
    assert!((at(last, "audio_ms") - at(&truth, "duration_ms")).abs() <= 100, "{last}");
    assert_eq!(of_kind(&events, "detection").count(), 400);

    // The same again in files.
    let lines = std::fs::read_to_string(out.path().join("events.jsonl")).unwrap();
    assert_eq!(lines, String::from_utf8_lossy(&output.stdout));
    let srt = std::fs::read_to_string(out.path().join("transcript.srt")).unwrap();
    assert_eq!(srt.matches(" --> ").count(), told.len(), "{srt}");
    assert!(srt.starts_with("1\n00:00:03,"), "{srt}");
    for told in told {
        assert!(spoken(&srt).contains(told["text"].as_str().unwrap()), "{srt}");
    }
}

#[test]
fn half_a_file_or_none_is_said_and_the_node_lives() {
    let node = Node::start("load = [\"nanodet\", \"silero-vad\", \"moonshine\", \"yamnet\"]\n");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };

    let silent = folder.path().join("silent.avi");
    ffmpeg(&["-i", media("vtest.avi").to_str().unwrap(), "-t", "3", "-c", "copy", silent.to_str().unwrap()]);
    let events = whole(&run(&node, &silent, &[]));
    assert!(
        of_kind(&events, "notice").any(|notice| notice["text"].as_str().unwrap().contains("no sound")),
        "{events:?}"
    );
    let people = of_kind(&events, "detection").filter(|seen| !seen["detections"].as_array().unwrap().is_empty());
    assert_eq!(people.count() as i64, at(events.last().unwrap(), "frames"), "there is somebody in every frame");
    assert!(at(events.last().unwrap(), "frames") >= 29);

    let name = "librivox/sense_and_sensibility_01_austen_64kb-0930.wav";
    let events = whole(&run(&node, &media(name), &[]));
    assert!(
        of_kind(&events, "notice").any(|notice| notice["text"].as_str().unwrap().contains("no video")),
        "{events:?}"
    );
    let said: Vec<_> = of_kind(&events, "transcript").map(|event| spoken(event["text"].as_str().unwrap())).collect();
    assert_eq!(said, ["he might even have been made amiable himself"]);
    assert_eq!(at(events.last().unwrap(), "frames"), 0);

    let film = std::fs::read(media("bigbuckbunny.mp4")).unwrap();
    let noise: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
    let bad = [
        ("noise.mp4", &noise[..], "not a media file"),
        ("text.mkv", &b"this is not a film"[..], "not a media file"),
        ("empty.mp4", &[][..], "0 bytes"),
        // Without its second half an MP4 lacks its table of contents, or most of what that names.
        ("half.mp4", &film[..film.len() / 2], ""),
    ];
    for (name, bytes, expected) in bad {
        let output = node.command(&["run", "--fast"]).arg(file(name, bytes)).output().unwrap();
        let complaint = complaint(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {complaint}");
        assert!(complaint.contains(expected) && !complaint.trim().is_empty(), "{name}: {complaint}");
        assert!(!complaint.contains("spool"), "{name}: the client does not know this file: {complaint}");
        node.proves_healthy();
    }
    node.wait_until("no session is left", |status| status["sessions"] == 0);
    let left = std::fs::read_dir(node.data.path().join("spool")).unwrap().count();
    assert_eq!(left, 0, "uploaded files are left");
    assert_eq!(children(node.pid(), "ffmpeg").len(), 0);
}

/// Waits for a decoder of the node, with some of its work done.
fn decoder(node: &Node, results_min: u64) -> u32 {
    node.wait_until("frames flow", |status| status["engine"]["results"].as_u64() > Some(results_min));
    let decoders = children(node.pid(), "ffmpeg");
    assert_eq!(decoders.len(), 1, "one session, one decoder");
    decoders[0]
}

#[test]
fn a_killed_decoder_costs_nothing_in_a_fast_run() {
    let node = Node::start("load = [\"nanodet\", \"yamnet\"]\n");
    let film = media("bigbuckbunny.mp4");
    let comparable = |output: &Output, kind: &str| {
        let events = whole(output);
        let mut lines: Vec<_> = of_kind(&events, kind).cloned().collect();
        for line in &mut lines {
            line.as_object_mut().unwrap().retain(|key, _| key != "receipt" && key != "number");
        }
        lines
    };
    let undisturbed = run(&node, &film, &[]);
    let before = node.status().unwrap()["engine"]["results"].as_u64().unwrap();
    let disturbed = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&node, &film, &[]));
        let first = decoder(&node, before + 5);
        signal_process(first, "KILL");
        node.wait_until("another decoder", |_| children(node.pid(), "ffmpeg").iter().any(|pid| *pid != first));
        assert!(!running.is_finished(), "the run was over before its decoder was killed");
        running.join().unwrap()
    });
    for kind in ["detection", "track", "sound", "gap", "closed"] {
        assert_eq!(comparable(&disturbed, kind), comparable(&undisturbed, kind), "{kind}");
    }
    assert_eq!(comparable(&disturbed, "detection").len(), 132);
}

#[test]
fn a_client_that_dies_takes_its_session_along() {
    let node = Node::start("load = [\"nanodet\", \"yamnet\"]\n");
    let mut client = node.command(&["run", "--json"]).arg(media("demo.mkv")).stdout(Stdio::null()).spawn().unwrap();
    decoder(&node, 3);
    assert_eq!(node.status().unwrap()["sessions"], 1);
    client.kill().unwrap();
    client.wait().unwrap();
    node.wait_until("the session is over", |status| status["sessions"] == 0);
    node.wait_until("the decoder is gone", |_| children(node.pid(), "ffmpeg").is_empty());
    node.wait_until("all memory is back", |status| {
        status["engine"]["jobs_in_flight"] == 0 && status["engine"]["slab_bytes_out"] == 0
    });
    let left = std::fs::read_dir(node.data.path().join("spool")).unwrap().count();
    assert_eq!(left, 0, "uploaded files are left");
    node.proves_healthy();
}
