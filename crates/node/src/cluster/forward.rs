//! Here or elsewhere: where a job goes, handing it on, and what comes back.
//!
//! The entry node alone answers the client. What a node did not want, or died over, goes to the next best one while there
//! is time. A payload that only passes is not looked at: its pieces go out as they came in.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use sensorium_cluster::{ModelId, NodeId};
use sensorium_device::clock::now_ns;
use sensorium_wire::peer::{CheckpointHeader, ForwardHeader};
use sensorium_wire::{AnswerHeader, Hop, JobId, Outcome, Reason, Rejection, SubmitHeader, limits};
use smallvec::SmallVec;

use super::Cluster;
use super::choose::Choice;
use super::link::{Answers, Upload};
use super::trips::{Correlation, Leg, Origin, Trip};
use crate::engine::{Admitted, Caller, CallerId, Delivered, Reply};

/// Kept back from a forwarded job's deadline for this node's own part, in microseconds.
pub(super) const RESERVE_US: u64 = 500;
/// Retry hint when every node that could take a job is full, in microseconds.
const FULL_RETRY_AFTER_US: u64 = 20_000;

/// Retry hint when a node that may have the model is not in reach, in microseconds: neighbours are dialled that often.
const APART_RETRY_AFTER_US: u64 = 500_000;

/// What became of a header.
pub enum Accepted {
    /// This node does it.
    Here(Box<Admitted>),
    /// Another does.
    Away(Box<Departure>),
}

/// A job that is to be handed on; its payload is to come.
pub struct Departure {
    caller: Caller,
    header: SubmitHeader,
    origin: Origin,
    payload_bytes: u64,
    header_ns: u64,
    first: Choice,
}

impl Departure {
    pub fn header(&self) -> &SubmitHeader {
        &self.header
    }

    /// When its header was decoded.
    pub fn header_ns(&self) -> u64 {
        self.header_ns
    }
}

/// A job on its way out whose payload is still coming in.
pub struct Passing {
    key: u64,
    upload: Option<Upload>,
    pieces: Vec<Bytes>,
}

impl Passing {
    /// Takes the next piece of the payload, and hands it on.
    pub async fn write(&mut self, piece: Bytes) {
        if let Some(upload) = &mut self.upload
            && !upload.write(piece.clone()).await
        {
            self.upload = None;
        }
        self.pieces.push(piece);
    }
}

impl Cluster {
    /// Takes a job that was sent before and is away: its answer goes to `reply`. Gives the reply back otherwise.
    ///
    /// # Errors
    /// The reply of a job that is not away.
    pub fn rejoin(&self, caller: CallerId, job_id: JobId, reply: Reply) -> Result<(), Reply> {
        if let Some((_, trip)) = self.trips.lock().by_id((caller, job_id)) {
            // The old reply's connection is taken for lost.
            trip.reply = Some(reply);
            return Ok(());
        }
        self.engine.rejoin(caller, job_id, reply)
    }

    /// Judges a header before any byte of the payload is taken, and says where the job is to be done.
    ///
    /// # Errors
    /// The rejection to send.
    pub fn accept(
        &self,
        caller: Caller,
        origin: &Origin,
        header: &SubmitHeader,
        payload_bytes: u64,
    ) -> Result<Accepted, Rejection> {
        let header_ns = now_ns();
        let here =
            || self.engine.admit(caller, header, payload_bytes).map(|admitted| Accepted::Here(Box::new(admitted)));
        // A node that is stopping takes nothing more, neither for itself nor for others.
        if self.is_alone() || self.engine.is_draining() {
            return here();
        }
        self.engine.judge(caller, header, payload_bytes)?;
        let ranked = self.ranked(caller, origin, header, payload_bytes, &[]);
        match ranked.first() {
            Some(first) if first.candidate.via.is_some() => {
                if !self.trips.lock().has_room(payload_bytes) {
                    let detail = "too many jobs are with other nodes; try again later";
                    return Err(Rejection::new(Reason::Overloaded, detail).retry_after_us(FULL_RETRY_AFTER_US));
                }
                self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
                Ok(Accepted::Away(Box::new(Departure {
                    caller,
                    header: *header,
                    origin: origin.clone(),
                    payload_bytes,
                    header_ns,
                    first: *first,
                })))
            }
            Some(_) => here(),
            // The reason is this node's, unless only others know the model.
            None => match here() {
                Err(rejection) if rejection.reason == Reason::UnknownModel && self.knows(header.model.as_str()) => {
                    let detail = format!(
                        "no node in reach does {} within {}.{} ms from now",
                        header.model,
                        header.budget_us / 1000,
                        header.budget_us % 1000 / 100
                    );
                    Err(Rejection::new(Reason::DeadlineUnreachable, detail).retry_after_us(FULL_RETRY_AFTER_US))
                }
                Err(rejection) if rejection.reason == Reason::UnknownModel && self.misses_neighbours() => {
                    let detail = format!("no node in reach has {}, but not every neighbour is in reach", header.model);
                    Err(Rejection::new(Reason::ModelUnavailable, detail).retry_after_us(APART_RETRY_AFTER_US))
                }
                judged => judged,
            },
        }
    }

