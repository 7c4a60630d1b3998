//! Leases: messages handed to a client until a deadline, or until its session ends.
//!
//! A lease holds items, the messages in the order in which the client got them; a receipt handle names an item.
//! Items are stored as parts, runs of neighbours that agree in everything else:
//!
//! ```text
//! u8 flags: bit 0 renewed, bit 1 ended, bit 2 suspended, bit 3 unconfirmed
//! u64 deadline | u64 digest of the receive | topic | client | items | 2 bits per item: its state
//! per part: u8 flags: bit 0 fresh, bit 1 has a message group | u32 tag | u64 message group hash
//!           | queue | first offset | count | attempt | log index | first slot | store time
//! ```

use super::codec::{Reader, put_bytes, put_varint};
use super::message::Place;
use super::{ConsumerGroupId, LeaseId, StateError, TopicId, key};
use raft_store::ReadState;

const TABLE: &str = key::TABLES[key::LEASE.0 as usize];

const RENEWED: u8 = 1;
const ENDED: u8 = 2;
const SUSPENDED: u8 = 4;
const UNCONFIRMED: u8 = 8;

const FRESH: u8 = 1;
const GROUPED: u8 = 2;

/// Items that a lease may hold.
pub const ITEMS_MAX: u32 = 256;

/// What became of a message in a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// The client has it.
    Open,
    /// Acknowledged.
    Acked,
    /// Another lease holds it now: its invisible duration was changed.
    Superseded,
    /// Taken back: it waits for another delivery or is a dead letter.
    Ended,
}

impl Item {
    fn bits(self) -> u8 {
        match self {
            Item::Open => 0,
            Item::Acked => 1,
            Item::Superseded => 2,
            Item::Ended => 3,
        }
    }

    fn of_bits(bits: u8) -> Item {
        match bits & 3 {
            0 => Item::Open,
            1 => Item::Acked,
            2 => Item::Superseded,
            _ => Item::Ended,
        }
    }
}

/// Neighbours in a queue, leased together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// They came from the queue itself, not from the retry index: its progress waits for them.
    pub fresh: bool,
    /// Queue number.
    pub queue: u16,
    /// Place of the first one; offsets and slots count up from there.
    pub first: Place,
    /// Messages.
    pub count: u32,
    /// Which delivery this is; the first is 1.
    pub attempt: u32,
}

impl Part {
    /// The place of the message `at` places behind the first.
    #[must_use]
    pub fn place(&self, at: u32) -> Place {
        Place { offset: self.first.offset + u64::from(at), slot: self.first.slot + at, ..self.first }
    }

    /// The part that has nothing but the message `at` places behind the first.
    #[must_use]
    pub fn only(&self, at: u32) -> Part {
        Part { first: self.place(at), count: 1, ..*self }
    }

    /// Whether a message can join at the end.
    fn goes_on_with(&self, other: &Part) -> bool {
        let next = Part { first: self.place(self.count), count: other.count, ..*self };
        next == *other
    }
}

/// Messages handed to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Topic that the messages were received from.
    pub topic: TopicId,
    /// Client that holds them.
    pub client_id: String,
    /// Lives as long as the client's session; the deadline is only its cap.
    pub renewed: bool,
    /// Nothing is open; the row stays for a while so that late handles get the right answer.
    pub ended: bool,
    /// Its end does not count as an attempt.
    pub suspended: bool,
    /// Renewed, but it is not known yet that its messages reached the client: the deadline is near, and an end at it
    /// does not count as an attempt.
    pub unconfirmed: bool,
    /// Cluster time at which it ends, or is forgotten when it has ended.
    pub deadline_ms: u64,
    /// Digest of client and attempt id, 0 without attempt id.
    pub receive: u64,
    /// State per item.
    pub items: Vec<Item>,
    /// The items' messages, in the order of the items.
    pub parts: Vec<Part>,
}

impl Lease {
    /// Adds an item.
    pub(crate) fn push(&mut self, part: Part) {
        debug_assert_eq!(part.count, 1, "items are added one by one");
        match self.parts.last_mut() {
            Some(last) if last.goes_on_with(&part) => last.count += 1,
            _ => self.parts.push(part),
        }
        self.items.push(Item::Open);
    }

