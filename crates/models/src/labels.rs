//! Class names: one a line, or the last column of a CSV file with a heading.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::ModelError;

/// Longest label file, in bytes.
pub const LABEL_FILE_BYTES_MAX: u64 = 1 << 20;
/// Most labels in a file.
pub const LABELS_MAX: usize = 16_384;
/// Longest label, in bytes. Answers cut them at 32.
pub const LABEL_BYTES_MAX: usize = 256;

/// Reads a label file; one whose name ends in `.csv` is read as CSV. The line number, less the heading, is the class.
///
/// # Errors
/// When it cannot be read, is too large, is not UTF-8 or has an empty or overlong label.
pub fn read(file: &Path) -> Result<Vec<String>, ModelError> {
    let unreadable = |source| ModelError::Read { file: file.to_owned(), source };
    let mut text = String::new();
    let handle = File::open(file).map_err(unreadable)?;
    let bytes = handle.metadata().map_err(unreadable)?.len();
    // The length is checked on what is read: it may grow after the question.
    let read = handle.take(LABEL_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if read as u64 > LABEL_FILE_BYTES_MAX {
        return Err(ModelError::TooLarge { file: file.to_owned(), bytes, bytes_max: LABEL_FILE_BYTES_MAX });
    }
    let csv = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    parse(&text, csv).map_err(|(line, problem)| ModelError::Labels { file: file.to_owned(), line, problem })
}

/// The labels of a file's text, or line and problem.
///
/// # Errors
/// The number of the line, from 1, and what is wrong with it.
pub fn parse(text: &str, csv: bool) -> Result<Vec<String>, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut labels = Vec::new();
    // Only the end of the file may have no label: an empty line inside would shift every class after it.
    for (number, line) in text.trim_end().lines().enumerate() {
        if csv && number == 0 {
            continue;
        }
        let label =
            if csv { last_column(line).map_err(|problem| (number + 1, problem))? } else { line.trim().to_owned() };
        if label.is_empty() {
            return Err((number + 1, "an empty label".to_owned()));
        }
        if label.len() > LABEL_BYTES_MAX {
            return Err((number + 1, format!("a label of {} bytes; at most {LABEL_BYTES_MAX}", label.len())));
        }
        if labels.len() == LABELS_MAX {
            return Err((number + 1, format!("more than {LABELS_MAX} labels")));
        }
        labels.push(label);
    }
    if labels.is_empty() {
        return Err((1, "no labels".to_owned()));
    }
    Ok(labels)
}

/// The last field of a CSV line: quoted fields may hold commas, and quotes written twice.
fn last_column(line: &str) -> Result<String, String> {
    let mut field = String::new();
    let mut quoted = false;
    let mut characters = line.trim_end().chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if quoted || field.trim().is_empty() => quoted = !quoted,
            ',' if !quoted => field.clear(),
            other => field.push(other),
        }
    }
    if quoted {
        return Err("a quoted field that does not end on its line".to_owned());
    }
    Ok(field.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_and_csv() {
        assert_eq!(parse("person\nbicycle\r\n\n", false).unwrap(), ["person", "bicycle"]);
        let csv = "index,mid,display_name\n0,/m/09x0r,Speech\n1,/m/0ytgt,\"Child speech, kid speaking\"\n2,/m/x,\"a \"\"b\"\"\"\n";
        assert_eq!(parse(csv, true).unwrap(), ["Speech", "Child speech, kid speaking", "a \"b\""]);
    }

    #[test]
    fn what_would_shift_classes_is_refused() {
        assert_eq!(parse("a\n\nb\n", false).unwrap_err().0, 2);
        assert_eq!(parse("", false).unwrap_err().1, "no labels");
        assert_eq!(parse("name\n", true).unwrap_err().1, "no labels");
        assert_eq!(parse("name\n1,\"open\n", true).unwrap_err().0, 2);
        assert!(parse(&"x".repeat(257), false).unwrap_err().1.contains("257 bytes"));
        assert!(parse(&"x\n".repeat(LABELS_MAX + 1), false).is_err());
    }

    proptest! {
        #[test]
        fn quoted_fields_come_back(fields in proptest::collection::vec("[a-z ,\"]{1,8}", 1..5)) {
            let line: Vec<_> = fields.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
            let last = fields.last().unwrap().trim();
            let parsed = parse(&format!("heading\n{}\n", line.join(",")), true);
            if last.is_empty() {
                prop_assert!(parsed.is_err());
            } else {
                prop_assert_eq!(parsed.unwrap(), vec![last.to_owned()]);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,64}(\n\\PC{0,16}){0,4}", csv: bool) {
            if let Ok(labels) = parse(&text, csv) {
                prop_assert!(labels.iter().all(|label| !label.is_empty()));
            }
        }
    }
}
