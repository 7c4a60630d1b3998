//! Messages that wait for their delivery time. The body stays where it is in the log; when the time has come, Tick
//! gives the message a place in a queue.
//!
//! ```text
//! u8 flags: bit 0 recalled, bit 1 the body was moved | u32 tag hash | body bytes | u64 hash of the message id
//! | log index and slot of a moved body
//! ```
//!
//! A message goes by the place that it was first stored at, wherever its body is.

use super::codec::{Reader, put_varint};
use super::{StateError, TopicId, key};
use raft_store::ReadState;
use std::fmt;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::TIMER.0 as usize];

const RECALLED: u8 = 1;
const MOVED: u8 = 2;

/// Where a message that waits is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InLog {
    /// Index of its entry.
    pub log_index: u64,
    /// Slot in the entry.
    pub slot: u32,
}

/// A message that waits for its delivery time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// It was taken back: its row stays until the time, so that a second recall is answered like the first.
    pub recalled: bool,
    /// Hash of its tag, 0 when it has none.
    pub tag: u32,
    /// Bytes of its body.
    pub body_bytes: u32,
    /// Hash of its message id.
    pub message_id_hash: u64,
    /// Where its body is, when that is not where it was first stored.
    pub moved: Option<InLog>,
}

impl Timer {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(18);
        out.push(if self.recalled { RECALLED } else { 0 } | if self.moved.is_some() { MOVED } else { 0 });
        out.extend_from_slice(&self.tag.to_be_bytes());
        put_varint(&mut out, u64::from(self.body_bytes));
        out.extend_from_slice(&self.message_id_hash.to_be_bytes());
        put_moved(&mut out, self.moved);
        out
    }

    fn decode(value: &[u8]) -> Result<Timer, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let flags = reader.u8()?;
        let timer = Timer {
            recalled: flags & RECALLED != 0,
            tag: reader.u32()?,
            body_bytes: reader.varint_u32()?,
            message_id_hash: reader.u64()?,
            moved: moved(&mut reader, flags & MOVED != 0)?,
        };
        reader.end()?;
        Ok(timer)
    }
}

/// Adds the place of a moved body to a row.
pub(super) fn put_moved(out: &mut Vec<u8>, moved: Option<InLog>) {
    if let Some(InLog { log_index, slot }) = moved {
        put_varint(out, log_index);
        put_varint(out, u64::from(slot));
    }
}

/// Reads what [`put_moved`] wrote.
pub(super) fn moved(reader: &mut Reader<'_>, is_moved: bool) -> Result<Option<InLog>, StateError> {
    if !is_moved {
        return Ok(None);
    }
    Ok(Some(InLog { log_index: reader.varint()?, slot: reader.varint_u32()? }))
}

/// A timer with what its key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Delivery time, ms since the Unix epoch.
    pub at_ms: u64,
    /// Its topic, which may be gone.
    pub topic: TopicId,
    /// Where it was first stored: what it goes by.
    pub place: InLog,
    /// The timer.
    pub timer: Timer,
}

impl Due {
    /// Where its body is.
    #[must_use]
    pub fn body(&self) -> InLog {
        self.timer.moved.unwrap_or(self.place)
    }
}

/// A message that waits.
///
/// # Errors
/// When the row cannot be read.
pub fn timer(
    state: &impl ReadState,
    at_ms: u64,
    topic: TopicId,
    InLog { log_index, slot }: InLog,
) -> Result<Option<Timer>, StateError> {
    let key = key::waiting_at(b'd', at_ms, topic, log_index, slot);
    state.get(key::TIMER, &key)?.map(|value| Timer::decode(&value)).transpose()
}

/// When the message is due whose body is there; `None` when none waits with its body there.
///
/// # Errors
/// When the row cannot be read.
pub fn due_ms(state: &impl ReadState, InLog { log_index, slot }: InLog) -> Result<Option<u64>, StateError> {
    let Some(key) = state.get(key::TIMER, &key::in_log(log_index, slot))? else { return Ok(None) };
    super::codec::key_u64(TABLE, &key, 1).map(Some)
}

/// No timer stands below this key.
pub(crate) fn low(state: &impl ReadState) -> Result<Vec<u8>, StateError> {
    Ok(state.get(key::MACHINE, &key::machine(b't'))?.unwrap_or_else(|| b"d".to_vec()))
}

/// Timers up to and including `until_ms`, earliest first, at most `rows_max`.
///
/// # Errors
/// When a row cannot be read.
pub fn due(state: &impl ReadState, until_ms: u64, rows_max: usize) -> Result<Vec<Due>, StateError> {
    scan(state, &low(state)?, until_ms, rows_max)
}

