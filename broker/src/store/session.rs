//! Sessions: which clients are members of which consumer groups, and what they subscribe to.

use super::codec::{Reader, put_bytes, put_varint};
use super::{ConsumerGroupId, LeaseId, StateError, key};
use crate::filter::FilterRow;
use crate::filter::tag::TagSet;
use raft_store::ReadState;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::SESSION.0 as usize];

/// A client's membership of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Session {
    /// Topic names with their filters, by name.
    pub subscriptions: Vec<(String, FilterRow)>,
}

/// Stands in place of the number of tags: an expression follows.
const SQL: u32 = u32::MAX;

fn put_filter(out: &mut Vec<u8>, filter: &FilterRow) {
    match filter {
        FilterRow::Tags(set) => {
            put_varint(out, set.hashes().len() as u64);
            set.hashes().iter().for_each(|hash| out.extend_from_slice(&hash.to_be_bytes()));
        }
        FilterRow::Sql(text) => {
            put_varint(out, u64::from(SQL));
            put_bytes(out, text.as_bytes());
        }
    }
}

fn take_filter(reader: &mut Reader<'_>) -> Result<FilterRow, StateError> {
    let count = reader.varint_u32()?;
    if count == SQL {
        return Ok(FilterRow::Sql(reader.text()?.into()));
    }
    let mut hashes = Vec::with_capacity(reader.capacity(count));
    for _ in 0..count {
        hashes.push(reader.u32()?);
    }
    Ok(FilterRow::Tags(TagSet::of_hashes(hashes)))
}

impl Session {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (topic, filter) in &self.subscriptions {
            put_bytes(&mut out, topic.as_bytes());
            put_filter(&mut out, filter);
        }
        out
    }

    fn decode(value: &[u8]) -> Result<Session, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let mut session = Session::default();
        while reader.capacity(1) > 0 {
            session.subscriptions.push((reader.text()?, take_filter(&mut reader)?));
        }
        Ok(session)
    }
}

/// Filters of the live members of a consumer group for a topic, with the number of members for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Filters {
    pub(crate) filters: Vec<(FilterRow, u32)>,
}

impl Filters {
    /// Whether a live member may want a message, as far as the hash of its tag says.
    pub(crate) fn may_match(&self, tag: u32) -> bool {
        self.filters.iter().any(|(filter, _)| filter.may_match(tag))
    }

    pub(crate) fn add(&mut self, filter: &FilterRow) {
        match self.filters.iter_mut().find(|(known, _)| known == filter) {
            Some((_, members)) => *members += 1,
            None => self.filters.push((filter.clone(), 1)),
        }
    }

    pub(crate) fn remove(&mut self, filter: &FilterRow) {
        if let Some(at) = self.filters.iter().position(|(known, _)| known == filter) {
            self.filters[at].1 -= 1;
            if self.filters[at].1 == 0 {
                self.filters.remove(at);
            }
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (filter, members) in &self.filters {
            put_varint(&mut out, u64::from(*members));
            put_filter(&mut out, filter);
        }
        out
    }

    fn decode(value: &[u8]) -> Result<Filters, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let mut filters = Filters::default();
        while reader.capacity(1) > 0 {
            let members = reader.varint_u32()?;
            if members == 0 {
                return Err(reader.corrupt("a filter has no members"));
            }
            filters.filters.push((take_filter(&mut reader)?, members));
        }
        Ok(filters)
    }
}

pub(crate) fn filters(state: &impl ReadState, group: ConsumerGroupId, topic: &str) -> Result<Filters, StateError> {
    let value = state.get(key::SESSION, &key::filters(group, topic))?;
    value.map_or(Ok(Filters::default()), |value| Filters::decode(&value))
}

/// A client's session in a consumer group.
///
/// # Errors
/// When the row cannot be read.
pub fn session(state: &impl ReadState, client_id: &str, group: ConsumerGroupId) -> Result<Option<Session>, StateError> {
    let value = state.get(key::SESSION, &key::session(client_id, group))?;
    value.map(|value| Session::decode(&value)).transpose()
}

