//! What holds for every header and for arbitrary bytes: round trips, no panics, and one way of writing a value.

use proptest::array::{uniform6, uniform7, uniform10, uniform16, uniform32};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use sensorium_wire::codec::{self, FrameWriter, Message, SUBMIT_BYTES_V0};
use sensorium_wire::frame::{PRELUDE_BYTES, VERSION, VERSION_MIN};
use sensorium_wire::peer::{CheckpointHeader, ForwardHeader, HelloHeader, RecallHeader};
use sensorium_wire::receipt::{Hop, Receipt};
use sensorium_wire::result::ModelResult;
use sensorium_wire::session::{CancelHeader, GrantHeader, SessionHeader};
use sensorium_wire::source::{LeaseAnswerHeader, LeaseAskHeader, OwnerHeader, WatchHeader};
use sensorium_wire::tensor::tensor_bytes;
use sensorium_wire::{
    AnswerHeader, BodyKind, Dtype, Event, JobId, Kind, Name, Outcome, PayloadKind, PixelFormat, Prelude, Principal,
    Reason, Role, SubmitHeader, Tier, Urgency, limits,
};

pub mod samples;

const OUTCOMES: [Outcome; 6] =
    [Outcome::Result, Outcome::Partial, Outcome::Refused, Outcome::Expired, Outcome::Failed, Outcome::Cancelled];
/// The four bytes of a job's header that are no field.
const SUBMIT_PADDING: std::ops::Range<usize> = 140..SUBMIT_BYTES_V0;

/// Names of any bytes, as a faulty peer sends them.
fn name<const N: usize>() -> impl Strategy<Value = Name<N>> {
    vec(any::<u8>(), N).prop_map(|bytes| Name(bytes.try_into().expect("N bytes")))
}

prop_compose! {
    fn submits()(
        (job_id, model, reserved, digest) in (uniform16(any::<u8>()), name(), any::<[u8; 3]>(), uniform32(any::<u8>())),
        (session, stream, sequence, capture_ns, budget_us, freshness_us) in any::<(u64, u64, u64, i64, u64, u64)>(),
        (clock, attempt, model_version, sample_rate_hz, state_bytes) in any::<(u32, u32, u32, u32, u32)>(),
        (shape, rank) in (uniform6(any::<u32>()), any::<u8>()),
        dtype in select(&Dtype::ALL[..]),
        payload in select(&PayloadKind::ALL[..]),
        pixels in select(&PixelFormat::ALL[..]),
        urgency in select(&Urgency::ALL[..]),
    ) -> SubmitHeader {
        SubmitHeader {
            job_id: JobId(job_id), model, session, stream, sequence, capture_ns, budget_us, clock, attempt,
            model_version, sample_rate_hz, state_bytes, shape, rank, dtype, payload, pixels, urgency, reserved,
            freshness_us, digest,
        }
    }
}

/// Headers that fit a payload of the length beside them.
fn consistent_submits() -> impl Strategy<Value = (SubmitHeader, u64)> {
    let dims = vec(0_u32..=9, 0..=limits::RANK_MAX);
    let bounds = (0..=limits::STATE_BYTES_MAX, 0..=limits::BUDGET_US_MAX, 0..1_000_000_u64);
    (submits(), dims, bounds).prop_map(|(mut header, mut dims, (state_bytes, budget_us, encoded_bytes))| {
        (header.state_bytes, header.budget_us) = (state_bytes, budget_us);
        let body = match header.payload {
            PayloadKind::Tensor => tensor_bytes(header.dtype, &dims),
            PayloadKind::Pcm => {
                dims.resize(2, 2);
                header.dtype = if header.sample_rate_hz % 2 == 0 { Dtype::I16 } else { Dtype::F32 };
                header.sample_rate_hz = header.sample_rate_hz.max(1);
                tensor_bytes(header.dtype, &dims)
            }
            PayloadKind::RawFrame => {
                dims.resize(2, 3);
                Some(u64::from(dims[0]) * u64::from(dims[1]) * header.pixels.bytes_per_pixel() as u64)
            }
            PayloadKind::EncodedImage | PayloadKind::EncodedAudio => Some(encoded_bytes),
        };
        let header = header.with_shape(&dims).expect("at most RANK_MAX dimensions");
        (header, body.expect("six dimensions of at most 9") + u64::from(state_bytes))
    })
}

