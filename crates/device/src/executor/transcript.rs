//! Speech to text: an encoder, then a decoder with a key-value cache, greedily, token by token.
//!
//! One utterance at a time. How long it takes follows from the number of tokens, which is bounded by the length of the
//! sound. An utterance can be left after any step, the encoder's or one of the decoder's, and taken up again; what it has
//! come to meanwhile is kept here. Whose turn it is, is not decided here.

use std::time::Instant;

use sensorium_models::manifest::{FileRole, Interpret, Manifest, Prepare};
use sensorium_models::signature::CACHE_PREFIX;
use sensorium_processing::tokens::Tokenizer;
use sensorium_wire::receipt::Stage;
use sensorium_wire::rejection::{Reason, Rejection};
use sensorium_wire::result::ModelResult;
use sensorium_wire::tensor::Dtype;

use super::suspended::Suspended;
use super::{Executor, JobAnswer, JobInput, JobOutput, Slice, StageTimes, elapsed_ns, sound, work, write_result};
use crate::backend::{NamedTensor, Network, Tensor, TensorBuffer, TensorData};

/// Runs utterances one after the other.
pub(super) struct TranscriptExecutor {
    encoder: Box<dyn Network>,
    decoder: Box<dyn Network>,
    tokenizer: Tokenizer,
    names: Names,
    decoding: Decoding,
    sample_rate_hz: u32,
    seconds_max: u32,
    /// One name in and one out for each part of the cache.
    cache: Vec<CacheEntry>,
    suspended: Suspended<Utterance>,
}

/// What an utterance has come to after the encoder and some steps of the decoder. 30 seconds of sound are some 20 MB with
/// the project's own model, most of it keys and values of the encoder's output.
struct Utterance {
    /// The encoder's output.
    hidden: Tensor,
    /// The decoder's cache.
    past: Vec<Tensor>,
    tokens: Vec<u32>,
    tokens_max: usize,
    ended: bool,
}

struct Names {
    sound: String,
    encoded: String,
    tokens: String,
    hidden: String,
    use_cache: String,
    logits: String,
}

struct Decoding {
    start_token: u32,
    end_token: u32,
    tokens_per_second_max: f32,
    tokens_min: u32,
    /// Shape of an empty cache entry.
    empty: [usize; 4],
}

struct CacheEntry {
    past: String,
    present: String,
    /// Keys and values of the encoder's output are computed in the first step and stay.
    of_encoder: bool,
}

impl TranscriptExecutor {
    /// For a manifest with the `transcript` step; or what is wrong with it.
    pub(super) fn new(
        manifest: &Manifest,
        encoder: Box<dyn Network>,
        decoder: Box<dyn Network>,
        tokenizer: Tokenizer,
    ) -> Result<Self, String> {
        let Prepare::Utterance { sample_rate_hz, seconds_max } = manifest.prepare else {
            return Err("interpret step transcript needs prepare step utterance".to_owned());
        };
        let Interpret::Transcript {
            start_token,
            end_token,
            tokens_per_second_max,
            tokens_min,
            layers,
            heads,
            head_size,
        } = manifest.interpret
        else {
            return Err("not a transcript model".to_owned());
        };
        let input = |of: FileRole, dtype: Dtype| {
            let mut entries = manifest.inputs.iter().filter(|entry| entry.of == of && entry.dtype == dtype);
            let missing = || format!("the {of} needs one input of {} in the manifest", dtype.name());
            entries.next().map(|entry| entry.name.clone()).ok_or_else(missing)
        };
        let output = |of: FileRole| {
            let entry = manifest.outputs.iter().find(|entry| entry.of == of && entry.dtype == Dtype::F32);
            entry
                .map(|entry| entry.name.clone())
                .ok_or_else(|| format!("the {of} needs an output of f32 in the manifest"))
        };
        let names = Names {
            sound: input(FileRole::Encoder, Dtype::F32)?,
            encoded: output(FileRole::Encoder)?,
            tokens: input(FileRole::Decoder, Dtype::I64)?,
            hidden: input(FileRole::Decoder, Dtype::F32)?,
            use_cache: input(FileRole::Decoder, Dtype::Bool)?,
            logits: output(FileRole::Decoder)?,
        };
        let cache = cache_entries(decoder.as_ref(), layers, heads, head_size)?;
        let empty = [1, heads as usize, 0, head_size as usize];
        let decoding = Decoding { start_token, end_token, tokens_per_second_max, tokens_min, empty };
        Ok(Self {
            encoder,
            decoder,
            tokenizer,
            names,
            decoding,
            sample_rate_hz,
            seconds_max,
            cache,
            suspended: Suspended::default(),
        })
    }

