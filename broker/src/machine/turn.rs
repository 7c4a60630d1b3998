//! One entry's turn at the rows: what all verbs share.

use super::EntryAt;
use super::append::OpenRuns;
use super::effect::{Effect, Effects};
use super::names::Names;
use super::rows::Rows;
use super::trace::TRACE_ROWS_MAX;
use super::window::Window;
use crate::store::queue::Queue;
use crate::store::sent::SentEntry;
use crate::store::trace::Happened;
use crate::store::{ConsumerGroupId, LeaseId, TopicId, consumer_group, key, machine, queue, topic};
use raft_store::{LogIndex, StateBatch, StateError, Term};
use raftmq_proto::command::{ConsumerGroup, Topic};
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A topic as the rules use it.
#[derive(Debug)]
pub(super) struct KnownTopic {
    pub(super) id: TopicId,
    pub(super) name: Arc<str>,
    pub(super) row: Topic,
}

/// A consumer group as the rules use it.
#[derive(Debug)]
pub(super) struct KnownGroup {
    pub(super) id: ConsumerGroupId,
    pub(super) name: Arc<str>,
    pub(super) row: ConsumerGroup,
}

/// Everything that one entry sees and changes.
pub(super) struct Turn<'b, 's> {
    pub(super) rows: Rows<'b, 's>,
    /// What was stored lately.
    pub(super) window: &'b mut Window,
    /// What this entry stored.
    pub(super) sent: SentEntry,
    /// How long it is remembered, once that was needed.
    pub(super) window_ms: Option<u64>,
    pub(super) index: LogIndex,
    /// Term of the entry's leader.
    pub(super) term: Term,
    /// The active version: what is new in one is done from it on, see [`super::version`].
    pub(super) version: u32,
    /// Versions that this build can apply.
    pub(super) known: &'b RangeInclusive<u32>,
    /// Cluster time of the entry; never before that of an earlier one.
    pub(super) now_ms: u64,
    /// Cluster time of the entry before it.
    pub(super) before_ms: u64,
    /// End of the trim under way, 0 without one; and what was trimmed. Once they were needed.
    pub(super) trimming_upto: Option<u64>,
    pub(super) trimmed_upto: Option<u64>,
    /// Commands of the entry begun so far.
    pub(super) ordinal: u64,
    pub(super) effects: Effects,
    /// Runs of this entry that are not rows yet, by topic. Whoever reads a topic's messages closes them first.
    pub(super) runs: BTreeMap<TopicId, OpenRuns>,
    /// What this entry did to messages, as far as it is not rows yet.
    pub(super) traces: Vec<Happened>,
    /// Phase of the entry for those, and whether a message was given back since it began that has the same attempt again.
    pub(super) trace_phase: u32,
    pub(super) returned: bool,
    /// Rows about messages that trims of the entry may remove yet.
    pub(super) trace_rows_left: usize,
    /// First slot of the next batch, of the next command, and the end of the batch under way.
    pub(super) next_batch_slot: u32,
    pub(super) next_slot: u32,
    pub(super) slots_end: u32,
    /// The last lease id given, once it was needed.
    last_lease: Option<LeaseId>,
    /// The secret of the nonces, once it was needed and there is one.
    secret: Option<[u8; 16]>,
    /// Resets of queues that consumer groups had, as far as they were needed. Looked up, never iterated.
    pub(super) resets: HashMap<(TopicId, ConsumerGroupId, u16), u32>,
}

impl<'b, 's> Turn<'b, 's> {
    pub(super) fn begin(
        at: EntryAt,
        time_ms: u64,
        (version, known): (u32, &'b RangeInclusive<u32>),
        state: &'b mut StateBatch<'s>,
        (window, names): (&'b mut Window, &'b mut Names),
    ) -> Result<Self, StateError> {
        let applied = machine::applied(state)?;
        window.load(state)?;
        Ok(Turn {
            window,
            sent: SentEntry::default(),
            window_ms: None,
            rows: Rows::new(state, names, applied.checksum),
            index: at.index,
            term: at.term,
            version,
            known,
            // Within the range that lease ids have room for: a wild clock must not overflow them.
            now_ms: time_ms.min(1 << 43).max(applied.time_ms),
            before_ms: applied.time_ms,
            trimming_upto: None,
            trimmed_upto: None,
            ordinal: 0,
            effects: Effects::default(),
            runs: BTreeMap::new(),
            traces: Vec::new(),
            trace_phase: 0,
            returned: false,
            trace_rows_left: TRACE_ROWS_MAX,
            next_batch_slot: 0,
            next_slot: 0,
            slots_end: 0,
            last_lease: None,
            secret: None,
            resets: HashMap::new(),
        })
    }

    /// Writes what is still open, and the row that says how far the machine has come.
    pub(super) fn end(mut self) -> Result<Vec<Effect>, StateError> {
        self.close_runs()?;
        self.store_traces()?;
        self.close_window()?;
        self.make_mark()?;
        let (checksum, batch) = self.rows.finish();
        let applied = machine::Applied { index: self.index.0, time_ms: self.now_ms, checksum };
        batch.put(key::MACHINE, key::machine(b'a'), applied.encode());
        Ok(self.effects.finish())
    }

    /// A number below `below` that is spread evenly over commands.
    pub(super) fn spread(&self, below: u64) -> u64 {
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&self.index.0.to_be_bytes());
        seed[8..].copy_from_slice(&self.ordinal.to_be_bytes());
        xxhash_rust::xxh3::xxh3_64(&seed) % below.max(1)
    }

