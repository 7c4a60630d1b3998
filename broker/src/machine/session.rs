//! Sessions: what the clients of a consumer group subscribe to, and what happens when one is gone.

use super::cleanup::Piece;
use super::turn::Turn;
use super::{Effect, TICK_ROWS_MAX, refused};
use crate::filter::FilterRow;
use crate::store::session::{self, Session};
use crate::store::trace::What;
use crate::store::work::Work;
use crate::store::{ConsumerGroupId, key, lease, subscription};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{EndSession, PutSession, Refusal, Reply};
use std::collections::BTreeMap;

/// Subscriptions of one client in one consumer group.
const SUBSCRIPTIONS_MAX: usize = 1_024;

/// SQL filters that the members of a consumer group may have for a topic. A look may read them all.
const FILTERS_MAX: usize = 32;

/// Bytes of an SQL filter. A node takes fewer: see `filterExpressionBytesMax`.
pub const EXPRESSION_BYTES_MAX: usize = 64 << 10;

/// Bytes of a client id.
pub(super) const CLIENT_ID_BYTES_MAX: usize = 1_024;

impl Turn<'_, '_> {
    pub(super) fn put_session(&mut self, put: PutSession) -> Result<Reply, StateError> {
        if put.client_id.is_empty() || put.client_id.len() > CLIENT_ID_BYTES_MAX {
            return Ok(refused(Refusal::InvalidArgument, "the session has no client id, or one that is too long"));
        }
        if put.subscriptions.len() > SUBSCRIPTIONS_MAX {
            let detail = format!("a client has at most {SUBSCRIPTIONS_MAX} subscriptions");
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        let group = match self.group_or_create(&put.consumer_group, put.create_consumer_group, None)? {
            Ok(group) => group,
            Err(refusal) => return Ok(refusal),
        };
        let mut subscriptions: Vec<_> = put
            .subscriptions
            .into_iter()
            .map(|subscription| (subscription.topic, FilterRow::of(subscription.filter.as_ref())))
            .collect();
        subscriptions.sort();
        subscriptions.dedup_by(|later, earlier| later.0 == earlier.0);
        if let Some(refusal) = self.too_much(group.id, &subscriptions)? {
            return Ok(refusal);
        }
        let new = Session { subscriptions };
        let old = session::session(&self.rows, &put.client_id, group.id)?;
        if old.as_ref() == Some(&new) {
            return Ok(Reply::default());
        }
        if old.is_none() {
            self.effects.add(Effect::SessionBegan { client_id: put.client_id.as_str().into() });
        }
        self.change_filters(group.id, &old.unwrap_or_default(), &new)?;
        self.rows.put(key::SESSION, &key::session(&put.client_id, group.id), new.encode());
        Ok(Reply::default())
    }

    /// A client has a session from now on, if only an empty one, so that its end is noticed.
    pub(super) fn need_session(&mut self, client_id: &str, group: ConsumerGroupId) -> Result<(), StateError> {
        let session = key::session(client_id, group);
        if self.rows.get(key::SESSION, &session)?.is_none() {
            self.effects.add(Effect::SessionBegan { client_id: client_id.into() });
            self.rows.put(key::SESSION, &session, Vec::new());
        }
        Ok(())
    }

    /// Counts a client's filters: `old` no longer, `new` from now on.
    fn change_filters(&mut self, group: ConsumerGroupId, old: &Session, new: &Session) -> Result<(), StateError> {
        let mut topics: BTreeMap<&str, (Option<&FilterRow>, Option<&FilterRow>)> = BTreeMap::new();
        old.subscriptions.iter().for_each(|(topic, filter)| topics.entry(topic).or_default().0 = Some(filter));
        new.subscriptions.iter().for_each(|(topic, filter)| topics.entry(topic).or_default().1 = Some(filter));
        for (topic, (old, new)) in topics {
            if old == new {
                continue;
            }
            let mut filters = session::filters(&self.rows, group, topic)?;
            let before = filters.filters.len();
            if let Some(old) = old {
                filters.remove(old);
            }
            if filters.filters.len() < before {
                self.look_again(group, topic)?;
            }
            if let Some(new) = new {
                filters.add(new);
            }
            let key = key::filters(group, topic);
            if filters.filters.is_empty() {
                self.rows.delete(key::SESSION, &key);
            } else {
                self.rows.put(key::SESSION, &key, filters.encode());
            }
            let after = filters.filters.len();
            if before != after
                && before.max(after) > 1
                && let Some(group) = self.group_by_id(group)?
            {
                let (consumer_group, topic) = (group.name.clone(), topic.into());
                self.effects.add(Effect::FiltersDiffer { consumer_group, topic, filters: after as u64 });
            }
        }
        Ok(())
    }

    /// Why the filters of a client cannot be counted with those of the other members, if so.
    fn too_much(
        &self,
        group: ConsumerGroupId,
        subscriptions: &[(String, FilterRow)],
    ) -> Result<Option<Reply>, StateError> {
        for (topic, filter) in subscriptions {
            let FilterRow::Sql(text) = filter else { continue };
            if text.len() > EXPRESSION_BYTES_MAX {
                let detail =
                    format!("a filter expression has {} bytes, the limit is {EXPRESSION_BYTES_MAX}", text.len());
                return Ok(Some(refused(Refusal::InvalidArgument, detail)));
            }
            let live = session::filters(&self.rows, group, topic)?.filters;
            if live.len() >= FILTERS_MAX && !live.iter().any(|(known, _)| known == filter) {
                let detail = format!(
                    "the members of a consumer group have {} filters for topic {topic}, the limit is {FILTERS_MAX}: \
                     they should have the same one",
                    live.len()
                );
                return Ok(Some(refused(Refusal::InvalidArgument, detail)));
            }
        }
        Ok(None)
    }

    /// A filter is gone: messages that waited for it alone are skipped by the next look, and what is behind them in
    /// their message groups comes.
    fn look_again(&mut self, group: ConsumerGroupId, topic: &str) -> Result<(), StateError> {
        if let (Some(topic), Some(group)) = (self.topic(topic)?, self.group_by_id(group)?)
            && let Some(mut share) = subscription::subscription(&self.rows, topic.id, group.id)?
            && share.retry_waiting > 0
            && share.forget_scanned()
        {
            self.store_subscription(topic.id, group.id, &share);
            let effect = Effect::Retryable { consumer_group: group.name.clone(), topic: topic.name.clone() };
            self.effects.add(effect);
        }
        Ok(())
    }

    /// The client's filters no longer count and its renewed leases end: a bounded number now, the rest by Tick.
    pub(super) fn end_session(&mut self, end: EndSession) -> Result<Reply, StateError> {
        // A leader that was cut off hears nothing of anybody, and may say so once it can be heard again.
        if end.term != 0 && end.term != self.term.0 {
            return Ok(refused(Refusal::DeadlinePassed, "who found the client silent does not lead any more"));
        }
        let client_id = end.client_id;
        for (_, group, session) in session::sessions_of(&self.rows, &client_id, TICK_ROWS_MAX)? {
            self.change_filters(group, &session, &Session::default())?;
            self.rows.delete(key::SESSION, &key::session(&client_id, group));
        }
        self.end_lite_client(&client_id)?;
        let upto = self.last_lease()?;
        let piece = self.end_leases(&client_id, &upto.0.to_be_bytes(), TICK_ROWS_MAX)?;
        if let Some(note) = piece.rest {
            self.add_work(&Work::EndLeases(client_id.clone()), note);
        }
        self.effects.add(Effect::SessionEnded { client_id: client_id.into() });
        Ok(Reply::default())
    }

    /// Takes back a piece of the renewed leases that a client had when its session ended. The note is the last
    /// lease of then, and the key to go on from; a client that came back keeps what it got since.
    pub(super) fn end_leases(&mut self, client_id: &str, note: &[u8], rows_max: usize) -> Result<Piece, StateError> {
        let (upto, from) = note.split_at_checked(8).unwrap_or((note, &[]));
        let upto = upto.to_vec();
        let mut piece = Piece { rows: 0, rest: None };
        for (key, group, id) in session::leases_of(&self.rows, client_id, from, rows_max)? {
            if piece.rows >= rows_max {
                piece.rest = Some([&upto[..], &key[..]].concat());
                break;
            }
            piece.rows += 1;
            if id.0.to_be_bytes()[..] > upto[..] {
                continue;
            }
            match lease::lease(&self.rows, group, id)? {
                Some(lease) => piece.rows += self.give_back(group, id, lease, &What::SessionEnded)?,
                None => self.rows.delete(key::SESSION, &key),
            }
        }
        Ok(piece)
    }
}
