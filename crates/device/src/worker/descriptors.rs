//! Taking over the descriptors that the node left open for this process.
#![allow(unsafe_code, reason = "turns agreed descriptor numbers into owned descriptors")]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The descriptor `number`, closed to further children; `None` when it is not open. Call once per number.
pub(super) fn inherited(number: i32) -> Option<OwnedFd> {
    // SAFETY: only looked at; a number that is not open makes the call fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_getfd(borrowed).ok()?;
    fcntl_setfd(borrowed, FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open (just checked), and by the agreement between node and worker nothing else in this process
    // owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
