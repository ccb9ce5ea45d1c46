//! How a GPU is shared by its lanes: memory, priority, batch sizes. Pure.

use sensorium_wire::Modality;
use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;
/// Batch sizes whose launches are recorded.
const ROWS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Most GPU memory that each lane's models may take, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuQuotas {
    /// Default 4096.
    pub visual: u32,
    /// Default 1024.
    pub audio: u32,
    /// Default 2048.
    pub fusion: u32,
}

impl Default for GpuQuotas {
    fn default() -> Self {
        Self { visual: 4096, audio: 1024, fusion: 2048 }
    }
}

impl GpuQuotas {
    /// One lane's quota in bytes on a card where `memory_bytes` may be used: as it stands where all three fit, and in
    /// proportion where they do not.
    #[must_use]
    pub fn bytes(self, modality: Modality, memory_bytes: u64) -> u64 {
        let mib = |share: u32| u64::from(share) * MIB;
        let wanted = mib(match modality {
            Modality::Visual => self.visual,
            Modality::Audio => self.audio,
            Modality::Fusion => self.fusion,
        });
        let all = mib(self.visual) + mib(self.audio) + mib(self.fusion);
        if all <= memory_bytes {
            return wanted;
        }
        let scaled = u128::from(wanted) * u128::from(memory_bytes) / u128::from(all.max(1));
        u64::try_from(scaled).unwrap_or(wanted)
    }
}

/// The priority of a lane's stream between the least (the higher number) and the greatest that the device has: sound
/// first, whose networks are small and whose answers are awaited most, then fusion, then video, which fills the GPU.
///
/// A job's urgency is not in it: that decides in the node which job a lane gets next. A critical job of the audio lane
/// thus also overtakes video on the GPU; a critical visual one waits for the visual batch that runs.
#[must_use]
pub(super) fn priority(modality: Modality, least: i32, greatest: i32) -> i32 {
    match modality {
        Modality::Audio => greatest,
        // Between the two; numbers fall with rising priority.
        Modality::Fusion => least - (least - greatest) / 2,
        Modality::Visual => least,
    }
}

/// The batch sizes to record for a model of at most `rows_max` rows: all up to the first that holds as many.
#[must_use]
pub(super) fn recorded_rows(rows_max: usize) -> &'static [usize] {
    let last = ROWS.iter().position(|rows| *rows >= rows_max).unwrap_or(ROWS.len() - 1);
    &ROWS[..=last]
}

/// The smallest of `recorded` that holds `rows`.
#[must_use]
pub(super) fn filled_up(rows: usize, recorded: &[usize]) -> Option<usize> {
    recorded.iter().copied().find(|size| *size >= rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_shrink_with_the_card_and_never_exceed_it() {
        let quotas = GpuQuotas::default();
        let of = |memory_bytes| Modality::ALL.map(|modality| quotas.bytes(modality, memory_bytes) / MIB);
        assert_eq!(of(80 << 30), [4096, 1024, 2048]);
        assert_eq!(of(7 << 30), [4096, 1024, 2048]);
        assert_eq!(of(7 << 29), [2048, 512, 1024]);
        assert_eq!(of(0), [0, 0, 0]);
        let huge = GpuQuotas { visual: u32::MAX, audio: u32::MAX, fusion: u32::MAX };
        let sum: u64 = Modality::ALL.map(|modality| huge.bytes(modality, 10 << 30)).iter().sum();
        assert!(sum <= 10 << 30 && sum > (10 << 30) - 3, "{sum}");
    }

    #[test]
    fn sound_comes_before_fusion_before_video() {
        for (least, greatest) in [(0, -5), (0, -2), (0, -1), (0, 0)] {
            let [visual, audio, fusion] = Modality::ALL.map(|modality| priority(modality, least, greatest));
            assert!(audio <= fusion && fusion <= visual && (greatest..=least).contains(&fusion), "{least} {greatest}");
        }
        assert_eq!(priority(Modality::Fusion, 0, -5), -2);
    }

    #[test]
    fn batches_are_filled_up_to_the_next_recorded_size() {
        assert_eq!(recorded_rows(1), [1]);
        assert_eq!(recorded_rows(4), [1, 2, 4]);
        assert_eq!(recorded_rows(5), [1, 2, 4, 8]);
        assert_eq!(recorded_rows(32), ROWS);
        assert_eq!(recorded_rows(64), ROWS);
        assert_eq!(filled_up(3, recorded_rows(4)), Some(4));
        assert_eq!(filled_up(1, recorded_rows(4)), Some(1));
        assert_eq!(filled_up(5, recorded_rows(4)), None);
    }
}
