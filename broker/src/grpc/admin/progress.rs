//! How far a consumer group has come in its topics, and moving it.

use super::super::caller::Caller;
use super::super::status::{self, ApiError};
use super::super::{Front, convert};
use super::{answer_by, fresh, rows};
use crate::admin::reset::{Goal, places};
use crate::machine::TICK_ROWS_MAX;
use crate::store::consumer_group::{consumed, consumer_group};
use crate::store::lite;
use crate::store::message::run_of;
use crate::store::progress::progress;
use crate::store::queue::queue;
use crate::store::topic::{self, topic};
use crate::store::{ConsumerGroupId, LITE_LOOKED_MAX, Lag, LiteLooks, StateError, TopicId, lag};
use raft_store::ReadState;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{ConsumerGroup, DropShare, Reset, Topic};
use raftmq_proto::name::TopicName;
use raftmq_proto::rocketmq as v2;
use std::collections::HashMap;
use std::sync::Arc;
use v2::describe_group_accumulation_response::GroupAccumulation;
use v2::query_time_span_response::QueueTimeSpan;

/// Topics of one answer.
const TOPICS_MAX: usize = 1_000;
/// Queues of one answer.
const QUEUES_MAX: usize = 10_000;

/// A consumer group and the topics that are asked about: those that are named, or all that it has received from.
fn subject(
    state: &impl ReadState,
    group: &str,
    named: &[TopicName],
) -> Result<Option<(ConsumerGroup, Vec<Topic>)>, StateError> {
    let Some(group) = consumer_group(state, group)? else { return Ok(None) };
    let mut topics = Vec::new();
    if named.is_empty() {
        for id in consumed(state, ConsumerGroupId(group.id), TOPICS_MAX)? {
            if let Some(name) = topic::name(state, id)? {
                topics.extend(topic(state, &name)?);
            }
        }
    } else {
        for name in named.iter().take(TOPICS_MAX) {
            topics.extend(topic(state, name.as_str())?);
        }
    }
    Ok(Some((group, topics)))
}

/// What a consumer group has still to do in one topic, and since when it could have been done.
#[derive(Debug, Clone, Copy, Default)]
struct Backlog {
    lag: Lag,
    /// Store time of the oldest message that was never handed out; `None` when there is none.
    oldest_ms: Option<u64>,
    /// Store time of the last message that is finished.
    last_ms: u64,
}

impl Backlog {
    /// Counts that of a lite topic in.
    fn add(&mut self, lite: &Backlog) {
        self.lag.add(&lite.lag);
        self.oldest_ms = [self.oldest_ms, lite.oldest_ms].into_iter().flatten().min();
        self.last_ms = self.last_ms.max(lite.last_ms);
    }
}

fn backlog(state: &impl ReadState, topic: &Topic, group: ConsumerGroupId) -> Result<Backlog, StateError> {
    let mut backlog = Backlog { lag: lag(state, topic, group)?, ..Backlog::default() };
    for number in crate::admin::progress::numbers(topic) {
        let span = span(state, topic, group, number)?;
        backlog.last_ms = backlog.last_ms.max(span.consumed_ms);
        backlog.oldest_ms = [backlog.oldest_ms, span.waiting_ms].into_iter().flatten().min();
    }
    Ok(backlog)
}

/// Times of one queue: ms since the Unix epoch, 0 for none.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    first_ms: u64,
    last_ms: u64,
    /// Of the message before the progress.
    consumed_ms: u64,
    /// Of the next message to hand out.
    waiting_ms: Option<u64>,
}

