//! Times in one time base and another.

/// Seconds per unit, as a fraction.
pub(super) type TimeBase = (u32, u32);

/// `pts` units of `base` in nanoseconds, rounded down; `None` when that does not fit (292 years).
pub(super) fn nanoseconds(pts: i64, base: TimeBase) -> Option<i64> {
    rescale(pts, base, (1, 1_000_000_000))
}

/// `pts` units of `from` in units of `to`, rounded down; `None` when that does not fit or a fraction is 0.
pub(super) fn rescale(pts: i64, from: TimeBase, to: TimeBase) -> Option<i64> {
    let numerator = i128::from(pts) * i128::from(from.0) * i128::from(to.1);
    let denominator = i128::from(from.1) * i128::from(to.0);
    if denominator == 0 {
        return None;
    }
    i64::try_from(numerator.div_euclid(denominator)).ok()
}

/// The time near `last` whose lowest `bits` bits are `lowest`: the one in the `2^bits` units that begin just under half
/// of that before `last`. `None` when it does not fit.
pub(super) fn complete(lowest: i64, last: i64, bits: u32) -> Option<i64> {
    let mask = (1_i64 << bits) - 1;
    let start = last.checked_sub(mask / 2)?;
    (lowest.wrapping_sub(start) & mask).checked_add(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_down() {
        assert_eq!(nanoseconds(1, (1, 30)), Some(33_333_333));
        assert_eq!(nanoseconds(-1, (1, 30)), Some(-33_333_334));
        assert_eq!(nanoseconds(i64::MAX, (1, 1)), None);
        assert_eq!(nanoseconds(1, (1, 0)), None);
        assert_eq!(rescale(8_192, (1, 81_920), (1, 16_000)), Some(1_600));
    }

    #[test]
    fn low_bits_are_completed_near_the_last_time() {
        assert_eq!(complete(0x10, 0x0100, 7), Some(0x0110));
        assert_eq!(complete(0x7f, 0x0100, 7), Some(0xff));
        assert_eq!(complete(0x00, 0, 7), Some(0));
        assert_eq!(complete(0x7f, 0, 7), Some(-1));
        assert_eq!(complete(5, 99, 0), Some(99));
        for last in -300..300 {
            for lowest in 0..128 {
                let time = complete(lowest, last, 7).unwrap();
                assert_eq!(time & 127, lowest);
                assert!((-63..=64).contains(&(time - last)));
            }
        }
        assert_eq!(complete(0, i64::MIN, 7), None);
    }
}
