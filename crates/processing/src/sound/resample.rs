//! Changing the sample rate.
//!
//! A windowed sinc, evaluated only where a result is wanted (polyphase). With `low` the lower of the two rates:
//!
//! - half-width 48 zero crossings, Kaiser window with β = 8.6: the stop band, from `low ÷ 2` on, is 86 dB down;
//! - the cut-off lies at 0.471 × `low`, so that the transition ends at `low ÷ 2`; up to 0.44 × `low` (7 kHz for 16 kHz)
//!   the response is flat within 0.01 dB;
//! - linear phase, centred: sample n of the result is the sound at the time n ÷ `to_hz`, without delay;
//! - every phase is normalised to a sum of 1, so that a constant stays the same.
//!
//! Where the two rates have few phases (44.1 kHz to 16 kHz: 160) the filter is exact; with more than [`PHASES_MAX`] it is
//! interpolated between neighbouring phases, 100 dB down.

use super::{RATE_HZ_MAX, RATE_HZ_MIN, SAMPLES_MAX, SECONDS_MAX};
use crate::error::ProcessingError;

/// Most phases of the filter that are kept.
const PHASES_MAX: u32 = 512;
const ZERO_CROSSINGS: f64 = 48.0;
const KAISER_BETA: f64 = 8.6;
/// Cut-off relative to the lower rate.
const CUT_OFF: f64 = 0.471;

/// Changes the sample rate of mono samples; see the module's text for the filter.
///
/// # Errors
/// When a rate is out of range or the sound too long.
pub fn resample(samples: &[f32], from_hz: u32, to_hz: u32) -> Result<Vec<f32>, ProcessingError> {
    Resampler::new(from_hz, to_hz)?.run(samples)
}

/// The filter for one pair of rates. Making it costs about a millisecond, so keep it where the pair stays the same.
#[derive(Clone, Debug)]
pub struct Resampler {
    from_hz: u32,
    to_hz: u32,
    /// `to_hz` and `from_hz` without their common factor: phases, and phases from one result to the next.
    phases: u64,
    advance: u64,
    /// Phases in `filter`, one less than it has rows.
    rows: u64,
    taps: usize,
    /// `[rows + 1, taps]`; the last row is the first one, a sample later.
    filter: Vec<f32>,
}

