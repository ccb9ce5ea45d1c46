//! The frame: a fixed prelude, a flat header, raw payload bytes.
//!
//! ```text
//! offset size field
//!      0    4 magic          "SNSM"
//!      4    2 version        this crate's VERSION
//!      6    2 kind           Kind
//!      8    4 header_bytes   length of the header
//!     12    4 reserved       0
//!     16    8 correlation    chosen by the sender of a request, repeated in its answers
//!     24    8 payload_bytes  length of the payload
//!     32    8 reserved       0
//!     40    . header, then payload
//! ```
//! All numbers are little-endian.

use thiserror::Error;

use crate::limits;

/// `SNSM`, little-endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"SNSM");
/// The version that this crate writes.
pub const VERSION: u16 = 1;
/// The oldest version that this crate reads.
pub const VERSION_MIN: u16 = 0;
/// Bytes of the prelude.
pub const PRELUDE_BYTES: usize = 40;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// Server to client: [`crate::session::GrantHeader`].
    Grant = 1,
    /// [`crate::SubmitHeader`] and the job's payload.
    Submit = 2,
    /// [`crate::AnswerHeader`] and the answer's payload.
    Answer = 3,
    /// [`crate::session::CancelHeader`].
    Cancel = 4,
    /// [`crate::session::SessionHeader`] and the media file.
    Session = 5,
    /// No header; the payload is an rkyv archive of [`crate::Event`].
    Event = 6,
    /// No header; the payload is the question's name (`status`, `models`).
    Query = 7,
    /// No header; the payload is JSON.
    Reply = 8,
    /// No header; the payload is a sentence. The stream ends after it.
    Error = 9,
    /// Node to node: [`crate::peer::ForwardHeader`] and the job's payload.
    Forward = 10,
    /// Node to node: [`crate::peer::HelloHeader`].
    Hello = 11,
    /// Node to node: [`crate::peer::CheckpointHeader`] and the checkpoint.
    Checkpoint = 12,
    /// Node to node: [`crate::peer::RecallHeader`].
    Recall = 13,
    /// Client to node: [`crate::source::WatchHeader`].
    Watch = 14,
    /// Node to client: [`crate::source::OwnerHeader`].
    Owner = 15,
    /// Node to node: [`crate::source::LeaseAskHeader`].
    LeaseAsk = 16,
    /// Node to node: [`crate::source::LeaseAnswerHeader`].
    LeaseAnswer = 17,
}

impl Kind {
    pub const ALL: [Self; 17] = [
        Self::Grant,
        Self::Submit,
        Self::Answer,
        Self::Cancel,
        Self::Session,
        Self::Event,
        Self::Query,
        Self::Reply,
        Self::Error,
        Self::Forward,
        Self::Hello,
        Self::Checkpoint,
        Self::Recall,
        Self::Watch,
        Self::Owner,
        Self::LeaseAsk,
        Self::LeaseAnswer,
    ];

    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == code)
    }

    /// The longest payload that a frame of this kind may announce, in bytes.
    #[must_use]
    pub const fn payload_bytes_max(self) -> u64 {
        match self {
            Self::Grant
            | Self::Cancel
            | Self::Hello
            | Self::Recall
            | Self::Watch
            | Self::Owner
            | Self::LeaseAsk
            | Self::LeaseAnswer => 0,
            Self::Submit | Self::Answer | Self::Forward => limits::PAYLOAD_BYTES_MAX,
            Self::Session => limits::MEDIA_BYTES_MAX,
            Self::Event => limits::EVENT_BYTES_MAX,
            Self::Query => 64,
            Self::Checkpoint => limits::CHECKPOINT_BYTES_MAX,
            Self::Reply => limits::QUERY_BYTES_MAX,
            Self::Error => limits::DETAIL_BYTES_MAX as u64,
        }
    }
}

/// Why a frame cannot be read. After any of these the stream is out of step and ends; the connection lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("not a Sensorium frame: it starts with {0:#010x}")]
    Magic(u32),
    #[error("version {0} is not spoken here; versions {VERSION_MIN} to {VERSION} are")]
    Version(u16),
    #[error("unknown frame kind {0}")]
    Kind(u16),
    #[error("a header of {0} bytes; at most {max} are taken", max = limits::HEADER_BYTES_MAX)]
    HeaderTooLong(u32),
    #[error("a payload of {bytes} bytes; a {kind:?} frame takes at most {max}", max = kind.payload_bytes_max())]
    PayloadTooLong { kind: Kind, bytes: u64 },
    #[error("the {kind:?} header is not valid: {bytes} bytes, not a valid archive")]
    Header { kind: Kind, bytes: usize },
    #[error("a {0:?} frame is not expected here")]
    Unexpected(Kind),
}

/// The fixed start of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelude {
    pub version: u16,
    pub kind: Kind,
    pub header_bytes: u32,
    pub correlation: u64,
    pub payload_bytes: u64,
}

impl Prelude {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; PRELUDE_BYTES] {
        let mut bytes = [0; PRELUDE_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.header_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.correlation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes
    }

    /// Reads and checks a prelude.
    ///
    /// # Errors
    /// [`FrameError`], when magic, version, kind or a length is not acceptable. A payload that only exceeds its
    /// kind's limit still parses for `Submit` and `Forward`: the refusal then carries the job's id (see `SubmitHeader::check`).
    pub fn decode(bytes: &[u8; PRELUDE_BYTES]) -> Result<Self, FrameError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | (u64::from(u32_at(at + 4)) << 32);
        if u32_at(0) != MAGIC {
            return Err(FrameError::Magic(u32_at(0)));
        }
        let version = u16_at(4);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(FrameError::Version(version));
        }
        let kind = Kind::from_code(u16_at(6)).ok_or_else(|| FrameError::Kind(u16_at(6)))?;
        let header_bytes = u32_at(8);
        if header_bytes as usize > limits::HEADER_BYTES_MAX {
            return Err(FrameError::HeaderTooLong(header_bytes));
        }
        let payload_bytes = u64_at(24);
        if payload_bytes > kind.payload_bytes_max() && !matches!(kind, Kind::Submit | Kind::Forward) {
            return Err(FrameError::PayloadTooLong { kind, bytes: payload_bytes });
        }
        Ok(Self { version, kind, header_bytes, correlation: u64_at(16), payload_bytes })
    }
}
