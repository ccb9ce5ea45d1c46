//! What to run, on what kind of payload, by when.

use sensorium_wire::submit::{PayloadKind, PixelFormat, SubmitHeader, Urgency};
use sensorium_wire::{Dtype, JobId, Name};

use crate::ClientError;

/// One job. Defaults: deadline 1 s, urgency `standard`, current model version, a fresh random job id.
#[derive(Clone, Debug)]
pub struct Job {
    pub(crate) model: String,
    pub(crate) header: SubmitHeader,
    pub(crate) shape: Vec<u32>,
    pub(crate) refusals_retried_max: u32,
}

impl Job {
    fn new(model: &str, payload: PayloadKind) -> Self {
        let job_id = JobId(rand::random());
        let header = SubmitHeader { job_id, payload, budget_us: 1_000_000, ..Default::default() };
        Self { model: model.to_owned(), header, shape: Vec::new(), refusals_retried_max: 0 }
    }

    /// An encoded image (JPEG or PNG).
    #[must_use]
    pub fn image(model: &str) -> Self {
        Self::new(model, PayloadKind::EncodedImage)
    }

    /// An encoded sound file (WAV).
    #[must_use]
    pub fn sound(model: &str) -> Self {
        Self::new(model, PayloadKind::EncodedAudio)
    }

    /// A raw frame of `width` × `height` pixels.
    #[must_use]
    pub fn frame(model: &str, width: u32, height: u32, pixels: PixelFormat) -> Self {
        let mut job = Self::new(model, PayloadKind::RawFrame);
        job.header.pixels = pixels;
        job.shape = vec![height, width];
        job
    }

    /// Interleaved PCM: `samples` per channel.
    #[must_use]
    pub fn pcm(model: &str, dtype: Dtype, samples: u32, channels: u32, sample_rate_hz: u32) -> Self {
        let mut job = Self::new(model, PayloadKind::Pcm);
        job.header.dtype = dtype;
        job.header.sample_rate_hz = sample_rate_hz;
        job.shape = vec![samples, channels];
        job
    }

    /// A dense tensor.
    #[must_use]
    pub fn tensor(model: &str, dtype: Dtype, shape: &[u32]) -> Self {
        let mut job = Self::new(model, PayloadKind::Tensor);
        job.header.dtype = dtype;
        job.shape = shape.to_vec();
        job
    }

    /// Time from `submit` to the answer, in milliseconds. A job that cannot make it is refused or expires. 0 is past at
    /// once. What the way to the node and back is expected to take is kept back ([`crate::Client::expected_transit`]): a
    /// refusal names the rest.
    #[must_use]
    pub fn deadline_ms(self, deadline_ms: u64) -> Self {
        self.deadline_us(deadline_ms.saturating_mul(1000))
    }

    /// The same in microseconds.
    #[must_use]
    pub fn deadline_us(mut self, deadline_us: u64) -> Self {
        self.header.budget_us = deadline_us;
        self
    }

    #[must_use]
    pub fn urgency(mut self, urgency: Urgency) -> Self {
        self.header.urgency = urgency;
        self
    }

    /// Sends a job that was refused for now again after the pause that the refusal names, as long as its deadline allows,
    /// and at most this many times. Without it, and where the refusal names no pause, the refusal is the answer.
    #[must_use]
    pub fn retry_refusals(mut self, retries_max: u32) -> Self {
        self.refusals_retried_max = retries_max;
        self
    }

    /// The idempotency key; a job sent twice under the same key is run once, and whoever waits for it gets the same
    /// answer. While the first is unanswered a second one with its key is not sent, and shares its deadline.
    #[must_use]
    pub fn job_id(mut self, job_id: JobId) -> Self {
        self.header.job_id = job_id;
        self
    }

    /// Asks for one version of the model instead of the current one.
    #[must_use]
    pub fn model_version(mut self, version: u32) -> Self {
        self.header.model_version = version;
        self
    }

    /// Stream and sequence number that the job belongs to, and its sensor time in nanoseconds of the clock `clock`.
    #[must_use]
    pub fn stream(mut self, stream: u64, sequence: u64, clock: u32, capture_ns: i64) -> Self {
        self.header.stream = stream;
        self.header.sequence = sequence;
        self.header.clock = clock;
        self.header.capture_ns = capture_ns;
        self
    }

    /// How many leading bytes of the payload are the model's state.
    #[must_use]
    pub fn state_bytes(mut self, state_bytes: u32) -> Self {
        self.header.state_bytes = state_bytes;
        self
    }

    /// An answer that was given to the same payload not longer ago than this will do: the node may have it in its cache, and
    /// then the payload is not sent. `submit` computes the payload's SHA-256, the cache's key. The receipt says whether a
    /// cache answered, and how old the answer is.
    #[must_use]
    pub fn fresh_within_ms(mut self, ms: u64) -> Self {
        self.header.freshness_us = ms.saturating_mul(1000);
        self
    }

    /// The header as it goes out.
    pub(crate) fn into_header(self) -> Result<SubmitHeader, ClientError> {
        let mut header = self.header;
        header.model = Name::new(&self.model)
            .filter(|name| !name.is_empty())
            .ok_or_else(|| ClientError::Invalid(format!("model name {:?}: 1 to 32 bytes are allowed", self.model)))?;
        header
            .with_shape(&self.shape)
            .ok_or_else(|| ClientError::Invalid(format!("{} dimensions: at most 6 are allowed", self.shape.len())))
    }
}
