//! Why a NUT file cannot be read.

use thiserror::Error;

/// What is wrong with a NUT file, and at which byte of it the header or frame begins.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NutError {
    #[error("not a NUT file: it starts with {0:02x?} instead of \"nut/multimedia container\"")]
    NotNut(Vec<u8>),
    #[error("NUT version {version} at byte {at}; 3 and 4 are read")]
    Version { at: u64, version: u64 },
    #[error("the checksum of the header at byte {at} does not hold")]
    Checksum { at: u64 },
    #[error("the header at byte {at} is not valid: {problem}")]
    Malformed { at: u64, problem: String },
    #[error("a header of {bytes} bytes or more at byte {at}; at most {max} are taken", max = super::HEADER_BYTES_MAX)]
    HeaderTooLong { at: u64, bytes: u64 },
    #[error("a frame of {bytes} bytes at byte {at}; at most {bytes_max} are taken")]
    PacketTooLong { at: u64, bytes: u64, bytes_max: usize },
    #[error("the frame at byte {at} needs a checksum (it is long, or its time jumps) and has none")]
    ChecksumMissing { at: u64 },
    #[error("what is at byte {at} belongs to a stream or file whose header has not come")]
    Order { at: u64 },
    #[error("{what}, repeated at byte {at}, is not what it was")]
    Changed { at: u64, what: &'static str },
    #[error("the frame at byte {at} has {feature}, which is not supported")]
    Unsupported { at: u64, feature: &'static str },
    #[error("the file is truncated after {bytes} bytes, within a header or frame")]
    Truncated { bytes: u64 },
}
