//! Why a job did not end in a result: a small closed set, with a retry hint and a sentence.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

/// The closed set of reasons.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Reason {
    /// No reason: the job ended in a result.
    #[default]
    None = 0,
    /// A header field is out of range or contradicts another.
    InvalidHeader = 1,
    /// The payload's length does not fit its type and shape, or the shape is not what the model takes.
    InvalidShape = 2,
    /// The payload cannot be decoded (a truncated JPEG, a WAV whose header lies, an empty file).
    InvalidPayload = 3,
    PayloadTooLarge = 4,
    UnknownModel = 5,
    /// The model is known but no ready lane runs it now.
    ModelUnavailable = 6,
    /// The deadline has passed already.
    DeadlinePassed = 7,
    /// The prediction says that it cannot be on time.
    DeadlineUnreachable = 8,
    /// A queue is full.
    Overloaded = 9,
    /// The client holds more jobs or bytes in flight than it was granted.
    CreditsExceeded = 10,
    /// The principal lacks the role.
    Forbidden = 11,
    /// The node is stopping.
    ShuttingDown = 12,
    /// The job killed a worker twice while it ran alone.
    Poisoned = 13,
    /// The model failed on this input.
    ExecutionFailed = 14,
    /// The client took it back.
    CancelledByClient = 15,
    /// The connection was lost before the payload was complete.
    Disconnected = 16,
    /// The job was not done when its deadline passed.
    DeadlineExpired = 17,
    /// A fault inside the node.
    Internal = 18,
    /// A rule of the node's configuration refuses such jobs.
    Rule = 19,
}

impl Reason {
    /// Every reason, in the order of its code.
    pub const ALL: [Self; 20] = [
        Self::None,
        Self::InvalidHeader,
        Self::InvalidShape,
        Self::InvalidPayload,
        Self::PayloadTooLarge,
        Self::UnknownModel,
        Self::ModelUnavailable,
        Self::DeadlinePassed,
        Self::DeadlineUnreachable,
        Self::Overloaded,
        Self::CreditsExceeded,
        Self::Forbidden,
        Self::ShuttingDown,
        Self::Poisoned,
        Self::ExecutionFailed,
        Self::CancelledByClient,
        Self::Disconnected,
        Self::DeadlineExpired,
        Self::Internal,
        Self::Rule,
    ];

    /// The reason of a code in shared memory.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The name that `--json` shows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::InvalidHeader => "invalid_header",
            Self::InvalidShape => "invalid_shape",
            Self::InvalidPayload => "invalid_payload",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnknownModel => "unknown_model",
            Self::ModelUnavailable => "model_unavailable",
            Self::DeadlinePassed => "deadline_passed",
            Self::DeadlineUnreachable => "deadline_unreachable",
            Self::Overloaded => "overloaded",
            Self::CreditsExceeded => "credits_exceeded",
            Self::Forbidden => "forbidden",
            Self::ShuttingDown => "shutting_down",
            Self::Poisoned => "poisoned",
            Self::ExecutionFailed => "execution_failed",
            Self::CancelledByClient => "cancelled_by_client",
            Self::Disconnected => "disconnected",
            Self::DeadlineExpired => "deadline_expired",
            Self::Internal => "internal",
            Self::Rule => "rule",
        }
    }
}

/// A refusal or failure as code passes it around: the reason, when to try again, and a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    /// When trying again makes sense, in microseconds from now; 0 = not without a change.
    pub retry_after_us: u64,
    pub detail: String,
}

impl Rejection {
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, retry_after_us: 0, detail: detail.into() }
    }

    #[must_use]
    pub fn retry_after_us(mut self, retry_after_us: u64) -> Self {
        self.retry_after_us = retry_after_us;
        self
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.name(), self.detail)?;
        if self.retry_after_us > 0 {
            write!(f, " (retry after {} ms)", self.retry_after_us.div_ceil(1000))?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejection {}
