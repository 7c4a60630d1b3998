//! What SQL filters say of the messages that a receive may come to: looked at before the receive is asked for, on the
//! node that its client is connected to. Apply reads no messages: it looks up what was said here.
//!
//! ```text
//! places in the retry index and the queues, as this node sees them
//!   ─► each message is read and judged ─► Judgement, part of the Lease command
//! ```
//!
//! What this node sees may be old by the time the command is applied: then apply comes to messages that nothing was
//! said of, leaves them and says so, and the next judgement begins where that look ended.

use crate::filter::FilterRow;
use crate::filter::judged::{FILTERS_MAX, Verdicts};
use crate::filter::sql::{self, SqlFilter};
use crate::machine::goes_by_priority;
use crate::store::message::{self, Place};
use crate::store::{
    ConsumerGroupId, StateError, TopicId, consumer_group, progress, queue, retry, session, subscription, topic,
};
use raft_store::ReadState;
use raftmq_proto::command::{Judgement, StoredMessage};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Messages that one receive judges, half of them in the retry index.
const JUDGED_MAX: usize = 1_024;

/// Other receives of the consumer group take some of what was found before this one comes to it.
const SPARE: u32 = 4;

/// A receive with an SQL filter.
#[derive(Debug, Clone, Copy)]
pub struct Receive<'r> {
    /// Name of the consumer group.
    pub consumer_group: &'r str,
    /// Name of the topic.
    pub topic: &'r str,
    /// What its client wants.
    pub filter: &'r Arc<SqlFilter>,
    /// Messages that it takes.
    pub messages_max: u32,
}

/// Judges messages in the order in which a receive comes to them: whoever reads them asks for the next one, and says
/// what it is.
#[derive(Debug)]
pub struct Judge {
    /// That of the receive first, then those of other live members.
    filters: Vec<Arc<SqlFilter>>,
    /// The retry index, then each queue; what comes next is last.
    places: Vec<Vec<Place>>,
    first_queue: u32,
    verdicts: Verdicts,
    /// In each of `places`, so many wanted messages are enough.
    enough: u32,
    /// As many in the queues together; `u32::MAX` when each queue is judged.
    enough_of_queues: u32,
    /// Wanted messages among those that came from where the last one did.
    wanted: u32,
    wanted_of_queues: u32,
    in_queues: bool,
}

/// What a receive has to judge before it is asked for; `None` when there is nothing for it to come to. `random` chooses
/// the queue that it begins with.
///
/// # Errors
/// When a row cannot be read.
pub fn judge(state: &impl ReadState, receive: Receive<'_>, random: u32) -> Result<Option<Judge>, StateError> {
    let digest = sql::digest(receive.filter.text());
    let mut judge = Judge::of_nothing(receive.filter);
    judge.first_queue = random;
    judge.enough = receive.messages_max.saturating_mul(SPARE);
    judge.enough_of_queues = judge.enough;
    let Some(topic) = topic::topic(state, receive.topic)? else { return Ok(Some(judge)) };
    let Some(group) = consumer_group::consumer_group(state, receive.consumer_group)? else { return Ok(Some(judge)) };
    let (topic_id, group_id) = (TopicId(topic.id), ConsumerGroupId(group.id));
    // The first receive of a consumer group makes its rows, and says where it begins.
    let Some(share) = subscription::subscription(state, topic_id, group_id)? else { return Ok(Some(judge)) };

    let mut retries = Vec::new();
    let from = share.retry_from(digest);
    if share.retry_waiting > 0 && from < share.retry_next {
        retry::scan(state, topic_id, group_id, from, |_, retry| {
            retries.push(retry.place);
            if retries.len() < JUDGED_MAX / 2 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }

    let mut waiting = Vec::new();
    for number in 0..topic.read_queues {
        let Ok(number) = u16::try_from(number) else { break };
        let queue = queue::queue(state, topic_id, number)?;
        if queue.min == queue.next {
            continue;
        }
        let row = match progress::row(state, topic_id, group_id, number)? {
            Some(row) => row,
            None => progress::first(state, topic_id, group_id, number, &queue)?,
        };
        let cursor = row.cursor.max(queue.min);
        if cursor < queue.next {
            waiting.push((number, cursor));
        }
    }
    if retries.is_empty() && waiting.is_empty() {
        return Ok(None);
    }
    let mut left = JUDGED_MAX - retries.len();
    judge.places.push(retries);
    if goes_by_priority(&topic) {
        // Nobody knows which queue apply will begin with: all of them get their share.
        judge.enough_of_queues = u32::MAX;
        waiting.reverse();
    } else {
        let first = random % topic.read_queues.max(1);
        let before = waiting.partition_point(|(number, _)| u32::from(*number) < first);
        waiting.rotate_left(before);
    }
    for (at, (number, cursor)) in waiting.iter().enumerate() {
        let share = left.div_ceil(waiting.len() - at);
        if share == 0 {
            break;
        }
        let places = message::places(state, topic_id, *number, *cursor, share)?;
        left -= places.len();
        judge.places.push(places);
    }
    judge.places.iter_mut().for_each(|places| places.reverse());
    judge.places.reverse();

    let mut digests = vec![digest];
    for (filter, _) in session::filters(state, group_id, receive.topic)?.filters {
        // An expression that this node cannot read is taken to want everything.
        if let FilterRow::Sql(text) = filter
            && text != *receive.filter.text()
            && digests.len() < FILTERS_MAX
            && let Ok(other) = SqlFilter::parse(&text)
        {
            digests.push(sql::digest(&text));
            judge.filters.push(other);
        }
    }
    judge.verdicts = Verdicts::new(digests);
    Ok(Some(judge))
}

impl Judge {
    /// For a receive with this filter that is to be asked though there is nothing to judge.
    #[must_use]
    pub fn of_nothing(filter: &Arc<SqlFilter>) -> Judge {
        Judge {
            filters: vec![filter.clone()],
            places: Vec::new(),
            first_queue: 0,
            verdicts: Verdicts::new(vec![sql::digest(filter.text())]),
            enough: 0,
            enough_of_queues: 0,
            wanted: 0,
            wanted_of_queues: 0,
            in_queues: false,
        }
    }

    /// The message to be judged next.
    pub fn next_place(&mut self) -> Option<Place> {
        loop {
            let places = self.places.last_mut()?;
            let over = self.wanted >= self.enough || (self.in_queues && self.wanted_of_queues >= self.enough_of_queues);
            match places.pop().filter(|_| !over) {
                Some(place) => return Some(place),
                None => {
                    self.places.pop();
                    (self.wanted, self.in_queues) = (0, true);
                }
            }
        }
    }

    /// Judges a message. One that cannot be read is wanted: whoever delivers it finds out, and it does not stand in the
    /// way of others.
    pub fn judge(&mut self, place: &Place, message: Option<&StoredMessage>) {
        let takes = message.map_or(1, |message| takes(&self.filters, message));
        self.wanted += u32::from(takes & 1);
        self.wanted_of_queues += u32::from(self.in_queues) * u32::from(takes & 1);
        self.verdicts.add((place.log_index, place.slot), takes);
    }

    /// What was found, for the command.
    #[must_use]
    pub fn finish(self) -> Judgement {
        self.verdicts.finish(self.first_queue)
    }
}

/// A bit per filter. What others want does not matter when the receive takes the message.
fn takes(filters: &[Arc<SqlFilter>], message: &StoredMessage) -> u8 {
    let mut takes = 0;
    for (bit, filter) in filters.iter().enumerate() {
        if filter.matches(message) {
            takes |= 1 << bit;
            if bit == 0 {
                break;
            }
        }
    }
    takes
}
