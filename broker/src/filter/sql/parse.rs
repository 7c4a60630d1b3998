//! From text to [`Condition`]. A library reads tokens and precedence; what of SQL a filter may say is decided here.
//!
//! Words are sorted out before the library sees them: one that is no keyword of ours becomes a quoted name, so that
//! properties may be called `date`, `case` or `select`, and nothing of SQL that we do not speak is ever tried. With
//! the bounds on operators and depth, no expression costs more than a bounded stack.

use super::condition::{Compare, Condition, Literal, Number, Part, Truth};
use super::like::Pattern;
use super::{DEPTH_MAX, OPERATORS_MAX, PATTERN_CHARACTERS_MAX, SqlError};
use sqlparser::ast::{BinaryOperator, Expr, Ident, InTarget, Spanned, UnaryOperator, Value};
use sqlparser::dialect::{Dialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// Words with a meaning, in any case of letters. The library knows them too.
const KEYWORDS: [&str; 11] = ["AND", "OR", "NOT", "BETWEEN", "IN", "LIKE", "ESCAPE", "IS", "NULL", "TRUE", "FALSE"];

/// Words with a meaning that are not SQL.
const PARTS: [(&str, Part); 3] = [("CONTAINS", Part::Any), ("STARTSWITH", Part::Start), ("ENDSWITH", Part::End)];

/// What the library may nest: it counts a level of parentheses more than once.
const LIBRARY_DEPTH: usize = 8 * DEPTH_MAX;

/// The condition, and the properties that it names.
pub(super) fn parse(text: &str) -> Result<(Condition, Vec<String>), SqlError> {
    let tokens = tokens(text)?;
    let end = end_of(text);
    let mut parser = Parser::new(&FilterDialect).with_recursion_limit(LIBRARY_DEPTH).with_tokens_with_locations(tokens);
    let parsed = parser.parse_expr().and_then(|expression| {
        let next = parser.peek_token_ref();
        match next.token {
            Token::EOF => Ok(expression),
            _ => parser.expected_ref("the end of the expression", next),
        }
    });
    let expression = parsed.map_err(|error| library_error(&error, end))?;
    let mut builder = Builder { names: Vec::new(), pattern_characters: 0, end };
    let condition = builder.condition(&expression)?;
    Ok((condition, builder.names))
}

fn error_at(place: Location, what: impl Into<String>) -> SqlError {
    SqlError { what: what.into(), line: place.line, column: place.column }
}

fn end_of(text: &str) -> Location {
    let last = text.rsplit('\n').next().unwrap_or_default();
    Location::new(1 + text.matches('\n').count() as u64, 1 + last.chars().count() as u64)
}

/// The library says the place at the end of its sentence, and nothing when that is the end of the text.
fn library_error(error: &ParserError, end: Location) -> SqlError {
    let sentence = match error {
        ParserError::TokenizerError(sentence) | ParserError::ParserError(sentence) => sentence.as_str(),
        ParserError::RecursionLimitExceeded => "it nests too deep",
    };
    let placed = sentence.rsplit_once(" at Line: ").and_then(|(what, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        Some(SqlError { what: what.to_owned(), line: line.parse().ok()?, column: column.parse().ok()? })
    });
    let mut error = placed.unwrap_or_else(|| error_at(end, sentence));
    if error.what.starts_with("Expected") {
        error.what.replace_range(..1, "e");
    }
    error
}

/// The tokens of the text, as far as filters may have them.
fn tokens(text: &str) -> Result<Vec<TokenWithSpan>, SqlError> {
    let read = Tokenizer::new(&FilterDialect, text).tokenize_with_location();
    let read = read.map_err(|error| error_at(error.location, error.message))?;
    let mut tokens: Vec<TokenWithSpan> = Vec::with_capacity(read.len());
    let mut operators = 0;
    // NOTs and signs in a row nest as parentheses do. The levels of the open parentheses, with what stands before each.
    let mut prefixes = 0_usize;
    let mut open: Vec<usize> = Vec::new();
    let mut depth = 0_usize;
    for mut token in read {
        let place = token.span.start;
        if matches!(token.token, Token::Whitespace(_)) {
            continue;
        }
        if joins(&token.token) && tokens.last().is_none_or(|before| wants_operand(&before.token)) {
            return Err(error_at(place, format!("expected: a property or a literal, found: {}", token.token)));
        }
        let level = 1 + prefixes;
        prefixes = if is_prefix(&token.token) { prefixes + 1 } else { 0 };
        match &mut token.token {
            Token::EOF => break,
            Token::Word(word) if word.quote_style.is_some() => {}
            Token::Word(word) => {
                let upper = word.value.to_ascii_uppercase();
                if KEYWORDS.contains(&upper.as_str()) {
                    operators += usize::from(!matches!(upper.as_str(), "ESCAPE" | "NULL" | "TRUE" | "FALSE"));
                } else if PARTS.iter().any(|(name, _)| *name == upper) {
                    operators += 1;
                    (word.value, word.keyword) = (upper, Keyword::NoKeyword);
                } else {
                    (word.quote_style, word.keyword) = (Some('"'), Keyword::NoKeyword);
                }
            }
            Token::Eq | Token::Neq | Token::Lt | Token::Gt | Token::LtEq | Token::GtEq => operators += 1,
            Token::LParen => {
                let before = tokens.last().map(|token| &token.token);
                if matches!(before, Some(Token::Word(word)) if word.quote_style.is_some()) {
                    return Err(error_at(place, "functions are not supported"));
                }
                open.push(level);
                depth += level;
            }
            Token::RParen => depth -= open.pop().unwrap_or_default(),
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Comma | Token::Minus | Token::Plus => {}
            Token::Mul | Token::Div | Token::Mod => {
                return Err(error_at(place, "arithmetic is not supported"));
            }
            Token::Period => {
                let what = "a name with '.' or '-' must stand in double quotes";
                return Err(error_at(place, what));
            }
            other => return Err(error_at(place, format!("{other} is not supported"))),
        }
        if depth + prefixes > DEPTH_MAX {
            return Err(error_at(place, format!("it nests deeper than {DEPTH_MAX} levels, the limit,")));
        }
        if operators > OPERATORS_MAX {
            return Err(error_at(place, format!("it has more than {OPERATORS_MAX} operators, the limit,")));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

/// A word that stands between, or behind, what it is about.
fn joins(token: &Token) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && matches!(
        word.keyword,
        Keyword::AND | Keyword::OR | Keyword::BETWEEN | Keyword::IN | Keyword::LIKE | Keyword::ESCAPE | Keyword::IS
    ))
}

/// A token that cannot be followed by such a word.
fn wants_operand(token: &Token) -> bool {
    match token {
        Token::LParen | Token::Comma => true,
        Token::Eq | Token::Neq | Token::Lt | Token::Gt | Token::LtEq | Token::GtEq => true,
        token => joins(token),
    }
}

fn is_prefix(token: &Token) -> bool {
    matches!(token, Token::Word(word) if word.keyword == Keyword::NOT) || matches!(token, Token::Minus | Token::Plus)
}

/// How a filter is written: names as in RocketMQ, and its three tests for parts of a text.
#[derive(Debug)]
struct FilterDialect;

impl Dialect for FilterDialect {
    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_' || ch == '$'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.is_identifier_start(ch) || ch.is_ascii_digit()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"'
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        part_ahead(parser).map(|_| Ok(self.prec_value(Precedence::Like)))
    }

    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, _: u8) -> Option<Result<Expr, ParserError>> {
        let (negated, name) = part_ahead(parser)?;
        if negated {
            parser.next_token();
        }
        parser.next_token();
        let text = parser.parse_subexpr(self.prec_value(Precedence::Like));
        Some(text.map(|text| {
            let test = Expr::BinaryOp {
                left: Box::new(expr.clone()),
                op: BinaryOperator::Custom(name.to_owned()),
                right: Box::new(text),
            };
            // `NOT CONTAINS` is a test of its own, and not the negation of `CONTAINS`: see `Condition::Part`.
            if negated { Expr::IsNotTrue(Box::new(test)) } else { test }
        }))
    }
}

