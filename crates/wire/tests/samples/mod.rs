//! One message of every kind, with a different value in every field, so that swapped fields show.

use sensorium_wire::peer::{CheckpointHeader, ForwardHeader, HelloHeader, RecallHeader};
use sensorium_wire::receipt::{Hop, Receipt};
use sensorium_wire::result::{ClassScore, Detection, Keypoint, ModelResult};
use sensorium_wire::session::{CancelHeader, GrantHeader, SessionHeader};
use sensorium_wire::source::{LeaseAnswerHeader, LeaseAskHeader, OwnerHeader, WatchHeader};
use sensorium_wire::{
    AnswerHeader, BodyKind, Dtype, Event, EventBody, JobId, Name, Outcome, PayloadKind, PixelFormat, Prelude, Reason,
    SubmitHeader, Urgency, event::Track, frame,
};

/// `first`, `first + 1`, …
pub fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|index| first.wrapping_add(u8::try_from(index).expect("short arrays")))
}

pub fn prelude() -> Prelude {
    Prelude {
        version: frame::VERSION,
        kind: frame::Kind::Submit,
        header_bytes: 0x0102,
        correlation: 0x1112_1314_1516_1718,
        payload_bytes: 0x0121_2223,
    }
}

pub fn grant() -> GrantHeader {
    GrantHeader {
        jobs_in_flight_max: 0x0102_0304,
        sessions_max: 0x1112_1314,
        bytes_in_flight_max: 0x2122_2324_2526_2728,
        node: Name::cut("edge-1"),
    }
}

pub fn submit() -> SubmitHeader {
    SubmitHeader {
        job_id: JobId(counting(0xa0)),
        model: Name::cut("nanodet"),
        session: 0x0102_0304_0506_0708,
        stream: 0x1112_1314_1516_1718,
        sequence: 0x2122_2324_2526_2728,
        capture_ns: -0x3132_3334_3536_3738,
        budget_us: 0x4142_4344_4546_4748,
        clock: 0x5152_5354,
        attempt: 0x6162_6364,
        model_version: 0x7172_7374,
        sample_rate_hz: 0x8182_8384,
        state_bytes: 0x9192_9394,
        shape: [1, 2, 3, 4, 5, 0xf1f2_f3f4],
        rank: 6,
        dtype: Dtype::Bool,
        payload: PayloadKind::EncodedAudio,
        pixels: PixelFormat::Gray8,
        urgency: Urgency::Batch,
        reserved: [0xe1, 0xe2, 0xe3],
        freshness_us: 0xd1d2_d3d4_d5d6_d7d8,
        digest: counting(0x10),
    }
}

pub fn receipt() -> Receipt {
    Receipt {
        node_ns: 0x0102_0304_0506_0708,
        stage_ns: std::array::from_fn(|stage| 0x1100 + stage as u64),
        node: Name::cut("central-2"),
        device: Name::cut("cuda:1"),
        lane: 2,
        cached: 1,
        batch_size: 0x2122,
        attempt: 0x3132_3334,
        model_version: 0x4142_4344,
        age_ms: 0x5152_5354,
        variant: Name::cut("int8"),
    }
}

pub fn answer() -> AnswerHeader {
    AnswerHeader {
        job_id: JobId(counting(0xb0)),
        retry_after_us: 0x6162_6364_6566_6768,
        receipt: receipt(),
        shape: [6, 5, 4, 3, 2, 0xf1f2_f3f4],
        number: 0x7172_7374,
        outcome: Outcome::Cancelled,
        reason: Reason::Internal,
        body: BodyKind::Result,
        dtype: Dtype::F64,
        rank: 5,
        reserved: counting(0xe1),
        hops: Default::default(),
    }
}

pub fn answer_passed() -> AnswerHeader {
    let mut answer = answer();
    answer.passed(Hop { node: Name::cut("regional-1"), node_ns: 0x0102_0304_0506_0708 });
    answer.passed(Hop { node: Name::cut("edge-1"), node_ns: 0x1112_1314_1516_1718 });
    answer
}

pub fn forward() -> ForwardHeader {
    ForwardHeader {
        submit: submit(),
        principal: counting(0xc0),
        visited: [0x0102_0304_0506_0708, 0x1112_1314_1516_1718, 0x2122_2324_2526_2728],
        critical: 1,
        reserved: counting(0xd1),
    }
}

pub fn hello() -> HelloHeader {
    HelloHeader {
        instance: 0x0102_0304_0506_0708,
        cluster: Name::cut("three-tier"),
        name: Name::cut("edge-1"),
        region: Name::cut("north"),
        tier: 2,
        reserved: counting(0xd1),
    }
}

pub fn recall() -> RecallHeader {
    RecallHeader { job_id: JobId(counting(0xa0)), principal: counting(0xc0) }
}

pub fn checkpoint() -> CheckpointHeader {
    CheckpointHeader {
        principal: counting(0xc0),
        session: 0x0102_0304_0506_0708,
        epoch: 0x1112_1314_1516_1718,
        number: 0x2122_2324_2526_2728,
        act: 1,
        reserved: counting(0xd1),
        age_ms: u32::from_le_bytes(counting(0xd4)),
    }
}

pub fn watch() -> WatchHeader {
    WatchHeader { source: Name::cut("door"), epoch: 0x0102_0304_0506_0708, next_event: 0x1112_1314_1516_1718 }
}

pub fn owner() -> OwnerHeader {
    OwnerHeader {
        epoch: 0x0102_0304_0506_0708,
        retry_after_ms: 0x1112_1314_1516_1718,
        node: Name::cut("edge-2"),
        api: Name::cut("10.0.0.6:7401"),
        here: 1,
        reserved: counting(0xd1),
    }
}

