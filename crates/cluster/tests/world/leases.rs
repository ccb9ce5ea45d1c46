//! Two sources that several nodes want, granted by the top node, over a network that is worse than that of reports.

use rand::Rng;
use sensorium_cluster::{EpochGate, Holding, Lease, LeaseTable};

use crate::world::{Broken, HEALED_NS, Happening, MS, World};

const GRANTOR: usize = 0;
const SOURCES: [&str; 2] = ["camera", "microphone"];
const TTL_MS: u64 = 800;

pub(crate) struct Leases {
    table: LeaseTable,
    /// For each node and source.
    holdings: Vec<[Holding; 2]>,
    gate: EpochGate,
    broken: Broken,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    source: usize,
    node: usize,
    life: u64,
    /// The node's clock as it asked.
    asked_ns: u64,
    claim: Option<u64>,
}

impl Leases {
    pub(crate) fn new(nodes: usize, broken: Broken) -> Self {
        let table = LeaseTable::new(0, TTL_MS, 0);
        Self { table, holdings: vec![[Holding::new(); 2]; nodes], gate: EpochGate::new(), broken }
    }
}

impl World {
    pub(crate) fn lease_start(&mut self, node: usize) {
        self.leases.holdings[node] = [Holding::new(); 2];
        if node == GRANTOR {
            let life = self.nodes[node].life;
            let settled = self.leases.broken == Broken::GrantsAtOnceAfterARestart;
            let now_ns = if settled { 0 } else { self.local_ns(node) };
            let epoch_floor = if self.leases.broken == Broken::EpochsStartAgain { 0 } else { life << 20 };
            self.leases.table = LeaseTable::new(now_ns, TTL_MS, epoch_floor);
        }
    }

    /// Every node asks, renews, or gives up what it has.
    pub(crate) fn lease_wake(&mut self) {
        for node in (0..self.nodes.len()).filter(|node| self.nodes[*node].up).collect::<Vec<_>>() {
            for source in 0..SOURCES.len() {
                let now_ns = self.local_ns(node);
                let holding = &mut self.leases.holdings[node][source];
                if self.chance.random_bool(0.05) && self.now_ns < HEALED_NS {
                    if let Some(epoch) = holding.give_up(now_ns) {
                        self.lease_message(node, GRANTOR, Happening::LeaseReleased { source, node, epoch });
                    }
                } else if holding.epoch(now_ns).is_none() || now_ns >= holding.renew_ns() {
                    let claim = holding.claim(now_ns);
                    let life = self.nodes[node].life;
                    let question = Question { source, node, life, asked_ns: now_ns, claim };
                    self.lease_message(node, GRANTOR, Happening::LeaseAsked(question));
                }
            }
        }
        let pause_ns = self.chance.random_range(20 * MS..150 * MS);
        self.after(pause_ns, Happening::LeaseWake);
    }

    pub(crate) fn lease_asked(&mut self, question: Question) {
        if !self.nodes[GRANTOR].up {
            return;
        }
        let now_ns = self.local_ns(GRANTOR);
        let (source, holder) = (SOURCES[question.source], self.nodes[question.node].id);
        let answer = self.leases.table.ask(now_ns, source, holder, question.claim).ok();
        self.lease_message(GRANTOR, question.node, Happening::LeaseAnswered { question, answer });
    }

    pub(crate) fn lease_answered(&mut self, question: Question, answer: Option<Lease>) {
        let Question { source, node, life, asked_ns, .. } = question;
        let now_ns = self.local_ns(node);
        if let Some(lease) = answer.filter(|_| self.nodes[node].up && self.nodes[node].life == life) {
            let from_ns = if self.leases.broken == Broken::LeaseFromTheAnswer { now_ns } else { asked_ns };
            self.leases.holdings[node][source].granted(now_ns, from_ns, lease);
        }
    }

    pub(crate) fn lease_released(&mut self, source: usize, node: usize, epoch: u64) {
        if self.nodes[GRANTOR].up {
            let (now_ns, holder) = (self.local_ns(GRANTOR), self.nodes[node].id);
            self.leases.table.release(now_ns, SOURCES[source], holder, epoch);
        }
    }

    /// Some messages take longer than a lease lasts.
    fn lease_message(&mut self, from: usize, to: usize, happening: Happening) {
        let faulty = self.now_ns < HEALED_NS;
        let copies = if faulty && self.chance.random_bool(0.1) { 2 } else { 1 };
        for _ in 0..copies {
            let slow = faulty && self.chance.random_bool(0.2);
            let delay_ns = if slow { self.chance.random_range(0..1_200 * MS) } else { self.delay_ns() };
            if !self.is_cut(from, to) && !self.chance.random_bool(self.loss) {
                self.after(delay_ns, happening.clone());
            }
        }
    }

    /// A lease becomes valid only when something happens, so looking after everything that happens misses nothing.
    pub(crate) fn check_leases(&mut self) {
        for (source, source_name) in SOURCES.into_iter().enumerate() {
            let mut holder: Option<usize> = None;
            for node in (0..self.nodes.len()).filter(|node| self.nodes[*node].up).collect::<Vec<_>>() {
                let Some(epoch) = self.leases.holdings[node][source].epoch(self.local_ns(node)) else { continue };
                let name = self.nodes[node].spec.name.clone();
                if let Some(other) = holder.replace(node) {
                    let other = self.nodes[other].spec.name.clone();
                    return self.complain(format!("{name} and {other} both hold {source_name}"));
                }
                if self.leases.gate.newest(source as u64).is_some_and(|newest| newest < epoch) {
                    self.story.owners_changed += 1;
                }
                // One stream of the gate for the epochs, and one for each epoch that says who has it.
                if let Err(error) = self.leases.gate.accept(source as u64, epoch) {
                    return self.complain(format!("{name}: {error}"));
                }
                let owner = (epoch << 8) | (source as u64) << 4 | 15;
                let owned_by = (node as u64) << 32 | self.nodes[node].life;
                match self.leases.gate.newest(owner) {
                    Some(by) if by != owned_by => {
                        return self.complain(format!("two have had epoch {epoch} of {source_name}"));
                    }
                    _ => drop(self.leases.gate.accept(owner, owned_by)),
                }
            }
        }
    }

    pub(crate) fn check_leases_at_the_end(&self) -> Result<(), String> {
        for (source, name) in SOURCES.iter().enumerate() {
            let known = self.leases.table.holder(self.local_ns(GRANTOR), name);
            let node = known.map(|held| self.index(held.by)).ok_or_else(|| format!("nobody holds {name}"))?;
            let holding = self.leases.holdings[node][source];
            if holding.epoch(self.local_ns(node)).is_none() {
                return Err(format!("{name} is held by nobody who knows it"));
            }
        }
        Ok(())
    }
}
