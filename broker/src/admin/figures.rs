//! How much each topic took, whether anybody consumes it or not.

use super::progress::numbers;
use super::{AdminService, Parts, in_parts};
use crate::store::lite::has_lite_topics;
use crate::store::message::{offset_at, run_of};
use crate::store::queue::queue;
use crate::store::topic::{topic, topics};
use crate::store::{StateError, TopicId};
use raft_store::ReadState;
use raftmq_proto::admin::{TopicFigures, TopicFiguresRequest, TopicFiguresResponse};
use raftmq_proto::command::Topic;
use tonic::Status;

impl AdminService {
    pub(super) async fn topic_figures(
        &self,
        request: TopicFiguresRequest,
    ) -> Result<Parts<TopicFiguresResponse>, Status> {
        self.catch_up(request.stale).await?;
        let TopicFiguresRequest { topic: name, within_ms, .. } = request;
        let since_ms = within_ms.map(|within_ms| self.node.proposer.now().saturating_sub(within_ms));
        let rows = self.read(move |state| {
            let named = if name.is_empty() { topics(state)? } else { topic(state, &name)?.into_iter().collect() };
            named.into_iter().map(|row| figures(state, &row, since_ms)).collect::<Result<Vec<_>, _>>()
        });
        let (rows, broker_group) = (rows.await?, self.broker_group());
        Ok(in_parts(rows, move |topics| TopicFiguresResponse { broker_group: broker_group.clone(), topics }))
    }
}

fn figures(state: &impl ReadState, row: &Topic, since_ms: Option<u64>) -> Result<TopicFigures, StateError> {
    if has_lite_topics(row) {
        return Ok(TopicFigures { topic: row.name.clone(), ..TopicFigures::default() });
    }
    let (mut stored, mut lately) = (0, since_ms.map(|_| 0));
    for number in numbers(row) {
        let id = TopicId(row.id);
        let queue = queue(state, id, number)?;
        stored += queue.next;
        let (Some(since_ms), Some(count)) = (since_ms, lately) else { continue };
        if queue.last_store_ms < since_ms || queue.next == 0 {
            continue;
        }
        // What was trimmed may have been of that time when the oldest that is kept is.
        let oldest = run_of(state, id, number, queue.min)?;
        let whole = queue.min == 0 || oldest.is_some_and(|run| run.store_ms < since_ms);
        lately = if whole { Some(count + queue.next - offset_at(state, id, number, &queue, since_ms)?) } else { None };
    }
    Ok(TopicFigures { topic: row.name.clone(), stored: Some(stored), stored_within: lately })
}
