//! Changing who belongs to the group: by the leader, one change at a time, each of them to be run again until it is
//! done.
//!
//! ```text
//! add      {1,2,3} ─▶ 4 learns ─▶ it has what we have ─▶ {1,2,3,4}
//! replace  {1,2,3} ─▶ 4 learns ─▶ it has what we have ─▶ {1,2,4}, 3 learns ─▶ 3 is gone
//! remove   {1,2,3} ─▶ {1,2}, 3 learns ─▶ 3 is gone
//! ```
//!
//! Voters change in one step through a joint membership, which takes a majority of the old and of the new ones. A
//! voter that is to go learns on for a moment: what its clients wait for still reaches it, while new calls do not.
//! A step is taken against the membership that it was decided on, and never before it is known who stands behind an
//! address and that the voters to come are able to go on. What was begun and not finished, because the leader died or
//! nobody waited for it, is found in the membership by whoever runs the command again.

mod change;
mod steps;
mod view;

use crate::group::{RaftGroup, members};
use crate::status::Member;
use crate::types::{DiskId, NodeId};
use change::Change;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use steps::Steps;
use view::View;

/// A node that is to become a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newcomer {
    /// Its name in its configuration.
    pub label: String,
    /// Its Raft id.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskId,
    /// `host:port` at which the other members reach it.
    pub address: String,
}

/// What is to become of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// One more voter.
    Add(Newcomer),
    /// The node takes the place of the voter with its label.
    Replace(Newcomer),
    /// One voter fewer.
    Remove {
        /// Its name in its configuration.
        label: String,
        /// Its Raft id, where the label alone does not tell.
        node: Option<NodeId>,
    },
}

impl fmt::Display for Newcomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Newcomer { label, node, disk, address } = self;
        write!(f, "{label}, node {node:x} on disk {disk} at {address}")
    }
}

impl fmt::Display for MemberChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemberChange::Add(newcomer) => write!(f, "add {newcomer}"),
            MemberChange::Replace(newcomer) => write!(f, "replace by {newcomer}"),
            MemberChange::Remove { label, node: None } => write!(f, "remove {label}"),
            MemberChange::Remove { label, node: Some(node) } => write!(f, "remove {label}, node {node:x}"),
        }
    }
}

/// What a change is about at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangePhase {
    /// Who stands behind the address, and whether the voters are able to go on.
    Checking,
    /// The node gets the log and applies it.
    Filling,
    /// The voters change.
    Voting,
    /// A node without its vote finishes what its clients wait for.
    Leaving,
}

/// How far a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeProgress {
    /// What it is about.
    pub phase: ChangePhase,
    /// Entries that the node still lacks or has not applied.
    pub behind: u64,
    /// Entries that the leader has.
    pub entries: u64,
    /// Bytes of entries that the node has taken from this leader.
    pub delivered_bytes: u64,
}

/// The members after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersChanged {
    /// By label.
    pub members: Vec<Member>,
    /// False when all was as asked for already.
    pub changed: bool,
}

/// Why the members are not as asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// This node does not lead, or not any more. What it began, the command finishes when it is run again.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, where one is known.
        leader: Option<NodeId>,
    },
    /// It would be unsafe, or makes no sense. The text says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// Another change is under way.
    #[error("another change of the members is under way; run the command again when it is over")]
    Busy,
    /// It is not known whether a step was taken.
    #[error("a majority did not confirm the change within {0:?}; run the command again")]
    Unconfirmed(Duration),
    /// The node that is to join takes nothing.
    #[error("{0}")]
    Stuck(String),
    /// The group was stopped, or storage failed.
    #[error("the group is closed")]
    Closed,
}

impl RaftGroup {
    /// Changes the members, and returns once the change is committed. Leader only.
    ///
    /// `tell` hears of progress several times a second while a node is filled, which takes as long as its log is.
    /// Dropping the future gives the change up between two steps, never within one; the same change can be asked for
    /// again at any time, of any leader, until it is done.
    ///
    /// # Errors
    /// [`MemberError`]. [`MemberError::NotLeader`] also when this node handed leadership over because it is itself to
    /// be removed: the next leader takes it from there.
    pub async fn change_members(
        &self,
        change: MemberChange,
        tell: impl FnMut(ChangeProgress) + Send,
    ) -> Result<MembersChanged, MemberError> {
        let shared = self.shared();
        View::of(shared)?;
        let turn = shared.changing().try_lock_owned().map_err(|_| MemberError::Busy)?;
        let steps = Steps { shared: shared.clone(), runtime: self.runtime(), turn: Arc::new(turn) };
        let mut change_of = Change { group: self, shared, steps, tell, changed: false };
        change_of.tell(ChangePhase::Checking);
        change_of.changed |= change_of.steps.settle().await?;
        change_of.wait_for_answers().await?;
        match change {
            MemberChange::Add(newcomer) => change_of.add(&newcomer).await?,
            MemberChange::Replace(newcomer) => change_of.replace(&newcomer).await?,
            MemberChange::Remove { label, node } => change_of.remove(&label, node).await?,
        }
        let changed = change_of.changed;
        Ok(MembersChanged { members: members(&shared.metrics()), changed })
    }
}
