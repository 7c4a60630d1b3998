//! The window in which a message that is sent again is stored once.
//!
//! A producer that got no answer sends the same message again, and the broker group has stored it, or has not. Within
//! the window the second one is answered with the place of the first: the same message id on the same topic, with the
//! same content. The same id with other content is another message (two containers may make the same ids), and is
//! counted. The window ends by time and by the number of messages, both replicated settings.
//!
//! What is looked up at every send is kept in memory and made of the rows again when there is none: of each name the
//! newest message, and since [`EVERY_CONTENT`] those before it that had other contents. The row of a message says whose
//! place it took, so that rows of before are read as they were meant.

use super::Effect;
use super::turn::{KnownTopic, Turn};
use super::version::EVERY_CONTENT;
use crate::store::key;
use crate::store::machine::number_setting as setting;
use crate::store::sent::{self, Sent, SentEntry, SentPlace};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{AppendMessage, Appended};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Setting: how long a message is remembered, in ms; 0 for not at all.
pub const WINDOW_MS: &str = "idempotence.window.ms";
/// Setting: how many messages are remembered.
pub const MESSAGES_MAX: &str = "idempotence.messages.max";

/// Where nobody says otherwise.
pub const WINDOW_MS_DEFAULT: u64 = 600_000;
/// Where nobody says otherwise; 20 bytes of memory each, some 40 where another content took its place. It is what a table
/// of 2^20 places can hold.
pub const MESSAGES_MAX_DEFAULT: u64 = 900_000;

/// Messages for which there is place from the start: a table that grows would hold up an entry for tens of ms.
const RESERVED_MAX: u64 = 4_000_000;

/// Entries forgotten by one entry: more than it adds, so that the window does not grow.
const FORGET_ENTRIES_MAX: usize = 4;

/// Where a message stands in the rows: the low half of its entry's index, and its place in that one's row.
type At = (u32, u32);

/// An entry in the window.
#[derive(Debug, Clone, Copy)]
struct Kept {
    log_index: u64,
    time_ms: u64,
    messages: u64,
}

/// What the rows of the window hold, for lookups.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The newest message by [`sent::name`]. Looked up, never iterated.
    known: HashMap<u64, At>,
    /// Those whose place another one took, by name and content; of several alike the newest. Most ids are never used again:
    /// without those that are this takes no memory, and it grows without the pauses of a hash table.
    others: BTreeMap<(u64, u64), At>,
    /// The oldest first.
    entries: VecDeque<Kept>,
    messages: u64,
    loaded: bool,
}

impl Window {
    /// Makes it of the rows when there is none: before the first entry that this node applies, so that all replicas
    /// forget the same entries at the same ones.
    pub(super) fn load(&mut self, rows: &impl ReadState) -> Result<(), StateError> {
        if !self.loaded {
            let messages_max = setting(rows, MESSAGES_MAX, MESSAGES_MAX_DEFAULT)?.min(RESERVED_MAX);
            self.known.reserve(usize::try_from(messages_max).unwrap_or_default());
            sent::entries(rows, |log_index, entry| self.add(log_index, &entry))?;
            self.loaded = true;
        }
        Ok(())
    }

    fn add(&mut self, log_index: u64, entry: &SentEntry) {
        for (message, at) in entry.messages.iter().zip(0..) {
            self.put(message, (low(log_index), at));
        }
        let messages = entry.messages.len() as u64;
        self.messages += messages;
        self.entries.push_back(Kept { log_index, time_ms: entry.time_ms, messages });
    }

    fn put(&mut self, message: &Sent, at: At) {
        if let Some(before) = self.known.insert(message.name, at)
            && let Some(content) = message.displaced
        {
            self.others.insert((message.name, content), before);
        }
    }

    /// A message is remembered no longer.
    fn forget(&mut self, message: &Sent, at: At) {
        if self.known.get(&message.name) == Some(&at) {
            self.known.remove(&message.name);
        } else if self.others.get(&(message.name, message.content)) == Some(&at) {
            self.others.remove(&(message.name, message.content));
        }
    }
}

#[cfg(test)]
impl Window {
    pub(super) fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Whether both answer alike.
    pub(super) fn holds_as(&self, other: &Window) -> bool {
        let entries = |window: &Window| {
            let entries = window.entries.iter().map(|kept| (kept.log_index, kept.time_ms, kept.messages));
            entries.collect::<Vec<_>>()
        };
        (&self.known, &self.others, self.messages) == (&other.known, &other.others, other.messages)
            && entries(self) == entries(other)
    }

    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// What takes memory.
    pub(super) fn places(&self) -> usize {
        self.known.len() + self.others.len()
    }
}

/// What the window says of a message.
pub(super) enum Before {
    /// It was stored.
    Stored(Appended),
    /// It is new, and takes the place of one with this content.
    New { displaces: Option<u64> },
}

/// The low half of an entry's index: the window is shorter than 2^32 entries.
fn low(log_index: u64) -> u32 {
    (log_index & u64::from(u32::MAX)) as u32
}

