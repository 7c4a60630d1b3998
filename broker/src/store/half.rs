//! Half messages: stored, and in no queue before their producer commits them.
//!
//! ```text
//! u8 state, bit 7: the body was moved | u32 tag hash | body bytes | u64 hash of the message id | made | checks so far | most checks
//! | interval of the checks | greatest age | client id of the producer | log index and slot of a moved body
//! ```
//!
//! A half message goes by the place that it was first stored at, wherever its body is.
//! One that was ended keeps its row for a while, so that a second word on it is answered as such.

use super::codec::{Reader, put_bytes, put_varint};
use super::timer::{self, InLog};
use super::{StateError, TopicId, key};
use raft_store::ReadState;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::HALF.0 as usize];

const MOVED: u8 = 0x80;

/// What became of a half message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfState {
    /// Its producer has not said anything.
    Pending,
    /// The same, and nobody is asked any more: it is listed, and ended by its producer or by hand.
    Parked,
    /// It has got its place in a queue.
    Committed,
    /// It never will.
    RolledBack,
}

impl HalfState {
    /// Whether the producer's word is still to come.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, HalfState::Pending | HalfState::Parked)
    }

    fn bits(self) -> u8 {
        match self {
            HalfState::Pending => 0,
            HalfState::Parked => 1,
            HalfState::Committed => 2,
            HalfState::RolledBack => 3,
        }
    }

    fn of_bits(bits: u8) -> Option<HalfState> {
        [HalfState::Pending, HalfState::Parked, HalfState::Committed, HalfState::RolledBack]
            .get(usize::from(bits))
            .copied()
    }
}

/// A half message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalfMessage {
    /// What became of it.
    pub state: HalfState,
    /// Hash of its tag, 0 when it has none.
    pub tag: u32,
    /// Bytes of its body.
    pub body_bytes: u32,
    /// Hash of its message id.
    pub message_id_hash: u64,
    /// Cluster time at which it was stored, ms since the Unix epoch.
    pub made_ms: u64,
    /// Checks that were written to a producer's stream.
    pub checks: u32,
    /// After so many of them it is parked.
    pub checks_max: u32,
    /// From one check to the next.
    pub interval_ms: u64,
    /// After so long it is parked.
    pub age_max_ms: u64,
    /// Client id of the producer that sent it.
    pub producer: String,
    /// Where its body is, when that is not where it was first stored.
    pub moved: Option<InLog>,
}

impl HalfMessage {
    /// Where its body is; `place` is what it goes by.
    #[must_use]
    pub fn body(&self, place: InLog) -> InLog {
        self.moved.unwrap_or(place)
    }

    /// Whether nobody is to be asked any more.
    #[must_use]
    pub fn is_spent(&self, now_ms: u64) -> bool {
        self.checks >= self.checks_max || now_ms >= self.made_ms.saturating_add(self.age_max_ms)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48 + self.producer.len());
        out.push(self.state.bits() | if self.moved.is_some() { MOVED } else { 0 });
        out.extend_from_slice(&self.tag.to_be_bytes());
        put_varint(&mut out, u64::from(self.body_bytes));
        out.extend_from_slice(&self.message_id_hash.to_be_bytes());
        for number in
            [self.made_ms, u64::from(self.checks), u64::from(self.checks_max), self.interval_ms, self.age_max_ms]
        {
            put_varint(&mut out, number);
        }
        put_bytes(&mut out, self.producer.as_bytes());
        timer::put_moved(&mut out, self.moved);
        out
    }

    fn decode(value: &[u8]) -> Result<HalfMessage, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let flags = reader.u8()?;
        let state = HalfState::of_bits(flags & !MOVED).ok_or_else(|| reader.corrupt("unknown state"))?;
        let half = HalfMessage {
            state,
            tag: reader.u32()?,
            body_bytes: reader.varint_u32()?,
            message_id_hash: reader.u64()?,
            made_ms: reader.varint()?,
            checks: reader.varint_u32()?,
            checks_max: reader.varint_u32()?,
            interval_ms: reader.varint()?,
            age_max_ms: reader.varint()?,
            producer: reader.text()?,
            moved: timer::moved(&mut reader, flags & MOVED != 0)?,
        };
        reader.end()?;
        Ok(half)
    }
}

