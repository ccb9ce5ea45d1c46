//! Certificates: an authority, the bundles that it issues, and the TLS configurations made of them.
//!
//! Both sides of every connection show a certificate of one authority, and the certificate says who its holder is: a
//! [`Principal`] in a URI subject alternative name. Nothing here decides what a principal may do, there are no lists of
//! revoked certificates (issue short-lived ones), and no private key ever leaves the folder that it was written to.

mod authority;
mod bundle;
mod development;
mod error;
mod files;
mod identity;
mod tls;

#[cfg(test)]
mod tests;

pub use authority::{Authority, VALID_DAYS_MAX};
pub use bundle::Bundle;
pub use development::{Development, development};
pub use error::PkiError;
pub use identity::principal_of;
pub use tls::{client_config, server_config};

#[cfg(doc)]
use sensorium_wire::Principal;

/// The name that every node's certificate carries and every client verifies, whatever address it dialled: addresses
/// change, and what a name in the network resolves to proves nothing that the authority has not said.
pub const SERVER_NAME: &str = "node.sensorium";
