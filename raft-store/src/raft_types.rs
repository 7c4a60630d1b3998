//! openraft's types for our group, and the one place where they are turned into ours and into messages.
//!
//! None of openraft's types reaches disk or wire: an upgrade of the library is never a data migration.

use crate::log::{Entry as LogEntry, EntryKind};
use crate::types::{DiskId, LogId, NodeAddresses, NodeId, NodeInfo, Vote};
use bytes::Bytes;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use openraft::{EntryPayload, RaftTypeConfig};
use prost::Message;
use raftmq_proto::raft as wire;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

/// openraft's name for the set of types below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

impl RaftTypeConfig for Types {
    type D = Command;
    type R = ();
    type NodeId = NodeId;
    type Node = NodeInfo;
    type Term = u64;
    type LeaderId = LeaderId<u64, NodeId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Command, NodeId, NodeInfo>;
    type Entry = openraft::Entry<LeaderId<u64, NodeId>, Self::Payload>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Outcome<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type RaftLogId = openraft::LogId<LeaderId<u64, NodeId>>;
pub(crate) type RaftVote = openraft::Vote<LeaderId<u64, NodeId>>;
pub(crate) type RaftEntry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type RaftMembership = openraft::Membership<NodeId, NodeInfo>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;

/// What is proposed: bytes and their CRC32C, computed once by the proposer and checked by each replica.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// The proposal.
    pub payload: Bytes,
    /// CRC32C of the payload.
    pub crc: u32,
}

impl Command {
    /// Computes the checksum of `payload`.
    #[must_use]
    pub fn new(payload: Bytes) -> Command {
        let crc = crc32c::crc32c(&payload);
        Command { payload, crc }
    }
}

// Bodies stay out of logs.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.payload.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Told what became of a proposal: whether it was carried out, or refused after it had been queued.
pub struct Outcome<T> {
    done: Option<Box<dyn FnOnce(bool) + Send>>,
    result: PhantomData<fn(T)>,
}

impl<T> Outcome<T> {
    /// Calls `done` once: with `true` when the entry was applied here, with `false` when it was refused or lost.
    pub fn new(done: impl FnOnce(bool) + Send + 'static) -> Outcome<T> {
        Outcome { done: Some(Box::new(done)), result: PhantomData }
    }
}

// openraft asks for a responder of any `T`; the one it ever hands over is the result of a client's write.
impl<T: Send + 'static> Responder<Types, T> for Outcome<T> {
    fn on_complete(mut self, result: T) {
        let result: &dyn Any = &result;
        let carried_out = result.downcast_ref::<ClientWriteResult<Types>>().is_some_and(Result::is_ok);
        if let Some(done) = self.done.take() {
            done(carried_out);
        }
    }
}

impl<T> Drop for Outcome<T> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(false);
        }
    }
}

pub(crate) fn to_raft_log_id(id: LogId) -> RaftLogId {
    RaftLogId::new(LeaderId { term: id.term, node_id: id.node }, id.index)
}

pub(crate) fn from_raft_log_id(id: &RaftLogId) -> LogId {
    LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(crate) fn to_raft_vote(vote: Vote) -> RaftVote {
    RaftVote { leader_id: LeaderId { term: vote.term, node_id: vote.node }, committed: vote.committed }
}

pub(crate) fn from_raft_vote(vote: &RaftVote) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

/// Why bytes of a membership make no sense.
#[derive(Debug, thiserror::Error)]
#[error("membership does not decode: {0}")]
pub(crate) struct BadMembership(String);

pub(crate) fn encode_membership(membership: &RaftMembership) -> wire::Membership {
    wire::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| wire::Voters { nodes: voters.iter().copied().collect() })
            .collect(),
        nodes: membership.nodes().map(|(id, info)| node_to_wire(*id, info)).collect(),
    }
}

pub(crate) fn decode_membership(membership: wire::Membership) -> Result<RaftMembership, BadMembership> {
    let configs: Vec<BTreeSet<NodeId>> =
        membership.configs.into_iter().map(|voters| voters.nodes.into_iter().collect()).collect();
    let mut nodes = BTreeMap::new();
    for node in membership.nodes {
        let (id, info) = node_from_wire(node).ok_or_else(|| BadMembership("a member names no disk".to_owned()))?;
        nodes.insert(id, info);
    }
    if configs.is_empty() {
        // The membership of a log that never had one.
        return Ok(RaftMembership::default());
    }
    RaftMembership::new(configs, nodes).map_err(|error| BadMembership(error.to_string()))
}

