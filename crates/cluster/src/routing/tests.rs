use proptest::prelude::*;

use super::*;
use crate::NodeSpec;

const MODEL: ModelId = ModelId(7);
const COST: TierCost = TierCost { edge: 1, regional: 3, central: 10 };

fn spec(name: &str, tier: Tier) -> NodeSpec {
    NodeSpec {
        name: name.to_owned(),
        tier,
        region: "r".to_owned(),
        api: "10.0.0.1:1".parse().unwrap(),
        peer: "10.0.0.1:2".parse().unwrap(),
        parents: Vec::new(),
        options: toml::Table::new(),
    }
}

fn entry(node: &str, tier: Tier, hops: u8, times_us: [u32; 3]) -> LoadEntry {
    let [service_us, queue_us, way_us] = times_us;
    LoadEntry { model: MODEL, node: NodeId::of(node), tier, hops, service_us, typical_us: 1, queue_us, way_us }
}

fn neighbour(name: &str, tier: Tier, round_trip_us: u32, entries: Vec<LoadEntry>) -> Neighbour {
    Neighbour {
        spec: spec(name, tier),
        parent: true,
        standing: Standing::Alive,
        instance: 1,
        round_trip_us,
        heard_ns_ago: Some(0),
        entries,
        reason: String::new(),
    }
}

/// An edge node whose regional parent knows a sibling and the centre. In microseconds: here 40 ms, regional
/// 4 + 10, sibling 4 + 1 + 20, central 4 + 30 + 5.
fn view() -> View {
    let regional = neighbour(
        "regional",
        Tier::Regional,
        4_000,
        vec![
            entry("regional", Tier::Regional, 0, [8_000, 2_000, 0]),
            entry("sibling", Tier::Edge, 1, [20_000, 0, 1_000]),
            entry("central", Tier::Central, 1, [5_000, 0, 30_000]),
        ],
    );
    View { me: spec("me", Tier::Edge), neighbours: vec![regional] }
}

fn ask(budget_us: u64, urgency: Urgency) -> Ask<'static> {
    Ask { budget_us, payload_bytes: 0, urgency, visited: &[], hops_left: HOPS_MAX, light: false, stick_to: None }
}

const HERE: Here = Here { predicted_us: Some(40_000) };

fn found(view: &View, ask: &Ask<'_>) -> Candidates {
    candidates(view, MODEL, ask, HERE, &COST, |_| 0)
}

fn names(candidates: &[Candidate]) -> Vec<&'static str> {
    let known = ["me", "regional", "sibling", "central", "other"];
    let name = |candidate: &Candidate| known.into_iter().find(|name| NodeId::of(name) == candidate.node).unwrap();
    candidates.iter().map(name).collect()
}

