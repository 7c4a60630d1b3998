//! Lite topics: cheap queues by name under a topic of LITE messages, and who receives them.
//!
//! A lite topic is a topic with one queue, whose row stands apart from those that people list. Its name is made of the
//! id of the topic that it belongs to, so that one that is deleted and created again inherits none. A consumer group is
//! bound to one topic of LITE messages; each of its clients says which lite topics it receives, and those that receive
//! the same one share its progress. Of a lite topic a consumer group has one unfinished message at most: a `q` row says
//! that there is one to hand out and none unfinished, so that nobody looks through lite topics that have nothing.

use super::codec::{Reader, key_u64, put_varint};
use super::topic::is_internal;
use super::{ConsumerGroupId, StateError, TopicId, key, machine, progress, queue, retention, subscription};
use raft_store::ReadState;
use raftmq_proto::command::{ConsumerGroup, Topic};
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::SESSION.0 as usize];

/// `apache.rocketmq.v2.MessageType.LITE`.
pub const LITE: i32 = 5;

/// The attribute of a consumer group that names the topic whose lite topics it receives.
pub const BIND: &str = "lite.bind.topic";
/// The attribute of a consumer group that says how many lite topics a client of it may receive.
pub const CLIENT_QUOTA: &str = "lite.sub.client.quota";
/// Where that attribute says nothing.
pub const CLIENT_QUOTA_DEFAULT: u64 = 2_000;
/// A client may briefly have so many more, while it goes from some to others.
pub const CLIENT_QUOTA_SLACK: u64 = 300;
/// The attribute of a consumer group that says whether several clients may receive the same lite topic.
pub const MODEL: &str = "lite.sub.model";
/// Its values.
pub const MODELS: [&str; 2] = ["Shared", "Exclusive"];

/// The attribute of a topic that says after how many minutes without a new message a lite topic goes that nobody
/// receives.
pub const EXPIRATION: &str = "lite.topic.expiration";
/// The smallest value of that attribute.
pub const EXPIRATION_MINUTES_MIN: u64 = 15;
/// The attribute of a topic that says how many lite topics it may have.
pub const TOPIC_QUOTA: &str = "lite.topic.quota";
/// Where that attribute says nothing.
pub const TOPIC_QUOTA_DEFAULT: u64 = 100_000;

/// Subscriptions to lite topics in a broker group.
pub const SUBSCRIPTIONS_MAX: u64 = 100_000;
/// Consumer groups that may receive one lite topic.
pub const GROUPS_MAX: usize = 64;
/// What a client receives lapses when it has not said so again for this long.
pub const LAPSE_MS: u64 = 180_000;

/// Steps of one search for lite topics that have a message.
const STEPS_MAX: usize = 4_096;

const PREFIX: &str = "%LMQ%$";

/// The name of a lite topic's row. No topic can have one like it: `$` stands in no name.
#[must_use]
pub fn row_name(parent: TopicId, lite: &str) -> String {
    format!("{}{lite}", row_prefix(parent))
}

/// What the names of the rows of a topic's lite topics begin with.
#[must_use]
pub fn row_prefix(parent: TopicId) -> String {
    format!("{PREFIX}{}$", parent.0)
}

