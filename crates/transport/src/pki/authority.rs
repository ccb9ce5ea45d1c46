//! The authority that vouches for nodes and clients.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName};
use sensorium_wire::{Principal, Role};
use time::{Duration, OffsetDateTime};

use super::files::{self, Secrecy};
use super::{Bundle, PkiError, SERVER_NAME, identity};

/// Longest validity of an issued certificate, in days.
pub const VALID_DAYS_MAX: u32 = 3_650;

const AUTHORITY_VALID_DAYS: i64 = 3_650;
/// Certificates begin this long before they are issued: clocks disagree, by hours where one takes local time for UTC.
const BACKDATED: Duration = Duration::DAY;
/// Host names and addresses in one certificate.
const HOSTS_MAX: usize = 64;
const ADVICE: &str = "restore the authority's folder (ca.pem, ca.key) from its backup, or create a new authority in \
                      another folder and issue every bundle again";

/// Issues certificates. Whoever holds its folder can be anyone: keep it off the nodes.
pub struct Authority {
    ca_pem: String,
    ends_at: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("ends_at", &self.ends_at).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority and writes `ca.pem` and `ca.key` (mode 0600) into `dir`, which is created with mode 0700 if it
    /// is not there.
    ///
    /// # Errors
    /// [`PkiError::Exists`] when one of the files is there, [`PkiError::Write`].
    pub fn create(dir: &Path) -> Result<Self, PkiError> {
        let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
        for path in [&cert_path, &key_path] {
            if path.symlink_metadata().is_ok() {
                return Err(PkiError::Exists { path: path.clone() });
            }
        }
        let key = KeyPair::generate()?;
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        // The name carries part of the key's digest, so that two authorities are told apart by whoever reads an error.
        let digest: String = params.key_identifier(&key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name = name(&format!("Sensorium authority {digest}"), None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = now - BACKDATED;
        params.not_after = now + Duration::days(AUTHORITY_VALID_DAYS);
        let ca_pem = params.self_signed(&key)?.pem();

        files::create_folder(dir)?;
        files::create(&key_path, &key.serialize_pem(), Secrecy::Secret)?;
        files::create(&cert_path, &ca_pem, Secrecy::Public)?;
        Ok(Self { ca_pem, ends_at: params.not_after, issuer: Issuer::new(params, key) })
    }

    /// Reads what [`Self::create`] wrote.
    ///
    /// # Errors
    /// [`PkiError::Missing`], [`PkiError::Read`] or [`PkiError::Corrupt`], with the file and what to do.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
        let ca_pem = files::read(&cert_path, ADVICE)?;
        let key_pem = files::read(&key_path, ADVICE)?;
        let corrupt_cert = |detail: String| PkiError::Corrupt { path: cert_path.clone(), detail, advice: ADVICE };
        let corrupt_key = |detail: String| PkiError::Corrupt { path: key_path.clone(), detail, advice: ADVICE };

        let key = KeyPair::from_pem(&key_pem).map_err(|error| corrupt_key(error.to_string()))?;
        let der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|error| corrupt_cert(error.to_string()))?;
        let certificate = identity::parse(&der).map_err(|error| corrupt_cert(error.to_string()))?;
        if !certificate.is_ca() {
            return Err(corrupt_cert("its certificate is not an authority's".to_owned()));
        }
        if certificate.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(corrupt_key("its key is not the one of ca.pem".to_owned()));
        }
        let ends_at = certificate.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| corrupt_cert(error.to_string()))?;
        Ok(Self { ca_pem, ends_at, issuer })
    }

    /// Issues a certificate and key for `principal`, valid for `valid_days` from now, at most until the authority's own
    /// end. A principal with a tier or the role `peer` is a node: its certificate also names [`SERVER_NAME`] and may
    /// stand for a server; all others are good for clients only. `hosts` are the names and IP addresses under which the
    /// holder is known; no connection depends on them.
    ///
    /// # Errors
    /// [`PkiError::Principal`], [`PkiError::Host`], [`PkiError::Hosts`], [`PkiError::ValidDays`] for what cannot be
    /// issued; [`PkiError::AuthorityExpired`].
    pub fn issue(&self, principal: &Principal, hosts: &[String], valid_days: u32) -> Result<Bundle, PkiError> {
        if !(1..=VALID_DAYS_MAX).contains(&valid_days) {
            return Err(PkiError::ValidDays { days: valid_days, max: VALID_DAYS_MAX });
        }
        let now = OffsetDateTime::now_utc();
        if self.ends_at <= now {
            return Err(PkiError::AuthorityExpired { ended: self.ends_at.to_string() });
        }
        let not_after = (now + Duration::days(i64::from(valid_days))).min(self.ends_at);
        self.issue_between(principal, hosts, now - BACKDATED, not_after)
    }

    pub(super) fn issue_between(
        &self,
        principal: &Principal,
        hosts: &[String],
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Result<Bundle, PkiError> {
        let uri = principal.to_uri();
        if Principal::from_uri(&uri).as_ref() != Some(principal) {
            return Err(PkiError::Principal { uri });
        }
        if hosts.len() > HOSTS_MAX {
            return Err(PkiError::Hosts { count: hosts.len(), max: HOSTS_MAX });
        }
        let is_node = principal.tier.is_some() || principal.has(Role::Peer);

        let mut params = CertificateParams::default();
        params.not_before = not_before;
        params.not_after = not_after;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = name(&principal.name, Some(&principal.tenant));
        params.subject_alt_names = hosts.iter().map(|host| host_name(host)).collect::<Result<_, _>>()?;
        if is_node {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            let server_name = host_name(SERVER_NAME)?;
            if !params.subject_alt_names.contains(&server_name) {
                params.subject_alt_names.push(server_name);
            }
        }
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));

        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Bundle { ca_pem: self.ca_pem.clone(), cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// The authority's certificate, which everyone may know.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// When the authority's certificate ends.
    #[must_use]
    pub fn ends_at(&self) -> OffsetDateTime {
        self.ends_at
    }
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn host_name(host: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let error = || PkiError::Host { host: host.to_owned() };
    DnsName::try_from(host).map_err(|_| error())?;
    Ok(SanType::DnsName(host.try_into().map_err(|_| error())?))
}