/// The latest entry up to `now` with this low half.
fn whole(low_half: u32, now: u64) -> u64 {
    now.saturating_sub(u64::from(low(now).wrapping_sub(low_half)))
}

impl Turn<'_, '_> {
    /// How long messages are remembered, in ms.
    pub(super) fn window_ms(&mut self) -> Result<u64, StateError> {
        match self.window_ms {
            Some(window_ms) => Ok(window_ms),
            None => Ok(*self.window_ms.insert(setting(&self.rows, WINDOW_MS, WINDOW_MS_DEFAULT)?)),
        }
    }

    /// Where a message was stored that comes again.
    pub(super) fn stored_before(&mut self, topic: &KnownTopic, message: &AppendMessage) -> Result<Before, StateError> {
        let new = Before::New { displaces: None };
        if self.window_ms()? == 0 || message.content_hash == 0 {
            return Ok(new);
        }
        let name = sent::name(topic.id, message.message_id_hash);
        let Some(newest) = self.window.known.get(&name).copied() else { return Ok(new) };
        let Some((mut log_index, mut sent)) = self.sent_at(newest)? else { return Ok(new) };
        let displaces = (self.version >= EVERY_CONTENT).then_some(sent.content);
        if sent.content != message.content_hash
            && let Some(other) = self.window.others.get(&(name, message.content_hash)).copied()
            && let Some(found) = self.sent_at(other)?
        {
            (log_index, sent) = found;
        }
        let same = sent.content == message.content_hash;
        let (repeated, reused) = if same { (1, 0) } else { (0, 1) };
        self.effects.add(Effect::SentAgain { topic: topic.name.clone(), repeated, reused });
        if !same {
            return Ok(Before::New { displaces });
        }
        Ok(Before::Stored(match sent.place {
            SentPlace::Queue(queue, offset) => {
                Appended { queue: u32::from(queue), first_offset: offset, count: 1, ..Appended::default() }
            }
            SentPlace::Waits(waits, slot) => {
                Appended { count: 1, waits: waits.into(), log_index, first_slot: slot, ..Appended::default() }
            }
        }))
    }

    /// The message that stands there, with its entry, unless the window is over for it.
    fn sent_at(&mut self, (low_half, at): At) -> Result<Option<(u64, Sent)>, StateError> {
        let log_index = whole(low_half, self.index.0);
        let sent = if log_index == self.index.0 {
            self.sent.messages.get(at as usize).copied()
        } else {
            let window_ms = self.window_ms()?;
            let entry = sent::entry(&self.rows, log_index)?;
            let entry = entry.filter(|entry| entry.time_ms.saturating_add(window_ms) > self.now_ms);
            entry.and_then(|entry| entry.messages.get(at as usize).copied())
        };
        Ok(sent.map(|sent| (log_index, sent)))
    }

    /// Remembers a message that was stored, and took the place of one with the content that it displaces.
    pub(super) fn remember(
        &mut self,
        topic: &KnownTopic,
        message: &AppendMessage,
        place: SentPlace,
        displaced: Option<u64>,
    ) -> Result<(), StateError> {
        if self.window_ms()? == 0 || message.content_hash == 0 {
            return Ok(());
        }
        let name = sent::name(topic.id, message.message_id_hash);
        let at = u32::try_from(self.sent.messages.len()).unwrap_or(u32::MAX);
        let sent = Sent { name, content: message.content_hash, place, displaced };
        self.window.put(&sent, (low(self.index.0), at));
        self.sent.messages.push(sent);
        Ok(())
    }

    /// Writes what the entry stored, and forgets what is over.
    pub(super) fn close_window(&mut self) -> Result<(), StateError> {
        if !self.sent.messages.is_empty() {
            self.sent.time_ms = self.now_ms;
            self.rows.put(key::SENT, &key::sent(self.index.0), self.sent.encode());
            let messages = self.sent.messages.len() as u64;
            self.window.messages += messages;
            self.window.entries.push_back(Kept { log_index: self.index.0, time_ms: self.now_ms, messages });
        }
        self.forget_sends(FORGET_ENTRIES_MAX)
    }

    /// Forgets the oldest entries of the window that are over, a bounded number of them.
    fn forget_sends(&mut self, entries_max: usize) -> Result<(), StateError> {
        let window_ms = self.window_ms()?;
        let messages_max = setting(&self.rows, MESSAGES_MAX, MESSAGES_MAX_DEFAULT)?;
        for _ in 0..entries_max {
            let Some(oldest) = self.window.entries.front().copied() else { break };
            let over = oldest.time_ms.saturating_add(window_ms) <= self.now_ms || self.window.messages > messages_max;
            if !over {
                break;
            }
            self.window.entries.pop_front();
            self.window.messages = self.window.messages.saturating_sub(oldest.messages);
            let entry = sent::entry(&self.rows, oldest.log_index)?.unwrap_or_default();
            for (message, at) in entry.messages.iter().zip(0..) {
                self.window.forget(message, (low(oldest.log_index), at));
            }
            self.rows.delete(key::SENT, &key::sent(oldest.log_index));
        }
        Ok(())
    }
}
