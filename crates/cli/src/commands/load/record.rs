//! The record of a run: one JSON object a line for every job, written as it ends.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::json;

use super::offer::Ending;

/// The file that endings go to.
pub(super) struct Record {
    file: BufWriter<File>,
}

impl Record {
    pub(super) fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: BufWriter::new(File::create(path)?) })
    }

    pub(super) fn add(&mut self, kind: &str, ending: &Ending) -> std::io::Result<()> {
        let line = json!({
            "job": ending.job.to_string(),
            "kind": kind,
            "client": ending.client,
            "sent_us": ending.sent_us,
            "ended_us": ending.ended_us,
            "outcome": ending.end.name(),
            "reason": ending.reason,
            "node": ending.node.as_str(),
            "on_time": ending.on_time,
            "wrong": ending.wrong,
        });
        writeln!(self.file, "{line}")
    }

    pub(super) fn finish(mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
