//! Every topology that comes with Sensorium is a good one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use sensorium_cluster::Topology;

#[test]
fn every_topology_in_the_repository_can_be_used() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster");
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = fs::read_to_string(&path).unwrap();
            if let Err(error) = Topology::parse(&text) {
                panic!("{}: {error}", path.display());
            }
        }
    }
}
