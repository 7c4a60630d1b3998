//! Keepers: rows, in order of log index, of what is to be delivered from a body although its time in the log is over.
//!
//! A row is added wherever something begins to need an old body, and removed where that costs nothing; otherwise a trim
//! finds that it holds no longer. Reappend gives what keepers name a new body, so that a trim can pass the old one.

use super::turn::{KnownGroup, KnownTopic, Turn};
use super::{TICK_ROWS_MAX, refused};
use crate::store::lease::Lease;
use crate::store::message::{self, Run};
use crate::store::retention::{Keeper, Pin};
use crate::store::retry::{self, Retry};
use crate::store::timer::{self, InLog};
use crate::store::{ConsumerGroupId, LeaseId, TopicId, half, key, lease, progress};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{Reappend, Reappended, Refusal, Reply};

impl Turn<'_, '_> {
    pub(super) fn pin(&mut self, pin: &Pin) {
        let value = if pin.since_ms == 0 { Vec::new() } else { progress::number(pin.since_ms) };
        self.rows.put(key::RETENTION, &key::pin(pin.log_index, pin.slot, &pin.keeper.encode()), value);
    }

    pub(super) fn unpin(&mut self, pin: &Pin) {
        self.rows.delete(key::RETENTION, &key::pin(pin.log_index, pin.slot, &pin.keeper.encode()));
    }

    /// A run became visible later than its entry.
    pub(super) fn pin_run(&mut self, topic: TopicId, number: u16, run: &Run) {
        let (log_index, slot) = run.starts_at();
        self.pin(&Pin { log_index, slot, keeper: Keeper::Queue(topic, number, run.first), since_ms: 0 });
    }

    /// A message waits in the retry index from now on.
    pub(super) fn pin_retry(&mut self, topic: TopicId, group: ConsumerGroupId, order: u64, retry: &Retry) {
        let keeper = Keeper::Retry(topic, group, order);
        let (log_index, slot) = (retry.place.log_index, retry.place.slot);
        self.pin(&Pin { log_index, slot, keeper, since_ms: self.now_ms });
    }

    /// Removes a row of the retry index. The caller counts.
    pub(super) fn delete_retry(&mut self, topic: TopicId, group: ConsumerGroupId, order: u64, retry: &Retry) {
        self.rows.delete(key::RETRY, &key::retry(topic, group, order));
        let (log_index, slot) = (retry.place.log_index, retry.place.slot);
        self.unpin(&Pin { log_index, slot, keeper: Keeper::Retry(topic, group, order), since_ms: 0 });
    }

    /// A message waited in the retry index for too long, or was made void there by a reset.
    pub(super) fn expire_retry(
        &mut self,
        topic: &KnownTopic,
        group: &KnownGroup,
        order: u64,
        retry: &Retry,
        void: bool,
    ) -> Result<(), StateError> {
        self.delete_retry(topic.id, group.id, order, retry);
        let mut share = self.subscription(topic.id, group.id)?;
        share.retry_waiting = share.retry_waiting.saturating_sub(1);
        if !void {
            self.count_expired(topic, group.id, 1)?;
            self.leave_message_group(topic, group, &mut share, (retry.queue, retry.place.group), None)?;
        }
        if share.retry_waiting == 0 {
            share.retry_low = share.retry_next;
        }
        self.store_subscription(topic.id, group.id, &share);
        Ok(())
    }

    /// Notes the parts of a lease that are in entries below `upto` and not finished. Returns how many there were.
    pub(super) fn pin_lease(&mut self, group: ConsumerGroupId, id: LeaseId, lease: &Lease, upto: u64) -> usize {
        let open: Vec<_> = lease.open_parts().map(|part| part.first).filter(|first| first.log_index < upto).collect();
        for first in &open {
            let keeper = Keeper::Lease(group, id);
            self.pin(&Pin { log_index: first.log_index, slot: first.slot, keeper, since_ms: 0 });
        }
        open.len()
    }

