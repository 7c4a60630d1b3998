//! What clients receive of lite topics: replicated, so that any member serves them after a failover too, counted, and gone
//! when its client is or says nothing of it any more.

use super::lite::check_binding;
use super::session::CLIENT_ID_BYTES_MAX;
use super::turn::{KnownGroup, KnownTopic, Turn};
use super::{Effect, TICK_ROWS_MAX, refused};
use crate::store::lite::{self, LiteClient, Subject};
use crate::store::{ConsumerGroupId, TopicId, key, message, progress};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::lite_start::At;
use raftmq_proto::command::{LiteStart, PutLiteSubscription, QueueOffset, Refusal, Reply, Reset};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Lite topics that one command may name.
pub const NAMES_MAX: usize = 256;

/// Rows that a subscription has.
const ROWS_A_SUBSCRIPTION: usize = 5;

impl Turn<'_, '_> {
    pub(super) fn put_lite_subscription(&mut self, put: PutLiteSubscription) -> Result<Reply, StateError> {
        if put.client_id.is_empty() || put.client_id.len() > CLIENT_ID_BYTES_MAX {
            return Ok(refused(Refusal::InvalidArgument, "no client id, or one that is too long"));
        }
        if put.add.len().saturating_add(put.remove.len()) > NAMES_MAX {
            return Ok(refused(Refusal::InvalidArgument, format!("at most {NAMES_MAX} lite topics at once")));
        }
        let Some(topic) = self.topic(&put.topic)? else {
            return Ok(refused(Refusal::TopicNotFound, format!("topic {} does not exist", put.topic)));
        };
        if !lite::has_lite_topics(&topic.row) {
            let detail = format!("topic {} has no lite topics: it takes no LITE messages", put.topic);
            return Ok(refused(Refusal::LiteBoundElsewhere, detail));
        }
        let group = match self.group_or_create(&put.consumer_group, put.create_consumer_group, Some(&topic.name))? {
            Ok(group) => group,
            Err(refusal) => return Ok(refusal),
        };
        if let Some(refusal) = check_binding(&topic, &group) {
            return Ok(refusal);
        }
        let mut removed = BTreeMap::new();
        for name in &put.remove {
            if let Some(child) = self.lite_topic(&topic, name)?
                && self.receives(&put.client_id, group.id, topic.id, child.id)?
            {
                removed.insert(child.id, child);
            }
        }
        let mut new = BTreeSet::new();
        for name in &put.add {
            let known = self.lite_topic(&topic, name)?;
            let held = match &known {
                Some(child) => self.receives(&put.client_id, group.id, topic.id, child.id)?,
                None => false,
            };
            if !held {
                new.insert(name.as_str());
            }
        }
        let before = lite::client(&self.rows, &put.client_id, group.id, topic.id)?;
        let row = before.unwrap_or_default();
        let subscriptions = (row.subscriptions + new.len() as u64).saturating_sub(removed.len() as u64);
        let refusal = match self.too_many_subscriptions(&group, subscriptions, new.len() as u64)? {
            Some(refusal) => Some(refusal),
            None => self.check_lite_topics(&topic, new.iter().copied())?,
        };
        if let Some(refusal) = refusal {
            return Ok(refusal);
        }

        for child in removed.values() {
            self.end_subscription(&put.client_id, group.id, topic.id, child.id)?;
        }
        let mut taken = 0;
        for name in new {
            let child = self.lite_topic_or_create(&topic, name)?;
            if !self.may_join(&put, &topic, &group, &child, name)? {
                continue;
            }
            self.begin_subscription(&put, &topic, &group, &child)?;
            taken += 1;
        }
        let row = lite::client(&self.rows, &put.client_id, group.id, topic.id)?.unwrap_or_default();
        let subscriptions = (row.subscriptions + taken).saturating_sub(removed.len() as u64);
        let at = key::lite_client(&put.client_id, group.id, topic.id);
        let due_ms = match before {
            Some(row) if row.due_ms > self.now_ms => row.due_ms,
            _ => self.look_later(&Subject::Client(at.clone()), lite::LAPSE_MS),
        };
        let row = LiteClient { subscriptions, refreshed_ms: self.now_ms, due_ms };
        self.rows.put(key::SESSION, &at, row.encode());
        self.need_session(&put.client_id, group.id)?;
        Ok(Reply::default())
    }

