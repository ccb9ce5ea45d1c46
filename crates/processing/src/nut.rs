//! The NUT container, as ffmpeg writes it to a pipe: raw frames and samples with their real timestamps.
//!
//! A pull parser without I/O: bytes are pushed in pieces of any size, items are taken out. The bytes of a frame are copied
//! once, into the packet that is handed over. Checksums of all headers are verified, and so is the container's own rule
//! that long frames and jumps in time carry one. An error is final: what comes from a pipe on the same machine is not
//! damaged on the way, so nothing tries to find the next readable place.
//!
//! Written after the format's public description, <https://ffmpeg.org/~michael/nut.txt>. Not supported: frames with side data (format version 4
//! with `-strict experimental` only). Index and info packets are verified and skipped.

mod checksum;
mod error;
mod fields;
mod frame;
mod headers;
mod time;

use sensorium_wire::limits;

use fields::{Fields, Malformed};
use frame::NoFrame;
use headers::{MainHeader, Startcode, Stream};

pub use error::NutError;
pub use headers::{Codec, StreamHeader, StreamKind};

/// Longest packet that is not a frame, in bytes.
pub const HEADER_BYTES_MAX: usize = 1 << 20;
/// Most streams.
pub const STREAMS_MAX: u64 = 64;

/// The first bytes of every file.
const FILE_ID: &[u8; 25] = b"nut/multimedia container\0";

/// What a file consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum NutItem {
    /// A stream begins. Every stream comes once, before its first packet.
    Stream(StreamHeader),
    Packet(Packet),
}

/// One frame of video, or a run of samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Index of its stream.
    pub stream: u32,
    /// When it is to be shown, in units of the stream's time base.
    pub pts: i64,
    /// The same in nanoseconds, rounded down.
    pub pts_ns: i64,
    /// Whether it can be decoded without those before; always so for raw media.
    pub key: bool,
    pub payload: Vec<u8>,
}

/// Reads a NUT file piece by piece. Push bytes, then take items until there is none, then push again.
#[derive(Debug)]
pub struct NutDemuxer {
    packet_bytes_max: usize,
    /// Bytes that are not understood yet, from `read` on.
    buffer: Vec<u8>,
    read: usize,
    /// Bytes of the file before the buffer.
    before: u64,
    state: State,
    main: Option<MainHeader>,
    streams: Vec<Option<Stream>>,
    failed: Option<NutError>,
}

#[derive(Debug)]
enum State {
    /// Before the file's first bytes.
    Start,
    /// Before a header or frame.
    Between,
    /// Within a frame.
    Payload { packet: Packet, missing: usize },
}

/// What could be made of the buffer.
enum Step {
    Item(NutItem),
    /// Something without an item was read.
    Read,
    /// More bytes are needed.
    Starved,
}

impl Default for NutDemuxer {
    /// Takes packets up to the longest payload of a job.
    fn default() -> Self {
        Self::new(usize::try_from(limits::PAYLOAD_BYTES_MAX).unwrap_or(usize::MAX))
    }
}

impl NutDemuxer {
    /// A reader that takes packets of up to `packet_bytes_max` bytes.
    #[must_use]
    pub const fn new(packet_bytes_max: usize) -> Self {
        Self {
            packet_bytes_max,
            buffer: Vec::new(),
            read: 0,
            before: 0,
            state: State::Start,
            main: None,
            streams: Vec::new(),
            failed: None,
        }
    }

