//! What expressions say of messages, and what is refused, and where.

use super::condition::Truth;
use super::{DEPTH_MAX, OPERATORS_MAX, SqlFilter};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use raftmq_proto::command::{Property, StoredMessage};

/// `a=1;b=x y` as a message. `TAGS`, `KEYS` and the like are set as such.
fn message(properties: &str) -> StoredMessage {
    let mut message = StoredMessage { message_id: "01AB".into(), born_ms: 1_000, ..StoredMessage::default() };
    for property in properties.split(';').filter(|property| !property.is_empty()) {
        let (key, value) = property.split_once('=').expect("key=value");
        match key {
            "TAGS" => message.tag = Some(value.into()),
            "KEYS" => message.keys = value.split(' ').map(str::to_owned).collect(),
            _ => message.properties.push(Property { key: key.into(), value: value.into() }),
        }
    }
    message
}

fn truth(expression: &str, properties: &str) -> Truth {
    let message = message(properties);
    let filter = SqlFilter::parse_afresh(expression).expect(expression);
    filter.truth(|name| super::property(&message, name))
}

#[track_caller]
fn check(expression: &str, yes: &[&str], no: &[&str], unknown: &[&str]) {
    for (messages, expected) in [(yes, Truth::True), (no, Truth::False), (unknown, Truth::Unknown)] {
        for properties in messages {
            assert_eq!(truth(expression, properties), expected, "{expression} of {properties:?}");
            let filter = SqlFilter::parse(expression).expect("parsed before");
            assert_eq!(filter.matches(&message(properties)), expected == Truth::True);
        }
    }
}

#[test]
fn comparisons() {
    check("a = 'x'", &["a=x"], &["a=y", "a=X", "a="], &["", "b=x"]);
    check("a <> 'x'", &["a=y", "a="], &["a=x"], &[""]);
    check("a != 'x'", &["a=y"], &["a=x"], &[""]);
    check("'x' = a", &["a=x"], &["a=y"], &[""]);
    check("a = 'it''s'", &["a=it's"], &["a=its"], &[""]);
    check("a = 1", &["a=1", "a=1.0", "a= 1 "], &["a=2", "a=1.5"], &["", "a=x", "a=", "a=inf"]);
    check("a = 1L", &["a=1"], &["a=2"], &[""]);
    check("a <> 1", &["a=2"], &["a=1"], &["a=x", ""]);
    check("a > 1.5", &["a=2", "a=1.6"], &["a=1", "a=1.5", "a=-7"], &["a=x", ""]);
    check("1.5 < a", &["a=2"], &["a=1"], &[""]);
    check("a >= -2", &["a=-2", "a=0"], &["a=-3"], &[""]);
    check("a <= +2", &["a=2"], &["a=3"], &[""]);
    check("a < 0.0", &["a=-0.1"], &["a=0", "a=1"], &[""]);
    check("a = 9007199254740993", &["a=9007199254740993"], &["a=9007199254740992"], &[]);
    check("a > 9223372036854775806.5", &[], &["a=9223372036854775806"], &[]);
    check("a = -9223372036854775808", &["a=-9223372036854775808"], &["a=9223372036854775807"], &[]);
    check("a = TRUE", &["a=true", "a=TRUE"], &["a=false"], &["a=yes", ""]);
    check("a = false", &["a=False"], &["a=true"], &["a=0", ""]);
    check("a = b", &["a=x;b=x"], &["a=x;b=y", "a=1;b=1.0"], &["a=x", "b=x", ""]);
    check("a > b", &["a=10;b=9"], &["a=9;b=10"], &["a=x;b=1", "a=1"]);
    check("1 < 2", &[""], &[], &[]);
    check("'a' = 'b'", &[], &[""], &[]);
}

