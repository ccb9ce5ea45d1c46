//! QUIC endpoints: sockets, windows and packet sizes.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls_pki_types::CertificateDer;
use sensorium_wire::Principal;
use thiserror::Error;

use crate::pki::{self, Bundle, PkiError};

/// Clients submit jobs and open sessions.
pub const ALPN_API: &[u8] = b"sensorium/api/1";
/// Nodes forward jobs.
pub const ALPN_PEER: &[u8] = b"sensorium/peer/1";
/// Nodes run remote actors.
pub const ALPN_CONTROL: &[u8] = b"sensorium/control/1";

/// Taken for the round trip until it is measured, in milliseconds: a first packet that is lost is sent again after three
/// times as long. QUIC's own default of 333 makes that a second, by which a healed link would look broken.
const INITIAL_ROUND_TRIP_MS: u64 = 50;
/// Asked of the system for each direction of a socket, in bytes; without the privilege to force it, the system's own
/// limit holds and bursts lose packets earlier.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// What a peer may send on one stream ahead of our reading, in bytes.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// The same for a whole connection.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// UDP payload on loopback, whose MTU is 64 KiB: ten segments of it stay below what one system call may carry.
const LOOPBACK_PACKET_BYTES: u16 = 6400;
/// Bidirectional streams that a peer may have open: its coalesced ones and one per large job.
const STREAMS_MAX: u32 = 256;

/// How long a connection lives without a word from the other side.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    pub idle_ms_max: u32,
    pub keep_alive_ms: u32,
}

impl Liveness {
    /// For clients: survives a moment without a network.
    pub const API: Self = Self { idle_ms_max: 10_000, keep_alive_ms: 2_000 };
    /// For clients that have another node to go to: a node that is gone is noticed within 0.7 s, at the price of ten small
    /// packets a second each way. Each side brings its own limit, and QUIC takes the smaller one, but never less than
    /// three probe timeouts of the path (RFC 9000, section 10.1): a slow way is not taken for a dead node.
    pub const API_FAILOVER: Self = Self { idle_ms_max: 700, keep_alive_ms: 100 };
    /// Between nodes: the failure detector.
    pub const PEER: Self = Self { idle_ms_max: 1_500, keep_alive_ms: 300 };
}

/// Why there is no endpoint.
#[derive(Debug, Error)]
pub enum EndpointError {
    #[error("cannot listen on udp {address}: {source}{hint}")]
    Bind { address: SocketAddr, source: io::Error, hint: &'static str },
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("TLS configuration: {0}")]
    Tls(String),
}

/// A listening endpoint; accept with [`accept`].
pub struct Listener {
    endpoint: quinn::Endpoint,
    near: Arc<quinn::ServerConfig>,
    far: Arc<quinn::ServerConfig>,
}

impl Listener {
    /// Listens on `address` for the protocols `alpn`. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`EndpointError`], with a hint where the port is taken.
    pub fn bind(
        address: SocketAddr,
        bundle: &Bundle,
        alpn: &[&[u8]],
        liveness: Liveness,
    ) -> Result<Self, EndpointError> {
        let tls = QuicServerConfig::try_from(pki::server_config(bundle, alpn)?)
            .map_err(|error| EndpointError::Tls(error.to_string()))?;
        let mut far = quinn::ServerConfig::with_crypto(Arc::new(tls));
        // A client whose address changes keeps its streams: packets with its connection ids are taken from elsewhere, too,
        // and QUIC sends little to the new address until the client has proven that it is there.
        far.transport_config(transport(liveness, false)).migration(true);
        let mut near = far.clone();
        near.transport_config(transport(liveness, true));
        let endpoint = endpoint(address, Some(far.clone()))?;
        Ok(Self { endpoint, near: Arc::new(near), far: Arc::new(far) })
    }

