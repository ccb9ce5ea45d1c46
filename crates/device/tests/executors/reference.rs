//! What other code (Python, NumPy, ONNX Runtime; `ops/reference`) made of the same media, recorded in
//! `tests/data/reference`. Every backend has to agree within tolerances that leave room for other arithmetic.

use std::fs;

use sensorium_device::backend::Backend;
use sensorium_processing::sound::decode_wav;
use sensorium_wire::result::{Detection, ModelResult};
use serde_json::Value;

use crate::cache::{cached, cpu, root};
use crate::harness::{Job, run, run_one};
use crate::images::TwinDevice;
use crate::media::frame;
use crate::models::{distance, iou, loaded, words};

/// How far a probability may be off.
const SCORE: f64 = 0.02;

fn reference(model: &str) -> Value {
    let file = root().join(format!("tests/data/reference/{model}.json"));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let reference: Value = serde_json::from_str(&text).unwrap();
    let version = crate::cache::package(model).manifest.version;
    assert_eq!(reference["version"], version, "{model} has changed; record its reference again with ops/reference");
    reference
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).filter(|items| !items.is_empty()).unwrap_or_else(|| panic!("no {key}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn whole(value: &Value) -> u32 {
    value.as_u64().and_then(|value| u32::try_from(value).ok()).unwrap_or_else(|| panic!("{value} is not a number"))
}

#[expect(clippy::cast_possible_truncation, reason = "recorded from f32")]
fn single(value: &Value) -> f32 {
    number(value) as f32
}

/// A piece of a recording as a job of float PCM.
fn piece(entry: &Value) -> Job {
    let wav = fs::read(cached(entry["file"].as_str().unwrap())).unwrap();
    let samples = decode_wav(&wav).unwrap().to_mono_at(16_000).unwrap();
    let start = entry.get("start_sample").map_or(0, whole) as usize;
    let piece = &samples[start..start + whole(&entry["samples"]) as usize];
    let dims = [u32::try_from(piece.len()).unwrap(), 1];
    Job { payload: sensorium_wire::PayloadKind::Pcm, sample_rate_hz: 16_000, ..Job::tensor(&dims, piece) }
}

/// Every box that is clearly above the threshold has its counterpart on the other side: same class, nearly the same
/// place and probability.
fn same_boxes(backend: &dyn Backend, model: &str) {
    let reference = reference(model);
    let mut executor = loaded(backend, model);
    let score_min = number(&reference["score_min"]);
    let mut compared = 0;
    for entry in items(&reference, "frames") {
        let [width, height] = ["width", "height"].map(|side| whole(&entry[side]));
        let video = entry["file"].as_str().unwrap().strip_prefix("media/").unwrap();
        let number_of_frame = whole(&entry["frame"]);
        let pixels = frame(video, number_of_frame, height as usize, width as usize);
        let ModelResult::Detections { detections } =
            run_one(executor.as_mut(), &Job::frame(height, width, pixels)).result()
        else {
            panic!("not detections")
        };
        #[expect(clippy::cast_precision_loss, reason = "sides of a picture")]
        let limits = [width as f32, height as f32, width as f32, height as f32];
        let expected: Vec<Detection> = entry["detections"]
            .as_array()
            .unwrap()
            .iter()
            .map(|found| Detection {
                // The reference does not clip.
                bbox: std::array::from_fn(|side| single(&found["box"][side]).clamp(0.0, limits[side])),
                score: single(&found["score"]),
                class: whole(&found["class"]),
                label: sensorium_wire::Name::cut(found["label"].as_str().unwrap()),
            })
            .collect();
        for (ours, theirs, what) in
            [(&expected, &detections, "missing"), (&detections, &expected, "not in the reference")]
        {
            for wanted in ours.iter().filter(|wanted| f64::from(wanted.score) >= score_min + SCORE) {
                let same = |found: &&Detection| found.class == wanted.class && iou(&found.bbox, &wanted.bbox) >= 0.95;
                let found = theirs.iter().find(same);
                let found =
                    found.unwrap_or_else(|| panic!("{video} {number_of_frame}: {wanted:?} is {what}: {theirs:?}"));
                assert!(f64::from((found.score - wanted.score).abs()) <= SCORE, "{wanted:?} {found:?}");
                assert_eq!(found.label, wanted.label);
                compared += 1;
            }
        }
    }
    assert!(compared > 20, "only {compared} boxes were compared");
}

/// How far a key point may be off, as a share of the picture's longer side.
const PLACE: f64 = 0.01;

/// Every key point that is clearly seen is at the same place and as sure.
fn same_points(backend: &dyn Backend) {
    let reference = reference("movenet");
    let mut executor = loaded(backend, "movenet");
    let mut compared = 0;
    for entry in items(&reference, "persons") {
        let [width, height] = ["width", "height"].map(|side| whole(&entry[side]));
        let video = entry["file"].as_str().unwrap().strip_prefix("media/").unwrap();
        let pixels = frame(video, whole(&entry["frame"]), height as usize, width as usize);
        let part: Vec<u32> = items(entry, "part").iter().map(whole).collect();
        let [x, y, part_width, part_height] = part[..] else { panic!("{part:?}") };
        let rows = pixels.chunks_exact(width as usize * 3).skip(y as usize).take(part_height as usize);
        let part = rows.flat_map(|row| &row[x as usize * 3..(x + part_width) as usize * 3]).copied().collect();
        let job = Job::frame(part_height, part_width, part);
        let ModelResult::Pose { keypoints } = run_one(executor.as_mut(), &job).result() else { panic!("not a pose") };
        let expected = items(entry, "keypoints");
        assert_eq!(keypoints.len(), expected.len());
        let side = f64::from(part_width.max(part_height));
        for (found, wanted) in keypoints.iter().zip(expected) {
            assert_eq!(found.label.as_str(), wanted["label"].as_str().unwrap());
            assert!((f64::from(found.score) - number(&wanted["score"])).abs() <= SCORE, "{video}: {found:?}, {wanted}");
            if number(&wanted["score"]) < 0.3 {
                continue;
            }
            // The reference does not clip.
            let off = |found: f32, wanted: &Value, end: u32| {
                (f64::from(found) - number(wanted).clamp(0.0, f64::from(end))).abs() / side
            };
            let off = off(found.x, &wanted["x"], part_width).max(off(found.y, &wanted["y"], part_height));
            assert!(off <= PLACE, "{video}: {found:?}, expected {wanted}");
            compared += 1;
        }
    }
    assert!(compared > 60, "only {compared} points were compared");
}

fn same_classes(backend: &dyn Backend) {
    let reference = reference("yamnet");
    let score_min = 0.05;
    let mut executor = loaded(backend, "yamnet");
    let sounds = items(&reference, "sounds");
    let jobs: Vec<_> = sounds.iter().map(piece).collect();
    for (entry, ran) in sounds.iter().zip(run(executor.as_mut(), &jobs)) {
        let ModelResult::Classes { classes, windows } = ran.result() else { panic!("{ran:?}") };
        assert_eq!(windows, whole(&entry["windows"]), "{}", entry["name"]);
        for wanted in items(entry, "classes").iter().filter(|wanted| number(&wanted["score"]) > score_min + SCORE) {
            let found = classes.iter().find(|found| found.class == whole(&wanted["class"]));
            let found = found.unwrap_or_else(|| panic!("{wanted} is missing: {classes:?}"));
            assert!((f64::from(found.score) - number(&wanted["score"])).abs() <= SCORE, "{wanted} {found:?}");
            let label = wanted["label"].as_str().unwrap();
            assert!(label.starts_with(found.label.as_str()), "{label} {found:?}");
        }
    }
}

fn same_voice(backend: &dyn Backend) {
    let reference = reference("silero-vad");
    let mut executor = loaded(backend, "silero-vad");
    for entry in items(&reference, "recordings") {
        let ran = run_one(executor.as_mut(), &piece(entry));
        let ModelResult::Speech { probabilities, .. } = ran.result() else { panic!("{ran:?}") };
        let expected = items(entry, "probabilities");
        assert_eq!(probabilities.len(), expected.len());
        for (index, (found, wanted)) in probabilities.iter().zip(expected).enumerate() {
            assert!((f64::from(*found) - number(wanted)).abs() <= SCORE, "window {index}: {found}, expected {wanted}");
        }
    }
}

fn same_words(backend: &dyn Backend) {
    let reference = reference("moonshine");
    let mut executor = loaded(backend, "moonshine");
    let (mut changed, mut all) = (0, 0);
    for entry in items(&reference, "recordings").iter().chain(items(&reference, "demo_segments")) {
        let ran = run_one(executor.as_mut(), &piece(entry));
        let ModelResult::Transcript { text, tokens } = ran.result() else { panic!("{ran:?}") };
        let expected = words(entry["text"].as_str().unwrap());
        let found = words(&text);
        if found == expected {
            // The reference counts the token that ends the text.
            assert_eq!(tokens as usize + 1, items(entry, "tokens").len());
        }
        changed += distance(&expected, &found);
        all += expected.len();
    }
    assert!(changed * 50 <= all, "{changed} of {all} words are not the reference's");
}

fn same_events(backend: &dyn Backend) {
    let reference = reference("fusion");
    let mut executor = loaded(backend, "fusion");
    let situations = items(&reference, "situations");
    let evidence = |entry: &Value| items(entry, "evidence").iter().map(single).collect::<Vec<_>>();
    let jobs: Vec<_> = situations.iter().map(|entry| Job::tensor(&[16], &evidence(entry))).collect();
    for (entry, ran) in situations.iter().zip(run(executor.as_mut(), &jobs)) {
        let ModelResult::Fusion { events, intensity } = ran.result() else { panic!("{ran:?}") };
        let names: Vec<_> = events.iter().map(|event| event.label.to_string()).collect();
        assert_eq!(
            names,
            reference["events"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect::<Vec<_>>()
        );
        let found = events.iter().map(|event| event.score).chain([intensity]);
        let expected = items(entry, "events").iter().chain([&entry["intensity"]]);
        for (found, wanted) in found.zip(expected) {
            assert!((f64::from(found) - number(wanted)).abs() < 1e-3, "{}: {found}, expected {wanted}", entry["name"]);
        }
    }
}

/// All that a backend has to reproduce.
fn contract(backend: &dyn Backend) {
    same_boxes(backend, "nanodet");
    same_boxes(backend, "centernet");
    same_points(backend);
    same_classes(backend);
    same_voice(backend);
    same_words(backend);
    same_events(backend);
}

#[test]
fn the_processor_agrees_with_the_references() {
    contract(&cpu());
}

#[test]
fn a_device_that_prepares_images_itself_agrees_with_the_references() {
    let device = TwinDevice::open();
    same_boxes(&device, "nanodet");
    same_boxes(&device, "centernet");
    same_points(&device);
}
