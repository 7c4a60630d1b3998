//! Lite topics: made by their first message or their first client, and gone when they are not used.

use super::append::push_part;
use super::cleanup::Piece;
use super::topic::NAME_BYTES_MAX;
use super::turn::{KnownGroup, KnownTopic, Turn};
use super::{Effect, refused};
use crate::store::lite::{self, Due, Subject};
use crate::store::work::Work;
use crate::store::{TopicId, key, progress, topic};
use prost::Message;
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{AppendMessage, Appended, Refusal, Reply, Topic};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Rows that are touched when a lite topic is looked at, or goes.
const ROWS_A_TOPIC: usize = 8;

/// A lite topic without an end of its own is looked at every so often: it may get one.
const LOOK_AGAIN_MS: u64 = 86_400_000;

/// Clients of a consumer group that are woken for a message. The others find it when they look next.
const WOKEN_MAX: usize = 64;

/// Why a consumer group cannot receive from a topic: one of them is for lite topics, and the other one not for these.
pub(super) fn check_binding(topic: &KnownTopic, group: &KnownGroup) -> Option<Reply> {
    if lite::may_receive(&group.row, &topic.row) {
        return None;
    }
    let named = format!("consumer group {}", group.name);
    match (lite::has_lite_topics(&topic.row), lite::bound_to(&group.row)) {
        (true, Some(bound)) => {
            let detail =
                format!("{named} receives the lite topics of {bound} ({}), not those of {}", lite::BIND, topic.name);
            Some(refused(Refusal::LiteBoundElsewhere, detail))
        }
        (true, None) => {
            let detail = format!("{named} receives no lite topics: set its attribute {}={}", lite::BIND, topic.name);
            Some(refused(Refusal::LiteGroupMismatch, detail))
        }
        (false, Some(bound)) => {
            let detail = format!("{named} receives the lite topics of {bound} ({}) and nothing else", lite::BIND);
            Some(refused(Refusal::LiteGroupMismatch, detail))
        }
        (false, None) => None,
    }
}

/// Why a topic cannot be what it is to be: lite topics stand alone, and what has them stays so.
pub(super) fn check_topic(wanted: &Topic, known: Option<&Topic>) -> Option<Reply> {
    let has = wanted.message_types.contains(&lite::LITE);
    if has && wanted.message_types.len() > 1 {
        let detail = format!("topic {} cannot take LITE messages and others", wanted.name);
        return Some(refused(Refusal::InvalidArgument, detail));
    }
    let changed = known.is_some_and(|known| lite::has_lite_topics(known) != has);
    changed.then(|| {
        let detail = format!("topic {} has lite topics, or is to have some: create it anew for that", wanted.name);
        refused(Refusal::InvalidArgument, detail)
    })
}

impl Turn<'_, '_> {
    pub(super) fn lite_topic(
        &mut self,
        parent: &KnownTopic,
        name: &str,
    ) -> Result<Option<Arc<KnownTopic>>, StateError> {
        self.topic(&lite::row_name(parent.id, name))
    }

    /// The topic that a lease is of, when it is the one that the client names, or a lite topic of that.
    pub(super) fn topic_of_lease(
        &mut self,
        named: &Arc<KnownTopic>,
        of: TopicId,
    ) -> Result<Option<Arc<KnownTopic>>, StateError> {
        if named.id == of {
            return Ok(Some(named.clone()));
        }
        if !lite::has_lite_topics(&named.row) {
            return Ok(None);
        }
        Ok(self.topic_by_id(of)?.filter(|topic| topic.row.lite_parent == named.id.0))
    }

    /// The name by which people know a topic; of a lite topic, that of the topic that it belongs to.
    pub(super) fn shown_name(&mut self, topic: &KnownTopic) -> Result<Arc<str>, StateError> {
        let parent = match topic.row.lite_parent {
            0 => None,
            parent => self.topic_by_id(TopicId(parent))?,
        };
        Ok(parent.map_or_else(|| topic.name.clone(), |parent| parent.name.clone()))
    }

    /// Why lite topics of these names cannot all be there.
    pub(super) fn check_lite_topics<'n>(
        &mut self,
        parent: &KnownTopic,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<Option<Reply>, StateError> {
        let mut new = BTreeSet::new();
        for name in names {
            if name.is_empty() || name.contains('$') || lite::row_name(parent.id, name).len() > NAME_BYTES_MAX {
                let detail = format!("{name:?} is no name of a lite topic");
                return Ok(Some(refused(Refusal::IllegalLiteTopic, detail)));
            }
            if !new.contains(name) && self.lite_topic(parent, name)?.is_none() {
                new.insert(name);
            }
        }
        if new.is_empty() {
            return Ok(None);
        }
        let (quota, have) = (lite::topic_quota(&parent.row), lite::topics(&self.rows, parent.id)?);
        Ok((have + new.len() as u64 > quota).then(|| {
            let detail = format!(
                "topic {} has {have} lite topics, the limit is {quota}; raise its attribute {}",
                parent.name,
                lite::TOPIC_QUOTA
            );
            refused(Refusal::LiteTopicQuota, detail)
        }))
    }