    /// Each part with the number of its first item.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &Part)> {
        self.parts.iter().scan(0, |item, part| {
            let first = *item;
            *item += part.count as usize;
            Some((first, part))
        })
    }

    /// The part that holds an item, with the number of its first item.
    #[must_use]
    pub fn part_of(&self, item: usize) -> Option<(usize, &Part)> {
        self.numbered().find(|(first, part)| (*first..*first + part.count as usize).contains(&item))
    }

    /// Items that the client still has.
    #[must_use]
    pub fn open(&self) -> usize {
        self.items.iter().filter(|item| **item == Item::Open).count()
    }

    /// Parts of which the client still has a message.
    pub(crate) fn open_parts(&self) -> impl Iterator<Item = &Part> {
        self.numbered().filter(|(base, part)| self.is_open(*base, part)).map(|(_, part)| part)
    }

    /// Number of the part whose first body is there, when the client still has a message of it.
    pub(crate) fn open_part_at(&self, (log_index, slot): (u64, u32)) -> Option<usize> {
        self.numbered().position(|(base, part)| {
            part.first.log_index == log_index && part.first.slot == slot && self.is_open(base, part)
        })
    }

    fn is_open(&self, base: usize, part: &Part) -> bool {
        self.items[base..base + part.count as usize].contains(&Item::Open)
    }

    /// The lowest open message of the fresh part of queue `number` that begins at offset `first`.
    pub(crate) fn first_open(&self, number: u16, first: u64) -> Option<u64> {
        let (base, part) = self.numbered().find(|(_, p)| p.fresh && p.queue == number && p.first.offset == first)?;
        let open = (0..part.count).find(|at| self.items[base + *at as usize] == Item::Open)?;
        Some(first + u64::from(open))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.client_id.len() + 32 * self.parts.len());
        let flags = [
            (self.renewed, RENEWED),
            (self.ended, ENDED),
            (self.suspended, SUSPENDED),
            (self.unconfirmed, UNCONFIRMED),
        ];
        out.push(flags.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag));
        out.extend_from_slice(&self.deadline_ms.to_be_bytes());
        out.extend_from_slice(&self.receive.to_be_bytes());
        put_varint(&mut out, self.topic.0);
        put_bytes(&mut out, self.client_id.as_bytes());
        put_varint(&mut out, self.items.len() as u64);
        for four in self.items.chunks(4) {
            out.push(four.iter().enumerate().fold(0, |byte, (at, item)| byte | (item.bits() << (2 * at))));
        }
        for part in &self.parts {
            let grouped = part.first.group != 0;
            out.push(if part.fresh { FRESH } else { 0 } | if grouped { GROUPED } else { 0 });
            out.extend_from_slice(&part.first.tag.to_be_bytes());
            if grouped {
                out.extend_from_slice(&part.first.group.to_be_bytes());
            }
            for number in [
                u64::from(part.queue),
                part.first.offset,
                u64::from(part.count),
                u64::from(part.attempt),
                part.first.log_index,
                u64::from(part.first.slot),
                part.first.store_ms,
            ] {
                put_varint(&mut out, number);
            }
        }
        out
    }

    fn decode(value: &[u8]) -> Result<Lease, StateError> {
        let mut reader = Reader::new(TABLE, value);
        let flags = reader.u8()?;
        let (deadline_ms, receive) = (reader.u64()?, reader.u64()?);
        let topic = TopicId(reader.varint()?);
        let client_id = reader.text()?;
        let count = reader.varint_u32()?;
        if count > ITEMS_MAX {
            return Err(reader.corrupt("a lease has too many items"));
        }
        let count = count as usize;
        let states = reader.take(count.div_ceil(4))?;
        let items = (0..count).map(|at| Item::of_bits(states[at / 4] >> (2 * (at % 4)))).collect();
        let mut parts = Vec::new();
        let mut held = 0;
        while held < count {
            let flags = reader.u8()?;
            let tag = reader.u32()?;
            let group = if flags & GROUPED == 0 { 0 } else { reader.u64()? };
            let (queue, offset, count) = (reader.varint_u16()?, reader.varint()?, reader.varint_u32()?);
            let (attempt, log_index) = (reader.varint_u32()?, reader.varint()?);
            let (slot, store_ms) = (reader.varint_u32()?, reader.varint()?);
            if count == 0 || offset.checked_add(u64::from(count)).is_none() || slot.checked_add(count).is_none() {
                return Err(reader.corrupt("a part has no messages, or too many"));
            }
            held = held.saturating_add(count as usize);
            let first = Place { offset, log_index, slot, tag, group, store_ms };
            parts.push(Part { fresh: flags & FRESH != 0, queue, first, count, attempt });
        }
        if held != count {
            return Err(reader.corrupt("parts and items differ"));
        }
        reader.end()?;
        let [renewed, ended, suspended, unconfirmed] =
            [RENEWED, ENDED, SUSPENDED, UNCONFIRMED].map(|flag| flags & flag != 0);
        Ok(Lease { topic, client_id, renewed, ended, suspended, unconfirmed, deadline_ms, receive, items, parts })
    }
}

