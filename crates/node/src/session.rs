//! A session: one media file's video and sound, looked at and listened to on one clock.
//!
//! ```text
//! source (ffmpeg) ─┬─ frames ─▶ visual: detect, track ──────────────┐
//!                  └─ sound ──▶ audio: speech, sounds, transcripts ─┴─▶ fusion: windows of evidence, events, intensity
//! ```
//! Between the parts are bounded channels. At real speed the source never waits: what cannot be looked at in time is
//! dropped and reported as a gap. In a fast session nothing is dropped; the source waits instead.

mod audio;
mod capture;
mod events;
mod fuse;
mod gaps;
mod infer;
pub(crate) mod live;
mod sounds;
mod source;
mod transcribe;
mod visual;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sensorium_pipelines::EvidenceSpec;
use sensorium_pipelines::session::{SessionState, VideoState};
use sensorium_wire::{EventBody, Modality};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::cluster::{Cluster, KeptState, Origin, Owned, SessionKey};
use crate::gateway::SessionRequest;

use capture::{Begin, Cuts, Side};
pub(crate) use events::Events;
use events::Part;
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

/// A session's state is captured this often, in milliseconds, and at every final transcript. What came after the last
/// state is done again by whoever goes on, before anything new is: four times a second keeps that short.
const CHECKPOINT_MS: u64 = 250;

/// How long a node that stops waits for a last state of a session, in milliseconds.
const LAST_STATE_MS_MAX: u64 = 300;

/// How a session ended that ran to no end.
enum Ended {
    /// Its client hears this as the last event.
    Early(String),
    /// The node stops, and another one has the state.
    HandedOver,
}

/// What came of a part of a session.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    units: u64,
}

