//! Trim: what was stored below an entry goes, the same on every replica, a bounded number of rows at once.
//!
//! 1. Queues: each queue's minimum offset moves to its first message that stays; index rows below it go, never one
//!    from inside a queue.
//! 2. Leases: those that hold messages from below get a keeper, because only their end tells whether the message comes
//!    again. A lease made meanwhile gets it at once.
//! 3. Keepers: what is still to be delivered from below. Retries that waited for as long as the messages that go are
//!    taken with them; for everything else the trim waits until its body was appended again, or ends below it.
//! 4. Marks below the end go.
//!
//! Messages are as old as they have been visible: a run that became visible later than its entry stays until its own
//! time is over.

use super::turn::{KnownTopic, Turn};
use super::{Effect, TICK_ROWS_MAX, done};
use crate::store::message::{self, Run};
use crate::store::retention::{self, Keeper, Mark, Pin, Stage, Trim, Trimmed};
use crate::store::{ConsumerGroupId, LeaseId, TopicId, key, lease, progress, queue, retry, subscription};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{self, Reply, reply};
use std::ops::ControlFlow;

/// A mark is made after so much cluster time, in ms,
const MARK_MS: u64 = 250;
/// or after so many entries.
const MARK_ENTRIES: u64 = 256;

/// What came of a piece of a trim.
enum Step {
    /// The stage is at its end.
    Over,
    /// There is more to do.
    More,
    /// There is nothing to do before a body was appended again.
    Held,
}

impl Turn<'_, '_> {
    /// Notes the time along the log, every now and then: ages and ends of trims go by these marks.
    pub(super) fn make_mark(&mut self) -> Result<(), StateError> {
        let last = retention::last_mark(&self.rows)?;
        let index = self.index.0;
        let is_due = self.now_ms >= last.time_ms.saturating_add(MARK_MS) || index >= last.index + MARK_ENTRIES;
        if is_due {
            let made = Mark { index, time_ms: self.now_ms };
            self.rows.put(key::RETENTION, &key::mark(index), progress::number(self.before_ms));
            self.rows.put(key::MACHINE, &key::machine(b'm'), made.encode());
        }
        Ok(())
    }

    /// The end of the trim under way; 0 when there is none. Keepers are noted at once below it.
    pub(super) fn trimming_upto(&mut self) -> Result<u64, StateError> {
        match self.trimming_upto {
            Some(upto) => Ok(upto),
            None => {
                let upto = retention::trim(&self.rows)?.map_or(0, |trim| trim.upto);
                Ok(*self.trimming_upto.insert(upto))
            }
        }
    }

    /// Entries below this hold nothing any more.
    pub(super) fn trimmed_upto(&mut self) -> Result<u64, StateError> {
        match self.trimmed_upto {
            Some(upto) => Ok(upto),
            None => Ok(*self.trimmed_upto.insert(retention::trimmed(&self.rows)?.upto)),
        }
    }

    pub(super) fn trim(&mut self, wanted: command::Trim) -> Result<Reply, StateError> {
        // Their queues are about to change, and what was done to their messages to go.
        self.close_runs()?;
        self.store_traces()?;
        let under_way = match retention::trim(&self.rows)? {
            Some(trim) => Some(trim),
            None => self.begin_trim(wanted.upto)?,
        };
        let Some(mut trim) = under_way else { return self.trim_reply(false, false) };
        self.trimming_upto = Some(trim.upto);
        let mut rows_left = TICK_ROWS_MAX;
        let mut held = false;
        while rows_left > 0 {
            let step = match trim.stage {
                Stage::Queues => self.trim_queues(&mut trim, &mut rows_left)?,
                Stage::Leases => self.note_leases(&mut trim, &mut rows_left)?,
                Stage::Keepers => self.look_at_keepers(&trim, &mut rows_left, wanted.settle)?,
                Stage::Marks => self.drop_marks(&mut rows_left)?,
            };
            match (step, trim.stage) {
                (Step::More, _) => break,
                (Step::Held, _) => {
                    held = true;
                    break;
                }
                (Step::Over, Stage::Queues) => trim.stage = Stage::Leases,
                (Step::Over, Stage::Leases) => trim.stage = Stage::Keepers,
                (Step::Over, Stage::Keepers) => trim.stage = Stage::Marks,
                (Step::Over, Stage::Marks) => {
                    self.rows.delete(key::MACHINE, &key::machine(b'j'));
                    self.trimming_upto = Some(0);
                    return self.trim_reply(false, false);
                }
            }
            trim.note.clear();
        }
        self.rows.put(key::MACHINE, &key::machine(b'j'), trim.encode());
        self.trim_reply(true, held)
    }

