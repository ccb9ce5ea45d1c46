//! A run as files, from which it can be simulated: when jobs arrived, what the worker spent on each, and how each ended.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

use super::report::Report;

/// Writes arrivals.csv, service.csv and latency.csv; what was there under these names is replaced.
pub(super) fn write(folder: &Path, report: &Report) -> Result<()> {
    let endings = &report.endings;
    rows(folder, "arrivals.csv", "offset_us", endings.iter().map(|ending| ending.offset_us.to_string()))?;
    let services = endings.iter().filter_map(|ending| ending.service_ns);
    rows(folder, "service.csv", "service_us", services.map(|ns| (ns / 1000).to_string()))?;
    let latencies =
        endings.iter().map(|ending| format!("{},{},{}", ending.offset_us, ending.end.name(), ending.latency_ns / 1000));
    rows(folder, "latency.csv", "scheduled_offset_us,outcome,latency_us", latencies)
}

fn rows(folder: &Path, name: &str, heading: &str, rows: impl Iterator<Item = String>) -> Result<()> {
    let mut file = BufWriter::new(File::create(folder.join(name))?);
    writeln!(file, "{heading}")?;
    for row in rows {
        writeln!(file, "{row}")?;
    }
    file.flush()
}
