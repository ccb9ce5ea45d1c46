use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use rustls_pki_types::CertificateDer;
use sensorium_wire::{Principal, Role, Tier};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use super::tls::{client_config_unchecked, provider, server_config_unchecked, server_name, server_verifier};
use super::*;

const ALPN: &[&[u8]] = &[b"sensorium/api/1"];

fn node() -> Principal {
    Principal {
        tenant: "stadium".to_owned(),
        name: "edge-7".to_owned(),
        roles: vec![Role::Peer],
        tier: Some(Tier::Edge),
    }
}

fn client() -> Principal {
    Principal {
        tenant: "stadium".to_owned(),
        name: "referee".to_owned(),
        roles: vec![Role::Submit, Role::Critical],
        tier: None,
    }
}

fn authority() -> (TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(dir.path()).unwrap();
    (dir, authority)
}

fn der(bundle: &Bundle) -> CertificateDer<'static> {
    bundle.chain().unwrap().swap_remove(0)
}

/// Moves what one side wrote to the other; whether there was anything.
fn pass(from: &mut Connection, to: &mut Connection) -> Result<bool, rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest: &[u8] = &bytes;
    while !rest.is_empty() {
        match to.read_tls(&mut rest) {
            Ok(_) => to.process_new_packets()?,
            Err(error) if error.kind() == io::ErrorKind::Other => panic!("a full buffer: {error}"),
            Err(error) => panic!("{error}"),
        };
    }
    Ok(!bytes.is_empty())
}

