//! A contract per model: what its executor must answer, on any backend.

use sensorium_device::backend::Backend;
use sensorium_device::executor::{Executor, load};
use sensorium_wire::rejection::Reason;
use sensorium_wire::result::{ClassScore, Detection, ModelResult};
use sensorium_wire::submit::PixelFormat;

use crate::cache::{cpu, package};
use crate::harness::{Job, run, run_one, run_with};
use crate::images::TwinDevice;
use crate::media::{frame, jpeg, spoken};

const VTEST: (usize, usize) = (576, 768);

pub(crate) fn loaded(backend: &dyn Backend, model: &str) -> Box<dyn Executor> {
    load(&package(model), backend).unwrap_or_else(|error| panic!("{error}"))
}

fn street(number: u32) -> Job {
    Job::frame(576, 768, frame("vtest.avi", number, VTEST.0, VTEST.1))
}

fn detections(result: &ModelResult) -> &[Detection] {
    let ModelResult::Detections { detections } = result else { panic!("{result:?}") };
    for pair in detections.windows(2) {
        assert!(pair[0].score >= pair[1].score, "best first: {detections:?}");
    }
    for detection in detections {
        let [x1, y1, x2, y2] = detection.bbox;
        assert!(x1 < x2 && y1 < y2, "{detection:?}");
        assert!(x1 >= 0.0 && y1 >= 0.0 && x2 <= 768.0 && y2 <= 576.0, "inside the image: {detection:?}");
        assert!((0.0..=1.0).contains(&detection.score));
    }
    detections
}

fn count(detections: &[Detection], label: &str) -> usize {
    detections.iter().filter(|detection| detection.label.as_str() == label).count()
}

pub(crate) fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |b: &[f32; 4]| (b[2] - b[0]).max(0.0) * (b[3] - b[1]).max(0.0);
    let both = area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    both / (area(a) + area(b) - both)
}

pub(crate) fn nanodet(backend: &dyn Backend) {
    let mut executor = loaded(backend, "nanodet");
    let jobs: Vec<_> = (0..6).map(|number| street(number * 100)).collect();
    let alone: Vec<_> = jobs.iter().map(|job| run_one(executor.as_mut(), job).result()).collect();
    for result in &alone {
        let persons = count(detections(result), "person");
        assert!((2..=12).contains(&persons), "{result:?}");
    }
    // Six jobs are more than fit one batch; batching changes nothing but the last digits.
    let together = run(executor.as_mut(), &jobs);
    for (alone, together) in alone.iter().zip(&together) {
        let (result, times) = (together.result(), together.times);
        assert!(times.prepare_ns > 0 && times.infer_ns > 0 && times.interpret_ns > 0, "{times:?}");
        assert_eq!(detections(alone).len(), detections(&result).len());
        for (a, b) in detections(alone).iter().zip(detections(&result)) {
            assert!(a.class == b.class && iou(&a.bbox, &b.bbox) > 0.99 && (a.score - b.score).abs() < 1e-3);
        }
    }
    // The same picture with its channels turned round and named so is the same picture.
    let mut turned = jobs[0].clone();
    turned.pixels = PixelFormat::Bgr24;
    turned.bytes.chunks_exact_mut(3).for_each(<[u8]>::reverse);
    assert_eq!(run_one(executor.as_mut(), &turned).result(), alone[0]);

    // One bad picture in a batch fails alone.
    let photo = jpeg("vtest.avi", 0);
    let cut = Job::image(photo[..photo.len() / 3].to_vec());
    let batch = [Job::image(photo), cut, Job::image(Vec::new()), spoken_wav(), jobs[0].clone()];
    let answers = run(executor.as_mut(), &batch);
    let from_jpeg = answers[0].result();
    assert!(count(detections(&from_jpeg), "person") >= 2, "{from_jpeg:?}");
    answers[1].refused(Reason::InvalidPayload, "");
    answers[2].refused(Reason::InvalidPayload, "");
    assert!(answers[3].answer.is_err());
    assert_eq!(detections(&answers[4].result()).len(), detections(&alone[0]).len());
    // And an answer that does not fit its place says so.
    run_with(executor.as_mut(), &jobs[..1], 16)[0].refused(Reason::ExecutionFailed, "output_bytes_max");
}

