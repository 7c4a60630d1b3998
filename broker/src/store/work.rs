//! Work that is too long for one command: each Tick does a bounded piece and notes where it stopped.

use super::{ConsumerGroupId, StateError, TopicId, key};
use raft_store::ReadState;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::MACHINE.0 as usize];

const TOPIC: u8 = 1;
const GROUP: u8 = 2;
const CLIENT: u8 = 3;
const MESSAGE_GROUPS: u8 = 4;
const TIMERS: u8 = 5;
const LITE_TOPICS: u8 = 6;
const TRACES: u8 = 7;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// Remove the rows of a topic that is gone.
    DropTopic(TopicId),
    /// Remove the rows of a consumer group that is gone.
    DropGroup(ConsumerGroupId),
    /// Take back the renewed leases of a client whose session ended.
    EndLeases(String),
    /// Remove what waits for a delivery time in a topic that is gone.
    DropTimers(TopicId),
    /// Remove the rows of message groups that begin with this, which a reset made void.
    DropMessageGroups([u8; 22]),
    /// Remove the lite topics of a topic that is gone.
    DropLiteTopics(TopicId),
    /// Remove what was done to the messages of a topic that is gone.
    DropTraces(TopicId),
}

impl Work {
    pub(crate) fn key(&self) -> Vec<u8> {
        match self {
            Work::DropTopic(topic) => key::work(TOPIC, &topic.0.to_be_bytes()),
            Work::DropGroup(group) => key::work(GROUP, &group.0.to_be_bytes()),
            Work::EndLeases(client_id) => key::work(CLIENT, client_id.as_bytes()),
            Work::DropTimers(topic) => key::work(TIMERS, &topic.0.to_be_bytes()),
            Work::DropMessageGroups(prefix) => key::work(MESSAGE_GROUPS, prefix),
            Work::DropLiteTopics(topic) => key::work(LITE_TOPICS, &topic.0.to_be_bytes()),
            Work::DropTraces(topic) => key::work(TRACES, &topic.0.to_be_bytes()),
        }
    }
}

/// The first work that waits, with the note of where it stopped.
pub(crate) fn first(state: &impl ReadState) -> Result<Option<(Work, Vec<u8>)>, StateError> {
    let mut found = None;
    state.scan(key::MACHINE, b"w", &key::after(b"w"), &mut |key, value| {
        found = Some(parse(key).map(|work| (work, value.to_vec())));
        ControlFlow::Break(())
    })?;
    found.transpose()
}

fn parse(key: &[u8]) -> Result<Work, StateError> {
    let mut reader = super::codec::Reader::new(TABLE, key);
    reader.u8()?;
    match reader.u8()? {
        TOPIC => Ok(Work::DropTopic(TopicId(reader.u64()?))),
        GROUP => Ok(Work::DropGroup(ConsumerGroupId(reader.u64()?))),
        CLIENT => {
            let rest = reader.take(key.len() - 2)?;
            String::from_utf8(rest.to_vec())
                .map(Work::EndLeases)
                .map_err(|_| reader.corrupt("a client id is not UTF-8"))
        }
        TIMERS => Ok(Work::DropTimers(TopicId(reader.u64()?))),
        LITE_TOPICS => Ok(Work::DropLiteTopics(TopicId(reader.u64()?))),
        TRACES => Ok(Work::DropTraces(TopicId(reader.u64()?))),
        MESSAGE_GROUPS => {
            let mut prefix = [0; 22];
            prefix.copy_from_slice(reader.take(22)?);
            Ok(Work::DropMessageGroups(prefix))
        }
        _ => Err(reader.corrupt("unknown work")),
    }
}
