//! TLS configurations of bundles: TLS 1.3, both sides show a certificate, no early data.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{ServerName, UnixTime};

use super::{Bundle, PkiError, SERVER_NAME};

/// The configuration of a listening side that speaks the protocols `alpn`. Connections without a certificate of the
/// bundle's authority are refused.
///
/// # Errors
/// [`PkiError::Bundle`] when the bundle is not a node's, its parts do not belong together or it is out of date: better
/// at the start than in every handshake.
pub fn server_config(bundle: &Bundle, alpn: &[&[u8]]) -> Result<ServerConfig, PkiError> {
    let (chain, server_name) = (bundle.chain()?, server_name());
    server_verifier(bundle)?
        .verify_server_cert(&chain[0], &chain[1..], &server_name, &[], UnixTime::now())
        .map_err(not_usable("for a node"))?;
    server_config_unchecked(bundle, alpn)
}

/// The configuration of a dialling side that speaks the protocols `alpn`. It verifies that the other side is a node of
/// the bundle's authority, given [`SERVER_NAME`] as the name to verify.
///
/// # Errors
/// [`PkiError::Bundle`] when the bundle's parts do not belong together or it is out of date.
pub fn client_config(bundle: &Bundle, alpn: &[&[u8]]) -> Result<ClientConfig, PkiError> {
    let chain = bundle.chain()?;
    client_verifier(bundle)?
        .verify_client_cert(&chain[0], &chain[1..], UnixTime::now())
        .map_err(not_usable("for a client"))?;
    client_config_unchecked(bundle, alpn)
}

/// As [`server_config`], without a look at the bundle's own certificate.
pub(super) fn server_config_unchecked(bundle: &Bundle, alpn: &[&[u8]]) -> Result<ServerConfig, PkiError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(client_verifier(bundle)?)
        .with_single_cert(bundle.chain()?, bundle.key()?)
        .map_err(key_error)?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // A replayed job would be a job done twice.
    config.max_early_data_size = 0;
    Ok(config)
}

/// As [`client_config`], without a look at the bundle's own certificate.
pub(super) fn client_config_unchecked(bundle: &Bundle, alpn: &[&[u8]]) -> Result<ClientConfig, PkiError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(server_verifier(bundle)?)
        .with_client_auth_cert(bundle.chain()?, bundle.key()?)
        .map_err(key_error)?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.enable_early_data = false;
    Ok(config)
}

/// Named wherever rustls would otherwise ask for a process-wide default: two providers are linked.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn server_verifier(bundle: &Bundle) -> Result<Arc<WebPkiServerVerifier>, PkiError> {
    WebPkiServerVerifier::builder_with_provider(roots(bundle)?, provider())
        .build()
        .map_err(|error| PkiError::Tls(rustls::Error::General(error.to_string())))
}

pub(super) fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("the constant is a DNS name")
}

fn client_verifier(bundle: &Bundle) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    WebPkiClientVerifier::builder_with_provider(roots(bundle)?, provider())
        .build()
        .map_err(|error| PkiError::Tls(rustls::Error::General(error.to_string())))
}

fn roots(bundle: &Bundle) -> Result<Arc<RootCertStore>, PkiError> {
    let mut roots = RootCertStore::empty();
    for authority in bundle.authorities()? {
        roots.add(authority).map_err(|error| PkiError::Bundle {
            part: "authority's certificate (ca.pem)",
            detail: error.to_string(),
        })?;
    }
    Ok(Arc::new(roots))
}

fn not_usable(purpose: &'static str) -> impl Fn(rustls::Error) -> PkiError {
    move |error| PkiError::Bundle { part: "certificate (cert.pem)", detail: format!("{purpose}: {error}") }
}

fn key_error(error: rustls::Error) -> PkiError {
    PkiError::Bundle { part: "private key (key.pem)", detail: error.to_string() }
}
