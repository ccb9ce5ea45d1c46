use proptest::prelude::*;

use super::*;

fn segments(events: &[SpeechEvent]) -> Vec<(u64, u64)> {
    let segment = |event: &SpeechEvent| match event {
        SpeechEvent::Ended(segment) => Some((segment.start_ms, segment.end_ms)),
        SpeechEvent::Started { .. } => None,
    };
    events.iter().filter_map(segment).collect()
}

/// A curve as the detector gives it: high from the start of speech until 128 ms after its end.
fn curve(length_ms: u64, speech_ms: &[(u64, u64)]) -> Vec<f32> {
    let at = |window: u64| {
        let (from, to) = (window * WINDOW_MS, (window + 1) * WINDOW_MS);
        let covered = |start: u64, end: u64| to.min(end + 128).saturating_sub(from.max(start)) * 2 > WINDOW_MS;
        if speech_ms.iter().any(|(start, end)| covered(*start, *end)) { 0.97 } else { 0.02 }
    };
    (0..length_ms / WINDOW_MS).map(at).collect()
}

fn run(probabilities: &[f32]) -> Vec<SpeechEvent> {
    let mut segmenter = SpeechSegmenter::new(SpeechSettings::default(), 0);
    let mut events = segmenter.push(probabilities);
    events.extend(segmenter.finish());
    events
}

#[test]
fn the_demonstration_clip_is_found_within_100_ms() {
    let text = include_str!("demo_probabilities.txt");
    let numbers = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let probabilities: Vec<f32> = numbers.map(|number| number.parse().unwrap()).collect();
    assert_eq!(probabilities.len(), 1_250);
    let found = segments(&run(&probabilities));
    let truth = [(3_230, 9_730), (14_270, 16_880), (28_280, 32_990)];
    assert_eq!(found.len(), truth.len(), "{found:?}");
    for (found, truth) in found.iter().zip(truth) {
        assert!(found.0.abs_diff(truth.0) <= 100 && found.1.abs_diff(truth.1) <= 100, "{found:?} is not {truth:?}");
    }
}

#[test]
fn synthetic_speech_is_found_where_it_is() {
    let truth = [(1_000, 3_000), (5_000, 5_400), (7_777, 12_345)];
    let found = segments(&run(&curve(15_000, &truth)));
    assert_eq!(found.len(), 3);
    for (found, truth) in found.iter().zip(truth) {
        assert!(found.0.abs_diff(truth.0) <= 32 && found.1.abs_diff(truth.1) <= 32, "{found:?} is not {truth:?}");
    }
}

#[test]
fn pauses_in_a_sentence_do_not_end_it() {
    assert_eq!(segments(&run(&curve(6_000, &[(992, 2_016), (2_400, 4_000)]))).len(), 1);
    assert_eq!(segments(&run(&curve(6_000, &[(992, 2_016), (2_700, 4_000)]))).len(), 2);
}

#[test]
fn clicks_and_short_words_are_not_speech() {
    assert!(run(&curve(3_000, &[(1_000, 1_150)])).is_empty());
    let mut probabilities = vec![0.02; 100];
    probabilities[10] = 0.9;
    // A click does not pull the beginning of the speech after it forward.
    probabilities[16..60].fill(0.95);
    assert_eq!(segments(&run(&probabilities)), [(16 * WINDOW_MS, 60 * WINDOW_MS - 128)]);
}

#[test]
fn between_the_thresholds_speech_goes_on_but_does_not_begin() {
    let mut probabilities = vec![0.4; 50];
    assert!(run(&probabilities).is_empty());
    probabilities[0..20].fill(0.9);
    probabilities[30..].fill(0.02);
    assert_eq!(segments(&run(&probabilities)), [(0, 30 * WINDOW_MS - 128)]);
}

#[test]
fn what_is_reported_does_not_depend_on_how_the_probabilities_come_in() {
    let probabilities = curve(30_000, &[(500, 2_000), (4_000, 28_000)]);
    let mut segmenter = SpeechSegmenter::new(SpeechSettings::default(), 0);
    let mut events: Vec<_> = probabilities.chunks(7).flat_map(|chunk| segmenter.push(chunk)).collect();
    events.extend(segmenter.finish());
    assert_eq!(events, run(&probabilities));
}

#[test]
fn a_start_is_announced_while_speech_goes_on() {
    let mut segmenter = SpeechSegmenter::new(SpeechSettings::default(), 5_000);
    let events = segmenter.push(&curve(2_000, &[(992, 10_000)]));
    assert_eq!(events, [SpeechEvent::Started { start_ms: 5_992 }]);
    assert_eq!(segmenter.settled_ms(), 5_992);
    assert_eq!(events[0].body(), EventBody::Speech { active: true, start_ms: 5_992, end_ms: 5_992 });
}

