//! The fusion part: evidence of both modalities in windows of the session's clock, each window to the fusion model.

use std::sync::Arc;

use sensorium_pipelines::fusion::{EvidenceSpec, FusionRow, FusionSettings, FusionWindows, Source};
use sensorium_pipelines::session::{AudioState, FusionState, SessionState, VideoState};
use sensorium_pipelines::speech::WINDOW_MS;
use sensorium_wire::event::Track;
use sensorium_wire::result::{ClassScore, ModelResult};
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::{Dtype, EventBody, Modality};
use tokio::sync::{mpsc, watch};

use super::Events;
use super::capture::{Begin, Capture, Captured, Side};
use super::events::Part;
use super::gaps::Gaps;
use super::infer::{FUSION, Inference, Request};

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
    VideoCut {
        number: u64,
        state: Box<VideoState>,
    },
    VideoEnd(Box<VideoState>),
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
    AudioCut {
        number: u64,
        state: Box<AudioState>,
    },
    AudioEnd(Box<AudioState>),
}

struct Fusion {
    /// `None`: there is nothing to fuse with, and evidence is only taken.
    windows: Option<FusionWindows>,
    inference: Inference,
    events: Events,
    gaps: Gaps,
    capture: Capture,
    /// A modality that has ended is not waited for: it counts as having come as far as the other.
    video_ended: bool,
    audio_ended: bool,
}

/// Fuses evidence until both modalities have ended, and puts the states of the parts together on the way.
pub(super) async fn run(
    spec: Option<Arc<EvidenceSpec>>,
    from: Begin,
    mut evidence: mpsc::Receiver<Evidence>,
    states: watch::Sender<Option<Arc<SessionState>>>,
    inference: Inference,
    events: Events,
) {
    let late_ms_max = if inference.is_fast() { FAST_LATE_MS_MAX } else { LATE_MS_MAX };
    let Begin { video, audio, state, duration_ms } = from;
    let sources: Vec<Source> = [(video.is_some(), Source::Video), (audio.is_some(), Source::Audio)]
        .into_iter()
        .filter_map(|(has, source)| has.then_some(source))
        .collect();
    let settings = FusionSettings { late_ms_max, ..FusionSettings::default() };
    let mut windows = spec.filter(|_| inference.has(FUSION)).and_then(|spec| {
        FusionWindows::new(&spec, settings, &sources).inspect_err(|error| tracing::error!(%error, "fusion")).ok()
    });
    if let (Some(windows), Some(state)) = (&mut windows, &state.windows)
        && let Err(error) = windows.restore(state)
    {
        tracing::warn!(%error, "the windows of fusion start anew");
    }
    let gaps = Gaps::new(Modality::Fusion, events.clone());
    let video_ended = matches!(video, Some(Side::Ended(_)));
    let audio_ended = matches!(audio, Some(Side::Ended(_)));
    let capture = Capture::new(duration_ms, video, audio, states);
    let mut fusion = Fusion { windows, inference, events, gaps, capture, video_ended, audio_ended };
    while let Some(piece) = evidence.recv().await {
        let closed = fusion.add(piece);
        fusion.fuse(closed).await;
    }
    let closed = fusion.windows.as_mut().map(FusionWindows::finish).unwrap_or_default();
    fusion.fuse(closed).await;
    fusion.gaps.end();
}

impl Fusion {
    /// A part was captured: when the other has been, too, so is the session.
    fn captured(&mut self, captured: impl FnOnce(&mut Capture, Option<&FusionWindows>) -> Option<Captured>) {
        let Some(captured) = captured(&mut self.capture, self.windows.as_ref()) else { return };
        self.gaps.end();
        let (tail, gaps) = self.events.told(Part::Fusion);
        let windows = captured.windows.map(|windows| windows.checkpoint());
        self.capture.publish(captured.video, captured.audio, FusionState { windows, gaps, tail });
    }

    fn add(&mut self, piece: Evidence) -> Vec<FusionRow> {
        match piece {
            Evidence::VideoCut { number, state } => {
                self.captured(|capture, windows| capture.video(number, state, windows));
                return Vec::new();
            }
            Evidence::AudioCut { number, state } => {
                self.captured(|capture, windows| capture.audio(number, state, windows));
                return Vec::new();
            }
            Evidence::VideoEnd(state) => {
                self.video_ended = true;
                self.captured(|capture, windows| capture.video_ended(state, windows));
                return Vec::new();
            }
            Evidence::AudioEnd(state) => {
                self.audio_ended = true;
                self.captured(|capture, windows| capture.audio_ended(state, windows));
                return Vec::new();
            }
            Evidence::VideoUntil(until_ms) => return self.mark(Source::Video, until_ms),
            Evidence::AudioUntil(until_ms) => return self.mark(Source::Audio, until_ms),
            _ => {}
        }
        let Some(windows) = &mut self.windows else { return Vec::new() };
        match piece {
            Evidence::Frame { t_ms, tracks, new_tracks, speeds } => {
                windows.add_frame(t_ms, &tracks, new_tracks, speeds.into_iter());
                return self.mark(Source::Video, t_ms);
            }
            Evidence::Speech { start_ms, probabilities } => {
                windows.add_speech(start_ms, u32::try_from(WINDOW_MS).unwrap_or(32), &probabilities);
            }
            Evidence::Samples { start_ms, end_ms, samples } => windows.add_samples(start_ms, end_ms, &samples),
            Evidence::Sounds { start_ms, end_ms, classes } => windows.add_sounds(start_ms, end_ms, &classes),
            Evidence::Words { start_ms, end_ms, text } => windows.add_words(start_ms, end_ms, &text),
            Evidence::VideoCut { .. }
            | Evidence::AudioCut { .. }
            | Evidence::VideoEnd(_)
            | Evidence::AudioEnd(_)
            | Evidence::VideoUntil(_)
            | Evidence::AudioUntil(_) => {}
        }
        Vec::new()
    }

    fn mark(&mut self, source: Source, until_ms: u64) -> Vec<FusionRow> {
        let Some(windows) = &mut self.windows else { return Vec::new() };
        let mut closed = windows.mark(source, until_ms);
        if self.video_ended {
            closed.extend(windows.mark(Source::Video, until_ms));
        }
        if self.audio_ended {
            closed.extend(windows.mark(Source::Audio, until_ms));
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
