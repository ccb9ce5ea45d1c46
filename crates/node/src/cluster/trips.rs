//! Jobs that are away: handed on to another node and not answered yet.
//!
//! The entry node keeps a job's payload until the answer is there, so that the loss of the node that has it costs time
//! and not the job. Nothing here sends; whoever changes a trip says what follows.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use sensorium_cluster::NodeId;
use sensorium_scheduler::StreamKey;
use sensorium_wire::{AnswerHeader, JobId, Principal, Role, SubmitHeader};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use crate::engine::{Caller, CallerId, Reply};

/// Jobs that may be away at once, and the bytes of their payloads. More are done here or refused.
pub(super) const TRIPS_MAX: usize = 16_384;
pub(super) const TRIP_BYTES_MAX: u64 = 512 << 20;

/// Where a job comes from, as far as handing it on goes.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The nodes that have had it, the entry node first; empty = it comes from a client.
    pub visited: SmallVec<[NodeId; 3]>,
    /// Names the principal between nodes.
    pub principal: [u8; 16],
    /// The entry node has seen the role `critical`.
    pub critical: bool,
}

impl Origin {
    /// A client's own jobs.
    pub fn of(principal: &Principal) -> Self {
        let digest = Sha256::digest(format!("{}/{}", principal.tenant, principal.name));
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self { visited: SmallVec::new(), principal: half, critical: principal.has(Role::Critical) }
    }
}

/// One attempt with one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    /// The neighbour that has it.
    pub(super) via: NodeId,
    /// The node that is expected to run it.
    pub(super) target: NodeId,
    /// Attempts so far, from 1.
    pub(super) number: u8,
    pub(super) sent_ns: u64,
    /// What this attempt was expected to take, in microseconds.
    pub(super) expected_us: u64,
}

/// One job that is away.
pub(super) struct Trip {
    pub(super) caller: Caller,
    pub(super) header: SubmitHeader,
    pub(super) origin: Origin,
    pub(super) reply: Option<Reply>,
    pub(super) header_ns: u64,
    pub(super) deadline_ns: u64,
    pub(super) leg: Leg,
    pub(super) tried: SmallVec<[NodeId; 4]>,
    pub(super) payload: Vec<Bytes>,
    pub(super) payload_bytes: u64,
    /// The payload is complete; until then nobody else can be asked.
    pub(super) whole: bool,
    /// What the node said that did not want it.
    pub(super) declined: Option<Box<(AnswerHeader, Bytes)>>,
    pub(super) stream: Option<StreamKey>,
}

impl Trip {
    pub(super) fn id(&self) -> (CallerId, JobId) {
        (self.caller.id, self.header.job_id)
    }

    /// What is left of the deadline, in microseconds.
    pub(super) fn budget_us(&self, now_ns: u64) -> u64 {
        self.deadline_ns.saturating_sub(now_ns) / 1000
    }
}

/// The number by which a node's answer finds its trip: it also says which attempt it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Correlation(pub(super) u64);

impl Correlation {
    pub(super) fn new(key: u64, leg: u8) -> Self {
        Self(key << 8 | u64::from(leg))
    }

    pub(super) fn key(self) -> u64 {
        self.0 >> 8
    }

    pub(super) fn leg(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
}

/// The trips under way. Bounded by [`TRIPS_MAX`] and [`TRIP_BYTES_MAX`], which who adds one asks about first.
#[derive(Default)]
pub(super) struct Trips {
    by_key: HashMap<u64, Trip>,
    by_id: HashMap<(CallerId, JobId), u64>,
    due: BTreeSet<(u64, u64)>,
    streams: HashMap<StreamKey, (NodeId, u32)>,
    /// Jobs by the neighbour that has them.
    counts: HashMap<NodeId, usize>,
    next: u64,
    bytes: u64,
}

impl Trips {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn has_room(&self, payload_bytes: u64) -> bool {
        self.by_key.len() < TRIPS_MAX && self.bytes.saturating_add(payload_bytes) <= TRIP_BYTES_MAX
    }

