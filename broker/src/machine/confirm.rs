//! ConfirmLeases: messages have reached their clients.
//!
//! A renewed lease lives as long as its client's session, so that one whose messages never arrived, because the node
//! that answered died with the answer, would keep them from everybody while the client waits for them. Until it is
//! confirmed it therefore ends by itself, soon, and its messages come again.

use super::turn::Turn;
use super::{TICK_ROWS_MAX, refused};
use crate::store::trace::What;
use crate::store::{ConsumerGroupId, LeaseId, lease};
use raft_store::StateError;
use raftmq_proto::command::{ConfirmLeases, Refusal, Reply};

impl Turn<'_, '_> {
    pub(super) fn confirm_leases(&mut self, confirm: ConfirmLeases) -> Result<Reply, StateError> {
        if confirm.leases.len() > TICK_ROWS_MAX {
            let detail = format!("at most {TICK_ROWS_MAX} leases are confirmed at once");
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        for name in confirm.leases {
            let (group, id) = (ConsumerGroupId(name.consumer_group_id), LeaseId(name.lease_id));
            if let Some(mut lease) = lease::lease(&self.rows, group, id)?.filter(|lease| lease.unconfirmed)
                && !lease.ended
            {
                lease.unconfirmed = false;
                let upto_ms = id.made_ms().saturating_add(confirm.renew_max_ms);
                self.put_deadline(group, id, &mut lease, upto_ms);
                self.put_lease(group, id, &lease);
                if self.topic_by_id(lease.topic)?.is_some() {
                    self.note_open(group, &lease, &What::Confirmed);
                }
            }
        }
        Ok(Reply::default())
    }
}
