//! How much of the processor a worker gets beside others.
//!
//! Niceness belongs to threads on Linux, and without a privilege it only ever rises: whoever lowers itself for a while must
//! know that it may come back.

use std::fs;
use std::thread;

use rustix::process::{Pid, getpriority_process, setpriority_process};

/// The greatest niceness there is.
const LEAST_PRIORITY: i32 = 19;

/// A process that is nicer than it will be, until this is given back.
pub(super) struct Lowered {
    nice: i32,
}

impl Lowered {
    /// Lowers this thread, and with it the threads that it starts from now on; `None` where that could not be undone.
    pub(super) fn now() -> Option<Self> {
        let nice = getpriority_process(None).ok()?;
        // Tried out by a thread that ends here and takes its niceness with it.
        let tried = thread::spawn(move || {
            setpriority_process(None, LEAST_PRIORITY).is_ok() && setpriority_process(None, nice).is_ok()
        });
        if !tried.join().unwrap_or(false) {
            return None;
        }
        setpriority_process(None, LEAST_PRIORITY).ok()?;
        Some(Self { nice })
    }

    /// Raises all threads of this process again.
    pub(super) fn raise(self) {
        let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let numbers = threads.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        for thread in numbers.filter_map(Pid::from_raw) {
            // One that ended meanwhile needs nothing.
            let _ = setpriority_process(Some(thread), self.nice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lowered_is_raised_again_with_the_threads_it_started() {
        // In a thread of its own: the others of this process are nobody's to lower.
        let outcome = thread::spawn(|| {
            let before = getpriority_process(None).unwrap();
            let Some(lowered) = Lowered::now() else {
                // It may not come back here, and so was left alone.
                return getpriority_process(None).unwrap() == before;
            };
            let (told, heard) = std::sync::mpsc::channel();
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let started = thread::spawn(move || {
                told.send(getpriority_process(None).unwrap()).unwrap();
                let _ = wait.recv();
                getpriority_process(None).unwrap()
            });
            let during = (heard.recv().unwrap(), getpriority_process(None).unwrap());
            lowered.raise();
            drop(go);
            during == (LEAST_PRIORITY, LEAST_PRIORITY)
                && started.join().unwrap() == before
                && getpriority_process(None).unwrap() == before
        });
        assert!(outcome.join().unwrap());
    }
}
