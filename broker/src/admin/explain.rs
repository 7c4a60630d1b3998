//! What became of one message, and what was done to it.

use super::AdminService;
use crate::deliver::handle::message_id_hash;
use crate::store::consumer_group::{consumer_group, name};
use crate::store::explain::{Explained, Fate, Waits, explain, waits};
use crate::store::half::HalfState;
use crate::store::trace::{Event, QueueTrim, What, history, queue_trim};
use crate::store::{ConsumerGroupId, StateError, TopicId, lite, queue, topic};
use raft_store::ReadState;
use raftmq_proto::admin::{
    self, ExplainMessageRequest, ExplainMessageResponse, MessageEvent, MessageFate, MessageWait,
};
use raftmq_proto::command::Topic;
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
    let number = request.queue.and_then(|queue| u16::try_from(queue).ok());
    answer.trim = last_trim(state, &row, number)?;
    if let Some(number) = number {
        answer.min_offset = queue::queue(state, id, number)?.min;
        if let Some(Explained { place, late, fates }) = explain(state, id, number, request.offset)? {
            answer.stored_ms = place.store_ms;
            for (group, fate) in fates {
                answer.fates.extend(shown(state, group, fate)?);
            }
            let (events, more) = history(state, id, number, request.offset)?;
            answer.more_events = more;
            if !events.iter().any(|event| event.what == What::Visible) {
                answer.events.push(MessageEvent {
                    event: "STORED".to_owned(),
                    at_ms: place.store_ms,
                    // Where its body is says nothing about when it got its place.
                    log_index: if late { 0 } else { place.log_index },
                    ..MessageEvent::default()
                });
            }
            for event in events {
                answer.events.push(told(state, event)?);
            }
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

/// The last trim of a queue; or, of all queues of the topic, the one that went farthest.
fn last_trim(state: &impl ReadState, row: &Topic, number: Option<u16>) -> Result<Option<admin::QueueTrim>, StateError> {
    let id = TopicId(row.id);
    let last = match number {
        Some(number) => queue_trim(state, id, number)?,
        None => {
            let mut last = None;
            for number in 0..row.read_queues.max(row.write_queues) {
                let Ok(number) = u16::try_from(number) else { break };
                last = last
                    .into_iter()
                    .chain(queue_trim(state, id, number)?)
                    .max_by_key(|trim: &QueueTrim| trim.horizon_ms);
            }
            last
        }
    };
    Ok(last.map(|QueueTrim { at_ms, log_index, horizon_ms }| admin::QueueTrim { at_ms, log_index, horizon_ms }))
}

fn told(state: &impl ReadState, event: Event) -> Result<MessageEvent, StateError> {
    let consumer_group = match event.group {
        ConsumerGroupId(0) => String::new(),
        group => name(state, group)?.unwrap_or_default(),
    };
    let (log_index, at_ms, attempt) = (event.log_index, event.at_ms, event.attempt);
    let known = MessageEvent { consumer_group, log_index, at_ms, attempt, ..MessageEvent::default() };
    let of = |event: &str| MessageEvent { event: event.to_owned(), ..known.clone() };
    Ok(match event.what {
        What::Visible => of("VISIBLE"),
        What::Leased { client_id, renewed, until_ms } => {
            MessageEvent { client_id: client_id.to_string(), renewed, until_ms, ..of("LEASED") }
        }
        What::AskedAgain { until_ms } => MessageEvent { until_ms, ..of("ASKED_AGAIN") },
        What::Confirmed => of("CONFIRMED"),
        What::Extended { until_ms } => MessageEvent { until_ms, ..of("EXTENDED") },
        What::Acked => of("ACKNOWLEDGED"),
        What::GivenBack => of("GIVEN_BACK"),
        What::RanOut => of("RAN_OUT"),
        What::SessionEnded => of("SESSION_ENDED"),
        What::DeadLettered { offset } => MessageEvent { offset, ..of("DEAD_LETTERED") },
    })
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
