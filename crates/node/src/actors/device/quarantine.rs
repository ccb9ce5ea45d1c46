//! A device out of service because its GPU went bad: its workers are killed, and none is started until the GPU is well.

use std::time::Duration;

use ractor::ActorRef;
use sensorium_device::clock::now_ns;
use sensorium_hardware::Health;

use super::place::{Place, Stage};
use super::{DeviceMessage, DeviceRun, FIRST};
use crate::restart::Verdict;

/// See the module.
pub(super) struct Quarantine {
    pub(super) reason: String,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Bad,
    /// The GPU is well, and the next worker was ordered.
    Leaving,
    /// It went bad too often: nothing leaves this.
    GivenUp,
}

impl DeviceRun {
    /// Takes the device out of service when its GPU goes bad, and back when the GPU is well and the workers gone. A worker
    /// that loads its models and runs a made-up job of each is the test that it passes before jobs come again.
    pub(super) fn healed_or_not(&mut self, me: &ActorRef<DeviceMessage>, health: Health) {
        let device = self.args.device.0;
        let is_empty = self.places.iter().all(Place::is_free);
        match (health, &mut self.quarantine) {
            (Health::Healthy, None) => {}
            (Health::Bad(reason), None) => {
                tracing::error!(device = self.args.setup.device, reason, "taken out of service");
                self.args.board.quarantine(device, &reason);
                self.args.board.blame(device, &format!("taken out of service: {reason}"));
                self.quarantine = Some(Quarantine { reason, standing: Standing::Bad });
                self.places.iter_mut().for_each(Place::kill);
            }
            (Health::Bad(_), Some(quarantine)) if quarantine.standing == Standing::GivenUp => {}
            // It went bad again before the next worker was started.
            (Health::Bad(reason), Some(quarantine)) => {
                *quarantine = Quarantine { reason, standing: Standing::Bad };
            }
            (Health::Healthy, Some(quarantine)) if is_empty && quarantine.standing == Standing::Bad => {
                let Verdict::RestartAfter { wait_ms } = self.gpu_history.failed(now_ns() / 1_000_000) else {
                    let reason = format!("went bad too often; the last time: {}", quarantine.reason);
                    tracing::error!(device = self.args.setup.device, reason, "given up");
                    quarantine.standing = Standing::GivenUp;
                    return self.args.board.give_up(device, &reason);
                };
                quarantine.standing = Standing::Leaving;
                tracing::warn!(device = self.args.setup.device, wait_ms, "well again; starting a worker");
                self.places.iter_mut().for_each(|place| place.stage.no_start_is_coming());
                self.places[FIRST].stage = Stage::Resting;
                me.send_after(Duration::from_millis(wait_ms), || DeviceMessage::Start(FIRST));
            }
            (Health::Healthy, Some(_)) => {}
        }
    }

    /// Whether a worker may be started now; ends the quarantine of a device that is well again.
    pub(super) fn may_start(&mut self) -> bool {
        match &self.quarantine {
            None => true,
            Some(quarantine) if quarantine.standing == Standing::Leaving => {
                self.quarantine = None;
                self.args.board.released(self.args.device.0);
                true
            }
            Some(_) => false,
        }
    }
}

impl Stage {
    /// A `Start` for this place came, or never will.
    pub(super) fn no_start_is_coming(&mut self) {
        if matches!(self, Self::Resting) {
            *self = Self::Empty;
        }
    }
}