    /// The next connection's handshake, to be awaited by a task of its own; `None` after [`Self::close`].
    pub async fn accept(&self) -> Option<quinn::Connecting> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let config = if is_near(incoming.remote_address()) { &self.near } else { &self.far };
            // An incoming connection that is malformed is dropped without a word, as QUIC prescribes.
            if let Ok(connecting) = incoming.accept_with(Arc::clone(config)) {
                return Some(connecting);
            }
        }
    }

    /// The address in use, with the port that the system chose if it was asked to.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Refuses new connections; those that exist go on.
    pub fn refuse_new(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Closes every connection with `reason` and waits until the peers know, for at most a second.
    pub async fn close(&self, reason: &str) {
        self.endpoint.close(0_u32.into(), reason.as_bytes());
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

/// A dialling endpoint.
#[derive(Clone)]
pub struct Dialer {
    endpoint: quinn::Endpoint,
    near: quinn::ClientConfig,
    far: quinn::ClientConfig,
}

impl Dialer {
    /// Prepares to dial for the protocol `alpn`. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn new(bundle: &Bundle, alpn: &[u8], liveness: Liveness, ipv6: bool) -> Result<Self, EndpointError> {
        let tls = QuicClientConfig::try_from(pki::client_config(bundle, &[alpn])?)
            .map_err(|error| EndpointError::Tls(error.to_string()))?;
        let mut far = quinn::ClientConfig::new(Arc::new(tls));
        far.transport_config(transport(liveness, false));
        let mut near = far.clone();
        near.transport_config(transport(liveness, true));
        let any: IpAddr = if ipv6 { [0_u16; 8].into() } else { [0_u8; 4].into() };
        Ok(Self { endpoint: endpoint(SocketAddr::new(any, 0), None)?, near, far })
    }

    /// Starts the handshake with the node at `address`.
    ///
    /// # Errors
    /// When the address cannot be dialled at all.
    pub fn dial(&self, address: SocketAddr) -> Result<quinn::Connecting, quinn::ConnectError> {
        let config = if is_near(address) { self.near.clone() } else { self.far.clone() };
        self.endpoint.connect_with(config, address, pki::SERVER_NAME)
    }

    /// Goes on from another local address, with another socket; connections and their streams stay. Peers hear of it by
    /// the next packet. An IPv4 address serves a dialler of IPv6, too.
    ///
    /// # Errors
    /// [`EndpointError::Bind`]; the old socket is kept then.
    pub fn rebind(&self, address: SocketAddr) -> Result<(), EndpointError> {
        let bind_error = |source| EndpointError::Bind { address, source, hint: "" };
        let ours = self.endpoint.local_addr().map_err(bind_error)?;
        let wanted = match address.ip() {
            IpAddr::V4(ip) if ours.is_ipv6() && ip.is_unspecified() => Ipv6Addr::UNSPECIFIED.into(),
            IpAddr::V4(ip) if ours.is_ipv6() => ip.to_ipv6_mapped().into(),
            IpAddr::V6(_) if ours.is_ipv4() => {
                return Err(bind_error(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "an IPv6 address, but the peers are dialled by IPv4",
                )));
            }
            ip => ip,
        };
        let socket = socket(SocketAddr::new(wanted, address.port())).map_err(|error| match error {
            EndpointError::Bind { source, .. } => bind_error(source),
            other => other,
        })?;
        self.endpoint.rebind(socket).map_err(bind_error)
    }

    /// Closes every connection with `reason`, and those that are being dialled.
    pub fn close(&self, reason: &str) {
        self.endpoint.close(0_u32.into(), reason.as_bytes());
    }

    /// Waits, for at most a second, until peers know that the connections are closed.
    pub async fn settle(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

/// Who is at the other end: the principal of the certificate that the handshake verified.
///
/// # Errors
/// [`PkiError`], when there is none or it names no principal.
pub fn peer_principal(connection: &quinn::Connection) -> Result<Principal, PkiError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .unwrap_or_default();
    // Without a certificate there is no handshake; an empty one is refused like any that names nobody.
    pki::principal_of(chain.first().map_or(&[], |leaf| leaf.as_ref()))
}

/// The protocol that both sides agreed on.
#[must_use]
pub fn protocol(connection: &quinn::Connection) -> Option<Vec<u8>> {
    let data = connection.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    data.protocol
}

fn is_near(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn endpoint(address: SocketAddr, server: Option<quinn::ServerConfig>) -> Result<quinn::Endpoint, EndpointError> {
    let socket = socket(address)?;
    let mut config = quinn::EndpointConfig::default();
    config
        .max_udp_payload_size(LOOPBACK_PACKET_BYTES + 100)
        .map_err(|error| EndpointError::Tls(format!("packet size: {error}")))?;
    quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime)).map_err(|source| EndpointError::Bind {
        address,
        source,
        hint: "",
    })
}

/// A UDP socket with room for bursts.
fn socket(address: SocketAddr) -> Result<UdpSocket, EndpointError> {
    let bind_error = |source: io::Error| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "; another process holds the port: stop it or choose another with --listen",
            io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
            _ => "",
        };
        EndpointError::Bind { address, source, hint }
    };
    let socket = UdpSocket::bind(address).map_err(bind_error)?;
    use rustix::net::sockopt;
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    }
    Ok(socket)
}

fn transport(liveness: Liveness, near: bool) -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config
        .max_idle_timeout(Some(quinn::VarInt::from_u32(liveness.idle_ms_max).into()))
        .keep_alive_interval(Some(Duration::from_millis(liveness.keep_alive_ms.into())))
        .initial_rtt(Duration::from_millis(INITIAL_ROUND_TRIP_MS))
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(STREAMS_MAX.into());
    if near {
        let mut discovery = quinn::MtuDiscoveryConfig::default();
        discovery.upper_bound(LOOPBACK_PACKET_BYTES);
        config.initial_mtu(LOOPBACK_PACKET_BYTES).min_mtu(LOOPBACK_PACKET_BYTES).mtu_discovery_config(Some(discovery));
    }
    Arc::new(config)
}

#[cfg(test)]
mod tests;
