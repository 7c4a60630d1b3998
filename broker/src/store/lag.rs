//! What a consumer group has still to do in a topic, summed up for metrics and operators. Lite topics, of which there are
//! as many as sessions of users, are summed up for the topic that they belong to, and only so many are looked at.

use super::codec::key_u64;
use super::{
    ConsumerGroupId, StateError, TopicId, fifo, key, lite, message, progress, queue, retention, subscription, topic,
};
use raft_store::{ReadState, Table};
use raftmq_proto::command::{ConsumerGroup, Topic};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Lite topics that are looked at for one answer, of all consumer groups together, at some ten reads each.
pub const LITE_LOOKED_MAX: usize = 10_000;

/// Messages of a topic that a consumer group has not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// In the queues behind the cursor: never handed out.
    pub ready: u64,
    /// Waiting in the retry index: to be delivered again, or put aside for a member whose filter takes them.
    pub retry_waiting: u64,
    /// Put aside behind an unfinished message of the same message group.
    pub put_aside: u64,
    /// Leased now, from the queues and from the retry index.
    pub in_flight: u64,
    /// Taken by retention before they were consumed; not part of the sum.
    pub expired: u64,
    /// Dead letters so far; finished, and not part of the sum.
    pub dead_letters: u64,
}

impl Lag {
    /// Messages that are not finished.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.ready + self.retry_waiting + self.put_aside + self.in_flight
    }

    /// Counts another one in.
    pub(crate) fn add(&mut self, other: &Lag) {
        let Lag { ready, retry_waiting, put_aside, in_flight, expired, dead_letters } = other;
        self.ready += ready;
        self.retry_waiting += retry_waiting;
        self.put_aside += put_aside;
        self.in_flight += in_flight;
        self.expired += expired;
        self.dead_letters += dead_letters;
    }
}

/// When the oldest messages that a consumer group has not finished became visible, ms since the Unix epoch; `None` where
/// there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oldest {
    /// Of those that were never handed out.
    pub ready_ms: Option<u64>,
    /// Of those and the leased ones that came from a queue. What waits for another attempt is not among them: progress
    /// has passed it.
    pub open_ms: Option<u64>,
}

/// What a consumer group has still to do in a topic. Reads two rows a queue.
///
/// # Errors
/// When a row cannot be read.
pub fn lag(state: &impl ReadState, topic: &Topic, group: ConsumerGroupId) -> Result<Lag, StateError> {
    backlog(state, topic, group, &mut 0).map(|(lag, _)| lag)
}

/// What a consumer group has still to do in a topic, and since when. Reads two rows a queue, and some five more of each
/// that holds something for the consumer group: of at most `looks` of those, which it takes off that. `None` when there
/// are more.
///
/// # Errors
/// When a row cannot be read.
pub fn backlog(
    state: &impl ReadState,
    topic: &Topic,
    group: ConsumerGroupId,
    looks: &mut usize,
) -> Result<(Lag, Option<Oldest>), StateError> {
    let id = TopicId(topic.id);
    let (mut lag, mut oldest) = (Lag::default(), Some(Oldest::default()));
    if let Some(row) = subscription::subscription(state, id, group)? {
        lag.retry_waiting = row.retry_waiting;
        lag.in_flight = row.retry_in_flight;
        lag.dead_letters = row.dead_letters;
        lag.put_aside = fifo::put_aside(state, id, group)?;
        lag.expired = retention::expired(state, id, group)?;
    }
    // A queue that is only written to holds messages too.
    for number in 0..topic.read_queues.max(topic.write_queues) {
        let Ok(number) = u16::try_from(number) else { break };
        add_queue(state, (id, group, number), &mut lag, &mut oldest, looks)?;
    }
    Ok((lag, oldest))
}

/// Counts one more queue in.
fn add_queue(
    state: &impl ReadState,
    (id, group, number): (TopicId, ConsumerGroupId, u16),
    lag: &mut Lag,
    oldest: &mut Option<Oldest>,
    looks: &mut usize,
) -> Result<(), StateError> {
    let queue = queue::queue(state, id, number)?;
    let row = match progress::row(state, id, group, number)? {
        Some(row) => row,
        None => progress::first(state, id, group, number, &queue)?,
    };
    let ready = queue.next - row.cursor.clamp(queue.min, queue.next);
    lag.ready += ready;
    lag.in_flight += row.in_flight;
    if ready == 0 && row.in_flight == 0 {
        return Ok(());
    }
    if *looks == 0 {
        *oldest = None;
    }
    if let Some(oldest) = oldest {
        *looks -= 1;
        let progress = progress::of_row(state, id, group, (number, &queue, row))?;
        oldest.look(state, id, number, progress)?;
    }
    Ok(())
}

