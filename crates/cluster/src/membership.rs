//! One node's view of its neighbours: who is there, how far away, and what they can do.
//!
//! [`Membership::handle`] takes a time and an event and appends commands. Children dial their parents, never the
//! reverse; each side sends the other a [`LoadReport`] every `report_ms`, and judges it by what it hears. There is no
//! agreement among nodes on who is alive: each acts on its own view, and a view is never older than the silence that it
//! tolerates.
//!
//! What the caller owes: every connection that [`Membership::greet`] allowed is told as [`Event::Connected`] and its end
//! as one [`Event::Disconnected`]; every [`Command::Dial`] ends in `Connected` or [`Event::DialFailed`] (silence counts as
//! failed after [`DIAL_MS_MAX`]); `Tick` comes at [`Membership::next_tick_ns`] or soon after.

mod greeting;
mod link;
mod round_trip;
mod spread;

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sensorium_wire::Tier;

pub use greeting::{Hello, Refusal};
use link::Link;

use crate::topology::{NodeSpec, Timing, Topology, TopologyError};
use crate::{ENTRIES_MAX, HOPS_MAX, LoadEntry, LoadReport, ModelId, NodeId};

/// Pause before dialling again, in milliseconds: the first, doubled with every failure, up to the longest. Each is
/// lengthened or shortened by up to a quarter, so that children that lost one parent do not come back in step.
pub const DIAL_PAUSE_MS_MIN: u64 = 50;
pub const DIAL_PAUSE_MS_MAX: u64 = 400;
/// A dial that is neither answered nor refused for so long has failed, in milliseconds. Its packets are repeated after ever
/// longer pauses; a new dial begins with short ones, so that a link that heals is found soon.
pub const DIAL_MS_MAX: u64 = 1_200;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection stands, dialled by either side, and its hello was allowed by [`Membership::greet`].
    Connected { peer: NodeId, instance: u64 },
    /// One of the connections with that life of the peer has ended, for whatever reason, also after [`Command::Close`].
    Disconnected { peer: NodeId, instance: u64, reason: String },
    /// A load report came in over a connection with the peer.
    Report { peer: NodeId, report: LoadReport },
    /// A [`Command::Dial`] came to nothing: unreachable, refused, or the answer was.
    DialFailed { peer: NodeId, reason: String },
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect to a parent.
    Dial { peer: NodeId },
    /// Close all connections with a neighbour.
    Close { peer: NodeId, reason: String },
    /// Send a report over the newest connection with a neighbour. May get lost.
    Send { peer: NodeId, report: LoadReport },
    /// The view has changed: publish it. At once when a standing changed; changes of load alone are told no more often
    /// than ten times per `report_ms`.
    Changed,
    /// One line for the operator. Not repeated until the neighbour was heard again.
    Notice { peer: NodeId, text: String },
}

/// How a neighbour stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Standing {
    /// There is no connection, and it was there less than `lost_ms` ago or this node has just started. A parent is being
    /// dialled; a child is expected to dial.
    Dialling,
    /// Connected and heard within `suspect_ms`. Only such neighbours are given work.
    Alive,
    /// Connected, and silent for `suspect_ms`.
    Suspect,
    /// Silent for `lost_ms`. Its connection was closed; a parent is dialled again and again.
    Lost,
}

impl Standing {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dialling => "dialling",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
        }
    }
}

/// A neighbour, as a node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbour {
    pub spec: NodeSpec,
    /// Whether it is a parent; otherwise a child.
    pub parent: bool,
    pub standing: Standing,
    /// The life of it that was last connected; 0 = none yet.
    pub instance: u64,
    /// Smoothed, at least 1; 0 = not measured yet.
    pub round_trip_us: u32,
    /// Since the last report, or the connection, if none came yet. `None` = never heard.
    pub heard_ns_ago: Option<u64>,
    /// What it offers, as it last said; empty unless it is connected.
    pub entries: Vec<LoadEntry>,
    /// Why it is not connected; empty while it is.
    pub reason: String,
}

impl Neighbour {
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.spec.id()
    }
}

/// What one node knows of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub me: NodeSpec,
    /// Parents in their order, then children.
    pub neighbours: Vec<Neighbour>,
}

impl View {
    fn neighbour(&self, id: NodeId) -> Option<&Neighbour> {
        self.neighbours.iter().find(|neighbour| neighbour.id() == id)
    }

    /// What the quickest of the others that have the model needs for one job, in microseconds; `None` when none has it.
    #[must_use]
    pub fn typical_us(&self, model: ModelId) -> Option<u64> {
        let entries = self.neighbours.iter().flat_map(|neighbour| &neighbour.entries);
        entries.filter(|entry| entry.model == model).map(|entry| u64::from(entry.typical_us)).min()
    }