/// `[NOT] CONTAINS` or its like, when they come next.
fn part_ahead(parser: &Parser) -> Option<(bool, &'static str)> {
    let part = |token: &Token| match token {
        Token::Word(word) if word.quote_style.is_none() => {
            PARTS.iter().map(|(name, _)| *name).find(|name| *name == word.value)
        }
        _ => None,
    };
    let first = &parser.peek_token_ref().token;
    if matches!(first, Token::Word(word) if word.keyword == Keyword::NOT) {
        return part(&parser.peek_nth_token_ref(1).token).map(|name| (true, name));
    }
    part(first).map(|name| (false, name))
}

/// A side of a comparison.
enum Operand {
    Property(usize),
    Literal(Literal),
}

struct Builder {
    names: Vec<String>,
    pattern_characters: usize,
    /// Stands in for places that the library does not say.
    end: Location,
}

impl Builder {
    fn fault(&self, of: &Expr, what: impl Into<String>) -> SqlError {
        let place = of.span().start;
        error_at(if place.line == 0 { self.end } else { place }, what)
    }

    fn condition(&mut self, expression: &Expr) -> Result<Condition, SqlError> {
        match expression {
            Expr::Nested(inner) => self.condition(inner),
            Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => self.joined(op, expression),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => Ok(Condition::Not(Box::new(self.condition(expr)?))),
            Expr::BinaryOp { left, op: BinaryOperator::Custom(name), right } => self.part(left, name, right, false),
            Expr::IsNotTrue(test) => match &**test {
                Expr::BinaryOp { left, op: BinaryOperator::Custom(name), right } => self.part(left, name, right, true),
                _ => Err(self.fault(expression, "only IS NULL and IS NOT NULL are supported")),
            },
            Expr::BinaryOp { left, op, right } => self.comparison(expression, left, op, right),
            Expr::IsNull(tested) => Ok(Condition::IsNull(self.property(tested, "IS NULL")?)),
            Expr::IsNotNull(tested) => {
                Ok(Condition::Not(Box::new(Condition::IsNull(self.property(tested, "IS NOT NULL")?))))
            }
            Expr::Between { expr, negated, low, high } => {
                let property = self.property(expr, "BETWEEN")?;
                let (low, high) = (self.number(low, "BETWEEN")?, self.bound(low, high)?);
                Ok(negated_if(*negated, Condition::Between(property, low, high)))
            }
            Expr::In { expr, target: InTarget::List(list), negated, global: false } => {
                let property = self.property(expr, "IN")?;
                let (mut texts, mut numbers) = (Vec::new(), Vec::new());
                for item in list {
                    match self.operand(item)? {
                        Operand::Literal(Literal::Text(text)) => texts.push(text),
                        Operand::Literal(Literal::Number(number)) => numbers.push(number),
                        _ => return Err(self.fault(item, "IN takes texts and numbers")),
                    }
                }
                texts.sort_unstable();
                texts.dedup();
                Ok(negated_if(*negated, Condition::In(property, texts, numbers)))
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char } => {
                let property = self.property(expr, "LIKE")?;
                let escape = escape_char.as_ref().map(|escape| self.escape(escape)).transpose()?;
                let text = self.text(pattern, "LIKE")?;
                self.pattern_characters += text.chars().count();
                if self.pattern_characters > PATTERN_CHARACTERS_MAX {
                    let what = format!("LIKE patterns have more than {PATTERN_CHARACTERS_MAX} characters, the limit,");
                    return Err(self.fault(pattern, what));
                }
                let pattern = Pattern::parse(&text, escape)
                    .ok_or_else(|| self.fault(pattern, "the escape character must stand before %, _ or itself"))?;
                Ok(negated_if(*negated, Condition::Like(property, pattern)))
            }
            _ => match self.operand(expression)? {
                // A property is a text, and a text is neither true nor false.
                Operand::Property(_) => Ok(Condition::Constant(Truth::Unknown)),
                Operand::Literal(Literal::Boolean(boolean)) => Ok(Condition::Constant(boolean.into())),
                Operand::Literal(_) => Err(self.fault(expression, "a condition is expected, not a value")),
            },
        }
    }

