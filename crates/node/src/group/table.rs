//! Where the actors of devices and of groups meet: who is a member now, and where each group stands.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ractor::ActorRef;
use sensorium_device::group::lifecycle::{Lifecycle, Link, Pulse, State};
use serde::Serialize;

use super::GroupPlan;
use crate::actors::group::GroupMessage;

/// A group that is not ready for longer than this is told of, in milliseconds.
const NOT_READY_MS_MAX: u64 = 5_000;

/// One group, as status pages show it.
#[derive(Clone, Debug, Serialize)]
pub struct GroupStatus {
    pub name: String,
    pub state: State,
    pub transport: Link,
    /// By rank.
    pub devices: Vec<String>,
    /// How often it has begun to come together.
    pub generation: u64,
    /// Exercises since the node started.
    pub pulses: u64,
    /// What the last one showed; absent while it is not ready.
    pub pulse: Option<Pulse>,
    /// Why it broke the last time.
    pub last_reason: Option<String>,
    /// Members without a worker, and those that have not let go of an earlier generation.
    pub missing: Vec<String>,
    pub silent: Vec<String>,
    /// Since when it has not been ready, by the monotonic clock; `None` = it is.
    #[serde(skip)]
    not_ready_since_ms: Option<u64>,
}

/// A worker's time as a member.
#[derive(Clone, Debug)]
pub struct Seat {
    pub rank: u32,
    /// Never used twice by a node.
    pub number: u64,
    pub socket: Arc<OwnedFd>,
}

struct Entry {
    plan: GroupPlan,
    status: GroupStatus,
    address: Option<ActorRef<GroupMessage>>,
    seats: Vec<Seat>,
}

/// The groups, in the order of the configuration.
#[derive(Default)]
pub struct GroupTable {
    entries: Mutex<Vec<Entry>>,
    seats_given: AtomicU64,
}

impl GroupTable {
    #[must_use]
    pub fn new(plans: Vec<GroupPlan>) -> Self {
        let entry = |plan: GroupPlan| {
            let status = GroupStatus {
                name: plan.name.clone(),
                state: State::Forming,
                transport: plan.plan.link,
                devices: plan.devices.clone(),
                generation: 0,
                pulses: 0,
                pulse: None,
                last_reason: None,
                missing: plan.devices.clone(),
                silent: Vec::new(),
                not_ready_since_ms: None,
            };
            Entry { plan, status, address: None, seats: Vec::new() }
        };
        Self { entries: Mutex::new(plans.into_iter().map(entry).collect()), seats_given: AtomicU64::new(0) }
    }

    #[must_use]
    pub fn plans(&self) -> Vec<GroupPlan> {
        self.entries.lock().iter().map(|entry| entry.plan.clone()).collect()
    }

    /// The groups that a device is a member of; its worker's sockets are in this order.
    #[must_use]
    pub fn names_of(&self, device: &str) -> Vec<String> {
        let entries = self.entries.lock();
        let of = entries.iter().filter(|entry| entry.plan.devices.iter().any(|member| member == device));
        of.map(|entry| entry.plan.name.clone()).collect()
    }

    /// A device's worker is ready, with a socket for each of its groups.
    pub fn sit(&self, device: &str, sockets: Vec<OwnedFd>) {
        let mut sockets = sockets.into_iter();
        for entry in &mut *self.entries.lock() {
            let Some(rank) = entry.rank_of(device) else { continue };
            let Some(socket) = sockets.next() else { return };
            let number = self.seats_given.fetch_add(1, Ordering::Relaxed) + 1;
            let seat = Seat { rank, number, socket: Arc::new(socket) };
            entry.seats.retain(|seat| seat.rank != rank);
            entry.seats.push(seat.clone());
            entry.tell(GroupMessage::Joined(seat));
        }
    }

    /// A device's worker is gone, or about to be.
    pub fn leave(&self, device: &str, reason: &str) {
        for entry in &mut *self.entries.lock() {
            let Some(rank) = entry.rank_of(device) else { continue };
            let Some(at) = entry.seats.iter().position(|seat| seat.rank == rank) else { continue };
            let seat = entry.seats.swap_remove(at).number;
            entry.tell(GroupMessage::Left { rank, seat, reason: reason.to_owned() });
        }
    }

    /// A group's actor has started: who is there, and the last generation. Later changes are told to it.
    pub fn attend(&self, group: usize, actor: ActorRef<GroupMessage>) -> Option<(Vec<Seat>, u64)> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(group)?;
        entry.address = Some(actor);
        Some((entry.seats.clone(), entry.status.generation))
    }

    /// Notes where a group stands at `now_ms` of the monotonic clock.
    pub fn note(&self, group: usize, now_ms: u64, lifecycle: &Lifecycle) {
        let mut entries = self.entries.lock();
        let Some(Entry { status, .. }) = entries.get_mut(group) else { return };
        let (missing, silent) = lifecycle.held_up_by();
        let names = |ranks: Vec<u32>| -> Vec<String> {
            ranks.into_iter().filter_map(|rank| status.devices.get(rank as usize).cloned()).collect()
        };
        let (missing, silent) = (names(missing), names(silent));
        (status.missing, status.silent) = (missing, silent);
        (status.state, status.generation) = (lifecycle.state(), lifecycle.generation());
        (status.pulse, status.pulses) = lifecycle.pulse();
        status.last_reason = lifecycle.last_reason().map(str::to_owned);
        status.not_ready_since_ms = match status.state {
            State::Ready => None,
            State::Forming | State::Broken => Some(status.not_ready_since_ms.unwrap_or(now_ms)),
        };
    }

    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        self.entries.lock().iter().map(|entry| entry.status.clone()).collect()
    }

    /// What is wrong with groups, in sentences.
    #[must_use]
    pub fn alerts(&self, now_ms: u64) -> Vec<String> {
        self.entries.lock().iter().filter_map(|entry| entry.status.alert(now_ms)).collect()
    }
}

impl Entry {
    fn rank_of(&self, device: &str) -> Option<u32> {
        let rank = self.plan.devices.iter().position(|member| member == device)?;
        u32::try_from(rank).ok()
    }

    fn tell(&self, message: GroupMessage) {
        if let Some(actor) = &self.address {
            // One that is gone looks at the seats when it is back.
            let _ = actor.cast(message);
        }
    }
}

impl GroupStatus {
    fn alert(&self, now_ms: u64) -> Option<String> {
        let ms = now_ms.saturating_sub(self.not_ready_since_ms?);
        if ms <= NOT_READY_MS_MAX {
            return None;
        }
        let mut why = Vec::new();
        why.extend(
            self.missing
                .iter()
                .map(|device| format!("{device} has no member: its worker is gone, or let go of its groups")),
        );
        why.extend(self.silent.iter().map(|device| format!("{device} does not answer")));
        why.extend(self.last_reason.clone());
        let why = if why.is_empty() { "its members come together".to_owned() } else { why.join("; ") };
        Some(format!("{} (group) is not ready for {} s: {why}", self.name, ms / 1000))
    }
}
