//! QUIC with mutual TLS 1.3: endpoints, certificates, and frames on streams.
//!
//! This crate moves frames and knows who sent them. It does not know what a job is for: admission, queues and answers
//! belong to the node and the client.

mod answers;
pub mod endpoint;
pub mod frames;
pub mod outbox;
pub mod pki;

pub use answers::read_answers;
pub use endpoint::{
    ALPN_API, ALPN_CONTROL, ALPN_PEER, Dialer, EndpointError, Listener, Liveness, peer_principal, protocol,
};
pub use frames::{FrameReader, Step};
pub use outbox::{Outbox, OutboxError, Payload};
pub use pki::PkiError;
