//! Cores, caches and NUMA nodes, from hwloc.

use std::collections::BTreeSet;

use hwlocality::Topology as Hwloc;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::{CacheType, ObjectType};

use super::sysfs::Allowed;
use crate::{Cache, CacheKind, Core, HardwareError, NumaNode, Package};

/// hwloc's part of the inventory.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) packages: Vec<Package>,
    pub(super) numa_nodes: Vec<NumaNode>,
    pub(super) cores: Vec<Core>,
    pub(super) caches: Vec<Cache>,
}

/// The topology of this machine, reduced to what is `allowed`.
pub(super) fn topology(allowed: &Allowed) -> Result<Topology, HardwareError> {
    let hwloc = Hwloc::new().map_err(|error| HardwareError::Topology(error.to_string()))?;
    let topology = read(&hwloc, allowed);
    if topology.cores.is_empty() {
        return Err(HardwareError::NoCpu { allowed: allowed.cpus.iter().copied().collect() });
    }
    Ok(topology)
}

fn read(hwloc: &Hwloc, allowed: &Allowed) -> Topology {
    let cpus = |object: &TopologyObject| cpus(object, &allowed.cpus);

    let mut numa_nodes: Vec<_> = hwloc
        .objects_with_type(ObjectType::NUMANode)
        .filter_map(|node| {
            let os_index = os_index(node)?;
            let memory_bytes = match node.attributes() {
                Some(ObjectAttributes::NUMANode(node)) if allowed.memory_nodes.contains(&os_index) => {
                    node.local_memory().map_or(0, std::num::NonZeroU64::get)
                }
                _ => 0,
            };
            Some(NumaNode { os_index, memory_bytes, cpus: cpus(node), huge_pages: Vec::new() })
        })
        .filter(|node| node.memory_bytes > 0 || !node.cpus.is_empty())
        .collect();
    numa_nodes.sort_by_key(|node| node.os_index);

    // Machines that do not tell about cores have processing units all the same.
    let mut objects: Vec<_> = hwloc.objects_with_type(ObjectType::Core).collect();
    if objects.is_empty() {
        objects = hwloc.objects_with_type(ObjectType::PU).collect();
    }
    let cores = objects
        .into_iter()
        .filter_map(|object| {
            let cpus = cpus(object);
            let first = *cpus.first()?;
            // The lowest of the nodes that hold it: where nodes share CPUs, plain memory comes before special kinds.
            let node = numa_nodes.iter().find(|node| node.cpus.contains(&first));
            Some(Core {
                id: u32::try_from(object.logical_index()).ok()?,
                package: object.first_ancestor_with_type(ObjectType::Package).and_then(os_index).unwrap_or(0),
                numa_node: node.map_or(0, |node| node.os_index),
                cpus,
            })
        })
        .collect::<Vec<_>>();

    let used: BTreeSet<u32> = cores.iter().map(|core| core.package).collect();
    let mut packages: Vec<_> = hwloc
        .objects_with_type(ObjectType::Package)
        .filter_map(|package| {
            let model = package.info("CPUModel").map(|model| model.to_string_lossy().trim().to_owned());
            Some(Package { id: os_index(package)?, model: model.unwrap_or_default() })
        })
        .filter(|package| used.contains(&package.id))
        .collect();
    packages.sort_by_key(|package| package.id);

    Topology { packages, numa_nodes, cores, caches: caches(hwloc, &allowed.cpus) }
}

fn caches(hwloc: &Hwloc, allowed: &BTreeSet<u32>) -> Vec<Cache> {
    let types = [
        ObjectType::L1Cache,
        ObjectType::L1ICache,
        ObjectType::L2Cache,
        ObjectType::L2ICache,
        ObjectType::L3Cache,
        ObjectType::L3ICache,
        ObjectType::L4Cache,
    ];
    let objects = types.into_iter().flat_map(|kind| hwloc.objects_with_type(kind));
    let caches = objects.filter_map(|object| {
        let Some(ObjectAttributes::Cache(cache)) = object.attributes() else { return None };
        let kind = match cache.cache_type() {
            CacheType::Data => CacheKind::Data,
            CacheType::Instruction => CacheKind::Instruction,
            _ => CacheKind::Unified,
        };
        Some(Cache {
            level: u32::try_from(cache.depth()).ok()?,
            bytes: cache.size()?.get(),
            kind,
            cpus: cpus(object, allowed),
        })
    });
    caches.filter(|cache| !cache.cpus.is_empty()).collect()
}

fn cpus(object: &TopologyObject, allowed: &BTreeSet<u32>) -> Vec<u32> {
    // Asked per allowed CPU, because a set of hwloc's may be infinite.
    let Some(set) = object.cpuset() else { return Vec::new() };
    allowed.iter().copied().filter(|cpu| usize::try_from(*cpu).is_ok_and(|cpu| set.is_set(cpu))).collect()
}

fn os_index(object: &TopologyObject) -> Option<u32> {
    object.os_index().and_then(|index| u32::try_from(index).ok())
}
