//! A payload that suits a model, for measurements.

use std::path::Path;

use anyhow::bail;
use bytes::Bytes;
use sensorium_client::Job;
use sensorium_models::manifest::{Manifest, Prepare};
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::{Dtype, JobId};

use super::picture;
use crate::payload::{self, FileJob};

/// A payload that suits a model, and how to describe it.
pub(super) struct Sample {
    /// What it is, in words.
    pub(super) what: String,
    /// From a file: the job that describes it.
    pub(super) described: Option<Job>,
    pub(super) kind: PayloadKind,
    pub(super) dtype: Dtype,
    pub(super) dims: Vec<u32>,
    pub(super) sample_rate_hz: u32,
    pub(super) bytes: Bytes,
}

impl Sample {
    /// What a file holds.
    pub(super) fn of_file(model: &str, path: &Path) -> anyhow::Result<Self> {
        let FileJob { job, payload } = payload::read(model, path)?;
        let what = format!("{}, {} bytes", path.display(), payload.len());
        Ok(Self::described(job, payload.into(), what))
    }

    /// A frame of the demonstration's street camera, as a camera would send it; `None` when it was not fetched.
    pub(super) fn camera(model: &str, cache: &Path) -> Option<Self> {
        let bytes = Bytes::from(picture::street(cache).ok()?);
        let what = format!("a street camera's frame, 768 x 576 JPEG, {} bytes", bytes.len());
        Some(Self::described(Job::image(model), bytes, what))
    }

    fn described(job: Job, bytes: Bytes, what: String) -> Self {
        Self {
            what,
            described: Some(job),
            kind: PayloadKind::Tensor,
            dtype: Dtype::U8,
            dims: Vec::new(),
            sample_rate_hz: 0,
            bytes,
        }
    }

    /// A raw frame of noise.
    pub(super) fn frame(width: u32, height: u32) -> Self {
        let bytes = noise(width as usize * height as usize * 3);
        Self {
            what: format!("noise, {width} x {height} pixels"),
            described: None,
            kind: PayloadKind::RawFrame,
            dtype: Dtype::U8,
            dims: vec![height, width],
            sample_rate_hz: 0,
            bytes: bytes.into(),
        }
    }

    /// A payload of noise.
    pub(super) fn new(manifest: &Manifest, bytes: u32) -> anyhow::Result<Self> {
        let pcm = |samples: u32, sample_rate_hz: u32| {
            let sound = noise(samples as usize)
                .iter()
                .flat_map(|byte| (f32::from(*byte) / 512.0 - 0.25).to_le_bytes())
                .collect::<Vec<u8>>();
            Self {
                what: format!("noise, {samples} samples"),
                described: None,
                kind: PayloadKind::Pcm,
                dtype: Dtype::F32,
                dims: vec![samples, 1],
                sample_rate_hz,
                bytes: sound.into(),
            }
        };
        let raw = |kind, dtype, dims, bytes: Vec<u8>| Self {
            what: format!("noise, {} bytes", bytes.len()),
            described: None,
            kind,
            dtype,
            dims,
            sample_rate_hz: 0,
            bytes: bytes.into(),
        };
        Ok(match &manifest.prepare {
            Prepare::Image { .. } => raw(PayloadKind::RawFrame, Dtype::U8, vec![480, 640], noise(640 * 480 * 3)),
            Prepare::Windows { sample_rate_hz, window_samples, .. } => pcm(*window_samples, *sample_rate_hz),
            Prepare::Utterance { sample_rate_hz, .. } => pcm(*sample_rate_hz * 2, *sample_rate_hz),
            Prepare::Stage { .. } => bail!("{} goes on where another model ends; measure the first", manifest.name),
            Prepare::Tensor {} => match manifest.inputs.first() {
                None => raw(PayloadKind::Tensor, Dtype::U8, vec![bytes], noise(bytes as usize)),
                Some(input) => {
                    let dims = input.one_row();
                    let count: u32 = dims.iter().product();
                    let values = noise(count as usize);
                    let bytes = match input.dtype {
                        Dtype::F32 => values.iter().flat_map(|byte| (f32::from(*byte) / 256.0).to_le_bytes()).collect(),
                        Dtype::U8 => values,
                        other => bail!("no sample payload for inputs of type {}", other.name()),
                    };
                    raw(PayloadKind::Tensor, input.dtype, dims, bytes)
                }
            },
        })
    }

    /// A job of this payload, without a deadline of its own.
    pub(super) fn job(&self, model: &str) -> Job {
        if let Some(job) = &self.described {
            // The same job again would only get the same answer again.
            return job.clone().job_id(JobId(rand::random()));
        }
        match self.kind {
            PayloadKind::RawFrame => Job::frame(model, self.dims[1], self.dims[0], PixelFormat::Rgb24),
            PayloadKind::Pcm => Job::pcm(model, self.dtype, self.dims[0], self.dims[1], self.sample_rate_hz),
            PayloadKind::Tensor | PayloadKind::EncodedImage | PayloadKind::EncodedAudio => {
                Job::tensor(model, self.dtype, &self.dims)
            }
        }
    }
}

/// Bytes that are never only zeros, which some kernels are quicker on; the same every time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    bytes.take(count).collect()
}
