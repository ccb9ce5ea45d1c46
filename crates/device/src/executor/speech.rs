//! Probability of speech, window by window, with a recurrent state that the job brings and takes away.
//!
//! The state is the network's own (`f32`, little-endian) followed by the last `context_samples` samples. A job without
//! one starts with silence. A last window that is not full is filled up with silence; who sends a stream in pieces
//! sends whole windows, because the silence would become part of the state.

use std::time::Instant;

use sensorium_models::manifest::{FileRole, Manifest, Prepare};
use sensorium_processing::sound::Windows;
use sensorium_wire::limits;
use sensorium_wire::receipt::Stage;
use sensorium_wire::rejection::{Reason, Rejection};
use sensorium_wire::result::ModelResult;
use sensorium_wire::tensor::Dtype;

use super::{Executor, JobAnswer, JobInput, JobOutput, StageTimes, elapsed_ns, sound, work, write_result};
use crate::backend::{NamedTensor, Network, Tensor, TensorBuffer, TensorData};

/// Runs jobs one after the other: their windows depend on each other.
pub(super) struct SpeechExecutor {
    network: Box<dyn Network>,
    names: Names,
    sample_rate_hz: u32,
    windows: Windows,
    state_dims: Vec<usize>,
}

struct Names {
    sound: String,
    state: String,
    /// Input for the sample rate; not every network has one.
    rate: Option<String>,
    outputs: [String; 2],
}

/// A job that is ready to run.
struct Prepared {
    samples: Vec<f32>,
    state: Tensor,
    context: Vec<f32>,
}

impl SpeechExecutor {
    /// For a manifest whose network takes sound `[N, context + window]`, a state of three dimensions and perhaps the
    /// sample rate, and gives the probability and the new state; or what is wrong with it.
    pub(super) fn new(manifest: &Manifest, network: Box<dyn Network>) -> Result<Self, String> {
        let Prepare::Windows { sample_rate_hz, window_samples, hop_samples, context_samples } = manifest.prepare else {
            return Err("interpret step speech needs prepare step windows".to_owned());
        };
        if hop_samples != window_samples || context_samples > window_samples {
            return Err(format!(
                "hop_samples {hop_samples} and context_samples {context_samples}; speech needs windows of {window_samples} that follow each other"
            ));
        }
        let inputs = || network.signature().inputs.iter();
        let find = |dtype, rank: usize| inputs().find(|spec| spec.dtype == dtype && spec.dims.len() == rank);
        let sound = find(Dtype::F32, 2).ok_or("no input of sound, f32 of two dimensions")?;
        let state = find(Dtype::F32, 3).ok_or("no input of state, f32 of three dimensions")?;
        let rate = find(Dtype::I64, 0).map(|spec| spec.name.clone());
        let known = 2 + usize::from(rate.is_some());
        if inputs().count() != known {
            return Err(format!("{} inputs; only sound, state and sample rate are known", inputs().count()));
        }
        // The one dimension that varies is the batch.
        let state_dims = state.dims.iter().map(|dim| dim.map_or(1, |size| size as usize)).collect();
        let outputs: Vec<_> = manifest.outputs.iter().filter(|entry| entry.of == FileRole::Network).collect();
        let [probability, next, ..] = &outputs[..] else { return Err("two outputs are needed".to_owned()) };
        let names = Names {
            sound: sound.name.clone(),
            state: state.name.clone(),
            rate,
            outputs: [probability.name.clone(), next.name.clone()],
        };
        let [window, hop, context] = [window_samples, hop_samples, context_samples].map(|samples| samples as usize);
        let windows = Windows { window, hop, context };
        Ok(Self { network, names, sample_rate_hz, windows, state_dims })
    }

    fn state_elements(&self) -> usize {
        self.state_dims.iter().product()
    }

