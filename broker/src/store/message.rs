//! The index of messages. One row stands for a run: neighbours in a queue that came with one Raft entry.
//!
//! ```text
//! u8 flags: bits 0-1 tags (0 none, 1 one for all, 2 a list), bit 2 slots are a list, bit 3 has an origin,
//!           bit 4 has message groups, bit 5 became visible later than its entry
//! count | log index | store time | first slot, or a slot per message | tag hashes | origin topic
//! | message group hash per message
//! ```
//!
//! All numbers are varints but the tag hashes, which are u32, and those of message groups, which are u64.

use super::codec::{Reader, put_bytes, put_varint};
use super::queue::Queue;
use super::{StateError, TopicId, key};
use raft_store::ReadState;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::MESSAGE.0 as usize];

const TAGS: u8 = 0b11;
const TAG_FOR_ALL: u8 = 1;
const TAG_LIST: u8 = 2;
const SLOT_LIST: u8 = 0b100;
const ORIGIN: u8 = 0b1000;
const GROUPS: u8 = 0b1_0000;
const LATE: u8 = 0b10_0000;

/// A number per message of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PerMessage {
    /// The rule gives it: slots count up from this one, tags are all this one.
    Rule(u32),
    /// One each.
    List(Vec<u32>),
}

/// Consecutive messages of a queue whose bodies are in one log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Offset of the first message.
    pub first: u64,
    /// Messages.
    pub count: u32,
    /// Log index of the entry with the bodies.
    pub log_index: u64,
    /// Cluster time at which they became visible, ms since the Unix epoch.
    pub store_ms: u64,
    /// Of a dead letter: the topic it came from.
    pub origin: Option<String>,
    /// They became visible later than their entry came into the log, or the entry holds them a second time: their place
    /// in the queue says nothing about their place in the log, and a keeper names them.
    pub late: bool,
    slots: PerMessage,
    tags: PerMessage,
    /// Hash of the message group per message; empty when none of them has one.
    groups: Vec<u64>,
}

/// Where a message is and what a filter asks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Offset in its queue.
    pub offset: u64,
    /// Log index of the entry with its body.
    pub log_index: u64,
    /// Slot in that entry.
    pub slot: u32,
    /// Hash of its tag, 0 when it has none.
    pub tag: u32,
    /// Hash of its message group; 0 when it has none, or its order is not kept.
    pub group: u64,
    /// Cluster time at which it became visible, ms since the Unix epoch.
    pub store_ms: u64,
}

impl Run {
    /// A run of one message.
    #[must_use]
    pub fn one(place: Place, origin: Option<String>) -> Run {
        Run {
            first: place.offset,
            count: 1,
            log_index: place.log_index,
            store_ms: place.store_ms,
            origin,
            late: false,
            slots: PerMessage::Rule(place.slot),
            tags: PerMessage::Rule(place.tag),
            groups: if place.group == 0 { Vec::new() } else { vec![place.group] },
        }
    }

