//! What happens after an entry's rows are visible. Every replica computes the same list; each wakes its own
//! waiters, and what proposes again is carried out by the leader alone.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
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
    /// Messages came with a message id that the topic had lately.
    SentAgain {
        /// Name of the topic.
        topic: Arc<str>,
        /// Messages with the same content: they are stored once.
        repeated: u64,
        /// Messages with other content: they are other messages.
        reused: u64,
    },
    /// Messages of a topic can be delivered again to a consumer group.
    Retryable {
        /// Name of the consumer group.
        consumer_group: Arc<str>,
        /// Name of the topic.
        topic: Arc<str>,
    },
    /// The members of a consumer group filter a topic in so many ways, after it was another number before.
    FiltersDiffer {
        /// Name of the consumer group.
        consumer_group: Arc<str>,
        /// Name of the topic.
        topic: Arc<str>,
        /// Filters; 1 when the members agree again, 0 when the last of them is gone.
        filters: u64,
    },
    /// The dead letter topic of a consumer group was made.
    DeadLetterTopicMade {
        /// Its name.
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
    /// Retention took messages of a topic that a consumer group had not consumed.
    Expired {
        /// Name of the consumer group.
        consumer_group: Arc<str>,
        /// Name of the topic.
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
    /// A client of a consumer group may have a message of one of the lite topics that it receives.
    LiteReady {
        /// Id of the client.
        client_id: Arc<str>,
        /// Name of the consumer group.
        consumer_group: Arc<str>,
        /// Name of the topic that the lite topic belongs to.
        topic: Arc<str>,
    },
    /// A client receives a lite topic no longer: another one took it.
    LiteTaken {
        /// Id of the client that lost it.
        client_id: Arc<str>,
        /// Name of the consumer group.
        consumer_group: Arc<str>,
        /// The lite topic's own name.
        lite_topic: Arc<str>,
    },
    /// A client has a session of a consumer group that it had not before.
    SessionBegan {
        /// Its id.
        client_id: Arc<str>,
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
    /// A user or its access rules were changed.
    AccessChanged {
        /// Name of the user.
        user: Arc<str>,
    },
    /// Half messages are to be checked.
    CheckWanted,
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
    /// Where each effect stands in the list. Looked up, never iterated.
    known: HashMap<Named, usize, foldhash::fast::RandomState>,
    due_ms: Option<u64>,
}

/// The kind of an effect and the names it carries.
type Named = (Discriminant<Effect>, Option<Arc<str>>, Option<Arc<str>>);

fn named(effect: &Effect) -> Option<Named> {
    let (first, second) = match effect {
        Effect::Arrived { topic, .. }
        | Effect::SentAgain { topic, .. }
        | Effect::TopicChanged { topic }
        | Effect::DeadLetterTopicMade { topic } => (topic, None),
        Effect::Retryable { consumer_group, topic }
        | Effect::FiltersDiffer { consumer_group, topic, .. }
        | Effect::DeadLettered { consumer_group, topic, .. }
        | Effect::Expired { consumer_group, topic, .. } => (consumer_group, Some(topic.clone())),
        Effect::LiteReady { client_id, consumer_group, topic: both }
        | Effect::LiteTaken { client_id, consumer_group, lite_topic: both } => {
            (client_id, Some(format!("{consumer_group} {both}").into()))
        }
        Effect::ConsumerGroupChanged { consumer_group } => (consumer_group, None),
        Effect::SettingChanged { key } => (key, None),
        Effect::AccessChanged { user } => (user, None),
        Effect::CheckWanted => return Some((discriminant(effect), None, None)),
        Effect::SessionBegan { .. } | Effect::SessionEnded { .. } | Effect::Due { .. } => return None,
    };
    Some((discriminant(effect), Some(first.clone()), second))
}

impl Effects {
    pub(super) fn add(&mut self, effect: Effect) {
        if matches!(effect, Effect::SessionBegan { .. } | Effect::SessionEnded { .. }) {
            // In their order: what comes last holds.
            self.list.push(effect);
            return;
        }
        let Some(named) = named(&effect) else { return };
        let at = *self.known.entry(named).or_insert(self.list.len());
        match (self.list.get_mut(at), effect) {
            (
                Some(Effect::Arrived { messages, body_bytes, .. }),
                Effect::Arrived { messages: more, body_bytes: more_bytes, .. },
            ) => {
                *messages += more;
                *body_bytes += more_bytes;
            }
            (
                Some(Effect::SentAgain { repeated, reused, .. }),
                Effect::SentAgain { repeated: more, reused: more_reused, .. },
            ) => {
                *repeated += more;
                *reused += more_reused;
            }
            (Some(Effect::DeadLettered { messages, .. }), Effect::DeadLettered { messages: more, .. }) => {
                *messages += more;
            }
            (Some(Effect::Expired { messages, .. }), Effect::Expired { messages: more, .. }) => *messages += more,
            (Some(Effect::FiltersDiffer { filters, .. }), Effect::FiltersDiffer { filters: now, .. }) => *filters = now,
            (Some(_), _) => {}
            (None, effect) => self.list.push(effect),
        }
    }

    /// A Tick has something to do at this time.
    pub(super) fn due(&mut self, at_ms: u64) {
        self.due_ms = Some(self.due_ms.map_or(at_ms, |known| known.min(at_ms)));
    }

    pub(super) fn finish(mut self) -> Vec<Effect> {
        self.list.extend(self.due_ms.map(|at_ms| Effect::Due { at_ms }));
        self.list
    }
}
