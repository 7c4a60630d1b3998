//! The window in which a message that is sent again is stored once.
//!
//! A producer that got no answer sends the same message again, and the broker group has stored it, or has not. Within
//! the window the second one is answered with the place of the first: the same message id on the same topic, with the
//! same content. The same id with other content is another message (two containers may make the same ids), and is
//! counted. The window ends by time and by the number of messages, both replicated settings.
//!
//! What is looked up at every send is kept in memory and made of the rows again when there is none.

use super::Effect;
use super::turn::{KnownTopic, Turn};
use crate::store::key;
use crate::store::machine::number_setting as setting;
use crate::store::sent::{self, Sent, SentEntry, SentPlace};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{AppendMessage, Appended};
use std::collections::{HashMap, VecDeque};

/// Setting: how long a message is remembered, in ms; 0 for not at all.
pub const WINDOW_MS: &str = "idempotence.window.ms";
/// Setting: how many messages are remembered.
pub const MESSAGES_MAX: &str = "idempotence.messages.max";

/// Where nobody says otherwise.
pub const WINDOW_MS_DEFAULT: u64 = 600_000;
/// Where nobody says otherwise; 20 bytes of memory each. It is what a table of 2^20 places can hold.
pub const MESSAGES_MAX_DEFAULT: u64 = 900_000;

/// Messages for which there is place from the start: a table that grows would hold up an entry for tens of ms.
const RESERVED_MAX: u64 = 4_000_000;

/// Entries forgotten by one entry: more than it adds, so that the window does not grow.
const FORGET_ENTRIES_MAX: usize = 4;

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
    /// By [`sent::name`]: the low half of the entry's index, and the place in its row. Looked up, never iterated.
    known: HashMap<u64, (u32, u32)>,
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
            self.known.insert(message.name, (low(log_index), at));
        }
        let messages = entry.messages.len() as u64;
        self.messages += messages;
        self.entries.push_back(Kept { log_index, time_ms: entry.time_ms, messages });
    }
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
    pub(super) fn stored_before(
        &mut self,
        topic: &KnownTopic,
        message: &AppendMessage,
    ) -> Result<Option<Appended>, StateError> {
        let window_ms = self.window_ms()?;
        if window_ms == 0 || message.content_hash == 0 {
            return Ok(None);
        }
        let name = sent::name(topic.id, message.message_id_hash);
        let Some((low_half, at)) = self.window.known.get(&name).copied() else { return Ok(None) };
        let log_index = whole(low_half, self.index.0);
        let found = if log_index == self.index.0 {
            self.sent.messages.get(at as usize).copied()
        } else {
            let entry = sent::entry(&self.rows, log_index)?;
            let entry = entry.filter(|entry| entry.time_ms.saturating_add(window_ms) > self.now_ms);
            entry.and_then(|entry| entry.messages.get(at as usize).copied())
        };
        let Some(sent) = found else { return Ok(None) };
        let same = sent.content == message.content_hash;
        let (repeated, reused) = if same { (1, 0) } else { (0, 1) };
        self.effects.add(Effect::SentAgain { topic: topic.name.clone(), repeated, reused });
        Ok(same.then(|| match sent.place {
            SentPlace::Queue(queue, offset) => {
                Appended { queue: u32::from(queue), first_offset: offset, count: 1, ..Appended::default() }
            }
            SentPlace::Waits(waits, slot) => {
                Appended { count: 1, waits: waits.into(), log_index, first_slot: slot, ..Appended::default() }
            }
        }))
    }

    /// Remembers a message that was stored.
    pub(super) fn remember(
        &mut self,
        topic: &KnownTopic,
        message: &AppendMessage,
        place: SentPlace,
    ) -> Result<(), StateError> {
        if self.window_ms()? == 0 || message.content_hash == 0 {
            return Ok(());
        }
        let name = sent::name(topic.id, message.message_id_hash);
        let at = u32::try_from(self.sent.messages.len()).unwrap_or(u32::MAX);
        self.window.known.insert(name, (low(self.index.0), at));
        self.sent.messages.push(Sent { name, content: message.content_hash, place });
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
            for message in entry.messages {
                // A later message of the same name has taken its place.
                if self.window.known.get(&message.name).is_some_and(|(known, _)| *known == low(oldest.log_index)) {
                    self.window.known.remove(&message.name);
                }
            }
            self.rows.delete(key::SENT, &key::sent(oldest.log_index));
        }
        Ok(())
    }
}
