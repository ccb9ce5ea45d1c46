//! Raw samples to `f32`, and many channels to one.

use super::{CHANNELS_MAX, MAGNITUDE_MAX};
use crate::error::ProcessingError;

/// Little-endian 16-bit integers to -1 to 1.
///
/// # Errors
/// When the length is odd.
pub fn from_i16_le(bytes: &[u8]) -> Result<Vec<f32>, ProcessingError> {
    let (samples, []) = bytes.as_chunks::<2>() else {
        return Err(ProcessingError::PartialFrame { bytes: bytes.len(), frame_bytes: 2 });
    };
    Ok(samples.iter().map(|sample| f32::from(i16::from_le_bytes(*sample)) / 32_768.0).collect())
}

/// Little-endian 32-bit floats as they are.
///
/// # Errors
/// When the length is not a multiple of four, or a sample is not finite or larger than [`MAGNITUDE_MAX`].
pub fn from_f32_le(bytes: &[u8]) -> Result<Vec<f32>, ProcessingError> {
    let (samples, []) = bytes.as_chunks::<4>() else {
        return Err(ProcessingError::PartialFrame { bytes: bytes.len(), frame_bytes: 4 });
    };
    let samples: Vec<f32> = samples.iter().map(|sample| f32::from_le_bytes(*sample)).collect();
    match samples.iter().position(|sample| sample.is_nan() || sample.abs() > MAGNITUDE_MAX) {
        Some(index) => Err(ProcessingError::SampleValue { index, value: samples[index] }),
        None => Ok(samples),
    }
}

/// The mean over the channels of interleaved samples.
///
/// # Errors
/// When the number of channels is out of range, or the samples are not whole frames.
pub fn to_mono(samples: &[f32], channels: u32) -> Result<Vec<f32>, ProcessingError> {
    if !(1..=CHANNELS_MAX).contains(&channels) {
        return Err(ProcessingError::Channels { channels });
    }
    let width = channels as usize;
    if !samples.len().is_multiple_of(width) {
        return Err(ProcessingError::PartialFrame { bytes: samples.len() * 4, frame_bytes: width * 4 });
    }
    if width == 1 {
        return Ok(samples.to_vec());
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 16 channels")]
    let share = 1.0 / channels as f32;
    Ok(samples.chunks_exact(width).map(|frame| frame.iter().sum::<f32>() * share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_reach_from_minus_one_to_almost_one() {
        let bytes: Vec<u8> =
            [i16::MIN, -1, 0, 16_384, i16::MAX].iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let samples = from_i16_le(&bytes).unwrap();
        assert_eq!(samples, [-1.0, -1.0 / 32_768.0, 0.0, 0.5, 32_767.0 / 32_768.0]);
        assert_eq!(from_i16_le(&bytes[1..]), Err(ProcessingError::PartialFrame { bytes: 9, frame_bytes: 2 }));
    }

    #[test]
    fn floats_have_to_be_numbers_of_a_sensible_size() {
        let bytes = |samples: &[f32]| samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(from_f32_le(&bytes(&[0.5, -1.25])).unwrap(), [0.5, -1.25]);
        assert!(from_f32_le(&[0; 7]).is_err());
        for (index, bad) in [f32::NAN, f32::INFINITY, -20_000.0].into_iter().enumerate() {
            let mut samples = [0.0; 3];
            samples[index] = bad;
            let error = from_f32_le(&bytes(&samples)).unwrap_err();
            assert!(matches!(error, ProcessingError::SampleValue { index: at, .. } if at == index), "{error}");
        }
    }

    #[test]
    fn mono_is_the_mean_of_whole_frames() {
        assert_eq!(to_mono(&[1.0, 0.0, -1.0, 0.5], 2).unwrap(), [0.5, -0.25]);
        assert_eq!(to_mono(&[1.0, 0.5], 1).unwrap(), [1.0, 0.5]);
        assert!(to_mono(&[1.0, 0.5, 0.0], 2).is_err());
        assert!(to_mono(&[1.0], 0).is_err());
        assert!(to_mono(&[0.0; 17], 17).is_err());
    }
}
