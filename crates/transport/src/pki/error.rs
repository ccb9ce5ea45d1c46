//! What can go wrong with certificates, told so that an operator can act on it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why there is no certificate, key or TLS configuration.
#[derive(Debug, Error)]
pub enum PkiError {
    #[error("{} is missing: {advice}", path.display())]
    Missing { path: PathBuf, advice: &'static str },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is corrupt: {detail}; {advice}", path.display())]
    Corrupt { path: PathBuf, detail: String, advice: &'static str },
    #[error(
        "{} exists already: an authority is never overwritten, because every certificate that it issued would become \
         worthless; move it away or choose another folder", path.display()
    )]
    Exists { path: PathBuf },
    #[error("the {part} is not usable: {detail}; issue the bundle again")]
    Bundle { part: &'static str, detail: String },
    #[error("{host:?} is neither a host name nor an IP address")]
    Host { host: String },
    #[error("{count} hosts in one certificate; at most {max}")]
    Hosts { count: usize, max: usize },
    #[error("{days} days of validity; 1 to {max} are possible")]
    ValidDays { days: u32, max: u32 },
    #[error("the principal {uri:?} cannot be put into a certificate: tenant and name are 1 to 64 of a-z A-Z 0-9 . _ -")]
    Principal { uri: String },
    #[error("the authority's own certificate ended at {ended}: create a new authority")]
    AuthorityExpired { ended: String },
    #[error("not a certificate: {0}")]
    NotACertificate(String),
    #[error("the certificate names no principal that is understood here: {0}")]
    NoPrincipal(String),
    #[error("cannot make a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}