#[test]
fn tests_of_a_property() {
    check("a BETWEEN 1 AND 3", &["a=1", "a=2.5", "a=3"], &["a=0", "a=3.1"], &["", "a=x"]);
    check("a NOT BETWEEN 1 AND 3", &["a=0"], &["a=1"], &["", "a=x"]);
    check("a IN ('x', 'y')", &["a=x", "a=y"], &["a=z", "a="], &[""]);
    check("a NOT IN ('x', 'y')", &["a=z"], &["a=x"], &[""]);
    check("a IN (1, 2)", &["a=1", "a=2.0"], &["a=3"], &["", "a=x"]);
    check("a in ('x', 2)", &["a=x", "a=2.0"], &["a=3", "a=y"], &[""]);
    check("a IS NULL", &[""], &["a=", "a=x"], &[]);
    check("a IS NOT NULL", &["a="], &[""], &[]);
    check("a LIKE 'x%'", &["a=x", "a=xyz"], &["a=yx", "a="], &[""]);
    check("a NOT LIKE '%x%'", &["a=y", "a="], &["a=x", "a=yxy"], &[""]);
    check("a LIKE '_b%d_'", &["a=abcde", "a=abde", "a=ébdé"], &["a=abde4", "a=bd"], &[""]);
    check("a LIKE '%ab%ab%'", &["a=abab", "a=xabyabz"], &["a=aba", "a=ab"], &[]);
    check("a LIKE 'ab%ba'", &["a=abba"], &["a=aba"], &[]);
    check("a LIKE '5!%%' ESCAPE '!'", &["a=5%", "a=5% off"], &["a=50"], &[]);
    check("a LIKE ''", &["a="], &["a=x"], &[""]);
}

#[test]
fn parts_of_a_text() {
    check("a CONTAINS 'b'", &["a=abc", "a=b"], &["a=ac", "", "a="], &[]);
    check("a NOT CONTAINS 'b'", &["a=ac", "a="], &["a=abc", ""], &[]);
    check("a STARTSWITH 'b'", &["a=bc"], &["a=cb", ""], &[]);
    check("a NOT STARTSWITH 'b'", &["a=cb"], &["a=bc", ""], &[]);
    check("a EndsWith 'b'", &["a=cb"], &["a=bc", ""], &[]);
    check("a NOT ENDSWITH 'b' AND c = 1", &["a=x;c=1"], &["a=b;c=1", "c=1"], &["a=x"]);
    check("a CONTAINS ''", &[], &["a=x", ""], &[]);
    check("a NOT CONTAINS ''", &[], &["a=x", ""], &[]);
    check("NOT (a CONTAINS 'b')", &["a=x", ""], &["a=b"], &[]);
}

#[test]
fn words_and_names() {
    check("TRUE", &[""], &[], &[]);
    check("false", &[], &[""], &[]);
    check("a", &[], &[], &["a=true", ""]);
    check("not a", &[], &[], &["a=true", "a=false"]);
    check("A = 1", &["A=1"], &[], &["a=1"]);
    check("$a_1 = 'x'", &["$a_1=x"], &[], &[]);
    check("date = 'x' and case = 'y' or select = 'z'", &["date=x;case=y", "select=z"], &[], &["date=x"]);
    check("interval > 3 AND position IS NOT NULL", &["interval=4;position=1"], &["interval=4"], &[]);
    check("\"trace-id\" = 'x' AND \"a.b\" = 'y'", &["trace-id=x;a.b=y"], &[], &["trace-id=x"]);
    check("größe = 'x'", &["größe=x"], &[], &[]);
    check("a = 1 -- the first\n AND /* and */ b = 2", &["a=1;b=2"], &["a=1;b=3"], &[]);
    check("TAGS = 'paid' AND KEYS CONTAINS 'k2'", &["TAGS=paid;KEYS=k1 k2"], &["TAGS=paid;KEYS=k1"], &[]);
    check("TAGS IS NULL AND KEYS IS NULL AND UNIQ_KEY = '01AB' AND BORN_TIMESTAMP = 1000", &[""], &["TAGS=x"], &[]);
}

#[test]
fn precedence() {
    check("a = 1 OR b = 1 AND c = 1", &["a=1;b=0;c=0", "a=0;b=1;c=1"], &["a=0;b=1;c=0"], &[]);
    check("(a = 1 OR b = 1) AND c = 1", &["a=1;b=0;c=1"], &["a=1;b=0;c=0"], &[]);
    check("NOT a = 1 AND b = 1", &["a=0;b=1"], &["a=1;b=1", "a=0;b=0"], &[]);
    check("NOT (a = 1 AND b = 1)", &["a=0;b=1", "a=0"], &["a=1;b=1"], &["a=1"]);
    check("a BETWEEN 1 AND 2 AND b = 1", &["a=1;b=1"], &["a=1;b=0"], &[]);
    check("NOT NOT a = 1", &["a=1"], &["a=0"], &[""]);
}

