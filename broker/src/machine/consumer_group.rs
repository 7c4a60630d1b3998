//! Consumer groups: create, change, delete.

use super::topic::NAME_BYTES_MAX;
use super::turn::{KnownGroup, Turn};
use super::{Effect, done, refused};
use crate::store::consumer_group::RETRY_MAX_DEFAULT;
use crate::store::work::Work;
use crate::store::{ConsumerGroupId, key, lite};
use prost::Message;
use raft_store::StateError;
use raftmq_proto::command::{ConsumerGroup, PutConsumerGroup, Refusal, Reply, reply};
use std::sync::Arc;

impl Turn<'_, '_> {
    pub(super) fn put_consumer_group(&mut self, put: PutConsumerGroup) -> Result<Reply, StateError> {
        let Some(wanted) = put.consumer_group else {
            return Ok(refused(Refusal::InvalidArgument, "no consumer group is given"));
        };
        if let Some(refusal) = check_name(&wanted.name) {
            return Ok(refusal);
        }
        let known = self.group(&wanted.name)?;
        let row = known.as_ref().map(|known| (known.row.id, known.row.version));
        if !put.create_only && self.is_outdated(row, (wanted.id, wanted.version)) {
            let detail = format!("consumer group {} was changed meanwhile, by somebody else", wanted.name);
            return Ok(refused(Refusal::ChangedMeanwhile, detail));
        }
        let row = match known {
            Some(known) if put.create_only => known.row.clone(),
            Some(known) => {
                let row = ConsumerGroup {
                    id: known.row.id,
                    version: known.row.version + 1,
                    created_ms: known.row.created_ms,
                    updated_ms: self.now_ms,
                    ..wanted
                };
                self.store_group(&row);
                row
            }
            None => self.create_group(wanted)?.row.clone(),
        };
        Ok(done(reply::Kind::ConsumerGroup(row)))
    }

    /// The consumer group of this name, or the refusal; created with the usual settings when `create` is set, and bound
    /// to the topic whose lite topics it is to receive.
    pub(super) fn group_or_create(
        &mut self,
        name: &str,
        create: bool,
        bind: Option<&str>,
    ) -> Result<Result<Arc<KnownGroup>, Reply>, StateError> {
        if let Some(known) = self.group(name)? {
            return Ok(Ok(known));
        }
        if !create {
            let detail = format!("consumer group {name} does not exist");
            return Ok(Err(refused(Refusal::ConsumerGroupNotFound, detail)));
        }
        if let Some(refusal) = check_name(name) {
            return Ok(Err(refusal));
        }
        let wanted = ConsumerGroup {
            name: name.to_owned(),
            consume_enable: true,
            retry_max: RETRY_MAX_DEFAULT,
            attributes: bind.map(|topic| (lite::BIND.to_owned(), topic.to_owned())).into_iter().collect(),
            ..ConsumerGroup::default()
        };
        self.create_group(wanted).map(Ok)
    }

    fn create_group(&mut self, wanted: ConsumerGroup) -> Result<Arc<KnownGroup>, StateError> {
        let id = self.next_id()?;
        let row = ConsumerGroup { id, version: 1, created_ms: self.now_ms, updated_ms: self.now_ms, ..wanted };
        self.store_group(&row);
        self.rows.put(key::CONSUMER_GROUP, &key::id(id), row.name.clone().into_bytes());
        Ok(Arc::new(KnownGroup { id: ConsumerGroupId(id), name: row.name.as_str().into(), row }))
    }

    fn store_group(&mut self, row: &ConsumerGroup) {
        self.rows.put(key::CONSUMER_GROUP, &key::name(&row.name), row.encode_to_vec());
        self.effects.add(Effect::ConsumerGroupChanged { consumer_group: row.name.as_str().into() });
    }

    /// The consumer group is gone at once, with its handles; Tick removes its rows piece by piece.
    pub(super) fn delete_consumer_group(&mut self, name: &str) -> Result<Reply, StateError> {
        let Some(known) = self.group(name)? else {
            let detail = format!("consumer group {name} does not exist");
            return Ok(refused(Refusal::ConsumerGroupNotFound, detail));
        };
        self.rows.delete(key::CONSUMER_GROUP, &key::name(name));
        self.rows.delete(key::CONSUMER_GROUP, &key::id(known.id.0));
        self.add_work(&Work::DropGroup(known.id), Vec::new());
        self.effects.add(Effect::ConsumerGroupChanged { consumer_group: known.name.clone() });
        Ok(Reply::default())
    }
}

fn check_name(name: &str) -> Option<Reply> {
    let bad = name.is_empty() || name.len() > NAME_BYTES_MAX;
    bad.then(|| refused(Refusal::InvalidArgument, "the consumer group has no name, or one that is too long"))
}
