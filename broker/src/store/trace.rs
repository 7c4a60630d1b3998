//! What was done to messages, for as long as they are kept: one row for neighbours in a queue to which the same was done in
//! one entry. The rows say all that there is to tell, so that nobody needs the entry, whose body may have moved.
//!
//! ```text
//! retention t queue: index | time | horizon              the last trim that moved the queue's first offset
//! retention t queue first group index phase attempt kind:  what was done in that entry; group 0 where none did it
//!   count | time, then by kind
//!     leased                   u8 renewed | deadline | client
//!     extended, asked again    deadline
//!     dead letter              offset there
//! ```
//!
//! Within an entry a message goes through its attempts, and through each from the lowest kind to the highest. Where it is
//! delivered again without another attempt, the next phase of the entry begins.
//!
//! A row goes with the last message that it tells of.

use super::codec::{Reader, key_u64, put_bytes, put_varint};
use super::{ConsumerGroupId, StateError, TopicId, key};
use raft_store::ReadState;
use std::ops::ControlFlow;
use std::sync::Arc;

const TABLE: &str = key::TABLES[key::RETENTION.0 as usize];

/// Messages that one row tells of: so far back, and no further, a message is looked for.
pub const RUN_MAX: u32 = 64;

/// Rows that one answer looks through.
const LOOKS_MAX: usize = 20_000;

/// Bytes of a key before its log index.
const INDEX_AT: usize = 25;

/// What was done to a message, in the order in which it may happen in one attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Its delivery time came, or its transaction was committed: it got its place in the queue.
    Visible,
    /// A client got it.
    Leased {
        /// Id of the client.
        client_id: Arc<str>,
        /// It lives as long as the client's session; the deadline is only its cap.
        renewed: bool,
        /// Cluster time, in ms, at which it ends.
        until_ms: u64,
    },
    /// The client asked for the same receive again, because it had no answer.
    AskedAgain {
        /// Cluster time, in ms, at which the lease ends now.
        until_ms: u64,
    },
    /// The answer reached its client.
    Confirmed,
    /// The client changed the invisible duration.
    Extended {
        /// Cluster time, in ms, at which the lease ends now.
        until_ms: u64,
    },
    /// It was acknowledged.
    Acked,
    /// The client gave it back.
    GivenBack,
    /// The lease ended by itself.
    RanOut,
    /// The session of the client ended, and the lease with it.
    SessionEnded,
    /// It got a row in the dead letter topic.
    DeadLettered {
        /// Its offset there.
        offset: u64,
    },
}

impl What {
    fn kind(&self) -> u8 {
        match self {
            What::Visible => 0,
            What::Leased { .. } => 1,
            What::AskedAgain { .. } => 2,
            What::Confirmed => 3,
            What::Extended { .. } => 4,
            What::Acked => 5,
            What::GivenBack => 6,
            What::RanOut => 7,
            What::SessionEnded => 8,
            What::DeadLettered { .. } => 9,
        }
    }

    /// Whether neighbours share a row: of the others, each has something of its own to remember.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self, What::DeadLettered { .. })
    }
}

/// Neighbours in a queue to which the same was done in one entry, in an order that brings those together which share a
/// row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Happened {
    /// Topic.
    pub topic: TopicId,
    /// Queue number.
    pub queue: u16,
    /// Who did it; 0 where no consumer group did.
    pub group: ConsumerGroupId,
    /// Deliveries without another attempt that came before it in the entry.
    pub phase: u32,
    /// Which delivery it was; 0 for none.
    pub attempt: u32,
    /// What it was.
    pub what: What,
    /// First offset.
    pub first: u64,
    /// Messages.
    pub count: u32,
}

impl Happened {
    /// Whether what happened to `next` fits into the same row, behind this one.
    pub(crate) fn goes_on_with(&self, next: &Happened) -> bool {
        let joined = Happened { first: self.first + u64::from(self.count), count: next.count, ..self.clone() };
        self.what.is_shared() && joined == *next && self.count.saturating_add(next.count) <= RUN_MAX
    }

    /// The key of its row when it happened in entry `index`.
    pub(crate) fn key(&self, index: u64) -> [u8; 42] {
        let when = (index, self.phase, self.attempt, self.what.kind());
        key::trace(self.topic, self.queue, self.first, self.group, when)
    }

    /// The value of its row when it happened at cluster time `at_ms`.
    pub(crate) fn encode(&self, at_ms: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        put_varint(&mut out, u64::from(self.count));
        put_varint(&mut out, at_ms);
        match &self.what {
            What::Leased { client_id, renewed, until_ms } => {
                out.push(u8::from(*renewed));
                put_varint(&mut out, *until_ms);
                put_bytes(&mut out, client_id.as_bytes());
            }
            What::AskedAgain { until_ms: number }
            | What::Extended { until_ms: number }
            | What::DeadLettered { offset: number } => put_varint(&mut out, *number),
            What::Visible | What::Confirmed | What::Acked | What::GivenBack | What::RanOut | What::SessionEnded => {}
        }
        out
    }
}

