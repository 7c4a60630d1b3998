//! Ack: an item of a lease is finished. A handle that is forged, of another consumer group, topic or life of
//! one, superseded or late changes nothing.

use super::done;
use super::turn::{KnownGroup, KnownTopic, Turn};
use crate::store::lease::{self, Item, Lease};
use crate::store::trace::What;
use crate::store::{ConsumerGroupId, LeaseId, key, progress};
use raft_store::StateError;
use raftmq_proto::command::{Ack, Acked, Handle, Refusal, Reply, reply};
use std::sync::Arc;

/// For this long after a lease was made, a handle of it is told apart from one that is late or superseded, when
/// the lease is gone: a lease whose items were all acknowledged leaves no row, any other leaves its row.
pub(super) const REMEMBERED_MS: u64 = 600_000;

impl Turn<'_, '_> {
    pub(super) fn ack(&mut self, ack: Ack) -> Result<Reply, StateError> {
        let group = self.group(&ack.consumer_group)?;
        let topic = self.topic(&ack.topic)?;
        let mut refusals = Vec::with_capacity(ack.handles.len());
        for handle in &ack.handles {
            let refusal = match (&group, &topic) {
                (Some(group), Some(topic)) => self.ack_one(group, topic, handle, Some(What::Acked))?,
                _ => Refusal::InvalidHandle,
            };
            refusals.push(refusal.into());
        }
        Ok(done(reply::Kind::Acked(Acked { refusals })))
    }

    /// Finishes what a handle names. `why` says what is done to the message by that, unless that is noted already.
    pub(super) fn ack_one(
        &mut self,
        group: &KnownGroup,
        topic: &Arc<KnownTopic>,
        handle: &Handle,
        why: Option<What>,
    ) -> Result<Refusal, StateError> {
        if !self.is_issued(group, handle)? {
            return Ok(Refusal::InvalidHandle);
        }
        let id = LeaseId(handle.lease_id);
        let Some(mut lease) = lease::lease(&self.rows, group.id, id)? else {
            let recent = id.made_ms().saturating_add(REMEMBERED_MS) > self.now_ms;
            return Ok(if recent { Refusal::Unspecified } else { Refusal::InvalidHandle });
        };
        let Some(topic) = self.topic_of_lease(topic, lease.topic)? else { return Ok(Refusal::InvalidHandle) };
        let item = handle.item as usize;
        Ok(match lease.items.get(item) {
            Some(Item::Open) => {
                let part = lease.part_of(item).map(|(base, part)| part.only((item - base) as u32));
                if let (Some(part), Some(why)) = (&part, why) {
                    self.note_trace(topic.id, group.id, part, why);
                }
                self.close_item(group.id, id, &mut lease, item, Item::Acked)?;
                if let Some(part) = part.filter(|part| part.first.group != 0)
                    && !self.is_void(topic.id, group.id, part.queue, id)?
                {
                    let mut share = self.subscription(topic.id, group.id)?;
                    self.leave_message_group(&topic, group, &mut share, (part.queue, part.first.group), None)?;
                    self.store_subscription(topic.id, group.id, &share);
                }
                self.settle_lease(group.id, id, lease);
                self.refresh_ready(&topic, group)?;
                Refusal::Unspecified
            }
            Some(Item::Acked) => Refusal::Unspecified,
            _ => Refusal::InvalidHandle,
        })
    }

    /// Whether this consumer group issued the handle.
    pub(super) fn is_issued(&mut self, group: &KnownGroup, handle: &Handle) -> Result<bool, StateError> {
        let id = LeaseId(handle.lease_id);
        Ok(handle.consumer_group_id == group.id.0
            && handle.item < lease::ITEMS_MAX
            && id <= self.last_lease()?
            && self.nonce(group.id, id)? == Some(handle.nonce))
    }

    /// Closes an open item: it is in flight no longer. The caller settles the lease.
    pub(super) fn close_item(
        &mut self,
        group: ConsumerGroupId,
        id: LeaseId,
        lease: &mut Lease,
        item: usize,
        state: Item,
    ) -> Result<(), StateError> {
        debug_assert_eq!(lease.items[item], Item::Open, "an item is closed once");
        lease.items[item] = state;
        let topic = lease.topic;
        let Some((base, part)) = lease.part_of(item) else { return Ok(()) };
        if !part.fresh {
            let mut subscription = self.subscription(topic, group)?;
            subscription.retry_in_flight = subscription.retry_in_flight.saturating_sub(1);
            self.store_subscription(topic, group, &subscription);
            return Ok(());
        }
        if let Some(mut row) = progress::row(&self.rows, topic, group, part.queue)? {
            row.in_flight = row.in_flight.saturating_sub(1);
            self.rows.put(key::PROGRESS, &key::progress(topic, group, part.queue), row.encode());
        }
        if lease.items[base..base + part.count as usize].iter().all(|item| *item != Item::Open) {
            let key = key::flight(topic, group, part.queue, part.first.offset, id);
            self.rows.delete(key::FLIGHT, &key);
        }
        Ok(())
    }

    /// Stores a lease whose items changed, or removes it when it has no further use.
    pub(super) fn settle_lease(&mut self, group: ConsumerGroupId, id: LeaseId, mut lease: Lease) {
        if lease.items.contains(&Item::Open) {
            self.put_lease(group, id, &lease);
            return;
        }
        if lease.renewed {
            self.rows.delete(key::SESSION, &key::client_lease(&lease.client_id, group, id));
        }
        if lease.receive != 0 {
            self.rows.delete(key::RECEIVE, &key::receive(group, lease.receive));
        }
        let forget_ms = id.made_ms().saturating_add(REMEMBERED_MS);
        if lease.items.iter().any(|item| *item != Item::Acked) && forget_ms > self.now_ms {
            lease.ended = true;
            lease.receive = 0;
            self.put_deadline(group, id, &mut lease, forget_ms);
            self.put_lease(group, id, &lease);
        } else {
            self.drop_deadline(group, id, &lease);
            self.rows.delete(key::LEASE, &key::lease(group, id));
        }
    }
}
