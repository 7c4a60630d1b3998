//! Being called by the other members.
//!
//! Whoever calls says for which cluster, group, node and disk the call is meant, and who it is; what is not meant
//! for this disk, or comes from a disk that the membership does not know under that name, is refused with a
//! sentence, and so is who does not prove that it has the secret of the group, where there is one. Entries are taken in within a bound of bytes: what is not yet durable here holds back its leader.

#![allow(clippy::result_large_err, reason = "the type of errors is tonic's")]

use crate::group::Shared;
use crate::network::{
    CALLER_KEY, CONNECTION_WINDOW_BYTES, KEEP_ALIVE, KEEP_ALIVE_TIMEOUT, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES,
};
use crate::raft_types::{
    StoredMembership, Types, entry_from_wire, node_from_wire, node_to_wire, raft_log_id_from_wire, raft_log_id_to_wire,
    vote_from_wire, vote_to_wire,
};
use crate::types::{DiskId, NodeId};
use futures::{Stream, StreamExt, stream};
use openraft::errors::Fatal;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    VoteRequest,
};
use parking_lot::Mutex;
use raftmq_proto::raft as wire;
use raftmq_proto::raft::raft_server::{Raft, RaftServer};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Bytes of entries that were taken in and not answered yet, over all callers.
const INTAKE_BYTES_MAX: usize = 64 << 20;

/// What stands on the peer listener of a node.
#[derive(Clone)]
pub struct PeerServices {
    /// Raft itself.
    pub raft: RaftServer<RaftService>,
    /// Checks that a call to any other service on this listener comes from a member and is meant for this node.
    pub guard: PeerGuard,
}

impl PeerServices {
    pub(crate) fn new(shared: Arc<Shared>) -> PeerServices {
        let service = RaftService { shared: shared.clone(), intake: Arc::new(Semaphore::new(INTAKE_BYTES_MAX)) };
        PeerServices {
            raft: RaftServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX),
            guard: PeerGuard { shared },
        }
    }
}

/// A server whose windows and keep-alives fit the traffic between members, for the peer listener.
#[must_use]
pub fn peer_server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

/// Id of the member that calls, as [`PeerGuard`] leaves it in the extensions of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallingNode(pub NodeId);

/// Refuses calls that do not come from a member of the group or are meant for another node.
#[derive(Clone)]
pub struct PeerGuard {
    shared: Arc<Shared>,
}

impl PeerGuard {
    /// Who calls.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` with a sentence that says what does not fit.
    pub fn check(&self, metadata: &MetadataMap) -> Result<NodeId, Status> {
        let caller = check(&self.shared, metadata)?;
        // Raft itself asks no such thing: a member that lags must take the entries of a leader that it has not heard of.
        if self.shared.member(caller).is_none() {
            return Err(Status::failed_precondition(format!("the group has no member {caller:x}")));
        }
        Ok(caller)
    }
}

impl Interceptor for PeerGuard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let caller = self.check(request.metadata())?;
        request.extensions_mut().insert(CallingNode(caller));
        Ok(request)
    }
}

fn check(shared: &Shared, metadata: &MetadataMap) -> Result<NodeId, Status> {
    if shared.ended() {
        return Err(stopped(&shared.identity().label));
    }
    let refuse = |text: String| Err(Status::failed_precondition(text));
    let Some(caller) = metadata.get_bin(CALLER_KEY) else {
        return refuse("this port is for the members of a broker group; the call does not say who makes it".to_owned());
    };
    let illegible = || Status::failed_precondition("the call does not say legibly who makes it");
    let caller = caller.to_bytes().map_err(|_| illegible())?;
    shared.network().proven(metadata, &caller)?;
    let caller: wire::Caller = prost::Message::decode(caller).map_err(|_| illegible())?;
    let us = shared.identity();
    if (caller.cluster.as_str(), caller.group.as_str()) != (us.cluster.as_str(), us.group.as_str()) {
        return refuse(format!(
            "this is a node of group {} in cluster {}, the call is for group {} in cluster {}; check the addresses \
             of the peers",
            us.group, us.cluster, caller.group, caller.cluster
        ));
    }
    if caller.to != us.node || DiskId::from_bytes(&caller.to_disk) != Some(us.disk) {
        return refuse(format!(
            "this is node {} with id {:x} on disk {}, the call is for id {:x}: the disk behind this address was \
             replaced, or two nodes share the address",
            us.label, us.node, us.disk, caller.to
        ));
    }
    if let Some(known) = shared.member_disk(caller.from)
        && DiskId::from_bytes(&caller.from_disk) != Some(known)
    {
        return refuse(format!(
            "the group knows node {:x} by disk {known}; the caller has another: a replaced disk needs a new id",
            caller.from
        ));
    }
    Ok(caller.from)
}

