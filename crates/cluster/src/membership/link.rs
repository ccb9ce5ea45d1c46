//! What is known of one neighbour: connections, silence, dialling, and what it last said.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::round_trip::RoundTrip;
use super::{Command, DIAL_MS_MAX, DIAL_PAUSE_MS_MAX, DIAL_PAUSE_MS_MIN, Neighbour, Standing};
use crate::topology::{NodeSpec, Timing};
use crate::{ENTRIES_MAX, LoadEntry, LoadReport, NodeId};

/// Different notices remembered until the neighbour is heard again; more are not told.
const NOTICES_MAX: usize = 4;
const NS_PER_MS: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) spec: NodeSpec,
    pub(super) id: NodeId,
    parent: bool,
    pub(super) standing: Standing,
    instance: Option<u64>,
    /// Whether there is a connection that was not given up.
    linked: bool,
    /// Connections with this life of which no end was told. After a reconnect the end of the old connection may come
    /// later than the new connection, and it does not say which it was; so they are counted.
    connections: u32,
    /// Of the last report or connection.
    heard_ns: Option<u64>,
    /// Like `heard_ns`, or when this node started.
    silent_since_ns: u64,
    /// Number of the newest report of this life.
    number_heard: Option<u64>,
    /// Whether a report came over the present connection.
    proven: bool,
    /// `sent_us` of the newest report and when it came.
    echo: Option<(u64, u64)>,
    round_trip: RoundTrip,
    pub(super) entries: Vec<LoadEntry>,
    pub(super) reason: String,
    pub(super) noticed: Vec<String>,
    /// Of the last report to it.
    number_sent: u64,
    dial: Dial,
    /// Since it was last heard.
    dials_failed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    /// Connected, or not ours to dial.
    No,
    At {
        due_ns: u64,
    },
    Since {
        since_ns: u64,
    },
}

/// What a report was the first to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    pub(super) of_connection: bool,
    pub(super) alive_again: bool,
}

impl Link {
    pub(super) fn new(spec: NodeSpec, parent: bool) -> Self {
        Self {
            id: spec.id(),
            spec,
            parent,
            standing: Standing::Dialling,
            instance: None,
            linked: false,
            connections: 0,
            heard_ns: None,
            silent_since_ns: 0,
            number_heard: None,
            proven: false,
            echo: None,
            round_trip: RoundTrip::default(),
            entries: Vec::new(),
            reason: String::new(),
            noticed: Vec::new(),
            number_sent: 0,
            dial: Dial::No,
            dials_failed: 0,
        }
    }

    pub(super) fn start(&mut self, now_ns: u64) {
        self.silent_since_ns = now_ns;
        if self.parent {
            self.dial = Dial::At { due_ns: now_ns };
        }
    }

    pub(super) fn is_linked(&self) -> bool {
        self.linked
    }

    /// By the clock, also when no tick has said so yet.
    pub(super) fn is_alive(&self, now_ns: u64, timing: &Timing) -> bool {
        self.standing == Standing::Alive && now_ns.saturating_sub(self.silent_since_ns) / NS_PER_MS < timing.suspect_ms
    }

    pub(super) fn instance(&self) -> Option<u64> {
        self.instance
    }

    /// 0 = not measured yet.
    pub(super) fn round_trip_us(&self) -> u32 {
        self.round_trip.us()
    }

    /// Whether that changed how it stands.
    pub(super) fn connected(&mut self, now_ns: u64, instance: u64) -> bool {
        if self.instance != Some(instance) {
            self.instance = Some(instance);
            self.connections = 0;
            self.number_heard = None;
            self.echo = None;
            self.round_trip = RoundTrip::default();
            self.entries.clear();
        }
        let changed = self.standing != Standing::Alive;
        self.connections = self.connections.saturating_add(1);
        self.linked = true;
        self.proven = false;
        self.standing = Standing::Alive;
        self.heard_ns = Some(now_ns);
        self.silent_since_ns = now_ns;
        self.dial = Dial::No;
        self.reason.clear();
        changed
    }

    /// Whether that was the last connection.
    pub(super) fn disconnected(&mut self, instance: u64) -> bool {
        if self.instance != Some(instance) {
            return false;
        }
        self.connections = self.connections.saturating_sub(1);
        let last = self.linked && self.connections == 0;
        if last {
            self.unlink(Standing::Dialling);
        }
        last
    }

    /// Whether a report is of the connected life and newer than what is known.
    pub(super) fn is_news(&self, report: &LoadReport) -> bool {
        self.linked
            && self.instance == Some(report.instance)
            && self.number_heard.is_none_or(|number| report.number > number)
    }

    pub(super) fn heard(
        &mut self,
        now_ns: u64,
        started_ns: u64,
        report: LoadReport,
        believed: &dyn Fn(&LoadEntry) -> bool,
    ) -> First {
        let first = First { of_connection: !self.proven, alive_again: self.standing != Standing::Alive };
        self.proven = true;
        self.standing = Standing::Alive;
        self.number_heard = Some(report.number);
        self.heard_ns = Some(now_ns);
        self.silent_since_ns = now_ns;
        self.dials_failed = 0;
        self.echo = Some((report.sent_us, now_ns));
        // An echo from before this node's start is of an earlier life of its own.
        if report.echo_us >= (started_ns / 1000).max(1) {
            let passed_us = (now_ns / 1000).checked_sub(report.echo_us);
            let way_us = passed_us.and_then(|passed_us| passed_us.checked_sub(u64::from(report.echo_delay_us)));
            self.round_trip.measured(way_us);
        }
        self.entries.clear();
        for entry in report.entries.into_iter().take(ENTRIES_MAX).filter(believed) {
            let way_us = if entry.hops == 0 { 0 } else { entry.way_us };
            let known = |known: &LoadEntry| (known.model, known.node) == (entry.model, entry.node);
            if !self.entries.iter().any(known) {
                self.entries.push(LoadEntry { way_us, ..entry });
            }
        }
        first
    }

