//! What was looked up of topics, queues and consumer groups lately, so that a message costs no lookup of its topic:
//! with many topics that would be most of what it costs.
//!
//! Made of rows and kept over entries. A row that changes is forgotten here by whoever changes it, [`super::rows`],
//! so that nothing here ever differs from the rows. Looked up, never iterated.

use super::turn::{KnownGroup, KnownTopic};
use crate::store::queue::Queue;
use crate::store::{ConsumerGroupId, TopicId, key};
use raft_store::Table;
use std::collections::HashMap;
use std::sync::Arc;

/// How many of one kind are known at once, some 300 bytes each. With more, all are looked up again.
const NAMES_MAX: usize = 131_072;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Names {
    topics: HashMap<Arc<str>, Arc<KnownTopic>>,
    groups: HashMap<Arc<str>, Arc<KnownGroup>>,
    topic_names: HashMap<TopicId, Arc<str>>,
    group_names: HashMap<ConsumerGroupId, Arc<str>>,
    /// Whose turn it is among the queues of a topic. Ids are never given twice, so that those of topics which are gone
    /// are never asked for.
    turns: HashMap<TopicId, u64>,
    /// By their keys.
    queues: HashMap<[u8; 8], Queue>,
}

impl Names {
    pub(super) fn topic(&self, name: &str) -> Option<&Arc<KnownTopic>> {
        self.topics.get(name)
    }

    pub(super) fn add_topic(&mut self, known: Arc<KnownTopic>) {
        add(&mut self.topics, known.name.clone(), known);
    }

    pub(super) fn topic_name(&self, id: TopicId) -> Option<&Arc<str>> {
        self.topic_names.get(&id)
    }

    pub(super) fn add_topic_name(&mut self, id: TopicId, name: Arc<str>) {
        add(&mut self.topic_names, id, name);
    }

    pub(super) fn group(&self, name: &str) -> Option<&Arc<KnownGroup>> {
        self.groups.get(name)
    }

    pub(super) fn add_group(&mut self, known: Arc<KnownGroup>) {
        add(&mut self.groups, known.name.clone(), known);
    }

    pub(super) fn group_name(&self, id: ConsumerGroupId) -> Option<&Arc<str>> {
        self.group_names.get(&id)
    }

    pub(super) fn add_group_name(&mut self, id: ConsumerGroupId, name: Arc<str>) {
        add(&mut self.group_names, id, name);
    }

    pub(super) fn turn(&self, topic: TopicId) -> Option<u64> {
        self.turns.get(&topic).copied()
    }

    /// Kept beside the row that holds the same.
    pub(super) fn set_turn(&mut self, topic: TopicId, turn: u64) {
        add(&mut self.turns, topic, turn);
    }

    pub(super) fn queue(&self, topic: TopicId, number: u16) -> Option<Queue> {
        self.queues.get(&key::queue(topic, number)).copied()
    }

    /// As its row holds it.
    pub(super) fn add_queue(&mut self, topic: TopicId, number: u16, queue: Queue) {
        add(&mut self.queues, key::queue(topic, number), queue);
    }

    /// A row is set or removed.
    pub(super) fn changed(&mut self, table: Table, row: &[u8]) {
        if table == key::QUEUE {
            match row.try_into() {
                Ok(row) => drop(self.queues.remove::<[u8; 8]>(row)),
                Err(_) => self.queues.clear(),
            }
            return;
        }
        let Some((kind, rest)) = row.split_first() else { return };
        match (table, *kind) {
            (key::TOPIC, b'n' | b'l') => forget(&mut self.topics, rest),
            (key::CONSUMER_GROUP, b'n') => forget(&mut self.groups, rest),
            (key::TOPIC, b'i') => forget_id(&mut self.topic_names, rest, TopicId),
            (key::CONSUMER_GROUP, b'i') => forget_id(&mut self.group_names, rest, ConsumerGroupId),
            _ => {}
        }
    }
}

fn add<K: std::hash::Hash + Eq, V>(known: &mut HashMap<K, V>, name: K, value: V) {
    if known.len() >= NAMES_MAX && !known.contains_key(&name) {
        known.clear();
    }
    known.insert(name, value);
}

/// All of them, should the name be none: a row is never told apart from another by what is not text.
fn forget<V>(known: &mut HashMap<Arc<str>, V>, name: &[u8]) {
    match std::str::from_utf8(name) {
        Ok(name) => drop(known.remove(name)),
        Err(_) => known.clear(),
    }
}

fn forget_id<K: std::hash::Hash + Eq, V>(known: &mut HashMap<K, V>, id: &[u8], of: impl Fn(u64) -> K) {
    match id.try_into() {
        Ok(id) => drop(known.remove(&of(u64::from_be_bytes(id)))),
        Err(_) => known.clear(),
    }
}
