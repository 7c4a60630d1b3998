//! Topics: create, change, delete.

use super::append::NORMAL;
use super::fifo;
use super::lite;
use super::turn::{KnownTopic, Turn};
use super::{Effect, done, refused};
use crate::store::lite::has_lite_topics;
use crate::store::work::Work;
use crate::store::{TopicId, key, machine, retention, topic};
use prost::Message;
use raft_store::StateError;
use raftmq_proto::command::{PutTopic, Refusal, Reply, Topic, reply};
use std::sync::Arc;

/// Bytes of a name; the edges allow less.
pub(super) const NAME_BYTES_MAX: usize = 255;

const PERMISSIONS: u32 = topic::READABLE | topic::WRITABLE;

impl Turn<'_, '_> {
    pub(super) fn put_topic(&mut self, put: PutTopic) -> Result<Reply, StateError> {
        let Some(mut wanted) = put.topic else { return Ok(refused(Refusal::InvalidArgument, "no topic is given")) };
        if wanted.name.is_empty() || wanted.name.len() > NAME_BYTES_MAX {
            return Ok(refused(Refusal::InvalidArgument, "the topic has no name, or one that is too long"));
        }
        let queues = 1..=key::QUEUES_MAX;
        if !queues.contains(&wanted.read_queues) || !queues.contains(&wanted.write_queues) {
            let detail = format!(
                "a topic has 1 to {} queues, not {} to read and {} to write",
                key::QUEUES_MAX,
                wanted.read_queues,
                wanted.write_queues
            );
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        if wanted.permission & !PERMISSIONS != 0 {
            let detail = format!("permission {} is not made of 2 (write) and 4 (read)", wanted.permission);
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        if let Some(refusal) = self.check_age(&wanted)? {
            return Ok(refusal);
        }
        let known = self.topic(&wanted.name)?;
        let row = known.as_ref().map(|known| &known.row);
        if !put.create_only && self.is_outdated(row.map(|row| (row.id, row.version)), (wanted.id, wanted.version)) {
            let detail = format!("topic {} was changed meanwhile, by somebody else", wanted.name);
            return Ok(refused(Refusal::ChangedMeanwhile, detail));
        }
        wanted.lite_parent = 0;
        let refusal = lite::check_topic(&wanted, row)
            .or_else(|| fifo::fix_queues(&mut wanted, row))
            .or_else(|| fifo::begin_owners(&mut wanted, row, self.version));
        if let Some(refusal) = refusal.filter(|_| known.is_none() || !put.create_only) {
            return Ok(refusal);
        }
        let row = match &known {
            Some(known) if put.create_only => known.row.clone(),
            Some(known) => Topic {
                id: known.row.id,
                version: known.row.version + 1,
                created_ms: known.row.created_ms,
                updated_ms: self.now_ms,
                ..wanted
            },
            None => return Ok(done(reply::Kind::Topic(self.create_topic(wanted)?.row.clone()))),
        };
        if !put.create_only {
            // A run that is open was begun under the old settings.
            if let Some(known) = &known {
                self.close_run(known)?;
            }
            self.store_topic(&row);
        }
        Ok(done(reply::Kind::Topic(row)))
    }

    /// Why a topic cannot have the age that it is to have.
    fn check_age(&self, wanted: &Topic) -> Result<Option<Reply>, StateError> {
        let Some(age) = wanted.attributes.get(retention::RESERVE_TIME) else { return Ok(None) };
        let Some(age_ms) = retention::parse_age(age) else {
            let detail = format!("{} = {age}: must be an age such as 12h, 30m or 2d", retention::RESERVE_TIME);
            return Ok(Some(refused(Refusal::InvalidArgument, detail)));
        };
        let log_ms = machine::number_setting(&self.rows, retention::RETENTION_MS, retention::RETENTION_MS_DEFAULT)?;
        Ok((age_ms > log_ms).then(|| {
            let hours = log_ms as f64 / 3_600_000.0;
            let detail = format!(
                "{} = {age} is longer than the log of the broker group keeps messages ({hours} hours, \
                 fileReservedTime): all topics share one log, so raise fileReservedTime first",
                retention::RESERVE_TIME
            );
            refused(Refusal::InvalidArgument, detail)
        }))
    }

    /// Creates a topic that does not exist.
    fn create_topic(&mut self, wanted: Topic) -> Result<Arc<KnownTopic>, StateError> {
        let id = self.next_id()?;
        let row = Topic { id, version: 1, created_ms: self.now_ms, updated_ms: self.now_ms, ..wanted };
        self.store_topic(&row);
        self.rows.put(key::TOPIC, &key::id(id), row.name.clone().into_bytes());
        self.rows.names.add_empty_queues(TopicId(id));
        Ok(Arc::new(KnownTopic { id: TopicId(id), name: row.name.as_str().into(), row }))
    }

    pub(super) fn store_topic(&mut self, row: &Topic) {
        self.rows.put(key::TOPIC, &key::name(&row.name), row.encode_to_vec());
        self.effects.add(Effect::TopicChanged { topic: row.name.as_str().into() });
    }

    /// The dead letter topic of a consumer group, created when needed.
    pub(super) fn dead_letter_topic(&mut self, consumer_group: &str) -> Result<Arc<KnownTopic>, StateError> {
        let name = topic::dead_letter_name(consumer_group);
        if let Some(known) = self.topic(&name)? {
            return Ok(known);
        }
        self.effects.add(Effect::DeadLetterTopicMade { topic: name.as_str().into() });
        self.create_topic(Topic {
            name,
            read_queues: 1,
            write_queues: 1,
            permission: PERMISSIONS,
            message_types: vec![NORMAL],
            ..Topic::default()
        })
    }

    /// The topic is gone at once; Tick removes its rows piece by piece. One of the same name that is created
    /// later has another id, and so none of them.
    pub(super) fn delete_topic(&mut self, name: &str) -> Result<Reply, StateError> {
        let Some(known) = self.topic(name)? else {
            return Ok(refused(Refusal::TopicNotFound, format!("topic {name} does not exist")));
        };
        self.close_run(&known)?;
        self.rows.delete(key::TOPIC, &key::name(name));
        self.rows.delete(key::TOPIC, &key::id(known.id.0));
        self.add_work(&Work::DropTopic(known.id), Vec::new());
        self.drop_all_traces(known.id)?;
        self.void_timers(known.id)?;
        if has_lite_topics(&known.row) {
            self.add_work(&Work::DropLiteTopics(known.id), Vec::new());
        }
        self.effects.add(Effect::TopicChanged { topic: known.name.clone() });
        Ok(Reply::default())
    }
}
