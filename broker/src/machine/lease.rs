//! Lease: messages are chosen here, where nobody can take the same ones, and handed to one client.
//!
//! Messages that wait for another delivery come first, then the queues from the consumer group's cursor; while
//! both wait, each gets a fifth of the batch at least, and of five receives of one message each gets one. A message that this receive's filter does not take is put
//! aside in the retry index when a live member's filter takes it, and skipped otherwise. What SQL filters say comes
//! with the command: the look of a receive with one ends, in each queue, at the first message that was not judged. A
//! look goes through a bounded number of rows and says when it was cut, so that the receive asks again.

use super::append::PRIORITY;
use super::lite::check_binding;
use super::turn::{KnownGroup, KnownTopic, Turn};
use super::version::COUNTED_RETRIES;
use super::{done, refused};
use crate::filter::judged::Judged;
use crate::filter::tag::TagSet;
use crate::filter::{FilterRow, sql};
use crate::store::lease::{self, Item, Part};
use crate::store::message::{self, Place, Run};
use crate::store::progress::{self, Row};
use crate::store::retry::Retry;
use crate::store::session::{self, Filters};
use crate::store::subscription::Subscription;
use crate::store::{ConsumerGroupId, LeaseId, TopicId, consumer_group, fifo, key, lite, topic};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{self, Leased, LeasedMessage, Refusal, Reply, Topic, reply};

/// Messages and rows that one receive looks at.
pub(super) const LOOK_ROWS_MAX: usize = 1_024;

/// The lowest flight is looked up again when the cursor passes a multiple of this.
const LOW_STEP: u64 = 1_024;

/// Receives of one message that begin with the retry index one after the other and get a message there.
const RETRIES_IN_A_ROW_MAX: u8 = 4;

/// Whether receives from a topic may begin with the messages of the highest priority.
pub fn goes_by_priority(topic: &Topic) -> bool {
    topic.message_types == [PRIORITY]
}

/// What a receive does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    /// Leave or put it into the retry index: a live member's filter takes it.
    Park,
    /// No live member's filter takes it.
    Skip,
    /// It is for another look: whether this receive's filter takes it was not said.
    Unjudged,
}

/// What a receive wants.
enum Wanted {
    Tags(TagSet),
    /// What the SQL filter with this digest takes.
    Sql(u64),
}

/// A receive's look at the messages.
pub(super) struct Look {
    wanted: Wanted,
    pub(super) filter_digest: u64,
    /// What SQL filters say.
    judged: Judged,
    /// The queue to begin with, if that was asked for.
    first_queue: Option<u32>,
    /// Filters of the live members, read when first needed.
    others: Option<Filters>,
    /// Messages and rows that may still be looked at.
    pub(super) rows_left: usize,
    /// The bound ended the look.
    pub(super) cut: bool,
    /// What was chosen, one message each.
    pub(super) parts: Vec<Part>,
}

impl Look {
    pub(super) fn new(filter: Option<&command::Filter>, judgement: Option<command::Judgement>) -> Look {
        let first_queue = judgement.as_ref().map(|judgement| judgement.first_queue);
        let (wanted, filter_digest) = match judgement.as_ref().and_then(|judgement| judgement.filters.first()) {
            Some(digest) => (Wanted::Sql(*digest), *digest),
            None => {
                let set = TagSet::of(filter);
                let digest = set.digest();
                (Wanted::Tags(set), digest)
            }
        };
        Look {
            wanted,
            filter_digest,
            judged: judgement.map(Judged::of).unwrap_or_default(),
            first_queue,
            others: None,
            rows_left: LOOK_ROWS_MAX,
            cut: false,
            parts: Vec::new(),
        }
    }

    /// Whether the receive's filter takes a message; `None` when that was not said.
    pub(super) fn takes(&self, place: &Place) -> Option<bool> {
        match &self.wanted {
            Wanted::Tags(tags) => Some(tags.matches(place.tag)),
            Wanted::Sql(digest) => self.judged.says(*digest, (place.log_index, place.slot)),
        }
    }

