//! The cluster endpoint: other nodes, told apart from clients by the role `peer`.
//!
//! Today it lets nodes prove who they are and measure the way between them (a question gets the same bytes back).
//! Forwarding and membership build on it.

use std::sync::Arc;
use std::time::Duration;

use sensorium_transport::{Listener, peer_principal};
use sensorium_wire::Role;

/// Connections that may be open at once; a node has few neighbours.
const CONNECTIONS_MAX: usize = 1_024;
/// How long a handshake may take, in milliseconds.
const HANDSHAKE_MS_MAX: u64 = 2_000;
/// Longest probe, in bytes.
const PROBE_BYTES_MAX: usize = 1_200;
const CLOSE_FORBIDDEN: u32 = 2;

/// Accepts nodes until the listener is closed.
pub(crate) async fn serve(listener: Arc<Listener>) {
    let open = Arc::new(());
    while let Some(connecting) = listener.accept().await {
        if Arc::strong_count(&open) > CONNECTIONS_MAX {
            // Dropping the handshake refuses it.
            continue;
        }
        let counted = Arc::clone(&open);
        tokio::spawn(async move {
            let _counted = counted;
            let handshake = tokio::time::timeout(Duration::from_millis(HANDSHAKE_MS_MAX), connecting).await;
            let Ok(Ok(connection)) = handshake else { return };
            if !peer_principal(&connection).is_ok_and(|principal| principal.has(Role::Peer)) {
                return connection
                    .close(CLOSE_FORBIDDEN.into(), b"the cluster port needs a certificate with the role peer");
            }
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    if let Ok(probe) = recv.read_to_end(PROBE_BYTES_MAX).await {
                        let _ = send.write_all(&probe).await;
                        let _ = send.finish();
                    }
                });
            }
        });
    }
}
