//! How far a consumer group has come in a queue.
//!
//! ```text
//! min ≤ progress ≤ cursor ≤ next        (of a queue, see super::queue)
//! ```
//!
//! `cursor` is the next offset to hand out; `progress` is the lowest offset that is not finished: acknowledged,
//! skipped, or moved to the retry index. Lease moves the cursor, Ack and Tick move the progress. Progress is
//! not stored: it is the lowest open message of the `flight` rows, which name the unfinished parts of leases,
//! and equals the cursor where nothing is in flight.

use super::codec::{Reader, key_u64, put_varint};
use super::queue::Queue;
use super::{ConsumerGroupId, LeaseId, StateError, TopicId, key, lease, message};
use raft_store::ReadState;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::PROGRESS.0 as usize];
const FLIGHT: &str = key::TABLES[key::FLIGHT.0 as usize];

/// The stored part of a progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// Next offset to hand out.
    pub(crate) cursor: u64,
    /// First offset of the run that holds the cursor, as far as known: saves a search.
    pub(crate) run: u64,
    /// Messages of this queue that are leased now and came from it, not from the retry index.
    pub(crate) in_flight: u64,
    /// No `flight` row stands below this offset.
    pub(crate) low: u64,
}

impl Row {
    /// Where a consumer group starts that never received from the queue: at the oldest message that is kept, so
    /// that what was sent before its first receive is not lost to it.
    pub(crate) fn first(queue: &Queue) -> Row {
        Row { cursor: queue.min, run: queue.min, in_flight: 0, low: queue.min }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        put_varint(&mut out, self.cursor);
        put_varint(&mut out, self.run);
        put_varint(&mut out, self.in_flight);
        put_varint(&mut out, self.low);
        out
    }

    fn decode(value: &[u8]) -> Result<Row, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let row =
            Row { cursor: reader.varint()?, run: reader.varint()?, in_flight: reader.varint()?, low: reader.varint()? };
        reader.end()?;
        Ok(row)
    }
}

pub(crate) fn row(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    number: u16,
) -> Result<Option<Row>, StateError> {
    let value = state.get(key::PROGRESS, &key::progress(topic, group, number))?;
    value.map(|value| Row::decode(&value)).transpose()
}

/// What the last reset of a queue made void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Void {
    /// Leases up to this one: their messages of the queue are theirs no more.
    pub(crate) leases: LeaseId,
    /// Rows of the retry index below this order, as far as they are of the queue.
    pub(crate) retries: u64,
    /// Resets so far: rows of message groups carry the number of resets before them.
    pub(crate) resets: u32,
}

impl Void {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        put_varint(&mut out, self.leases.0);
        put_varint(&mut out, self.retries);
        put_varint(&mut out, u64::from(self.resets));
        out
    }
}

/// What the last reset of a queue made void; nothing where there was none.
pub(crate) fn void(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    number: u16,
) -> Result<Void, StateError> {
    let Some(value) = state.get(key::PROGRESS, &key::void(topic, group, number))? else {
        return Ok(Void { leases: LeaseId(0), retries: 0, resets: 0 });
    };
    let mut reader = Reader::new(TABLE, &value);
    let (leases, retries) = (LeaseId(reader.varint()?), reader.varint()?);
    // Rows of an earlier build have no number.
    let resets = if reader.capacity(1) == 0 { 0 } else { reader.varint_u32()? };
    let void = Void { leases, retries, resets };
    reader.end()?;
    Ok(void)
}

/// Where a consumer group is in a queue that it never received from: at the oldest message that is kept, or at the
/// first one of the time at which the consumer group is to start.
pub(crate) fn first(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    number: u16,
    queue: &Queue,
) -> Result<Row, StateError> {
    let Some(value) = state.get(key::PROGRESS, &key::start(topic, group))? else { return Ok(Row::first(queue)) };
    let mut reader = Reader::new(TABLE, &value);
    let time_ms = reader.varint()?;
    reader.end()?;
    let at = message::offset_at(state, topic, number, queue, time_ms)?;
    Ok(Row { cursor: at, run: at, in_flight: 0, low: at })
}

/// The offset that a reader of its own progress stored.
///
/// # Errors
/// When the row cannot be read.
pub fn stored_offset(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    number: u16,
) -> Result<Option<u64>, StateError> {
    let Some(value) = state.get(key::PROGRESS, &key::stored_offset(topic, group, number))? else { return Ok(None) };
    let mut reader = Reader::new(TABLE, &value);
    let offset = reader.varint()?;
    reader.end()?;
    Ok(Some(offset))
}

/// A single number as the value of a row.
pub(crate) fn number(value: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(10);
    put_varint(&mut out, value);
    out
}

/// The lowest unfinished part at or above `from`: its first offset and its lease.
pub(crate) fn lowest_flight(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    number: u16,
    from: (u64, LeaseId),
) -> Result<Option<(u64, LeaseId)>, StateError> {
    let mut found = None;
    let from = key::flight(topic, group, number, from.0, from.1);
    state.scan(key::FLIGHT, &from, &key::after(&key::progress(topic, group, number)), &mut |key, _| {
        let part = key_u64(FLIGHT, key, 18).and_then(|offset| Ok((offset, LeaseId(key_u64(FLIGHT, key, 26)?))));
        found = Some(part);
        ControlFlow::Break(())
    })?;
    found.transpose()
}

/// How far a consumer group has come in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Next offset to hand out.
    pub cursor: u64,
    /// Lowest offset that is not finished.
    pub progress: u64,
    /// Messages of this queue that are leased now, without those from the retry index.
    pub in_flight: u64,
}

/// How far a consumer group has come in a queue; before its first receive it is at the oldest message.
///
/// # Errors
/// When a row cannot be read.
pub fn progress(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    number: u16,
) -> Result<Progress, StateError> {
    let queue = super::queue::queue(state, topic, number)?;
    let row = match row(state, topic, group, number)? {
        Some(row) => row,
        None => first(state, topic, group, number, &queue)?,
    };
    of_row(state, topic, group, (number, &queue, row))
}

/// The same, where the rows of the queue are known already.
pub(crate) fn of_row(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    (number, queue, row): (u16, &Queue, Row),
) -> Result<Progress, StateError> {
    let void = void(state, topic, group, number)?;
    let cursor = row.cursor.max(queue.min);
    let mut progress = cursor;
    // Usually one step. A message whose invisible duration was changed has a part of its own within the range
    // of the part it came from, so that the lowest part need not hold the lowest open message.
    let mut from = (row.low, LeaseId(0));
    while row.in_flight > 0
        && let Some((first, id)) = lowest_flight(state, topic, group, number, from)?
        && first < progress
    {
        if id > void.leases
            && let Some(lease) = lease::lease(state, group, id)?
            && let Some(open) = lease.first_open(number, first)
        {
            progress = progress.min(open);
        }
        from = (first, LeaseId(id.0.saturating_add(1)));
    }
    Ok(Progress { cursor, progress, in_flight: row.in_flight })
}

#[cfg(test)]
mod tests {
    use super::Row;

    #[test]
    fn rows_come_back() {
        let row = Row { cursor: 1 << 40, run: 5, in_flight: 0, low: 7 };
        assert_eq!(Row::decode(&row.encode()).expect("comes back"), row);
        assert!(Row::decode(&row.encode()[..6]).is_err());
    }
}
