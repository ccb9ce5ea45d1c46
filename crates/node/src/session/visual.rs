//! The visual part: detect objects frame by frame, follow them from frame to frame.

use std::collections::VecDeque;

use sensorium_pipelines::session::VideoState;
use sensorium_pipelines::track::{TrackSettings, Tracker};
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::{EventBody, Modality};
use tokio::sync::mpsc;

use super::events::Part;
use super::fuse::Evidence;
use super::gaps::Gaps;
use super::infer::{DETECTOR, Inference, Inferred, Pending, Refusal, Request};
use super::source::{Frame, VideoInfo};
use super::{Cuts, Events};

/// Frames that may be with the detector at once: one that runs and one that waits behind it.
const IN_FLIGHT_MAX: usize = 2;

struct Started {
    frame: Frame,
    pending: Pending,
}

struct Visual {
    video: VideoInfo,
    inference: Inference,
    events: Events,
    evidence: mpsc::Sender<Evidence>,
    tracker: Tracker,
    gaps: Gaps,
    /// Frames so far.
    frames: u64,
    /// Number and time of the last frame whose answer was taken: what comes after it is not in the tracker.
    last: Option<(u64, u64)>,
}

/// Looks at frames until there are no more. Gives how many there were, those before `from` included.
pub(super) async fn run(
    video: VideoInfo,
    from: Option<VideoState>,
    mut frames: mpsc::Receiver<Frame>,
    mut cuts: Cuts,
    inference: Inference,
    events: Events,
    evidence: mpsc::Sender<Evidence>,
) -> u64 {
    let gaps = Gaps::new(Modality::Visual, events.clone());
    let (before, last) = from.as_ref().map_or((0, None), |from| (from.frames(), from.last));
    let tracker = from.map_or_else(|| Tracker::new(TrackSettings::default()), |from| from.tracker);
    let mut visual = Visual { video, inference, events, evidence, tracker, gaps, frames: before, last };
    let mut started: VecDeque<Started> = VecDeque::new();
    let mut open = true;
    while open || !started.is_empty() {
        let room = open && started.len() < IN_FLIGHT_MAX;
        tokio::select! {
            biased;
            // Answers are taken in the order of the frames: the tracker needs it.
            answer = oldest(&mut started), if !started.is_empty() => {
                let done = started.pop_front().expect("the oldest was just answered");
                visual.answered(done.frame, answer).await;
            }
            number = cuts.next() => {
                let state = visual.state(false);
                let _ = visual.evidence.send(Evidence::VideoCut { number, state }).await;
            }
            frame = frames.recv(), if room => match frame {
                Some(frame) => {
                    if let Some(job) = visual.start(frame).await {
                        started.push_back(job);
                    }
                }
                None => open = false,
            },
        }
    }
    let state = visual.state(true);
    let _ = visual.evidence.send(Evidence::VideoEnd(state)).await;
    visual.frames
}

async fn oldest(started: &mut VecDeque<Started>) -> Result<Inferred, Refusal> {
    match started.front_mut() {
        Some(job) => job.pending.ready().await,
        None => std::future::pending().await,
    }
}

impl Visual {
    /// What another node needs to go on. A gap that is open is told first: nobody could tell it later.
    fn state(&mut self, ended: bool) -> Box<VideoState> {
        self.gaps.end();
        let (tail, gaps) = self.events.told(Part::Video);
        let VideoInfo { width, height, frame_rate } = self.video;
        let (tracker, last) = (self.tracker.clone(), self.last);
        Box::new(VideoState { width, height, frame_rate, ended, last, gaps, tracker, tail })
    }

    async fn start(&mut self, frame: Frame) -> Option<Started> {
        self.frames = self.frames.max(frame.number + 1);
        if !self.inference.has(DETECTOR) {
            self.last = Some((frame.number, frame.t_ms));
            let _ = self.evidence.send(Evidence::VideoUntil(frame.t_ms)).await;
            return None;
        }
        let shape = [self.video.height, self.video.width];
        let mut request = Request::new(DETECTOR, PayloadKind::RawFrame, &shape, &frame.pixels);
        request.header.pixels = PixelFormat::Rgb24;
        request.header.sequence = frame.number;
        request.header.capture_ns = frame.pts_ns;
        match self.inference.start(&request).await {
            Ok(pending) => Some(Started { frame, pending }),
            Err(reason) => {
                self.tracker.unwatched(frame.unwatched_ms);
                self.lost(&frame, &reason).await;
                None
            }
        }
    }

    async fn answered(&mut self, frame: Frame, answer: Result<Inferred, Refusal>) {
        let answer = match answer {
            Err(refusal) if refusal.passing && self.inference.is_fast() => self.again(&frame).await,
            Err(refusal) => Err(refusal.detail),
            Ok(inferred) => Ok(inferred),
        };
        self.last = Some((frame.number, frame.t_ms));
        self.tracker.unwatched(frame.unwatched_ms);
        match answer {
            Ok((ModelResult::Detections { detections }, receipt)) => {
                self.gaps.end();
                let tracks = self.tracker.update(frame.t_ms, frame.number, &detections);
                let (new_tracks, speeds) = (self.tracker.new_tracks(), self.tracker.speeds().collect());
                let detected = EventBody::Detection { frame: frame.number, detections };
                self.events.emit(frame.t_ms, detected, Some(receipt));
                let seen = Evidence::Frame { t_ms: frame.t_ms, tracks: tracks.clone(), new_tracks, speeds };
                self.events.emit(frame.t_ms, EventBody::Track { frame: frame.number, tracks }, Some(receipt));
                let _ = self.evidence.send(seen).await;
            }
            Ok((other, _)) => self.lost(&frame, &format!("{DETECTOR} is no detector: it gave {other:?}")).await,
            Err(reason) => self.lost(&frame, &reason).await,
        }
    }

    async fn again(&self, frame: &Frame) -> Result<Inferred, String> {
        let shape = [self.video.height, self.video.width];
        let mut request = Request::new(DETECTOR, PayloadKind::RawFrame, &shape, &frame.pixels);
        request.header.pixels = PixelFormat::Rgb24;
        self.inference.run(&request).await
    }

    async fn lost(&mut self, frame: &Frame, reason: &str) {
        // The sentence's details (times, queue lengths) differ from frame to frame; its start names the reason.
        let reason = reason.split(':').next().unwrap_or(reason);
        self.gaps.lose(frame.t_ms, frame.t_ms + self.video.frame_ms(), reason);
        let _ = self.evidence.send(Evidence::VideoUntil(frame.t_ms)).await;
    }
}
