//! UpdateOffset, GetOffset and QueryOffset: what readers that keep their own progress ask of a queue.
//!
//! A stored offset is a replicated row of its own for each consumer group and queue. Answers come after everything
//! that was acknowledged before the call, on whichever node, so that no offset goes back when a leader dies.

use super::Front;
use super::access::GROUP_CREATED;
use super::caller::Caller;
use super::convert;
use super::status::{self, ApiError};
use crate::store::{self, ConsumerGroupId, TopicId};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{PutOffset, Tick, Topic};
use raftmq_proto::name::TopicName;
use raftmq_proto::rocketmq as v2;
use tokio::time::Instant;
use tonic::Request;

/// A queue that a request names, and its topic as this node knows it.
pub(super) struct Named {
    pub(super) topic: TopicName,
    pub(super) id: TopicId,
    pub(super) number: u16,
}

impl Front {
    /// The queue of this broker group that a request names.
    pub(super) async fn queue(&self, queue: Option<v2::MessageQueue>) -> Result<Named, ApiError> {
        let queue = queue.ok_or(ApiError::Missing("message queue"))?;
        let topic = convert::topic(queue.topic)?;
        let row = self.topic(&topic).await?.ok_or_else(|| ApiError::TopicNotFound(topic.to_string()))?;
        let broker_group = &self.node.config.broker_group;
        let ours = queue.broker.is_none_or(|broker| broker.name.is_empty() || broker.name == *broker_group);
        match number(&row, queue.id).filter(|_| ours) {
            Some(number) => Ok(Named { topic, id: TopicId(row.id), number }),
            None => Err(ApiError::QueueNotFound {
                topic: topic.into_string(),
                queue: queue.id,
                broker_group: broker_group.clone(),
            }),
        }
    }

    /// Returns when this node has applied everything that was acknowledged before the call: by a command of its own.
    pub(super) async fn catch_up(&self, by: Option<Instant>) -> Result<(), ApiError> {
        self.submit_any(Kind::Tick(Tick {}), by).await
    }
}

fn number(topic: &Topic, id: i32) -> Option<u16> {
    let has = u32::try_from(id).is_ok_and(|id| id < topic.read_queues.max(topic.write_queues));
    u16::try_from(id).ok().filter(|_| has)
}

pub(super) async fn update(
    front: &Front,
    request: Request<v2::UpdateOffsetRequest>,
) -> Result<v2::UpdateOffsetResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    front.admit(&caller, &request)?;
    let consumer_group = convert::consumer_group(request.group)?;
    let named = front.queue(request.message_queue).await?;
    let Ok(offset) = u64::try_from(request.offset) else {
        let queue = store::queue::queue(&front.state(), named.id, named.number)?;
        let (min, next) = (queue.min, queue.next);
        return Err(ApiError::OffsetOutOfRange { offset: request.offset, min, next, nearest: min });
    };
    let is_new = store::consumer_group::consumer_group(&front.state(), consumer_group.as_str())?.is_none();
    let name = consumer_group.to_string();
    let command = PutOffset {
        consumer_group: consumer_group.into_string(),
        topic: named.topic.into_string(),
        queue: u32::from(named.number),
        offset,
        create_consumer_group: front.node.settings().grpc.auto_create_subscription_group,
    };
    front.submit_any(Kind::PutOffset(command), caller.answer_by()).await?;
    if is_new {
        front.audit(&caller, GROUP_CREATED, &name);
    }
    Ok(v2::UpdateOffsetResponse { status: Some(status::ok()) })
}

pub(super) async fn get(
    front: &Front,
    request: Request<v2::GetOffsetRequest>,
) -> Result<v2::GetOffsetResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    front.admit(&caller, &request)?;
    let consumer_group = convert::consumer_group(request.group)?;
    let named = front.queue(request.message_queue).await?;
    front.catch_up(caller.answer_by()).await?;
    let state = front.state();
    let group = store::consumer_group::consumer_group(&state, consumer_group.as_str())?.ok_or(ApiError::NoOffset)?;
    let offset = store::progress::stored_offset(&state, named.id, ConsumerGroupId(group.id), named.number)?;
    // Retention may have taken what the reader was at: it goes on at the oldest message that is kept.
    let queue = store::queue::queue(&state, named.id, named.number)?;
    let offset = signed(offset.ok_or(ApiError::NoOffset)?.max(queue.min));
    Ok(v2::GetOffsetResponse { status: Some(status::ok()), offset })
}

pub(super) async fn query(
    front: &Front,
    request: Request<v2::QueryOffsetRequest>,
) -> Result<v2::QueryOffsetResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    front.admit(&caller, &request)?;
    let policy = request.query_offset_policy();
    let named = front.queue(request.message_queue).await?;
    front.catch_up(caller.answer_by()).await?;
    let state = front.state();
    let queue = store::queue::queue(&state, named.id, named.number)?;
    let offset = match policy {
        v2::QueryOffsetPolicy::Beginning => queue.min,
        v2::QueryOffsetPolicy::End => queue.next,
        v2::QueryOffsetPolicy::Timestamp => {
            let time = request.timestamp.as_ref().ok_or(ApiError::Missing("timestamp"))?;
            let time_ms = u64::try_from(convert::unix_ms(time)).unwrap_or_default();
            store::message::offset_at(&state, named.id, named.number, &queue, time_ms)?
        }
    };
    Ok(v2::QueryOffsetResponse { status: Some(status::ok()), offset: signed(offset) })
}

pub(super) fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