/// A half message, ended or not.
///
/// # Errors
/// When the row cannot be read.
pub fn half(
    state: &impl ReadState,
    topic: TopicId,
    InLog { log_index, slot }: InLog,
) -> Result<Option<HalfMessage>, StateError> {
    let key = key::waiting(b'h', topic, log_index, slot);
    state.get(key::HALF, &key)?.map(|value| HalfMessage::decode(&value)).transpose()
}

/// Where the body of a row's half message is.
pub(crate) fn body_of(key: &[u8], value: &[u8]) -> Result<InLog, StateError> {
    let (_, place) = parse(key, 1)?;
    Ok(HalfMessage::decode(value)?.body(place))
}

/// The half message whose body is at this place: its topic, and the place that it goes by.
pub(crate) fn named_by(state: &impl ReadState, body: InLog) -> Result<Option<Named>, StateError> {
    let Some(value) = state.get(key::HALF, &key::in_log(body.log_index, body.slot))? else { return Ok(None) };
    let mut reader = Reader::new(TABLE, &value);
    let topic = TopicId(reader.u64()?);
    // Rows of an earlier build name the topic alone.
    let place = match reader.left() {
        0 => body,
        _ => InLog { log_index: reader.u64()?, slot: reader.u32()? },
    };
    reader.end()?;
    Ok(Some((topic, place)))
}

/// Which half message a row of times, or of checks that are wanted, names.
pub type Named = (TopicId, InLog);

fn parse(key: &[u8], at: usize) -> Result<Named, StateError> {
    let mut reader = Reader::new(TABLE, key);
    reader.take(at)?;
    Ok((TopicId(reader.u64()?), InLog { log_index: reader.u64()?, slot: reader.u32()? }))
}

/// No row of times of this letter (`c` or `f`) stands below this key.
pub(crate) fn low(state: &impl ReadState, letter: u8) -> Result<Vec<u8>, StateError> {
    Ok(state.get(key::MACHINE, &key::machine(letter))?.unwrap_or_else(|| vec![letter]))
}

