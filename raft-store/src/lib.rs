//! One Raft group on disk and network. It moves bytes and knows nothing of messages.
//!
//! A command that was proposed and committed is on disk on a majority, is applied once on every member, in the
//! same order, and its rows are visible to readers before its effects are.
//!
//! ```text
//! propose → Raft → log, here and on the followers → committed → apply: rows, in batches → Machine::applied
//! ```
//! Only this crate names the consensus library's types; none of them reaches disk or wire.

mod bootstrap;
mod config;
pub mod disk;
mod error;
mod flush;
mod group;
mod halt;
mod identity;
mod lease_watch;
pub mod log;
mod log_store;
mod machine;
mod membership;
mod network;
mod raft_types;
mod recent;
mod replica;
mod retirement;
mod runtime;
mod secret;
mod service;
mod ship;
mod snapshot;
mod standing;
mod state;
mod status;
mod types;

pub use config::{Dial, Dialing, FlushMode, Peer, PeerStream, RaftConfig, RuntimeMode};
pub use error::{FlushError, ProposeError, ReadError, StartError, TransferError, TrimError};
pub use group::{FillFigures, LogUse, RaftGroup, SegmentUse};
pub use machine::{Committed, Machine, Versions};
pub use membership::{ChangePhase, ChangeProgress, MemberChange, MemberError, MembersChanged, Newcomer};
pub use network::{PAYLOAD_BYTES_MAX, PeerChannel, PeerIdentity};
pub use secret::PeerSecret;
pub use service::{CallingNode, PeerGuard, PeerServices, RaftService, peer_server};
pub use state::{ReadState, State, StateBatch, StateError, StateOptions, Table, Visit, VisitAll};
pub use status::{GroupStatus, Leadership, Member, Role, Shortage, Standing, SyncFigures};
pub use types::{DiskId, LogId, LogIndex, NodeAddresses, NodeId, Term, Vote};
#[doc(hidden)]
pub use {group::open_storage, log_store::LogStore, raft_types::Types, replica::Replica};
