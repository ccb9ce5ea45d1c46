//! NumPy's `.npy` files, of tensors that the protocol can carry: little-endian, C order, at most
//! [`limits::RANK_MAX`] dimensions, a number or a Boolean per element. No structured types, no pickled objects.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, versions 1 to 3.

mod header;

use std::ops::Range;

use sensorium_wire::limits;
use sensorium_wire::tensor::{Dtype, tensor_bytes};
use thiserror::Error;

/// The start of every `.npy` file.
pub const MAGIC: [u8; 6] = *b"\x93NUMPY";
/// Longest header, in bytes. NumPy pads to multiples of 64; one line of a few dimensions fits twice.
pub const HEADER_BYTES_MAX: usize = 4 << 10;

/// What is wrong with a `.npy` file, or with a tensor that is to become one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NpyError {
    #[error("not a .npy file: it starts with {0:02x?} instead of \"\\x93NUMPY\"")]
    Magic(Vec<u8>),
    #[error(".npy version {0} is not known; 1, 2 and 3 are")]
    Version(u8),
    #[error("the .npy file is truncated after {bytes} bytes: {missing} is missing")]
    Truncated { bytes: usize, missing: &'static str },
    #[error("a .npy header of {bytes} bytes; at most {max} are taken", max = HEADER_BYTES_MAX)]
    HeaderTooLong { bytes: usize },
    #[error("the .npy header is not understood at byte {at}: {problem}")]
    Header { at: usize, problem: String },
    #[error("element type {0:?} is not supported; little-endian numbers and Booleans are (<f4, |u1, <i8, …)")]
    Dtype(String),
    #[error(
        "the array is stored column by column (Fortran order); numpy.ascontiguousarray makes the order that is supported"
    )]
    FortranOrder,
    #[error("{rank} dimensions; at most {max} are taken", max = limits::RANK_MAX)]
    Rank { rank: usize },
    #[error("shape {dims:?} of {dtype} needs {expected} bytes, there are {bytes}", dtype = dtype.name())]
    Length { dtype: Dtype, dims: Vec<u32>, expected: u64, bytes: usize },
    #[error("shape {0:?} is too large")]
    Shape(Vec<u32>),
}

/// Where the tensor is in a file's bytes, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyTensor {
    pub dtype: Dtype,
    /// Empty for a single number.
    pub dims: Vec<u32>,
    /// The elements within the file's bytes.
    pub data: Range<usize>,
}

/// Reads the header of a whole `.npy` file.
///
/// # Errors
/// [`NpyError`], when it is no such file, has what the protocol cannot carry, or its length does not fit its shape.
pub fn read(bytes: &[u8]) -> Result<NpyTensor, NpyError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(NpyError::Magic(bytes[..bytes.len().min(MAGIC.len())].to_vec()));
    }
    let truncated = |missing| NpyError::Truncated { bytes: bytes.len(), missing };
    let [version, _minor, length @ ..] = &bytes[MAGIC.len()..] else {
        return Err(truncated("the version"));
    };
    let missing = || truncated("the header's length");
    let (start, header_bytes) = match *version {
        1 => {
            (10, length.first_chunk::<2>().map(|length| usize::from(u16::from_le_bytes(*length))).ok_or_else(missing)?)
        }
        2 | 3 => {
            (12, length.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize).ok_or_else(missing)?)
        }
        other => return Err(NpyError::Version(other)),
    };
    if header_bytes > HEADER_BYTES_MAX {
        return Err(NpyError::HeaderTooLong { bytes: header_bytes });
    }
    let end = start + header_bytes;
    let text = bytes.get(start..end).ok_or_else(|| truncated("the rest of the header"))?;
    let (dtype, dims) = header::parse(text)?;
    let expected = tensor_bytes(dtype, &dims).ok_or_else(|| NpyError::Shape(dims.clone()))?;
    let found = bytes.len() - end;
    if expected != found as u64 {
        return Err(NpyError::Length { dtype, dims, expected, bytes: found });
    }
    Ok(NpyTensor { dtype, dims, data: end..bytes.len() })
}

/// A `.npy` file (version 1) of a tensor.
///
/// # Errors
/// [`NpyError`], when there are too many dimensions, or the length of `data` does not fit dtype and shape.
pub fn write(dtype: Dtype, dims: &[u32], data: &[u8]) -> Result<Vec<u8>, NpyError> {
    if dims.len() > limits::RANK_MAX {
        return Err(NpyError::Rank { rank: dims.len() });
    }
    let expected = tensor_bytes(dtype, dims).ok_or_else(|| NpyError::Shape(dims.to_vec()))?;
    if expected != data.len() as u64 {
        return Err(NpyError::Length { dtype, dims: dims.to_vec(), expected, bytes: data.len() });
    }
    let mut text = header::write(dtype, dims);
    // The elements start at a multiple of 64, after a line break.
    let padded = (10 + text.len() + 1).next_multiple_of(64);
    text.extend(std::iter::repeat_n(' ', padded - 11 - text.len()));
    text.push('\n');
    let header_bytes = u16::try_from(text.len()).expect("six dimensions make a header of at most 182 bytes");
    let mut bytes = Vec::with_capacity(padded + data.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&header_bytes.to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(data);
    Ok(bytes)
}

#[cfg(test)]
mod tests;