prop_compose! {
    fn receipts()(
        (node_ns, stage_ns) in (any::<u64>(), uniform10(any::<u64>())),
        (node, device, variant) in (name(), name(), name()),
        (lane, cached, batch_size, attempt, model_version, age_ms) in any::<(u8, u8, u16, u32, u32, u32)>(),
    ) -> Receipt {
        Receipt { node_ns, stage_ns, node, device, lane, cached, batch_size, attempt, model_version, age_ms, variant }
    }
}

prop_compose! {
    fn answers()(
        (job_id, retry_after_us, receipt) in (uniform16(any::<u8>()), any::<u64>(), receipts()),
        (shape, rank, number, reserved) in (uniform6(any::<u32>()), any::<u8>(), any::<u32>(), uniform7(any::<u8>())),
        outcome in select(&OUTCOMES[..]),
        reason in select(&Reason::ALL[..]),
        body in select(&BodyKind::ALL[..]),
        dtype in select(&Dtype::ALL[..]),
        passed in any::<bool>(), hop in (name(), any::<u64>()).prop_map(|(node, node_ns)| Hop { node, node_ns }),
    ) -> AnswerHeader {
        AnswerHeader {
            job_id: JobId(job_id), retry_after_us, receipt, shape, number, outcome, reason, body, dtype, rank, reserved,
            hops: passed.then_some(hop).into_iter().chain([Hop::default(); 3]).take(3).collect::<Vec<_>>().try_into().expect("three"),
        }
    }
}

prop_compose! {
    fn grants()(
        (jobs_in_flight_max, sessions_max, bytes_in_flight_max, node) in (any::<u32>(), any::<u32>(), any::<u64>(), name()),
    ) -> GrantHeader {
        GrantHeader { jobs_in_flight_max, sessions_max, bytes_in_flight_max, node }
    }
}

prop_compose! {
    fn sessions()(
        (session, budget_us, fast, resume) in any::<(u64, u64, u8, u8)>(), reserved in uniform6(any::<u8>()), name in name(),
        (next_event, seen_ms) in any::<(u64, u64)>(),
    ) -> SessionHeader {
        SessionHeader { session, budget_us, fast, resume, reserved, name, next_event, seen_ms }
    }
}

prop_compose! {
    fn principals()(
        tenant in "[a-zA-Z0-9._-]{1,64}", name in "[a-zA-Z0-9._-]{1,64}",
        roles in subsequence(&Role::ALL[..], 0..=4), tier in option::of(select(&Tier::ALL[..])),
    ) -> Principal {
        Principal { tenant, name, roles, tier }
    }
}

/// Writes a frame and reads its head again.
fn round_trip<T: Message + std::fmt::Debug + PartialEq>(kind: Kind, header: &T) -> Result<(), TestCaseError> {
    let mut out = Vec::new();
    FrameWriter::default().put(&mut out, kind, 5, header, 0);
    prop_assert_eq!(out.len(), codec::frame_head_bytes::<T>());
    let (start, bytes) = out.split_first_chunk().expect("a frame has a prelude");
    let prelude = Prelude::decode(start).expect("what was written can be read");
    prop_assert_eq!((prelude.kind, prelude.header_bytes as usize, prelude.version), (kind, bytes.len(), VERSION));
    prop_assert_eq!(&codec::decode_header::<T>(kind, bytes).expect("what was written can be read"), header);
    // At any alignment, and only with its own length.
    for shift in 1..16 {
        let shifted = [&vec![0; shift][..], bytes].concat();
        prop_assert_eq!(&codec::decode_header::<T>(kind, &shifted[shift..]).expect("at any alignment"), header);
    }
    prop_assert!(codec::decode_header::<T>(kind, &bytes[1..]).is_err());
    prop_assert!(codec::decode_header::<T>(kind, &[bytes, &[0]].concat()).is_err());
    Ok(())
}

