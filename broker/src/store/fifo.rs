//! Message groups that a consumer group is at: of each, one unfinished message has been handed out or waits in the
//! retry index, and those that the cursor reached after it are put aside, in order.
//!
//! Rows are kept by queue and by the number of resets that the queue had: a reset leaves the older rows to Tick.

use super::codec::{Reader, put_varint};
use super::retry::Retry;
use super::{ConsumerGroupId, StateError, TopicId, key};
use raft_store::ReadState;
use raftmq_proto::command::{ConsumerGroup, Topic};

const TABLE: &str = key::TABLES[key::FIFO.0 as usize];

/// Slots that the message groups of a topic fall into. A slot stays in its broker group and in its queue.
pub const SLOTS: u64 = 1_024;

/// Broker groups that may share the message groups of a topic.
pub const OWNERS_MAX: usize = 256;

/// The attribute of a consumer group that says whether it gets the messages of a message group one after another.
pub const ORDER: &str = "message.group.order";

/// Whether a consumer group gets the messages of a message group one after another: yes, unless its attribute
/// says `off`.
#[must_use]
pub fn keeps_order(group: &ConsumerGroup) -> bool {
    group.attributes.get(ORDER).is_none_or(|value| value != "off")
}

/// The queue of a message group: the slots are dealt to the queues in turn.
#[must_use]
pub fn queue_of(topic: &Topic, hash: u64) -> u16 {
    let queues = if topic.fifo_queues == 0 { topic.write_queues } else { topic.fifo_queues };
    u16::try_from(slot_of(hash) % u64::from(queues.max(1))).expect("slots are fewer than 65,536")
}

/// The slot of a message group, below [`SLOTS`].
#[must_use]
pub fn slot_of(hash: u64) -> u64 {
    hash % SLOTS
}

/// The broker group that keeps a message group; `None` for the one in whose rows the topic is. Each of the owners has
/// a run of slots, so that those of one broker group still spread over all of its queues.
#[must_use]
pub fn owner_of(owners: &[String], hash: u64) -> Option<&str> {
    // Less than the number of owners, as a slot is less than `SLOTS`.
    let at = slot_of(hash) * owners.len() as u64 / SLOTS;
    owners.get(usize::try_from(at).ok()?).map(String::as_str)
}

/// A message group of which a message is out or waits in the retry index. Messages put aside behind it have the
/// orders `low..next`, each a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MessageGroup {
    pub(crate) low: u64,
    pub(crate) next: u64,
}

impl MessageGroup {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4);
        put_varint(&mut out, self.low);
        put_varint(&mut out, self.next);
        out
    }

    fn decode(value: &[u8]) -> Result<MessageGroup, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let row = MessageGroup { low: reader.varint()?, next: reader.varint()? };
        if row.low > row.next {
            return Err(reader.corrupt("more messages left a message group than came"));
        }
        reader.end()?;
        Ok(row)
    }
}

/// A message group; `None` when no message of it is out.
pub(crate) fn message_group(state: &impl ReadState, key: &[u8; 30]) -> Result<Option<MessageGroup>, StateError> {
    state.get(key::FIFO, key)?.map(|value| MessageGroup::decode(&value)).transpose()
}

/// A message that was put aside.
pub(crate) fn behind(state: &impl ReadState, key: &[u8; 38]) -> Result<Retry, StateError> {
    match state.get(key::FIFO, key)? {
        Some(value) => Retry::decode(&value),
        None => Err(StateError::Corrupt { table: TABLE, what: "a message that was put aside is missing".to_owned() }),
    }
}

/// Messages of a topic that a consumer group put aside, each behind an unfinished one of its message group.
///
/// # Errors
/// When the row cannot be read.
pub fn put_aside(state: &impl ReadState, topic: TopicId, group: ConsumerGroupId) -> Result<u64, StateError> {
    let Some(value) = state.get(key::FIFO, &key::subscription(topic, group))? else { return Ok(0) };
    let mut reader = Reader::new(TABLE, &value);
    let messages = reader.varint()?;
    reader.end()?;
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::{ConsumerGroup, MessageGroup, ORDER, SLOTS, Topic, keeps_order, owner_of, queue_of, slot_of};
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn slots_are_dealt_to_broker_groups_and_within_each_to_all_of_its_queues() {
        let topic = Topic { fifo_queues: 8, ..Topic::default() };
        for count in [2usize, 3, 7] {
            let owners: Vec<String> = (0..count).map(|number| format!("B{number}")).collect();
            let mut shares: BTreeMap<&str, (u64, BTreeSet<u16>)> = BTreeMap::new();
            for hash in 0..SLOTS {
                let share = shares.entry(owner_of(&owners, hash).expect("somebody")).or_default();
                share.0 += 1;
                share.1.insert(queue_of(&topic, hash));
                // All that tells message groups apart here is their slot.
                assert_eq!(owner_of(&owners, hash + 5 * SLOTS), owner_of(&owners, hash));
            }
            assert_eq!(shares.len(), count);
            let even = SLOTS / count as u64;
            assert!(
                shares.values().all(|(slots, queues)| slots.abs_diff(even) <= 1 && queues.len() == 8),
                "{shares:?}"
            );
        }
        assert_eq!(owner_of(&[], 5), None);
        assert_eq!((slot_of(u64::MAX), owner_of(&["B".to_owned()], u64::MAX)), (1_023, Some("B")));
    }

    #[test]
    fn rows_come_back() {
        let row = MessageGroup { low: 300, next: 1 << 40 };
        assert_eq!(MessageGroup::decode(&row.encode()).expect("comes back"), row);
        assert!(MessageGroup::decode(&row.encode()[..3]).is_err());
        assert!(MessageGroup::decode(&[2, 1]).is_err());
    }

    #[test]
    fn slots_stay_where_they_are() {
        let before = Topic { write_queues: 8, fifo_queues: 8, ..Topic::default() };
        let after = Topic { write_queues: 16, read_queues: 16, ..before.clone() };
        let mut used = std::collections::BTreeSet::new();
        for hash in (0..5_000u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            assert_eq!(queue_of(&before, hash), queue_of(&after, hash));
            used.insert(queue_of(&before, hash));
        }
        assert_eq!(used.len(), 8);
        assert_eq!(queue_of(&Topic::default(), 77), 0);
    }

    #[test]
    fn order_is_kept_unless_the_attribute_is_off() {
        let with = |value: &str| ConsumerGroup {
            attributes: [(ORDER.to_owned(), value.to_owned())].into(),
            ..ConsumerGroup::default()
        };
        assert!(keeps_order(&ConsumerGroup::default()));
        assert!(keeps_order(&with("on")));
        assert!(!keeps_order(&with("off")));
    }
}
