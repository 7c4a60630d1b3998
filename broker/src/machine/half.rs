//! Half messages: EndTransaction gives one its place in a queue, or none for ever; the first word counts. Until then
//! Tick says when its producer is to be asked, the leader asks, and Checked tells what came of it.

use super::turn::Turn;
use super::version::FIRST_WORDS;
use super::{Effect, TICK_ROWS_MAX, done, refused};
use crate::store::half::{self, HalfMessage, HalfState};
use crate::store::message::{Place, Run};
use crate::store::timer::InLog;
use crate::store::{TopicId, key, progress};
use raft_store::StateError;
use raftmq_proto::command::{
    AppendMessage, Checked, Checks, EndTransaction, Ended, Refusal, Reply, WaitingMessage, reply,
};

/// For so long after its end a half message is remembered, so that another word on it is answered as such.
pub(super) const REMEMBERED_MS: u64 = 600_000;

/// Rows that one half message touches when its time has come.
const ROWS_A_MESSAGE: usize = 3;

impl Turn<'_, '_> {
    /// Lets a message wait for its producer's word.
    pub(super) fn set_half(
        &mut self,
        topic: TopicId,
        message: &AppendMessage,
        checks: &Checks,
        slot: u32,
    ) -> Result<(), StateError> {
        let half = HalfMessage {
            state: HalfState::Pending,
            tag: message.tag_hash,
            body_bytes: message.body_bytes,
            message_id_hash: message.message_id_hash,
            made_ms: self.now_ms,
            checks: 0,
            checks_max: checks.checks_max,
            interval_ms: checks.interval_ms.max(1),
            age_max_ms: checks.age_max_ms,
            producer: checks.producer.clone(),
            moved: None,
        };
        let place = InLog { log_index: self.index.0, slot };
        self.put_half(topic, place, &half);
        self.keep_half(topic, place, place);
        self.check_at(topic, place, self.now_ms.saturating_add(message.check_after_ms.max(1)));
        let waiting = half::waiting(&self.rows, topic)?;
        self.count_halves(topic, waiting + 1);
        Ok(())
    }

    /// Notes that the log must keep the body of a half message.
    pub(super) fn keep_half(&mut self, topic: TopicId, place: InLog, body: InLog) {
        let value = key::waiting(b'l', topic, place.log_index, place.slot)[1..].to_vec();
        self.rows.put(key::HALF, &key::in_log(body.log_index, body.slot), value);
    }

    pub(super) fn put_half(&mut self, topic: TopicId, InLog { log_index, slot }: InLog, half: &HalfMessage) {
        self.rows.put(key::HALF, &key::waiting(b'h', topic, log_index, slot), half.encode());
    }

    fn check_at(&mut self, topic: TopicId, InLog { log_index, slot }: InLog, at_ms: u64) {
        self.rows.put(key::HALF, &key::waiting_at(b'c', at_ms, topic, log_index, slot), Vec::new());
        self.effects.due(at_ms);
    }

    fn count_halves(&mut self, topic: TopicId, messages: u64) {
        let key = key::waiting_count(topic);
        if messages == 0 {
            self.rows.delete(key::HALF, &key);
        } else {
            self.rows.put(key::HALF, &key, progress::number(messages));
        }
    }

    /// The topic, the place and the row of a half message that a command names.
    fn named_half(
        &mut self,
        message: &WaitingMessage,
    ) -> Result<Option<(std::sync::Arc<super::turn::KnownTopic>, InLog, HalfMessage)>, StateError> {
        let Some(topic) = self.topic(&message.topic)? else { return Ok(None) };
        let place = InLog { log_index: message.log_index, slot: message.slot };
        let found = half::half(&self.rows, topic.id, place)?;
        let found = found.filter(|half| half.message_id_hash == message.message_id_hash);
        Ok(found.map(|half| (topic, place, half)))
    }

