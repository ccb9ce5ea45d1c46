//! Certificates for a node that was started without any: everything on one machine, by itself.

use std::net::IpAddr;
use std::path::Path;

use sensorium_wire::{Principal, Role, Tier};
use time::{Duration, OffsetDateTime};

use super::{Authority, Bundle, PkiError, client_config, files, server_config};

/// Validity of development certificates, in days.
const VALID_DAYS: u32 = 90;
/// What has less left than this is issued again.
const LEFT_MIN: Duration = Duration::DAY;
/// A node and its clients on the same machine find each other by these.
const HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Bundles of one development folder.
#[derive(Clone, Debug)]
pub struct Development {
    pub node: Bundle,
    /// Tenant `local`, may submit, mark work critical and operate.
    pub client: Bundle,
    /// Whether the authority was made by this call: bundles from before, if any were copied elsewhere, are worthless.
    pub created: bool,
}

/// The bundles in `dir/node` and `dir/client`, issued by the authority in `dir/ca`. What is missing is made; what is
/// expired, about to expire, damaged, of another authority or (the node's) without one of `hosts` is issued again. The
/// authority itself, once made, is never replaced. Several processes may call this at once.
///
/// Not for production: the authority's key lies beside the node.
///
/// # Errors
/// [`PkiError`], when the folder cannot be written or the authority in it is damaged.
pub fn development(dir: &Path, hosts: &[String]) -> Result<Development, PkiError> {
    files::create_folder(dir)?;
    let _lock = files::lock(dir)?;
    let ca = dir.join("ca");
    let (authority, created) = match Authority::load(&ca) {
        // Only when both files are missing: an authority of which half is left is for a person to look at.
        Err(PkiError::Missing { .. }) if !ca.join("ca.key").exists() && !ca.join("ca.pem").exists() => {
            (Authority::create(&ca)?, true)
        }
        loaded => (loaded?, false),
    };

    let mut all_hosts: Vec<String> = HOSTS.map(str::to_owned).into();
    for host in hosts {
        // In the form in which the certificate gives it back, so that it is found there.
        let host = host.parse::<IpAddr>().map_or_else(|_| host.clone(), |address| address.to_string());
        if !all_hosts.contains(&host) {
            all_hosts.push(host);
        }
    }
    let node = Principal {
        tenant: "local".to_owned(),
        name: "node".to_owned(),
        roles: vec![Role::Peer],
        tier: Some(Tier::Edge),
    };
    let client = Principal {
        tenant: "local".to_owned(),
        name: "client".to_owned(),
        roles: vec![Role::Submit, Role::Critical, Role::Operate],
        tier: None,
    };
    Ok(Development {
        node: ready(&authority, &dir.join("node"), &node, &all_hosts)?,
        client: ready(&authority, &dir.join("client"), &client, &[])?,
        created,
    })
}

/// The bundle in `dir`, issued again if it would not do.
fn ready(authority: &Authority, dir: &Path, principal: &Principal, hosts: &[String]) -> Result<Bundle, PkiError> {
    let reason = match Bundle::read(dir) {
        Ok(bundle) => match shortcoming(&bundle, authority, principal, hosts) {
            None => return Ok(bundle),
            Some(reason) => reason,
        },
        Err(PkiError::Missing { path, .. }) => format!("{} is missing", path.display()),
        Err(error @ PkiError::Corrupt { .. }) => error.to_string(),
        Err(error) => return Err(error),
    };
    let bundle = authority.issue(principal, hosts, VALID_DAYS)?;
    bundle.write(dir)?;
    tracing::info!(principal = %principal.to_uri(), reason, "development certificate issued");
    Ok(bundle)
}

/// Why the bundle would not do.
fn shortcoming(bundle: &Bundle, authority: &Authority, principal: &Principal, hosts: &[String]) -> Option<String> {
    if bundle.principal().as_ref().ok() != Some(principal) {
        return Some("it is for another principal".to_owned());
    }
    if bundle.ca_pem != authority.ca_pem() {
        return Some("it is of another authority".to_owned());
    }
    if let Err(error) = client_config(bundle, &[]) {
        return Some(error.to_string());
    }
    if principal.tier.is_some()
        && let Err(error) = server_config(bundle, &[])
    {
        return Some(error.to_string());
    }
    match bundle.expires_at() {
        Ok(end) if end - OffsetDateTime::now_utc() >= LEFT_MIN => {}
        Ok(end) => return Some(format!("it ends at {end}")),
        Err(error) => return Some(error.to_string()),
    }
    let named = bundle.hosts().unwrap_or_default();
    hosts.iter().find(|host| !named.contains(host)).map(|host| format!("it does not name {host}"))
}
