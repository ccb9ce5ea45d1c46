//! What holds for every plan, on known machines and on generated ones, and what the plans of the known ones are.
//!
//! `vm-2-cpus.json` was recorded by `probe`; the others are written after the descriptions of such machines.

#![expect(clippy::unwrap_used, reason = "these are tests, also where they share a function")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sensorium_hardware::{
    Core, CpuDevices, DeviceKind, DevicePlan, Gpu, Inventory, Limits, Nic, NumaNode, Plan, PlanOptions, plan, render,
};

const TOPOLOGIES: [(&str, &str); 5] = [
    ("vm-2-cpus", include_str!("topologies/vm-2-cpus.json")),
    ("laptop", include_str!("topologies/laptop.json")),
    ("one-socket-one-gpu", include_str!("topologies/one-socket-one-gpu.json")),
    ("two-sockets-eight-gpus", include_str!("topologies/two-sockets-eight-gpus.json")),
    ("odd", include_str!("topologies/odd.json")),
];

fn topology(name: &str) -> Inventory {
    let (_, json) = TOPOLOGIES.into_iter().find(|(known, _)| *known == name).unwrap();
    serde_json::from_str(json).unwrap()
}

fn options() -> impl Iterator<Item = PlanOptions> {
    [CpuDevices::Always, CpuDevices::WithoutGpu, CpuDevices::Never]
        .into_iter()
        .flat_map(|cpu_devices| [true, false].map(|pin| PlanOptions { cpu_devices, pin }))
}

fn planned(name: &str) -> Plan {
    plan(&topology(name), &PlanOptions::default())
}

fn device<'a>(plan: &'a Plan, name: &str) -> &'a DevicePlan {
    plan.devices.iter().find(|device| device.name == name).unwrap()
}

fn check(inventory: &Inventory, options: &PlanOptions) -> Plan {
    let plan = plan(inventory, options);
    let all: BTreeSet<u32> = inventory.cores.iter().flat_map(|core| core.cpus.iter().copied()).collect();
    let core_nodes: BTreeSet<u32> = inventory.cores.iter().map(|core| core.numa_node).collect();
    let gpu_count = inventory.gpus.len();
    let cpu_count = match options.cpu_devices {
        CpuDevices::Always => core_nodes.len(),
        CpuDevices::WithoutGpu if gpu_count == 0 => core_nodes.len(),
        CpuDevices::WithoutGpu | CpuDevices::Never => 0,
    };
    assert_eq!(plan.devices.len(), gpu_count + cpu_count);
    let names: BTreeSet<_> = plan.devices.iter().map(|device| &device.name).collect();
    assert_eq!(names.len(), plan.devices.len());

    assert!(!plan.io_cpus.is_empty());
    assert!(plan.io_cpus.iter().all(|cpu| all.contains(cpu)));
    for device in &plan.devices {
        assert!(!device.cpus.is_empty(), "{device:?}");
        assert!(device.cpus.iter().all(|cpu| all.contains(cpu)), "{device:?}");
        assert!(device.cpus.is_sorted());
        assert_eq!(device.threads, 1);
        match &device.kind {
            DeviceKind::Cuda { gpu, uuid } => {
                let gpu = inventory.gpus.iter().find(|known| known.index == *gpu).unwrap();
                assert_eq!(uuid, &gpu.uuid);
                assert!(device.memory_bytes <= gpu.memory_bytes);
                if let Some(own) = gpu.numa_node.filter(|node| core_nodes.contains(node)) {
                    let own: BTreeSet<u32> = cpus_of(inventory, own);
                    assert!(device.cpus.iter().all(|cpu| own.contains(cpu)), "{device:?} is not on its own node");
                }
            }
            DeviceKind::Cpu => {
                let nodes: BTreeSet<_> = device.cpus.iter().map(|cpu| node_of(inventory, *cpu)).collect();
                assert_eq!(nodes.len(), 1, "{device:?} spans nodes");
                assert_eq!(device.memory_bytes, device.host_memory_bytes);
            }
        }
    }
    check_memory(inventory, &plan);

    if plan.pinned {
        // Everything belongs to exactly one.
        let mut owned: Vec<u32> = plan.devices.iter().flat_map(|device| device.cpus.iter().copied()).collect();
        owned.extend(plan.io_cpus.iter().chain(&plan.idle_cpus).chain(&plan.spare_cpus));
        owned.sort_unstable();
        assert_eq!(owned, all.iter().copied().collect::<Vec<_>>());
        let io_count = if all.len() >= 8 { 2 } else { 1 };
        assert!(plan.io_cpus.len() == io_count || plan.notes.iter().any(|note| note.contains("network I/O")));
        // Idle CPUs are siblings of network I/O's.
        for idle in &plan.idle_cpus {
            let core = inventory.cores.iter().find(|core| core.cpus.contains(idle)).unwrap();
            assert!(core.cpus.iter().any(|cpu| plan.io_cpus.contains(cpu)));
        }
        check_evenness(inventory, &plan);
    } else {
        assert!(plan.notes.iter().any(|note| note.contains("nothing is pinned")), "{:?}", plan.notes);
    }
    assert!(options.pin || !plan.pinned);
    let text = render(inventory, &plan);
    assert!(plan.devices.iter().all(|device| text.contains(&device.name)));
    assert!(plan.notes.iter().all(|note| text.contains(note)));
    plan
}