    pub(super) fn next_id(&mut self) -> Result<u64, StateError> {
        let id = machine::last_id(&self.rows)? + 1;
        self.rows.put(key::MACHINE, &key::machine(b'i'), id.to_be_bytes().to_vec());
        Ok(id)
    }

    pub(super) fn last_lease(&mut self) -> Result<LeaseId, StateError> {
        match self.last_lease {
            Some(last) => Ok(last),
            None => Ok(*self.last_lease.insert(machine::last_lease(&self.rows)?)),
        }
    }

    pub(super) fn next_lease(&mut self) -> Result<LeaseId, StateError> {
        let id = LeaseId::next(self.last_lease()?, self.now_ms);
        self.last_lease = Some(id);
        self.rows.put(key::MACHINE, &key::machine(b'l'), id.0.to_be_bytes().to_vec());
        Ok(id)
    }

    /// The nonce of a lease; `None` before there was any lease.
    pub(super) fn nonce(&mut self, group: ConsumerGroupId, id: LeaseId) -> Result<Option<u64>, StateError> {
        if self.secret.is_none() {
            self.secret = machine::secret(&self.rows)?;
        }
        Ok(self.secret.map(|secret| machine::nonce(&secret, group, id)))
    }

    /// Makes the secret of the nonces from the first random number that comes along.
    pub(super) fn make_secret(&mut self, random: u64) -> Result<(), StateError> {
        if self.secret.is_none() {
            self.secret = machine::secret(&self.rows)?;
        }
        if self.secret.is_none() {
            let secret = machine::new_secret(random, self.index.0, self.now_ms);
            self.rows.put(key::MACHINE, &key::machine(b'k'), secret.to_vec());
            self.secret = Some(secret);
        }
        Ok(())
    }

    pub(super) fn topic(&mut self, name: &str) -> Result<Option<Arc<KnownTopic>>, StateError> {
        if let Some(known) = self.rows.names.topic(name) {
            return Ok(Some(known.clone()));
        }
        let Some(row) = topic::topic(&self.rows, name)? else { return Ok(None) };
        let known = Arc::new(KnownTopic { id: TopicId(row.id), name: name.into(), row });
        self.rows.names.add_topic(known.clone());
        Ok(Some(known))
    }

    pub(super) fn topic_by_id(&mut self, id: TopicId) -> Result<Option<Arc<KnownTopic>>, StateError> {
        let name = match self.rows.names.topic_name(id) {
            Some(name) => name.clone(),
            None => {
                let Some(name) = topic::name(&self.rows, id)? else { return Ok(None) };
                let name: Arc<str> = name.into();
                self.rows.names.add_topic_name(id, name.clone());
                name
            }
        };
        self.topic(&name)
    }

    /// A queue of a topic, without what is still open of it.
    pub(super) fn queue(&mut self, topic: TopicId, number: u16) -> Result<Queue, StateError> {
        if let Some(known) = self.rows.names.queue(topic, number) {
            return Ok(known);
        }
        let queue = queue::queue(&self.rows, topic, number)?;
        self.rows.names.set_queue(topic, number, queue);
        Ok(queue)
    }

    pub(super) fn group(&mut self, name: &str) -> Result<Option<Arc<KnownGroup>>, StateError> {
        if let Some(known) = self.rows.names.group(name) {
            return Ok(Some(known.clone()));
        }
        let Some(row) = consumer_group::consumer_group(&self.rows, name)? else { return Ok(None) };
        let known = Arc::new(KnownGroup { id: ConsumerGroupId(row.id), name: name.into(), row });
        self.rows.names.add_group(known.clone());
        Ok(Some(known))
    }

    pub(super) fn group_by_id(&mut self, id: ConsumerGroupId) -> Result<Option<Arc<KnownGroup>>, StateError> {
        let name = match self.rows.names.group_name(id) {
            Some(name) => name.clone(),
            None => {
                let Some(name) = consumer_group::name(&self.rows, id)? else { return Ok(None) };
                let name: Arc<str> = name.into();
                self.rows.names.add_group_name(id, name.clone());
                name
            }
        };
        self.group(&name)
    }

    /// Slots for an Append of this many messages; `None` when the batch has not that many.
    pub(super) fn take_slots(&mut self, messages: usize) -> Option<u32> {
        let first = self.next_slot;
        let end = u32::try_from(messages).ok().and_then(|messages| first.checked_add(messages));
        self.next_slot = end.unwrap_or(u32::MAX).min(self.slots_end);
        end.filter(|end| *end <= self.slots_end).map(|_| first)
    }
}
