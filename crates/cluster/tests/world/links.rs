//! Connections as the network of a node has them: dialled, greeted, replaced, closed, idle for too long.

use rand::Rng;
use sensorium_cluster::{Event, Hello, LoadReport, NodeId, REPORT_BYTES_MAX};

use crate::world::{Broken, Happening, MS, World};

const DIAL_NS_MAX: u64 = 300 * MS;
const IDLE_NS_MAX: u64 = 2_000 * MS;

/// Ends are 0 for who dialled and 1 for who was dialled.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    nodes: [usize; 2],
    lives: [u64; 2],
    open: [bool; 2],
    heard_ns: [u64; 2],
}

impl World {
    pub(crate) fn dial(&mut self, node: usize, peer: NodeId) {
        let peer = self.index(peer);
        let redial =
            self.connections.iter().any(|known| known.nodes == [node, peer] && known.lives[0] == self.nodes[node].life);
        if redial && self.broken == Broken::NeverDialsAgain {
            return;
        }
        let connection = self.connections.len();
        self.connections.push(Connection {
            nodes: [node, peer],
            lives: [self.nodes[node].life, 0],
            open: [false; 2],
            heard_ns: [self.now_ns; 2],
        });
        let delay_ns = self.delay_ns();
        if self.is_cut(node, peer) {
            self.after(DIAL_NS_MAX, Happening::DialTimedOut { connection });
        } else {
            self.after(delay_ns, Happening::DialArrives { connection });
        }
    }

    pub(crate) fn dial_arrives(&mut self, connection: usize) {
        let [dialler, node] = self.connections[connection].nodes;
        if self.is_cut(dialler, node) || !self.nodes[node].up {
            return self.after(DIAL_NS_MAX, Happening::DialTimedOut { connection });
        }
        self.connections[connection].lives[1] = self.nodes[node].life;
        let refusal = self.greeted(connection, 1);
        let delay_ns = self.delay_ns();
        self.after(delay_ns, Happening::DialAnswered { connection, refusal: refusal.clone() });
        if refusal.is_some() {
            self.story.hellos_refused += 1;
        } else {
            self.opened(connection, 1);
        }
    }

    pub(crate) fn dial_answered(&mut self, connection: usize, refusal: Option<String>) {
        let Connection { nodes: [node, peer], lives, .. } = self.connections[connection];
        if self.is_cut(node, peer) {
            return self.after(DIAL_NS_MAX, Happening::DialTimedOut { connection });
        }
        if !self.nodes[node].up || self.nodes[node].life != lives[0] {
            return;
        }
        match refusal.or_else(|| self.greeted(connection, 0)) {
            None => self.opened(connection, 0),
            Some(reason) => {
                self.tell_of_close(connection, 0);
                self.tell(node, Event::DialFailed { peer: self.nodes[peer].id, reason });
            }
        }
    }

    pub(crate) fn dial_timed_out(&mut self, connection: usize) {
        let Connection { nodes: [node, peer], lives, .. } = self.connections[connection];
        if self.nodes[node].up && self.nodes[node].life == lives[0] {
            self.tell(node, Event::DialFailed { peer: self.nodes[peer].id, reason: "timed out".to_owned() });
        }
    }

    /// Why an end refuses the other's hello.
    fn greeted(&self, connection: usize, end: usize) -> Option<String> {
        let Connection { nodes, lives, .. } = self.connections[connection];
        let (node, peer) = (nodes[end], &self.nodes[nodes[1 - end]]);
        let hello = Hello {
            cluster: self.topology.cluster.clone(),
            name: peer.spec.name.clone(),
            tier: peer.spec.tier,
            region: peer.spec.region.clone(),
            instance: lives[1 - end],
            version: 1,
        };
        let membership = &self.nodes[node].membership;
        membership
            .greet(self.local_ns(node), &hello, &hello.name, Some(hello.tier))
            .err()
            .map(|error| error.to_string())
    }

    /// An end has the connection; older ones with the same peer are closed, and their ends told before or after.
    fn opened(&mut self, connection: usize, end: usize) {
        let Connection { nodes, lives, .. } = self.connections[connection];
        let (node, peer) = (nodes[end], nodes[1 - end]);
        self.close_all(node, peer);
        self.connections[connection].open[end] = true;
        self.story.connections += 1;
        self.connections[connection].heard_ns[end] = self.now_ns;
        self.after(IDLE_NS_MAX, Happening::IdleCheck { connection, end });
        self.tell(node, Event::Connected { peer: self.nodes[peer].id, instance: lives[1 - end] });
    }

    pub(crate) fn close(&mut self, node: usize, peer: NodeId) {
        let peer = self.index(peer);
        self.close_all(node, peer);
    }

