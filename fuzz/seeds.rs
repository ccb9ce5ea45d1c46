//! Writes the corpus files that are made by code: small, whole inputs that every decoder accepts.
//!
//! What needs an encoder that this project does not have (images, NUT files) was written once by ffmpeg; see README.md.

use std::path::Path;
use std::{fs, io};

use sensorium_device::protocol::{
    AnswerEntry, AnswerHead, BatchHead, JobEntry, LaneReport, Measured, ModelReport, PlacementReport, WorkerReport,
    put_packet,
};
use sensorium_models::profile::{BatchProfile, Quantiles, ServiceProfile};
use sensorium_processing::npy;
use sensorium_wire::codec::{FrameWriter, Message, SUBMIT_BYTES_V0, encode, put_frame};
use sensorium_wire::frame::Kind;
use sensorium_wire::receipt::Receipt;
use sensorium_wire::result::{ClassScore, Detection, Keypoint, ModelResult};
use sensorium_wire::session::{CancelHeader, GrantHeader, SessionHeader};
use sensorium_wire::submit::Modality;
use sensorium_wire::{
    AnswerHeader, BodyKind, Dtype, Event, EventBody, JobId, Name, Outcome, PayloadKind, Reason, SubmitHeader,
};

/// Writes every file into `corpus`, and copies of the manifests in `models`.
pub fn write(corpus: &Path, models: &Path) -> io::Result<()> {
    let put = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus.join(target))?;
        fs::write(corpus.join(target).join(name), bytes)
    };
    for (name, bytes) in frames() {
        put("frame", name, &bytes)?;
    }
    for (name, header, payload_bytes) in submits() {
        let bytes = encode(&header);
        let length = u64::to_be_bytes(payload_bytes);
        put("submit", name, &[&length, bytes.as_slice()].concat())?;
        put("submit", &format!("{name}-v0"), &[&length, &bytes[..SUBMIT_BYTES_V0]].concat())?;
        put("header", name, &bytes)?;
    }
    put("header", "grant", &encode(&grant()))?;
    put("header", "answer", &encode(&answer()))?;
    put("header", "cancel", &encode(&CancelHeader { job_id: JobId([3; 16]) }))?;
    put("header", "session", &encode(&session()))?;
    let mut prelude = Vec::new();
    put_frame(&mut prelude, Kind::Submit, 7, &[], 12);
    put("header", "prelude", &prelude)?;
    put("principal", "client", b"sensorium://stadium/camera-7?roles=submit,critical")?;
    put("principal", "node", b"sensorium://stadium/edge.1?roles=submit,operate,peer&tier=edge")?;
    put("principal", "nothing", b"sensorium://a/b?roles=")?;
    for (name, result) in results() {
        put("message", name, &encode(&result))?;
    }
    for (name, event) in events() {
        put("message", name, &encode(&event))?;
    }
    put("npy", "f32", &npy::write(Dtype::F32, &[2, 3], &[1; 24]).map_err(io::Error::other)?)?;
    put("npy", "scalar", &npy::write(Dtype::I64, &[], &[2; 8]).map_err(io::Error::other)?)?;
    put("npy", "flags", &npy::write(Dtype::Bool, &[1, 1, 1, 1, 1, 5], &[1; 5]).map_err(io::Error::other)?)?;
    let text = b"{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }\n";
    put("npy", "version-2", &[&b"\x93NUMPY\x02\x00\x3a\x00\x00\x00"[..], text, &[1, 2, 3, 4]].concat())?;
    put("wav", "i16-mono", &wav(1, 1, 16_000, 16, &[], &[0x40; 200]))?;
    put("wav", "u8-stereo", &wav(1, 2, 8_000, 8, &[], &[0x90; 64]))?;
    put("wav", "f32-stereo", &wav(3, 2, 48_000, 32, &[], &0.5_f32.to_le_bytes().repeat(40)))?;
    let extension = [&[22, 0, 24, 0, 4, 0, 0, 0, 1, 0][..], &[0, 0, 0, 0, 16, 0, 128, 0, 0, 170, 0, 56, 155, 113]];
    put("wav", "i24-extensible", &wav(0xfffe, 1, 44_100, 24, &extension.concat(), &[0x10; 90]))?;
    put("tokenizer", "small", TOKENIZER.as_bytes())?;
    for entry in fs::read_dir(models)? {
        let entry = entry?;
        if let Ok(text) = fs::read(entry.path().join("model.toml")) {
            put("manifest", &entry.file_name().to_string_lossy(), &text)?;
        }
    }
    let mut packet = Vec::new();
    let job = JobEntry { run: 1, input_bytes: 64, shape: [1, 4, 4, 0, 0, 0], rank: 3, ..JobEntry::default() };
    put_packet(&mut packet, &BatchHead { batch: 1, sent_ns: 2, model: 0, jobs: 2 }, [job; 2]);
    put("worker_packet", "batch", &packet)?;
    let entry = AnswerEntry { run: 1, output_bytes: 9, infer_ns: 1_000, ..AnswerEntry::default() };
    put_packet(&mut packet, &AnswerHead { batch: 1, jobs: 3, ..AnswerHead::default() }, [entry; 3]);
    put("worker_packet", "answer", &packet)?;
    put("worker_report", "two-models", &serde_json::to_vec(&report())?)
}

