//! The audio part: speech found window by window, its segments transcribed, sounds named.

use std::sync::Arc;

use sensorium_pipelines::speech::{SAMPLE_RATE_HZ, SpeechEvent, SpeechSegmenter, SpeechSettings, WINDOW_SAMPLES};
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::{Dtype, Modality};
use tokio::sync::mpsc;

use super::fuse::Evidence;
use super::gaps::Gaps;
use super::infer::{Inference, Request, SPEECH};
use super::sounds::Sounds;
use super::source::Sound;
use super::transcribe::{Transcriber, Utterance};
use super::{Events, Tally};

/// Windows of one speech job: 256 ms, which bounds how late a beginning is noticed.
const WINDOWS_PER_JOB: usize = 8;
/// Sound that is kept for transcription: the longest segment, its padding, and the silence that ends it.
const KEPT_SAMPLES_MAX: usize = 70 * SAMPLE_RATE_HZ as usize;

/// Samples of one speech window.
const SPEECH_WINDOW: usize = 512;
const JOB_SAMPLES: usize = WINDOWS_PER_JOB * SPEECH_WINDOW;
const _: () = assert!(SPEECH_WINDOW as u64 == WINDOW_SAMPLES);

struct Audio {
    inference: Inference,
    events: Events,
    evidence: mpsc::Sender<Evidence>,
    segmenter: SpeechSegmenter,
    speech_state: Vec<u8>,
    sounds: Sounds,
    transcriber: Transcriber,
    gaps: Gaps,
    /// The sound from sample `kept_from` on.
    kept: Vec<f32>,
    kept_from: u64,
    /// Samples that the speech detector has had.
    heard: u64,
    receipt: Option<sensorium_wire::Receipt>,
}

/// Listens until there is no more sound.
pub(super) async fn run(
    has_audio: bool,
    mut packets: mpsc::Receiver<Sound>,
    inference: Inference,
    events: Events,
    evidence: mpsc::Sender<Evidence>,
) -> Tally {
    if !has_audio {
        return Tally::default();
    }
    let mut audio = Audio {
        segmenter: SpeechSegmenter::new(SpeechSettings::default(), 0),
        speech_state: Vec::new(),
        sounds: Sounds::new(inference.clone(), events.clone(), evidence.clone()),
        transcriber: Transcriber::new(inference.clone(), events.clone(), evidence.clone()),
        gaps: Gaps::new(Modality::Audio, events.clone()),
        inference,
        events,
        evidence,
        kept: Vec::new(),
        kept_from: 0,
        heard: 0,
        receipt: None,
    };
    while let Some(packet) = packets.recv().await {
        audio.take(packet).await;
    }
    audio.finish().await
}

impl Audio {
    async fn take(&mut self, packet: Sound) {
        self.kept.extend_from_slice(&packet.samples);
        while self.unheard() >= JOB_SAMPLES {
            self.step(JOB_SAMPLES).await;
        }
        let surplus = self.kept.len().saturating_sub(KEPT_SAMPLES_MAX);
        // Cut in large pieces, so that moving what stays costs little.
        if surplus > KEPT_SAMPLES_MAX / 4 {
            self.kept.drain(..surplus);
            self.kept_from += surplus as u64;
        }
    }

    fn unheard(&self) -> usize {
        let end = self.kept_from + self.kept.len() as u64;
        usize::try_from(end - self.heard).unwrap_or(usize::MAX)
    }

    /// The kept samples of a range of sample numbers, as far as they are still there.
    fn samples(&self, from: u64, to: u64) -> &[f32] {
        let at = |sample: u64| {
            usize::try_from(sample.saturating_sub(self.kept_from)).unwrap_or(usize::MAX).min(self.kept.len())
        };
        &self.kept[at(from)..at(to)]
    }

    /// Hears the next `samples` samples: speech, loudness, sounds.
    async fn step(&mut self, samples: usize) {
        let (from, to) = (self.heard, self.heard + samples as u64);
        let chunk: Arc<[f32]> = self.samples(from, to).into();
        self.heard = to;
        let found = self.detect_speech(&chunk).await;
        let mut spoken = Vec::new();
        match found {
            Ok(probabilities) => {
                self.gaps.end();
                spoken = self.segmenter.push(&probabilities);
                let _ = self.evidence.send(Evidence::Speech { start_ms: ms(from), probabilities }).await;
            }
            Err(reason) if self.inference.has(SPEECH) => {
                self.gaps.lose(ms(from), ms(to), reason.split(':').next().unwrap_or(&reason));
                // What the detector remembers no longer fits what comes next.
                self.speech_state.clear();
                spoken = self.segmenter.gap(ms(to) - ms(from));
            }
            Err(_) => {}
        }
        let heard = Evidence::Samples { start_ms: ms(from), end_ms: ms(to), samples: Arc::clone(&chunk) };
        let _ = self.evidence.send(heard).await;
        self.report(spoken).await;
        self.sounds.hear(&chunk).await;
        let until = ms(to).min(self.sounds.settled_ms()).min(self.transcriber.settled_ms(&self.segmenter));
        let _ = self.evidence.send(Evidence::AudioUntil(until)).await;
    }

    async fn detect_speech(&mut self, chunk: &[f32]) -> Result<Vec<f32>, String> {
        let mut bytes = pcm_bytes(chunk);
        // The last windows of a stream are filled up with silence.
        let whole = chunk.len().next_multiple_of(SPEECH_WINDOW);
        bytes.resize(whole * size_of::<f32>(), 0);
        let shape = [u32::try_from(whole).unwrap_or(u32::MAX), 1];
        let mut request = Request::new(SPEECH, PayloadKind::Pcm, &shape, &bytes);
        request.header.dtype = Dtype::F32;
        request.header.sample_rate_hz = SAMPLE_RATE_HZ;
        request.pieces[0] = &self.speech_state;
        match self.inference.run(&request).await? {
            (ModelResult::Speech { probabilities, state, .. }, receipt) => {
                self.speech_state = state;
                self.receipt = Some(receipt);
                Ok(probabilities)
            }
            (other, _) => Err(format!("{SPEECH} is no speech detector: it gave {other:?}")),
        }
    }

    async fn report(&mut self, spoken: Vec<SpeechEvent>) {
        for event in spoken {
            let t_ms = match &event {
                SpeechEvent::Started { start_ms } => *start_ms,
                SpeechEvent::Ended(segment) => segment.end_ms,
            };
            self.events.emit(t_ms, event.body(), self.receipt);
            if let SpeechEvent::Ended(segment) = event {
                let samples = self.samples(segment.samples.start, segment.samples.end).to_vec();
                let utterance = Utterance { start_ms: segment.start_ms, end_ms: segment.end_ms, samples };
                self.transcriber.take(utterance).await;
            }
        }
    }

    async fn finish(mut self) -> Tally {
        let rest = self.unheard();
        if rest > 0 {
            self.step(rest).await;
        }
        let spoken = self.segmenter.finish();
        self.report(spoken).await;
        let sound_gaps = self.sounds.finish().await;
        let transcript_gaps = self.transcriber.finish().await;
        let _ = self.evidence.send(Evidence::AudioEnd).await;
        self.gaps.end();
        Tally { units: self.heard, gaps: self.gaps.count + sound_gaps + transcript_gaps }
    }
}

/// Milliseconds of a sample number.
pub(super) fn ms(sample: u64) -> u64 {
    sample * 1000 / u64::from(SAMPLE_RATE_HZ)
}

/// Samples as a payload.
pub(super) fn pcm_bytes(samples: &[f32]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}
