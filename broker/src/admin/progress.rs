//! What is in the queues of a topic, and how far consumer groups have come in them.

use super::{AdminService, Parts, in_parts};
use crate::store::consumer_group::{consumed, consumer_group, consumer_groups};
use crate::store::fifo::put_aside;
use crate::store::lite;
use crate::store::message::run_of;
use crate::store::progress::progress;
use crate::store::queue::queue;
use crate::store::session;
use crate::store::subscription::subscription;
use crate::store::topic::{self, topic};
use crate::store::{ConsumerGroupId, LITE_LOOKED_MAX, LiteLooks, LiteShare, StateError, TopicId};
use raft_store::ReadState;
use raftmq_proto::admin::{
    ConsumerProgressRequest, ConsumerProgressResponse, QueueProgress, QueueStatus, TopicStatusRequest,
    TopicStatusResponse,
};
use raftmq_proto::command::{ConsumerGroup, Topic};
use tonic::Status;

impl AdminService {
    pub(super) async fn topic_status(&self, request: TopicStatusRequest) -> Result<TopicStatusResponse, Status> {
        self.catch_up(request.stale).await?;
        let name = request.name.clone();
        let queues = self.read(move |state| queues_of(state, &name)).await?;
        let queues = queues.ok_or_else(|| Status::not_found(format!("topic {} does not exist", request.name)))?;
        Ok(TopicStatusResponse { broker_group: self.broker_group(), queues })
    }

    pub(super) async fn consumer_progress(
        &self,
        request: ConsumerProgressRequest,
    ) -> Result<Parts<ConsumerProgressResponse>, Status> {
        self.catch_up(request.stale).await?;
        let (name, topic_name) = (request.consumer_group.clone(), request.topic);
        let rows = self.read(move |state| progress_of(state, &name, &topic_name)).await?;
        let rows =
            rows.ok_or_else(|| Status::not_found(format!("consumer group {} does not exist", request.consumer_group)))?;
        let broker_group = self.broker_group();
        Ok(in_parts(rows, move |queues| ConsumerProgressResponse { broker_group: broker_group.clone(), queues }))
    }
}

/// Numbers of a topic's queues: a queue that is written only, or read only, is one too.
pub(crate) fn numbers(row: &Topic) -> impl Iterator<Item = u16> + use<> {
    let count = row.read_queues.max(row.write_queues);
    (0..count).filter_map(|number| u16::try_from(number).ok())
}

fn queues_of(state: &impl ReadState, name: &str) -> Result<Option<Vec<QueueStatus>>, StateError> {
    let Some(row) = topic(state, name)? else { return Ok(None) };
    let mut queues = Vec::new();
    for number in numbers(&row) {
        let queue = queue(state, TopicId(row.id), number)?;
        let first = if queue.min < queue.next { run_of(state, TopicId(row.id), number, queue.min)? } else { None };
        queues.push(QueueStatus {
            queue: u32::from(number),
            min_offset: queue.min,
            max_offset: queue.next,
            last_store_ms: queue.last_store_ms,
            first_store_ms: first.map_or(0, |run| run.store_ms),
        });
    }
    Ok(Some(queues))
}

/// Progress of a consumer group, or of all for an empty name; `None` when there is none of that name.
fn progress_of(state: &impl ReadState, name: &str, topic_name: &str) -> Result<Option<Vec<QueueProgress>>, StateError> {
    let groups = match name {
        "" => consumer_groups(state)?,
        name => match consumer_group(state, name)? {
            Some(group) => vec![group],
            None => return Ok(None),
        },
    };
    let mut rows = Vec::new();
    // Consumer groups of other topics take no share of what may be looked at.
    let asked = |group: &ConsumerGroup| topic_name.is_empty() || lite::bound_to(group) == Some(topic_name);
    let mut looks = LiteLooks::new(groups.iter().filter(|group| asked(group)), LITE_LOOKED_MAX);
    for group in groups {
        for id in consumed(state, ConsumerGroupId(group.id), usize::MAX)? {
            // Rows of a deleted topic stay for a while; the topic is gone.
            let Some(name) = topic::name(state, id)? else { continue };
            if (topic_name.is_empty() || topic_name == name)
                && let Some(topic) = topic(state, &name)?
            {
                progress_in(state, &group, &topic, &mut rows)?;
            }
        }
        if asked(&group)
            && let Some(lite) = looks.share(state, &group)?
            && !lite.topics.is_empty()
        {
            rows.push(lite_progress(state, &group, &lite)?);
        }
    }
    Ok(Some(rows))
}

/// How far a consumer group has come in the lite topics of a topic, summed up.
fn lite_progress(state: &impl ReadState, group: &ConsumerGroup, lite: &LiteShare) -> Result<QueueProgress, StateError> {
    let mut queues = Vec::new();
    for id in &lite.topics {
        if let Some(name) = topic::name(state, *id)?
            && let Some(topic) = topic(state, &name)?
        {
            progress_in(state, group, &topic, &mut queues)?;
        }
    }
    let sum = |of: fn(&QueueProgress) -> u64| queues.iter().map(of).sum();
    Ok(QueueProgress {
        consumer_group: group.name.clone(),
        topic: lite.parent.name.clone(),
        broker_offset: sum(|queue| queue.broker_offset),
        progress: sum(|queue| queue.progress),
        in_flight: sum(|queue| queue.in_flight),
        retrying: sum(|queue| queue.retrying),
        last_ms: queues.iter().map(|queue| queue.last_ms).max().unwrap_or_default(),
        lite_topics: lite.topics.len() as u64,
        lite_more: lite.more,
        ..QueueProgress::default()
    })
}

fn progress_in(
    state: &impl ReadState,
    group: &ConsumerGroup,
    topic: &Topic,
    rows: &mut Vec<QueueProgress>,
) -> Result<(), StateError> {
    let (topic_id, group_id) = (TopicId(topic.id), ConsumerGroupId(group.id));
    let share = subscription(state, topic_id, group_id)?.unwrap_or_default();
    let filters = session::filters(state, group_id, &topic.name)?.filters.len();
    let waiting = share.retry_waiting + put_aside(state, topic_id, group_id)?;
    for number in numbers(topic) {
        let queue = queue(state, topic_id, number)?;
        let progress = progress(state, topic_id, group_id, number)?;
        let last = match progress.progress.checked_sub(1) {
            Some(last) if last >= queue.min => run_of(state, topic_id, number, last)?,
            _ => None,
        };
        let first = number == 0;
        rows.push(QueueProgress {
            consumer_group: group.name.clone(),
            topic: topic.name.clone(),
            queue: u32::from(number),
            broker_offset: queue.next,
            progress: progress.progress,
            in_flight: progress.in_flight + if first { share.retry_in_flight } else { 0 },
            retrying: if first { waiting } else { 0 },
            last_ms: last.map_or(0, |run| run.store_ms),
            filters: if first { u32::try_from(filters).unwrap_or(u32::MAX) } else { 0 },
            ..QueueProgress::default()
        });
    }
    Ok(())
}
