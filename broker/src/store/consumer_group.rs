//! Consumer groups.

use super::codec::key_u64;
use super::{ConsumerGroupId, StateError, TopicId, key};
use prost::Message;
use raft_store::ReadState;
use raftmq_proto::command::ConsumerGroup;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::CONSUMER_GROUP.0 as usize];

/// Deliveries after the first, where nobody says otherwise.
pub const RETRY_MAX_DEFAULT: u32 = 16;

/// The consumer group of this name.
///
/// # Errors
/// When the row cannot be read.
pub fn consumer_group(state: &impl ReadState, name: &str) -> Result<Option<ConsumerGroup>, StateError> {
    state.get(key::CONSUMER_GROUP, &key::name(name))?.map(|value| decode(&value)).transpose()
}

/// The name of a consumer group that exists.
///
/// # Errors
/// When the row cannot be read.
pub fn name(state: &impl ReadState, id: ConsumerGroupId) -> Result<Option<String>, StateError> {
    let Some(value) = state.get(key::CONSUMER_GROUP, &key::id(id.0))? else { return Ok(None) };
    String::from_utf8(value).map(Some).map_err(|_| StateError::Corrupt { table: TABLE, what: "name".to_owned() })
}

/// All consumer groups, by name.
///
/// # Errors
/// When a row cannot be read.
pub fn consumer_groups(state: &impl ReadState) -> Result<Vec<ConsumerGroup>, StateError> {
    let mut groups = Vec::new();
    state.scan(key::CONSUMER_GROUP, b"n", &key::after(b"n"), &mut |_, value| {
        groups.push(decode(value));
        ControlFlow::Continue(())
    })?;
    groups.into_iter().collect()
}

/// Topics that a consumer group has received from, by id, at most `topics_max`. A topic that was deleted may
/// still be among them.
///
/// # Errors
/// When a row cannot be read.
pub fn consumed(state: &impl ReadState, group: ConsumerGroupId, topics_max: usize) -> Result<Vec<TopicId>, StateError> {
    let from = key::consumed(group, TopicId(0));
    let mut topics = Vec::new();
    state.scan(key::CONSUMER_GROUP, &from, &key::after(&from[..9]), &mut |key, _| {
        topics.push(key_u64(TABLE, key, 9).map(TopicId));
        if topics.len() < topics_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    topics.into_iter().collect()
}

/// Topics and lite topics that a consumer group has rows for, each with the key that says so, at most `topics_max`.
pub(crate) fn shares(
    state: &impl ReadState,
    group: ConsumerGroupId,
    topics_max: usize,
) -> Result<Vec<(TopicId, Vec<u8>)>, StateError> {
    let mut shares = Vec::new();
    for from in [key::consumed(group, TopicId(0)), key::consumed_lite(group, TopicId(0))] {
        if shares.len() == topics_max {
            break;
        }
        state.scan(key::CONSUMER_GROUP, &from, &key::after(&from[..9]), &mut |key, _| {
            shares.push(key_u64(TABLE, key, 9).map(|topic| (TopicId(topic), key.to_vec())));
            if shares.len() < topics_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    shares.into_iter().collect()
}

fn decode(value: &[u8]) -> Result<ConsumerGroup, StateError> {
    ConsumerGroup::decode(value).map_err(|error| StateError::Corrupt { table: TABLE, what: error.to_string() })
}

/// The attribute that says how many of a hundred receives from a topic of PRIORITY messages begin with the highest.
pub const PRIORITY_FACTOR: &str = "priority.factor";

/// How many of a hundred receives begin with the highest priority; all of them where nothing else is said.
#[must_use]
pub fn priority_factor(group: &ConsumerGroup) -> u8 {
    group.attributes.get(PRIORITY_FACTOR).and_then(|value| value.parse().ok()).map_or(100, |factor: u8| factor.min(100))
}

/// The attribute that says where a consumer group starts in a topic that it never received from.
pub const START: &str = "consume.from";

/// Where a consumer group starts in a topic that it never received from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest message that is kept.
    First,
    /// At what is stored from its first receive on.
    Last,
    /// At the first message stored at this cluster time or later, ms since the Unix epoch.
    Time(u64),
}

impl Start {
    /// Reads the attribute's value: `first`, `last`, or a time in ms since the Unix epoch.
    #[must_use]
    pub fn parse(value: &str) -> Option<Start> {
        match value {
            "first" => Some(Start::First),
            "last" => Some(Start::Last),
            time => time.parse().ok().map(Start::Time),
        }
    }

    /// Where this consumer group starts; at the oldest message unless its attribute says otherwise.
    #[must_use]
    pub fn of(group: &ConsumerGroup) -> Start {
        group.attributes.get(START).and_then(|value| Start::parse(value)).unwrap_or(Start::First)
    }
}