/// Timers from a key on.
fn scan(state: &impl ReadState, from: &[u8], until_ms: u64, rows_max: usize) -> Result<Vec<Due>, StateError> {
    let mut rows = Vec::new();
    state.scan(key::TIMER, from, &key::waiting_until(b'd', until_ms), &mut |key, value| {
        rows.push(parse(key, value));
        if rows.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    rows.into_iter().collect()
}

/// Where a list goes on. What is written is for us alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    at_ms: u64,
    topic: TopicId,
    place: InLog,
}

impl Point {
    /// Before everything that is due then.
    #[must_use]
    pub fn at(at_ms: u64) -> Point {
        Point { at_ms, topic: TopicId(0), place: InLog { log_index: 0, slot: 0 } }
    }

    /// What `Display` wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Point> {
        let mut parts = text.splitn(4, '-').map(str::parse::<u64>);
        let mut part = || parts.next()?.ok();
        let (at_ms, topic, log_index) = (part()?, TopicId(part()?), part()?);
        let slot = u32::try_from(part()?).ok()?;
        Some(Point { at_ms, topic, place: InLog { log_index, slot } })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.at_ms, self.topic.0, self.place.log_index, self.place.slot)
    }
}

/// A part of the timers.
#[derive(Debug)]
pub struct Page {
    /// Earliest first; without those that were taken back.
    pub rows: Vec<Due>,
    /// Where there may be more.
    pub next: Option<Point>,
}

/// Timers from a point on up to and including `until_ms`, of one topic or of all, at most `rows_max`, after a look at
/// `looks_max` rows at most.
///
/// # Errors
/// When a row cannot be read.
pub fn page(
    state: &impl ReadState,
    from: Point,
    until_ms: u64,
    topic: Option<TopicId>,
    rows_max: usize,
    looks_max: usize,
) -> Result<Page, StateError> {
    let begin = key::waiting_at(b'd', from.at_ms, from.topic, from.place.log_index, from.place.slot).to_vec();
    let begin = begin.max(low(state)?);
    let (mut rows, mut looks, mut next, mut broken) = (Vec::new(), 0, None, None);
    state.scan(key::TIMER, &begin, &key::waiting_until(b'd', until_ms), &mut |key, value| match parse(key, value) {
        Ok(due) if rows.len() >= rows_max || looks >= looks_max => {
            next = Some(Point { at_ms: due.at_ms, topic: due.topic, place: due.place });
            ControlFlow::Break(())
        }
        Ok(due) => {
            looks += 1;
            if !due.timer.recalled && topic.is_none_or(|topic| topic == due.topic) {
                rows.push(due);
            }
            ControlFlow::Continue(())
        }
        Err(error) => {
            broken = Some(error);
            ControlFlow::Break(())
        }
    })?;
    match broken {
        Some(error) => Err(error),
        None => Ok(Page { rows, next }),
    }
}

/// The timer of a row.
pub(crate) fn parse(key: &[u8], value: &[u8]) -> Result<Due, StateError> {
    let mut reader = Reader::new(TABLE, key);
    reader.u8()?;
    Ok(Due {
        at_ms: reader.u64()?,
        topic: TopicId(reader.u64()?),
        place: InLog { log_index: reader.u64()?, slot: reader.u32()? },
        timer: Timer::decode(value)?,
    })
}

/// Messages of a topic that wait for their delivery time.
///
/// # Errors
/// When the row cannot be read.
pub fn waiting(state: &impl ReadState, topic: TopicId) -> Result<u64, StateError> {
    count(state, key::TIMER, topic)
}

/// Messages of all topics that wait for their delivery time.
///
/// # Errors
/// When a row cannot be read.
pub fn waiting_in_all(state: &impl ReadState) -> Result<u64, StateError> {
    let mut counts = Vec::new();
    state.scan(key::TIMER, b"n", &key::after(b"n"), &mut |_, value| {
        counts.push(value.to_vec());
        ControlFlow::Continue(())
    })?;
    let mut sum = 0_u64;
    for value in counts {
        let mut reader = Reader::new(TABLE, &value);
        sum = sum.saturating_add(reader.varint()?);
        reader.end()?;
    }
    Ok(sum)
}

/// How many messages of a topic a table holds.
pub(super) fn count(state: &impl ReadState, table: raft_store::Table, topic: TopicId) -> Result<u64, StateError> {
    let Some(value) = state.get(table, &key::waiting_count(topic))? else { return Ok(0) };
    let mut reader = Reader::new(key::TABLES[usize::from(table.0)], &value);
    let count = reader.varint()?;
    reader.end()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::{InLog, Point, Timer, TopicId};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn a_point_to_go_on_from_reads_back(at_ms in any::<u64>(), topic in any::<u64>(), log_index in any::<u64>(), slot in any::<u32>(), other in ".*") {
            let point = Point { at_ms, topic: TopicId(topic), place: InLog { log_index, slot } };
            prop_assert_eq!(Point::parse(&point.to_string()), Some(point));
            let _ = Point::parse(&other);
        }

        #[test]
        fn rows_come_back(recalled in any::<bool>(), tag in any::<u32>(), body_bytes in any::<u32>(), message_id_hash in any::<u64>(), place in any::<Option<(u64, u32)>>()) {
            let moved = place.map(|(log_index, slot)| InLog { log_index, slot });
            let timer = Timer { recalled, tag, body_bytes, message_id_hash, moved };
            let value = timer.encode();
            prop_assert_eq!(Timer::decode(&value).expect("comes back"), timer);
            for cut in 0..value.len() {
                prop_assert!(Timer::decode(&value[..cut]).is_err());
            }
        }
    }
}
