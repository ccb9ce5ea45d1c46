//! Who may be a neighbour: the first thing that two nodes say to each other, and why it may be refused.

use sensorium_wire::Tier;
use sensorium_wire::frame::{VERSION, VERSION_MIN};
use thiserror::Error;

use super::Membership;
use crate::NodeId;

/// Longest text of a hello that is repeated in a refusal, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// What each side of a new connection says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub cluster: String,
    pub name: String,
    pub tier: Tier,
    pub region: String,
    /// The node's life: another number after every start.
    pub instance: u64,
    /// Of the wire protocol ([`sensorium_wire::frame::VERSION`]).
    pub version: u16,
}

/// Why a connection is not wanted, in one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("protocol version {theirs} is not spoken here; {VERSION_MIN} to {VERSION} are")]
    Version { theirs: u16 },
    #[error("it is of the cluster {}; this one is {ours:?}", shown(.theirs))]
    WrongCluster { theirs: String, ours: String },
    #[error("it calls itself {}, but its certificate is {}'s", shown(.name), shown(.certificate))]
    Identity { name: String, certificate: String },
    #[error("node {} is not in the topology", shown(.name))]
    UnknownNode { name: String },
    #[error("node {name} is neither a parent nor a child of {ours}")]
    NotANeighbour { name: String, ours: String },
    #[error("it is {} by its {by}, but {name} is {} in the topology", .theirs.name(), .ours.name())]
    TierMismatch { name: String, by: &'static str, theirs: Tier, ours: Tier },
    #[error("another node is running under the name {name}")]
    NameTaken { name: String },
}

/// Quoted and cut, so that whatever a stranger sends stays one short line.
fn shown(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return format!("{text:?}");
    }
    format!("{:?}…", text.chars().take(SHOWN_CHARS_MAX).collect::<String>())
}

impl Membership {
    /// Judges the hello of a connection, dialled by either side. `certificate_name` and `certificate_tier` are those of the peer's
    /// certificate; one without a tier claims none, and the topology's counts.
    ///
    /// Another life of a neighbour is let in only when the one that is known is not alive: until then two processes may
    /// run under one name. One that was killed and started again is therefore refused for up to `suspect_ms`, and dials
    /// again.
    ///
    /// # Errors
    /// [`Refusal`]. The rest of the cluster is not disturbed by it.
    pub fn greet(
        &self,
        now_ns: u64,
        hello: &Hello,
        certificate_name: &str,
        certificate_tier: Option<Tier>,
    ) -> Result<NodeId, Refusal> {
        let name = || hello.name.clone();
        if !(VERSION_MIN..=VERSION).contains(&hello.version) {
            return Err(Refusal::Version { theirs: hello.version });
        }
        if hello.cluster != self.cluster {
            return Err(Refusal::WrongCluster { theirs: hello.cluster.clone(), ours: self.cluster.clone() });
        }
        if hello.name != certificate_name {
            return Err(Refusal::Identity { name: name(), certificate: certificate_name.to_owned() });
        }
        if hello.name == self.me.name {
            return Err(Refusal::NameTaken { name: name() });
        }
        let id = NodeId::of(&hello.name);
        let Some(link) = self.links.iter().find(|link| link.spec.name == hello.name) else {
            return Err(if self.tiers.contains_key(&id) {
                Refusal::NotANeighbour { name: name(), ours: self.me.name.clone() }
            } else {
                Refusal::UnknownNode { name: name() }
            });
        };
        let ours = link.spec.tier;
        let claims = [("hello", Some(hello.tier)), ("certificate", certificate_tier)];
        for (by, theirs) in claims.into_iter().filter_map(|(by, claim)| Some((by, claim?))) {
            if theirs != ours {
                return Err(Refusal::TierMismatch { name: name(), by, theirs, ours });
            }
        }
        if link.is_alive(now_ns, &self.timing) && link.instance() != Some(hello.instance) {
            return Err(Refusal::NameTaken { name: name() });
        }
        Ok(id)
    }
}
