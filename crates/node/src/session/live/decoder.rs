//! One opening of a live source: ffmpeg under a guard, and what comes out of it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use sensorium_cluster::{Input, SourceSpec};
use sensorium_processing::nut::{NutDemuxer, NutItem, StreamKind};
use sensorium_wire::limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::guard;

use super::super::source::{READ_BYTES, SAMPLE_RATE_HZ, SourceInfo, VideoInfo};

/// How long opening may take until the first frame or sound, in milliseconds.
const OPEN_MS_MAX: u64 = 15_000;
/// How long an open source may give nothing, in milliseconds; then it is opened again.
const SILENCE_MS_MAX: u64 = 5_000;
/// How long ffmpeg's last words are waited for, in milliseconds.
const COMPLAINT_MS_MAX: u64 = 200;
/// What is kept of its words, in bytes.
const WORDS_BYTES_MAX: usize = 2 << 10;
/// How much ffmpeg looks at before it says what a stream holds, in microseconds of the stream.
const ANALYSED_US: &str = "500000";
/// Packets that are kept until the distance of two frames is known.
const EARLY_ITEMS_MAX: usize = 64;

/// The programs that open a source.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) ffmpeg: PathBuf,
    /// Runs the guard (see `crate::guard`), with these arguments before the program and its own.
    pub(crate) guard: PathBuf,
    pub(crate) guard_arguments: Vec<OsString>,
}

/// See the module. Dropping it ends ffmpeg.
pub(super) struct Decoder {
    stdout: ChildStdout,
    complaint: JoinHandle<String>,
    ended: oneshot::Receiver<std::io::Result<ExitStatus>>,
    /// How the guard ended, once it has.
    status: Option<ExitStatus>,
    /// Dropping it tells the guard to end.
    _running: oneshot::Sender<()>,
    demuxer: NutDemuxer,
    piece: Vec<u8>,
    /// What was read to find out what the source is.
    early: VecDeque<NutItem>,
    pub(super) video: Option<u32>,
    pub(super) audio: Option<u32>,
    info: SourceInfo,
}

