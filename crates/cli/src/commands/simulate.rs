//! `sensorium simulate`: one run of a scenario.

mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use sensorium_simulator::{Report, SECONDS_MAX, Scenario, SourceFile, simulate};
use serde_json::json;

use crate::arguments::SimulateArguments;
use crate::error::Outcome;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

pub(crate) fn run(options: &SimulateArguments) -> Outcome {
    let scenario = read_scenario(&options.scenario, options.seconds)?;
    let seed = options.seed.unwrap_or_else(|| scenario.seed());
    let started = Instant::now();
    let report = simulate(&scenario, seed, options.misfortune)?;
    let wall_s = started.elapsed().as_secs_f64();
    if options.json {
        println!("{}", json(&report, wall_s)?);
    } else {
        report::lines(&report, wall_s).iter().for_each(|line| println!("{line}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The report, and how long it took to make, which is all that differs between two runs.
#[expect(clippy::cast_precision_loss, reason = "for display")]
fn json(report: &Report, wall_s: f64) -> anyhow::Result<String> {
    let mut object = serde_json::to_value(report)?;
    object["wall_s"] = json!(wall_s);
    object["events_per_wall_s"] = json!((report.events as f64 / wall_s).round());
    Ok(serde_json::to_string(&object)?)
}

/// Reads the files of a scenario, and those that they name, which lie beside them.
pub(super) fn read_scenario(paths: &[PathBuf], seconds: Option<f64>) -> anyhow::Result<Scenario> {
    if let Some(seconds) = seconds.filter(|seconds| !(*seconds > 0.0 && *seconds <= SECONDS_MAX)) {
        anyhow::bail!("--seconds {seconds}: more than 0 and at most {SECONDS_MAX} is expected");
    }
    let read = |path: &PathBuf| {
        let text = read_bounded(path).with_context(|| path.display().to_string())?;
        Ok(SourceFile { name: path.display().to_string(), text })
    };
    let files: Vec<SourceFile> = paths.iter().map(read).collect::<anyhow::Result<_>>()?;
    let beside = |file: &SourceFile, name: &str| {
        let folder = Path::new(&file.name).parent().unwrap_or_else(|| Path::new(""));
        read_bounded(&folder.join(name)).map_err(|error| error.to_string())
    };
    let scenario = Scenario::parse(&files, &beside)?;
    Ok(match seconds {
        Some(seconds) => scenario.with_seconds(seconds),
        None => scenario,
    })
}

fn read_bounded(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::metadata(path)?.len();
    anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{bytes} bytes; at most {FILE_BYTES_MAX} are read");
    Ok(std::fs::read_to_string(path)?)
}