    /// Its messages, in order.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        (self.first..self.end()).filter_map(|offset| self.place(offset))
    }

    /// Where the body of its first message is: entry and slot.
    #[must_use]
    pub(crate) fn starts_at(&self) -> (u64, u32) {
        let slot = match &self.slots {
            PerMessage::Rule(first) => *first,
            PerMessage::List(list) => list.first().copied().unwrap_or_default(),
        };
        (self.log_index, slot)
    }

    /// The same run as one that became visible later than its entry came into the log.
    #[must_use]
    pub(crate) fn late(self) -> Run {
        Run { late: true, ..self }
    }

    /// The same run with its bodies in another entry, one after another from `slot` on.
    #[must_use]
    pub(crate) fn moved(self, log_index: u64, slot: u32) -> Run {
        Run { log_index, slots: PerMessage::Rule(slot), late: true, ..self }
    }

    /// Adds a message behind the last one. It is in the same entry.
    pub(crate) fn push(&mut self, slot: u32, tag: u32, group: u64) {
        let count = self.count;
        match &mut self.slots {
            PerMessage::Rule(first) if first.checked_add(count) == Some(slot) => {}
            PerMessage::Rule(first) => {
                let mut list: Vec<_> = (*first..*first + count).collect();
                list.push(slot);
                self.slots = PerMessage::List(list);
            }
            PerMessage::List(list) => list.push(slot),
        }
        match &mut self.tags {
            PerMessage::Rule(all) if *all == tag => {}
            PerMessage::Rule(all) => {
                let mut list = vec![*all; count as usize];
                list.push(tag);
                self.tags = PerMessage::List(list);
            }
            PerMessage::List(list) => list.push(tag),
        }
        if group != 0 || !self.groups.is_empty() {
            self.groups.resize(count as usize, 0);
            self.groups.push(group);
        }
        self.count += 1;
    }

    /// Offset behind the last message: the first one of the next run.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// The message at `offset`, when the run holds it.
    #[must_use]
    pub fn place(&self, offset: u64) -> Option<Place> {
        let at = usize::try_from(offset.checked_sub(self.first)?).ok().filter(|at| *at < self.count as usize)?;
        let slot = match &self.slots {
            PerMessage::Rule(first) => *first + at as u32,
            PerMessage::List(list) => list[at],
        };
        let tag = match &self.tags {
            PerMessage::Rule(all) => *all,
            PerMessage::List(list) => list[at],
        };
        let group = self.groups.get(at).copied().unwrap_or_default();
        Some(Place { offset, log_index: self.log_index, slot, tag, group, store_ms: self.store_ms })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut flags = match &self.tags {
            PerMessage::Rule(0) => 0,
            PerMessage::Rule(_) => TAG_FOR_ALL,
            PerMessage::List(_) => TAG_LIST,
        };
        if matches!(self.slots, PerMessage::List(_)) {
            flags |= SLOT_LIST;
        }
        if self.origin.is_some() {
            flags |= ORIGIN;
        }
        if !self.groups.is_empty() {
            flags |= GROUPS;
        }
        if self.late {
            flags |= LATE;
        }
        let mut out = vec![flags];
        put_varint(&mut out, u64::from(self.count));
        put_varint(&mut out, self.log_index);
        put_varint(&mut out, self.store_ms);
        match &self.slots {
            PerMessage::Rule(first) => put_varint(&mut out, u64::from(*first)),
            PerMessage::List(list) => list.iter().for_each(|slot| put_varint(&mut out, u64::from(*slot))),
        }
        match &self.tags {
            PerMessage::Rule(0) => {}
            PerMessage::Rule(all) => out.extend_from_slice(&all.to_be_bytes()),
            PerMessage::List(list) => list.iter().for_each(|tag| out.extend_from_slice(&tag.to_be_bytes())),
        }
        if let Some(origin) = &self.origin {
            put_bytes(&mut out, origin.as_bytes());
        }
        self.groups.iter().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
        out
    }

    fn decode(first: u64, value: &[u8]) -> Result<Run, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let flags = reader.u8()?;
        let (count, log_index, store_ms) = (reader.varint_u32()?, reader.varint()?, reader.varint()?);
        if count == 0 || first.checked_add(u64::from(count)).is_none() {
            return Err(reader.corrupt("a run has no messages, or too many"));
        }
        let slots = if flags & SLOT_LIST == 0 {
            let first = reader.varint_u32()?;
            first.checked_add(count).ok_or_else(|| reader.corrupt("slots run over"))?;
            PerMessage::Rule(first)
        } else {
            let mut list = Vec::with_capacity(reader.capacity(count));
            for _ in 0..count {
                list.push(reader.varint_u32()?);
            }
            PerMessage::List(list)
        };
        let tags = match flags & TAGS {
            0 => PerMessage::Rule(0),
            TAG_FOR_ALL => PerMessage::Rule(reader.u32()?),
            TAG_LIST => {
                let mut list = Vec::with_capacity(reader.capacity(count));
                for _ in 0..count {
                    list.push(reader.u32()?);
                }
                PerMessage::List(list)
            }
            _ => return Err(reader.corrupt("unknown kind of tags")),
        };
        let origin = if flags & ORIGIN == 0 { None } else { Some(reader.text()?) };
        let mut groups = Vec::new();
        if flags & GROUPS != 0 {
            groups.reserve(reader.capacity(count));
            for _ in 0..count {
                groups.push(reader.u64()?);
            }
        }
        reader.end()?;
        Ok(Run { first, count, log_index, store_ms, origin, late: flags & LATE != 0, slots, tags, groups })
    }
}

