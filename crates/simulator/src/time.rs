//! Virtual time: nanoseconds in a `u64`, and how numbers of files become them.

pub(crate) const US: u64 = 1_000;
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// So many of a unit, in nanoseconds. Negative numbers and such that are none count as 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate")]
#[expect(clippy::cast_precision_loss, reason = "units are small")]
pub(crate) fn ns_of(amount: f64, unit_ns: u64) -> u64 {
    (amount * unit_ns as f64).round() as u64
}

/// For arithmetic with chances and factors; exact up to 104 days.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

pub(crate) fn seconds(ns: u64) -> f64 {
    float(ns) / float(SECOND)
}
