//! A consumer group's share of a topic: what waits in its retry index.
//!
//! ```text
//! low, next, waiting, in flight, dead letters | per filter: u64 its digest | where it looked to
//! | u8 retries in a row, unless 0
//! ```

use super::codec::{Reader, put_varint};
use super::{ConsumerGroupId, StateError, TopicId, key};
use raft_store::ReadState;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::SUBSCRIPTION.0 as usize];

/// Filters whose place in the retry index is remembered.
const SCANNED_MAX: usize = 8;

/// A consumer group's share of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    /// No row of the retry index stands below this order.
    pub retry_low: u64,
    /// Order of the next row.
    pub retry_next: u64,
    /// Rows of the retry index: messages waiting to be delivered again.
    pub retry_waiting: u64,
    /// Messages from the retry index that are leased now.
    pub retry_in_flight: u64,
    /// Messages that went to the dead letter topic.
    pub dead_letters: u64,
    /// Receives of one message that got one of the retry index, since the last that began with the queues.
    pub retries_in_a_row: u8,
    /// Per filter digest: no row below this order matches that filter.
    scanned: Vec<(u64, u64)>,
}

impl Subscription {
    /// Where a receive with this filter begins to look in the retry index.
    #[must_use]
    pub fn retry_from(&self, filter_digest: u64) -> u64 {
        let scanned = self.scanned.iter().find(|(digest, _)| *digest == filter_digest);
        scanned.map_or(self.retry_low, |(_, order)| self.retry_low.max(*order))
    }

    /// Every filter looks again from the low end. Returns whether that changes anything.
    pub(crate) fn forget_scanned(&mut self) -> bool {
        !std::mem::take(&mut self.scanned).is_empty()
    }

    /// Remembers that no row below `order` matches this filter.
    pub(crate) fn set_scanned(&mut self, filter_digest: u64, order: u64) {
        self.scanned.retain(|(digest, _)| *digest != filter_digest);
        if self.scanned.len() == SCANNED_MAX {
            // The oldest one looks again from the low end.
            self.scanned.remove(0);
        }
        self.scanned.push((filter_digest, order));
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [self.retry_low, self.retry_next, self.retry_waiting, self.retry_in_flight, self.dead_letters] {
            put_varint(&mut out, number);
        }
        for (digest, order) in &self.scanned {
            out.extend_from_slice(&digest.to_be_bytes());
            put_varint(&mut out, *order);
        }
        // Shorter than what a filter has.
        out.extend(Some(self.retries_in_a_row).filter(|retries| *retries > 0));
        out
    }

    fn decode(value: &[u8]) -> Result<Subscription, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let mut row = Subscription {
            retry_low: reader.varint()?,
            retry_next: reader.varint()?,
            retry_waiting: reader.varint()?,
            retry_in_flight: reader.varint()?,
            dead_letters: reader.varint()?,
            retries_in_a_row: 0,
            scanned: Vec::new(),
        };
        while reader.left() > 1 {
            row.scanned.push((reader.u64()?, reader.varint()?));
        }
        if reader.left() == 1 {
            row.retries_in_a_row = reader.u8()?;
        }
        Ok(row)
    }
}

/// A consumer group's share of a topic; `None` before its first receive.
///
/// # Errors
/// When the row cannot be read.
pub fn subscription(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
) -> Result<Option<Subscription>, StateError> {
    let value = state.get(key::SUBSCRIPTION, &key::subscription(topic, group))?;
    value.map(|value| Subscription::decode(&value)).transpose()
}

/// Consumer groups that received from a topic, at most `groups_max`.
///
/// # Errors
/// When a row cannot be read.
pub fn groups(state: &impl ReadState, topic: TopicId, groups_max: usize) -> Result<Vec<ConsumerGroupId>, StateError> {
    let prefix = topic.0.to_be_bytes();
    let mut groups = Vec::new();
    state.scan(key::SUBSCRIPTION, &prefix, &key::after(&prefix), &mut |key, _| {
        groups.push(super::codec::key_u64(TABLE, key, 8).map(ConsumerGroupId));
        if groups.len() < groups_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    groups.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::Subscription;

    #[test]
    fn rows_come_back() {
        let mut row = Subscription { retry_low: 3, retry_next: 900, retry_waiting: 4, ..Subscription::default() };
        assert_eq!(Subscription::decode(&row.encode()).expect("comes back"), row);
        (0..12).for_each(|digest| row.set_scanned(digest, 100 + digest));
        assert_eq!(Subscription::decode(&row.encode()).expect("comes back"), row);
        for retries_in_a_row in 0..5 {
            let row = Subscription { retries_in_a_row, ..row.clone() };
            assert_eq!(Subscription::decode(&row.encode()).expect("comes back"), row);
            let row = Subscription { retries_in_a_row, ..Subscription::default() };
            assert_eq!(Subscription::decode(&row.encode()).expect("comes back"), row);
        }
        assert_eq!((row.retry_from(11), row.retry_from(0)), (111, 3));
    }
}