    pub(super) fn next_report(&mut self, now_ns: u64, instance: u64, entries: Vec<LoadEntry>) -> LoadReport {
        self.number_sent += 1;
        let (echo_us, heard_ns) = self.echo.unwrap_or((0, now_ns));
        let delay_us = now_ns.saturating_sub(heard_ns) / 1000;
        LoadReport {
            instance,
            number: self.number_sent,
            sent_us: (now_ns / 1000).max(1),
            echo_us,
            echo_delay_us: u32::try_from(delay_us).unwrap_or(u32::MAX),
            entries,
        }
    }

    /// Does not count that much of the silence.
    pub(super) fn forgive(&mut self, now_ns: u64, ns: u64) {
        self.silent_since_ns = self.silent_since_ns.saturating_add(ns).min(now_ns);
    }

    /// Follows from silence. Whether it changed how the neighbour stands.
    pub(super) fn judge(
        &mut self,
        now_ns: u64,
        timing: &Timing,
        chance: &mut ChaCha8Rng,
        out: &mut Vec<Command>,
    ) -> bool {
        if let Dial::Since { since_ns } = self.dial
            && now_ns >= since_ns.saturating_add(DIAL_MS_MAX * NS_PER_MS)
        {
            self.dial_again(now_ns, chance);
        }
        let before = self.standing;
        let silent_ms = now_ns.saturating_sub(self.silent_since_ns) / NS_PER_MS;
        if silent_ms >= timing.lost_ms && self.standing != Standing::Lost {
            let reason = format!("nothing heard for {} ms", timing.lost_ms);
            self.notice(format!("{} is lost: {reason}", self.spec.name), out);
            if self.linked {
                out.push(Command::Close { peer: self.id, reason: reason.clone() });
                self.dial_again(now_ns, chance);
            }
            if self.reason.is_empty() {
                self.reason = reason;
            }
            self.unlink(Standing::Lost);
        } else if silent_ms >= timing.suspect_ms && self.standing == Standing::Alive {
            self.standing = Standing::Suspect;
        }
        self.standing != before
    }

    pub(super) fn is_dialling(&self) -> bool {
        matches!(self.dial, Dial::Since { .. })
    }

    pub(super) fn is_dial_due(&self, now_ns: u64) -> bool {
        matches!(self.dial, Dial::At { due_ns } if due_ns <= now_ns)
    }

    pub(super) fn dialled(&mut self, now_ns: u64) {
        self.dial = Dial::Since { since_ns: now_ns };
    }

    /// Dials again after a pause, if it is a parent.
    pub(super) fn dial_again(&mut self, now_ns: u64, chance: &mut ChaCha8Rng) {
        if !self.parent {
            return;
        }
        let doubled_ms = DIAL_PAUSE_MS_MIN.saturating_mul(1 << self.dials_failed.min(16));
        let pause_ns = doubled_ms.min(DIAL_PAUSE_MS_MAX) * NS_PER_MS;
        let pause_ns = pause_ns * 3 / 4 + chance.random_range(0..=pause_ns / 2);
        self.dial = Dial::At { due_ns: now_ns.saturating_add(pause_ns) };
        self.dials_failed = self.dials_failed.saturating_add(1);
    }

    /// When time next changes something.
    pub(super) fn due_ns(&self, timing: &Timing) -> Option<u64> {
        let silent_ms = match self.standing {
            Standing::Alive => Some(timing.suspect_ms),
            Standing::Suspect | Standing::Dialling => Some(timing.lost_ms),
            Standing::Lost => None,
        };
        let judged = silent_ms.map(|ms| self.silent_since_ns.saturating_add(ms * NS_PER_MS));
        let dial = match self.dial {
            Dial::No => None,
            Dial::At { due_ns } => Some(due_ns),
            Dial::Since { since_ns } => Some(since_ns.saturating_add(DIAL_MS_MAX * NS_PER_MS)),
        };
        judged.into_iter().chain(dial).min()
    }

    /// Says something to the operator that was not said since the neighbour was last heard.
    pub(super) fn notice(&mut self, text: String, out: &mut Vec<Command>) {
        if self.noticed.len() < NOTICES_MAX && !self.noticed.contains(&text) {
            self.noticed.push(text.clone());
            out.push(Command::Notice { peer: self.id, text });
        }
    }

    pub(super) fn shown(&self, now_ns: u64) -> Neighbour {
        Neighbour {
            spec: self.spec.clone(),
            parent: self.parent,
            standing: self.standing,
            instance: self.instance.unwrap_or(0),
            round_trip_us: self.round_trip.us(),
            heard_ns_ago: self.heard_ns.map(|heard_ns| now_ns.saturating_sub(heard_ns)),
            entries: self.entries.clone(),
            reason: self.reason.clone(),
        }
    }

    fn unlink(&mut self, standing: Standing) {
        self.standing = standing;
        self.linked = false;
        self.entries.clear();
    }
}