    pub(super) fn verdict(
        &mut self,
        state: &impl ReadState,
        topic: &KnownTopic,
        group: &KnownGroup,
        place: &Place,
    ) -> Result<Verdict, StateError> {
        match self.takes(place) {
            Some(true) => return Ok(Verdict::Take),
            Some(false) => {}
            None => return Ok(Verdict::Unjudged),
        }
        let others = match &mut self.others {
            Some(others) => others,
            none => none.insert(session::filters(state, group.id, &topic.name)?),
        };
        let wanted = others.filters.iter().any(|(filter, _)| match filter {
            FilterRow::Tags(tags) => tags.matches(place.tag),
            // Nothing is skipped that was not judged for everybody.
            FilterRow::Sql(text) => self.judged.says(sql::digest(text), (place.log_index, place.slot)).unwrap_or(true),
        });
        Ok(if wanted { Verdict::Park } else { Verdict::Skip })
    }
}

impl Turn<'_, '_> {
    pub(super) fn lease(&mut self, mut command: command::Lease) -> Result<Reply, StateError> {
        if command.messages_max == 0 || command.client_id.is_empty() {
            return Ok(refused(Refusal::InvalidArgument, "a receive needs a client id and room for a message"));
        }
        let unconfirmed = command.renewed && command.confirm_ms > 0;
        let lasting_ms = match command.renewed {
            true if unconfirmed => command.confirm_ms,
            true => command.renew_max_ms,
            false => command.invisible_ms,
        };
        if lasting_ms == 0 {
            return Ok(refused(Refusal::InvalidArgument, "a lease needs an invisible duration"));
        }
        let Some(topic) = self.topic(&command.topic)? else {
            return Ok(refused(Refusal::TopicNotFound, format!("topic {} does not exist", command.topic)));
        };
        if topic.row.permission & topic::READABLE == 0 {
            return Ok(refused(Refusal::NotReadable, format!("topic {} has no readable queue", command.topic)));
        }
        let has_lite_topics = lite::has_lite_topics(&topic.row);
        let bind = has_lite_topics.then_some(&*topic.name);
        let group = match self.group_or_create(&command.consumer_group, command.create_consumer_group, bind)? {
            Ok(group) => group,
            Err(refusal) => return Ok(refusal),
        };
        if !group.row.consume_enable {
            let detail = format!("consumer group {} may not consume", command.consumer_group);
            return Ok(refused(Refusal::ConsumerGroupDisabled, detail));
        }
        if let Some(refusal) = check_binding(&topic, &group) {
            return Ok(refusal);
        }
        self.make_secret(command.nonce)?;
        let receive = lease::receive_digest(topic.id, command.renewed, &command.client_id, &command.attempt_id);
        let mut lease = lease::Lease {
            topic: topic.id,
            client_id: command.client_id.clone(),
            renewed: command.renewed,
            ended: false,
            suspended: false,
            unconfirmed,
            deadline_ms: self.now_ms.saturating_add(lasting_ms),
            receive,
            items: Vec::new(),
            parts: Vec::new(),
        };
        if has_lite_topics {
            return self.lease_lite(&topic, &group, &command, &lease);
        }
        if let Some(reply) = self.same_lease(&topic, &group, &command, receive, lasting_ms)? {
            return Ok(reply);
        }

        self.close_run(&topic)?;
        let mut look = Look::new(command.filter.as_ref(), command.judgement.take());
        self.note_start(&topic, &group)?;
        let before = self.subscription(topic.id, group.id)?;
        let mut subscription = before.clone();
        self.choose(&topic, &group, &mut subscription, &mut look, command.messages_max)?;
        if subscription != before {
            self.store_subscription(topic.id, group.id, &subscription);
        }
        if look.parts.is_empty() {
            return Ok(done(reply::Kind::Leased(Leased {
                consumer_group_id: group.id.0,
                more: look.cut,
                ..Leased::default()
            })));
        }
        look.parts.into_iter().for_each(|part| lease.push(part));
        let id = self.put_new_lease(&group, &lease)?;
        self.note_lease(group.id, &lease);
        self.leased(&group, id, &lease, look.cut)
    }

