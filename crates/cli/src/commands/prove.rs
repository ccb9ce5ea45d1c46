//! `sensorium prove`: a search for bad luck.

use std::process::ExitCode;

use sensorium_simulator::{Losses, Misfortune, Proof, prove};
use serde_json::json;

use super::simulate::read_scenario;
use crate::arguments::ProveArguments;
use crate::error::Outcome;

pub(crate) fn run(options: &ProveArguments) -> Outcome {
    let files = [options.topology.clone(), options.load.clone()];
    let scenario = read_scenario(&files, options.seconds)?;
    let losses = if options.count_loss { Losses::Counted } else { Losses::Excused };
    let proof = prove(&scenario, options.seeds, losses)?;
    let run = proof.miss.as_ref().map(|found| (found.seed, found.misfortune));
    let replay =
        run.or_else(|| proof.worst.map(|worst| (worst.seed, worst.misfortune))).map(|run| replay(options, run));
    if options.json {
        let mut object = serde_json::to_value(&proof)?;
        object["replay"] = json!(replay);
        println!("{object}");
    } else {
        lines(&proof, replay.as_deref()).iter().for_each(|line| println!("{line}"));
    }
    Ok(if proof.miss.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The command that shows a run again.
fn replay(options: &ProveArguments, (seed, misfortune): (u64, Misfortune)) -> String {
    let (topology, load) = (options.topology.display(), options.load.display());
    let seconds = options.seconds.map(|seconds| format!(" --seconds {seconds}")).unwrap_or_default();
    format!("sensorium simulate {topology} {load} --seed {seed} --misfortune {misfortune}{seconds}")
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn lines(proof: &Proof, replay: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    match (&proof.miss, &proof.worst) {
        (Some(found), _) => {
            lines.push(format!("miss: seed {} {}, misfortune {}", found.seed, found.miss, found.misfortune));
        }
        (None, Some(worst)) => {
            lines.push(format!(
                "no miss found in {} seeds, margin {:.3} ms",
                proof.tried,
                worst.margin_us as f64 / 1e3
            ));
        }
        (None, None) => lines.push(format!("no miss found in {} seeds, no deadlines", proof.tried)),
    }
    let share = proof.accepted_share_min * 100.0;
    lines.push(format!("{} jobs accepted; the run that accepted least: {share:.2} %", proof.accepted));
    if proof.missed_by_loss > 0 {
        lines.push(format!("{} missed because a device died, which --count-loss counts", proof.missed_by_loss));
    }
    lines.extend(replay.map(|replay| format!("see it: {replay}")));
    lines
}
