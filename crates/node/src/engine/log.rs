//! The scheduler's events, written down so that an incident can be replayed.
//!
//! Events go to a thread through a bounded queue; the data path never waits for a disk. A log is a folder of segments,
//! each of which begins with the whole state and can be replayed alone. When the queue is full, or a segment is, the next
//! event begins a new segment; the oldest ones are removed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use sensorium_scheduler::{Command, Event, LOG_FORMAT, LogEntry, LogHead, Scheduler};
use thiserror::Error;

/// Events that may wait to be written.
const QUEUED_EVENTS_MAX: usize = 16_384;
/// Segments of a log; the oldest goes when one more is begun.
const SEGMENTS_MAX: usize = 4;

/// Why events cannot be recorded.
#[derive(Debug, Error)]
#[error("event log {path}: {source}")]
pub struct EventLogError {
    path: PathBuf,
    source: io::Error,
}

enum Note {
    Begin(Box<LogHead>),
    Entry(Box<LogEntry>),
}

/// The data path's end of the log.
pub struct EventLog {
    notes: SyncSender<Note>,
    node: String,
    models: Vec<String>,
    /// Set by the writer: the segment is full.
    full: Arc<AtomicBool>,
    /// An event was lost, or nothing was written yet.
    broken: bool,
}

impl EventLog {
    /// Records into `folder` from now on, up to about `bytes_max` in all.
    ///
    /// # Errors
    /// When the folder cannot be made or the thread not started.
    pub fn start(folder: &Path, bytes_max: u64, node: &str, models: Vec<String>) -> Result<Self, EventLogError> {
        let error = |source| EventLogError { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(error)?;
        let (notes, received) = sync_channel(QUEUED_EVENTS_MAX);
        let full = Arc::new(AtomicBool::new(false));
        let mut writer = Writer {
            folder: folder.to_owned(),
            segment_bytes_max: (bytes_max / SEGMENTS_MAX as u64).max(1),
            segments: segments(folder).map_err(error)?,
            file: None,
            bytes: 0,
            full: Arc::clone(&full),
        };
        let thread = std::thread::Builder::new().name("event-log".to_owned());
        thread.spawn(move || writer.run(&received)).map_err(error)?;
        Ok(Self { notes, node: node.to_owned(), models, full, broken: true })
    }

    /// Call before an event is handled: begins a segment when one is due.
    pub(super) fn begin(&mut self, state: &Scheduler) {
        if !self.broken && !self.full.swap(false, Ordering::Relaxed) {
            return;
        }
        let head = LogHead {
            sensorium_event_log: LOG_FORMAT,
            node: self.node.clone(),
            models: self.models.clone(),
            state: state.clone(),
        };
        self.broken = self.notes.try_send(Note::Begin(Box::new(head))).is_err();
    }

    /// Call with what came of the event.
    pub(super) fn note(&mut self, at_ns: u64, event: Event, commands: &[Command]) {
        if self.broken {
            return;
        }
        let entry = LogEntry { at_ns, event, commands: commands.to_vec() };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.notes.try_send(Note::Entry(Box::new(entry)))
        {
            self.broken = true;
        }
    }
}

/// Segments that are there already, oldest first.
fn segments(folder: &Path) -> io::Result<VecDeque<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if number(name).is_some() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found.into())
}

/// The number in a segment's name.
fn number(name: &str) -> Option<u64> {
    name.strip_prefix("events-")?.strip_suffix(".jsonl")?.parse().ok()
}

struct Writer {
    folder: PathBuf,
    segment_bytes_max: u64,
    segments: VecDeque<PathBuf>,
    file: Option<BufWriter<File>>,
    bytes: u64,
    full: Arc<AtomicBool>,
}

impl Writer {
    fn run(&mut self, notes: &Receiver<Note>) {
        while let Ok(note) = notes.recv() {
            if let Err(error) = self.write_all(note, notes) {
                tracing::warn!(folder = %self.folder.display(), %error, "event log not written; recording stops");
                return;
            }
        }
    }

    /// Writes this note and all that wait; when there is a pause, what is there goes to the file.
    fn write_all(&mut self, first: Note, notes: &Receiver<Note>) -> io::Result<()> {
        self.write(first)?;
        while let Ok(note) = notes.try_recv() {
            self.write(note)?;
        }
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }

    fn write(&mut self, note: Note) -> io::Result<()> {
        let line = match note {
            Note::Begin(head) => {
                self.begin()?;
                serde_json::to_vec(&*head)
            }
            Note::Entry(entry) => serde_json::to_vec(&*entry),
        };
        let Some(file) = &mut self.file else { return Ok(()) };
        let line = line?;
        file.write_all(&line)?;
        file.write_all(b"\n")?;
        self.bytes += line.len() as u64 + 1;
        if self.bytes >= self.segment_bytes_max {
            self.full.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        if let Some(mut file) = self.file.take() {
            file.flush()?;
        }
        while self.segments.len() >= SEGMENTS_MAX {
            if let Some(oldest) = self.segments.pop_front() {
                std::fs::remove_file(oldest)?;
            }
        }
        let newest = self.segments.back().and_then(|path| number(path.file_name()?.to_str()?)).unwrap_or(0);
        let path = self.folder.join(format!("events-{:09}.jsonl", newest + 1));
        self.file = Some(BufWriter::new(File::create(&path)?));
        self.segments.push_back(path);
        self.bytes = 0;
        Ok(())
    }
}