    pub(super) fn receives(
        &self,
        client_id: &str,
        group: ConsumerGroupId,
        topic: TopicId,
        child: TopicId,
    ) -> Result<bool, StateError> {
        let key = key::lite_subscription(client_id, group, topic, child);
        Ok(self.rows.get(key::SESSION, &key)?.is_some())
    }

    fn too_many_subscriptions(
        &self,
        group: &KnownGroup,
        of_client: u64,
        more: u64,
    ) -> Result<Option<Reply>, StateError> {
        let quota = lite::client_quota(Some(&group.row));
        if more > 0 && of_client > quota.saturating_add(lite::CLIENT_QUOTA_SLACK) {
            let detail = format!(
                "{of_client} lite topics for one client of consumer group {}, the limit is {quota}; raise its attribute {}",
                group.name,
                lite::CLIENT_QUOTA
            );
            return Ok(Some(refused(Refusal::LiteSubscriptionQuota, detail)));
        }
        let all = lite::subscription_count(&self.rows)?;
        Ok((more > 0 && all + more > lite::SUBSCRIPTIONS_MAX).then(|| {
            let detail = format!(
                "the clients of this broker group receive {all} lite topics, the limit is {}",
                lite::SUBSCRIPTIONS_MAX
            );
            refused(Refusal::LiteSubscriptionQuota, detail)
        }))
    }

    /// Whether a client may receive a lite topic beside those that do. In an exclusive consumer group the newest client
    /// takes it from the one before; one that only says again what it received, and lost it meanwhile, is told.
    fn may_join(
        &mut self,
        put: &PutLiteSubscription,
        topic: &KnownTopic,
        group: &KnownGroup,
        child: &KnownTopic,
        name: &str,
    ) -> Result<bool, StateError> {
        let groups = lite::groups(&self.rows, child.id)?;
        let Some(_) = groups.iter().find(|(known, _)| *known == group.id) else {
            return Ok(groups.len() < lite::GROUPS_MAX);
        };
        if !lite::is_exclusive(&group.row) {
            return Ok(true);
        }
        let lose = |client_id: &str| Effect::LiteTaken {
            client_id: client_id.into(),
            consumer_group: group.name.clone(),
            lite_topic: name.into(),
        };
        if !put.take_over {
            self.effects.add(lose(&put.client_id));
            return Ok(false);
        }
        for client_id in lite::members(&self.rows, child.id, group.id, 0, TICK_ROWS_MAX / ROWS_A_SUBSCRIPTION)? {
            self.end_subscription(&client_id, group.id, topic.id, child.id)?;
            if let Some(row) = lite::client(&self.rows, &client_id, group.id, topic.id)? {
                let row = LiteClient { subscriptions: row.subscriptions.saturating_sub(1), ..row };
                let key = key::lite_client(&client_id, group.id, topic.id);
                self.rows.put(key::SESSION, &key, row.encode());
            }
            self.effects.add(lose(&client_id));
        }
        Ok(true)
    }

    fn begin_subscription(
        &mut self,
        put: &PutLiteSubscription,
        topic: &KnownTopic,
        group: &KnownGroup,
        child: &Arc<KnownTopic>,
    ) -> Result<(), StateError> {
        let client_id = put.client_id.as_str();
        let mut groups = lite::groups(&self.rows, child.id)?;
        let first = match groups.iter_mut().find(|(known, _)| *known == group.id) {
            Some((_, clients)) => {
                *clients += 1;
                false
            }
            None => {
                groups.push((group.id, 1));
                true
            }
        };
        self.rows.put(key::SESSION, &key::lite_groups(child.id), lite::encode_groups(&groups));
        let key = key::lite_subscription(client_id, group.id, topic.id, child.id);
        self.rows.put(key::SESSION, &key, Vec::new());
        self.rows.put(key::SESSION, &key::lite_member(child.id, group.id, client_id), Vec::new());
        self.count_subscriptions(1)?;
        if first {
            match put.start.and_then(|start| start.at) {
                Some(at) => self.start_lite(group, child, &LiteStart { at: Some(at) })?,
                None => self.note_start(child, group)?,
            }
        }
        let ready = key::lite_ready(group.id, topic.id, child.id);
        if self.rows.get(key::SESSION, &ready)?.is_some() {
            // Nobody else hears of it again.
            self.wake(topic.id, group, client_id.into())?;
        }
        self.refresh_ready(child, group)
    }

