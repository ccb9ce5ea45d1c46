//! Why there is no answer. An answer that is not a result is not an error here: see [`crate::Answer`].

use thiserror::Error;

/// What can go wrong between application and node.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("certificates: {0}")]
    Certificates(String),
    #[error("no node answers at {address} ({reason}); is it running? start one with: sensorium node")]
    Unreachable { address: std::net::SocketAddr, reason: String },
    #[error(
        "the node at {address} does not accept this client ({reason}); its certificate must come from the node's authority: see sensorium ca"
    )]
    Rejected { address: std::net::SocketAddr, reason: String },
    #[error("the connection to {address} was lost and did not come back within {waited_ms} ms ({reason})")]
    Lost { address: std::net::SocketAddr, waited_ms: u64, reason: String },
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
