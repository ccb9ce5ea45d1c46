//! Who may do what, and what a hostile or broken client can do to others: nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use sensorium_client::{Client, ClientConfig, ClientError, Job};
use sensorium_transport::pki::{Authority, Bundle};
use sensorium_transport::{ALPN_API, ALPN_PEER, Dialer, FrameReader, Liveness, Step};
use sensorium_wire::codec::{encode, put_frame};
use sensorium_wire::{Dtype, JobId, Kind, Name, Outcome, Principal, Reason, Role, SubmitHeader, Urgency, limits};
use support::{Node, block_on, complaint, sensorium};

const IDENTITY: &str = "load = [\"identity\"]\n";

fn authority(node: &Node) -> Authority {
    Authority::load(&node.data.path().join("certificates/ca")).unwrap()
}

fn bundle(authority: &Authority, name: &str, roles: &[Role]) -> Bundle {
    let principal = Principal { tenant: "guests".to_owned(), name: name.to_owned(), roles: roles.to_vec(), tier: None };
    authority.issue(&principal, &[], 1).unwrap()
}

async fn connect(node: &Node, bundle: Bundle) -> Result<Client, ClientError> {
    Client::connect(ClientConfig { bundle, ..node.client_config() }).await
}

fn echo() -> Job {
    Job::tensor("identity", Dtype::U8, &[4]).deadline_ms(60_000)
}

/// Why nobody was let in.
fn turned_away(outcome: Result<Client, ClientError>) -> String {
    match outcome {
        Err(error @ ClientError::Rejected { .. }) => error.to_string(),
        Err(error) => panic!("turned away in another way: {error}"),
        Ok(_) => panic!("let in"),
    }
}

/// A bundle whose certificate ended long ago.
fn expired(node: &Node) -> Bundle {
    let folder = node.data.path().join("certificates/ca");
    let ca_pem = std::fs::read_to_string(folder.join("ca.pem")).unwrap();
    let key = KeyPair::from_pem(&std::fs::read_to_string(folder.join("ca.key")).unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).unwrap();
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let uri = "sensorium://guests/late?roles=submit";
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let cert_pem = params.signed_by(&key, &issuer).unwrap().pem();
    Bundle { ca_pem, cert_pem, key_pem: key.serialize_pem() }
}

#[test]
fn certificates_say_who_may_do_what() {
    let node = Node::start(IDENTITY);
    let ours = authority(&node);
    let folder = tempfile::tempdir().unwrap();
    let theirs = Authority::create(&folder.path().join("ca")).unwrap();
    block_on(async {
        // Of another authority: at first they do not trust the node; then they do, but the node does not trust them.
        let stranger = bundle(&theirs, "stranger", &[Role::Submit]);
        let text = turned_away(connect(&node, stranger.clone()).await);
        assert!(text.contains("authority") && text.contains("sensorium ca"), "{text}");
        let ca_pem = stranger.ca_pem.clone() + &node.client_config().bundle.ca_pem;
        let text = turned_away(connect(&node, Bundle { ca_pem, ..stranger }).await);
        assert!(text.contains("authority") && text.contains("sensorium ca"), "{text}");

        let late = connect(&node, expired(&node)).await.err().unwrap().to_string();
        assert!(late.contains("expired"), "{late}");

        let operator = connect(&node, bundle(&ours, "operator", &[Role::Operate])).await.unwrap();
        let answer = operator.submit(echo(), b"abcd".to_vec()).await.unwrap();
        let rejection = answer.rejection().unwrap();
        assert_eq!((answer.header.outcome, rejection.reason), (Outcome::Refused, Reason::Forbidden));
        assert!(rejection.detail.contains("role submit"), "{rejection}");
        assert!(operator.query("status").await.unwrap().contains("\"devices\""));
        let file = Path::new("Cargo.toml");
        let mut session = operator.session(Default::default(), file).await.unwrap();
        let text = session.next().await.unwrap_err().to_string();
        assert!(text.contains("role submit"), "{text}");

        let guest = connect(&node, bundle(&ours, "guest", &[Role::Submit])).await.unwrap();
        assert!(guest.submit(echo(), b"abcd".to_vec()).await.unwrap().is_result());
        let text = guest.query("status").await.unwrap_err().to_string();
        assert!(text.contains("role operate"), "{text}");
        let answer = guest.submit(echo().urgency(Urgency::Critical), b"abcd".to_vec()).await.unwrap();
        let rejection = answer.rejection().unwrap();
        assert_eq!(rejection.reason, Reason::Forbidden);
        assert!(rejection.detail.contains("--role critical"), "{rejection}");
        assert!(guest.submit(echo(), b"abcd".to_vec()).await.unwrap().is_result(), "the connection has suffered");

        let medic = connect(&node, bundle(&ours, "medic", &[Role::Submit, Role::Critical])).await.unwrap();
        assert!(medic.submit(echo().urgency(Urgency::Critical), b"abcd".to_vec()).await.unwrap().is_result());

        let text =
            turned_away(connect(&node, Bundle::read(&node.data.path().join("certificates/node")).unwrap()).await);
        assert!(text.contains("submit") && text.contains("operate"), "{text}");
    });
    node.proves_healthy();
}

