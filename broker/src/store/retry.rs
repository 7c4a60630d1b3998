//! The retry index: messages that a consumer group is to get again, or that wait for a member whose filter
//! takes them. Oldest first.

use super::codec::{Reader, key_u64, put_varint};
use super::message::Place;
use super::{ConsumerGroupId, StateError, TopicId, key};
use raft_store::ReadState;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::RETRY.0 as usize];

/// A message to be delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Queue that it came from.
    pub queue: u16,
    /// Its place in that queue and in the log.
    pub place: Place,
    /// Which delivery the next one is; the first is 1.
    pub attempt: u32,
}

impl Retry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.place.tag.to_be_bytes().to_vec();
        for number in [
            u64::from(self.queue),
            self.place.offset,
            u64::from(self.attempt),
            self.place.log_index,
            u64::from(self.place.slot),
            self.place.store_ms,
        ] {
            put_varint(&mut out, number);
        }
        if self.place.group != 0 {
            out.extend_from_slice(&self.place.group.to_be_bytes());
        }
        out
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Retry, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let tag = reader.u32()?;
        let (queue, offset, attempt) = (reader.varint_u16()?, reader.varint()?, reader.varint_u32()?);
        let (log_index, slot, store_ms) = (reader.varint()?, reader.varint_u32()?, reader.varint()?);
        let group = if reader.capacity(1) == 0 { 0 } else { reader.u64()? };
        reader.end()?;
        Ok(Retry { queue, place: Place { offset, log_index, slot, tag, group, store_ms }, attempt })
    }
}

/// A row of the retry index.
///
/// # Errors
/// When it cannot be read.
pub fn retry(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    order: u64,
) -> Result<Option<Retry>, StateError> {
    state.get(key::RETRY, &key::retry(topic, group, order))?.map(|value| Retry::decode(&value)).transpose()
}

/// Visits the retry index from order `from` on, until `visit` breaks.
pub(crate) fn scan(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    from: u64,
    mut visit: impl FnMut(u64, Retry) -> ControlFlow<()>,
) -> Result<(), StateError> {
    let mut failed = None;
    let until = key::after(&key::subscription(topic, group));
    state.scan(key::RETRY, &key::retry(topic, group, from), &until, &mut |key, value| match key_u64(TABLE, key, 16)
        .and_then(|order| Ok((order, Retry::decode(value)?)))
    {
        Ok((order, retry)) => visit(order, retry),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// Messages that wait in the retry index, oldest first, at most `messages_max`.
///
/// # Errors
/// When a row cannot be read.
pub fn waiting(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    messages_max: usize,
) -> Result<Vec<Retry>, StateError> {
    let low = super::subscription::subscription(state, topic, group)?.unwrap_or_default().retry_low;
    let mut found = Vec::new();
    scan(state, topic, group, low, |_, retry| {
        if found.len() < messages_max {
            found.push(retry);
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Place, Retry};

    #[test]
    fn rows_come_back() {
        let place = Place { offset: 1 << 33, log_index: 9, slot: 2, tag: 77, group: 0, store_ms: 1_700_000_000_000 };
        let retry = Retry { queue: 65_534, place, attempt: 3 };
        let value = retry.encode();
        assert_eq!(Retry::decode(&value).expect("comes back"), retry);
        (0..value.len()).for_each(|cut| assert!(Retry::decode(&value[..cut]).is_err()));
        let grouped = Retry { place: Place { group: 1 << 60, ..place }, ..retry };
        assert_eq!(Retry::decode(&grouped.encode()).expect("comes back"), grouped);
        assert_eq!(grouped.encode().len(), value.len() + 8);
    }
}