/// A RIFF file of one format chunk, with `extension`, and one data chunk.
fn wav(tag: u16, channels: u16, rate_hz: u32, bits: u16, extension: &[u8], data: &[u8]) -> Vec<u8> {
    let frame_bytes = channels * bits / 8;
    let bytes = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let mut format = [tag.to_le_bytes(), channels.to_le_bytes()].concat();
    format.extend([rate_hz.to_le_bytes(), (rate_hz * u32::from(frame_bytes)).to_le_bytes()].concat());
    format.extend([frame_bytes.to_le_bytes(), bits.to_le_bytes()].concat());
    format.extend(extension);
    let chunks =
        [&b"WAVEfmt "[..], &bytes(format.len()), &format, b"LIST", &bytes(2), b"ab", b"data", &bytes(data.len()), data];
    let body = chunks.concat();
    [&b"RIFF"[..], &bytes(body.len()), &body].concat()
}

fn submits() -> [(&'static str, SubmitHeader, u64); 3] {
    let common = SubmitHeader {
        job_id: JobId([7; 16]),
        model: Name::cut("nanodet"),
        session: 1,
        stream: 2,
        sequence: 3,
        capture_ns: -4,
        budget_us: 75_000,
        ..SubmitHeader::default()
    };
    let (mut frame, mut sound) = (common, common);
    (frame.payload, frame.shape, frame.rank) = (PayloadKind::RawFrame, [4, 6, 0, 0, 0, 0], 2);
    (sound.payload, sound.shape, sound.rank) = (PayloadKind::Pcm, [160, 2, 0, 0, 0, 0], 2);
    (sound.dtype, sound.sample_rate_hz, sound.state_bytes) = (Dtype::I16, 16_000, 16);
    let image = SubmitHeader { payload: PayloadKind::EncodedImage, freshness_us: 9, digest: [8; 32], ..common };
    [("submit-frame", frame, 72), ("submit-sound", sound, 656), ("submit-image", image, 5_000)]
}

fn grant() -> GrantHeader {
    GrantHeader { jobs_in_flight_max: 64, sessions_max: 4, bytes_in_flight_max: 1 << 20, node: Name::cut("edge-1") }
}

fn session() -> SessionHeader {
    SessionHeader { session: 5, budget_us: 100_000, fast: 1, name: Name::cut("match.mkv"), ..SessionHeader::default() }
}

fn answer() -> AnswerHeader {
    AnswerHeader {
        job_id: JobId([7; 16]),
        retry_after_us: 1_000,
        receipt: Receipt { node_ns: 9, batch_size: 2, attempt: 1, ..Receipt::default() },
        outcome: Outcome::Refused,
        reason: Reason::Overloaded,
        body: BodyKind::Text,
        dtype: Dtype::F32,
        ..AnswerHeader::default()
    }
}

fn results() -> [(&'static str, ModelResult); 6] {
    let detection = Detection { bbox: [1.0, 2.0, 3.0, 4.0], score: 0.5, class: 1, label: Name::cut("person") };
    let class = ClassScore { class: 4, score: 0.25, label: Name::cut("Speech") };
    let keypoint = Keypoint { x: 5.0, y: 6.0, score: 0.75, label: Name::cut("left wrist") };
    let speech = ModelResult::Speech { probabilities: vec![0.1, 0.9], window_ms: 32, state: vec![5; 40] };
    [
        ("result-detections", ModelResult::Detections { detections: vec![detection; 2] }),
        ("result-classes", ModelResult::Classes { classes: vec![class; 3], windows: 2 }),
        ("result-speech", speech),
        ("result-transcript", ModelResult::Transcript { text: "the quick brown fox".to_owned(), tokens: 6 }),
        ("result-fusion", ModelResult::Fusion { events: vec![class], intensity: 0.7 }),
        ("result-pose", ModelResult::Pose { keypoints: vec![keypoint; 17] }),
    ]
}

fn events() -> [(&'static str, Event); 4] {
    let event = |body, receipt| Event { t_ms: 40, number: 1, body, receipt };
    let detection = Detection { bbox: [0.0; 4], score: 0.5, class: 1, label: Name::cut("ball") };
    let (audio, reason) = (Name::cut("audio"), "the queue was full".to_owned());
    let transcript = EventBody::Transcript { start_ms: 1, end_ms: 900, r#final: true, text: "and it is in".to_owned() };
    [
        (
            "event-detection",
            event(EventBody::Detection { frame: 3, detections: vec![detection] }, Some(Receipt::default())),
        ),
        ("event-transcript", event(transcript, None)),
        ("event-gap", event(EventBody::Gap { modality: audio, start_ms: 1, end_ms: 2, units: 3, reason }, None)),
        ("event-notice", event(EventBody::Notice { text: "no sound".to_owned() }, None)),
    ]
}

fn frames() -> [(&'static str, Vec<u8>); 4] {
    fn add<T: Message>(out: &mut Vec<u8>, kind: Kind, header: &T, payload: &[u8]) {
        FrameWriter::default().put(out, kind, 11, header, payload.len() as u64);
        out.extend_from_slice(payload);
    }
    fn bare(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
        put_frame(out, kind, 12, &[], payload.len() as u64);
        out.extend_from_slice(payload);
    }
    let [frame, sound, image] = submits();
    let (mut jobs, mut answers, mut talk, mut old) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    add(&mut jobs, Kind::Submit, &frame.1, &[1; 72]);
    add(&mut jobs, Kind::Submit, &sound.1, &[2; 656]);
    add(&mut jobs, Kind::Cancel, &CancelHeader { job_id: JobId([7; 16]) }, &[]);
    add(&mut answers, Kind::Grant, &grant(), &[]);
    add(&mut answers, Kind::Answer, &answer(), b"the queue is full");
    bare(&mut answers, Kind::Event, &encode(&events()[3].1));
    add(&mut talk, Kind::Session, &session(), b"media");
    bare(&mut talk, Kind::Query, b"status");
    bare(&mut talk, Kind::Reply, b"{}");
    bare(&mut talk, Kind::Error, b"a frame was not valid");
    put_frame(&mut old, Kind::Submit, 13, &encode(&image.1)[..SUBMIT_BYTES_V0], 3);
    old[4] = 0;
    old.extend_from_slice(b"abc");
    [("jobs", jobs), ("answers", answers), ("talk", talk), ("version-0", old)]
}

fn report() -> WorkerReport {
    let times = Quantiles { p50_ns: 1_000, p99_ns: 2_000 };
    let batch = BatchProfile { jobs: 1, runs: 9, total: times, prepare: times, infer: times, interpret: times };
    let profile = ServiceProfile { batches: vec![batch], arena_bytes: 4_096 };
    let placement = PlacementReport {
        operators: [("CPUExecutionProvider".to_owned(), 3)].into(),
        off_gpu: vec![("Conv".to_owned(), 3)],
        ..PlacementReport::default()
    };
    let model = |name: &str, outcome| {
        let (name, placement) = (name.to_owned(), placement.clone());
        ModelReport { name, version: 1, load_ms: 20, outcome, note: None, placement }
    };
    let measured = Measured { variant: "fp32".to_owned(), profile };
    let models = vec![model("nanodet", Ok(measured)), model("yamnet", Err("the file is not there".to_owned()))];
    WorkerReport { lanes: vec![LaneReport { modality: Modality::Visual, models }], notes: Vec::new() }
}

const TOKENIZER: &str = r#"{
    "version": "1.0",
    "added_tokens": [
        {"id": 0, "content": "<unk>", "special": true},
        {"id": 2, "content": "</s>", "special": true},
        {"id": 9, "content": "[laughs]", "special": false}
    ],
    "model": {"type": "BPE", "vocab":
        {"<unk>": 0, "</s>": 2, "▁so": 3, "nne": 4, "<0xC3>": 5, "<0xA9>": 6, "▁": 7, "x": 34}, "merges": ["a b"]}
}
"#;
