//! The world: nodes, clocks, the queue of what is to happen, faults, and the checks of membership.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sensorium_cluster::{
    Command, Event, LoadEntry, Membership, ModelId, NodeId, NodeSpec, Standing, TierCost, Timing, Topology,
};
use sensorium_wire::Tier;

use crate::jobs::Job;
use crate::leases::{Leases, Question};
use crate::links::Connection;

pub(crate) const MS: u64 = 1_000_000;
/// Faults end here, and the world some time later.
pub(crate) const HEALED_NS: u64 = 6_000 * MS;
const END_NS: u64 = HEALED_NS + 4_500 * MS;
pub(crate) const MODELS: u64 = 3;

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    DeafToSilence,
    ForgetsWhereJobsWere,
    LeaseFromTheAnswer,
    GrantsAtOnceAfterARestart,
    EpochsStartAgain,
    KeepsOldReports,
    NeverDialsAgain,
}

#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Tick { node: usize },
    DialArrives { connection: usize },
    DialAnswered { connection: usize, refusal: Option<String> },
    DialTimedOut { connection: usize },
    Datagram { connection: usize, to: usize, bytes: Vec<u8> },
    CloseArrives { connection: usize, end: usize },
    Ended { connection: usize, end: usize },
    IdleCheck { connection: usize, end: usize },
    JobAt { node: usize, job: Box<Job> },
    LeaseWake,
    LeaseAsked(Question),
    LeaseAnswered { question: Question, answer: Option<sensorium_cluster::Lease> },
    LeaseReleased { source: usize, node: usize, epoch: u64 },
    Crash { node: usize },
    Start { node: usize },
    Cut { side: u32 },
    Mend,
    Heal,
    Look,
}

pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    pub(crate) id: NodeId,
    pub(crate) up: bool,
    /// Its instance: rises with every start.
    pub(crate) life: u64,
    pub(crate) membership: Membership,
    offset_ns: u64,
    /// How fast its clock runs, in millionths.
    rate: u64,
    wake_ns: u64,
    /// When earlier lives ended.
    deaths: BTreeMap<u64, u64>,
    /// For each neighbour, the life and number of the newest report that its entries were seen from.
    pub(crate) seen: BTreeMap<NodeId, (u64, u64)>,
}

pub(crate) struct World {
    pub(crate) chance: ChaCha8Rng,
    pub(crate) now_ns: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    pub(crate) topology: Topology,
    pub(crate) nodes: Vec<Node>,
    pub(crate) connections: Vec<Connection>,
    /// Nodes that are cut off from the others, as bits.
    side: u32,
    pub(crate) loss: f64,
    pub(crate) delay_ns_min: u64,
    pub(crate) delay_ns_max: u64,
    pub(crate) leases: Leases,
    pub(crate) jobs_open: usize,
    pub(crate) broken: Broken,
    pub(crate) wrong: Option<String>,
    pub(crate) story: Story,
}

/// What happened, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Story {
    /// Of everything that happened.
    digest: u64,
    /// Jobs by how often they were handed on.
    pub(crate) jobs_by_hops: [u64; 4],
    pub(crate) hellos_refused: u64,
    pub(crate) connections: u64,
    pub(crate) deaths: u64,
    /// Times that a source got another owner.
    pub(crate) owners_changed: u64,
}

impl World {
    pub(crate) fn new(seed: u64, broken: Broken) -> Self {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let topology = random_topology(&mut chance);
        let delay_ns_min = chance.random_range(0..5 * MS);
        let mut world = Self {
            now_ns: 0,
            queue: BTreeMap::new(),
            queued: 0,
            nodes: Vec::new(),
            connections: Vec::new(),
            side: 0,
            loss: chance.random_range(0.0..0.3),
            delay_ns_min,
            delay_ns_max: delay_ns_min + chance.random_range(MS..60 * MS),
            leases: Leases::new(topology.nodes.len(), broken),
            jobs_open: 0,
            broken,
            wrong: None,
            story: Story { digest: seed, ..Story::default() },
            topology,
            chance,
        };
        for spec in world.topology.nodes.clone() {
            let node = Node {
                id: spec.id(),
                up: false,
                life: 0,
                membership: world.membership(&spec.name, 0),
                offset_ns: world.chance.random_range(60_000 * MS..3_600_000 * MS),
                rate: world.chance.random_range(990_000..=1_010_000),
                wake_ns: u64::MAX,
                deaths: BTreeMap::new(),
                seen: BTreeMap::new(),
                spec,
            };
            world.nodes.push(node);
        }
        world.plan_faults();
        world
    }

