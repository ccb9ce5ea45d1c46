//! Holds back a stream that comes faster than it happens, such as a film on a web server.
//!
//! A live stream is ahead of itself only by what its server had stored. Its clock may run a little faster than this
//! machine's; that is followed, and is not taken for being ahead.

/// How far a stream may be ahead, in milliseconds: some segments of what is served in segments.
const AHEAD_MS_MAX: i64 = 5_000;
/// By how much the clock of a source may be too fast, as one millisecond in so many.
const DRIFT_MS: i64 = 1_000;

/// See the module. All times are milliseconds since the stream was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// The least that the stream has been ahead, risen by the drift since.
    floor_ms: Option<i64>,
    risen_ms: i64,
}

impl Pace {
    /// How long to wait before what the stream dates `t_ms` is looked at.
    pub(super) fn wait_ms(&mut self, elapsed_ms: u64, t_ms: u64) -> u64 {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX / 4);
        let (elapsed_ms, ahead_ms) = (signed(elapsed_ms), signed(t_ms).saturating_sub(signed(elapsed_ms)));
        let risen_ms = elapsed_ms / DRIFT_MS;
        let floor_ms = self.floor_ms.map_or(ahead_ms, |floor_ms| floor_ms + (risen_ms - self.risen_ms));
        let floor_ms = floor_ms.min(ahead_ms);
        (self.floor_ms, self.risen_ms) = (Some(floor_ms), risen_ms);
        u64::try_from(ahead_ms.saturating_sub(floor_ms).saturating_sub(AHEAD_MS_MAX)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_film_is_held_back_to_its_own_speed() {
        let (mut pace, mut now_ms) = (Pace::default(), 0);
        for t_ms in (0..600_000).step_by(40) {
            now_ms += pace.wait_ms(now_ms, t_ms) + 1;
        }
        assert!((590_000..596_000).contains(&now_ms), "{now_ms}");
    }

    #[test]
    fn a_live_stream_waits_never_also_with_bursts_and_a_fast_clock() {
        let mut pace = Pace::default();
        // Ten hours at 200 ppm too fast, in bursts of two seconds.
        for burst in 0..18_000_u64 {
            let now_ms = burst * 2_000;
            for frame in 0..5 {
                let t_ms = (now_ms + frame * 400) * 10_002 / 10_000;
                assert_eq!(pace.wait_ms(now_ms, t_ms), 0, "after {now_ms} ms");
            }
        }
        assert_eq!(pace.wait_ms(1, u64::MAX), pace.wait_ms(1, u64::MAX), "absurd times do not overflow");
    }
}