pub(crate) fn encode_stored(membership: &StoredMembership) -> Vec<u8> {
    stored_to_wire(membership).encode_to_vec()
}

pub(crate) fn decode_stored(bytes: &[u8]) -> Result<StoredMembership, BadMembership> {
    let stored = wire::StoredMembership::decode(bytes).map_err(|error| BadMembership(error.to_string()))?;
    stored_from_wire(stored)
}

pub(crate) fn stored_to_wire(membership: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        id: membership.log_id().as_ref().map(|id| log_id_to_wire(from_raft_log_id(id))),
        membership: Some(encode_membership(membership.membership())),
    }
}

pub(crate) fn stored_from_wire(stored: wire::StoredMembership) -> Result<StoredMembership, BadMembership> {
    let membership = decode_membership(stored.membership.unwrap_or_default())?;
    Ok(StoredMembership::new(stored.id.map(|id| to_raft_log_id(log_id_from_wire(id))), membership))
}

pub(crate) fn to_log_entry(entry: RaftEntry) -> LogEntry {
    let id = from_raft_log_id(&entry.log_id);
    match entry.payload {
        EntryPayload::Blank => LogEntry { id, kind: EntryKind::Blank, payload: Bytes::new(), crc: 0 },
        EntryPayload::Normal(command) => {
            LogEntry { id, kind: EntryKind::Command, payload: command.payload, crc: command.crc }
        }
        EntryPayload::Membership(membership) => {
            let payload = Bytes::from(encode_membership(&membership).encode_to_vec());
            let crc = crc32c::crc32c(&payload);
            LogEntry { id, kind: EntryKind::Membership, payload, crc }
        }
    }
}

pub(crate) fn from_log_entry(entry: LogEntry) -> Result<RaftEntry, BadMembership> {
    let log_id = to_raft_log_id(entry.id);
    let payload = match entry.kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Command => EntryPayload::Normal(Command { payload: entry.payload, crc: entry.crc }),
        EntryKind::Membership => {
            let membership =
                wire::Membership::decode(entry.payload).map_err(|error| BadMembership(error.to_string()))?;
            EntryPayload::Membership(decode_membership(membership)?)
        }
    };
    Ok(RaftEntry { log_id, payload })
}

pub(crate) fn log_id_to_wire(id: LogId) -> wire::LogId {
    wire::LogId { term: id.term, node: id.node, index: id.index }
}

pub(crate) fn log_id_from_wire(id: wire::LogId) -> LogId {
    LogId { term: id.term, node: id.node, index: id.index }
}

pub(crate) fn raft_log_id_to_wire(id: &RaftLogId) -> wire::LogId {
    log_id_to_wire(from_raft_log_id(id))
}

pub(crate) fn raft_log_id_from_wire(id: wire::LogId) -> RaftLogId {
    to_raft_log_id(log_id_from_wire(id))
}

pub(crate) fn vote_to_wire(vote: &RaftVote) -> wire::Vote {
    let vote = from_raft_vote(vote);
    wire::Vote { term: vote.term, node: vote.node, committed: vote.committed }
}

pub(crate) fn vote_from_wire(vote: wire::Vote) -> RaftVote {
    to_raft_vote(Vote { term: vote.term, node: vote.node, committed: vote.committed })
}

pub(crate) fn entry_to_wire(entry: RaftEntry) -> wire::Entry {
    log_entry_to_wire(to_log_entry(entry))
}

pub(crate) fn log_entry_to_wire(entry: LogEntry) -> wire::Entry {
    let kind = match entry.kind {
        EntryKind::Command => wire::EntryKind::Command,
        EntryKind::Blank => wire::EntryKind::Blank,
        EntryKind::Membership => wire::EntryKind::Membership,
    };
    wire::Entry { id: Some(log_id_to_wire(entry.id)), kind: kind.into(), payload: entry.payload, crc: entry.crc }
}