    /// Fills the look: retries up to four fifths, then fresh messages, then retries again.
    fn choose(
        &mut self,
        topic: &KnownTopic,
        group: &KnownGroup,
        subscription: &mut Subscription,
        look: &mut Look,
        messages_max: u32,
    ) -> Result<(), StateError> {
        let max = messages_max.min(lease::ITEMS_MAX) as usize;
        let counted = max == 1 && self.version >= COUNTED_RETRIES;
        // Of single messages, every fifth receive begins with the queues.
        let reserved = match max {
            1 if counted => usize::from(subscription.retries_in_a_row >= RETRIES_IN_A_ROW_MAX),
            1 => usize::from(self.spread(5) == 0),
            _ => max.div_ceil(5),
        };
        // Messages put aside for others must not use up the look.
        let kept = LOOK_ROWS_MAX / 2;
        look.rows_left -= kept;
        self.take_retries(topic, group, subscription, look, max - reserved)?;
        look.rows_left += kept;
        self.take_fresh(topic, group, subscription, look, max)?;
        self.take_retries(topic, group, subscription, look, max)?;
        if let Some(part) = look.parts.first().filter(|_| counted) {
            let before = subscription.retries_in_a_row;
            subscription.retries_in_a_row = match part.fresh {
                true if reserved > 0 => 0,
                // Nothing of the retry index was for this receive.
                true => before,
                false => before.saturating_add(1).min(RETRIES_IN_A_ROW_MAX),
            };
        } else if counted && reserved > 0 && look.cut {
            // All rows that may be looked at were of messages that this receive cannot have: retries do not wait for more.
            subscription.retries_in_a_row = 0;
        }
        Ok(())
    }

    /// Takes messages from the queues until the look holds `upto` items, beginning with any queue.
    fn take_fresh(
        &mut self,
        topic: &KnownTopic,
        group: &KnownGroup,
        subscription: &mut Subscription,
        look: &mut Look,
        upto: usize,
    ) -> Result<(), StateError> {
        let queues = u64::from(topic.row.read_queues);
        let by_priority = self.goes_by_priority(topic, group);
        // Messages of a priority topic were judged in every queue.
        let first = look.first_queue.filter(|_| !goes_by_priority(&topic.row));
        let start = first.map_or_else(|| self.spread(queues), u64::from);
        for step in 0..queues {
            if look.parts.len() >= upto {
                break;
            }
            if look.rows_left == 0 {
                look.cut = true;
                break;
            }
            look.rows_left -= 1;
            let number = if by_priority { queues - 1 - step } else { (start + step) % queues.max(1) };
            let number = u16::try_from(number).expect("a topic has at most 65,535 queues, see machine/topic.rs");
            self.take_from_queue(topic, group, number, subscription, look, upto)?;
        }
        Ok(())
    }

    /// Whether this receive begins with the messages of the highest priority.
    fn goes_by_priority(&self, topic: &KnownTopic, group: &KnownGroup) -> bool {
        goes_by_priority(&topic.row) && self.spread(100) < u64::from(consumer_group::priority_factor(&group.row))
    }

