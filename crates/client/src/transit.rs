//! What a job's way to the node and its answer's way back take: the part of a deadline that the node does not see and that
//! a sender must therefore keep back.

/// A running mean and deviation of what receipts say of the network, as TCP keeps them of its round trips (RFC 6298).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transit {
    /// What is expected until there is a receipt.
    round_trip_ns: u64,
    mean_ns: u64,
    deviation_ns: u64,
}

impl Transit {
    /// Of a fresh connection, whose handshake took `round_trip_ns` for a round.
    pub(crate) fn new(round_trip_ns: u64) -> Self {
        Self { round_trip_ns, ..Self::default() }
    }

    /// Takes the network time of one answer in, in nanoseconds.
    pub(crate) fn observe(&mut self, network_ns: u64) {
        if self.mean_ns == 0 {
            (self.mean_ns, self.deviation_ns) = (network_ns, network_ns / 2);
            return;
        }
        let off_ns = network_ns.abs_diff(self.mean_ns);
        self.deviation_ns = self.deviation_ns - self.deviation_ns / 4 + off_ns / 4;
        self.mean_ns = self.mean_ns - self.mean_ns / 8 + network_ns / 8;
    }

    /// What the next one will hardly exceed, in nanoseconds: the mean and four times the deviation.
    pub(crate) fn expected_ns(self) -> u64 {
        if self.mean_ns == 0 {
            return self.round_trip_ns;
        }
        self.mean_ns.saturating_add(self.deviation_ns.saturating_mul(4))
    }

    /// What of a budget is the node's, in microseconds. However bad the way is, half of it.
    pub(crate) fn less(self, budget_us: u64) -> u64 {
        budget_us - (self.expected_ns() / 1000).min(budget_us / 2)
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

    #[test]
    fn the_node_is_left_at_least_half_and_the_handshake_counts_until_there_is_an_answer() {
        let mut transit = Transit::new(3_000_000);
        assert_eq!(
            (transit.less(100_000), transit.less(4_000), transit.less(1), transit.less(0)),
            (97_000, 2_000, 1, 0)
        );
        (0..200).for_each(|_| transit.observe(1_000_000));
        assert_eq!(transit.less(100_000), 99_000);
        assert_eq!(Transit::default().less(u64::MAX), u64::MAX);
    }
}