impl Decoder {
    /// Opens the source and reads until it is known what it holds.
    ///
    /// # Errors
    /// Why it cannot be opened, in words.
    pub(super) async fn open(
        tools: &Tools,
        spec: &SourceSpec,
        lease: watch::Receiver<u64>,
        open: mpsc::Sender<()>,
    ) -> Result<Self, String> {
        let mut child = command(tools, spec)?
            .spawn()
            .map_err(|error| format!("{}: {error}; is ffmpeg installed? (ops/setup)", tools.guard.display()))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("no pipes".to_owned());
        };
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, READ_BYTES);
        let complaint = tokio::spawn(last_words(stderr));
        let (running, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        tokio::spawn(async move {
            let status = watched(child, stdin, lease, stopped).await;
            drop(open);
            let _ = end.send(status);
        });
        let info = SourceInfo { video: None, audio: false, duration_ms: 0 };
        let mut decoder = Self {
            stdout,
            complaint,
            ended,
            status: None,
            _running: running,
            demuxer: NutDemuxer::default(),
            piece: vec![0; READ_BYTES],
            early: VecDeque::new(),
            video: None,
            audio: None,
            info,
        };
        let finding = tokio::time::timeout(Duration::from_millis(OPEN_MS_MAX), decoder.find_out());
        finding.await.map_err(|_| format!("nothing came within {OPEN_MS_MAX} ms of opening it"))??;
        Ok(decoder)
    }

    /// What the source holds.
    pub(super) fn info(&self) -> SourceInfo {
        self.info
    }

    /// The next item. An error says why there is none any more.
    pub(super) async fn next(&mut self) -> Result<NutItem, String> {
        match self.early.pop_front() {
            Some(item) => Ok(item),
            None => self.read().await,
        }
    }

    async fn find_out(&mut self) -> Result<(), String> {
        let (mut size, mut first_ns, mut packets) = (None, None, 0);
        loop {
            let item = self.read().await?;
            match &item {
                NutItem::Stream(stream) => match stream.kind {
                    StreamKind::Video { width, height } => {
                        let bytes = u64::from(width) * u64::from(height) * 3;
                        if bytes == 0 || bytes > limits::PAYLOAD_BYTES_MAX {
                            return Err(format!("video of {width}x{height} pixels: at most 4K is taken"));
                        }
                        (self.video, size) = (Some(stream.index), Some((width, height)));
                    }
                    StreamKind::Audio { .. } => self.audio = Some(stream.index),
                    StreamKind::Other => {}
                },
                NutItem::Packet(packet) => {
                    packets += 1;
                    let frame_rate = match first_ns {
                        _ if Some(packet.stream) != self.video => None,
                        None => {
                            first_ns = Some(packet.pts_ns);
                            None
                        }
                        Some(first_ns) => rate(packet.pts_ns - first_ns),
                    };
                    let enough = self.video.is_none() || frame_rate.is_some() || packets >= EARLY_ITEMS_MAX;
                    if enough {
                        self.info.audio = self.audio.is_some();
                        let frame_rate = frame_rate.unwrap_or(25.0);
                        self.info.video = size.map(|(width, height)| VideoInfo { width, height, frame_rate });
                    }
                    self.early.push_back(item);
                    if enough {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn read(&mut self) -> Result<NutItem, String> {
        loop {
            if let Some(item) = self.demuxer.next().map_err(|error| format!("ffmpeg's output: {error}"))? {
                return Ok(item);
            }
            let silence = Duration::from_millis(if self.info.video.is_none() && !self.info.audio {
                OPEN_MS_MAX
            } else {
                SILENCE_MS_MAX
            });
            let bytes = tokio::select! {
                read = self.stdout.read(&mut self.piece) => read.map_err(|error| error.to_string())?,
                // A guard that is gone must not leave an ffmpeg behind that nobody guards: its pipe is closed.
                status = &mut self.ended, if self.status.is_none() => {
                    self.status = Some(status.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?);
                    return Err(self.why().await);
                }
                () = tokio::time::sleep(silence) => return Err(format!("nothing came for {} ms", silence.as_millis())),
            };
            if bytes == 0 {
                return Err(self.why().await);
            }
            self.demuxer.push(&self.piece[..bytes]);
        }
    }

    /// Why ffmpeg has ended.
    async fn why(&mut self) -> String {
        if self.status.is_none() {
            self.status = (&mut self.ended).await.ok().and_then(Result::ok);
        }
        let patience = Duration::from_millis(COMPLAINT_MS_MAX);
        let complaint = tokio::time::timeout(patience, &mut self.complaint).await;
        let complaint = complaint.ok().and_then(Result::ok).unwrap_or_default();
        // The last words of the last line: what is before may hold the address, with a password.
        let words = complaint.lines().rfind(|line| !line.trim().is_empty()).map(|line| {
            let line = line.rsplit(": ").next().unwrap_or(line);
            // `[h264 @ 0x5579]` names the part of ffmpeg that speaks, at another address each time.
            let line = line.strip_prefix('[').and_then(|line| line.split_once("] ")).map_or(line, |(_, words)| words);
            line.chars().filter(|c| !c.is_control()).take(200).collect::<String>()
        });
        // Its words may be of long ago; how it ended says more.
        let code = self.status.and_then(|status| status.code());
        match (words, code.and_then(|code| u8::try_from(code).ok())) {
            (_, Some(0)) => "the stream ended".to_owned(),
            (_, Some(guard::KILLED)) => "its ffmpeg was killed".to_owned(),
            (_, Some(guard::ENDED)) => "its ffmpeg was ended: the lease has lapsed".to_owned(),
            (Some(words), _) => words,
            (None, _) => "its ffmpeg was ended".to_owned(),
        }
    }
}

/// Reads everything that ffmpeg says, so that it never waits for that, and keeps the end.
async fn last_words(mut stderr: ChildStderr) -> String {
    let (mut kept, mut piece) = (Vec::new(), [0; 4 << 10]);
    while let Ok(bytes @ 1..) = stderr.read(&mut piece).await {
        kept.extend_from_slice(&piece[..bytes]);
        let surplus = kept.len().saturating_sub(WORDS_BYTES_MAX);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Frames a second, from the time between two.
fn rate(ns: i64) -> Option<f32> {
    #[expect(clippy::cast_precision_loss, reason = "a rate that is only shown and rounded")]
    let rate = 1e9 / ns.max(1) as f32;
    (ns > 0).then_some((rate * 1000.0).round() / 1000.0)
}

/// Tells the guard how long the lease is valid, until it is to end or has ended; then waits for its end.
async fn watched(
    mut child: Child,
    mut stdin: ChildStdin,
    mut lease: watch::Receiver<u64>,
    mut stopped: oneshot::Receiver<()>,
) -> std::io::Result<ExitStatus> {
    loop {
        let until_ns = *lease.borrow_and_update();
        if stdin.write_all(&until_ns.to_le_bytes()).await.is_err() {
            break;
        }
        tokio::select! {
            status = child.wait() => return status,
            _ = &mut stopped => break,
            changed = lease.changed() => if changed.is_err() { break },
        }
    }
    drop(stdin);
    child.wait().await
}

/// Nothing of the source's `uri` is read as an option, and ffmpeg speaks only the protocols of its scheme.
fn command(tools: &Tools, spec: &SourceSpec) -> Result<Command, String> {
    let mut command = Command::new(&tools.guard);
    command.args(&tools.guard_arguments).arg(&tools.ffmpeg).args(["-nostdin", "-v", "error"]);
    match Input::of(&spec.uri)? {
        Input::Network { url, protocols } => {
            command.args([
                "-protocol_whitelist",
                protocols,
                "-fflags",
                "nobuffer",
                "-analyzeduration",
                ANALYSED_US,
                "-fpsprobesize",
                "0",
            ]);
            if url.starts_with("rtsp") {
                command.args(["-rtsp_flags", "prefer_tcp"]);
            }
            command.args(["-i", url]);
        }
        Input::File { path } => {
            command.args(["-protocol_whitelist", "file", "-re", "-stream_loop", "-1", "-i"]);
            command.arg(format!("file:{path}"));
        }
        Input::Device { path } => {
            command.args(["-protocol_whitelist", "file", "-f", "v4l2", "-i", path]);
        }
    }
    // Times begin with the stream's first frame or sound. Holes in the sound are filled with silence, so that counting
    // samples is telling the time.
    command.args(["-map", "0:V:0?", "-map", "0:a:0?", "-c:v", "rawvideo", "-pix_fmt", "rgb24"]);
    let rate = SAMPLE_RATE_HZ;
    let filter = format!("aresample={rate},aresample={rate}:async=1:first_pts=0");
    command.args(["-fps_mode", "passthrough", "-c:a", "pcm_s16le", "-ac", "1", "-af", &filter, "-flush_packets", "1"]);
    command.args(["-f", "nut", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}