    fn close_all(&mut self, node: usize, peer: usize) {
        for connection in 0..self.connections.len() {
            for end in 0..2 {
                let Connection { nodes, open, .. } = self.connections[connection];
                if open[end] && nodes[end] == node && nodes[1 - end] == peer {
                    self.connections[connection].open[end] = false;
                    let late_ns = self.chance.random_range(0..20 * MS);
                    self.after(late_ns, Happening::Ended { connection, end });
                    self.tell_of_close(connection, end);
                }
            }
        }
    }

    fn tell_of_close(&mut self, connection: usize, end: usize) {
        let Connection { nodes: [one, other], .. } = self.connections[connection];
        if !self.is_cut(one, other) {
            let delay_ns = self.delay_ns();
            self.after(delay_ns, Happening::CloseArrives { connection, end: 1 - end });
        }
    }

    pub(crate) fn close_arrives(&mut self, connection: usize, end: usize) {
        if self.connections[connection].open[end] {
            self.connections[connection].open[end] = false;
            self.ended(connection, end);
        }
    }

    pub(crate) fn ended(&mut self, connection: usize, end: usize) {
        let Connection { nodes, lives, .. } = self.connections[connection];
        let (node, peer) = (nodes[end], nodes[1 - end]);
        if self.nodes[node].up && self.nodes[node].life == lives[end] {
            let (peer, instance) = (self.nodes[peer].id, lives[1 - end]);
            self.tell(node, Event::Disconnected { peer, instance, reason: "closed".to_owned() });
        }
    }

    pub(crate) fn idle_check(&mut self, connection: usize, end: usize) {
        let Connection { open, heard_ns, .. } = self.connections[connection];
        if open[end] {
            let idle_ns = self.now_ns - heard_ns[end];
            if idle_ns >= IDLE_NS_MAX {
                self.close_arrives(connection, end);
            } else {
                self.after(IDLE_NS_MAX - idle_ns, Happening::IdleCheck { connection, end });
            }
        }
    }

    pub(crate) fn forget_connections(&mut self, node: usize) {
        for connection in &mut self.connections {
            for end in 0..2 {
                connection.open[end] &= connection.nodes[end] != node;
            }
        }
    }

    pub(crate) fn send(&mut self, node: usize, peer: NodeId, report: &LoadReport) {
        let peer = self.index(peer);
        let found = self.connections.iter().enumerate().rev().find_map(|(at, connection)| {
            let end = (0..2).find(|end| connection.nodes[*end] == node && connection.nodes[1 - end] == peer)?;
            connection.open[end].then_some((at, end))
        });
        let mut bytes = Vec::new();
        report.encode(&mut bytes);
        if bytes.len() > REPORT_BYTES_MAX || LoadReport::decode(&bytes).as_ref() != Some(report) {
            self.complain(format!("a report of {} bytes and {} entries", bytes.len(), report.entries.len()));
        }
        let Some((connection, end)) = found else { return };
        let copies = if self.chance.random_bool(0.1) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.is_cut(node, peer) && !self.chance.random_bool(self.loss) {
                let delay_ns = self.delay_ns();
                let bytes = bytes.clone();
                self.after(delay_ns, Happening::Datagram { connection, to: 1 - end, bytes });
            }
        }
    }

    pub(crate) fn datagram(&mut self, connection: usize, to: usize, bytes: &[u8]) {
        let Connection { nodes, open, .. } = self.connections[connection];
        let (node, peer) = (nodes[to], nodes[1 - to]);
        if !open[to] || self.is_cut(node, peer) {
            return;
        }
        self.connections[connection].heard_ns[to] = self.now_ns;
        let mut report = LoadReport::decode(bytes).unwrap();
        let number = report.number;
        if self.broken == Broken::KeepsOldReports {
            // As if numbers were not looked at.
            report.number = u64::MAX / 2 + self.now_ns;
        }
        let peer_id = self.nodes[peer].id;
        if !number.is_multiple_of(4) {
            // Looking at the view twice for every datagram would take most of the test's time.
            return self.tell(node, Event::Report { peer: peer_id, report });
        }
        let before_ns = self.heard_ns(node, peer_id);
        let instance = report.instance;
        self.tell(node, Event::Report { peer: peer_id, report });
        let taken = self.heard_ns(node, peer_id) == Some(0);
        if taken && before_ns != Some(0) {
            let newest = self.nodes[node].seen.entry(peer_id).or_insert((instance, 0));
            if newest.0 == instance && newest.1 >= number {
                self.complain(format!("an older report, {number}, was taken"));
            } else {
                *newest = (instance, number);
            }
        }
    }

    fn heard_ns(&self, node: usize, peer: NodeId) -> Option<u64> {
        let view = self.nodes[node].membership.view(self.local_ns(node));
        view.neighbours.into_iter().find(|neighbour| neighbour.id() == peer)?.heard_ns_ago
    }
}