    fn prepare(&self, job: &JobInput<'_>) -> Result<Vec<f32>, Rejection> {
        let mut samples = sound::samples(job, self.sample_rate_hz)?;
        let samples_max = u64::from(self.sample_rate_hz) * u64::from(self.seconds_max);
        if samples.len() as u64 > samples_max {
            let detail = format!("{} samples at {} Hz", samples.len(), self.sample_rate_hz);
            return Err(Rejection::new(
                Reason::InvalidPayload,
                format!("{detail}; utterances of at most {} seconds are taken", self.seconds_max),
            ));
        }
        // The encoder's convolutions need some length to give anything at all.
        let samples_min = self.sample_rate_hz as usize / 10;
        samples.resize(samples.len().max(samples_min), 0.0);
        Ok(samples)
    }

    /// Tokens that `samples` samples may have at most.
    fn tokens_max(&self, samples: usize) -> usize {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 600 seconds of 100 tokens; the manifest's rates are positive"
        )]
        let by_length = (samples as f32 / self.sample_rate_hz as f32 * self.decoding.tokens_per_second_max) as usize;
        by_length.max(self.decoding.tokens_min as usize)
    }

    /// An utterance before its first token.
    fn encode(&mut self, samples: &[f32]) -> Result<Utterance, Rejection> {
        let sound = NamedTensor { name: &self.names.sound, dims: &[1, samples.len()], data: TensorData::F32(samples) };
        let hidden = self.encoder.run(&[sound], &[&self.names.encoded]).map_err(failed)?.pop();
        let hidden = hidden.ok_or_else(|| failed("the encoder gave nothing"))?;
        let empty =
            || Tensor { name: String::new(), dims: self.decoding.empty.to_vec(), data: TensorBuffer::F32(Vec::new()) };
        let past = self.cache.iter().map(|_| empty()).collect();
        let tokens_max = self.tokens_max(samples.len());
        Ok(Utterance { hidden, past, tokens: Vec::new(), tokens_max, ended: false })
    }

    /// Goes on with `resumed`, or starts with `samples`, until the utterance has ended or, after at least one step, `spent`
    /// says so.
    fn infer(
        &mut self,
        resumed: Option<Utterance>,
        samples: &[f32],
        spent: impl Fn() -> bool,
    ) -> Result<Utterance, Rejection> {
        let mut advanced = resumed.is_none();
        let mut utterance = match resumed {
            Some(utterance) => utterance,
            None => self.encode(samples)?,
        };
        loop {
            if utterance.ended || (advanced && spent()) {
                return Ok(utterance);
            }
            let first = utterance.tokens.is_empty();
            let token = utterance.tokens.last().copied().unwrap_or(self.decoding.start_token);
            let token = self.step(first, token, &utterance.hidden, &mut utterance.past)?;
            if token == self.decoding.end_token {
                utterance.ended = true;
            } else {
                utterance.tokens.push(token);
                utterance.ended = utterance.tokens.len() >= utterance.tokens_max;
            }
            advanced = true;
        }
    }

    /// One step of the decoder: the most probable next token. Renews what it has to of the cache.
    fn step(&mut self, first: bool, token: u32, hidden: &Tensor, past: &mut [Tensor]) -> Result<u32, Rejection> {
        let ids = [i64::from(token)];
        let use_cache = [!first];
        let mut inputs = vec![
            NamedTensor { name: &self.names.tokens, dims: &[1, 1], data: TensorData::I64(&ids) },
            hidden.named(&self.names.hidden),
            NamedTensor { name: &self.names.use_cache, dims: &[1], data: TensorData::Bool(&use_cache) },
        ];
        inputs.extend(self.cache.iter().zip(&*past).map(|(entry, tensor)| tensor.named(&entry.past)));
        let renewed = |entry: &CacheEntry| first || !entry.of_encoder;
        let mut wanted = vec![self.names.logits.as_str()];
        wanted.extend(self.cache.iter().filter(|entry| renewed(entry)).map(|entry| entry.present.as_str()));
        let mut outputs = self.decoder.run(&inputs, &wanted).map_err(failed)?.into_iter();
        let logits = outputs.next().ok_or_else(|| failed("the decoder gave no logits"))?;
        let slots = self.cache.iter().zip(past).filter(|(entry, _)| renewed(entry));
        slots.zip(outputs).for_each(|((_, slot), present)| *slot = present);
        most_probable(&logits)
    }

    /// Runs one slice of a job; `None` when it wants another.
    fn run_one(
        &mut self,
        job: &JobInput<'_>,
        output: &mut [u8],
        times: &mut StageTimes,
        on_stage: &dyn Fn(Stage),
    ) -> Result<Option<JobAnswer>, Rejection> {
        let start = Instant::now();
        let Slice { run, continues, budget_ns } = job.slice;
        let resumed = if continues == 0 { None } else { self.suspended.take(continues) };
        let starts_over = continues != 0 && resumed.is_none();
        let bounded = budget_ns != 0 && run != 0 && !starts_over;
        let spent = move || bounded && elapsed_ns(start) >= budget_ns;

        let mut samples = Vec::new();
        if resumed.is_none() {
            on_stage(Stage::Prepare);
            let prepared = self.prepare(job);
            times.prepare_ns = elapsed_ns(start);
            samples = prepared?;
        }
        let start = Instant::now();
        on_stage(Stage::Infer);
        let utterance = self.infer(resumed, &samples, spent);
        times.infer_ns = elapsed_ns(start);
        let utterance = utterance?;
        if !utterance.ended {
            self.suspended.put(run, utterance);
            return Ok(None);
        }
        let start = Instant::now();
        on_stage(Stage::Interpret);
        let text = self.tokenizer.decode(&utterance.tokens);
        let count = work(utterance.tokens.len());
        let answer = write_result(&ModelResult::Transcript { text, tokens: count }, output, count);
        times.interpret_ns = elapsed_ns(start);
        answer.map(Some)
    }
}

