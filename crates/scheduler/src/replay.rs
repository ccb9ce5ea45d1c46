//! A log of events, and its replay.
//!
//! A log is lines of JSON: a [`LogHead`] with the whole state, then one [`LogEntry`] per event. Because the state is in
//! it, a log can begin at any moment. Replaying it gives the same commands, byte for byte, or says where it does not.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::{Command, Event, Handled};
use crate::scheduler::Scheduler;

/// Version of the format.
pub const LOG_FORMAT: u32 = 1;

/// First line of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogHead {
    pub sensorium_event_log: u32,
    pub node: String,
    /// Models by their numbers in the log.
    pub models: Vec<String>,
    pub state: Scheduler,
}

/// Every other line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The node's monotonic clock, in nanoseconds.
    pub at_ns: u64,
    pub event: Event,
    pub commands: Vec<Command>,
}

/// What happened at one line.
#[derive(Clone, Debug)]
pub struct Step {
    pub entry: LogEntry,
    pub handled: Handled,
}

/// Why a log cannot be replayed further.
#[derive(Debug, Error)]
pub enum ReplayError {
    #[error("line {line}: not a line of an event log: {source}")]
    Line { line: usize, source: serde_json::Error },
    #[error("line 1: format {format}; this version reads {LOG_FORMAT}")]
    Format { format: u32 },
    #[error("the log is empty")]
    Empty,
    #[error("line {line}: the replay decides otherwise.\n  log:    {log}\n  replay: {replay}")]
    Differs { line: usize, log: String, replay: String },
}

/// A log that is being replayed.
pub struct Replay {
    pub head: LogHead,
    line: usize,
}

impl Replay {
    /// Reads a log's first line.
    ///
    /// # Errors
    /// When it is no log, or of another version.
    pub fn new(first_line: &str) -> Result<Self, ReplayError> {
        #[derive(Deserialize)]
        struct Version {
            sensorium_event_log: u32,
        }
        let wrong = |source| ReplayError::Line { line: 1, source };
        if first_line.trim().is_empty() {
            return Err(ReplayError::Empty);
        }
        let version: Version = serde_json::from_str(first_line).map_err(wrong)?;
        if version.sensorium_event_log != LOG_FORMAT {
            return Err(ReplayError::Format { format: version.sensorium_event_log });
        }
        Ok(Self { head: serde_json::from_str(first_line).map_err(wrong)?, line: 1 })
    }

    /// Replays the next line.
    ///
    /// # Errors
    /// When it is no event, or the commands are not those of the log.
    pub fn step(&mut self, line: &str) -> Result<Step, ReplayError> {
        self.line += 1;
        let wrong = |source| ReplayError::Line { line: self.line, source };
        let entry: LogEntry = serde_json::from_str(line).map_err(wrong)?;
        let mut commands = Vec::new();
        let handled = self.head.state.handle(entry.at_ns, entry.event.clone(), &mut commands);
        let log = serde_json::to_string(&entry.commands).map_err(wrong)?;
        let replay = serde_json::to_string(&commands).map_err(wrong)?;
        if log == replay {
            Ok(Step { entry, handled })
        } else {
            Err(ReplayError::Differs { line: self.line, log, replay })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Desk, MS};

    /// A log that begins in the middle of things.
    fn log() -> Vec<String> {
        let mut desk = Desk::with_one_lane();
        for key in 0..10 {
            desk.now_ns = key * MS;
            desk.arrive(key, (key + 60) * MS);
        }
        let head = LogHead {
            sensorium_event_log: LOG_FORMAT,
            node: "n".to_owned(),
            models: vec!["m".to_owned()],
            state: desk.scheduler.clone(),
        };
        let mut lines = vec![serde_json::to_string(&head).unwrap()];
        for at_ns in (20 * MS..100 * MS).step_by(2_000_000) {
            let mut commands = Vec::new();
            let _ = desk.scheduler.handle(at_ns, Event::Tick, &mut commands);
            lines.push(serde_json::to_string(&LogEntry { at_ns, event: Event::Tick, commands }).unwrap());
        }
        lines
    }

    #[test]
    fn a_log_is_replayed_from_the_state_at_its_start() {
        let lines = log();
        let mut replay = Replay::new(&lines[0]).unwrap();
        let steps = lines[1..].iter().map(|line| replay.step(line).unwrap());
        let expired =
            steps.flat_map(|step| step.entry.commands).filter(|c| matches!(c, Command::Expire { .. })).count();
        assert!(expired > 3, "{expired} of the queued jobs expire");
    }

    #[test]
    fn another_decision_is_found_at_its_line() {
        let mut lines = log();
        let at = lines.iter().position(|line| line.contains("Expire")).unwrap();
        lines[at] = lines[at].replacen("\"key\":", "\"key\":9", 1);
        let mut replay = Replay::new(&lines[0]).unwrap();
        let error = lines[1..].iter().find_map(|line| replay.step(line).err()).unwrap();
        assert!(matches!(error, ReplayError::Differs { line, .. } if line == at + 1), "{error}");
    }

    #[test]
    fn what_is_no_log_is_refused() {
        assert!(matches!(Replay::new(""), Err(ReplayError::Empty)));
        assert!(matches!(Replay::new("{}"), Err(ReplayError::Line { line: 1, .. })));
        assert!(matches!(Replay::new("{\"sensorium_event_log\":9}"), Err(ReplayError::Format { format: 9 })));
        let mut replay = Replay::new(&log()[0]).unwrap();
        assert!(matches!(replay.step("nonsense"), Err(ReplayError::Line { line: 2, .. })));
    }
}
