//! Sound to network inputs.
//!
//! Decodes WAV and raw PCM, mixes to mono, resamples, and cuts into windows. It knows no compressed formats: those come
//! through ffmpeg. Nothing here remembers the chunk before, so a resampled chunk starts and ends in silence.

mod pcm;
mod resample;
mod wav;
mod windows;

pub use pcm::{from_f32_le, from_i16_le, to_mono};
pub use resample::{Resampler, resample};
pub use wav::decode_wav;
pub use windows::{Windows, windows};

use crate::error::ProcessingError;

/// Lowest sample rate, in hertz.
pub const RATE_HZ_MIN: u32 = 4_000;
/// Highest sample rate, in hertz.
pub const RATE_HZ_MAX: u32 = 384_000;
/// Most channels.
pub const CHANNELS_MAX: u32 = 16;
/// Longest sound, in seconds.
pub const SECONDS_MAX: u32 = 3_600;
/// Most samples over all channels, 256 MiB as `f32`.
pub const SAMPLES_MAX: u64 = 64 << 20;
/// Largest magnitude of a floating-point sample. Full scale is 1; some encoders overshoot. What lies beyond was not
/// scaled to -1 to 1, and a network would only give nonsense for it.
pub const MAGNITUDE_MAX: f32 = 16.0;

/// Samples with what is needed to make sense of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Pcm {
    pub sample_rate_hz: u32,
    pub channels: u32,
    /// Interleaved, -1 to 1.
    pub samples: Vec<f32>,
}

impl Pcm {
    /// Mono at another rate: what networks take.
    ///
    /// # Errors
    /// When a rate, the number of channels or the length is out of range.
    pub fn to_mono_at(&self, sample_rate_hz: u32) -> Result<Vec<f32>, ProcessingError> {
        resample(&to_mono(&self.samples, self.channels)?, self.sample_rate_hz, sample_rate_hz)
    }
}

/// Checks the bounds that hold for every sound; `samples` counts all channels.
fn check(samples: u64, channels: u32, hz: u32) -> Result<(), ProcessingError> {
    if !(RATE_HZ_MIN..=RATE_HZ_MAX).contains(&hz) {
        return Err(ProcessingError::SampleRate { hz });
    }
    if !(1..=CHANNELS_MAX).contains(&channels) {
        return Err(ProcessingError::Channels { channels });
    }
    let per_channel = samples / u64::from(channels);
    if samples > SAMPLES_MAX || per_channel > u64::from(SECONDS_MAX) * u64::from(hz) {
        return Err(ProcessingError::TooLong { samples, hz, samples_max: SAMPLES_MAX, seconds_max: SECONDS_MAX });
    }
    Ok(())
}
