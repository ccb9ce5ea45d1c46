//! Keeping a connection to one of the nodes, and what goes over its streams.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sensorium_transport::{ALPN_API, Dialer, Outbox};
use sensorium_wire::Urgency;

use crate::dial::{self, Dialled, HEAD_START_MS};
use crate::inner::{ConnectedNode, Inner, Live, priority};
use crate::{ClientConfig, ClientError, FailedDial};

/// First pause before dialling again, in milliseconds; it doubles up to [`BACKOFF_MS_MAX`].
const BACKOFF_MS: u64 = 20;
const BACKOFF_MS_MAX: u64 = 1_000;
/// A connection that has lived that long was a good one, in milliseconds: the next is dialled without a pause.
const STEADY_MS: u64 = 1_000;
/// How long one round of dialling may take after a connection broke, in milliseconds.
const ROUND_MS_MAX: u64 = 2_000;

/// Dials, waits for the grant, and leaves a task behind that keeps a connection.
pub(crate) async fn open(config: ClientConfig) -> Result<Arc<Inner>, ClientError> {
    let config = config.checked()?;
    let dialer = dialer(&config).map_err(|error| ClientError::Certificates(error.to_string()))?;
    let inner = Arc::new(Inner::new(config, dialer));
    let (addresses, wait) = (&inner.config.addresses, Duration::from_millis(inner.config.connect_ms_max));
    let dialled = dial::first_of(&inner.dialer, addresses, wait).await.map_err(|mut tried| match tried.len() {
        1 => tried.remove(0).into(),
        _ => ClientError::NoNode { tried },
    })?;
    for skipped in &dialled.skipped {
        tracing::warn!("{skipped}; using {}", dialled.address);
    }
    let link = install(&inner, dialled);
    tokio::spawn(keep(Arc::downgrade(&inner), link));
    Ok(inner)
}

/// One socket for all nodes; an IPv6 one reaches both families where the machine has both.
fn dialer(config: &ClientConfig) -> Result<Dialer, sensorium_transport::EndpointError> {
    let dialer = |ipv6| Dialer::new(&config.bundle, ALPN_API, config.liveness(), ipv6);
    let ipv6 = config.addresses.iter().any(SocketAddr::is_ipv6);
    match dialer(ipv6) {
        Err(sensorium_transport::EndpointError::Bind { .. }) if config.addresses.iter().any(SocketAddr::is_ipv4) => {
            dialer(false)
        }
        outcome => outcome,
    }
}

/// The connection that is kept.
struct Link {
    number: u64,
    address: SocketAddr,
    connection: quinn::Connection,
}

/// Starts the streams of a fresh connection and sends what is unanswered.
fn install(inner: &Arc<Inner>, dialled: Dialled) -> Link {
    let Dialled { address, connection, grant, skipped } = dialled;
    let number = inner.next_number();
    let outboxes = Inner::outboxes();
    let writers = Urgency::ALL.map(|urgency| {
        let outbox = outboxes[urgency as usize].clone();
        tokio::spawn(coalesced(Arc::downgrade(inner), number, connection.clone(), urgency, outbox))
    });
    let (weak, accepting) = (Arc::downgrade(inner), connection.clone());
    tokio::spawn(async move {
        // Large answers to small jobs come on streams of their own.
        while let Ok(stream) = accepting.accept_uni().await {
            tokio::spawn(read_answers(weak.clone(), number, stream));
        }
    });
    inner.credits.apply(&grant);
    let node = ConnectedNode { name: grant.node.as_str().to_owned(), address };
    inner.install(Live { number, node, connection: connection.clone(), outboxes, writers: writers.into() }, skipped);
    Link { number, address, connection }
}

/// Watches the connection and opens another when it breaks or its node is stopping.
async fn keep(weak: Weak<Inner>, mut link: Link) {
    let Some(mut leaving) = weak.upgrade().map(|inner| inner.leaving.subscribe()) else { return };
    let mut pause_ms = BACKOFF_MS;
    loop {
        let since = Instant::now();
        let reason = tokio::select! {
            reason = link.connection.closed() => {
                let Some(inner) = weak.upgrade() else { return };
                inner.lost(link.number);
                reason.to_string()
            }
            Ok(_) = leaving.wait_for(|number| *number >= link.number) => {
                tokio::spawn(linger(weak.clone(), link.number, link.connection));
                "the node is stopping".to_owned()
            }
        };
        tracing::debug!(address = %link.address, reason, "connection lost");
        if since.elapsed() >= Duration::from_millis(STEADY_MS) {
            pause_ms = BACKOFF_MS;
        } else {
            // One that breaks as soon as it is up must not be dialled in a circle.
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            pause_ms = (pause_ms * 2).min(BACKOFF_MS_MAX);
        }
        let Some(dialled) = redial(&weak, link.address, &reason).await else { return };
        let Some(inner) = weak.upgrade() else { return };
        inner.reconnects.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(address = %dialled.address, node = %dialled.grant.node, "connected again");
        link = install(&inner, dialled);
    }
}

