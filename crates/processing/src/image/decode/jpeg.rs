//! JPEG images.
//!
//! The pixels are decoded by `zune-jpeg`, which fills what is missing with grey. So the markers are walked first: an
//! image without an end, or larger than allowed, is refused before a pixel is decoded. JPEG has no checksum: a picture
//! that was damaged within, or cut and then ended properly, is not recognised as such.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::super::{Image, ImageLimits};
use crate::error::ProcessingError;

/// The start of every JPEG image: its first marker and the start of the next.
pub(super) const START: [u8; 3] = [0xff, 0xd8, 0xff];
const JPEG: &str = "JPEG image";
/// Most scans of a progressive image. Ten are usual.
const SCANS_MAX: usize = 64;
/// Most pixels over all scans, each of which costs as much as a whole image: 12 scans of the largest one.
const SCANNED_PIXELS_MAX: u64 = 12 * (32 << 20);

pub(super) fn decode(bytes: &[u8], limits: ImageLimits) -> Result<Image, ProcessingError> {
    let (width, height, scans) = walk(bytes)?;
    limits.check(width, height)?;
    if scans > SCANS_MAX || scans as u64 * u64::from(width) * u64::from(height) > SCANNED_PIXELS_MAX {
        return Err(ProcessingError::Unsupported {
            format: JPEG,
            feature: format!("{scans} scans of {width} × {height} pixels"),
            expected: "64 scans, and 12 of the largest size, are",
        });
    }
    let corrupt = |problem: String| ProcessingError::Corrupt { format: JPEG, problem };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(width as usize)
        .set_max_height(height as usize)
        .jpeg_set_max_scans(SCANS_MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let rgb = decoder.decode().map_err(|error| corrupt(error.to_string()))?;
    let expected = width as usize * height as usize * 3;
    if decoder.dimensions() != Some((width as usize, height as usize)) || rgb.len() != expected {
        return Err(corrupt(format!("{width} × {height} pixels are announced, {} bytes were decoded", rgb.len())));
    }
    Ok(Image { width, height, rgb })
}

/// Walks the markers from start to end; gives width, height and the number of scans.
fn walk(bytes: &[u8]) -> Result<(u32, u32, usize), ProcessingError> {
    let truncated = |missing| ProcessingError::Truncated { format: JPEG, bytes: bytes.len(), missing };
    let corrupt = |problem: String| Err(ProcessingError::Corrupt { format: JPEG, problem });
    let end = "its end marker";
    let mut size = None;
    let mut scans = 0;
    let mut at = 2;
    loop {
        // A marker is 0xff, perhaps repeated, and its code.
        if *bytes.get(at).ok_or_else(|| truncated(end))? != 0xff {
            return corrupt(format!("byte {at} is {:#04x} where a marker has to be", bytes[at]));
        }
        while *bytes.get(at).ok_or_else(|| truncated(end))? == 0xff {
            at += 1;
        }
        let code = bytes[at];
        at += 1;
        match code {
            0xd9 => break,
            // Restart markers and the temporary one stand alone.
            0xd0..=0xd7 | 0x01 => continue,
            0x00 | 0xd8 => return corrupt(format!("marker {code:#04x} at byte {} is out of place", at - 1)),
            _ => {}
        }
        let segment = segment(&bytes[at..]).ok_or_else(|| truncated("the rest of a segment"))?;
        at += segment.len();
        // Start of frame, of any kind; the other three codes of the range are tables.
        if matches!(code, 0xc0..=0xcf) && !matches!(code, 0xc4 | 0xc8 | 0xcc) {
            let &[_, _, _, h1, h0, w1, w0, ..] = segment else {
                return Err(truncated("the size in its frame header"));
            };
            if size.is_some() {
                return corrupt("it has two frame headers".to_owned());
            }
            size = Some((u32::from(u16::from_be_bytes([w1, w0])), u32::from(u16::from_be_bytes([h1, h0]))));
        }
        if code == 0xda {
            scans += 1;
            at += entropy_coded(&bytes[at..]);
        }
    }
    match size {
        Some(_) if scans == 0 => Err(truncated("the picture itself")),
        Some((width, height)) => Ok((width, height, scans)),
        None => Err(truncated("its frame header")),
    }
}

/// A segment with the length that it starts with; `None` when it is not whole.
fn segment(bytes: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]));
    if length < 2 { None } else { bytes.get(..length) }
}

/// Bytes of a scan's data, which ends at the first marker that is neither a stuffed zero nor a restart.
fn entropy_coded(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(marker) = bytes[at..].iter().position(|byte| *byte == 0xff) {
        at += marker;
        match bytes.get(at + 1) {
            Some(0x00 | 0xd0..=0xd7) => at += 2,
            // A fill byte before a marker.
            Some(0xff) => at += 1,
            Some(_) => return at,
            None => break,
        }
    }
    bytes.len()
}
