//! What was stored lately, so that a message that is sent again is answered as it was at first. A row an entry.
//!
//! ```text
//! store time | messages | per message: u64 its name | u64 hash of its content
//!                       | u8 what it waits for, and bit 7: it took the place of another one
//!                       | queue and offset, or its slot when it waits | u64 hash of that one's content
//! ```

use super::codec::{Reader, put_varint};
use super::{StateError, TopicId, key};
use raft_store::ReadState;
use raftmq_proto::command::Waits;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::SENT.0 as usize];

/// With the kind of a place: the content of another message follows.
const DISPLACED: u8 = 0x80;

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentPlace {
    /// In a queue, at an offset.
    Queue(u16, u64),
    /// It waits, under its slot in the entry.
    Waits(Waits, u32),
}

/// A message that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// [`name`] of its topic and message id.
    pub name: u64,
    /// Hash of its content.
    pub content: u64,
    /// Where it is.
    pub place: SentPlace,
    /// Hash of the content of the message that was the newest of this name until then, when that was another one.
    pub displaced: Option<u64>,
}

/// What one entry stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SentEntry {
    /// Cluster time of the entry, ms since the Unix epoch.
    pub time_ms: u64,
    /// In the order in which they were stored.
    pub messages: Vec<Sent>,
}

/// One number for a topic and the hash of a message id.
#[must_use]
pub fn name(topic: TopicId, message_id_hash: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&topic.0.to_be_bytes());
    bytes[8..].copy_from_slice(&message_id_hash.to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

impl SentEntry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + 24 * self.messages.len());
        put_varint(&mut out, self.time_ms);
        put_varint(&mut out, self.messages.len() as u64);
        for message in &self.messages {
            out.extend_from_slice(&message.name.to_be_bytes());
            out.extend_from_slice(&message.content.to_be_bytes());
            let displaced = if message.displaced.is_some() { DISPLACED } else { 0 };
            match message.place {
                SentPlace::Queue(queue, offset) => {
                    out.push(displaced);
                    put_varint(&mut out, u64::from(queue));
                    put_varint(&mut out, offset);
                }
                SentPlace::Waits(waits, slot) => {
                    out.push(displaced | if waits == Waits::DeliveryTime { 1 } else { 2 });
                    put_varint(&mut out, u64::from(slot));
                }
            }
            out.extend(message.displaced.iter().flat_map(|content| content.to_be_bytes()));
        }
        out
    }

    fn decode(value: &[u8]) -> Result<SentEntry, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let time_ms = reader.varint()?;
        let count = reader.varint_u32()?;
        let mut messages = Vec::with_capacity(reader.capacity(count));
        for _ in 0..count {
            let (name, content) = (reader.u64()?, reader.u64()?);
            let kind = reader.u8()?;
            let place = match kind & !DISPLACED {
                0 => SentPlace::Queue(reader.varint_u16()?, reader.varint()?),
                1 => SentPlace::Waits(Waits::DeliveryTime, reader.varint_u32()?),
                2 => SentPlace::Waits(Waits::EndOfTransaction, reader.varint_u32()?),
                _ => return Err(reader.corrupt("a message waits for something unknown")),
            };
            let displaced = if kind & DISPLACED == 0 { None } else { Some(reader.u64()?) };
            messages.push(Sent { name, content, place, displaced });
        }
        reader.end()?;
        Ok(SentEntry { time_ms, messages })
    }
}

/// What an entry stored, as long as it is remembered.
///
/// # Errors
/// When the row cannot be read.
pub fn entry(state: &impl ReadState, log_index: u64) -> Result<Option<SentEntry>, StateError> {
    state.get(key::SENT, &key::sent(log_index))?.map(|value| SentEntry::decode(&value)).transpose()
}

/// Visits every entry that is remembered, the oldest first.
pub(crate) fn entries(state: &impl ReadState, mut visit: impl FnMut(u64, SentEntry)) -> Result<(), StateError> {
    let mut fault = None;
    state.scan(key::SENT, &[], &[], &mut |key, value| match super::codec::key_u64(TABLE, key, 0)
        .and_then(|log_index| Ok((log_index, SentEntry::decode(value)?)))
    {
        Ok((log_index, entry)) => {
            visit(log_index, entry);
            ControlFlow::Continue(())
        }
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })?;
    fault.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::{Sent, SentEntry, SentPlace, Waits};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn rows_come_back(time_ms in any::<u64>(), rows in proptest::collection::vec((any::<u64>(), any::<u64>(), 0..3u8, any::<u16>(), any::<u32>(), any::<Option<u64>>()), 0..20)) {
            let messages = rows.into_iter().map(|(name, content, kind, queue, slot, displaced)| {
                let place = match kind {
                    0 => SentPlace::Queue(queue, content),
                    1 => SentPlace::Waits(Waits::DeliveryTime, slot),
                    _ => SentPlace::Waits(Waits::EndOfTransaction, slot),
                };
                Sent { name, content, place, displaced }
            });
            let messages = messages.collect();
            let entry = SentEntry { time_ms, messages };
            let value = entry.encode();
            prop_assert_eq!(&SentEntry::decode(&value).expect("comes back"), &entry);
            for cut in 0..value.len() {
                prop_assert!(SentEntry::decode(&value[..cut]).is_err());
            }
        }

        #[test]
        fn garbage_never_panics(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = SentEntry::decode(&value);
        }
    }
}
