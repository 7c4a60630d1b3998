//! Moves a consumer group to another place in the queues of a topic.

use super::AdminService;
use super::door::Caller;
use super::progress::numbers;
use crate::machine::TICK_ROWS_MAX;
use crate::store::message::offset_at;
use crate::store::queue::queue;
use crate::store::topic::topic;
use crate::store::{StateError, TopicId};
use raft_store::ReadState;
use raftmq_proto::admin::{QueuePlace, ResetOffsetRequest, ResetOffsetResponse};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{QueueOffset, Reset, reply};
use tonic::Status;

impl AdminService {
    pub(super) async fn reset_offset(
        &self,
        request: ResetOffsetRequest,
        caller: &Caller,
    ) -> Result<ResetOffsetResponse, Status> {
        self.catch_up(false).await?;
        let (consumer_group, topic) = (request.consumer_group.clone(), request.topic.clone());
        let goal = match (request.offset, request.time_ms) {
            (Some(offset), _) => Goal::Offset(offset),
            (None, Some(time_ms)) => Goal::Time(time_ms),
            (None, None) => Goal::End,
        };
        let places = self.read(move |state| places(state, &request.topic, request.queue, goal)).await?;
        let places = places.ok_or_else(|| Status::not_found(format!("topic {topic} or the queue does not exist")))?;
        let mut queues = Vec::with_capacity(places.len());
        // A topic of very many queues is moved in pieces.
        for piece in places.chunks(TICK_ROWS_MAX) {
            let reset = Kind::Reset(Reset {
                consumer_group: consumer_group.clone(),
                topic: topic.clone(),
                queues: piece.to_vec(),
            });
            let reply = self.change("consumer group moved", &consumer_group, caller, reset).await?;
            if let Some(reply::Kind::ResetDone(done)) = reply.kind {
                queues.extend(done.queues.into_iter().map(|at| QueuePlace { queue: at.queue, offset: at.offset }));
            }
        }
        Ok(ResetOffsetResponse { broker_group: self.broker_group(), queues })
    }
}

/// Where a consumer group is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Behind the last message.
    End,
    /// To the first message stored then or later; cluster time, ms since the Unix epoch.
    Time(u64),
    /// To this offset.
    Offset(u64),
}

/// Where each queue goes, or the `only` one that is named; `None` when there is no such topic or queue.
pub(crate) fn places(
    state: &impl ReadState,
    name: &str,
    only: Option<u32>,
    goal: Goal,
) -> Result<Option<Vec<QueueOffset>>, StateError> {
    let Some(row) = topic(state, name)? else { return Ok(None) };
    let id = TopicId(row.id);
    let mut places = Vec::new();
    for number in numbers(&row) {
        if only.is_some_and(|only| only != u32::from(number)) {
            continue;
        }
        let queue = queue(state, id, number)?;
        let offset = match goal {
            Goal::Offset(offset) => offset,
            Goal::Time(time_ms) => offset_at(state, id, number, &queue, time_ms)?,
            Goal::End => queue.next,
        };
        places.push(QueueOffset { queue: u32::from(number), offset });
    }
    Ok(Some(places).filter(|places| !places.is_empty()))
}