pub(crate) fn centernet(backend: &dyn Backend) {
    let mut executor = loaded(backend, "centernet");
    let jobs = [street(0), street(300)];
    for ran in run(executor.as_mut(), &jobs) {
        let result = ran.result();
        assert!(count(detections(&result), "person") >= 2, "{result:?}");
    }
}

/// A person who walks towards the camera, as a detector would cut it out, and the whole street.
pub(crate) fn movenet(backend: &dyn Backend) {
    let mut executor = loaded(backend, "movenet");
    let pixels = frame("vtest.avi", 200, VTEST.0, VTEST.1);
    let rows = pixels.chunks_exact(VTEST.1 * 3).skip(251).take(132);
    let person = Job::frame(132, 132, rows.flat_map(|row| &row[567 * 3..699 * 3]).copied().collect());
    let alone = run_one(executor.as_mut(), &person).result();
    let ModelResult::Pose { keypoints } = &alone else { panic!("{alone:?}") };
    assert_eq!(keypoints.len(), 17);
    let point = |label: &str| keypoints.iter().find(|point| point.label.as_str() == label).unwrap();
    for (above, below) in [("nose", "left shoulder"), ("left shoulder", "left hip"), ("left hip", "left ankle")] {
        assert!(point(above).y < point(below).y, "{above} is above {below}: {keypoints:?}");
        assert!(point(above).score > 0.5 && point(below).score > 0.5, "{keypoints:?}");
    }
    // The body is alike in a higher and in a wider picture: what is left over is to the right or below.
    for (height, width) in [(164, 132), (132, 164)] {
        let mut padded = vec![0; height * width * 3];
        for (row, target) in person.bytes.chunks_exact(132 * 3).zip(padded.chunks_exact_mut(width * 3)) {
            target[..132 * 3].copy_from_slice(row);
        }
        let [height, width] = [height, width].map(|side| u32::try_from(side).unwrap());
        let result = run_one(executor.as_mut(), &Job::frame(height, width, padded)).result();
        let ModelResult::Pose { keypoints: found } = &result else { panic!("{result:?}") };
        for (found, wanted) in found.iter().zip(keypoints).filter(|(_, wanted)| wanted.score > 0.6) {
            assert!((found.x - wanted.x).abs() < 8.0 && (found.y - wanted.y).abs() < 8.0, "{found:?} {wanted:?}");
        }
    }
    // One job at a time, whatever comes together; a bad one fails alone.
    let photo = jpeg("vtest.avi", 0);
    let answers = run(executor.as_mut(), &[person.clone(), Job::image(photo[..99].to_vec()), street(0), person]);
    answers[1].refused(Reason::InvalidPayload, "");
    assert_eq!((answers[0].result(), answers[3].result()), (alone.clone(), alone));
    let ModelResult::Pose { keypoints } = answers[2].result() else { panic!("{:?}", answers[2]) };
    assert!(keypoints.iter().all(|point| (0.0..=768.0).contains(&point.x) && (0.0..=576.0).contains(&point.y)));
}

fn spoken_wav() -> Job {
    Job::wav(spoken("0880").wav)
}

fn classes(result: &ModelResult) -> (&[ClassScore], u32) {
    let ModelResult::Classes { classes, windows } = result else { panic!("{result:?}") };
    assert!(classes.windows(2).all(|pair| pair[0].score >= pair[1].score), "{classes:?}");
    (classes, *windows)
}

