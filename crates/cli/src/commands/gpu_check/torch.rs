//! What `torch.compile` makes of an equal network on the same GPU, beside our own figures: a script does it, where Python and
//! PyTorch are present. Both run in one report, one after the other, so that they can be compared.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

/// The script and the network that it runs, in the reference folder.
const SCRIPT: &str = "torch_compile.py";
/// Batch sizes that both measure.
const ROWS: [u32; 3] = [1, 8, 32];
/// Least time that is worth beginning with, in seconds.
const SECONDS_MIN: u64 = 60;
/// The script ends by its own clock so long before it is ended, and is ended so long before this check is, in seconds.
const SECONDS_SPARE: u64 = 15;
const POLL: Duration = Duration::from_millis(50);
/// Exit status of the script where there is no PyTorch, or none that can use the device.
const STATUS_WITHOUT: i32 = 3;
/// Longest answer of the script that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

pub(crate) fn run(_: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    let Some(script) = target.reference.as_ref().map(|folder| folder.join(SCRIPT)).filter(|script| script.exists())
    else {
        return Ok(Finding::skipped("no script to compare with; ops/gpu-check makes it"));
    };
    if target.seconds_max < SECONDS_MIN {
        return Ok(Finding::skipped("too little time was left"));
    }
    let ended_after = target.seconds_max - SECONDS_SPARE;
    let own_limit = (ended_after - SECONDS_SPARE).to_string();
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let answer = out.join("torch-figures.json");
    let _ = fs::remove_file(&answer);
    let mut command = Command::new(&python);
    command.arg(&script).args(["--device", target.kind(), "--seconds-max", &own_limit, "--out"]);
    command.arg(&answer).env("TORCHINDUCTOR_CACHE_DIR", out.join("torch-cache")).stdin(Stdio::null());
    // Compilers are its children: they end with it.
    command.process_group(0);
    let Ok(mut process) = command.spawn() else {
        return Ok(Finding::skipped(format!("no {}", python.to_string_lossy())));
    };
    let began = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait()? {
            break Some(status);
        }
        if began.elapsed() > Duration::from_secs(ended_after) {
            let group = Pid::from_raw(i32::try_from(process.id())?).context("a process has a number")?;
            kill_process_group(group, Signal::KILL)?;
            process.wait()?;
            break None;
        }
        std::thread::sleep(POLL);
    };
    if status.and_then(|status| status.code()) == Some(STATUS_WITHOUT) {
        return Ok(Finding::skipped("no PyTorch that can use the device, in the Python that PYTHON names"));
    }
    let mut finding = Finding::default();
    match read(&answer) {
        // What was measured before it was ended still counts.
        Ok(figures) => merge(&mut finding, &figures, &[found(out, "detector"), found(out, "path")]),
        Err(error) => finding.expect(false, || format!("{error:#}; torch.log has more")),
    }
    finding.expect(status.is_some_and(|status| status.success()), || match status {
        Some(status) => format!("the script ended with {status}; torch.log has more"),
        None => format!("not done after {ended_after} s"),
    });
    Ok(finding)
}

fn read(answer: &Path) -> anyhow::Result<Value> {
    let bytes = fs::metadata(answer).context("the script left no figures")?.len();
    anyhow::ensure!(bytes <= ANSWER_BYTES_MAX, "figures of {bytes} bytes; at most {ANSWER_BYTES_MAX} are read");
    serde_json::from_slice(&fs::read(answer)?).context("the script's figures")
}

/// What another check of this report found; nothing when it did not run.
fn found(out: &Path, check: &str) -> Value {
    let found = fs::read(out.join(format!("{check}.json"))).ok();
    let found = found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    found.map_or(Value::Null, |mut found| found["values"].take())
}

/// Notes the script's figures, and our best in half precision divided by its own for each batch size: with copies from and to the
/// processor's memory on both sides, as the check of the detector runs it, and of the networks alone, as that of the path does.
fn merge(finding: &mut Finding, figures: &Value, [detector, path]: &[Value; 2]) {
    let values = figures["values"].as_object();
    for (name, value) in values.into_iter().flatten() {
        finding.note(name.clone(), value.clone());
    }
    if let Some(error) = figures["error"].as_str() {
        finding.expect(false, || error.to_owned());
    }
    for rows in ROWS {
        for (ours, part, with) in [(detector, "", "_with_copies"), (path, "_network_alone", "")] {
            let rate = |graphs| ours[format!("batch_{rows}_fp16{graphs}{part}_frames_per_s")].as_f64();
            let best = ["", "_graphs"].into_iter().filter_map(rate).max_by(f64::total_cmp);
            let theirs = figures["values"][format!("compiled_batch_{rows}{with}_frames_per_s")].as_f64();
            if let (Some(ours), Some(theirs)) = (best, theirs.filter(|theirs| *theirs > 0.0)) {
                finding.note(format!("batch_{rows}{part}_ours_to_compiled"), ours / theirs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn our_best_is_divided_by_theirs() {
        let figures = json!({ "error": null, "values": {
            "compiled_batch_32_with_copies_frames_per_s": 1000.0, "compiled_batch_32_frames_per_s": 4000.0, "torch": "2.9", "largest_difference": 1e-6 } });
        let ours = json!({ "batch_32_fp16_frames_per_s": 700.0, "batch_32_fp16_graphs_frames_per_s": 900.0 });
        let alone = json!({ "batch_32_fp16_graphs_network_alone_frames_per_s": 5000.0 });
        let mut finding = Finding::default();
        merge(&mut finding, &figures, &[ours, alone]);
        assert_eq!(finding.values["batch_32_ours_to_compiled"], 0.9);
        assert_eq!(finding.values["batch_32_network_alone_ours_to_compiled"], 1.25);
        assert_eq!(finding.values["torch"], "2.9");
        assert!(finding.error.is_none() && !finding.values.contains_key("batch_1_ours_to_compiled"));
        merge(&mut finding, &json!({ "error": "other outputs" }), &[Value::Null, Value::Null]);
        assert_eq!(finding.error.as_deref(), Some("other outputs"));
    }
}
