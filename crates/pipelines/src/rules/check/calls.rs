//! Operators, functions and loops.

use cel::common::ast::{CallExpr, Expr, IdedExpr, operators};
use sensorium_wire::Name;

use super::{Checked, Checker, MAP_STEPS, TEXT_STEPS, Typed};
use crate::rules::program::{Comparison, Node, Operator, Quantifier, Range, TextTest};
use crate::rules::schema::Type;
use crate::rules::value::Constant;

/// A checked range: a list and its filters.
struct TypedRange {
    range: Range,
    item: Type,
    items_max: usize,
    /// Steps to come to the list.
    list_steps: u64,
    /// Steps for each item.
    filter_steps: u64,
}

impl TypedRange {
    /// Steps of a loop over it whose body takes `body` steps.
    fn steps(&self, body: u64) -> u64 {
        let each = self.filter_steps.saturating_add(body).saturating_add(1);
        self.list_steps.saturating_add(each.saturating_mul(self.items_max as u64)).saturating_add(1)
    }
}

fn add(a: u64, b: u64) -> u64 {
    a.saturating_add(b).saturating_add(1)
}

impl Checker<'_> {
    pub(super) fn call(&mut self, part: &IdedExpr, call: &CallExpr) -> Checked<Typed> {
        match (call.target.as_deref(), call.func_name.as_str(), call.args.as_slice()) {
            (None, operators::LOGICAL_AND, [a, b]) => self.both_bool(a, b, Node::And),
            (None, operators::LOGICAL_OR, [a, b]) => self.both_bool(a, b, Node::Or),
            (None, operators::LOGICAL_NOT, [of]) => {
                let of = self.part_of(of, Type::Bool)?;
                Ok(Typed::new(Node::Not(Box::new(of.node)), Type::Bool, add(of.steps, 0)))
            }
            (None, operators::CONDITIONAL, [condition, then, otherwise]) => {
                self.conditional(condition, then, otherwise)
            }
            (None, operators::EQUALS, [a, b]) => self.equality(part, a, b),
            (None, operators::NOT_EQUALS, [a, b]) => {
                let equal = self.equality(part, a, b)?;
                Ok(Typed::new(Node::Not(Box::new(equal.node)), Type::Bool, add(equal.steps, 0)))
            }
            (None, operators::LESS, [a, b]) => self.comparison(part, a, b, Comparison::Less),
            (None, operators::LESS_EQUALS, [a, b]) => self.comparison(part, a, b, Comparison::LessEqual),
            (None, operators::GREATER, [a, b]) => self.comparison(part, a, b, Comparison::Greater),
            (None, operators::GREATER_EQUALS, [a, b]) => self.comparison(part, a, b, Comparison::GreaterEqual),
            (None, operators::ADD, [a, b]) => self.arithmetic(part, a, b, Operator::Add),
            (None, operators::SUBSTRACT, [a, b]) => self.arithmetic(part, a, b, Operator::Subtract),
            (None, operators::MULTIPLY, [a, b]) => self.arithmetic(part, a, b, Operator::Multiply),
            (None, operators::DIVIDE, [a, b]) => self.arithmetic(part, a, b, Operator::Divide),
            (None, operators::MODULO, [a, b]) => self.arithmetic(part, a, b, Operator::Remainder),
            (None, operators::NEGATE, [of]) => self.negation(of),
            (None, operators::IN, [item, container]) => self.membership(part, item, container),
            (None, operators::INDEX, [container, place]) => self.index(part, container, place),
            (None, "has", [of]) => self.presence(of),
            (None, "size", [of]) | (Some(of), "size", []) => self.size(part, of),
            (None, "double", [of]) => self.conversion(of, Type::Double, Node::ToDouble),
            (None, "int", [of]) => self.conversion(of, Type::Int, Node::ToInt),
            (Some(text), "contains", [of]) => self.text_test(text, of, TextTest::Contains),
            (Some(text), "startsWith", [of]) => self.text_test(text, of, TextTest::StartsWith),
            (Some(text), "endsWith", [of]) => self.text_test(text, of, TextTest::EndsWith),
            (Some(list), "exists", [name, body]) => self.quantified(list, name, body, Quantifier::Exists),
            (Some(list), "all", [name, body]) => self.quantified(list, name, body, Quantifier::All),
            (Some(list), "exists_one", [name, body]) => self.quantified(list, name, body, Quantifier::ExistsOne),
            (Some(_), "filter", [_, _]) => self
                .wrong(part, "what filter() leaves can be counted (size) or looked through (exists, all, exists_one)"),
            (target, name, arguments) => {
                let kind = if target.is_some() { "method" } else { "function" };
                self.wrong(
                    part,
                    format!(
                        "no {kind} {name} with {} arguments; there are has, size, int, double, contains, startsWith, \
                     endsWith, exists, all, exists_one and filter",
                        arguments.len()
                    ),
                )
            }
        }
    }

    fn both_bool(&mut self, a: &IdedExpr, b: &IdedExpr, join: fn(Box<Node>, Box<Node>) -> Node) -> Checked<Typed> {
        let (a, b) = (self.part_of(a, Type::Bool)?, self.part_of(b, Type::Bool)?);
        Ok(Typed::new(join(Box::new(a.node), Box::new(b.node)), Type::Bool, add(a.steps, b.steps)))
    }

    fn conditional(&mut self, condition: &IdedExpr, then: &IdedExpr, otherwise: &IdedExpr) -> Checked<Typed> {
        let condition = self.part_of(condition, Type::Bool)?;
        let then = self.part(then)?;
        let typed = self.part_of(otherwise, then.of)?;
        let steps = add(condition.steps, then.steps.max(typed.steps));
        let items_max = then.items_max.max(typed.items_max);
        let node = Node::Conditional(Box::new([condition.node, then.node, typed.node]));
        Ok(Typed { items_max, ..Typed::new(node, then.of, steps) })
    }

    fn equality(&mut self, part: &IdedExpr, a: &IdedExpr, b: &IdedExpr) -> Checked<Typed> {
        let (a, b) = (self.part(a)?, self.part(b)?);
        let comparable = (a.of.is_number() && b.of.is_number()) || (a.of == b.of && a.of.as_item().is_some());
        if !comparable {
            return self.wrong(part, format!("a {} and a {} cannot be equal", a.of, b.of));
        }
        let steps = add(a.steps, b.steps);
        let node = match (a.node, b.node) {
            (of, Node::Constant(Constant::Text(text))) | (Node::Constant(Constant::Text(text)), of) => {
                let name = Name::new(&text);
                // A name whose bytes are no text reads as an empty one.
                let name = name.filter(|_| !text.is_empty());
                Node::IsText(Box::new(of), text, name)
            }
            (a, b) => Node::Equal(Box::new(a), Box::new(b)),
        };
        Ok(Typed::new(node, Type::Bool, steps))
    }

    fn comparison(&mut self, part: &IdedExpr, a: &IdedExpr, b: &IdedExpr, by: Comparison) -> Checked<Typed> {
        let (a, b) = (self.part(a)?, self.part(b)?);
        let comparable = (a.of.is_number() && b.of.is_number()) || (a.of == Type::Text && b.of == Type::Text);
        if !comparable {
            return self.wrong(part, format!("a {} and a {} have no order", a.of, b.of));
        }
        let join = if a.of == Type::Double || b.of == Type::Double { Node::CompareDoubles } else { Node::Compare };
        let node = join(by, Box::new(a.node), Box::new(b.node));
        Ok(Typed::new(node, Type::Bool, add(a.steps, b.steps)))
    }

    fn arithmetic(&mut self, part: &IdedExpr, a: &IdedExpr, b: &IdedExpr, by: Operator) -> Checked<Typed> {
        let (a, b) = (self.part(a)?, self.part(b)?);
        let fits = a.of == b.of && a.of.is_number() && !(matches!(by, Operator::Remainder) && a.of == Type::Double);
        if !fits {
            let hint = if a.of.is_number() && b.of.is_number() { "; double() and int() convert" } else { "" };
            return self.wrong(part, format!("a {} and a {} cannot be reckoned with here{hint}", a.of, b.of));
        }
        let join = if a.of == Type::Double { Node::Doubles } else { Node::Arithmetic };
        let node = join(by, Box::new(a.node), Box::new(b.node));
        Ok(Typed::new(node, a.of, add(a.steps, b.steps)))
    }

    fn negation(&mut self, part: &IdedExpr) -> Checked<Typed> {
        let of = self.part(part)?;
        if !of.of.is_number() {
            return self.wrong(part, format!("a number is expected, this is a {}", of.of));
        }
        Ok(Typed::new(Node::Negate(Box::new(of.node)), of.of, add(of.steps, 0)))
    }

    fn membership(&mut self, part: &IdedExpr, item: &IdedExpr, container: &IdedExpr) -> Checked<Typed> {
        let (item, container) = (self.part(item)?, self.part(container)?);
        let steps = add(item.steps, container.steps);
        let (holder, wanted) = (Box::new(container.node), Box::new(item.node));
        match container.of {
            Type::List(of) => {
                let of = Type::from(of);
                if of != item.of && !(of.is_number() && item.of.is_number()) {
                    return self.wrong(part, format!("a {} is never in a {}", item.of, container.of));
                }
                let steps = add(steps, container.items_max as u64);
                Ok(Typed::new(Node::InList(holder, wanted), Type::Bool, steps))
            }
            Type::Map(_) if item.of == Type::Text => {
                Ok(Typed::new(Node::HasKey(holder, wanted), Type::Bool, add(steps, MAP_STEPS)))
            }
            other => self.wrong(part, format!("a {} is never in a {other}", item.of)),
        }
    }

    fn index(&mut self, part: &IdedExpr, container: &IdedExpr, place: &IdedExpr) -> Checked<Typed> {
        let container = self.part(container)?;
        let of = container.of;
        match of {
            Type::List(item) => {
                let place = self.part_of(place, Type::Int)?;
                let steps = add(container.steps, place.steps);
                Ok(Typed::new(Node::Index(Box::new(container.node), Box::new(place.node)), item.into(), steps))
            }
            Type::Map(item) => {
                let key = self.part_of(place, Type::Text)?;
                let steps = add(container.steps, key.steps).saturating_add(MAP_STEPS);
                Ok(Typed::new(Node::Lookup(Box::new(container.node), Box::new(key.node)), item.into(), steps))
            }
            other => self.wrong(part, format!("a {other} has no items")),
        }
    }

    fn presence(&mut self, part: &IdedExpr) -> Checked<Typed> {
        if !matches!(part.expr, Expr::Select(_)) {
            return self.wrong(part, "has() asks for a field: has(stream.speech)");
        }
        let of = self.part(part)?;
        let node = match of.node {
            Node::Field(base, field) => Node::HasField(base, field),
            Node::Lookup(map, key) => Node::HasKey(map, key),
            _ => return self.wrong(part, "has() asks for a field: has(stream.speech)"),
        };
        Ok(Typed::new(node, Type::Bool, of.steps))
    }

    fn size(&mut self, part: &IdedExpr, of: &IdedExpr) -> Checked<Typed> {
        if is_filter(of) {
            let range = self.range(of)?;
            let steps = range.steps(0);
            return Ok(Typed::new(Node::Count(Box::new(range.range)), Type::Int, steps));
        }
        let of = self.part(of)?;
        let steps = match of.of {
            Type::Text => add(of.steps, TEXT_STEPS),
            Type::List(_) | Type::Map(_) => add(of.steps, 0),
            other => return self.wrong(part, format!("a {other} has no size")),
        };
        Ok(Typed::new(Node::Size(Box::new(of.node)), Type::Int, steps))
    }

    fn conversion(&mut self, part: &IdedExpr, to: Type, join: fn(Box<Node>) -> Node) -> Checked<Typed> {
        let of = self.part(part)?;
        if !of.of.is_number() {
            return self.wrong(part, format!("a number is expected, this is a {}", of.of));
        }
        Ok(Typed::new(join(Box::new(of.node)), to, add(of.steps, 0)))
    }

    fn text_test(&mut self, text: &IdedExpr, of: &IdedExpr, test: TextTest) -> Checked<Typed> {
        let (text, of) = (self.part_of(text, Type::Text)?, self.part_of(of, Type::Text)?);
        let steps = add(text.steps, of.steps).saturating_add(TEXT_STEPS);
        Ok(Typed::new(Node::Text(test, Box::new(text.node), Box::new(of.node)), Type::Bool, steps))
    }

    fn quantified(
        &mut self,
        list: &IdedExpr,
        name: &IdedExpr,
        body: &IdedExpr,
        quantifier: Quantifier,
    ) -> Checked<Typed> {
        let range = self.range(list)?;
        let body = self.in_scope(name, range.item, |checker| checker.part_of(body, Type::Bool))?;
        let steps = range.steps(body.steps);
        let node = Node::Loop(quantifier, Box::new(range.range), Box::new(body.node));
        Ok(Typed::new(node, Type::Bool, steps))
    }

    /// A list, or a list with filters.
    fn range(&mut self, part: &IdedExpr) -> Checked<TypedRange> {
        if let Expr::Call(CallExpr { func_name, target: Some(list), args }) = &part.expr
            && let ("filter", [name, condition]) = (func_name.as_str(), args.as_slice())
        {
            if self.depth >= super::RULE_DEPTH_MAX {
                return self.wrong(part, format!("nested deeper than {}", super::RULE_DEPTH_MAX));
            }
            self.depth += 1;
            let mut range = self.range(list)?;
            self.depth -= 1;
            let filter = self.in_scope(name, range.item, |checker| checker.part_of(condition, Type::Bool))?;
            range.filter_steps = add(range.filter_steps, filter.steps);
            range.range.filters.push(filter.node);
            return Ok(range);
        }
        let list = self.part(part)?;
        let Type::List(item) = list.of else {
            return self.wrong(part, format!("a list is expected, this is a {}", list.of));
        };
        Ok(TypedRange {
            range: Range { list: list.node, filters: Vec::new(), scope: self.scopes.len() },
            item: item.into(),
            items_max: list.items_max,
            list_steps: list.steps,
            filter_steps: 0,
        })
    }
}

fn is_filter(part: &IdedExpr) -> bool {
    matches!(&part.expr, Expr::Call(call) if call.func_name == "filter" && call.target.is_some())
}
