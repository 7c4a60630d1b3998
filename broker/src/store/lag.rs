//! What a consumer group has still to do in a topic, summed up for metrics and operators.

use super::{ConsumerGroupId, StateError, TopicId, fifo, message, progress, queue, retention, subscription};
use raft_store::ReadState;
use raftmq_proto::command::Topic;

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
        let queue = queue::queue(state, id, number)?;
        let row = match progress::row(state, id, group, number)? {
            Some(row) => row,
            None => progress::first(state, id, group, number, &queue)?,
        };
        let ready = queue.next - row.cursor.clamp(queue.min, queue.next);
        lag.ready += ready;
        lag.in_flight += row.in_flight;
        if ready == 0 && row.in_flight == 0 {
            continue;
        }
        if *looks == 0 {
            oldest = None;
        }
        if let Some(oldest) = &mut oldest {
            *looks -= 1;
            let progress = progress::of_row(state, id, group, (number, &queue, row))?;
            oldest.look(state, id, number, progress)?;
        }
    }
    Ok((lag, oldest))
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
