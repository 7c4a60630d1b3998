//! The order of message groups: of each message group, a consumer group has one unfinished message at most, handed
//! out or waiting in the retry index.
//!
//! A message that the cursor reaches while an earlier one of its message group is unfinished is put aside, so that
//! progress passes it and other message groups go on. Whoever finishes the earlier one (an acknowledgement, a dead
//! letter, a look that skips it) moves the next one to the retry index, where receives find it. A message group
//! has a row as long as one of its messages is unfinished; each command adds or removes one row a message.

use super::cleanup::Piece;
use super::lease::{Look, Verdict};
use super::topic::NAME_BYTES_MAX;
use super::turn::{KnownGroup, KnownTopic, Turn};
use super::version::OPEN_TOPICS;
use super::{Effect, done, refused};
use crate::store::fifo::{self, MessageGroup, OWNERS_MAX, owner_of, slot_of};
use crate::store::message::Place;
use crate::store::retry::Retry;
use crate::store::subscription::Subscription;
use crate::store::work::Work;
use crate::store::{ConsumerGroupId, TopicId, key, progress};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{FixOwners, Refusal, Reply, Topic, reply};
use std::ops::ControlFlow;

/// `apache.rocketmq.v2.MessageType.FIFO`.
pub(super) const FIFO: i32 = 2;

/// Messages of a message group that one command passes over because their bodies are gone.
const PASSED_MAX: u64 = 256;

/// Bytes of a key that names a message put aside.
const PUT_ASIDE_BYTES: usize = 38;

/// Fixes over how many queues the message groups of a topic are spread, when it first takes FIFO messages. From then
/// on it keeps these queues: with fewer, a message group would go on elsewhere before its queue is empty.
pub(super) fn fix_queues(wanted: &mut Topic, known: Option<&Topic>) -> Option<Reply> {
    wanted.fifo_queues = known.map_or(0, |known| known.fifo_queues);
    if !wanted.message_types.contains(&FIFO) {
        return None;
    }
    let queues = wanted.write_queues.min(wanted.read_queues);
    if wanted.fifo_queues == 0 {
        wanted.fifo_queues = queues;
    }
    (queues < wanted.fifo_queues).then(|| {
        let detail = format!(
            "topic {} keeps its message groups in {} queues, so it needs as many to read and to write",
            wanted.name, wanted.fifo_queues
        );
        refused(Refusal::InvalidArgument, detail)
    })
}

/// Which broker groups keep the message groups of a topic is decided when it is made, and may be agreed on by
/// [`Turn::fix_owners`] as long as it is open. From then on messages of one are stored nowhere else, whatever becomes of its
/// broker group.
pub(super) fn begin_owners(wanted: &mut Topic, known: Option<&Topic>, version: u32) -> Option<Reply> {
    if let Some(known) = known {
        wanted.fifo_owners.clone_from(&known.fifo_owners);
        wanted.fifo_open = known.fifo_open;
        return None;
    }
    wanted.fifo_open &= version >= OPEN_TOPICS;
    check_owners(&wanted.fifo_owners)
}

fn check_owners(owners: &[String]) -> Option<Reply> {
    let wrong = if owners.len() > OWNERS_MAX {
        format!("{} broker groups cannot share message groups, the limit is {OWNERS_MAX}", owners.len())
    } else if owners.iter().any(|owner| owner.is_empty() || owner.len() > NAME_BYTES_MAX) {
        "a broker group that keeps message groups has no name, or one that is too long".to_owned()
    } else {
        let twice = owners.iter().enumerate().find(|(at, owner)| owners[..*at].contains(owner))?.1;
        format!("broker group {twice} is to keep message groups twice")
    };
    Some(refused(Refusal::InvalidArgument, wrong))
}

/// Why a FIFO message that was sent to `broker_group` is not stored: another one keeps its message group.
pub(super) fn check_owner(topic: &KnownTopic, broker_group: &str, hash: u64) -> Option<Reply> {
    if hash != 0 && topic.row.fifo_open {
        let detail = format!("which broker group keeps the message groups of topic {} is not agreed yet", topic.name);
        return Some(refused(Refusal::NotOwner, detail));
    }
    let owner = owner_of(&topic.row.fifo_owners, hash).filter(|owner| hash != 0 && *owner != broker_group)?;
    let slot = slot_of(hash);
    let detail = format!("broker group {owner} keeps slot {slot} of the message groups of topic {}", topic.name);
    Some(refused(Refusal::NotOwner, detail))
}

impl Turn<'_, '_> {
    /// Changes or settles the table of an open topic, if it is the one that this was decided on. The answer is the topic
    /// as it is then.
    pub(super) fn fix_owners(&mut self, fix: FixOwners) -> Result<Reply, StateError> {
        let Some(known) = self.topic(&fix.topic)? else {
            return Ok(refused(Refusal::TopicNotFound, format!("topic {} does not exist", fix.topic)));
        };
        if let Some(wrong) = check_owners(&fix.to) {
            return Ok(wrong);
        }
        let row = &known.row;
        if row.id != fix.id || !row.fifo_open || row.fifo_owners != fix.from {
            return Ok(done(reply::Kind::Topic(row.clone())));
        }
        self.close_run(&known)?;
        let row = Topic {
            fifo_owners: fix.to,
            fifo_open: !fix.settle,
            version: row.version + 1,
            updated_ms: self.now_ms,
            ..row.clone()
        };
        self.store_topic(&row);
        Ok(done(reply::Kind::Topic(row)))
    }

