//! ChangeInvisible: an item moves into a lease of its own with a new deadline. Its old handle is superseded.

use super::turn::Turn;
use super::{done, refused};
use crate::store::LeaseId;
use crate::store::lease::{self, Item, Lease};
use crate::store::trace::What;
use crate::store::{key, progress};
use raft_store::StateError;
use raftmq_proto::command::{ChangeInvisible, Handle, Invisible, Refusal, Reply, reply};

impl Turn<'_, '_> {
    pub(super) fn change_invisible(&mut self, change: ChangeInvisible) -> Result<Reply, StateError> {
        let invalid = || refused(Refusal::InvalidHandle, "the receipt handle is not valid, or not any more");
        let (Some(group), Some(topic), Some(handle)) =
            (self.group(&change.consumer_group)?, self.topic(&change.topic)?, change.handle)
        else {
            return Ok(invalid());
        };
        if !self.is_issued(&group, &handle)? {
            return Ok(invalid());
        }
        let id = LeaseId(handle.lease_id);
        let item = handle.item as usize;
        let Some(mut lease) = lease::lease(&self.rows, group.id, id)? else { return Ok(invalid()) };
        let Some(topic) = self.topic_of_lease(&topic, lease.topic)? else { return Ok(invalid()) };
        if lease.items.get(item) != Some(&Item::Open) {
            return Ok(invalid());
        }
        let Some((base, part)) = lease.part_of(item) else { return Ok(invalid()) };
        let part = part.only((item - base) as u32);

        if self.is_void(topic.id, group.id, part.queue, id)? {
            return Ok(invalid());
        }
        if change.invisible_ms == 0 {
            self.note_trace(topic.id, group.id, &part, What::GivenBack);
            self.close_item(group.id, id, &mut lease, item, Item::Ended)?;
            self.deliver_again(&topic, &group, &part, change.suspend)?;
            self.settle_lease(group.id, id, lease);
            self.refresh_ready(&topic, &group)?;
            return Ok(done(reply::Kind::Invisible(Invisible { handle: Some(handle) })));
        }

        let mut moved = Lease {
            topic: lease.topic,
            client_id: lease.client_id.clone(),
            renewed: false,
            ended: false,
            suspended: change.suspend,
            unconfirmed: false,
            deadline_ms: self.now_ms.saturating_add(change.invisible_ms),
            receive: 0,
            items: Vec::new(),
            parts: Vec::new(),
        };
        moved.push(part);
        self.close_item(group.id, id, &mut lease, item, Item::Superseded)?;
        self.settle_lease(group.id, id, lease);
        // The message is in flight as before, under the new lease.
        if part.fresh {
            if let Some(mut row) = progress::row(&self.rows, topic.id, group.id, part.queue)? {
                row.in_flight += 1;
                self.rows.put(key::PROGRESS, &key::progress(topic.id, group.id, part.queue), row.encode());
            }
        } else {
            let mut subscription = self.subscription(topic.id, group.id)?;
            subscription.retry_in_flight += 1;
            self.store_subscription(topic.id, group.id, &subscription);
        }
        self.note_trace(topic.id, group.id, &part, What::Extended { until_ms: moved.deadline_ms });
        let id = self.put_new_lease(&group, &moved)?;
        let nonce = self.nonce(group.id, id)?.unwrap_or_default();
        let handle = Handle { consumer_group_id: group.id.0, lease_id: id.0, item: 0, nonce };
        Ok(done(reply::Kind::Invisible(Invisible { handle: Some(handle) })))
    }
}
