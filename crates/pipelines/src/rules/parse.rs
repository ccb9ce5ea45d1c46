//! From the text of a condition to its parts, by the crate `cel`.

use cel::common::ast::{IdedExpr, SourceInfo};
use cel::parser::ParseError;

use super::{RULE_DEPTH_MAX, RuleError, RuleSpec};

/// A condition as it was written: no macro is expanded, so what it holds is no larger than its text.
pub(super) struct Parsed {
    pub(super) root: IdedExpr,
    places: SourceInfo,
}

impl Parsed {
    /// Where a part begins, in bytes of the condition.
    pub(super) fn offset(&self, part: &IdedExpr) -> usize {
        self.places.offset_for(part.id).map_or(0, |(start, _)| usize::try_from(start).unwrap_or(0))
    }
}

pub(super) fn parse(spec: &RuleSpec) -> Result<Parsed, RuleError> {
    if spec.when.trim().is_empty() {
        return Err(RuleError::at(spec, 0, "a condition is expected, and there is nothing"));
    }
    let depth_max = u16::try_from(RULE_DEPTH_MAX).unwrap_or(u16::MAX);
    // An environment without macros: `exists` and its like stay calls, which the checker knows.
    let parser = cel::Env::default().with_optional_support(false).parser().max_recursion_depth(depth_max);
    match parser.parse_with_source_info(&spec.when) {
        Ok((root, places)) => Ok(Parsed { root, places }),
        Err(errors) => {
            let first = errors.errors.first();
            Err(RuleError::at(spec, first.map_or(0, |error| offset(&spec.when, error)), explain(first)))
        }
    }
}

/// The parser's own words, without its list of everything that it would have taken.
fn explain(error: Option<&ParseError>) -> String {
    let Some(error) = error else { return "cannot be read".to_owned() };
    let message = error.msg.split(" expecting {").next().unwrap_or_default();
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    message.replace("'<EOF>'", "the end")
}

/// Byte of an error that has a line and a column, both from 1.
fn offset(text: &str, error: &ParseError) -> usize {
    let (line, column) = error.pos;
    let line = usize::try_from(line).unwrap_or(1).max(1);
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    start + usize::try_from(column - 1).unwrap_or(0)
}