#[test]
fn each_port_takes_its_own_kind_only() {
    let node = Node::start(IDENTITY);
    let certificates = node.data.path().join("certificates");
    let (client, peer) = (Bundle::read(&certificates.join("client")), Bundle::read(&certificates.join("node")));
    let (client, peer) = (client.unwrap(), peer.unwrap());
    block_on(async {
        let dial = async |bundle: &Bundle, alpn: &[u8], port: &str| {
            let dialer = Dialer::new(bundle, alpn, Liveness::PEER, false).unwrap();
            (dialer.dial(node.address(port)).unwrap().await, dialer)
        };
        let (connection, _dialer) = dial(&client, ALPN_PEER, "cluster").await;
        let reason = connection.unwrap().closed().await.to_string();
        assert!(reason.contains("role peer"), "{reason}");
        let (connection, _dialer) = dial(&peer, ALPN_PEER, "cluster").await;
        let reason = connection.unwrap().closed().await.to_string();
        assert!(reason.contains("belongs to no cluster"), "{reason}");
        for (alpn, port) in [(ALPN_API, "cluster"), (ALPN_PEER, "api"), (&b"h3"[..], "api")] {
            let (connection, _dialer) = dial(&peer, alpn, port).await;
            let reason = connection.expect_err("the wrong protocol is spoken here").to_string();
            assert!(reason.contains("protocol"), "{reason}");
        }
    });
    node.proves_healthy();
}

/// Writes bytes on a stream of their own; gives the kind and text of the frame that comes back.
async fn provoke(client: &Client, bytes: &[u8]) -> (Option<Kind>, String) {
    let (mut send, mut recv) = client.connection().unwrap().open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    let _ = send.finish();
    let answer = recv.read_to_end(1 << 16).await.unwrap();
    let (mut reader, mut input, mut kind, mut text) = (FrameReader::default(), &answer[..], None, Vec::new());
    loop {
        match reader.step(&mut input).unwrap() {
            Step::Head(prelude) => kind = Some(prelude.kind),
            Step::Payload(bytes) => text.extend_from_slice(bytes),
            Step::End | Step::More => return (kind, String::from_utf8(text).unwrap()),
        }
    }
}

fn frame(kind: Kind, header: &[u8], payload_bytes: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_frame(&mut bytes, kind, 1, header, payload_bytes);
    bytes
}

fn changed(mut frame: Vec<u8>, at: usize, to: &[u8]) -> Vec<u8> {
    frame[at..at + to.len()].copy_from_slice(to);
    frame
}

fn submit_header(bytes: u32) -> SubmitHeader {
    let header = SubmitHeader {
        job_id: JobId([3; 16]),
        model: Name::cut("identity"),
        budget_us: 60_000_000,
        dtype: Dtype::U8,
        ..Default::default()
    };
    header.with_shape(&[bytes]).unwrap()
}

#[test]
fn garbage_on_one_stream_is_answered_there_and_harms_no_other() {
    let node = Node::start(IDENTITY);
    let header = encode(&submit_header(4));
    let good = frame(Kind::Submit, &header, 4);
    let noise: Vec<u8> = (1..=100_u8).map(|n| n.wrapping_mul(157)).collect();
    let too_long = u32::try_from(limits::HEADER_BYTES_MAX + 1).unwrap().to_le_bytes();
    let provocations = [
        ("noise", noise.clone(), "not a Sensorium frame"),
        ("another version", changed(good.clone(), 4, &[99, 0]), "version 99"),
        ("an unknown kind", changed(good.clone(), 6, &[77, 0]), "frame kind 77"),
        ("a long header", changed(good.clone(), 8, &too_long), "4097 bytes"),
        ("the longest header", changed(good.clone(), 8, &[0xff; 4]), "4294967295 bytes"),
        ("an answer", frame(Kind::Answer, &[], 0), "Answer frame is not expected"),
        ("a grant", frame(Kind::Grant, &[], 0), "Grant frame is not expected"),
        ("a short header", frame(Kind::Submit, &noise, 4), "100 bytes"),
        ("a header of noise", frame(Kind::Submit, &noise.repeat(2)[..header.len()], 4), "not a valid archive"),
        ("a cancel without header", frame(Kind::Cancel, &[], 0), "Cancel header"),
        ("a long question", frame(Kind::Query, &[], 1 << 20), "1048576 bytes"),
        ("an unknown question", [frame(Kind::Query, &[], 4), b"why?".to_vec()].concat(), "why?"),
        ("an endless film", frame(Kind::Session, &noise, u64::MAX), "Session frame takes at most"),
    ];
    block_on(async {
        let client = node.client().await;
        let before = client.connection().unwrap().stable_id();
        for (name, bytes, expected) in &provocations {
            let (kind, text) = provoke(&client, bytes).await;
            assert_eq!(kind, Some(Kind::Error), "{name}: {text}");
            assert!(text.contains(expected), "{name}: {text}");
            let answer = client.submit(echo(), b"abcd".to_vec()).await.unwrap();
            assert_eq!(&answer.payload[..], b"abcd", "after {name}");
        }
        // A stream that ends inside a head ends, without more; inside a payload, the job is refused.
        for end in [1, 39, 40, 100] {
            assert_eq!(provoke(&client, &good[..end]).await, (None, String::new()), "{end} bytes");
        }
        let cut = [frame(Kind::Submit, &encode(&submit_header(100_000)), 100_000), vec![1; 99_999]].concat();
        let (kind, text) = provoke(&client, &cut).await;
        assert_eq!(kind, Some(Kind::Answer));
        assert!(text.contains("after 99999 bytes"), "{text}");
        assert!(client.submit(echo(), b"abcd".to_vec()).await.unwrap().is_result());
        assert_eq!(client.connection().unwrap().stable_id(), before, "the connection was lost on the way");
        client.close().await;
    });
    node.proves_healthy();
    node.wait_until("nothing is left", |status| status["engine"]["slab_bytes_out"] == 0);
}

