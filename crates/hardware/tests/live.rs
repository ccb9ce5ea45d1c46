//! This machine, whatever it is.

use std::collections::BTreeSet;

use sensorium_hardware::{Inventory, PlanOptions, plan, probe, render};

#[test]
fn this_machine_can_be_looked_at_planned_and_shown() {
    let inventory = probe().unwrap();
    println!("{}", serde_json::to_string(&inventory).unwrap());

    let cpus: BTreeSet<u32> = inventory.cores.iter().flat_map(|core| core.cpus.iter().copied()).collect();
    let usable = std::thread::available_parallelism().unwrap().get();
    // A control group's quota may lower what the standard library counts, never raise it.
    assert!(cpus.len() >= usable, "{} CPUs found, {usable} usable", cpus.len());
    assert!(inventory.numa_nodes.iter().any(|node| node.memory_bytes > 64 << 20));
    for core in &inventory.cores {
        let node = inventory.numa_nodes.iter().find(|node| node.os_index == core.numa_node).unwrap();
        assert!(core.cpus.iter().all(|cpu| node.cpus.contains(cpu)));
        assert!(inventory.packages.iter().any(|package| package.id == core.package));
    }
    assert!(!inventory.gpus.is_empty() || inventory.gpu_note.is_some(), "no GPU needs a reason");

    let written = serde_json::to_string(&inventory).unwrap();
    assert_eq!(serde_json::from_str::<Inventory>(&written).unwrap(), inventory);

    let plan = plan(&inventory, &PlanOptions::default());
    let text = render(&inventory, &plan);
    println!("{text}");
    for device in &plan.devices {
        assert!(text.contains(&device.name));
    }
    assert!(!plan.devices.is_empty());
}

#[test]
fn a_process_that_is_bound_to_one_cpu_sees_one() {
    // Affinity is inherited: the test runs itself again, bound.
    let name = "this_machine_can_be_looked_at_planned_and_shown";
    let cpu = probe().unwrap().cores[0].cpus[0].to_string();
    let bound = std::process::Command::new("taskset")
        .args(["-c", &cpu])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .output();
    let Ok(output) = bound else {
        eprintln!("taskset is not installed: not tested");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let json = text.lines().find_map(|line| line.find('{').map(|start| &line[start..])).unwrap();
    let inventory: Inventory = serde_json::from_str(json).unwrap();
    assert_eq!(inventory.cores.len(), 1);
    assert_eq!(inventory.cores[0].cpus, [cpu.parse::<u32>().unwrap()]);
    assert!(text.contains("not pinned"));
}
