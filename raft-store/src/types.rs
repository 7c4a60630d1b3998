//! Numbers with a meaning of their own, so that swapping two does not compile; and what a member is.

use std::fmt;

/// A Raft id. Fresh for every disk and never reused; `n0` and the like are labels, not ids.
pub type NodeId = u64;

/// Place of an entry in a group's Raft log, from 0 (the first membership).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogIndex(pub u64);

/// A Raft term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names an entry: the leader that proposed it and its index.
///
/// Ordered by term, then node, then index, which is Raft's order of leaders followed by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Raft id of that leader.
    pub node: NodeId,
    /// Index of the entry.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}/{}", self.term, self.node, self.index)
    }
}

/// A Raft vote: whom this node last promised to follow. Ordered as Raft orders votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Vote {
    /// Term voted in.
    pub term: u64,
    /// Candidate voted for.
    pub node: NodeId,
    /// A majority granted it: the candidate leads.
    pub committed: bool,
}

/// Names one folder on one disk: random, made when the folder was first used, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DiskId(pub u128);

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl DiskId {
    /// The id in 16 bytes, as messages carry it. Anything but 16 bytes names no disk.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<DiskId> {
        Some(DiskId(u128::from_be_bytes(bytes.try_into().ok()?)))
    }

    pub(crate) fn to_bytes(self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(&self.0.to_be_bytes())
    }
}

/// Where a member answers. Strings that this crate does not look into, but for `peer`, which it dials.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct NodeAddresses {
    /// `host:port` of Raft and forwarding, between the members.
    pub peer: String,
    /// `host:port` of the administration API.
    pub admin: String,
    /// `host:port` of the public API.
    pub grpc: String,
}

/// A member of a group, as the replicated membership records it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct NodeInfo {
    /// Name in the configuration: `n0`.
    pub label: String,
    /// The one disk that may speak for this member.
    pub disk: DiskId,
    /// Where it answers.
    pub addresses: NodeAddresses,
}
