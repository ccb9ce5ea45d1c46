//! When a group comes together, and what follows when a member is lost. Pure: events and the time in, commands out.
//!
//! ```text
//! forming ──▶ ready ──▶ broken ──▶ forming, of the next generation
//!    └──────────────────▶┘
//! ```
//!
//! A group forms when every member is there and none owes an answer to an earlier generation. It is ready after its first
//! exercise, and exercised again at regular intervals: that is what finds a link that carries nothing. Whatever goes
//! wrong breaks it for all: everyone is told to let go, and it is formed anew when all have said that they did and
//! whoever runs it allows. A member that hangs holds the group up and nobody else: it is told once, and asked no more.

use serde::Serialize;

use super::orders::{Order, Report};

/// How long beyond a member's own limit its report may take, in milliseconds.
pub const REPORT_MS_MAX: u64 = 500;

/// How a group's members are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// Sockets, which go with the order to form.
    Host,
    /// An identifier of rank 0.
    Nccl,
}

/// What a group is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    pub link: Link,
    pub ranks: u32,
    /// Limit of coming together, of one exchange, and time between two exercises, in milliseconds.
    pub form_ms_max: u64,
    pub wait_ms_max: u64,
    pub pulse_ms: u64,
    /// Values that a member gives in an exercise.
    pub pulse_values: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Members are missing, or come together.
    Forming,
    Ready,
    Broken,
}

/// What happened. `seat` is the caller's number for one worker's time as a member; later ones have larger numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Joined {
        rank: u32,
        seat: u64,
    },
    Left {
        rank: u32,
        seat: u64,
        reason: String,
    },
    Said {
        rank: u32,
        seat: u64,
        report: Report,
    },
    /// A broken group may form again.
    Retry,
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Send {
        rank: u32,
        order: Order,
    },
    /// The orders to form, by rank; for [`Link::Host`] with sockets between each two.
    Form(Vec<Order>),
    /// [`Event::Retry`] is awaited, when the restart table says.
    Broken {
        reason: String,
    },
    Ready,
}

/// What the last exercise showed, in microseconds: the slowest member's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pulse {
    pub broadcast_us: f64,
    pub all_gather_us: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// For all to be there and to have let go.
    Gathering,
    Identifying,
    Joining,
    Exercising,
    /// Until the next exercise.
    Resting,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    seat: Option<u64>,
    /// The generation whose abort it has not acknowledged.
    owes: Option<u64>,
    /// It has reported on what this phase waits for.
    has_reported: bool,
}

/// One group.
#[derive(Debug)]
pub struct Lifecycle {
    plan: Plan,
    seats: Vec<Seat>,
    state: State,
    phase: Phase,
    generation: u64,
    sequence: u64,
    /// When the phase is over, or given up.
    until_ms: u64,
    /// It broke, and nobody has allowed another try yet.
    waits_for_retry: bool,
    last_reason: Option<String>,
    measured: Pulse,
    pulse: Option<Pulse>,
    pulses: u64,
}

impl Lifecycle {
    /// A group without members. Generations start after `generation`, so that they are never used twice.
    #[must_use]
    pub fn new(plan: Plan, generation: u64) -> Self {
        let seats = vec![Seat::default(); plan.ranks as usize];
        Self {
            plan,
            seats,
            state: State::Forming,
            phase: Phase::Gathering,
            generation,
            sequence: 0,
            until_ms: 0,
            waits_for_retry: false,
            last_reason: None,
            measured: Pulse::default(),
            pulse: None,
            pulses: 0,
        }
    }

    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Why it broke the last time.
    #[must_use]
    pub fn last_reason(&self) -> Option<&str> {
        self.last_reason.as_deref()
    }

    /// The last exercise of this generation, and how many there were in all.
    #[must_use]
    pub const fn pulse(&self) -> (Option<Pulse>, u64) {
        (self.pulse, self.pulses)
    }