fn ranked(ask: &Ask<'_>) -> Vec<&'static str> {
    let mut candidates = found(&view(), ask);
    rank(ask, &mut candidates);
    names(&candidates)
}

#[test]
fn the_prediction_is_the_sum_of_its_parts() {
    let ask = Ask { payload_bytes: 6_000_000, ..ask(1, Urgency::Standard) };
    let asked = std::cell::Cell::new(0);
    let found = candidates(&view(), MODEL, &ask, HERE, &COST, |via| {
        assert_eq!(via, NodeId::of("regional"));
        asked.set(asked.get() + 1);
        100_000_000
    });
    assert_eq!(asked.get(), 1, "once for each neighbour");
    let of = |name: &str| *found.iter().find(|candidate| candidate.node == NodeId::of(name)).unwrap();
    let regional = of("regional");
    assert_eq!((regional.predicted_us, regional.hops, regional.way_us, regional.cost), (74_000, 1, 4_000, 3));
    let central = of("central");
    assert_eq!((central.predicted_us, central.hops, central.way_us, central.cost), (99_000, 2, 34_000, 10));
    assert_eq!(central.via, Some(NodeId::of("regional")));
    let me = of("me");
    assert_eq!((me.predicted_us, me.hops, me.way_us, me.cost, me.via), (40_000, 0, 0, 1, None));
    let unknown = candidates(&view(), MODEL, &ask, HERE, &COST, |_| 0);
    let us = 6_000_000 * 1_000_000 / RATE_UNKNOWN_BYTES_PER_S;
    assert!(unknown.iter().any(|candidate| candidate.predicted_us == us + 14_000));
}

#[test]
fn urgency_decides_the_order() {
    assert_eq!(ranked(&ask(100_000, Urgency::Standard)), ["sibling", "me", "regional", "central"]);
    assert_eq!(ranked(&ask(100_000, Urgency::Batch)), ["sibling", "me", "regional", "central"]);
    assert_eq!(ranked(&ask(100_000, Urgency::High)), ["sibling", "me", "regional", "central"]);
    assert_eq!(ranked(&ask(100_000, Urgency::Critical)), ["sibling", "me", "regional", "central"]);
    let light = Ask { light: true, ..ask(100_000, Urgency::Critical) };
    assert_eq!(ranked(&light), ["me", "sibling", "regional", "central"]);
    // Where the centre costs least, `high` still goes there last.
    let cost = TierCost { edge: 9, regional: 9, central: 1 };
    for (urgency, first) in [(Urgency::High, "sibling"), (Urgency::Standard, "central")] {
        let ask = ask(100_000, urgency);
        let mut candidates = candidates(&view(), MODEL, &ask, HERE, &cost, |_| 0);
        rank(&ask, &mut candidates);
        assert_eq!(names(&candidates)[0], first);
    }
}

#[test]
fn the_late_are_removed_with_a_margin_for_others_only() {
    assert_eq!(ranked(&ask(40_000, Urgency::Standard)), ["sibling", "me", "regional"]);
    assert_eq!(ranked(&ask(39_999, Urgency::Standard)), ["sibling", "regional"]);
    assert_eq!(ranked(&ask(27_778, Urgency::Standard)), ["sibling", "regional"]);
    assert_eq!(ranked(&ask(27_777, Urgency::Standard)), ["regional"]);
    assert!(ranked(&ask(15_000, Urgency::Critical)).is_empty());
    assert!(ranked(&ask(0, Urgency::Critical)).is_empty());
}

#[test]
fn a_job_does_not_go_where_it_was_nor_further_than_it_may() {
    let (regional, central) = ([NodeId::of("regional")], [NodeId::of("central")]);
    let here_only = Ask { visited: &regional, ..ask(100_000, Urgency::Standard) };
    assert_eq!(names(&found(&view(), &here_only)), ["me"], "neither to it nor through it");
    let visited = Ask { visited: &central, ..ask(100_000, Urgency::Standard) };
    assert!(!names(&found(&view(), &visited)).contains(&"central"));
    let one = Ask { hops_left: 1, ..ask(100_000, Urgency::Standard) };
    assert_eq!(ranked(&one), ["me", "regional"]);
    let none = Ask { hops_left: 0, ..ask(100_000, Urgency::Standard) };
    assert_eq!(ranked(&none), ["me"]);
}

#[test]
fn only_neighbours_that_are_alive_and_measured_count() {
    let only_here = |change: &dyn Fn(&mut Neighbour)| {
        let mut view = view();
        change(&mut view.neighbours[0]);
        assert_eq!(names(&found(&view, &ask(100_000, Urgency::Standard))), ["me"]);
    };
    for standing in [Standing::Dialling, Standing::Suspect, Standing::Lost] {
        only_here(&|neighbour| neighbour.standing = standing);
    }
    only_here(&|neighbour| neighbour.round_trip_us = 0);
    only_here(&|neighbour| neighbour.entries.iter_mut().for_each(|entry| entry.model = ModelId(8)));
    let nowhere = candidates(&view(), ModelId(8), &ask(1, Urgency::High), Here { predicted_us: None }, &COST, |_| 0);
    assert!(nowhere.is_empty());
}

#[test]
fn of_several_ways_to_a_node_the_fastest_counts() {
    let mut view = view();
    view.neighbours.push(neighbour(
        "other",
        Tier::Regional,
        1_000,
        vec![entry("sibling", Tier::Edge, 1, [20_000, 0, 1_000])],
    ));
    let found = found(&view, &ask(100_000, Urgency::Standard));
    let sibling: Vec<_> = found.iter().filter(|candidate| candidate.node == NodeId::of("sibling")).collect();
    assert_eq!(sibling.len(), 1);
    assert_eq!((sibling[0].via, sibling[0].predicted_us), (Some(NodeId::of("other")), 22_000));
}

#[test]
fn a_stream_stays_where_it_was_while_that_is_not_too_dear() {
    let stick = |budget_us, urgency, light, to: &str| {
        let ask = Ask { stick_to: Some(NodeId::of(to)), light, ..ask(budget_us, urgency) };
        ranked(&ask)
    };
    let standard = Urgency::Standard;
    assert_eq!(stick(100_000, standard, false, "me"), ["me", "sibling", "regional", "central"]);
    assert_eq!(
        stick(100_000, standard, false, "regional"),
        ["sibling", "me", "regional", "central"],
        "3 times the cost"
    );
    assert_eq!(stick(39_999, standard, false, "me"), ["sibling", "regional"], "too late there");
    assert_eq!(stick(27_000, standard, false, "regional"), ["regional"]);
    assert_eq!(stick(100_000, Urgency::Critical, true, "sibling")[0], "me");
    let cost = TierCost { edge: 5, regional: 10, central: 10 };
    let ask = Ask { stick_to: Some(NodeId::of("central")), ..ask(100_000, standard) };
    let mut candidates = candidates(&view(), MODEL, &ask, HERE, &cost, |_| 0);
    rank(&ask, &mut candidates);
    assert_eq!(names(&candidates), ["central", "sibling", "me", "regional"], "the others keep their order");
}

proptest! {
    /// Numbers of a faulty neighbour must neither overflow nor bring a late or visited candidate.
    #[test]
    fn what_is_left_is_on_time_and_was_not_visited(
        entries in prop::collection::vec((0usize..5, 0u8..3, any::<[u32; 3]>(), 0usize..3), 0..40),
        round_trip_us in any::<u32>(),
        budget_us in prop_oneof![any::<u64>(), 0u64..100_000],
        payload_bytes in any::<u64>(),
        rate in any::<u64>(),
        choices in (0usize..4, any::<bool>(), 0u8..6, 0usize..5, 0usize..5),
    ) {
        let known = ["me", "regional", "sibling", "central", "other"];
        let (urgency, light, hops_left, visited, stick_to) = choices;
        let entries = entries.into_iter().map(|(node, hops, times, tier)| {
            entry(known[node], Tier::ALL[tier], hops, times)
        });
        let regional = neighbour("regional", Tier::Regional, round_trip_us, entries.collect());
        let view = View { me: spec("me", Tier::Edge), neighbours: vec![regional] };
        let visited = [NodeId::of(known[visited])];
        let ask = Ask {
            budget_us,
            payload_bytes,
            urgency: Urgency::ALL[urgency],
            visited: &visited,
            hops_left,
            light,
            stick_to: Some(NodeId::of(known[stick_to])),
        };
        let mut candidates = candidates(&view, MODEL, &ask, HERE, &COST, |_| rate);
        rank(&ask, &mut candidates);
        for candidate in &candidates {
            prop_assert!(candidate.predicted_us <= budget_us);
            prop_assert!(candidate.hops <= hops_left.min(HOPS_MAX));
            prop_assert_eq!(candidate.via.is_none(), candidate.hops == 0);
            prop_assert!(candidate.via.is_none() || candidate.node != NodeId::of("me"));
            prop_assert!(candidate.via.is_none() || !visited.contains(&candidate.via.unwrap()));
        }
        let mut nodes = names(&candidates);
        nodes.sort_unstable();
        nodes.dedup();
        prop_assert_eq!(nodes.len(), candidates.len(), "each node once");
    }
}