#[test]
fn a_client_that_vanishes_inside_a_frame_leaves_nothing_behind() {
    let node = Node::start(IDENTITY);
    const BYTES: u32 = 1_000_000;
    let head = frame(Kind::Submit, &encode(&submit_header(BYTES)), BYTES.into());
    block_on(async {
        let dialer = Dialer::new(&node.client_config().bundle, ALPN_API, Liveness::API, false).unwrap();
        let connection = dialer.dial(node.address("api")).unwrap().await.unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&head).await.unwrap();
        send.write_all(&vec![1; 500_000]).await.unwrap();
        let other = node.client().await;
        let out = async || {
            let status: serde_json::Value = serde_json::from_str(&other.query("status").await.unwrap()).unwrap();
            status["engine"]["slab_bytes_out"].as_u64().unwrap()
        };
        while out().await < 500_000 {}
        connection.close(0_u32.into(), b"");
        while out().await > 0 {}
        assert!(other.submit(echo(), b"abcd".to_vec()).await.unwrap().is_result());
        other.close().await;
    });
    let status = node.status().unwrap();
    assert_eq!(
        (&status["engine"]["jobs_in_flight"], &status["engine"]["accepted"]),
        (&0.into(), &1.into()),
        "{status}"
    );
}

#[test]
fn issued_bundles_work_from_end_to_end() {
    let mut node = Node::start(IDENTITY);
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| -> PathBuf { folder.path().join(name) };
    let ca = |arguments: &[&str], out: &Path| {
        let output = sensorium().arg("ca").args(arguments).arg("--out").arg(out).output().unwrap();
        assert!(output.status.success(), "{}", complaint(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let authority = place("authority");
    let told = ca(&["init"], &authority);
    assert!(told.contains("sensorium ca issue"), "{told}");
    let issue = |arguments: &[&str], out: &Path| {
        ca(&[&["issue", "--ca", authority.to_str().unwrap(), "--name"], arguments].concat(), out)
    };
    let certificates = node.data.path().join("certificates");
    let peer = ["edge-7", "--role", "peer", "--tier", "edge", "--host", "127.0.0.1"];
    let told = issue(&peer, &certificates.join("node"));
    assert!(told.contains("certificates/node") && told.contains("restart"), "{told}");
    issue(&["app", "--role", "submit"], &place("app"));
    issue(&["ops", "--role", "operate", "--role", "submit"], &certificates.join("client"));
    let ops = Bundle::read(&certificates.join("client")).unwrap();
    assert_eq!(ops.principal().unwrap().name, "ops");
    let before = Authority::load(&certificates.join("ca")).unwrap();
    std::fs::remove_dir_all(certificates.join("ca")).unwrap();
    node.restart();

    let tensor = place("abcd.npy");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let header = format!("{:<117}\n", "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }");
    bytes.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(b"abcd");
    std::fs::write(&tensor, bytes).unwrap();
    let app = place("app");
    let (answer, done) = node.submit("identity", &tensor, &["--bundle", app.to_str().unwrap()]);
    assert!(done && answer["answer"]["bytes"] == 4, "{answer}");
    let output = node.run(&["status", "--bundle", app.to_str().unwrap()]);
    assert!(complaint(&output).contains("role operate"), "{}", complaint(&output));
    let text = turned_away(block_on(connect(&node, bundle(&before, "old", &[Role::Submit]))));
    assert!(text.contains("sensorium ca"), "{text}");
    assert!(block_on(async { node.client().await.query("models").await }).unwrap().contains("identity"));
    node.proves_healthy();
}
