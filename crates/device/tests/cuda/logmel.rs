//! The twin of the log-mel kernel against a Fourier transform by its definition, in f64.

use std::f64::consts::{PI, TAU};
use std::fs;

use proptest::prelude::*;
use sensorium_device::cuda::arguments::{ArgumentError, LogMel, SoundSource};
use sensorium_device::cuda::twin;
use sensorium_processing::sound::decode_wav;

use crate::setup::cached;

/// The definition, frequency by frequency and band by band: 16 kHz, 400 samples every 160, periodic Hann, 512-point
/// transform, magnitudes, 64 HTK bands from 125 to 7,500 Hz, log(x + 0.001).
fn reference(samples: &[f32]) -> Vec<f64> {
    let whole = |index: usize| f64::from(u32::try_from(index).unwrap());
    let mel = |hz: f64| 1127.0 * (1.0 + hz / 700.0).ln();
    let (low, high) = (mel(125.0), mel(7_500.0));
    let mut out = Vec::new();
    for frame in samples.windows(400).step_by(160) {
        let magnitudes: Vec<f64> = (0..257)
            .map(|bin| {
                let (mut re, mut im) = (0.0, 0.0);
                for (index, sample) in frame.iter().enumerate() {
                    let window = (PI * whole(index) / 400.0).sin().powi(2);
                    let angle = TAU * whole(bin * index % 512) / 512.0;
                    re += f64::from(*sample) * window * angle.cos();
                    im -= f64::from(*sample) * window * angle.sin();
                }
                re.hypot(im)
            })
            .collect();
        for band in 0..64 {
            let edge = |index: usize| low + (high - low) * whole(index) / 65.0;
            let (from, peak, to) = (edge(band), edge(band + 1), edge(band + 2));
            let weight = |bin: usize| {
                let at = mel(whole(bin) * 31.25);
                ((at - from) / (peak - from)).min((to - at) / (to - peak)).max(0.0)
            };
            let sum: f64 = (1..257).map(|bin| weight(bin) * magnitudes[bin]).sum();
            out.push((sum + 0.001).ln());
        }
    }
    out
}

fn twin(mel: &LogMel, samples: &[f32]) -> Vec<f32> {
    let frames = mel.frames(samples.len());
    let sound = SoundSource { offset: 0, frames: u32::try_from(frames).unwrap(), first_row: 0 };
    let mut out = vec![f32::NAN; frames * 64];
    mel.check(&[sound], samples.len(), out.len()).unwrap();
    twin::log_mel(mel, samples, &[sound], &mut out);
    out
}

/// Sums of single precision err by a share of the loudest band, whatever the band: 1 part in 10^6 of it, and of the
/// band itself.
fn close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (frame, (found, expected)) in found.chunks_exact(64).zip(expected.chunks_exact(64)).enumerate() {
        let loudest = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max).exp();
        for (band, (found, expected)) in found.iter().zip(expected).enumerate() {
            let off = (f64::from(*found).exp() - expected.exp()).abs();
            let bound = 1e-6 * (loudest + expected.exp());
            assert!(off <= bound, "frame {frame}, band {band}: {found} for {expected}");
        }
    }
}

#[test]
fn speech_has_the_bands_of_the_definition() {
    let mel = LogMel::audioset();
    assert_eq!((mel.step.window, mel.step.hop, mel.step.bands), (400, 160, 64));
    assert_eq!(mel.weights.len(), mel.step.taps as usize * 64);
    assert!(mel.bands_first.iter().all(|first| first + mel.step.taps <= 257));
    let wav = fs::read(cached("media/librivox/sense_and_sensibility_01_austen_64kb-0870.wav")).unwrap();
    let samples = decode_wav(&wav).unwrap().to_mono_at(16_000).unwrap();
    let piece = &samples[8_000..24_000];
    assert_eq!(mel.frames(piece.len()), 98);
    // Silence is log(0.001), and so far off nothing can be.
    let found = twin(&mel, piece);
    assert!(found.iter().any(|value| *value > 0.0) && found.iter().any(|value| *value < -2.0));
    close(&found, &reference(piece));
}

