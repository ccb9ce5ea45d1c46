//! A session over a live source: a camera or microphone that this node has open, in the epoch of its lease.
//!
//! The parts are those of every session, at real speed. What is different: there is no end, nothing can be read again,
//! and ffmpeg is opened again for as long as the node owns the source. Time in which nothing came is a gap; the session's
//! clock goes on through it. Who takes a source up counts on from the state that was kept: its latest time, and how long
//! ago it was kept, both durations. No clock of another machine is looked at.

mod decoder;
mod pace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sensorium_cluster::SourceSpec;
use sensorium_device::clock::now_ns;
use sensorium_pipelines::session::{AudioState, SessionState, VideoState};
use sensorium_pipelines::sound::{SoundEvents, SoundSettings};
use sensorium_pipelines::speech::{SpeechSegmenter, SpeechSettings};
use sensorium_processing::nut::NutItem;
use sensorium_processing::sound::from_i16_le;
use sensorium_wire::{EventBody, Modality};
use tokio::sync::{mpsc, watch};

use super::capture::Cuts;
use super::gaps::Gaps;
use super::infer::Inference;
use super::source::{Frame, SAMPLE_RATE_HZ, Sound, SourceInfo};
use super::{Events, Going, Parts, SessionLimits, checkpoints, decoded};
use crate::cluster::{Cluster, Origin, SessionKey};
use crate::engine::Caller;
use crate::restart::{History, Part as Restarted, Verdict};
use crate::source::{Ring, Source};

use decoder::Decoder;
pub(crate) use decoder::Tools;
use pace::Pace;

/// Longest pause between two packets of a stream that is ahead of its time, in milliseconds.
const WAIT_MS_MAX: u64 = 1_000;
const SAMPLES_PER_MS: u64 = SAMPLE_RATE_HZ as u64 / 1000;

/// What a live session runs with.
pub(crate) struct LiveSetting {
    pub(crate) source: Arc<Source>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) limits: SessionLimits,
    pub(crate) tools: Tools,
    pub(crate) ring: Arc<Ring>,
    /// Until when the lease is valid, on this machine's monotonic clock.
    pub(crate) lease: watch::Receiver<u64>,
    /// A clone lives for as long as a process has the source open.
    pub(crate) open: mpsc::Sender<()>,
}

/// Why a live session ended.
pub(crate) enum LiveEnd {
    /// Another node owns the source, in this epoch.
    Moved(u64),
    Failed(String),
}

/// Runs a source until the future is dropped, another node owns it, or a part fails.
pub(crate) async fn run(setting: LiveSetting) -> LiveEnd {
    let (cluster, name, epoch) = (Arc::clone(&setting.cluster), &setting.source.spec.name, setting.ring.epoch);
    let key = SessionKey::of_source(cluster.cluster_name(), name);
    let (mut owned, kept) = cluster.take_up_in(key, epoch).await;
    let kept = kept.and_then(|kept| Some((decoded(key.session, &kept)?, kept.age_ms)));
    let Some(id) = cluster.engine.caller_id(&format!("source {name}")) else {
        return LiveEnd::Failed("too many principals are known here".to_owned());
    };
    let origin = Origin { principal: key.principal, ..Origin::default() };
    let budget_us = setting.source.spec.budget_ms * 1000;
    let caller = Caller { id, critical: false };
    let inference = Inference::new(Arc::clone(&cluster), caller, origin, false, budget_us);
    let events = Events::of_source(Arc::clone(&setting.ring));
    let (cuts, (states, mut captured)) = (Cuts::new(), watch::channel(None));
    let clock = kept.as_ref().map(|(state, age_ms)| Clock::at(latest_ms(state) + age_ms));
    let state = kept.map(|(state, _)| state);
    tracing::info!(source = name, epoch, resumed = state.is_some(), "this node owns the source");
    if let Some(state) = &state {
        let from_ms = state.reached_ms();
        events.emit(from_ms, EventBody::Resumed { epoch, from_ms, node: cluster.engine.node }, None);
    }
    let feed = Feed {
        gaps: Gaps::new(Modality::Visual, events.clone()),
        unwatched: state.as_ref().map(|_| "the source changed hands".to_owned()),
        hole: None,
        setting,
        events,
        inference,
        cuts: cuts.clone(),
        states,
        state,
        clock,
        parts: None,
        info: None,
        next_frame: 0,
        last_frame_ms: None,
        unwatched_ms: 0,
        samples: 0,
        away: None,
    };
    tokio::select! {
        reason = feed.run() => LiveEnd::Failed(reason),
        epoch = checkpoints(&mut owned, &cuts, &mut captured), if !cluster.is_alone() => LiveEnd::Moved(epoch),
    }
}

