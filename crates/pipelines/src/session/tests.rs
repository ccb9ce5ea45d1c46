use proptest::prelude::*;
use sensorium_wire::ids::Name;
use sensorium_wire::result::{ClassScore, Detection};

use super::*;

fn detections(count: u16) -> Vec<Detection> {
    let at = |n: u16| f32::from(n) * 12.0;
    (0..count)
        .map(|n| Detection { bbox: [at(n), 0.0, at(n) + 10.0, 10.0], score: 0.9, class: 0, label: Name::cut("person") })
        .collect()
}

fn state(objects: u16, events: usize) -> SessionState {
    let mut tracker = Tracker::new(TrackSettings::default());
    for frame in 0..4 {
        tracker.update(frame * 100, frame, &detections(objects));
    }
    let mut segmenter = SpeechSegmenter::new(SpeechSettings::default(), 0);
    segmenter.push(&[0.9; 600]);
    let mut sounds = SoundEvents::new(SoundSettings::default());
    sounds.push(0, 975, &[ClassScore { class: 3, score: 0.8, label: Name::cut("Siren") }]);
    let tail = vec![vec![7; 300]; events];
    SessionState {
        duration_ms: 79_500,
        video: Some(VideoState {
            width: 768,
            height: 576,
            frame_rate: 10.0,
            ended: false,
            last: Some((3, 300)),
            gaps: 2,
            tracker,
            tail: tail.clone(),
        }),
        audio: Some(AudioState {
            ended: false,
            heard: 307_200,
            from: 1_000,
            gaps: 1,
            segmenter,
            detector: vec![1; 1_100],
            sounds,
            sounds_from: 300_000,
            pending: vec![Untranscribed { start_ms: 100, end_ms: 2_000, samples: 1_600..32_000 }],
            tail: tail.clone(),
        }),
        fusion: FusionState { windows: Some(vec![9; 500]), gaps: 0, tail },
    }
}

#[test]
fn a_state_comes_back_as_it_was() {
    for state in [
        state(20, 5),
        SessionState { video: None, ..state(0, 0) },
        SessionState { audio: None, fusion: FusionState::default(), ..state(3, 1) },
    ] {
        let bytes = state.encode();
        assert!(bytes.len() < 20_000, "{} bytes", bytes.len());
        assert_eq!(SessionState::decode(&bytes).unwrap(), state);
    }
    assert_eq!(state(1, 0).reached_ms(), 300);
    assert_eq!(SessionState { video: None, ..state(1, 0) }.reached_ms(), 19_200);
}

#[test]
fn the_fullest_state_fits_and_keeps_its_tracks() {
    let mut full = state(300, 200);
    full.fusion.windows = Some(vec![0; 12 << 10]);
    let audio = full.audio.as_mut().unwrap();
    audio.detector = vec![1; DETECTOR_BYTES_MAX];
    let bytes = full.encode();
    assert!(bytes.len() <= CHECKPOINT_BYTES_MAX, "{} bytes", bytes.len());
    let read = SessionState::decode(&bytes).unwrap();
    assert_eq!(read.video.as_ref().unwrap().tracker, full.video.as_ref().unwrap().tracker);
    assert_eq!(read.audio.as_ref().unwrap().segmenter, full.audio.as_ref().unwrap().segmenter);
    assert!(read.video.unwrap().tail.is_empty(), "the events go first");
}

#[test]
fn the_newest_events_are_kept() {
    let mut state = state(1, 0);
    state.fusion.tail = (0..100_u8).map(|n| vec![n; 1_000]).collect();
    let read = SessionState::decode(&state.encode()).unwrap();
    assert_eq!(read.fusion.tail.len(), 4);
    assert_eq!(read.fusion.tail[3], vec![99; 1_000]);
}

#[test]
fn another_version_is_refused_and_named() {
    let mut bytes = state(1, 0).encode();
    bytes[4] = 9;
    let error = SessionState::decode(&bytes).unwrap_err();
    assert_eq!(error, CheckpointError::Version { found: 9, expected: VERSION });
    assert_eq!(error.to_string(), "checkpoint of version 9, this build reads version 1");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300), headed in any::<bool>()) {
        let bytes = if headed { [&b"SSES\x01\x00"[..], &tail].concat() } else { tail };
        let _ = SessionState::decode(&bytes);
    }

    #[test]
    fn damaged_states_are_errors_or_usable(at in 0..4_000_usize, byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = state(6, 3).encode();
        let at = at % bytes.len();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(state) = SessionState::decode(&bytes) {
            let _ = state.reached_ms();
            prop_assert!(state.encode().len() <= CHECKPOINT_BYTES_MAX);
        }
    }
}
