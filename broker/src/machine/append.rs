//! Append: messages get their queue, their offsets and an index row; the bodies are in the log already.
//!
//! The broker group chooses the queue. Messages of one topic that come with one entry make one run in one queue
//! and cost one row, whoever sent them; the queues take turns. A FIFO message goes to the queue of its message
//! group and a PRIORITY message to that of its priority, so that an entry makes a run per queue of those. Messages
//! with a delivery time to come, and half messages, get no place yet: they wait.

use super::fifo::{FIFO, check_owner};
use super::turn::{KnownTopic, Turn};
use super::window::Before;
use super::{Effect, done, refused};
use crate::store::message::{Place, Run};
use crate::store::queue::{self, Queue};
use crate::store::sent::SentPlace;
use crate::store::{TopicId, fifo, key, lite, topic};
use raft_store::StateError;
use raftmq_proto::command::{Append, AppendMessage, Appended, AppendedApart, Refusal, Reply, Waits, reply};
use std::collections::BTreeMap;

/// `apache.rocketmq.v2.MessageType.NORMAL`.
pub(super) const NORMAL: i32 = 1;

/// `apache.rocketmq.v2.MessageType.DELAY`.
const DELAY: i32 = 3;
/// `apache.rocketmq.v2.MessageType.TRANSACTION`.
const TRANSACTION: i32 = 4;
/// `apache.rocketmq.v2.MessageType.PRIORITY`.
pub(super) const PRIORITY: i32 = 6;

/// A run of this length takes no further command: readers decode it as a whole.
pub(super) const RUN_MESSAGES_MAX: u32 = 1_024;

/// Runs of a topic that later commands of the entry may add to.
#[derive(Default)]
pub(super) struct OpenRuns {
    /// The queue whose turn it was: messages without a message group go there.
    shared: Option<u16>,
    /// In the order of their numbers. Most entries have one message for a topic: room for one is made at first.
    runs: Vec<OpenRun>,
}

struct OpenRun {
    number: u16,
    queue: Queue,
    run: Run,
}

impl OpenRuns {
    /// Where the open run of a queue is, or belongs.
    fn find(&self, number: u16) -> Result<usize, usize> {
        self.runs.binary_search_by_key(&number, |open| open.number)
    }

    fn is_full(&self, number: u16) -> bool {
        self.find(number).is_ok_and(|at| self.runs[at].run.count >= RUN_MESSAGES_MAX)
    }
}