/// Devices on one node differ by one core at most; cores that network I/O has begun count as cores.
fn check_evenness(inventory: &Inventory, plan: &Plan) {
    let mut counts: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for device in &plan.devices {
        let cores = inventory.cores.iter().filter(|core| core.cpus.iter().any(|cpu| device.cpus.contains(cpu)));
        counts.entry(node_of(inventory, device.cpus[0])).or_default().push(cores.count());
    }
    for counts in counts.values() {
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{plan:?}");
    }
}

/// What devices get of a node is at most what it has, and in total at most what the control group grants.
fn check_memory(inventory: &Inventory, plan: &Plan) {
    let mut taken: BTreeMap<u32, u64> = BTreeMap::new();
    for device in &plan.devices {
        match device.numa_node {
            Some(node) => *taken.entry(node).or_default() += device.host_memory_bytes,
            None => assert_eq!(device.host_memory_bytes, 0),
        }
    }
    for (node, bytes) in &taken {
        let node = inventory.numa_nodes.iter().find(|known| known.os_index == *node).unwrap();
        assert!(*bytes < node.memory_bytes, "{bytes} of {node:?}");
    }
    assert!(taken.values().sum::<u64>() <= inventory.limits.memory_bytes.unwrap_or(u64::MAX));
}

fn cpus_of(inventory: &Inventory, node: u32) -> BTreeSet<u32> {
    let cores = inventory.cores.iter().filter(|core| core.numa_node == node);
    cores.flat_map(|core| core.cpus.iter().copied()).collect()
}

fn node_of(inventory: &Inventory, cpu: u32) -> u32 {
    inventory.cores.iter().find(|core| core.cpus.contains(&cpu)).unwrap().numa_node
}

#[test]
fn the_invariants_hold_on_every_known_machine() {
    for (name, _) in TOPOLOGIES {
        for options in options() {
            println!("{name} {options:?}");
            let inventory = topology(name);
            println!("{}", render(&inventory, &check(&inventory, &options)));
        }
    }
}

#[test]
fn a_machine_of_two_cpus_shares_them() {
    let plan = planned("vm-2-cpus");
    assert!(!plan.pinned);
    assert_eq!(plan.io_cpus, [0, 1]);
    assert_eq!(plan.devices.len(), 1);
    assert_eq!(device(&plan, "cpu:0").cpus, [0, 1]);
    assert!(plan.notes[0].contains("only 2 CPU"), "{:?}", plan.notes);
}

#[test]
fn a_laptop_has_one_cpu_device() {
    let plan = planned("laptop");
    assert!(plan.pinned);
    assert_eq!(plan.io_cpus, [0, 2]);
    assert_eq!(plan.idle_cpus, [1, 3]);
    assert_eq!(device(&plan, "cpu:0").cpus, (4..16).collect::<Vec<_>>());
    assert!(plan.spare_cpus.is_empty());
}

#[test]
fn one_gpu_gets_what_network_io_leaves() {
    let plan = planned("one-socket-one-gpu");
    assert_eq!(plan.io_cpus, [0, 1]);
    assert_eq!(plan.idle_cpus, [16, 17]);
    let gpu = device(&plan, "cuda:0");
    assert_eq!(gpu.cpus, (2..16).chain(18..32).collect::<Vec<_>>());
    assert_eq!(gpu.host_memory_bytes, 48 << 30);
    assert_eq!(plan.devices.len(), 1);

    let both = PlanOptions { cpu_devices: CpuDevices::Always, ..PlanOptions::default() };
    let plan = check(&topology("one-socket-one-gpu"), &both);
    assert_eq!(device(&plan, "cuda:0").cpus, (2..9).chain(18..25).collect::<Vec<_>>());
    assert_eq!(device(&plan, "cpu:0").cpus, (9..16).chain(25..32).collect::<Vec<_>>());
    assert_eq!(device(&plan, "cpu:0").memory_bytes, 24 << 30);
}