    fn prepare(&self, job: &JobInput<'_>) -> Result<Prepared, Rejection> {
        let state_elements = self.state_elements();
        let expected = 4 * (state_elements + self.windows.context);
        if !job.state.is_empty() && job.state.len() != expected {
            return Err(Rejection::new(
                Reason::InvalidHeader,
                format!("a state of {} bytes; this model's has {expected}, or none to start afresh", job.state.len()),
            ));
        }
        let mut state: Vec<f32> = job.state.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        if !state.iter().all(|value| value.is_finite()) {
            return Err(Rejection::new(Reason::InvalidPayload, "the state holds numbers that are not finite"));
        }
        state.resize(state_elements + self.windows.context, 0.0);
        let context = state.split_off(state_elements);
        let samples = sound::samples(job, self.sample_rate_hz)?;
        let windows = self.windows.count(samples.len());
        if windows > limits::RESULT_ITEMS_MAX {
            return Err(Rejection::new(
                Reason::InvalidPayload,
                format!("{windows} windows of sound; at most {} are taken", limits::RESULT_ITEMS_MAX),
            ));
        }
        let state = Tensor { name: String::new(), dims: self.state_dims.clone(), data: TensorBuffer::F32(state) };
        Ok(Prepared { samples, state, context })
    }

    fn infer(&mut self, prepared: &mut Prepared) -> Result<Vec<f32>, Rejection> {
        let failed = |detail: String| Rejection::new(Reason::ExecutionFailed, detail);
        let rate = [i64::from(self.sample_rate_hz)];
        let row = self.windows.values();
        let mut frame = vec![0.0; row];
        let count = self.windows.count(prepared.samples.len());
        let mut probabilities = Vec::with_capacity(count);
        for index in 0..count {
            self.windows.write(&prepared.context, &prepared.samples, index, &mut frame);
            let sound = NamedTensor { name: &self.names.sound, dims: &[1, row], data: TensorData::F32(&frame) };
            let mut inputs = vec![sound, prepared.state.named(&self.names.state)];
            if let Some(name) = &self.names.rate {
                inputs.push(NamedTensor { name, dims: &[], data: TensorData::I64(&rate) });
            }
            let wanted = self.names.outputs.each_ref().map(String::as_str);
            let outputs = self.network.run(&inputs, &wanted).map_err(|error| failed(error.to_string()))?;
            let Ok([probability, state]) = <[Tensor; 2]>::try_from(outputs) else {
                return Err(failed("two outputs were expected".to_owned()));
            };
            let Some([probability]) = probability.f32s() else {
                return Err(failed(format!("output {} is not one number", probability.name)));
            };
            if state.dims != self.state_dims || state.f32s().is_none() {
                return Err(failed(format!("output {} has the shape {:?}", state.name, state.dims)));
            }
            probabilities.push(*probability);
            prepared.state = state;
        }
        prepared.context.copy_from_slice(&frame[row - self.windows.context..]);
        Ok(probabilities)
    }

    fn interpret(
        &self,
        prepared: &Prepared,
        probabilities: Vec<f32>,
        output: &mut [u8],
    ) -> Result<JobAnswer, Rejection> {
        let mut state = prepared.state.data.view().bytes().to_vec();
        state.extend_from_slice(TensorData::F32(&prepared.context).bytes());
        let window_ms = u32::try_from(self.windows.window * 1000).unwrap_or(u32::MAX) / self.sample_rate_hz;
        let windows = work(probabilities.len());
        write_result(&ModelResult::Speech { probabilities, window_ms, state }, output, windows)
    }

    fn run_one(
        &mut self,
        job: &JobInput<'_>,
        output: &mut [u8],
        times: &mut StageTimes,
        on_stage: &dyn Fn(Stage),
    ) -> Result<JobAnswer, Rejection> {
        let start = Instant::now();
        on_stage(Stage::Prepare);
        let prepared = self.prepare(job);
        times.prepare_ns = elapsed_ns(start);
        let mut prepared = prepared?;
        let start = Instant::now();
        on_stage(Stage::Infer);
        let probabilities = self.infer(&mut prepared);
        times.infer_ns = elapsed_ns(start);
        let probabilities = probabilities?;
        let start = Instant::now();
        on_stage(Stage::Interpret);
        let answer = self.interpret(&prepared, probabilities, output);
        times.interpret_ns = elapsed_ns(start);
        answer
    }
}

impl Executor for SpeechExecutor {
    fn run(&mut self, jobs: &[JobInput<'_>], outputs: &mut [JobOutput<'_>], on_stage: &dyn Fn(Stage)) {
        for (job, output) in jobs.iter().zip(outputs) {
            output.times = StageTimes::default();
            output.unfinished = false;
            output.answer = self.run_one(job, output.bytes, &mut output.times, on_stage);
        }
    }
}
