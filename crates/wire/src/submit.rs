//! One unit of work for one model, as a client asks for it.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{JobId, ShortName};
use crate::limits;
use crate::rejection::{Reason, Rejection};
use crate::tensor::{Dtype, tensor_bytes};

coded! {
    /// What kind of evidence a model works on; each modality has a lane of its own on a device.
    pub enum Modality {
        Visual = 0 "visual",
        Audio = 1 "audio",
        Fusion = 2 "fusion",
    }
}

coded! {
    /// How much it matters that this job is on time. `Critical` needs the role of the same name.
    #[derive(Default)]
    pub enum Urgency {
        Critical = 0 "critical",
        High = 1 "high",
        #[default]
        Standard = 2 "standard",
        Batch = 3 "batch",
    }
}

coded! {
    /// How the payload is to be read.
    #[derive(Default)]
    pub enum PayloadKind {
        /// A dense tensor of `dtype` and `shape`.
        #[default]
        Tensor = 0 "tensor",
        /// An encoded image (JPEG or PNG, told apart by its first bytes). `shape` is empty.
        EncodedImage = 1 "encodedimage",
        /// A raw frame: `shape` = [height, width], `pixels` tells the format.
        RawFrame = 2 "rawframe",
        /// PCM samples of `dtype` (i16 or f32), interleaved: `shape` = [samples per channel, channels].
        Pcm = 3 "pcm",
        /// An encoded sound file (WAV). `shape` is empty.
        EncodedAudio = 4 "encodedaudio",
    }
}

coded! {
    /// Pixel format of a raw frame.
    #[derive(Default)]
    pub enum PixelFormat {
        #[default]
        Rgb24 = 0 "rgb24",
        Bgr24 = 1 "bgr24",
        Gray8 = 2 "gray8",
    }
}

impl PixelFormat {
    #[must_use]
    pub const fn bytes_per_pixel(self) -> usize {
        match self {
            Self::Rgb24 | Self::Bgr24 => 3,
            Self::Gray8 => 1,
        }
    }
}

/// The header of a job. Flat: fixed-size fields only, so that its archive is its bytes.
///
/// Fields are only ever appended, and zero means absent; a header of the version before is read by extending it with
/// zeros (`codec::decode_submit`).
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct SubmitHeader {
    pub job_id: JobId,
    /// The model, by name.
    pub model: ShortName,
    /// Session and stream that the job belongs to; 0 = none.
    pub session: u64,
    pub stream: u64,
    /// Number of the frame or chunk within its stream.
    pub sequence: u64,
    /// When the sensor took it, in nanoseconds of the clock `clock`.
    pub capture_ns: i64,
    /// What is left of the deadline when the sender sent it, less the transit that it expects, in microseconds.
    pub budget_us: u64,
    /// Which sensor clock `capture_ns` counts; 0 = unknown.
    pub clock: u32,
    /// How often the client has sent this job before.
    pub attempt: u32,
    /// Version of the model; 0 = the current one.
    pub model_version: u32,
    /// Sample rate of PCM, in hertz.
    pub sample_rate_hz: u32,
    /// Leading bytes of the payload that are the model's state (stateful audio models); 0 = start afresh.
    pub state_bytes: u32,
    pub shape: [u32; limits::RANK_MAX],
    pub rank: u8,
    pub dtype: Dtype,
    pub payload: PayloadKind,
    pub pixels: PixelFormat,
    pub urgency: Urgency,
    pub reserved: [u8; 3],
    // Appended in version 1:
    /// How old an answer from a cache may be, in microseconds; 0 = no cache.
    pub freshness_us: u64,
    /// SHA-256 of the payload, for caches; zero = not computed.
    pub digest: [u8; 32],
}

impl SubmitHeader {
    /// The dimensions in use.
    #[must_use]
    pub fn dims(&self) -> &[u32] {
        &self.shape[..usize::from(self.rank).min(limits::RANK_MAX)]
    }

    /// Sets `shape` and `rank`; dimensions past [`limits::RANK_MAX`] are refused with `None`.
    #[must_use]
    pub fn with_shape(mut self, dims: &[u32]) -> Option<Self> {
        self.shape = [0; limits::RANK_MAX];
        self.shape.get_mut(..dims.len())?.copy_from_slice(dims);
        self.rank = u8::try_from(dims.len()).ok()?;
        Some(self)
    }

    /// Checks the header against the protocol's limits and against the payload length that the prelude announced.
    ///
    /// # Errors
    /// A [`Rejection`] that says which field is wrong and what it should be.
    pub fn check(&self, payload_bytes: u64) -> Result<(), Rejection> {
        let invalid = |detail: String| Err(Rejection::new(Reason::InvalidHeader, detail));
        if payload_bytes > limits::PAYLOAD_BYTES_MAX {
            return Err(Rejection::new(
                Reason::PayloadTooLarge,
                format!("payload of {payload_bytes} bytes; at most {} are taken", limits::PAYLOAD_BYTES_MAX),
            ));
        }
        if usize::from(self.rank) > limits::RANK_MAX {
            return invalid(format!("rank {}; at most {} dimensions", self.rank, limits::RANK_MAX));
        }
        if self.state_bytes > limits::STATE_BYTES_MAX || u64::from(self.state_bytes) > payload_bytes {
            return invalid(format!(
                "state_bytes {} of a payload of {payload_bytes}; at most {} and never more than the payload",
                self.state_bytes,
                limits::STATE_BYTES_MAX
            ));
        }
        if self.budget_us > limits::BUDGET_US_MAX {
            return invalid(format!("budget_us {}; at most {}", self.budget_us, limits::BUDGET_US_MAX));
        }
        let body = payload_bytes - u64::from(self.state_bytes);
        let expected = match self.payload {
            PayloadKind::Tensor => tensor_bytes(self.dtype, self.dims()),
            PayloadKind::Pcm => {
                if self.rank != 2 || !matches!(self.dtype, Dtype::I16 | Dtype::F32) || self.sample_rate_hz == 0 {
                    return invalid(
                        "pcm needs shape [samples, channels], dtype i16 or f32 and sample_rate_hz above 0".to_owned(),
                    );
                }
                tensor_bytes(self.dtype, self.dims())
            }
            PayloadKind::RawFrame => {
                if self.rank != 2 {
                    return invalid(format!("a raw frame needs shape [height, width], not {:?}", self.dims()));
                }
                tensor_bytes(Dtype::U8, self.dims())
                    .and_then(|pixels| pixels.checked_mul(self.pixels.bytes_per_pixel() as u64))
            }
            PayloadKind::EncodedImage | PayloadKind::EncodedAudio => Some(body),
        };
        if expected != Some(body) {
            return Err(Rejection::new(
                Reason::InvalidShape,
                format!(
                    "{:?} of {} and shape {:?} needs {} bytes, the payload has {body}",
                    self.payload,
                    self.dtype.name(),
                    self.dims(),
                    expected.map_or_else(|| "too many".to_owned(), |bytes| bytes.to_string()),
                ),
            ));
        }
        Ok(())
    }
}
