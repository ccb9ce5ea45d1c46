//! Sources: the cameras and microphones that nodes open themselves, as a cluster file or a node's configuration declares
//! them.

use sensorium_wire::principal::is_plain_name;
use sensorium_wire::source::is_source_name;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::error::nearest;
use super::{NODES_MAX, NodeSpec, Topology};
use crate::lease::{LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN};

/// Most sources of a cluster, and of a node that is alone.
pub const SOURCES_MAX: usize = 256;
/// Most nodes that may open one source.
pub const SOURCE_NODES_MAX: usize = 8;
/// Most tenants that one source names.
pub const SOURCE_TENANTS_MAX: usize = 32;
/// Longest `uri`, in bytes.
pub const URI_BYTES_MAX: usize = 1_024;
/// Shortest and longest `budget_ms`.
pub const SOURCE_BUDGET_MS_MIN: u64 = 10;
pub const SOURCE_BUDGET_MS_MAX: u64 = 10_000;

/// The schemes that a source may have, and what else ffmpeg may speak for each.
const SCHEMES: [(&str, &str); 7] = [
    ("rtsp", "rtp,srtp,udp,tcp"),
    ("rtsps", "rtp,srtp,udp,tcp,tls"),
    ("srt", "srt"),
    ("udp", "udp"),
    ("tcp", "tcp"),
    ("http", "http,tcp"),
    ("https", "https,http,tls,tcp"),
];
/// Schemes whose query ffmpeg would read as options.
const SCHEMES_WITHOUT_QUERY: [&str; 3] = ["srt", "udp", "tcp"];

/// One source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Unique, 1 to 128 of `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// Where it is: see [`Input::of`].
    pub uri: String,
    /// The nodes that can reach it, the preferred first. Only in a cluster's file.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// The node that gives the lease. Default: the first parent that all of `nodes` have, or the only one of them itself.
    #[serde(default)]
    pub grantor: Option<String>,
    /// How long a lease is, in milliseconds. Default 1,000.
    #[serde(default = "lease_ms")]
    pub lease_ms: u64,
    /// Time from capture to answer that a frame or a piece of sound may take, in milliseconds. Default 500.
    #[serde(default = "budget_ms")]
    pub budget_ms: u64,
    /// The tenants whose clients may watch it; empty = every tenant.
    #[serde(default)]
    pub tenants: Vec<String>,
}

const fn lease_ms() -> u64 {
    1_000
}

const fn budget_ms() -> u64 {
    500
}

/// What a `uri` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A stream of the network, and the protocols that ffmpeg may speak for it.
    Network { url: &'a str, protocols: &'static str },
    /// A file of the node, played over and over at its own speed.
    File { path: &'a str },
    /// A camera at the node: `/dev/videoN`.
    Device { path: &'a str },
}

impl<'a> Input<'a> {
    /// Reads a `uri`. Nothing in it reaches a shell, and nothing in it is an option of ffmpeg.
    ///
    /// # Errors
    /// What was expected instead, in words.
    pub fn of(uri: &'a str) -> Result<Self, String> {
        if uri.is_empty() || uri.len() > URI_BYTES_MAX || !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("1 to {URI_BYTES_MAX} printable ASCII characters without spaces are expected"));
        }
        if uri.starts_with('/') {
            let number = uri.strip_prefix("/dev/video");
            return match number {
                Some(number) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                    Ok(Self::Device { path: uri })
                }
                _ if uri.starts_with("/dev/") || uri.split('/').any(|part| part == "..") => {
                    Err("of devices only /dev/videoN is opened, and a path has no ..".to_owned())
                }
                _ => Ok(Self::File { path: uri }),
            };
        }
        let known = || SCHEMES.map(|(scheme, _)| scheme).join(", ");
        let expected = || format!("{}, an absolute path or /dev/videoN is expected", known());
        let (scheme, rest) = uri.split_once("://").ok_or_else(expected)?;
        let Some((scheme, protocols)) = SCHEMES.into_iter().find(|(known, _)| *known == scheme) else {
            return Err(format!("{scheme} is not opened: {}", expected()));
        };
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if host.is_empty() {
            return Err(format!("a host is expected after {scheme}://"));
        }
        if SCHEMES_WITHOUT_QUERY.contains(&scheme) {
            if rest.contains(['?', '#']) {
                return Err(format!("{scheme}://HOST:PORT is expected, without options behind it"));
            }
            let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                return Err(format!("{scheme}://HOST:PORT is expected"));
            }
        }
        Ok(Self::Network { url: uri, protocols })
    }
}

