use sensorium_wire::{Principal, Role, Tier};

use super::*;
use crate::pki::Authority;

fn on_this_thread<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Bundles of a node and a client of one authority.
fn bundles() -> (Bundle, Bundle) {
    let authority = Authority::create(&tempfile::tempdir().unwrap().path().join("ca")).unwrap();
    let issue = |roles: &[Role], tier| {
        let (tenant, name) = ("local".to_owned(), "tester".to_owned());
        authority.issue(&Principal { tenant, name, roles: roles.to_vec(), tier }, &[], 1).unwrap()
    };
    (issue(&[Role::Peer], Some(Tier::Edge)), issue(&[Role::Submit], None))
}

fn listener(bundle: &Bundle) -> Listener {
    Listener::bind("127.0.0.1:0".parse().unwrap(), bundle, &[ALPN_API], Liveness::API).unwrap()
}

/// Echoes on one stream; gives the client's address before and after.
async fn echo(listener: Listener) -> (SocketAddr, SocketAddr) {
    let connection = listener.accept().await.unwrap().await.unwrap();
    let before = connection.remote_address();
    let (mut send, mut recv) = connection.accept_bi().await.unwrap();
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.unwrap() {
        send.write_chunk(chunk.bytes).await.unwrap();
    }
    send.finish().unwrap();
    let after = connection.remote_address();
    connection.closed().await;
    (before, after)
}

#[test]
fn a_stream_goes_on_when_the_client_moves() {
    let (node, client) = bundles();
    on_this_thread(async {
        for ipv6 in [false, true] {
            let listener = listener(&node);
            let address = listener.address().unwrap();
            let echoing = tokio::spawn(echo(listener));
            let dialer = Dialer::new(&client, ALPN_API, Liveness::API, ipv6).unwrap();
            let connection = dialer.dial(address).unwrap().await.unwrap();
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            for round in 0..20_u8 {
                let said = vec![round; 50_000];
                send.write_all(&said).await.unwrap();
                dialer.rebind("127.0.0.1:0".parse().unwrap()).unwrap();
                let mut heard = vec![0; said.len()];
                recv.read_exact(&mut heard).await.unwrap();
                assert!(heard == said, "round {round}");
            }
            send.finish().unwrap();
            assert!(recv.read_chunk(1, true).await.unwrap().is_none());
            connection.close(0_u32.into(), b"");
            let (before, after) = echoing.await.unwrap();
            assert_ne!(before, after, "the node has not seen that the client moved");
        }
        let dialer = Dialer::new(&client, ALPN_API, Liveness::API, false).unwrap();
        let error = dialer.rebind("[::1]:0".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("IPv6"), "{error}");
    });
}

#[test]
fn the_shorter_liveness_of_the_two_sides_holds() {
    let (node, client) = bundles();
    // The node's side is of 10 s, and stands still from here on.
    let nodes = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = nodes.block_on(async { listener(&node) });
    let address = listener.address().unwrap();
    let clients = std::thread::spawn(move || {
        on_this_thread(async {
            let dial = async |liveness| {
                let dialer = Dialer::new(&client, ALPN_API, liveness, false).unwrap();
                (dialer.dial(address).unwrap().await.unwrap(), dialer)
            };
            let ((patient, _one), (hurried, _two)) = (dial(Liveness::API).await, dial(Liveness::API_FAILOVER).await);
            tokio::select! {
                reason = hurried.closed() => assert_eq!(reason, quinn::ConnectionError::TimedOut),
                reason = patient.closed() => panic!("the patient one was first: {reason}"),
            }
        });
    });
    let connections = nodes.block_on(async {
        let mut connections = Vec::new();
        for _ in 0..2 {
            connections.push(listener.accept().await.unwrap().await.unwrap());
        }
        connections
    });
    clients.join().unwrap();
    drop(connections);
}
