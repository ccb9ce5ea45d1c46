//! Naming sounds: overlapping windows to the sound classifier, classes to events.

use sensorium_pipelines::sound::{SoundEvents, SoundSettings};
use sensorium_pipelines::speech::SAMPLE_RATE_HZ;
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::{Dtype, EventBody, Modality};
use tokio::sync::mpsc;

use super::Events;
use super::audio::{ms, pcm_bytes};
use super::fuse::Evidence;
use super::gaps::Gaps;
use super::infer::{Inference, Request, SOUNDS};

/// Window and step of the classifier, in samples: 975 ms every 480 ms.
const WINDOW_SAMPLES: usize = 15_600;
const HOP_SAMPLES: usize = 7_680;

pub(super) struct Sounds {
    inference: Inference,
    events: Events,
    evidence: mpsc::Sender<Evidence>,
    following: SoundEvents,
    gaps: Gaps,
    /// Sound from sample `from` on that is in no finished window yet.
    buffer: Vec<f32>,
    from: u64,
}

impl Sounds {
    /// Goes on with `following` at sample `from`, or begins.
    pub(super) fn new(
        inference: Inference,
        events: Events,
        evidence: mpsc::Sender<Evidence>,
        from: Option<(SoundEvents, u64)>,
    ) -> Self {
        let (following, from) = from.unwrap_or_else(|| (SoundEvents::new(SoundSettings::default()), 0));
        let gaps = Gaps::new(Modality::Audio, events.clone());
        Self { inference, events, evidence, following, gaps, buffer: Vec::new(), from }
    }

    /// What is heard now, and the first sample that is needed again. An open gap is told first.
    pub(super) fn state(&mut self) -> (SoundEvents, u64) {
        self.gaps.end();
        (self.following.clone(), self.from)
    }

    /// Sound that came before the place where the others go on, from [`Self::state`]'s sample.
    pub(super) fn refill(&mut self, samples: &[f32]) {
        if self.inference.has(SOUNDS) {
            self.buffer.extend_from_slice(samples);
        }
    }

    /// Everything before this session time has been named.
    pub(super) fn settled_ms(&self) -> u64 {
        if self.inference.has(SOUNDS) { ms(self.from) } else { u64::MAX }
    }

    /// Takes the next samples.
    pub(super) async fn hear(&mut self, samples: &[f32]) {
        if !self.inference.has(SOUNDS) {
            return;
        }
        self.buffer.extend_from_slice(samples);
        while self.buffer.len() >= WINDOW_SAMPLES {
            self.name().await;
            self.buffer.drain(..HOP_SAMPLES);
            self.from += HOP_SAMPLES as u64;
        }
    }

    async fn name(&mut self) {
        let bytes = pcm_bytes(&self.buffer[..WINDOW_SAMPLES]);
        let shape = [u32::try_from(WINDOW_SAMPLES).unwrap_or(u32::MAX), 1];
        let mut request = Request::new(SOUNDS, PayloadKind::Pcm, &shape, &bytes);
        request.header.dtype = Dtype::F32;
        request.header.sample_rate_hz = SAMPLE_RATE_HZ;
        let (start_ms, end_ms) = (ms(self.from), ms(self.from + WINDOW_SAMPLES as u64));
        let (bodies, receipt) = match self.inference.run(&request).await {
            Ok((ModelResult::Classes { classes, .. }, receipt)) => {
                self.gaps.end();
                let bodies = self.following.push(start_ms, end_ms, &classes);
                let _ = self.evidence.send(Evidence::Sounds { start_ms, end_ms, classes }).await;
                (bodies, Some(receipt))
            }
            // Sounds that were not named end: nothing is said about what was not heard.
            Ok((other, _)) => (self.lost(start_ms, end_ms, &format!("{SOUNDS} is no classifier: {other:?}")), None),
            Err(reason) => (self.lost(start_ms, end_ms, &reason), None),
        };
        for body in bodies {
            self.events.emit(time_of(&body), body, receipt);
        }
    }

    fn lost(&mut self, start_ms: u64, end_ms: u64, reason: &str) -> Vec<EventBody> {
        // The sentence's start names the reason; its details differ from window to window.
        let reason = reason.split(':').next().unwrap_or(reason);
        self.gaps.lose(start_ms, end_ms, &format!("sounds not named: {reason}"));
        self.following.finish()
    }

    /// There is no sound up to this sample: what was audible ends, and what was begun is left.
    pub(super) fn skip(&mut self, until: u64) {
        self.buffer.clear();
        self.from = until;
        for body in self.following.finish() {
            self.events.emit(time_of(&body), body, None);
        }
        self.gaps.end();
    }

    /// The stream has ended.
    pub(super) async fn finish(&mut self) {
        if self.inference.has(SOUNDS) && self.buffer.len() > HOP_SAMPLES / 2 {
            self.buffer.resize(WINDOW_SAMPLES, 0.0);
            self.name().await;
        }
        for body in self.following.finish() {
            self.events.emit(time_of(&body), body, None);
        }
        self.gaps.end();
    }
}

fn time_of(body: &EventBody) -> u64 {
    match body {
        EventBody::Sound { active: true, start_ms, .. } => *start_ms,
        EventBody::Sound { end_ms, .. } => *end_ms,
        _ => 0,
    }
}