    /// `a AND b AND c` comes as a chain to the left, as long as the expression: it is not followed by recursion.
    fn joined(&mut self, op: &BinaryOperator, expression: &Expr) -> Result<Condition, SqlError> {
        let mut parts = Vec::new();
        let mut rest = expression;
        while let Expr::BinaryOp { left, op: next, right } = rest
            && next == op
        {
            parts.push(&**right);
            rest = left;
        }
        parts.push(rest);
        let parts = parts.into_iter().rev().map(|part| self.condition(part)).collect::<Result<_, _>>()?;
        Ok(if *op == BinaryOperator::And { Condition::All(parts) } else { Condition::Any(parts) })
    }

    fn comparison(
        &mut self,
        expression: &Expr,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
    ) -> Result<Condition, SqlError> {
        let (compare, negated) = match op {
            BinaryOperator::Eq => (Compare::Equal, false),
            BinaryOperator::NotEq => (Compare::Equal, true),
            BinaryOperator::Lt => (Compare::Less, false),
            BinaryOperator::LtEq => (Compare::LessOrEqual, false),
            BinaryOperator::Gt => (Compare::Greater, false),
            BinaryOperator::GtEq => (Compare::GreaterOrEqual, false),
            _ => return Err(self.fault(expression, "arithmetic is not supported")),
        };
        let condition = match (self.operand(left)?, self.operand(right)?) {
            (Operand::Property(one), Operand::Property(other)) => Condition::Properties(one, compare, other),
            (Operand::Property(property), Operand::Literal(literal)) => {
                self.ordered(right, compare, &literal)?;
                Condition::Literal(property, compare, literal)
            }
            (Operand::Literal(literal), Operand::Property(property)) => {
                self.ordered(left, compare, &literal)?;
                Condition::Literal(property, compare.turned(), literal)
            }
            (Operand::Literal(one), Operand::Literal(other)) => {
                self.ordered(left, compare, &one)?;
                self.ordered(right, compare, &other)?;
                let order = match (&one, &other) {
                    (Literal::Number(one), Literal::Number(other)) => one.compare(*other),
                    (Literal::Text(one), Literal::Text(other)) => one.cmp(other),
                    (Literal::Boolean(one), Literal::Boolean(other)) => one.cmp(other),
                    _ => return Err(self.fault(right, "a text, a number and a truth value cannot be compared")),
                };
                Condition::Constant(compare.holds(order).into())
            }
        };
        Ok(negated_if(negated, condition))
    }