/// The run that begins at `first`.
///
/// # Errors
/// When the row cannot be read.
pub fn run(state: &impl ReadState, topic: TopicId, number: u16, first: u64) -> Result<Option<Run>, StateError> {
    let value = state.get(key::MESSAGE, &key::message(topic, number, first))?;
    value.map(|value| Run::decode(first, &value)).transpose()
}

/// The run that holds the message at `offset`.
///
/// # Errors
/// When a row cannot be read.
pub fn run_of(state: &impl ReadState, topic: TopicId, number: u16, offset: u64) -> Result<Option<Run>, StateError> {
    let mut found = None;
    state.scan_back(
        key::MESSAGE,
        &key::message(topic, number, 0),
        &key::message(topic, number, offset),
        &mut |key, value| {
            found = Some(super::codec::key_u64(TABLE, key, 8).and_then(|first| Run::decode(first, value)));
            ControlFlow::Break(())
        },
    )?;
    Ok(found.transpose()?.filter(|run| offset < run.end()))
}

/// The offset of the first message of a queue that was stored at `time_ms` or later; behind the last one when there
/// is none. Looks up a run per halving of the queue.
///
/// # Errors
/// When a row cannot be read.
pub fn offset_at(
    state: &impl ReadState,
    topic: TopicId,
    number: u16,
    queue: &Queue,
    time_ms: u64,
) -> Result<u64, StateError> {
    let (mut low, mut high) = (queue.min, queue.next);
    while low < high {
        let middle = low + (high - low) / 2;
        match run_of(state, topic, number, middle)? {
            Some(run) if run.store_ms >= time_ms => high = run.first.max(low),
            Some(run) => low = run.end().min(high),
            None => low = middle + 1,
        }
    }
    Ok(low)
}

/// Messages of a queue from `offset` on, at most `messages_max`.
///
/// # Errors
/// When a row cannot be read.
pub fn places(
    state: &impl ReadState,
    topic: TopicId,
    number: u16,
    offset: u64,
    messages_max: usize,
) -> Result<Vec<Place>, StateError> {
    let mut places = Vec::new();
    let mut next = run_of(state, topic, number, offset)?;
    let mut at = offset;
    while let Some(current) = next {
        while places.len() < messages_max
            && let Some(place) = current.place(at)
        {
            places.push(place);
            at += 1;
        }
        if places.len() >= messages_max {
            break;
        }
        next = run(state, topic, number, current.end())?;
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::{Place, Run};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    fn place(offset: u64, slot: u32, tag: u32) -> Place {
        Place { offset, log_index: 300, slot, tag, group: 0, store_ms: 1_700_000_000_000 }
    }

    #[test]
    fn a_plain_run_is_small() {
        let mut run = Run::one(place(7, 4, 0), None);
        (5..100).for_each(|slot| run.push(slot, 0, 0));
        assert_eq!(run.encode().len(), 11);
        assert_eq!(run.place(102), Some(place(102, 99, 0)));
        assert_eq!((run.place(6), run.place(103)), (None, None));
    }

    proptest! {
        #[test]
        fn runs_come_back(
            first in 0u64..1_000_000,
            messages in proptest::collection::vec((0u32..4, 0u32..3, 0u64..5), 1..30),
            origin in any::<Option<String>>(),
            late in any::<bool>(),
        ) {
            let mut slot = 0;
            let places: Vec<_> = messages
                .iter()
                .zip(first..)
                .map(|((gap, tag, group), offset)| {
                    slot += 1 + gap / 3;
                    Place { group: group.saturating_sub(2), ..place(offset, slot, *tag) }
                })
                .collect();
            let mut run = Run { late, ..Run::one(places[0], origin) };
            places[1..].iter().for_each(|p| run.push(p.slot, p.tag, p.group));
            let value = run.encode();
            let decoded = Run::decode(first, &value).expect("comes back");
            prop_assert_eq!(&decoded, &run);
            for p in &places {
                prop_assert_eq!(decoded.place(p.offset), Some(*p));
            }
            for cut in 0..value.len() {
                prop_assert!(Run::decode(first, &value[..cut]).is_err());
            }
        }

        #[test]
        fn garbage_never_panics(value in proptest::collection::vec(any::<u8>(), 0..40), first in any::<u64>()) {
            if let Ok(run) = Run::decode(first, &value) {
                let _ = (run.place(first), run.end());
            }
        }
    }
}
