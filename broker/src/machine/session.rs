//! Sessions: what the clients of a consumer group subscribe to, and what happens when one is gone.

use super::cleanup::Piece;
use super::turn::Turn;
use super::{Effect, TICK_ROWS_MAX, refused};
use crate::filter::tag::TagSet;
use crate::store::session::{self, Session};
use crate::store::work::Work;
use crate::store::{ConsumerGroupId, key, lease, subscription};
use raft_store::StateError;
use raftmq_proto::command::{EndSession, PutSession, Refusal, Reply};

/// Subscriptions of one client in one consumer group.
const SUBSCRIPTIONS_MAX: usize = 1_024;

/// Bytes of a client id.
const CLIENT_ID_BYTES_MAX: usize = 1_024;

impl Turn<'_, '_> {
    pub(super) fn put_session(&mut self, put: PutSession) -> Result<Reply, StateError> {
        if put.client_id.is_empty() || put.client_id.len() > CLIENT_ID_BYTES_MAX {
            return Ok(refused(Refusal::InvalidArgument, "the session has no client id, or one that is too long"));
        }
        if put.subscriptions.len() > SUBSCRIPTIONS_MAX {
            let detail = format!("a client has at most {SUBSCRIPTIONS_MAX} subscriptions");
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        let group = match self.group_or_create(&put.consumer_group, put.create_consumer_group)? {
            Ok(group) => group,
            Err(refusal) => return Ok(refusal),
        };
        let mut subscriptions: Vec<_> = put
            .subscriptions
            .into_iter()
            .map(|subscription| (subscription.topic, TagSet::of(subscription.filter.as_ref())))
            .collect();
        subscriptions.sort();
        subscriptions.dedup_by(|later, earlier| later.0 == earlier.0);
        let new = Session { subscriptions };
        let old = session::session(&self.rows, &put.client_id, group.id)?;
        if old.as_ref() == Some(&new) {
            return Ok(Reply::default());
        }
        self.change_filters(group.id, &old.unwrap_or_default(), &new)?;
        self.rows.put(key::SESSION, &key::session(&put.client_id, group.id), new.encode());
        Ok(Reply::default())
    }

    fn change_filters(&mut self, group: ConsumerGroupId, old: &Session, new: &Session) -> Result<(), StateError> {
        for (subscriptions, added) in [(&old.subscriptions, false), (&new.subscriptions, true)] {
            for (topic, set) in subscriptions {
                let mut filters = session::filters(&self.rows, group, topic)?;
                let known = filters.sets.len();
                if added {
                    filters.add(set)
                } else {
                    filters.remove(set)
                }
                if filters.sets.len() < known {
                    self.look_again(group, topic)?;
                }
                let key = key::filters(group, topic);
                if filters.sets.is_empty() {
                    self.rows.delete(key::SESSION, &key);
                } else {
                    self.rows.put(key::SESSION, &key, filters.encode());
                }
            }
        }
        Ok(())
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
                Some(lease) => piece.rows += self.give_back(group, id, lease)?,
                None => self.rows.delete(key::SESSION, &key),
            }
        }
        Ok(piece)
    }
}
