//! What was learned about service times, kept from worker to worker and across restarts of the node.

use std::path::Path;

use sensorium_device::protocol::Measured;
use sensorium_models::manifest::Precision;
use sensorium_models::profile::ServiceProfile;
use sensorium_scheduler::Learned;
use serde::{Deserialize, Serialize};

use super::{Core, Engine, LaneModel, ModelInfo};

/// Models and devices that are remembered; of more, those that were not seen for longest are forgotten.
const KEPT_MAX: usize = 1024;

/// One model on one device.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    device: String,
    model: String,
    version: u32,
    /// What of it ran. Files of nodes before there were variants have none.
    #[serde(default = "single")]
    variant: String,
    /// What was measured at load. What was learned is relative to it, so it is kept with it.
    profile: ServiceProfile,
    learned: Learned,
}

fn single() -> String {
    Precision::Fp32.name().to_owned()
}

/// All that is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LearnedTimes {
    kept: Vec<Kept>,
}

impl LearnedTimes {
    /// Reads what an earlier run of the node kept. A file that is missing or not to be understood is the same as none:
    /// everything in it can be measured again.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let Ok(text) = std::fs::read(path) else { return Self::default() };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "service times of the last run are not readable; measuring again");
            Self::default()
        })
    }

    /// Writes it for the next run: to a new file, which then takes the place of the old one.
    pub fn write(&self, path: &Path) {
        let written = serde_json::to_vec(self).map_err(std::io::Error::from).and_then(|json| {
            let new = path.with_extension("new");
            std::fs::write(&new, json)?;
            std::fs::rename(&new, path)
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "service times not kept");
        }
    }

    /// The profile on which an earlier run built what it learned, and of what of the model.
    #[must_use]
    pub fn measured(&self, device: &str, model: &str, version: u32) -> Option<Measured> {
        let kept = self.kept.iter().find(|kept| kept.is(device, model, version))?;
        Some(Measured { variant: kept.variant.clone(), profile: kept.profile.clone() })
    }

    /// What is known of a model, if it was learned on this profile.
    pub(super) fn find(&self, device: &str, info: &ModelInfo, model: &LaneModel) -> Learned {
        let same = |kept: &&Kept| {
            kept.is(device, &info.name, info.version)
                && kept.variant == model.variant.as_str()
                && kept.profile == model.profile
        };
        let kept = self.kept.iter().find(same);
        kept.map(|kept| kept.learned.clone()).unwrap_or_default()
    }

    fn keep(&mut self, new: Kept) {
        self.kept.retain(|kept| !(kept.device == new.device && kept.model == new.model));
        self.kept.push(new);
        if self.kept.len() > KEPT_MAX {
            self.kept.remove(0);
        }
    }
}

impl Kept {
    fn is(&self, device: &str, model: &str, version: u32) -> bool {
        self.device == device && self.model == model && self.version == version
    }
}

impl Engine {
    /// Notes what the open lanes have learned.
    pub(super) fn keep_learned(&self, core: &mut Core) {
        for (lane, link) in &core.lanes {
            for (key, learned) in core.scheduler.learned(*lane) {
                let model = link.models.iter().find(|model| model.key == key);
                if let (Some(model), Some(info)) = (model, self.models.get(key)) {
                    core.learned.keep(Kept {
                        device: link.device_name.to_string(),
                        model: info.name.clone(),
                        version: info.version,
                        variant: model.variant.to_string(),
                        profile: model.profile.clone(),
                        learned,
                    });
                }
            }
        }
    }

    /// Everything learned so far, for the next run of the node.
    pub fn learned(&self) -> LearnedTimes {
        let mut core = self.core.lock();
        self.keep_learned(&mut core);
        core.learned.clone()
    }
}
