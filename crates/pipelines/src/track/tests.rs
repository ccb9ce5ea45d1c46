use proptest::prelude::*;

use super::*;

const FRAME_MS: u64 = 100;

fn detection(x: f32, y: f32, class: u32, score: f32) -> Detection {
    let label = Name::cut(if class == 0 { "person" } else { "car" });
    Detection { bbox: [x - 20.0, y - 50.0, x + 20.0, y + 50.0], score, class, label }
}

fn ids(tracks: &[Track]) -> Vec<u64> {
    tracks.iter().map(|track| track.id).collect()
}

/// The id of the track whose centre is nearest to `x`.
fn nearest(tracks: &[Track], x: f32) -> u64 {
    let off = |track: &Track| (f32::midpoint(track.bbox[0], track.bbox[2]) - x).abs();
    tracks.iter().min_by(|a, b| off(a).total_cmp(&off(b))).map_or(0, |track| track.id)
}

/// A little noise that is the same in every run.
fn jitter(frame: u16, salt: u16) -> f32 {
    f32::from((frame.wrapping_mul(31).wrapping_add(salt.wrapping_mul(17))) % 7) - 3.0
}

#[test]
fn three_frames_confirm_and_ids_count_from_one() {
    let mut tracker = Tracker::new(TrackSettings::default());
    assert!(tracker.update(0, 0, &[detection(100.0, 100.0, 0, 0.9)]).is_empty());
    assert!(tracker.update(100, 1, &[detection(103.0, 100.0, 0, 0.9)]).is_empty());
    let tracks = tracker.update(200, 2, &[detection(106.0, 100.0, 0, 0.8)]);
    assert_eq!(ids(&tracks), [1]);
    assert_eq!((tracks[0].age_frames, tracks[0].score, tracks[0].label.as_str()), (2, 0.8, "person"));
    assert_eq!(tracker.new_tracks(), 1);
    tracker.update(300, 3, &[detection(109.0, 100.0, 0, 0.9)]);
    assert_eq!(tracker.new_tracks(), 0);
}

#[test]
fn time_in_which_nobody_looked_does_not_count_as_being_hidden() {
    let seen = || {
        let mut tracker = Tracker::new(TrackSettings::default());
        for frame in 0..5 {
            tracker.update(frame * FRAME_MS, frame, &[detection(100.0, 100.0, 0, 0.9)]);
        }
        tracker
    };
    let again = |mut tracker: Tracker, t_ms| ids(&tracker.update(t_ms, 5, &[detection(104.0, 100.0, 0, 0.9)]));
    let mut tracker = seen();
    tracker.unwatched(8_000);
    assert_eq!(again(Tracker::restore(TrackSettings::default(), &tracker.checkpoint()).unwrap(), 8_500), [1]);
    assert!(again(seen(), 8_500).is_empty(), "one that was looked for and not found is given up");
    let mut tracker = seen();
    tracker.unwatched(UNWATCHED_MS_MAX + 1);
    assert!(again(tracker, 10_500).is_empty());
}

#[test]
fn two_that_cross_keep_their_ids() {
    let mut tracker = Tracker::new(TrackSettings::default());
    let mut before = (0, 0);
    for frame in 0..60_u16 {
        // They meet at frame 30 and hide each other for some frames: then there is one detection.
        let t = f32::from(frame);
        let (a, b) = (100.0 + 5.0 * t + jitter(frame, 1) * 0.5, 400.0 - 5.0 * t + jitter(frame, 2) * 0.5);
        let mut detections = vec![detection(a, 200.0, 0, 0.9)];
        if (a - b).abs() > 12.0 {
            detections.push(detection(b, 200.0, 0, 0.8));
        }
        let tracks = tracker.update(u64::from(frame) * FRAME_MS, frame.into(), &detections);
        if frame == 20 {
            before = (nearest(&tracks, a), nearest(&tracks, b));
            assert_ne!(before.0, before.1);
        }
        if frame == 59 {
            assert_eq!((nearest(&tracks, a), nearest(&tracks, b)), before);
            assert_eq!(tracks.len(), 2);
        }
    }
}

#[test]
fn hidden_for_less_than_a_second_keeps_the_id_and_longer_does_not() {
    for (hidden_frames, same) in [(9_u16, true), (12, false)] {
        let mut tracker = Tracker::new(TrackSettings::default());
        let mut last = Vec::new();
        for frame in 0..40_u16 {
            let visible = !(15..15 + hidden_frames).contains(&frame);
            let x = 100.0 + 8.0 * f32::from(frame) + jitter(frame, 3) * 0.5;
            let seen: Vec<Detection> = visible.then(|| detection(x, 200.0, 0, 0.9)).into_iter().collect();
            last = tracker.update(u64::from(frame) * FRAME_MS, frame.into(), &seen);
            assert!(visible || last.is_empty(), "what is hidden is not shown");
        }
        assert_eq!(ids(&last), [if same { 1 } else { 2 }], "hidden for {hidden_frames} frames");
    }
}

#[test]
fn chance_detections_never_confirm() {
    let mut tracker = Tracker::new(TrackSettings::default());
    let mut state = 1_u32;
    let mut random = |below: u16| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap_or(0) % below)
    };
    for frame in 0..300_u16 {
        let noise: Vec<Detection> =
            (0..3).map(|_| detection(random(2_000), random(1_500), u32::from(frame % 5), 0.95)).collect();
        let tracks = tracker.update(u64::from(frame) * FRAME_MS, frame.into(), &noise);
        assert!(tracks.is_empty(), "frame {frame}: {tracks:?}");
    }
}