    pub(super) fn end_transaction(&mut self, end: EndTransaction) -> Result<Reply, StateError> {
        let unknown = "the transaction is not known, or was ended too long ago";
        let Some(message) = end.message else { return Ok(refused(Refusal::HalfMessageNotFound, unknown)) };
        let Some((topic, place, half)) = self.named_half(&message)? else {
            return Ok(refused(Refusal::HalfMessageNotFound, unknown));
        };
        let state = match (half.state, end.commit) {
            (HalfState::Committed, true) | (HalfState::RolledBack, false) => return Ok(self.ended(false)),
            (HalfState::Committed, false) => {
                return Ok(refused(Refusal::AlreadyCommitted, "the transaction was committed before"));
            }
            (HalfState::RolledBack, true) => {
                return Ok(refused(Refusal::AlreadyRolledBack, "the transaction was rolled back before"));
            }
            (HalfState::Pending | HalfState::Parked, true) => HalfState::Committed,
            (HalfState::Pending | HalfState::Parked, false) => HalfState::RolledBack,
        };
        if state == HalfState::Committed {
            self.close_run(&topic)?;
            let number = self.next_queue(&topic)?;
            let queue = self.queue(topic.id, number)?;
            let InLog { log_index, slot } = half.body(place);
            let place = Place { offset: queue.next, log_index, slot, tag: half.tag, group: 0, store_ms: self.now_ms };
            let run = Run::one(place, None).late();
            self.note_visible(topic.id, number, &run);
            self.store_run(topic.id, number, queue, &run)?;
            let body_bytes = u64::from(half.body_bytes);
            self.effects.add(Effect::Arrived { topic: topic.name.clone(), messages: 1, body_bytes });
        }
        let body = half.body(place);
        self.put_half(topic.id, place, &HalfMessage { state, ..half });
        self.rows.delete(key::HALF, &key::in_log(body.log_index, body.slot));
        let forget_ms = self.now_ms.saturating_add(REMEMBERED_MS);
        let forget = key::waiting_at(b'f', forget_ms, topic.id, place.log_index, place.slot);
        self.rows.put(key::HALF, &forget, Vec::new());
        self.effects.due(forget_ms);
        let waiting = half::waiting(&self.rows, topic.id)?;
        self.count_halves(topic.id, waiting.saturating_sub(1));
        Ok(self.ended(true))
    }

    fn ended(&self, first: bool) -> Reply {
        if self.version >= FIRST_WORDS { done(reply::Kind::Ended(Ended { first })) } else { Reply::default() }
    }

    /// What the leader did about half messages that were to be checked.
    pub(super) fn checked(&mut self, checked: Checked) -> Result<Reply, StateError> {
        if checked.messages.len() > TICK_ROWS_MAX {
            let detail = format!("at most {TICK_ROWS_MAX} checks are told at once");
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        for told in checked.messages {
            let Some(message) = told.message else { continue };
            let Some(topic) = self.topic(&message.topic)? else { continue };
            self.rows.delete(key::HALF, &key::waiting(b'w', topic.id, message.log_index, message.slot));
            if let Some((topic, place, mut half)) = self.named_half(&message)?
                && half.state == HalfState::Pending
            {
                // It is parked as soon as it is too old. Tick has looked at the present already.
                let spent_ms = half.made_ms.saturating_add(half.age_max_ms).max(self.now_ms.saturating_add(1));
                let next_ms = self.now_ms.saturating_add(half.interval_ms).min(spent_ms);
                if told.sent {
                    half.checks = half.checks.saturating_add(1);
                    self.put_half(topic.id, place, &half);
                }
                self.check_at(topic.id, place, next_ms);
            }
        }
        Ok(Reply::default())
    }

    /// Says which half messages are to be checked now, parks those of which nobody is asked any more, and forgets those
    /// that ended long ago, as far as the rows reach. Returns whether some were left for another Tick.
    pub(super) fn look_at_halves(&mut self, rows_left: &mut usize) -> Result<bool, StateError> {
        let mut more = false;
        for letter in [b'c', b'f'] {
            let max = (*rows_left / ROWS_A_MESSAGE).max(1);
            let due = half::due(&self.rows, letter, self.now_ms, max)?;
            let Some((last_ms, (topic, place))) = due.last().copied() else { continue };
            let left = due.len() == max;
            *rows_left = rows_left.saturating_sub(due.len() * ROWS_A_MESSAGE);
            let last = key::waiting_at(letter, last_ms, topic, place.log_index, place.slot);
            let low = match left {
                true => [&last[..], &[0]].concat(),
                false => key::waiting_until(letter, self.now_ms).to_vec(),
            };
            self.rows.put(key::MACHINE, &key::machine(letter), low);
            more |= left;
            for (at_ms, (topic, place)) in due {
                self.rows.delete(key::HALF, &key::waiting_at(letter, at_ms, topic, place.log_index, place.slot));
                let Some(half) = half::half(&self.rows, topic, place)? else { continue };
                match (letter, half.state) {
                    (b'f', HalfState::Committed | HalfState::RolledBack) => {
                        self.rows.delete(key::HALF, &key::waiting(b'h', topic, place.log_index, place.slot));
                    }
                    (b'c', HalfState::Pending) if half.is_spent(self.now_ms) => {
                        self.put_half(topic, place, &HalfMessage { state: HalfState::Parked, ..half });
                    }
                    (b'c', HalfState::Pending) => {
                        let wanted = key::waiting(b'w', topic, place.log_index, place.slot);
                        self.rows.put(key::HALF, &wanted, Vec::new());
                        self.effects.add(Effect::CheckWanted);
                    }
                    _ => {}
                }
            }
        }
        Ok(more)
    }
}