    fn trim_reply(&mut self, more: bool, held: bool) -> Result<Reply, StateError> {
        let trimmed = self.trimmed_upto()?;
        Ok(done(reply::Kind::Trimmed(command::Trimmed { more, held, trimmed })))
    }

    /// A trim to the last mark up to `upto`; `None` when that would take nothing.
    fn begin_trim(&mut self, upto: u64) -> Result<Option<Trim>, StateError> {
        let trimmed = self.trimmed_upto()?;
        let mark = retention::mark_upto(&self.rows, upto.min(self.index.0))?;
        Ok(mark.filter(|mark| mark.index > trimmed).map(|Mark { index, time_ms }| Trim {
            upto: index,
            horizon_ms: time_ms,
            stage: Stage::Queues,
            note: Vec::new(),
        }))
    }

    fn trim_queues(&mut self, trim: &mut Trim, rows_left: &mut usize) -> Result<Step, StateError> {
        let mut keys = Vec::new();
        let room = *rows_left;
        self.rows.scan(key::QUEUE, &trim.note, &[], &mut |key, _| {
            keys.push(key.to_vec());
            if keys.len() <= room { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let (upto, horizon_ms) = (trim.upto, trim.horizon_ms);
        for key in keys {
            if *rows_left == 0 {
                trim.note = key;
                return Ok(Step::More);
            }
            *rows_left -= 1;
            let Some((topic, number)) = key::of_queue(&key) else { continue };
            // The rows of a topic that is gone go by themselves.
            let Some(topic) = self.topic_by_id(topic)? else { continue };
            let goes = |run: &Run| if run.late { run.store_ms <= horizon_ms } else { run.log_index < upto };
            if !self.hide(&topic, number, (horizon_ms, goes), rows_left)? {
                trim.note = key;
                return Ok(Step::More);
            }
        }
        Ok(Step::Over)
    }

    /// Moves the minimum offset of a queue past the runs that go, and are as old as `horizon_ms` or older, as far as the
    /// rows reach. Returns whether that was far enough.
    pub(super) fn hide(
        &mut self,
        topic: &KnownTopic,
        number: u16,
        (horizon_ms, goes): (u64, impl Fn(&Run) -> bool),
        rows_left: &mut usize,
    ) -> Result<bool, StateError> {
        let before = self.queue(topic.id, number)?;
        let (mut min, mut runs, mut far_enough) = (before.min, Vec::new(), true);
        while min < before.next {
            let run = message::run(&self.rows, topic.id, number, min)?.ok_or_else(|| StateError::Corrupt {
                table: key::TABLES[usize::from(key::MESSAGE.0)],
                what: format!("topic {} queue {number} has no run at {min}", topic.id.0),
            })?;
            if !goes(&run) {
                break;
            }
            if *rows_left == 0 {
                far_enough = false;
                break;
            }
            *rows_left -= 1;
            min = run.end();
            runs.push(run);
        }
        if min > before.min && self.has_traces() {
            // None of them goes before what was done to it.
            let reach = self.drop_traces(topic.id, number, before.min, &runs)?;
            far_enough &= reach >= min;
            runs.retain(|run| run.end() <= reach);
            min = runs.last().map_or(before.min, Run::end);
        }
        if min == before.min {
            return Ok(far_enough);
        }
        self.count_unconsumed(topic, number, &before, min, rows_left)?;
        for run in runs {
            self.rows.delete(key::MESSAGE, &key::message(topic.id, number, run.first));
            if run.late {
                self.unpin_run(topic.id, number, &run);
            }
        }
        let after = queue::Queue { min, ..before };
        self.rows.put_queue(topic.id, number, after);
        self.note_queue_trim(topic.id, number, horizon_ms);
        Ok(far_enough)
    }

    /// Counts, for each consumer group of a topic, what it had not been handed of a queue up to `min`.
    fn count_unconsumed(
        &mut self,
        topic: &KnownTopic,
        number: u16,
        before: &queue::Queue,
        min: u64,
        rows_left: &mut usize,
    ) -> Result<(), StateError> {
        let groups = subscription::groups(&self.rows, topic.id, TICK_ROWS_MAX)?;
        *rows_left = rows_left.saturating_sub(groups.len());
        for group in groups {
            let row = match progress::row(&self.rows, topic.id, group, number)? {
                Some(row) => row,
                None => progress::first(&self.rows, topic.id, group, number, before)?,
            };
            let missed = min.saturating_sub(row.cursor.max(before.min));
            self.count_expired(topic, group, missed)?;
        }
        Ok(())
    }

    pub(super) fn count_expired(
        &mut self,
        topic: &KnownTopic,
        group: ConsumerGroupId,
        messages: u64,
    ) -> Result<(), StateError> {
        if messages == 0 {
            return Ok(());
        }
        let before = retention::expired(&self.rows, topic.id, group)?;
        let key = key::expired(topic.id, group);
        self.rows.put(key::PROGRESS, &key, progress::number(before.saturating_add(messages)));
        if let Some(group) = self.group_by_id(group)? {
            let (consumer_group, topic) = (group.name.clone(), topic.name.clone());
            self.effects.add(Effect::Expired { consumer_group, topic, messages });
        }
        Ok(())
    }

    fn note_leases(&mut self, trim: &mut Trim, rows_left: &mut usize) -> Result<Step, StateError> {
        let mut rows = Vec::new();
        let room = *rows_left;
        self.rows.scan(key::LEASE, &trim.note, &[], &mut |key, value| {
            rows.push(lease::parse(key, value));
            if rows.len() <= room { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        for row in rows {
            let (group, id, lease) = row?;
            if *rows_left == 0 {
                trim.note = key::lease(group, id).to_vec();
                return Ok(Step::More);
            }
            let noted = self.pin_lease(group, id, &lease, trim.upto);
            *rows_left = rows_left.saturating_sub(1 + noted);
        }
        Ok(Step::Over)
    }

    /// Drops the keepers below the end that hold no longer. At the end, nothing below it is needed; with `settle` the end
    /// is below what is.
    fn look_at_keepers(&mut self, trim: &Trim, rows_left: &mut usize, settle: bool) -> Result<Step, StateError> {
        let trimmed = self.trimmed_upto()?;
        let pins = retention::pins(&self.rows, trimmed, trim.upto, *rows_left)?;
        let all = pins.len() < *rows_left;
        let mut lowest = None;
        for pin in pins {
            if lowest.is_some() && settle {
                break;
            }
            *rows_left = rows_left.saturating_sub(1);
            if !self.still_holds(&pin, trim.horizon_ms)? {
                self.unpin(&pin);
            } else if lowest.is_none() {
                lowest = Some(pin.log_index);
            }
        }
        if !all && lowest.is_none() {
            return Ok(Step::More);
        }
        for table in [key::TIMER, key::HALF] {
            let waits = retention::waiting_in_log(&self.rows, table, trimmed, trim.upto, 1)?;
            let first = waits.first().map(|(log_index, _)| *log_index);
            lowest = lowest.into_iter().chain(first).min();
        }
        if lowest.is_some() && !settle {
            return Ok(Step::Held);
        }
        // The queues went up to the horizon, wherever the trim ends in the log.
        let upto = lowest.unwrap_or(trim.upto).max(trimmed);
        let row = Trimmed { upto, horizon_ms: trim.horizon_ms };
        self.rows.put(key::MACHINE, &key::machine(b'r'), row.encode());
        self.trimmed_upto = Some(upto);
        Ok(Step::Over)
    }

    /// Whether a keeper's body is still to be delivered. A retry that has waited for as long as the messages that go is
    /// taken with them.
    fn still_holds(&mut self, pin: &Pin, horizon_ms: u64) -> Result<bool, StateError> {
        let at = (pin.log_index, pin.slot);
        match pin.keeper {
            Keeper::Lease(group, id) => self.lease_holds(group, id, at),
            Keeper::Queue(topic, number, first) => {
                if self.topic_by_id(topic)?.is_none() || first < self.queue(topic, number)?.min {
                    return Ok(false);
                }
                let run = message::run(&self.rows, topic, number, first)?;
                Ok(run.is_some_and(|run| run.late && run.starts_at() == at))
            }
            Keeper::Retry(topic, group, order) => {
                let Some(found) = retry::retry(&self.rows, topic, group, order)? else { return Ok(false) };
                let (Some(topic), Some(group)) = (self.topic_by_id(topic)?, self.group_by_id(group)?) else {
                    return Ok(false);
                };
                if (found.place.log_index, found.place.slot) != at {
                    return Ok(false);
                }
                let void = order < progress::void(&self.rows, topic.id, group.id, found.queue)?.retries;
                if void || pin.since_ms <= horizon_ms {
                    self.expire_retry(&topic, &group, order, &found, void)?;
                    return Ok(false);
                }
                Ok(true)
            }
            // They have rows of their own.
            Keeper::Timer | Keeper::Half => Ok(false),
        }
    }

    fn lease_holds(&mut self, group: ConsumerGroupId, id: LeaseId, at: (u64, u32)) -> Result<bool, StateError> {
        let Some(lease) = lease::lease(&self.rows, group, id)? else { return Ok(false) };
        let known = self.topic_by_id(lease.topic)?.is_some() && self.group_by_id(group)?.is_some();
        Ok(known && lease.open_part_at(at).is_some())
    }

    fn drop_marks(&mut self, rows_left: &mut usize) -> Result<Step, StateError> {
        let upto = self.trimmed_upto()?;
        let mut keys = Vec::new();
        let room = *rows_left;
        self.rows.scan(key::RETENTION, b"m", &key::mark(upto), &mut |key, _| {
            keys.push(key.to_vec());
            if keys.len() < room { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        *rows_left -= keys.len();
        keys.iter().for_each(|key| self.rows.delete(key::RETENTION, key));
        Ok(if *rows_left == 0 { Step::More } else { Step::Over })
    }

    /// Removes the messages of a topic that are older than its own age.
    pub(super) fn expire(&mut self, expire: &command::Expire) -> Result<Reply, StateError> {
        let over = |from_queue, more| Ok(done(reply::Kind::Expired(command::Expired { more, from_queue })));
        let Some(topic) = self.topic(&expire.topic)? else { return over(0, false) };
        let Some(age_ms) = retention::reserve_ms(&topic.row) else { return over(0, false) };
        self.close_run(&topic)?;
        self.store_traces()?;
        let horizon_ms = self.now_ms.saturating_sub(age_ms);
        let mut rows_left = TICK_ROWS_MAX;
        for wanted in expire.from_queue..topic.row.read_queues.max(topic.row.write_queues) {
            let Some(number) = topic.number(wanted).filter(|_| rows_left > 0) else { return over(wanted, true) };
            rows_left -= 1;
            if !self.hide(&topic, number, (horizon_ms, |run: &Run| run.store_ms <= horizon_ms), &mut rows_left)? {
                return over(wanted, true);
            }
        }
        over(0, false)
    }

    fn unpin_run(&mut self, topic: TopicId, number: u16, run: &Run) {
        let (log_index, slot) = run.starts_at();
        let keeper = Keeper::Queue(topic, number, run.first);
        self.unpin(&Pin { log_index, slot, keeper, since_ms: 0 });
    }
}
