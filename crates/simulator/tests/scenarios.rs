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

#[test]
fn a_topology_and_a_load_can_be_proven_together() {
    let prove_folder = folder().join("prove");
    let scenario = read(&[prove_folder.join("two-gpus.toml"), prove_folder.join("ten-cameras.toml")]).with_seconds(2.0);
    let proof = prove(&scenario, 5, Losses::Excused).unwrap();
    assert!(proof.tried >= 1 && proof.accepted > 100, "{proof:?}");
}
