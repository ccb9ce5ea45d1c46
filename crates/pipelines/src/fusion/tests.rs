use proptest::prelude::*;
use sensorium_wire::ids::ShortName;

use super::*;

const BOTH: [Source; 2] = [Source::Video, Source::Audio];

fn spec() -> EvidenceSpec {
    toml::from_str(include_str!("../../../../cluster/models/fusion/evidence.toml")).unwrap()
}

fn windows(sources: &[Source]) -> FusionWindows {
    FusionWindows::new(&spec(), FusionSettings::default(), sources).unwrap()
}

fn track(id: u64, label: &str) -> Track {
    Track { id, bbox: [0.0; 4], score: 0.9, class: 0, label: ShortName::cut(label), age_frames: 1 }
}

fn class(label: &str, score: f32) -> ClassScore {
    ClassScore { class: 0, score, label: ShortName::cut(label) }
}

fn feature(row: &FusionRow, name: &str) -> f32 {
    row.features[FEATURES.iter().position(|other| *other == name).unwrap()]
}

fn close(value: f32, expected: f32) -> bool {
    (value - expected).abs() < 1e-3
}

#[test]
fn a_full_window_gives_every_feature() {
    let mut windows = windows(&BOTH);
    let four = [track(1, "person"), track(2, "person"), track(3, "car"), track(4, "dog")];
    windows.add_frame(0, &four, 2, [0.2, 0.6].into_iter());
    windows.add_frame(500, &four[..1], 1, [7.0].into_iter());
    windows.add_speech(0, 32, &[0.9; 15]);
    windows.add_speech(480, 32, &[0.1; 15]);
    windows.add_words(0, 2_000, "four words in all");
    // The label is longer than a label may be: it is cut on both sides.
    windows.add_sounds(0, 975, &[class("Hubbub, speech noise, speech babble", 0.4), class("Siren", 0.7)]);
    windows.add_sounds(480, 1_455, &[class("Siren", 0.3), class("Music", 0.2)]);
    windows.add_samples(0, 1_000, &[0.1, -0.1, 0.1, -0.1]);
    assert!(windows.mark(Source::Video, 1_000).is_empty(), "the audio is not there yet");
    let rows = windows.mark(Source::Audio, 1_000);
    let [row] = rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.start_ms, row.end_ms, row.video, row.audio), (0, 1_000, true, true));
    for (name, expected) in [
        ("person_count_mean", 0.15),
        ("person_count_max", 0.2),
        ("vehicle_count_mean", 0.05),
        ("new_tracks", 0.6),
        ("track_speed_mean", 0.6),
        ("track_speed_max", 1.0),
        ("speech_ratio", 0.5),
        ("words_per_second", 0.4),
        ("sound_speech", 0.0),
        ("sound_music", 0.2),
        ("sound_alarm", 0.7),
        ("sound_vehicle", 0.0),
        ("sound_crowd", 0.4),
        ("sound_impact", 0.0),
        ("sound_tone", 0.0),
        ("loudness", 40.0 / 60.0),
    ] {
        assert!(close(feature(&row, name), expected), "{name} is {}, not {expected}", feature(&row, name));
    }
}

#[test]
fn a_missing_modality_is_zero_and_does_not_hold_windows_back() {
    let mut windows = windows(&[Source::Video]);
    windows.add_frame(1_500, &[track(1, "person")], 0, std::iter::empty());
    let rows = windows.mark(Source::Video, 2_999);
    assert_eq!(
        rows.iter().map(|row| (row.start_ms, row.video, row.audio)).collect::<Vec<_>>(),
        [(0, false, false), (1_000, true, false)]
    );
    assert!(rows[0].features.iter().all(|value| *value == 0.0));
    assert!(rows[1].features[6..].iter().all(|value| *value == 0.0));
}

#[test]
fn a_stalled_source_holds_windows_back_only_so_long() {
    let mut windows = windows(&BOTH);
    windows.add_frame(100, &[], 0, std::iter::empty());
    assert!(windows.mark(Source::Video, 2_900).is_empty());
    assert_eq!(windows.mark(Source::Video, 3_000).len(), 1);
    windows.add_speech(0, 32, &[0.9; 10]);
    assert_eq!(windows.dropped(), 10, "too late");
    windows.add_speech(1_000, 32, &[0.9; 10]);
    assert_eq!(windows.dropped(), 10);
    let rows = windows.mark(Source::Audio, 2_000);
    assert!(rows.len() == 1 && close(feature(&rows[0], "speech_ratio"), 1.0), "{rows:?}");
}

#[test]
fn late_words_count_only_where_there_is_a_window() {
    let mut windows = windows(&BOTH);
    windows.mark(Source::Video, 2_000);
    windows.mark(Source::Audio, 2_000);
    windows.add_words(0, 4_000, "a b c d e f g h");
    let rows = windows.finish();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| close(feature(row, "words_per_second"), 0.4)), "{rows:?}");
}

#[test]
fn a_leap_in_time_is_bounded_and_counted() {
    let mut windows = windows(&[Source::Video]);
    windows.add_frame(u64::MAX, &[], 0, std::iter::empty());
    windows.add_words(0, u64::MAX, "word");
    assert_eq!(windows.dropped(), 2);
    let rows = windows.mark(Source::Video, 1_000_000_000);
    assert_eq!((rows.len(), windows.skipped()), (WINDOWS_MAX, 1_000_000 - WINDOWS_MAX as u64));
    windows.add_words(0, 1_000_000_500, "word");
    assert_eq!(windows.finish().len(), 1);
}