/// A lease of a consumer group.
///
/// # Errors
/// When the row cannot be read.
pub fn lease(state: &impl ReadState, group: ConsumerGroupId, id: LeaseId) -> Result<Option<Lease>, StateError> {
    state.get(key::LEASE, &key::lease(group, id))?.map(|value| Lease::decode(&value)).transpose()
}

/// The lease of a row.
pub(crate) fn parse(key: &[u8], value: &[u8]) -> Result<(ConsumerGroupId, LeaseId, Lease), StateError> {
    let mut reader = Reader::new(TABLE, key);
    let (group, id) = (ConsumerGroupId(reader.u64()?), LeaseId(reader.u64()?));
    reader.end()?;
    Ok((group, id, Lease::decode(value)?))
}

/// Names a receive that may be asked again; 0 when it carries no attempt id.
pub(crate) fn receive_digest(topic: TopicId, renewed: bool, client_id: &str, attempt_id: &str) -> u64 {
    if attempt_id.is_empty() {
        return 0;
    }
    let mut named = topic.0.to_be_bytes().to_vec();
    named.push(u8::from(renewed));
    named.extend_from_slice(&(client_id.len() as u64).to_be_bytes());
    named.extend_from_slice(client_id.as_bytes());
    named.extend_from_slice(attempt_id.as_bytes());
    xxhash_rust::xxh3::xxh3_64(&named).max(1)
}

/// The leases that a receive with an attempt id was answered with: one, or one for each of several lite topics.
pub(crate) fn of_receive(
    state: &impl ReadState,
    group: ConsumerGroupId,
    digest: u64,
) -> Result<Vec<LeaseId>, StateError> {
    let Some(value) = state.get(key::RECEIVE, &key::receive(group, digest))? else { return Ok(Vec::new()) };
    let mut reader = Reader::new(key::TABLES[key::RECEIVE.0 as usize], &value);
    let mut ids = Vec::with_capacity(value.len() / 8);
    while reader.left() > 0 {
        ids.push(LeaseId(reader.u64()?));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::{Item, Lease, Part, Place, TopicId};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn rows_come_back(
            picks in proptest::collection::vec((any::<bool>(), 0u16..3, 0u64..6, 1u32..3, 0u32..3), 0..40),
            states in proptest::collection::vec(0u8..4, 40),
            client_id in "[a-z]{0,9}", renewed in any::<bool>(), deadline_ms in any::<u64>(),
        ) {
            let mut lease = Lease {
                topic: TopicId(4), client_id, renewed, ended: !renewed, suspended: renewed, unconfirmed: deadline_ms % 2 == 0,
                deadline_ms, receive: 8,
                items: Vec::new(), parts: Vec::new(),
            };
            let part = |(fresh, queue, offset, attempt, tag): (bool, u16, u64, u32, u32)| Part {
                fresh, queue, count: 1, attempt,
                first: Place { offset, log_index: 3, slot: offset as u32, tag, group: u64::from(tag / 2), store_ms: 5 },
            };
            picks.iter().for_each(|pick| lease.push(part(*pick)));
            for (item, state) in lease.items.iter_mut().zip(&states) {
                *item = Item::of_bits(*state);
            }
            let value = lease.encode();
            prop_assert_eq!(&Lease::decode(&value).expect("comes back"), &lease);
            for (item, pick) in picks.iter().enumerate() {
                let (first, found) = lease.part_of(item).expect("an item is in a part");
                prop_assert_eq!(found.place((item - first) as u32), part(*pick).first);
            }
            prop_assert!(lease.part_of(picks.len()).is_none());
            for cut in 0..value.len() {
                prop_assert!(Lease::decode(&value[..cut]).is_err());
            }
        }

        #[test]
        fn garbage_never_panics(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Lease::decode(&value);
        }
    }
}