/// A header that is read is written with the same bytes, apart from `padding`.
fn canonical<T: Message>(kind: Kind, bytes: &[u8], padding: std::ops::Range<usize>) -> Result<(), TestCaseError> {
    if let Ok(header) = codec::decode_header::<T>(kind, bytes) {
        let mut expected = bytes.to_vec();
        expected[padding].fill(0);
        prop_assert_eq!(codec::encode(&header).to_vec(), expected);
    }
    Ok(())
}

/// Reads bytes as a message of variable length; one that is read settles: written, read and written again it keeps its
/// bytes. Values are not compared, because a number that is not one equals nothing.
fn settles<T: Message>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Some(message) = codec::decode::<T>(bytes) {
        let first = codec::encode(&message);
        let again: T = codec::decode(&first).expect("what was written can be read");
        prop_assert_eq!(codec::encode(&again).to_vec(), first.to_vec());
    }
    Ok(())
}

/// Bytes of a message with a few of them changed.
fn damaged(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = vec((any::<Index>(), any::<u8>()), 1..4);
    (select(samples), damage, option::of(any::<Index>())).prop_map(|(mut bytes, damage, end)| {
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(end.map_or(bytes.len(), |end| end.index(bytes.len())));
        bytes
    })
}

fn encoded_results() -> Vec<Vec<u8>> {
    samples::results().iter().map(|(_, result)| codec::encode(result).to_vec()).collect()
}

fn encoded_events() -> Vec<Vec<u8>> {
    samples::events().iter().map(|(_, event)| codec::encode(event).to_vec()).collect()
}

