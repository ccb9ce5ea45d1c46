//! What counts less and less with time.

/// Offered work counts less and less over this time, in nanoseconds.
pub(crate) const MEMORY_NS: u64 = 1_000_000_000;

/// What is left of an amount after so long.
pub(crate) fn decayed(amount_ns: u64, elapsed_ns: u64) -> u64 {
    let left = u128::from(amount_ns) * u128::from(MEMORY_NS.saturating_sub(elapsed_ns)) / u128::from(MEMORY_NS);
    u64::try_from(left).unwrap_or(u64::MAX)
}