    pub(super) fn lite_topic_or_create(
        &mut self,
        parent: &KnownTopic,
        name: &str,
    ) -> Result<Arc<KnownTopic>, StateError> {
        if let Some(known) = self.lite_topic(parent, name)? {
            return Ok(known);
        }
        let id = self.next_id()?;
        let row = Topic {
            name: lite::row_name(parent.id, name),
            read_queues: 1,
            write_queues: 1,
            permission: topic::READABLE | topic::WRITABLE,
            message_types: vec![lite::LITE],
            id,
            version: 1,
            created_ms: self.now_ms,
            updated_ms: self.now_ms,
            lite_parent: parent.id.0,
            ..Topic::default()
        };
        self.rows.put(key::TOPIC, &key::lite_topic(&row.name), row.encode_to_vec());
        self.rows.put(key::TOPIC, &key::id(id), row.name.clone().into_bytes());
        let count = lite::topics(&self.rows, parent.id)? + 1;
        self.rows.put(key::TOPIC, &key::lite_topic_count(parent.id), progress::number(count));
        let id = TopicId(id);
        self.rows.names.add_empty_queues(id);
        let expires_ms = lite::expiration_ms(&self.rows, &parent.row)?.unwrap_or(LOOK_AGAIN_MS);
        self.look_later(&Subject::Topic(id), expires_ms);
        Ok(Arc::new(KnownTopic { id, name: row.name.as_str().into(), row }))
    }

    /// Stores a LITE message, whose name was checked.
    pub(super) fn append_lite(
        &mut self,
        parent: &KnownTopic,
        message: &AppendMessage,
        slot: u32,
        touched: &mut BTreeMap<TopicId, Arc<KnownTopic>>,
        parts: &mut Vec<Appended>,
    ) -> Result<u64, StateError> {
        let child = self.lite_topic_or_create(parent, &message.lite_topic)?;
        let mut open = self.runs.remove(&child.id).unwrap_or_default();
        let offset = self.push_message(&child, 0, &mut open, message, slot)?;
        self.runs.insert(child.id, open);
        push_part(parts, 0, offset);
        touched.insert(child.id, child);
        Ok(offset)
    }

    /// A lite topic got messages: whoever receives it may have one.
    pub(super) fn lite_arrived(&mut self, child: &KnownTopic) -> Result<(), StateError> {
        for (group, _) in lite::groups(&self.rows, child.id)? {
            if let Some(group) = self.group_by_id(group)? {
                self.refresh_ready(child, &group)?;
            }
        }
        Ok(())
    }

    /// What a consumer group has to do in a topic changed: of a lite topic it is noted whether a message can be had.
    pub(super) fn refresh_ready(&mut self, child: &KnownTopic, group: &KnownGroup) -> Result<(), StateError> {
        if child.row.lite_parent == 0 {
            return Ok(());
        }
        let parent = TopicId(child.row.lite_parent);
        self.close_run(child)?;
        let key = key::lite_ready(group.id, parent, child.id);
        let was = self.rows.get(key::SESSION, &key)?.is_some();
        let received = lite::groups(&self.rows, child.id)?.iter().any(|(known, _)| *known == group.id);
        let is = received && lite::is_takeable(&self.rows, child.id, group.id)?;
        if is && !was {
            self.rows.put(key::SESSION, &key, Vec::new());
            let clients = lite::members(&self.rows, child.id, group.id, self.spread(u64::MAX), WOKEN_MAX)?;
            for client_id in clients {
                self.wake(parent, group, client_id.into())?;
            }
        } else if was && !is {
            self.rows.delete(key::SESSION, &key);
        }
        Ok(())
    }

    /// Polls of a client may have a message of a lite topic.
    pub(super) fn wake(&mut self, parent: TopicId, group: &KnownGroup, client_id: Arc<str>) -> Result<(), StateError> {
        if let Some(parent) = self.topic_by_id(parent)? {
            let (consumer_group, topic) = (group.name.clone(), parent.name.clone());
            self.effects.add(Effect::LiteReady { client_id, consumer_group, topic });
        }
        Ok(())
    }

