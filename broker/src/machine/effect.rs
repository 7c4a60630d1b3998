//! What happens after an entry's rows are visible. Every replica computes the same list; each wakes its own
//! waiters, and what proposes again is carried out by the leader alone.

use std::sync::Arc;

/// Something that follows from applied commands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Messages were stored to a topic.
    Arrived {
        /// Its name.
        topic: Arc<str>,
        /// Messages.
        messages: u64,
        /// Bytes of their bodies.
        body_bytes: u64,
    },
    /// Messages of a topic can be delivered again to a consumer group.
    Retryable {
        /// Name of the consumer group.
        consumer_group: Arc<str>,
        /// Name of the topic.
        topic: Arc<str>,
    },
    /// Messages went to the dead letter topic of a consumer group.
    DeadLettered {
        /// Name of the consumer group.
        consumer_group: Arc<str>,
        /// Name of the topic that they came from.
        topic: Arc<str>,
        /// Messages.
        messages: u64,
    },
    /// A topic was created, changed or deleted.
    TopicChanged {
        /// Its name.
        topic: Arc<str>,
    },
    /// A consumer group was created, changed or deleted.
    ConsumerGroupChanged {
        /// Its name.
        consumer_group: Arc<str>,
    },
    /// A client is gone.
    SessionEnded {
        /// Its id.
        client_id: Arc<str>,
    },
    /// A setting was put.
    SettingChanged {
        /// Its name.
        key: Arc<str>,
    },
    /// A Tick has something to do at this cluster time; the earliest one of the entry.
    Due {
        /// Cluster time in ms; 0 for at once.
        at_ms: u64,
    },
}

/// Effects of an entry, each once.
#[derive(Debug, Default)]
pub(super) struct Effects {
    list: Vec<Effect>,
    due_ms: Option<u64>,
}

impl Effects {
    pub(super) fn add(&mut self, effect: Effect) {
        for known in &mut self.list {
            match (&effect, known) {
                (
                    Effect::Arrived { topic, messages: more, body_bytes: more_bytes },
                    Effect::Arrived { topic: known, messages, body_bytes },
                ) if topic == known => {
                    *messages += more;
                    *body_bytes += more_bytes;
                    return;
                }
                (
                    Effect::DeadLettered { consumer_group, topic, messages: more },
                    Effect::DeadLettered { consumer_group: known_group, topic: known_topic, messages },
                ) if consumer_group == known_group && topic == known_topic => {
                    *messages += more;
                    return;
                }
                (effect, known) if effect == known => return,
                _ => {}
            }
        }
        self.list.push(effect);
    }

    pub(super) fn due(&mut self, at_ms: u64) {
        self.due_ms = Some(self.due_ms.map_or(at_ms, |known| known.min(at_ms)));
    }

    pub(super) fn finish(mut self) -> Vec<Effect> {
        self.list.extend(self.due_ms.map(|at_ms| Effect::Due { at_ms }));
        self.list
    }
}