    /// Hands on a job whose payload is there.
    pub fn depart(&self, departure: Departure, payload: Vec<Bytes>, reply: Reply) {
        let Some(key) = self.begin(&departure, reply, payload, true) else { return };
        self.send(key);
    }

    /// Begins to hand on a job whose payload is still coming in.
    pub async fn pass(&self, departure: &Departure, reply: Reply) -> Passing {
        let Some(key) = self.begin(departure, reply, Vec::new(), false) else {
            return Passing { key: 0, upload: None, pieces: Vec::new() };
        };
        let opened = self.outgoing(key).map(|(link, correlation, header)| async move {
            link.open(correlation, &header, departure.payload_bytes).await
        });
        let upload = match opened {
            Some(opening) => opening.await,
            None => None,
        };
        Passing { key, upload, pieces: Vec::new() }
    }

    /// The payload is complete.
    pub fn passed(&self, passing: Passing) {
        let Passing { key, upload, pieces } = passing;
        let arrived = upload.is_some();
        if let Some(upload) = upload {
            upload.finish();
        }
        let declined = {
            let mut trips = self.trips.lock();
            let Some(trip) = trips.get_mut(key) else { return };
            trip.payload = pieces;
            trip.whole = true;
            trip.declined.is_some() || !arrived
        };
        if declined {
            self.try_next(key);
        }
    }

    /// The client vanished inside the payload.
    pub fn broken_off(&self, passing: &Passing, rejection: Rejection) {
        if let Some(trip) = self.trips.lock().remove(passing.key) {
            self.end(trip, Outcome::Refused, rejection);
        }
    }

    /// The caller takes a job back, wherever it is.
    pub fn cancel(&self, caller: CallerId, job_id: JobId) {
        let trip = {
            let mut trips = self.trips.lock();
            let key = trips.by_id((caller, job_id)).map(|(key, _)| key);
            key.and_then(|key| trips.remove(key))
        };
        let Some(trip) = trip else { return self.engine.cancel(caller, job_id) };
        if let Some(link) = self.links.get(&trip.leg.via) {
            link.recall(trip.header.urgency, job_id, trip.origin.principal);
        }
        self.end(trip, Outcome::Cancelled, Rejection::new(Reason::CancelledByClient, "taken back by the client"));
    }

    /// Ends what is overdue. Called every few milliseconds.
    pub fn tick(&self) {
        self.expire_checkpoints();
        let overdue = self.trips.lock().overdue(now_ns());
        for trip in overdue {
            let detail = format!("not done within {} ms by another node", trip.header.budget_us / 1000);
            self.end(trip, Outcome::Expired, Rejection::new(Reason::DeadlineExpired, detail));
        }
    }

    /// Jobs that are away.
    pub fn away(&self) -> usize {
        self.trips.lock().len()
    }

    /// The neighbour is gone, or so silent that waiting is a risk: others do what it has.
    pub(super) fn give_up_on(&self, via: NodeId) {
        let keys = self.trips.lock().with(via);
        if !keys.is_empty() {
            tracing::info!(jobs = keys.len(), node = self.name_of(via), "its jobs go elsewhere");
        }
        for key in keys {
            self.try_next(key);
        }
    }

    /// Notes that a job is away. `None` when it was away already: the new reply has taken the place of the old one.
    fn begin(&self, departure: &Departure, reply: Reply, payload: Vec<Bytes>, whole: bool) -> Option<u64> {
        let Departure { caller, header, origin, payload_bytes, header_ns, first } = departure;
        let trip = Trip {
            caller: *caller,
            header: *header,
            origin: origin.clone(),
            reply: Some(reply),
            header_ns: *header_ns,
            deadline_ns: header_ns.saturating_add(header.budget_us.saturating_mul(1000)),
            leg: self.leg(first, 1),
            tried: SmallVec::new(),
            payload,
            payload_bytes: *payload_bytes,
            whole,
            declined: None,
            stream: self.engine.stream(*caller, header).map(|(stream, _)| stream),
        };
        let mut trips = self.trips.lock();
        match trips.insert(trip) {
            Ok(key) => Some(key),
            Err(again) => {
                if let Some((_, first)) = trips.by_id(again.id()) {
                    first.reply = again.reply;
                }
                None
            }
        }
    }

