//! One client's connection: identity, grant, streams.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use sensorium_transport::peer_principal;
use sensorium_wire::codec::FrameWriter;
use sensorium_wire::session::GrantHeader;
use sensorium_wire::{Kind, Principal, Role, limits};

use super::Gateway;
use super::stream::{self, Peer};
use crate::cluster::Origin;
use crate::engine::Caller;

/// How long a handshake may take, in milliseconds.
const HANDSHAKE_MS_MAX: u64 = 5_000;
/// Application close codes.
const CLOSE_FORBIDDEN: u32 = 2;
const CLOSE_BUSY: u32 = 3;

pub(super) async fn serve(gateway: &Arc<Gateway>, connecting: quinn::Connecting, room: bool) {
    let from = connecting.remote_address();
    let handshake = tokio::time::timeout(Duration::from_millis(HANDSHAKE_MS_MAX), connecting).await;
    let connection = match handshake {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::info!(%from, %error, "handshake failed"),
        Err(_) => return tracing::info!(%from, "handshake took too long"),
    };
    let principal = match identify(&connection) {
        Ok(principal) => principal,
        Err(reason) => {
            tracing::info!(%from, reason, "turned away");
            return connection.close(CLOSE_FORBIDDEN.into(), reason.as_bytes());
        }
    };
    if !room {
        return connection.close(CLOSE_BUSY.into(), b"too many connections; try again later");
    }
    let engine = &gateway.engine;
    let Some(id) = engine.caller_id(&format!("{}/{}", principal.tenant, principal.name)) else {
        return connection.close(CLOSE_BUSY.into(), b"too many principals are known; try another node");
    };
    let caller = Caller::new(id, &principal);
    tracing::debug!(%from, tenant = principal.tenant, name = principal.name, "connected");
    if grant(gateway, &connection).await.is_err() {
        return;
    }
    let origin = Origin::of(&principal);
    streams(Peer {
        gateway: Arc::clone(gateway),
        connection: connection.clone(),
        principal,
        caller,
        origin,
        is_node: false,
        in_flight: Arc::default(),
        sessions: Arc::new(()),
    })
    .await;
    tracing::debug!(%from, "disconnected");
}

/// Serves the jobs that a neighbour hands on, until its connection ends.
pub(super) async fn serve_node(gateway: &Arc<Gateway>, connection: quinn::Connection, principal: Principal) {
    let Some(id) = gateway.engine.caller_id(&format!("node/{}", principal.name)) else {
        return connection.close(CLOSE_BUSY.into(), b"too many principals are known");
    };
    let caller = Caller { id, critical: false };
    streams(Peer {
        gateway: Arc::clone(gateway),
        connection,
        principal,
        caller,
        origin: Origin::default(),
        is_node: true,
        in_flight: Arc::default(),
        sessions: Arc::new(()),
    })
    .await;
}

async fn streams(peer: Peer) {
    let peer = Arc::new(peer);
    while let Ok((send, recv)) = peer.connection.accept_bi().await {
        tokio::spawn(stream::serve(Arc::clone(&peer), send, recv));
    }
}

/// The principal of the certificate that the handshake verified.
fn identify(connection: &quinn::Connection) -> Result<Principal, String> {
    let principal = peer_principal(connection).map_err(|error| error.to_string())?;
    if !principal.has(Role::Submit) && !principal.has(Role::Operate) {
        return Err(format!(
            "{}/{} has neither the role submit nor operate; issue a certificate with one of them",
            principal.tenant, principal.name
        ));
    }
    Ok(principal)
}

/// Tells the client what it may have in flight.
async fn grant(gateway: &Gateway, connection: &quinn::Connection) -> Result<(), quinn::WriteError> {
    let header = GrantHeader {
        jobs_in_flight_max: limits::JOBS_IN_FLIGHT_MAX,
        sessions_max: limits::SESSIONS_MAX,
        bytes_in_flight_max: limits::BYTES_IN_FLIGHT_MAX,
        node: gateway.engine.node,
    };
    let mut stream = connection.open_uni().await?;
    let mut frame = BytesMut::new();
    FrameWriter::default().put(&mut frame, Kind::Grant, 0, &header, 0);
    stream.write_chunk(frame.freeze()).await?;
    let _ = stream.finish();
    Ok(())
}
