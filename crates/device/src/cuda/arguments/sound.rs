//! What the log-mel kernel is given.

use std::f64::consts::TAU;

use super::shared;

/// Values that are transformed at a time: the longest window.
pub const FFT_SIZE: usize = 512;
/// Frequencies of a transform, 0 to half the sample rate.
pub const BINS: usize = FFT_SIZE / 2 + 1;

shared! {
    /// One sound of a batch.
    pub struct SoundSource {
        /// First sample of the first frame.
        pub offset: u64,
        /// Frames to make.
        pub frames: u32,
        /// Row of the result that the first frame becomes.
        pub first_row: u32,
    }
}

shared! {
    /// Sizes of a log-mel step.
    pub struct LogMelStep {
        /// Samples of one frame.
        pub window: u32,
        /// Samples from one frame to the next.
        pub hop: u32,
        pub bands: u32,
        /// Frequencies that each band adds up; those beyond its end have no weight.
        pub taps: u32,
        /// Added before the logarithm.
        pub log_offset: f32,
        pub reserved: u32,
    }
}

/// A log-mel step with its tables, which are made once, in f64, and given to kernel and twin alike.
#[derive(Clone, Debug, PartialEq)]
pub struct LogMel {
    pub step: LogMelStep,
    /// [`FFT_SIZE`] values: the window, then zeros.
    pub window: Vec<f32>,
    /// e^(−2πi m ÷ [`FFT_SIZE`]) for each m, real and imaginary part in turn.
    pub turns: Vec<f32>,
    /// For each band its first frequency.
    pub bands_first: Vec<u32>,
    /// `[taps, bands]`: what a band takes of the frequencies from its first on.
    pub weights: Vec<f32>,
}

impl LogMel {
    /// The spectrogram of `AudioSet`'s models (VGGish, YAMNet; Hershey et al., "CNN architectures for large-scale audio
    /// classification", 2017, and the models' published parameters): 16 kHz, frames of 25 ms every 10 ms, a periodic Hann
    /// window, 512 values transformed, magnitudes, 64 bands from 125 to 7,500 Hz, log(x + 0.001).
    #[must_use]
    pub fn audioset() -> Self {
        Self::new(16_000.0, 400, 160, 64, (125.0, 7_500.0), 0.001)
    }

    /// Bands that are triangles between equally spaced places on the mel scale, mel(f) = 1127 × ln(1 + f ÷ 700)
    /// (O'Shaughnessy 1987, as HTK has it), each with 1 at its peak; the frequency 0 belongs to none.
    #[expect(clippy::cast_possible_truncation, reason = "tables are made in f64 and kept in f32; windows are short")]
    fn new(rate_hz: f64, window: u32, hop: u32, bands: u32, (low_hz, high_hz): (f64, f64), log_offset: f32) -> Self {
        let mel = |hz: f64| 1127.0 * (1.0 + hz / 700.0).ln();
        let (low, high) = (mel(low_hz), mel(high_hz));
        let edge = |index: u32| low + (high - low) * f64::from(index) / f64::from(bands + 1);
        let bins = || (0_u32..).take(BINS);
        let weight = |band: u32, bin: u32| {
            let at = mel(f64::from(bin) * rate_hz / FFT_SIZE as f64);
            let (from, peak, to) = (edge(band), edge(band + 1), edge(band + 2));
            let height = ((at - from) / (peak - from)).min((to - at) / (to - peak)).max(0.0);
            if bin == 0 { 0.0 } else { height as f32 }
        };
        let ranges: Vec<(u32, u32)> = (0..bands)
            .map(|band| {
                let mut weighty = bins().filter(|bin| weight(band, *bin) > 0.0);
                let first = weighty.next().unwrap_or(0);
                (first, weighty.last().unwrap_or(first) + 1)
            })
            .collect();
        let taps = ranges.iter().map(|(first, end)| end - first).max().unwrap_or(1);
        // A band near the upper end starts earlier, so that all its taps are frequencies that there are.
        let bands_first: Vec<u32> = ranges.iter().map(|(first, _)| (*first).min(BINS as u32 - taps)).collect();
        let weights = (0..taps).flat_map(|tap| {
            let first = &bands_first;
            (0..bands).map(move |band| weight(band, first[band as usize] + tap))
        });
        let hann = |index: u32| (0.5 - 0.5 * (TAU * f64::from(index) / f64::from(window)).cos()) as f32;
        let turn = |index: u32| {
            let angle = TAU * f64::from(index) / FFT_SIZE as f64;
            [angle.cos() as f32, -angle.sin() as f32]
        };
        Self {
            step: LogMelStep { window, hop, bands, taps, log_offset, reserved: 0 },
            window: (0..FFT_SIZE as u32).map(|index| if index < window { hann(index) } else { 0.0 }).collect(),
            turns: (0..FFT_SIZE as u32).flat_map(turn).collect(),
            weights: weights.collect(),
            bands_first,
        }
    }

    /// Frames of so many samples: whole ones only.
    #[must_use]
    pub fn frames(&self, samples: usize) -> usize {
        let (window, hop) = (self.step.window as usize, self.step.hop as usize);
        samples.checked_sub(window).map_or(0, |rest| rest / hop.max(1) + 1)
    }
}
