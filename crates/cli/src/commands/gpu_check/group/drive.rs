//! Workers without models, and a group of them: what a node's actors do, on one thread.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use sensorium_device::backend::cuda::GpuSetup;
use sensorium_device::group::lifecycle::{Command, Event, Lifecycle, Plan, Pulse, State};
use sensorium_device::group::orders::{self, Order, Report};
use sensorium_device::protocol::WorkerSetup;
use sensorium_device::slab::{Slab, default_classes};
use sensorium_device::supervise::{WorkerEvent, WorkerSpec, WorkerSupervisor};

use super::super::target::Target;

/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(5);
const READY_MS_MAX: u64 = 60_000;
/// Most that its threads may have told and it has not heard; they wait then. All of a check are a few hundred.
const TOLD_MAX: usize = 1024;
/// Sequence numbers of measurements, which no exercise of the life cycle has.
const MEASURED: u64 = 1 << 40;

/// What its threads tell it.
enum Told {
    Worker(u32, WorkerEvent),
    Said(u32, u64, Report),
}

struct Member {
    supervisor: WorkerSupervisor,
    spec: WorkerSpec,
    pid: Option<u32>,
    incarnation: u64,
    socket: Option<(u64, OwnedFd)>,
}

pub(super) struct Drive<'a> {
    target: &'a Target,
    members: Vec<Member>,
    lifecycle: Lifecycle,
    link_formed_ms: Option<u64>,
    complete_ms: u64,
    began: Instant,
    seats: u64,
    measured: Vec<(u32, Pulse)>,
    failure: Option<String>,
    tell: mpsc::SyncSender<Told>,
    told: mpsc::Receiver<Told>,
}

/// A process that hangs; it goes on when this goes, whatever happens.
pub(super) struct Stopped(Pid);

