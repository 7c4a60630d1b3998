//! Which messages a consumer asked for: expressions become predicates here, and nothing else happens.

pub mod judged;
pub mod sql;
pub mod tag;

use raftmq_proto::command::{Filter, StoredMessage};
use sql::SqlFilter;
use std::sync::Arc;
use tag::{TagFilter, TagSet};

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageFilter {
    /// By tag.
    Tags(TagFilter),
    /// By an SQL92 expression over properties.
    Sql(Arc<SqlFilter>),
}

impl MessageFilter {
    /// Everything matches.
    #[must_use]
    pub fn all() -> MessageFilter {
        MessageFilter::Tags(TagFilter::all())
    }

    /// Whether a message is wanted.
    #[must_use]
    pub fn matches(&self, message: &StoredMessage) -> bool {
        match self {
            MessageFilter::Tags(tags) => tags.matches(message.tag.as_deref()),
            MessageFilter::Sql(sql) => sql.matches(message),
        }
    }

    /// The form that commands carry.
    #[must_use]
    pub fn to_command(&self) -> Filter {
        match self {
            MessageFilter::Tags(tags) => tags.to_command(),
            MessageFilter::Sql(sql) => Filter { tags: Vec::new(), sql: sql.text().to_string() },
        }
    }

    /// What rows keep of it.
    #[must_use]
    pub fn row(&self) -> FilterRow {
        match self {
            MessageFilter::Tags(tags) => FilterRow::Tags(tags.set()),
            MessageFilter::Sql(sql) => FilterRow::Sql(sql.text().clone()),
        }
    }
}

/// What rows keep of a filter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FilterRow {
    /// Hashes of the tags that it takes.
    Tags(TagSet),
    /// An expression. Only those who serve clients read it.
    Sql(Arc<str>),
}

impl FilterRow {
    /// Of a command's filter; no filter matches everything.
    #[must_use]
    pub fn of(filter: Option<&Filter>) -> FilterRow {
        match filter {
            Some(filter) if !filter.sql.is_empty() => FilterRow::Sql(filter.sql.as_str().into()),
            tags => FilterRow::Tags(TagSet::of(tags)),
        }
    }

    /// Whether a message may be wanted, as far as the hash of its tag says.
    #[must_use]
    pub fn may_match(&self, tag: u32) -> bool {
        match self {
            FilterRow::Tags(tags) => tags.matches(tag),
            FilterRow::Sql(_) => true,
        }
    }

    /// Names the filter, for rows that remember something per filter.
    #[must_use]
    pub fn digest(&self) -> u64 {
        match self {
            FilterRow::Tags(tags) => tags.digest(),
            FilterRow::Sql(text) => sql::digest(text),
        }
    }
}