/// The session's clock: it began at some time, and goes on by itself.
#[derive(Clone, Copy)]
struct Clock {
    base_ms: u64,
    since: Instant,
}

impl Clock {
    fn at(base_ms: u64) -> Self {
        Self { base_ms, since: Instant::now() }
    }

    fn now_ms(&self) -> u64 {
        self.base_ms.saturating_add(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// The latest session time of a state.
fn latest_ms(state: &SessionState) -> u64 {
    let video = state.video.as_ref().and_then(|video| video.last).map_or(0, |(_, t_ms)| t_ms);
    video.max(state.audio.as_ref().map_or(0, |audio| audio.heard / SAMPLES_PER_MS))
}

/// Reads the source, opening it again and again, and feeds the parts.
struct Feed {
    setting: LiveSetting,
    events: Events,
    inference: Inference,
    cuts: Cuts,
    states: watch::Sender<Option<Arc<SessionState>>>,
    /// Where to begin, until the parts have begun.
    state: Option<SessionState>,
    clock: Option<Clock>,
    parts: Option<Parts>,
    info: Option<SourceInfo>,
    gaps: Gaps,
    next_frame: u64,
    last_frame_ms: Option<u64>,
    /// Why nothing came before what comes next in the video; in the sound.
    unwatched: Option<String>,
    hole: Option<String>,
    /// Time without frames that the visual part has not heard of.
    unwatched_ms: u64,
    /// Samples so far, those of holes included.
    samples: u64,
    /// Why the source is away.
    away: Option<String>,
}

impl Feed {
    /// Ends only with a failure inside the node.
    async fn run(mut self) -> String {
        let mut history = History::new(Restarted::Camera);
        loop {
            let reason = match self.read().await {
                Ok(reason) => reason,
                Err(fault) => return fault,
            };
            self.lost(&reason);
            let Verdict::RestartAfter { wait_ms } = history.failed(now_ns() / 1_000_000) else {
                return format!("{reason}; the restart table gives it up");
            };
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            self.setting.source.reopened();
        }
    }

    fn now_ms(&self) -> u64 {
        self.clock.map_or(0, |clock| clock.now_ms())
    }

    fn spec(&self) -> &SourceSpec {
        &self.setting.source.spec
    }

    /// The source is away; told once for each reason.
    fn lost(&mut self, reason: &str) {
        self.gaps.end();
        self.unwatched = Some(reason.to_owned());
        self.hole = Some(reason.to_owned());
        if self.away.as_deref() != Some(reason) {
            tracing::warn!(source = self.spec().name, reason, "the source is away; it is opened again and again");
            let text = format!("from {} ms on the source is away: {reason}", self.now_ms());
            self.events.emit(self.now_ms(), EventBody::Notice { text }, None);
            self.setting.source.away(reason);
            self.away = Some(reason.to_owned());
        }
    }

    fn back(&mut self) {
        self.setting.source.up();
        let first = self.away.take().is_none();
        tracing::info!(
            source = self.spec().name,
            "{}",
            if first { "the source is open" } else { "the source is back" }
        );
    }

    /// Opens the source and reads it until it breaks off; gives why.
    async fn read(&mut self) -> Result<String, String> {
        let LiveSetting { tools, lease, open, .. } = &self.setting;
        let opened = Decoder::open(tools, self.spec(), lease.clone(), open.clone());
        let mut decoder = match opened.await {
            Ok(decoder) => decoder,
            Err(reason) => return Ok(reason),
        };
        let clock = *self.clock.get_or_insert_with(|| Clock::at(0));
        self.back();
        // A session that has begun goes on at what its clock says, beyond everything that it has had.
        let reached_ms = self.reached_ms();
        let offset_ms = reached_ms.map_or(0, |reached_ms| (clock.now_ms()).max(reached_ms + 1));
        self.begin(decoder.info(), offset_ms);
        let mut sample = offset_ms * SAMPLES_PER_MS;
        let (mut pace, opened) = (Pace::default(), Instant::now());
        loop {
            let packet = match decoder.next().await {
                Ok(NutItem::Packet(packet)) => packet,
                Ok(NutItem::Stream(_)) => continue,
                Err(reason) => return Ok(reason),
            };
            self.setting.source.gave();
            let pts_ms = u64::try_from(packet.pts_ns / 1_000_000).unwrap_or(0);
            let elapsed_ms = u64::try_from(opened.elapsed().as_millis()).unwrap_or(u64::MAX);
            let wait_ms = pace.wait_ms(elapsed_ms, pts_ms).min(WAIT_MS_MAX);
            if wait_ms > 0 {
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            }
            if Some(packet.stream) == decoder.video {
                self.frame(offset_ms + pts_ms, packet.pts_ns, packet.payload)?;
            } else if Some(packet.stream) == decoder.audio {
                let samples = match from_i16_le(&packet.payload) {
                    Ok(samples) => samples,
                    Err(error) => return Ok(error.to_string()),
                };
                let from = sample;
                sample += samples.len() as u64;
                self.sound(from, samples)?;
            }
        }
    }

    /// How far the session has come; `None` before its beginning.
    fn reached_ms(&self) -> Option<u64> {
        if let Some(state) = &self.state {
            return Some(latest_ms(state));
        }
        self.parts.as_ref()?;
        Some(self.last_frame_ms.unwrap_or(0).max(self.samples.div_ceil(SAMPLES_PER_MS)))
    }

    /// Starts the parts, if there are none for what the source is now.
    fn begin(&mut self, info: SourceInfo, offset_ms: u64) {
        let shape = |info: &SourceInfo| (info.video.map(|video| (video.width, video.height)), info.audio);
        if self.parts.is_some() && self.info.as_ref().map(shape) == Some(shape(&info)) {
            return;
        }
        let of_state = |state: &SessionState| {
            (state.video.as_ref().map(|video| (video.width, video.height)), state.audio.is_some())
        };
        let mut state = self.state.take();
        // Frames are never numbered anew in a session, whatever becomes of its tracks.
        let frames = state.as_ref().and_then(|state| state.video.as_ref()).map_or(0, VideoState::frames);
        self.next_frame = self.next_frame.max(frames);
        if state.as_ref().is_some_and(|state| of_state(state) != shape(&info)) || self.parts.is_some() {
            state = None;
            let text = format!("from {offset_ms} ms on the source has another shape: its tracks are counted anew");
            self.events.emit(offset_ms, EventBody::Notice { text }, None);
        }
        let opened = EventBody::Opened {
            video: info.video.is_some(),
            audio: info.audio,
            width: info.video.map_or(0, |video| video.width),
            height: info.video.map_or(0, |video| video.height),
            frame_rate: info.video.map_or(0.0, |video| video.frame_rate),
            sample_rate_hz: if info.audio { SAMPLE_RATE_HZ } else { 0 },
            duration_ms: 0,
        };
        self.events.emit(offset_ms, opened, None);
        for text in self.inference.missing_models() {
            self.events.emit(offset_ms, EventBody::Notice { text }, None);
        }
        let state = state.unwrap_or_else(|| SessionState {
            audio: info.audio.then(|| silent_until(offset_ms)),
            ..SessionState::default()
        });
        let last = state.video.as_ref().and_then(|video| video.last);
        self.samples = state.audio.as_ref().map_or(0, |audio| audio.heard);
        self.last_frame_ms = last.map(|(_, t_ms)| t_ms).or(self.last_frame_ms);
        self.hole = (self.samples < offset_ms * SAMPLES_PER_MS)
            .then(|| self.unwatched.clone().unwrap_or_else(|| "the source changed hands".to_owned()));
        let (cuts, states, epoch) = (self.cuts.clone(), self.states.clone(), self.setting.ring.epoch);
        let going = Going { state: Some(state), epoch, cuts, states };
        let parts = Parts::start(&self.setting.limits, info, going, &self.inference, &self.events);
        self.parts = Some(parts);
        self.info = Some(info);
    }

    /// Hands a frame on, unless the visual part is behind.
    fn frame(&mut self, t_ms: u64, pts_ns: i64, pixels: Vec<u8>) -> Result<(), String> {
        let (Some(parts), Some(info)) = (&self.parts, &self.info) else { return Ok(()) };
        if self.last_frame_ms.is_some_and(|last| t_ms <= last) {
            return Ok(());
        }
        let frame_ms = info.video.map_or(40, |video| video.frame_ms());
        let before_ms = self.last_frame_ms.replace(t_ms);
        if let (Some(why), Some(before_ms)) = (self.unwatched.take(), before_ms) {
            let lost_ms = t_ms.saturating_sub(before_ms + frame_ms);
            self.unwatched_ms += lost_ms;
            if lost_ms > 0 {
                self.gaps.lose(before_ms + frame_ms, t_ms, &why);
                self.gaps.end();
            }
        }
        let frame = Frame { number: self.next_frame, t_ms, pts_ns, pixels, unwatched_ms: self.unwatched_ms };
        self.next_frame += 1;
        self.setting.source.frame();
        match parts.frames.try_send(frame) {
            Ok(()) => {
                self.unwatched_ms = 0;
                self.gaps.end();
            }
            Err(mpsc::error::TrySendError::Full(frame)) => {
                self.gaps.lose(frame.t_ms, frame.t_ms + frame_ms, "the detector is behind");
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err("the visual part of the session ended".to_owned()),
        }
        Ok(())
    }

    /// Hands sound on; what the audio part does not take in time is a hole.
    fn sound(&mut self, from: u64, samples: Vec<f32>) -> Result<(), String> {
        let Some(parts) = &self.parts else { return Ok(()) };
        let ended = || "the audio part of the session ended".to_owned();
        let end = from + samples.len() as u64;
        if let Some(reason) = self.hole.take() {
            // Whole milliseconds: times and numbers of samples stay together.
            let until = from.next_multiple_of(SAMPLES_PER_MS);
            match parts.sound.try_send(Sound::Hole { until, reason }) {
                Ok(()) => self.samples = until,
                Err(mpsc::error::TrySendError::Full(Sound::Hole { reason, .. })) => self.hole = Some(reason),
                Err(mpsc::error::TrySendError::Full(Sound::Samples(_))) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(ended()),
            }
        }
        let known = usize::try_from(self.samples.saturating_sub(from)).unwrap_or(usize::MAX);
        let fresh = samples.get(known..).unwrap_or_default().to_vec();
        if self.hole.is_some() || fresh.is_empty() {
            return Ok(());
        }
        match parts.sound.try_send(Sound::Samples(fresh)) {
            Ok(()) => self.samples = end,
            Err(mpsc::error::TrySendError::Full(_)) => self.hole = Some("the listening is behind".to_owned()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ended()),
        }
        Ok(())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.setting.ring.close();
    }
}

/// Sound that begins at a time of the session.
fn silent_until(ms: u64) -> AudioState {
    let samples = ms * SAMPLES_PER_MS;
    AudioState {
        ended: false,
        heard: samples,
        from: samples,
        gaps: 0,
        segmenter: SpeechSegmenter::new(SpeechSettings::default(), ms),
        detector: Vec::new(),
        sounds: SoundEvents::new(SoundSettings::default()),
        sounds_from: samples,
        pending: Vec::new(),
        tail: Vec::new(),
    }
}
