use super::*;

const GOOD: &str = r#"
cluster = "three-tier"

[timing]
suspect_ms = 250

[defaults]
worker_nice = 3
load = ["a", "b"]
[defaults.plan]
kind = "table"
hysteresis_permille = 100

[[node]]
name = "edge-1"
tier = "edge"
region = "north"
api = "127.0.0.1:7401"
peer = "127.0.0.1:7402"
parents = ["regional-2", "regional-1"]
[node.options]
load = ["c"]
[node.options.plan]
kind = "fixed"

[[node]]
name = "regional-1"
tier = "regional"
region = "north"
api = "127.0.0.1:7411"
peer = "127.0.0.1:7412"
parents = ["central"]

[[node]]
name = "edge-2"
tier = "edge"
region = "north"
api = "[::1]:7401"
peer = "[::1]:7402"
parents = ["regional-1"]

[[node]]
name = "regional-2"
tier = "regional"
region = "south"
api = "127.0.0.1:7421"
peer = "127.0.0.1:7422"
parents = ["central"]

[[node]]
name = "central"
tier = "central"
region = "middle"
api = "127.0.0.1:7431"
peer = "127.0.0.1:7432"
"#;

/// What is said about the good file with one text replaced by another.
fn complaint(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    Topology::parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn a_good_file_is_read_with_its_defaults() {
    let topology = Topology::parse(GOOD).unwrap();
    assert_eq!(topology.timing, Timing { report_ms: 100, suspect_ms: 250, lost_ms: 1_000 });
    assert_eq!(topology.cost, TierCost { edge: 1, regional: 3, central: 10 });
    assert_eq!(topology.node("edge-2").unwrap().peer, "[::1]:7402".parse::<SocketAddr>().unwrap());
    assert!(topology.node("edge-3").is_none());
    let text = toml::to_string(&topology).unwrap();
    assert_eq!(Topology::parse(&text).unwrap(), topology, "{text}");
}

#[test]
fn neighbours_are_parents_in_their_order_then_children_in_the_files() {
    let topology = Topology::parse(GOOD).unwrap();
    let names = |of: &str| topology.neighbours(of).into_iter().map(|node| node.name).collect::<Vec<_>>();
    assert_eq!(names("edge-1"), ["regional-2", "regional-1"]);
    assert_eq!(names("regional-1"), ["central", "edge-1", "edge-2"]);
    assert_eq!(names("central"), ["regional-1", "regional-2"]);
    assert!(names("nobody").is_empty());
}

#[test]
fn options_are_laid_over_the_defaults_table_by_table() {
    let topology = Topology::parse(GOOD).unwrap();
    let merged: toml::Table =
        toml::from_str("worker_nice = 3\nload = [\"c\"]\n[plan]\nkind = \"fixed\"\nhysteresis_permille = 100\n")
            .unwrap();
    assert_eq!(topology.options_of("edge-1"), merged);
    assert_eq!(topology.options_of("central"), topology.defaults);
}

#[test]
fn every_mistake_has_its_own_line() {
    let central = GOOD.split_at(GOOD.rfind("[[node]]").unwrap()).1;
    let cases = [
        (
            "suspect_ms = 250",
            "suspct_ms = 250",
            "line 5: unknown field `suspct_ms`, expected one of `report_ms`, `suspect_ms`, `lost_ms`; \
             did you mean suspect_ms?",
        ),
        ("suspect_ms = 250", "suspect_ms = \"250\"", "line 5: invalid type: string \"250\", expected u64"),
        ("suspect_ms = 250", "suspect_ms = = 250", "line 5: "),
        ("\"three-tier\"", "\"three tier\"", "cluster = \"three tier\": 1 to 64 of a-z A-Z 0-9 . _ - are expected"),
        ("name = \"central\"", "name = \"middle/1\"", "node \"middle/1\": a name of 1 to 32 of"),
        ("region = \"middle\"", "region = \"\"", "node central: region = \"\": 1 to 64 of"),
        ("name = \"edge-2\"", "name = \"edge-1\"", "node edge-1 is there twice"),
        (
            "api = \"[::1]:7401\"",
            "api = \"127.0.0.1:7412\"",
            "127.0.0.1:7412 is both regional-1's peer and edge-2's api address",
        ),
        ("peer = \"[::1]:7402\"", "peer = \"[::1]:7401\"", "[::1]:7401 is both edge-2's api and edge-2's peer address"),
        ("peer = \"[::1]:7402\"", "peer = \"[::1]:0\"", "node edge-2: peer = [::1]:0: a port other than 0 is expected"),
        (
            "parents = [\"regional-1\"]",
            "parents = [\"regionl-1\"]",
            "node edge-2: there is no node regionl-1 for its parent; did you mean regional-1?",
        ),
        ("parents = [\"regional-1\"]", "parents = [\"x\"]", "node edge-2: there is no node x for its parent"),
        ("parents = [\"regional-1\"]", "parents = [\"edge-2\"]", "node edge-2 has itself as a parent"),
        ("\"regional-2\", \"regional-1\"]", "\"central\", \"central\"]", "node edge-1 has the parent central twice"),
        (
            "\"regional-2\", \"regional-1\"]",
            "\"a\", \"b\", \"c\", \"d\", \"e\"]",
            "node edge-1 has 5 parents; at most 4 are expected",
        ),
        (
            "parents = [\"regional-1\"]",
            "parents = [\"edge-1\"]",
            "node edge-2 (edge) has the parent edge-1 (edge); a higher tier is expected",
        ),
        (
            central,
            &central.replace("\"central\"", "\"edge\"").replacen("\"edge\"", "\"central\"", 1),
            "node regional-1 (regional) has the parent central (edge); a higher tier is expected",
        ),
        (
            "api = \"127.0.0.1:7431\"",
            "parents = [\"edge-1\"]\napi = \"127.0.0.1:7431\"",
            "parents in a loop: edge-1 -> regional-2 -> central -> edge-1",
        ),
        ("suspect_ms = 250", "suspect_ms = 9", "timing: suspect_ms = 9: 10 to 60000 ms are expected"),
        ("suspect_ms = 250", "lost_ms = 60001", "timing: lost_ms = 60001: 10 to 60000 ms are expected"),
        (
            "suspect_ms = 250",
            "suspect_ms = 1000",
            "timing: report_ms = 100, suspect_ms = 1000, lost_ms = 1000: each is",
        ),
        ("suspect_ms = 250", "report_ms = 300", "timing: report_ms = 300, suspect_ms = 300, lost_ms = 1000: each is"),
        ("[timing]", "[cost]\ncentral = 0\n[timing]", "cost: central = 0: at least 1 is expected"),
    ];
    for (from, to, expected) in cases {
        let said = complaint(from, to);
        assert!(said.starts_with(expected), "{to}\n  said:     {said}\n  expected: {expected}");
        assert!(!said.contains('\n'), "one line: {said}");
    }
}

#[test]
fn the_number_of_nodes_is_bounded() {
    let error = Topology::parse("cluster = \"empty\"").unwrap_err();
    assert_eq!(error, TopologyError::NoNodes);
    let node = |at: usize| {
        format!(
            "[[node]]\nname = \"n{at}\"\ntier = \"edge\"\nregion = \"r\"\napi = \"10.0.0.1:{}\"\npeer = \"10.0.0.2:{}\"\n",
            at + 1,
            at + 1
        )
    };
    let of = |count: usize| Topology::parse(&format!("cluster = \"c\"\n{}", (0..count).map(node).collect::<String>()));
    assert!(of(NODES_MAX).is_ok());
    assert_eq!(of(NODES_MAX + 1).unwrap_err(), TopologyError::TooManyNodes { nodes: NODES_MAX + 1 });
}

/// Many parents at each of two levels must not make the search for loops walk every way.
#[test]
fn a_wide_loop_among_equals_is_found() {
    let node = |at: usize| {
        let parents: Vec<_> = (1..=PARENTS_MAX).map(|step| format!("\"n{}\"", (at + step) % 40)).collect();
        format!(
            "[[node]]\nname = \"n{at}\"\ntier = \"edge\"\nregion = \"r\"\napi = \"10.0.0.1:{}\"\npeer = \"10.0.0.2:{}\"\n\
             parents = [{}]\n",
            at + 1,
            at + 1,
            parents.join(", ")
        )
    };
    let text = format!("cluster = \"c\"\n{}", (0..40).map(node).collect::<String>());
    let TopologyError::Loop { through } = Topology::parse(&text).unwrap_err() else { panic!("a loop is expected") };
    assert_eq!(through.first(), through.last());
}
