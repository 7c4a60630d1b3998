//! Dead letters: what one was, and the message that goes to its topic in its place.

use crate::directory::Directory;
use crate::error::AdminError;
use crate::message::resource;
use raftmq_proto::rocketmq::{Encoding, Message, MessageType, SystemProperties};
use std::collections::BTreeSet;

/// What the names of dead letter topics begin with.
pub const PREFIX: &str = "%DLQ%";
/// Properties that say where a message comes from; RocketMQ's own names for them are reserved for brokers.
const ORIGIN_TOPIC: &str = "dead-letter-topic";
const ORIGIN_ID: &str = "dead-letter-message-id";

/// Why a message is not sent again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It has this id.
    #[error("{0} is no dead letter that names its topic")]
    NoLetter(String),
    /// It cannot be of any type that its topic takes.
    #[error("topic {topic} takes {takes} messages, and this one has no message group or lite topic")]
    NoType {
        /// Its topic.
        topic: String,
        /// Names of types.
        takes: String,
    },
}

/// Topic and id that a dead letter had; empty for what is none.
#[must_use]
pub fn origin(message: &Message) -> (String, String) {
    let is_letter = message.topic.as_ref().is_some_and(|topic| topic.name.starts_with(PREFIX));
    let known = message.system_properties.as_ref().filter(|_| is_letter);
    known.and_then(|known| known.dead_letter_queue.clone()).map(|was| (was.topic, was.message_id)).unwrap_or_default()
}

/// Types of messages that a topic takes, as the name servers know; none where they do not know the topic.
///
/// # Errors
/// No name server answers.
pub async fn takes(directory: &Directory, topic: &str) -> Result<BTreeSet<MessageType>, AdminError> {
    let route = directory.route(topic).await?;
    let values = route.iter().flat_map(|(_, topic)| &topic.message_types);
    Ok(values.filter_map(|value| MessageType::try_from(*value).ok()).collect())
}

