//! Several real nodes that form a cluster, with a topology file and an authority of their own.

use std::ffi::OsString;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;

use sensorium_transport::pki::Authority;
use sensorium_wire::{Principal, Role, Tier};
use serde_json::Value;
use tempfile::TempDir;

use super::{Node, authority};

/// One node as a test wants it.
#[derive(Clone, Copy)]
pub struct Place {
    pub name: &'static str,
    pub tier: Tier,
    pub parents: &'static [&'static str],
    /// Options of the node, TOML.
    pub options: &'static str,
}

/// A topology on disk, and certificates for who is in it.
pub struct Plan {
    pub authority: Authority,
    folder: TempDir,
    places: Vec<(Place, [SocketAddr; 2])>,
    /// What follows the nodes in the file.
    more: String,
}

/// A UDP address of this machine that nobody uses now.
pub fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Plan {
    pub fn new(places: &[Place]) -> Self {
        Self::with_more(places, "")
    }

    /// A topology with something behind its nodes, such as sources.
    pub fn with_more(places: &[Place], more: &str) -> Self {
        let places = places.iter().map(|place| (*place, [free_address(), free_address()])).collect();
        let plan = Self { authority: authority(), folder: tempfile::tempdir().unwrap(), places, more: more.to_owned() };
        std::fs::write(plan.file(), plan.text("test")).unwrap();
        plan
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("cluster.toml")
    }

    /// The topology under a name of the cluster.
    pub fn text(&self, cluster: &str) -> String {
        let mut text = format!("cluster = {cluster:?}\n");
        for (place, [api, peer]) in &self.places {
            let Place { name, tier, parents, options } = place;
            text += &format!(
                "[[node]]\nname = {name:?}\ntier = {:?}\nregion = \"test\"\napi = \"{api}\"\npeer = \"{peer}\"\n\
                 parents = {parents:?}\n[node.options]\n{options}\n",
                tier.name()
            );
        }
        text + &self.more
    }

    /// A data directory with certificates: the node's, with these roles, and a client's.
    pub fn data(&self, name: &str, roles: &[Role], tier: Option<Tier>) -> TempDir {
        let data = tempfile::tempdir().unwrap();
        let issue = |folder: &str, holder: &str, roles: &[Role], tier| {
            let (tenant, name) = ("local".to_owned(), holder.to_owned());
            let bundle =
                self.authority.issue(&Principal { tenant, name, roles: roles.to_vec(), tier }, &[], 1).unwrap();
            bundle.write(&data.path().join("certificates").join(folder)).unwrap();
        };
        issue("node", name, roles, tier);
        issue("client", "tester", &[Role::Submit, Role::Critical, Role::Operate], None);
        data
    }

    /// Starts a node of the topology; it listens when this returns.
    pub fn launch(&self, name: &str, roles: &[Role]) -> Node {
        let (place, _) = self.places.iter().find(|(place, _)| place.name == name).unwrap();
        self.launch_in(self.data(name, roles, Some(place.tier)), name)
    }

    pub fn launch_in(&self, data: TempDir, name: &str) -> Node {
        Node::launch_with(data, self.arguments(name))
    }

    /// What a node of the topology is started with.
    pub fn arguments(&self, name: &str) -> Vec<OsString> {
        vec![OsString::from("--cluster"), self.file().into(), "--name".into(), name.into()]
    }

    /// Starts all nodes, and waits until each is ready and sees its neighbours alive.
    pub fn start(&self) -> Vec<Node> {
        let nodes: Vec<_> =
            self.places.iter().map(|(place, _)| self.launch(place.name, &[Role::Peer, Role::Critical])).collect();
        nodes.iter().for_each(Node::joined);
        nodes
    }
}

/// What a node says of a neighbour.
pub fn neighbour<'a>(status: &'a Value, name: &str) -> &'a Value {
    let neighbours = status["cluster"]["neighbours"].as_array().unwrap();
    neighbours.iter().find(|neighbour| neighbour["name"] == name).unwrap()
}

impl Node {
    /// Waits until the node is ready, its neighbours are alive, and jobs can go to them.
    pub fn joined(&self) {
        self.wait_until("ready and among its neighbours", |status| {
            let neighbours = status["cluster"]["neighbours"].as_array().unwrap();
            let there = |neighbour: &Value| neighbour["standing"] == "alive" && neighbour["linked"] == true;
            status["devices"][0]["state"] == "ready"
                && neighbours.iter().all(there)
                && neighbours.iter().all(|neighbour| neighbour["models"].as_u64() > Some(0))
        });
    }

    /// Waits until it sees a neighbour so.
    pub fn sees(&self, name: &str, standing: &str) -> Value {
        let status =
            self.wait_until(&format!("{name} is {standing}"), |status| neighbour(status, name)["standing"] == standing);
        neighbour(&status, name).clone()
    }
}