/// A handshake in memory, and the principals that each side then sees of the other.
fn handshake(server: ServerConfig, client: ClientConfig) -> Result<(Principal, Principal), rustls::Error> {
    let mut server: Connection = ServerConnection::new(Arc::new(server))?.into();
    let mut client: Connection = ClientConnection::new(Arc::new(client), server_name())?.into();
    loop {
        let to_server = pass(&mut client, &mut server)?;
        let to_client = pass(&mut server, &mut client)?;
        if !to_server && !to_client {
            break;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    assert_eq!(server.alpn_protocol(), Some(ALPN[0]));
    assert_eq!(server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let seen = |connection: &Connection| principal_of(&connection.peer_certificates().unwrap()[0]).unwrap();
    Ok((seen(&server), seen(&client)))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn both_sides_of_a_handshake_learn_who_the_other_is() {
    let (_dir, authority) = authority();
    let node_bundle = authority.issue(&node(), &["camera-7.example".to_owned()], 30).unwrap();
    let client_bundle = authority.issue(&client(), &[], 30).unwrap();
    let (at_server, at_client) =
        handshake(server_config(&node_bundle, ALPN).unwrap(), client_config(&client_bundle, ALPN).unwrap()).unwrap();
    assert_eq!(at_server, client());
    assert_eq!(at_client, node());
    // A node also dials.
    let (at_server, _) =
        handshake(server_config(&node_bundle, ALPN).unwrap(), client_config(&node_bundle, ALPN).unwrap()).unwrap();
    assert_eq!(at_server, node());
}

#[test]
fn an_authority_that_was_loaded_issues_what_the_created_one_vouches_for() {
    let (dir, created) = authority();
    let loaded = Authority::load(dir.path()).unwrap();
    assert_eq!(loaded.ca_pem(), created.ca_pem());
    let server = server_config(&created.issue(&node(), &[], 1).unwrap(), ALPN).unwrap();
    let dialler = client_config(&loaded.issue(&client(), &[], 1).unwrap(), ALPN).unwrap();
    handshake(server, dialler).unwrap();
}

#[test]
fn a_foreign_authority_is_refused_by_either_side() {
    let (_ours, ours) = authority();
    let (_theirs, theirs) = authority();
    let node_bundle = ours.issue(&node(), &[], 1).unwrap();
    let foreign = theirs.issue(&client(), &[], 1).unwrap();
    let error =
        handshake(server_config(&node_bundle, ALPN).unwrap(), client_config(&foreign, ALPN).unwrap()).unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    // One that trusts our authority but shows a certificate of its own: the node refuses it.
    let mut impostor = foreign.clone();
    impostor.ca_pem = node_bundle.ca_pem.clone();
    let error =
        handshake(server_config(&node_bundle, ALPN).unwrap(), client_config_unchecked(&impostor, ALPN).unwrap())
            .unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    // And says so before it ever dials.
    assert!(matches!(client_config(&impostor, ALPN), Err(PkiError::Bundle { part: "certificate (cert.pem)", .. })));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (_dir, authority) = authority();
    let node_bundle = authority.issue(&node(), &[], 1).unwrap();
    let mut anonymous = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_webpki_verifier(server_verifier(&node_bundle).unwrap())
        .with_no_client_auth();
    anonymous.alpn_protocols = vec![ALPN[0].to_vec()];
    let error = handshake(server_config(&node_bundle, ALPN).unwrap(), anonymous).unwrap_err();
    assert_eq!(error, rustls::Error::NoCertificatesPresented);
}

#[test]
fn an_expired_certificate_is_refused() {
    let (_dir, authority) = authority();
    let now = OffsetDateTime::now_utc();
    let (start, end) = (now - Duration::days(2), now - Duration::minutes(1));
    let node_bundle = authority.issue(&node(), &[], 1).unwrap();
    let expired = authority.issue_between(&client(), &[], start, end).unwrap();
    let error = handshake(server_config(&node_bundle, ALPN).unwrap(), client_config_unchecked(&expired, ALPN).unwrap())
        .unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    let error = client_config(&expired, ALPN).unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");

    let expired = authority.issue_between(&node(), &[], start, end).unwrap();
    let dialler = client_config(&authority.issue(&client(), &[], 1).unwrap(), ALPN).unwrap();
    assert!(handshake(server_config_unchecked(&expired, ALPN).unwrap(), dialler).is_err());
    assert!(matches!(server_config(&expired, ALPN), Err(PkiError::Bundle { .. })));
}

#[test]
fn a_client_cannot_act_as_a_node() {
    let (_dir, authority) = authority();
    // Even with the server's name, which an operator could be talked into.
    let bundle = authority.issue(&client(), &[SERVER_NAME.to_owned()], 1).unwrap();
    let error =
        handshake(server_config_unchecked(&bundle, ALPN).unwrap(), client_config(&bundle, ALPN).unwrap()).unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    assert!(matches!(server_config(&bundle, ALPN), Err(PkiError::Bundle { .. })));
}

#[test]
fn early_data_is_off_and_a_key_must_belong_to_its_certificate() {
    let (_dir, authority) = authority();
    let mut bundle = authority.issue(&node(), &[], 1).unwrap();
    assert_eq!(server_config(&bundle, ALPN).unwrap().max_early_data_size, 0);
    bundle.key_pem = authority.issue(&node(), &[], 1).unwrap().key_pem;
    assert!(matches!(server_config(&bundle, ALPN), Err(PkiError::Bundle { part: "private key (key.pem)", .. })));
    assert!(matches!(client_config(&bundle, ALPN), Err(PkiError::Bundle { part: "private key (key.pem)", .. })));
}

#[test]
fn certificates_are_backdated_and_do_not_outlive_their_authority() {
    let (_dir, authority) = authority();
    let now = OffsetDateTime::now_utc();
    let bundle = authority.issue(&client(), &[], 7).unwrap();
    let certificate = der(&bundle);
    let validity = identity::parse(&certificate).unwrap().validity().clone();
    let age = now - validity.not_before.to_datetime();
    assert!((Duration::DAY - Duration::MINUTE..Duration::DAY + Duration::MINUTE).contains(&age), "{age}");
    let left = bundle.expires_at().unwrap() - now;
    assert!((Duration::days(7) - Duration::MINUTE..Duration::days(7) + Duration::MINUTE).contains(&left), "{left}");
    // Both are rounded to whole seconds in the certificate.
    let longest = authority.issue(&client(), &[], VALID_DAYS_MAX).unwrap().expires_at().unwrap();
    assert!(longest <= authority.ends_at());
}

#[test]
fn what_cannot_be_issued_is_refused() {
    let (_dir, authority) = authority();
    let issue = |principal: &Principal, hosts: &[String], days| authority.issue(principal, hosts, days).unwrap_err();
    assert!(matches!(issue(&client(), &[], 0), PkiError::ValidDays { days: 0, .. }));
    assert!(matches!(issue(&client(), &[], VALID_DAYS_MAX + 1), PkiError::ValidDays { .. }));
    assert!(matches!(issue(&client(), &["two words".to_owned()], 1), PkiError::Host { .. }));
    assert!(matches!(issue(&client(), &vec!["a".to_owned(); 65], 1), PkiError::Hosts { count: 65, .. }));
    let nameless = Principal { name: "a/b?roles=operate".to_owned(), ..client() };
    assert!(matches!(issue(&nameless, &[], 1), PkiError::Principal { .. }));
}

#[test]
fn files_have_the_right_modes_and_an_authority_is_never_overwritten() {
    let (dir, authority) = authority();
    assert_eq!(mode(&dir.path().join("ca.key")), 0o600);
    assert!(matches!(Authority::create(dir.path()), Err(PkiError::Exists { .. })));
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    assert!(matches!(Authority::create(dir.path()), Err(PkiError::Exists { path }) if path.ends_with("ca.key")));
    assert!(matches!(Authority::load(dir.path()), Err(PkiError::Missing { path, .. }) if path.ends_with("ca.pem")));

    let folder = dir.path().join("bundles/client");
    let bundle = authority.issue(&client(), &[], 1).unwrap();
    for _ in 0..2 {
        bundle.write(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("key.pem")), 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
    }
    assert_eq!(Bundle::read(&folder).unwrap(), bundle);
    assert!(!format!("{bundle:?}").contains("PRIVATE"));
}

#[test]
fn a_missing_or_corrupt_file_is_named() {
    let (dir, authority) = authority();
    let folder = dir.path().join("client");
    let bundle = authority.issue(&client(), &[], 1).unwrap();
    let no_text: &[u8] = &[0xff; 9];
    let broken: &[u8] = b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    let no_certificate: &[u8] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let long = vec![b'\n'; 1 << 20];
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        for bytes in [no_text, broken, no_certificate, b"", &long] {
            bundle.write(&folder).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
            let error = Bundle::read(&folder).unwrap_err();
            assert!(matches!(&error, PkiError::Corrupt { path, .. } if path.ends_with(name)), "{error}");
            assert!(error.to_string().contains("issue the bundle again"), "{error}");
        }
        fs::remove_file(folder.join(name)).unwrap();
        let error = Bundle::read(&folder).unwrap_err();
        assert!(matches!(&error, PkiError::Missing { path, .. } if path.ends_with(name)), "{error}");
    }
    for name in ["ca.pem", "ca.key"] {
        let good = fs::read(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name), broken).unwrap();
        let error = Authority::load(dir.path()).unwrap_err();
        assert!(matches!(&error, PkiError::Corrupt { path, .. } if path.ends_with(name)), "{error}");
        fs::write(dir.path().join(name), good).unwrap();
    }
    let other = authority_key();
    fs::write(dir.path().join("ca.key"), other).unwrap();
    assert!(matches!(Authority::load(dir.path()), Err(PkiError::Corrupt { path, .. }) if path.ends_with("ca.key")));
}

fn authority_key() -> String {
    let (dir, _authority) = authority();
    fs::read_to_string(dir.path().join("ca.key")).unwrap()
}

#[test]
fn development_makes_everything_once_and_mends_what_would_not_do() {
    let dir = tempfile::tempdir().unwrap();
    let first = development(dir.path(), &[]).unwrap();
    assert!(first.created);
    handshake(server_config(&first.node, ALPN).unwrap(), client_config(&first.client, ALPN).unwrap()).unwrap();
    assert_eq!(first.node.hosts().unwrap(), ["localhost", "127.0.0.1", "::1", SERVER_NAME]);
    let principal = first.client.principal().unwrap();
    assert_eq!(principal.tenant, "local");
    assert!([Role::Submit, Role::Critical, Role::Operate].into_iter().all(|role| principal.has(role)));
    assert!(!principal.has(Role::Peer));

    let again = development(dir.path(), &[]).unwrap();
    assert!(!again.created);
    assert_eq!((&again.node, &again.client), (&first.node, &first.client));

    // A new host: the node's certificate only, and only once.
    let hosts = ["fe80:0::1".to_owned(), "box.example".to_owned()];
    let named = development(dir.path(), &hosts).unwrap();
    assert_ne!(named.node, first.node);
    assert_eq!(named.client, first.client);
    assert_eq!(development(dir.path(), &hosts).unwrap().node, named.node);

    // Nearly expired.
    let authority = Authority::load(&dir.path().join("ca")).unwrap();
    let now = OffsetDateTime::now_utc();
    let ending = authority.issue_between(&principal, &[], now - Duration::days(30), now + Duration::hours(23)).unwrap();
    ending.write(&dir.path().join("client")).unwrap();
    let renewed = development(dir.path(), &hosts).unwrap();
    assert!(renewed.client.expires_at().unwrap() > now + Duration::days(80));
    assert_eq!(renewed.node, named.node);

    // Damaged, or half of a pair.
    fs::write(dir.path().join("client/key.pem"), "nothing").unwrap();
    fs::copy(dir.path().join("ca/ca.key"), dir.path().join("node/key.pem")).unwrap();
    let mended = development(dir.path(), &hosts).unwrap();
    handshake(server_config(&mended.node, ALPN).unwrap(), client_config(&mended.client, ALPN).unwrap()).unwrap();

    // Of another authority.
    fs::remove_dir_all(dir.path().join("ca")).unwrap();
    let fresh = development(dir.path(), &hosts).unwrap();
    assert!(fresh.created);
    let ca_pem = fs::read_to_string(dir.path().join("ca/ca.pem")).unwrap();
    assert_eq!((&fresh.node.ca_pem, &fresh.client.ca_pem), (&ca_pem, &ca_pem));
    handshake(server_config(&fresh.node, ALPN).unwrap(), client_config(&fresh.client, ALPN).unwrap()).unwrap();

    // Half an authority is not replaced.
    fs::remove_file(dir.path().join("ca/ca.pem")).unwrap();
    assert!(matches!(development(dir.path(), &hosts), Err(PkiError::Missing { path, .. }) if path.ends_with("ca.pem")));
}

#[test]
fn development_may_be_called_by_several_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| development(dir.path(), &[]).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|made| made.created).count(), 1);
    assert!(made.iter().all(|each| each.node == made[0].node && each.client == made[0].client));
}

