//! A session: one media file's video and sound, looked at and listened to on one clock.
//!
//! ```text
//! source (ffmpeg) ─┬─ frames ─▶ visual: detect, track ──────────────┐
//!                  └─ sound ──▶ audio: speech, sounds, transcripts ─┴─▶ fusion: windows of evidence, events, intensity
//! ```
//! Between the parts are bounded channels. At real speed the source never waits: what cannot be looked at in time is
//! dropped and reported as a gap. In a fast session nothing is dropped; the source waits instead.

mod audio;
mod events;
mod fuse;
mod gaps;
mod infer;
mod sounds;
mod source;
mod transcribe;
mod visual;

use std::path::PathBuf;
use std::sync::Arc;

use sensorium_pipelines::EvidenceSpec;
use sensorium_wire::{EventBody, Modality};
use tokio::sync::{mpsc, watch};

use crate::cluster::{Cluster, Origin};
use crate::gateway::SessionRequest;

pub(crate) use events::Events;
use infer::Inference;

/// What sessions may use.
#[derive(Clone, Debug)]
pub struct SessionLimits {
    pub sessions_max: usize,
    /// The ffmpeg binary; ffprobe is found beside it.
    pub ffmpeg: PathBuf,
    /// What the fusion model's inputs mean; from its folder.
    pub evidence: Option<Arc<EvidenceSpec>>,
}

/// Frames between source and visual part.
const FRAMES_QUEUED_MAX: usize = 3;
/// Packets of sound between source and audio part.
const PACKETS_QUEUED_MAX: usize = 64;
/// Pieces of evidence between the parts and fusion.
const EVIDENCE_QUEUED_MAX: usize = 256;

/// What came of the parts of a session.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    units: u64,
    gaps: u64,
}

/// Runs a session to its end; the last event says how it ended.
pub(crate) async fn run(
    request: SessionRequest,
    cluster: Arc<Cluster>,
    limits: SessionLimits,
    mut stopping: watch::Receiver<bool>,
    events: Events,
) {
    tracing::info!(name = %request.header.name, bytes = request.media.bytes, fast = request.header.fast != 0, tenant = request.principal.tenant, "session opened");
    let outcome = tokio::select! {
        outcome = run_parts(&request, &cluster, &limits, &events) => outcome,
        _ = stopping.wait_for(|stopping| *stopping) => Err("the node is stopping".to_owned()),
        () = events.abandoned() => Err("the client is gone".to_owned()),
    };
    match outcome {
        Ok((frames, audio_ms, gaps)) => events.finish(frames, audio_ms, gaps),
        Err(reason) => {
            tracing::info!(name = %request.header.name, reason, "session ended early");
            events.close(&reason);
        }
    }
}

async fn run_parts(
    request: &SessionRequest,
    cluster: &Arc<Cluster>,
    limits: &SessionLimits,
    events: &Events,
) -> Result<(u64, u64, u64), String> {
    let fast = request.header.fast != 0;
    let info = source::probe(&limits.ffmpeg, &request.media.path).await?;
    let (width, height, frame_rate) =
        info.video.map_or((0, 0, 0.0), |video| (video.width, video.height, video.frame_rate));
    events.emit(
        0,
        EventBody::Opened {
            video: info.video.is_some(),
            audio: info.audio,
            width,
            height,
            frame_rate,
            sample_rate_hz: if info.audio { source::SAMPLE_RATE_HZ } else { 0 },
            duration_ms: info.duration_ms,
        },
        None,
    );
    if info.video.is_none() {
        events.emit(0, EventBody::Notice { text: "the file has no video: only sound is looked at".to_owned() }, None);
    }
    if !info.audio {
        events.emit(0, EventBody::Notice { text: "the file has no sound: only video is looked at".to_owned() }, None);
    }
    let inference = Inference::new(
        Arc::clone(cluster),
        request.caller,
        Origin::of(&request.principal),
        fast,
        request.header.budget_us,
    );
    for text in inference.missing_models() {
        events.emit(0, EventBody::Notice { text }, None);
    }

    let (frames, frame_queue) = mpsc::channel(FRAMES_QUEUED_MAX);
    let (sound, sound_queue) = mpsc::channel(PACKETS_QUEUED_MAX);
    let (evidence, evidence_queue) = mpsc::channel(EVIDENCE_QUEUED_MAX);
    let source = source::Source::new(limits, &request.media.path, info, fast, events.clone());
    let reading = source.read(frames, sound);
    let looking = visual::run(info.video, frame_queue, inference.clone(), events.clone(), evidence.clone());
    let listening = audio::run(info.audio, sound_queue, inference.clone(), events.clone(), evidence);
    let fusing =
        fuse::run(info.video.is_some(), info.audio, limits.evidence.clone(), evidence_queue, inference, events.clone());
    // Tasks of their own, so that they run beside each other; dropping this future stops them all.
    let mut parts = tokio::task::JoinSet::new();
    parts.spawn(async move { (Modality::Visual, looking.await) });
    parts.spawn(async move { (Modality::Audio, listening.await) });
    parts.spawn(async move { (Modality::Fusion, fusing.await) });
    let dropped = reading.await?;
    let (mut frames, mut audio_samples, mut gaps) = (0, 0, dropped.gaps);
    while let Some(ended) = parts.join_next().await {
        let (part, tally): (Modality, Tally) =
            ended.map_err(|error| format!("a part of the session failed: {error}"))?;
        gaps += tally.gaps;
        match part {
            Modality::Visual => frames = tally.units + dropped.units,
            Modality::Audio => audio_samples = tally.units,
            Modality::Fusion => {}
        }
    }
    Ok((frames, audio_samples * 1000 / u64::from(source::SAMPLE_RATE_HZ), gaps))
}
