//! Which nodes there are, who we are, and how long is waited.

use std::net::SocketAddr;
use std::path::Path;

use sensorium_transport::Liveness;
use sensorium_transport::pki::Bundle;

use crate::ClientError;

/// Most nodes in a client's list.
pub const NODES_MAX: usize = 16;

/// Which nodes there are and who we are.
#[derive(Clone)]
pub struct ClientConfig {
    /// The nodes' addresses, 1 to [`NODES_MAX`], in order of preference. They must be of one authority and may do the same
    /// work. With more than one, a node that is gone is noticed sooner ([`Liveness::API_FAILOVER`]).
    pub addresses: Vec<SocketAddr>,
    pub bundle: Bundle,
    /// How long the first connection may take, in milliseconds, for all nodes together. Default 5,000.
    pub connect_ms_max: u64,
    /// How long nodes are dialled after a connection broke, in milliseconds; then what is unanswered fails. Default
    /// 10,000.
    pub reconnect_ms_max: u64,
}

impl ClientConfig {
    /// For one node. Reads the certificate bundle in `folder` (`ca.pem`, `cert.pem`, `key.pem`).
    ///
    /// # Errors
    /// When a file is missing or is not what it should be.
    pub fn from_bundle(folder: &Path, address: SocketAddr) -> Result<Self, ClientError> {
        Self::from_bundle_many(folder, vec![address])
    }

    /// For several nodes, in order of preference.
    ///
    /// # Errors
    /// When a file of the bundle is missing or is not what it should be.
    pub fn from_bundle_many(folder: &Path, addresses: Vec<SocketAddr>) -> Result<Self, ClientError> {
        let bundle = Bundle::read(folder).map_err(|error| ClientError::Certificates(error.to_string()))?;
        Ok(Self { addresses, bundle, connect_ms_max: 5_000, reconnect_ms_max: 10_000 })
    }

    /// One more node, to go to when those before it are gone.
    #[must_use]
    pub fn also(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// The same with each address once.
    pub(crate) fn checked(mut self) -> Result<Self, ClientError> {
        let given = self.addresses.len();
        if given == 0 || given > NODES_MAX {
            return Err(ClientError::Invalid(format!("{given} nodes: 1 to {NODES_MAX} addresses are expected")));
        }
        let mut seen = Vec::with_capacity(given);
        self.addresses.retain(|address| {
            !seen.contains(address) && {
                seen.push(*address);
                true
            }
        });
        Ok(self)
    }

    pub(crate) fn liveness(&self) -> Liveness {
        if self.addresses.len() > 1 { Liveness::API_FAILOVER } else { Liveness::API }
    }
}