impl Turn<'_, '_> {
    pub(super) fn append(&mut self, append: Append, first_slot: Option<u32>) -> Result<Reply, StateError> {
        let Some(topic) = self.topic(&append.topic)? else {
            return Ok(refused(Refusal::TopicNotFound, format!("topic {} does not exist", append.topic)));
        };
        if topic.row.permission & topic::WRITABLE == 0 || topic.row.write_queues == 0 {
            return Ok(refused(Refusal::NotWritable, format!("topic {} has no writable queue", append.topic)));
        }
        let Some(first_slot) = first_slot.filter(|_| !append.messages.is_empty()) else {
            return Ok(refused(Refusal::InvalidArgument, "no message to send, or a message without its body"));
        };
        for message in &append.messages {
            let owner = || check_owner(&topic, &append.broker_group, message.message_group_hash);
            if let Some(refusal) = check(&topic, message).or_else(owner) {
                return Ok(refusal);
            }
        }
        let lite = append.messages.iter().filter(|message| message.message_type == lite::LITE);
        if let Some(refusal) = self.check_lite_topics(&topic, lite.map(|message| message.lite_topic.as_str()))? {
            return Ok(refusal);
        }
        let checks = append.checks.unwrap_or_default();
        let mut touched = BTreeMap::new();
        let (mut messages, mut body_bytes) = (0, 0);

        let mut open = self.runs.remove(&topic.id).unwrap_or_default();
        if let Some(full) = open.shared.filter(|number| open.is_full(*number)) {
            self.store_open(topic.id, full, &mut open)?;
            open.shared = None;
        }
        let mut parts: Vec<Appended> = Vec::with_capacity(1);
        for (message, slot) in append.messages.iter().zip(first_slot..) {
            let displaces = match self.stored_before(&topic, message)? {
                Before::Stored(before) => {
                    parts.push(before);
                    continue;
                }
                Before::New { displaces } => displaces,
            };
            let waits = match message.message_type {
                DELAY if message.delivery_ms > self.now_ms => {
                    self.set_timer(topic.id, message, slot)?;
                    Waits::DeliveryTime
                }
                TRANSACTION => {
                    self.set_half(topic.id, message, &checks, slot)?;
                    Waits::EndOfTransaction
                }
                _ => Waits::Nothing,
            };
            if waits != Waits::Nothing {
                self.remember(&topic, message, SentPlace::Waits(waits, slot), displaces)?;
                self.note_waiting(&mut parts, waits, slot);
                continue;
            }
            if message.message_type == lite::LITE {
                let offset = self.append_lite(&topic, message, slot, &mut touched, &mut parts)?;
                self.remember(&topic, message, SentPlace::Queue(0, offset), displaces)?;
                messages += 1;
                body_bytes += u64::from(message.body_bytes);
                continue;
            }
            let number = match (message.message_group_hash, open.shared) {
                _ if message.message_type == PRIORITY => queue_of_priority(&topic, message.priority),
                (0, Some(number)) => number,
                (0, None) => *open.shared.insert(self.next_queue(&topic)?),
                (hash, _) => fifo::queue_of(&topic.row, hash),
            };
            let offset = self.push_message(&topic, number, &mut open, message, slot)?;
            self.remember(&topic, message, SentPlace::Queue(number, offset), displaces)?;
            messages += 1;
            body_bytes += u64::from(message.body_bytes);
            push_part(&mut parts, number, offset);
        }
        self.runs.insert(topic.id, open);
        for child in touched.values() {
            self.lite_arrived(child)?;
        }
        if messages > 0 {
            self.effects.add(Effect::Arrived { topic: topic.name.clone(), messages, body_bytes });
        }
        Ok(done(match parts.pop() {
            Some(only) if parts.is_empty() => reply::Kind::Appended(only),
            last => {
                parts.extend(last);
                reply::Kind::AppendedApart(AppendedApart { parts })
            }
        }))
    }

    /// Tells of a message that waits, together with its neighbours where they wait for the same.
    fn note_waiting(&self, parts: &mut Vec<Appended>, waits: Waits, slot: u32) {
        match parts.last_mut() {
            Some(last)
                if last.waits() == waits
                    && last.log_index == self.index.0
                    && last.first_slot.checked_add(last.count) == Some(slot) =>
            {
                last.count += 1;
            }
            _ => parts.push(Appended {
                count: 1,
                waits: waits.into(),
                log_index: self.index.0,
                first_slot: slot,
                ..Appended::default()
            }),
        }
    }

    /// Adds a message to the open run of a queue, or begins one. Returns its offset.
    pub(super) fn push_message(
        &mut self,
        topic: &KnownTopic,
        number: u16,
        open: &mut OpenRuns,
        message: &AppendMessage,
        slot: u32,
    ) -> Result<u64, StateError> {
        // A lite topic is in order as a whole.
        let group = if message.message_type == lite::LITE { 0 } else { message.message_group_hash };
        let tag = message.tag_hash;
        if open.is_full(number) {
            self.store_open(topic.id, number, open)?;
        }
        let at = match open.find(number) {
            Ok(at) => {
                let run = &mut open.runs[at].run;
                run.push(slot, tag, group);
                return Ok(run.end() - 1);
            }
            Err(at) => at,
        };
        let queue = self.queue(topic.id, number)?;
        let offset = queue.next;
        let place = Place { offset, log_index: self.index.0, slot, tag, group, store_ms: self.now_ms };
        open.runs.reserve_exact(usize::from(open.runs.is_empty()));
        open.runs.insert(at, OpenRun { number, queue, run: Run::one(place, None) });
        Ok(offset)
    }

