//! A group of all GPUs: it comes together, exchanges values that are checked, and survives a member that is killed and one
//! that hangs. On the processor three workers take the GPUs' place.

mod drive;

use std::path::Path;

use sensorium_device::backend::cuda::GpuSetup;
use sensorium_device::group::lifecycle::{Link, Plan, State};
use sensorium_device::group::{GATHERED_VALUES_MAX, RANKS_MAX, VALUES_MAX, nccl};
use sensorium_hardware::DeviceKind;

use self::drive::Drive;
use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

/// Workers on the processor.
const PROCESSOR_RANKS: usize = 3;
/// Values that each member gives, where rates are measured.
const SIZES: [usize; 4] = [1 << 10, 1 << 16, 1 << 20, VALUES_MAX];
const ROUNDS: u32 = 20;
/// Rounds on the processor, whose rates say nothing of a GPU.
const PROCESSOR_ROUNDS: u32 = 2;
const FORM_MS_MAX: u64 = 20_000;
const WAIT_MS_MAX: u64 = 2_000;
/// A link that carries nothing is found by the next exercise.
const PULSE_MS: u64 = 200;
/// No exercise while rates are measured.
const NO_PULSE_MS: u64 = 3_600_000;

pub(crate) fn run(_: &Paths, target: &Target, _: &Path) -> anyhow::Result<Finding> {
    let mut finding = Finding::default();
    let members: Vec<Option<GpuSetup>> = match &target.gpu {
        None => vec![None; PROCESSOR_RANKS],
        Some(_) => match nccl::version() {
            Ok(version) => {
                finding.note("nccl", version);
                gpus()?.into_iter().map(Some).collect()
            }
            Err(error) => {
                finding.note("group", format!("not formed: {error}"));
                return Ok(finding);
            }
        },
    };
    let ranks = u32::try_from(members.len())?;
    finding.note("ranks", ranks);
    if ranks == 0 {
        finding.note("group", "not formed: NCCL does not connect slices of GPUs");
        return Ok(finding);
    }
    if ranks == 1 {
        finding.note("several_ranks", "unproven here: there is one GPU");
    }
    let link = if target.gpu.is_some() { Link::Nccl } else { Link::Host };
    let plan = |pulse_ms| Plan {
        link,
        ranks,
        form_ms_max: FORM_MS_MAX,
        wait_ms_max: WAIT_MS_MAX,
        pulse_ms,
        pulse_values: 1024,
    };
    let mut drive = Drive::start(target, members, plan(NO_PULSE_MS))?;
    drive.until("the group is ready", |drive| drive.state() == State::Ready)?;
    finding.note("formed_ms", drive.formed_ms());
    rates(&mut drive, ranks, target.gpu.is_some(), &mut finding)?;

    drive.restart(plan(PULSE_MS));
    drive.until("the group is ready with exercises", |drive| drive.state() == State::Ready)?;
    let rank = ranks - 1;
    let generation = drive.generation();
    let again = |drive: &Drive<'_>| drive.state() == State::Ready && drive.generation() > generation;
    let began = drive.now_ms();
    drive.kill(rank);
    drive.until("the group notices a killed member", |drive| drive.generation() > generation || !drive.is_ready())?;
    finding.note("killed_noticed_ms", drive.now_ms() - began);
    drive.until("the group is ready after a kill", again)?;
    finding.note("killed_back_ms", drive.now_ms() - began);

    let generation = drive.generation();
    let again = |drive: &Drive<'_>| drive.state() == State::Ready && drive.generation() > generation;
    let began = drive.now_ms();
    let stopped = drive.stop(rank)?;
    drive.until("the group notices a member that hangs", |drive| !drive.is_ready())?;
    let noticed_ms = drive.now_ms() - began;
    finding.note("hung_noticed_ms", noticed_ms);
    stopped.go_on()?;
    drive.until("the group is ready after a hang", again)?;
    finding.note("hung_back_ms", drive.now_ms() - began);
    finding.note("last_reason", drive.last_reason());
    Ok(finding)
}

/// Every GPU of this machine that NCCL connects.
fn gpus() -> anyhow::Result<Vec<GpuSetup>> {
    let inventory = sensorium_hardware::probe()?;
    let plan = sensorium_hardware::plan(&inventory, &sensorium_hardware::PlanOptions::default());
    let of = plan.devices.iter().filter_map(|device| match &device.kind {
        DeviceKind::Cuda { uuid, .. } if !uuid.starts_with("MIG-") => {
            Some(GpuSetup { uuid: uuid.clone(), numa_node: device.numa_node, ..GpuSetup::first(device.memory_bytes) })
        }
        DeviceKind::Cuda { .. } | DeviceKind::Cpu => None,
    });
    Ok(of.take(RANKS_MAX as usize).collect())
}

#[expect(clippy::cast_precision_loss, reason = "rates for display")]
fn rates(drive: &mut Drive<'_>, ranks: u32, is_gpu: bool, finding: &mut Finding) -> anyhow::Result<()> {
    let rounds = if is_gpu { ROUNDS } else { PROCESSOR_ROUNDS };
    for values in SIZES.map(|values| values.min(GATHERED_VALUES_MAX / ranks as usize)) {
        let pulse = drive.measure(u32::try_from(values)?, rounds)?;
        let bytes = (values * size_of::<f32>()) as f64;
        let name = format!("{}_kib", values * size_of::<f32>() / 1024);
        finding.note(format!("broadcast_{name}_us"), pulse.broadcast_us);
        finding.note(format!("all_gather_{name}_us"), pulse.all_gather_us);
        if ranks > 1 {
            // What one member's link carries: the values of the root, and those of all others.
            finding.note(format!("broadcast_{name}_gb_per_s"), bytes / pulse.broadcast_us / 1e3);
            let others = f64::from(ranks - 1);
            finding.note(format!("all_gather_{name}_gb_per_s"), others * bytes / pulse.all_gather_us / 1e3);
        }
    }
    Ok(())
}
