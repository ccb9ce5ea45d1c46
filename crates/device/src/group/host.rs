//! The transport between workers of one machine that need no GPU: a stream socket between each two of them.
//!
//! The node makes the sockets ([`mesh`]) and passes them on, so that nobody listens and nobody else can join. A member
//! that ends is noticed at once, by the end of its streams; one that hangs, by the limit of the wait.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use bytemuck::{Pod, Zeroable};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::{GroupError, Transport, Wait, check_all_gather, check_broadcast, check_ranks};

/// Start of every message, so that members that are out of step do not take each other's values for their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Head {
    generation: u64,
    sequence: u64,
    values: u64,
    /// 0 all-gather, 1 broadcast.
    kind: u32,
    root: u32,
}

const HEAD_BYTES: usize = size_of::<Head>();

/// The sockets of a group of `ranks`: for each rank one to every other, in the order of their ranks.
///
/// # Errors
/// What the system says.
pub fn mesh(ranks: u32) -> io::Result<Vec<Vec<OwnedFd>>> {
    let mut ends: Vec<Vec<OwnedFd>> = (0..ranks).map(|_| Vec::new()).collect();
    for second in 0..ranks as usize {
        for first in 0..second {
            let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Each rank gets the sockets to lower ranks while `second` is itself, then those to higher ones: in order.
            ends[first].push(a);
            ends[second].push(b);
        }
    }
    Ok(ends)
}

/// A member's end.
#[derive(Debug)]
pub struct HostGroup {
    rank: u32,
    ranks: u32,
    generation: u64,
    sequence: u64,
    /// By rank; none to itself.
    peers: Vec<Option<OwnedFd>>,
    is_broken: bool,
}

impl HostGroup {
    /// Takes over the sockets to the other ranks, in their order.
    ///
    /// # Errors
    /// When their number is not that of the others.
    pub fn new(rank: u32, ranks: u32, generation: u64, sockets: Vec<OwnedFd>) -> Result<Self, GroupError> {
        check_ranks(rank, ranks)?;
        if sockets.len() + 1 != ranks as usize {
            let message = format!("{} sockets for a group of {ranks}", sockets.len());
            return Err(GroupError::System { what: "forming", message });
        }
        let mut sockets = sockets.into_iter();
        let peers = (0..ranks).map(|peer| if peer == rank { None } else { sockets.next() }).collect();
        Ok(Self { rank, ranks, generation, sequence: 0, peers, is_broken: false })
    }

    /// Sends `mine` to the ranks in `to` and receives from those of `from`; all have `head`.
    fn exchange(
        &mut self,
        what: &'static str,
        head: Head,
        (to, mine): (&[usize], &[f32]),
        from: Vec<(usize, &mut [f32])>,
        wait: &Wait<'_>,
    ) -> Result<Duration, GroupError> {
        if self.is_broken {
            return Err(GroupError::Broken);
        }
        let began = Instant::now();
        self.sequence += 1;
        let outcome = run(what, &self.peers, head, (to, bytemuck::cast_slice(mine)), from, wait);
        self.is_broken = outcome.is_err();
        outcome.map(|()| began.elapsed())
    }

    const fn head(&self, values: usize, kind: u32, root: u32) -> Head {
        Head { generation: self.generation, sequence: self.sequence, values: values as u64, kind, root }
    }
}

impl Transport for HostGroup {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn ranks(&self) -> u32 {
        self.ranks
    }

    fn broadcast(&mut self, root: u32, values: &mut [f32], wait: &Wait<'_>) -> Result<Duration, GroupError> {
        check_broadcast(root, self.ranks, values.len())?;
        let head = self.head(values.len(), 1, root);
        if root == self.rank {
            let others = self.others();
            self.exchange("broadcast", head, (&others, values), Vec::new(), wait)
        } else {
            self.exchange("broadcast", head, (&[], &[]), vec![(root as usize, values)], wait)
        }
    }

    fn all_gather(&mut self, mine: &[f32], all: &mut [f32], wait: &Wait<'_>) -> Result<Duration, GroupError> {
        check_all_gather(self.ranks, mine.len(), all.len())?;
        let head = self.head(mine.len(), 0, 0);
        let others = self.others();
        let own = self.rank as usize;
        let mut from = Vec::new();
        for (rank, part) in all.chunks_exact_mut(mine.len()).enumerate() {
            if rank == own {
                part.copy_from_slice(mine);
            } else {
                from.push((rank, part));
            }
        }
        self.exchange("all-gather", head, (&others, mine), from, wait)
    }
}

impl HostGroup {
    fn others(&self) -> Vec<usize> {
        (0..self.ranks as usize).filter(|rank| *rank != self.rank as usize).collect()
    }
}

