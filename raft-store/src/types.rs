//! Numbers with a meaning of their own, so that swapping two does not compile.

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
