//! Checks a condition: every name is known, every part has the type it must have, and the whole has a bounded cost.
//!
//! A subset of CEL: no macro but `has`, `exists`, `all`, `exists_one` and `filter`; no timestamps, regular expressions,
//! unsigned numbers, bytes, maps, messages or type values; lists that are written down hold constants.

mod calls;

use cel::common::ast::{Expr, IdedExpr, LiteralValue, SelectExpr};

use super::parse::Parsed;
use super::program::{Node, Program, SCOPES_MAX};
use super::schema::{Item, Object, Type, items_max, variables};
use super::value::Constant;
use super::{RULE_DEPTH_MAX, RULE_STEPS_MAX, RuleError, RuleSpec};

/// Steps that are counted for looking through a text, whose length is not known beforehand.
const TEXT_STEPS: u64 = 64;
/// Steps that are counted for looking a label up in a map.
const MAP_STEPS: u64 = 16;

/// A checked part.
struct Typed {
    node: Node,
    of: Type,
    /// Steps in the worst case.
    steps: u64,
    /// Items in the worst case, of a list.
    items_max: usize,
}

impl Typed {
    fn new(node: Node, of: Type, steps: u64) -> Self {
        Self { node, of, steps, items_max: 0 }
    }
}

/// A variable of a loop around the part.
#[derive(Clone)]
struct Scope {
    name: String,
    of: Type,
}

struct Checker<'a> {
    spec: &'a RuleSpec,
    parsed: &'a Parsed,
    scopes: Vec<Scope>,
    depth: usize,
    asks_stream: bool,
}

type Checked<T> = Result<T, RuleError>;

pub(super) fn check(spec: &RuleSpec, parsed: &Parsed) -> Checked<Program> {
    let mut checker = Checker { spec, parsed, scopes: Vec::new(), depth: 0, asks_stream: false };
    let root = checker.part(&parsed.root)?;
    if root.of != Type::Bool {
        return checker.wrong(&parsed.root, format!("it gives a {}; a condition gives a bool", root.of));
    }
    if root.steps > RULE_STEPS_MAX {
        let reason = format!("{} steps in the worst case; at most {RULE_STEPS_MAX}", root.steps);
        return Err(RuleError::value(spec, "when", reason));
    }
    Ok(Program { root: root.node, steps_max: root.steps, asks_stream: checker.asks_stream })
}

