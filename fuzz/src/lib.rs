//! What is done with arbitrary bytes: one function per decoder of bytes from outside.
//!
//! A body panics when the decoder does, and when what it accepted breaks a promise that the decoder's documentation
//! makes. The fuzzing targets and a test on the stable compiler run the same bodies. Bodies that would never get past a
//! checksum try the input a second time with its checksums repaired. Nothing here opens a file or a socket.

mod checksums;

use std::path::Path;

use sensorium_device::protocol::{
    AnswerEntry, AnswerHead, BATCH_JOBS_MAX, BatchHead, JobEntry, WorkerReport, put_packet, read_packet,
};
use sensorium_models::Manifest;
use sensorium_processing::image::{self, ImageLimits};
use sensorium_processing::nut::{NutDemuxer, NutItem};
use sensorium_processing::tokens::Tokenizer;
use sensorium_processing::{npy as npy_file, sound};
use sensorium_transport::{FrameReader, Step};
use sensorium_wire::codec::{self, Message};
use sensorium_wire::frame::{FrameError, Kind, Prelude};
use sensorium_wire::peer::{CheckpointHeader, ForwardHeader, HelloHeader, RecallHeader};
use sensorium_wire::session::{CancelHeader, GrantHeader, SessionHeader};
use sensorium_wire::source::{LeaseAnswerHeader, LeaseAskHeader, OwnerHeader, WatchHeader};
use sensorium_wire::tensor::tensor_bytes;
use sensorium_wire::{AnswerHeader, Event, Principal, SubmitHeader, limits, result::ModelResult};

/// Largest packet of a NUT file, in bytes: small, so that a length alone does not make an input slow.
const NUT_PACKET_BYTES_MAX: usize = 64 << 10;
/// Images larger than this are refused, so that a size alone does not make an input slow.
const IMAGE_LIMITS: ImageLimits = ImageLimits { side_pixels_max: 256, pixels_max: 16 << 10 };

/// A stream of frames: how it is cut into pieces makes no difference, and headers are read as their kind says.
pub fn frame(data: &[u8]) {
    let whole = read_frames(std::iter::once(data));
    let piece_bytes = data.first().map_or(1, |byte| usize::from(byte % 61) + 1);
    assert_eq!(whole, read_frames(data.chunks(piece_bytes)), "cut into pieces of {piece_bytes} bytes");
    for (prelude, header, payload) in &whole.0 {
        assert!(header.len() <= limits::HEADER_BYTES_MAX);
        assert!(payload.len() as u64 <= prelude.payload_bytes);
        read_header(prelude, header);
    }
}

/// Prelude, header and as much of the payload as there is.
type Frame = (Prelude, Vec<u8>, Vec<u8>);

fn read_frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<FrameError>, bool) {
    let (mut reader, mut frames) = (FrameReader::default(), Vec::<Frame>::new());
    for mut input in pieces {
        loop {
            match reader.step(&mut input) {
                Ok(Step::More) => break,
                Ok(Step::Head(prelude)) => frames.push((prelude, reader.header().to_vec(), Vec::new())),
                Ok(Step::Payload(bytes)) => {
                    frames.last_mut().expect("a payload follows a head").2.extend_from_slice(bytes);
                }
                Ok(Step::End) => {}
                Err(error) => return (frames, Some(error), false),
            }
        }
    }
    (frames, None, reader.is_between_frames())
}