pub(crate) fn yamnet(backend: &dyn Backend) {
    let mut executor = loaded(backend, "yamnet");
    let speech = spoken("0870");
    let tone: Vec<i16> = (0..32_000_u16)
        .map(|sample| {
            let wave = (f32::from(sample) / 16_000.0 * 1000.0 * std::f32::consts::TAU).sin();
            #[expect(clippy::cast_possible_truncation, reason = "a third of full scale")]
            let sample = (wave * 10_000.0) as i16;
            sample
        })
        .collect();
    let jobs = [Job::wav(speech.wav), Job::pcm(&tone), Job::pcm(&speech.samples[..15_600]), Job::pcm(&tone[..100])];
    let alone: Vec<_> = jobs.iter().map(|job| run_one(executor.as_mut(), job).result()).collect();
    let (heard, windows) = classes(&alone[0]);
    assert!(heard[0].label.as_str() == "Speech" && heard[0].score > 0.8, "{heard:?}");
    assert!(windows > 8, "more windows than fit one batch: {windows}");
    let (heard, windows) = classes(&alone[1]);
    assert!(
        heard.iter().take(4).any(|class| ["Sine wave", "Beep, bleep"].contains(&class.label.as_str())),
        "{heard:?}"
    );
    assert!((4..=5).contains(&windows), "{windows}");
    assert_eq!(classes(&alone[2]).1, 1);
    assert_eq!(classes(&alone[3]).1, 1, "less than a window is filled up");
    let together = run(executor.as_mut(), &jobs);
    for (alone, together) in alone.iter().zip(&together) {
        let together = together.result();
        let ((a, windows), (b, _)) = (classes(alone), classes(&together));
        assert_eq!(windows, classes(&together).1);
        assert!(a.iter().zip(b).all(|(a, b)| a.class == b.class && (a.score - b.score).abs() < 1e-3), "{a:?} {b:?}");
    }
    let bad = run(executor.as_mut(), &[Job::wav(b"RIFF".to_vec()), Job::pcm(&[]), street(0), Job::pcm(&tone)]);
    bad[0].refused(Reason::InvalidPayload, "");
    bad[1].refused(Reason::InvalidPayload, "");
    assert!(bad[2].answer.is_err() && bad[3].answer.is_ok());
}

fn speech(result: ModelResult) -> (Vec<f32>, Vec<u8>) {
    let ModelResult::Speech { probabilities, window_ms, state } = result else { panic!("{result:?}") };
    assert_eq!((window_ms, state.len()), (32, 2 * 128 * 4 + 64 * 4));
    (probabilities, state)
}

pub(crate) fn silero(backend: &dyn Backend) {
    let mut executor = loaded(backend, "silero-vad");
    let samples = spoken("0870").samples;
    let samples = &samples[..samples.len() / 512 * 512];
    let (whole, last) = speech(run_one(executor.as_mut(), &Job::pcm(samples)).result());
    assert_eq!(whole.len(), samples.len() / 512);
    let speaking = whole.iter().filter(|probability| **probability > 0.5).count();
    assert!(speaking * 2 > whole.len(), "most of it is speech: {whole:?}");
    let (silence, _) = speech(run_one(executor.as_mut(), &Job::pcm(&[0; 16_000])).result());
    assert!(silence.len() == 32 && silence.iter().all(|probability| *probability < 0.1), "{silence:?}");

    // In pieces, with the state travelling along, it is the same to the last bit.
    let (mut pieces, mut state) = (Vec::new(), Vec::new());
    for piece in samples.chunks(5 * 512) {
        let job = Job { state: std::mem::take(&mut state), ..Job::pcm(piece) };
        let (probabilities, next) = speech(run_one(executor.as_mut(), &job).result());
        pieces.extend(probabilities);
        state = next;
    }
    assert_eq!(pieces, whole);
    assert_eq!(state, last);

    // A job brings its own state: what ran before does not matter.
    let answers = run(executor.as_mut(), &[Job::pcm(&[0; 512]), Job::pcm(samples), Job::pcm(&[1; 700])]);
    assert_eq!(speech(answers[1].result()).0, whole);
    assert_eq!(speech(answers[2].result()).0.len(), 2, "the last window is filled up");
    let with = |state: Vec<u8>| Job { state, ..Job::pcm(&[0; 512]) };
    run_one(executor.as_mut(), &with(vec![0; 7])).refused(Reason::InvalidHeader, "this model's has 1280");
    run_one(executor.as_mut(), &with([0xff; 1280].to_vec())).refused(Reason::InvalidPayload, "not finite");
    run_one(executor.as_mut(), &Job::pcm(&[])).refused(Reason::InvalidPayload, "");
    run_one(executor.as_mut(), &Job::pcm(&vec![0; 512 * 4097])).refused(Reason::InvalidPayload, "4097 windows");
}