    pub(super) fn take_from_queue(
        &mut self,
        topic: &KnownTopic,
        group: &KnownGroup,
        number: u16,
        subscription: &mut Subscription,
        look: &mut Look,
        upto: usize,
    ) -> Result<(), StateError> {
        let queue = self.queue(topic.id, number)?;
        if queue.min == queue.next {
            return Ok(());
        }
        let before = progress::row(&self.rows, topic.id, group.id, number)?;
        let mut row = match before {
            Some(row) => row,
            None => progress::first(&self.rows, topic.id, group.id, number, &queue)?,
        };
        if row.cursor < queue.min {
            (row.cursor, row.run) = (queue.min, queue.min);
        }
        let start = row.cursor;
        let held = look.parts.len();
        let keeps_order = fifo::keeps_order(&group.row);
        let mut judged = true;
        while judged && row.cursor < queue.next && look.parts.len() < upto {
            if look.rows_left == 0 {
                look.cut = true;
                break;
            }
            let run = self.run_at(topic.id, number, &row)?;
            row.run = run.first;
            while let Some(place) = run.place(row.cursor) {
                if look.parts.len() >= upto || look.rows_left == 0 {
                    break;
                }
                let verdict = look.verdict(&self.rows, topic, group, &place)?;
                if verdict == Verdict::Unjudged {
                    (judged, look.cut) = (false, true);
                    break;
                }
                look.rows_left -= 1;
                row.cursor += 1;
                let place = if keeps_order { place } else { Place { group: 0, ..place } };
                if place.group != 0
                    && verdict != Verdict::Skip
                    && !self.enter_message_group(topic.id, group.id, number, place)?
                {
                    continue;
                }
                match verdict {
                    Verdict::Take => {
                        look.parts.push(Part { fresh: true, queue: number, first: place, count: 1, attempt: 1 });
                    }
                    Verdict::Park => {
                        let retry = Retry { queue: number, place, attempt: 1 };
                        self.push_retry(topic.id, group.id, subscription, &retry);
                    }
                    Verdict::Skip | Verdict::Unjudged => {}
                }
            }
            if row.cursor == run.end() {
                row.run = run.end();
            }
        }
        if row.in_flight == 0 {
            row.low = look.parts.get(held).map_or(row.cursor, |part| part.first.offset);
        } else if start / LOW_STEP != row.cursor / LOW_STEP {
            let lowest = progress::lowest_flight(&self.rows, topic.id, group.id, number, (row.low, LeaseId(0)))?;
            row.low = lowest.map_or(start, |(offset, _)| offset.min(start));
        }
        row.in_flight += (look.parts.len() - held) as u64;
        if before != Some(row) {
            self.rows.put(key::PROGRESS, &key::progress(topic.id, group.id, number), row.encode());
        }
        Ok(())
    }

    /// The run that holds the cursor.
    fn run_at(&self, topic: TopicId, number: u16, row: &Row) -> Result<Run, StateError> {
        let mut run = message::run(&self.rows, topic, number, row.run)?;
        if run.as_ref().is_none_or(|run| run.place(row.cursor).is_none()) {
            run = message::run_of(&self.rows, topic, number, row.cursor)?;
        }
        run.ok_or_else(|| StateError::Corrupt {
            table: key::TABLES[usize::from(key::MESSAGE.0)],
            what: format!("topic {} queue {number} has no message at offset {}", topic.0, row.cursor),
        })
    }

    /// The same receive asked again: its lease, for as long as it would last now, and no attempt is counted.
    fn same_lease(
        &mut self,
        topic: &KnownTopic,
        group: &KnownGroup,
        command: &command::Lease,
        receive: u64,
        lasting_ms: u64,
    ) -> Result<Option<Reply>, StateError> {
        if receive == 0 {
            return Ok(None);
        }
        let Some(id) = lease::of_receive(&self.rows, group.id, receive)?.first().copied() else { return Ok(None) };
        let lease = lease::lease(&self.rows, group.id, id)?;
        let Some(lease) = lease.filter(|lease| lease.topic == topic.id) else { return Ok(None) };
        let Some(lease) = self.lease_again(group, id, lease, command, receive, lasting_ms)? else { return Ok(None) };
        self.leased(group, id, &lease, false).map(Some)
    }

