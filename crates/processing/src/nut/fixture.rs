//! Writes small NUT files for tests, with the parts of the format that ffmpeg does not use for raw media as well.

use super::checksum;

pub(super) const MAIN: u64 = 0x4e4d_7a56_1f5f_04ad;
pub(super) const STREAM: u64 = 0x4e53_1140_5bf2_f9db;
pub(super) const SYNCPOINT: u64 = 0x4e4b_e4ad_eeca_4569;
pub(super) const INFO: u64 = 0x4e49_ab68_b596_ba78;

pub(super) fn unsigned(value: u64) -> Vec<u8> {
    let groups = (64 - value.leading_zeros()).div_ceil(7).max(1);
    let byte = |group: u32| u8::try_from(value >> (7 * group) & 0x7f).unwrap() | if group > 0 { 0x80 } else { 0 };
    (0..groups).rev().map(byte).collect()
}

fn signed(value: i64) -> Vec<u8> {
    unsigned(value.unsigned_abs() * 2 - u64::from(value > 0))
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&unsigned(bytes.len() as u64), bytes].concat()
}

/// A header packet around `content`, with its checksums.
pub(super) fn packet(startcode: u64, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u64 + 4;
    let mut lead = [&startcode.to_be_bytes()[..], &unsigned(length)].concat();
    if length > 4096 {
        lead.extend(checksum::of(&lead).to_be_bytes());
    }
    [&lead, content, &checksum::of(content).to_be_bytes()].concat()
}

pub(super) fn start() -> Vec<u8> {
    super::FILE_ID.to_vec()
}

/// Two streams; time bases of a millisecond and 1/16,000 s. Frame codes:
///
/// - 1: everything is coded, with checksum;
/// - 2: stream 1, 8 bytes, 4 units after the last one;
/// - 3 to 6: stream 0, key frame, coded time, size 3 to 6 + 10 × coded;
/// - 7: like 2 of stream 0 with 5 bytes, of which "abc" are left out;
/// - the rest: not valid.
pub(super) fn main() -> Vec<u8> {
    const EVERYTHING: u64 = 64 | 4096;
    let mut content = Vec::new();
    // Version, streams, distance, time bases.
    for value in [3, 2, 100, 2, 1, 1_000, 1, 16_000] {
        content.extend(unsigned(value));
    }
    // Flags, and how many of: time delta, multiplier, stream, size, reserved, count, match, elided.
    let mut run = |flags: u64, delta: i64, values: &[u64]| {
        content.extend(unsigned(flags));
        content.extend(unsigned(values.len() as u64 + 1));
        content.extend(signed(delta));
        for (index, value) in values.iter().enumerate() {
            content.extend(if index == 5 { signed(0) } else { unsigned(*value) });
        }
    };
    run(8192, 0, &[1, 0, 0, 0, 1]);
    run(EVERYTHING, 0, &[1, 0, 0, 0, 1]);
    run(1, 4, &[1, 1, 8, 0, 1]);
    run(1 | 8 | 32, 0, &[10, 0, 3, 0, 4]);
    run(1, 4, &[1, 0, 5, 0, 1, 0, 1]);
    // 256 places less those before and that of 'N'.
    run(8192, 0, &[1, 0, 0, 0, 247, 0, 0]);
    content.extend(unsigned(1));
    content.extend(string(b"abc"));
    packet(MAIN, &content)
}

pub(super) fn video(width: u64) -> Vec<u8> {
    let mut content = [unsigned(0), unsigned(0), string(b"RGB\x18")].concat();
    // Time base, low bits, distance, delay, flags, data, width, height, aspect ratio, colours.
    for value in [0, 3, 100, 0, 0, 0, width, 2, 1, 1, 0] {
        content.extend(unsigned(value));
    }
    packet(STREAM, &content)
}

pub(super) fn audio() -> Vec<u8> {
    let mut content = [unsigned(1), unsigned(1), string(b"PSD\x10")].concat();
    for value in [1, 3, 100, 0, 0, 0, 16_000, 1, 2] {
        content.extend(unsigned(value));
    }
    packet(STREAM, &content)
}

/// A syncpoint at `milliseconds`.
pub(super) fn syncpoint(milliseconds: u64) -> Vec<u8> {
    packet(SYNCPOINT, &[unsigned(milliseconds * 2), unsigned(0)].concat())
}

/// A frame with code 1: any flags, checksum.
pub(super) fn coded(flags: u64, fields: &[u64], payload: &[u8]) -> Vec<u8> {
    let mut frame = [vec![1], unsigned(flags)].concat();
    for field in fields {
        frame.extend(unsigned(*field));
    }
    let sum = checksum::of(&frame);
    [&frame, &sum.to_be_bytes()[..], payload].concat()
}

/// Headers and seven frames.
pub(super) fn file() -> Vec<u8> {
    [
        start(),
        main(),
        packet(INFO, &[7; 5_000]),
        video(4),
        audio(),
        syncpoint(0),
        // Stream 0, low bits 5, size 4 + 10 × 2.
        [vec![4, 5, 2], vec![0x11; 24]].concat(),
        // Stream 1 at 0 + 4 units.
        [vec![2], vec![0x22; 8]].concat(),
        // Stream 0 at 5 + 4; "abc" and two bytes.
        vec![7, b'd', b'e'],
        main(),
        video(4),
        audio(),
        syncpoint(1_000),
        // The low bits 2 near 1,000 (0x3e8) are 1,002; size 3.
        [vec![3, 2, 0], vec![0x33; 3]].concat(),
        // Key (1), time (8), stream (16), size (32), reserved (128): stream 1, the time 17,000 itself, 2 bytes.
        coded(1 | 8 | 16 | 32 | 128, &[1, 17_000 + 8, 2, 2, 99, 98], &[0x44; 2]),
        // The end of stream 1 (2): nothing.
        coded(2 | 8 | 16, &[1, 17_100 + 8], &[]),
        // Neither key nor anything but size and elided header (1024).
        coded(32 | 1_024, &[5, 1], &[0x55; 2]),
        [vec![2], vec![0x66; 8]].concat(),
    ]
    .concat()
}