impl Executor for TranscriptExecutor {
    fn run(&mut self, jobs: &[JobInput<'_>], outputs: &mut [JobOutput<'_>], on_stage: &dyn Fn(Stage)) {
        for (job, output) in jobs.iter().zip(outputs) {
            output.times = StageTimes::default();
            let answer = self.run_one(job, output.bytes, &mut output.times, on_stage);
            output.unfinished = matches!(answer, Ok(None));
            output.answer = answer.map(Option::unwrap_or_default);
        }
    }
}

fn failed(error: impl ToString) -> Rejection {
    Rejection::new(Reason::ExecutionFailed, error.to_string())
}

/// The cache's inputs and outputs, checked against the decoder.
fn cache_entries(decoder: &dyn Network, layers: u32, heads: u32, head_size: u32) -> Result<Vec<CacheEntry>, String> {
    let signature = decoder.signature();
    let mut entries = Vec::new();
    for layer in 0..layers {
        for (of, part) in [("decoder", "key"), ("decoder", "value"), ("encoder", "key"), ("encoder", "value")] {
            let past = format!("{CACHE_PREFIX}{layer}.{of}.{part}");
            let present = format!("present.{layer}.{of}.{part}");
            let Some(spec) = signature.inputs.iter().find(|spec| spec.name == past) else {
                return Err(format!("the decoder has no input {past}; interpret.layers says {layers}"));
            };
            let agrees = |axis: usize, size: u32| spec.dims[axis].is_none_or(|found| found == size);
            let shape = spec.dims.len() == 4 && agrees(1, heads) && agrees(3, head_size) && spec.dims[2].is_none();
            if spec.dtype != Dtype::F32 || !shape {
                return Err(format!(
                    "the decoder's input {past} is {spec}; expected f32[N,{heads},length,{head_size}]"
                ));
            }
            if !signature.outputs.iter().any(|spec| spec.name == present && spec.dtype == Dtype::F32) {
                return Err(format!("the decoder has no output {present} of f32"));
            }
            entries.push(CacheEntry { past, present, of_encoder: of == "encoder" });
        }
    }
    let count = signature.inputs.iter().filter(|spec| spec.name.starts_with(CACHE_PREFIX)).count();
    if count != entries.len() {
        return Err(format!("the decoder has {count} cache inputs; interpret.layers {layers} makes {}", entries.len()));
    }
    Ok(entries)
}

/// The first of the largest logits of the last position.
fn most_probable(logits: &Tensor) -> Result<u32, Rejection> {
    let vocabulary = logits.dims.last().copied().unwrap_or(0);
    let values = logits.f32s().unwrap_or(&[]);
    let last = values.len().checked_sub(vocabulary).and_then(|start| values.get(start..)).unwrap_or(&[]);
    let best = (0..).zip(last).fold(None, |best: Option<(u32, f32)>, (token, logit)| match best {
        Some((_, most)) if *logit <= most || logit.is_nan() => best,
        _ => Some((token, *logit)),
    });
    best.map(|(token, _)| token).ok_or_else(|| failed("the decoder gave no logits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_largest_logit_of_the_last_position_wins() {
        let logits = |values: &[f32], dims: &[usize]| Tensor {
            name: "logits".to_owned(),
            dims: dims.to_vec(),
            data: TensorBuffer::F32(values.to_vec()),
        };
        assert_eq!(most_probable(&logits(&[9.0, 0.0, 0.0, -1.0, 2.0, 2.0], &[1, 2, 3])).unwrap(), 1);
        assert!(most_probable(&logits(&[], &[1, 0, 3])).is_err());
        assert!(most_probable(&logits(&[], &[])).is_err());
    }
}
