//! How long several things together take, and how sure that is.

/// A sum of times. Their spreads are independent, so they add as the root of their squares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Prediction {
    pub(crate) expected_ns: u64,
    /// Sum of the squares of the spreads.
    variance: f64,
}

impl Prediction {
    pub(crate) fn add(&mut self, expected_ns: u64, spread_ns: u64) {
        self.expected_ns = self.expected_ns.saturating_add(expected_ns);
        self.add_spreads(1, spread_ns);
    }

    /// So many things of the same spread.
    #[expect(clippy::cast_precision_loss, reason = "spreads are predictions; 52 bits are plenty")]
    pub(crate) fn add_spreads(&mut self, count: usize, spread_ns: u64) {
        let spread = spread_ns as f64;
        self.variance += count as f64 * spread * spread;
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.expected_ns = self.expected_ns.saturating_add(other.expected_ns);
        self.variance += other.variance;
    }

    /// Lengthens it by `numerator / denominator`, if that is more than one.
    #[expect(clippy::cast_precision_loss, reason = "factors are small")]
    pub(crate) fn stretch(&mut self, numerator: u64, denominator: u64) {
        if numerator > denominator && denominator > 0 {
            let stretched = u128::from(self.expected_ns) * u128::from(numerator) / u128::from(denominator);
            self.expected_ns = u64::try_from(stretched).unwrap_or(u64::MAX);
            let factor = numerator as f64 / denominator as f64;
            self.variance *= factor * factor;
        }
    }

    /// When it will be over in all but about one of a thousand cases.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a square root is not negative, and the conversion saturates"
    )]
    pub(crate) fn sure_ns(&self) -> u64 {
        // A square root is rounded exactly, on every machine alike.
        self.expected_ns.saturating_add(self.variance.sqrt() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_add_as_squares() {
        let mut prediction = Prediction::default();
        prediction.add(100, 3);
        prediction.add(100, 4);
        assert_eq!(prediction.sure_ns(), 205);
        prediction.stretch(2000, 1000);
        assert_eq!(prediction.sure_ns(), 410);
        prediction.stretch(500, 1000);
        assert_eq!(prediction.sure_ns(), 410, "never shorter");
        prediction.add(u64::MAX, u64::MAX);
        assert_eq!(prediction.sure_ns(), u64::MAX);
    }
}
