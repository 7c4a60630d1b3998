//! DropShare: a consumer group that is done with a topic leaves nothing behind there.
//!
//! It is done at once or not at all, because rows of a share only make sense together, and not while clients have
//! messages of it.

use super::cleanup::SHARED;
use super::turn::Turn;
use super::{Effect, TICK_ROWS_MAX, refused};
use crate::store::{ConsumerGroupId, TopicId, key, progress, session, subscription};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{DropShare, Refusal, Reply};
use std::ops::ControlFlow;

impl Turn<'_, '_> {
    pub(super) fn drop_share(&mut self, drop: DropShare) -> Result<Reply, StateError> {
        let Some(topic) = self.topic(&drop.topic)? else {
            return Ok(refused(Refusal::TopicNotFound, format!("topic {} does not exist", drop.topic)));
        };
        let Some(group) = self.group(&drop.consumer_group)? else {
            let detail = format!("consumer group {} does not exist", drop.consumer_group);
            return Ok(refused(Refusal::ConsumerGroupNotFound, detail));
        };
        let subscribed = session::filters(&self.rows, group.id, &topic.name)?.filters;
        if !subscribed.is_empty() {
            let members: u32 = subscribed.iter().fold(0, |sum, (_, members)| sum.saturating_add(*members));
            let detail = format!(
                "{members} live members of consumer group {} subscribe to topic {}: it is theirs to change",
                group.name, topic.name
            );
            return Ok(refused(Refusal::StillSubscribed, detail));
        }
        let share = key::subscription(topic.id, group.id).to_vec();
        let ranges = SHARED.map(|table| (table, &share));
        if self.count_rows(&ranges, TICK_ROWS_MAX)? > TICK_ROWS_MAX {
            let detail = format!(
                "more than {TICK_ROWS_MAX} messages of topic {} wait for consumer group {}: skip them first",
                topic.name, group.name
            );
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        let leased = self.leased_of(topic.id, group.id)?;
        if leased > 0 {
            let detail =
                format!("{leased} messages of topic {} are with clients of consumer group {}", topic.name, group.name);
            return Ok(refused(Refusal::StillSubscribed, detail));
        }
        self.drop_ranges(&ranges, &[], usize::MAX, |_, _, _| Ok(()))?;
        self.rows.delete(key::CONSUMER_GROUP, &key::consumed(group.id, topic.id));
        self.resets.clear();
        self.effects.add(Effect::ConsumerGroupChanged { consumer_group: group.name.clone() });
        Ok(Reply::default())
    }

    /// Messages of a topic that clients of a consumer group have.
    fn leased_of(&self, topic: TopicId, group: ConsumerGroupId) -> Result<u64, StateError> {
        let prefix = key::subscription(topic, group);
        let mut numbers = Vec::new();
        self.rows.scan(key::PROGRESS, &prefix, &key::after(&prefix), &mut |key, _| {
            // Rows of another length say other things of a queue.
            if let Ok(number) = <[u8; 2]>::try_from(key.get(prefix.len()..).unwrap_or_default()) {
                numbers.push(u16::from_be_bytes(number));
            }
            ControlFlow::Continue(())
        })?;
        let mut leased = subscription::subscription(&self.rows, topic, group)?.map_or(0, |share| share.retry_in_flight);
        for number in numbers {
            leased += progress::row(&self.rows, topic, group, number)?.map_or(0, |row| row.in_flight);
        }
        Ok(leased)
    }
}
