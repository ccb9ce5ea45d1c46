//! From a sensor's capture times to the session's clock.
//!
//! A sensor counts nanoseconds of a clock of its own. Its times may jitter, have holes (frames that were lost) and jump
//! (the device restarted, or its clock was set). The session's time only ever goes forward: a hole moves it by as much as
//! the sensor says, a jump starts a new mapping. No two clocks are subtracted from each other, except that the caller's
//! monotonic clock may say how long a jump took.

use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckpointError, Reader, Writer};

const KIND: [u8; 4] = *b"SCLK";
const VERSION: u16 = 1;
const NS_PER_MS: u64 = 1_000_000;

/// What counts as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockSettings {
    /// A capture time may lie this much before the latest, in milliseconds; it then counts as the latest. Default 100.
    pub jitter_ms_max: u64,
    /// A step forward of more than this is reported as a gap, in milliseconds. Default 1,000.
    pub gap_ms_min: u64,
    /// A step forward of more than this is a jump of the sensor's clock, in milliseconds. Default 60,000.
    pub jump_ms_min: u64,
}

impl Default for ClockSettings {
    fn default() -> Self {
        Self { jitter_ms_max: 100, gap_ms_min: 1_000, jump_ms_min: 60_000 }
    }
}

/// How a capture time follows the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// The first one.
    First,
    Steady,
    /// Nothing was captured between the two session times.
    Gap {
        from_ms: u64,
        to_ms: u64,
    },
    /// The sensor's clock went back or far ahead by this much; the mapping starts anew.
    Jump {
        by_ms: i64,
    },
    /// Another clock; the mapping starts anew.
    NewClock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    clock: u32,
    /// The capture time that is `base_ms` on the session's clock.
    base_ns: i64,
    base_ms: u64,
    latest_ns: i64,
    latest_ms: u64,
    /// When the latest arrived, on the caller's monotonic clock; 0 = not said.
    arrived_ns: u64,
}

/// Maps the capture times of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamClock {
    settings: ClockSettings,
    origin_ms: u64,
    mapping: Option<Mapping>,
}

impl StreamClock {
    /// `origin_ms` is the session's time of the first capture: 0 for the session's first stream.
    #[must_use]
    pub const fn new(settings: ClockSettings, origin_ms: u64) -> Self {
        Self { settings, origin_ms, mapping: None }
    }

    /// The session's time of a capture, which never lies before the one returned last. `arrived_ns` is the caller's
    /// monotonic clock, or `None` for sources that are not read at their own speed; it only says how much time a jump
    /// took.
    pub fn map(&mut self, clock: u32, capture_ns: i64, arrived_ns: Option<u64>) -> (u64, Continuity) {
        let arrived_ns = arrived_ns.unwrap_or(0);
        let Some(mapping) = &mut self.mapping else {
            let t_ms = self.origin_ms;
            self.mapping = Some(Mapping {
                clock,
                base_ns: capture_ns,
                base_ms: t_ms,
                latest_ns: capture_ns,
                latest_ms: t_ms,
                arrived_ns,
            });
            return (t_ms, Continuity::First);
        };
        let step_ns = i128::from(capture_ns) - i128::from(mapping.latest_ns);
        let in_ns = |ms: u64| i128::from(ms) * i128::from(NS_PER_MS);
        let jumped = step_ns < -in_ns(self.settings.jitter_ms_max) || step_ns > in_ns(self.settings.jump_ms_min);
        if clock != mapping.clock || jumped {
            let continuity = if clock == mapping.clock {
                Continuity::Jump { by_ms: i64::try_from(step_ns / i128::from(NS_PER_MS)).unwrap_or(i64::MAX) }
            } else {
                Continuity::NewClock
            };
            mapping.restart(clock, capture_ns, arrived_ns);
            return (mapping.latest_ms, continuity);
        }
        let before_ms = mapping.latest_ms;
        // Times are counted from the base, so that rounding to milliseconds does not add up.
        let since_base_ns = u64::try_from(i128::from(capture_ns) - i128::from(mapping.base_ns)).unwrap_or(0);
        mapping.latest_ms = before_ms.max(mapping.base_ms.saturating_add(since_base_ns / NS_PER_MS));
        mapping.latest_ns = mapping.latest_ns.max(capture_ns);
        mapping.arrived_ns = arrived_ns;
        let gap = step_ns > in_ns(self.settings.gap_ms_min);
        let continuity =
            if gap { Continuity::Gap { from_ms: before_ms, to_ms: mapping.latest_ms } } else { Continuity::Steady };
        (mapping.latest_ms, continuity)
    }

    /// The session's time of the latest capture.
    #[must_use]
    pub fn latest_ms(&self) -> Option<u64> {
        self.mapping.map(|mapping| mapping.latest_ms)
    }

    /// The mapping as flat bytes. The arrival time is left out: it is of the old owner's clock.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        let mut writer = Writer::new(KIND, VERSION);
        writer.u64(self.origin_ms);
        writer.bool(self.mapping.is_some());
        if let Some(mapping) = &self.mapping {
            writer.u32(mapping.clock);
            writer.i64(mapping.base_ns);
            writer.u64(mapping.base_ms);
            writer.i64(mapping.latest_ns);
            writer.u64(mapping.latest_ms);
        }
        writer.finish()
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// A [`CheckpointError`] that says what in the bytes is wrong.
    pub fn restore(settings: ClockSettings, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let mut reader = Reader::new(bytes, KIND, VERSION)?;
        let origin_ms = reader.u64("origin")?;
        let mapping = if reader.bool("presence of a mapping")? {
            let mapping = Mapping {
                clock: reader.u32("clock")?,
                base_ns: reader.i64("capture time")?,
                base_ms: reader.u64("session time")?,
                latest_ns: reader.i64("capture time")?,
                latest_ms: reader.u64("session time")?,
                arrived_ns: 0,
            };
            if mapping.latest_ns < mapping.base_ns || mapping.latest_ms < mapping.base_ms {
                return Err(CheckpointError::Invalid { what: "mapping that goes back" });
            }
            Some(mapping)
        } else {
            None
        };
        reader.finish()?;
        Ok(Self { settings, origin_ms, mapping })
    }
}