fn parse(key: &[u8]) -> Result<(String, ConsumerGroupId), StateError> {
    let mut reader = Reader::new(TABLE, key);
    reader.u8()?;
    let length = reader.u32()? as usize;
    let client_id =
        String::from_utf8(reader.take(length)?.to_vec()).map_err(|_| reader.corrupt("a client id is not UTF-8"))?;
    Ok((client_id, ConsumerGroupId(reader.u64()?)))
}

/// All sessions: client id, consumer group and subscriptions, by client. A client's sessions are neighbours.
///
/// # Errors
/// When a row cannot be read.
pub fn sessions(state: &impl ReadState) -> Result<Vec<(String, ConsumerGroupId, Session)>, StateError> {
    scan(state, key::SESSIONS, usize::MAX)
}

pub(crate) fn sessions_of(
    state: &impl ReadState,
    client_id: &str,
    rows_max: usize,
) -> Result<Vec<(String, ConsumerGroupId, Session)>, StateError> {
    scan(state, &key::sessions(client_id), rows_max)
}

fn scan(
    state: &impl ReadState,
    prefix: &[u8],
    rows_max: usize,
) -> Result<Vec<(String, ConsumerGroupId, Session)>, StateError> {
    let mut rows = Vec::new();
    state.scan(key::SESSION, prefix, &key::after(prefix), &mut |key, value| {
        rows.push(parse(key).and_then(|(client_id, group)| Ok((client_id, group, Session::decode(value)?))));
        if rows.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    rows.into_iter().collect()
}

/// A client's renewed leases with their keys, from key `from` on: one more than `rows_max` when there are.
#[allow(clippy::type_complexity)]
pub(crate) fn leases_of(
    state: &impl ReadState,
    client_id: &str,
    from: &[u8],
    rows_max: usize,
) -> Result<Vec<(Vec<u8>, ConsumerGroupId, LeaseId)>, StateError> {
    let prefix = key::client_leases(client_id);
    let mut rows = Vec::new();
    state.scan(key::SESSION, from.max(&prefix[..]), &key::after(&prefix), &mut |key, _| {
        let group = super::codec::key_u64(TABLE, key, prefix.len()).map(ConsumerGroupId);
        let lease = super::codec::key_u64(TABLE, key, prefix.len() + 8).map(LeaseId);
        rows.push(group.and_then(|group| Ok((key.to_vec(), group, lease?))));
        if rows.len() <= rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    rows.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::{ConsumerGroupId, Filters, Session, key, parse};
    use crate::filter::FilterRow;
    use crate::filter::tag::TagFilter;

    fn set(expression: &str) -> FilterRow {
        match expression.strip_prefix("sql ") {
            Some(text) => FilterRow::Sql(text.into()),
            None => FilterRow::Tags(TagFilter::parse(expression).expect("good expression").set()),
        }
    }

    #[test]
    fn rows_come_back() {
        let session = Session {
            subscriptions: vec![("a".into(), set("*")), ("b".into(), set("x || y")), ("c".into(), set("sql a = 1"))],
        };
        assert_eq!(Session::decode(&session.encode()).expect("comes back"), session);
        assert_eq!(parse(&key::session("c@1", ConsumerGroupId(7))).expect("key"), ("c@1".into(), ConsumerGroupId(7)));
    }

    #[test]
    fn filters_count_their_members() {
        let mut filters = Filters::default();
        filters.add(&set("x"));
        filters.add(&set("x"));
        filters.add(&set("*"));
        filters.add(&set("sql x = 1"));
        filters.add(&set("sql x = 2"));
        assert_eq!(Filters::decode(&filters.encode()).expect("comes back"), filters);
        filters.remove(&set("*"));
        filters.remove(&set("sql x = 1"));
        filters.remove(&set("sql x = 2"));
        filters.remove(&set("x"));
        assert_eq!(filters.filters, [(set("x"), 1)]);
        filters.remove(&set("y"));
        filters.remove(&set("x"));
        assert_eq!(filters, Filters::default());
    }
}
