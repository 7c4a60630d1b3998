//! What retention knows: times along the log, how far it was trimmed, and what keeps a body from going.
//!
//! ```text
//! machine r: trimmed | horizon        everything in entries below `trimmed` is gone
//! machine j: upto | horizon | u8 stage | note        the trim under way
//! machine m: index | time             the last mark
//! retention m index: time             cluster time of the entry before that one
//! retention p index slot keeper: -    a keeper: what is to be delivered from that slot of that entry
//! retention t ...                     what was done to messages that are kept, see `store/trace.rs`
//! ```
//!
//! A keeper is one letter and the rest of a key: `l` consumer group, lease; `q` queue, first offset (a run that became
//! visible later than its entry); `r` topic, consumer group, order in the retry index, with the time at which it got
//! there as its value. Timers and half messages have rows of their own by log index. Rows of keepers may outlive what
//! they name: whoever finds one asks whether it still holds.

use super::codec::{Reader, put_varint};
use super::{ConsumerGroupId, LeaseId, StateError, TopicId, key, lease, message, queue, retry};
use raft_store::ReadState;
use raftmq_proto::command::Topic;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::RETENTION.0 as usize];
const MACHINE: &str = key::TABLES[key::MACHINE.0 as usize];

/// Setting: how long messages are kept, in ms.
pub const RETENTION_MS: &str = "retention.ms";
/// Where nobody says otherwise: 48 hours.
pub const RETENTION_MS_DEFAULT: u64 = 48 * 3_600_000;

/// The attribute of a topic that says how long its messages are kept, where that is shorter: `12` or `12h` for twelve
/// hours, `30m`, `10s`, `2d`.
pub const RESERVE_TIME: &str = "reserve.time";

/// The age, in ms, that a value of [`RESERVE_TIME`] says.
#[must_use]
pub fn parse_age(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "" | "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms).filter(|age_ms| *age_ms > 0)
}

/// The age of a topic's own, in ms.
#[must_use]
pub fn reserve_ms(topic: &Topic) -> Option<u64> {
    parse_age(topic.attributes.get(RESERVE_TIME)?)
}

/// What was trimmed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trimmed {
    /// Entries below this hold nothing that anybody may be given.
    pub upto: u64,
    /// Messages that became visible up to this cluster time, in ms, are gone.
    pub horizon_ms: u64,
}

impl Trimmed {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        put_varint(&mut out, self.upto);
        put_varint(&mut out, self.horizon_ms);
        out
    }
}

/// What was trimmed so far.
///
/// # Errors
/// When the row cannot be read.
pub fn trimmed(state: &impl ReadState) -> Result<Trimmed, StateError> {
    let Some(value) = state.get(key::MACHINE, &key::machine(b'r'))? else { return Ok(Trimmed::default()) };
    let mut reader = Reader::new(MACHINE, &value);
    let trimmed = Trimmed { upto: reader.varint()?, horizon_ms: reader.varint()? };
    reader.end()?;
    Ok(trimmed)
}

/// What a trim does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Moves the minimum offsets of queues.
    Queues,
    /// Notes which leases hold messages below its end.
    Leases,
    /// Sees to what is still to be delivered.
    Keepers,
    /// Removes marks.
    Marks,
}

/// A trim under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// The first entry that stays.
    pub upto: u64,
    /// Cluster time of the entry before it, ms since the Unix epoch.
    pub horizon_ms: u64,
    /// What it does next.
    pub stage: Stage,
    /// The key at which the stage goes on.
    pub(crate) note: Vec<u8>,
}

impl Trim {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(17 + self.note.len());
        put_varint(&mut out, self.upto);
        put_varint(&mut out, self.horizon_ms);
        out.push(match self.stage {
            Stage::Queues => 0,
            Stage::Leases => 1,
            Stage::Keepers => 2,
            Stage::Marks => 3,
        });
        out.extend_from_slice(&self.note);
        out
    }

    fn decode(value: &[u8]) -> Result<Trim, StateError> {
        let mut reader = Reader::new(MACHINE, value);
        let (upto, horizon_ms) = (reader.varint()?, reader.varint()?);
        let stage = match reader.u8()? {
            0 => Stage::Queues,
            1 => Stage::Leases,
            2 => Stage::Keepers,
            3 => Stage::Marks,
            _ => return Err(reader.corrupt("unknown stage of a trim")),
        };
        let note = reader.take(reader.left())?.to_vec();
        Ok(Trim { upto, horizon_ms, stage, note })
    }
}