/// Answers Raft's messages.
#[derive(Clone)]
pub struct RaftService {
    shared: Arc<Shared>,
    intake: Arc<Semaphore>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<wire::AppendReply, Status>> + Send>>;

type FillReplies = Pin<Box<dyn Stream<Item = Result<wire::FillReply, Status>> + Send>>;

#[tonic::async_trait]
impl Raft for RaftService {
    type AppendStream = Replies;
    type FillStream = FillReplies;

    async fn append(
        &self,
        request: Request<tonic::Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let from = check(&self.shared, request.metadata())?;
        let intake = Intake {
            shared: self.shared.clone(),
            from,
            permits: self.intake.clone(),
            inbound: request.into_inner(),
            held: Arc::default(),
            refused: Arc::default(),
        };
        let (held, refused) = (intake.held.clone(), intake.refused.clone());
        let requests = Box::pin(stream::unfold(intake, Intake::next));
        let answers = self.shared.raft().stream_append(requests).map(move |answer| {
            held.lock().pop_front();
            append_answer(answer)
        });
        let last_word =
            stream::once(async move { refused.lock().take() }).filter_map(|word| async move { word.map(Err) });
        Ok(Response::new(Box::pin(answers.chain(last_word))))
    }

    async fn heartbeat(&self, request: Request<wire::AppendRequest>) -> Result<Response<wire::AppendReply>, Status> {
        let from = check(&self.shared, request.metadata())?;
        let request = append_request(request.into_inner())?;
        self.shared.heard(from, &request.vote, committed(&request));
        let previous = request.prev_log_id;
        let answer = self.shared.raft().append_entries(request).await.map_err(|error| stopped(&error))?;
        append_answer(Ok(answer.into_stream_result(previous, previous))).map(Response::new)
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        check(&self.shared, request.metadata())?;
        let request = vote_request(request.into_inner())?;
        let answer = self.shared.raft().vote(request).await.map_err(|error| stopped(&error))?;
        Ok(Response::new(wire::VoteReply {
            vote: Some(vote_to_wire(&answer.vote)),
            granted: answer.vote_granted,
            last: answer.last_log_id.as_ref().map(raft_log_id_to_wire),
        }))
    }