/// Why a source cannot be used. Each line begins with the source's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SourceError {
    #[error("{sources} sources; at most {SOURCES_MAX} are expected")]
    TooMany { sources: usize },
    #[error("source {name:?}: a name of 1 to 128 of a-z A-Z 0-9 . _ - is expected")]
    Name { name: String },
    #[error("source {name} is there twice")]
    Twice { name: String },
    #[error("source {name}: uri: {expected}")]
    Uri { name: String, expected: String },
    #[error("source {name}: lease_ms = {ms}: {LEASE_TTL_MS_MIN} to {LEASE_TTL_MS_MAX} are expected")]
    Lease { name: String, ms: u64 },
    #[error("source {name}: budget_ms = {ms}: {SOURCE_BUDGET_MS_MIN} to {SOURCE_BUDGET_MS_MAX} are expected")]
    Budget { name: String, ms: u64 },
    #[error("source {name}: tenants: at most {SOURCE_TENANTS_MAX} of 1 to 64 of a-z A-Z 0-9 . _ - are expected")]
    Tenants { name: String },
    #[error("source {name}: nodes: 1 to {SOURCE_NODES_MAX} names are expected")]
    Nodes { name: String },
    #[error("source {name}: there is no node {node}{}", nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean {nearest}?")))]
    UnknownNode { name: String, node: String, nearest: Option<String> },
    #[error("source {name}: nodes has {node} twice")]
    NodeTwice { name: String, node: String },
    #[error("source {name}: its nodes have no parent in common; a grantor is expected that is a neighbour of each")]
    NoGrantor { name: String },
    #[error(
        "source {name}: its grantor {grantor} is no neighbour of {node}; a parent or child of each of its nodes is expected"
    )]
    FarGrantor { name: String, grantor: String, node: String },
    #[error("source {name}: {key} is for clusters; a node that is alone opens its sources itself")]
    Alone { name: String, key: &'static str },
}

/// The sources of a node that is alone.
///
/// # Errors
/// [`SourceError`], with the source's name and what was expected.
pub fn check_alone(sources: &[SourceSpec]) -> Result<(), SourceError> {
    each(sources)?;
    for source in sources {
        let key = match source {
            SourceSpec { nodes, .. } if !nodes.is_empty() => "nodes",
            SourceSpec { grantor: Some(_), .. } => "grantor",
            _ => continue,
        };
        return Err(SourceError::Alone { name: source.name.clone(), key });
    }
    Ok(())
}

/// The sources of a cluster whose nodes have been checked.
pub(super) fn check(topology: &Topology) -> Result<(), SourceError> {
    each(&topology.sources)?;
    topology.sources.iter().try_for_each(|source| places(topology, source))
}