/// The trim under way.
///
/// # Errors
/// When the row cannot be read.
pub fn trim(state: &impl ReadState) -> Result<Option<Trim>, StateError> {
    state.get(key::MACHINE, &key::machine(b'j'))?.map(|value| Trim::decode(&value)).transpose()
}

/// A place in the log with a known time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Index of an entry.
    pub index: u64,
    /// Cluster time of the entry before it, ms since the Unix epoch.
    pub time_ms: u64,
}

/// When the last mark was made: its index, and the time of that entry itself.
pub(crate) fn last_mark(state: &impl ReadState) -> Result<Mark, StateError> {
    let Some(value) = state.get(key::MACHINE, &key::machine(b'm'))? else { return Ok(Mark::default()) };
    let mut reader = Reader::new(MACHINE, &value);
    let mark = Mark { index: reader.varint()?, time_ms: reader.varint()? };
    reader.end()?;
    Ok(mark)
}

impl Mark {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        put_varint(&mut out, self.index);
        put_varint(&mut out, self.time_ms);
        out
    }

    fn decode(key: &[u8], value: &[u8]) -> Result<Mark, StateError> {
        let index = super::codec::key_u64(TABLE, key, 1)?;
        let mut reader = Reader::new(TABLE, value);
        let time_ms = reader.varint()?;
        reader.end()?;
        Ok(Mark { index, time_ms })
    }
}

/// The last mark at `index` or before it.
///
/// # Errors
/// When a row cannot be read.
pub fn mark_upto(state: &impl ReadState, index: u64) -> Result<Option<Mark>, StateError> {
    let mut found = None;
    state.scan_back(key::RETENTION, &key::mark(0), &key::mark(index), &mut |key, value| {
        found = Some(Mark::decode(key, value));
        ControlFlow::Break(())
    })?;
    found.transpose()
}

/// The first mark at `index` or behind it.
///
/// # Errors
/// When a row cannot be read.
pub fn mark_from(state: &impl ReadState, index: u64) -> Result<Option<Mark>, StateError> {
    let mut found = None;
    state.scan(key::RETENTION, &key::mark(index), &key::after(b"m"), &mut |key, value| {
        found = Some(Mark::decode(key, value));
        ControlFlow::Break(())
    })?;
    found.transpose()
}

/// Cluster time, in ms, since when entries are kept; `None` where there is none whose time is known.
///
/// # Errors
/// When a row cannot be read.
pub fn kept_since_ms(state: &impl ReadState) -> Result<Option<u64>, StateError> {
    // The first mark of a log has no entry before it.
    let mut mark = mark_from(state, 0)?;
    if let Some(first) = mark.filter(|mark| mark.time_ms == 0) {
        mark = mark_from(state, first.index + 1)?;
    }
    Ok(mark.map(|mark| mark.time_ms))
}

/// The last mark up to which everything was stored by `time_ms`. Looks up a mark per halving of the indexes.
///
/// # Errors
/// When a row cannot be read.
pub fn mark_by_time(state: &impl ReadState, time_ms: u64) -> Result<Option<Mark>, StateError> {
    let Some(mut best) = mark_from(state, 0)?.filter(|first| first.time_ms <= time_ms) else { return Ok(None) };
    let Some(last) = mark_upto(state, u64::MAX)? else { return Ok(None) };
    // Times do not decrease along the log.
    let (mut low, mut high) = (best.index + 1, last.index);
    while low <= high {
        let middle = low + (high - low) / 2;
        match mark_from(state, middle)? {
            Some(mark) if mark.time_ms <= time_ms => {
                best = mark;
                low = mark.index + 1;
            }
            _ => high = middle - 1,
        }
    }
    Ok(Some(best))
}

/// What needs a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// A lease, for another delivery when it ends.
    Lease(ConsumerGroupId, LeaseId),
    /// A run of a queue that begins at an offset.
    Queue(TopicId, u16, u64),
    /// A row of a retry index.
    Retry(TopicId, ConsumerGroupId, u64),
    /// A message that waits for its delivery time.
    Timer,
    /// A half message.
    Half,
}

