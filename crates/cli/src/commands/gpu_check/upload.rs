//! Whether payload memory can be pinned, what that costs, and how fast it goes to the GPU.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use sensorium_device::backend::cuda::upload_bytes_per_second;
use sensorium_device::slab::{SharedMemory, default_classes};

use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

const COPY_BYTES: usize = 32 << 20;
const COPIES: u32 = 128;
/// Share of the link's raw rate that copies must reach: heads of packets take about a tenth of it.
const LINK_SHARE_MIN: f64 = 0.75;
const GIGA: f64 = 1e9;

pub(crate) fn run(_: &Paths, target: &Target, _: &Path) -> anyhow::Result<Finding> {
    let device = target.open()?.gpu.context("only a GPU has a link")?;
    let bytes = default_classes().iter().map(|class| class.slot_bytes * u64::from(class.slots)).sum();
    let memory = Arc::new(SharedMemory::create(bytes)?);
    let began = Instant::now();
    let pinned = device.register(memory)?;
    let mut finding = Finding::default();
    finding.note("register_ms", began.elapsed().as_secs_f64() * 1e3);
    finding.note("registered_mib", bytes >> 20);
    let rate = upload_bytes_per_second(&device, &pinned, COPY_BYTES, COPIES)?;
    finding.note("upload_gb_per_s", rate / GIGA);
    // Asked after the copies: an idle GPU slows its link down.
    let link = target.gpu.as_ref().and_then(|gpu| sensorium_hardware::pcie_link(&gpu.uuid));
    if let Some(link) = link {
        finding.note("pcie_generation", link.generation);
        finding.note("pcie_width", link.width);
    }
    match link.and_then(sensorium_hardware::PcieLink::bytes_per_second) {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for display")]
        Some(raw) => {
            let share = rate / raw as f64;
            finding.note("share_of_raw_link", share);
            finding.expect(share >= LINK_SHARE_MIN, || {
                format!("{share:.2} of the link's raw rate; at least {LINK_SHARE_MIN} is expected")
            });
        }
        None => finding.note("link", "not told by NVML, as for slices and virtual machines: nothing to compare with"),
    }
    Ok(finding)
}
