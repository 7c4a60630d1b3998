//! What was looked up of topics, queues and consumer groups lately, so that a message costs no lookup of its topic:
//! with many topics that would be most of what it costs.
//!
//! Made of rows and kept over entries. A row that changes is forgotten here by whoever changes it, [`super::rows`],
//! so that nothing here ever differs from the rows. Looked up, never iterated.

use super::turn::{KnownGroup, KnownTopic};
use crate::store::queue::Queue;
use crate::store::{ConsumerGroupId, TopicId, key};
use raft_store::Table;
use std::hash::Hash;
use std::sync::Arc;

/// How many of one kind are known at once, some 300 bytes each. With more, all are looked up again.
const NAMES_MAX: usize = 131_072;

/// The same of queues, 32 bytes each.
const QUEUES_MAX: usize = 1 << 20;

/// Its hash costs a fraction of what std's does. It is seeded by the process, so that names chosen beforehand do not meet.
type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Names {
    topics: HashMap<Arc<str>, Arc<KnownTopic>>,
    groups: HashMap<Arc<str>, Arc<KnownGroup>>,
    topic_names: HashMap<TopicId, Arc<str>>,
    group_names: HashMap<ConsumerGroupId, Arc<str>>,
    /// Ids are never given twice, so that those of topics which are gone are never asked for.
    queues: HashMap<TopicId, Queues>,
    /// Entries of all [`Queues::known`].
    known_queues: usize,
}

/// What is known of the queues of a topic.
#[derive(Debug, Default)]
struct Queues {
    /// Whose turn it is.
    turn: Option<u64>,
    /// By their numbers.
    known: Vec<Option<Queue>>,
    /// Those that are not known hold nothing: the topic was made lately.
    others_empty: bool,
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

    /// A topic was made: nothing is in its queues.
    pub(super) fn add_empty_queues(&mut self, topic: TopicId) {
        let queues = self.queues_of(topic, 0);
        (queues.turn, queues.others_empty) = (Some(0), true);
    }

    pub(super) fn turn(&self, topic: TopicId) -> Option<u64> {
        self.queues.get(&topic)?.turn
    }

    /// As its row holds it.
    pub(super) fn set_turn(&mut self, topic: TopicId, turn: u64) {
        self.queues_of(topic, 0).turn = Some(turn);
    }

    pub(super) fn queue(&self, topic: TopicId, number: u16) -> Option<Queue> {
        let queues = self.queues.get(&topic)?;
        let known = queues.known.get(usize::from(number)).copied().flatten();
        known.or_else(|| queues.others_empty.then(Queue::default))
    }

    /// As its row holds it.
    pub(super) fn set_queue(&mut self, topic: TopicId, number: u16, queue: Queue) {
        let number = usize::from(number);
        self.queues_of(topic, number + 1).known[number] = Some(queue);
    }

    /// What is known of a topic, with room for the first `count` of its queues.
    fn queues_of(&mut self, topic: TopicId, count: usize) -> &mut Queues {
        let before = self.queues.get(&topic).map(|queues| queues.known.len());
        let more = count.saturating_sub(before.unwrap_or_default());
        if self.known_queues + more > QUEUES_MAX || (before.is_none() && self.queues.len() >= NAMES_MAX) {
            self.queues.clear();
            self.known_queues = 0;
        }
        let queues = self.queues.entry(topic).or_default();
        if queues.known.len() < count {
            self.known_queues += count - queues.known.len();
            queues.known.resize(count, None);
        }
        queues
    }

    fn forget_queues(&mut self, topic: TopicId) {
        self.known_queues -= self.queues.remove(&topic).map_or(0, |queues| queues.known.len());
    }

    /// A row is set or removed.
    pub(super) fn changed(&mut self, table: Table, row: &[u8]) {
        if table == key::QUEUE {
            if let Some(topic) = key::topic_of_queue(row) {
                self.forget_queues(topic);
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

fn add<K: Hash + Eq, V>(known: &mut HashMap<K, V>, name: K, value: V) {
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

fn forget_id<K: Hash + Eq, V>(known: &mut HashMap<K, V>, id: &[u8], of: impl Fn(u64) -> K) {
    match id.try_into() {
        Ok(id) => drop(known.remove(&of(u64::from_be_bytes(id)))),
        Err(_) => known.clear(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Names, QUEUES_MAX};
    use crate::store::queue::Queue;
    use crate::store::{TopicId, key};

    fn queue(next: u64) -> Queue {
        Queue { min: 0, next, last_store_ms: 7 }
    }

    #[test]
    fn queues_are_known_as_they_were_set_until_a_row_of_the_topic_changes() {
        let (mut names, made, old) = (Names::default(), TopicId(1), TopicId(2));
        names.add_empty_queues(made);
        assert_eq!((names.queue(made, 65_534), names.turn(made)), (Some(Queue::default()), Some(0)));
        assert_eq!((names.queue(old, 3), names.turn(old)), (None, None));
        for topic in [made, old] {
            names.set_queue(topic, 3, queue(5));
            names.set_turn(topic, 9);
            assert_eq!((names.queue(topic, 3), names.turn(topic)), (Some(queue(5)), Some(9)));
        }
        assert_eq!(
            (names.queue(made, 2), names.queue(old, 2), names.queue(old, 4)),
            (Some(Queue::default()), None, None)
        );
        names.changed(key::QUEUE, &key::queue(made, 0));
        assert_eq!((names.queue(made, 3), names.queue(made, 2), names.turn(made)), (None, None, None));
        names.changed(key::QUEUE, &key::turn(old));
        assert_eq!((names.queue(old, 3), names.known_queues), (None, 0));
    }

    #[test]
    fn what_is_known_of_queues_is_bounded() {
        let mut names = Names::default();
        for topic in 0..=(QUEUES_MAX / 65_000) as u64 {
            names.set_queue(TopicId(topic), 64_999, queue(topic));
            assert_eq!(names.queue(TopicId(topic), 64_999), Some(queue(topic)));
            assert!(names.known_queues <= QUEUES_MAX);
        }
        assert_eq!((names.queue(TopicId(0), 64_999), names.queues.len()), (None, 1));
    }
}
