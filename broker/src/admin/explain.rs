//! What became of one message.

use super::AdminService;
use crate::deliver::handle::message_id_hash;
use crate::store::consumer_group::{consumer_group, name};
use crate::store::explain::{Fate, Waits, explain, waits};
use crate::store::half::HalfState;
use crate::store::{ConsumerGroupId, StateError, TopicId, lite, topic};
use raft_store::ReadState;
use raftmq_proto::admin::{ExplainMessageRequest, ExplainMessageResponse, MessageFate, MessageWait};
use tonic::Status;

impl AdminService {
    pub(super) async fn explain_message(
        &self,
        request: ExplainMessageRequest,
    ) -> Result<ExplainMessageResponse, Status> {
        self.catch_up(request.stale).await?;
        let named = request.topic.clone();
        let found = self.read(move |state| answer(state, &request)).await?;
        let answer =
            found.ok_or_else(|| Status::not_found(format!("topic {named} does not exist, or no such lite topic")))?;
        Ok(ExplainMessageResponse { broker_group: self.broker_group(), now_ms: self.node.clock.now(), ..answer })
    }
}

fn answer(
    state: &impl ReadState,
    request: &ExplainMessageRequest,
) -> Result<Option<ExplainMessageResponse>, StateError> {
    let Some(mut row) = topic::topic(state, &request.topic)? else { return Ok(None) };
    if !request.lite_topic.is_empty() {
        let Some(child) = topic::topic(state, &lite::row_name(TopicId(row.id), &request.lite_topic))? else {
            return Ok(None);
        };
        row = child;
    }
    let id = TopicId(row.id);
    let mut answer = ExplainMessageResponse::default();
    if let Some(number) = request.queue.and_then(|queue| u16::try_from(queue).ok())
        && let Some((place, fates)) = explain(state, id, number, request.offset)?
    {
        answer.stored_ms = place.store_ms;
        for (group, fate) in fates {
            answer.fates.extend(shown(state, group, fate)?);
        }
    }
    if !request.message_id.is_empty() {
        let (found, more) = waits(state, id, message_id_hash(&request.message_id))?;
        answer.waits = found.into_iter().map(wait).collect();
        answer.more_waits = more;
    }
    Ok(Some(answer))
}

/// `None` for a consumer group that is gone.
fn shown(state: &impl ReadState, group: ConsumerGroupId, fate: Fate) -> Result<Option<MessageFate>, StateError> {
    let Some(name) = name(state, group)? else { return Ok(None) };
    let retry_max = consumer_group(state, &name)?.map_or(0, |row| row.retry_max);
    let known =
        MessageFate { consumer_group: name, attempts_max: retry_max.saturating_add(1), ..MessageFate::default() };
    let of = |state: &str| MessageFate { state: state.to_owned(), ..known.clone() };
    Ok(Some(match fate {
        Fate::Ready => of("READY"),
        Fate::Behind => of("BEHIND"),
        Fate::Waiting { attempt } => MessageFate { attempt, ..of("WAITING") },
        Fate::Leased { client_id, attempt, since_ms, until_ms, renewed } => {
            MessageFate { client_id, attempt, since_ms, until_ms, renewed, ..of("LEASED") }
        }
        Fate::DeadLettered { at_ms, offset } => MessageFate { since_ms: at_ms, offset, ..of("DEAD_LETTERED") },
        Fate::Finished => of("FINISHED"),
        Fate::Unknown => of("UNKNOWN"),
    }))
}

fn wait(waits: Waits) -> MessageWait {
    match waits {
        Waits::Delivery { at_ms, recalled } => MessageWait {
            state: if recalled { "RECALLED" } else { "DELAYED" }.to_owned(),
            delivery_ms: at_ms,
            ..MessageWait::default()
        },
        Waits::Transaction { state, stored_ms, checks } => MessageWait {
            state: match state {
                HalfState::Pending => "PENDING",
                HalfState::Parked => "PARKED",
                HalfState::Committed => "COMMITTED",
                HalfState::RolledBack => "ROLLED_BACK",
            }
            .to_owned(),
            stored_ms,
            checks,
            ..MessageWait::default()
        },
    }
}