    async fn pre_vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        check(&self.shared, request.metadata())?;
        let request = vote_request(request.into_inner())?;
        let answer = self.shared.raft().pre_vote(request).await.map_err(|error| stopped(&error))?;
        Ok(Response::new(wire::VoteReply {
            vote: Some(vote_to_wire(&answer.vote)),
            granted: answer.vote_granted,
            last: answer.last_log_id.as_ref().map(raft_log_id_to_wire),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderReply>, Status> {
        use wire::transfer_leader_reply::{Accepted, NotFlushed, Result as Reply, VoteChanged};
        check(&self.shared, request.metadata())?;
        let request = request.into_inner();
        let request = TransferLeaderRequest::<Types>::new(
            vote_from_wire(request.from.ok_or_else(|| Status::invalid_argument("the request names no vote"))?),
            request.to,
            request.last.map(raft_log_id_from_wire),
        );
        let answer = self.shared.raft().handle_transfer_leader(request).await.map_err(|error| stopped(&error))?;
        let result = match answer {
            Ok(()) => Reply::Accepted(Accepted {}),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => Reply::VoteChanged(VoteChanged {
                expected: Some(vote_to_wire(&expected)),
                actual: Some(vote_to_wire(&actual)),
            }),
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => Reply::NotFlushed(NotFlushed {
                expected: expected.as_ref().map(raft_log_id_to_wire),
                actual: actual.as_ref().map(raft_log_id_to_wire),
            }),
        };
        Ok(Response::new(wire::TransferLeaderReply { result: Some(result) }))
    }

    async fn fill(
        &self,
        request: Request<tonic::Streaming<wire::FillRequest>>,
    ) -> Result<Response<FillReplies>, Status> {
        check(&self.shared, request.metadata())?;
        Ok(Response::new(Box::pin(crate::ship::replies(self.shared.clone(), request.into_inner()))))
    }

    async fn hello(&self, request: Request<wire::HelloRequest>) -> Result<Response<wire::HelloReply>, Status> {
        let network = self.shared.network();
        network.proven(request.metadata(), &network.hello())?;
        let asked = request.into_inner();
        let initialised = self.shared.raft().is_initialized().await.map_err(|error| stopped(&error))?;
        let us = self.shared.identity();
        let label = asked.from.as_ref().map_or("", |from| from.label.as_str());
        let holder = self.shared.holder(label).map(|(id, info)| node_to_wire(id, &info));
        let caller = asked.from.and_then(node_from_wire).map(|(id, info)| (id, info.disk));
        let metrics = self.shared.metrics();
        let has = |membership: &StoredMembership| {
            caller.is_some_and(|(id, disk)| membership.get_node(&id).is_some_and(|info| info.disk == disk))
        };
        let committed = &metrics.committed_membership_config;
        Ok(Response::new(wire::HelloReply {
            cluster: us.cluster.clone(),
            group: us.group.clone(),
            node: Some(node_to_wire(us.node, self.shared.info())),
            peers: self.shared.wire_peers(),
            initialised,
            holder,
            leader: self.shared.leader().unwrap_or(0),
            membership: committed.log_id().as_ref().map(raft_log_id_to_wire),
            knows_caller: has(committed) || has(&metrics.membership_config),
            applied: metrics.last_applied.as_ref().map(raft_log_id_to_wire),
            version: self.shared.newest_version(),
        }))
    }
}

/// Entries on their way from a leader's stream into Raft.
struct Intake {
    shared: Arc<Shared>,
    from: NodeId,
    permits: Arc<Semaphore>,
    inbound: tonic::Streaming<wire::AppendRequest>,
    /// One permit per request that Raft has not answered.
    held: Arc<Mutex<VecDeque<Option<OwnedSemaphorePermit>>>>,
    /// Why the stream ends, where it is not the leader that ended it.
    refused: Arc<Mutex<Option<Status>>>,
}

impl Intake {
    async fn next(mut self) -> Option<(AppendEntriesRequest<Types>, Intake)> {
        let message = match self.inbound.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return None,
            Err(status) => {
                tracing::debug!(from = format_args!("{:x}", self.from), %status, "a stream of entries broke");
                self.shared.lost(self.from);
                return None;
            }
        };
        let bytes: usize = message.entries.iter().map(|entry| entry.payload.len()).sum();
        match append_request(message) {
            Ok(request) => {
                self.shared.heard(self.from, &request.vote, committed(&request));
                let wanted = u32::try_from(bytes.min(INTAKE_BYTES_MAX)).unwrap_or(u32::MAX);
                // The semaphore is never closed.
                let permit = self.permits.clone().acquire_many_owned(wanted).await.ok();
                self.held.lock().push_back(permit);
                Some((request, self))
            }
            Err(status) => {
                tracing::error!(from = format_args!("{:x}", self.from), reason = status.message(), "refused entries");
                *self.refused.lock() = Some(status);
                None
            }
        }
    }
}

fn append_request(request: wire::AppendRequest) -> Result<AppendEntriesRequest<Types>, Status> {
    let vote = vote_from_wire(request.vote.ok_or_else(|| Status::invalid_argument("the request names no vote"))?);
    let previous = request.previous.map(raft_log_id_from_wire);
    let first = previous.as_ref().map_or(0, |id| id.index + 1);
    let mut entries = Vec::with_capacity(request.entries.len());
    for (expected, entry) in (first..).zip(request.entries) {
        let entry = entry_from_wire(entry).map_err(|error| Status::data_loss(error.to_string()))?;
        if entry.log_id.index != expected {
            return Err(Status::data_loss(format!("entry {} comes where {expected} must", entry.log_id.index)));
        }
        entries.push(entry);
    }
    let leader_commit = request.committed.map(raft_log_id_from_wire);
    Ok(AppendEntriesRequest { vote, prev_log_id: previous, entries, leader_commit })
}

fn committed(request: &AppendEntriesRequest<Types>) -> Option<u64> {
    request.leader_commit.as_ref().map(|id| id.index)
}

fn append_answer(answer: Result<StreamAppendResult<Types>, Fatal<Types>>) -> Result<wire::AppendReply, Status> {
    use wire::append_reply::Result as Reply;
    let result = match answer.map_err(|error| stopped(&error))? {
        Ok(upto) => Reply::Matched(wire::Matched { upto: upto.as_ref().map(raft_log_id_to_wire) }),
        Err(StreamAppendError::Conflict(id)) => Reply::Conflict(raft_log_id_to_wire(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Reply::HigherVote(vote_to_wire(&vote)),
    };
    Ok(wire::AppendReply { result: Some(result) })
}

fn vote_request(request: wire::VoteRequest) -> Result<VoteRequest<Types>, Status> {
    let vote = vote_from_wire(request.vote.ok_or_else(|| Status::invalid_argument("the request names no vote"))?);
    let mut asked = VoteRequest::new(vote, request.last.map(raft_log_id_from_wire));
    asked.leadership_transfer = request.transfer;
    Ok(asked)
}

fn stopped(error: &impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the node is stopping: {error}"))
}
