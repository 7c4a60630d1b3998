//! What became of one message with each consumer group. It is read off the rows that are there anyhow, when somebody
//! asks: it is what is true now. What was, [`super::trace`] tells.

use super::half::HalfState;
use super::lease::{self, Item};
use super::message::{Place, offset_at, places, run_of};
use super::timer::InLog;
use super::{
    ConsumerGroupId, StateError, TopicId, fifo, half, key, progress, queue, retry, subscription, timer, topic,
};
use raft_store::ReadState;
use std::ops::ControlFlow;

/// Consumer groups of one answer.
const GROUPS_MAX: usize = 1_000;
/// Rows of each kind that are looked through for one consumer group.
const LOOKS_MAX: usize = 20_000;

/// What became of a message with a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was never handed out.
    Ready,
    /// An earlier message of its message group is unfinished.
    Behind,
    /// It waits to be delivered again, or for the member whose filter takes it.
    Waiting {
        /// Which delivery the next one is.
        attempt: u32,
    },
    /// A client has it.
    Leased {
        /// Its id.
        client_id: String,
        /// Which delivery this is.
        attempt: u32,
        /// Cluster time at which the lease was made, in ms.
        since_ms: u64,
        /// Cluster time at which it ends, in ms; of a renewed one, at the latest.
        until_ms: u64,
        /// It lives as long as the client's session.
        renewed: bool,
    },
    /// It is in the dead letter topic.
    DeadLettered {
        /// Cluster time, in ms.
        at_ms: u64,
        /// Its offset there.
        offset: u64,
    },
    /// It was acknowledged, or passed over because no live member's filter took it.
    Finished,
    /// There is more to look through than one answer may.
    Unknown,
}

/// What became of a message with each of some consumer groups.
pub type Fates = Vec<(ConsumerGroupId, Fate)>;

/// Where a message is, and what became of it.
pub struct Explained {
    /// Its place.
    pub place: Place,
    /// It became visible later than its entry came into the log, or its body was moved.
    pub late: bool,
    /// Its fate with each consumer group that received from the topic.
    pub fates: Fates,
}

/// What became of a message. `None` when no message is kept at this offset.
///
/// # Errors
/// When a row cannot be read.
pub fn explain(
    state: &impl ReadState,
    topic: TopicId,
    number: u16,
    offset: u64,
) -> Result<Option<Explained>, StateError> {
    let queue = queue::queue(state, topic, number)?;
    if !(queue.min..queue.next).contains(&offset) {
        return Ok(None);
    }
    let Some(run) = run_of(state, topic, number, offset)? else { return Ok(None) };
    let Some(place) = run.place(offset) else { return Ok(None) };
    let mut fates = Vec::new();
    for group in subscription::groups(state, topic, GROUPS_MAX)? {
        fates.push((group, fate(state, topic, group, number, &place)?));
    }
    Ok(Some(Explained { place, late: run.late, fates }))
}

fn fate(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    number: u16,
    place: &Place,
) -> Result<Fate, StateError> {
    let queue = queue::queue(state, topic, number)?;
    let row = match progress::row(state, topic, group, number)? {
        Some(row) => row,
        None => progress::first(state, topic, group, number, &queue)?,
    };
    if place.offset >= row.cursor {
        return Ok(Fate::Ready);
    }
    let (leased, leases_left) = leased(state, topic, group, number, place)?;
    if let Some(fate) = leased {
        return Ok(fate);
    }
    let (waiting, retries_left) = waiting(state, topic, group, number, place)?;
    if let Some(fate) = waiting {
        return Ok(fate);
    }
    if place.group != 0 && is_behind(state, topic, group, number, place)? {
        return Ok(Fate::Behind);
    }
    if let Some(fate) = dead_letter(state, group, place)? {
        return Ok(fate);
    }
    Ok(if leases_left || retries_left { Fate::Unknown } else { Fate::Finished })
}

