//! Which share of which device belongs to which modality, and how that follows the load.

use sensorium_wire::Modality;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::DeviceId;

/// A whole device, in the unit of shares.
pub const SHARE_PERMILLE_MAX: u16 = 1000;
/// What "cpu" in the table weighs beside whole devices where there is nothing but CPU devices.
const CPU_PARTS: f64 = 0.25;

/// What a device is, as far as plans care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A GPU or a part of one.
    Accelerator,
    /// Processor cores.
    Cpu,
}

/// Shares in force. Going from one plan to the next loses nothing: what was committed ends, what is queued stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Rises with every change, from 1.
    pub epoch: u64,
    /// Which level of the policy this is; 0 = the lowest.
    pub level: u8,
    /// By device number.
    pub devices: Vec<(DeviceId, Shares)>,
}

/// Shares of one device by modality (visual, audio, fusion), in thousandths; at most 1,000 together. A modality with 0
/// gets nothing new on this device as long as another device has a share for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares(pub [u16; 3]);

impl Default for Shares {
    fn default() -> Self {
        Self([334, 333, 333])
    }
}

impl Shares {
    #[must_use]
    pub fn of(self, modality: Modality) -> u16 {
        self.0[modality as usize]
    }
}

/// How shares follow the load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanPolicy {
    /// `table`: the rows below by intensity. `proportional`: shares follow the offered work. `fixed`: the first row.
    /// Default table.
    pub kind: PolicyKind,
    /// From the most intense to the calmest; the last one has neither condition. Default: the table of the design.
    pub rows: Vec<PlanRow>,
    /// An intensity must fall this far below a row's bound before the row is left, in thousandths. Default 100.
    pub hysteresis_permille: u32,
    /// Shortest time between two changes downwards, in milliseconds; upwards is at once. Default 2,000.
    pub dwell_ms: u32,
}

/// Names of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyKind {
    Table,
    Proportional,
    Fixed,
}

/// One row: when it holds and what each modality gets, in devices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRow {
    /// Holds above this intensity of any modality, in thousandths. None = does not depend on it.
    #[serde(default)]
    pub intensity_above_permille: Option<u32>,
    /// Holds in a critical moment.
    #[serde(default)]
    pub critical_moment: bool,
    pub visual: Amount,
    pub audio: Amount,
    pub fusion: Amount,
}

/// How many devices: a number, or "cpu".
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    Devices(f64),
    Cpu(OnCpu),
}

/// The word "cpu".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCpu {
    Cpu,
}

impl Default for PlanPolicy {
    fn default() -> Self {
        let devices = Amount::Devices;
        let cpu = Amount::Cpu(OnCpu::Cpu);
        let row = |intensity_above_permille, critical_moment, visual, audio, fusion| PlanRow {
            intensity_above_permille,
            critical_moment,
            visual,
            audio,
            fusion,
        };
        Self {
            kind: PolicyKind::Table,
            rows: vec![
                row(Some(900), true, devices(2.0), devices(1.0), cpu),
                row(Some(700), false, devices(1.0), devices(0.5), devices(0.5)),
                row(None, false, devices(1.0), cpu, cpu),
            ],
            hysteresis_permille: 100,
            dwell_ms: 2_000,
        }
    }
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PolicyError {
    #[error("share_min_permille: {together} thousandths together; at most 900 may be promised")]
    ClassShares { together: u32 },
    #[error("plan.rows: at least one row is needed, and at most 16 are taken")]
    Rows,
    #[error("plan.rows[{row}].{modality}: {amount} devices; 0 to 1000 are expected")]
    Amount { row: usize, modality: &'static str, amount: f64 },
    #[error("plan.rows[{row}]: gives nothing to any modality")]
    Nothing { row: usize },
    #[error("plan.rows[{row}]: {bound} is not below the bound of the row before; rows go from the most intense down")]
    Order { row: usize, bound: u32 },
    #[error("plan.rows[{row}]: the last row must hold always, without intensity_above_permille or critical_moment")]
    LastRow { row: usize },
    #[error("plan.rows[{row}]: only the last row may hold always")]
    Unreachable { row: usize },
}

/// Most rows in a table.
const ROWS_MAX: usize = 16;

impl PlanPolicy {
    /// # Errors
    /// What makes no sense, by row.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.rows.is_empty() || self.rows.len() > ROWS_MAX {
            return Err(PolicyError::Rows);
        }
        let last = self.rows.len() - 1;
        let mut bound = u32::MAX;
        for (row, entry) in self.rows.iter().enumerate() {
            entry.check(row)?;
            let always = entry.intensity_above_permille.is_none() && !entry.critical_moment;
            if row == last && !always {
                return Err(PolicyError::LastRow { row });
            }
            if row < last && always {
                return Err(PolicyError::Unreachable { row });
            }
            if let Some(above) = entry.intensity_above_permille {
                if above >= bound {
                    return Err(PolicyError::Order { row, bound: above });
                }
                bound = above;
            }
        }
        Ok(())
    }
}

impl PlanRow {
    fn check(&self, row: usize) -> Result<(), PolicyError> {
        let mut total = 0.0;
        for modality in Modality::ALL {
            let parts = self.amount(modality).parts();
            if !(0.0..=1000.0).contains(&parts) {
                return Err(PolicyError::Amount { row, modality: modality.name(), amount: parts });
            }
            total += parts;
        }
        if total > 0.0 { Ok(()) } else { Err(PolicyError::Nothing { row }) }
    }

    pub(crate) fn amount(&self, modality: Modality) -> Amount {
        match modality {
            Modality::Visual => self.visual,
            Modality::Audio => self.audio,
            Modality::Fusion => self.fusion,
        }
    }
}

impl Amount {
    /// Weight where there is nothing but CPU devices.
    pub(crate) fn parts(self) -> f64 {
        match self {
            Self::Devices(devices) => devices,
            Self::Cpu(OnCpu::Cpu) => CPU_PARTS,
        }
    }
}

/// Shares of a CPU device where there are no accelerators: the row's proportions.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "parts of a whole, in thousandths; a policy is checked to give something to somebody"
)]
pub(crate) fn split_cpus(amounts: [Amount; 3]) -> Shares {
    let total: f64 = amounts.iter().map(|amount| amount.parts()).sum();
    Shares(amounts.map(|amount| (amount.parts() / total * f64::from(SHARE_PERMILLE_MAX)).floor() as u16))
}
