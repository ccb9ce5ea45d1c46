//! The one monotonic clock that durations are taken from. Linux gives every process of a machine the same one, so the
//! node and its workers may subtract each other's readings.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).expect("the monotonic clock starts at 0");
    let nanoseconds = u64::try_from(now.tv_nsec).expect("a timespec's nanoseconds are 0 to 999,999,999");
    seconds * 1_000_000_000 + nanoseconds
}