    /// Adds a trip; gives its number, or the trip back when the job is away already.
    pub(super) fn insert(&mut self, trip: Trip) -> Result<u64, Box<Trip>> {
        if self.by_id.contains_key(&trip.id()) {
            return Err(Box::new(trip));
        }
        self.next += 1;
        let key = self.next;
        self.by_id.insert(trip.id(), key);
        self.due.insert((trip.deadline_ns, key));
        self.bytes += trip.payload_bytes;
        if let Some(stream) = trip.stream {
            let (node, jobs) = self.streams.entry(stream).or_insert((trip.leg.target, 0));
            (*node, *jobs) = (trip.leg.target, *jobs + 1);
        }
        *self.counts.entry(trip.leg.via).or_default() += 1;
        self.by_key.insert(key, trip);
        Ok(key)
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Trip> {
        self.by_key.get_mut(&key)
    }

    pub(super) fn by_id(&mut self, id: (CallerId, JobId)) -> Option<(u64, &mut Trip)> {
        let key = *self.by_id.get(&id)?;
        Some((key, self.by_key.get_mut(&key)?))
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<Trip> {
        let trip = self.by_key.remove(&key)?;
        self.by_id.remove(&trip.id());
        self.due.remove(&(trip.deadline_ns, key));
        self.bytes -= trip.payload_bytes;
        self.leave(trip.leg.via);
        if let Some(stream) = trip.stream
            && let Some((_, jobs)) = self.streams.get_mut(&stream)
        {
            *jobs -= 1;
            if *jobs == 0 {
                self.streams.remove(&stream);
            }
        }
        Some(trip)
    }

    /// Where the jobs of this stream are that are away now: those behind them must not overtake them.
    pub(super) fn node_of(&self, stream: StreamKey) -> Option<NodeId> {
        self.streams.get(&stream).map(|(node, _)| *node)
    }

    /// Takes out what was due before now.
    pub(super) fn overdue(&mut self, now_ns: u64) -> Vec<Trip> {
        let mut overdue = Vec::new();
        while let Some(&(due_ns, key)) = self.due.first() {
            if due_ns > now_ns {
                break;
            }
            match self.remove(key) {
                Some(trip) => overdue.push(trip),
                None => drop(self.due.pop_first()),
            }
        }
        overdue
    }

    /// The trips whose present attempt is with this neighbour.
    pub(super) fn with(&self, via: NodeId) -> Vec<u64> {
        let mut keys: Vec<_> =
            self.by_key.iter().filter(|(_, trip)| trip.leg.via == via).map(|(key, _)| *key).collect();
        // In the order in which they left, so that streams keep theirs.
        keys.sort_unstable();
        keys
    }

    /// Jobs that are with this neighbour now.
    pub(super) fn count_with(&self, via: NodeId) -> usize {
        self.counts.get(&via).copied().unwrap_or(0)
    }

    /// A trip goes on to another node.
    pub(super) fn set_leg(&mut self, key: u64, leg: Leg) {
        let Some(trip) = self.by_key.get_mut(&key) else { return };
        let before = std::mem::replace(&mut trip.leg, leg).via;
        if let Some(stream) = trip.stream
            && let Some((node, _)) = self.streams.get_mut(&stream)
        {
            *node = leg.target;
        }
        self.leave(before);
        *self.counts.entry(leg.via).or_default() += 1;
    }

    fn leave(&mut self, via: NodeId) {
        if let Some(count) = self.counts.get_mut(&via) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&via);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trip(job: u8, via: u64, deadline_ns: u64) -> Trip {
        Trip {
            caller: Caller { id: 1, critical: false },
            header: SubmitHeader { job_id: JobId([job; 16]), ..SubmitHeader::default() },
            origin: Origin::default(),
            reply: None,
            header_ns: 0,
            deadline_ns,
            leg: Leg { via: NodeId(via), target: NodeId(via), number: 1, sent_ns: 0, expected_us: 0 },
            tried: SmallVec::new(),
            payload: Vec::new(),
            payload_bytes: 100,
            whole: true,
            declined: None,
            stream: Some(StreamKey(u64::from(job % 2))),
        }
    }

    #[test]
    fn a_trip_is_found_by_number_job_neighbour_and_deadline() {
        let mut trips = Trips::default();
        let first = trips.insert(trip(1, 7, 30)).ok().unwrap();
        let second = trips.insert(trip(2, 7, 20)).ok().unwrap();
        let third = trips.insert(trip(3, 8, 10)).ok().unwrap();
        assert!(trips.insert(trip(3, 9, 10)).is_err(), "a job is away once");
        assert_eq!(trips.with(NodeId(7)), [first, second]);
        assert_eq!(trips.node_of(StreamKey(1)), Some(NodeId(8)));
        assert_eq!(trips.by_id((1, JobId([2; 16]))).unwrap().0, second);
        let overdue: Vec<_> = trips.overdue(20).iter().map(|trip| trip.header.job_id.0[0]).collect();
        assert_eq!(overdue, [3, 2]);
        assert!(trips.get_mut(third).is_none());
        assert_eq!(trips.node_of(StreamKey(0)), None);
        assert!(trips.remove(first).is_some());
        assert_eq!((trips.len(), trips.bytes, trips.streams.len(), trips.due.len()), (0, 0, 0, 0));
    }

    #[test]
    fn a_correlation_names_trip_and_attempt() {
        let correlation = Correlation::new(0x1234_5678, 3);
        assert_eq!((correlation.key(), correlation.leg()), (0x1234_5678, 3));
    }
}