proptest! {
    #[test]
    fn headers_survive_a_round_trip(
        submit in submits(), answer in answers(), grant in grants(), session in sessions(), job_id in uniform16(any::<u8>()),
    ) {
        round_trip(Kind::Submit, &submit)?;
        round_trip(Kind::Answer, &answer)?;
        round_trip(Kind::Grant, &grant)?;
        round_trip(Kind::Session, &session)?;
        round_trip(Kind::Cancel, &CancelHeader { job_id: JobId(job_id) })?;
    }

    #[test]
    fn a_job_of_version_0_is_the_same_without_what_was_appended(header in submits()) {
        let bytes = codec::encode(&header);
        let read = codec::decode_submit(0, &bytes[..SUBMIT_BYTES_V0]).expect("its first part is version 0");
        prop_assert_eq!(read, SubmitHeader { freshness_us: 0, digest: [0; 32], ..header });
    }

    #[test]
    fn preludes_survive_a_round_trip(
        kind in select(&Kind::ALL[..]), version in VERSION_MIN..=VERSION, header_bytes in 0..=4096_u32,
        correlation in any::<u64>(), payload_bytes in any::<u64>(),
    ) {
        let prelude = Prelude { version, kind, header_bytes, correlation, payload_bytes };
        let taken = payload_bytes <= kind.payload_bytes_max() || matches!(kind, Kind::Submit | Kind::Forward);
        prop_assert_eq!(Prelude::decode(&prelude.encode()).ok(), taken.then_some(prelude));
        let short = Prelude { payload_bytes: payload_bytes % (kind.payload_bytes_max() + 1), ..prelude };
        prop_assert_eq!(Prelude::decode(&short.encode()), Ok(short));
    }

    #[test]
    fn a_damaged_prelude_is_an_error_or_keeps_the_limits(at in 0..PRELUDE_BYTES, value in any::<u8>()) {
        let mut bytes = samples::prelude().encode();
        bytes[at] = value;
        if let Ok(prelude) = Prelude::decode(&bytes) {
            prop_assert!(prelude.header_bytes as usize <= limits::HEADER_BYTES_MAX);
            prop_assert!((VERSION_MIN..=VERSION).contains(&prelude.version));
            bytes[12..16].fill(0);
            bytes[32..].fill(0);
            prop_assert_eq!(prelude.encode(), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        prelude in vec(any::<u8>(), PRELUDE_BYTES),
        bytes in prop_oneof![vec(any::<u8>(), 0..300), vec(0..3_u8, 0..300)],
        version in any::<u16>(),
    ) {
        let _ = Prelude::decode(prelude[..].first_chunk().expect("as long as a prelude"));
        for kind in Kind::ALL {
            let _ = codec::decode_header::<GrantHeader>(kind, &bytes);
            let _ = codec::decode_header::<SubmitHeader>(kind, &bytes);
            let _ = codec::decode_header::<AnswerHeader>(kind, &bytes);
            let _ = codec::decode_header::<CancelHeader>(kind, &bytes);
            let _ = codec::decode_header::<ForwardHeader>(kind, &bytes);
            let _ = codec::decode_header::<HelloHeader>(kind, &bytes);
            let _ = codec::decode_header::<CheckpointHeader>(kind, &bytes);
            let _ = codec::decode_header::<RecallHeader>(kind, &bytes);
            let _ = codec::decode_header::<WatchHeader>(kind, &bytes);
            let _ = codec::decode_header::<OwnerHeader>(kind, &bytes);
            let _ = codec::decode_header::<LeaseAskHeader>(kind, &bytes);
            let _ = codec::decode_header::<LeaseAnswerHeader>(kind, &bytes);
            let _ = codec::decode_header::<SessionHeader>(kind, &bytes);
        }
        let _ = codec::decode_submit(version, &bytes);
        let _ = codec::decode_answer(&bytes);
        settles::<ModelResult>(&bytes)?;
        settles::<Event>(&bytes)?;
    }

    /// Of the right length, so that they get past that.
    #[test]
    fn arbitrary_headers_are_errors_or_canonical(
        bytes in prop_oneof![vec(any::<u8>(), 352), vec(0..3_u8, 352)], payload_bytes in any::<u64>(),
    ) {
        canonical::<GrantHeader>(Kind::Grant, &bytes[..48], 0..0)?;
        canonical::<SubmitHeader>(Kind::Submit, &bytes[..184], SUBMIT_PADDING)?;
        canonical::<AnswerHeader>(Kind::Answer, &bytes, 0..0)?;
        canonical::<ForwardHeader>(Kind::Forward, &bytes[..232], SUBMIT_PADDING)?;
        canonical::<HelloHeader>(Kind::Hello, &bytes[..112], 0..0)?;
        canonical::<CheckpointHeader>(Kind::Checkpoint, &bytes[..48], 0..0)?;
        canonical::<WatchHeader>(Kind::Watch, &bytes[..144], 0..0)?;
        canonical::<OwnerHeader>(Kind::Owner, &bytes[..120], 0..0)?;
        canonical::<LeaseAskHeader>(Kind::LeaseAsk, &bytes[..144], 0..0)?;
        canonical::<LeaseAnswerHeader>(Kind::LeaseAnswer, &bytes[..40], 0..0)?;
        let _ = codec::decode_answer(&bytes[..232]);
        canonical::<CancelHeader>(Kind::Cancel, &bytes[..16], 0..0)?;
        canonical::<SessionHeader>(Kind::Session, &bytes[..72], 0..0)?;
        for (version, length) in [(0, SUBMIT_BYTES_V0), (1, 184)] {
            if let Ok(header) = codec::decode_submit(version, &bytes[..length]) {
                let _ = header.check(payload_bytes);
            }
        }
    }

    #[test]
    fn damaged_headers_are_errors_or_canonical(
        submit in damaged(vec![codec::encode(&samples::submit()).to_vec()]),
        answer in damaged(vec![codec::encode(&samples::answer()).to_vec()]),
        grant in damaged(vec![codec::encode(&samples::grant()).to_vec()]),
        session in damaged(vec![codec::encode(&samples::session()).to_vec()]),
        cancel in damaged(vec![codec::encode(&samples::cancel()).to_vec()]),
    ) {
        canonical::<SubmitHeader>(Kind::Submit, &submit, SUBMIT_PADDING)?;
        canonical::<AnswerHeader>(Kind::Answer, &answer, 0..0)?;
        canonical::<GrantHeader>(Kind::Grant, &grant, 0..0)?;
        canonical::<SessionHeader>(Kind::Session, &session, 0..0)?;
        canonical::<CancelHeader>(Kind::Cancel, &cancel, 0..0)?;
    }

    #[test]
    fn headers_without_codes_take_any_bytes(bytes in vec(any::<u8>(), 72)) {
        prop_assert!(codec::decode_header::<SessionHeader>(Kind::Session, &bytes).is_ok());
        prop_assert!(codec::decode_header::<GrantHeader>(Kind::Grant, &bytes[..48]).is_ok());
        prop_assert!(codec::decode_header::<CancelHeader>(Kind::Cancel, &bytes[..16]).is_ok());
    }

    #[test]
    fn damaged_results_are_errors_or_settle(bytes in damaged(encoded_results())) {
        settles::<ModelResult>(&bytes)?;
        settles::<Event>(&bytes)?;
    }

    #[test]
    fn damaged_events_are_errors_or_settle(bytes in damaged(encoded_events())) {
        settles::<Event>(&bytes)?;
        settles::<ModelResult>(&bytes)?;
    }

    #[test]
    fn arbitrary_jobs_are_checked_without_panic_and_within_the_limits(header in submits(), payload_bytes in any::<u64>()) {
        if header.check(payload_bytes).is_ok() {
            prop_assert!(payload_bytes <= limits::PAYLOAD_BYTES_MAX);
        }
        // The refusal names a reason that belongs to headers.
        if let Err(rejection) = header.check(payload_bytes % (limits::PAYLOAD_BYTES_MAX + 1)) {
            prop_assert!(matches!(rejection.reason, Reason::InvalidHeader | Reason::InvalidShape), "{rejection}");
            prop_assert!(rejection.detail.len() <= limits::DETAIL_BYTES_MAX);
        }
    }

    #[test]
    fn consistent_jobs_pass_and_another_length_does_not((header, payload_bytes) in consistent_submits()) {
        prop_assert_eq!(header.check(payload_bytes), Ok(()));
        let encoded = matches!(header.payload, PayloadKind::EncodedImage | PayloadKind::EncodedAudio);
        prop_assert_eq!(header.check(payload_bytes + 1).is_ok(), encoded);
        let wide = SubmitHeader { rank: 7, ..header };
        prop_assert!(wide.check(payload_bytes).is_err());
        let late = SubmitHeader { budget_us: limits::BUDGET_US_MAX + 1, ..header };
        prop_assert_eq!(late.check(payload_bytes).unwrap_err().reason, Reason::InvalidHeader);
        let too_large = header.check(limits::PAYLOAD_BYTES_MAX + 1);
        prop_assert_eq!(too_large.unwrap_err().reason, Reason::PayloadTooLarge);
        let stateful = SubmitHeader { state_bytes: u32::try_from(payload_bytes + 1).expect("small"), ..header };
        prop_assert!(stateful.check(payload_bytes).is_err());
    }

    #[test]
    fn principals_survive_a_round_trip(principal in principals()) {
        prop_assert_eq!(Principal::from_uri(&principal.to_uri()), Some(principal));
    }

    #[test]
    fn arbitrary_uris_never_panic_and_never_grant_twice(
        uri in prop_oneof![
            any::<String>(),
            "sensorium://[a-z/?&=.,é]{0,30}",
            "sensorium://a/b\\?(roles|tier|role)=(submit|edge|peer|submit,critical|)(&(roles|tier)=(operate|central|)){0,2}",
        ],
    ) {
        if let Some(principal) = Principal::from_uri(&uri) {
            prop_assert_eq!(Principal::from_uri(&principal.to_uri()), Some(principal));
            prop_assert!(uri.matches("roles=").count() <= 1 && uri.matches("tier=").count() <= 1, "{}", uri);
        }
    }

    #[test]
    fn names_are_cut_to_what_fits(text in any::<String>()) {
        let cut = Name::<8>::cut(&text);
        prop_assert!(text.starts_with(cut.as_str()) && cut.as_str().len() <= 8);
        prop_assert_eq!(Name::<8>::new(cut.as_str()), Some(cut));
        if let Some(name) = Name::<8>::new(&text) {
            prop_assert_eq!(name.as_str(), &text);
        }
    }
}