impl Stopped {
    pub(super) fn go_on(self) -> anyhow::Result<()> {
        Ok(kill_process(self.0, Signal::CONT)?)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

impl<'a> Drive<'a> {
    /// Starts a worker for each member.
    pub(super) fn start(target: &'a Target, gpus: Vec<Option<GpuSetup>>, plan: Plan) -> anyhow::Result<Self> {
        let (tell, told) = mpsc::sync_channel(TOLD_MAX);
        let slab = Slab::create(&default_classes()[..1])?;
        let mut members = Vec::new();
        for (rank, gpu) in (0_u32..).zip(gpus) {
            let events = tell.clone();
            let device = format!("rank {rank}");
            let supervisor = WorkerSupervisor::launch(&device, move |event| {
                let _ = events.send(Told::Worker(rank, event));
            })?;
            let setup = WorkerSetup {
                device,
                gpu,
                cpus: Vec::new(),
                nice: 0,
                onnxruntime: target.library.clone(),
                repositories: Vec::new(),
                weights: std::path::PathBuf::new(),
                slab_bytes: slab.memory_bytes(),
                lanes: Vec::new(),
                groups: vec!["check".to_owned()],
                standby: false,
                injection: None,
            };
            let spec = WorkerSpec {
                program: std::env::current_exe()?,
                arguments: vec!["worker".to_owned(), "--parent".to_owned(), std::process::id().to_string()],
                setup,
                slab: std::sync::Arc::clone(&slab),
                ready_ms_max: READY_MS_MAX,
            };
            supervisor.start(0, spec.clone()).map_err(anyhow::Error::msg)?;
            members.push(Member { supervisor, spec, pid: None, incarnation: 0, socket: None });
        }
        Ok(Self {
            target,
            members,
            lifecycle: Lifecycle::new(plan, 0),
            link_formed_ms: None,
            complete_ms: 0,
            began: Instant::now(),
            seats: 0,
            measured: Vec::new(),
            failure: None,
            tell,
            told,
        })
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) const fn state(&self) -> State {
        self.lifecycle.state()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state() == State::Ready
    }

    pub(super) const fn generation(&self) -> u64 {
        self.lifecycle.generation()
    }

    pub(super) fn last_reason(&self) -> String {
        self.lifecycle.last_reason().unwrap_or_default().to_owned()
    }

    /// From the last worker's being there to the first exchange that was right.
    pub(super) fn formed_ms(&self) -> u64 {
        self.link_formed_ms.unwrap_or_default().saturating_sub(self.complete_ms)
    }

    /// The same members under another plan, as after a restart of a group's actor.
    pub(super) fn restart(&mut self, plan: Plan) {
        self.lifecycle = Lifecycle::new(plan, self.lifecycle.generation());
        for rank in 0..self.members.len() {
            let Some((seat, _)) = &self.members[rank].socket else { continue };
            let seat = *seat;
            self.handle(Event::Joined { rank: number(rank), seat });
        }
    }

    pub(super) fn kill(&self, rank: u32) {
        if let Some(member) = self.members.get(rank as usize) {
            member.supervisor.kill();
        }
    }

    pub(super) fn stop(&self, rank: u32) -> anyhow::Result<Stopped> {
        let pid = self.members.get(rank as usize).and_then(|member| member.pid).context("the member has no process")?;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a process has a number")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Stopped(pid))
    }

    /// Goes on until it is so.
    pub(super) fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let began = Instant::now();
        while !is(self) {
            self.go_on()?;
            if began.elapsed() > PATIENCE {
                bail!("not so after {} s: {what}; {}", PATIENCE.as_secs(), self.last_reason());
            }
        }
        Ok(())
    }

    /// Exchanges so many values, all of which are checked; gives the slowest member's medians.
    pub(super) fn measure(&mut self, values: u32, rounds: u32) -> anyhow::Result<Pulse> {
        self.measured.clear();
        self.failure = None;
        let order = Order::Exercise {
            generation: self.generation(),
            sequence: MEASURED,
            values,
            rounds,
            wait_ms: self.members.first().map_or(1, |member| member.spec.ready_ms_max),
        };
        for rank in 0..number(self.members.len()) {
            self.send(rank, &order, &[]);
        }
        let ranks = self.members.len();
        self.until("a measurement", |drive| drive.measured.len() == ranks || drive.failure.is_some())?;
        if let Some(failure) = self.failure.take() {
            bail!("exchanging {values} values: {failure}");
        }
        let slowest = |of: fn(&Pulse) -> f64| self.measured.iter().map(|(_, pulse)| of(pulse)).fold(0.0, f64::max);
        let (broadcast_us, all_gather_us) = (slowest(|pulse| pulse.broadcast_us), slowest(|pulse| pulse.all_gather_us));
        Ok(Pulse { broadcast_us, all_gather_us })
    }

    fn go_on(&mut self) -> anyhow::Result<()> {
        match self.told.recv_timeout(TICK) {
            Ok(Told::Worker(rank, event)) => self.worker(rank, event)?,
            Ok(Told::Said(rank, _, Report::Exercised { sequence: MEASURED, broadcast_us, all_gather_us, .. })) => {
                self.measured.push((rank, Pulse { broadcast_us, all_gather_us }));
            }
            Ok(Told::Said(rank, seat, report)) => {
                if let Report::Failed { reason, .. } = &report {
                    self.failure = Some(format!("rank {rank}: {reason}"));
                }
                self.handle(Event::Said { rank, seat, report });
            }
            Err(RecvTimeoutError::Timeout) => self.handle(Event::Tick),
            Err(RecvTimeoutError::Disconnected) => bail!("the workers' threads are gone"),
        }
        Ok(())
    }

    fn worker(&mut self, rank: u32, event: WorkerEvent) -> anyhow::Result<()> {
        let now_ms = self.now_ms();
        let Some(member) = self.members.get_mut(rank as usize) else { return Ok(()) };
        match event {
            WorkerEvent::Spawned { pid, .. } => member.pid = Some(pid),
            WorkerEvent::Ready { groups, .. } => {
                let socket = groups.into_iter().next().context("the worker has no socket of its group")?;
                self.seats += 1;
                let seat = self.seats;
                let (reading, tell) = (socket.try_clone()?, self.tell.clone());
                thread::Builder::new().name(format!("rank {rank}")).spawn(move || {
                    // Its end is told by the worker's supervisor.
                    while let Ok(Some((report, _))) = orders::take::<Report>(&reading) {
                        if tell.send(Told::Said(rank, seat, report)).is_err() {
                            return;
                        }
                    }
                })?;
                member.socket = Some((seat, socket));
                self.complete_ms = now_ms;
                self.handle(Event::Joined { rank, seat });
            }
            WorkerEvent::Exited { reason, .. } => {
                member.pid = None;
                let seat = member.socket.take().map(|(seat, _)| seat);
                let Some(seat) = seat else { bail!("{}: rank {rank}: {reason}", self.target.name()) };
                member.incarnation += 1;
                member.supervisor.start(member.incarnation, member.spec.clone()).map_err(anyhow::Error::msg)?;
                self.handle(Event::Left { rank, seat, reason });
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        let now_ms = self.now_ms();
        let mut commands = self.lifecycle.handle(now_ms, event);
        while !commands.is_empty() {
            let mut broken = false;
            for command in commands {
                match command {
                    Command::Send { rank, order } => self.send(rank, &order, &[]),
                    Command::Form(given) => self.form(given),
                    Command::Broken { .. } => broken = true,
                    Command::Ready => self.link_formed_ms = self.link_formed_ms.or(Some(now_ms)),
                }
            }
            // At once: the check wants to know how soon it can be back.
            commands = if broken { self.lifecycle.handle(now_ms, Event::Retry) } else { Vec::new() };
        }
    }

    fn form(&mut self, given: Vec<Order>) {
        match orders::with_sockets(given) {
            Ok(given) => {
                for (rank, (order, sockets)) in (0..).zip(given) {
                    self.send(rank, &order, &sockets);
                }
            }
            Err(error) => self.failure = Some(format!("sockets: {error}")),
        }
    }

    /// A member that cannot be told anything is about to be told as gone by its supervisor.
    fn send(&self, rank: u32, order: &Order, sockets: &[OwnedFd]) {
        let socket = self.members.get(rank as usize).and_then(|member| member.socket.as_ref());
        if let Some((_, socket)) = socket {
            let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            let _ = orders::put(socket, order, &sockets);
        }
    }
}

fn number(rank: usize) -> u32 {
    u32::try_from(rank).unwrap_or(u32::MAX)
}