#[test]
fn long_speech_is_cut_where_it_is_quietest_and_no_sample_is_lost_or_doubled() {
    let mut probabilities = curve(50_000, &[(1_024, 46_000)]);
    probabilities[500] = 0.6;
    let events = run(&probabilities);
    let found = segments(&events);
    assert_eq!(found[0], (1_024, 500 * WINDOW_MS));
    assert!(found.len() >= 3 && found.iter().all(|(start, end)| end - start <= 20_000), "{found:?}");
    assert!(found.windows(2).all(|pair| pair[0].1 == pair[1].0));
    let ranges: Vec<_> = events
        .iter()
        .filter_map(|event| if let SpeechEvent::Ended(segment) = event { Some(segment.samples.clone()) } else { None })
        .collect();
    assert_eq!(ranges[0].start, (1_024 - 200) * 16);
    assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
    assert_eq!(ranges.last().unwrap().end, (found.last().unwrap().1 + 200) * 16);
}

#[test]
fn padding_stays_within_what_was_heard() {
    let events = run(&curve(2_000, &[(64, 2_000)]));
    let SpeechEvent::Ended(segment) = &events[1] else { panic!("{events:?}") };
    assert_eq!(segment.samples, 0..2_000 / 32 * 512);
}

#[test]
fn a_gap_ends_speech_and_moves_time() {
    let mut segmenter = SpeechSegmenter::new(SpeechSettings::default(), 0);
    segmenter.push(&curve(3_200, &[(992, 9_000)]));
    assert_eq!(segments(&segmenter.gap(1_001)), [(992, 3_200 - 128)]);
    let mut events = segmenter.push(&curve(3_200, &[(0, 1_600)]));
    events.extend(segmenter.finish());
    let SpeechEvent::Ended(segment) = &events[1] else { panic!("{events:?}") };
    assert_eq!((segment.start_ms, segment.samples.start), (4_201, 4_201 * 16));
}

#[test]
fn a_restored_segmenter_goes_on() {
    let probabilities = curve(30_000, &[(500, 2_000), (4_000, 28_000)]);
    for at in [0, 40, 100, 137, 500] {
        let mut segmenter = SpeechSegmenter::new(SpeechSettings::default(), 77);
        segmenter.push(&probabilities[..at]);
        let mut restored = SpeechSegmenter::restore(SpeechSettings::default(), &segmenter.checkpoint()).unwrap();
        assert_eq!(restored, segmenter);
        assert_eq!(restored.push(&probabilities[at..]), segmenter.push(&probabilities[at..]));
    }
}

proptest! {
    #[test]
    fn segments_are_ordered_apart_and_long_enough(numbers in prop::collection::vec(0..100_u8, 0..3_000)) {
        // Runs of equal numbers, so that there is something to find.
        let probabilities: Vec<f32> =
            numbers.iter().flat_map(|number| std::iter::repeat_n(f32::from(*number) / 99.0, 1 + usize::from(number % 9))).collect();
        let events = run(&probabilities);
        let (mut last_ms, mut last_sample, mut open) = (0, 0, None);
        for event in events {
            match event {
                SpeechEvent::Started { start_ms } => {
                    prop_assert!(open.is_none() && start_ms >= last_ms);
                    open = Some(start_ms);
                }
                SpeechEvent::Ended(segment) => {
                    prop_assert_eq!(open.take(), Some(segment.start_ms));
                    prop_assert!(segment.start_ms < segment.end_ms && segment.end_ms - segment.start_ms <= 20_000);
                    prop_assert!(segment.samples.start >= last_sample && segment.samples.start <= segment.start_ms * 16);
                    prop_assert!(segment.samples.end >= segment.end_ms * 16);
                    (last_ms, last_sample) = (segment.end_ms, segment.samples.end);
                }
            }
        }
        prop_assert!(open.is_none());
    }

    #[test]
    fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..200), headed in any::<bool>()) {
        let bytes = if headed { [&b"SSPC\x01\x00"[..], &tail].concat() } else { tail };
        if let Ok(mut segmenter) = SpeechSegmenter::restore(SpeechSettings::default(), &bytes) {
            segmenter.push(&[0.9; 20]);
            segmenter.gap(1);
        }
    }

    #[test]
    fn damaged_checkpoints_never_panic(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut segmenter = SpeechSegmenter::new(SpeechSettings::default(), 1);
        segmenter.push(&curve(3_000, &[(500, 9_000)]));
        let mut bytes = segmenter.checkpoint();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(mut restored) = SpeechSegmenter::restore(SpeechSettings::default(), &bytes) {
            restored.push(&[0.9; 700]);
            restored.push(&[0.0; 50]);
            let _ = restored.checkpoint();
        }
    }
}
