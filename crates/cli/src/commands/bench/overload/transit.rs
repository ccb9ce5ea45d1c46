//! What a job's way to the node and its answer's way back take: the part of a deadline that the node does not see and that
//! a sender must therefore keep back.

/// A running mean and deviation of what receipts say of the network, as TCP keeps them of its round trips (RFC 6298).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transit {
    mean_ns: u64,
    deviation_ns: u64,
}

impl Transit {
    /// Takes the network time of one answer in, in nanoseconds.
    pub(super) fn observe(&mut self, network_ns: u64) {
        if self.mean_ns == 0 {
            *self = Self { mean_ns: network_ns, deviation_ns: network_ns / 2 };
            return;
        }
        let off_ns = network_ns.abs_diff(self.mean_ns);
        self.deviation_ns = self.deviation_ns - self.deviation_ns / 4 + off_ns / 4;
        self.mean_ns = self.mean_ns - self.mean_ns / 8 + network_ns / 8;
    }

    /// What the next one will hardly exceed, in nanoseconds: the mean and four times the deviation.
    pub(super) fn expected_ns(self) -> u64 {
        self.mean_ns.saturating_add(self.deviation_ns.saturating_mul(4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_way_is_expected_as_it_is_and_an_unsteady_one_with_a_margin() {
        let mut steady = Transit::default();
        (0..200).for_each(|_| steady.observe(1_000_000));
        assert!((990_000..1_010_000).contains(&steady.expected_ns()), "{steady:?}");
        let mut unsteady = Transit::default();
        (0..200).for_each(|round| unsteady.observe(if round % 2 == 0 { 500_000 } else { 1_500_000 }));
        assert!((2_000_000..4_000_000).contains(&unsteady.expected_ns()), "{unsteady:?}");
        let mut absurd = Transit::default();
        [0, u64::MAX, 0, u64::MAX].iter().for_each(|ns| absurd.observe(*ns));
        assert!(absurd.expected_ns() > 0);
    }
}
