//! The retry index: messages go in when a lease ends, or when they wait for another member; receives take them
//! out, oldest first.

use super::lease::{Look, Verdict};
use super::turn::{KnownGroup, KnownTopic, Turn};
use crate::store::lease::Part;
use crate::store::retry::{self, Retry};
use crate::store::subscription::{self, Subscription};
use crate::store::{ConsumerGroupId, TopicId, key, progress};
use raft_store::StateError;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;

impl Turn<'_, '_> {
    /// The consumer group's share of a topic; its first receive makes the row.
    pub(super) fn subscription(&mut self, topic: TopicId, group: ConsumerGroupId) -> Result<Subscription, StateError> {
        if let Some(row) = subscription::subscription(&self.rows, topic, group)? {
            return Ok(row);
        }
        let is_lite = self.topic_by_id(topic)?.is_some_and(|topic| topic.row.lite_parent != 0);
        let consumed = if is_lite { key::consumed_lite(group, topic) } else { key::consumed(group, topic) };
        self.rows.put(key::CONSUMER_GROUP, &consumed, Vec::new());
        let row = Subscription::default();
        self.store_subscription(topic, group, &row);
        Ok(row)
    }

    pub(super) fn store_subscription(&mut self, topic: TopicId, group: ConsumerGroupId, row: &Subscription) {
        self.rows.put(key::SUBSCRIPTION, &key::subscription(topic, group), row.encode());
    }

    /// Adds a message behind all others. The caller stores the subscription.
    pub(super) fn push_retry(
        &mut self,
        topic: TopicId,
        group: ConsumerGroupId,
        subscription: &mut Subscription,
        retry: &Retry,
    ) {
        self.rows.put(key::RETRY, &key::retry(topic, group, subscription.retry_next), retry.encode());
        self.pin_retry(topic, group, subscription.retry_next, retry);
        subscription.retry_next += 1;
        subscription.retry_waiting += 1;
    }

    /// Takes messages that the receive's filter wants until it holds `upto` items.
    pub(super) fn take_retries(
        &mut self,
        topic: &KnownTopic,
        group: &KnownGroup,
        subscription: &mut Subscription,
        look: &mut Look,
        upto: usize,
    ) -> Result<(), StateError> {
        if subscription.retry_waiting == 0 || look.parts.len() >= upto {
            return Ok(());
        }
        let from = subscription.retry_from(look.filter_digest);
        let from_low = from == subscription.retry_low;
        let mut wanted = upto - look.parts.len();
        let mut rows = Vec::new();
        let mut left = look.rows_left;
        let (mut end, mut judged) = (true, true);
        retry::scan(&self.rows, topic.id, group.id, from, |order, retry| {
            if wanted == 0 || left == 0 {
                end = false;
                return ControlFlow::Break(());
            }
            let Some(takes) = look.takes(&retry.place) else {
                (end, judged) = (false, false);
                return ControlFlow::Break(());
            };
            left -= 1;
            wanted -= usize::from(takes);
            rows.push((order, retry));
            ControlFlow::Continue(())
        })?;
        look.rows_left = left;
        look.cut |= !end && (left == 0 || !judged);

        let mut lowest_kept = None;
        let mut behind = from;
        // What this look adds is for the next one.
        let next = subscription.retry_next;
        let mut voids = BTreeMap::new();
        for (order, retry) in rows {
            behind = order + 1;
            let void = match voids.entry(retry.queue) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => *new.insert(progress::void(&self.rows, topic.id, group.id, retry.queue)?),
            };
            if order < void.retries {
                self.delete_retry(topic.id, group.id, order, &retry);
                subscription.retry_waiting = subscription.retry_waiting.saturating_sub(1);
                continue;
            }
            if retry.place.log_index < self.trimmed_upto()? {
                // Its message group held it back for longer than retention keeps bodies.
                self.delete_retry(topic.id, group.id, order, &retry);
                subscription.retry_waiting = subscription.retry_waiting.saturating_sub(1);
                self.count_expired(topic, group.id, 1)?;
                let of = (retry.queue, retry.place.group);
                self.leave_message_group(topic, group, subscription, of, Some(&mut *look))?;
                continue;
            }
            match look.verdict(&self.rows, topic, group, &retry.place)? {
                Verdict::Park | Verdict::Unjudged => {
                    lowest_kept = lowest_kept.or(Some(order));
                    continue;
                }
                Verdict::Skip => {
                    let of = (retry.queue, retry.place.group);
                    self.leave_message_group(topic, group, subscription, of, Some(&mut *look))?;
                }
                Verdict::Take => {
                    let Retry { queue, place, attempt } = retry;
                    look.parts.push(Part { fresh: false, queue, first: place, count: 1, attempt });
                    subscription.retry_in_flight += 1;
                }
            }
            self.delete_retry(topic.id, group.id, order, &retry);
            subscription.retry_waiting = subscription.retry_waiting.saturating_sub(1);
        }
        if end {
            behind = next;
        }
        if subscription.retry_waiting == 0 {
            subscription.retry_low = subscription.retry_next;
        } else if from_low {
            subscription.retry_low = lowest_kept.unwrap_or(behind);
        }
        if behind > subscription.retry_from(look.filter_digest) {
            subscription.set_scanned(look.filter_digest, behind);
        }
        Ok(())
    }
}
