//! What node and members of a group say to each other, over a sequenced-packet socket for each member and group.
//!
//! One packet is one message in JSON, with the sockets to the other members beside it where there are any. Each order is
//! answered by one report; the node gives none before it has the answer to the one before, but [`Order::Abort`], which
//! ends whatever the member is doing and is always answered by [`Report::Aborted`]. Everything carries the generation of
//! the group, which rises each time it is formed, so that an answer of an earlier one is recognised.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::RANKS_MAX;

/// Longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Longest reason in a report, in bytes; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 1024;
/// Most rounds of an exercise.
pub const ROUNDS_MAX: u32 = 1000;

/// From the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Order {
    /// To rank 0 of a group that NCCL connects: make the identifier that the others need.
    MakeId { generation: u64 },
    /// Come together. Without an identifier the sockets to the other ranks come with the order.
    Form { generation: u64, rank: u32, ranks: u32, wait_ms: u64, id: Option<Vec<u8>> },
    /// Exchange made-up values and check what comes: `rounds` times a broadcast from rank `sequence` modulo ranks and an
    /// all-gather, of `values` each.
    Exercise { generation: u64, sequence: u64, values: u32, rounds: u32, wait_ms: u64 },
    /// Let go of the generation and of all before it.
    Abort { generation: u64 },
}

impl Order {
    #[must_use]
    pub const fn generation(&self) -> u64 {
        match self {
            Self::MakeId { generation }
            | Self::Form { generation, .. }
            | Self::Exercise { generation, .. }
            | Self::Abort { generation } => *generation,
        }
    }
}

/// From a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Report {
    Id {
        generation: u64,
        id: Vec<u8>,
    },
    Formed {
        generation: u64,
        us: u64,
    },
    /// Medians over the rounds.
    Exercised {
        generation: u64,
        sequence: u64,
        broadcast_us: f64,
        all_gather_us: f64,
    },
    /// What was ordered could not be done; the member has let go of the generation.
    Failed {
        generation: u64,
        reason: String,
    },
    Aborted {
        generation: u64,
    },
}

impl Report {
    #[must_use]
    pub const fn generation(&self) -> u64 {
        match self {
            Self::Id { generation, .. }
            | Self::Formed { generation, .. }
            | Self::Exercised { generation, .. }
            | Self::Failed { generation, .. }
            | Self::Aborted { generation } => *generation,
        }
    }

    /// A failure, with a reason that fits a message.
    #[must_use]
    pub fn failed(generation: u64, reason: &str) -> Self {
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        // JSON would write each of them as six bytes.
        let reason = reason[..end].replace(char::is_control, " ");
        Self::Failed { generation, reason }
    }
}

/// Gives each order to form the sockets that go with it; members that find each other by an identifier need none.
///
/// # Errors
/// What the system says.
pub fn with_sockets(orders: Vec<Order>) -> io::Result<Vec<(Order, Vec<OwnedFd>)>> {
    let ranks = u32::try_from(orders.len()).unwrap_or(u32::MAX);
    let by_host = orders.iter().all(|order| matches!(order, Order::Form { id: None, .. }));
    let sockets = if by_host { super::host::mesh(ranks)? } else { orders.iter().map(|_| Vec::new()).collect() };
    Ok(orders.into_iter().zip(sockets).collect())
}

/// Sends a message without waiting.
///
/// # Errors
/// What the system says: among it that the other side has not read for long, or is gone.
pub fn put<T: Serialize>(socket: impl AsFd, message: &T, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX || sockets.len() > RANKS_MAX as usize {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a message of {} bytes", bytes.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RANKS_MAX as usize))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("no room for the sockets"));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Waits for a message; `None` when the other side is gone.
///
/// # Errors
/// What the system says, or that it is no message.
pub fn take<T: for<'de> Deserialize<'de>>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RANKS_MAX as usize))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let mut sockets = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(given) = message {
            sockets.extend(given);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MESSAGE_BYTES_MAX} bytes")));
    }
    Ok(Some((read(&bytes[..received.bytes])?, sockets)))
}

/// Reads a message's bytes.
///
/// # Errors
/// What is wrong with them.
pub fn read<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn messages_and_sockets_go_through_and_an_end_is_told() {
        let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let ((a, b), (c, d)) = (pair(), pair());
        let order = Order::Form { generation: 7, rank: 15, ranks: 16, wait_ms: 60_000, id: Some(vec![255; 128]) };
        put(&a, &order, &[c.as_fd()]).unwrap();
        let (found, sockets) = take::<Order>(&b).unwrap().unwrap();
        assert_eq!((found, sockets.len()), (order, 1));
        put(&sockets[0], &Report::Aborted { generation: 7 }, &[]).unwrap();
        assert_eq!(take::<Report>(&d).unwrap().unwrap().0, Report::Aborted { generation: 7 });
        let Report::Failed { reason, .. } = Report::failed(1, &"ä".repeat(2000)) else { panic!() };
        assert!(reason.len() <= REASON_BYTES_MAX && reason.len() > REASON_BYTES_MAX - 2);
        put(&b, &Report::failed(u64::MAX, &"\"".repeat(2000)), &[]).unwrap();
        put(&b, &Report::failed(u64::MAX, &"\n\u{1}".repeat(1000)), &[]).unwrap();
        drop(b);
        assert!(take::<Report>(&a).unwrap().is_some());
        assert!(take::<Report>(&a).unwrap().is_some());
        assert!(take::<Report>(&a).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..200) {
            let _ = read::<Order>(&bytes);
            let _ = read::<Report>(&bytes);
            let good = serde_json::to_vec(&Order::Exercise {
                generation: 1, sequence: 2, values: 3, rounds: 4, wait_ms: 5,
            }).unwrap();
            prop_assert!(read::<Order>(&good[..cut.min(good.len() - 1)]).is_err());
            prop_assert!(read::<Report>(&good).is_err());
        }
    }
}
