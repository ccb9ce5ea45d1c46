//! Everything that is not a frame: the main header, stream headers and syncpoints.

use super::fields::{Fields, Malformed};
use super::time::TimeBase;
use super::{NutError, STREAMS_MAX, checksum};

/// Longest start of a header packet: start code, length and a checksum of the two.
pub(super) const LEAD_BYTES_MAX: usize = 8 + 10 + 4;
/// Headers longer than this have a checksum of their start.
const LEAD_CHECKED_BYTES: u64 = 4096;
/// The container's bound for the distance between syncpoints, in bytes.
const DISTANCE_BYTES_MAX: u64 = 65_536;

/// The codes that headers start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Startcode {
    Main,
    Stream,
    Syncpoint,
    Index,
    Info,
}

impl Startcode {
    /// The format allows for new ones; a damaged one would pass for such, and times after a lost syncpoint be wrong.
    const fn of(code: u64) -> Option<Self> {
        match code {
            0x4e4d_7a56_1f5f_04ad => Some(Self::Main),
            0x4e53_1140_5bf2_f9db => Some(Self::Stream),
            0x4e4b_e4ad_eeca_4569 => Some(Self::Syncpoint),
            0x4e58_dd67_2f23_e64e => Some(Self::Index),
            0x4e49_ab68_b596_ba78 => Some(Self::Info),
            _ => None,
        }
    }
}

/// Reads a header packet's start: its code, and the length of what follows with its checksum.
pub(super) fn lead(fields: &mut Fields<'_>) -> Result<(Startcode, u64), Malformed> {
    let start = *fields;
    let (high, low) = (fields.u32()?, fields.u32()?);
    let startcode =
        Startcode::of(u64::from(high) << 32 | u64::from(low)).ok_or(Malformed::OutOfRange("the start code"))?;
    let length = fields.unsigned()?;
    if length > LEAD_CHECKED_BYTES {
        let content = fields.read() - start.read();
        fields.take(4)?;
        let mut whole = start;
        if !checksum::holds(whole.take(content + 4)?) {
            return Err(Malformed::OutOfRange("the checksum of the header's start"));
        }
    }
    if length < 4 {
        return Err(Malformed::OutOfRange("the header's length"));
    }
    Ok((startcode, length))
}

/// What a frame's first byte stands for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameCode {
    pub(super) flags: u64,
    pub(super) stream: u64,
    pub(super) size_multiplier: u64,
    pub(super) size_lowest: u64,
    pub(super) pts_delta: i64,
    pub(super) reserved: u64,
    pub(super) elided: u64,
}

#[derive(Debug)]
pub(super) struct MainHeader {
    /// As it came, to recognise repetitions.
    pub(super) content: Vec<u8>,
    pub(super) streams: usize,
    pub(super) distance_bytes_max: u64,
    time_bases: Vec<TimeBase>,
    pub(super) codes: Box<[FrameCode; 256]>,
    /// Bytes that frames begin with and do not carry; the first is empty.
    elision: Vec<Vec<u8>>,
    /// Whether the file has no syncpoints and needs no checksums of frames.
    pub(super) pipe: bool,
}

impl MainHeader {
    /// What is left out at the start of frames with this number; the number was checked with the frame.
    pub(super) fn elided(&self, number: usize) -> &[u8] {
        self.elision.get(number).map_or(&[], Vec::as_slice)
    }

    pub(super) const fn elisions(&self) -> usize {
        self.elision.len()
    }
}

/// How a stream's payload is encoded; only what this project asks ffmpeg for has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Raw frames, three bytes (red, green, blue) a pixel.
    Rgb24,
    /// Raw interleaved samples, little-endian.
    PcmI16,
    PcmF32,
    Other,
}

/// What a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    Video {
        width: u32,
        height: u32,
    },
    Audio {
        sample_rate_hz: u32,
        channels: u32,
    },
    /// Subtitles and data.
    Other,
}

/// A stream of packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    pub index: u32,
    pub kind: StreamKind,
    pub codec: Codec,
    /// The codec's four characters, padded with zeros.
    pub fourcc: [u8; 4],
    /// Seconds per unit of its timestamps, as a fraction.
    pub time_base: (u32, u32),
}

/// A stream with what is needed to read its frames.
#[derive(Debug)]
pub(super) struct Stream {
    /// As it came, to recognise repetitions.
    pub(super) content: Vec<u8>,
    pub(super) header: StreamHeader,
    pub(super) pts_bits: u32,
    pub(super) pts_distance_max: u64,
    pub(super) last_pts: i64,
}

/// Reads the main header.
pub(super) fn main(content: &[u8], at: u64) -> Result<MainHeader, NutError> {
    let mut fields = Fields::new(content);
    let malformed = |problem: Malformed| NutError::Malformed { at, problem: problem.to_string() };
    let version = fields.unsigned().map_err(malformed)?;
    if !(3..=4).contains(&version) {
        return Err(NutError::Version { at, version });
    }
    main_fields(&mut fields, version, content).map_err(malformed)
}

