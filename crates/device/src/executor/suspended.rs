//! Work that was left between two slices of a job. It is never all there is: a job whose work was dropped can start over
//! from its payload.

use std::collections::VecDeque;

/// Most jobs of one model on one lane whose work is kept between slices. A job that was taken back stays until later ones
/// push it out, so this also bounds the memory.
pub const SUSPENDED_JOBS_MAX: usize = 8;

/// Unfinished work by the number of the run that left it, oldest first.
#[derive(Debug)]
pub(super) struct Suspended<T> {
    jobs: VecDeque<(u64, T)>,
}

impl<T> Default for Suspended<T> {
    fn default() -> Self {
        Self { jobs: VecDeque::with_capacity(SUSPENDED_JOBS_MAX) }
    }
}

impl<T> Suspended<T> {
    /// Keeps what `run` left, and drops the oldest when there is no room.
    pub(super) fn put(&mut self, run: u64, work: T) {
        while self.jobs.len() >= SUSPENDED_JOBS_MAX {
            self.jobs.pop_front();
        }
        self.jobs.push_back((run, work));
    }

    /// Gives what `run` left, once; `None` when that is gone or never was.
    pub(super) fn take(&mut self, run: u64) -> Option<T> {
        let index = self.jobs.iter().position(|(left_by, _)| *left_by == run)?;
        self.jobs.remove(index).map(|(_, work)| work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_given_back_once_and_the_oldest_goes_first() {
        let mut suspended = Suspended::default();
        let runs = 1..=u64::try_from(SUSPENDED_JOBS_MAX).unwrap();
        for run in runs.clone() {
            suspended.put(run, run * 10);
        }
        // Continued and left again: no longer the oldest.
        assert_eq!(suspended.take(1), Some(10));
        assert_eq!(suspended.take(1), None);
        suspended.put(101, 11);
        suspended.put(102, 12);
        assert_eq!(suspended.take(2), None, "the oldest was dropped");
        assert_eq!(suspended.take(101), Some(11));
        assert_eq!(suspended.take(102), Some(12));
        for run in runs.skip(2) {
            assert_eq!(suspended.take(run), Some(run * 10));
        }
        assert!(suspended.jobs.is_empty());
    }
}
