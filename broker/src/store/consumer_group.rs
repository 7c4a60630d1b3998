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

fn decode(value: &[u8]) -> Result<ConsumerGroup, StateError> {
    ConsumerGroup::decode(value).map_err(|error| StateError::Corrupt { table: TABLE, what: error.to_string() })
}
