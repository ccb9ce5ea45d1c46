//! Where the runtime says that the operators of the project's models are.

use std::collections::BTreeMap;

use sensorium_device::backend::placement::Placed;
use sensorium_models::manifest::FileRole;

use crate::cache::{cpu, package};

fn operators(model: &str, role: FileRole) -> BTreeMap<String, usize> {
    let package = package(model);
    let assignments = cpu().assignments(package.file(role).unwrap()).unwrap();
    assert!(assignments.iter().all(|assignment| assignment.provider == "CPUExecutionProvider"), "{assignments:?}");
    let placed = Placed::of(&assignments);
    assert_eq!((placed.on_gpu, placed.is_all_on_gpu()), (0, false));
    assert_eq!(placed.elsewhere.values().sum::<usize>(), assignments.len());
    placed.elsewhere
}

#[test]
fn the_runtime_tells_every_operator_of_a_network() {
    for (model, role) in [
        ("nanodet", FileRole::Network),
        ("centernet", FileRole::Network),
        ("movenet", FileRole::Network),
        ("yamnet", FileRole::Network),
        ("fusion", FileRole::Network),
        ("silero-vad", FileRole::Network),
        ("moonshine", FileRole::Encoder),
        ("moonshine", FileRole::Decoder),
    ] {
        let found = operators(model, role);
        println!("{model} {role}: {found:?}");
        assert!(!found.is_empty(), "{model} {role}");
    }
}