fn each(sources: &[SourceSpec]) -> Result<(), SourceError> {
    if sources.len() > SOURCES_MAX {
        return Err(SourceError::TooMany { sources: sources.len() });
    }
    for (at, source) in sources.iter().enumerate() {
        let name = source.name.clone();
        if !is_source_name(&name) {
            return Err(SourceError::Name { name });
        }
        if sources[..at].iter().any(|other| other.name == name) {
            return Err(SourceError::Twice { name });
        }
        if let Err(expected) = Input::of(&source.uri) {
            return Err(SourceError::Uri { name, expected });
        }
        if !(LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(&source.lease_ms) {
            return Err(SourceError::Lease { name, ms: source.lease_ms });
        }
        if !(SOURCE_BUDGET_MS_MIN..=SOURCE_BUDGET_MS_MAX).contains(&source.budget_ms) {
            return Err(SourceError::Budget { name, ms: source.budget_ms });
        }
        if source.tenants.len() > SOURCE_TENANTS_MAX || !source.tenants.iter().all(|tenant| is_plain_name(tenant)) {
            return Err(SourceError::Tenants { name });
        }
    }
    Ok(())
}

fn places(topology: &Topology, source: &SourceSpec) -> Result<(), SourceError> {
    let name = || source.name.clone();
    if source.nodes.is_empty() || source.nodes.len() > SOURCE_NODES_MAX.min(NODES_MAX) {
        return Err(SourceError::Nodes { name: name() });
    }
    let known = || topology.nodes.iter().map(|node| node.name.as_str());
    for node in source.nodes.iter().chain(&source.grantor) {
        if topology.node(node).is_none() {
            let nearest = nearest(node, known()).map(str::to_owned);
            return Err(SourceError::UnknownNode { name: name(), node: node.clone(), nearest });
        }
    }
    let twice = source.nodes.iter().enumerate().find(|(at, node)| source.nodes[..*at].contains(node));
    if let Some((_, node)) = twice {
        return Err(SourceError::NodeTwice { name: name(), node: node.clone() });
    }
    let Some(grantor) = topology.grantor_of(source) else { return Err(SourceError::NoGrantor { name: name() }) };
    let near =
        |node: &str| node == grantor.name || topology.neighbours(node).iter().any(|near| near.name == grantor.name);
    match source.nodes.iter().find(|node| !near(node)) {
        Some(node) => Err(SourceError::FarGrantor { name: name(), grantor: grantor.name.clone(), node: node.clone() }),
        None => Ok(()),
    }
}

impl Topology {
    /// The source of this name.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<&SourceSpec> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// Who gives a source's lease: the node that it names; or the first parent that all its nodes have; or its only
    /// node.
    #[must_use]
    pub fn grantor_of(&self, source: &SourceSpec) -> Option<&NodeSpec> {
        if let Some(grantor) = &source.grantor {
            return self.node(grantor);
        }
        let first = self.node(source.nodes.first()?)?;
        if source.nodes.len() == 1 {
            return Some(first);
        }
        let of_all = |parent: &&String| {
            source.nodes.iter().all(|node| self.node(node).is_some_and(|node| node.parents.contains(parent)))
        };
        first.parents.iter().find(of_all).and_then(|parent| self.node(parent))
    }
}

impl SourceSpec {
    /// The `uri` without what may be a password.
    #[must_use]
    pub fn shown_uri(&self) -> String {
        let Some((scheme, rest)) = self.uri.split_once("://") else { return self.uri.clone() };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let host = host.rsplit_once('@').map_or_else(|| host.to_owned(), |(_, host)| format!("***@{host}"));
        let path = path.split_once('?').map_or_else(|| path.to_owned(), |(path, _)| format!("{path}?***"));
        format!("{scheme}://{host}{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = r#"
cluster = "test"
[[node]]
name = "edge-1"
tier = "edge"
region = "a"
api = "127.0.0.1:1"
peer = "127.0.0.1:2"
parents = ["regional-2", "regional-1"]
[[node]]
name = "edge-2"
tier = "edge"
region = "a"
api = "127.0.0.1:3"
peer = "127.0.0.1:4"
parents = ["regional-1"]
[[node]]
name = "regional-1"
tier = "regional"
region = "a"
api = "127.0.0.1:5"
peer = "127.0.0.1:6"
[[node]]
name = "regional-2"
tier = "regional"
region = "a"
api = "127.0.0.1:7"
peer = "127.0.0.1:8"
"#;

    fn with(source: &str) -> Result<Topology, String> {
        Topology::parse(&format!("{CLUSTER}[[source]]\n{source}")).map_err(|error| error.to_string())
    }

    fn refused(source: &str) -> String {
        with(source).expect_err("it is refused")
    }

    #[test]
    fn the_first_common_parent_is_the_grantor() {
        let source = "name = \"door\"\nuri = \"rtsp://10.0.0.9/stream\"\nnodes = [\"edge-1\", \"edge-2\"]";
        let topology = with(source).unwrap();
        let door = topology.source("door").unwrap();
        assert_eq!((door.lease_ms, door.budget_ms), (1_000, 500));
        assert_eq!(topology.grantor_of(door).unwrap().name, "regional-1");
        let topology = with("name = \"hall\"\nuri = \"/dev/video0\"\nnodes = [\"edge-1\"]").unwrap();
        assert_eq!(topology.grantor_of(&topology.sources[0]).unwrap().name, "edge-1");
    }

    #[test]
    fn what_is_wrong_is_told_with_the_name_and_what_was_expected() {
        let door = |rest: &str| refused(&format!("name = \"door\"\nuri = \"tcp://10.0.0.9:1\"\n{rest}"));
        assert_eq!(door("nodes = []"), "source door: nodes: 1 to 8 names are expected");
        assert_eq!(door("nodes = [\"edge1\"]"), "source door: there is no node edge1; did you mean edge-1?");
        assert_eq!(door("nodes = [\"edge-1\", \"edge-1\"]"), "source door: nodes has edge-1 twice");
        assert_eq!(
            door("nodes = [\"edge-1\", \"regional-1\"]"),
            "source door: its nodes have no parent in common; a grantor is expected that is a neighbour of each"
        );
        assert_eq!(
            door("nodes = [\"edge-1\", \"edge-2\"]\ngrantor = \"regional-2\""),
            "source door: its grantor regional-2 is no neighbour of edge-2; a parent or child of each of its nodes is expected"
        );
        assert_eq!(
            door("nodes = [\"edge-1\"]\nlease_ms = 5000"),
            "source door: lease_ms = 5000: 200 to 2000 are expected"
        );
        let twice = "name = \"door\"\nuri = \"/a.ts\"\nnodes = [\"edge-1\"]\n";
        assert_eq!(refused(&format!("{twice}[[source]]\n{twice}")), "source door is there twice");
        let unknown = door("nodes = [\"edge-1\"]\nurl = \"x\"");
        assert!(unknown.starts_with("line ") && unknown.ends_with("did you mean uri?"), "{unknown}");
        let many: String = (0..=SOURCES_MAX)
            .map(|n| format!("[[source]]\nname = \"s{n}\"\nuri = \"/a.ts\"\nnodes = [\"edge-1\"]\n"))
            .collect();
        let many = Topology::parse(&format!("{CLUSTER}{many}")).unwrap_err().to_string();
        assert_eq!(many, "257 sources; at most 256 are expected");
    }

    #[test]
    fn only_what_is_listed_is_opened() {
        for good in [
            "rtsp://a:b@10.0.0.9:554/s?channel=1",
            "srt://10.0.0.9:9000",
            "udp://0.0.0.0:5000",
            "tcp://[::1]:9",
            "https://a/b.m3u8?key=1",
        ] {
            assert!(matches!(Input::of(good), Ok(Input::Network { .. })), "{good}");
        }
        assert_eq!(Input::of("/dev/video12"), Ok(Input::Device { path: "/dev/video12" }));
        assert_eq!(Input::of("/srv/a.mkv"), Ok(Input::File { path: "/srv/a.mkv" }));
        for (bad, says) in [
            ("concat:/etc/passwd", "an absolute path"),
            ("file:///etc/passwd", "file is not opened"),
            ("lavfi://testsrc", "lavfi is not opened"),
            ("tcp://0.0.0.0:5000?listen=1", "without options"),
            ("udp://10.0.0.9", "HOST:PORT"),
            ("tcp://10.0.0.9:0", "HOST:PORT"),
            ("rtsp:///stream", "a host"),
            ("-i", "an absolute path"),
            ("rtsp://a/b c", "without spaces"),
            ("/dev/sda", "/dev/videoN"),
            ("/srv/../etc/passwd", "no .."),
            ("", "1 to 1024"),
        ] {
            let error = Input::of(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let spec = |uri: &str| {
            let topology = with(&format!("name = \"a\"\nuri = {uri:?}\nnodes = [\"edge-1\"]")).unwrap();
            topology.sources[0].shown_uri()
        };
        assert_eq!(spec("rtsp://me:secret@cam/1?token=abc"), "rtsp://***@cam/1?***");
        assert_eq!(spec("/srv/a@b.mkv"), "/srv/a@b.mkv");
    }

    #[test]
    fn a_node_that_is_alone_has_no_others() {
        let spec =
            |more: &str| -> SourceSpec { toml::from_str(&format!("name = \"a\"\nuri = \"/a\"\n{more}")).unwrap() };
        assert_eq!(check_alone(&[spec("")]), Ok(()));
        let error = check_alone(&[spec("nodes = [\"edge-1\"]")]).unwrap_err();
        assert_eq!(error.to_string(), "source a: nodes is for clusters; a node that is alone opens its sources itself");
    }
}