/// Whether a name is that of a lite topic's row.
#[must_use]
pub fn is_row_name(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// A lite topic's own name.
#[must_use]
pub fn lite_name(row_name: &str) -> Option<&str> {
    row_name.strip_prefix(PREFIX)?.split_once('$').map(|(_, name)| name)
}

/// Whether a topic has lite topics.
#[must_use]
pub fn has_lite_topics(topic: &Topic) -> bool {
    topic.message_types.contains(&LITE) && topic.lite_parent == 0
}

/// The topic whose lite topics a consumer group receives; `None` for a consumer group of other messages.
#[must_use]
pub fn bound_to(group: &ConsumerGroup) -> Option<&str> {
    group.attributes.get(BIND).map(String::as_str)
}

/// Whether a consumer group may receive from a topic: one of lite topics from the topic that has them, any other one from
/// what has none. Dead letters are for either.
#[must_use]
pub fn may_receive(group: &ConsumerGroup, topic: &Topic) -> bool {
    match bound_to(group) {
        Some(bound) if has_lite_topics(topic) => *bound == *topic.name,
        Some(_) => is_internal(&topic.name),
        None => !has_lite_topics(topic),
    }
}

fn number(value: Option<&String>) -> Option<u64> {
    value.and_then(|value| value.parse().ok())
}

/// How many lite topics a client of this consumer group may receive.
#[must_use]
pub fn client_quota(group: Option<&ConsumerGroup>) -> u64 {
    number(group.and_then(|group| group.attributes.get(CLIENT_QUOTA))).unwrap_or(CLIENT_QUOTA_DEFAULT)
}

/// Whether only one client at a time receives a lite topic.
#[must_use]
pub fn is_exclusive(group: &ConsumerGroup) -> bool {
    group.attributes.get(MODEL).is_some_and(|model| model.eq_ignore_ascii_case(MODELS[1]))
}

/// How many lite topics a topic may have.
#[must_use]
pub fn topic_quota(topic: &Topic) -> u64 {
    number(topic.attributes.get(TOPIC_QUOTA)).unwrap_or(TOPIC_QUOTA_DEFAULT)
}

/// After how long without a new message a lite topic goes that nobody receives, in ms: as long as messages are kept,
/// where the attribute says nothing. `None` for never.
pub(crate) fn expiration_ms(state: &impl ReadState, topic: &Topic) -> Result<Option<u64>, StateError> {
    if let Some(minutes) = number(topic.attributes.get(EXPIRATION)) {
        return Ok(Some(minutes.max(EXPIRATION_MINUTES_MIN).saturating_mul(60_000)));
    }
    let kept_ms = machine::number_setting(state, retention::RETENTION_MS, retention::RETENTION_MS_DEFAULT)?;
    Ok((kept_ms > 0).then_some(kept_ms.max(EXPIRATION_MINUTES_MIN * 60_000)))
}

fn counted(state: &impl ReadState, table: raft_store::Table, key: &[u8]) -> Result<u64, StateError> {
    let Some(value) = state.get(table, key)? else { return Ok(0) };
    let mut reader = Reader::new(TABLE, &value);
    let count = reader.varint()?;
    reader.end()?;
    Ok(count)
}

/// How many lite topics a topic has.
///
/// # Errors
/// When the row cannot be read.
pub fn topics(state: &impl ReadState, topic: TopicId) -> Result<u64, StateError> {
    counted(state, key::TOPIC, &key::lite_topic_count(topic))
}

/// How many subscriptions to lite topics there are in the broker group.
pub(crate) fn subscription_count(state: &impl ReadState) -> Result<u64, StateError> {
    counted(state, key::SESSION, key::LITE_SUBSCRIPTION_COUNT)
}

/// A client that receives lite topics of a topic for a consumer group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiteClient {
    /// How many of them.
    pub subscriptions: u64,
    /// Cluster time at which it last said which ones, in ms.
    pub refreshed_ms: u64,
    /// When it is looked at next: a look at another time is not for this row.
    pub(crate) due_ms: u64,
}

impl LiteClient {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        put_varint(&mut out, self.subscriptions);
        put_varint(&mut out, self.refreshed_ms);
        put_varint(&mut out, self.due_ms);
        out
    }

    pub(crate) fn decode(value: &[u8]) -> Result<LiteClient, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let row =
            LiteClient { subscriptions: reader.varint()?, refreshed_ms: reader.varint()?, due_ms: reader.varint()? };
        reader.end()?;
        Ok(row)
    }
}

/// What a client receives of the lite topics of a topic; `None` when it has not said, or not for too long.
///
/// # Errors
/// When the row cannot be read.
pub fn client(
    state: &impl ReadState,
    client_id: &str,
    group: ConsumerGroupId,
    topic: TopicId,
) -> Result<Option<LiteClient>, StateError> {
    let value = state.get(key::SESSION, &key::lite_client(client_id, group, topic))?;
    value.map(|value| LiteClient::decode(&value)).transpose()
}

/// Client, consumer group and topic of a key of [`key::lite_client`].
pub(crate) fn parse_client(key: &[u8]) -> Result<(String, ConsumerGroupId, TopicId), StateError> {
    let mut reader = Reader::new(TABLE, key);
    reader.u8()?;
    let length = reader.u32()? as usize;
    let client_id =
        String::from_utf8(reader.take(length)?.to_vec()).map_err(|_| reader.corrupt("a client id is not UTF-8"))?;
    let (group, topic) = (ConsumerGroupId(reader.u64()?), TopicId(reader.u64()?));
    reader.end()?;
    Ok((client_id, group, topic))
}