    /// Only numbers have an order.
    fn ordered(&self, at: &Expr, compare: Compare, literal: &Literal) -> Result<(), SqlError> {
        match literal {
            Literal::Number(_) => Ok(()),
            _ if compare == Compare::Equal => Ok(()),
            _ => Err(self.fault(at, "<, <=, > and >= compare with numbers only")),
        }
    }

    fn part(&mut self, left: &Expr, name: &str, right: &Expr, negated: bool) -> Result<Condition, SqlError> {
        let (name, part) = PARTS.into_iter().find(|(known, _)| *known == name).unwrap_or(PARTS[0]);
        let property = self.property(left, name)?;
        Ok(Condition::Part { property, part, text: self.text(right, name)?, negated })
    }

    fn bound(&mut self, low: &Expr, high: &Expr) -> Result<Number, SqlError> {
        let (from, to) = (self.number(low, "BETWEEN")?, self.number(high, "BETWEEN")?);
        if from.compare(to).is_gt() {
            return Err(self.fault(low, "BETWEEN begins with the lower number"));
        }
        Ok(to)
    }

    fn property(&mut self, expression: &Expr, of: &str) -> Result<usize, SqlError> {
        match self.operand(expression)? {
            Operand::Property(property) => Ok(property),
            Operand::Literal(_) => Err(self.fault(expression, format!("{of} stands behind a property"))),
        }
    }