pub(crate) fn words(text: &str) -> Vec<String> {
    let plain = text.to_lowercase().replace('-', " ").replace("mr.", "mister");
    plain.split_whitespace().map(|word| word.chars().filter(|letter| letter.is_alphanumeric()).collect()).collect()
}

/// Words to change, add or drop to make one text of the other (Levenshtein).
pub(crate) fn distance(a: &[String], b: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, word) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let change = diagonal + usize::from(word != other);
            let least = change.min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row[b.len()]
}

pub(crate) fn moonshine(backend: &dyn Backend) {
    let mut executor = loaded(backend, "moonshine");
    let (mut wrong, mut all) = (0, 0);
    for number in ["0870", "0880", "0890", "0920", "0930"] {
        let spoken = spoken(number);
        let ran = run_one(executor.as_mut(), &Job::wav(spoken.wav));
        let ModelResult::Transcript { text, tokens } = ran.result() else { panic!("{ran:?}") };
        assert!(tokens >= 5 && ran.answer.as_ref().unwrap().work == tokens);
        let (said, heard) = (words(&spoken.words), words(&text));
        wrong += distance(&said, &heard);
        all += said.len();
    }
    assert!(wrong * 100 <= all * 12, "{wrong} of {all} words are wrong");
    // Hardly any sound is an answer too; nothing, or too much, is not.
    assert!(run_one(executor.as_mut(), &Job::pcm(&[0; 10])).answer.is_ok());
    run_one(executor.as_mut(), &Job::pcm(&[])).refused(Reason::InvalidPayload, "");
    run_one(executor.as_mut(), &Job::pcm(&vec![0; 16_000 * 31])).refused(Reason::InvalidPayload, "at most 30 seconds");
}

pub(crate) fn fusion(backend: &dyn Backend) {
    let mut executor = loaded(backend, "fusion");
    let quiet = [0.0; 16];
    let mut alarm = quiet;
    alarm[10] = 1.0;
    let two = [quiet, alarm].concat();
    let jobs = [
        Job::tensor(&[16], &quiet),
        Job::tensor(&[1, 16], &alarm),
        Job::tensor(&[2, 16], &two),
        Job::tensor(&[15], &quiet[..15]),
    ];
    let answers = run(executor.as_mut(), &jobs);
    let mut intensities = Vec::new();
    for (answer, expected) in answers.iter().zip(["quiet", "alarm"]) {
        let ModelResult::Fusion { events, intensity } = answer.result() else { panic!("{answer:?}") };
        let labels: Vec<_> = events.iter().map(|event| event.label.as_str().to_owned()).collect();
        assert_eq!(labels, ["quiet", "conversation", "traffic", "crowd", "alarm", "impact"]);
        let best = events.iter().max_by(|a, b| a.score.total_cmp(&b.score)).unwrap();
        assert!(best.label.as_str() == expected && best.score > 0.5, "{events:?}");
        intensities.push(intensity);
    }
    assert!(intensities[0] < intensities[1] && intensities.iter().all(|value| (0.0..=1.0).contains(value)));
    answers[2].refused(Reason::InvalidShape, "one row");
    answers[3].refused(Reason::InvalidShape, "takes [16] or [N,16]");
}

#[test]
fn nanodet_on_the_processor() {
    nanodet(&cpu());
}

#[test]
fn centernet_on_the_processor() {
    centernet(&cpu());
}

#[test]
fn movenet_on_the_processor() {
    movenet(&cpu());
}

#[test]
fn yamnet_on_the_processor() {
    yamnet(&cpu());
}

#[test]
fn silero_on_the_processor() {
    silero(&cpu());
}

#[test]
fn moonshine_on_the_processor() {
    moonshine(&cpu());
}

#[test]
fn fusion_on_the_processor() {
    fusion(&cpu());
}

#[test]
fn models_of_images_on_a_device_that_prepares_them_itself() {
    let device = TwinDevice::open();
    nanodet(&device);
    centernet(&device);
    movenet(&device);
}
