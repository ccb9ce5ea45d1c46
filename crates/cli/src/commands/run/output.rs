//! What a run leaves behind: every event, and the transcript as subtitles.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use sensorium_pipelines::srt::{Caption, write_srt};
use sensorium_wire::receipt::Stage;
use sensorium_wire::{Event, EventBody};
use serde_json::{Map, Value, json};

use crate::show::micros;

/// The files in `--out`.
pub(super) struct Output {
    folder: PathBuf,
    events: BufWriter<File>,
    captions: Vec<Caption>,
}

impl Output {
    pub(super) fn create(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        let path = folder.join("events.jsonl");
        let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self { folder: folder.to_owned(), events: BufWriter::new(file), captions: Vec::new() })
    }

    pub(super) fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        writeln!(self.events, "{}", json(event))?;
        if let EventBody::Transcript { start_ms, end_ms, r#final: true, text } = &event.body {
            self.captions.push(Caption { start_ms: *start_ms, end_ms: *end_ms, text: text.clone() });
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.events.flush()?;
        self.captions.sort_by_key(|caption| caption.start_ms);
        let path = self.folder.join("transcript.srt");
        fs::write(&path, write_srt(&self.captions)).with_context(|| format!("{}", path.display()))
    }
}

/// One event as a line of JSON, with the receipt of the job that it rests on.
pub(in crate::commands) fn json(event: &Event) -> Value {
    let mut value = serde_json::to_value(event).unwrap_or_default();
    if let Some(receipt) = &event.receipt {
        let parts: Map<String, Value> = Stage::ALL
            .iter()
            .map(|stage| (stage.name().to_owned(), json!(micros(receipt.stage_ns[*stage as usize]))))
            .collect();
        value["receipt"] = json!({
            "total_us": micros(receipt.node_ns),
            "parts": parts,
            "unaccounted_us": micros(receipt.unaccounted_ns()),
            "device": receipt.device,
            "attempt": receipt.attempt,
        });
    }
    value
}