    /// Bodies came a second time: what needs them is told where they are now. What was finished meanwhile is passed over.
    pub(super) fn reappend(&mut self, command: Reappend, first_slot: Option<u32>) -> Result<Reply, StateError> {
        let Some(mut slot) = first_slot.filter(|_| command.moved.len() <= TICK_ROWS_MAX) else {
            let detail = "bodies to append again are missing, or too many";
            return Ok(refused(Refusal::InvalidArgument, detail));
        };
        self.close_runs()?;
        for moved in command.moved {
            let next = slot.saturating_add(moved.count);
            // What does not decode never was a keeper.
            if let Ok(keeper) = Keeper::decode(&moved.keeper)
                && moved.count > 0
            {
                self.move_body(keeper, &moved, InLog { log_index: self.index.0, slot })?;
            }
            slot = next;
        }
        Ok(Reply::default())
    }

    fn move_body(&mut self, keeper: Keeper, moved: &Reappended, to: InLog) -> Result<(), StateError> {
        let from = Pin { log_index: moved.log_index, slot: moved.slot, keeper, since_ms: 0 };
        let at = (from.log_index, from.slot);
        match keeper {
            Keeper::Lease(group, id) => {
                let Some(mut lease) = lease::lease(&self.rows, group, id)? else { return Ok(()) };
                let Some(part) = lease.open_part_at(at).filter(|part| lease.parts[*part].count == moved.count) else {
                    return Ok(());
                };
                let first = &mut lease.parts[part].first;
                (first.log_index, first.slot) = (to.log_index, to.slot);
                self.put_lease(group, id, &lease);
                self.unpin(&from);
            }
            Keeper::Queue(topic, number, first) => {
                let Some(run) = message::run(&self.rows, topic, number, first)? else { return Ok(()) };
                if run.starts_at() == at && run.count == moved.count {
                    let run = run.moved(to.log_index, to.slot);
                    self.rows.put(key::MESSAGE, &key::message(topic, number, first), run.encode());
                    self.unpin(&from);
                    self.pin_run(topic, number, &run);
                }
            }
            Keeper::Retry(topic, group, order) => {
                let Some(mut row) = retry::retry(&self.rows, topic, group, order)? else { return Ok(()) };
                let Some(pin) = self.known_pin(&from)?.filter(|_| moved.count == 1) else { return Ok(()) };
                if (row.place.log_index, row.place.slot) == at {
                    (row.place.log_index, row.place.slot) = (to.log_index, to.slot);
                    self.rows.put(key::RETRY, &key::retry(topic, group, order), row.encode());
                    self.unpin(&from);
                    self.pin(&Pin { log_index: to.log_index, slot: to.slot, ..pin });
                }
            }
            Keeper::Timer => {
                let key = key::in_log(from.log_index, from.slot);
                let Some(at) = self.rows.get(key::TIMER, &key)?.filter(|_| moved.count == 1) else { return Ok(()) };
                let Some(value) = self.rows.get(key::TIMER, &at)? else { return Ok(()) };
                let timer = timer::Timer { moved: Some(to), ..timer::parse(&at, &value)?.timer };
                self.rows.put(key::TIMER, &at, timer.encode());
                self.rows.delete(key::TIMER, &key);
                self.rows.put(key::TIMER, &key::in_log(to.log_index, to.slot), at);
            }
            Keeper::Half => {
                let place = InLog { log_index: from.log_index, slot: from.slot };
                let Some((topic, named)) = half::named_by(&self.rows, place)?.filter(|_| moved.count == 1) else {
                    return Ok(());
                };
                let Some(row) = half::half(&self.rows, topic, named)? else { return Ok(()) };
                self.rows.delete(key::HALF, &key::in_log(place.log_index, place.slot));
                self.put_half(topic, named, &half::HalfMessage { moved: Some(to), ..row });
                self.keep_half(topic, named, to);
            }
        }
        Ok(())
    }

    /// The row of a keeper with all that it says.
    fn known_pin(&self, pin: &Pin) -> Result<Option<Pin>, StateError> {
        let key = key::pin(pin.log_index, pin.slot, &pin.keeper.encode());
        let Some(value) = self.rows.get(key::RETENTION, &key)? else { return Ok(None) };
        crate::store::retention::parse(&key, &value).map(Some)
    }
}