    fn leg(&self, to: &Choice, number: u8) -> Leg {
        let via = to.candidate.via.unwrap_or(self.id);
        Leg { via, target: to.candidate.node, number, sent_ns: now_ns(), expected_us: to.expected_us }
    }

    /// The link, number and header of a trip's present attempt.
    fn outgoing(&self, key: u64) -> Option<(std::sync::Arc<super::link::Link>, Correlation, ForwardHeader)> {
        let mut trips = self.trips.lock();
        let trip = trips.get_mut(key)?;
        let link = std::sync::Arc::clone(&*self.links.get(&trip.leg.via)?);
        let way_us = self.view.load().round_trip_us(trip.leg.via);
        let mut submit = trip.header;
        submit.budget_us = trip.budget_us(now_ns()).saturating_sub(way_us + RESERVE_US);
        let mut header = ForwardHeader {
            submit,
            principal: trip.origin.principal,
            critical: u8::from(trip.origin.critical),
            ..ForwardHeader::default()
        };
        for node in &trip.origin.visited {
            let _ = header.visit(node.0);
        }
        header.visit(self.id.0).then_some((link, Correlation::new(key, trip.leg.number), header))
    }

    /// Sends a job whose payload is complete to where its present attempt goes.
    fn send(&self, key: u64) {
        let Some((link, correlation, header)) = self.outgoing(key) else { return self.try_next(key) };
        let payload = {
            let mut trips = self.trips.lock();
            let Some(trip) = trips.get_mut(key) else { return };
            trip.payload.clone()
        };
        let bytes: u64 = payload.iter().map(|piece| piece.len() as u64).sum();
        if bytes <= limits::COALESCED_PAYLOAD_BYTES_MAX {
            if link.send(correlation, &header, &payload).is_err() {
                self.try_next(key);
            }
            return;
        }
        self.io.spawn(async move {
            // A neighbour that fails here is noticed by its connection; its jobs then go elsewhere.
            let Some(mut upload) = link.open(correlation, &header, bytes).await else { return };
            for piece in payload {
                if !upload.write(piece).await {
                    return;
                }
            }
            upload.finish();
        });
    }

    /// The present attempt has failed: the next best node gets the job, or this one does it, or the client hears why not.
    fn try_next(&self, key: u64) {
        let (caller, origin, mut header, payload_bytes, tried) = {
            let mut trips = self.trips.lock();
            let Some(trip) = trips.get_mut(key) else { return };
            if !trip.whole {
                // Still coming in: when it is complete this is called again.
                trip.declined.get_or_insert_with(|| Box::new((AnswerHeader::default(), Bytes::new())));
                return;
            }
            if !trip.tried.contains(&trip.leg.target) {
                trip.tried.push(trip.leg.target);
            }
            let budget_us = trip.budget_us(now_ns());
            let header = SubmitHeader { budget_us, ..trip.header };
            (trip.caller, trip.origin.clone(), header, trip.payload_bytes, trip.tried.clone())
        };
        header.attempt += 1;
        let next = self.ranked(caller, &origin, &header, payload_bytes, &tried).first().copied();
        self.counters.rerouted.fetch_add(1, Ordering::Relaxed);
        match next {
            Some(next) if next.candidate.via.is_some() => {
                {
                    let mut trips = self.trips.lock();
                    let Some(trip) = trips.get_mut(key) else { return };
                    let number = trip.leg.number.saturating_add(1);
                    let leg = self.leg(&next, number);
                    trips.set_leg(key, leg);
                }
                self.send(key);
            }
            Some(_) => self.take_home(key, &header),
            None => self.fail(key),
        }
    }

    /// This node does the job after all.
    fn take_home(&self, key: u64, header: &SubmitHeader) {
        let Some(trip) = self.trips.lock().remove(key) else { return };
        match self.engine.admit(trip.caller, header, trip.payload_bytes) {
            Ok(mut admitted) => {
                let mut at = 0;
                for piece in &trip.payload {
                    // The slot has room for what the header announced.
                    let _ = admitted.write(at, piece);
                    at += piece.len() as u64;
                }
                if let Some(reply) = trip.reply {
                    self.engine.submit(admitted, reply);
                }
            }
            Err(rejection) => self.end(trip, Outcome::Refused, rejection),
        }
    }