#[test]
fn a_certificate_without_or_with_two_principals_names_none() {
    let key = rcgen::KeyPair::generate().unwrap();
    let with = |uris: &[&str]| {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())));
        principal_of(params.self_signed(&key).unwrap().der())
    };
    let (one, two) = (client().to_uri(), node().to_uri());
    assert_eq!(with(&[&one, "spiffe://elsewhere/x"]).unwrap(), client());
    assert!(matches!(with(&[]), Err(PkiError::NoPrincipal(_))));
    assert!(matches!(with(&[&one, &two]), Err(PkiError::NoPrincipal(_))));
    assert!(matches!(with(&["sensorium://a/b?roles=fly"]), Err(PkiError::NoPrincipal(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_principal_survives_its_certificate(
        tenant in "[a-zA-Z0-9._-]{1,64}",
        name in "[a-zA-Z0-9._-]{1,64}",
        roles in proptest::sample::subsequence(Role::ALL.to_vec(), 0..=4),
        tier in proptest::option::of(proptest::sample::select(Tier::ALL.to_vec())),
    ) {
        thread_local! { static AUTHORITY: (TempDir, Authority) = authority(); }
        let principal = Principal { tenant, name, roles, tier };
        let bundle = AUTHORITY.with(|(_, authority)| authority.issue(&principal, &[], 1)).unwrap();
        prop_assert_eq!(principal_of(&der(&bundle)).unwrap(), principal);
    }

    #[test]
    fn any_bytes_are_a_principal_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(principal_of(&bytes).is_err());
    }

    #[test]
    fn a_damaged_certificate_never_panics(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        thread_local! { static DER: Vec<u8> = der(&authority().1.issue(&node(), &[], 1).unwrap()).to_vec(); }
        let mut bytes = DER.with(Clone::clone);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let _ = principal_of(&bytes);
    }

    #[test]
    fn any_text_in_the_files_is_an_error(ca in ".{0,80}", cert in ".{0,80}", key in ".{0,80}") {
        let bundle = Bundle { ca_pem: ca, cert_pem: cert, key_pem: key };
        prop_assert!(server_config(&bundle, ALPN).is_err());
        prop_assert!(client_config(&bundle, ALPN).is_err());
    }
}