impl Keeper {
    pub(crate) fn encode(self) -> Vec<u8> {
        let join = |letter: u8, parts: &[&[u8]]| [&[letter][..], &parts.concat()].concat();
        match self {
            Keeper::Lease(group, lease) => join(b'l', &[&key::lease(group, lease)]),
            Keeper::Queue(topic, number, first) => join(b'q', &[&key::message(topic, number, first)]),
            Keeper::Retry(topic, group, order) => join(b'r', &[&key::retry(topic, group, order)]),
            Keeper::Timer => vec![b't'],
            Keeper::Half => vec![b'h'],
        }
    }

    /// What `bytes` name; they may come from anywhere.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Keeper, StateError> {
        let mut reader = Reader::new(TABLE, bytes);
        let keeper = match reader.u8()? {
            b'l' => Keeper::Lease(ConsumerGroupId(reader.u64()?), LeaseId(reader.u64()?)),
            b'q' => {
                let queue = reader.take(8)?;
                let Some((topic, number)) = key::of_queue(queue) else {
                    return Err(reader.corrupt("a keeper names no queue"));
                };
                Keeper::Queue(topic, number, reader.u64()?)
            }
            b'r' => Keeper::Retry(TopicId(reader.u64()?), ConsumerGroupId(reader.u64()?), reader.u64()?),
            b't' => Keeper::Timer,
            b'h' => Keeper::Half,
            _ => return Err(reader.corrupt("unknown keeper")),
        };
        reader.end()?;
        Ok(keeper)
    }
}

/// A keeper and the body that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Entry with the body.
    pub log_index: u64,
    /// First slot.
    pub slot: u32,
    /// Who needs it.
    pub keeper: Keeper,
    /// Cluster time at which a retry began to wait; 0 otherwise.
    pub since_ms: u64,
}

/// Rows of keepers from entry `from` on and below entry `below`, lowest first, at most `rows_max`.
pub(crate) fn pins(state: &impl ReadState, from: u64, below: u64, rows_max: usize) -> Result<Vec<Pin>, StateError> {
    let mut found = Vec::new();
    state.scan(key::RETENTION, &key::pin(from, 0, &[]), &key::pin(below, 0, &[]), &mut |key, value| {
        if found.len() == rows_max {
            return ControlFlow::Break(());
        }
        found.push(parse(key, value));
        ControlFlow::Continue(())
    })?;
    found.into_iter().collect()
}

/// The keeper of a row.
pub(crate) fn parse(key: &[u8], value: &[u8]) -> Result<Pin, StateError> {
    let mut reader = Reader::new(TABLE, key);
    reader.u8()?;
    let (log_index, slot) = (reader.u64()?, reader.u32()?);
    let keeper = Keeper::decode(reader.take(reader.left())?)?;
    let mut reader = Reader::new(TABLE, value);
    let since_ms = if value.is_empty() { 0 } else { reader.varint()? };
    reader.end()?;
    Ok(Pin { log_index, slot, keeper, since_ms })
}

/// Messages that wait in the log for a time (`timer`) or a word (`half`), from entry `from` on and below entry `below`,
/// lowest first, at most `rows_max`.
pub(crate) fn waiting_in_log(
    state: &impl ReadState,
    table: raft_store::Table,
    from: u64,
    below: u64,
    rows_max: usize,
) -> Result<Vec<(u64, u32)>, StateError> {
    let mut found = Vec::new();
    state.scan(table, &key::in_log(from, 0), &key::in_log(below, 0), &mut |key, _| {
        if found.len() == rows_max {
            return ControlFlow::Break(());
        }
        let mut reader = Reader::new(key::TABLES[usize::from(table.0)], key);
        found.push(reader.u8().and_then(|_| Ok((reader.u64()?, reader.u32()?))));
        ControlFlow::Continue(())
    })?;
    found.into_iter().collect()
}

/// When the oldest message of a topic that is kept became visible, ms since the Unix epoch. Reads two rows a queue.
///
/// # Errors
/// When a row cannot be read.
pub fn oldest_ms(state: &impl ReadState, topic: &Topic) -> Result<Option<u64>, StateError> {
    let id = TopicId(topic.id);
    let mut oldest = None;
    for number in 0..topic.read_queues.max(topic.write_queues) {
        let Ok(number) = u16::try_from(number) else { break };
        let queue = queue::queue(state, id, number)?;
        if queue.min < queue.next
            && let Some(run) = message::run(state, id, number, queue.min)?
        {
            oldest = Some(oldest.map_or(run.store_ms, |known: u64| known.min(run.store_ms)));
        }
    }
    Ok(oldest)
}

