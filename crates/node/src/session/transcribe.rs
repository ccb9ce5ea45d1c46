//! Speech to text: one job per segment of speech, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use sensorium_pipelines::session::Untranscribed;
use sensorium_pipelines::speech::{SAMPLE_RATE_HZ, SpeechSegmenter};
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::{Dtype, EventBody, Modality};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::audio::pcm_bytes;
use super::fuse::Evidence;
use super::gaps::Gaps;
use super::infer::{Inference, Request, TRANSCRIBER};
use super::{Cuts, Events};

/// Segments that may wait while one is transcribed. More are told as gaps.
const WAITING_MAX: usize = 8;

/// A segment of speech.
pub(super) struct Utterance {
    pub(super) segment: Untranscribed,
    pub(super) samples: Vec<f32>,
}

/// Segments without an answer. Whoever holds the lock sees a transcript's event and its segment's removal as one.
type Waiting = Arc<Mutex<VecDeque<Untranscribed>>>;

/// Transcribes segments. A fast session waits for each, so that its events do not depend on how fast it goes; at real
/// speed transcription runs beside the rest.
pub(super) enum Transcriber {
    Absent,
    Inline(Box<Worker>),
    Beside { queue: mpsc::Sender<Utterance>, waiting: Waiting, task: Beside, gaps: Gaps },
}

/// The task of a transcriber; it ends with the session, however that ends.
pub(super) struct Beside(JoinHandle<()>);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct Worker {
    inference: Inference,
    events: Events,
    evidence: mpsc::Sender<Evidence>,
    gaps: Gaps,
    waiting: Waiting,
    cuts: Cuts,
}

impl Transcriber {
    pub(super) fn new(inference: Inference, events: Events, evidence: mpsc::Sender<Evidence>, cuts: Cuts) -> Self {
        if !inference.has(TRANSCRIBER) {
            return Self::Absent;
        }
        let fast = inference.is_fast();
        let gaps = Gaps::new(Modality::Audio, events.clone());
        let waiting = Waiting::default();
        let mut worker =
            Worker { inference, events: events.clone(), evidence, gaps, waiting: Arc::clone(&waiting), cuts };
        if fast {
            return Self::Inline(Box::new(worker));
        }
        let (queue, mut utterances) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(async move {
            while let Some(utterance) = utterances.recv().await {
                worker.transcribe(utterance).await;
            }
        });
        Self::Beside { queue, waiting, task: Beside(task), gaps: Gaps::new(Modality::Audio, events) }
    }

    pub(super) async fn take(&mut self, utterance: Utterance) {
        match self {
            Self::Absent => {}
            Self::Inline(worker) => worker.transcribe(utterance).await,
            Self::Beside { queue, waiting, gaps, .. } => {
                let mut waiting = waiting.lock().await;
                waiting.push_back(utterance.segment.clone());
                if let Err(mpsc::error::TrySendError::Full(Utterance { segment: lost, .. })) = queue.try_send(utterance)
                {
                    waiting.pop_back();
                    gaps.lose(lost.start_ms, lost.end_ms, "transcription is behind");
                    gaps.end();
                }
            }
        }
    }

    /// The segments that have no answer yet, and what `then` gives while none can get one.
    pub(super) async fn waiting<T>(&self, then: impl FnOnce() -> T) -> (Vec<Untranscribed>, T) {
        match self {
            Self::Absent | Self::Inline(_) => (Vec::new(), then()),
            Self::Beside { waiting, .. } => {
                let waiting = waiting.lock().await;
                (waiting.iter().cloned().collect(), then())
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

    /// Waits for what is under way.
    pub(super) async fn finish(self) {
        if let Self::Beside { queue, mut task, .. } = self {
            drop(queue);
            let _ = (&mut task.0).await;
        }
    }
}

impl Worker {
    async fn transcribe(&mut self, utterance: Utterance) {
        let Utterance { segment: Untranscribed { start_ms, end_ms, .. }, samples } = utterance;
        let bytes = pcm_bytes(&samples);
        let shape = [u32::try_from(samples.len()).unwrap_or(u32::MAX), 1];
        let mut request = Request::new(TRANSCRIBER, PayloadKind::Pcm, &shape, &bytes);
        request.header.dtype = Dtype::F32;
        request.header.sample_rate_hz = SAMPLE_RATE_HZ;
        let answer = match self.inference.run(&request).await {
            Ok((ModelResult::Transcript { text, .. }, receipt)) => Ok((text, receipt)),
            Ok((other, _)) => Err(format!("{TRANSCRIBER} is no transcriber: it gave {other:?}")),
            Err(reason) => Err(reason),
        };
        // Nobody captures the session's state between the words, the event and the end of the wait.
        let waiting = Arc::clone(&self.waiting);
        let mut waiting = waiting.lock().await;
        match answer {
            Ok((text, receipt)) => {
                let _ = self.evidence.send(Evidence::Words { start_ms, end_ms, text: text.clone() }).await;
                let body = EventBody::Transcript { start_ms, end_ms, r#final: true, text };
                self.events.emit(end_ms, body, Some(receipt));
            }
            Err(reason) => {
                self.gaps.lose(start_ms, end_ms, &format!("not transcribed: {reason}"));
                self.gaps.end();
            }
        }
        waiting.pop_front();
        self.cuts.want();
    }
}
