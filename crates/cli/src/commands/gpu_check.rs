//! `sensorium gpu-check`: what a GPU does here, check by check.
//!
//! Each check is a process of its own with a limit of time, so that one that fails, hangs or breaks the GPU for its process
//! takes nothing from the others. Without a GPU nothing runs and nothing is claimed.

mod answers;
mod checked;
mod checks;
mod group;
mod half;
mod illegal;
mod kernels;
mod killed;
mod partition;
mod path;
mod rates;
mod report;
mod restart;
mod shares;
mod stages;
mod standby;
mod target;
mod throughput;
mod torch;
mod upload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use self::checks::{CHECKS, Check};
use self::report::{Finding, Report, Row, Verdict};
use self::target::Target;
use crate::arguments::GpuCheckArguments;
use crate::error::Outcome;
use crate::paths::Paths;

/// Without a GPU: nothing ran.
const STATUS_NO_GPU: u8 = 3;
/// How often a check's process is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Longest finding of a check that is read, in bytes.
const FINDING_BYTES_MAX: u64 = 1 << 20;

pub(crate) fn run(paths: &Paths, arguments: &GpuCheckArguments) -> Outcome {
    fs::create_dir_all(&arguments.out).with_context(|| format!("--out {}", arguments.out.display()))?;
    if let Some(name) = &arguments.check {
        return child(paths, arguments, name);
    }
    if let Some(unknown) = arguments.only.iter().find(|name| !CHECKS.iter().any(|check| check.name == **name)) {
        let known: Vec<_> = CHECKS.iter().map(|check| check.name).collect();
        bail!("--only {unknown}: there is no such check; there are {}", known.join(", "));
    }
    let Some(target) = Target::find(paths, arguments.device, arguments.reference.clone())? else {
        println!("no GPU: 0 of {} GPU checks ran", CHECKS.len());
        return Ok(ExitCode::from(STATUS_NO_GPU));
    };
    let checks: Vec<&Check> = CHECKS.iter().filter(|check| target.runs(check) && arguments.wants(check.name)).collect();
    let began = Instant::now();
    let limit = Duration::from_secs(arguments.seconds_max);
    let mut report = Report::new(&target, checks.len());
    for check in checks {
        let left = limit.saturating_sub(began.elapsed());
        let row = observe(check, &target, arguments, left.min(Duration::from_secs(check.seconds_max)))?;
        println!("{}", row.line());
        report.rows.push(row);
        report.write(&arguments.out)?;
    }
    println!("{}", report.verdict());
    Ok(if report.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl GpuCheckArguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// The part of the check's own process.
fn child(paths: &Paths, arguments: &GpuCheckArguments, name: &str) -> Outcome {
    let Some(check) = CHECKS.iter().find(|check| check.name == name) else { bail!("there is no check {name}") };
    let Some(target) = &arguments.target else { bail!("a check is started by gpu-check, not by hand") };
    let target: Target = serde_json::from_str(target).context("--target")?;
    let finding = match (check.run)(paths, &target, &arguments.out) {
        Ok(finding) => finding,
        Err(error) => Finding::failed(format!("{error:#}")),
    };
    fs::write(finding_file(&arguments.out, name), serde_json::to_vec(&finding)?)?;
    // What the libraries do at an ordinary end is no part of what is checked, and may crash or hang.
    sensorium_device::leave(0)
}

fn finding_file(out: &Path, name: &str) -> PathBuf {
    out.join(format!("{name}.json"))
}

/// Runs one check in its process and says how it went.
fn observe(check: &Check, target: &Target, arguments: &GpuCheckArguments, limit: Duration) -> anyhow::Result<Row> {
    let row = |verdict, finding, seconds| Row { name: check.name, what: check.what, verdict, seconds, finding };
    if limit < Duration::from_secs(1) {
        return Ok(row(Verdict::NotRun, Finding::failed("no time was left".to_owned()), 0.0));
    }
    let file = finding_file(&arguments.out, check.name);
    let _ = fs::remove_file(&file);
    let log = fs::File::create(arguments.out.join(format!("{}.log", check.name)))?;
    let mut command = Command::new(std::env::current_exe()?);
    // The options that said where models and libraries are hold for the check as well.
    command.args(std::env::args_os().skip(1)).arg("--check").arg(check.name);
    let mut target = target.clone();
    target.seconds_max = limit.as_secs();
    command.arg("--target").arg(serde_json::to_string(&target)?);
    command.envs(target.environment()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let began = Instant::now();
    let mut process = command.spawn().context("starting a check")?;
    let status = loop {
        if let Some(status) = process.try_wait()? {
            break Some(status);
        }
        if began.elapsed() > limit {
            process.kill()?;
            process.wait()?;
            break None;
        }
        std::thread::sleep(POLL);
    };
    let seconds = began.elapsed().as_secs_f64();
    let Some(status) = status else {
        let finding = Finding::failed(format!("not done after {} s", limit.as_secs()));
        return Ok(row(Verdict::TimedOut, finding, seconds));
    };
    let finding = read(&file).unwrap_or_else(|| Finding::failed(format!("its process ended: {status}")));
    let verdict = match (&finding.error, &finding.skipped) {
        (Some(_), _) => Verdict::Failed,
        (None, Some(_)) => Verdict::Skipped,
        (None, None) => Verdict::Passed,
    };
    Ok(row(verdict, finding, seconds))
}

fn read(file: &Path) -> Option<Finding> {
    if fs::metadata(file).ok()?.len() > FINDING_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}
