//! What was found, for people and for programs.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::target::Target;

/// What a check found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// Measurements by name, the unit last.
    pub(crate) values: BTreeMap<String, Value>,
    /// Why it failed; `None` = it passed.
    pub(crate) error: Option<String>,
    /// Why there was nothing to check here; then nothing is said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<String>,
}

impl Finding {
    pub(crate) fn failed(error: String) -> Self {
        Self { error: Some(error), ..Self::default() }
    }

    pub(crate) fn skipped(reason: impl Into<String>) -> Self {
        Self { skipped: Some(reason.into()), ..Self::default() }
    }

    /// Notes a value; numbers that are none are left out.
    pub(crate) fn note(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.values.insert(name.into(), value.into());
    }

    /// Fails unless `holds`; the first reason stays.
    pub(crate) fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds && self.error.is_none() {
            self.error = Some(otherwise());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Passed,
    Failed,
    /// What it compares with is not here.
    Skipped,
    TimedOut,
    /// The time for all checks was over.
    NotRun,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
            Self::TimedOut => "TIMED OUT",
            Self::NotRun => "not run",
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) finding: Finding,
}

impl Row {
    pub(crate) fn line(&self) -> String {
        let values = self.finding.values.iter().map(|(name, value)| match value {
            Value::Number(number) if number.is_f64() => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                if number != 0.0 && number.abs() < 0.01 {
                    format!("{name} {number:.1e}")
                } else {
                    format!("{name} {number:.2}")
                }
            }
            Value::String(text) => format!("{name} {text}"),
            other => format!("{name} {other}"),
        });
        let values: Vec<_> = values.collect();
        let why = self.finding.error.as_deref().or(self.finding.skipped.as_deref());
        let error = why.map_or_else(String::new, |error| format!("  {error}"));
        format!(
            "{:<10} {:<9} {:>6.1} s  {}{error}\n{:22}{}",
            self.name,
            self.verdict.name(),
            self.seconds,
            self.what,
            "",
            values.join(", ")
        )
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// `cuda`, or `cpu` where the checks themselves are tried out on the processor: nothing then is said of a GPU.
    device: &'static str,
    device_name: String,
    version: &'static str,
    checks: usize,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(target: &Target, checks: usize) -> Self {
        let (device, device_name) = (target.kind(), target.name().to_owned());
        Self { device, device_name, version: env!("CARGO_PKG_VERSION"), checks, rows: Vec::new() }
    }

    pub(crate) fn all_passed(&self) -> bool {
        let fine = |row: &Row| matches!(row.verdict, Verdict::Passed | Verdict::Skipped);
        self.rows.len() == self.checks && self.rows.iter().all(fine)
    }

    /// Writes `gpu-report.json` and `gpu-report.txt`, whole or not at all.
    pub(crate) fn write(&self, out: &Path) -> anyhow::Result<()> {
        let lines: Vec<_> = self.rows.iter().map(Row::line).collect();
        let text = format!("{}\n{}\n", lines.join("\n"), self.verdict());
        for (name, bytes) in
            [("gpu-report.json", serde_json::to_vec_pretty(self)?), ("gpu-report.txt", text.into_bytes())]
        {
            let part = out.join(format!("{name}.part"));
            std::fs::write(&part, bytes)?;
            std::fs::rename(&part, out.join(name))?;
        }
        Ok(())
    }

    pub(crate) fn verdict(&self) -> String {
        let passed = self.rows.iter().filter(|row| row.verdict == Verdict::Passed).count();
        let what =
            if self.device == "cuda" { "GPU checks" } else { "checks, on the processor: nothing is said of a GPU," };
        let skipped = self.rows.iter().filter(|row| row.verdict == Verdict::Skipped).count();
        let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
        format!("{passed} of {} {what} passed{skipped} ({})", self.checks, self.device_name)
    }
}