    /// Moves the consumer group in a lite topic to where its only client wants to begin.
    fn start_lite(&mut self, group: &KnownGroup, child: &KnownTopic, start: &LiteStart) -> Result<(), StateError> {
        self.close_run(child)?;
        let queue = self.queue(child.id, 0)?;
        let offset = match start.at {
            Some(At::First(_)) | None => queue.min,
            Some(At::Next(_)) => queue.next,
            Some(At::Offset(offset)) => offset,
            Some(At::Last(messages)) => queue.next.saturating_sub(messages),
            Some(At::TimeMs(time_ms)) => message::offset_at(&self.rows, child.id, 0, &queue, time_ms)?,
        };
        let reset = Reset {
            consumer_group: group.name.to_string(),
            topic: child.name.to_string(),
            queues: vec![QueueOffset { queue: 0, offset }],
        };
        self.reset(reset).map(drop)
    }

    /// The client receives the lite topic no longer; the caller counts that for the client.
    fn end_subscription(
        &mut self,
        client_id: &str,
        group: ConsumerGroupId,
        topic: TopicId,
        child: TopicId,
    ) -> Result<(), StateError> {
        self.rows.delete(key::SESSION, &key::lite_subscription(client_id, group, topic, child));
        self.rows.delete(key::SESSION, &key::lite_member(child, group, client_id));
        self.count_subscriptions(-1)?;
        let mut groups = lite::groups(&self.rows, child)?;
        let Some(at) = groups.iter().position(|(known, _)| *known == group) else { return Ok(()) };
        groups[at].1 = groups[at].1.saturating_sub(1);
        if groups[at].1 == 0 {
            groups.remove(at);
            self.rows.delete(key::SESSION, &key::lite_ready(group, topic, child));
        }
        if groups.is_empty() {
            self.rows.delete(key::SESSION, &key::lite_groups(child));
        } else {
            self.rows.put(key::SESSION, &key::lite_groups(child), lite::encode_groups(&groups));
        }
        Ok(())
    }

    fn count_subscriptions(&mut self, change: i64) -> Result<(), StateError> {
        let count = lite::subscription_count(&self.rows)?.saturating_add_signed(change);
        if count == 0 {
            self.rows.delete(key::SESSION, key::LITE_SUBSCRIPTION_COUNT);
        } else {
            self.rows.put(key::SESSION, key::LITE_SUBSCRIPTION_COUNT, progress::number(count));
        }
        Ok(())
    }

    /// A client is gone: what it received of lite topics ends with the next Tick.
    pub(super) fn end_lite_client(&mut self, client_id: &str) -> Result<(), StateError> {
        for key in lite::clients_of(&self.rows, client_id, TICK_ROWS_MAX)? {
            let Some(value) = self.rows.get(key::SESSION, &key)? else { continue };
            let row = LiteClient::decode(&value)?;
            let due_ms = self.look_later(&Subject::Client(key.clone()), 1);
            self.rows.put(key::SESSION, &key, LiteClient { refreshed_ms: 0, due_ms, ..row }.encode());
        }
        Ok(())
    }

    /// Whether a client still receives what it said; takes that away otherwise. Returns whether that is done.
    pub(super) fn look_at_lite_client(
        &mut self,
        client: &[u8],
        at_ms: u64,
        rows_left: &mut usize,
    ) -> Result<bool, StateError> {
        let Some(value) = self.rows.get(key::SESSION, client)? else { return Ok(true) };
        let row = LiteClient::decode(&value)?;
        if row.due_ms != at_ms {
            return Ok(true);
        }
        let lapses_ms = row.refreshed_ms.saturating_add(lite::LAPSE_MS);
        if lapses_ms > self.now_ms {
            let due_ms = self.look_later(&Subject::Client(client.to_vec()), lapses_ms - self.now_ms);
            self.rows.put(key::SESSION, client, LiteClient { due_ms, ..row }.encode());
            return Ok(true);
        }
        let (client_id, group, topic) = lite::parse_client(client)?;
        let max = (*rows_left / ROWS_A_SUBSCRIPTION).max(1);
        let found = lite::subscriptions(&self.rows, &client_id, group, topic, max)?;
        *rows_left = rows_left.saturating_sub(found.len() * ROWS_A_SUBSCRIPTION);
        for child in &found {
            self.end_subscription(&client_id, group, topic, *child)?;
        }
        if found.len() == max {
            let row = LiteClient { subscriptions: row.subscriptions.saturating_sub(max as u64), ..row };
            self.rows.put(key::SESSION, client, row.encode());
            return Ok(false);
        }
        self.rows.delete(key::SESSION, client);
        Ok(true)
    }
}