#[test]
fn loudness_is_zero_for_silence_and_one_for_full_scale() {
    let mut windows = windows(&[Source::Audio]);
    windows.add_samples(0, 1_000, &[0.0; 16]);
    windows.add_samples(1_000, 2_000, &[1.0, -1.0, f32::NAN]);
    windows.add_samples(2_000, 3_000, &[0.001, -0.001]);
    let rows = windows.mark(Source::Audio, 3_000);
    assert_eq!(feature(&rows[0], "loudness"), 0.0);
    assert!(feature(&rows[1], "loudness") > 0.95);
    assert!(close(feature(&rows[2], "loudness"), 0.0));
}

#[test]
fn a_description_of_other_features_is_refused() {
    let with = |change: &dyn Fn(&mut EvidenceSpec)| {
        let mut spec = spec();
        change(&mut spec);
        FusionWindows::new(&spec, FusionSettings::default(), &BOTH).unwrap_err()
    };
    assert_eq!(with(&|spec| spec.features.truncate(3)), EvidenceError::Count { found: 3 });
    assert!(matches!(with(&|spec| spec.features.swap(0, 1)), EvidenceError::Feature { index: 0, .. }));
    assert!(matches!(with(&|spec| spec.features[4].full_scale = 0.0), EvidenceError::Scale { .. }));
    assert_eq!(with(&|spec| spec.window_ms = 0), EvidenceError::Window { found: 0 });
    assert!(matches!(with(&|spec| drop(spec.sounds.remove("sound_tone"))), EvidenceError::MissingGroup { .. }));
    assert!(matches!(
        with(&|spec| drop(spec.sounds.insert("sound_rain".to_owned(), vec![]))),
        EvidenceError::UnknownGroup { .. }
    ));
}

proptest! {
    /// Whatever comes in whatever order: windows follow each other without holes and every number is 0 to 1.
    #[test]
    fn rows_are_in_order_and_in_range(
        steps in prop::collection::vec((0..6_u8, 0..20_000_u64, 0..5_000_u64, any::<f32>()), 1..80)
    ) {
        let mut windows = windows(&BOTH);
        let mut rows = Vec::new();
        for (kind, at_ms, length_ms, number) in steps {
            match kind {
                0 => windows.add_frame(at_ms, &[track(1, "person")], 3, std::iter::once(number)),
                1 => windows.add_speech(at_ms, 32, &[number; 8]),
                2 => windows.add_words(at_ms, at_ms + length_ms, "a b c"),
                3 => windows.add_sounds(at_ms, at_ms + length_ms, &[class("Music", number)]),
                4 => windows.add_samples(at_ms, at_ms + length_ms, &[number; 4]),
                _ => rows.extend(windows.mark(if length_ms % 2 == 0 { Source::Video } else { Source::Audio }, at_ms)),
            }
        }
        rows.extend(windows.finish());
        for (row, index) in rows.iter().zip(0_u64..) {
            prop_assert_eq!((row.start_ms, row.end_ms), (index * 1_000, (index + 1) * 1_000));
            prop_assert!(row.features.iter().all(|value| (0.0..=1.0).contains(value)), "{:?}", row);
        }
    }
}

fn frame(windows: &mut FusionWindows, t_ms: u64) -> Vec<FusionRow> {
    windows.add_frame(t_ms, &[track(1, "person"), track(2, "car")], 1, [0.5].into_iter());
    windows.mark(Source::Video, t_ms)
}

fn sound(windows: &mut FusionWindows, start_ms: u64) -> Vec<FusionRow> {
    windows.add_speech(start_ms, 32, &[0.9; 8]);
    windows.add_samples(start_ms, start_ms + 256, &[0.2, -0.1]);
    windows.add_sounds(start_ms, start_ms + 975, &[class("Siren", 0.7)]);
    windows.add_words(start_ms, start_ms + 256, "a word");
    windows.mark(Source::Audio, start_ms + 256)
}

#[test]
fn sources_captured_one_after_the_other_go_on_as_if_nothing_had_been() {
    for video_first in [true, false] {
        let mut whole = windows(&BOTH);
        let mut rows = Vec::new();
        for at in 0..12 {
            rows.extend(frame(&mut whole, at * 100));
            rows.extend(sound(&mut whole, at * 256));
        }
        // One source is captured here, the other after more of both has come, enough to close a window.
        let (first, second) = if video_first { (Source::Video, Source::Audio) } else { (Source::Audio, Source::Video) };
        let earlier = whole.clone();
        let mut closed = Vec::new();
        for at in 12..24 {
            closed.extend(frame(&mut whole, at * 100));
            closed.extend(sound(&mut whole, at * 256));
        }
        assert!(!closed.is_empty());
        rows.extend(closed);
        let checkpoint = whole.with_earlier(first, &earlier).checkpoint();
        let mut restored = windows(&BOTH);
        restored.restore(&checkpoint).unwrap();
        // Each source is read again from where it was captured.
        let again = |windows: &mut FusionWindows, source: Source, at: u64| match source {
            Source::Video => frame(windows, at * 100),
            _ => sound(windows, at * 256),
        };
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        for at in 12..24 {
            found.extend(again(&mut restored, first, at));
        }
        for at in 24..40 {
            for source in [first, second] {
                expected.extend(again(&mut whole, source, at));
                found.extend(again(&mut restored, source, at));
            }
        }
        expected.extend(whole.finish());
        found.extend(restored.finish());
        assert_eq!(found, expected, "video first: {video_first}");
    }
}

proptest! {
    #[test]
    fn arbitrary_checkpoints_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300), headed in any::<bool>()) {
        let bytes = if headed { [&b"SFUS\x01\x00"[..], &1_000_u64.to_le_bytes(), &tail].concat() } else { tail };
        let mut windows = windows(&BOTH);
        if windows.restore(&bytes).is_ok() {
            frame(&mut windows, 5_000);
            sound(&mut windows, 5_000);
            windows.finish();
        }
    }
}