/// A new message with what a dead letter says, of a type that its topic takes: the letter's own where it may be, or else
/// one that asks for nothing that the letter does not have. What was delayed is due at once, since it was due before.
///
/// # Errors
/// It is no dead letter, or its topic takes only messages that it cannot be.
pub fn again(letter: Message, takes: &BTreeSet<MessageType>) -> Result<Message, Unfit> {
    let (topic, id) = origin(&letter);
    let known = letter.system_properties.unwrap_or_default();
    if topic.is_empty() {
        return Err(Unfit::NoLetter(known.message_id));
    }
    let own = known.message_type();
    let may_be = |kind: &MessageType| match kind {
        MessageType::Fifo => known.message_group.is_some(),
        MessageType::Lite => known.lite_topic.is_some(),
        MessageType::Unspecified => false,
        MessageType::Normal | MessageType::Delay | MessageType::Transaction | MessageType::Priority => true,
    };
    // In the order of their numbers, NORMAL first.
    let other = || takes.iter().copied().find(may_be);
    let kind = if takes.is_empty() || takes.contains(&own) { Some(own) } else { other() };
    let kind = kind.ok_or_else(|| {
        let names: Vec<&str> = takes.iter().map(MessageType::as_str_name).collect();
        Unfit::NoType { topic: topic.clone(), takes: names.join(", ") }
    })?;
    let mut user_properties = letter.user_properties;
    user_properties.insert(ORIGIN_TOPIC.to_owned(), topic.clone());
    user_properties.insert(ORIGIN_ID.to_owned(), id);
    let body_encoding = if known.body_encoding() == Encoding::Gzip { Encoding::Gzip } else { Encoding::Identity };
    let system = SystemProperties {
        tag: known.tag,
        keys: known.keys,
        body_encoding: body_encoding.into(),
        message_type: kind.into(),
        ..SystemProperties::default()
    };
    // Brokers go by what a message has: it must have nothing of another type.
    let system = match kind {
        MessageType::Fifo => SystemProperties { message_group: known.message_group, ..system },
        MessageType::Lite => SystemProperties { lite_topic: known.lite_topic, ..system },
        MessageType::Priority => SystemProperties { priority: Some(known.priority.unwrap_or_default()), ..system },
        // By the broker's clock, which may be behind this one's.
        MessageType::Delay => SystemProperties { delivery_timestamp: known.store_timestamp, ..system },
        MessageType::Normal | MessageType::Transaction | MessageType::Unspecified => system,
    };
    Ok(Message { topic: resource(&topic), user_properties, system_properties: Some(system), body: letter.body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::timestamp;
    use MessageType::{Delay, Fifo, Lite, Normal, Priority, Transaction};
    use raftmq_proto::rocketmq::DeadLetterQueue;

    fn letter(kind: MessageType) -> Message {
        let mut system = SystemProperties {
            message_id: "now".to_owned(),
            message_type: kind.into(),
            store_timestamp: Some(timestamp(7_000)),
            delivery_timestamp: (kind == Delay).then(|| timestamp(5_000)),
            dead_letter_queue: Some(DeadLetterQueue { topic: "orders".to_owned(), message_id: "was".to_owned() }),
            ..SystemProperties::default()
        };
        match kind {
            Fifo => system.message_group = Some("g".to_owned()),
            Lite => system.lite_topic = Some("l".to_owned()),
            Priority => system.priority = Some(3),
            _ => {}
        }
        Message { topic: resource("%DLQ%billing"), system_properties: Some(system), ..Message::default() }
    }

    fn sent(kind: MessageType, takes: &[MessageType]) -> Result<SystemProperties, Unfit> {
        let message = again(letter(kind), &takes.iter().copied().collect())?;
        assert_eq!(message.topic, resource("orders"));
        assert_eq!(message.user_properties.get(ORIGIN_ID).map(String::as_str), Some("was"));
        Ok(message.system_properties.expect("always there"))
    }

    #[test]
    fn it_stays_of_its_type_where_the_topic_takes_that() {
        for kind in [Normal, Fifo, Delay, Transaction, Priority, Lite] {
            for takes in [&[][..], &[kind], &[Normal, Fifo, Delay, Transaction, Priority, Lite]] {
                assert_eq!(sent(kind, takes).map(|sent| sent.message_type()), Ok(kind));
            }
        }
        assert_eq!(sent(Fifo, &[Fifo]).map(|sent| sent.message_group), Ok(Some("g".to_owned())));
        assert_eq!(sent(Lite, &[Lite]).map(|sent| sent.lite_topic), Ok(Some("l".to_owned())));
        assert_eq!(sent(Priority, &[Priority]).map(|sent| sent.priority), Ok(Some(3)));
        assert_eq!(sent(Delay, &[Delay]).map(|sent| sent.delivery_timestamp), Ok(Some(timestamp(7_000))));
    }

    #[test]
    fn else_it_becomes_what_the_topic_takes() {
        let kind = |own, takes: &[MessageType]| sent(own, takes).map(|sent| sent.message_type());
        assert_eq!(kind(Fifo, &[Delay, Normal]), Ok(Normal));
        assert_eq!(sent(Fifo, &[Normal]).map(|sent| sent.message_group), Ok(None), "with one it would be FIFO");
        assert_eq!(kind(Normal, &[Transaction]), Ok(Transaction));
        assert_eq!(sent(Normal, &[Priority]).map(|sent| sent.priority), Ok(Some(0)));
        let refused = |takes: &str| Err(Unfit::NoType { topic: "orders".to_owned(), takes: takes.to_owned() });
        assert_eq!(kind(Normal, &[Lite, Fifo]), refused("FIFO, LITE"));
    }

    #[test]
    fn only_dead_letters_are_sent_again() {
        let other = Message { topic: resource("orders"), ..letter(Normal) };
        assert_eq!(again(other, &BTreeSet::new()), Err(Unfit::NoLetter("now".to_owned())));
    }
}
