//! The bytes of every message, held by fixtures: what is on the wire does not change without a new version.
//!
//! `tests/golden/NAME.hex` holds the bytes of one message, sixteen a line. A fixture is written anew only after
//! `frame::VERSION` has risen: `cargo test -p sensorium-wire --test golden -- --ignored`.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write};
use std::fs;
use std::path::PathBuf;

use sensorium_wire::codec::{self, ANSWER_BYTES, Message, SUBMIT_BYTES_V0};
use sensorium_wire::frame::{FrameError, PRELUDE_BYTES, VERSION};
use sensorium_wire::peer::{CheckpointHeader, ForwardHeader, HelloHeader, RecallHeader};
use sensorium_wire::session::{CancelHeader, GrantHeader, SessionHeader};
use sensorium_wire::source::{LeaseAnswerHeader, LeaseAskHeader, OwnerHeader, WatchHeader};
use sensorium_wire::{BodyKind, Role, Stage, SubmitHeader, Tier, Urgency, result::ModelResult};
use sensorium_wire::{Dtype, Event, Kind, Modality, Outcome, PayloadKind, PixelFormat, Prelude, Reason};

pub mod samples;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"))
}

/// Every message with its name, as it is written today.
fn messages() -> Vec<(String, Vec<u8>)> {
    let mut messages = vec![
        ("prelude", samples::prelude().encode().to_vec()),
        ("grant", codec::encode(&samples::grant()).to_vec()),
        ("submit", codec::encode(&samples::submit()).to_vec()),
        ("submit-version-0", codec::encode(&samples::submit())[..SUBMIT_BYTES_V0].to_vec()),
        ("answer", codec::encode(&samples::answer())[..ANSWER_BYTES].to_vec()),
        ("answer-passed", codec::encode(&samples::answer_passed()).to_vec()),
        ("forward", codec::encode(&samples::forward()).to_vec()),
        ("hello", codec::encode(&samples::hello()).to_vec()),
        ("recall", codec::encode(&samples::recall()).to_vec()),
        ("checkpoint", codec::encode(&samples::checkpoint()).to_vec()),
        ("watch", codec::encode(&samples::watch()).to_vec()),
        ("owner", codec::encode(&samples::owner()).to_vec()),
        ("lease-ask", codec::encode(&samples::lease_ask()).to_vec()),
        ("lease-answer", codec::encode(&samples::lease_answer()).to_vec()),
        ("cancel", codec::encode(&samples::cancel()).to_vec()),
        ("session", codec::encode(&samples::session()).to_vec()),
    ];
    messages.extend(samples::results().iter().map(|(name, result)| (*name, codec::encode(result).to_vec())));
    messages.extend(samples::events().iter().map(|(name, event)| (*name, codec::encode(event).to_vec())));
    messages.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

fn golden(name: &str) -> Vec<u8> {
    let file = folder().join(format!("{name}.hex"));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!("{}: {error}. A new message needs a fixture; see the head of tests/golden.rs", file.display())
    });
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits")).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        let bytes: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{}", bytes.join(" ")).expect("writing to memory cannot fail");
    }
    text
}

#[test]
fn messages_have_the_bytes_of_their_fixtures() {
    let mut changed = Vec::new();
    for (name, bytes) in messages() {
        let golden = golden(&name);
        if golden != bytes {
            let at = golden.iter().zip(&bytes).take_while(|(old, new)| old == new).count();
            changed.push(format!("{name}: {} bytes were {}, different from byte {at} on", bytes.len(), golden.len()));
        }
    }
    assert!(
        changed.is_empty(),
        "The layout of messages has changed:\n  {}\nNodes that speak version {VERSION} would misread them. Append fields \
         instead of changing them, and raise frame::VERSION; then read the version before as decode_submit does, and \
         write the fixtures anew (see the head of tests/golden.rs).",
        changed.join("\n  ")
    );
}

#[test]
fn every_fixture_has_its_message() {
    let names: BTreeSet<String> = messages().into_iter().map(|(name, _)| format!("{name}.hex")).collect();
    let files = fs::read_dir(folder()).unwrap();
    let files: BTreeSet<String> =
        files.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(files, names);
}

#[test]
#[ignore = "writes the fixtures anew; only after frame::VERSION has risen"]
fn write_fixtures() {
    for (name, bytes) in messages() {
        fs::write(folder().join(format!("{name}.hex")), hexadecimal(&bytes)).unwrap();
    }
}

