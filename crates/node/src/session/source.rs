//! The source of a session: a supervised ffmpeg process that turns a media file into raw frames and sound with their
//! real timestamps.
//!
//! ffmpeg may read this one file and nothing else (a protocol whitelist), and hands over NUT, a container that carries
//! timestamps. When it dies it is started again where it stopped, as the restart table allows.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sensorium_device::clock::now_ns;
use sensorium_processing::nut::{NutDemuxer, NutItem, StreamKind};
use sensorium_processing::sound::from_i16_le;
use sensorium_wire::{Modality, limits};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::events::Events;
use super::gaps::Gaps;
use super::{SessionLimits, Tally};
use crate::restart::{History, Part, Verdict};

/// Sample rate of all sound inside the node, in hertz.
pub(super) const SAMPLE_RATE_HZ: u32 = 16_000;
/// How long probing a file may take, in milliseconds.
const PROBE_MS_MAX: u64 = 10_000;
/// Most that ffprobe and ffmpeg may say, in bytes.
const TALK_BYTES_MAX: u64 = 64 << 10;
/// Reads from ffmpeg's pipe, in bytes.
pub(super) const READ_BYTES: usize = 1 << 20;
/// How long ffmpeg may take to give the next byte, in milliseconds. A file that it cannot get on with ends there.
const SILENCE_MS_MAX: u64 = 20_000;

/// The video of a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct VideoInfo {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) frame_rate: f32,
}

impl VideoInfo {
    /// Time from one frame to the next, in whole milliseconds.
    pub(super) fn frame_ms(&self) -> u64 {
        let ms = (1000.0 / f64::from(self.frame_rate.clamp(1.0, 1000.0))).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 1000 by the clamp")]
        let ms = ms as u64;
        ms
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SourceInfo {
    pub(super) video: Option<VideoInfo>,
    pub(super) audio: bool,
    pub(super) duration_ms: u64,
}

/// One frame: RGB, 8 bits.
pub(super) struct Frame {
    pub(super) number: u64,
    pub(super) t_ms: u64,
    pub(super) pts_ns: i64,
    pub(super) pixels: Vec<u8>,
    /// Time before it in which a camera gave nothing, in milliseconds.
    pub(super) unwatched_ms: u64,
}

/// What comes next in the sound, mono at [`SAMPLE_RATE_HZ`].
pub(super) enum Sound {
    /// Following on what came before.
    Samples(Vec<f32>),
    /// A microphone gave nothing up to this sample, and why.
    Hole { until: u64, reason: String },
}

#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    streams: Vec<ProbeStream>,
    format: Option<ProbeFormat>,
}

#[derive(Deserialize)]
struct ProbeStream {
    codec_type: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    avg_frame_rate: Option<String>,
    r_frame_rate: Option<String>,
    #[serde(default)]
    disposition: Disposition,
}

#[derive(Default, Deserialize)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
}

#[derive(Deserialize)]
struct ProbeFormat {
    duration: Option<String>,
}

