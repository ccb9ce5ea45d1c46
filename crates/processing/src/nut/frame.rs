//! The header of a frame.

use super::fields::{Fields, Malformed};
use super::headers::{MainHeader, Stream};
use super::{NutError, checksum, time};

/// Longest header of a frame, in bytes: a code, seven numbers, 256 reserved ones and a checksum.
pub(super) const HEADER_BYTES_MAX: usize = 1 + 10 * (7 + 256) + 4;

const KEY: u64 = 1;
const END: u64 = 2;
const CODED_PTS: u64 = 8;
const STREAM_ID: u64 = 16;
const SIZE_HIGHEST: u64 = 32;
const CHECKSUM: u64 = 64;
const RESERVED: u64 = 128;
const SIDE_DATA: u64 = 256;
const ELIDED: u64 = 1024;
const MATCH_TIME: u64 = 2048;
const CODED_FLAGS: u64 = 4096;
/// The first byte stands for nothing.
pub(super) const INVALID: u64 = 8192;

/// Frames longer than this carry all of their bytes.
const ELIDED_BYTES_MAX: u64 = 4096;

/// What a frame's header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) header_bytes: usize,
    pub(super) stream: u32,
    pub(super) pts: i64,
    pub(super) key: bool,
    pub(super) end: bool,
    /// Bytes that follow; what is elided comes on top.
    pub(super) payload_bytes: u64,
    /// Number of the elided header; 0 = none.
    pub(super) elided: usize,
}

/// Why there is no header.
pub(super) enum NoFrame {
    /// More bytes are needed.
    Starved,
    Failed(NutError),
}

/// Reads the header at the start of `bytes`.
pub(super) fn parse(main: &MainHeader, streams: &[Option<Stream>], bytes: &[u8], at: u64) -> Result<Frame, NoFrame> {
    let malformed = |problem: Malformed| match problem {
        Malformed::Short => NoFrame::Starved,
        other => NoFrame::Failed(NutError::Malformed { at, problem: other.to_string() }),
    };
    let out_of_range = |what| malformed(Malformed::OutOfRange(what));
    let mut fields = Fields::new(bytes);
    let code = main.codes[usize::from(fields.byte().map_err(malformed)?)];
    let mut flags = code.flags;
    if flags & INVALID != 0 {
        return Err(out_of_range("the frame's code"));
    }
    let mut field = |present: u64, flags: u64| {
        if flags & present == 0 { Ok(None) } else { fields.unsigned().map(Some).map_err(malformed) }
    };
    flags ^= field(CODED_FLAGS, flags)?.unwrap_or(0);
    let stream = field(STREAM_ID, flags)?.unwrap_or(code.stream);
    let coded_pts = field(CODED_PTS, flags)?;
    let size_highest = field(SIZE_HIGHEST, flags)?.unwrap_or(0);
    field(MATCH_TIME, flags)?;
    let elided = field(ELIDED, flags)?.unwrap_or(code.elided);
    let reserved = field(RESERVED, flags)?.unwrap_or(code.reserved);
    if reserved > 256 {
        return Err(out_of_range("the number of reserved fields"));
    }
    for _ in 0..reserved {
        fields.unsigned().map_err(malformed)?;
    }
    if flags & CHECKSUM != 0 {
        let header_bytes = fields.read();
        let sum = fields.u32().map_err(malformed)?;
        if checksum::of(&bytes[..header_bytes]) != sum {
            return Err(NoFrame::Failed(NutError::Checksum { at }));
        }
    }
    let index = u32::try_from(stream).map_err(|_| out_of_range("the frame's stream"))?;
    let stream = streams.get(index as usize).ok_or_else(|| out_of_range("the frame's stream"))?;
    let stream = stream.as_ref().ok_or(NoFrame::Failed(NutError::Order { at }))?;
    if flags & SIDE_DATA != 0 {
        return Err(NoFrame::Failed(NutError::Unsupported { at, feature: "side data" }));
    }
    let pts = match coded_pts {
        None => stream.last_pts.checked_add(code.pts_delta),
        Some(coded) => pts(coded, stream),
    };
    let pts = pts.ok_or_else(|| out_of_range("the frame's time"))?;
    let size = size_highest.checked_mul(code.size_multiplier).and_then(|size| size.checked_add(code.size_lowest));
    let size = size.ok_or_else(|| out_of_range("the frame's size"))?;
    let elided = usize::try_from(elided).ok().filter(|elided| *elided < main.elisions());
    let elided = elided.ok_or_else(|| out_of_range("the number of the elided header"))?;
    let elided = if size > ELIDED_BYTES_MAX { 0 } else { elided };
    let payload_bytes = size.checked_sub(main.elided(elided).len() as u64);
    let payload_bytes = payload_bytes.ok_or_else(|| out_of_range("the frame's size"))?;
    let jumps = pts.abs_diff(stream.last_pts) > stream.pts_distance_max;
    if flags & CHECKSUM == 0 && !main.pipe && (payload_bytes > 2 * main.distance_bytes_max || jumps) {
        return Err(NoFrame::Failed(NutError::ChecksumMissing { at }));
    }
    Ok(Frame {
        header_bytes: fields.read(),
        stream: index,
        pts,
        key: flags & KEY != 0,
        end: flags & END != 0,
        payload_bytes,
        elided,
    })
}

/// A coded time: below `2^bits` its low bits, from there on the time itself, that much higher.
fn pts(coded: u64, stream: &Stream) -> Option<i64> {
    let coded = i64::try_from(coded).ok()?;
    match coded - (1 << stream.pts_bits) {
        whole @ 0.. => Some(whole),
        _ => time::complete(coded, stream.last_pts, stream.pts_bits),
    }
}
