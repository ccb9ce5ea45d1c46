//! What comes in on the cluster port: control connections of children, and connections that carry their jobs.

use std::sync::Arc;
use std::time::Duration;

use sensorium_cluster::NodeId;
use sensorium_transport::{ALPN_CONTROL, Listener, peer_principal, protocol};
use sensorium_wire::Role;

use super::Cluster;
use super::control::Plane;
use crate::gateway::Gateway;

/// Connections that may be open at once; a node has few neighbours.
const CONNECTIONS_MAX: usize = 1_024;
/// How long a handshake may take, in milliseconds.
const HANDSHAKE_MS_MAX: u64 = 2_000;
const CLOSE_FORBIDDEN: u32 = 2;

/// Accepts nodes until the listener is closed.
pub async fn serve(cluster: Arc<Cluster>, gateway: Arc<Gateway>, plane: Plane, listener: Arc<Listener>) {
    let open = Arc::new(());
    while let Some(connecting) = listener.accept().await {
        if Arc::strong_count(&open) > CONNECTIONS_MAX {
            // Dropping the handshake refuses it.
            continue;
        }
        let counted = Arc::clone(&open);
        let (cluster, gateway, plane) = (Arc::clone(&cluster), Arc::clone(&gateway), Arc::clone(&plane));
        tokio::spawn(async move {
            let _counted = counted;
            let from = connecting.remote_address();
            let handshake = tokio::time::timeout(Duration::from_millis(HANDSHAKE_MS_MAX), connecting).await;
            let connection = match handshake {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => return tracing::warn!(%from, %error, "a node was turned away in the handshake"),
                Err(_) => return tracing::info!(%from, "a node's handshake took too long"),
            };
            if let Err(reason) = admit(&cluster, &gateway, &plane, &connection).await {
                tracing::warn!(%from, reason, "a node was turned away");
                connection.close(CLOSE_FORBIDDEN.into(), reason.as_bytes());
            }
        });
    }
}

/// Serves one connection to its end.
async fn admit(
    cluster: &Arc<Cluster>,
    gateway: &Arc<Gateway>,
    plane: &Plane,
    connection: &quinn::Connection,
) -> Result<(), String> {
    let principal = peer_principal(connection).map_err(|error| error.to_string())?;
    if !principal.has(Role::Peer) {
        return Err("the cluster port needs a certificate with the role peer".to_owned());
    }
    if cluster.is_alone() {
        return Err("this node belongs to no cluster; start it with --cluster FILE".to_owned());
    }
    if protocol(connection).is_some_and(|protocol| protocol == ALPN_CONTROL) {
        let plane = plane.lock().clone();
        let plane = plane.ok_or_else(|| "the cluster actor is starting; try again".to_owned())?;
        return plane.accept(connection.clone(), &principal).await;
    }
    let peer = NodeId::of(&principal.name);
    if !cluster.is_neighbour(peer) {
        return Err(format!("{} is no neighbour of this node", principal.name));
    }
    cluster.link(peer, connection);
    gateway.serve_node(connection.clone(), principal).await;
    cluster.unlink(peer, connection);
    Ok(())
}