    /// Plays to the end.
    pub(crate) fn play(mut self) -> Result<Story, String> {
        while let Some(((at_ns, _), happening)) = self.queue.pop_first() {
            if at_ns > END_NS {
                break;
            }
            self.now_ns = at_ns;
            self.note(at_ns, &happening);
            self.happen(happening);
            self.check_leases();
            if let Some(wrong) = self.wrong {
                return Err(format!("at {} ms: {wrong}", self.now_ns / MS));
            }
        }
        self.check_the_end()?;
        Ok(self.story)
    }

    fn note(&mut self, at_ns: u64, happening: &Happening) {
        let mut mix = |number: u64| self.story.digest = (self.story.digest ^ number).wrapping_mul(0x100_0000_01b3);
        mix(at_ns);
        if let Happening::Datagram { bytes, .. } = happening {
            bytes.iter().for_each(|byte| mix(u64::from(*byte)));
        }
    }

    pub(crate) fn after(&mut self, ns: u64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now_ns + ns, self.queued), happening);
    }

    pub(crate) fn delay_ns(&mut self) -> u64 {
        self.chance.random_range(self.delay_ns_min..=self.delay_ns_max)
    }

    pub(crate) fn is_cut(&self, one: usize, other: usize) -> bool {
        (self.side >> one) & 1 != (self.side >> other) & 1
    }

    pub(crate) fn local_ns(&self, node: usize) -> u64 {
        let Node { offset_ns, rate, .. } = self.nodes[node];
        offset_ns + self.now_ns * rate / 1_000_000
    }

    pub(crate) fn index(&self, id: NodeId) -> usize {
        self.nodes.iter().position(|node| node.id == id).unwrap()
    }

    pub(crate) fn complain(&mut self, wrong: String) {
        self.wrong.get_or_insert(wrong);
    }

    pub(crate) fn tell(&mut self, node: usize, event: Event) {
        let now_ns = self.local_ns(node);
        let mut commands = Vec::new();
        self.nodes[node].membership.handle(now_ns, event, &mut commands);
        for command in commands {
            match command {
                Command::Dial { peer } => self.dial(node, peer),
                Command::Close { peer, .. } => self.close(node, peer),
                Command::Send { peer, report } => self.send(node, peer, &report),
                Command::Changed => {}
                Command::Notice { text, .. } => assert!(!text.is_empty() && !text.contains('\n')),
            }
        }
        let Node { offset_ns, rate, wake_ns, .. } = self.nodes[node];
        let due_ns = self.nodes[node].membership.next_tick_ns().saturating_sub(offset_ns);
        let due_ns = (due_ns * 1_000_000).div_ceil(rate).max(self.now_ns) + self.chance.random_range(0..2 * MS);
        // A tick that is queued and comes soon enough stays.
        if wake_ns < self.now_ns || wake_ns == u64::MAX || due_ns < wake_ns {
            self.nodes[node].wake_ns = due_ns;
            self.after(due_ns - self.now_ns, Happening::Tick { node });
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick { node } => {
                if self.nodes[node].up && self.nodes[node].wake_ns == self.now_ns {
                    self.nodes[node].wake_ns = u64::MAX;
                    self.tell(node, Event::Tick);
                }
            }
            Happening::DialArrives { connection } => self.dial_arrives(connection),
            Happening::DialAnswered { connection, refusal } => self.dial_answered(connection, refusal),
            Happening::DialTimedOut { connection } => self.dial_timed_out(connection),
            Happening::Datagram { connection, to, bytes } => self.datagram(connection, to, &bytes),
            Happening::CloseArrives { connection, end } => self.close_arrives(connection, end),
            Happening::Ended { connection, end } => self.ended(connection, end),
            Happening::IdleCheck { connection, end } => self.idle_check(connection, end),
            Happening::JobAt { node, job } => self.job_at(node, *job),
            Happening::LeaseWake => self.lease_wake(),
            Happening::LeaseAsked(question) => self.lease_asked(question),
            Happening::LeaseAnswered { question, answer } => self.lease_answered(question, answer),
            Happening::LeaseReleased { source, node, epoch } => self.lease_released(source, node, epoch),
            Happening::Crash { node } => self.crash(node),
            Happening::Start { node } => self.start(node),
            Happening::Cut { side } => self.side = side,
            Happening::Mend => self.side = 0,
            Happening::Heal => {
                (self.side, self.loss) = (0, 0.0);
                (0..self.nodes.len()).for_each(|node| self.start(node));
            }
            Happening::Look => self.look(),
        }
    }

    fn plan_faults(&mut self) {
        let nodes = self.nodes.len();
        for node in 0..nodes {
            let at_ns = self.chance.random_range(0..300 * MS);
            self.after(at_ns, Happening::Start { node });
        }
        for _ in 0..self.chance.random_range(0..5) {
            let at_ns = self.chance.random_range(0..HEALED_NS);
            let longest_ns = if self.chance.random_bool(0.3) { 200 * MS } else { 2_500 * MS };
            let for_ns = self.chance.random_range(10 * MS..longest_ns);
            if self.chance.random_bool(0.5) {
                let node = self.chance.random_range(0..nodes);
                self.after(at_ns, Happening::Crash { node });
                self.after(at_ns + for_ns, Happening::Start { node });
            } else {
                let side = self.chance.random_range(0..1 << nodes);
                self.after(at_ns, Happening::Cut { side });
                self.after((at_ns + for_ns).min(HEALED_NS), Happening::Mend);
            }
        }
        self.after(HEALED_NS, Happening::Heal);
        self.after(0, Happening::Look);
        self.after(0, Happening::LeaseWake);
    }

    fn membership(&mut self, name: &str, life: u64) -> Membership {
        let mut topology = self.topology.clone();
        if self.broken == Broken::DeafToSilence {
            topology.timing = Timing { report_ms: 100, suspect_ms: 30_000, lost_ms: 60_000 };
        }
        Membership::new(&topology, name, life, self.chance.random()).unwrap()
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].up {
            return;
        }
        self.nodes[node].up = true;
        self.nodes[node].life += 1;
        let (life, name) = (self.nodes[node].life, self.nodes[node].spec.name.clone());
        self.nodes[node].membership = self.membership(&name, life);
        self.nodes[node].wake_ns = u64::MAX;
        self.nodes[node].seen.clear();
        self.lease_start(node);
        self.new_load(node);
        self.tell(node, Event::Tick);
    }

    /// Like `kill -9`: nobody is told.
    fn crash(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        let (life, now_ns) = (self.nodes[node].life, self.now_ns);
        self.nodes[node].up = false;
        self.nodes[node].deaths.insert(life, now_ns);
        self.story.deaths += 1;
        self.forget_connections(node);
    }

    fn new_load(&mut self, node: usize) {
        let entry = |chance: &mut ChaCha8Rng, model| LoadEntry {
            model: ModelId(model),
            node: NodeId(0),
            tier: Tier::Edge,
            hops: 0,
            service_us: chance.random_range(100..50_000),
            typical_us: 50,
            queue_us: chance.random_range(0..100_000),
            way_us: 0,
        };
        let own = (0..MODELS).map(|model| entry(&mut self.chance, model)).collect();
        self.nodes[node].membership.set_load(own);
    }

    /// Looks at every node's view, and now and then changes a load and submits a job.
    fn look(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.nodes[node].up {
                continue;
            }
            self.check_view(node);
            if self.chance.random_bool(0.1) {
                self.new_load(node);
            }
            if self.chance.random_bool(0.3) {
                self.submit(node);
            }
        }
        self.after(25 * MS, Happening::Look);
    }

    fn check_view(&mut self, node: usize) {
        let view = self.nodes[node].membership.view(self.local_ns(node));
        let timing = self.topology.timing;
        // The last report may have been on its way when its sender died; a connection takes the way three times.
        let bound_ns = timing.suspect_ms * MS * 102 / 100 + 3 * self.delay_ns_max + 5 * MS;
        for neighbour in view.neighbours.iter().filter(|neighbour| neighbour.standing == Standing::Alive) {
            let peer = self.index(neighbour.id());
            let died_ns = self.nodes[peer].deaths.get(&neighbour.instance);
            if let Some(ms) = died_ns.map(|died_ns| self.now_ns - died_ns).filter(|ns| *ns > bound_ns) {
                let (name, peer) = (&view.me.name, &neighbour.spec.name);
                return self.complain(format!("{peer} is believed alive by {name} {} ms after its death", ms / MS));
            }
        }
    }

    /// What everyone must have got over.
    fn check_the_end(&self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            let view = self.nodes[node].membership.view(self.local_ns(node));
            let name = &view.me.name;
            for neighbour in &view.neighbours {
                let peer = &neighbour.spec.name;
                let life = self.nodes[self.index(neighbour.id())].life;
                if neighbour.standing != Standing::Alive || neighbour.instance != life {
                    let standing = neighbour.standing.name();
                    return Err(format!("{peer} is {standing} at {name} after healing: {}", neighbour.reason));
                }
                let offered =
                    |model| neighbour.entries.iter().any(|entry| entry.model == ModelId(model) && entry.hops == 0);
                if !(0..MODELS).all(offered) {
                    return Err(format!("{peer} offers {name} nothing after healing"));
                }
                let way_us = u64::from(neighbour.round_trip_us);
                // Clocks that differ by 2 % misjudge the 100 ms and more for which an echo is kept.
                let (least_us, most_us) = (self.delay_ns_min * 2 / 1000, self.delay_ns_max * 2 / 1000);
                let range = least_us.saturating_sub(4_000)..=most_us + 4_000;
                if !range.contains(&way_us) {
                    return Err(format!("{name} believes {peer} to be {way_us} us away; it is {range:?}"));
                }
            }
        }
        if self.jobs_open != 0 {
            return Err(format!("{} jobs never ended", self.jobs_open));
        }
        self.check_leases_at_the_end()
    }
}

