//! Dead letters: after its last attempt a message gets an index row in `%DLQ%` and the consumer group's name.
//! The row points at the body where it is; nothing is copied.

use super::turn::{KnownGroup, KnownTopic, Turn};
use super::{Effect, refused};
use crate::store::LeaseId;
use crate::store::lease::{self, Item, Part};
use crate::store::message::{Place, Run};
use crate::store::trace::What;
use raft_store::StateError;
use raftmq_proto::command::{DeadLetter, Refusal, Reply};

/// The one queue of a dead letter topic.
const QUEUE: u16 = 0;

impl Turn<'_, '_> {
    /// A consumer gives a message up before its last attempt. The handle is checked like that of an
    /// acknowledgement, and asked again the answer is the same.
    pub(super) fn forward_to_dead_letters(&mut self, dead: DeadLetter) -> Result<Reply, StateError> {
        let invalid = || refused(Refusal::InvalidHandle, "the receipt handle is not valid, or not any more");
        let (Some(group), Some(topic), Some(handle)) =
            (self.group(&dead.consumer_group)?, self.topic(&dead.topic)?, dead.handle)
        else {
            return Ok(invalid());
        };
        let mut why = Some(What::Acked);
        if self.is_issued(&group, &handle)? {
            let id = LeaseId(handle.lease_id);
            let item = handle.item as usize;
            if let Some(lease) = lease::lease(&self.rows, group.id, id)?
                && let Some(topic) = self.topic_of_lease(&topic, lease.topic)?
                && lease.items.get(item) == Some(&Item::Open)
                && let Some((base, part)) = lease.part_of(item)
                && !self.is_void(topic.id, group.id, part.queue, id)?
            {
                self.dead_letter(&topic, &group, &part.only((item - base) as u32))?;
                why = None;
                let mut share = self.subscription(topic.id, group.id)?;
                share.dead_letters += 1;
                self.store_subscription(topic.id, group.id, &share);
            }
        }
        // The rest is an acknowledgement, which also answers handles that are not open any more.
        match self.ack_one(&group, &topic, &handle, why)? {
            Refusal::Unspecified => Ok(Reply::default()),
            _ => Ok(invalid()),
        }
    }

    pub(super) fn dead_letter(
        &mut self,
        topic: &KnownTopic,
        group: &KnownGroup,
        part: &Part,
    ) -> Result<(), StateError> {
        let dead = self.dead_letter_topic(&group.name)?;
        self.close_run(&dead)?;
        let queue = self.queue(dead.id, QUEUE)?;
        self.note_trace(topic.id, group.id, part, What::DeadLettered { offset: queue.next });
        let place = Place { offset: queue.next, store_ms: self.now_ms, group: 0, ..part.first };
        let origin = self.shown_name(topic)?;
        let run = Run::one(place, Some(origin.to_string())).late();
        self.store_run(dead.id, QUEUE, queue, &run)?;
        self.note_visible(dead.id, QUEUE, &run);
        self.effects.add(Effect::Arrived { topic: dead.name.clone(), messages: 1, body_bytes: 0 });
        self.effects.add(Effect::DeadLettered { consumer_group: group.name.clone(), topic: origin, messages: 1 });
        Ok(())
    }
}
