//! Every scenario of the project can be read, and runs for a few virtual seconds without breaking a rule.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use sensorium_simulator::{Losses, Misfortune, Scenario, SourceFile, prove, simulate};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster/scenarios")
}

fn read(paths: &[PathBuf]) -> Scenario {
    let file =
        |path: &PathBuf| SourceFile { name: path.display().to_string(), text: fs::read_to_string(path).unwrap() };
    let files: Vec<SourceFile> = paths.iter().map(file).collect();
    let beside = |file: &SourceFile, name: &str| {
        let folder = Path::new(&file.name).parent().unwrap();
        fs::read_to_string(folder.join(name)).map_err(|error| error.to_string())
    };
    Scenario::parse(&files, &beside).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_scenario_runs_without_a_broken_rule() {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    paths.sort();
    assert!(paths.len() >= 7, "only {} scenarios found", paths.len());
    for path in paths {
        let scenario = read(std::slice::from_ref(&path));
        let seconds = if path.ends_with("ten-thousand-devices.toml") { 0.05 } else { scenario.seconds().min(4.0) };
        let scenario = scenario.with_seconds(seconds);
        let report = simulate(&scenario, scenario.seed(), Misfortune::NONE)
            .unwrap_or_else(|broken| panic!("{}: {broken}", path.display()));
        assert!(report.outcomes.accepted > 0, "{}: {report:?}", path.display());
        assert_eq!(report.outcomes.lost, 0, "{}", path.display());
    }
}

/// Half a device moves from cameras to microphones and back, while both ask for more than they get; and a device with long
/// batches is offered nearly twice what it can do. Nothing that was accepted is late.
#[test]
fn what_was_accepted_is_on_time_when_shares_move_and_under_overload() {
    for name in ["move-half.toml", "overload.toml"] {
        let scenario = read(&[folder().join(name)]);
        let report = simulate(&scenario, scenario.seed(), Misfortune::NONE).unwrap();
        let outcomes = &report.outcomes;
        assert!(outcomes.accepted > 10_000 && outcomes.refused > 10_000, "{name}: {report:?}");
        assert_eq!((outcomes.late, outcomes.expired, outcomes.lost), (0, 0, 0), "{name}: {report:?}");
    }
}

#[test]
fn a_topology_and_a_load_can_be_proven_together() {
    let prove_folder = folder().join("prove");
    let scenario = read(&[prove_folder.join("two-gpus.toml"), prove_folder.join("ten-cameras.toml")]).with_seconds(2.0);
    let proof = prove(&scenario, 5, Losses::Excused).unwrap();
    assert!(proof.tried >= 1 && proof.accepted > 100, "{proof:?}");
}