#[test]
fn classes_are_not_mixed() {
    let mut tracker = Tracker::new(TrackSettings::default());
    let mut last = Vec::new();
    for frame in 0..5_u16 {
        let both = [detection(100.0, 100.0, 0, 0.9), detection(104.0, 100.0, 1, 0.9)];
        last = tracker.update(u64::from(frame) * FRAME_MS, frame.into(), &both);
    }
    assert_eq!(last.iter().map(|track| (track.id, track.class)).collect::<Vec<_>>(), [(1, 0), (2, 1)]);
    let only_car = tracker.update(500, 5, &[detection(100.0, 100.0, 1, 0.9)]);
    assert_eq!(ids(&only_car), [2]);
}

#[test]
fn a_weak_detection_keeps_an_object_but_starts_none() {
    let mut tracker = Tracker::new(TrackSettings::default());
    for frame in 0..4_u16 {
        tracker.update(u64::from(frame) * FRAME_MS, frame.into(), &[detection(100.0, 100.0, 0, 0.9)]);
    }
    let weak = [detection(100.0, 100.0, 0, 0.2), detection(500.0, 100.0, 0, 0.4)];
    for frame in 4..10_u16 {
        assert_eq!(ids(&tracker.update(u64::from(frame) * FRAME_MS, frame.into(), &weak)), [1]);
    }
}

#[test]
fn speed_is_in_heights_per_second() {
    let mut tracker = Tracker::new(TrackSettings::default());
    for frame in 0..30_u16 {
        // 10 pixels in 100 ms are one height of 100 pixels in a second.
        tracker.update(u64::from(frame) * FRAME_MS, frame.into(), &[detection(f32::from(frame) * 10.0, 100.0, 0, 0.9)]);
    }
    let speeds: Vec<f32> = tracker.speeds().collect();
    assert!(speeds.len() == 1 && (speeds[0] - 1.0).abs() < 0.05, "{speeds:?}");
}

#[test]
fn useless_boxes_and_crowds_are_bounded() {
    let mut tracker = Tracker::new(TrackSettings::default());
    let mut crowd = vec![detection(f32::NAN, 0.0, 0, 0.9), detection(0.0, f32::INFINITY, 0, 0.9)];
    crowd.push(Detection { score: f32::NAN, ..detection(0.0, 0.0, 0, 0.9) });
    for place in 0..400_u16 {
        crowd.push(detection(f32::from(place % 20) * 200.0, f32::from(place / 20) * 200.0, 0, 0.9));
    }
    let mut last = Vec::new();
    for frame in 0..3_u16 {
        last = tracker.update(u64::from(frame) * FRAME_MS, frame.into(), &crowd);
    }
    assert_eq!(last.len(), TRACKS_MAX);
    let bytes = tracker.checkpoint();
    assert!(bytes.len() < crate::checkpoint::CHECKPOINT_BYTES_MAX, "{}", bytes.len());
    assert_eq!(Tracker::restore(TrackSettings::default(), &bytes).unwrap(), tracker);
}

fn walk(tracker: &mut Tracker, frames: std::ops::Range<u16>) -> Vec<Track> {
    let mut last = Vec::new();
    for frame in frames {
        let at = f32::from(frame);
        let two = [detection(100.0 + at * 4.0, 100.0, 0, 0.9), detection(400.0, 100.0 + at * 2.0, 1, 0.7)];
        last = tracker.update(u64::from(frame) * FRAME_MS, frame.into(), &two[..1 + usize::from(frame % 4 != 0)]);
    }
    last
}

#[test]
fn a_restored_tracker_goes_on_as_if_nothing_had_happened() {
    let mut tracker = Tracker::new(TrackSettings::default());
    walk(&mut tracker, 0..13);
    let mut restored = Tracker::restore(TrackSettings::default(), &tracker.checkpoint()).unwrap();
    assert_eq!(walk(&mut restored, 13..40), walk(&mut tracker, 13..40));
    assert_eq!(restored.checkpoint(), tracker.checkpoint());
}

#[test]
fn wrong_bytes_say_what_is_wrong() {
    let mut tracker = Tracker::new(TrackSettings::default());
    walk(&mut tracker, 0..5);
    let good = tracker.checkpoint();
    let restore = |bytes: &[u8]| Tracker::restore(TrackSettings::default(), bytes).unwrap_err();
    assert_eq!(restore(b"SP"), CheckpointError::Truncated { what: "kind", bytes: 2 });
    assert!(matches!(restore(b"XXXX\x01\x00"), CheckpointError::Kind { .. }));
    let mut newer = good.clone();
    newer[4] = 9;
    assert_eq!(restore(&newer), CheckpointError::Version { found: 9, expected: VERSION });
    assert!(matches!(restore(&good[..good.len() - 1]), CheckpointError::Truncated { .. }));
    assert_eq!(restore(&[&good[..], &[0]].concat()), CheckpointError::Trailing { bytes: 1 });
    assert!(matches!(restore(&vec![0; 70_000]), CheckpointError::TooLong { bytes: 70_000 }));
}

proptest! {
    /// Whatever the bytes, there is a tracker that works or an error.
    #[test]
    fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..600), headed in any::<bool>()) {
        let bytes = if headed { [&b"STRK\x01\x00"[..], &tail].concat() } else { tail };
        if let Ok(mut tracker) = Tracker::restore(TrackSettings::default(), &bytes) {
            walk(&mut tracker, 0..3);
        }
    }

    /// Bytes that were a checkpoint once are the harder case.
    #[test]
    fn damaged_checkpoints_never_panic(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut tracker = Tracker::new(TrackSettings::default());
        walk(&mut tracker, 0..8);
        let mut bytes = tracker.checkpoint();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(mut restored) = Tracker::restore(TrackSettings::default(), &bytes) {
            walk(&mut restored, 8..16);
            let _ = restored.checkpoint();
        }
    }
}
