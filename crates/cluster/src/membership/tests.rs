use proptest::prelude::*;

use super::*;
use crate::ModelId;

const MS: u64 = 1_000_000;

const TOPOLOGY: &str = r#"
cluster = "test"
[[node]]
name = "edge"
tier = "edge"
region = "r"
api = "10.0.0.1:1"
peer = "10.0.0.1:2"
parents = ["near", "far"]
[[node]]
name = "other"
tier = "edge"
region = "r"
api = "10.0.0.2:1"
peer = "10.0.0.2:2"
parents = ["near"]
[[node]]
name = "near"
tier = "regional"
region = "r"
api = "10.0.0.3:1"
peer = "10.0.0.3:2"
parents = ["top"]
[[node]]
name = "far"
tier = "regional"
region = "r"
api = "10.0.0.4:1"
peer = "10.0.0.4:2"
parents = ["top"]
[[node]]
name = "top"
tier = "central"
region = "r"
api = "10.0.0.5:1"
peer = "10.0.0.5:2"
"#;

fn topology() -> Topology {
    Topology::parse(TOPOLOGY).unwrap()
}

fn id(name: &str) -> NodeId {
    NodeId::of(name)
}

struct Node {
    membership: Membership,
    now_ns: u64,
    numbers: u64,
}

impl Node {
    fn new(name: &str) -> Self {
        let membership = Membership::new(&topology(), name, 77, 1).unwrap();
        let mut node = Self { membership, now_ns: 5_000 * MS, numbers: 0 };
        node.membership.handle(node.now_ns, Event::Tick, &mut Vec::new());
        // Reports of the tests echo what was sent 2 ms ago.
        node.now_ns += 2 * MS;
        node
    }

    fn event(&mut self, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        self.membership.handle(self.now_ns, event, &mut out);
        out
    }

    fn connect(&mut self, peer: &str, instance: u64) -> Vec<Command> {
        self.event(Event::Connected { peer: id(peer), instance })
    }

    fn disconnect(&mut self, peer: &str, instance: u64) -> Vec<Command> {
        self.event(Event::Disconnected { peer: id(peer), instance, reason: "closed".to_owned() })
    }

    fn report(&self, instance: u64, number: u64, entries: Vec<LoadEntry>) -> LoadReport {
        let now_us = self.now_ns / 1000;
        LoadReport { instance, number, sent_us: 1, echo_us: now_us - 2_000, echo_delay_us: 500, entries }
    }

    fn hear(&mut self, peer: &str, instance: u64, entries: Vec<LoadEntry>) -> Vec<Command> {
        self.numbers += 1;
        let report = self.report(instance, self.numbers, entries);
        self.event(Event::Report { peer: id(peer), report })
    }

    /// Time passes, with every tick when it is due.
    fn wait(&mut self, ms: u64) -> Vec<Command> {
        let end_ns = self.now_ns + ms * MS;
        let mut all = Vec::new();
        while self.membership.next_tick_ns() <= end_ns {
            let due_ns = self.membership.next_tick_ns();
            assert!(due_ns >= self.now_ns, "a tick that was handled is due again");
            self.now_ns = due_ns;
            all.extend(self.event(Event::Tick));
        }
        self.now_ns = end_ns;
        all
    }

    fn standing(&self, peer: &str) -> Standing {
        self.neighbour(peer).standing
    }

    fn neighbour(&self, peer: &str) -> Neighbour {
        let view = self.membership.view(self.now_ns);
        view.neighbours.into_iter().find(|neighbour| neighbour.spec.name == peer).unwrap()
    }

    fn hello(&self, name: &str, instance: u64) -> Hello {
        let tier = topology().node(name).map_or(Tier::Edge, |node| node.tier);
        Hello { cluster: "test".to_owned(), name: name.to_owned(), tier, region: "r".to_owned(), instance, version: 1 }
    }

    fn greet(&self, hello: &Hello) -> Result<NodeId, Refusal> {
        self.membership.greet(self.now_ns, hello, &hello.name, Some(hello.tier))
    }
}