impl Resampler {
    /// # Errors
    /// When a rate is out of range.
    pub fn new(from_hz: u32, to_hz: u32) -> Result<Self, ProcessingError> {
        for hz in [from_hz, to_hz] {
            if !(RATE_HZ_MIN..=RATE_HZ_MAX).contains(&hz) {
                return Err(ProcessingError::SampleRate { hz });
            }
        }
        let divisor = common_divisor(from_hz, to_hz);
        let (phases, advance) = (to_hz / divisor, from_hz / divisor);
        let rows = phases.min(PHASES_MAX);
        if from_hz == to_hz {
            return Ok(Self { from_hz, to_hz, phases: 1, advance: 1, rows: 1, taps: 0, filter: Vec::new() });
        }
        let low = f64::from(from_hz.min(to_hz)) / f64::from(from_hz);
        // In samples of the source.
        let (cut_off, half) = (CUT_OFF * low, ZERO_CROSSINGS / low);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "48 to 48 × 96")]
        let side = half.ceil() as u32;
        let taps = 2 * side;
        let mut filter = Vec::with_capacity((rows as usize + 1) * taps as usize);
        for row in 0..=rows {
            let fraction = f64::from(row) / f64::from(rows);
            // Tap k stands at the sample k + 1 - side, relative to the one before the wanted place.
            let place = |tap: u32| f64::from(tap) + 1.0 - f64::from(side) - fraction;
            let weights: Vec<f64> = (0..taps).map(|tap| kernel(place(tap), cut_off, half)).collect();
            let sum: f64 = weights.iter().sum();
            #[expect(clippy::cast_possible_truncation, reason = "weights are near 1 and below")]
            filter.extend(weights.iter().map(|weight| (weight / sum) as f32));
        }
        let [phases, advance, rows] = [phases, advance, rows].map(u64::from);
        Ok(Self { from_hz, to_hz, phases, advance, rows, taps: taps as usize, filter })
    }

    /// The sound at the other rate; before the first sample and after the last there is silence. The result has
    /// ⌈length × `to_hz` ÷ `from_hz`⌉ samples.
    ///
    /// # Errors
    /// When the sound, or the result, is longer than [`SAMPLES_MAX`] or [`SECONDS_MAX`].
    pub fn run(&self, samples: &[f32]) -> Result<Vec<f32>, ProcessingError> {
        let length = samples.len() as u64;
        let too_long = |samples, hz| {
            Err(ProcessingError::TooLong { samples, hz, samples_max: SAMPLES_MAX, seconds_max: SECONDS_MAX })
        };
        if length > SAMPLES_MAX || length > u64::from(SECONDS_MAX) * u64::from(self.from_hz) {
            return too_long(length, self.from_hz);
        }
        let results = (length * self.phases).div_ceil(self.advance);
        if results > SAMPLES_MAX {
            return too_long(results, self.to_hz);
        }
        if self.taps == 0 {
            return Ok(samples.to_vec());
        }
        Ok((0..results).map(|index| self.result(samples, index)).collect())
    }

    fn result(&self, samples: &[f32], index: u64) -> f32 {
        let place = index * self.advance;
        let (before, phase) = (place / self.phases, place % self.phases);
        #[expect(clippy::cast_possible_truncation, reason = "an index into samples in memory; a row of at most 512")]
        let (before, row) = (before as usize, (phase * self.rows / self.phases) as usize);
        let rest = phase * self.rows % self.phases;
        let at = |row: usize| {
            let filter = &self.filter[row * self.taps..(row + 1) * self.taps];
            // The first tap stands at this sample; it may lie before the first one.
            let start = before + 1;
            let side = self.taps / 2;
            let skipped = side.saturating_sub(start);
            let from = (start + skipped - side).min(samples.len());
            let to = (start + side).min(samples.len());
            dot(&samples[from..to], &filter[skipped.min(filter.len())..])
        };
        if rest == 0 {
            return at(row);
        }
        #[expect(clippy::cast_precision_loss, reason = "both below 2^19")]
        let weight = rest as f32 / self.phases as f32;
        at(row) * (1.0 - weight) + at(row + 1) * weight
    }
}

/// The sum of products over the shorter of the two; eight sums at once, so that it needs no order of additions.
fn dot(samples: &[f32], filter: &[f32]) -> f32 {
    let length = samples.len().min(filter.len());
    let (samples, samples_rest) = samples[..length].as_chunks::<8>();
    let (filter, filter_rest) = filter[..length].as_chunks::<8>();
    let mut sums = [0.0_f32; 8];
    for (samples, filter) in samples.iter().zip(filter) {
        for lane in 0..8 {
            sums[lane] += samples[lane] * filter[lane];
        }
    }
    sums.iter().sum::<f32>() + samples_rest.iter().zip(filter_rest).map(|(sample, weight)| sample * weight).sum::<f32>()
}

/// The low-pass filter at `place`, in samples; `cut_off` in cycles per sample. Not normalised.
fn kernel(place: f64, cut_off: f64, half: f64) -> f64 {
    let edge = place / half;
    if edge.abs() >= 1.0 {
        return 0.0;
    }
    let angle = std::f64::consts::TAU * cut_off * place;
    let sinc = if angle.abs() < 1e-9 { 1.0 } else { angle.sin() / angle };
    sinc * bessel_0(KAISER_BETA * (1.0 - edge * edge).sqrt())
}

/// The modified Bessel function of the first kind and order 0, by its power series.
fn bessel_0(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let (mut sum, mut term, mut number) = (1.0, 1.0, 1.0);
    while term > sum * 1e-12 {
        term *= quarter / (number * number);
        sum += term;
        number += 1.0;
    }
    sum
}

fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests;