fn reads_as<T: Message + Debug + PartialEq>(name: &str, message: &T) {
    assert_eq!(codec::decode::<T>(&golden(name)).as_ref(), Some(message), "{name}");
}

#[test]
fn fixtures_are_read_as_what_they_were_written_from() {
    let prelude: [u8; PRELUDE_BYTES] = golden("prelude").try_into().expect("as long as a prelude");
    assert_eq!(Prelude::decode(&prelude), Ok(samples::prelude()));
    reads_as::<GrantHeader>("grant", &samples::grant());
    assert_eq!(codec::decode_answer(&golden("answer")), Ok(samples::answer()));
    assert_eq!(codec::decode_answer(&golden("answer-passed")), Ok(samples::answer_passed()));
    reads_as::<ForwardHeader>("forward", &samples::forward());
    reads_as::<HelloHeader>("hello", &samples::hello());
    reads_as::<RecallHeader>("recall", &samples::recall());
    reads_as::<CheckpointHeader>("checkpoint", &samples::checkpoint());
    reads_as::<WatchHeader>("watch", &samples::watch());
    reads_as::<OwnerHeader>("owner", &samples::owner());
    reads_as::<LeaseAskHeader>("lease-ask", &samples::lease_ask());
    reads_as::<LeaseAnswerHeader>("lease-answer", &samples::lease_answer());
    reads_as::<CancelHeader>("cancel", &samples::cancel());
    reads_as::<SessionHeader>("session", &samples::session());
    for (name, result) in samples::results() {
        reads_as::<ModelResult>(name, &result);
    }
    for (name, event) in samples::events() {
        reads_as::<Event>(name, &event);
    }
}

#[test]
fn a_job_of_either_version_is_read() {
    let (old, new) = (golden("submit-version-0"), golden("submit"));
    assert_eq!(codec::decode_submit(1, &new), Ok(samples::submit()));
    assert_eq!(
        codec::decode_submit(0, &old),
        Ok(SubmitHeader { freshness_us: 0, digest: [0; 32], ..samples::submit() })
    );
    // Neither passes for the other.
    let error = |bytes| Err(FrameError::Header { kind: Kind::Submit, bytes });
    assert_eq!(codec::decode_submit(0, &new), error(184));
    assert_eq!(codec::decode_submit(1, &old), error(144));
}

/// Checks that `bytes` consists of these fields, one after the other, each at its offset.
fn assert_fields(bytes: &[u8], fields: &[(&str, usize, &[u8])]) {
    let mut end = 0;
    for (name, offset, value) in fields {
        assert_eq!(*offset, end, "{name} does not start where the field before it ends");
        end = offset + value.len();
        let found = bytes.get(*offset..end);
        assert_eq!(found, Some(*value), "{name} at {offset}: the layout has changed, the version must rise");
    }
    assert_eq!(bytes.len(), end, "the length has changed, the version must rise");
}

/// A name of `N` bytes.
fn name<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

fn dims(shape: [u32; 6]) -> Vec<u8> {
    shape.iter().flat_map(|dim| dim.to_le_bytes()).collect()
}

#[test]
fn the_prelude_is_laid_out_as_documented() {
    assert_fields(
        &golden("prelude"),
        &[
            ("magic", 0, b"SNSM"),
            ("version", 4, &[1, 0]),
            ("kind", 6, &[2, 0]),
            ("header_bytes", 8, &[0x02, 0x01, 0, 0]),
            ("reserved", 12, &[0; 4]),
            ("correlation", 16, &0x1112_1314_1516_1718_u64.to_le_bytes()),
            ("payload_bytes", 24, &0x0121_2223_u64.to_le_bytes()),
            ("reserved", 32, &[0; 8]),
        ],
    );
}

