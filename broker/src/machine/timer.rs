//! Delivery times: a message waits outside of every queue and gets its place in one when its time has come, by cluster
//! time and never before. Recall takes it back before that; the two cannot both happen.

use super::append::RUN_MESSAGES_MAX;
use super::cleanup::Piece;
use super::turn::{KnownTopic, Turn};
use super::{Effect, refused};
use crate::store::message::{Place, Run};
use crate::store::queue::Queue;
use crate::store::timer::{self, Due, InLog, Timer};
use crate::store::work::Work;
use crate::store::{TopicId, key, progress};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{AppendMessage, Recall, Refusal, Reply};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Rows that one message touches when its time has come.
const ROWS_A_MESSAGE: usize = 4;

/// Messages of one entry that have become due, on their way into a queue.
struct Filling {
    topic: Arc<KnownTopic>,
    number: u16,
    queue: Queue,
    run: Run,
    body_bytes: u64,
}

impl Turn<'_, '_> {
    /// Lets a message wait for its delivery time, which is not over.
    pub(super) fn set_timer(&mut self, topic: TopicId, message: &AppendMessage, slot: u32) -> Result<(), StateError> {
        let timer = Timer {
            recalled: false,
            tag: message.tag_hash,
            body_bytes: message.body_bytes,
            message_id_hash: message.message_id_hash,
            moved: None,
        };
        let (at_ms, index) = (message.delivery_ms, self.index.0);
        self.rows.put(key::TIMER, &key::waiting_at(b'd', at_ms, topic, index, slot), timer.encode());
        self.rows.put(key::TIMER, &key::in_log(index, slot), key::waiting_at(b'd', at_ms, topic, index, slot).to_vec());
        let waiting = timer::waiting(&self.rows, topic)?;
        self.count_timers(topic, waiting + 1);
        self.effects.due(at_ms);
        Ok(())
    }

    fn count_timers(&mut self, topic: TopicId, messages: u64) {
        let key = key::waiting_count(topic);
        if messages == 0 {
            self.rows.delete(key::TIMER, &key);
        } else {
            self.rows.put(key::TIMER, &key, progress::number(messages));
        }
    }

    /// Gives the messages that are due their places, as far as the rows reach. Returns whether some were left for
    /// another Tick.
    pub(super) fn fire_due_timers(&mut self, rows_left: &mut usize) -> Result<bool, StateError> {
        let max = (*rows_left / ROWS_A_MESSAGE).max(1);
        let due = timer::due(&self.rows, self.now_ms, max)?;
        let Some(last) = due.last() else { return Ok(false) };
        let more = due.len() == max;
        *rows_left = rows_left.saturating_sub(due.len() * ROWS_A_MESSAGE);
        // Timers lie in the future when they are set, so none is added below the present any more.
        let low = match more {
            true => [&key_of(last)[..], &[0]].concat(),
            false => key::waiting_until(b'd', self.now_ms).to_vec(),
        };
        self.rows.put(key::MACHINE, &key::machine(b't'), low);

        let mut filling: Option<Filling> = None;
        let mut fired: BTreeMap<TopicId, u64> = BTreeMap::new();
        for due in due {
            self.rows.delete(key::TIMER, &key_of(&due));
            if due.timer.recalled {
                continue;
            }
            let body = due.body();
            self.rows.delete(key::TIMER, &key::in_log(body.log_index, body.slot));
            *fired.entry(due.topic).or_default() += 1;
            // A topic that is gone takes its messages with it.
            if let Some(topic) = self.topic_by_id(due.topic)? {
                filling = Some(self.fill(filling, topic, &due)?);
            }
        }
        self.store_filling(filling)?;
        for (topic, messages) in fired {
            let waiting = timer::waiting(&self.rows, topic)?;
            self.count_timers(topic, waiting.saturating_sub(messages));
        }
        Ok(more)
    }

