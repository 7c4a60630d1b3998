//! What a parsed expression is, and what it says of a message.

use super::like::Pattern;
use std::borrow::Cow;
use std::cmp::Ordering;

/// Values of the properties that an expression names, in its order.
type Values<'v, 'm> = &'v [Option<Cow<'m, str>>];

/// What a condition is for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    False,
    /// A property is not there, or cannot be read as what it is compared with.
    Unknown,
    True,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Truth {
        if value { Truth::True } else { Truth::False }
    }
}

impl Truth {
    pub(super) fn not(self) -> Truth {
        match self {
            Truth::False => Truth::True,
            Truth::Unknown => Truth::Unknown,
            Truth::True => Truth::False,
        }
    }

    fn not_if(self, negated: bool) -> Truth {
        if negated { self.not() } else { self }
    }
}

/// A number as it is written. Whole ones keep all their digits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Whole(i64),
    /// Finite.
    Real(f64),
}

impl Number {
    /// `None` for what is no number, and for one that has no end.
    pub(super) fn parse(text: &str) -> Option<Number> {
        let text = text.trim();
        if let Ok(whole) = text.parse() {
            return Some(Number::Whole(whole));
        }
        // Names of numbers, such as "inf", are not numbers here.
        let digits = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
        let real = text.chars().all(digits).then(|| text.parse().ok()).flatten();
        real.filter(|real: &f64| real.is_finite()).map(Number::Real)
    }

    pub(super) fn negated(self) -> Option<Number> {
        match self {
            Number::Whole(whole) => whole.checked_neg().map(Number::Whole),
            Number::Real(real) => Some(Number::Real(-real)),
        }
    }

    pub(super) fn compare(self, other: Number) -> Ordering {
        match (self, other) {
            (Number::Whole(one), Number::Whole(other)) => one.cmp(&other),
            (Number::Whole(one), Number::Real(other)) => whole_and_real(one, other),
            (Number::Real(one), Number::Whole(other)) => whole_and_real(other, one).reverse(),
            // Both are finite.
            (Number::Real(one), Number::Real(other)) => one.partial_cmp(&other).unwrap_or(Ordering::Equal),
        }
    }
}

/// Exact, though an f64 has not the digits of every i64.
fn whole_and_real(whole: i64, real: f64) -> Ordering {
    // 2^63 and beyond lie outside of i64.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if real >= BEYOND {
        return Ordering::Less;
    }
    if real < -BEYOND {
        return Ordering::Greater;
    }
    // In range, and without its fraction exact.
    #[allow(clippy::cast_possible_truncation)]
    let floor = real.floor() as i64;
    whole.cmp(&floor).then(if real > real.floor() { Ordering::Less } else { Ordering::Equal })
}

/// What a property is compared with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Text(String),
    Number(Number),
    Boolean(bool),
}

/// Which order two values must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Compare {
    pub(super) fn holds(self, order: Ordering) -> bool {
        match self {
            Compare::Equal => order.is_eq(),
            Compare::Less => order.is_lt(),
            Compare::LessOrEqual => order.is_le(),
            Compare::Greater => order.is_gt(),
            Compare::GreaterOrEqual => order.is_ge(),
        }
    }

    /// The same with its sides exchanged.
    pub(super) fn turned(self) -> Compare {
        match self {
            Compare::Equal => Compare::Equal,
            Compare::Less => Compare::Greater,
            Compare::LessOrEqual => Compare::GreaterOrEqual,
            Compare::Greater => Compare::Less,
            Compare::GreaterOrEqual => Compare::LessOrEqual,
        }
    }
}

/// Which part of a property a text must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Any,
    Start,
    End,
}

/// A condition over properties, which go by their place among the names of the expression.
#[derive(Debug)]
pub(super) enum Condition {
    Constant(Truth),
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    /// A property compared with a literal.
    Literal(usize, Compare, Literal),
    /// Two properties: their texts for equality, their numbers for an order.
    Properties(usize, Compare, usize),
    Between(usize, Number, Number),
    /// Texts, sorted, and numbers.
    In(usize, Vec<String>, Vec<Number>),
    Like(usize, Pattern),
    IsNull(usize),
    /// `CONTAINS` and its like. False, never unknown, for a property that is not there, negated or not; so it is for
    /// an empty text.
    Part {
        property: usize,
        part: Part,
        text: String,
        negated: bool,
    },
}

impl Condition {
    /// What it says of these values. As deep as the expression nests, see [`super::DEPTH_MAX`].
    pub(super) fn truth(&self, values: Values<'_, '_>) -> Truth {
        let of = |property: usize| values.get(property).and_then(|value| value.as_deref());
        let known = |property, test: &dyn Fn(&str) -> Option<bool>| {
            of(property).and_then(test).map_or(Truth::Unknown, Truth::from)
        };
        match self {
            Condition::Constant(truth) => *truth,
            Condition::All(parts) => {
                let mut all = Truth::True;
                for part in parts {
                    all = all.min(part.truth(values));
                    if all == Truth::False {
                        break;
                    }
                }
                all
            }
            Condition::Any(parts) => {
                let mut any = Truth::False;
                for part in parts {
                    any = any.max(part.truth(values));
                    if any == Truth::True {
                        break;
                    }
                }
                any
            }
            Condition::Not(part) => part.truth(values).not(),
            Condition::Literal(property, compare, literal) => known(*property, &|value| match literal {
                Literal::Text(text) => Some(compare.holds(value.cmp(text))),
                Literal::Number(number) => Some(compare.holds(Number::parse(value)?.compare(*number))),
                Literal::Boolean(boolean) => Some(self::boolean(value)? == *boolean),
            }),
            Condition::Properties(one, compare, other) => known(*one, &|one| {
                let other = of(*other)?;
                Some(match compare {
                    Compare::Equal => one == other,
                    order => order.holds(Number::parse(one)?.compare(Number::parse(other)?)),
                })
            }),
            Condition::Between(property, low, high) => known(*property, &|value| {
                let value = Number::parse(value)?;
                Some(value.compare(*low).is_ge() && value.compare(*high).is_le())
            }),
            Condition::In(property, texts, numbers) => known(*property, &|value| {
                let among = texts.binary_search_by(|text| text.as_str().cmp(value)).is_ok();
                if among || numbers.is_empty() {
                    return Some(among);
                }
                match Number::parse(value) {
                    Some(value) => Some(numbers.iter().any(|number| number.compare(value).is_eq())),
                    None => texts.first().map(|_| false),
                }
            }),
            Condition::Like(property, pattern) => known(*property, &|value| Some(pattern.matches(value))),
            Condition::IsNull(property) => of(*property).is_none().into(),
            Condition::Part { property, part, text, negated } => {
                let Some(value) = of(*property).filter(|_| !text.is_empty()) else { return Truth::False };
                let found = match part {
                    Part::Any => value.contains(text.as_str()),
                    Part::Start => value.starts_with(text.as_str()),
                    Part::End => value.ends_with(text.as_str()),
                };
                Truth::from(found).not_if(*negated)
            }
        }
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value.trim() {
        value if value.eq_ignore_ascii_case("true") => Some(true),
        value if value.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}
