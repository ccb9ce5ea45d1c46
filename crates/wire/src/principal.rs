//! Who asks, and what it may do.

use serde::{Deserialize, Serialize};

/// What a principal may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Submit jobs and open sessions.
    Submit,
    /// Mark work `critical`.
    Critical,
    /// Read the status and administer the node.
    Operate,
    /// Speak as a node of the cluster.
    Peer,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Submit, Self::Critical, Self::Operate, Self::Peer];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Critical => "critical",
            Self::Operate => "operate",
            Self::Peer => "peer",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    Edge,
    Regional,
    Central,
}

impl Tier {
    pub const ALL: [Self; 3] = [Self::Edge, Self::Regional, Self::Central];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Regional => "regional",
            Self::Central => "central",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }
}

/// Who asks. Today taken from the certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    pub tenant: String,
    /// The name of the holder within its tenant.
    pub name: String,
    pub roles: Vec<Role>,
    /// Set for nodes.
    pub tier: Option<Tier>,
}

impl Principal {
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The identity as a URI, the form it has in a certificate's subject alternative name:
    /// `sensorium://TENANT/NAME?roles=submit,operate&tier=edge`.
    #[must_use]
    pub fn to_uri(&self) -> String {
        let roles: Vec<_> = self.roles.iter().map(|role| role.name()).collect();
        let tier = self.tier.map_or_else(String::new, |tier| format!("&tier={}", tier.name()));
        format!("sensorium://{}/{}?roles={}{tier}", self.tenant, self.name, roles.join(","))
    }

    /// Reads [`Self::to_uri`]'s form. Tenant and name are 1 to 64 of `a-z A-Z 0-9 . _ -`; unknown roles, tiers and
    /// keys and repeated keys make it `None`, because a right that is not understood must not be granted in part.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (path, query) = uri.strip_prefix("sensorium://")?.split_once('?')?;
        let (tenant, name) = path.split_once('/')?;
        if !is_plain_name(tenant) || !is_plain_name(name) {
            return None;
        }
        let mut principal = Self { tenant: tenant.to_owned(), name: name.to_owned(), roles: Vec::new(), tier: None };
        let mut keys_seen = Vec::new();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=')?;
            if keys_seen.contains(&key) {
                return None;
            }
            keys_seen.push(key);
            match (key, value) {
                ("roles", "") => {}
                ("roles", roles) => {
                    principal.roles = roles.split(',').map(Role::from_name).collect::<Option<_>>()?;
                }
                ("tier", tier) => principal.tier = Some(Tier::from_name(tier)?),
                _ => return None,
            }
        }
        Some(principal)
    }
}

/// Whether `text` may be a tenant's or holder's name.
#[must_use]
pub fn is_plain_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uri_form_survives_a_round_trip_and_unknown_rights_are_refused() {
        let principal = Principal {
            tenant: "stadium".to_owned(),
            name: "edge-7".to_owned(),
            roles: vec![Role::Submit, Role::Peer],
            tier: Some(Tier::Edge),
        };
        assert_eq!(Principal::from_uri(&principal.to_uri()), Some(principal));
        assert_eq!(Principal::from_uri("sensorium://a/b?roles=submit,fly"), None);
        assert_eq!(Principal::from_uri("sensorium://a/b?roles=submit&x=y"), None);
        assert_eq!(Principal::from_uri("sensorium://a/b?roles=submit&roles=operate"), None);
        assert_eq!(Principal::from_uri("sensorium://a b/c?roles="), None);
        assert_eq!(Principal::from_uri("https://a/b?roles=submit"), None);
    }
}
