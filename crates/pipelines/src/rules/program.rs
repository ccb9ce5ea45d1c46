//! A checked condition, and how it is run. Runs in the steps that were counted beforehand, on borrowed values.

use std::cmp::Ordering;

use sensorium_wire::ids::ShortName;

use super::schema::Field;
use super::value::{Constant, List, Value};
use super::{Facts, Fault};

/// Loops within loops that a condition may have.
pub(super) const SCOPES_MAX: usize = 3;

/// A condition that passed every check.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) root: Node,
    pub(super) steps_max: u64,
    pub(super) asks_stream: bool,
}

/// One part of a condition. Its children have the types it needs, so [`Fault::Type`] never happens.
#[derive(Debug)]
pub(super) enum Node {
    Constant(Constant),
    Constants(Vec<Constant>),
    Root,
    Tenant,
    /// The item that a loop is at.
    Local(usize),
    Field(Box<Self>, Field),
    HasField(Box<Self>, Field),
    /// List or range, and place.
    Index(Box<Self>, Box<Self>),
    /// Map and key.
    Lookup(Box<Self>, Box<Self>),
    HasKey(Box<Self>, Box<Self>),
    InList(Box<Self>, Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Conditional(Box<[Self; 3]>),
    Equal(Box<Self>, Box<Self>),
    /// A text and a constant one, which is also kept as a name where it can be one.
    IsText(Box<Self>, String, Option<ShortName>),
    Compare(Comparison, Box<Self>, Box<Self>),
    /// The same where at least one side is a double.
    CompareDoubles(Comparison, Box<Self>, Box<Self>),
    Arithmetic(Operator, Box<Self>, Box<Self>),
    /// The same on doubles.
    Doubles(Operator, Box<Self>, Box<Self>),
    Negate(Box<Self>),
    Size(Box<Self>),
    Text(TextTest, Box<Self>, Box<Self>),
    ToDouble(Box<Self>),
    ToInt(Box<Self>),
    Count(Box<Range>),
    Loop(Quantifier, Box<Range>, Box<Self>),
}

/// The items of a list that pass every filter. List and filters share the scope of the loop over them.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) list: Node,
    pub(super) filters: Vec<Node>,
    pub(super) scope: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Comparison {
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Quantifier {
    Exists,
    All,
    ExistsOne,
}

/// The items that the loops around a part are at.
type Locals<'a> = [Value<'a>; SCOPES_MAX];

impl Program {
    pub(super) fn holds(&self, facts: &Facts<'_>) -> Result<bool, Fault> {
        self.root.test(facts, &mut [Value::Root; SCOPES_MAX])
    }
}

impl Node {
    fn run<'a>(&'a self, facts: &Facts<'a>, locals: &mut Locals<'a>) -> Result<Value<'a>, Fault> {
        Ok(match self {
            Self::Constant(constant) => constant.value(),
            Self::Constants(constants) => Value::List(List::Constants(constants)),
            Self::Root => Value::Root,
            Self::Tenant => Value::Text(facts.tenant),
            Self::Local(scope) => *locals.get(*scope).ok_or(Fault::Type)?,
            Self::Field(base, field) => facts.read(*field, base.run(facts, locals)?)?,
            Self::Index(list, place) => {
                let list = list.run(facts, locals)?.list()?;
                let place = place.run(facts, locals)?.to_int()?;
                usize::try_from(place).ok().and_then(|place| list.get(place)).ok_or(Fault::Index)?
            }
            Self::Lookup(map, key) => {
                let map = map.run(facts, locals)?.map()?;
                map.get(key.run(facts, locals)?).ok_or(Fault::Key)?
            }
            Self::Conditional(parts) => {
                let [condition, then, otherwise] = &**parts;
                let chosen = if condition.test(facts, locals)? { then } else { otherwise };
                chosen.run(facts, locals)?
            }
            Self::Arithmetic(operator, left, right) => {
                let left = left.run(facts, locals)?;
                operator.apply(left, right.run(facts, locals)?)?
            }
            Self::Negate(of) => match of.run(facts, locals)? {
                Value::Int(value) => Value::Int(value.checked_neg().ok_or(Fault::Overflow)?),
                value => Value::Double(-value.to_double()?),
            },
            Self::Size(of) => size(of.run(facts, locals)?)?,
            Self::ToDouble(of) => Value::Double(of.double(facts, locals)?),
            Self::Doubles(..) => Value::Double(self.double(facts, locals)?),
            Self::ToInt(of) => Value::Int(of.run(facts, locals)?.to_int()?),
            Self::Count(range) => {
                let mut count = 0;
                range.each(facts, locals, |_| {
                    count += 1;
                    Ok(true)
                })?;
                Value::Int(count)
            }
            Self::HasField(..)
            | Self::HasKey(..)
            | Self::InList(..)
            | Self::And(..)
            | Self::Or(..)
            | Self::Not(_)
            | Self::Equal(..)
            | Self::IsText(..)
            | Self::Compare(..)
            | Self::CompareDoubles(..)
            | Self::Text(..)
            | Self::Loop(..) => Value::Bool(self.test(facts, locals)?),
        })
    }

    /// [`Self::run`] of a part that is true or false.
    fn test<'a>(&'a self, facts: &Facts<'a>, locals: &mut Locals<'a>) -> Result<bool, Fault> {
        Ok(match self {
            Self::HasField(base, field) => match facts.read(*field, base.run(facts, locals)?) {
                Err(Fault::Missing(_)) => false,
                read => read.map(|_| true)?,
            },
            Self::HasKey(map, key) => {
                let key = key.run(facts, locals)?;
                map.run(facts, locals)?.map()?.get(key).is_some()
            }
            Self::InList(list, item) => {
                let item = item.run(facts, locals)?;
                list.run(facts, locals)?.list()?.contains(item)
            }
            Self::And(left, right) => logical(false, left, right, facts, locals)?,
            Self::Or(left, right) => logical(true, left, right, facts, locals)?,
            Self::Not(of) => !of.test(facts, locals)?,
            Self::Equal(left, right) => match (left.label(locals), right.label(locals)) {
                (Some(left), Some(right)) if left == right => true,
                _ => left.run(facts, locals)?.equals(right.run(facts, locals)?),
            },
            Self::IsText(of, text, name) => match (of.label(locals), name) {
                (Some(label), Some(name)) => label == name,
                _ => of.run(facts, locals)?.equals(Value::Text(text)),
            },
            Self::Compare(comparison, left, right) => {
                let order = left.run(facts, locals)?.compare(right.run(facts, locals)?)?;
                order.is_some_and(|order| comparison.accepts(order))
            }
            Self::CompareDoubles(comparison, left, right) => {
                let (left, right) = (left.double(facts, locals)?, right.double(facts, locals)?);
                left.partial_cmp(&right).is_some_and(|order| comparison.accepts(order))
            }
            Self::Text(test, text, part) => {
                let text = text.run(facts, locals)?.text()?;
                let part = part.run(facts, locals)?.text()?;
                match test {
                    TextTest::Contains => text.contains(part),
                    TextTest::StartsWith => text.starts_with(part),
                    TextTest::EndsWith => text.ends_with(part),
                }
            }
            Self::Loop(quantifier, range, body) => quantify(*quantifier, range, body, facts, locals)?,
            _ => self.run(facts, locals)?.bool()?,
        })
    }

    /// [`Self::run`] of a part that is a number.
    fn double<'a>(&'a self, facts: &Facts<'a>, locals: &mut Locals<'a>) -> Result<f64, Fault> {
        match self {
            Self::Constant(Constant::Double(value)) => return Ok(*value),
            Self::Doubles(operator, left, right) => {
                let left = left.double(facts, locals)?;
                return operator.of_doubles(left, right.double(facts, locals)?);
            }
            // What loops over objects ask most, on the short way.
            Self::Field(base, Field::DetectionScore) => {
                if let Some(Value::Detection(found)) = base.local(locals) {
                    return Ok(f64::from(found.score));
                }
            }
            Self::Index(list, place) => {
                if let (Self::Field(base, Field::DetectionBox), Self::Constant(Constant::Int(place))) =
                    (&**list, &**place)
                    && let Some(Value::Detection(found)) = base.local(locals)
                {
                    let place = usize::try_from(*place).ok();
                    return place
                        .and_then(|place| found.bbox.get(place))
                        .map(|side| f64::from(*side))
                        .ok_or(Fault::Index);
                }
            }
            _ => {}
        }
        self.run(facts, locals)?.to_double()
    }

    /// The item that a part is, when it is just one.
    fn local<'a>(&self, locals: &Locals<'a>) -> Option<Value<'a>> {
        match self {
            Self::Local(scope) => locals.get(*scope).copied(),
            _ => None,
        }
    }

    /// The label that a part is, when it is just that of an item.
    fn label<'a>(&self, locals: &Locals<'a>) -> Option<&'a ShortName> {
        match self {
            Self::Field(base, Field::DetectionLabel | Field::ClassLabel | Field::KeypointLabel) => {
                match base.local(locals)? {
                    Value::Detection(found) => Some(&found.label),
                    Value::Class(class) => Some(&class.label),
                    Value::Keypoint(point) => Some(&point.label),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Both sides of `&&` (decided by false) or `||` (decided by true). As CEL has it, a side that decides makes up for a
/// fault on the other.
fn logical<'a>(
    deciding: bool,
    left: &'a Node,
    right: &'a Node,
    facts: &Facts<'a>,
    locals: &mut Locals<'a>,
) -> Result<bool, Fault> {
    let left = left.test(facts, locals);
    if left == Ok(deciding) {
        return Ok(deciding);
    }
    match right.test(facts, locals)? {
        right if right == deciding => Ok(deciding),
        _ => left,
    }
}

fn quantify<'a>(
    quantifier: Quantifier,
    range: &'a Range,
    body: &'a Node,
    facts: &Facts<'a>,
    locals: &mut Locals<'a>,
) -> Result<bool, Fault> {
    let deciding = match quantifier {
        Quantifier::Exists => true,
        Quantifier::All => false,
        Quantifier::ExistsOne => {
            let mut count = 0;
            range.each(facts, locals, |locals| {
                count += u32::from(body.test(facts, locals)?);
                Ok(true)
            })?;
            return Ok(count == 1);
        }
    };
    // An item that decides makes up for faults of others, here too.
    let (mut decided, mut fault) = (false, None);
    range.each(facts, locals, |locals| {
        match body.test(facts, locals) {
            Ok(value) => decided = value == deciding,
            Err(found) => fault = Some(found),
        }
        Ok(!decided)
    })?;
    match fault {
        _ if decided => Ok(deciding),
        Some(fault) => Err(fault),
        None => Ok(!deciding),
    }
}

impl Range {
    /// Calls `visit` with each item in the range's scope, for as long as it says to go on. Filters are asked about every
    /// item even so: to CEL they come before the loop, and a fault in one is a fault of the whole.
    fn each<'a>(
        &'a self,
        facts: &Facts<'a>,
        locals: &mut Locals<'a>,
        mut visit: impl FnMut(&mut Locals<'a>) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let list = self.list.run(facts, locals)?.list()?;
        let mut goes_on = true;
        'items: for place in 0..list.len() {
            let item = list.get(place).ok_or(Fault::Index)?;
            *locals.get_mut(self.scope).ok_or(Fault::Type)? = item;
            for filter in &self.filters {
                if !filter.test(facts, locals)? {
                    continue 'items;
                }
            }
            goes_on = goes_on && visit(locals)?;
            if !goes_on && self.filters.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

impl Comparison {
    fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterEqual => order.is_ge(),
        }
    }
}

impl Operator {
    fn apply<'a>(self, left: Value<'_>, right: Value<'_>) -> Result<Value<'a>, Fault> {
        if let (Value::Int(a), Value::Int(b)) = (left, right) {
            if b == 0 && matches!(self, Self::Divide | Self::Remainder) {
                return Err(Fault::Division);
            }
            let result = match self {
                Self::Add => a.checked_add(b),
                Self::Subtract => a.checked_sub(b),
                Self::Multiply => a.checked_mul(b),
                Self::Divide => a.checked_div(b),
                Self::Remainder => a.checked_rem(b),
            };
            return result.map(Value::Int).ok_or(Fault::Overflow);
        }
        Err(Fault::Type)
    }

    fn of_doubles(self, a: f64, b: f64) -> Result<f64, Fault> {
        Ok(match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide => a / b,
            Self::Remainder => return Err(Fault::Type),
        })
    }
}

fn size(of: Value<'_>) -> Result<Value<'static>, Fault> {
    let size = match of {
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        text => text.text()?.chars().count(),
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}