/// A message on its way out: the head, then the values.
struct Outgoing<'a> {
    rank: usize,
    head: [u8; HEAD_BYTES],
    values: &'a [u8],
    sent: usize,
}

/// A message on its way in.
struct Incoming<'a> {
    rank: usize,
    head: [u8; HEAD_BYTES],
    values: &'a mut [u8],
    received: usize,
}

impl Outgoing<'_> {
    fn is_done(&self) -> bool {
        self.sent == HEAD_BYTES + self.values.len()
    }

    /// Sends what the socket takes.
    fn go_on(&mut self, socket: &OwnedFd) -> Result<(), GroupError> {
        while !self.is_done() {
            let rest = self.head.get(self.sent..).filter(|rest| !rest.is_empty());
            let rest = rest.unwrap_or_else(|| &self.values[self.sent - HEAD_BYTES..]);
            match send(socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(bytes) => self.sent += bytes,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(lost(self.rank, &error.to_string())),
            }
        }
        Ok(())
    }
}

impl Incoming<'_> {
    fn is_done(&self) -> bool {
        self.received == HEAD_BYTES + self.values.len()
    }

    /// Takes what is there, and no byte of the message after it.
    fn go_on(&mut self, socket: &OwnedFd, expected: &Head) -> Result<(), GroupError> {
        while !self.is_done() {
            let in_head = self.received < HEAD_BYTES;
            let room =
                if in_head { &mut self.head[self.received..] } else { &mut self.values[self.received - HEAD_BYTES..] };
            match recv(socket, room, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(lost(self.rank, "its stream ended")),
                Ok((bytes, _)) => self.received += bytes,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(lost(self.rank, &error.to_string())),
            }
            let head: Head = bytemuck::pod_read_unaligned(&self.head);
            if in_head && self.received == HEAD_BYTES && head != *expected {
                let (found, expected) = (format!("{head:?}"), format!("{expected:?}"));
                return Err(GroupError::OutOfStep { rank: self.rank, found, expected });
            }
        }
        Ok(())
    }
}

fn lost(rank: usize, reason: &str) -> GroupError {
    GroupError::Lost { rank, reason: reason.to_owned() }
}

fn run(
    what: &'static str,
    peers: &[Option<OwnedFd>],
    expected: Head,
    (to, mine): (&[usize], &[u8]),
    from: Vec<(usize, &mut [f32])>,
    wait: &Wait<'_>,
) -> Result<(), GroupError> {
    let mut head = [0; HEAD_BYTES];
    head.copy_from_slice(bytemuck::bytes_of(&expected));
    let mut going: Vec<Outgoing<'_>> =
        to.iter().map(|rank| Outgoing { rank: *rank, head, values: mine, sent: 0 }).collect();
    let mut coming: Vec<Incoming<'_>> = from
        .into_iter()
        .map(|(rank, values)| Incoming {
            rank,
            head: [0; HEAD_BYTES],
            values: bytemuck::cast_slice_mut(values),
            received: 0,
        })
        .collect();
    let socket = |rank: usize| peers.get(rank).and_then(Option::as_ref).ok_or_else(|| lost(rank, "it has no socket"));
    loop {
        for message in &mut going {
            message.go_on(socket(message.rank)?)?;
        }
        for message in &mut coming {
            message.go_on(socket(message.rank)?, &expected)?;
        }
        going.retain(|message| !message.is_done());
        coming.retain(|message| !message.is_done());
        if going.is_empty() && coming.is_empty() {
            return Ok(());
        }
        let left = wait.left(what, || {
            let mut ranks: Vec<usize> = going.iter().map(|message| message.rank).collect();
            ranks.extend(coming.iter().map(|message| message.rank));
            ranks.sort_unstable();
            ranks.dedup();
            format!("rank {}", ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        })?;
        wait_for(what, &going, &coming, &socket, wait, left)?;
    }
}

fn wait_for<'a>(
    what: &'static str,
    going: &[Outgoing<'_>],
    coming: &[Incoming<'_>],
    socket: &impl Fn(usize) -> Result<&'a OwnedFd, GroupError>,
    wait: &Wait<'_>,
    left: Duration,
) -> Result<(), GroupError> {
    let mut asked = Vec::with_capacity(going.len() + coming.len() + 1);
    for message in going {
        asked.push(PollFd::from_borrowed_fd(socket(message.rank)?.as_fd(), PollFlags::OUT));
    }
    for message in coming {
        asked.push(PollFd::from_borrowed_fd(socket(message.rank)?.as_fd(), PollFlags::IN));
    }
    wait.poll(what, &mut asked, left)
}
