//! One column of a table of recorded numbers, as `sensorium bench` writes them.

/// Most lines that are read.
const LINES_MAX: usize = 5_000_000;

/// A line that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    pub(super) line: usize,
    pub(super) problem: String,
}

/// The numbers below `header`, which may be one of several columns. At least one is expected, all from `min` on.
pub(super) fn column(text: &str, header: &str, min: f64) -> Result<Vec<f64>, BadLine> {
    let bad = |line, problem| Err(BadLine { line, problem });
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let Some(at) = first.split(',').position(|name| name.trim() == header) else {
        return bad(1, format!("the header is {first:?}; a column {header} is expected"));
    };
    let mut numbers = Vec::new();
    for (number, line) in lines.enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        if numbers.len() >= LINES_MAX {
            return bad(number + 2, format!("more than {LINES_MAX} lines"));
        }
        let cell = line.split(',').nth(at).unwrap_or_default().trim();
        match cell.parse::<f64>() {
            Ok(value) if value.is_finite() && value >= min => numbers.push(value),
            _ => return bad(number + 2, format!("{header}: {cell:?} is no number from {min} on")),
        }
    }
    if numbers.is_empty() { bad(2, format!("{header}: no numbers")) } else { Ok(numbers) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_column_among_others_is_found() {
        assert_eq!(column("a,offset_us\n1,10\n2, 20.5\n\n", "offset_us", 0.0), Ok(vec![10.0, 20.5]));
    }

    #[test]
    fn bad_lines_are_named() {
        let at = |text| column(text, "service_us", 0.001).unwrap_err();
        assert_eq!(at("").line, 1);
        assert_eq!(at("service_us\n").line, 2);
        assert_eq!(at("service_us\n12\n0\n").line, 3);
        let bad = at("service_us\n12\n13\nNaN\n");
        assert_eq!((bad.line, bad.problem.as_str()), (4, "service_us: \"NaN\" is no number from 0.001 on"));
        assert!(at("offset_us\n1\n").problem.contains("a column service_us is expected"));
    }

    proptest! {
        #[test]
        fn any_text_gives_numbers_or_a_line(text in "(service_us\n)?[-0-9a-z,.\n ]{0,200}") {
            match column(&text, "service_us", 0.0) {
                Ok(numbers) => prop_assert!(!numbers.is_empty() && numbers.iter().all(|number| *number >= 0.0)),
                Err(bad) => prop_assert!(bad.line >= 1),
            }
        }
    }
}