/// What is wrong with an entry that a peer sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadEntry {
    #[error("an entry has no id")]
    NoId,
    #[error("entry {0} is of unknown kind {1}; is the peer newer than this node?")]
    UnknownKind(u64, i32),
    #[error("entry {0} fails its checksum: it was damaged on its way or in the peer's memory")]
    Checksum(u64),
    #[error(transparent)]
    Membership(#[from] BadMembership),
}

pub(crate) fn entry_from_wire(entry: wire::Entry) -> Result<RaftEntry, BadEntry> {
    let id = log_id_from_wire(entry.id.ok_or(BadEntry::NoId)?);
    let kind = match wire::EntryKind::try_from(entry.kind) {
        Ok(wire::EntryKind::Command) => EntryKind::Command,
        Ok(wire::EntryKind::Blank) => EntryKind::Blank,
        Ok(wire::EntryKind::Membership) => EntryKind::Membership,
        Err(_) => return Err(BadEntry::UnknownKind(id.index, entry.kind)),
    };
    if crc32c::crc32c(&entry.payload) != entry.crc {
        return Err(BadEntry::Checksum(id.index));
    }
    Ok(from_log_entry(LogEntry { id, kind, payload: entry.payload, crc: entry.crc })?)
}

pub(crate) fn node_to_wire(id: NodeId, info: &NodeInfo) -> wire::Node {
    wire::Node {
        id,
        disk: info.disk.to_bytes(),
        label: info.label.clone(),
        addresses: Some(wire::Addresses {
            peer: info.addresses.peer.clone(),
            admin: info.addresses.admin.clone(),
            grpc: info.addresses.grpc.clone(),
        }),
    }
}

/// `None` when the message names no disk.
pub(crate) fn node_from_wire(node: wire::Node) -> Option<(NodeId, NodeInfo)> {
    let disk = DiskId::from_bytes(&node.disk)?;
    let addresses = node.addresses.unwrap_or_default();
    let addresses = NodeAddresses { peer: addresses.peer, admin: addresses.admin, grpc: addresses.grpc };
    Some((node.id, NodeInfo { label: node.label, disk, addresses }))
}

#[cfg(test)]
mod tests {
    use super::{
        BadEntry, Command, NodeInfo, RaftEntry, RaftMembership, StoredMembership, decode_stored, encode_stored,
        entry_from_wire, entry_to_wire, to_raft_log_id,
    };
    use crate::types::{DiskId, LogId, NodeAddresses};
    use bytes::Bytes;
    use openraft::EntryPayload;
    use std::collections::{BTreeMap, BTreeSet};

    fn membership() -> RaftMembership {
        let info = |label: &str, disk| NodeInfo {
            label: label.to_owned(),
            disk: DiskId(disk),
            addresses: NodeAddresses {
                peer: format!("{label}:40911"),
                admin: format!("{label}:10911"),
                grpc: format!("{label}:8081"),
            },
        };
        let nodes = BTreeMap::from([(7, info("n0", 1)), (8, info("n1", u128::MAX)), (9, info("n2", 3))]);
        RaftMembership::new(vec![BTreeSet::from([7, 8]), BTreeSet::from([8])], nodes).expect("voters are nodes")
    }

    #[test]
    fn entries_cross_the_wire_and_damage_is_seen() {
        let id = to_raft_log_id(LogId { term: 3, node: 7, index: 12 });
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Command::new(Bytes::from_static(b"body"))),
            EntryPayload::Membership(membership()),
        ] {
            let entry = RaftEntry { log_id: id, payload };
            assert_eq!(entry_from_wire(entry_to_wire(entry.clone())).expect("decodes"), entry);
        }
        let command = EntryPayload::Normal(Command::new(Bytes::from_static(b"body")));
        let mut damaged = entry_to_wire(RaftEntry { log_id: id, payload: command });
        damaged.payload = Bytes::from_static(b"bodY");
        assert!(matches!(entry_from_wire(damaged), Err(BadEntry::Checksum(12))));
    }

    #[test]
    fn a_stored_membership_reads_back() {
        let id = to_raft_log_id(LogId { term: 1, node: 8, index: 0 });
        for stored in [StoredMembership::new(Some(id), membership()), StoredMembership::default()] {
            assert_eq!(decode_stored(&encode_stored(&stored)).expect("decodes"), stored);
        }
    }
}
