//! Append: messages get their queue, their offsets and an index row; the bodies are in the log already.
//!
//! The broker group chooses the queue. Messages of one topic that come with one entry make one run in one queue
//! and cost one row, whoever sent them; the queues take turns.

use super::turn::{KnownTopic, Turn};
use super::{Effect, done, refused};
use crate::store::message::{Place, Run};
use crate::store::queue::{self, Queue};
use crate::store::{TopicId, key, topic};
use raft_store::StateError;
use raftmq_proto::command::{Append, Appended, Refusal, Reply, reply};
use std::sync::Arc;

/// `apache.rocketmq.v2.MessageType.NORMAL`.
pub(super) const NORMAL: i32 = 1;

/// A run of this length takes no further command: readers decode it as a whole.
const RUN_MESSAGES_MAX: u32 = 1_024;

/// A run that later commands of the entry may add to.
pub(super) struct OpenRun {
    topic: Arc<KnownTopic>,
    number: u16,
    queue: Queue,
    run: Run,
}

impl Turn<'_, '_> {
    pub(super) fn append(&mut self, append: Append, first_slot: Option<u32>) -> Result<Reply, StateError> {
        let Some(topic) = self.topic(&append.topic)? else {
            return Ok(refused(Refusal::TopicNotFound, format!("topic {} does not exist", append.topic)));
        };
        if topic.row.permission & topic::WRITABLE == 0 || topic.row.write_queues == 0 {
            return Ok(refused(Refusal::NotWritable, format!("topic {} has no writable queue", append.topic)));
        }
        let (Some(first_slot), Some(first)) = (first_slot, append.messages.first()) else {
            return Ok(refused(Refusal::InvalidArgument, "no message to send, or a message without its body"));
        };
        let internal = topic::is_internal(&topic.name);
        for message in &append.messages {
            if !internal && !topic.row.message_types.contains(&message.message_type) {
                let detail = format!("topic {} does not take messages of this type", append.topic);
                return Ok(refused(Refusal::MessageTypeMismatch, detail));
            }
            if message.message_type != NORMAL {
                return Ok(refused(Refusal::NotSupported, "messages of this type are not supported yet"));
            }
        }
        let count = append.messages.len() as u64;
        let body_bytes = append.messages.iter().map(|message| u64::from(message.body_bytes)).sum();

        if self.runs.get(&topic.id).is_some_and(|open| open.run.count >= RUN_MESSAGES_MAX) {
            self.close_run(&topic)?;
        }
        let mut rest = append.messages.iter().zip(first_slot..);
        if !self.runs.contains_key(&topic.id) {
            self.open_run(&topic, first_slot, first.tag_hash)?;
            rest.next();
        }
        let open = self.runs.get_mut(&topic.id).expect("the run was found or opened above");
        for (message, slot) in rest {
            open.run.push(slot, message.tag_hash);
        }
        let appended = Appended {
            queue: u32::from(open.number),
            first_offset: open.run.end() - count,
            count: append.messages.len() as u32,
        };
        self.effects.add(Effect::Arrived { topic: topic.name.clone(), messages: count, body_bytes });
        Ok(done(reply::Kind::Appended(appended)))
    }

    /// Begins a run in the queue whose turn it is.
    fn open_run(&mut self, topic: &Arc<KnownTopic>, slot: u32, tag: u32) -> Result<(), StateError> {
        let turn = queue::turn(&self.rows, topic.id)?;
        self.rows.put(key::QUEUE, &key::turn(topic.id), turn.wrapping_add(1).to_be_bytes().to_vec());
        let number = u16::try_from(turn % u64::from(topic.row.write_queues))
            .expect("a topic has at most 65,535 queues, see machine/topic.rs");
        let queue = queue::queue(&self.rows, topic.id, number)?;
        let place = Place { offset: queue.next, log_index: self.index.0, slot, tag, store_ms: self.now_ms };
        let open = OpenRun { topic: topic.clone(), number, queue, run: Run::one(place, None) };
        self.runs.insert(topic.id, open);
        Ok(())
    }

    /// Writes the open run of a topic, if there is one: its messages can be read from then on.
    pub(super) fn close_run(&mut self, topic: &KnownTopic) -> Result<(), StateError> {
        match self.runs.remove(&topic.id) {
            Some(open) => self.store_run(open.topic.id, open.number, open.queue, &open.run),
            None => Ok(()),
        }
    }

    pub(super) fn close_runs(&mut self) -> Result<(), StateError> {
        for (id, open) in std::mem::take(&mut self.runs) {
            self.store_run(id, open.number, open.queue, &open.run)?;
        }
        Ok(())
    }

    /// Writes a run behind the last message of a queue.
    pub(super) fn store_run(&mut self, topic: TopicId, number: u16, queue: Queue, run: &Run) -> Result<(), StateError> {
        debug_assert_eq!(run.first, queue.next, "runs of a queue touch");
        self.rows.put(key::MESSAGE, &key::message(topic, number, run.first), run.encode());
        let queue = Queue { next: run.end(), last_store_ms: run.store_ms, ..queue };
        self.rows.put(key::QUEUE, &key::queue(topic, number), queue.encode().to_vec());
        Ok(())
    }
}
