//! Who a certificate speaks for.

use sensorium_wire::Principal;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::PkiError;

/// The principal that a certificate (DER) names.
///
/// Only reads: whether an authority vouches for the certificate was decided by the handshake.
///
/// # Errors
/// [`PkiError::NotACertificate`], or [`PkiError::NoPrincipal`] when there is no `sensorium:` URI, more than one, or one
/// with a role or tier that is not known here.
pub fn principal_of(cert_der: &[u8]) -> Result<Principal, PkiError> {
    let certificate = parse(cert_der)?;
    let names = alternative_names(&certificate)?;
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("sensorium:") => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(PkiError::NoPrincipal("exactly one sensorium: URI is expected".to_owned()));
    };
    Principal::from_uri(uri).ok_or_else(|| PkiError::NoPrincipal(uri.to_owned()))
}

pub(super) fn parse(cert_der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    match x509_parser::parse_x509_certificate(cert_der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(PkiError::NotACertificate(format!("{} bytes too many", rest.len()))),
        Err(error) => Err(PkiError::NotACertificate(error.to_string())),
    }
}

/// The subject alternative names; none is not an error.
pub(super) fn alternative_names<'a>(certificate: &'a X509Certificate<'a>) -> Result<&'a [GeneralName<'a>], PkiError> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|error| PkiError::NotACertificate(format!("subject alternative names: {error}")))?;
    Ok(extension.map_or(&[], |extension| &extension.value.general_names))
}
