//! The audio part: speech found window by window, its segments transcribed, sounds named.

use std::sync::Arc;

use sensorium_pipelines::session::{AudioState, Untranscribed};
use sensorium_pipelines::speech::{
    SAMPLE_RATE_HZ, SpeechEvent, SpeechSegment, SpeechSegmenter, SpeechSettings, WINDOW_SAMPLES,
};
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::{Dtype, Modality};
use tokio::sync::mpsc;

use super::events::Part;
use super::fuse::Evidence;
use super::gaps::Gaps;
use super::infer::{Inference, Request, SPEECH};
use super::sounds::Sounds;
use super::source::Sound;
use super::transcribe::{Transcriber, Utterance};
use super::{Cuts, Events};

/// Windows of one speech job: 256 ms, which bounds how late a beginning is noticed.
const WINDOWS_PER_JOB: usize = 8;
/// Sound that is kept for transcription: the longest segment, its padding, and the silence that ends it.
const KEPT_SAMPLES_MAX: usize = 70 * SAMPLE_RATE_HZ as usize;

/// Sound before a segment that its transcript may need: more than the padding of segments, in milliseconds.
const LOOK_BACK_MS: u64 = 500;

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
    /// After a restore, until the sound before `heard` is there again: what was waiting for its transcript.
    restoring: Option<Vec<Untranscribed>>,
    receipt: Option<sensorium_wire::Receipt>,
}

/// Listens until there is no more sound. Gives how many samples there were, those before `from` included.
pub(super) async fn run(
    from: Option<AudioState>,
    mut packets: mpsc::Receiver<Sound>,
    mut cuts: Cuts,
    inference: Inference,
    events: Events,
    evidence: mpsc::Sender<Evidence>,
) -> u64 {
    let mut audio = Audio {
        segmenter: SpeechSegmenter::new(SpeechSettings::default(), 0),
        speech_state: Vec::new(),
        sounds: Sounds::new(
            inference.clone(),
            events.clone(),
            evidence.clone(),
            from.as_ref().map(|from| (from.sounds.clone(), from.sounds_from)),
        ),
        transcriber: Transcriber::new(inference.clone(), events.clone(), evidence.clone(), cuts.clone()),
        gaps: Gaps::new(Modality::Audio, events.clone()),
        inference,
        events,
        evidence,
        kept: Vec::new(),
        kept_from: 0,
        heard: 0,
        restoring: None,
        receipt: None,
    };
    if let Some(from) = from {
        audio.restore(from);
    }
    loop {
        tokio::select! {
            biased;
            number = cuts.next(), if audio.restoring.is_none() => {
                let state = audio.state(false).await;
                let _ = audio.evidence.send(Evidence::AudioCut { number, state }).await;
            }
            packet = packets.recv() => match packet {
                Some(Sound::Samples(samples)) => audio.take(samples).await,
                Some(Sound::Hole { until, reason }) => audio.skip(until, &reason).await,
                None => return audio.finish().await,
            },
        }
    }
}

impl Audio {
    fn restore(&mut self, from: AudioState) {
        self.segmenter = from.segmenter;
        self.speech_state = from.detector;
        self.kept_from = from.from;
        self.heard = from.heard;
        self.restoring = Some(from.pending);
    }

    /// What another node needs to go on. A gap that is open is told first: nobody could tell it later.
    async fn state(&mut self, ended: bool) -> Box<AudioState> {
        self.gaps.end();
        let (sounds, sounds_from) = self.sounds.state();
        let (pending, (tail, gaps)) = self.transcriber.waiting(|| self.events.told(Part::Audio)).await;
        // The segment that is open, or one that begins now, is transcribed with some sound before it.
        let spoken_from = self.segmenter.settled_ms().saturating_sub(LOOK_BACK_MS) * u64::from(SAMPLE_RATE_HZ) / 1000;
        let waiting_from = pending.iter().map(|segment| segment.samples.start).min();
        let sounds_from = sounds_from.min(self.heard);
        let from = self.heard.min(sounds_from).min(spoken_from).min(waiting_from.unwrap_or(u64::MAX));
        let (heard, segmenter, detector) = (self.heard, self.segmenter.clone(), self.speech_state.clone());
        let from = from.max(self.kept_from).min(heard);
        Box::new(AudioState { ended, heard, from, gaps, segmenter, detector, sounds, sounds_from, pending, tail })
    }

    async fn take(&mut self, samples: Vec<f32>) {
        self.kept.extend_from_slice(&samples);
        if self.end() < self.heard {
            return;
        }
        self.restored().await;
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

    /// There is no sound up to sample `until`. What was not heard yet before the hole belongs to it, so that times stay
    /// whole; what waits for sound of before a take-over is told as lost.
    async fn skip(&mut self, until: u64, reason: &str) {
        for segment in self.restoring.take().unwrap_or_default() {
            self.sound_lost(segment.start_ms, segment.end_ms);
        }
        if until <= self.heard {
            return;
        }
        self.gaps.lose(ms(self.heard), ms(until), reason);
        self.gaps.end();
        self.speech_state.clear();
        let spoken = self.segmenter.gap(ms(until) - ms(self.heard));
        self.report(spoken).await;
        self.sounds.skip(until);
        self.kept.clear();
        (self.kept_from, self.heard) = (until, until);
        let _ = self.evidence.send(Evidence::AudioUntil(ms(until))).await;
    }

    fn sound_lost(&mut self, start_ms: u64, end_ms: u64) {
        self.gaps.lose(start_ms, end_ms, "not transcribed: its sound is not there any more");
        self.gaps.end();
    }

    /// The sound before the place where this goes on is there again: what was under way is begun anew.
    async fn restored(&mut self) {
        let Some(pending) = self.restoring.take() else { return };
        let (_, from) = self.sounds.state();
        let before = self.samples(from, self.heard).to_vec();
        self.sounds.refill(&before);
        for segment in pending {
            let samples = self.samples(segment.samples.start, segment.samples.end).to_vec();
            self.transcriber.take(Utterance { segment, samples }).await;
        }
    }

    fn end(&self) -> u64 {
        self.kept_from + self.kept.len() as u64
    }

    fn unheard(&self) -> usize {
        usize::try_from(self.end().saturating_sub(self.heard)).unwrap_or(usize::MAX)
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
                if segment.samples.start < self.kept_from {
                    self.sound_lost(segment.start_ms, segment.end_ms);
                    continue;
                }
                let samples = self.samples(segment.samples.start, segment.samples.end).to_vec();
                let SpeechSegment { start_ms, end_ms, samples: range } = segment;
                let segment = Untranscribed { start_ms, end_ms, samples: range };
                self.transcriber.take(Utterance { segment, samples }).await;
            }
        }
    }

    async fn finish(mut self) -> u64 {
        self.restored().await;
        let rest = self.unheard();
        if rest > 0 {
            self.step(rest).await;
        }
        let spoken = self.segmenter.finish();
        self.report(spoken).await;
        self.sounds.finish().await;
        let transcriber = std::mem::replace(&mut self.transcriber, Transcriber::Absent);
        transcriber.finish().await;
        let state = self.state(true).await;
        let _ = self.evidence.send(Evidence::AudioEnd(state)).await;
        self.heard
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