/// What was done to a message, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Entry that did it.
    pub log_index: u64,
    /// Cluster time of that entry, in ms.
    pub at_ms: u64,
    /// Who did it; 0 where no consumer group did.
    pub group: ConsumerGroupId,
    /// Which delivery it was; 0 for none.
    pub attempt: u32,
    /// What it was.
    pub what: What,
}

/// A row: the event, its first offset and how many messages it tells of.
pub(crate) fn parse(key: &[u8], value: &[u8]) -> Result<(Event, u64, u32), StateError> {
    let mut reader = Reader::new(TABLE, key);
    reader.take(9)?;
    let (first, group, log_index) = (reader.u64()?, ConsumerGroupId(reader.u64()?), reader.u64()?);
    let (_phase, attempt, kind) = (reader.u32()?, reader.u32()?, reader.u8()?);
    reader.end()?;
    let mut reader = Reader::new(TABLE, value);
    let (count, at_ms) = (reader.varint_u32()?, reader.varint()?);
    let what = match kind {
        0 => What::Visible,
        1 => {
            let (renewed, until_ms) = (reader.u8()? != 0, reader.varint()?);
            What::Leased { client_id: reader.text()?.into(), renewed, until_ms }
        }
        2 => What::AskedAgain { until_ms: reader.varint()? },
        3 => What::Confirmed,
        4 => What::Extended { until_ms: reader.varint()? },
        5 => What::Acked,
        6 => What::GivenBack,
        7 => What::RanOut,
        8 => What::SessionEnded,
        9 => What::DeadLettered { offset: reader.varint()? },
        _ => return Err(reader.corrupt("it is not known what was done to a message")),
    };
    reader.end()?;
    Ok((Event { log_index, at_ms, group, attempt, what }, first, count))
}

/// What was done to a message, oldest first; and whether there are more rows than were looked through.
///
/// # Errors
/// When a row cannot be read.
pub fn history(
    state: &impl ReadState,
    topic: TopicId,
    number: u16,
    offset: u64,
) -> Result<(Vec<Event>, bool), StateError> {
    let bound = |offset| key::traces(topic, number, offset);
    // No offset is the last one that a number can hold.
    let own = (bound(offset), bound(offset.saturating_add(1)));
    let before = (bound(offset.saturating_sub(u64::from(RUN_MAX) - 1)), bound(offset));
    let (mut found, mut failed, mut looks, mut more) = (Vec::new(), None, 0, false);
    // Its own first: much may have been done to one before it.
    for (from, until) in [own, before] {
        state.scan(key::RETENTION, &from, &until, &mut |key, value| {
            if looks == LOOKS_MAX {
                more = true;
                return ControlFlow::Break(());
            }
            looks += 1;
            match parse(key, value) {
                Ok((event, first, count)) if offset - first < u64::from(count) => {
                    found.push((event, key[INDEX_AT..].to_vec()))
                }
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if more {
            break;
        }
    }
    // Of one entry: phase after phase, attempt after attempt, each from its beginning to its end.
    found.sort_by(|(a, a_key), (b, b_key)| (a.log_index, &a_key[8..]).cmp(&(b.log_index, &b_key[8..])));
    Ok((found.into_iter().map(|(event, _)| event).collect(), more))
}

/// The last trim that moved the first offset of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct QueueTrim {
    /// Cluster time of its entry, in ms.
    pub at_ms: u64,
    /// Index of its entry.
    pub log_index: u64,
    /// Messages that became visible up to this cluster time, in ms, are gone.
    pub horizon_ms: u64,
}

impl QueueTrim {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20);
        for number in [self.log_index, self.at_ms, self.horizon_ms] {
            put_varint(&mut out, number);
        }
        out
    }
}

/// The last trim that moved the first offset of a queue; `None` when nothing was trimmed of it since it is noted.
///
/// # Errors
/// When the row cannot be read.
pub fn queue_trim(state: &impl ReadState, topic: TopicId, number: u16) -> Result<Option<QueueTrim>, StateError> {
    let Some(value) = state.get(key::RETENTION, &key::queue_trim(topic, number))? else { return Ok(None) };
    let mut reader = Reader::new(TABLE, &value);
    let trim = QueueTrim { log_index: reader.varint()?, at_ms: reader.varint()?, horizon_ms: reader.varint()? };
    reader.end()?;
    Ok(Some(trim))
}

/// Offset of the first message that a row tells of, and the one behind the last.
pub(crate) fn reach_of(key: &[u8], value: &[u8]) -> Result<(u64, u64), StateError> {
    let (first, count) = (key_u64(TABLE, key, 9)?, Reader::new(TABLE, value).varint_u32()?);
    Ok((first, first.saturating_add(u64::from(count))))
}