    /// The queue whose turn it is.
    pub(super) fn next_queue(&mut self, topic: &KnownTopic) -> Result<u16, StateError> {
        let turn = match self.rows.names.turn(topic.id) {
            Some(turn) => turn,
            None => queue::turn(&self.rows, topic.id)?,
        };
        self.rows.put_turn(topic.id, turn.wrapping_add(1));
        Ok(u16::try_from(turn % u64::from(topic.row.write_queues.max(1)))
            .expect("a topic has at most 65,535 queues, see machine/topic.rs"))
    }

    fn store_open(&mut self, topic: TopicId, number: u16, open: &mut OpenRuns) -> Result<(), StateError> {
        match open.find(number) {
            Ok(at) => {
                let OpenRun { queue, run, .. } = open.runs.remove(at);
                self.store_run(topic, number, queue, &run)
            }
            Err(_) => Ok(()),
        }
    }

    /// Writes the open runs of a topic, if there are any: their messages can be read from then on.
    pub(super) fn close_run(&mut self, topic: &KnownTopic) -> Result<(), StateError> {
        match self.runs.remove(&topic.id) {
            Some(open) => self.store_runs(topic.id, open),
            None => Ok(()),
        }
    }

    pub(super) fn close_runs(&mut self) -> Result<(), StateError> {
        for (id, open) in std::mem::take(&mut self.runs) {
            self.store_runs(id, open)?;
        }
        Ok(())
    }

    fn store_runs(&mut self, topic: TopicId, open: OpenRuns) -> Result<(), StateError> {
        for OpenRun { number, queue, run } in open.runs {
            self.store_run(topic, number, queue, &run)?;
        }
        Ok(())
    }

    /// Writes a run behind the last message of a queue.
    pub(super) fn store_run(&mut self, topic: TopicId, number: u16, queue: Queue, run: &Run) -> Result<(), StateError> {
        debug_assert_eq!(run.first, queue.next, "runs of a queue touch");
        if run.late {
            self.pin_run(topic, number, run);
        }
        self.rows.put(key::MESSAGE, &key::message(topic, number, run.first), run.encode());
        self.rows.put_queue(topic, number, Queue { next: run.end(), last_store_ms: run.store_ms, ..queue });
        Ok(())
    }
}

/// Tells of a message that got a place, together with the one before it where it stands next to that.
pub(super) fn push_part(parts: &mut Vec<Appended>, number: u16, offset: u64) {
    match parts.last_mut() {
        Some(last)
            if last.waits() == Waits::Nothing
                && last.queue == u32::from(number)
                && last.first_offset + u64::from(last.count) == offset =>
        {
            last.count += 1;
        }
        _ => parts.push(Appended { queue: u32::from(number), first_offset: offset, count: 1, ..Appended::default() }),
    }
}

/// The queue of a priority: a queue each, as far as there are queues.
fn queue_of_priority(topic: &KnownTopic, priority: u32) -> u16 {
    let last = topic.row.write_queues.min(topic.row.read_queues).saturating_sub(1);
    u16::try_from(priority.min(last)).expect("a topic has at most 65,535 queues, see machine/topic.rs")
}

/// Why a topic does not take a message.
fn check(topic: &KnownTopic, message: &AppendMessage) -> Option<Reply> {
    if !topic::is_internal(&topic.name) && !topic.row.message_types.contains(&message.message_type) {
        let detail = format!("topic {} does not take messages of this type", topic.name);
        return Some(refused(Refusal::MessageTypeMismatch, detail));
    }
    if ![NORMAL, FIFO, DELAY, TRANSACTION, PRIORITY, lite::LITE].contains(&message.message_type) {
        return Some(refused(Refusal::NotSupported, "messages of this type are not supported yet"));
    }
    let hash = message.message_group_hash;
    if [FIFO, lite::LITE].contains(&message.message_type) != (hash != 0) {
        let detail = "FIFO messages have a message group, LITE messages a lite topic, and no others";
        return Some(refused(Refusal::InvalidArgument, detail));
    }
    if message.message_type == FIFO && u32::from(fifo::queue_of(&topic.row, hash)) >= topic.row.write_queues {
        let detail = format!("topic {} has no writable queue for this message group", topic.name);
        return Some(refused(Refusal::NotWritable, detail));
    }
    None
}