    /// Adds the next bytes of the file. What cannot be handed over yet is kept: take items before pushing more.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.read == self.buffer.len() {
            self.forget();
            // Straight into the packet, without a stop in the buffer.
            if let State::Payload { packet, missing } = &mut self.state {
                let (now, later) = bytes.split_at(bytes.len().min(*missing));
                packet.payload.extend_from_slice(now);
                *missing -= now.len();
                self.before += now.len() as u64;
                bytes = later;
            }
        } else if self.read > self.buffer.len() / 2 {
            self.forget();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next item, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`NutError`] when the file is damaged, too large or not supported; the same again from then on.
    #[expect(clippy::should_implement_trait, reason = "`None` does not end it, and it fails")]
    pub fn next(&mut self) -> Result<Option<NutItem>, NutError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        loop {
            match self.step() {
                Ok(Step::Item(item)) => return Ok(Some(item)),
                Ok(Step::Read) => {}
                Ok(Step::Starved) => return Ok(None),
                Err(error) => {
                    self.buffer = Vec::new();
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// Says whether the file may end here: after a whole header or frame.
    ///
    /// # Errors
    /// [`NutError::Truncated`], or the error that ended the reading.
    pub fn finish(&self) -> Result<(), NutError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let whole = matches!(self.state, State::Between) && self.read == self.buffer.len() && self.main.is_some();
        if whole { Ok(()) } else { Err(NutError::Truncated { bytes: self.before + self.buffer.len() as u64 }) }
    }

    /// Drops what has been read from the buffer.
    fn forget(&mut self) {
        self.buffer.drain(..self.read);
        self.before += self.read as u64;
        self.read = 0;
    }

    /// Where in the file the next unread byte is.
    const fn at(&self) -> u64 {
        self.before + self.read as u64
    }

    fn step(&mut self) -> Result<Step, NutError> {
        match &mut self.state {
            State::Start => self.start(),
            State::Payload { packet, missing } => {
                let rest = &self.buffer[self.read..];
                let now = rest.len().min(*missing);
                packet.payload.extend_from_slice(&rest[..now]);
                *missing -= now;
                self.read += now;
                if *missing > 0 {
                    return Ok(Step::Starved);
                }
                match std::mem::replace(&mut self.state, State::Between) {
                    State::Payload { packet, .. } => Ok(Step::Item(NutItem::Packet(packet))),
                    State::Start | State::Between => Ok(Step::Read),
                }
            }
            State::Between => match self.buffer.get(self.read) {
                None => Ok(Step::Starved),
                Some(b'N') => self.header(),
                Some(_) => self.frame(),
            },
        }
    }

    fn start(&mut self) -> Result<Step, NutError> {
        let found = &self.buffer[..self.buffer.len().min(FILE_ID.len())];
        if found != &FILE_ID[..found.len()] {
            return Err(NutError::NotNut(found.to_vec()));
        }
        if found.len() < FILE_ID.len() {
            return Ok(Step::Starved);
        }
        self.read += FILE_ID.len();
        self.state = State::Between;
        Ok(Step::Read)
    }

    /// A packet that starts with a start code.
    fn header(&mut self) -> Result<Step, NutError> {
        let at = self.at();
        let malformed = |problem: Malformed| NutError::Malformed { at, problem: problem.to_string() };
        let bytes = &self.buffer[self.read..];
        let mut fields = Fields::new(bytes);
        let lead = headers::lead(&mut fields);
        let (startcode, length) = match lead {
            Ok(lead) => lead,
            Err(Malformed::Short) if bytes.len() < headers::LEAD_BYTES_MAX => return Ok(Step::Starved),
            Err(problem) => return Err(malformed(problem)),
        };
        let lead_bytes = fields.read();
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= HEADER_BYTES_MAX) else {
            return Err(NutError::HeaderTooLong { at, bytes: length });
        };
        let Some(body) = bytes.get(lead_bytes..lead_bytes + length) else { return Ok(Step::Starved) };
        if !checksum::holds(body) {
            return Err(NutError::Checksum { at });
        }
        // The checksum holds, so there are four bytes of it.
        let content = &body[..length - 4];
        let item = match startcode {
            Startcode::Main => {
                accept_main(&mut self.main, &mut self.streams, content, at)?;
                None
            }
            Startcode::Stream => {
                let main = self.main.as_ref().ok_or(NutError::Order { at })?;
                accept_stream(main, &mut self.streams, content, at)?
            }
            Startcode::Syncpoint => {
                let main = self.main.as_ref().ok_or(NutError::Order { at })?;
                let (value, base) = headers::syncpoint(main, content).map_err(malformed)?;
                for stream in self.streams.iter_mut().flatten() {
                    stream.last_pts = time::rescale(value, base, stream.header.time_base)
                        .ok_or_else(|| malformed(Malformed::OutOfRange("the syncpoint's time")))?;
                }
                None
            }
            Startcode::Index | Startcode::Info => None,
        };
        self.read += lead_bytes + length;
        Ok(item.map_or(Step::Read, |stream| Step::Item(NutItem::Stream(stream))))
    }

    fn frame(&mut self) -> Result<Step, NutError> {
        let at = self.at();
        let main = self.main.as_ref().ok_or(NutError::Order { at })?;
        let bytes = &self.buffer[self.read..];
        let frame = match frame::parse(main, &self.streams, bytes, at) {
            Ok(frame) => frame,
            Err(NoFrame::Starved) if bytes.len() < frame::HEADER_BYTES_MAX => return Ok(Step::Starved),
            Err(NoFrame::Starved) => return Err(NutError::HeaderTooLong { at, bytes: bytes.len() as u64 }),
            Err(NoFrame::Failed(error)) => return Err(error),
        };
        if frame.payload_bytes > self.packet_bytes_max as u64 {
            let bytes_max = self.packet_bytes_max;
            return Err(NutError::PacketTooLong { at, bytes: frame.payload_bytes, bytes_max });
        }
        let elided = main.elided(frame.elided);
        let out_of_range = || NutError::Malformed { at, problem: "the frame's time is out of range".to_owned() };
        let missing = usize::try_from(frame.payload_bytes).map_err(|_| out_of_range())?;
        let stream = self.streams.get_mut(frame.stream as usize).and_then(Option::as_mut);
        let stream = stream.ok_or(NutError::Order { at })?;
        let pts_ns = time::nanoseconds(frame.pts, stream.header.time_base).ok_or_else(out_of_range)?;
        stream.last_pts = frame.pts;
        self.read += frame.header_bytes;
        // The end of a stream that may begin again later; it carries nothing.
        if frame.end && missing == 0 {
            return Ok(Step::Read);
        }
        let mut payload = Vec::with_capacity(elided.len() + missing);
        payload.extend_from_slice(elided);
        let packet = Packet { stream: frame.stream, pts: frame.pts, pts_ns, key: frame.key, payload };
        self.state = State::Payload { packet, missing };
        Ok(Step::Read)
    }
}

