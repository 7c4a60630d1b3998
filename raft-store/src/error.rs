//! Why a group does not start, take a proposal, answer a read or hand over leadership.

use crate::state::StateError;
use crate::types::{LogIndex, NodeId};
use std::io;
use std::path::PathBuf;

/// Why a node did not start. The text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// Another process, or another node of this one, uses the folder.
    #[error("folder {} is in use by another process; stop it, or give this node a folder of its own", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder belongs to another node, group or cluster.
    #[error("folder {}: {what}; {todo}", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What would put it right.
        todo: String,
    },
    /// What is on disk cannot be trusted: the node must not vote or lead with it.
    #[error(
        "{} is damaged: {what}; keep the folder for inspection and let the node come back with an empty one: \
         start it so, and run the mqadmin replacePeer line that it prints",
        path.display()
    )]
    Corrupt {
        /// The damaged file or folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The operating system refused.
    #[error("could not {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The rows could not be opened or brought up to the log.
    #[error(transparent)]
    State(#[from] StateError),
    /// Raft did not start; its text says why.
    #[error("raft did not start: {0}")]
    Raft(String),
}

/// Why a proposal was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead, or has not committed an entry of its own yet. Ask `leader`.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, where one is known and it is another node.
        leader: Option<NodeId>,
    },
    /// Too many bytes wait to be applied. Wait for some to be.
    #[error("more than {limit_bytes} bytes of proposals wait to be applied")]
    Overloaded {
        /// `RaftConfig::propose_bytes_max`.
        limit_bytes: usize,
    },
    /// Members take no entry of this size from one another.
    #[error("the payload has {bytes} bytes, the limit is {limit_bytes}")]
    TooLarge {
        /// Of the payload.
        bytes: usize,
        /// [`crate::PAYLOAD_BYTES_MAX`].
        limit_bytes: usize,
    },
    /// The group was stopped, or storage failed.
    #[error("the group is closed")]
    Closed,
}

/// Why a read cannot be promised to see everything acknowledged before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead. Ask `leader`.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, where one is known.
        leader: Option<NodeId>,
    },
    /// A majority did not answer in time.
    #[error("a majority of the group did not answer: {0}")]
    NoMajority(String),
    /// The group was stopped, or storage failed.
    #[error("the group is closed")]
    Closed,
}

/// Why files of the log were not unlinked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrimError {
    /// Entries below the end of the trim were not applied here.
    #[error("entries below {upto} are to go, and only those up to {applied} were applied")]
    NotApplied {
        /// End of the trim.
        upto: LogIndex,
        /// Last entry that was applied.
        applied: LogIndex,
    },
    /// A member is being filled with what is to go.
    #[error("a member is being filled with entries that are to go")]
    Held,
    /// It took too long; the reason is a short sentence.
    #[error("the log was not trimmed in time: {0}")]
    TimedOut(&'static str),
    /// The group was stopped, or storage failed.
    #[error("the group is closed")]
    Closed,
}

/// Why rows were not written to disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// The disk is too full for what is in memory.
    #[error("there is no room on the disk for the rows that are in memory; they stay there until there is")]
    NoRoom,
    /// The disk failed.
    #[error("the rows could not be flushed: {0}")]
    Rows(String),
    /// The group was stopped, or storage failed.
    #[error("the group is closed")]
    Closed,
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, where one is known.
        leader: Option<NodeId>,
    },
    /// The node asked for is no voter of the group.
    #[error("node {0:x} is not a voter of the group")]
    NotVoter(NodeId),
    /// No other voter has all that this node has.
    #[error("no other voter is level with this node")]
    NobodyLevel,
    /// The node asked for did not take over in time.
    #[error("node {0:x} did not take over in time")]
    TimedOut(NodeId),
    /// The group was stopped, or storage failed.
    #[error("the group is closed")]
    Closed,
}