    /// Nobody is left to ask.
    fn fail(&self, key: u64) {
        let Some(mut trip) = self.trips.lock().remove(key) else { return };
        if let Some((mut header, payload)) = trip.declined.take().map(|declined| *declined)
            && header.job_id == trip.header.job_id
        {
            header.passed(self.hop(&trip));
            let caller = trip.caller.id;
            return self.engine.answer_from_elsewhere(caller, trip.reply, Delivered::new(header, payload));
        }
        let detail =
            format!("{} had the job and is lost; no other node can do it in time", self.name_of(trip.leg.target));
        self.counters.lost.fetch_add(1, Ordering::Relaxed);
        self.end(trip, Outcome::Failed, Rejection::new(Reason::NodeLost, detail).retry_after_us(FULL_RETRY_AFTER_US));
    }

    fn end(&self, trip: Trip, outcome: Outcome, rejection: Rejection) {
        let mut answer = Delivered::rejection(trip.header.job_id, outcome, rejection, self.engine.node);
        answer.header.receipt.node_ns = now_ns().saturating_sub(trip.header_ns);
        self.engine.answer_from_elsewhere(trip.caller.id, trip.reply, answer);
    }

    fn hop(&self, trip: &Trip) -> Hop {
        Hop { node: self.engine.node, node_ns: now_ns().saturating_sub(trip.header_ns) }
    }
}

/// Whether another node may do what this one did not.
fn elsewhere(header: &AnswerHeader) -> bool {
    let passing = matches!(
        header.reason,
        Reason::UnknownModel
            | Reason::ModelUnavailable
            | Reason::DeadlineUnreachable
            | Reason::Overloaded
            | Reason::CreditsExceeded
            | Reason::ShuttingDown
            | Reason::NodeLost
    );
    passing && matches!(header.outcome, Outcome::Refused | Outcome::Failed)
}

impl Answers for Cluster {
    fn refused(&self, from: NodeId, header: &CheckpointHeader) {
        self.checkpoint_refused(from, header);
    }

    fn answered(&self, from: NodeId, correlation: Correlation, mut header: AnswerHeader, payload: Bytes) {
        if header.outcome == Outcome::Partial {
            return;
        }
        let mut trips = self.trips.lock();
        let Some(trip) = trips.get_mut(correlation.key()).filter(|trip| trip.header.job_id == header.job_id) else {
            // Answered already, by another node or because it was overdue.
            self.counters.stray.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let present = trip.leg.number == correlation.leg() && trip.leg.via == from;
        if elsewhere(&header) || (header.outcome != Outcome::Result && !present) {
            // A node that was given up on has nothing more to say but a result.
            if present {
                trip.declined = Some(Box::new((header, payload)));
                drop(trips);
                self.try_next(correlation.key());
            }
            return;
        }
        let Some(trip) = trips.remove(correlation.key()) else { return };
        drop(trips);
        let now_ns = now_ns();
        if header.outcome == Outcome::Result {
            if now_ns > trip.deadline_ns {
                let detail = format!("not done within {} ms by another node", trip.header.budget_us / 1000);
                return self.end(trip, Outcome::Expired, Rejection::new(Reason::DeadlineExpired, detail));
            }
            if present {
                let took_us = (now_ns - trip.leg.sent_ns) / 1000;
                // Who ran it may be another than the one it was meant for.
                let ran = NodeId::of(header.receipt.node.as_str());
                if ran == trip.leg.target {
                    let model = ModelId::of(trip.header.model.as_str(), 0);
                    self.foresight.lock().note(now_ns, (ran, model), trip.leg.expected_us, took_us);
                }
            }
        }
        header.passed(self.hop(&trip));
        let caller = trip.caller.id;
        self.engine.answer_from_elsewhere(caller, trip.reply, Delivered::new(header, payload.clone()));
        self.engine.conclude_from_elsewhere(caller, &trip.header, trip.payload_bytes, (&header, &payload));
        // Nodes between keep nothing: whose the job is they know only as a neighbour's.
        if trip.whole && trip.origin.visited.is_empty() {
            let (asked_ns, answer) = (trip.header_ns, (&header, &payload));
            self.engine.keep_from_elsewhere(caller, asked_ns, &trip.header, trip.payload, answer);
        }
    }
}
