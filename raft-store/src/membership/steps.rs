//! Single steps from one membership to the next. A step that has begun goes on to its end, whoever waits for it.

use super::MemberError;
use super::view::View;
use crate::group::Shared;
use crate::types::{NodeId, NodeInfo};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, timeout};

/// A majority has this long to confirm a step.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// What a leader found half done may need this long until it can be finished.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(50);

/// Takes steps, and keeps others from taking any meanwhile.
pub(super) struct Steps {
    pub(super) shared: Arc<Shared>,
    pub(super) runtime: Handle,
    pub(super) turn: Arc<OwnedMutexGuard<()>>,
}

impl Steps {
    /// Goes from the membership of `view` to another, through a joint one where voters change. Removed voters become
    /// learners: nobody leaves by the way.
    pub(super) async fn take(&self, view: &View, change: ChangeMembers<NodeId, NodeInfo>) -> Result<(), MemberError> {
        let (shared, turn) = (self.shared.clone(), self.turn.clone());
        let decided_on = [Precondition::LastMembershipLogId { last_membership_log_id: view.id }];
        // It consists of two entries where voters change. Between them it must not be dropped.
        let step = self.runtime.spawn(async move {
            let taken = shared.raft().change_membership_if(change, true, decided_on).await;
            drop(turn);
            taken
        });
        let written = match timeout(STEP_TIMEOUT, step).await {
            Err(_) => return Err(MemberError::Unconfirmed(STEP_TIMEOUT)),
            Ok(Err(_)) => return Err(MemberError::Closed),
            Ok(Ok(outcome)) => outcome.map_err(refused)?,
        };
        // What is decided next must be decided on this membership.
        let mut metrics = self.shared.raft().server_metrics();
        let seen = async {
            while *metrics.borrow_and_update().membership_config.log_id() < Some(written.log_id) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(STEP_TIMEOUT, seen).await.map_err(|_| MemberError::Unconfirmed(STEP_TIMEOUT))
    }

    /// Finishes a change of voters of which a leader before this one took one half. Gives whether there was one.
    pub(super) async fn settle(&self) -> Result<bool, MemberError> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        let mut found = false;
        loop {
            let view = View::of(&self.shared)?;
            if !view.joint {
                return Ok(found);
            }
            found = true;
            tracing::info!("a change of the voters was left half done, it is finished");
            match self.take(&view, ChangeMembers::AddVoterIds(BTreeSet::new())).await {
                Err(MemberError::Busy) if Instant::now() < deadline => sleep(PAUSE).await,
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
    }
}

fn refused(error: RaftError<crate::raft_types::Types, ClientWriteError<crate::raft_types::Types>>) -> MemberError {
    match error {
        RaftError::Fatal(_) => MemberError::Closed,
        RaftError::APIError(ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to)) => {
            MemberError::NotLeader { leader: to.leader_id }
        }
        RaftError::APIError(
            ClientWriteError::PreconditionFailed(_)
            | ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)),
        ) => MemberError::Busy,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => MemberError::Refused(error.to_string()),
    }
}