impl Checker<'_> {
    fn wrong<T>(&self, part: &IdedExpr, reason: impl Into<String>) -> Checked<T> {
        Err(RuleError::at(self.spec, self.parsed.offset(part), reason))
    }

    fn part(&mut self, part: &IdedExpr) -> Checked<Typed> {
        if self.depth >= RULE_DEPTH_MAX {
            return self.wrong(part, format!("nested deeper than {RULE_DEPTH_MAX}"));
        }
        self.depth += 1;
        let checked = match &part.expr {
            Expr::Literal(literal) => self.literal(part, literal),
            Expr::Ident(name) => self.name(part, name),
            Expr::Select(select) => self.select(part, select),
            Expr::Call(call) => self.call(part, call),
            Expr::List(list) => self.list(part, &list.elements),
            Expr::Map(_) | Expr::Struct(_) | Expr::Comprehension(_) | Expr::Unspecified => {
                self.wrong(part, "only names, constants, lists of constants and calls are understood")
            }
        };
        self.depth -= 1;
        checked
    }

    /// A part that must have a type.
    fn part_of(&mut self, part: &IdedExpr, wanted: Type) -> Checked<Typed> {
        let typed = self.part(part)?;
        if typed.of == wanted {
            return Ok(typed);
        }
        self.wrong(part, format!("a {wanted} is expected, this is a {}", typed.of))
    }

    fn literal(&self, part: &IdedExpr, literal: &LiteralValue) -> Checked<Typed> {
        let (constant, of) = match literal {
            LiteralValue::Boolean(value) => (Constant::Bool(*value.inner()), Type::Bool),
            LiteralValue::Int(value) => (Constant::Int(*value.inner()), Type::Int),
            LiteralValue::Double(value) => (Constant::Double(*value.inner()), Type::Double),
            LiteralValue::String(value) => (Constant::Text(value.inner().to_owned()), Type::Text),
            LiteralValue::UInt(value) => {
                return self.wrong(part, format!("unsigned numbers are not known; write {}", value.inner()));
            }
            LiteralValue::Bytes(_) | LiteralValue::Null => return self.wrong(part, "bytes and null are not known"),
        };
        Ok(Typed::new(Node::Constant(constant), of, 1))
    }

    fn name(&mut self, part: &IdedExpr, name: &str) -> Checked<Typed> {
        if let Some((scope, local)) = self.scopes.iter().enumerate().rev().find(|(_, local)| local.name == name) {
            return Ok(Typed::new(Node::Local(scope), local.of, 1));
        }
        let known = variables(self.spec.on);
        let Some((_, of)) = known.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let hint = if name == "result" { "; a job has its result in rules on = \"result\"" } else { "" };
            return self.wrong(part, format!("no variable {name}; there are {}{hint}", names.join(", ")));
        };
        self.asks_stream |= *of == Type::Object(Object::Stream);
        let node = if *of == Type::Text { Node::Tenant } else { Node::Root };
        Ok(Typed::new(node, *of, 1))
    }

    /// `base.field`, or `has(base.field)` where `select.test` is set.
    fn select(&mut self, part: &IdedExpr, select: &SelectExpr) -> Checked<Typed> {
        let base = self.part(&select.operand)?;
        match base.of {
            Type::Object(object) => {
                let Some((_, field, of)) = object.fields().find(|(name, ..)| *name == select.field) else {
                    let names: Vec<&str> = object.fields().map(|(name, ..)| name).collect();
                    let (kind, field) = (object.name(), &select.field);
                    return self.wrong(part, format!("a {kind} has no field {field}; there are {}", names.join(", ")));
                };
                let node = Node::Field(Box::new(base.node), field);
                Ok(Typed { items_max: items_max(field), ..Typed::new(node, of, base.steps + 1) })
            }
            Type::Map(item) => {
                let key = Node::Constant(Constant::Text(select.field.clone()));
                let node = Node::Lookup(Box::new(base.node), Box::new(key));
                Ok(Typed::new(node, item.into(), base.steps + MAP_STEPS))
            }
            other => self.wrong(part, format!("a {other} has no fields")),
        }
    }

    fn list(&mut self, part: &IdedExpr, elements: &[IdedExpr]) -> Checked<Typed> {
        let mut constants = Vec::with_capacity(elements.len());
        let mut item: Option<Item> = None;
        for element in elements {
            let typed = self.part(element)?;
            let Some(constant) = constant(typed.node) else {
                return self.wrong(element, "a list that is written down holds constants only");
            };
            let of = typed.of.as_item();
            if item.is_some() && item != of {
                return self.wrong(element, "all items of a list have the same type");
            }
            item = of;
            constants.push(constant);
        }
        let Some(item) = item else { return self.wrong(part, "an empty list is of no use") };
        let items_max = constants.len();
        Ok(Typed { items_max, ..Typed::new(Node::Constants(constants), Type::List(item), 1) })
    }

    /// Checks a part in which `name` is an item of a list.
    fn in_scope<T>(&mut self, name: &IdedExpr, of: Type, check: impl FnOnce(&mut Self) -> Checked<T>) -> Checked<T> {
        let Expr::Ident(text) = &name.expr else {
            return self.wrong(name, "a name for the items is expected");
        };
        if self.scopes.len() >= SCOPES_MAX {
            return self.wrong(name, format!("at most {SCOPES_MAX} loops within each other"));
        }
        self.scopes.push(Scope { name: text.clone(), of });
        let checked = check(self);
        self.scopes.pop();
        checked
    }
}

/// The constant that a node is; `-1` may be a constant or its negation.
fn constant(node: Node) -> Option<Constant> {
    match node {
        Node::Constant(constant) => Some(constant),
        Node::Negate(of) => match *of {
            Node::Constant(Constant::Int(value)) => Some(Constant::Int(value.checked_neg()?)),
            Node::Constant(Constant::Double(value)) => Some(Constant::Double(-value)),
            _ => None,
        },
        _ => None,
    }
}
