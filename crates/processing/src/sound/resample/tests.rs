use proptest::prelude::*;

use super::*;

const PAIRS: [(u32, u32); 8] = [
    (44_100, 16_000),
    (48_000, 16_000),
    (8_000, 16_000),
    (11_025, 16_000),
    (22_050, 16_000),
    (16_000, 44_100),
    (44_101, 16_000),
    (96_000, 8_000),
];

#[expect(clippy::cast_possible_truncation, reason = "test signals")]
fn tone(hz: f64, rate_hz: u32, seconds: f64) -> Vec<f32> {
    let rate = f64::from(rate_hz);
    (0_u32..)
        .map(f64::from)
        .take_while(|n| *n < seconds * rate)
        .map(|n| (std::f64::consts::TAU * hz * n / rate).sin() as f32)
        .collect()
}

/// Without the edges, where silence is mixed in.
fn inner(samples: &[f32]) -> &[f32] {
    &samples[samples.len() / 4..samples.len() * 3 / 4]
}

#[test]
fn a_tone_in_the_pass_band_is_the_same_tone_at_the_other_rate() {
    for (from, to) in PAIRS {
        let low = f64::from(from.min(to));
        for hz in [0.01 * low, 0.2 * low, 0.43 * low] {
            let found = resample(&tone(hz, from, 0.4), from, to).unwrap();
            let expected = tone(hz, to, 0.4);
            assert!(found.len().abs_diff(expected.len()) <= 1, "{from} to {to}");
            let length = found.len().min(expected.len());
            let worst = inner(&found[..length])
                .iter()
                .zip(inner(&expected[..length]))
                .map(|(found, expected)| (found - expected).abs())
                .fold(0.0, f32::max);
            assert!(worst < 1.2e-3, "{hz} Hz, {from} to {to}: off by {worst}");
        }
    }
}

#[test]
fn what_the_lower_rate_cannot_hold_is_gone() {
    for (from, to) in PAIRS.into_iter().filter(|(from, to)| from > to) {
        for over in [1.01, 1.2, 1.7] {
            let hz = f64::from(to) / 2.0 * over;
            if hz > f64::from(from) * 0.49 {
                continue;
            }
            let found = resample(&tone(hz, from, 0.4), from, to).unwrap();
            let worst = inner(&found).iter().fold(0.0_f32, |worst, sample| worst.max(sample.abs()));
            assert!(worst < 1e-4, "{hz} Hz, {from} to {to}: {worst} is left");
        }
    }
}

#[test]
fn no_image_of_a_tone_appears_at_a_higher_rate() {
    // What is not the tone itself, in energy.
    let (from, to, hz) = (8_000, 16_000, 3_300.0);
    let found = resample(&tone(hz, from, 0.5), from, to).unwrap();
    let expected = tone(hz, to, 0.5);
    let error: f32 =
        inner(&found).iter().zip(inner(&expected)).map(|(found, expected)| (found - expected).powi(2)).sum();
    let energy: f32 = inner(&expected).iter().map(|sample| sample * sample).sum();
    assert!(error / energy < 1e-6, "{}", error / energy);
}

#[test]
fn a_constant_stays_and_the_same_rate_changes_nothing() {
    let samples = vec![0.5; 4_000];
    for (from, to) in PAIRS {
        let found = resample(&samples, from, to).unwrap();
        assert!(inner(&found).iter().all(|sample| (sample - 0.5).abs() < 1e-4), "{from} to {to}");
    }
    assert_eq!(resample(&samples, 16_000, 16_000).unwrap(), samples);
    assert!(resample(&[], 44_100, 16_000).unwrap().is_empty());
    assert_eq!(resample(&[1.0], 48_000, 16_000).unwrap().len(), 1);
}

#[test]
fn rates_and_lengths_are_bounded() {
    assert_eq!(resample(&[0.0], 3_999, 16_000), Err(ProcessingError::SampleRate { hz: 3_999 }));
    assert_eq!(resample(&[0.0], 16_000, 384_001), Err(ProcessingError::SampleRate { hz: 384_001 }));
    // 200 seconds at 4 kHz are 77 million samples at 384 kHz.
    assert!(matches!(resample(&vec![0.0; 800_000], 4_000, 384_000), Err(ProcessingError::TooLong { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_pair_of_rates_gives_the_right_length_and_nothing_louder(
        from in 4_000_u32..100_000,
        to in 4_000_u32..100_000,
        samples in proptest::collection::vec(-1.0_f32..1.0, 0..300),
    ) {
        let found = resample(&samples, from, to).unwrap();
        let expected = (samples.len() as u64 * u64::from(to)).div_ceil(u64::from(from));
        prop_assert_eq!(found.len() as u64, expected);
        prop_assert!(found.iter().all(|sample| sample.abs() < 4.0));
    }
}
