//! Whether a GPU is fit to be used: readings in, a verdict out. Pure.

use serde::{Deserialize, Serialize};

/// Looks in a row without an answer after which a GPU is taken for bad.
const SILENT_LOOKS_MAX: u32 = 3;
/// Driver reports (Xid) after which the GPU, and not only the program that used it, is in doubt: uncorrectable memory errors
/// (48, 95, 140), a row that could not be remapped (64), faults of the GPU's own controllers (61, 62, 119, 120), of its
/// links (74), and a GPU that has left the bus (79). Source: NVIDIA, "Xid Errors".
///
/// Others (13, 31, 43, 45, 94) concern one process, and end it or do not.
const FATAL_XIDS: [u64; 10] = [48, 61, 62, 64, 74, 79, 95, 119, 120, 140];
/// Most reports that one reading carries.
pub const XIDS_MAX: usize = 16;

/// What a GPU says of itself. What it does not tell is `None`, as with slices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuSample {
    /// Share of the last moments in which something ran.
    pub busy_percent: Option<u32>,
    pub memory_used_bytes: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub temperature_c: Option<u32>,
    pub power_mw: Option<u32>,
    /// Why its clock is held down, in words; empty = it is not.
    pub slowed_by: Vec<String>,
    /// Uncorrectable memory errors since the driver was loaded.
    pub uncorrectable_errors: Option<u64>,
    /// Reports of the driver since the last reading.
    pub xids: Vec<u64>,
}

/// One look at a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    Sample(GpuSample),
    /// It is not on the bus any more.
    Lost,
    /// The driver does not answer, and what it says instead.
    Silent(String),
}

/// Whether a GPU may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy,
    /// Not now, and why.
    Bad(String),
}

/// Judges the readings of one GPU, one after the other.
#[derive(Clone, Debug, Default)]
pub struct HealthJudge {
    uncorrectable_errors: Option<u64>,
    silent_looks: u32,
}

impl HealthJudge {
    /// A GPU that is lost or silent stays bad until it answers again. A memory error or a report counts once, at the reading
    /// that brings it: whoever uses the GPU then starts afresh.
    pub fn judge(&mut self, reading: &Reading) -> Health {
        let sample = match reading {
            Reading::Lost => return Health::Bad("it has left the bus".to_owned()),
            Reading::Silent(why) => {
                self.silent_looks = self.silent_looks.saturating_add(1);
                if self.silent_looks < SILENT_LOOKS_MAX {
                    return Health::Healthy;
                }
                return Health::Bad(format!("the driver does not answer for it: {why}"));
            }
            Reading::Sample(sample) => sample,
        };
        self.silent_looks = 0;
        let before = self.uncorrectable_errors;
        self.uncorrectable_errors = sample.uncorrectable_errors.or(before);
        // Errors from before the first look are history; a driver that was loaded anew counts from 0.
        if let (Some(before), Some(now)) = (before, sample.uncorrectable_errors)
            && now > before
        {
            return Health::Bad(format!("{} uncorrectable memory errors", now - before));
        }
        match sample.xids.iter().find(|xid| FATAL_XIDS.contains(xid)) {
            Some(xid) => Health::Bad(format!("the driver reports Xid {xid}")),
            None => Health::Healthy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(readings: &[Reading]) -> String {
        let mut judge = HealthJudge::default();
        let mark = |health: Health| if health == Health::Healthy { '.' } else { 'B' };
        readings.iter().map(|reading| mark(judge.judge(reading))).collect()
    }

    fn errors(uncorrectable_errors: Option<u64>) -> Reading {
        Reading::Sample(GpuSample { uncorrectable_errors, ..GpuSample::default() })
    }

    fn xids(xids: &[u64]) -> Reading {
        Reading::Sample(GpuSample { xids: xids.to_vec(), ..GpuSample::default() })
    }

    #[test]
    fn new_memory_errors_count_and_old_ones_do_not() {
        assert_eq!(verdicts(&[errors(Some(7)), errors(Some(7)), errors(Some(8)), errors(Some(8))]), "..B.");
        assert_eq!(verdicts(&[errors(Some(7)), errors(None), errors(Some(9))]), "..B", "a gap hides nothing");
        assert_eq!(verdicts(&[errors(Some(7)), errors(Some(0)), errors(Some(1))]), "..B", "counted from a new driver");
        assert_eq!(verdicts(&[errors(None), errors(Some(5))]), "..", "the first count is history");
    }

    #[test]
    fn reports_about_the_gpu_count_and_those_about_a_process_do_not() {
        assert_eq!(verdicts(&[xids(&[13]), xids(&[31, 43, 45]), xids(&[94]), xids(&[])]), "....");
        assert_eq!(verdicts(&[xids(&[31, 79]), xids(&[]), xids(&[48])]), "B.B");
        for xid in FATAL_XIDS {
            let Health::Bad(reason) = HealthJudge::default().judge(&xids(&[xid])) else { panic!("{xid}") };
            assert!(reason.contains(&xid.to_string()), "{reason}");
        }
    }

    #[test]
    fn a_driver_that_stumbles_is_forgiven_and_one_that_is_gone_is_not() {
        let silent = || Reading::Silent("timeout".to_owned());
        let well = || Reading::Sample(GpuSample::default());
        assert_eq!(verdicts(&[silent(), silent(), well(), silent(), silent()]), ".....");
        assert_eq!(verdicts(&[silent(), silent(), silent(), silent(), well()]), "..BB.");
        assert_eq!(verdicts(&[well(), Reading::Lost, Reading::Lost, well()]), ".BB.");
    }
}
