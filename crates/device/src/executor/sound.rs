//! Sound payloads, encoded or raw, as mono samples at a model's rate.

use sensorium_processing::sound::{Pcm, decode_wav, from_f32_le, from_i16_le};
use sensorium_wire::rejection::{Reason, Rejection};
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::tensor::{Dtype, tensor_bytes};

use super::{JobInput, refused};

/// The job's sound as mono samples at `sample_rate_hz`; at least one.
pub(super) fn samples(job: &JobInput<'_>, sample_rate_hz: u32) -> Result<Vec<f32>, Rejection> {
    let pcm = match job.payload {
        PayloadKind::EncodedAudio => decode_wav(job.bytes).map_err(refused)?,
        PayloadKind::Pcm => raw(job)?,
        PayloadKind::Tensor | PayloadKind::EncodedImage | PayloadKind::RawFrame => {
            return Err(Rejection::new(
                Reason::InvalidPayload,
                format!("{:?}; the model takes sound, raw (PCM) or as WAV", job.payload),
            ));
        }
    };
    let samples = pcm.to_mono_at(sample_rate_hz).map_err(refused)?;
    if samples.is_empty() {
        return Err(Rejection::new(Reason::InvalidPayload, "the sound is empty (0 samples)"));
    }
    Ok(samples)
}

fn raw(job: &JobInput<'_>) -> Result<Pcm, Rejection> {
    let [_, channels] = job.dims else {
        return Err(Rejection::new(
            Reason::InvalidShape,
            format!("shape {:?}; PCM needs [samples, channels]", job.dims),
        ));
    };
    let expected = tensor_bytes(job.dtype, job.dims);
    if expected != Some(job.bytes.len() as u64) {
        let detail = format!("{} bytes for PCM of {} and shape {:?}", job.bytes.len(), job.dtype.name(), job.dims);
        return Err(Rejection::new(Reason::InvalidShape, detail));
    }
    let samples = match job.dtype {
        Dtype::I16 => from_i16_le(job.bytes),
        Dtype::F32 => from_f32_le(job.bytes),
        other => {
            return Err(Rejection::new(Reason::InvalidShape, format!("PCM of {}; expected i16 or f32", other.name())));
        }
    };
    Ok(Pcm { sample_rate_hz: job.sample_rate_hz, channels: *channels, samples: samples.map_err(refused)? })
}
