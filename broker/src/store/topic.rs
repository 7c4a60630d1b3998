//! Topics.

use super::{StateError, TopicId, key};
use prost::Message;
use raft_store::ReadState;
use raftmq_proto::command::Topic;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::TOPIC.0 as usize];

/// Bit of `Topic.permission`: messages may be sent.
pub const WRITABLE: u32 = 2;
/// Bit of `Topic.permission`: messages may be received.
pub const READABLE: u32 = 4;

/// The permission that routes show: where producers are led past the broker group, all but writing.
#[must_use]
pub fn shown_permission(permission: u32, writable: bool) -> u32 {
    if writable { permission } else { permission & !WRITABLE }
}

/// What the name of a consumer group's dead letter topic begins with.
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";
/// What the name of a retry topic begins with.
pub const RETRY_PREFIX: &str = "%RETRY%";

/// The dead letter topic of a consumer group.
#[must_use]
pub fn dead_letter_name(consumer_group: &str) -> String {
    format!("{DEAD_LETTER_PREFIX}{consumer_group}")
}

/// Whether the broker keeps this topic for itself: no message type is asked of its messages.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    name.starts_with(DEAD_LETTER_PREFIX) || name.starts_with(RETRY_PREFIX)
}

/// The topic of this name; a lite topic by the name of its row (see [`super::lite`]).
///
/// # Errors
/// When the row cannot be read.
pub fn topic(state: &impl ReadState, name: &str) -> Result<Option<Topic>, StateError> {
    state.get(key::TOPIC, &row_key(name))?.map(|value| decode(&value)).transpose()
}

/// Lite topics stand apart: nobody lists them with the others.
fn row_key(name: &str) -> Vec<u8> {
    if super::lite::is_row_name(name) { key::lite_topic(name) } else { key::name(name) }
}

/// The name of a topic that exists.
///
/// # Errors
/// When the row cannot be read.
pub fn name(state: &impl ReadState, id: TopicId) -> Result<Option<String>, StateError> {
    let Some(value) = state.get(key::TOPIC, &key::id(id.0))? else { return Ok(None) };
    String::from_utf8(value).map(Some).map_err(|_| StateError::Corrupt { table: TABLE, what: "name".to_owned() })
}

/// All topics, by name.
///
/// # Errors
/// When a row cannot be read.
pub fn topics(state: &impl ReadState) -> Result<Vec<Topic>, StateError> {
    let mut topics = Vec::new();
    state.scan(key::TOPIC, b"n", &key::after(b"n"), &mut |_, value| {
        topics.push(decode(value));
        ControlFlow::Continue(())
    })?;
    topics.into_iter().collect()
}

fn decode(value: &[u8]) -> Result<Topic, StateError> {
    Topic::decode(value).map_err(|error| StateError::Corrupt { table: TABLE, what: error.to_string() })
}