    /// Stores a lease with all rows that find it.
    pub(super) fn put_new_lease(&mut self, group: &KnownGroup, lease: &lease::Lease) -> Result<LeaseId, StateError> {
        let id = self.next_lease()?;
        self.put_lease(group.id, id, lease);
        let trimming_upto = self.trimming_upto()?;
        if trimming_upto > 0 {
            self.pin_lease(group.id, id, lease, trimming_upto);
        }
        self.rows.put(key::DEADLINE, &key::deadline(lease.deadline_ms, group.id, id), Vec::new());
        self.effects.due(lease.deadline_ms);
        for part in lease.parts.iter().filter(|part| part.fresh) {
            let key = key::flight(lease.topic, group.id, part.queue, part.first.offset, id);
            self.rows.put(key::FLIGHT, &key, Vec::new());
        }
        if lease.renewed {
            self.rows.put(key::SESSION, &key::client_lease(&lease.client_id, group.id, id), Vec::new());
            self.need_session(&lease.client_id, group.id)?;
        }
        if lease.receive != 0 {
            let value = id.0.to_be_bytes().to_vec();
            self.rows.put(key::RECEIVE, &key::receive(group.id, lease.receive), value);
        }
        Ok(id)
    }

    pub(super) fn put_lease(&mut self, group: ConsumerGroupId, id: LeaseId, lease: &lease::Lease) {
        self.rows.put(key::LEASE, &key::lease(group, id), lease.encode());
    }

    /// Moves a lease's deadline. The caller stores the lease.
    pub(super) fn put_deadline(&mut self, group: ConsumerGroupId, id: LeaseId, lease: &mut lease::Lease, at_ms: u64) {
        self.drop_deadline(group, id, lease);
        // A Tick at this very time may have been: none looks below the present again.
        let at_ms = at_ms.max(self.now_ms.saturating_add(1));
        lease.deadline_ms = at_ms;
        self.rows.put(key::DEADLINE, &key::deadline(at_ms, group, id), Vec::new());
        self.effects.due(at_ms);
    }

    /// Removes a deadline that is far away; a near one stays until Tick passes it (see `store/deadline.rs`).
    pub(super) fn drop_deadline(&mut self, group: ConsumerGroupId, id: LeaseId, lease: &lease::Lease) {
        const NEAR_MS: u64 = 60_000;
        if lease.deadline_ms > self.now_ms.saturating_add(NEAR_MS) {
            self.rows.delete(key::DEADLINE, &key::deadline(lease.deadline_ms, group, id));
        }
    }

    fn leased(
        &mut self,
        group: &KnownGroup,
        id: LeaseId,
        lease: &lease::Lease,
        more: bool,
    ) -> Result<Reply, StateError> {
        Ok(done(reply::Kind::Leased(self.show_lease(group, id, lease, more)?)))
    }

    /// What the client is told of a lease.
    pub(super) fn show_lease(
        &mut self,
        group: &KnownGroup,
        id: LeaseId,
        lease: &lease::Lease,
        more: bool,
    ) -> Result<Leased, StateError> {
        let nonce = self.nonce(group.id, id)?.unwrap_or_default();
        let mut messages = Vec::with_capacity(lease.items.len());
        for (base, part) in lease.numbered() {
            for at in 0..part.count {
                let item = base + at as usize;
                if lease.items[item] != Item::Open {
                    continue;
                }
                let place = part.place(at);
                messages.push(LeasedMessage {
                    item: item as u32,
                    queue: u32::from(part.queue),
                    offset: place.offset,
                    attempt: part.attempt,
                    log_index: place.log_index,
                    slot: place.slot,
                    store_ms: place.store_ms,
                });
            }
        }
        Ok(Leased {
            consumer_group_id: group.id.0,
            lease_id: id.0,
            nonce,
            messages,
            more,
            deadline_ms: if lease.renewed { 0 } else { lease.deadline_ms },
        })
    }
}