/// Waits for the end of a connection to a node that is stopping; what it did not answer goes elsewhere.
async fn linger(inner: Weak<Inner>, number: u64, connection: quinn::Connection) {
    connection.closed().await;
    if let Some(inner) = inner.upgrade() {
        inner.lost(number);
    }
}

/// Dials the nodes that come after the lost one in the list, and that one last, round after round; `None` when the client
/// is closed or `reconnect_ms_max` is over, which ends what is unanswered.
async fn redial(weak: &Weak<Inner>, lost: SocketAddr, reason: &str) -> Option<Dialled> {
    let began = Instant::now();
    let (dialer, order, waited_ms) = {
        let inner = weak.upgrade()?;
        (inner.dialer.clone(), after(&inner.config.addresses, lost), inner.config.reconnect_ms_max)
    };
    let limit = Duration::from_millis(waited_ms);
    let heads = HEAD_START_MS.saturating_mul(order.len().saturating_sub(1) as u64);
    let round = Duration::from_millis(ROUND_MS_MAX + heads);
    let (mut pause_ms, mut tried) = (BACKOFF_MS, Vec::<FailedDial>::new());
    loop {
        if weak.upgrade()?.is_ended() {
            return None;
        }
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            let (reason, address) = (reason.to_owned(), lost);
            let error = move || {
                let (reason, tried) = (reason.clone(), tried.clone());
                ClientError::Lost { address, waited_ms, reason, tried }
            };
            weak.upgrade()?.end(error);
            return None;
        }
        match dial::first_of(&dialer, &order, left.min(round)).await {
            Ok(dialled) => return Some(dialled),
            Err(failures) => tried = failures,
        }
        tokio::time::sleep(Duration::from_millis(pause_ms).min(limit.saturating_sub(began.elapsed()))).await;
        pause_ms = (pause_ms * 2).min(BACKOFF_MS_MAX);
    }
}

/// The list from the node after this one on, around to it.
fn after(addresses: &[SocketAddr], lost: SocketAddr) -> Vec<SocketAddr> {
    let mut order = addresses.to_vec();
    let next = addresses.iter().position(|address| *address == lost).map_or(0, |at| at + 1);
    order.rotate_left(next.min(addresses.len()));
    order
}

/// Opens the coalesced stream of one urgency when it is first needed, then writes and reads it. Ends when all is
/// acknowledged after the outbox was finished.
async fn coalesced(inner: Weak<Inner>, number: u64, connection: quinn::Connection, urgency: Urgency, outbox: Outbox) {
    outbox.wait_for_first().await;
    if outbox.queued_bytes() == 0 {
        return;
    }
    let Ok((mut send, recv)) = connection.open_bi().await else { return };
    let _ = send.set_priority(priority(urgency));
    tokio::spawn(read_answers(inner, number, recv));
    outbox.write_to(&mut send).await;
    let _ = send.stopped().await;
}

/// Reads answers from one stream until it ends.
pub(crate) async fn read_answers(inner: Weak<Inner>, number: u64, stream: quinn::RecvStream) {
    sensorium_transport::read_answers(stream, |correlation, header, payload| {
        let Some(inner) = inner.upgrade() else { return false };
        inner.complete(number, correlation, header, &payload);
        true
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_of_the_list_is_dialled_first_and_the_lost_one_last() {
        let addresses: Vec<SocketAddr> = (1..=3_u16).map(|port| ([127, 0, 0, 1], port).into()).collect();
        let ports = |lost: u16| {
            let order = after(&addresses, ([127, 0, 0, 1], lost).into());
            order.iter().map(SocketAddr::port).collect::<Vec<_>>()
        };
        assert_eq!((ports(1), ports(2), ports(3)), (vec![2, 3, 1], vec![3, 1, 2], vec![1, 2, 3]));
        assert_eq!(after(&addresses[..1], addresses[0]), &addresses[..1]);
    }
}
