//! Flat bytes that state is written to and read back from: a kind, a version, then fixed-size little-endian fields.
//!
//! The bytes may come from another node, so every length is bounded and every field is checked before it is used.

use thiserror::Error;

/// Longest checkpoint, in bytes; what a job may carry along.
pub const CHECKPOINT_BYTES_MAX: usize = sensorium_wire::limits::STATE_BYTES_MAX as usize;

/// Why bytes are not a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    #[error("checkpoint of {bytes} bytes, at most {CHECKPOINT_BYTES_MAX} are taken")]
    TooLong { bytes: usize },
    #[error("checkpoint of kind {found:?}, expected {expected:?}")]
    Kind { found: [u8; 4], expected: [u8; 4] },
    #[error("checkpoint of version {found}, this build reads version {expected}")]
    Version { found: u16, expected: u16 },
    #[error("checkpoint ends at byte {bytes} within {what}")]
    Truncated { what: &'static str, bytes: usize },
    #[error("checkpoint holds an impossible {what}")]
    Invalid { what: &'static str },
    #[error("checkpoint has {bytes} bytes after its end")]
    Trailing { bytes: usize },
}

pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(kind: [u8; 4], version: u16) -> Self {
        let mut writer = Self { bytes: Vec::with_capacity(256) };
        writer.put(&kind);
        writer.u16(version);
        writer
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.put(&[u8::from(value)]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }

    pub(crate) fn f32(&mut self, value: f32) {
        self.put(&value.to_le_bytes());
    }

    /// Bytes of any length, after their number.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.put(bytes);
    }

    /// The number of items that follow; their bounds keep it far below the type's.
    pub(crate) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("counts of bounded state are small"));
    }

    /// Without a look at the length, for who leaves something out when it is too long.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        debug_assert!(self.bytes.len() <= CHECKPOINT_BYTES_MAX, "bounded state fits into a checkpoint");
        self.bytes
    }
}

pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], kind: [u8; 4], version: u16) -> Result<Self, CheckpointError> {
        if bytes.len() > CHECKPOINT_BYTES_MAX {
            return Err(CheckpointError::TooLong { bytes: bytes.len() });
        }
        let mut reader = Self { bytes, at: 0 };
        let found = reader.array("kind")?;
        if found != kind {
            return Err(CheckpointError::Kind { found, expected: kind });
        }
        let found = reader.u16("version")?;
        if found != version {
            return Err(CheckpointError::Version { found, expected: version });
        }
        Ok(reader)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CheckpointError> {
        let rest = &self.bytes[self.at..];
        let Some(field) = rest.first_chunk::<N>() else {
            return Err(CheckpointError::Truncated { what, bytes: self.bytes.len() });
        };
        self.at += N;
        Ok(*field)
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, CheckpointError> {
        match self.array::<1>(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(CheckpointError::Invalid { what }),
        }
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, CheckpointError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, CheckpointError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, CheckpointError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, CheckpointError> {
        self.array(what).map(i64::from_le_bytes)
    }

    /// A number that is finite; the others would spread through everything computed from it.
    pub(crate) fn f32(&mut self, what: &'static str) -> Result<f32, CheckpointError> {
        let value = f32::from_le_bytes(self.array(what)?);
        if value.is_finite() { Ok(value) } else { Err(CheckpointError::Invalid { what }) }
    }

    /// A probability.
    pub(crate) fn unit_f32(&mut self, what: &'static str) -> Result<f32, CheckpointError> {
        let value = self.f32(what)?;
        if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(CheckpointError::Invalid { what }) }
    }

    /// Bytes after their number.
    pub(crate) fn bytes(&mut self, what: &'static str, bytes_max: usize) -> Result<&'a [u8], CheckpointError> {
        let bytes = self.count(what, bytes_max)?;
        let rest = &self.bytes[self.at..];
        let field = rest.get(..bytes).ok_or(CheckpointError::Truncated { what, bytes: self.bytes.len() })?;
        self.at += bytes;
        Ok(field)
    }

    /// The number of items that follow.
    pub(crate) fn count(&mut self, what: &'static str, count_max: usize) -> Result<usize, CheckpointError> {
        let count = self.u32(what)? as usize;
        if count > count_max { Err(CheckpointError::Invalid { what }) } else { Ok(count) }
    }

    pub(crate) fn finish(self) -> Result<(), CheckpointError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            bytes => Err(CheckpointError::Trailing { bytes }),
        }
    }
}
