//! A group actor: brings the workers of several devices together, exercises them, and begins anew when one is lost.
//!
//! It tells members what to do over their sockets and hears what they say; it never waits for one, and it replaces no
//! worker: lanes go on whatever becomes of a group.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use sensorium_device::clock::now_ns;
use sensorium_device::group::lifecycle::{Command, Event, Lifecycle};
use sensorium_device::group::orders::{self, MESSAGE_BYTES_MAX, Order, Report};
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

use crate::group::{GroupPlan, GroupTable, Seat};
use crate::restart::{History, Part, Verdict};

/// How often limits are looked at, in milliseconds.
const TICK_MS: u64 = 20;

/// See the module.
pub struct GroupActor;

#[derive(Clone)]
pub struct GroupArgs {
    /// Its place in the table.
    pub group: usize,
    pub plan: GroupPlan,
    pub table: Arc<GroupTable>,
}

/// What a group actor is told.
#[derive(RactorMessage)]
pub enum GroupMessage {
    /// By the actor of a device whose worker is ready.
    Joined(Seat),
    /// By the actor of a device whose worker is gone, or by the reader of its socket. One that is not a member any more is
    /// not taken for its successor.
    Left { rank: u32, seat: u64, reason: String },
    /// By the reader of a member's socket.
    Said { rank: u32, seat: u64, report: Report },
    /// By itself, when the restart table allows another try.
    Retry,
    /// By its own timer.
    Tick,
}

pub struct GroupRun {
    args: GroupArgs,
    lifecycle: Lifecycle,
    members: Vec<Option<Member>>,
    history: History,
}

struct Member {
    seat: u64,
    socket: Arc<OwnedFd>,
    reader: JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl GroupRun {
    fn handle(&mut self, me: &ActorRef<GroupMessage>, event: Event) -> Result<(), ActorProcessingErr> {
        let now_ms = now_ns() / 1_000_000;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for command in self.lifecycle.handle(now_ms, event) {
                match command {
                    Command::Send { rank, order } => events.extend(self.send(rank, &order, &[])),
                    Command::Form(given) => {
                        for (rank, (order, sockets)) in (0..).zip(orders::with_sockets(given)?) {
                            events.extend(self.send(rank, &order, &sockets));
                        }
                    }
                    Command::Broken { reason } => self.broken(me, now_ms, &reason),
                    Command::Ready => {
                        let generation = self.lifecycle.generation();
                        tracing::info!(group = self.args.plan.name, generation, "ready");
                    }
                }
            }
        }
        self.args.table.note(self.args.group, now_ms, &self.lifecycle);
        Ok(())
    }

    /// A member that cannot be told anything is none.
    fn send(&mut self, rank: u32, order: &Order, sockets: &[OwnedFd]) -> Option<Event> {
        let member = self.members.get_mut(rank as usize)?;
        let Member { seat, socket, .. } = member.as_ref()?;
        let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        let error = orders::put(socket, order, &sockets).err()?;
        let (seat, reason) = (*seat, format!("its socket: {error}"));
        *member = None;
        Some(Event::Left { rank, seat, reason })
    }

    fn broken(&mut self, me: &ActorRef<GroupMessage>, now_ms: u64, reason: &str) {
        let (group, generation) = (&self.args.plan.name, self.lifecycle.generation());
        match self.history.failed(now_ms) {
            Verdict::RestartAfter { wait_ms } => {
                tracing::warn!(group, generation, reason, wait_ms, "broken; forming anew");
                me.send_after(Duration::from_millis(wait_ms), || GroupMessage::Retry);
            }
            Verdict::GiveUp | Verdict::StopNode => {
                tracing::error!(group, generation, reason, "broken too often; given up");
            }
        }
    }

    fn join(&mut self, me: &ActorRef<GroupMessage>, seat: Seat) -> Result<(), ActorProcessingErr> {
        let Seat { rank, number, socket } = seat;
        let Some(place) = self.members.get_mut(rank as usize) else { return Ok(()) };
        let (own, me) = (socket.try_clone()?, me.clone());
        let address = me.clone();
        let reader = tokio::spawn(async move {
            let reason = match read(&address, rank, number, own).await {
                Ok(()) => "its socket closed".to_owned(),
                Err(error) => format!("its socket: {error}"),
            };
            let _ = address.cast(GroupMessage::Left { rank, seat: number, reason });
        });
        *place = Some(Member { seat: number, socket, reader });
        self.handle(&me, Event::Joined { rank, seat: number })
    }
}

/// Passes on what a member says, until its socket ends.
async fn read(address: &ActorRef<GroupMessage>, rank: u32, seat: u64, socket: OwnedFd) -> std::io::Result<()> {
    // A sequenced-packet socket is read like a datagram socket that also knows an end.
    let socket = StdDatagram::from(socket);
    socket.set_nonblocking(true)?;
    let socket = UnixDatagram::from_std(socket)?;
    let mut packet = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let bytes = match socket.recv(&mut packet).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error),
        };
        if bytes == 0 {
            return Ok(());
        }
        let report = orders::read(&packet[..bytes])?;
        if address.cast(GroupMessage::Said { rank, seat, report }).is_err() {
            return Ok(());
        }
    }
}

impl Actor for GroupActor {
    type Msg = GroupMessage;
    type State = GroupRun;
    type Arguments = GroupArgs;

    async fn pre_start(&self, me: ActorRef<GroupMessage>, args: GroupArgs) -> Result<GroupRun, ActorProcessingErr> {
        let (seats, generation) = args.table.attend(args.group, me.clone()).ok_or("there is no such group")?;
        me.send_interval(Duration::from_millis(TICK_MS), || GroupMessage::Tick);
        let mut run = GroupRun {
            lifecycle: Lifecycle::new(args.plan.plan.clone(), generation),
            members: args.plan.devices.iter().map(|_| None).collect(),
            history: History::new(Part::Group),
            args,
        };
        for seat in seats {
            run.join(&me, seat)?;
        }
        Ok(run)
    }

    async fn handle(
        &self,
        me: ActorRef<GroupMessage>,
        message: GroupMessage,
        run: &mut GroupRun,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GroupMessage::Joined(seat) => run.join(&me, seat),
            GroupMessage::Left { rank, seat, reason } => {
                if let Some(place) = run.members.get_mut(rank as usize) {
                    place.take_if(|member| member.seat == seat);
                }
                run.handle(&me, Event::Left { rank, seat, reason })
            }
            GroupMessage::Said { rank, seat, report } => run.handle(&me, Event::Said { rank, seat, report }),
            GroupMessage::Retry => run.handle(&me, Event::Retry),
            GroupMessage::Tick => run.handle(&me, Event::Tick),
        }
    }
}