fn read_header(prelude: &Prelude, header: &[u8]) {
    match prelude.kind {
        Kind::Grant => drop(codec::decode_header::<GrantHeader>(prelude.kind, header)),
        Kind::Submit => {
            if let Ok(submit) = codec::decode_submit(prelude.version, header) {
                checked(&submit, prelude.payload_bytes);
            }
        }
        Kind::Answer => {
            if let Ok(answer) = codec::decode_answer(header) {
                assert!(answer.dims().len() <= limits::RANK_MAX);
                assert!(answer.hops().len() <= limits::HOPS_MAX);
            }
        }
        Kind::Cancel => drop(codec::decode_header::<CancelHeader>(prelude.kind, header)),
        Kind::Session => drop(codec::decode_header::<SessionHeader>(prelude.kind, header)),
        Kind::Forward => {
            if let Ok(forward) = codec::decode_header::<ForwardHeader>(prelude.kind, header) {
                checked(&forward.submit, prelude.payload_bytes);
            }
        }
        Kind::Hello => drop(codec::decode_header::<HelloHeader>(prelude.kind, header)),
        Kind::Checkpoint => drop(codec::decode_header::<CheckpointHeader>(prelude.kind, header)),
        Kind::Recall => drop(codec::decode_header::<RecallHeader>(prelude.kind, header)),
        Kind::Watch => drop(codec::decode_header::<WatchHeader>(prelude.kind, header)),
        Kind::Owner => drop(codec::decode_header::<OwnerHeader>(prelude.kind, header)),
        Kind::LeaseAsk => drop(codec::decode_header::<LeaseAskHeader>(prelude.kind, header)),
        Kind::LeaseAnswer => drop(codec::decode_header::<LeaseAnswerHeader>(prelude.kind, header)),
        Kind::Event | Kind::Query | Kind::Reply | Kind::Error => {}
    }
}

/// A job's header of either version, and its check against some length of payload.
pub fn submit(data: &[u8]) {
    let (length, header) = data.split_at(data.len().min(8));
    let payload_bytes = length.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    for version in 0..=2 {
        if let Ok(submit) = codec::decode_submit(version, header) {
            checked(&submit, payload_bytes);
            settled(&submit);
        }
    }
}

/// Checks a header; one that passes keeps every limit.
fn checked(submit: &SubmitHeader, payload_bytes: u64) {
    if submit.check(payload_bytes).is_ok() {
        assert!(payload_bytes <= limits::PAYLOAD_BYTES_MAX);
        assert!(usize::from(submit.rank) <= limits::RANK_MAX);
        assert!(u64::from(submit.state_bytes) <= payload_bytes);
        assert!(submit.budget_us <= limits::BUDGET_US_MAX);
    }
}

/// A prelude and every other header.
pub fn header(data: &[u8]) {
    if let Some(bytes) = data.first_chunk()
        && let Ok(prelude) = Prelude::decode(bytes)
    {
        assert_eq!(Prelude::decode(&prelude.encode()), Ok(prelude));
    }
    settled_header::<GrantHeader>(Kind::Grant, data);
    settled_header::<SubmitHeader>(Kind::Submit, data);
    settled_header::<AnswerHeader>(Kind::Answer, data);
    settled_header::<CancelHeader>(Kind::Cancel, data);
    settled_header::<SessionHeader>(Kind::Session, data);
}

fn settled_header<T: Message>(kind: Kind, data: &[u8]) {
    if let Ok(header) = codec::decode_header::<T>(kind, data) {
        assert_eq!(settled(&header).len(), data.len());
    }
}

/// The bytes of a value that was read; reading them gives a value with the same bytes. Bytes are compared, because a
/// number that is not one equals nothing.
fn settled<T: Message>(value: &T) -> Vec<u8> {
    let bytes = codec::encode(value).to_vec();
    let again: T = codec::decode(&bytes).expect("what was written can be read");
    assert_eq!(codec::encode(&again).as_slice(), bytes);
    bytes
}

/// A principal's name in a certificate.
pub fn principal(data: &[u8]) {
    if let Ok(uri) = std::str::from_utf8(data)
        && let Some(principal) = Principal::from_uri(uri)
    {
        assert_eq!(Principal::from_uri(&principal.to_uri()), Some(principal));
    }
}

/// Results and events, and their JSON.
pub fn message(data: &[u8]) {
    if let Some(result) = codec::decode::<ModelResult>(data) {
        settled(&result);
        serde_json::to_string(&result).expect("results can be shown");
    }
    if let Some(event) = codec::decode::<Event>(data) {
        settled(&event);
        serde_json::to_string(&event).expect("events can be shown");
    }
}

/// A NUT file: how it is cut into pieces makes no difference.
pub fn nut(data: &[u8]) {
    nut_pieces(data);
    nut_pieces(&checksums::with_nut_checksums(data));
}

fn nut_pieces(data: &[u8]) {
    let whole = read_nut(std::iter::once(data));
    let piece_bytes = data.last().map_or(1, |byte| usize::from(byte % 97) + 1);
    assert_eq!(whole, read_nut(data.chunks(piece_bytes)), "cut into pieces of {piece_bytes} bytes");
    for item in &whole.0 {
        if let NutItem::Packet(packet) = item {
            assert!(packet.payload.len() <= NUT_PACKET_BYTES_MAX);
        }
    }
}

