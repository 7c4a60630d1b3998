//! One Raft group on disk and network. It moves bytes and knows nothing of messages.
//!
//! A command that was proposed and committed is on disk on a majority, is applied once on every member, in the
//! same order, and its rows are visible to readers before its effects are.

pub mod disk;
pub mod log;
mod machine;
mod state;
mod types;

pub use machine::{Committed, Machine};
pub use state::{ReadState, State, StateBatch, StateError, StateOptions, Table, Visit};
pub use types::{LogId, LogIndex, NodeId, Term, Vote};
