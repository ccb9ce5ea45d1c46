//! How long several things together take, and how sure that is.

/// A sum of times and of their spreads. Spreads add up as they are, not as the root of their squares: a device that is
/// slow for one batch is slow for the next, because what slows it (heat, a neighbour on the same cores) lasts longer than
/// a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prediction {
    pub(crate) expected_ns: u64,
    spread_ns: u64,
}

impl Prediction {
    pub(crate) fn add(&mut self, expected_ns: u64, spread_ns: u64) {
        self.expected_ns = self.expected_ns.saturating_add(expected_ns);
        self.spread_ns = self.spread_ns.saturating_add(spread_ns);
    }

    /// So many things of the same spread.
    pub(crate) fn add_spreads(&mut self, count: usize, spread_ns: u64) {
        self.spread_ns = self.spread_ns.saturating_add(spread_ns.saturating_mul(count as u64));
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.add(other.expected_ns, other.spread_ns);
    }

    /// It takes at least so long.
    pub(crate) fn at_least(&mut self, ns: u64) {
        self.expected_ns = self.expected_ns.max(ns);
    }

    /// Lengthens it by `numerator / denominator`, if that is more than one.
    pub(crate) fn stretch(&mut self, numerator: u64, denominator: u64) {
        if numerator > denominator && denominator > 0 {
            let stretched = |ns: u64| {
                let ns = u128::from(ns) * u128::from(numerator) / u128::from(denominator);
                u64::try_from(ns).unwrap_or(u64::MAX)
            };
            self.expected_ns = stretched(self.expected_ns);
            self.spread_ns = stretched(self.spread_ns);
        }
    }

    /// When it will be over even in a bad spell, with no more than `margin_ns_max` beyond what is expected.
    pub(crate) fn sure_within_ns(&self, margin_ns_max: u64) -> u64 {
        self.expected_ns.saturating_add(self.spread_ns.min(margin_ns_max))
    }

    /// The same without a bound on the margin.
    pub(crate) fn sure_ns(&self) -> u64 {
        self.sure_within_ns(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spreads_add_up() {
        let mut prediction = Prediction::default();
        prediction.add(100, 3);
        prediction.add(100, 4);
        prediction.add_spreads(2, 5);
        assert_eq!(prediction.sure_ns(), 217);
        assert_eq!(prediction.sure_within_ns(10), 210);
        prediction.stretch(2000, 1000);
        assert_eq!(prediction.sure_ns(), 434);
        prediction.stretch(500, 1000);
        assert_eq!(prediction.sure_ns(), 434, "never shorter");
        prediction.at_least(1_000);
        assert_eq!(prediction.sure_ns(), 1_034);
        prediction.add(u64::MAX, u64::MAX);
        assert_eq!(prediction.sure_ns(), u64::MAX);
    }
}
