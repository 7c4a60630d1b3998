//! PutOffset: where a reader that keeps its own progress has come, kept for it. Leases know nothing of it: a
//! consumer group can receive from a queue and store offsets for it, and neither moves the other.

use super::refused;
use super::turn::Turn;
use crate::store::{key, progress};
use raft_store::StateError;
use raftmq_proto::command::{PutOffset, Refusal, Reply};

impl Turn<'_, '_> {
    pub(super) fn put_offset(&mut self, put: PutOffset) -> Result<Reply, StateError> {
        let Some(topic) = self.topic(&put.topic)? else {
            return Ok(refused(Refusal::TopicNotFound, format!("topic {} does not exist", put.topic)));
        };
        let Some(number) = topic.number(put.queue) else {
            let detail = format!("topic {} has no queue {}", put.topic, put.queue);
            return Ok(refused(Refusal::InvalidArgument, detail));
        };
        let group = match self.group_or_create(&put.consumer_group, put.create_consumer_group, None)? {
            Ok(group) => group,
            Err(refusal) => return Ok(refusal),
        };
        self.close_run(&topic)?;
        let next = self.queue(topic.id, number)?.next;
        if put.offset > next {
            let detail = format!("offset {} is beyond {next}, where the next message goes", put.offset);
            return Ok(refused(Refusal::OffsetOutOfRange, detail));
        }
        // So that a deleted consumer group's rows are found.
        self.rows.put(key::CONSUMER_GROUP, &key::consumed(group.id, topic.id), Vec::new());
        let key = key::stored_offset(topic.id, group.id, number);
        self.rows.put(key::PROGRESS, &key, progress::number(put.offset));
        Ok(Reply::default())
    }
}