/// Looks into a file.
pub(super) async fn probe(ffmpeg: &Path, file: &Path) -> Result<SourceInfo, String> {
    let ffprobe = ffmpeg.with_file_name("ffprobe");
    let child = Command::new(&ffprobe)
        .args(["-v", "error", "-protocol_whitelist", "file", "-of", "json", "-show_streams", "-show_format"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{}: {error}; is ffmpeg installed? (ops/setup)", ffprobe.display()))?;
    let answer = tokio::time::timeout(Duration::from_millis(PROBE_MS_MAX), talk(child)).await;
    let (ok, text, complaint) =
        answer.map_err(|_| format!("the file could not be probed within {PROBE_MS_MAX} ms"))??;
    let not_media = || {
        let complaint = complaint.lines().next_back().unwrap_or("no stream found");
        // The spool file's name means nothing to the client.
        let complaint = complaint.rsplit(": ").next().unwrap_or(complaint);
        format!("not a media file that can be read: {complaint}")
    };
    if !ok {
        return Err(not_media());
    }
    let probe: Probe = serde_json::from_str(&text).map_err(|_| not_media())?;
    let is = |stream: &ProbeStream, kind: &str| stream.codec_type.as_deref() == Some(kind);
    let video =
        probe.streams.iter().find(|stream| is(stream, "video") && stream.disposition.attached_pic == 0).and_then(
            |stream| {
                let rate = |text: &Option<String>| parse_rate(text.as_deref()?);
                let frame_rate = rate(&stream.avg_frame_rate).or_else(|| rate(&stream.r_frame_rate)).unwrap_or(25.0);
                Some(VideoInfo { width: stream.width?, height: stream.height?, frame_rate })
            },
        );
    if let Some(video) = video {
        let bytes = u64::from(video.width) * u64::from(video.height) * 3;
        if bytes == 0 || bytes > limits::PAYLOAD_BYTES_MAX {
            return Err(format!("video of {}x{} pixels: at most 4K is taken", video.width, video.height));
        }
    }
    let audio = probe.streams.iter().any(|stream| is(stream, "audio"));
    if video.is_none() && !audio {
        return Err(not_media());
    }
    let seconds: f64 = probe.format.and_then(|format| format.duration?.parse().ok()).unwrap_or(0.0);
    let duration_ms = u64::try_from(Duration::try_from_secs_f64(seconds).unwrap_or_default().as_millis()).unwrap_or(0);
    Ok(SourceInfo { video, audio, duration_ms })
}

/// `30000/1001` as a number of frames a second.
fn parse_rate(text: &str) -> Option<f32> {
    let (numerator, denominator) = text.split_once('/')?;
    let (numerator, denominator): (f32, f32) = (numerator.parse().ok()?, denominator.parse().ok()?);
    let rate = numerator / denominator;
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

/// Reads a child's bounded output to its end: whether it succeeded, stdout, stderr.
async fn talk(mut child: Child) -> Result<(bool, String, String), String> {
    let (mut text, mut complaint) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else { return Err("no pipes".to_owned()) };
    let (mut stdout, mut stderr) = (stdout.take(TALK_BYTES_MAX), stderr.take(TALK_BYTES_MAX));
    let _ = tokio::join!(stdout.read_to_end(&mut text), stderr.read_to_end(&mut complaint));
    drop((stdout, stderr));
    let status = child.wait().await.map_err(|error| error.to_string())?;
    Ok((
        status.success(),
        String::from_utf8_lossy(&text).into_owned(),
        String::from_utf8_lossy(&complaint).into_owned(),
    ))
}

/// A file being read.
pub(super) struct Source {
    ffmpeg: PathBuf,
    file: PathBuf,
    info: SourceInfo,
    fast: bool,
    gaps: Gaps,
    /// When session time 0 was, at real speed.
    started: Instant,
    next_frame: u64,
    /// Session time of the last frame, and samples handed over: where a new ffmpeg goes on.
    last_frame_ms: Option<u64>,
    samples: u64,
    /// Up to this session time nothing is paced or dropped at real speed: the client has had it before.
    catch_up_ms: u64,
}

/// Where a source begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Number and session time of the last frame that is not needed any more.
    pub(super) frame: Option<(u64, u64)>,
    /// The first sample that is needed.
    pub(super) sample: u64,
    /// What comes before this session time is done again, as fast as it goes.
    pub(super) catch_up_ms: u64,
}

impl Source {
    pub(super) fn new(
        limits: &SessionLimits,
        file: &Path,
        info: SourceInfo,
        fast: bool,
        from: Position,
        events: Events,
    ) -> Self {
        let now = Instant::now();
        Self {
            ffmpeg: limits.ffmpeg.clone(),
            file: file.to_owned(),
            info,
            fast,
            gaps: Gaps::new(Modality::Visual, events),
            started: now.checked_sub(Duration::from_millis(from.catch_up_ms)).unwrap_or(now),
            next_frame: from.frame.map_or(0, |(number, _)| number + 1),
            last_frame_ms: from.frame.map(|(_, t_ms)| t_ms),
            samples: from.sample,
            catch_up_ms: from.catch_up_ms,
        }
    }

    /// Reads the file to its end, starting ffmpeg again when it dies. Gives how many frames it had.
    pub(super) async fn read(
        mut self,
        frames: mpsc::Sender<Frame>,
        sound: mpsc::Sender<Sound>,
    ) -> Result<Tally, String> {
        let mut history = History::new(Part::SourceProcess);
        loop {
            let Err(reason) = self.read_once(&frames, &sound).await else { break };
            let Verdict::RestartAfter { wait_ms } = history.failed(now_ns() / 1_000_000) else {
                return Err(format!("the media file cannot be decoded: {reason}"));
            };
            tracing::warn!(reason, wait_ms, at_ms = self.last_frame_ms, "decoder gone; starting another");
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
        self.gaps.end();
        Ok(Tally { units: self.next_frame })
    }

    fn sound_ms(&self) -> u64 {
        self.samples * 1000 / u64::from(SAMPLE_RATE_HZ)
    }

    /// Timestamps stay those of the file. Video and sound start at places of their own, so the file is opened for each.
    fn command(&self, video_ms: u64, sound_ms: u64) -> Command {
        let mut command = Command::new(&self.ffmpeg);
        command.args(["-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-xerror"]);
        command.args(["-copyts", "-start_at_zero"]);
        let apart = self.info.video.is_some() && self.info.audio && video_ms != sound_ms;
        let first_ms = if self.info.video.is_some() { video_ms } else { sound_ms };
        for from_ms in [Some(first_ms), apart.then_some(sound_ms)].into_iter().flatten() {
            if from_ms > 0 {
                command.arg("-ss").arg(format!("{}.{:03}", from_ms / 1000, from_ms % 1000));
            }
            command.arg("-i").arg(&self.file);
        }
        if self.info.video.is_some() {
            command.args(["-map", "0:V:0", "-c:v", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough"]);
        }
        if self.info.audio {
            // Holes in the sound are filled with silence, so that counting samples is telling the time.
            command.args(["-map", if apart { "1:a:0" } else { "0:a:0" }, "-c:a", "pcm_s16le", "-ac", "1"]);
            let first = samples_at(sound_ms);
            // Two steps: `first_pts` counts samples of what comes into a step.
            let rate = SAMPLE_RATE_HZ;
            command.args(["-af", &format!("aresample={rate},aresample={rate}:async=1:first_pts={first}")]);
        }
        command
            .args(["-f", "nut", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs one ffmpeg to its end. An error means that it died before the file's end.
    async fn read_once(&mut self, frames: &mpsc::Sender<Frame>, sound: &mpsc::Sender<Sound>) -> Result<(), String> {
        let sound_ms = self.sound_ms();
        let mut child = self
            .command(self.last_frame_ms.unwrap_or(0), sound_ms)
            .spawn()
            .map_err(|error| format!("{}: {error}; is ffmpeg installed? (ops/setup)", self.ffmpeg.display()))?;
        let (Some(mut stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("no pipes".to_owned());
        };
        // A larger pipe means fewer wake-ups per frame; the default does as well.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, READ_BYTES);
        let complaint = tokio::spawn(async move {
            let mut text = Vec::new();
            let _ = stderr.take(TALK_BYTES_MAX).read_to_end(&mut text).await;
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut demuxer = NutDemuxer::default();
        let mut piece = vec![0; READ_BYTES];
        let mut reader = Reader { video: None, audio: None, samples: samples_at(sound_ms) };
        loop {
            let read = tokio::time::timeout(Duration::from_millis(SILENCE_MS_MAX), stdout.read(&mut piece)).await;
            let bytes = read
                .map_err(|_| format!("ffmpeg gave nothing for {SILENCE_MS_MAX} ms"))?
                .map_err(|error| error.to_string())?;
            if bytes == 0 {
                break;
            }
            demuxer.push(&piece[..bytes]);
            while let Some(item) = demuxer.next().map_err(|error| format!("ffmpeg's output: {error}"))? {
                self.accept(&mut reader, item, frames, sound).await?;
            }
        }
        let status = child.wait().await.map_err(|error| error.to_string())?;
        let complaint = complaint.await.unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        // A signal is a death to recover from; a complaint about the file would come again. What was read counts.
        match status.code() {
            Some(_) if self.next_frame > 0 || self.samples > 0 => {
                tracing::info!(complaint, "the file is damaged; what could be read was");
                Ok(())
            }
            Some(_) => Err(complaint.lines().next_back().unwrap_or("ffmpeg failed").to_owned()),
            None => Err(format!("ffmpeg: {status}")),
        }
    }
}

/// What one ffmpeg has told about its streams.
struct Reader {
    video: Option<u32>,
    audio: Option<u32>,
    /// Number of the next sample that this ffmpeg gives.
    samples: u64,
}

fn samples_at(t_ms: u64) -> u64 {
    t_ms * u64::from(SAMPLE_RATE_HZ) / 1000
}

impl Source {
    /// Hands one item on. An error ends this ffmpeg; a part that no longer listens ends the session by itself.
    async fn accept(
        &mut self,
        reader: &mut Reader,
        item: NutItem,
        frames: &mpsc::Sender<Frame>,
        sound: &mpsc::Sender<Sound>,
    ) -> Result<(), String> {
        let packet = match item {
            NutItem::Stream(stream) => {
                match stream.kind {
                    StreamKind::Video { .. } => reader.video = Some(stream.index),
                    StreamKind::Audio { .. } => reader.audio = Some(stream.index),
                    _ => {}
                }
                return Ok(());
            }
            NutItem::Packet(packet) => packet,
        };
        if Some(packet.stream) == reader.video {
            let t_ms = u64::try_from(packet.pts_ns / 1_000_000).unwrap_or(0);
            // When it goes on in the middle, the first frames may be some that were seen already.
            if self.last_frame_ms.is_some_and(|last| t_ms <= last) {
                return Ok(());
            }
            self.last_frame_ms = Some(t_ms);
            let (number, pixels) = (self.next_frame, packet.payload);
            let frame = Frame { number, t_ms, pts_ns: packet.pts_ns, pixels, unwatched_ms: 0 };
            self.next_frame += 1;
            self.pace(t_ms).await;
            return self.send_frame(frame, frames).await;
        }
        if Some(packet.stream) == reader.audio {
            let samples = from_i16_le(&packet.payload).map_err(|error| error.to_string())?;
            let known = self.samples.saturating_sub(reader.samples);
            reader.samples += samples.len() as u64;
            let fresh = samples.get(usize::try_from(known).unwrap_or(usize::MAX)..).unwrap_or_default().to_vec();
            self.samples += fresh.len() as u64;
            self.pace(self.sound_ms()).await;
            // Sound is small, and its queue covers seconds: waiting here only happens when the audio lane stands still.
            let _ = sound.send(Sound::Samples(fresh)).await;
        }
        Ok(())
    }

    /// At real speed nothing comes before its time.
    async fn pace(&self, t_ms: u64) {
        if !self.fast {
            tokio::time::sleep_until(self.started + Duration::from_millis(t_ms)).await;
        }
    }

    async fn send_frame(&mut self, frame: Frame, frames: &mpsc::Sender<Frame>) -> Result<(), String> {
        let t_ms = frame.t_ms;
        if self.fast || t_ms <= self.catch_up_ms {
            let _ = frames.send(frame).await;
            // What was done again took its time; the source goes on from there and not in a burst.
            let now = Instant::now();
            self.started = self.started.max(now.checked_sub(Duration::from_millis(t_ms)).unwrap_or(now));
            return Ok(());
        }
        match frames.try_send(frame) {
            Ok(()) => self.gaps.end(),
            Err(mpsc::error::TrySendError::Full(frame)) => {
                let frame_ms = self.info.video.map_or(40, |video| video.frame_ms());
                self.gaps.lose(frame.t_ms, frame.t_ms + frame_ms, "the detector is behind");
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
        Ok(())
    }
}
