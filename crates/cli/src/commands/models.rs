//! `sensorium models`.

use std::process::ExitCode;

use anyhow::bail;
use sensorium_models::ModelPackage;
use sensorium_models::manifest::Precision;
use sensorium_models::repository::Repository;
use serde_json::json;

use crate::arguments::ModelsArguments;
use crate::error::Outcome;
use crate::paths::Paths;

pub(crate) fn run(paths: &Paths, arguments: &ModelsArguments) -> Outcome {
    if paths.repositories.is_empty() {
        bail!("no model repository: run in the project's folder or give one with --models DIR");
    }
    let repository = Repository::open(&paths.repositories, &paths.weights())?;
    let mut broken = repository.broken.len();
    let mut rows = Vec::new();
    for (name, package) in &repository.models {
        let manifest = &package.manifest;
        let problem = if arguments.no_check { None } else { package.verify().err().map(|error| error.to_string()) };
        broken += usize::from(problem.is_some());
        let state = match (&problem, arguments.no_check) {
            (Some(problem), _) => problem.clone(),
            (None, true) => "not checked".to_owned(),
            (None, false) => "ok".to_owned(),
        };
        if !arguments.json {
            println!(
                "{name:<14} v{:<3} {:<7} {:<40} {state}",
                manifest.version,
                manifest.modality.name(),
                manifest.licence
            );
            println!("{:<14} {}", "", manifest.description);
        }
        let variants: Vec<_> = manifest.variants.iter().map(|variant| variant.name).collect();
        for precision in variants {
            let problem = variant_problem(package, precision).filter(|_| !arguments.no_check);
            // A model that asks for one it has not runs all the same, and not as it should.
            broken += usize::from(problem.is_some() && manifest.placement.gpu_precision == precision);
            if let Some(problem) = problem.filter(|_| !arguments.json) {
                println!("{:<14} {} is not used: {problem}", "", precision.name());
            }
        }
        rows.push(json!({ "manifest": manifest, "folder": package.folder, "problem": problem }));
    }
    for (folder, error) in &repository.broken {
        if !arguments.json {
            println!("{folder:<14} {error}");
        }
        rows.push(json!({ "folder": folder, "problem": error.to_string() }));
    }
    if arguments.json {
        println!("{}", json!(rows));
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is wrong with a variant's files.
fn variant_problem(package: &ModelPackage, precision: Precision) -> Option<String> {
    package.in_precision(precision)?.verify().err().map(|error| error.to_string())
}
