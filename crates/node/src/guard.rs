//! The guard: a small process between a node and the ffmpeg that has a camera open. It ends ffmpeg when the node's lease
//! lapses and when the node dies, also when the node itself does not run (it is stopped, or hangs).
//!
//! The node writes to the guard's standard input until when its lease is valid, as eight bytes, little-endian: nanoseconds
//! of the machine's monotonic clock, which both share. The end of that pipe is the node's end. ffmpeg's output goes to
//! the node directly. It deliberately knows nothing of leases beyond that one number.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sensorium_device::clock::now_ns;

/// The exit status when ffmpeg was ended because the lease lapsed or the node is gone.
pub(crate) const ENDED: u8 = 200;
/// The exit status when a signal ended ffmpeg.
pub(crate) const KILLED: u8 = 201;

/// Runs a program for as long as standard input says. Gives the exit status.
///
/// # Errors
/// When the program cannot be started or watched.
pub fn run(program: &Path, arguments: &[OsString]) -> io::Result<u8> {
    let stdin = io::stdin();
    let mut lease = Lease::default();
    // Nothing is opened before there is a lease.
    while lease.until_ns == 0 {
        if !lease.read(&stdin)? {
            return Ok(ENDED);
        }
    }
    if now_ns() >= lease.until_ns {
        return Ok(ENDED);
    }
    let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn()?;
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let over = loop {
        let left_ns = lease.until_ns.saturating_sub(now_ns());
        if left_ns == 0 {
            break true;
        }
        let mut watched = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
        let wait = Timespec {
            tv_sec: i64::try_from(left_ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(left_ns % 1_000_000_000).unwrap_or(0),
        };
        match poll(&mut watched, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "guard");
                break true;
            }
        }
        if !watched[1].revents().is_empty() {
            break false;
        }
        if !watched[0].revents().is_empty() && !lease.read(&stdin)? {
            break true;
        }
    };
    if over {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(match status.code() {
        _ if over => ENDED,
        Some(code) => u8::try_from(code).unwrap_or(1),
        None => {
            tracing::debug!(signal = status.signal(), "ended by a signal");
            KILLED
        }
    })
}

/// What was read of the lease.
#[derive(Default)]
struct Lease {
    until_ns: u64,
    partial: Vec<u8>,
}

impl Lease {
    /// Reads what is there; `false` at the end.
    fn read(&mut self, stdin: &io::Stdin) -> io::Result<bool> {
        let mut bytes = [0; 64];
        let count = match rustix::io::read(stdin, &mut bytes) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        self.take(&bytes[..count]);
        Ok(count > 0)
    }

    fn take(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some((until_ns, rest)) = self.partial.split_first_chunk() {
            self.until_ns = u64::from_le_bytes(*until_ns);
            self.partial = rest.to_vec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_whole_word_counts() {
        let mut lease = Lease::default();
        let bytes: Vec<u8> = [7_u64, 9, 11].iter().flat_map(|until_ns| until_ns.to_le_bytes()).collect();
        for (at, byte) in bytes.iter().enumerate() {
            lease.take(&[*byte]);
            assert_eq!(lease.until_ns, [0, 7, 9, 11][(at + 1) / 8]);
        }
    }
}