#[track_caller]
fn refused(expression: &str, expected: &str) {
    let error = SqlFilter::parse(expression).expect_err(expression);
    assert_eq!(error.to_string(), format!("filter expression: {expected}"), "{expression}");
}

#[test]
fn refusals_say_where() {
    let at = |what: &str, line: u64, column: u64| format!("{what} at line {line}, column {column}");
    refused("", &at("expected: an expression, found: EOF", 1, 1));
    refused("a = ", &at("expected: an expression, found: EOF", 1, 5));
    refused("a = 1 AND\n AND b = 2", &at("expected: a property or a literal, found: AND", 2, 2));
    refused("NOT AND", &at("expected: a property or a literal, found: AND", 1, 5));
    refused("contains = 1", &at("expected: a property or a literal, found: CONTAINS", 1, 1));
    refused("a = 1 b", &at("expected: the end of the expression, found: \"b\"", 1, 7));
    refused("(a = 1", &at("expected: ), found: EOF", 1, 7));
    refused("a = 'x", &at("Unterminated string literal", 1, 5));
    refused("a > 'x'", &at("<, <=, > and >= compare with numbers only", 1, 5));
    refused("a = NULL", &at("NULL is compared by IS NULL and IS NOT NULL", 1, 5));
    refused("a BETWEEN 3 AND 1", &at("BETWEEN begins with the lower number", 1, 11));
    refused("a BETWEEN 'x' AND 'y'", &at("BETWEEN takes numbers", 1, 11));
    refused("a IN (b)", &at("IN takes texts and numbers", 1, 7));
    refused("1 IN (1)", &at("IN stands behind a property", 1, 1));
    refused("a CONTAINS b", &at("CONTAINS takes a text in single quotes", 1, 12));
    refused("a LIKE 'x!' ESCAPE '!'", &at("the escape character must stand before %, _ or itself", 1, 8));
    refused("a LIKE 'x' ESCAPE '!!'", &at("ESCAPE takes one character", 1, 19));
    refused("lower(a) = 'x'", &at("functions are not supported", 1, 6));
    refused("a.b = 1", &at("a name with '.' or '-' must stand in double quotes", 1, 2));
    refused("a-b = 1", &at("arithmetic is not supported", 1, 1));
    refused("a * 2 = 4", &at("arithmetic is not supported", 1, 3));
    refused("-a = 4", &at("a sign stands before a number only", 1, 2));
    refused("5", &at("a condition is expected, not a value", 1, 1));
    refused("a = 1 AND 'x'", &at("a condition is expected, not a value", 1, 11));
    refused("1 = 'x'", &at("a text, a number and a truth value cannot be compared", 1, 5));
    refused("a = 1e999", &at("1e999 is out of range", 1, 5));
    refused("a = 1; b = 2", &at("; is not supported", 1, 6));
    refused("a IN (SELECT b)", &at("expected: ), found: \"b\"", 1, 14));
    refused("a || b", &at("|| is not supported", 1, 3));
    refused("(a = 1) = (b = 2)", &at("a property or a literal is expected, not a condition", 1, 2));
}

#[test]
fn costs_are_bounded() {
    let parts = |count: usize| vec!["a=1"; count].join(" OR ");
    assert!(SqlFilter::parse_afresh(&parts(OPERATORS_MAX / 2)).is_ok());
    let error = SqlFilter::parse_afresh(&parts(OPERATORS_MAX)).expect_err("too many").to_string();
    assert!(error.contains("more than 512 operators"), "{error}");

    let nested = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(truth(&nested(DEPTH_MAX), "a=1"), Truth::True);
    for deep in [nested(DEPTH_MAX + 1), nested(100_000), format!("{}TRUE", "NOT ".repeat(DEPTH_MAX + 1))] {
        let error = SqlFilter::parse_afresh(&deep).expect_err("too deep").to_string();
        assert!(error.contains("deeper than 32 levels"), "{error}");
    }
    assert!(SqlFilter::parse_afresh(&format!("a = {}1", "- ".repeat(100_000))).is_err());
    let mixed = format!("{}a = 1{}", "NOT (".repeat(DEPTH_MAX), ")".repeat(DEPTH_MAX));
    assert!(SqlFilter::parse_afresh(&mixed).is_err(), "a NOT is a level too");
    // The long way: what is refused late must still be refused soon.
    for broken in ["(".repeat(16_000), "a IN (".repeat(2_000), "a BETWEEN ".repeat(500), "((((a)))) = ".repeat(200)] {
        assert!(SqlFilter::parse_afresh(&broken).is_err());
    }
    let like = |characters: usize| format!("a LIKE '{}%' OR a LIKE 'x'", "_".repeat(characters));
    assert!(SqlFilter::parse_afresh(&like(1_022)).is_ok());
    let error = SqlFilter::parse_afresh(&like(1_023)).expect_err("too long").to_string();
    assert!(error.contains("more than 1024 characters"), "{error}");
    let list: Vec<_> = (0..3_000).map(|number| format!("'{number}'")).collect();
    assert_eq!(truth(&format!("a IN ({})", list.join(",")), "a=2999"), Truth::True);
}