/// The items, and whether the file ended well. Errors are not compared: they quote what had arrived.
fn read_nut<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<NutItem>, bool) {
    let (mut demuxer, mut items) = (NutDemuxer::new(NUT_PACKET_BYTES_MAX), Vec::new());
    for piece in pieces {
        demuxer.push(piece);
        loop {
            match demuxer.next() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(demuxer.finish(), Err(error));
                    return (items, false);
                }
            }
        }
    }
    (items, demuxer.finish().is_ok())
}

/// A `.npy` file: a tensor that was read can be written and read again.
pub fn npy(data: &[u8]) {
    if let Ok(tensor) = npy_file::read(data) {
        let bytes = &data[tensor.data.clone()];
        assert_eq!(tensor_bytes(tensor.dtype, &tensor.dims), Some(bytes.len() as u64));
        let file = npy_file::write(tensor.dtype, &tensor.dims, bytes).expect("what was read can be written");
        let again = npy_file::read(&file).expect("what was written can be read");
        assert_eq!((again.dtype, &again.dims, &file[again.data.clone()]), (tensor.dtype, &tensor.dims, bytes));
    }
}

/// A WAV file, to mono at the rate that networks take.
pub fn wav(data: &[u8]) {
    if let Ok(pcm) = sound::decode_wav(data) {
        assert!((1..=sound::CHANNELS_MAX).contains(&pcm.channels) && pcm.samples.len() <= data.len());
        assert!(pcm.samples.iter().all(|sample| sample.abs() <= sound::MAGNITUDE_MAX));
        // Resampling costs time in proportion to the length, which a low rate makes long.
        if pcm.samples.len() <= 4096
            && let Ok(mono) = pcm.to_mono_at(16_000)
        {
            assert!(mono.iter().all(|sample| sample.is_finite()));
        }
    }
}

/// A JPEG or PNG image.
pub fn image(data: &[u8]) {
    decode_image(data);
    decode_image(&checksums::with_png_checksums(data));
}

fn decode_image(data: &[u8]) {
    if let Ok(image) = image::decode(data, IMAGE_LIMITS) {
        assert!(image.width <= IMAGE_LIMITS.side_pixels_max && image.height <= IMAGE_LIMITS.side_pixels_max);
        assert_eq!(image.rgb.len() as u64, u64::from(image.width) * u64::from(image.height) * 3);
    }
}

/// A tokenizer, and a text of the input's bytes as tokens.
pub fn tokenizer(data: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_json(data) {
        let tokens: Vec<u32> = data.iter().map(|byte| u32::from(*byte)).chain([u32::MAX]).collect();
        let text = tokenizer.decode(&tokens);
        assert_eq!(text.trim(), text);
    }
}

/// A model's manifest; an error names the file.
pub fn manifest(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Err(error) = Manifest::parse(text, Path::new("model.toml"))
    {
        assert!(error.to_string().starts_with("model.toml:"), "{error}");
    }
}

/// What node and worker send each other about a batch; a packet that was read is written as it came.
pub fn worker_packet(data: &[u8]) {
    if let Some((head, jobs)) = read_packet::<BatchHead, JobEntry>(data, |head| head.jobs) {
        assert!((1..=BATCH_JOBS_MAX).contains(&jobs.len()));
        assert_eq!(packet(|out| put_packet(out, &head, jobs)), data);
    }
    if let Some((head, answers)) = read_packet::<AnswerHead, AnswerEntry>(data, |head| head.jobs) {
        assert!((1..=BATCH_JOBS_MAX).contains(&answers.len()));
        assert_eq!(packet(|out| put_packet(out, &head, answers)), data);
    }
}

fn packet(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}

/// The line that a worker sends when it is ready.
pub fn worker_report(data: &[u8]) {
    if let Ok(report) = serde_json::from_slice::<WorkerReport>(data) {
        let line = serde_json::to_string(&report).expect("reports can be written");
        assert!(!line.contains('\n'));
        serde_json::from_str::<WorkerReport>(&line).expect("what was written can be read");
    }
}