    /// Lets a message that the cursor reached into its message group. Returns false when an earlier one is unfinished:
    /// then the message was put aside.
    pub(super) fn enter_message_group(
        &mut self,
        topic: TopicId,
        group: ConsumerGroupId,
        number: u16,
        place: Place,
    ) -> Result<bool, StateError> {
        let at = self.message_group_key(topic, group, number, place.group)?;
        let Some(mut row) = fifo::message_group(&self.rows, &at)? else {
            self.rows.put(key::FIFO, &at, MessageGroup::default().encode());
            return Ok(true);
        };
        let behind = Retry { queue: number, place, attempt: 1 };
        self.rows.put(key::FIFO, &key::put_aside(&at, row.next), behind.encode());
        row.next += 1;
        self.rows.put(key::FIFO, &at, row.encode());
        let messages = fifo::put_aside(&self.rows, topic, group)?;
        self.count_put_aside(topic, group, messages + 1);
        Ok(false)
    }

    /// A message is finished: the next one of its message group, if there is one, moves to the retry index. The
    /// caller stores the subscription. With a look, messages that nobody wants are skipped as far as it may go.
    pub(super) fn leave_message_group(
        &mut self,
        topic: &KnownTopic,
        group: &KnownGroup,
        subscription: &mut Subscription,
        (number, hash): (u16, u64),
        mut look: Option<&mut Look>,
    ) -> Result<(), StateError> {
        if hash == 0 {
            return Ok(());
        }
        let at = self.message_group_key(topic.id, group.id, number, hash)?;
        let Some(mut row) = fifo::message_group(&self.rows, &at)? else { return Ok(()) };
        let trimmed_upto = self.trimmed_upto()?;
        let (before, mut passed) = (row.low, 0);
        let mut next = None;
        while next.is_none() && row.low < row.next {
            let key = key::put_aside(&at, row.low);
            let behind = fifo::behind(&self.rows, &key)?;
            self.rows.delete(key::FIFO, &key);
            row.low += 1;
            if behind.place.log_index < trimmed_upto && passed < PASSED_MAX {
                // It stood behind for longer than retention keeps bodies.
                passed += 1;
                continue;
            }
            if let Some(look) = look.as_deref_mut().filter(|look| look.rows_left > 0) {
                look.rows_left -= 1;
                if look.verdict(&self.rows, topic, group, &behind.place)? == Verdict::Skip {
                    continue;
                }
            }
            next = Some(behind);
        }
        if row.low > before {
            let messages = fifo::put_aside(&self.rows, topic.id, group.id)?;
            self.count_put_aside(topic.id, group.id, messages.saturating_sub(row.low - before));
        }
        self.count_expired(topic, group.id, passed)?;
        match next {
            Some(retry) => {
                self.rows.put(key::FIFO, &at, row.encode());
                self.push_retry(topic.id, group.id, subscription, &retry);
                let effect = Effect::Retryable { consumer_group: group.name.clone(), topic: topic.name.clone() };
                self.effects.add(effect);
            }
            None => self.rows.delete(key::FIFO, &at),
        }
        Ok(())
    }

    fn message_group_key(
        &mut self,
        topic: TopicId,
        group: ConsumerGroupId,
        number: u16,
        hash: u64,
    ) -> Result<[u8; 30], StateError> {
        let resets = match self.resets.get(&(topic, group, number)) {
            Some(resets) => *resets,
            None => {
                let resets = progress::void(&self.rows, topic, group, number)?.resets;
                self.resets.insert((topic, group, number), resets);
                resets
            }
        };
        Ok(key::message_group(&key::message_groups(topic, group, number, resets), hash))
    }

    fn count_put_aside(&mut self, topic: TopicId, group: ConsumerGroupId, messages: u64) {
        let key = key::subscription(topic, group);
        if messages == 0 {
            self.rows.delete(key::FIFO, &key);
        } else {
            self.rows.put(key::FIFO, &key, progress::number(messages));
        }
    }

    /// A reset made the message groups of a queue void: Tick removes their rows.
    pub(super) fn void_message_groups(
        &mut self,
        topic: TopicId,
        group: ConsumerGroupId,
        number: u16,
        resets: u32,
    ) -> Result<(), StateError> {
        self.resets.remove(&(topic, group, number));
        let prefix = key::message_groups(topic, group, number, resets);
        let mut any = false;
        self.rows.scan(key::FIFO, &prefix, &key::after(&prefix), &mut |_, _| {
            any = true;
            ControlFlow::Break(())
        })?;
        if any {
            self.add_work(&Work::DropMessageGroups(prefix), Vec::new());
        }
        Ok(())
    }

    /// A piece of the rows of message groups that a reset made void.
    pub(super) fn drop_message_groups(
        &mut self,
        prefix: &[u8; 22],
        note: &[u8],
        rows_max: usize,
    ) -> Result<Piece, StateError> {
        let mut messages = 0;
        let piece = self.drop_ranges(&[(key::FIFO, &prefix.to_vec())], note, rows_max, |_, _, row| {
            messages += u64::from(row.len() == PUT_ASIDE_BYTES);
            Ok(())
        })?;
        let (topic, group) = key::owners(prefix);
        let before = fifo::put_aside(&self.rows, topic, group)?;
        if messages > 0 && before > 0 {
            self.count_put_aside(topic, group, before.saturating_sub(messages));
        }
        Ok(piece)
    }
}
