//! Why there is no answer. An answer that is not a result is not an error here: see [`crate::Answer`].

use std::fmt;
use std::net::SocketAddr;

use sensorium_wire::JobId;
use thiserror::Error;

/// What can go wrong between application and node.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("certificates: {0}")]
    Certificates(String),
    #[error("no node answers at {address} ({reason}); is it running? start one with: sensorium node")]
    Unreachable { address: SocketAddr, reason: String },
    #[error(
        "the node at {address} does not accept this client ({reason}); its certificate must come from the node's authority: see sensorium ca"
    )]
    Rejected { address: SocketAddr, reason: String },
    /// Of several nodes; in the order of the list.
    #[error("none of the {} nodes can be used: {}", tried.len(), listed(tried))]
    NoNode { tried: Vec<FailedDial> },
    /// What is unanswered ends with this, and the client with it.
    #[error(
        "the connection to {address} was lost and did not come back within {waited_ms} ms ({reason}){}",
        also_tried(tried)
    )]
    Lost { address: SocketAddr, waited_ms: u64, reason: String, tried: Vec<FailedDial> },
    /// Of a job that no node was there for when its deadline passed. When it was sent before (`sent` times), whether it was
    /// run is not known.
    #[error("job {job_id}: its deadline passed while no node could be reached; it had been sent {sent} times")]
    Expired { job_id: JobId, sent: u32 },
    /// Nobody took the session up.
    #[error(
        "the session broke off {after_ms} ms after it was opened and {events} events: the node {node} at {address} was lost ({reason})"
    )]
    SessionLost { node: String, address: SocketAddr, after_ms: u64, events: u64, reason: String },
    #[error("no answer {waited_ms} ms after the deadline")]
    Silent { waited_ms: u64 },
    #[error("the client was closed")]
    Closed,
    #[error("{0}")]
    Invalid(String),
    #[error("{path}: {source}")]
    File { path: std::path::PathBuf, source: std::io::Error },
    #[error("the node refuses: {0}")]
    Refused(String),
    #[error("the node broke the protocol: {0}")]
    Protocol(String),
}

/// A node of the list that could not be used when it was dialled last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedDial {
    pub address: SocketAddr,
    pub reason: String,
    pub(crate) kind: DialFailure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialFailure {
    NoAnswer,
    Rejected,
    Protocol,
}

impl fmt::Display for FailedDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            DialFailure::NoAnswer => "does not answer",
            DialFailure::Rejected => "does not accept this client",
            DialFailure::Protocol => "breaks the protocol",
        };
        write!(f, "{} {what} ({})", self.address, self.reason)
    }
}

impl From<FailedDial> for ClientError {
    fn from(FailedDial { address, reason, kind }: FailedDial) -> Self {
        match kind {
            DialFailure::NoAnswer => Self::Unreachable { address, reason },
            DialFailure::Rejected => Self::Rejected { address, reason },
            DialFailure::Protocol => Self::Protocol(reason),
        }
    }
}

fn listed(tried: &[FailedDial]) -> String {
    tried.iter().map(FailedDial::to_string).collect::<Vec<_>>().join("; ")
}

fn also_tried(tried: &[FailedDial]) -> String {
    // Of a single node nothing is said twice.
    if tried.len() > 1 { format!("; {}", listed(tried)) } else { String::new() }
}
