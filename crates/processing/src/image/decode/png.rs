//! PNG images.

use std::io::Cursor;

use ::png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::super::{Image, ImageLimits};
use crate::error::ProcessingError;

/// The start of every PNG image.
pub(super) const START: [u8; 4] = *b"\x89PNG";
const PNG: &str = "PNG image";
/// Memory that the decoder may use besides the picture, in bytes.
const DECODER_BYTES_MAX: usize = 16 << 20;

pub(super) fn decode(bytes: &[u8], limits: ImageLimits) -> Result<Image, ProcessingError> {
    let failed = |error: DecodingError| match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            ProcessingError::Truncated { format: PNG, bytes: bytes.len(), missing: "the rest of the picture" }
        }
        other => ProcessingError::Corrupt { format: PNG, problem: other.to_string() },
    };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: DECODER_BYTES_MAX });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Palettes and fewer than 8 bits become 8 bits, 16 bits become 8.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let header = decoder.read_header_info().map_err(failed)?;
    let (width, height) = (header.width, header.height);
    limits.check(width, height)?;
    let mut reader = decoder.read_info().map_err(failed)?;
    let corrupt = |problem: &str| ProcessingError::Corrupt { format: PNG, problem: problem.to_owned() };
    let size = reader.output_buffer_size().ok_or_else(|| corrupt("its size does not fit into memory"))?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(failed)?;
    reader.finish().map_err(failed)?;
    pixels.truncate(frame.buffer_size());
    if (frame.width, frame.height) != (width, height) || frame.bit_depth != BitDepth::Eight {
        return Err(corrupt("its first frame is not the whole picture with 8 bits"));
    }
    let rgb = match frame.color_type {
        ColorType::Rgb => pixels,
        ColorType::Rgba => {
            pixels.as_chunks::<4>().0.iter().flat_map(|[red, green, blue, _]| [*red, *green, *blue]).collect()
        }
        ColorType::Grayscale => pixels.iter().flat_map(|gray| [*gray; 3]).collect(),
        ColorType::GrayscaleAlpha => pixels.as_chunks::<2>().0.iter().flat_map(|[gray, _]| [*gray; 3]).collect(),
        ColorType::Indexed => return Err(corrupt("its palette was not expanded")),
    };
    if rgb.len() != width as usize * height as usize * 3 {
        return Err(corrupt("it has fewer pixels than announced"));
    }
    Ok(Image { width, height, rgb })
}