    /// Has something looked at after so long. Returns when that is.
    pub(super) fn look_later(&mut self, subject: &Subject, after_ms: u64) -> u64 {
        let at_ms = self.now_ms.saturating_add(after_ms.max(1));
        self.rows.put(key::SESSION, &subject.key_at(at_ms), Vec::new());
        self.effects.due(at_ms);
        at_ms
    }

    /// Looks at lite topics and clients whose time has come. Returns whether some were left for another Tick.
    pub(super) fn look_at_lite(&mut self, rows_left: &mut usize) -> Result<bool, StateError> {
        let max = (*rows_left / ROWS_A_TOPIC).max(1);
        let due = lite::due(&self.rows, self.now_ms, max)?;
        if due.is_empty() {
            return Ok(false);
        }
        let mut more = due.len() == max;
        let mut low = key::lite_due(self.now_ms.saturating_add(1), &[]);
        for Due { at_ms, subject } in due {
            let key = subject.key_at(at_ms);
            *rows_left = rows_left.saturating_sub(ROWS_A_TOPIC);
            let done = match &subject {
                Subject::Topic(id) => self.look_at_lite_topic(*id)?,
                Subject::Client(client) => self.look_at_lite_client(client, at_ms, rows_left)?,
            };
            if !done {
                // It goes on from here.
                (more, low) = (true, key);
                break;
            }
            self.rows.delete(key::SESSION, &key);
            if more {
                low = [&key[..], &[0]].concat();
            }
        }
        self.rows.put(key::MACHINE, &key::machine(b'e'), low);
        Ok(more)
    }

    fn look_at_lite_topic(&mut self, id: TopicId) -> Result<bool, StateError> {
        let Some(child) = self.topic_by_id(id)? else { return Ok(true) };
        let parent = TopicId(child.row.lite_parent);
        // Those of a topic that is gone go with it.
        let Some(owner) = self.topic_by_id(parent)? else { return Ok(true) };
        self.close_run(&child)?;
        let last_ms = self.queue(id, 0)?.last_store_ms.max(child.row.created_ms);
        let in_use = !lite::groups(&self.rows, id)?.is_empty();
        let left_ms = match lite::expiration_ms(&self.rows, &owner.row)? {
            None => LOOK_AGAIN_MS,
            Some(after_ms) if in_use => after_ms,
            Some(after_ms) => last_ms.saturating_add(after_ms).saturating_sub(self.now_ms),
        };
        if left_ms > 0 {
            self.look_later(&Subject::Topic(id), left_ms);
        } else {
            self.drop_lite_topic(parent, &child.name, id)?;
            let count = lite::topics(&self.rows, parent)?.saturating_sub(1);
            self.rows.put(key::TOPIC, &key::lite_topic_count(parent), progress::number(count));
        }
        Ok(true)
    }

    fn drop_lite_topic(&mut self, parent: TopicId, name: &str, id: TopicId) -> Result<(), StateError> {
        self.rows.delete(key::TOPIC, &key::lite_topic(name));
        self.rows.delete(key::TOPIC, &key::id(id.0));
        for (group, _) in lite::groups(&self.rows, id)? {
            self.rows.delete(key::SESSION, &key::lite_ready(group, parent, id));
        }
        self.runs.remove(&id);
        self.add_work(&Work::DropTopic(id), Vec::new());
        self.drop_all_traces(id)?;
        Ok(())
    }

    /// A piece of the lite topics of a topic that is gone; what clients receive of them lapses. The note is the key to go
    /// on from.
    pub(super) fn drop_lite_topics(
        &mut self,
        parent: TopicId,
        note: &[u8],
        rows_max: usize,
    ) -> Result<Piece, StateError> {
        let prefix = key::lite_topic(&lite::row_prefix(parent));
        let from = if note.is_empty() { prefix.clone() } else { note.to_vec() };
        let max = (rows_max / ROWS_A_TOPIC).max(1);
        let mut names = Vec::new();
        self.rows.scan(key::TOPIC, &from, &key::after(&prefix), &mut |key, _| {
            names.push(String::from_utf8_lossy(&key[1..]).into_owned());
            if names.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        for name in &names {
            if let Some(row) = topic::topic(&self.rows, name)? {
                self.drop_lite_topic(parent, name, TopicId(row.id))?;
            }
        }
        let rest = names.last().filter(|_| names.len() == max).map(|last| [&key::lite_topic(last)[..], &[0]].concat());
        if rest.is_none() {
            self.rows.delete(key::TOPIC, &key::lite_topic_count(parent));
        }
        Ok(Piece { rows: names.len() * ROWS_A_TOPIC, rest })
    }
}
