//! Which row goes with which column so that the total gain is the highest: the Hungarian method with shortest
//! augmenting paths, O(rows² × columns).

/// Pairs (row, column) with the highest total gain. A gain of 0 means that the two do not go together. The result is the
/// same for the same gains.
pub(crate) fn assign(rows: usize, columns: usize, gain: impl Fn(usize, usize) -> f32) -> Vec<(usize, usize)> {
    if rows == 0 || columns == 0 {
        return Vec::new();
    }
    // The method needs at least as many columns as rows.
    let mut pairs = if rows <= columns {
        best_columns(rows, columns, |row, column| -f64::from(gain(row, column)))
    } else {
        let swapped = best_columns(columns, rows, |column, row| -f64::from(gain(row, column)));
        swapped.into_iter().map(|(column, row)| (row, column)).collect()
    };
    pairs.retain(|(row, column)| gain(*row, *column) > 0.0);
    pairs.sort_unstable();
    pairs
}

fn best_columns(rows: usize, columns: usize, cost: impl Fn(usize, usize) -> f64) -> Vec<(usize, usize)> {
    // Index 0 stands for "none" in both directions.
    let mut row_potential = vec![0.0; rows + 1];
    let mut column_potential = vec![0.0; columns + 1];
    let mut row_of = vec![0; columns + 1];
    let mut came_from = vec![0; columns + 1];
    let mut distance = vec![f64::INFINITY; columns + 1];
    let mut settled = vec![false; columns + 1];
    for row in 1..=rows {
        row_of[0] = row;
        distance.fill(f64::INFINITY);
        settled.fill(false);
        let mut column = 0;
        // Grow the shortest path from this row until it meets a free column.
        while row_of[column] != 0 {
            settled[column] = true;
            let from = row_of[column];
            let (mut nearest, mut step) = (0, f64::INFINITY);
            for next in 1..=columns {
                if settled[next] {
                    continue;
                }
                let length = cost(from - 1, next - 1) - row_potential[from] - column_potential[next];
                if length < distance[next] {
                    distance[next] = length;
                    came_from[next] = column;
                }
                if distance[next] < step {
                    step = distance[next];
                    nearest = next;
                }
            }
            for other in 0..=columns {
                if settled[other] {
                    row_potential[row_of[other]] += step;
                    column_potential[other] -= step;
                } else {
                    distance[other] -= step;
                }
            }
            column = nearest;
        }
        while column != 0 {
            let before = came_from[column];
            row_of[column] = row_of[before];
            column = before;
        }
    }
    (1..=columns).filter(|column| row_of[*column] != 0).map(|column| (row_of[column] - 1, column - 1)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn total(gains: &[Vec<f32>], pairs: &[(usize, usize)]) -> f32 {
        pairs.iter().map(|(row, column)| gains[*row][*column]).sum()
    }

    /// The best total by trying everything.
    fn best(gains: &[Vec<f32>], row: usize, taken: &mut Vec<bool>) -> f32 {
        if row == gains.len() {
            return 0.0;
        }
        let mut highest = best(gains, row + 1, taken);
        for column in 0..taken.len() {
            if !taken[column] {
                taken[column] = true;
                highest = highest.max(gains[row][column] + best(gains, row + 1, taken));
                taken[column] = false;
            }
        }
        highest
    }

    #[test]
    fn one_great_pair_beats_two_poor_ones_and_a_greedy_choice_is_undone() {
        let gains = [vec![0.9, 0.8], vec![0.8, 0.1]];
        assert_eq!(assign(2, 2, |row, column| gains[row][column]), [(0, 1), (1, 0)]);
        let gains = [vec![0.9, 0.2], vec![0.2, 0.0]];
        assert_eq!(assign(2, 2, |row, column| gains[row][column]), [(0, 0)]);
        assert!(assign(0, 3, |_, _| 1.0).is_empty());
    }

    #[test]
    fn the_largest_case_ends() {
        let gain = |row: usize, column: usize| if (row * 7 + column * 13) % 11 < 3 { 0.5 } else { 0.1 };
        assert_eq!(assign(256, 256, gain).len(), 256);
    }

    proptest! {
        #[test]
        fn nothing_beats_the_assignment(
            (rows, columns, numbers) in (1..6_usize, 1..6_usize)
                .prop_flat_map(|(rows, columns)| (Just(rows), Just(columns), prop::collection::vec(0..10_u8, rows * columns)))
        ) {
            let gains: Vec<Vec<f32>> =
                numbers.chunks(columns).map(|row| row.iter().map(|number| f32::from(*number) / 8.0).collect()).collect();
            let pairs = assign(rows, columns, |row, column| gains[row][column]);
            let (mut used_rows, mut used_columns) = (vec![false; rows], vec![false; columns]);
            for (row, column) in &pairs {
                prop_assert!(!used_rows[*row] && !used_columns[*column]);
                (used_rows[*row], used_columns[*column]) = (true, true);
            }
            prop_assert_eq!(total(&gains, &pairs), best(&gains, 0, &mut vec![false; columns]));
        }
    }
}