impl Oldest {
    /// Looks at one more queue.
    fn look(
        &mut self,
        state: &impl ReadState,
        id: TopicId,
        number: u16,
        progress: progress::Progress,
    ) -> Result<(), StateError> {
        let stored = |offset| Ok::<_, StateError>(message::run_of(state, id, number, offset)?.map(|run| run.store_ms));
        let ready_ms = stored(progress.cursor)?;
        let open_ms = if progress.progress < progress.cursor { stored(progress.progress)? } else { ready_ms };
        self.ready_ms = [self.ready_ms, ready_ms].into_iter().flatten().min();
        self.open_ms = [self.open_ms, open_ms, ready_ms].into_iter().flatten().min();
        Ok(())
    }
}

/// Lite topics of a topic in which a consumer group has something to do, or had.
#[derive(Debug, Clone, PartialEq)]
pub struct LiteShare {
    /// The topic that they belong to.
    pub parent: Topic,
    /// Those that were found, each once.
    pub topics: Vec<TopicId>,
    /// There are more.
    pub more: bool,
}

/// What may still be looked at for one answer. Consumer groups that come later get as much of it as those before.
#[derive(Debug)]
pub struct LiteLooks {
    topics: usize,
    consumer_groups: usize,
}

impl LiteLooks {
    /// For an answer about these consumer groups, each of which is asked about once.
    #[must_use]
    pub fn new<'g>(groups: impl IntoIterator<Item = &'g ConsumerGroup>, topics_max: usize) -> LiteLooks {
        let consumer_groups = groups.into_iter().filter(|group| lite::bound_to(group).is_some()).count();
        LiteLooks { topics: topics_max, consumer_groups }
    }

    /// Finds lite topics in which a consumer group has something to do: those first that have a message to hand out, then
    /// the newest of those that it received from. `None` for a consumer group of other messages, or whose topic is gone.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn share(&mut self, state: &impl ReadState, group: &ConsumerGroup) -> Result<Option<LiteShare>, StateError> {
        let Some(bound) = lite::bound_to(group) else { return Ok(None) };
        let max = self.topics / self.consumer_groups.max(1);
        self.consumer_groups = self.consumer_groups.saturating_sub(1);
        let Some(parent) = topic::topic(state, bound)? else { return Ok(None) };
        let share = lite_share(state, parent, ConsumerGroupId(group.id), max)?;
        self.topics -= share.topics.len();
        Ok(Some(share))
    }
}

/// Reads some three rows for each lite topic of `topics_max`, whatever number of them there is.
fn lite_share(
    state: &impl ReadState,
    parent: Topic,
    group: ConsumerGroupId,
    topics_max: usize,
) -> Result<LiteShare, StateError> {
    let ready = key::lite_ready_of(group, TopicId(parent.id));
    let mut topics = Vec::new();
    state.scan(key::SESSION, &ready, &key::after(&ready), &mut |key, _| {
        topics.push(lite_id(key::SESSION, key, ready.len()));
        if topics.len() <= topics_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let mut topics = topics.into_iter().collect::<Result<Vec<_>, _>>()?;
    // Those that are ready may be among those that it received from.
    let rows_max = topics.len() + topics_max;
    let mut received = Vec::new();
    let last = key::consumed_lite(group, TopicId(u64::MAX));
    state.scan_back(key::CONSUMER_GROUP, &last[..9], &last, &mut |key, _| {
        received.push(lite_id(key::CONSUMER_GROUP, key, 9));
        if received.len() <= rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let mut more = received.len() > rows_max;
    let (known, of_parent) = (topics.iter().copied().collect::<BTreeSet<_>>(), lite::row_prefix(TopicId(parent.id)));
    for id in received {
        let id = id?;
        if topics.len() > topics_max {
            break;
        }
        // Rows of a lite topic that is gone, and of another topic that the consumer group was for, stay for a while.
        if !known.contains(&id) && topic::name(state, id)?.is_some_and(|name| name.starts_with(&of_parent)) {
            topics.push(id);
        }
    }
    more |= topics.len() > topics_max;
    topics.truncate(topics_max);
    Ok(LiteShare { parent, topics, more })
}

fn lite_id(table: Table, key: &[u8], at: usize) -> Result<TopicId, StateError> {
    key_u64(key::TABLES[usize::from(table.0)], key, at).map(TopicId)
}

/// What a consumer group has still to do in several lite topics together, and since when, as [`backlog`] has it. Neither what
/// retention took nor dead letters are counted: the count would fall with each lite topic that goes.
///
/// # Errors
/// When a row cannot be read.
pub fn lite_backlog(
    state: &impl ReadState,
    topics: &[TopicId],
    group: ConsumerGroupId,
    looks: &mut usize,
) -> Result<(Lag, Option<Oldest>), StateError> {
    let (mut lag, mut oldest) = (Lag::default(), Some(Oldest::default()));
    for id in topics {
        if let Some(row) = subscription::subscription(state, *id, group)? {
            lag.retry_waiting += row.retry_waiting;
            lag.in_flight += row.retry_in_flight;
        }
        add_queue(state, (*id, group, 0), &mut lag, &mut oldest, looks)?;
    }
    Ok((lag, oldest))
}
