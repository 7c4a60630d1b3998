//! The contracts of RaftMQ: what crosses a socket or reaches a disk.
//!
//! Generated code lives in the modules below, one per protobuf package. Only the edges name these types;
//! past them there are names that were parsed once ([`name`]) and plain Rust.

pub mod digest;
pub mod name;
pub mod signature;

/// `apache.rocketmq.v2`: the public API that every official client speaks.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod rocketmq {
    tonic::include_proto!("apache.rocketmq.v2");
}

/// `raftmq.command.v1`: what a broker group replicates; it only grows.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod command {
    tonic::include_proto!("raftmq.command.v1");
}

/// `raftmq.forward.v1`: from a broker node to the leader of its group.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod forward {
    tonic::include_proto!("raftmq.forward.v1");
}

/// `raftmq.raft.v1`: Raft between the members of a broker group.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod raft {
    tonic::include_proto!("raftmq.raft.v1");
}

/// `raftmq.namesrv.v1`: from brokers and admin tools to name servers.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod namesrv {
    tonic::include_proto!("raftmq.namesrv.v1");
}

/// `raftmq.admin.v1`: what `mqadmin` asks of a broker node.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod admin {
    tonic::include_proto!("raftmq.admin.v1");
}

/// The descriptors of every contract above, an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