/// Half messages whose time of this letter (`c` or `f`) is up to and including `until_ms`, earliest first.
pub(crate) fn due(
    state: &impl ReadState,
    letter: u8,
    until_ms: u64,
    rows_max: usize,
) -> Result<Vec<(u64, Named)>, StateError> {
    let mut rows = Vec::new();
    state.scan(key::HALF, &low(state, letter)?, &key::waiting_until(letter, until_ms), &mut |key, _| {
        rows.push(super::codec::key_u64(TABLE, key, 1).and_then(|at_ms| Ok((at_ms, parse(key, 9)?))));
        if rows.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    rows.into_iter().collect()
}

/// Half messages that the leader is to check now, at most `rows_max`.
///
/// # Errors
/// When a row cannot be read.
pub fn wanted(state: &impl ReadState, rows_max: usize) -> Result<Vec<Named>, StateError> {
    let mut rows = Vec::new();
    state.scan(key::HALF, b"w", &key::after(b"w"), &mut |key, _| {
        rows.push(parse(key, 1));
        if rows.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    rows.into_iter().collect()
}

/// Half messages of one topic that are not ended.
#[derive(Debug, Default)]
pub struct Page {
    /// In the order of the log.
    pub rows: Vec<(InLog, HalfMessage)>,
    /// Rows that were looked at.
    pub looked: usize,
    /// Where to go on, when there may be more.
    pub next: Option<InLog>,
}

/// Half messages of a topic that are not ended, from a place on, at most `rows_max` of them; those that are parked
/// when `parked` is set. Looks at no more than `looks_max` rows.
///
/// # Errors
/// When a row cannot be read.
pub fn open(
    state: &impl ReadState,
    topic: TopicId,
    from: InLog,
    rows_max: usize,
    looks_max: usize,
    parked: bool,
) -> Result<Page, StateError> {
    let mut page = Page::default();
    let mut fault = None;
    let prefix = key::waiting(b'h', topic, 0, 0);
    let until = key::after(&prefix[..9]);
    state.scan(key::HALF, &key::waiting(b'h', topic, from.log_index, from.slot), &until, &mut |key, value| {
        match parse(key, 1).and_then(|(_, place)| Ok((place, HalfMessage::decode(value)?))) {
            Ok((place, _)) if page.rows.len() == rows_max || page.looked == looks_max => {
                page.next = Some(place);
                return ControlFlow::Break(());
            }
            Ok((place, half)) => {
                page.looked += 1;
                if half.state.is_open() && (!parked || half.state == HalfState::Parked) {
                    page.rows.push((place, half));
                }
            }
            Err(error) => {
                fault = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    fault.map_or(Ok(page), Err)
}

/// Half messages of a topic from a place on, whatever became of them, at most `rows_max`; and whether there may be more.
pub(crate) fn all(
    state: &impl ReadState,
    topic: TopicId,
    from: InLog,
    rows_max: usize,
) -> Result<(Vec<HalfMessage>, bool), StateError> {
    let mut rows = Vec::new();
    let prefix = key::waiting(b'h', topic, 0, 0);
    let from = key::waiting(b'h', topic, from.log_index, from.slot);
    state.scan(key::HALF, &from, &key::after(&prefix[..9]), &mut |_, value| {
        rows.push(HalfMessage::decode(value));
        if rows.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let more = rows.len() == rows_max;
    Ok((rows.into_iter().collect::<Result<_, _>>()?, more))
}

/// The first topic from this one on that has half messages which are not ended.
///
/// # Errors
/// When a row cannot be read.
pub fn next_topic(state: &impl ReadState, from: TopicId) -> Result<Option<TopicId>, StateError> {
    let mut found = None;
    state.scan(key::HALF, &key::waiting_count(from), &key::after(b"n"), &mut |key, _| {
        found = Some(super::codec::key_u64(TABLE, key, 1).map(TopicId));
        ControlFlow::Break(())
    })?;
    found.transpose()
}

/// Half messages of a topic that are not ended.
///
/// # Errors
/// When the row cannot be read.
pub fn waiting(state: &impl ReadState, topic: TopicId) -> Result<u64, StateError> {
    timer::count(state, key::HALF, topic)
}

#[cfg(test)]
mod tests {
    use super::{HalfMessage, HalfState, InLog};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn rows_come_back(
            state in 0u8..4, tag in any::<u32>(), body_bytes in any::<u32>(), message_id_hash in any::<u64>(),
            made_ms in any::<u64>(), checks in any::<u32>(), interval_ms in any::<u64>(), producer in "[a-z]{0,9}", place in any::<Option<(u64, u32)>>(),
        ) {
            let state = HalfState::of_bits(state).expect("one of four");
            let half = HalfMessage {
                state, tag, body_bytes, message_id_hash, made_ms, checks, checks_max: checks / 2, interval_ms,
                age_max_ms: made_ms / 2, producer, moved: place.map(|(log_index, slot)| InLog { log_index, slot }),
            };
            let value = half.encode();
            prop_assert_eq!(&HalfMessage::decode(&value).expect("comes back"), &half);
            for cut in 0..value.len() {
                prop_assert!(HalfMessage::decode(&value[..cut]).is_err());
            }
        }

        #[test]
        fn garbage_never_panics(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = HalfMessage::decode(&value);
        }
    }
}
