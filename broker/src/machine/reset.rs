//! Where a consumer group starts, and Reset, which moves it elsewhere while its consumers run.
//!
//! After a reset everything below the new offset counts as finished, and everything from there on comes again with
//! its first attempt. What was leased before is void: an acknowledgement is taken and changes nothing, the end of
//! such a lease delivers nothing again, and its duration cannot be changed. The counts of messages in flight include
//! void ones until their leases end.

use super::turn::{KnownGroup, KnownTopic, Turn};
use super::{Effect, TICK_ROWS_MAX, done, refused};
use crate::store::consumer_group::Start;
use crate::store::progress::{self, Void};
use crate::store::{ConsumerGroupId, LeaseId, TopicId, key, retry, subscription};
use raft_store::StateError;
use raftmq_proto::command::{QueueOffset, Refusal, Reply, Reset, ResetDone, reply};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

impl KnownTopic {
    /// The number of a queue that this topic has.
    pub(super) fn number(&self, queue: u32) -> Option<u16> {
        let has = queue < self.row.read_queues.max(self.row.write_queues);
        u16::try_from(queue).ok().filter(|_| has)
    }
}

impl Turn<'_, '_> {
    pub(super) fn reset(&mut self, reset: Reset) -> Result<Reply, StateError> {
        let Some(topic) = self.topic(&reset.topic)? else {
            return Ok(refused(Refusal::TopicNotFound, format!("topic {} does not exist", reset.topic)));
        };
        let Some(group) = self.group(&reset.consumer_group)? else {
            let detail = format!("consumer group {} does not exist", reset.consumer_group);
            return Ok(refused(Refusal::ConsumerGroupNotFound, detail));
        };
        if reset.queues.len() > TICK_ROWS_MAX {
            let detail = format!("at most {TICK_ROWS_MAX} queues are reset at once");
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        if let Some(unknown) = reset.queues.iter().find(|wanted| topic.number(wanted.queue).is_none()) {
            let detail = format!("topic {} has no queue {}", reset.topic, unknown.queue);
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        self.close_run(&topic)?;
        let mut share = self.subscription(topic.id, group.id)?;
        let (leases, retries) = (self.last_lease()?, share.retry_next);
        let mut moved = BTreeSet::new();
        let mut queues = Vec::with_capacity(reset.queues.len());
        for wanted in &reset.queues {
            let Some(number) = topic.number(wanted.queue) else { continue };
            let queue = self.queue(topic.id, number)?;
            let offset = wanted.offset.clamp(queue.min, queue.next);
            let mut row = match progress::row(&self.rows, topic.id, group.id, number)? {
                Some(row) => row,
                None => progress::first(&self.rows, topic.id, group.id, number, &queue)?,
            };
            row.low = if row.in_flight == 0 { offset } else { row.low.min(offset) };
            (row.cursor, row.run) = (offset, offset);
            self.rows.put(key::PROGRESS, &key::progress(topic.id, group.id, number), row.encode());
            let resets = progress::void(&self.rows, topic.id, group.id, number)?.resets;
            let void = Void { leases, retries, resets: resets.wrapping_add(1) };
            self.rows.put(key::PROGRESS, &key::void(topic.id, group.id, number), void.encode());
            self.void_message_groups(topic.id, group.id, number, resets)?;
            moved.insert(number);
            queues.push(QueueOffset { queue: wanted.queue, offset });
        }
        // Their attempts begin again.
        self.returned = true;
        self.drop_retries(topic.id, group.id, &mut share, &moved)?;
        self.store_subscription(topic.id, group.id, &share);
        self.effects.add(Effect::Retryable { consumer_group: group.name.clone(), topic: topic.name.clone() });
        Ok(done(reply::Kind::ResetDone(ResetDone { queues })))
    }

    /// Removes what waits in the retry index from these queues, a bounded number of rows; receives that come upon
    /// the others drop them.
    fn drop_retries(
        &mut self,
        topic: TopicId,
        group: ConsumerGroupId,
        share: &mut subscription::Subscription,
        queues: &BTreeSet<u16>,
    ) -> Result<(), StateError> {
        if share.retry_waiting == 0 {
            return Ok(());
        }
        let mut found = Vec::new();
        let mut left = TICK_ROWS_MAX;
        retry::scan(&self.rows, topic, group, share.retry_low, |order, retry| {
            if queues.contains(&retry.queue) {
                found.push((order, retry));
            }
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        for (order, retry) in found {
            self.delete_retry(topic, group, order, &retry);
            share.retry_waiting = share.retry_waiting.saturating_sub(1);
        }
        if share.retry_waiting == 0 {
            share.retry_low = share.retry_next;
        }
        Ok(())
    }

    /// Whether a reset took the messages of this queue away from a lease.
    pub(super) fn is_void(
        &self,
        topic: TopicId,
        group: ConsumerGroupId,
        number: u16,
        lease: LeaseId,
    ) -> Result<bool, StateError> {
        Ok(lease <= progress::void(&self.rows, topic, group, number)?.leases)
    }

    /// Notes where a consumer group starts in a topic, when this is its first receive from it and it does not start
    /// at the oldest message. "At the last" is the time of this receive: what is stored later is not missed,
    /// whichever queue it goes to.
    pub(super) fn note_start(&mut self, topic: &KnownTopic, group: &KnownGroup) -> Result<(), StateError> {
        let time_ms = match Start::of(&group.row) {
            Start::First => return Ok(()),
            Start::Last => self.now_ms,
            Start::Time(time_ms) => time_ms,
        };
        if subscription::subscription(&self.rows, topic.id, group.id)?.is_none() {
            let key = key::start(topic.id, group.id);
            self.rows.put(key::PROGRESS, &key, progress::number(time_ms));
        }
        Ok(())
    }
}
