//! Which of many lanes is free first: a tournament over numbers, so that a change costs log n and the winner nothing.

use serde::{Deserialize, Serialize};

/// A tournament; the smallest number wins, the lower place among equals.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ranking {
    /// Leaves start at `leaves`; a node holds the place of its winner.
    winners: Vec<u32>,
    numbers: Vec<u64>,
    leaves: usize,
}

impl Ranking {
    /// Sets the number at a place; places grow as they are needed.
    pub(crate) fn set(&mut self, place: usize, number: u64) {
        if place >= self.leaves {
            self.grow(place + 1);
        }
        if self.numbers[place] == number {
            return;
        }
        self.numbers[place] = number;
        let mut node = (self.leaves + place) / 2;
        while node >= 1 {
            self.winners[node] = self.winner(node);
            node /= 2;
        }
    }

    /// Takes a place out of the tournament.
    pub(crate) fn clear(&mut self, place: usize) {
        if place < self.leaves {
            self.set(place, u64::MAX);
        }
    }

    /// The winner's place and number; `None` when nobody takes part.
    pub(crate) fn first(&self) -> Option<(usize, u64)> {
        let place = *self.winners.get(1)? as usize;
        let number = self.numbers[place];
        (number != u64::MAX).then_some((place, number))
    }

    fn winner(&self, node: usize) -> u32 {
        let (left, right) = (self.winners[2 * node], self.winners[2 * node + 1]);
        if self.numbers[right as usize] < self.numbers[left as usize] { right } else { left }
    }

    fn grow(&mut self, places: usize) {
        self.leaves = places.next_power_of_two().max(2);
        self.numbers.resize(self.leaves, u64::MAX);
        self.winners = vec![0; 2 * self.leaves];
        for place in 0..self.leaves {
            self.winners[self.leaves + place] = u32::try_from(place).expect("lanes are numbered by 32 bits");
        }
        for node in (1..self.leaves).rev() {
            self.winners[node] = self.winner(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_winner_is_the_smallest(steps in prop::collection::vec((0..40_usize, 0..50_u64, any::<bool>()), 0..200)) {
            let (mut ranking, mut numbers) = (Ranking::default(), vec![u64::MAX; 40]);
            for (place, number, clear) in steps {
                if clear {
                    ranking.clear(place);
                    numbers[place] = u64::MAX;
                } else {
                    ranking.set(place, number);
                    numbers[place] = number;
                }
                let smallest = numbers.iter().enumerate().filter(|(_, n)| **n != u64::MAX).min_by_key(|(_, n)| **n);
                prop_assert_eq!(ranking.first(), smallest.map(|(place, number)| (place, *number)));
            }
        }
    }
}