pub(crate) const COST: TierCost = TierCost { edge: 1, regional: 3, central: 10 };

/// Two to seven nodes; those below the top have one or two parents.
fn random_topology(chance: &mut ChaCha8Rng) -> Topology {
    let count = chance.random_range(2..=7usize);
    let mut nodes: Vec<NodeSpec> = Vec::new();
    for at in 0..count {
        let tier = match at {
            0 => Tier::Central,
            _ if chance.random_bool(0.4) => Tier::Regional,
            _ => Tier::Edge,
        };
        let above: Vec<String> = nodes.iter().filter(|node| node.tier > tier).map(|node| node.name.clone()).collect();
        let mut parents: Vec<String> = Vec::new();
        for _ in 0..2 {
            if !above.is_empty() && (parents.is_empty() || chance.random_bool(0.5)) {
                let parent = above[chance.random_range(0..above.len())].clone();
                if !parents.contains(&parent) {
                    parents.push(parent);
                }
            }
        }
        nodes.push(NodeSpec {
            name: format!("n{at}"),
            tier,
            region: "r".to_owned(),
            api: format!("10.0.0.{}:1", at + 1).parse().unwrap(),
            peer: format!("10.0.0.{}:2", at + 1).parse().unwrap(),
            parents,
            options: toml::Table::new(),
        });
    }
    let text = toml::to_string(&Topology {
        cluster: "world".to_owned(),
        timing: Timing::default(),
        cost: COST,
        defaults: toml::Table::new(),
        sources: Vec::new(),
        nodes,
    });
    Topology::parse(&text.unwrap()).unwrap()
}
