//! Why a job did not end in a result: a small closed set, with a retry hint and a sentence.

use std::fmt;

coded! {
    /// The closed set of reasons.
    #[derive(Default)]
    pub enum Reason {
        /// No reason: the job ended in a result.
        #[default]
        None = 0 "none",
        /// A header field is out of range or contradicts another.
        InvalidHeader = 1 "invalid_header",
        /// The payload's length does not fit its type and shape, or the shape is not what the model takes.
        InvalidShape = 2 "invalid_shape",
        /// The payload cannot be decoded (a truncated JPEG, a WAV whose header lies, an empty file).
        InvalidPayload = 3 "invalid_payload",
        PayloadTooLarge = 4 "payload_too_large",
        UnknownModel = 5 "unknown_model",
        /// The model is known but no ready lane runs it now.
        ModelUnavailable = 6 "model_unavailable",
        /// The deadline has passed already.
        DeadlinePassed = 7 "deadline_passed",
        /// The prediction says that it cannot be on time.
        DeadlineUnreachable = 8 "deadline_unreachable",
        /// A queue is full.
        Overloaded = 9 "overloaded",
        /// The client holds more jobs or bytes in flight than it was granted.
        CreditsExceeded = 10 "credits_exceeded",
        /// The principal lacks the role.
        Forbidden = 11 "forbidden",
        /// The node is stopping.
        ShuttingDown = 12 "shutting_down",
        /// The job killed a worker twice while it ran alone.
        Poisoned = 13 "poisoned",
        /// The model failed on this input.
        ExecutionFailed = 14 "execution_failed",
        /// The client took it back.
        CancelledByClient = 15 "cancelled_by_client",
        /// The connection was lost before the payload was complete.
        Disconnected = 16 "disconnected",
        /// The job was not done when its deadline passed.
        DeadlineExpired = 17 "deadline_expired",
        /// A fault inside the node.
        Internal = 18 "internal",
        /// A rule of the node says no.
        Rule = 19 "rule",
        /// The node that had taken the job over is lost, and no other can do it in time.
        NodeLost = 20 "node_lost",
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
