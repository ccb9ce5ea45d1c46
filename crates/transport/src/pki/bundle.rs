//! What one node or client needs to connect: the authority's certificate, its own, and its key.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sensorium_wire::Principal;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

use super::files::{self, Secrecy};
use super::{PkiError, identity, principal_of};

const ADVICE: &str = "issue the bundle again with the authority, and copy the whole folder (ca.pem, cert.pem, key.pem)";
/// Certificates in one file; a chain is rarely longer than three.
const CERTIFICATES_MAX: usize = 16;

/// The three files of a holder, as PEM text.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Certificates of the authorities that are trusted: one, or two while they are being exchanged.
    pub ca_pem: String,
    /// The holder's certificate, then intermediate ones if there are any.
    pub cert_pem: String,
    /// The holder's private key. Secret.
    pub key_pem: String,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("principal", &self.principal().ok()).finish_non_exhaustive()
    }
}

impl Bundle {
    /// Writes `ca.pem`, `cert.pem` and `key.pem` (mode 0600) into `dir`, which is created with mode 0700 if it is not
    /// there. Replaces what is there, each file at once.
    ///
    /// # Errors
    /// [`PkiError::Write`].
    pub fn write(&self, dir: &Path) -> Result<(), PkiError> {
        files::create_folder(dir)?;
        files::replace(&dir.join("key.pem"), &self.key_pem, Secrecy::Secret)?;
        files::replace(&dir.join("cert.pem"), &self.cert_pem, Secrecy::Public)?;
        files::replace(&dir.join("ca.pem"), &self.ca_pem, Secrecy::Public)
    }

    /// Reads what [`Self::write`] wrote. Checks that every file holds what it should and that the certificate names a
    /// principal, not whether the three belong together: [`super::server_config`] and [`super::client_config`] do.
    ///
    /// # Errors
    /// [`PkiError::Missing`], [`PkiError::Read`] or [`PkiError::Corrupt`], with the file and what to do.
    pub fn read(dir: &Path) -> Result<Self, PkiError> {
        let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.join(name));
        let bundle = Self {
            ca_pem: files::read(&ca, ADVICE)?,
            cert_pem: files::read(&cert, ADVICE)?,
            key_pem: files::read(&key, ADVICE)?,
        };
        let corrupt = |path, error: PkiError| PkiError::Corrupt { path, detail: detail_of(error), advice: ADVICE };
        bundle.authorities().map_err(|error| corrupt(ca, error))?;
        bundle.principal().map_err(|error| corrupt(cert, error))?;
        bundle.key().map_err(|error| corrupt(key, error))?;
        Ok(bundle)
    }

    /// Whom the certificate speaks for.
    ///
    /// # Errors
    /// [`PkiError::Bundle`] when it is not a certificate, [`PkiError::NoPrincipal`].
    pub fn principal(&self) -> Result<Principal, PkiError> {
        principal_of(&self.leaf()?)
    }

    /// When the certificate ends.
    ///
    /// # Errors
    /// [`PkiError::Bundle`] or [`PkiError::NotACertificate`] when it is not a certificate.
    pub fn expires_at(&self) -> Result<OffsetDateTime, PkiError> {
        Ok(identity::parse(&self.leaf()?)?.validity().not_after.to_datetime())
    }

    /// The host names and IP addresses that the certificate names.
    ///
    /// # Errors
    /// [`PkiError::Bundle`] or [`PkiError::NotACertificate`] when it is not a certificate.
    pub fn hosts(&self) -> Result<Vec<String>, PkiError> {
        let leaf = self.leaf()?;
        let certificate = identity::parse(&leaf)?;
        let names = identity::alternative_names(&certificate)?;
        Ok(names.iter().filter_map(host).collect())
    }

    pub(super) fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let authorities = certificates(&self.ca_pem, "authority's certificate (ca.pem)")?;
        for authority in &authorities {
            identity::parse(authority)?;
        }
        Ok(authorities)
    }

    /// The holder's certificate and the intermediate ones; never empty.
    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        certificates(&self.cert_pem, "certificate (cert.pem)")
    }

    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|error| PkiError::Bundle { part: "private key (key.pem)", detail: error.to_string() })
    }

    fn leaf(&self) -> Result<CertificateDer<'static>, PkiError> {
        self.chain().map(|mut chain| chain.swap_remove(0))
    }
}

fn certificates(pem: &str, part: &'static str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let error = |detail: String| PkiError::Bundle { part, detail };
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(CERTIFICATES_MAX + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| error(source.to_string()))?;
    match certificates.len() {
        0 => Err(error("it holds no PEM certificate".to_owned())),
        1..=CERTIFICATES_MAX => Ok(certificates),
        _ => Err(error(format!("it holds more than {CERTIFICATES_MAX} certificates"))),
    }
}

/// The detail alone, for errors that name the file instead of the part.
fn detail_of(error: PkiError) -> String {
    match error {
        PkiError::Bundle { detail, .. } => detail,
        other => other.to_string(),
    }
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}
