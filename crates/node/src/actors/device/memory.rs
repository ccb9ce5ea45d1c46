//! Whether a GPU's memory holds a device's models twice. Pure.

use sensorium_device::backend::cuda::GpuSetup;
use sensorium_device::protocol::LaneReport;

/// Whether a second worker's models fit the lanes' quotas beside the first one's, as these were measured at load. Always on
/// a processor, which has no quotas.
///
/// # Errors
/// The first lane where they do not, in a sentence that says what to do.
pub(super) fn fits_twice(gpu: Option<&GpuSetup>, serving: &[LaneReport]) -> Result<(), String> {
    let Some(gpu) = gpu else { return Ok(()) };
    for lane in serving {
        let taken = lane.models.iter().filter_map(|model| Some(model.outcome.as_ref().ok()?.profile.arena_bytes));
        let taken_bytes: u64 = taken.fold(0, u64::saturating_add);
        let quota_bytes = gpu.quotas.bytes(lane.modality, gpu.memory_bytes);
        if taken_bytes.saturating_mul(2) > quota_bytes {
            return Err(format!(
                "the {} lane's models take {} MiB, and twice that is over its quota of {} MiB; raise gpu_quota_mib, load \
                 fewer models, or leave standby_workers at \"none\"",
                lane.modality.name(),
                taken_bytes >> 20,
                quota_bytes >> 20
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sensorium_device::backend::cuda::GpuQuotas;
    use sensorium_device::protocol::{Measured, ModelReport, PlacementReport};
    use sensorium_models::ServiceProfile;
    use sensorium_wire::Modality;

    use super::*;

    fn lane(modality: Modality, mib: &[u64]) -> LaneReport {
        let model = |mib: &u64| ModelReport {
            name: "model".to_owned(),
            version: 1,
            load_ms: 1,
            outcome: Ok(Measured {
                variant: "fp32".to_owned(),
                profile: ServiceProfile { batches: Vec::new(), arena_bytes: *mib << 20 },
            }),
            note: None,
            placement: PlacementReport::default(),
        };
        LaneReport { modality, models: mib.iter().map(model).collect() }
    }

    #[test]
    fn both_workers_share_a_lanes_quota() {
        let quotas = GpuQuotas { visual: 1000, audio: 100, fusion: 100 };
        let gpu = GpuSetup { uuid: "GPU-1".to_owned(), quotas, ..GpuSetup::first(80 << 30) };
        let fits = |lanes: &[LaneReport]| fits_twice(Some(&gpu), lanes);
        assert_eq!(fits(&[lane(Modality::Visual, &[300, 200]), lane(Modality::Audio, &[50])]), Ok(()));
        let refused = fits(&[lane(Modality::Visual, &[300, 200]), lane(Modality::Audio, &[30, 21])]).unwrap_err();
        assert!(refused.starts_with("the audio lane's models take 51 MiB") && refused.contains("100 MiB"), "{refused}");
        assert!(!refused.contains('\n') && !refused.contains("  "), "{refused}");
        assert_eq!(fits_twice(None, &[lane(Modality::Audio, &[1 << 20])]), Ok(()), "a processor has no quotas");
    }
}
