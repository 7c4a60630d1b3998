//! SQL92 filters: `price > 10 AND region IN ('eu', 'us')` over the properties of a message, with SQL's three-valued
//! logic. A message is wanted when the expression is true; what is unknown is not wanted.
//!
//! ```text
//! text ─ parse.rs ─► Condition ─ condition.rs, like.rs ─► Truth
//! ```
//!
//! All properties are texts; the literal that one is compared with says what it is read as. Besides the properties
//! that the sender gave there are [`SYSTEM_PROPERTIES`], whose names no sender may use.
//!
//! The node that a client asks evaluates, and apply sees the outcome (`deliver/judge.rs`): replicas of two
//! versions may disagree about an expression, but never about the rows.

mod condition;
mod like;
mod parse;
#[cfg(test)]
mod tests;

use condition::{Condition, Truth};
use parking_lot::Mutex;
use raftmq_proto::command::StoredMessage;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// Operators `AND`, `OR` and `NOT`, and comparisons, of an expression: each may cost a look at a property.
pub const OPERATORS_MAX: usize = 512;

/// Levels of parentheses and `NOT`.
pub const DEPTH_MAX: usize = 32;

/// Characters of all `LIKE` patterns of an expression: each may be compared with each character of a property.
pub const PATTERN_CHARACTERS_MAX: usize = 1_024;

/// Parsed expressions that are kept; clients ask with the same few again and again.
const KEPT_MAX: usize = 128;

/// Names by which an expression reaches what is not a property of the sender's own.
pub const SYSTEM_PROPERTIES: [&str; 6] =
    ["TAGS", "KEYS", "UNIQ_KEY", "BORN_TIMESTAMP", "__BORNHOST", "TIMER_DELIVER_MS"];

/// Names the filter of an expression, for rows that remember something per filter: it must never change. The seed keeps
/// it apart from those of tags.
#[must_use]
pub fn digest(text: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(text.as_bytes(), 92)
}

/// Why a text is no filter, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter expression: {what} at line {line}, column {column}")]
pub struct SqlError {
    /// What is wrong.
    pub what: String,
    /// Line of the place, from 1.
    pub line: u64,
    /// Character in that line, from 1.
    pub column: u64,
}

/// A parsed expression.
#[derive(Debug)]
pub struct SqlFilter {
    text: Arc<str>,
    /// Properties that it names.
    names: Vec<String>,
    condition: Condition,
}

impl PartialEq for SqlFilter {
    fn eq(&self, other: &SqlFilter) -> bool {
        self.text == other.text
    }
}

impl Eq for SqlFilter {}

static KEPT: LazyLock<Mutex<HashMap<Arc<str>, Arc<SqlFilter>>>> = LazyLock::new(Mutex::default);

impl SqlFilter {
    /// The filter of an expression. Costs time in proportion to its length, and a bounded stack.
    ///
    /// # Errors
    /// [`SqlError`] when it is no condition over properties, or nests or joins too much.
    pub fn parse(text: &str) -> Result<Arc<SqlFilter>, SqlError> {
        if let Some(known) = KEPT.lock().get(text) {
            return Ok(known.clone());
        }
        let parsed = Arc::new(SqlFilter::parse_afresh(text)?);
        let mut kept = KEPT.lock();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(parsed.text.clone(), parsed.clone());
        Ok(parsed)
    }

    fn parse_afresh(text: &str) -> Result<SqlFilter, SqlError> {
        let (condition, names) = parse::parse(text)?;
        Ok(SqlFilter { text: text.into(), names, condition })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Whether a message is wanted.
    #[must_use]
    pub fn matches(&self, message: &StoredMessage) -> bool {
        self.truth(|name| property(message, name)) == Truth::True
    }

    fn truth<'m>(&self, property: impl Fn(&str) -> Option<Cow<'m, str>>) -> Truth {
        let values: Vec<_> = self.names.iter().map(|name| property(name)).collect();
        self.condition.truth(&values)
    }
}

/// A property by its name. One that is empty is there.
fn property<'m>(message: &'m StoredMessage, name: &str) -> Option<Cow<'m, str>> {
    match name {
        "TAGS" => message.tag.as_deref().map(Cow::Borrowed),
        "KEYS" => (!message.keys.is_empty()).then(|| message.keys.join(" ").into()),
        "UNIQ_KEY" => Some(Cow::Borrowed(&*message.message_id)),
        "BORN_TIMESTAMP" => Some(message.born_ms.to_string().into()),
        "__BORNHOST" => Some(Cow::Borrowed(&*message.born_host)),
        "TIMER_DELIVER_MS" => message.delivery_ms.map(|ms| ms.to_string().into()),
        _ => {
            let found = message.properties.iter().find(|property| property.key == name);
            found.map(|property| Cow::Borrowed(&*property.value))
        }
    }
}