/// The main header is repeated throughout a file; it has to stay what it was.
fn accept_main(
    main: &mut Option<MainHeader>,
    streams: &mut Vec<Option<Stream>>,
    content: &[u8],
    at: u64,
) -> Result<(), NutError> {
    match main {
        Some(main) if main.content == content => Ok(()),
        Some(_) => Err(NutError::Changed { at, what: "the main header" }),
        None => {
            let parsed = headers::main(content, at)?;
            streams.resize_with(parsed.streams, || None);
            *main = Some(parsed);
            Ok(())
        }
    }
}

/// Gives the stream's header when it is new.
fn accept_stream(
    main: &MainHeader,
    streams: &mut [Option<Stream>],
    content: &[u8],
    at: u64,
) -> Result<Option<StreamHeader>, NutError> {
    let stream =
        headers::stream(main, content).map_err(|problem| NutError::Malformed { at, problem: problem.to_string() })?;
    let slot = streams.get_mut(stream.header.index as usize).ok_or(NutError::Order { at })?;
    match slot {
        Some(known) if known.content == content => Ok(None),
        Some(_) => Err(NutError::Changed { at, what: "a stream's header" }),
        None => {
            let header = stream.header.clone();
            *slot = Some(stream);
            Ok(Some(header))
        }
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
