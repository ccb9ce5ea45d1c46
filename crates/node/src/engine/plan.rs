//! The plan in force, for status pages and for those who may say that a moment is critical.

use sensorium_device::clock::now_ns;
use sensorium_scheduler::Event;
use sensorium_wire::Modality;
use serde::Serialize;

use super::Engine;

/// Shares and load.
#[derive(Clone, Debug, Serialize)]
pub struct PlanStatus {
    /// Rises with every change.
    pub epoch: u64,
    /// Row of the policy; 0 = the calmest.
    pub level: u8,
    /// Offered work ÷ what lanes can do on time, by modality.
    pub intensity: Vec<(Modality, f64)>,
    pub devices: Vec<DeviceShares>,
}

/// Shares of one device, 0 to 1.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceShares {
    pub device: String,
    pub visual: f64,
    pub audio: f64,
    pub fusion: f64,
}

impl Engine {
    /// The plan for critical moments is in force for so long from now; 0 ends it.
    pub fn critical_moment(&self, for_ms: u64) {
        let until_ns = now_ns().saturating_add(for_ms.saturating_mul(1_000_000));
        self.edge.critical_until(until_ns);
        let mut core = self.core.lock();
        let _ = self.handle(&mut core, Event::CriticalMoment { until_ns });
    }

    /// The plan now.
    pub fn plan(&self) -> PlanStatus {
        let core = self.core.lock();
        let plan = core.scheduler.plan();
        let intensities = core.scheduler.intensities();
        let devices = plan.devices.iter().map(|(device, shares)| {
            let name = core.lanes.values().find(|lane| lane.device == *device).map(|lane| lane.device_name.to_string());
            let [visual, audio, fusion] = shares.0.map(|share| f64::from(share) / 1000.0);
            DeviceShares { device: name.unwrap_or_else(|| device.0.to_string()), visual, audio, fusion }
        });
        #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
        let intensity = |modality: Modality| (modality, intensities[modality as usize] as f64 / 1000.0);
        PlanStatus {
            epoch: plan.epoch,
            level: plan.level,
            intensity: Modality::ALL.map(intensity).to_vec(),
            devices: devices.collect(),
        }
    }
}
