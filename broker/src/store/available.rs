//! Whether a receive would find something: what a long poll asks before it waits.

use super::{
    ConsumerGroupId, StateError, TopicId, consumer_group, progress, queue, retry, session, subscription, topic,
};
use crate::filter::FilterRow;
use raft_store::ReadState;
use std::ops::ControlFlow;

/// Rows of the retry index looked at; beyond them the answer is "yes", and the receive looks properly.
const RETRY_ROWS_MAX: usize = 64;

/// Whether a receive of `consumer_group` from `topic_name` with this filter has something to do: messages to
/// hand out, or messages to skip or put aside for another member. A consumer group that does not exist yet
/// would start at the oldest message.
///
/// # Errors
/// When a row cannot be read.
pub fn available(
    state: &impl ReadState,
    consumer_group: &str,
    topic_name: &str,
    filter: &FilterRow,
) -> Result<bool, StateError> {
    let Some(topic) = topic::topic(state, topic_name)? else { return Ok(false) };
    let group = consumer_group::consumer_group(state, consumer_group)?.map(|group| ConsumerGroupId(group.id));
    let topic_id = TopicId(topic.id);
    if let Some(group) = group
        && retryable(state, topic_id, topic_name, group, filter)?
    {
        return Ok(true);
    }
    for number in 0..topic.read_queues {
        let Ok(number) = u16::try_from(number) else { break };
        let queue = queue::queue(state, topic_id, number)?;
        if queue.min == queue.next {
            continue;
        }
        let row = match group {
            Some(group) => progress::row(state, topic_id, group, number)?,
            None => None,
        };
        if row.is_none_or(|row| row.cursor < queue.next) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn retryable(
    state: &impl ReadState,
    topic: TopicId,
    topic_name: &str,
    group: ConsumerGroupId,
    filter: &FilterRow,
) -> Result<bool, StateError> {
    let Some(row) = subscription::subscription(state, topic, group)? else { return Ok(false) };
    let from = row.retry_from(filter.digest());
    if row.retry_waiting == 0 || from >= row.retry_next {
        return Ok(false);
    }
    let mut seen = 0;
    let mut found = false;
    // Messages for others, with successors that may be for this one.
    let mut ahead = Vec::new();
    retry::scan(state, topic, group, from, |_, retry| {
        seen += 1;
        found = filter.may_match(retry.place.tag) || seen == RETRY_ROWS_MAX;
        if retry.place.group != 0 {
            ahead.push(retry.place.tag);
        }
        if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if !found && !ahead.is_empty() {
        // One that no live member wants is skipped by a look.
        let live = session::filters(state, group, topic_name)?;
        found = ahead.into_iter().any(|tag| !live.may_match(tag));
    }
    Ok(found)
}