pub fn lease_ask() -> LeaseAskHeader {
    LeaseAskHeader { source: Name::cut("door"), epoch: 0x0102_0304_0506_0708, act: 1, reserved: counting(0xd1) }
}

pub fn lease_answer() -> LeaseAnswerHeader {
    LeaseAnswerHeader {
        epoch: 0x0102_0304_0506_0708,
        ttl_ms: 0x1112_1314_1516_1718,
        holder: 0x2122_2324_2526_2728,
        left_ms: 0x3132_3334_3536_3738,
        verdict: 2,
        reserved: counting(0xd1),
    }
}

pub fn cancel() -> CancelHeader {
    CancelHeader { job_id: JobId(counting(0xc0)) }
}

pub fn session() -> SessionHeader {
    SessionHeader {
        session: 0x0102_0304_0506_0708,
        budget_us: 0x1112_1314_1516_1718,
        fast: 1,
        resume: 1,
        reserved: counting(0xe1),
        name: Name::cut("derby.mkv"),
        next_event: 0x2122_2324_2526_2728,
        seen_ms: 0x3132_3334_3536_3738,
    }
}

fn detection(class: u32) -> Detection {
    Detection { bbox: [1.0, 2.5, 30.0, 40.25], score: 0.75, class, label: Name::cut("person") }
}

fn class(class: u32) -> ClassScore {
    ClassScore { class, score: 0.5, label: Name::cut("Cheering") }
}

fn keypoint(x: f32, label: &str) -> Keypoint {
    Keypoint { x, y: 12.5, score: 0.625, label: Name::cut(label) }
}

/// Every kind of result, by name.
pub fn results() -> Vec<(&'static str, ModelResult)> {
    let speech = ModelResult::Speech { probabilities: vec![0.125, 0.875], window_ms: 32, state: vec![1, 2, 3, 4, 5] };
    let results = vec![
        ModelResult::Detections { detections: vec![detection(7), detection(8)] },
        ModelResult::Classes { classes: vec![class(66), class(67)], windows: 3 },
        speech,
        ModelResult::Transcript { text: "what a goal".to_owned(), tokens: 4 },
        ModelResult::Fusion { events: vec![class(1)], intensity: 0.9 },
        ModelResult::Pose { keypoints: vec![keypoint(8.0, "nose"), keypoint(9.5, "left eye")] },
    ];
    results.into_iter().map(|result| (result_name(&result), result)).collect()
}

/// Without `_`: a new kind has to be named here, and then misses its fixture.
fn result_name(result: &ModelResult) -> &'static str {
    match result {
        ModelResult::Detections { .. } => "result-detections",
        ModelResult::Classes { .. } => "result-classes",
        ModelResult::Speech { .. } => "result-speech",
        ModelResult::Transcript { .. } => "result-transcript",
        ModelResult::Fusion { .. } => "result-fusion",
        ModelResult::Pose { .. } => "result-pose",
    }
}

/// Every kind of event, by name; every other one with a receipt.
pub fn events() -> Vec<(&'static str, Event)> {
    let track = Track {
        id: 9,
        bbox: [0.5, 1.5, 2.5, 3.5],
        score: 0.25,
        class: 32,
        label: Name::cut("sports ball"),
        age_frames: 12,
    };
    let (start_ms, end_ms) = (1_000, 1_960);
    let bodies = vec![
        EventBody::Opened {
            video: true,
            audio: false,
            width: 1_920,
            height: 1_080,
            frame_rate: 29.97,
            sample_rate_hz: 48_000,
            duration_ms: 5_400_000,
        },
        EventBody::Detection { frame: 77, detections: vec![detection(3)] },
        EventBody::Track { frame: 78, tracks: vec![track, Track { id: 10, ..track }] },
        EventBody::Sound { active: true, start_ms, end_ms, label: Name::cut("Whistle"), score: 0.625 },
        EventBody::Speech { active: false, start_ms, end_ms },
        EventBody::Transcript { start_ms, end_ms, r#final: true, text: "and it is in".to_owned() },
        EventBody::Fusion { start_ms, end_ms, events: vec![class(2)], intensity: 0.375 },
        EventBody::Gap {
            modality: Name::cut("audio"),
            start_ms,
            end_ms,
            units: 30,
            reason: "the queue was full".to_owned(),
        },
        EventBody::Notice { text: "the file has no sound".to_owned() },
        EventBody::Closed { complete: true, frames: 132, audio_ms: 5_280, gaps: 1, error: "none at all".to_owned() },
        EventBody::Resumed { epoch: 2, from_ms: 41_000, node: Name::cut("regional-1") },
        EventBody::Missed { events: 0x0102_0304 },
    ];
    let event = |number: u64, body| {
        let receipt = (number % 2 == 1).then(receipt);
        Event { t_ms: 0x0102_0304_0506_0708, number, body, receipt }
    };
    (0..).zip(bodies).map(|(number, body)| (event_name(&body), event(number, body))).collect()
}

fn event_name(body: &EventBody) -> &'static str {
    match body {
        EventBody::Opened { .. } => "event-opened",
        EventBody::Detection { .. } => "event-detection",
        EventBody::Track { .. } => "event-track",
        EventBody::Sound { .. } => "event-sound",
        EventBody::Speech { .. } => "event-speech",
        EventBody::Transcript { .. } => "event-transcript",
        EventBody::Fusion { .. } => "event-fusion",
        EventBody::Gap { .. } => "event-gap",
        EventBody::Notice { .. } => "event-notice",
        EventBody::Closed { .. } => "event-closed",
        EventBody::Resumed { .. } => "event-resumed",
        EventBody::Missed { .. } => "event-missed",
    }
}
