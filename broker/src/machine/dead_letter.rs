//! Dead letters: after its last attempt a message gets an index row in `%DLQ%` and the consumer group's name.
//! The row points at the body where it is; nothing is copied.

use super::Effect;
use super::turn::{KnownGroup, KnownTopic, Turn};
use crate::store::message::{Place, Run};
use crate::store::queue;
use raft_store::StateError;

/// The one queue of a dead letter topic.
const QUEUE: u16 = 0;

impl Turn<'_, '_> {
    pub(super) fn dead_letter(
        &mut self,
        topic: &KnownTopic,
        group: &KnownGroup,
        place: Place,
    ) -> Result<(), StateError> {
        let dead = self.dead_letter_topic(&group.name)?;
        self.close_run(&dead)?;
        let queue = queue::queue(&self.rows, dead.id, QUEUE)?;
        let place = Place { offset: queue.next, store_ms: self.now_ms, ..place };
        let run = Run::one(place, Some(topic.name.to_string()));
        self.store_run(dead.id, QUEUE, queue, &run)?;
        self.effects.add(Effect::Arrived { topic: dead.name.clone(), messages: 1, body_bytes: 0 });
        self.effects.add(Effect::DeadLettered {
            consumer_group: group.name.clone(),
            topic: topic.name.clone(),
            messages: 1,
        });
        Ok(())
    }
}
