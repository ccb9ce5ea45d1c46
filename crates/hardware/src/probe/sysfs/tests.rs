use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

#[test]
fn what_a_process_may_use_is_read_from_its_status() {
    let root = tree(&[("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-2,56,58-59\nMems_allowed_list:\t1\n")]);
    let allowed = allowed(root.path()).unwrap();
    assert_eq!(allowed.cpus, BTreeSet::from([0, 1, 2, 56, 58, 59]));
    assert_eq!(allowed.memory_nodes, BTreeSet::from([1]));
}

#[test]
fn a_status_that_is_missing_or_strange_is_an_error_with_its_path() {
    let none = tempfile::tempdir().unwrap();
    assert!(matches!(allowed(none.path()), Err(HardwareError::Read { .. })));
    let root = tree(&[("proc/self/status", "Cpus_allowed_list:\t0-x\nMems_allowed_list:\t0\n")]);
    assert!(matches!(allowed(root.path()), Err(HardwareError::Format { found, .. }) if found == "0-x"));
}

#[test]
fn huge_pages_are_listed_by_size() {
    let node = "sys/devices/system/node/node1/hugepages";
    let root = tree(&[
        (&format!("{node}/hugepages-2048kB/nr_hugepages"), "64\n"),
        (&format!("{node}/hugepages-2048kB/free_hugepages"), "60\n"),
        (&format!("{node}/hugepages-1048576kB/nr_hugepages"), "2\n"),
        (&format!("{node}/hugepages-1048576kB/free_hugepages"), "0\n"),
        (&format!("{node}/something/else"), "1\n"),
    ]);
    assert_eq!(
        huge_pages(root.path(), 1),
        [HugePages { page_bytes: 2 << 20, total: 64, free: 60 }, HugePages { page_bytes: 1 << 30, total: 2, free: 0 },]
    );
    assert_eq!(huge_pages(root.path(), 0), []);
}

#[test]
fn a_pci_device_without_a_known_node_has_none() {
    let root = tree(&[
        ("sys/bus/pci/devices/0000:17:00.0/numa_node", "1\n"),
        ("sys/bus/pci/devices/0000:18:00.0/numa_node", "-1\n"),
    ]);
    assert_eq!(pci_numa_node(root.path(), "0000:17:00.0"), Some(1));
    assert_eq!(pci_numa_node(root.path(), "0000:18:00.0"), None);
    assert_eq!(pci_numa_node(root.path(), "0000:19:00.0"), None);
}

#[test]
fn network_cards_that_are_up_come_first_and_virtual_ones_not_at_all() {
    let root = tree(&[
        ("sys/devices/pci0000:00/0000:00:03.0/numa_node", "1\n"),
        ("sys/devices/pci0000:00/0000:00:03.0/virtio0/uevent", ""),
        ("sys/devices/pci0000:00/0000:00:04.0/numa_node", "0\n"),
        ("sys/class/net/zeta/operstate", "up\n"),
        ("sys/class/net/alpha/operstate", "down\n"),
        ("sys/class/net/lo/operstate", "unknown\n"),
    ]);
    let devices = root.path().join("sys/devices/pci0000:00");
    symlink(devices.join("0000:00:03.0/virtio0"), root.path().join("sys/class/net/zeta/device")).unwrap();
    symlink(devices.join("0000:00:04.0"), root.path().join("sys/class/net/alpha/device")).unwrap();
    assert_eq!(
        nics(root.path()),
        [
            Nic { name: "zeta".to_owned(), up: true, numa_node: Some(1) },
            Nic { name: "alpha".to_owned(), up: false, numa_node: Some(0) },
        ]
    );
}

#[test]
fn the_setting_for_shared_memory_is_the_one_in_brackets() {
    let path = "sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let root = tree(&[(path, "always within_size advise [never] deny force\n")]);
    assert_eq!(shmem_huge_pages(root.path()), Some(ShmemHugePages::Never));
    let root = tree(&[(path, "always [within_size] advise never\n")]);
    assert_eq!(shmem_huge_pages(root.path()), Some(ShmemHugePages::WithinSize));
    assert_eq!(shmem_huge_pages(&root.path().join("nowhere")), None);
}

#[test]
fn the_narrowest_limit_of_the_groups_counts() {
    let root = tree(&[
        ("proc/self/limits", "Limit  Soft\nMax locked memory         8388608    unlimited    bytes\n"),
        ("proc/self/cgroup", "0::/pods/one\n"),
        ("sys/fs/cgroup/pods/memory.max", "4294967296\n"),
        ("sys/fs/cgroup/pods/one/memory.max", "max\n"),
        ("sys/fs/cgroup/pods/cpu.max", "max 100000\n"),
        ("sys/fs/cgroup/pods/one/cpu.max", "250000 100000\n"),
    ]);
    let expected = Limits { memlock_bytes: Some(8 << 20), memory_bytes: Some(4 << 30), cpu_quota_milli: Some(2500) };
    assert_eq!(limits(root.path()).unwrap(), expected);

    let root = tree(&[("proc/self/limits", "Max locked memory    unlimited    unlimited    bytes\n")]);
    assert_eq!(limits(root.path()).unwrap(), Limits::default());
    let root = tree(&[("proc/self/limits", "Max locked memory    plenty\n")]);
    assert!(matches!(limits(root.path()), Err(HardwareError::Format { found, .. }) if found == "plenty"));
}

#[test]
fn lists_are_bounded() {
    assert_eq!(parse_list("0-4294967295"), None);
    assert_eq!(parse_list("3-2"), None);
    assert_eq!(parse_list(""), None);
    assert_eq!(parse_list("7"), Some(BTreeSet::from([7])));
}

proptest! {
    #[test]
    fn any_text_is_a_list_or_none(text in "[0-9,\\- \n]{0,40}|.{0,40}") {
        let _ = parse_list(&text);
        let _ = parse_quota(&text);
    }

    #[test]
    fn a_list_survives_being_written(numbers in proptest::collection::btree_set(0..INDEX_MAX, 1..20)) {
        let text: Vec<_> = numbers.iter().map(u32::to_string).collect();
        prop_assert_eq!(parse_list(&text.join(",")), Some(numbers));
    }
}