fn span(state: &impl ReadState, topic: &Topic, group: ConsumerGroupId, number: u16) -> Result<Span, StateError> {
    let id = TopicId(topic.id);
    let queue = queue(state, id, number)?;
    let progress = progress(state, id, group, number)?;
    let stored = |offset: u64| -> Result<Option<u64>, StateError> {
        if !(queue.min..queue.next).contains(&offset) {
            return Ok(None);
        }
        Ok(run_of(state, id, number, offset)?.map(|run| run.store_ms))
    };
    let consumed = progress.progress.checked_sub(1).map_or(Ok(None), stored)?;
    Ok(Span {
        first_ms: stored(queue.min)?.unwrap_or_default(),
        last_ms: queue.last_store_ms,
        consumed_ms: consumed.unwrap_or_default(),
        waiting_ms: stored(progress.cursor)?,
    })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn accumulation(backlog: &Backlog, now_ms: u64) -> GroupAccumulation {
    let lag = &backlog.lag;
    GroupAccumulation {
        inflight_messages: signed(lag.in_flight),
        ready_messages: signed(lag.ready + lag.retry_waiting + lag.put_aside),
        accumulation: signed(lag.messages()),
        deliver_delay_time: Some(convert::duration(backlog.oldest_ms.map_or(0, |ms| now_ms.saturating_sub(ms)))),
        last_consume_timestamp: signed(backlog.last_ms),
    }
}

/// Sums of the parts; of the delays the longest, of the times the latest.
fn sum(parts: &HashMap<String, GroupAccumulation>) -> GroupAccumulation {
    let mut sum = GroupAccumulation { deliver_delay_time: Some(convert::duration(0)), ..GroupAccumulation::default() };
    for part in parts.values() {
        sum.inflight_messages += part.inflight_messages;
        sum.ready_messages += part.ready_messages;
        sum.accumulation += part.accumulation;
        sum.last_consume_timestamp = sum.last_consume_timestamp.max(part.last_consume_timestamp);
        let ms = |part: &GroupAccumulation| part.deliver_delay_time.as_ref().map_or(0, convert::duration_ms);
        if ms(part) > ms(&sum) {
            sum.deliver_delay_time = part.deliver_delay_time;
        }
    }
    sum
}

fn topics(resources: Vec<v2::Resource>) -> Result<Vec<TopicName>, ApiError> {
    resources.into_iter().map(|resource| convert::topic(Some(resource))).collect()
}

fn unknown(group: &str) -> ApiError {
    ApiError::refused(
        raftmq_proto::command::Refusal::ConsumerGroupNotFound,
        format!("consumer group {group} does not exist"),
    )
}

pub(super) async fn accumulated(
    front: &Arc<Front>,
    caller: &Caller,
    request: v2::DescribeGroupAccumulationRequest,
) -> Result<v2::DescribeGroupAccumulationResponse, ApiError> {
    let lite_topic = request.lite_topic.filter(|lite| !lite.is_empty());
    let group = convert::consumer_group(request.group)?.to_string();
    let named = topics(request.topics)?;
    fresh(front, caller).await?;
    let (name, now_ms) = (group.clone(), front.node.clock.now());
    let found = rows(front, move |state| {
        let Some((group, mut topics)) = subject(state, &name, &named)? else { return Ok(None) };
        let group_id = ConsumerGroupId(group.id);
        let asked = named.is_empty() || topics.iter().any(|topic| lite::bound_to(&group) == Some(topic.name.as_str()));
        let share = match asked {
            true => LiteLooks::new([&group], LITE_LOOKED_MAX).share(state, &group)?,
            false => None,
        };
        topics.extend(share.as_ref().filter(|_| named.is_empty()).map(|share| share.parent.clone()));
        let (mut parts, mut lite_parts) = (HashMap::new(), HashMap::new());
        for topic in topics {
            let mut backlog = backlog(state, &topic, group_id)?;
            for id in share.iter().filter(|share| share.parent.id == topic.id).flat_map(|share| &share.topics) {
                if let Some(name) = topic::name(state, *id)?
                    && let Some(found) = self::topic(state, &name)?
                {
                    backlog.add(&self::backlog(state, &found, group_id)?);
                }
            }
            if let Some(name) = &lite_topic
                && let Some(found) = self::topic(state, &lite::row_name(TopicId(topic.id), name))?
            {
                let backlog = self::backlog(state, &found, group_id)?;
                lite_parts.insert(name.clone(), accumulation(&backlog, now_ms));
            }
            parts.insert(topic.name, accumulation(&backlog, now_ms));
        }
        Ok(Some((parts, lite_parts)))
    });
    let (parts, lite_topic_accumulation) = found.await?.ok_or_else(|| unknown(&group))?;
    Ok(v2::DescribeGroupAccumulationResponse {
        status: Some(status::ok()),
        accumulation: Some(sum(&parts)),
        topic_accumulation: parts,
        lite_topic_accumulation,
    })
}

/// Forgets a consumer group's share of a topic. What is said of the expression of its subscription is of no meaning: a
/// live client's subscription is its own to change, and one of a client that is gone has ended with it.
pub(super) async fn forget(
    front: &Arc<Front>,
    caller: &Caller,
    request: v2::DeleteSubscriptionRequest,
) -> Result<v2::DeleteSubscriptionResponse, ApiError> {
    let (topic, group) = (convert::topic(request.topic)?, convert::consumer_group(request.group)?);
    let drop = DropShare { consumer_group: group.to_string(), topic: topic.to_string() };
    front.submit_any(Kind::DropShare(drop), Some(answer_by(caller))).await?;
    front.audit(caller, "a consumer group's share of a topic was deleted", &format!("{group} {topic}"));
    Ok(v2::DeleteSubscriptionResponse { status: Some(status::ok()) })
}

/// What the broker group knows of one client's queues: those of the topics that it subscribes to.
pub(super) async fn of_client(
    front: &Arc<Front>,
    group: String,
    named: Vec<TopicName>,
) -> Result<Vec<v2::MessageQueueItem>, ApiError> {
    let broker = front.node.config.broker_group.clone();
    let found = rows(front, move |state| {
        let Some((group, topics)) = subject(state, &group, &named)? else { return Ok(Vec::new()) };
        let mut items = Vec::new();
        for topic in topics.into_iter().filter(|_| !named.is_empty()) {
            for number in crate::admin::progress::numbers(&topic) {
                if items.len() == QUEUES_MAX {
                    break;
                }
                let id = ConsumerGroupId(group.id);
                let (at, span) = (progress(state, TopicId(topic.id), id, number)?, span(state, &topic, id, number)?);
                items.push(v2::MessageQueueItem {
                    message_queue: Some(v2::MessageQueue {
                        topic: Some(v2::Resource { name: topic.name.clone(), ..v2::Resource::default() }),
                        id: i32::from(number),
                        broker: Some(v2::Broker { name: broker.clone(), ..v2::Broker::default() }),
                        ..v2::MessageQueue::default()
                    }),
                    process_queue_info: Some(v2::ProcessQueueInfo {
                        commit_offset: signed(at.progress),
                        last_consume_timestamp: signed(span.consumed_ms),
                        ..v2::ProcessQueueInfo::default()
                    }),
                });
            }
        }
        Ok(items)
    });
    found.await
}

pub(super) async fn time_span(
    front: &Arc<Front>,
    caller: &Caller,
    request: v2::QueryTimeSpanRequest,
) -> Result<v2::QueryTimeSpanResponse, ApiError> {
    let group = convert::consumer_group(request.group)?.to_string();
    let named = topics(request.topics)?;
    fresh(front, caller).await?;
    let (name, now_ms, broker) = (group.clone(), front.node.clock.now(), front.node.config.broker_group.clone());
    let found = rows(front, move |state| {
        let Some((group, topics)) = subject(state, &name, &named)? else { return Ok(None) };
        let mut spans = Vec::new();
        for topic in topics {
            for number in crate::admin::progress::numbers(&topic) {
                if spans.len() == QUEUES_MAX {
                    break;
                }
                let span = span(state, &topic, ConsumerGroupId(group.id), number)?;
                spans.push(QueueTimeSpan {
                    message_queue: Some(v2::MessageQueue {
                        topic: Some(v2::Resource { name: topic.name.clone(), ..v2::Resource::default() }),
                        id: i32::from(number),
                        broker: Some(v2::Broker { name: broker.clone(), ..v2::Broker::default() }),
                        ..v2::MessageQueue::default()
                    }),
                    min_timestamp: signed(span.first_ms),
                    max_timestamp: signed(span.last_ms),
                    consume_timestamp: signed(span.consumed_ms),
                    delay_time_ms: signed(span.waiting_ms.map_or(0, |ms| now_ms.saturating_sub(ms))),
                });
            }
        }
        Ok(Some(spans))
    });
    let queue_time_span_list = found.await?.ok_or_else(|| unknown(&group))?;
    Ok(v2::QueryTimeSpanResponse { status: Some(status::ok()), queue_time_span_list })
}

pub(super) async fn reset(
    front: &Arc<Front>,
    caller: &Caller,
    request: v2::ResetGroupOffsetRequest,
) -> Result<v2::ResetGroupOffsetResponse, ApiError> {
    let group = convert::consumer_group(request.group)?.to_string();
    let topic = convert::topic(request.topic)?;
    let time_ms = convert::unix_ms(&request.reset_timestamp.ok_or(ApiError::Missing("reset timestamp"))?);
    // As the reference: a time before all times is the end.
    let goal = u64::try_from(time_ms).map_or(Goal::End, Goal::Time);
    fresh(front, caller).await?;
    let name = topic.to_string();
    let found = rows(front, move |state| places(state, &name, None, goal)).await?;
    let found = found.ok_or_else(|| ApiError::TopicNotFound(topic.to_string()))?;
    // A topic of very many queues is moved in pieces.
    for queues in found.chunks(TICK_ROWS_MAX) {
        let reset = Reset { consumer_group: group.clone(), topic: topic.to_string(), queues: queues.to_vec() };
        front.submit(Kind::Reset(reset), Vec::new(), Some(answer_by(caller))).await?;
    }
    front.audit(caller, "consumer group moved", &format!("{group} in {topic}"));
    Ok(v2::ResetGroupOffsetResponse { status: Some(status::ok()) })
}

#[cfg(test)]
mod tests {
    use super::{Backlog, HashMap, Lag, accumulation, convert, sum};

    #[test]
    fn what_a_group_has_to_do_is_the_sum_over_its_topics() {
        let lag = Lag { ready: 5, retry_waiting: 2, put_aside: 1, in_flight: 4, dead_letters: 9, expired: 0 };
        let late = accumulation(&Backlog { lag, oldest_ms: Some(1_000), last_ms: 700 }, 61_000);
        assert_eq!((late.inflight_messages, late.ready_messages, late.accumulation), (4, 8, 12));
        assert_eq!(late.deliver_delay_time.as_ref().map(convert::duration_ms), Some(60_000));
        let idle = accumulation(&Backlog { last_ms: 900, ..Backlog::default() }, 61_000);
        assert_eq!(idle.deliver_delay_time.as_ref().map(convert::duration_ms), Some(0));
        let sum = sum(&HashMap::from([("t".to_owned(), late), ("u".to_owned(), idle)]));
        assert_eq!((sum.accumulation, sum.last_consume_timestamp), (12, 900));
        assert_eq!(sum.deliver_delay_time.as_ref().map(convert::duration_ms), Some(60_000));
    }
}