/// The lease that has the message, newest first; and whether there are more than were looked at.
fn leased(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    number: u16,
    place: &Place,
) -> Result<(Option<Fate>, bool), StateError> {
    let void = progress::void(state, topic, group, number)?.leases;
    let own = group.0.to_be_bytes();
    let (mut found, mut failed, mut left) = (None, None, LOOKS_MAX);
    state.scan_back(key::LEASE, &own, &[&own[..], &[0xff; 8]].concat(), &mut |key, value| {
        let (_, id, lease) = match lease::parse(key, value) {
            Ok(parsed) => parsed,
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        };
        let holds = |(base, part): &(usize, &lease::Part)| {
            part.queue == number
                && (part.first.offset..part.first.offset + u64::from(part.count)).contains(&place.offset)
                && lease.items[base + (place.offset - part.first.offset) as usize] == Item::Open
        };
        if lease.topic == topic
            && id > void
            && let Some((_, part)) = lease.numbered().find(holds)
        {
            found = Some(Fate::Leased {
                attempt: part.attempt,
                since_ms: id.made_ms(),
                until_ms: lease.deadline_ms,
                renewed: lease.renewed,
                client_id: lease.client_id.clone(),
            });
            return ControlFlow::Break(());
        }
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failed.map_or(Ok((found, left == 0)), Err)
}

fn waiting(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    number: u16,
    place: &Place,
) -> Result<(Option<Fate>, bool), StateError> {
    let share = subscription::subscription(state, topic, group)?.unwrap_or_default();
    if share.retry_waiting == 0 {
        return Ok((None, false));
    }
    let void = progress::void(state, topic, group, number)?.retries;
    let (mut found, mut left) = (None, LOOKS_MAX);
    retry::scan(state, topic, group, share.retry_low, |order, retry| {
        if order >= void && retry.queue == number && retry.place.offset == place.offset {
            found = Some(Fate::Waiting { attempt: retry.attempt });
            return ControlFlow::Break(());
        }
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok((found, left == 0))
}

fn is_behind(
    state: &impl ReadState,
    topic: TopicId,
    group: ConsumerGroupId,
    number: u16,
    place: &Place,
) -> Result<bool, StateError> {
    let resets = progress::void(state, topic, group, number)?.resets;
    let at = key::message_group(&key::message_groups(topic, group, number, resets), place.group);
    let Some(row) = fifo::message_group(state, &at)? else { return Ok(false) };
    // They are in the order of their offsets.
    let (mut low, mut high) = (row.low, row.next);
    while low < high {
        let middle = low + (high - low) / 2;
        let offset = fifo::behind(state, &key::put_aside(&at, middle))?.place.offset;
        match offset.cmp(&place.offset) {
            std::cmp::Ordering::Equal => return Ok(true),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Ok(false)
}

fn dead_letter(state: &impl ReadState, group: ConsumerGroupId, place: &Place) -> Result<Option<Fate>, StateError> {
    let Some(name) = super::consumer_group::name(state, group)? else { return Ok(None) };
    let Some(dead) = topic::topic(state, &topic::dead_letter_name(&name))? else { return Ok(None) };
    let id = TopicId(dead.id);
    let queue = queue::queue(state, id, 0)?;
    let from = offset_at(state, id, 0, &queue, place.store_ms)?;
    // Its row points at the same body.
    let same = |letter: &Place| (letter.log_index, letter.slot) == (place.log_index, place.slot);
    let found = places(state, id, 0, from, LOOKS_MAX)?.into_iter().find(same);
    Ok(found.map(|letter| Fate::DeadLettered { at_ms: letter.store_ms, offset: letter.offset }))
}

/// A message that has no place in a queue, or had none before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waits {
    /// Until its delivery time.
    Delivery {
        /// Cluster time, in ms.
        at_ms: u64,
        /// It was taken back before.
        recalled: bool,
    },
    /// For the end of its transaction; one that was ended is remembered for a while.
    Transaction {
        /// What became of it.
        state: HalfState,
        /// Cluster time at which it was stored, in ms.
        stored_ms: u64,
        /// Checks that reached a producer.
        checks: u32,
    },
}

/// Messages of a topic with this hash of their message id that wait outside of its queues; and whether there are more
/// rows than were looked through.
///
/// # Errors
/// When a row cannot be read.
pub fn waits(state: &impl ReadState, topic: TopicId, message_id_hash: u64) -> Result<(Vec<Waits>, bool), StateError> {
    let mut found = Vec::new();
    let from = InLog { log_index: 0, slot: 0 };
    let (halves, more_halves) = half::all(state, topic, from, LOOKS_MAX)?;
    for half in halves.into_iter().filter(|half| half.message_id_hash == message_id_hash) {
        found.push(Waits::Transaction { state: half.state, stored_ms: half.made_ms, checks: half.checks });
    }
    let timers = timer::due(state, u64::MAX, LOOKS_MAX)?;
    let more_timers = timers.len() == LOOKS_MAX;
    for due in timers.into_iter().filter(|due| due.topic == topic && due.timer.message_id_hash == message_id_hash) {
        found.push(Waits::Delivery { at_ms: due.at_ms, recalled: due.timer.recalled });
    }
    Ok((found, more_halves || more_timers))
}
