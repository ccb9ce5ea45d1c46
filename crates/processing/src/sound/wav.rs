//! WAV files.
//!
//! A strict reader: every size in the file has to agree with the file's length, because a sound that is silently cut
//! short gives a confident wrong answer. Files of unknown length (streamed with a size of zero or 2^32 - 1), big-endian
//! ones and those above 4 GiB are refused.

use super::{Pcm, check, pcm};
use crate::error::ProcessingError;

const WAV: &str = "WAV file";
const FORMAT_PCM: u16 = 1;
const FORMAT_FLOAT: u16 = 3;
const FORMAT_EXTENSIBLE: u16 = 0xfffe;
/// The rest of an extensible format's identifier after its first two bytes.
const EXTENSIBLE_TAIL: [u8; 14] = [0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x80, 0x00, 0x00, 0xaa, 0x00, 0x38, 0x9b, 0x71];

/// Decodes a WAV file with samples of 8 (unsigned), 16, 24 or 32 bits, or 32-bit floats.
///
/// # Errors
/// When it is empty, truncated, of another format, contradicts itself about a size, or is out of the bounds of
/// [`crate::sound`].
pub fn decode_wav(bytes: &[u8]) -> Result<Pcm, ProcessingError> {
    if bytes.is_empty() {
        return Err(ProcessingError::Empty(WAV));
    }
    let (format, data) = chunks(bytes)?;
    let frame_bytes = usize::from(format.sample.bytes()) * format.channels as usize;
    if format.frame_bytes as usize != frame_bytes {
        return corrupt(format!(
            "its header says {} bytes a frame; {} channels of {} bytes make {frame_bytes}",
            format.frame_bytes,
            format.channels,
            format.sample.bytes()
        ));
    }
    let samples = data.len() / usize::from(format.sample.bytes());
    check(samples as u64, format.channels, format.rate_hz)?;
    if !data.len().is_multiple_of(frame_bytes) {
        return Err(ProcessingError::PartialFrame { bytes: data.len(), frame_bytes });
    }
    let samples = format.sample.decode(data)?;
    Ok(Pcm { sample_rate_hz: format.rate_hz, channels: format.channels, samples })
}

fn corrupt<T>(problem: String) -> Result<T, ProcessingError> {
    Err(ProcessingError::Corrupt { format: WAV, problem })
}

/// How one sample is stored.
#[derive(Clone, Copy, Debug)]
enum SampleFormat {
    U8,
    I16,
    I24,
    I32,
    F32,
}

impl SampleFormat {
    const fn bytes(self) -> u8 {
        match self {
            Self::U8 => 1,
            Self::I16 => 2,
            Self::I24 => 3,
            Self::I32 | Self::F32 => 4,
        }
    }

    /// `data` is a whole number of samples.
    fn decode(self, data: &[u8]) -> Result<Vec<f32>, ProcessingError> {
        let from_i32 = |sample: i32| {
            #[expect(
                clippy::cast_precision_loss,
                reason = "24 bits of a sample are all that f32 holds and all that is heard"
            )]
            let scaled = sample as f32 / 2_147_483_648.0;
            scaled
        };
        Ok(match self {
            Self::U8 => data.iter().map(|sample| (f32::from(*sample) - 128.0) / 128.0).collect(),
            Self::I16 => pcm::from_i16_le(data)?,
            Self::I24 => {
                data.as_chunks::<3>().0.iter().map(|[a, b, c]| from_i32(i32::from_le_bytes([0, *a, *b, *c]))).collect()
            }
            Self::I32 => data.as_chunks::<4>().0.iter().map(|sample| from_i32(i32::from_le_bytes(*sample))).collect(),
            Self::F32 => pcm::from_f32_le(data)?,
        })
    }
}

struct Format {
    sample: SampleFormat,
    channels: u32,
    rate_hz: u32,
    frame_bytes: u16,
}