#[test]
fn eight_gpus_share_the_cores_of_their_own_sockets() {
    let plan = planned("two-sockets-eight-gpus");
    assert!(plan.pinned);
    // The first card with a link is on the second socket.
    assert_eq!(plan.io_cpus, [56, 57]);
    assert_eq!(plan.idle_cpus, [168, 169]);
    let cores: Vec<_> = plan.devices.iter().map(|device| device.cpus.len() / 2).collect();
    assert_eq!(cores, [14, 14, 14, 14, 14, 14, 13, 13]);
    assert_eq!(device(&plan, "cuda:1").cpus, (14..28).chain(126..140).collect::<Vec<_>>());
    assert_eq!(device(&plan, "cuda:4").cpus[0], 58);
    assert_eq!(device(&plan, "cuda:7").numa_node, Some(1));
    assert_eq!(device(&plan, "cuda:7").host_memory_bytes, 192 << 30);
    assert!(plan.spare_cpus.is_empty());
}

#[test]
fn what_is_odd_is_planned_and_said() {
    let plan = planned("odd");
    assert!(plan.pinned);
    // The first card's node is unknown, the second's is node 1.
    assert_eq!(plan.io_cpus, [6, 7]);
    assert_eq!(device(&plan, "cuda:1").cpus, [9, 18, 21]);
    assert_eq!(device(&plan, "cuda:1").numa_node, Some(0));
    // Unknown, and on a node without CPUs: both get cores of the node with more left.
    assert_eq!(device(&plan, "cuda:0").cpus, [0, 1, 12, 13]);
    assert_eq!(device(&plan, "cuda:0").numa_node, Some(0));
    assert_eq!(device(&plan, "cuda:2").cpus, [2, 14]);
    assert_eq!(device(&plan, "cuda:2").numa_node, Some(2));
    // A quarter of the limit, 24 of 96 GiB, and three quarters of that.
    assert_eq!(device(&plan, "cuda:2").host_memory_bytes, 12 << 30);
    assert_eq!(device(&plan, "cuda:0").host_memory_bytes, 3 << 30);
    for part in
        ["cuda:0: its NUMA node is unknown", "cuda:1: NUMA node 1 has no memory", "cuda:2: its NUMA node 2", "6.500"]
    {
        assert!(plan.notes.iter().any(|note| note.contains(part)), "{part} is not in {:?}", plan.notes);
    }
}

#[test]
fn nothing_at_all_is_a_plan_with_nothing() {
    let plan = plan(&Inventory::default(), &PlanOptions::default());
    assert!(plan.devices.is_empty() && plan.io_cpus.is_empty() && !plan.pinned);
    assert!(plan.notes.iter().any(|note| note.contains("no CPU")));
}

