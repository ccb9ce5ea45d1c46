//! From bytes in a file to lines, and from unknown names to the nearest known ones.

use super::error::ScenarioError;

/// A scenario's file: its name, as messages show it, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    pub name: String,
    pub text: String,
}

/// A table of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) file: &'a SourceFile,
    /// Where its header or value begins.
    pub(super) at: usize,
}

impl SourceFile {
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }

    pub(super) fn syntax(&self, error: &toml::de::Error) -> ScenarioError {
        let line = self.line(error.span().map_or(0, |span| span.start));
        ScenarioError::Syntax { file: self.name.clone(), line, message: with_nearest(error.message()) }
    }
}

impl Place<'_> {
    /// An error at the line of a field of this table, or at its header when the field is not there.
    pub(super) fn wrong(&self, field: &str, problem: impl Into<String>) -> ScenarioError {
        ScenarioError::Value {
            file: self.file.name.clone(),
            line: self.file.line(self.field(field).unwrap_or(self.at)),
            field: field.to_owned(),
            problem: problem.into(),
        }
    }

    /// Gives `value` back when it is a number from `min` to `max`.
    pub(super) fn within(&self, field: &str, value: f64, min: f64, max: f64) -> Result<f64, ScenarioError> {
        if (min..=max).contains(&value) {
            Ok(value)
        } else {
            Err(self.wrong(field, format!("is {value}; {min} to {max} is expected")))
        }
    }

    /// Where `field = ` stands in this table: leans on one key a line, which is how people write them.
    fn field(&self, field: &str) -> Option<usize> {
        let mut at = self.at;
        for (number, line) in self.file.text.get(self.at..)?.split_inclusive('\n').enumerate() {
            let bare = line.trim_start();
            if number > 0 && bare.starts_with("[[") {
                return None;
            }
            let is_key = |rest: &str| rest.trim_start().starts_with('=');
            if bare.strip_prefix(field).is_some_and(is_key) {
                return Some(at + line.len() - bare.len());
            }
            at += line.len();
        }
        None
    }
}

/// Adds the nearest known name to a message about an unknown one.
fn with_nearest(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (quoted.next(), message.contains("unknown ")) else { return message.to_owned() };
    let known: Vec<&str> = quoted.collect();
    match nearest(unknown, known.into_iter()) {
        Some(known) => format!("{message}; did you mean `{known}`?"),
        None => message.to_owned(),
    }
}

/// What to add to "there is no such name".
pub(super) fn suggestion<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(unknown, known).map_or_else(String::new, |known| format!("; did you mean \"{known}\"?"))
}

fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let ranked = known.map(|known| (strsim::damerau_levenshtein(unknown, known), known));
    let bound = unknown.chars().count().div_ceil(2).max(1);
    ranked.min().filter(|(distance, _)| *distance <= bound).map(|(_, known)| known)
}
