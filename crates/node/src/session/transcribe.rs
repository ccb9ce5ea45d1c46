//! Speech to text: one job per segment of speech, in order.

use sensorium_pipelines::speech::{SAMPLE_RATE_HZ, SpeechSegmenter};
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::{Dtype, EventBody, Modality};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Events;
use super::audio::pcm_bytes;
use super::fuse::Evidence;
use super::gaps::Gaps;
use super::infer::{Inference, Request, TRANSCRIBER};

/// Segments that may wait while one is transcribed. More are told as gaps.
const WAITING_MAX: usize = 8;

/// A segment of speech.
pub(super) struct Utterance {
    pub(super) start_ms: u64,
    pub(super) end_ms: u64,
    pub(super) samples: Vec<f32>,
}

/// Transcribes segments. A fast session waits for each, so that its events do not depend on how fast it goes; at real
/// speed transcription runs beside the rest.
pub(super) enum Transcriber {
    Absent,
    Inline(Box<Worker>),
    Beside { queue: mpsc::Sender<Utterance>, task: JoinHandle<u64>, gaps: Gaps },
}

pub(super) struct Worker {
    inference: Inference,
    events: Events,
    evidence: mpsc::Sender<Evidence>,
    gaps: Gaps,
}

impl Transcriber {
    pub(super) fn new(inference: Inference, events: Events, evidence: mpsc::Sender<Evidence>) -> Self {
        if !inference.has(TRANSCRIBER) {
            return Self::Absent;
        }
        let fast = inference.is_fast();
        let gaps = Gaps::new(Modality::Audio, events.clone());
        let mut worker = Worker { inference, events: events.clone(), evidence, gaps };
        if fast {
            return Self::Inline(Box::new(worker));
        }
        let (queue, mut utterances) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(async move {
            while let Some(utterance) = utterances.recv().await {
                worker.transcribe(utterance).await;
            }
            worker.gaps.count
        });
        Self::Beside { queue, task, gaps: Gaps::new(Modality::Audio, events) }
    }

    pub(super) async fn take(&mut self, utterance: Utterance) {
        match self {
            Self::Absent => {}
            Self::Inline(worker) => worker.transcribe(utterance).await,
            Self::Beside { queue, gaps, .. } => {
                if let Err(mpsc::error::TrySendError::Full(lost)) = queue.try_send(utterance) {
                    gaps.lose(lost.start_ms, lost.end_ms, "transcription is behind");
                    gaps.end();
                }
            }
        }
    }

    /// Words before this session time have been given as evidence. At real speed fusion does not wait for them.
    pub(super) fn settled_ms(&self, segmenter: &SpeechSegmenter) -> u64 {
        match self {
            Self::Inline(_) => segmenter.settled_ms(),
            Self::Absent | Self::Beside { .. } => u64::MAX,
        }
    }

    /// Waits for what is under way; gives the number of gaps.
    pub(super) async fn finish(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Inline(mut worker) => {
                worker.gaps.end();
                worker.gaps.count
            }
            Self::Beside { queue, task, gaps } => {
                drop(queue);
                task.await.unwrap_or(0) + gaps.count
            }
        }
    }
}

impl Worker {
    async fn transcribe(&mut self, utterance: Utterance) {
        let Utterance { start_ms, end_ms, samples } = utterance;
        let bytes = pcm_bytes(&samples);
        let shape = [u32::try_from(samples.len()).unwrap_or(u32::MAX), 1];
        let mut request = Request::new(TRANSCRIBER, PayloadKind::Pcm, &shape, &bytes);
        request.header.dtype = Dtype::F32;
        request.header.sample_rate_hz = SAMPLE_RATE_HZ;
        match self.inference.run(&request).await {
            Ok((ModelResult::Transcript { text, .. }, receipt)) => {
                let body = EventBody::Transcript { start_ms, end_ms, r#final: true, text: text.clone() };
                self.events.emit(end_ms, body, Some(receipt));
                let _ = self.evidence.send(Evidence::Words { start_ms, end_ms, text }).await;
            }
            Ok((other, _)) => {
                let reason = format!("{TRANSCRIBER} is no transcriber: it gave {other:?}");
                self.lost(start_ms, end_ms, &reason);
            }
            Err(reason) => self.lost(start_ms, end_ms, &reason),
        }
    }

    fn lost(&mut self, start_ms: u64, end_ms: u64, reason: &str) {
        self.gaps.lose(start_ms, end_ms, &format!("not transcribed: {reason}"));
        self.gaps.end();
    }
}
