//! The fusion part: evidence of both modalities in windows of the session's clock, each window to the fusion model.

use std::sync::Arc;

use sensorium_pipelines::fusion::{EvidenceSpec, FusionRow, FusionSettings, FusionWindows, Source};
use sensorium_pipelines::speech::WINDOW_MS;
use sensorium_wire::event::Track;
use sensorium_wire::result::{ClassScore, ModelResult};
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::{Dtype, EventBody, Modality};
use tokio::sync::mpsc;

use super::gaps::Gaps;
use super::infer::{FUSION, Inference, Request};
use super::{Events, Tally};

/// How far one modality may run ahead before a window closes without the other, in milliseconds: at real speed, and in
/// a fast session, where the queues between the parts bound it.
const LATE_MS_MAX: u64 = 2_000;
const FAST_LATE_MS_MAX: u64 = 120_000;
/// From this intensity of what the fusion model sees the moment is critical, for as long as one window after it.
const CRITICAL_INTENSITY: f32 = 0.9;
const CRITICAL_MOMENT_MS: u64 = 2_000;

/// What the other parts found.
pub(super) enum Evidence {
    Frame {
        t_ms: u64,
        tracks: Vec<Track>,
        new_tracks: u32,
        speeds: Vec<f32>,
    },
    /// Frames up to here have been looked at or lost.
    VideoUntil(u64),
    VideoEnd,
    Speech {
        start_ms: u64,
        probabilities: Vec<f32>,
    },
    Samples {
        start_ms: u64,
        end_ms: u64,
        samples: Arc<[f32]>,
    },
    Sounds {
        start_ms: u64,
        end_ms: u64,
        classes: Vec<ClassScore>,
    },
    Words {
        start_ms: u64,
        end_ms: u64,
        text: String,
    },
    /// Sound up to here has been heard or lost.
    AudioUntil(u64),
    AudioEnd,
}

struct Fusion {
    windows: FusionWindows,
    inference: Inference,
    events: Events,
    gaps: Gaps,
    tally: Tally,
    /// A modality that has ended is not waited for: it counts as having come as far as the other.
    video_ended: bool,
    audio_ended: bool,
}

/// Fuses evidence until both modalities have ended.
pub(super) async fn run(
    video: bool,
    audio: bool,
    spec: Option<Arc<EvidenceSpec>>,
    mut evidence: mpsc::Receiver<Evidence>,
    inference: Inference,
    events: Events,
) -> Tally {
    let late_ms_max = if inference.is_fast() { FAST_LATE_MS_MAX } else { LATE_MS_MAX };
    let sources: Vec<Source> = [(video, Source::Video), (audio, Source::Audio)]
        .into_iter()
        .filter_map(|(has, source)| has.then_some(source))
        .collect();
    let settings = FusionSettings { late_ms_max, ..FusionSettings::default() };
    let windows = spec.filter(|_| inference.has(FUSION)).and_then(|spec| {
        FusionWindows::new(&spec, settings, &sources).inspect_err(|error| tracing::error!(%error, "fusion")).ok()
    });
    let Some(windows) = windows else {
        // Without fusion the evidence is taken all the same, so that the other parts never wait.
        while evidence.recv().await.is_some() {}
        return Tally::default();
    };
    let gaps = Gaps::new(Modality::Fusion, events.clone());
    let mut fusion =
        Fusion { windows, inference, events, gaps, tally: Tally::default(), video_ended: false, audio_ended: false };
    while let Some(piece) = evidence.recv().await {
        let closed = fusion.add(piece);
        fusion.fuse(closed).await;
    }
    let closed = fusion.windows.finish();
    fusion.fuse(closed).await;
    fusion.gaps.end();
    fusion.tally.gaps = fusion.gaps.count;
    fusion.tally
}

impl Fusion {
    fn add(&mut self, piece: Evidence) -> Vec<FusionRow> {
        let windows = &mut self.windows;
        match piece {
            Evidence::Frame { t_ms, tracks, new_tracks, speeds } => {
                windows.add_frame(t_ms, &tracks, new_tracks, speeds.into_iter());
                return self.mark(Source::Video, t_ms);
            }
            Evidence::VideoUntil(until_ms) => return self.mark(Source::Video, until_ms),
            Evidence::VideoEnd => self.video_ended = true,
            Evidence::Speech { start_ms, probabilities } => {
                windows.add_speech(start_ms, u32::try_from(WINDOW_MS).unwrap_or(32), &probabilities);
            }
            Evidence::Samples { start_ms, end_ms, samples } => windows.add_samples(start_ms, end_ms, &samples),
            Evidence::Sounds { start_ms, end_ms, classes } => windows.add_sounds(start_ms, end_ms, &classes),
            Evidence::Words { start_ms, end_ms, text } => windows.add_words(start_ms, end_ms, &text),
            Evidence::AudioUntil(until_ms) => return self.mark(Source::Audio, until_ms),
            Evidence::AudioEnd => self.audio_ended = true,
        }
        Vec::new()
    }

    fn mark(&mut self, source: Source, until_ms: u64) -> Vec<FusionRow> {
        let mut closed = self.windows.mark(source, until_ms);
        if self.video_ended {
            closed.extend(self.windows.mark(Source::Video, until_ms));
        }
        if self.audio_ended {
            closed.extend(self.windows.mark(Source::Audio, until_ms));
        }
        closed
    }

    async fn fuse(&mut self, rows: Vec<FusionRow>) {
        for row in rows {
            let bytes: Vec<u8> = row.features.iter().flat_map(|feature| feature.to_le_bytes()).collect();
            let shape = [1, u32::try_from(row.features.len()).unwrap_or(u32::MAX)];
            let mut request = Request::new(FUSION, PayloadKind::Tensor, &shape, &bytes);
            request.header.dtype = Dtype::F32;
            match self.inference.run(&request).await {
                Ok((ModelResult::Fusion { events, intensity }, receipt)) => {
                    if intensity >= CRITICAL_INTENSITY {
                        self.inference.critical_moment(CRITICAL_MOMENT_MS);
                    }
                    self.gaps.end();
                    self.tally.units += 1;
                    let body: EventBody = row.body(events, intensity);
                    self.events.emit(row.end_ms, body, Some(receipt));
                }
                Ok((other, _)) => {
                    self.gaps.lose(row.start_ms, row.end_ms, &format!("{FUSION} is no fusion model: {other:?}"))
                }
                Err(reason) => self.gaps.lose(row.start_ms, row.end_ms, reason.split(':').next().unwrap_or(&reason)),
            }
        }
    }
}