fn dials(commands: &[Command]) -> Vec<NodeId> {
    let peers = commands.iter().filter_map(|command| match command {
        Command::Dial { peer } => Some(*peer),
        _ => None,
    });
    peers.collect()
}

fn notices(commands: &[Command]) -> Vec<&str> {
    let texts = commands.iter().filter_map(|command| match command {
        Command::Notice { text, .. } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn sent(commands: &[Command], to: &str) -> Vec<LoadReport> {
    let reports = commands.iter().filter_map(|command| match command {
        Command::Send { peer, report } if *peer == id(to) => Some(report.clone()),
        _ => None,
    });
    reports.collect()
}

fn entry(model: u64, node: &str, hops: u8, service_us: u32) -> LoadEntry {
    let tier = topology().node(node).map_or(Tier::Edge, |node| node.tier);
    let way_us = u32::from(hops) * 1_000;
    LoadEntry { model: ModelId(model), node: id(node), tier, hops, service_us, typical_us: 1, queue_us: 0, way_us }
}

#[test]
fn children_dial_parents_and_never_the_reverse() {
    let membership = |name: &str| {
        let mut commands = Vec::new();
        Membership::new(&topology(), name, 1, 1).unwrap().handle(0, Event::Tick, &mut commands);
        dials(&commands)
    };
    assert_eq!(membership("edge"), [id("near"), id("far")]);
    assert_eq!(membership("near"), [id("top")]);
    assert!(membership("top").is_empty());
    let mut top = Node::new("top");
    assert!(dials(&top.wait(20_000)).is_empty());
    let error = Membership::new(&topology(), "nera", 1, 1).unwrap_err();
    assert_eq!(error.to_string(), "there is no node nera in this topology; did you mean near?");
}

#[test]
fn pauses_between_dials_double_up_to_a_limit_and_are_not_in_step() {
    let mut edge = Node::new("edge");
    let mut pauses_ms = Vec::new();
    for _ in 0..9 {
        edge.event(Event::DialFailed { peer: id("near"), reason: "timed out".to_owned() });
        let from_ns = edge.now_ns;
        while !dials(&edge.wait(1)).contains(&id("near")) {}
        pauses_ms.push((edge.now_ns - from_ns) / MS);
    }
    for (pause_ms, expected_ms) in pauses_ms.iter().zip([50, 100, 200, 400, 400, 400, 400, 400, 400]) {
        let range = expected_ms * 3 / 4 - 1..=expected_ms * 5 / 4 + 1;
        assert!(range.contains(pause_ms), "{pauses_ms:?}");
    }
    assert!(pauses_ms[6] != pauses_ms[7] || pauses_ms[7] != pauses_ms[8], "no jitter: {pauses_ms:?}");
}

#[test]
fn a_dial_without_an_answer_is_made_again() {
    let mut edge = Node::new("edge");
    assert!(dials(&edge.wait(DIAL_MS_MAX - 1)).is_empty());
    assert_eq!(dials(&edge.wait(200)).len(), 2);
}

#[test]
fn silence_makes_suspect_then_lost_and_a_report_makes_alive() {
    let mut edge = Node::new("edge");
    edge.connect("near", 5);
    edge.hear("near", 5, vec![entry(1, "near", 0, 10)]);
    edge.wait(299);
    assert_eq!(edge.standing("near"), Standing::Alive);
    assert!(edge.wait(1).contains(&Command::Changed));
    assert_eq!(edge.standing("near"), Standing::Suspect);
    assert!(edge.hear("near", 5, vec![]).contains(&Command::Changed), "at once");
    assert_eq!(edge.standing("near"), Standing::Alive);
    edge.wait(999);
    assert_eq!(edge.standing("near"), Standing::Suspect);
    let commands = edge.wait(1);
    let reason = "nothing heard for 1000 ms".to_owned();
    assert!(commands.contains(&Command::Close { peer: id("near"), reason }), "{commands:?}");
    assert_eq!(notices(&commands), ["near is lost: nothing heard for 1000 ms"]);
    assert_eq!(edge.standing("near"), Standing::Lost);
    assert!(dials(&edge.wait(63)).contains(&id("near")));
    // What still comes over the closed connection does not bring it back.
    edge.hear("near", 5, vec![entry(1, "near", 0, 10)]);
    assert_eq!(edge.standing("near"), Standing::Lost);
    assert!(edge.neighbour("near").entries.is_empty());
    edge.connect("near", 5);
    assert_eq!(edge.standing("near"), Standing::Alive);
    // The old connection's end is told late.
    edge.disconnect("near", 5);
    assert_eq!(edge.standing("near"), Standing::Alive);
    edge.disconnect("near", 5);
    assert_eq!(edge.standing("near"), Standing::Dialling);
    assert_eq!(edge.neighbour("near").reason, "closed");
}

#[test]
fn a_lost_child_is_waited_for() {
    let mut near = Node::new("near");
    near.connect("edge", 5);
    let commands = near.wait(20_000);
    assert!(!dials(&commands).contains(&id("edge")));
    assert_eq!(near.standing("edge"), Standing::Lost);
    assert_eq!(near.standing("other"), Standing::Lost, "it never came");
}

#[test]
fn a_pause_of_this_node_is_not_held_against_others() {
    let mut edge = Node::new("edge");
    edge.connect("near", 5);
    edge.hear("near", 5, vec![]);
    edge.now_ns += 3_000 * MS;
    edge.event(Event::Tick);
    assert_eq!(edge.standing("near"), Standing::Alive);
    edge.hear("near", 5, vec![]);
    edge.wait(299);
    assert_eq!(edge.standing("near"), Standing::Alive);
}

#[test]
fn a_second_connection_of_the_same_life_replaces_the_first_quietly() {
    let mut near = Node::new("near");
    near.connect("edge", 5);
    near.hear("edge", 5, vec![]);
    assert_eq!(near.greet(&near.hello("edge", 5)), Ok(id("edge")));
    near.connect("edge", 5);
    assert!(notices(&near.disconnect("edge", 5)).is_empty());
    assert_eq!(near.standing("edge"), Standing::Alive);
}

#[test]
fn another_life_is_let_in_when_the_known_one_is_not_alive() {
    let mut near = Node::new("near");
    near.connect("edge", 5);
    near.hear("edge", 5, vec![entry(1, "edge", 0, 10)]);
    let hello = near.hello("edge", 6);
    assert_eq!(near.greet(&hello), Err(Refusal::NameTaken { name: "edge".to_owned() }));
    near.now_ns += 300 * MS;
    assert_eq!(near.greet(&hello), Ok(id("edge")), "suspect by the clock");
    near.connect("edge", 6);
    assert!(near.neighbour("edge").entries.is_empty(), "what the old life offered is gone");
    // Ends and reports of the old life mean nothing any more.
    near.disconnect("edge", 5);
    near.hear("edge", 5, vec![entry(1, "edge", 0, 10)]);
    assert_eq!(near.standing("edge"), Standing::Alive);
    assert!(near.neighbour("edge").entries.is_empty());
    assert_eq!(near.neighbour("edge").instance, 6);
    near.disconnect("edge", 6);
    assert_eq!(near.greet(&near.hello("edge", 7)), Ok(id("edge")));
}

#[test]
fn old_and_repeated_reports_are_left_out() {
    let mut edge = Node::new("edge");
    edge.connect("near", 5);
    let (newer, older) = (vec![entry(1, "near", 0, 20)], vec![entry(1, "near", 0, 10)]);
    let report = edge.report(5, 9, newer.clone());
    edge.event(Event::Report { peer: id("near"), report });
    for number in [9, 8] {
        let report = edge.report(5, number, older.clone());
        edge.event(Event::Report { peer: id("near"), report });
    }
    assert_eq!(edge.neighbour("near").entries, newer);
}

#[test]
fn what_a_neighbour_cannot_know_or_be_is_not_believed() {
    let mut edge = Node::new("edge");
    edge.connect("near", 5);
    let good = entry(1, "near", 0, 10);
    let through = entry(1, "top", 1, 10);
    let stranger = LoadEntry { node: id("nobody"), ..through };
    let claims_much = LoadEntry { tier: Tier::Central, ..good };
    let me = entry(1, "edge", 1, 10);
    let not_itself = LoadEntry { hops: 1, ..good };
    let far_but_near = LoadEntry { hops: 0, ..through };
    let too_far = LoadEntry { hops: HOPS_MAX, ..through };
    let twice = LoadEntry { service_us: 99, ..good };
    edge.hear("near", 5, vec![stranger, claims_much, me, not_itself, far_but_near, too_far, good, twice, through]);
    assert_eq!(edge.neighbour("near").entries, [good, through]);
}

#[test]
fn the_round_trip_is_measured_without_comparing_clocks() {
    let mut edge = Node::new("edge");
    let first = sent(&edge.connect("near", 5), "near").remove(0);
    assert_eq!((first.instance, first.number, first.echo_us), (77, 1, 0));
    edge.now_ns += 7 * MS;
    // The other side's clock is far off; it kept the report for 3 ms.
    let answer = LoadReport {
        instance: 5,
        number: 1,
        sent_us: 3_600_000_000,
        echo_us: first.sent_us,
        echo_delay_us: 3_000,
        entries: vec![],
    };
    let reply = sent(&edge.event(Event::Report { peer: id("near"), report: answer }), "near").remove(0);
    assert_eq!(edge.neighbour("near").round_trip_us, 4_000);
    assert_eq!((reply.echo_us, reply.echo_delay_us), (3_600_000_000, 0));
    edge.wait(10);
    let later = sent(&edge.wait(100), "near").remove(0);
    assert_eq!(later.echo_us, 3_600_000_000);
    assert!(later.echo_delay_us > 50_000 && later.number == 3, "{later:?}");
    // An echo from before this node's start.
    let report = LoadReport { instance: 5, number: 2, echo_us: 4_999_999, ..LoadReport::default() };
    edge.event(Event::Report { peer: id("near"), report });
    assert_eq!(edge.neighbour("near").round_trip_us, 4_000);
}

#[test]
fn reports_come_every_period_to_those_that_are_connected() {
    let mut near = Node::new("near");
    near.connect("edge", 5);
    near.hear("edge", 5, vec![]);
    let commands = near.wait(250);
    assert_eq!(sent(&commands, "edge").len(), 2);
    assert!(sent(&commands, "other").is_empty());
}

#[test]
fn offers_spread_with_split_horizon_and_bounded_hops() {
    let mut near = Node::new("near");
    near.membership.set_load(vec![entry(1, "top", 2, 500)]);
    for (peer, entries) in [
        ("top", vec![entry(1, "top", 0, 50), entry(1, "far", 1, 60), entry(2, "edge", 2, 5), entry(2, "far", 1, 5)]),
        ("edge", vec![entry(1, "edge", 0, 900), entry(1, "far", 1, 800)]),
        ("other", vec![entry(1, "other", 0, 100)]),
    ] {
        near.connect(peer, 5);
        near.hear(peer, 5, entries);
    }
    let commands = near.wait(100);
    let told = |to: &str| sent(&commands, to).remove(0).entries;
    let own = LoadEntry { tier: Tier::Regional, ..entry(1, "near", 0, 500) };
    let through = |model, node, hops, service_us, way_us| LoadEntry { way_us, ..entry(model, node, hops, service_us) };
    // To `edge`: own; the fastest for model 1 (top: 1.5 ms away) and the fastest of another tier; not itself.
    assert_eq!(
        told("edge"),
        [own, through(1, "top", 1, 50, 1_500), through(2, "far", 2, 5, 2_500), through(1, "other", 1, 100, 1_500),]
    );
    // To `top`: nothing that is top or was learned from it, and `edge` 3 hops away is too far for anyone.
    assert_eq!(told("top"), [own, through(1, "other", 1, 100, 1_500), through(1, "far", 2, 800, 2_500)]);
    // `far` through `edge` and through `top`: once.
    let for_other = told("other");
    assert_eq!(for_other.iter().filter(|entry| entry.node == id("far") && entry.model == ModelId(1)).count(), 0);
    assert!(for_other.iter().all(|entry| entry.hops < HOPS_MAX));
    // A suspect's offers are not told on.
    near.hear("edge", 5, vec![]);
    near.hear("top", 5, vec![]);
    near.wait(250);
    let other = near.standing("other");
    near.hear("edge", 5, vec![]);
    near.hear("top", 5, vec![]);
    let commands = near.wait(100);
    assert_eq!(other, Standing::Suspect);
    assert_eq!(sent(&commands, "edge").remove(0).entries, [own]);
}

#[test]
fn a_report_never_has_more_entries_than_fit() {
    let mut near = Node::new("near");
    near.membership.set_load((0..100).map(|model| entry(model, "near", 0, 1)).collect());
    near.connect("top", 5);
    near.hear("top", 5, (0..100).map(|model| entry(model, "top", 0, 1)).collect());
    assert_eq!(near.neighbour("top").entries.len(), ENTRIES_MAX);
    let report = sent(&near.connect("edge", 5), "edge").remove(0);
    assert_eq!(report.entries.len(), ENTRIES_MAX);
    assert!(report.entries.iter().all(|entry| entry.hops == 0), "own ones come first");
}

#[test]
fn a_refused_hello_says_why_in_one_line() {
    let near = Node::new("near");
    let good = near.hello("edge", 1);
    let mine = near.hello("near", 1);
    let said = |hello: Hello, certificate: &str, tier: Option<Tier>| {
        let text = near.membership.greet(near.now_ns, &hello, certificate, tier).unwrap_err().to_string();
        assert!(!text.contains('\n') && text.len() < 400, "{text}");
        text
    };
    assert_eq!(near.membership.greet(near.now_ns, &good, "edge", None), Ok(id("edge")));
    let cases = [
        (
            Hello { version: 9, ..good.clone() },
            "edge",
            Some(Tier::Edge),
            "protocol version 9 is not spoken here; 0 to 1 are",
        ),
        (
            Hello { cluster: "x\ny".to_owned(), ..good.clone() },
            "edge",
            Some(Tier::Edge),
            "it is of the cluster \"x\\ny\"; this one is \"test\"",
        ),
        (good.clone(), "other", Some(Tier::Edge), "it calls itself \"edge\", but its certificate is \"other\"'s"),
        (
            Hello { name: "guest".to_owned(), ..good.clone() },
            "guest",
            Some(Tier::Edge),
            "node \"guest\" is not in the topology",
        ),
        (
            Hello { name: "far".to_owned(), tier: Tier::Regional, ..good.clone() },
            "far",
            Some(Tier::Regional),
            "node far is neither a parent nor a child of near",
        ),
        (
            Hello { tier: Tier::Central, ..good.clone() },
            "edge",
            Some(Tier::Edge),
            "it is central by its hello, but edge is edge in the topology",
        ),
        (good, "edge", Some(Tier::Central), "it is central by its certificate, but edge is edge in the topology"),
        (mine, "near", Some(Tier::Regional), "another node is running under the name near"),
    ];
    for (hello, certificate, tier, expected) in cases {
        assert_eq!(said(hello, certificate, tier), expected);
    }
    let long = Hello { cluster: "\u{1F3A5}".repeat(10_000), ..near.hello("edge", 1) };
    said(long, "edge", None);
}

#[test]
fn the_operator_is_told_once() {
    let mut edge = Node::new("edge");
    let mut all = Vec::new();
    for _ in 0..10 {
        all.extend(edge.event(Event::DialFailed { peer: id("near"), reason: "timed out".to_owned() }));
        all.extend(edge.wait(3_000));
    }
    let near: Vec<_> = notices(&all).into_iter().filter(|text| text.starts_with("near")).map(str::to_owned).collect();
    assert_eq!(near, ["near cannot be reached at 10.0.0.3:2: timed out", "near is lost: nothing heard for 1000 ms"]);
    assert_eq!(edge.neighbour("near").reason, "timed out");
    // One that takes the connection and ends it at once does not fill the log either.
    let mut all = Vec::new();
    for _ in 0..10 {
        edge.connect("near", 5);
        all.extend(edge.disconnect("near", 5));
    }
    assert_eq!(notices(&all), ["the connection with near broke off: closed"]);
    edge.connect("near", 5);
    assert_eq!(notices(&edge.hear("near", 5, vec![])), ["near is connected"]);
    assert_eq!(notices(&edge.disconnect("near", 5)), ["the connection with near broke off: closed"]);
}

#[test]
fn changes_of_load_are_told_at_most_ten_times_a_period() {
    let mut near = Node::new("near");
    near.connect("edge", 5);
    near.hear("edge", 5, vec![]);
    let mut changed = 0;
    for _ in 0..100 {
        let commands: Vec<_> = near.hear("edge", 5, vec![]).into_iter().chain(near.wait(1)).collect();
        changed += commands.iter().filter(|command| **command == Command::Changed).count();
    }
    assert!((5..=10).contains(&changed), "{changed}");
}

#[test]
fn events_of_strangers_mean_nothing() {
    let mut edge = Node::new("edge");
    let stranger = id("top");
    for event in [
        Event::Connected { peer: stranger, instance: 1 },
        Event::Report { peer: stranger, report: LoadReport::default() },
        Event::Disconnected { peer: stranger, instance: 1, reason: String::new() },
        Event::DialFailed { peer: stranger, reason: String::new() },
    ] {
        assert!(edge.event(event).is_empty());
    }
}

fn any_event() -> impl Strategy<Value = Option<Event>> {
    let peer = prop::sample::select(vec!["edge", "other", "top", "nobody"]).prop_map(NodeId::of);
    let report =
        (0u64..3, 0u64..9, any::<u64>(), any::<u32>()).prop_map(|(instance, number, echo_us, delay)| LoadReport {
            instance,
            number,
            sent_us: echo_us,
            echo_us,
            echo_delay_us: delay,
            entries: vec![entry(number, "top", 0, delay), entry(number, "far", 1, delay)],
        });
    (peer, 0u8..5, 0u64..3, report).prop_map(|(peer, kind, instance, report)| {
        let reason = "r".to_owned();
        match kind {
            0 => Some(Event::Connected { peer, instance }),
            1 => Some(Event::Disconnected { peer, instance, reason }),
            2 => Some(Event::Report { peer, report }),
            3 => Some(Event::DialFailed { peer, reason }),
            _ => None,
        }
    })
}

proptest! {
    /// Whatever the caller says, also what cannot happen: no panic, no tick that is due forever, parents only are
    /// dialled, and only connected neighbours are shown with offers.
    #[test]
    fn any_order_of_events_is_borne(events in prop::collection::vec((any_event(), 0u64..400), 1..60)) {
        let mut near = Node::new("near");
        let mut again = Node::new("near");
        for (event, ms) in events {
            let mut all = event.clone().map(|event| near.event(event)).unwrap_or_default();
            all.extend(near.wait(ms));
            prop_assert!(dials(&all).iter().all(|peer| *peer == id("top")));
            for neighbour in near.membership.view(near.now_ns).neighbours {
                let connected = matches!(neighbour.standing, Standing::Alive | Standing::Suspect);
                prop_assert!(connected || neighbour.entries.is_empty());
                let heard_ns_ago = neighbour.heard_ns_ago.unwrap_or(u64::MAX);
                prop_assert!(neighbour.standing != Standing::Alive || heard_ns_ago <= 300 * MS);
            }
            let mut same = event.map(|event| again.event(event)).unwrap_or_default();
            same.extend(again.wait(ms));
            prop_assert_eq!(all, same, "the same events give the same commands");
        }
    }
}