#[test]
fn options_refuse_unknown_keys() {
    assert_eq!(serde_json::from_str::<PlanOptions>("{}").unwrap(), PlanOptions::default());
    assert!(serde_json::from_str::<PlanOptions>(r#"{"pinn": true}"#).is_err());
}

#[test]
fn the_text_is_a_tree() {
    let inventory = topology("one-socket-one-gpu");
    let text = render(&inventory, &plan(&inventory, &PlanOptions::default()));
    let expected = "\
machine
├─ package 0  AMD EPYC 9124 16-Core Processor  16 cores, 32 CPUs
├─ NUMA node 0  64 GiB  16 cores, 32 CPUs: 0-31
│  ├─ network eno1
│  └─ GPU 0  NVIDIA L4  22.4 GiB  0000:01:00.0  72 W (of 40 to 72)  driver 580.65.06, CUDA 13.0
├─ caches  L1d 16 × 32 KiB, L2 16 × 1 MiB, L3 4 × 16 MiB
└─ limits  locked memory 8 MiB, huge pages for shared memory: advise
plan  pinned
├─ network I/O  CPU 0-1
├─ kept idle  CPU 16-17
├─ cuda:0  CPU 2-15,18-31  20.2 GiB + 48 GiB host memory of node 0
│  └─ GPU-00000000-0000-4000-8000-000000000000
└─ note: CPU 16-17 stay idle beside network I/O, as SMT siblings of its cores
";
    assert_eq!(text, expected);
}

/// A machine: nodes with cores, SMT widths, memory or none, GPUs anywhere.
fn machines() -> impl Strategy<Value = Inventory> {
    let node = (0..20_usize, 1..4_usize, 0..3_u64);
    let gpu = proptest::option::of(0..6_u32);
    let nic = (proptest::option::of(0..6_u32), any::<bool>());
    (
        proptest::collection::vec(node, 1..5),
        proptest::collection::vec(gpu, 0..10),
        proptest::collection::vec(nic, 0..3),
        proptest::option::of(1_u64..1 << 40),
        proptest::option::of(1..40_000_u32),
        1..3_u32,
    )
        .prop_filter("needs a CPU", |(nodes, ..)| nodes.iter().any(|(cores, ..)| *cores > 0))
        .prop_map(|(nodes, gpus, nics, memory_bytes, cpu_quota_milli, step)| {
            let mut inventory = Inventory {
                limits: Limits { memlock_bytes: None, memory_bytes, cpu_quota_milli },
                ..Inventory::default()
            };
            let (mut cpus, mut ids) = ((0_u32..).step_by(step as usize), 0_u32..);
            for (os_index, (cores, smt, memory)) in (0_u32..).zip(nodes) {
                let mut node = NumaNode { os_index, memory_bytes: memory << 34, cpus: vec![], huge_pages: vec![] };
                for id in ids.by_ref().take(cores) {
                    let core = Core {
                        id,
                        package: os_index / 2,
                        numa_node: os_index,
                        cpus: cpus.by_ref().take(smt).collect(),
                    };
                    node.cpus.extend(&core.cpus);
                    inventory.cores.push(core);
                }
                inventory.numa_nodes.push(node);
            }
            for (index, numa_node) in (0..).zip(gpus) {
                inventory.gpus.push(Gpu {
                    index,
                    name: "GPU".to_owned(),
                    uuid: format!("GPU-{index}"),
                    memory_bytes: 1 << 34,
                    pci_address: format!("0000:{index:02x}:00.0"),
                    numa_node,
                    power_limit_mw: None,
                    power_limit_min_mw: None,
                    power_limit_max_mw: None,
                    driver_version: String::new(),
                    cuda_version: String::new(),
                });
            }
            inventory.nics = (0..)
                .zip(nics)
                .map(|(number, (numa_node, up)): (u32, _)| Nic { name: format!("eth{number}"), up, numa_node })
                .collect();
            inventory
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_invariants_hold_on_any_machine(inventory in machines()) {
        for options in options() {
            check(&inventory, &options);
        }
    }

    #[test]
    fn the_plan_does_not_depend_on_the_order_in_which_things_were_found(inventory in machines(), turn in 0..50_usize) {
        let mut turned = inventory.clone();
        turned.cores.reverse();
        let middle = turn.min(turned.cores.len());
        turned.cores.rotate_left(middle);
        turned.gpus.reverse();
        turned.numa_nodes.reverse();
        for core in &mut turned.cores {
            core.cpus.reverse();
        }
        for options in options() {
            prop_assert_eq!(plan(&turned, &options), plan(&inventory, &options));
        }
    }

    #[test]
    fn what_can_be_pinned_is(inventory in machines(), cpu_devices in 0..3_usize) {
        let cpu_devices = [CpuDevices::Always, CpuDevices::WithoutGpu, CpuDevices::Never][cpu_devices];
        let plan = plan(&inventory, &PlanOptions { cpu_devices, pin: true });
        let mut devices: BTreeMap<u32, usize> = BTreeMap::new();
        for device in &plan.devices {
            *devices.entry(node_of(&inventory, device.cpus[0])).or_default() += 1;
        }
        let cpus: usize = inventory.cores.iter().map(|core| core.cpus.len()).sum();
        let has_enough = |(node, count): (&u32, &usize)| cpus_of(&inventory, *node).len() >= *count;
        let possible = cpus >= 3 && cpus > plan.devices.len() && devices.iter().all(has_enough);
        prop_assert_eq!(plan.pinned, possible);
    }

    #[test]
    fn an_inventory_that_contradicts_itself_is_planned_all_the_same(
        cores in proptest::collection::vec((0..4_u32, 0..4_u32, proptest::collection::vec(0..12_u32, 0..4)), 0..10),
        gpus in machines(),
        memory in proptest::collection::vec((0..4_u32, any::<u64>()), 0..4),
    ) {
        let inventory = Inventory {
            cores: cores.into_iter().map(|(id, numa_node, cpus)| Core { id, package: 0, numa_node, cpus }).collect(),
            numa_nodes: memory
                .into_iter()
                .map(|(os_index, memory_bytes)| NumaNode { os_index, memory_bytes, cpus: vec![99], huge_pages: vec![] })
                .collect(),
            ..gpus
        };
        for options in options() {
            let plan = plan(&inventory, &options);
            prop_assert!(plan.devices.iter().all(|device| !device.cpus.is_empty()));
            prop_assert!(!render(&inventory, &plan).is_empty());
        }
    }
}