/// An expression over a, b and c, with what it must be for values of theirs that are numbers or absent.
fn expressions() -> impl Strategy<Value = (String, Vec<(usize, i64)>)> {
    let leaf = (0_usize..3, 0_i64..3);
    proptest::collection::vec(leaf, 1..5).prop_map(|leaves| (String::new(), leaves))
}

/// Kleene's logic, told by hand.
fn kleene(op: usize, one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match op {
        0 => match (one, other) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        },
        _ => match (one, other) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        },
    }
}

fn told(truth: Truth) -> Option<bool> {
    match truth {
        Truth::True => Some(true),
        Truth::False => Some(false),
        Truth::Unknown => None,
    }
}

const WORDS: [&str; 36] = [
    "a",
    "b",
    "\"c-d\"",
    "'x'",
    "'%x_'",
    "''",
    "1",
    "-2.5",
    "1e3",
    "TRUE",
    "FALSE",
    "NULL",
    "AND",
    "OR",
    "NOT",
    "(",
    ")",
    ",",
    "=",
    "<>",
    "<",
    ">=",
    "BETWEEN",
    "IN",
    "LIKE",
    "ESCAPE",
    "IS",
    "CONTAINS",
    "STARTSWITH",
    "ENDSWITH",
    "TAGS",
    "--",
    "\n",
    ".",
    "+",
    "DATE",
];

proptest! {
    #[test]
    fn and_or_not_are_kleenes(
        (_, leaves) in expressions(),
        values in proptest::collection::vec(proptest::option::of(0_i64..3), 3),
        ops in proptest::collection::vec((0_usize..2, any::<bool>()), 5),
    ) {
        let properties: Vec<_> = ["a", "b", "c"]
            .iter()
            .zip(&values)
            .filter_map(|(name, value)| value.map(|value| format!("{name}={value}")))
            .collect();
        let properties = properties.join(";");
        let leaf = |(property, number): (usize, i64)| {
            (format!("{} = {number}", ["a", "b", "c"][property]), values[property].map(|value| value == number))
        };
        let (mut text, mut expected) = leaf(leaves[0]);
        for (next, (op, negate)) in leaves[1..].iter().zip(&ops) {
            let (other, value) = leaf(*next);
            text = format!("({text}) {} ({other})", ["AND", "OR"][*op]);
            expected = kleene(*op, expected, value);
            if *negate {
                text = format!("NOT ({text})");
                expected = expected.map(|value| !value);
            }
        }
        prop_assert_eq!(told(truth(&text, &properties)), expected, "{} of {}", text, properties);
    }

    #[test]
    fn texts_of_words_never_panic(
        words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..40),
        properties in proptest::sample::select(vec!["", "a=1;b=x", "a=;b=true;c-d=%x_", "TAGS=x"]),
    ) {
        if let Ok(filter) = SqlFilter::parse_afresh(&words.join(" ")) {
            let _ = filter.matches(&message(properties));
        }
    }

    #[test]
    fn any_text_never_panics(
        text in prop_oneof![any::<String>(), "[ -~\n]{0,60}", Just(String::new())],
        value in any::<String>(),
    ) {
        if let Ok(filter) = SqlFilter::parse_afresh(&text) {
            let mut message = message("");
            message.properties.push(Property { key: "a".into(), value });
            let _ = filter.matches(&message);
        }
        prop_assert!(true);
    }
}
