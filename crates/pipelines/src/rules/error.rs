//! What can be wrong with a rule before it runs, and what it can lack while it does.

use std::fmt;

use thiserror::Error;

use super::schema::Field;
use super::{RULES_MAX, RuleSpec};

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RuleError {
    #[error("{count} rules; at most {RULES_MAX} are taken")]
    Count { count: usize },
    #[error("rule number {number}: name {name:?}: 1 to 32 of a-z A-Z 0-9 . _ - are expected")]
    Name { number: usize, name: String },
    #[error("rule {name:?}: {field}: {reason}")]
    Value { name: String, field: &'static str, reason: String },
    #[error("rule {name:?}: when, line {line}, column {column}: {reason}")]
    Condition { name: String, line: usize, column: usize, reason: String },
}

impl RuleError {
    pub(super) fn value(spec: &RuleSpec, field: &'static str, reason: impl Into<String>) -> Self {
        Self::Value { name: spec.name.clone(), field, reason: reason.into() }
    }

    /// Something wrong at a byte of the condition.
    pub(super) fn at(spec: &RuleSpec, offset: usize, reason: impl Into<String>) -> Self {
        let before: String = spec.when.char_indices().take_while(|(at, _)| *at < offset).map(|(_, c)| c).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Self::Condition { name: spec.name.clone(), line, column, reason: reason.into() }
    }
}

/// What a condition asked for and did not get. The rule then does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("{0} is not there")]
    Missing(FieldName),
    #[error("no such key")]
    Key,
    #[error("no such item in the list")]
    Index,
    #[error("a number does not fit")]
    Overflow,
    #[error("division by zero")]
    Division,
    /// The checker lets no such condition through.
    #[error("a value of another type")]
    Type,
}

/// A field of a variable, by the name that conditions use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FieldName(pub(super) Field);

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (object, name) = self.0.place();
        write!(f, "{}.{name}", object.name())
    }
}

impl fmt::Debug for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