#[cfg(test)]
mod tests {
    use super::{
        ConsumerGroupId, Happened, LOOKS_MAX, QueueTrim, TopicId, What, history, key, parse, queue_trim, reach_of,
    };
    use crate::store::TABLES;
    use proptest::prelude::{any, proptest};
    use raft_store::State;

    fn happened(what: What, first: u64, count: u32) -> Happened {
        Happened { topic: TopicId(3), queue: 2, group: ConsumerGroupId(9), phase: 0, attempt: 1, what, first, count }
    }

    #[test]
    fn rows_come_back() {
        for what in [
            What::Visible,
            What::Leased { client_id: "c@1".into(), renewed: true, until_ms: 1 << 41 },
            What::AskedAgain { until_ms: 7 },
            What::Confirmed,
            What::Extended { until_ms: 7 },
            What::Acked,
            What::GivenBack,
            What::RanOut,
            What::SessionEnded,
            What::DeadLettered { offset: 1 << 33 },
        ] {
            let row = happened(what.clone(), 11, 5);
            let (event, first, count) = parse(&row.key(5), &row.encode(77)).expect("comes back");
            assert_eq!((first, count), (11, 5));
            assert_eq!(reach_of(&row.key(5), &row.encode(77)).expect("comes back"), (11, 16));
            assert_eq!((event.log_index, event.at_ms, event.attempt, event.what), (5, 77, 1, what));
        }
    }

    #[test]
    fn a_message_finds_the_runs_that_hold_it_and_no_others() {
        let state = State::ordered(TABLES);
        let mut batch = state.batch();
        // The longest run that ends at it, ones beside it, and other queues.
        let rows = [(37, 64, 1), (36, 64, 2), (100, 1, 3), (101, 9, 4), (99, 1, 5), (95, 6, 6)];
        for (first, count, index) in rows {
            let row = happened(What::Acked, first, count);
            batch.put(key::RETENTION, row.key(index), row.encode(1_000 + index));
            let elsewhere = Happened { queue: 3, ..row };
            batch.put(key::RETENTION, elsewhere.key(index), elsewhere.encode(0));
        }
        let trim = QueueTrim { at_ms: 5, log_index: 6, horizon_ms: 4 };
        batch.put(key::RETENTION, key::queue_trim(TopicId(3), 2), trim.encode());
        batch.write().expect("memory takes it");
        let found = |offset| {
            let (events, more) = history(&state, TopicId(3), 2, offset).expect("read");
            assert!(!more);
            events.iter().map(|event| event.log_index).collect::<Vec<_>>()
        };
        assert_eq!(found(100), [1, 3, 6]);
        assert_eq!(found(99), [1, 2, 5, 6]);
        assert_eq!(found(0), [0; 0]);
        assert_eq!(found(u64::MAX), [0; 0]);
        assert_eq!(queue_trim(&state, TopicId(3), 2).expect("read"), Some(trim));
        assert_eq!(queue_trim(&state, TopicId(3), 1).expect("read"), None);
    }

    #[test]
    fn a_life_of_more_than_an_answer_looks_through_is_cut_and_said_to_be() {
        let looks = LOOKS_MAX as u64;
        let state = State::ordered(TABLES);
        let put = |what, (first, count), indexes: std::ops::Range<u64>| {
            let (mut batch, row) = (state.batch(), happened(what, first, count));
            indexes.for_each(|index| batch.put(key::RETENTION, row.key(index), row.encode(index)));
            batch.write().expect("memory takes it");
        };
        let found = || {
            let (events, more) = history(&state, TopicId(3), 2, 100).expect("read");
            let indexes: Vec<u64> = events.iter().map(|event| event.log_index).collect();
            assert!(indexes.is_sorted());
            (indexes.len() as u64, indexes.first().copied(), indexes.last().copied(), more)
        };
        put(What::Confirmed, (100, 1), 10..9 + looks);
        assert_eq!(found(), (looks - 1, Some(10), Some(8 + looks), false));
        // One row before it that tells of it too: all are looked through, and none is left.
        put(What::Acked, (90, 20), 5..6);
        assert_eq!(found(), (looks, Some(5), Some(8 + looks), false));
        // Rows before it that do not tell of it are looked through as well.
        put(What::Acked, (89, 2), 5..6);
        assert_eq!(found(), (looks - 1, Some(10), Some(8 + looks), true));
        put(What::Confirmed, (100, 1), 9 + looks..2 * looks);
        assert_eq!(found(), (looks, Some(10), Some(9 + looks), true), "the first that was done to it");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(row in proptest::collection::vec(any::<u8>(), 42), value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (parse(&row, &value), parse(&value, &row), reach_of(&row, &value), reach_of(&value, &row));
        }
    }
}