fn main_fields(fields: &mut Fields<'_>, version: u64, content: &[u8]) -> Result<MainHeader, Malformed> {
    if version > 3 {
        fields.unsigned()?;
    }
    let streams = fields.bounded(STREAMS_MAX, "the number of streams")?;
    let distance_bytes_max = fields.unsigned()?.min(DISTANCE_BYTES_MAX);
    let mut time_bases = Vec::new();
    for _ in 0..fields.bounded(STREAMS_MAX, "the number of time bases")? {
        match (fields.small("a time base")?, fields.small("a time base")?) {
            (0, _) | (_, 0) => return Err(Malformed::OutOfRange("a time base")),
            base => time_bases.push(base),
        }
    }
    if time_bases.is_empty() {
        return Err(Malformed::OutOfRange("the number of time bases"));
    }
    let codes = frame_codes(fields, streams)?;
    let mut elision = vec![Vec::new()];
    if !fields.is_empty() {
        for _ in 0..fields.bounded(127, "the number of elided headers")? {
            elision.push(fields.string(255, "an elided header")?.to_vec());
        }
    }
    let flags = if version > 3 && !fields.is_empty() { fields.unsigned()? } else { 0 };
    Ok(MainHeader {
        content: content.to_vec(),
        streams: usize::try_from(streams).unwrap_or(0),
        distance_bytes_max,
        time_bases,
        codes,
        elision,
        pipe: flags & 2 != 0,
    })
}

/// The table of first bytes, run-length encoded; what is left out of a run keeps its value from the run before.
fn frame_codes(fields: &mut Fields<'_>, streams: u64) -> Result<Box<[FrameCode; 256]>, Malformed> {
    let mut codes = Box::new([FrameCode { flags: super::frame::INVALID, ..FrameCode::default() }; 256]);
    let mut run = FrameCode { size_multiplier: 1, ..FrameCode::default() };
    let mut index = 0;
    while index < codes.len() {
        run.flags = fields.unsigned()?;
        let given = fields.unsigned()?;
        if given > 0 {
            run.pts_delta = fields.signed()?;
        }
        if given > 1 {
            run.size_multiplier = fields.bounded(1 << 31, "a frame code's size")?;
        }
        if given > 2 {
            run.stream = fields.bounded(streams.max(1) - 1, "a frame code's stream")?;
        }
        run.size_lowest = if given > 3 { fields.bounded(1 << 31, "a frame code's size")? } else { 0 };
        run.reserved = if given > 4 { fields.bounded(256, "a frame code's reserved fields")? } else { 0 };
        let count = match given {
            0..=5 => run.size_multiplier.checked_sub(run.size_lowest),
            _ => Some(fields.unsigned()?),
        };
        if given > 6 {
            fields.signed()?;
        }
        if given > 7 {
            run.elided = fields.unsigned()?;
        }
        for _ in 8..given {
            fields.unsigned()?;
        }
        let left = codes.len() - index - usize::from(index <= usize::from(b'N'));
        let count = count.filter(|count| *count <= left as u64).ok_or(Malformed::OutOfRange("a run of frame codes"))?;
        for offset in 0..count {
            // 'N' begins start codes and never a frame.
            index += usize::from(index == usize::from(b'N'));
            codes[index] = FrameCode { size_lowest: run.size_lowest + offset, ..run };
            index += 1;
        }
        // The last place may be the one that is left out.
        index += usize::from(index == usize::from(b'N'));
    }
    Ok(codes)
}

/// Reads a stream's header.
pub(super) fn stream(main: &MainHeader, content: &[u8]) -> Result<Stream, Malformed> {
    let mut fields = Fields::new(content);
    let index = fields.small("the stream's number")?;
    let class = fields.unsigned()?;
    let name = fields.string(4, "the stream's codec")?;
    let mut fourcc = [0; 4];
    fourcc[..name.len()].copy_from_slice(name);
    let base = usize::try_from(fields.unsigned()?).ok().and_then(|base| main.time_bases.get(base));
    let time_base = *base.ok_or(Malformed::OutOfRange("the stream's time base"))?;
    let bits = fields.bounded(16, "the number of low bits of the stream's times")?;
    let pts_bits = u32::try_from(bits).unwrap_or(0);
    let pts_distance_max = fields.unsigned()?;
    fields.unsigned()?; // How far decoding lags behind: nothing for raw media.
    fields.unsigned()?; // Flags: a fixed frame rate.
    fields.string(u64::MAX, "the codec's data")?;
    let kind = match class {
        0 => StreamKind::Video { width: fields.small("the width")?, height: fields.small("the height")? },
        1 => {
            let (hz, per) = (fields.small("the sample rate")?, fields.small("the sample rate")?);
            let sample_rate_hz = hz.checked_div(per).ok_or(Malformed::OutOfRange("the sample rate"))?;
            StreamKind::Audio { sample_rate_hz, channels: fields.small("the number of channels")? }
        }
        _ => StreamKind::Other,
    };
    let codec = match &fourcc {
        b"RGB\x18" => Codec::Rgb24,
        b"PSD\x10" => Codec::PcmI16,
        b"PFD\x20" => Codec::PcmF32,
        _ => Codec::Other,
    };
    let header = StreamHeader { index, kind, codec, fourcc, time_base };
    Ok(Stream { content: content.to_vec(), header, pts_bits, pts_distance_max, last_pts: 0 })
}

/// Reads a syncpoint: a time that frames after it build on.
pub(super) fn syncpoint(main: &MainHeader, content: &[u8]) -> Result<(i64, TimeBase), Malformed> {
    let time = Fields::new(content).unsigned()?;
    // Bounded by STREAMS_MAX, so this cannot be cut.
    let bases = main.time_bases.len() as u64;
    let base = usize::try_from(time % bases).unwrap_or(0);
    let value = i64::try_from(time / bases).map_err(|_| Malformed::OutOfRange("the syncpoint's time"))?;
    Ok((value, main.time_bases[base]))
}
