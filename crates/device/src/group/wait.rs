//! How long a member waits for others, and what ends it sooner.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::GroupError;

/// A limit that began when it was made. With `interrupt`, the wait also ends as soon as that descriptor has something to
/// read or its other end is gone: the node never speaks during an exchange but to end it.
#[derive(Debug)]
pub struct Wait<'a> {
    began: Instant,
    limit_ms: u64,
    interrupt: Option<BorrowedFd<'a>>,
}

impl<'a> Wait<'a> {
    #[must_use]
    pub fn new(limit_ms: u64, interrupt: Option<BorrowedFd<'a>>) -> Self {
        Self { began: Instant::now(), limit_ms, interrupt }
    }

    /// What is left of it.
    ///
    /// # Errors
    /// [`GroupError::TimedOut`] when nothing is; `whom` says whom the wait was for.
    pub(crate) fn left(&self, what: &'static str, whom: impl FnOnce() -> String) -> Result<Duration, GroupError> {
        let left = Duration::from_millis(self.limit_ms).saturating_sub(self.began.elapsed());
        if left.is_zero() {
            return Err(GroupError::TimedOut { what, limit_ms: self.limit_ms, whom: whom() });
        }
        Ok(left)
    }

    /// Waits until one of `sockets` is as asked for, or for `at_most`.
    ///
    /// # Errors
    /// [`GroupError::Interrupted`], or what the system says.
    pub(crate) fn poll(
        &self,
        what: &'static str,
        sockets: &mut Vec<PollFd<'a>>,
        at_most: Duration,
    ) -> Result<(), GroupError> {
        let own = sockets.len();
        if let Some(interrupt) = &self.interrupt {
            sockets.push(PollFd::from_borrowed_fd(*interrupt, PollFlags::IN));
        }
        let timeout = Timespec::try_from(at_most)
            .map_err(|_| GroupError::System { what, message: "a wait that is no time".to_owned() })?;
        match poll(sockets, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(GroupError::System { what, message: io::Error::from(error).to_string() }),
        }
        let interrupted = sockets.get(own).is_some_and(|interrupt| !interrupt.revents().is_empty());
        sockets.truncate(own);
        if interrupted { Err(GroupError::Interrupted { what }) } else { Ok(()) }
    }

    /// Whether it is over, for whoever has nothing to poll.
    ///
    /// # Errors
    /// [`GroupError::TimedOut`] or [`GroupError::Interrupted`].
    pub(crate) fn check(&self, what: &'static str, whom: impl FnOnce() -> String) -> Result<(), GroupError> {
        self.left(what, whom)?;
        self.poll(what, &mut Vec::new(), Duration::ZERO)
    }
}
