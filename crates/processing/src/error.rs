//! Why a payload could not be prepared, or a network's output not be interpreted.

use thiserror::Error;

/// What is wrong with an image, a sound or a network's output.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ProcessingError {
    #[error("the {0} is empty (0 bytes)")]
    Empty(&'static str),
    #[error("neither JPEG nor PNG: the image starts with {0:02x?}")]
    UnknownImage(Vec<u8>),
    #[error("the {format} is truncated after {bytes} bytes: {missing} is missing")]
    Truncated { format: &'static str, bytes: usize, missing: &'static str },
    #[error("the {format} cannot be decoded: {problem}")]
    Corrupt { format: &'static str, problem: String },
    #[error("the {format} uses {feature}, which is not supported; {expected}")]
    Unsupported { format: &'static str, feature: String, expected: &'static str },
    #[error(
        "an image of {width} × {height} pixels; at most {side_pixels_max} a side and {pixels_max} in all are taken, and at least 1 × 1"
    )]
    ImageSize { width: u32, height: u32, side_pixels_max: u32, pixels_max: u64 },
    #[error("{width} × {height} pixels of {format} need {expected} bytes, {bytes} were given")]
    ImageBytes { width: u32, height: u32, format: &'static str, expected: u64, bytes: usize },
    #[error("the network's input has {expected} values, room for {values} was given")]
    InputValues { expected: usize, values: usize },
    #[error("a sample rate of {hz} Hz; {min} to {max} Hz are taken", min = crate::sound::RATE_HZ_MIN, max = crate::sound::RATE_HZ_MAX)]
    SampleRate { hz: u32 },
    #[error("{channels} channels; 1 to {max} are taken", max = crate::sound::CHANNELS_MAX)]
    Channels { channels: u32 },
    #[error("{samples} samples at {hz} Hz; at most {samples_max} samples and {seconds_max} seconds are taken")]
    TooLong { samples: u64, hz: u32, samples_max: u64, seconds_max: u32 },
    #[error("{bytes} bytes of PCM are not a whole number of {frame_bytes}-byte frames")]
    PartialFrame { bytes: usize, frame_bytes: usize },
    #[error("sample {index} is {value}; samples are numbers near -1 to 1, at most {max} either way", max = crate::sound::MAGNITUDE_MAX)]
    SampleValue { index: usize, value: f32 },
    #[error("the network's output {what}: {problem}")]
    Output { what: &'static str, problem: String },
}