#[test]
fn a_job_is_laid_out_as_documented() {
    assert_fields(
        &golden("submit"),
        &[
            ("job_id", 0, &samples::counting::<16>(0xa0)),
            ("model", 16, &name::<32>("nanodet")),
            ("session", 48, &0x0102_0304_0506_0708_u64.to_le_bytes()),
            ("stream", 56, &0x1112_1314_1516_1718_u64.to_le_bytes()),
            ("sequence", 64, &0x2122_2324_2526_2728_u64.to_le_bytes()),
            ("capture_ns", 72, &(-0x3132_3334_3536_3738_i64).to_le_bytes()),
            ("budget_us", 80, &0x4142_4344_4546_4748_u64.to_le_bytes()),
            ("clock", 88, &0x5152_5354_u32.to_le_bytes()),
            ("attempt", 92, &0x6162_6364_u32.to_le_bytes()),
            ("model_version", 96, &0x7172_7374_u32.to_le_bytes()),
            ("sample_rate_hz", 100, &0x8182_8384_u32.to_le_bytes()),
            ("state_bytes", 104, &0x9192_9394_u32.to_le_bytes()),
            ("shape", 108, &dims([1, 2, 3, 4, 5, 0xf1f2_f3f4])),
            ("rank", 132, &[6]),
            ("dtype", 133, &[8]),
            ("payload", 134, &[4]),
            ("pixels", 135, &[2]),
            ("urgency", 136, &[3]),
            ("reserved", 137, &[0xe1, 0xe2, 0xe3]),
            ("padding", 140, &[0; 4]),
            // Version 0 ends here.
            ("freshness_us", SUBMIT_BYTES_V0, &0xd1d2_d3d4_d5d6_d7d8_u64.to_le_bytes()),
            ("digest", 152, &samples::counting::<32>(0x10)),
        ],
    );
}

#[test]
fn an_answer_is_laid_out_as_documented() {
    let stages: Vec<u8> = (0x1100..0x110a_u64).flat_map(u64::to_le_bytes).collect();
    assert_fields(
        &golden("answer"),
        &[
            ("job_id", 0, &samples::counting::<16>(0xb0)),
            ("retry_after_us", 16, &0x6162_6364_6566_6768_u64.to_le_bytes()),
            ("receipt.node_ns", 24, &0x0102_0304_0506_0708_u64.to_le_bytes()),
            ("receipt.stage_ns", 32, &stages),
            ("receipt.node", 112, &name::<32>("central-2")),
            ("receipt.device", 144, &name::<16>("cuda:1")),
            ("receipt.lane", 160, &[2]),
            ("receipt.cached", 161, &[1]),
            ("receipt.batch_size", 162, &[0x22, 0x21]),
            ("receipt.attempt", 164, &0x3132_3334_u32.to_le_bytes()),
            ("receipt.model_version", 168, &0x4142_4344_u32.to_le_bytes()),
            ("receipt.age_ms", 172, &0x5152_5354_u32.to_le_bytes()),
            ("receipt.variant", 176, &name::<16>("int8")),
            ("shape", 192, &dims([6, 5, 4, 3, 2, 0xf1f2_f3f4])),
            ("number", 216, &0x7172_7374_u32.to_le_bytes()),
            ("outcome", 220, &[5]),
            ("reason", 221, &[18]),
            ("body", 222, &[3]),
            ("dtype", 223, &[7]),
            ("rank", 224, &[5]),
            ("reserved", 225, &samples::counting::<7>(0xe1)),
        ],
    );
}

/// The codes of enumerations are their positions, and the last one is where it was: a new one is appended.
#[test]
fn codes_are_fixed() {
    assert!(Dtype::ALL.iter().enumerate().all(|(code, dtype)| *dtype as usize == code));
    assert!(Reason::ALL.iter().enumerate().all(|(code, reason)| *reason as usize == code));
    assert!(BodyKind::ALL.iter().enumerate().all(|(code, body)| *body as usize == code));
    assert!(Modality::ALL.iter().enumerate().all(|(code, modality)| *modality as usize == code));
    assert!(PayloadKind::ALL.iter().enumerate().all(|(code, payload)| *payload as usize == code));
    assert!(PixelFormat::ALL.iter().enumerate().all(|(code, pixels)| *pixels as usize == code));
    assert!(Urgency::ALL.iter().enumerate().all(|(code, urgency)| *urgency as usize == code));
    assert!(Stage::ALL.iter().enumerate().all(|(code, stage)| *stage as usize == code));
    assert!(Kind::ALL.iter().zip(1..).all(|(kind, code)| *kind as u16 == code));
    assert_eq!((Dtype::Bool as u8, Reason::NodeLost as u8, Outcome::Cancelled as u8), (8, 20, 5));
    assert_eq!((Kind::LeaseAnswer as u16, Stage::Answer as u8, PayloadKind::EncodedAudio as u8), (17, 9, 4));
    let names = |names: &[&str]| names.join(" ");
    assert_eq!(names(&Role::ALL.map(Role::name)), "submit critical operate peer");
    assert_eq!(names(&Tier::ALL.map(Tier::name)), "edge regional central");
}