    fn number(&mut self, expression: &Expr, of: &str) -> Result<Number, SqlError> {
        match self.operand(expression)? {
            Operand::Literal(Literal::Number(number)) => Ok(number),
            _ => Err(self.fault(expression, format!("{of} takes numbers"))),
        }
    }

    fn text(&mut self, expression: &Expr, of: &str) -> Result<String, SqlError> {
        match self.operand(expression)? {
            Operand::Literal(Literal::Text(text)) => Ok(text),
            _ => Err(self.fault(expression, format!("{of} takes a text in single quotes"))),
        }
    }

    fn escape(&mut self, expression: &Expr) -> Result<char, SqlError> {
        let text = self.text(expression, "ESCAPE")?;
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(character), None) => Ok(character),
            _ => Err(self.fault(expression, "ESCAPE takes one character")),
        }
    }

    fn operand(&mut self, expression: &Expr) -> Result<Operand, SqlError> {
        match expression {
            Expr::Nested(inner) => self.operand(inner),
            Expr::Identifier(name) if name.quote_style.is_none() => {
                let what = format!("expected: a property or a literal, found: {}", name.value);
                Err(self.fault(expression, what))
            }
            Expr::Identifier(name) => Ok(Operand::Property(self.name(name))),
            Expr::Value(value) => match &value.value {
                Value::Number(text, _) => {
                    let number = Number::parse(text);
                    let number = number.ok_or_else(|| self.fault(expression, format!("{text} is out of range")))?;
                    Ok(Operand::Literal(Literal::Number(number)))
                }
                Value::SingleQuotedString(text) => Ok(Operand::Literal(Literal::Text(text.clone()))),
                Value::Boolean(boolean) => Ok(Operand::Literal(Literal::Boolean(*boolean))),
                Value::Null => Err(self.fault(expression, "NULL is compared by IS NULL and IS NOT NULL")),
                other => Err(self.fault(expression, format!("{other} is not supported"))),
            },
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => match self.operand(expr)? {
                number @ Operand::Literal(Literal::Number(_)) => Ok(number),
                _ => Err(self.fault(expression, "a sign stands before a number only")),
            },
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => self.negative(expression, expr),
            Expr::IsTrue(_) | Expr::IsFalse(_) | Expr::IsNotFalse(_) | Expr::IsUnknown(_) | Expr::IsNotUnknown(_) => {
                Err(self.fault(expression, "only IS NULL and IS NOT NULL are supported"))
            }
            Expr::BinaryOp { op: BinaryOperator::Plus | BinaryOperator::Minus, .. } => {
                Err(self.fault(expression, "arithmetic is not supported"))
            }
            Expr::BinaryOp { .. } | Expr::Between { .. } | Expr::In { .. } | Expr::Like { .. } => {
                Err(self.fault(expression, "a property or a literal is expected, not a condition"))
            }
            _ => Err(self.fault(expression, "this is not supported")),
        }
    }

    fn negative(&mut self, expression: &Expr, inner: &Expr) -> Result<Operand, SqlError> {
        // The lowest whole number has no positive twin.
        if let Expr::Value(value) = inner
            && let Value::Number(text, _) = &value.value
            && let Some(number) = Number::parse(&format!("-{text}"))
        {
            return Ok(Operand::Literal(Literal::Number(number)));
        }
        match self.operand(inner)? {
            Operand::Literal(Literal::Number(number)) => {
                let number = number.negated().ok_or_else(|| self.fault(expression, "the number is out of range"))?;
                Ok(Operand::Literal(Literal::Number(number)))
            }
            _ => Err(self.fault(expression, "a sign stands before a number only")),
        }
    }

    fn name(&mut self, name: &Ident) -> usize {
        if let Some(at) = self.names.iter().position(|known| *known == name.value) {
            return at;
        }
        self.names.push(name.value.clone());
        self.names.len() - 1
    }
}

fn negated_if(negated: bool, condition: Condition) -> Condition {
    if negated { Condition::Not(Box::new(condition)) } else { condition }
}