    /// Adds a message to the run under way, or begins another one.
    fn fill(&mut self, filling: Option<Filling>, topic: Arc<KnownTopic>, due: &Due) -> Result<Filling, StateError> {
        let InLog { log_index, slot } = due.body();
        if let Some(mut filling) = filling {
            if filling.topic.id == topic.id
                && filling.run.log_index == log_index
                && filling.run.count < RUN_MESSAGES_MAX
            {
                filling.run.push(slot, due.timer.tag, 0);
                filling.body_bytes += u64::from(due.timer.body_bytes);
                return Ok(filling);
            }
            self.store_filling(Some(filling))?;
        }
        self.close_run(&topic)?;
        let number = self.next_queue(&topic)?;
        let queue = self.queue(topic.id, number)?;
        let place = Place { offset: queue.next, log_index, slot, tag: due.timer.tag, group: 0, store_ms: self.now_ms };
        let run = Run::one(place, None).late();
        Ok(Filling { topic, number, queue, run, body_bytes: u64::from(due.timer.body_bytes) })
    }

    fn store_filling(&mut self, filling: Option<Filling>) -> Result<(), StateError> {
        let Some(Filling { topic, number, queue, run, body_bytes }) = filling else { return Ok(()) };
        self.note_visible(topic.id, number, &run);
        self.store_run(topic.id, number, queue, &run)?;
        let (topic, messages) = (topic.name.clone(), u64::from(run.count));
        self.effects.add(Effect::Arrived { topic, messages, body_bytes });
        Ok(())
    }

    /// Takes a message back before its time.
    pub(super) fn recall(&mut self, recall: Recall) -> Result<Reply, StateError> {
        let gone = || refused(Refusal::TimerNotFound, "no message waits for this delivery time any more");
        let Some(message) = recall.message else { return Ok(gone()) };
        let Some(topic) = self.topic(&message.topic)? else {
            return Ok(refused(Refusal::TopicNotFound, format!("topic {} does not exist", message.topic)));
        };
        let place = InLog { log_index: message.log_index, slot: message.slot };
        let found = timer::timer(&self.rows, recall.delivery_ms, topic.id, place)?;
        let Some(timer) = found.filter(|timer| timer.message_id_hash == message.message_id_hash) else {
            return Ok(gone());
        };
        if !timer.recalled {
            let key = key::waiting_at(b'd', recall.delivery_ms, topic.id, place.log_index, place.slot);
            self.rows.put(key::TIMER, &key, Timer { recalled: true, ..timer }.encode());
            let body = timer.moved.unwrap_or(place);
            self.rows.delete(key::TIMER, &key::in_log(body.log_index, body.slot));
            let waiting = timer::waiting(&self.rows, topic.id)?;
            self.count_timers(topic.id, waiting.saturating_sub(1));
        }
        Ok(Reply::default())
    }

    /// A topic was deleted: Tick removes what waited for a time in it.
    pub(super) fn void_timers(&mut self, topic: TopicId) -> Result<(), StateError> {
        if timer::waiting(&self.rows, topic)? > 0 {
            self.add_work(&Work::DropTimers(topic), Vec::new());
        }
        Ok(())
    }

    /// A piece of the messages that waited in a deleted topic. The note is the key to go on from.
    pub(super) fn drop_timers(&mut self, topic: TopicId, note: &[u8], rows_max: usize) -> Result<Piece, StateError> {
        let from = if note.is_empty() { b"l".to_vec() } else { note.to_vec() };
        let mut found = Vec::new();
        let (mut looked, mut rest) = (0, None);
        self.rows.scan(key::TIMER, &from, &key::after(b"l"), &mut |key, value| {
            if looked == rows_max {
                rest = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            looked += 1;
            if value.get(9..17) == Some(&topic.0.to_be_bytes()[..]) {
                found.push((key.to_vec(), value.to_vec()));
            }
            ControlFlow::Continue(())
        })?;
        for (in_log, timer) in found {
            self.rows.delete(key::TIMER, &in_log);
            self.rows.delete(key::TIMER, &timer);
        }
        if rest.is_none() {
            self.count_timers(topic, 0);
        }
        Ok(Piece { rows: looked, rest })
    }
}

fn key_of(due: &Due) -> [u8; 29] {
    key::waiting_at(b'd', due.at_ms, due.topic, due.place.log_index, due.place.slot)
}
