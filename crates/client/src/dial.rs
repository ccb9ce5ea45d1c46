//! From a list of addresses to a connection: who answers first is taken, those in front have a head start.
//!
//! A node that is gone does not say so, and waiting for each in turn would add up; so the next one is dialled beside it
//! after a moment (as RFC 8305 does it for the addresses of one host).

use std::net::SocketAddr;
use std::time::Duration;

use sensorium_transport::{Dialer, FrameReader, Step};
use sensorium_wire::codec::decode_header;
use sensorium_wire::session::GrantHeader;
use sensorium_wire::{Kind, limits};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::FailedDial;
use crate::error::DialFailure;

/// How long a node is waited for before the next one of the list is dialled beside it, in milliseconds.
pub(crate) const HEAD_START_MS: u64 = 250;

/// A connection that is up.
pub(crate) struct Dialled {
    pub(crate) address: SocketAddr,
    pub(crate) connection: quinn::Connection,
    pub(crate) grant: GrantHeader,
    /// Those before it in the order, and why not.
    pub(crate) skipped: Vec<FailedDial>,
}

/// Dials nodes in this order until one answers, for at most `wait`. Each gets at least its share of that time.
pub(crate) async fn first_of(
    dialer: &Dialer,
    order: &[SocketAddr],
    wait: Duration,
) -> Result<Dialled, Vec<FailedDial>> {
    let began = Instant::now();
    let shares = u32::try_from(order.len()).unwrap_or(u32::MAX).max(1);
    let head_start = Duration::from_millis(HEAD_START_MS).min(wait / shares);
    let (mut racing, mut failures, mut started) = (JoinSet::new(), Vec::new(), 0);
    loop {
        if let Some(address) = order.get(started).copied() {
            let (dialer, left) = (dialer.clone(), wait.saturating_sub(began.elapsed()));
            racing.spawn(async move { dial(&dialer, address, left).await });
            started += 1;
        }
        let alone = started == order.len();
        let ended = if alone {
            racing.join_next().await
        } else {
            // The next one starts when its time has come, or at once when one in front has failed.
            let Ok(ended) = tokio::time::timeout(head_start, racing.join_next()).await else { continue };
            ended
        };
        match ended {
            Some(Ok(Ok(mut dialled))) => {
                let waited = began.elapsed();
                let silent = order[..started].iter().filter(|address| {
                    **address != dialled.address
                        && !failures.iter().any(|failed: &FailedDial| failed.address == **address)
                });
                let silent: Vec<_> = silent.map(|address| no_answer(*address, waited)).collect();
                dialled.skipped = in_order(order, failures.into_iter().chain(silent));
                return Ok(dialled);
            }
            Some(Ok(Err(failure))) => failures.push(failure),
            // Nothing panics there, and nothing is aborted before the end.
            Some(Err(error)) => tracing::error!(%error, "dialling"),
            None if alone => return Err(in_order(order, failures.into_iter())),
            None => {}
        }
    }
}

fn in_order(order: &[SocketAddr], failures: impl Iterator<Item = FailedDial>) -> Vec<FailedDial> {
    let mut failures: Vec<_> = failures.collect();
    failures.sort_by_key(|failed| order.iter().position(|address| *address == failed.address));
    failures
}

fn no_answer(address: SocketAddr, waited: Duration) -> FailedDial {
    let reason = format!("no answer within {} ms", waited.as_millis());
    FailedDial { address, reason, kind: DialFailure::NoAnswer }
}

/// One handshake, with the grant that follows it.
async fn dial(dialer: &Dialer, address: SocketAddr, wait: Duration) -> Result<Dialled, FailedDial> {
    let failed = |kind, reason: String| FailedDial { address, reason, kind };
    let attempt = async {
        let connecting = dialer.dial(address).map_err(|error| failed(DialFailure::NoAnswer, error.to_string()))?;
        let connection = connecting.await.map_err(|error| explain(address, &error))?;
        // With TLS 1.3 the node judges our certificate after our side of the handshake is done: the grant is the proof.
        let mut stream = connection.accept_uni().await.map_err(|error| explain(address, &error))?;
        let bytes = stream.read_to_end(limits::HEADER_BYTES_MAX).await.map_err(|error| match error {
            quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(error)) => explain(address, &error),
            error => failed(DialFailure::Protocol, error.to_string()),
        })?;
        let grant = read_grant(&bytes).map_err(|reason| failed(DialFailure::Protocol, reason))?;
        Ok(Dialled { address, connection, grant, skipped: Vec::new() })
    };
    tokio::time::timeout(wait, attempt).await.map_err(|_| no_answer(address, wait))?
}

fn explain(address: SocketAddr, error: &quinn::ConnectionError) -> FailedDial {
    let reason = error.to_string();
    match error {
        quinn::ConnectionError::TransportError(_) | quinn::ConnectionError::ConnectionClosed(_) => {
            FailedDial { address, reason, kind: DialFailure::Rejected }
        }
        quinn::ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            FailedDial { address, reason, kind: DialFailure::Rejected }
        }
        _ => FailedDial { address, reason, kind: DialFailure::NoAnswer },
    }
}

fn read_grant(bytes: &[u8]) -> Result<GrantHeader, String> {
    let (mut reader, mut input) = (FrameReader::default(), bytes);
    match reader.step(&mut input).map_err(|error| error.to_string())? {
        Step::Head(prelude) if prelude.kind == Kind::Grant => {
            decode_header(Kind::Grant, reader.header()).map_err(|error| error.to_string())
        }
        step => Err(format!("a grant was expected, not {step:?}")),
    }
}
