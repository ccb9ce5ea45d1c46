//! When jobs arrive: a Poisson process, so that they come in bunches and gaps as they do from people and sensors that know
//! nothing of one another.

use anyhow::bail;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Most arrivals of one run: all of their endings are kept.
const ARRIVALS_MAX: f64 = 2_000_000.0;

/// Arrivals at `rate_per_s` for `seconds`, in microseconds after the start and in order. The same seed gives the same gaps,
/// in units of the mean gap.
pub(super) fn poisson(rate_per_s: f64, seconds: f64, seed: u64) -> anyhow::Result<Vec<u64>> {
    let expected = rate_per_s * seconds;
    if expected > ARRIVALS_MAX {
        bail!(
            "{rate_per_s:.0} jobs a second for {seconds} s are {expected:.0} jobs; at most {ARRIVALS_MAX:.0} are kept: give fewer --seconds or a lower --load"
        );
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut at_s = 0.0_f64;
    let gaps = std::iter::repeat_with(|| {
        // The inverse of the exponential distribution; 1 - x is above 0, so that its logarithm is finite.
        at_s -= (1.0 - random.random::<f64>()).ln() / rate_per_s;
        at_s
    });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to an hour in microseconds")]
    let arrivals: Vec<u64> = gaps.take_while(|at_s| *at_s < seconds).map(|at_s| (at_s * 1e6) as u64).collect();
    if arrivals.is_empty() {
        bail!("{rate_per_s:.2} jobs a second for {seconds} s: none arrives in that time; give more --seconds");
    }
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_random_in_order_and_as_many_as_asked() {
        let arrivals = poisson(1000.0, 10.0, 1).unwrap();
        // Mean 10,000, standard deviation 100.
        assert!((9_500..10_500).contains(&arrivals.len()), "{}", arrivals.len());
        assert!(arrivals.is_sorted() && *arrivals.last().unwrap() < 10_000_000);
        // Gaps of an exponential distribution: a share of 1/e is longer than the mean.
        let long = arrivals.windows(2).filter(|pair| pair[1] - pair[0] > 1000).count();
        assert!((3_300..4_100).contains(&long), "{long}");
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(poisson(50.0, 5.0, 7).unwrap(), poisson(50.0, 5.0, 7).unwrap());
        assert_ne!(poisson(50.0, 5.0, 7).unwrap(), poisson(50.0, 5.0, 8).unwrap());
    }

    #[test]
    fn too_many_and_none_are_said() {
        let text = poisson(1e6, 100.0, 1).unwrap_err().to_string();
        assert!(text.contains("100000000 jobs") && text.contains("--seconds"), "{text}");
        let text = poisson(1e-6, 1.0, 1).unwrap_err().to_string();
        assert!(text.contains("--seconds"), "{text}");
    }
}