/// Keys of [`key::lite_client`] of one client, at most `rows_max`.
pub(crate) fn clients_of(state: &impl ReadState, client_id: &str, rows_max: usize) -> Result<Vec<Vec<u8>>, StateError> {
    let prefix = key::lite_clients_of(client_id);
    let mut keys = Vec::new();
    state.scan(key::SESSION, &prefix, &key::after(&prefix), &mut |key, _| {
        keys.push(key.to_vec());
        if keys.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(keys)
}

/// Lite topics of a topic that a client receives, by id, at most `rows_max`.
///
/// # Errors
/// When a row cannot be read.
pub fn subscriptions(
    state: &impl ReadState,
    client_id: &str,
    group: ConsumerGroupId,
    topic: TopicId,
    rows_max: usize,
) -> Result<Vec<TopicId>, StateError> {
    let prefix = key::lite_subscriptions(client_id, group, topic);
    let mut found = Vec::new();
    state.scan(key::SESSION, &prefix, &key::after(&prefix), &mut |key, _| {
        found.push(key_u64(TABLE, key, prefix.len()).map(TopicId));
        if found.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    found.into_iter().collect()
}

/// Consumer groups that receive a lite topic, with the number of their clients that do.
pub(crate) fn groups(state: &impl ReadState, lite: TopicId) -> Result<Vec<(ConsumerGroupId, u64)>, StateError> {
    let Some(value) = state.get(key::SESSION, &key::lite_groups(lite))? else { return Ok(Vec::new()) };
    let mut reader = Reader::new(TABLE, &value);
    let mut groups = Vec::new();
    while reader.left() > 0 {
        groups.push((ConsumerGroupId(reader.varint()?), reader.varint()?));
    }
    Ok(groups)
}

pub(crate) fn encode_groups(groups: &[(ConsumerGroupId, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (group, clients) in groups {
        put_varint(&mut out, group.0);
        put_varint(&mut out, *clients);
    }
    out
}

/// Clients of a consumer group that receive a lite topic, from a place in the order of their hashes on, at most
/// `clients_max`.
pub(crate) fn members(
    state: &impl ReadState,
    lite: TopicId,
    group: ConsumerGroupId,
    from_hash: u64,
    clients_max: usize,
) -> Result<Vec<String>, StateError> {
    let prefix = key::lite_members(lite, group).to_vec();
    let middle = [&prefix[..], &from_hash.to_be_bytes()].concat();
    let mut found: Vec<Option<String>> = Vec::new();
    for (from, until) in [(&middle, &key::after(&prefix)), (&prefix, &middle)] {
        if found.len() == clients_max {
            break;
        }
        state.scan(key::SESSION, from, until, &mut |key, _| {
            let client_id = key.get(prefix.len() + 8..).and_then(|id| String::from_utf8(id.to_vec()).ok());
            found.push(client_id);
            if found.len() < clients_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    let bad = || StateError::Corrupt { table: TABLE, what: "a client of a lite topic has no id".to_owned() };
    found.into_iter().map(|id| id.ok_or_else(bad)).collect()
}

/// Whether a consumer group has a message of a lite topic to hand out, and none of it unfinished.
pub(crate) fn is_takeable(state: &impl ReadState, lite: TopicId, group: ConsumerGroupId) -> Result<bool, StateError> {
    let share = subscription::subscription(state, lite, group)?.unwrap_or_default();
    if share.retry_in_flight > 0 {
        return Ok(false);
    }
    let queue = queue::queue(state, lite, 0)?;
    let row = match progress::row(state, lite, group, 0)? {
        Some(row) => row,
        None => progress::first(state, lite, group, 0, &queue)?,
    };
    Ok(row.in_flight == 0 && (share.retry_waiting > 0 || row.cursor.max(queue.min) < queue.next))
}

/// Lite topics of a topic that have a message for a client, at most `topics_max`, beginning with any: `random` says with
/// which, so that none is always the last. Goes along what the client receives and what is ready at the same time, so
/// that it costs no more than the shorter of the two.
///
/// # Errors
/// When a row cannot be read.
pub fn candidates(
    state: &impl ReadState,
    client_id: &str,
    (group, topic): (ConsumerGroupId, TopicId),
    random: u64,
    topics_max: usize,
) -> Result<Vec<TopicId>, StateError> {
    let ours = key::lite_subscriptions(client_id, group, topic);
    let ready = key::lite_ready_of(group, topic).to_vec();
    let (Some(first), Some(last)) = (next(state, &ours, 0)?, last(state, &ours)?) else { return Ok(Vec::new()) };
    let begin = first + random % (last - first + 1);
    let mut found = Vec::new();
    let mut steps = 0;
    for (from, upto) in [(begin, last), (first, begin.saturating_sub(1))] {
        let mut at = from;
        while at <= upto && found.len() < topics_max && steps < STEPS_MAX {
            steps += 1;
            let Some(of_group) = next(state, &ready, at)?.filter(|id| *id <= upto) else { break };
            let Some(of_client) = next(state, &ours, of_group)?.filter(|id| *id <= upto) else { break };
            if of_client == of_group {
                found.push(TopicId(of_client));
                at = of_client + 1;
            } else {
                at = of_client;
            }
        }
    }
    Ok(found)
}

/// The lowest id at or above `from` that stands behind a prefix.
fn next(state: &impl ReadState, prefix: &[u8], from: u64) -> Result<Option<u64>, StateError> {
    let mut found = None;
    state.scan(key::SESSION, &[prefix, &from.to_be_bytes()].concat(), &key::after(prefix), &mut |key, _| {
        found = Some(key_u64(TABLE, key, prefix.len()));
        ControlFlow::Break(())
    })?;
    found.transpose()
}

/// The highest id that stands behind a prefix.
fn last(state: &impl ReadState, prefix: &[u8]) -> Result<Option<u64>, StateError> {
    let mut found = None;
    state.scan_back(key::SESSION, prefix, &[prefix, &[0xff; 8]].concat(), &mut |key, _| {
        found = Some(key_u64(TABLE, key, prefix.len()));
        ControlFlow::Break(())
    })?;
    found.transpose()
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A lite topic, whether it is in use.
    Topic(TopicId),
    /// A client, by its key of [`key::lite_client`].
    Client(Vec<u8>),
}

impl Subject {
    pub(crate) fn key_at(&self, at_ms: u64) -> Vec<u8> {
        match self {
            Subject::Topic(topic) => key::lite_due(at_ms, &[&b"t"[..], &topic.0.to_be_bytes()].concat()),
            Subject::Client(key) => key::lite_due(at_ms, key),
        }
    }
}

/// A look that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) at_ms: u64,
    pub(crate) subject: Subject,
}

/// Looks up to and including `now_ms`, earliest first, at most `rows_max`.
pub(crate) fn due(state: &impl ReadState, now_ms: u64, rows_max: usize) -> Result<Vec<Due>, StateError> {
    let low = state.get(key::MACHINE, &key::machine(b'e'))?.unwrap_or_else(|| b"x".to_vec());
    let until = key::lite_due(now_ms.saturating_add(1), &[]);
    let mut found = Vec::new();
    if low >= until {
        return Ok(Vec::new());
    }
    state.scan(key::SESSION, &low, &until, &mut |key, _| {
        found.push(parse_due(key));
        if found.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    found.into_iter().collect()
}

fn parse_due(key: &[u8]) -> Result<Due, StateError> {
    let mut reader = Reader::new(TABLE, key);
    reader.u8()?;
    let at_ms = reader.u64()?;
    let subject = reader.take(reader.left())?;
    let subject = match subject.split_first() {
        Some((b't', topic)) => Subject::Topic(TopicId(key_u64(TABLE, topic, 0)?)),
        Some((&key::LITE_CLIENTS, _)) => Subject::Client(subject.to_vec()),
        _ => return Err(reader.corrupt("nobody knows what is to be looked at")),
    };
    Ok(Due { at_ms, subject })
}

#[cfg(test)]
mod tests {
    use super::{Due, LiteClient, Subject, TopicId, is_row_name, lite_name, parse_client, parse_due, row_name};
    use crate::store::{ConsumerGroupId, key};

    #[test]
    fn rows_and_keys_come_back() {
        let row = LiteClient { subscriptions: 300, refreshed_ms: 1 << 40, due_ms: 7 };
        assert_eq!(LiteClient::decode(&row.encode()).expect("comes back"), row);
        assert!(LiteClient::decode(&row.encode()[..3]).is_err());
        let client = key::lite_client("host@1", ConsumerGroupId(4), TopicId(9));
        let parsed = parse_client(&client).expect("comes back");
        assert_eq!(parsed, ("host@1".to_owned(), ConsumerGroupId(4), TopicId(9)));
        for subject in [Subject::Topic(TopicId(5)), Subject::Client(client)] {
            let key = subject.key_at(77);
            assert_eq!(parse_due(&key).expect("comes back"), Due { at_ms: 77, subject });
            for cut in 0..10 {
                assert!(parse_due(&key[..cut]).is_err());
            }
        }
    }

    #[test]
    fn names_of_rows_say_whose_they_are() {
        let name = row_name(TopicId(17), "session-1");
        assert!(is_row_name(&name) && !is_row_name("%LMQ%a"));
        assert_eq!(lite_name(&name), Some("session-1"));
        assert_eq!(lite_name("orders"), None);
    }
}