/// Walks the chunks to the file's end; every one has to fit.
fn chunks(bytes: &[u8]) -> Result<(Format, &[u8]), ProcessingError> {
    let truncated = |missing| Err(ProcessingError::Truncated { format: WAV, bytes: bytes.len(), missing });
    if !bytes.starts_with(b"RIFF") {
        let start = bytes[..bytes.len().min(4)].to_vec();
        return corrupt(format!("it starts with {start:02x?} instead of \"RIFF\""));
    }
    let Some((head, mut rest)) = bytes.split_at_checked(12) else { return truncated("the RIFF header") };
    if &head[8..] != b"WAVE" {
        return corrupt(format!("its RIFF form is {:02x?} instead of \"WAVE\"", &head[8..]));
    }
    let stated = u64::from(u32_at(head, 4)) + 8;
    let found = bytes.len() as u64;
    // A missing or uncounted padding byte at the end is common and harmless.
    if stated.abs_diff(found) > 1 {
        return corrupt(format!("its header says {stated} bytes, it has {found}"));
    }
    let (mut format, mut data) = (None, None);
    while !rest.is_empty() {
        // What is shorter than a chunk's header can only be padding.
        let Some((head, body)) = rest.split_at_checked(8) else {
            if rest.len() == 1 && data.is_some() {
                break;
            }
            return truncated("the rest of a chunk's header");
        };
        let size = u32_at(head, 4) as usize;
        // Samples that a data chunk with too small a size leaves over would otherwise pass as chunks.
        if !head[..4].iter().all(|byte| (0x20..0x7f).contains(byte)) {
            return corrupt(format!("{:02x?} is not the name of a chunk", &head[..4]));
        }
        let Some((content, after)) = body.split_at_checked(size) else {
            let name = String::from_utf8_lossy(&head[..4]).into_owned();
            return corrupt(format!("its {name:?} chunk says {size} bytes, {} are left", body.len()));
        };
        match &head[..4] {
            b"fmt " if format.is_none() => format = Some(parse_format(content)?),
            b"data" if data.is_none() => data = Some(content),
            b"fmt " | b"data" => return corrupt("it has two format or data chunks".to_owned()),
            _ => {}
        }
        rest = if size.is_multiple_of(2) { after } else { after.get(1..).unwrap_or_default() };
    }
    match (format, data) {
        (Some(_), Some([])) => Err(ProcessingError::Empty("sound of the WAV file")),
        (Some(format), Some(data)) => Ok((format, data)),
        (None, _) => truncated("the format chunk"),
        (_, None) => truncated("the data chunk"),
    }
}

fn parse_format(content: &[u8]) -> Result<Format, ProcessingError> {
    if content.len() < 16 {
        return corrupt(format!("its format chunk has {} bytes instead of 16 or more", content.len()));
    }
    let mut tag = u16_at(content, 0);
    let bits = u16_at(content, 14);
    if tag == FORMAT_EXTENSIBLE {
        match content.get(24..40) {
            Some(identifier) if identifier[2..] == EXTENSIBLE_TAIL => tag = u16_at(identifier, 0),
            _ => return corrupt("its extensible format has no known identifier".to_owned()),
        }
    }
    let sample = match (tag, bits) {
        (FORMAT_PCM, 8) => SampleFormat::U8,
        (FORMAT_PCM, 16) => SampleFormat::I16,
        (FORMAT_PCM, 24) => SampleFormat::I24,
        (FORMAT_PCM, 32) => SampleFormat::I32,
        (FORMAT_FLOAT, 32) => SampleFormat::F32,
        _ => {
            return Err(ProcessingError::Unsupported {
                format: WAV,
                feature: format!("format {tag:#06x} with {bits} bits"),
                expected: "8, 16, 24 or 32 bits of PCM (0x0001) or 32 bits of float (0x0003) are",
            });
        }
    };
    let format = Format {
        sample,
        channels: u32::from(u16_at(content, 2)),
        rate_hz: u32_at(content, 4),
        frame_bytes: u16_at(content, 12),
    };
    // Checked before anything is computed with them; the length comes later.
    check(0, format.channels, format.rate_hz)?;
    Ok(format)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
