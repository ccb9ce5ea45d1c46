//! Leases alone, under worse conditions than a cluster has: the grantor is started again and again, questions and answers take
//! longer than leases, come twice and out of order, and every clock runs at a speed of its own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sensorium_cluster::{Holding, Lease, LeaseTable, NodeId};

const MS: u64 = 1_000_000;
const NODES: usize = 3;
const END_NS: u64 = 30_000 * MS;

#[derive(Clone, Copy)]
enum Happening {
    Wake { node: usize },
    Asked { node: usize, life: u64, asked_ns: u64, claim: Option<u64> },
    Answered { node: usize, life: u64, asked_ns: u64, lease: Lease },
    Released { node: usize, epoch: u64 },
    GrantorStarts,
}

struct Clock {
    offset_ns: u64,
    rate: u64,
}

impl Clock {
    fn at(&self, now_ns: u64) -> u64 {
        self.offset_ns + now_ns * self.rate / 1_000_000
    }
}

struct World {
    chance: ChaCha8Rng,
    now_ns: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    clocks: Vec<Clock>,
    table: LeaseTable,
    grantor_life: u64,
    ttl_ms: u64,
    slow: f64,
    delay_ns_max: u64,
    pause_ns_max: u64,
    holdings: [Holding; NODES],
    lives: [u64; NODES],
    newest: (u64, usize, u64),
    owners: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let clock = |chance: &mut ChaCha8Rng| Clock {
            offset_ns: chance.random_range(10_000 * MS..9_000_000 * MS),
            // As fast or as slow as a clock may be, or in between.
            rate: [990_000, 1_010_000, chance.random_range(990_000..=1_010_000)][chance.random_range(0..3)],
        };
        Self {
            now_ns: 0,
            queue: BTreeMap::new(),
            queued: 0,
            clocks: (0..=NODES).map(|_| clock(&mut chance)).collect(),
            table: LeaseTable::new(0, 0, 0),
            grantor_life: 0,
            ttl_ms: chance.random_range(200..=2_000),
            slow: chance.random_range(0.0..0.7),
            delay_ns_max: chance.random_range(MS..40 * MS),
            pause_ns_max: chance.random_range(10 * MS..600 * MS),
            holdings: [Holding::new(); NODES],
            lives: [0; NODES],
            newest: (0, 0, 0),
            owners: 0,
            chance,
        }
    }

    fn after(&mut self, ns: u64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now_ns + ns, self.queued), happening);
    }

    fn send(&mut self, happening: Happening) {
        for _ in 0..self.chance.random_range(0..=10).clamp(1, 2) {
            let slow = self.chance.random_bool(self.slow);
            let ns_max = if slow { self.ttl_ms * MS * 3 / 2 } else { self.delay_ns_max };
            let ns = self.chance.random_range(0..ns_max);
            if self.chance.random_bool(0.9) {
                self.after(ns, happening);
            }
        }
    }

    /// How often the source changed hands.
    fn play(mut self) -> Result<u64, String> {
        self.after(0, Happening::GrantorStarts);
        (0..NODES).for_each(|node| self.after(0, Happening::Wake { node }));
        while let Some(((at_ns, _), happening)) = self.queue.pop_first() {
            if at_ns > END_NS {
                break;
            }
            self.now_ns = at_ns;
            self.happen(happening);
            self.check()?;
        }
        Ok(self.owners)
    }

    fn happen(&mut self, happening: Happening) {
        let grantor_ns = self.clocks[NODES].at(self.now_ns);
        match happening {
            Happening::GrantorStarts => {
                self.grantor_life += 1;
                self.table = LeaseTable::new(grantor_ns, self.ttl_ms, self.grantor_life << 20);
                let quick = self.chance.random_bool(0.5);
                let life_ns = self.chance.random_range(MS..if quick { 500 * MS } else { 8_000 * MS });
                self.after(life_ns, Happening::GrantorStarts);
            }
            Happening::Wake { node } => self.wake(node),
            Happening::Asked { node, life, asked_ns, claim } => {
                if let Ok(lease) = self.table.ask(grantor_ns, "camera", NodeId(node as u64), claim) {
                    self.send(Happening::Answered { node, life, asked_ns, lease });
                }
            }
            Happening::Answered { node, life, asked_ns, lease } => {
                if self.lives[node] == life {
                    let now_ns = self.clocks[node].at(self.now_ns);
                    self.holdings[node].granted(now_ns, asked_ns, lease);
                }
            }
            Happening::Released { node, epoch } => {
                self.table.release(grantor_ns, "camera", NodeId(node as u64), epoch);
            }
        }
    }

    fn wake(&mut self, node: usize) {
        let now_ns = self.clocks[node].at(self.now_ns);
        if self.chance.random_bool(0.005) {
            // It is started again and knows nothing.
            self.lives[node] += 1;
            self.holdings[node] = Holding::new();
        } else if self.chance.random_bool(0.02) {
            if let Some(epoch) = self.holdings[node].give_up(now_ns) {
                self.send(Happening::Released { node, epoch });
            }
        } else {
            let claim = self.holdings[node].claim(now_ns);
            self.send(Happening::Asked { node, life: self.lives[node], asked_ns: now_ns, claim });
        }
        let pause_ns = self.chance.random_range(MS..self.pause_ns_max);
        self.after(pause_ns, Happening::Wake { node });
    }

    fn check(&mut self) -> Result<(), String> {
        let epoch = |node: usize| Some((node, self.holdings[node].epoch(self.clocks[node].at(self.now_ns))?));
        let valid: Vec<(usize, u64)> = (0..NODES).filter_map(epoch).collect();
        if valid.len() > 1 {
            return Err(format!("at {} ms: several hold the source: {valid:?}", self.now_ns / MS));
        }
        for (node, epoch) in valid {
            let (newest, owner, life) = self.newest;
            let same = (owner, life) == (node, self.lives[node]);
            if epoch < newest || (epoch == newest && !same) {
                return Err(format!("{node} in epoch {epoch}, after {owner} in epoch {newest}"));
            }
            self.owners += u64::from(epoch > newest);
            self.newest = (epoch, node, self.lives[node]);
        }
        Ok(())
    }
}

#[test]
fn a_source_never_has_two_owners_and_epochs_only_rise() {
    let mut owners = 0;
    for seed in 0..2_000 {
        owners += World::new(seed).play().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
    assert!(owners > 6_000, "only {owners} changes of owner");
}
