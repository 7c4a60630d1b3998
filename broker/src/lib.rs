//! The broker: queue semantics on a Raft group, and the public gRPC API.

pub mod command;
pub mod filter;
pub mod machine;
pub mod store;
