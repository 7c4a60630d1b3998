//! What the rows look like, and how to read them.
//!
//! Every read function takes anything that is [`ReadState`](raft_store::ReadState): handlers give it the
//! [`State`](raft_store::State) of their node, the machine gives it the batch under way. Only the machine
//! writes. [`key`] is the table of all keys; each other module owns the values of one kind.
//!
//! Hot paths read points, not ranges: a scan in RocksDB crawls over what was deleted before it. Where a scan
//! is needed, a row remembers the low end (`Subscription::retry_low`, `Progress::low`, the low end of deadlines).

pub mod access;
mod available;
mod codec;
pub mod consumer_group;
pub mod deadline;
pub mod due;
pub mod explain;
pub mod fifo;
pub mod half;
pub mod key;
mod lag;
pub mod lease;
pub mod lite;
pub mod machine;
pub mod message;
pub mod node;
pub mod progress;
pub mod queue;
pub mod retention;
pub mod retry;
pub mod sent;
pub mod session;
pub mod subscription;
pub mod timer;
pub mod topic;
pub mod trace;
pub(crate) mod work;

pub use available::available;
pub use key::TABLES;
pub use lag::{LITE_LOOKED_MAX, Lag, LiteLooks, LiteShare, Oldest, backlog, lag, lite_backlog};
pub use raft_store::StateError;

/// One life of a topic: a topic deleted and created again has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u64);

/// One life of a consumer group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerGroupId(pub u64);

/// A lease of a consumer group. Ids increase, and carry the cluster time of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl LeaseId {
    /// Bits below the time: a million leases a millisecond before ids run ahead of it.
    const ORDINAL_BITS: u32 = 20;

    /// The id after `last` at cluster time `now_ms`.
    #[must_use]
    pub fn next(last: LeaseId, now_ms: u64) -> LeaseId {
        LeaseId(last.0.saturating_add(1).max(now_ms << Self::ORDINAL_BITS))
    }

    /// Cluster time at which the lease was made, in ms.
    #[must_use]
    pub fn made_ms(self) -> u64 {
        self.0 >> Self::ORDINAL_BITS
    }
}
