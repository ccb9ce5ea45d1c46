//! Draws. Every part of a simulation has a generator of its own, numbered, from one seed: what one part draws does not
//! change what another gets, so that a different decision of the scheduler meets the same arrivals.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A generator whose numbers are the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Chance(ChaCha8Rng);

/// 99 % of a normal distribution lie below this.
pub(crate) const Z_OF_P99: f64 = 2.326_347_874;

impl Chance {
    pub(crate) fn new(seed: u64, part: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(part);
        Self(generator)
    }

    /// From 0 on, below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0.random::<f64>()
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound.max(1))
    }

    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// With mean 1: the time between two independent arrivals.
    pub(crate) fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Standard normal (Box and Muller, 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Above the 99th percentile of a standard normal: the bound of Marsaglia's tail method, without its rejections, so
    /// slightly on the side of bad luck.
    pub(crate) fn normal_tail(&mut self) -> f64 {
        (Z_OF_P99 * Z_OF_P99 + 2.0 * self.exponential()).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(mut draw: impl FnMut() -> f64) -> f64 {
        (0..20_000).map(|_| draw()).sum::<f64>() / 20_000.0
    }

    #[test]
    fn draws_have_their_means() {
        let mut chance = Chance::new(1, 0);
        assert!((mean(|| chance.exponential()) - 1.0).abs() < 0.03);
        assert!(mean(|| chance.normal()).abs() < 0.03);
        let variance = mean(|| chance.normal().powi(2));
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
        assert!((mean(|| chance.normal_tail()) - 2.67).abs() < 0.1);
        assert!((0..1000).all(|_| chance.normal_tail() >= Z_OF_P99));
    }

    #[test]
    fn parts_are_independent_and_repeat() {
        let draws = |seed, part| {
            let mut chance = Chance::new(seed, part);
            [chance.unit().to_bits(), chance.unit().to_bits()]
        };
        assert_eq!(draws(7, 1), draws(7, 1));
        assert_ne!(draws(7, 1), draws(7, 2));
        assert_ne!(draws(7, 1), draws(8, 1));
    }
}
