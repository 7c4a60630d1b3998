//! The broker: RocketMQ's queue semantics on a Raft group, behind the public gRPC API.
//!
//! ```text
//! send:     grpc/send ─► propose ─► forward ─► Raft log, synced by a majority ─► apply ─► machine/append
//!                ▲                                                                 │
//!                └──────────────── answer, at this node's own apply ◄──────────────┤
//! receive:  grpc/receive ─► deliver/wait ◄── Arrived ──────────────────────────────┘
//!                 └─► propose ─► … ─► machine/lease ─► bodies from the log ─► handles
//! ack:      grpc/ack ─► propose ─► … ─► machine/ack
//! no ack:   task/clock ─► Tick ─► … ─► machine/tick: the retry index, or the dead letter topic
//! ```
//!
//! Every node does the same: a follower's batches reach the leader over one stream, and its clients are answered
//! by its own apply. `machine` reads no clock, no randomness and no configuration; only `grpc` and `admin` know
//! the wire.

pub mod access;
pub mod admin;
mod agreement;
pub mod apply;
pub mod broker;
pub mod client;
pub mod clock;
mod collector;
pub mod command;
pub mod config;
pub mod deliver;
pub mod filter;
pub mod forward;
pub mod grpc;
mod live;
pub mod machine;
mod main_function;
mod metrics;
pub mod namesrv;
pub mod propose;
pub mod rate;
mod room;
mod spans;
pub mod store;
pub mod task;

pub use main_function::{Arguments, main_knowing, main_with, runtime};