/// Runs a session to its end; the last event says how it ended.
pub(crate) async fn run(
    request: SessionRequest,
    cluster: Arc<Cluster>,
    limits: SessionLimits,
    mut stopping: watch::Receiver<bool>,
    events: Events,
) {
    let header = &request.header;
    let resume = header.resume != 0;
    let principal = Origin::of(&request.principal).principal;
    let key = SessionKey { principal, session: header.session };
    let (mut owned, kept) = cluster.take_up(key, resume).await;
    let epoch = owned.epoch;
    tracing::info!(name = %header.name, session = header.session, epoch, resume, bytes = request.media.bytes, fast = header.fast != 0, tenant = request.principal.tenant, "session opened");
    let state = kept.and_then(|kept| decoded(header.session, &kept));
    if resume && state.is_none() {
        let text =
            "no state of the session can be used: it starts again from its beginning, and its tracks get new ids";
        events.emit(0, EventBody::Notice { text: text.to_owned() }, None);
    }
    let (states, mut captured) = watch::channel(None);
    let cuts = Cuts::new();
    let kept = async {
        tokio::select! {
            // A node that is alone has nobody to keep states: none is captured.
            epoch = checkpoints(&mut owned, &cuts, &mut captured), if !cluster.is_alone() => {
                return Ended::Early(format!("moved to another node (epoch {epoch})"));
            }
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        if !owned.has_fallback() {
            return Ended::Early("the node is stopping".to_owned());
        }
        last_state(&mut owned, &cuts, &mut captured).await;
        Ended::HandedOver
    };
    let outcome = tokio::select! {
        outcome = run_parts(&request, &cluster, &limits, &events, Going { state, epoch, cuts: cuts.clone(), states }) => outcome.map_err(Ended::Early),
        ended = kept => Err(ended),
        () = events.abandoned() => Err(Ended::Early("the client is gone".to_owned())),
    };
    match outcome {
        Ok((frames, audio_ms)) => {
            owned.ended();
            events.finish(frames, audio_ms);
        }
        // What was kept of it stays for a while: its client may come back, here or elsewhere.
        Err(Ended::Early(reason)) => {
            tracing::info!(name = %header.name, session = header.session, epoch, reason, "session ended early");
            events.close(&reason);
        }
        Err(Ended::HandedOver) => {
            tracing::info!(name = %header.name, session = header.session, epoch, "session handed over");
            events.hand_over();
        }
    }
}

/// Has the session's state captured and sent on once more: whoever goes on does little again.
async fn last_state(owned: &mut Owned, cuts: &Cuts, captured: &mut watch::Receiver<Option<Arc<SessionState>>>) {
    captured.mark_unchanged();
    cuts.want();
    let waited = tokio::time::timeout(Duration::from_millis(LAST_STATE_MS_MAX), captured.changed()).await;
    if let (Ok(Ok(())), Some(state)) = (waited, captured.borrow_and_update().clone()) {
        owned.checkpoint(state.encode());
    }
}

/// A state that was kept, if this build can read it.
fn decoded(session: u64, kept: &KeptState) -> Option<SessionState> {
    let refused = |error| {
        let made_in = kept.epoch;
        tracing::warn!(session, made_in, "the session's state is refused and it starts afresh: {error}");
    };
    SessionState::decode(&kept.state).map_err(refused).ok()
}

/// Sends the session's state on, every [`CHECKPOINT_MS`] and whenever a part wants it. Ends with the newer epoch when the
/// session is another's.
async fn checkpoints(owned: &mut Owned, cuts: &Cuts, captured: &mut watch::Receiver<Option<Arc<SessionState>>>) -> u64 {
    let mut superseded = std::pin::pin!(owned.superseded());
    let mut ticks = tokio::time::interval(Duration::from_millis(CHECKPOINT_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            epoch = &mut superseded => return epoch,
            _ = ticks.tick() => cuts.want(),
            Ok(()) = captured.changed() => {
                let state = captured.borrow_and_update().clone();
                if let Some(state) = state {
                    owned.checkpoint(state.encode());
                }
            }
        }
    }
}

/// Where a session goes on, and how its state is captured on the way.
struct Going {
    state: Option<SessionState>,
    epoch: u64,
    cuts: Cuts,
    states: watch::Sender<Option<Arc<SessionState>>>,
}

/// What the source holds, found out anew or as it was before.
async fn open(
    request: &SessionRequest,
    cluster: &Cluster,
    limits: &SessionLimits,
    events: &Events,
    going: &Going,
) -> Result<source::SourceInfo, String> {
    if let Some(state) = &going.state {
        let (from_ms, epoch) = (state.reached_ms(), going.epoch);
        events.emit(from_ms, EventBody::Resumed { epoch, from_ms, node: cluster.engine.node }, None);
        let video = state.video.as_ref().map(|video| source::VideoInfo {
            width: video.width,
            height: video.height,
            frame_rate: video.frame_rate,
        });
        return Ok(source::SourceInfo { video, audio: state.audio.is_some(), duration_ms: state.duration_ms });
    }
    let info = source::probe(&limits.ffmpeg, &request.media.path).await?;
    let (width, height, frame_rate) =
        info.video.map_or((0, 0, 0.0), |video| (video.width, video.height, video.frame_rate));
    let opened = EventBody::Opened {
        video: info.video.is_some(),
        audio: info.audio,
        width,
        height,
        frame_rate,
        sample_rate_hz: if info.audio { source::SAMPLE_RATE_HZ } else { 0 },
        duration_ms: info.duration_ms,
    };
    events.emit(0, opened, None);
    if info.video.is_none() {
        events.emit(0, EventBody::Notice { text: "the file has no video: only sound is looked at".to_owned() }, None);
    }
    if !info.audio {
        events.emit(0, EventBody::Notice { text: "the file has no sound: only video is looked at".to_owned() }, None);
    }
    Ok(info)
}

async fn run_parts(
    request: &SessionRequest,
    cluster: &Arc<Cluster>,
    limits: &SessionLimits,
    events: &Events,
    going: Going,
) -> Result<(u64, u64), String> {
    let fast = request.header.fast != 0;
    let info = open(request, cluster, limits, events, &going).await?;
    let origin = Origin::of(&request.principal);
    let inference = Inference::new(Arc::clone(cluster), request.caller, origin, fast, request.header.budget_us);
    let resumed = going.state.is_some();
    if !resumed {
        for text in inference.missing_models() {
            events.emit(0, EventBody::Notice { text }, None);
        }
    }
    let mut parts = Parts::start(limits, info, going, &inference, events);
    parts.position.catch_up_ms = if request.header.resume != 0 { request.header.seen_ms } else { 0 };
    let (frames, sound) = (parts.frames, parts.sound);
    let source = source::Source::new(limits, &request.media.path, parts.running, fast, parts.position, events.clone());
    let dropped = if parts.running.video.is_some() || parts.running.audio {
        source.read(frames, sound).await?
    } else {
        drop((frames, sound));
        Tally::default()
    };
    let (mut frames_total, mut samples_total) = (parts.frames_before, parts.samples_before);
    while let Some(ended) = parts.tasks.join_next().await {
        let (part, units) = ended.map_err(|error| format!("a part of the session failed: {error}"))?;
        match part {
            Modality::Visual => frames_total = units.max(dropped.units),
            Modality::Audio => samples_total = units,
            Modality::Fusion => {}
        }
    }
    Ok((frames_total, samples_total * 1000 / u64::from(source::SAMPLE_RATE_HZ)))
}

/// The parts of a session at work. Dropping it stops them.
struct Parts {
    frames: mpsc::Sender<source::Frame>,
    sound: mpsc::Sender<source::Sound>,
    /// Each gives how much it has had in all. Tasks of their own, so that they run beside each other.
    tasks: tokio::task::JoinSet<(Modality, u64)>,
    /// What is still to be read, and from where.
    running: source::SourceInfo,
    position: source::Position,
    /// Frames and samples of sides that had ended before.
    frames_before: u64,
    samples_before: u64,
}

impl Parts {
    /// Starts them, where `going` says.
    fn start(
        limits: &SessionLimits,
        info: source::SourceInfo,
        going: Going,
        inference: &Inference,
        events: &Events,
    ) -> Self {
        let resumed = going.state.is_some();
        let state = going.state.unwrap_or_default();
        if resumed {
            let none = (Vec::new(), 0);
            let (video, video_gaps) =
                state.video.as_ref().map_or_else(|| none.clone(), |video| (video.tail.clone(), video.gaps));
            let (audio, audio_gaps) = state.audio.as_ref().map_or(none, |audio| (audio.tail.clone(), audio.gaps));
            events.retell(Part::Video, &video, video_gaps);
            events.retell(Part::Audio, &audio, audio_gaps);
            events.retell(Part::Fusion, &state.fusion.tail, state.fusion.gaps);
        }
        // A side that has come to its end before is not read again.
        let (video_done, video_from) = divide(state.video, |video| video.ended);
        let (audio_done, audio_from) = divide(state.audio, |audio| audio.ended);
        let running = source::SourceInfo {
            video: info.video.filter(|_| video_done.is_none()),
            audio: info.audio && audio_done.is_none(),
            ..info
        };
        let position = source::Position {
            frame: video_from.as_ref().and_then(|video| video.last),
            sample: audio_from.as_ref().map_or(0, |audio| audio.from),
            catch_up_ms: 0,
        };
        let frames_before = video_done.as_ref().map_or(0, VideoState::frames);
        let samples_before = audio_done.as_ref().map_or(0, |audio| audio.heard);

        let (frames, frame_queue) = mpsc::channel(FRAMES_QUEUED_MAX);
        let (sound, sound_queue) = mpsc::channel(PACKETS_QUEUED_MAX);
        let (evidence, evidence_queue) = mpsc::channel(EVIDENCE_QUEUED_MAX);
        let begin = Begin {
            video: info.video.map(|_| video_done.map_or(Side::Runs, |state| Side::Ended(Box::new(state)))),
            audio: info.audio.then(|| audio_done.map_or(Side::Runs, |state| Side::Ended(Box::new(state)))),
            state: state.fusion,
            duration_ms: info.duration_ms,
        };
        let mut tasks = tokio::task::JoinSet::new();
        if let Some(video) = running.video {
            let (cuts, inference) = (going.cuts.clone(), inference.clone());
            let looking =
                visual::run(video, video_from, frame_queue, cuts, inference, events.clone(), evidence.clone());
            tasks.spawn(async move { (Modality::Visual, looking.await) });
        }
        if running.audio {
            let (cuts, inference) = (going.cuts.clone(), inference.clone());
            let listening = audio::run(audio_from, sound_queue, cuts, inference, events.clone(), evidence.clone());
            tasks.spawn(async move { (Modality::Audio, listening.await) });
        }
        drop(evidence);
        let (spec, inference) = (limits.evidence.clone(), inference.clone());
        let fusing = fuse::run(spec, begin, evidence_queue, going.states, inference, events.clone());
        tasks.spawn(async move {
            fusing.await;
            (Modality::Fusion, 0)
        });
        Self { frames, sound, tasks, running, position, frames_before, samples_before }
    }
}

/// A state that has ended, or one to go on from.
fn divide<T>(state: Option<T>, ended: impl FnOnce(&T) -> bool) -> (Option<T>, Option<T>) {
    match state {
        Some(state) if ended(&state) => (Some(state), None),
        state => (None, state),
    }
}