/// A keeper and the slots that hold what it needs, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The keeper.
    pub pin: Pin,
    /// Slots of that entry.
    pub slots: Vec<u32>,
}

/// What holds up the trim under way, lowest first, at most `rows_max` of each kind: bodies that are to be appended
/// again. Keepers that hold no longer may be among them, as far as their rows are still there.
///
/// # Errors
/// When a row cannot be read.
pub fn held(state: &impl ReadState, trim: &Trim, rows_max: usize) -> Result<Vec<Held>, StateError> {
    let from = trimmed(state)?.upto;
    let mut all = Vec::new();
    for (table, keeper) in [(key::TIMER, Keeper::Timer), (key::HALF, Keeper::Half)] {
        for (log_index, slot) in waiting_in_log(state, table, from, trim.upto, rows_max)? {
            all.push(Held { pin: Pin { log_index, slot, keeper, since_ms: 0 }, slots: vec![slot] });
        }
    }
    for pin in pins(state, from, trim.upto, rows_max)? {
        let at = (pin.log_index, pin.slot);
        let slots: Vec<u32> = match pin.keeper {
            Keeper::Lease(group, id) => {
                let Some(lease) = lease::lease(state, group, id)? else { continue };
                let Some(part) = lease.open_part_at(at) else { continue };
                (0..lease.parts[part].count).map(|more| pin.slot + more).collect()
            }
            Keeper::Queue(topic, number, first) => match message::run(state, topic, number, first)? {
                Some(run) if run.starts_at() == at => run.places().map(|place| place.slot).collect(),
                _ => continue,
            },
            Keeper::Retry(topic, group, order) => match retry::retry(state, topic, group, order)? {
                Some(row) if (row.place.log_index, row.place.slot) == at => vec![pin.slot],
                _ => continue,
            },
            Keeper::Timer | Keeper::Half => continue,
        };
        all.push(Held { pin, slots });
    }
    all.sort_by_key(|held| (held.pin.log_index, held.pin.slot));
    Ok(all)
}

/// Messages of a topic that retention took before a consumer group had consumed them.
///
/// # Errors
/// When the row cannot be read.
pub fn expired(state: &impl ReadState, topic: TopicId, group: ConsumerGroupId) -> Result<u64, StateError> {
    let Some(value) = state.get(key::PROGRESS, &key::expired(topic, group))? else { return Ok(0) };
    let mut reader = Reader::new(key::TABLES[usize::from(key::PROGRESS.0)], &value);
    let messages = reader.varint()?;
    reader.end()?;
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::{ConsumerGroupId, Keeper, LeaseId, Stage, TopicId, Trim, parse_age};
    use proptest::prelude::{any, proptest};

    #[test]
    fn rows_come_back() {
        for stage in [Stage::Queues, Stage::Leases, Stage::Keepers, Stage::Marks] {
            let trim = Trim { upto: 1 << 40, horizon_ms: 7, stage, note: vec![1, 0] };
            assert_eq!(Trim::decode(&trim.encode()).expect("comes back"), trim);
        }
        let keepers = [
            Keeper::Lease(ConsumerGroupId(3), LeaseId(1 << 50)),
            Keeper::Queue(TopicId(9), 7, 1 << 33),
            Keeper::Retry(TopicId(9), ConsumerGroupId(3), 12),
            Keeper::Timer,
            Keeper::Half,
        ];
        for keeper in keepers {
            assert_eq!(Keeper::decode(&keeper.encode()).expect("comes back"), keeper);
        }
    }

    #[test]
    fn ages() {
        for (text, age_ms) in [("12", 43_200_000), ("12h", 43_200_000), ("30m", 1_800_000), ("10s", 10_000)] {
            assert_eq!(parse_age(text), Some(age_ms), "{text}");
        }
        for text in ["", "h", "0", "5w", "-1", "1.5h", "99999999999999999999d"] {
            assert_eq!(parse_age(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (Keeper::decode(&bytes), Trim::decode(&bytes));
        }
    }
}
