//! Lease of lite topics: one message of each, in a lease of its own, so that one that its client keeps holds up nothing
//! but its own lite topic.

use super::done;
use super::lease::{LOOK_ROWS_MAX, Look};
use super::turn::{KnownGroup, KnownTopic, Turn};
use crate::store::lease::{self, Lease};
use crate::store::trace::What;
use crate::store::{LeaseId, TopicId, key, lite};
use raft_store::StateError;
use raftmq_proto::command::{self, Leased, LeasedApart, Reply, reply};
use std::sync::Arc;

impl Turn<'_, '_> {
    /// What a receive from a topic of LITE messages is granted. `wanted` has what all of its leases have.
    pub(super) fn lease_lite(
        &mut self,
        topic: &Arc<KnownTopic>,
        group: &KnownGroup,
        command: &command::Lease,
        wanted: &Lease,
    ) -> Result<Reply, StateError> {
        let mut leases = self.same_lite_leases(topic, group, command, wanted)?;
        let (mut ids, mut more) = (Vec::new(), false);
        let mut rows_left = LOOK_ROWS_MAX;
        if leases.is_empty() {
            let max = command.messages_max.min(lease::ITEMS_MAX) as usize;
            for id in command.lite_topics.iter().map(|id| TopicId(*id)).take(LOOK_ROWS_MAX) {
                if leases.len() == max {
                    break;
                }
                if rows_left == 0 {
                    more = true;
                    break;
                }
                rows_left -= 1;
                let Some(child) = self.topic_by_id(id)?.filter(|child| child.row.lite_parent == topic.id.0) else {
                    continue;
                };
                if !self.receives(&command.client_id, group.id, topic.id, id)? {
                    continue;
                }
                let (lease, cut) = self.take_lite(&child, group, wanted, &mut rows_left)?;
                more |= cut;
                if let Some(lease) = lease {
                    let id = self.put_new_lease(group, &lease)?;
                    self.note_lease(group.id, &lease);
                    ids.extend_from_slice(&id.0.to_be_bytes());
                    leases.push(self.show_lease(group, id, &lease, false)?);
                }
                self.refresh_ready(&child, group)?;
            }
            if wanted.receive != 0 && !ids.is_empty() {
                // Asked again, it is answered with all of them.
                self.rows.put(key::RECEIVE, &key::receive(group.id, wanted.receive), ids);
            }
        }
        Ok(done(reply::Kind::LeasedApart(LeasedApart { leases, more })))
    }

    /// The next message of a lite topic, unless one is unfinished; and whether there is more to look at.
    fn take_lite(
        &mut self,
        child: &Arc<KnownTopic>,
        group: &KnownGroup,
        wanted: &Lease,
        rows_left: &mut usize,
    ) -> Result<(Option<Lease>, bool), StateError> {
        self.close_run(child)?;
        if !lite::is_takeable(&self.rows, child.id, group.id)? {
            return Ok((None, false));
        }
        let before = self.subscription(child.id, group.id)?;
        let mut share = before.clone();
        let mut look = Look::new(None, None);
        look.rows_left = *rows_left;
        self.take_retries(child, group, &mut share, &mut look, 1)?;
        if look.parts.is_empty() {
            self.take_from_queue(child, group, 0, &mut share, &mut look, 1)?;
        }
        *rows_left = look.rows_left;
        if share != before {
            self.store_subscription(child.id, group.id, &share);
        }
        let Some(part) = look.parts.pop() else { return Ok((None, look.cut)) };
        let mut lease = Lease { topic: child.id, ..wanted.clone() };
        lease.push(part);
        Ok((Some(lease), false))
    }

    /// The leases that the same receive was granted before, as far as they are its own still.
    fn same_lite_leases(
        &mut self,
        topic: &Arc<KnownTopic>,
        group: &KnownGroup,
        command: &command::Lease,
        wanted: &Lease,
    ) -> Result<Vec<Leased>, StateError> {
        let mut leases = Vec::new();
        if wanted.receive == 0 {
            return Ok(leases);
        }
        let lasting_ms = wanted.deadline_ms.saturating_sub(self.now_ms);
        for id in lease::of_receive(&self.rows, group.id, wanted.receive)? {
            let Some(lease) = lease::lease(&self.rows, group.id, id)? else { continue };
            if self.topic_of_lease(topic, lease.topic)?.is_some()
                && let Some(lease) = self.lease_again(group, id, lease, command, wanted.receive, lasting_ms)?
            {
                leases.push(self.show_lease(group, id, &lease, false)?);
            }
        }
        Ok(leases)
    }

    /// The lease of a receive that is asked again, for as long as it would last now; no attempt is counted. `None` when
    /// it is not the client's any more.
    pub(super) fn lease_again(
        &mut self,
        group: &KnownGroup,
        id: LeaseId,
        mut lease: Lease,
        command: &command::Lease,
        receive: u64,
        lasting_ms: u64,
    ) -> Result<Option<Lease>, StateError> {
        if lease.receive != receive || lease.client_id != command.client_id || lease.open() == 0 {
            return Ok(None);
        }
        for part in &lease.parts {
            if self.is_void(lease.topic, group.id, part.queue, id)? {
                return Ok(None);
            }
        }
        // A client that asks again did not get the messages, whatever was thought before.
        let before = std::mem::replace(&mut lease.unconfirmed, command.renewed && command.confirm_ms > 0);
        if !lease.renewed || lease.unconfirmed || before {
            self.put_deadline(group.id, id, &mut lease, self.now_ms.saturating_add(lasting_ms));
            self.put_lease(group.id, id, &lease);
        }
        self.note_open(group.id, &lease, &What::AskedAgain { until_ms: lease.deadline_ms });
        Ok(Some(lease))
    }
}
