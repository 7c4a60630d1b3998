//! What happens to messages whose lease ends without an acknowledgement: another delivery, or the dead letter
//! topic after the last one.

use super::Effect;
use super::turn::{KnownGroup, KnownTopic, Turn};
use crate::store::lease::{Item, Lease, Part};
use crate::store::retry::Retry;
use crate::store::trace::What;
use crate::store::{ConsumerGroupId, LeaseId};
use raft_store::StateError;

impl Turn<'_, '_> {
    /// Takes back every open item of a lease and returns how many there were. The lease's topic or consumer
    /// group may be gone: then the lease just goes. `why` says what ended it.
    pub(super) fn give_back(
        &mut self,
        group: ConsumerGroupId,
        id: LeaseId,
        mut lease: Lease,
        why: &What,
    ) -> Result<usize, StateError> {
        let known = (self.topic_by_id(lease.topic)?, self.group_by_id(group)?);
        let (Some(topic), Some(group)) = known else {
            lease.items.iter_mut().for_each(|item| *item = Item::Acked);
            self.settle_lease(group, id, lease);
            return Ok(1);
        };
        let mut taken = 0;
        for item in 0..lease.items.len() {
            if lease.items[item] == Item::Open {
                let Some((base, part)) = lease.part_of(item) else { continue };
                let part = part.only((item - base) as u32);
                self.note_trace(topic.id, group.id, &part, why.clone());
                self.close_item(group.id, id, &mut lease, item, Item::Ended)?;
                if !self.is_void(lease.topic, group.id, part.queue, id)? {
                    self.deliver_again(&topic, &group, &part, lease.suspended || lease.unconfirmed)?;
                }
                taken += 1;
            }
        }
        self.settle_lease(group.id, id, lease);
        self.refresh_ready(&topic, &group)?;
        Ok(taken)
    }

    /// Puts the message of a part of one where its next delivery, or nobody, will find it. With `suspended` the
    /// delivery that ended does not count.
    pub(super) fn deliver_again(
        &mut self,
        topic: &KnownTopic,
        group: &KnownGroup,
        part: &Part,
        suspended: bool,
    ) -> Result<(), StateError> {
        let place = part.first;
        let attempt = if suspended { part.attempt } else { part.attempt.saturating_add(1) };
        self.returned |= suspended;
        let mut subscription = self.subscription(topic.id, group.id)?;
        if attempt > group.row.retry_max.saturating_add(1) {
            self.dead_letter(topic, group, part)?;
            subscription.dead_letters += 1;
            self.leave_message_group(topic, group, &mut subscription, (part.queue, place.group), None)?;
        } else {
            let retry = Retry { queue: part.queue, place, attempt };
            self.push_retry(topic.id, group.id, &mut subscription, &retry);
            let effect = Effect::Retryable { consumer_group: group.name.clone(), topic: topic.name.clone() };
            self.effects.add(effect);
        }
        self.store_subscription(topic.id, group.id, &subscription);
        Ok(())
    }
}