    /// How much longer than usual a job takes at `node` in a bad spell, by what `via` reports, in microseconds.
    #[must_use]
    pub fn margin_us(&self, via: NodeId, node: NodeId, model: ModelId) -> u64 {
        let mut entries = self.neighbour(via).into_iter().flat_map(|neighbour| &neighbour.entries);
        let entry = entries.find(|entry| entry.model == model && entry.node == node);
        entry.map_or(0, |entry| entry.service_us.saturating_sub(entry.typical_us).into())
    }

    /// The round trip to a neighbour, in microseconds; 0 = not known.
    #[must_use]
    pub fn round_trip_us(&self, id: NodeId) -> u64 {
        self.neighbour(id).map_or(0, |neighbour| neighbour.round_trip_us.into())
    }

    /// Whether a neighbour stands so.
    #[must_use]
    pub fn stands(&self, id: NodeId, standing: Standing) -> bool {
        self.neighbour(id).is_some_and(|neighbour| neighbour.standing == standing)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Membership {
    cluster: String,
    me: NodeSpec,
    id: NodeId,
    instance: u64,
    timing: Timing,
    /// Every node of the topology: what others say of nodes that are not, or of another tier, is not believed.
    tiers: BTreeMap<NodeId, Tier>,
    links: Vec<Link>,
    own: Vec<LoadEntry>,
    chance: ChaCha8Rng,
    /// When the first event came.
    started_ns: Option<u64>,
    report_due_ns: u64,
    /// The view has changed in a way that cannot wait, or in any way since it was last told.
    urgent: bool,
    dirty: bool,
    told_ns: u64,
}

impl Membership {
    /// For the node `name` of a topology, in the life `instance`: a number that differs after every start. The seed decides the
    /// jitter only.
    ///
    /// # Errors
    /// [`TopologyError::UnknownNode`] when the topology has no such node.
    pub fn new(topology: &Topology, name: &str, instance: u64, seed: u64) -> Result<Self, TopologyError> {
        let known = || topology.nodes.iter().map(|node| node.name.as_str());
        let me = topology.node(name).ok_or_else(|| TopologyError::unknown_node(name, known()))?.clone();
        let links = topology.neighbours(name).into_iter().map(|spec| {
            let parent = me.parents.contains(&spec.name);
            Link::new(spec, parent)
        });
        Ok(Self {
            cluster: topology.cluster.clone(),
            id: me.id(),
            instance,
            timing: topology.timing,
            tiers: topology.nodes.iter().map(|node| (node.id(), node.tier)).collect(),
            links: links.collect(),
            own: Vec::new(),
            chance: ChaCha8Rng::seed_from_u64(seed),
            started_ns: None,
            report_due_ns: 0,
            urgent: true,
            dirty: true,
            told_ns: 0,
            me,
        })
    }

    /// What this node offers itself, for the next reports. At most [`ENTRIES_MAX`], the more important first; who and where
    /// this node is, is filled in.
    pub fn set_load(&mut self, own: Vec<LoadEntry>) {
        let (node, tier) = (self.id, self.me.tier);
        let own = own.into_iter().take(ENTRIES_MAX);
        self.own = own.map(|entry| LoadEntry { node, tier, hops: 0, way_us: 0, ..entry }).collect();
    }

    /// Takes an event, does what is due, and appends what the caller is to do. Times never go back.
    pub fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Command>) {
        if self.started_ns.is_none() {
            self.started_ns = Some(now_ns);
            self.report_due_ns = now_ns.saturating_add(self.report_ns());
            for link in &mut self.links {
                link.start(now_ns);
            }
        }
        self.forgive_own_pause(now_ns);
        match event {
            Event::Connected { peer, instance } => self.connected(now_ns, peer, instance, out),
            Event::Disconnected { peer, instance, reason } => self.disconnected(now_ns, peer, instance, reason, out),
            Event::Report { peer, report } => self.heard(now_ns, peer, report, out),
            Event::DialFailed { peer, reason } => self.dial_failed(now_ns, peer, reason, out),
            Event::Tick => {}
        }
        self.advance(now_ns, out);
    }

    /// When `Tick` is due: now or earlier, if nothing was handled yet.
    #[must_use]
    pub fn next_tick_ns(&self) -> u64 {
        if self.started_ns.is_none() {
            return 0;
        }
        let changed = self.dirty.then(|| self.tell_due_ns());
        let links = self.links.iter().filter_map(|link| link.due_ns(&self.timing));
        links.chain(changed).fold(self.report_due_ns, u64::min)
    }

    #[must_use]
    pub fn view(&self, now_ns: u64) -> View {
        View { me: self.me.clone(), neighbours: self.links.iter().map(|link| link.shown(now_ns)).collect() }
    }

    fn report_ns(&self) -> u64 {
        self.timing.report_ms.saturating_mul(1_000_000)
    }

    fn tell_due_ns(&self) -> u64 {
        self.told_ns.saturating_add(self.report_ns() / 10)
    }

    /// While this node itself stood still it heard nobody: what waits in its sockets is to be read before anyone is
    /// called silent.
    fn forgive_own_pause(&mut self, now_ns: u64) {
        let late_ns = now_ns.saturating_sub(self.next_tick_ns());
        if late_ns > self.report_ns() {
            for link in &mut self.links {
                link.forgive(now_ns, late_ns);
            }
        }
    }

    fn connected(&mut self, now_ns: u64, peer: NodeId, instance: u64, out: &mut Vec<Command>) {
        let Some(at) = self.at(peer) else { return };
        self.urgent |= self.links[at].connected(now_ns, instance);
        self.send(now_ns, at, out);
    }

    fn disconnected(&mut self, now_ns: u64, peer: NodeId, instance: u64, reason: String, out: &mut Vec<Command>) {
        let Some(at) = self.at(peer) else { return };
        let link = &mut self.links[at];
        if link.disconnected(instance) {
            let text = format!("the connection with {} broke off: {reason}", link.spec.name);
            link.notice(text, out);
            link.reason = reason;
            link.dial_again(now_ns, &mut self.chance);
            self.urgent = true;
        }
    }

    fn heard(&mut self, now_ns: u64, peer: NodeId, report: LoadReport, out: &mut Vec<Command>) {
        let Some(at) = self.at(peer) else { return };
        let link = &mut self.links[at];
        if !link.is_news(&report) {
            return;
        }
        let (tiers, me) = (&self.tiers, self.id);
        let believed = |entry: &LoadEntry| {
            tiers.get(&entry.node) == Some(&entry.tier)
                && entry.node != me
                && entry.hops < HOPS_MAX
                && (entry.hops == 0) == (entry.node == peer)
        };
        let first = link.heard(now_ns, self.started_ns.unwrap_or(now_ns), report, &believed);
        self.dirty = true;
        self.urgent |= first.alive_again;
        if first.of_connection {
            link.noticed.clear();
            out.push(Command::Notice { peer, text: format!("{} is connected", link.spec.name) });
            self.urgent = true;
            // The other side measures the way with it, sooner than by waiting for the next.
            self.send(now_ns, at, out);
        }
    }

    fn dial_failed(&mut self, now_ns: u64, peer: NodeId, reason: String, out: &mut Vec<Command>) {
        let Some(at) = self.at(peer) else { return };
        let link = &mut self.links[at];
        if link.is_dialling() {
            let text = format!("{} cannot be reached at {}: {reason}", link.spec.name, link.spec.peer);
            link.notice(text, out);
            self.dirty |= link.reason != reason;
            link.reason = reason;
            link.dial_again(now_ns, &mut self.chance);
        }
    }

    /// What time brings.
    fn advance(&mut self, now_ns: u64, out: &mut Vec<Command>) {
        for link in &mut self.links {
            self.urgent |= link.judge(now_ns, &self.timing, &mut self.chance, out);
            if link.is_dial_due(now_ns) {
                out.push(Command::Dial { peer: link.id });
                link.dialled(now_ns);
            }
        }
        if now_ns >= self.report_due_ns {
            for at in 0..self.links.len() {
                if self.links[at].is_linked() {
                    self.send(now_ns, at, out);
                }
            }
            // In step, unless the caller was so late that reports would come in a burst.
            let next_ns = self.report_due_ns.saturating_add(self.report_ns());
            self.report_due_ns = if next_ns > now_ns { next_ns } else { now_ns.saturating_add(self.report_ns()) };
        }
        if self.urgent || (self.dirty && now_ns >= self.tell_due_ns()) {
            out.push(Command::Changed);
            (self.urgent, self.dirty, self.told_ns) = (false, false, now_ns);
        }
    }

    fn send(&mut self, now_ns: u64, at: usize, out: &mut Vec<Command>) {
        let entries = spread::entries(&self.own, &self.links, at, self.id);
        let link = &mut self.links[at];
        let report = link.next_report(now_ns, self.instance, entries);
        out.push(Command::Send { peer: link.id, report });
    }

    fn at(&self, peer: NodeId) -> Option<usize> {
        self.links.iter().position(|link| link.id == peer)
    }
}

#[cfg(test)]
mod tests;