#[test]
fn a_tone_is_in_its_band_and_silence_in_none() {
    let mel = LogMel::audioset();
    let silence = twin(&mel, &[0.0; 400]);
    assert!(silence.iter().all(|value| (value - 0.001_f32.ln()).abs() < 1e-6));
    #[expect(clippy::cast_possible_truncation, reason = "a sine")]
    let tone = |hz: f64| -> Vec<f32> {
        (0..720).map(|index| (0.5 * (TAU * hz * f64::from(index) / 16_000.0).sin()) as f32).collect()
    };
    for hz in [150.0, 440.0, 1_000.0, 3_000.0, 7_400.0] {
        let samples = tone(hz);
        let found = twin(&mel, &samples);
        assert_eq!(found.len(), 3 * 64);
        close(&found, &reference(&samples));
        let loudest = (0..64).max_by(|a, b| found[*a].total_cmp(&found[*b])).unwrap();
        let mel_of = |hz: f64| 1127.0 * (1.0 + hz / 700.0).ln();
        let (low, high) = (mel_of(125.0), mel_of(7_500.0));
        let place = (mel_of(hz) - low) / (high - low) * 65.0 - 1.0;
        assert!((place - f64::from(u32::try_from(loudest).unwrap())).abs() < 1.0, "{hz} Hz in band {loudest}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]
    #[test]
    fn noise_has_the_bands_of_the_definition(samples in proptest::collection::vec(-1.0_f32..1.0, 400..800)) {
        close(&twin(&LogMel::audioset(), &samples), &reference(&samples));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]
    #[test]
    fn a_sound_that_passes_the_check_stays_within_the_memory(
        offset in prop_oneof![0_u64..900, any::<u64>()],
        frames in prop_oneof![0_u32..6, any::<u32>()],
        first_row in prop_oneof![0_u32..6, any::<u32>()],
        (samples, rows) in (0_usize..1500, 0_usize..8),
    ) {
        let mel = LogMel::audioset();
        let sound = SoundSource { offset, frames, first_row };
        let mut out = vec![f32::NAN; rows * 64];
        match mel.check(&[sound], samples, out.len()) {
            Ok(()) => twin::log_mel(&mel, &vec![0.25; samples], &[sound], &mut out),
            Err(error) => {
                let named = matches!(error, ArgumentError::Sound { .. } | ArgumentError::Room { .. } | ArgumentError::Step { .. });
                prop_assert!(named, "{}", error);
            }
        }
    }
}

#[test]
fn tables_of_other_sizes_are_refused() {
    let mel = LogMel::audioset();
    let sound = SoundSource { offset: 0, frames: 1, first_row: 0 };
    let check = |change: &dyn Fn(&mut LogMel)| {
        let mut mel = mel.clone();
        change(&mut mel);
        mel.check(&[sound], 400, 64).map_err(|error| error.to_string())
    };
    check(&|_| ()).unwrap();
    let text = check(&|mel| mel.weights.truncate(100)).unwrap_err();
    assert!(text.starts_with("the table of weights has 100 values;"), "{text}");
    let text = check(&|mel| mel.bands_first[3] = 257).unwrap_err();
    assert!(text.starts_with("a band's first frequency is 257; expected 0 to "), "{text}");
    for change in [
        &(|mel: &mut LogMel| mel.step.window = 513) as &dyn Fn(&mut LogMel),
        &|mel| mel.step.hop = 0,
        &|mel| mel.step.bands = 65,
        &|mel| mel.step.taps += 1,
        &|mel| mel.turns.clear(),
    ] {
        check(change).unwrap_err();
    }
    assert!(mel.check(&[sound], 399, 64).unwrap_err().to_string().contains("end at sample 400, there are 399"));
    assert!(mel.check(&[sound], 400, 63).is_err());
    assert_eq!((mel.frames(399), mel.frames(400), mel.frames(559), mel.frames(560)), (0, 1, 1, 2));
}
