//! Encoded images to RGB.

mod jpeg;
mod png;

use super::{Image, ImageLimits};
use crate::error::ProcessingError;

/// Decodes a JPEG or PNG image, told apart by its first bytes, to RGB.
///
/// # Errors
/// When it is empty, of another format, larger than `limits`, truncated or damaged: an image is whole or refused.
pub fn decode(bytes: &[u8], limits: ImageLimits) -> Result<Image, ProcessingError> {
    if bytes.is_empty() {
        return Err(ProcessingError::Empty("image"));
    }
    if bytes.starts_with(&jpeg::START) {
        jpeg::decode(bytes, limits)
    } else if bytes.starts_with(&png::START) {
        png::decode(bytes, limits)
    } else {
        Err(ProcessingError::UnknownImage(bytes[..bytes.len().min(8)].to_vec()))
    }
}

#[cfg(test)]
mod tests;