impl Mapping {
    /// Starts anew after the latest session time, plus what the caller's clock says has passed.
    fn restart(&mut self, clock: u32, capture_ns: i64, arrived_ns: u64) {
        let known = self.arrived_ns > 0 && arrived_ns > 0;
        let passed_ns = if known { arrived_ns.saturating_sub(self.arrived_ns) } else { 0 };
        let t_ms = self.latest_ms.saturating_add(passed_ns / NS_PER_MS);
        *self = Self { clock, base_ns: capture_ns, base_ms: t_ms, latest_ns: capture_ns, latest_ms: t_ms, arrived_ns };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: i64 = 1_000_000;

    fn clock() -> StreamClock {
        StreamClock::new(ClockSettings::default(), 0)
    }

    #[test]
    fn a_steady_source_maps_without_drift() {
        let mut clock = clock();
        assert_eq!(clock.map(1, 7_000 * MS, None), (0, Continuity::First));
        // 30 frames a second: a third of a millisecond is lost in each step if steps are added up.
        for frame in 1..=3_000_i64 {
            let (t_ms, continuity) = clock.map(1, 7_000 * MS + frame * 1_000 * MS / 30, None);
            assert_eq!((t_ms, continuity), (u64::try_from(frame * 1_000 / 30).unwrap(), Continuity::Steady));
        }
    }

    #[test]
    fn jitter_never_turns_time_back() {
        let mut clock = clock();
        clock.map(1, 0, None);
        assert_eq!(clock.map(1, 100 * MS, None).0, 100);
        assert_eq!(clock.map(1, 60 * MS, None), (100, Continuity::Steady));
        assert_eq!(clock.map(1, 140 * MS, None), (140, Continuity::Steady));
    }

    #[test]
    fn a_hole_is_reported_with_its_bounds() {
        let mut clock = clock();
        clock.map(1, 0, None);
        assert_eq!(clock.map(1, 1_000 * MS, None), (1_000, Continuity::Steady));
        assert_eq!(clock.map(1, 4_000 * MS, None), (4_000, Continuity::Gap { from_ms: 1_000, to_ms: 4_000 }));
    }

    #[test]
    fn a_jump_starts_a_new_mapping_after_the_time_that_passed() {
        let mut clock = clock();
        clock.map(1, 0, Some(1_000));
        clock.map(1, 500 * MS, Some(500 * 1_000_000));
        // The clock was set back by an hour; 40 ms passed for us.
        let back = clock.map(1, 500 * MS - 3_600_000 * MS, Some(540 * 1_000_000));
        assert_eq!(back, (540, Continuity::Jump { by_ms: -3_600_000 }));
        assert_eq!(clock.map(1, 600 * MS - 3_600_000 * MS, None), (640, Continuity::Steady));
        let ahead = clock.map(1, 1_000_000 * MS, None);
        assert!(matches!(ahead, (640, Continuity::Jump { by_ms }) if by_ms > 0), "{ahead:?}");
    }

    #[test]
    fn another_clock_starts_a_new_mapping() {
        let mut clock = clock();
        clock.map(1, 0, None);
        clock.map(1, 80 * MS, None);
        assert_eq!(clock.map(2, i64::MIN, None), (80, Continuity::NewClock));
        assert_eq!(clock.map(2, i64::MIN + 20 * MS, None), (100, Continuity::Steady));
    }

    #[test]
    fn a_restored_clock_goes_on() {
        let mut clock = StreamClock::new(ClockSettings::default(), 250);
        let empty = StreamClock::restore(ClockSettings::default(), &clock.checkpoint()).unwrap();
        assert_eq!(empty, clock);
        clock.map(3, 5 * MS, None);
        clock.map(3, 45 * MS, None);
        let mut restored = StreamClock::restore(ClockSettings::default(), &clock.checkpoint()).unwrap();
        assert_eq!(restored.map(3, 85 * MS, None), (330, Continuity::Steady));
    }

    proptest! {
        #[test]
        fn session_time_never_goes_back(
            steps in prop::collection::vec((0..3_u32, any::<i64>(), any::<bool>(), prop::option::of(any::<u64>())), 1..50)
        ) {
            let mut clock = clock();
            let (mut last, mut capture_ns) = (0, 0_i64);
            for (id, number, leap, arrived_ns) in steps {
                capture_ns = if leap { number } else { capture_ns.saturating_add(number % (3_000 * MS)) };
                let (t_ms, _) = clock.map(id, capture_ns, arrived_ns);
                prop_assert!(t_ms >= last);
                last = t_ms;
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..60), headed in any::<bool>()) {
            let bytes = if headed { [&b"SCLK\x01\x00"[..], &tail].concat() } else { tail };
            if let Ok(mut clock) = StreamClock::restore(ClockSettings::default(), &bytes) {
                let _ = clock.map(0, 0, Some(1));
                let _ = clock.map(1, i64::MAX, Some(u64::MAX));
            }
        }
    }
}