    /// Ranks without a worker, and those that have not let go of an earlier generation.
    #[must_use]
    pub fn held_up_by(&self) -> (Vec<u32>, Vec<u32>) {
        let of =
            |is: fn(&Seat) -> bool| (0..).zip(&self.seats).filter(|(_, seat)| is(seat)).map(|(at, _)| at).collect();
        (of(|seat| seat.seat.is_none()), of(|seat| seat.seat.is_some() && seat.owes.is_some()))
    }

    /// When [`Event::Tick`] does something next, if nothing else happens; `None` = never.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        (self.phase != Phase::Gathering).then_some(self.until_ms)
    }

    /// Takes an event at `now_ms` of any monotonic clock.
    pub fn handle(&mut self, now_ms: u64, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Joined { rank, seat } => self.joined(rank, seat, &mut commands),
            Event::Left { rank, seat, reason } => self.left(rank, seat, &reason, &mut commands),
            Event::Said { rank, seat, report } => self.said(now_ms, rank, seat, report, &mut commands),
            Event::Retry => {
                if std::mem::take(&mut self.waits_for_retry) {
                    self.state = State::Forming;
                }
            }
            Event::Tick => {}
        }
        self.go_on(now_ms, &mut commands);
        commands
    }

    fn joined(&mut self, rank: u32, seat: u64, commands: &mut Vec<Command>) {
        let Some(place) = self.seats.get_mut(rank as usize) else { return };
        let replaced = place.seat.is_some();
        // Whatever an earlier owner of this group has told it: from here on both count from the same.
        *place = Seat { seat: Some(seat), owes: Some(self.generation), has_reported: false };
        commands.push(Command::Send { rank, order: Order::Abort { generation: self.generation } });
        if replaced {
            self.break_off(&format!("rank {rank} has another worker"), commands);
        }
    }

    fn left(&mut self, rank: u32, seat: u64, reason: &str, commands: &mut Vec<Command>) {
        let Some(place) = self.seats.get_mut(rank as usize) else { return };
        if place.seat != Some(seat) {
            return;
        }
        *place = Seat::default();
        self.break_off(&format!("rank {rank} is gone: {reason}"), commands);
    }

    fn said(&mut self, now_ms: u64, rank: u32, seat: u64, report: Report, commands: &mut Vec<Command>) {
        let generation = self.generation;
        let Some(place) = self.seats.get_mut(rank as usize).filter(|place| place.seat == Some(seat)) else { return };
        if let Report::Aborted { generation: told } = report {
            if place.owes == Some(told) {
                place.owes = None;
            }
            return;
        }
        // What a member says of an earlier generation, or before it has let go, is about something that is over.
        if report.generation() != generation || place.owes.is_some() {
            return;
        }
        match (report, self.phase) {
            (Report::Failed { reason, .. }, Phase::Gathering) => tracing::debug!(rank, reason, "a late failure"),
            (Report::Failed { reason, .. }, _) => self.break_off(&format!("rank {rank}: {reason}"), commands),
            (Report::Id { id, .. }, Phase::Identifying) => self.join(now_ms, Some(&id), commands),
            (Report::Formed { .. }, Phase::Joining) => place.has_reported = true,
            (Report::Exercised { sequence, broadcast_us, all_gather_us, .. }, Phase::Exercising)
                if sequence == self.sequence =>
            {
                place.has_reported = true;
                self.measured.broadcast_us = self.measured.broadcast_us.max(broadcast_us);
                self.measured.all_gather_us = self.measured.all_gather_us.max(all_gather_us);
            }
            (report, phase) => {
                self.break_off(&format!("rank {rank} says {report:?} while {phase:?}"), commands);
            }
        }
    }

    /// What the time or the last event makes possible.
    fn go_on(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        let all = |seats: &[Seat]| seats.iter().all(|seat| seat.has_reported);
        match self.phase {
            Phase::Gathering => {
                let is_complete = self.seats.iter().all(|seat| seat.seat.is_some() && seat.owes.is_none());
                if is_complete && !self.waits_for_retry {
                    self.form(now_ms, commands);
                }
            }
            Phase::Joining if all(&self.seats) => self.exercise(now_ms, commands),
            Phase::Exercising if all(&self.seats) => {
                self.pulse = Some(self.measured);
                self.pulses += 1;
                self.phase = Phase::Resting;
                self.until_ms = now_ms.saturating_add(self.plan.pulse_ms);
                if self.state != State::Ready {
                    self.state = State::Ready;
                    commands.push(Command::Ready);
                }
            }
            Phase::Resting if now_ms >= self.until_ms => self.exercise(now_ms, commands),
            Phase::Identifying | Phase::Joining | Phase::Exercising if now_ms >= self.until_ms => {
                let silent = (0_u32..).zip(&self.seats).filter(|(_, seat)| !seat.has_reported);
                let silent: Vec<String> = silent.map(|(rank, _)| rank.to_string()).collect();
                let doing = match self.phase {
                    Phase::Exercising => "exchanging",
                    Phase::Identifying => "making an identifier",
                    _ => "coming together",
                };
                self.break_off(&format!("nothing heard of rank {} while {doing}", silent.join(", ")), commands);
            }
            Phase::Identifying | Phase::Joining | Phase::Exercising | Phase::Resting => {}
        }
    }

    fn form(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        self.generation += 1;
        self.state = State::Forming;
        self.pulse = None;
        match self.plan.link {
            Link::Host => self.join(now_ms, None, commands),
            Link::Nccl => {
                self.enter(Phase::Identifying, now_ms, self.plan.form_ms_max);
                commands.push(Command::Send { rank: 0, order: Order::MakeId { generation: self.generation } });
            }
        }
    }

    fn join(&mut self, now_ms: u64, id: Option<&[u8]>, commands: &mut Vec<Command>) {
        self.enter(Phase::Joining, now_ms, self.plan.form_ms_max);
        let (ranks, generation, wait_ms) = (self.plan.ranks, self.generation, self.plan.form_ms_max);
        let order = |rank| Order::Form { generation, rank, ranks, wait_ms, id: id.map(<[u8]>::to_vec) };
        commands.push(Command::Form((0..ranks).map(order).collect()));
    }

    fn exercise(&mut self, now_ms: u64, commands: &mut Vec<Command>) {
        self.sequence += 1;
        self.measured = Pulse::default();
        // A member waits for the others in the broadcast and in the all-gather alike, within one limit.
        self.enter(Phase::Exercising, now_ms, self.plan.wait_ms_max);
        let order = Order::Exercise {
            generation: self.generation,
            sequence: self.sequence,
            values: self.plan.pulse_values,
            rounds: 1,
            wait_ms: self.plan.wait_ms_max,
        };
        commands.extend((0..self.plan.ranks).map(|rank| Command::Send { rank, order: order.clone() }));
    }

    fn enter(&mut self, phase: Phase, now_ms: u64, limit_ms: u64) {
        self.phase = phase;
        self.until_ms = now_ms.saturating_add(limit_ms).saturating_add(REPORT_MS_MAX);
        for seat in &mut self.seats {
            seat.has_reported = false;
        }
    }

    /// Breaks the group, unless it is nothing that could break.
    fn break_off(&mut self, reason: &str, commands: &mut Vec<Command>) {
        if self.phase == Phase::Gathering {
            return;
        }
        self.phase = Phase::Gathering;
        self.state = State::Broken;
        self.pulse = None;
        self.waits_for_retry = true;
        self.last_reason = Some(reason.to_owned());
        let generation = self.generation;
        for (rank, seat) in (0_u32..).zip(&mut self.seats) {
            if seat.seat.is_some() && seat.owes.is_none() {
                seat.owes = Some(generation);
                commands.push(Command::Send { rank, order: Order::Abort { generation } });
            }
        }
        commands.push(Command::Broken { reason: reason.to_owned() });
    }
}

#[cfg(test)]
mod tests;
