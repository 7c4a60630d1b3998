//! What a group says about itself.

use crate::types::{LogId, LogIndex, NodeAddresses, NodeId, Term, Vote};
use std::sync::Arc;
use std::time::Duration;

/// Who leads, as this node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The latest term this node knows of.
    pub term: Term,
    /// The leader of that term, when one is known.
    pub leader: Option<NodeId>,
    /// This node leads, and the first entry of its own is committed: proposals are taken.
    pub leads: bool,
    /// Counts proposals that this node had taken and that came to nothing, because leadership or its lease was
    /// lost before they entered the log. Whoever waits for the effect of a proposal proposes it again when this
    /// grows, as when leadership changes.
    pub refusals: u64,
}

/// What a node does in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Receives the log without a vote.
    Learner,
    /// Follows a leader.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// The group has removed this node.
    Removed,
    /// Stopped, on request or because storage failed.
    Stopped,
}

/// A member of the group. What only a leader knows is `None` on other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its Raft id.
    pub id: NodeId,
    /// Its name in the configuration.
    pub label: String,
    /// Where it answers.
    pub addresses: NodeAddresses,
    /// It has a vote, or will have one when the voters change at the moment; otherwise it learns.
    pub voter: bool,
    /// Its log equals the leader's up to here, durably.
    pub matched: Option<LogIndex>,
    /// Entries that it lacks.
    pub lag: Option<u64>,
    /// Since the leader last heard of it.
    pub last_ack: Option<Duration>,
}

/// How long syncs of the log take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncFigures {
    /// Syncs since the node started.
    pub count: u64,
    /// How long they took together.
    pub total: Duration,
    /// How long the oldest write that is not durable has been waiting.
    pub waiting: Option<Duration>,
}

/// A disk without room for more of what can wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Folder on that disk.
    pub folder: String,
    /// Bytes that are free there.
    pub free_bytes: u64,
    /// Bytes that must be free for things to go on.
    pub needed_bytes: u64,
}

/// Where a node stands that follows, by what leaders told it was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No leader has told it anything since it started.
    Untold,
    /// It has not applied yet what it was told first after it started.
    Starting {
        /// Committed entries that it has not applied.
        entries: u64,
    },
    /// It keeps up.
    Follows {
        /// Committed entries that it has not applied.
        entries: u64,
        /// Since it was told of the first of them; to some 200 ms.
        since: Duration,
    },
}

/// A node's view of its group, for operators and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the group.
    pub group: String,
    /// This node's Raft id.
    pub node: NodeId,
    /// This node's name.
    pub label: String,
    /// Increases with every start of this node.
    pub boot: u64,
    /// What it does.
    pub role: Role,
    /// The latest term it knows of.
    pub term: Term,
    /// The leader of that term, when one is known.
    pub leader: Option<NodeId>,
    /// Whom it promised to follow last.
    pub vote: Vote,
    /// Last entry of its log.
    pub last: Option<LogIndex>,
    /// Last entry of its log that is durable here.
    pub durable: Option<LogIndex>,
    /// Last entry that it knows to be committed and has.
    pub committed: Option<LogId>,
    /// Last entry that it applied.
    pub applied: Option<LogId>,
    /// How far it is behind its leader; means nothing on a leader.
    pub standing: Standing,
    /// Entries up to here are gone from its log.
    pub purged: Option<LogId>,
    /// The members, by label.
    pub members: Vec<Member>,
    /// On a leader: since a majority last confirmed it.
    pub quorum_ack: Option<Duration>,
    /// How long half of the recent syncs of the log took at most.
    pub fsync_p50: Duration,
    /// How long 99 % of the recent syncs of the log took at most.
    pub fsync_p99: Duration,
    /// The longest of the recent syncs of the log.
    pub fsync_max: Duration,
    /// How long the oldest write that is not durable has been waiting.
    pub oldest_unsynced: Option<Duration>,
    /// Files of the log.
    pub log_segments: usize,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// A disk of this node is full: what can wait must be refused.
    pub shortage: Option<Shortage>,
    /// Why this node is not in a group yet.
    pub waiting: Option<String>,
    /// Why this node stopped.
    pub halted: Option<Arc<str>>,
}
