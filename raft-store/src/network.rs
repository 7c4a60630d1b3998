//! Calling the other members.
//!
//! Each peer has three connections: one for entries, one for heartbeats and votes, so that a full pipe of entries
//! delays no heartbeat, and one for what fills it. Connections are made when something is sent, never before, and again after they broke.
//! Every call says who calls whom; the other side refuses what is not meant for it.

#![allow(clippy::result_large_err, reason = "the types of errors are openraft's and tonic's")]

use crate::config::{Dial, RaftConfig};
use crate::log::Log;
use crate::raft_types::{
    RaftLogId, Types, entry_to_wire, from_raft_log_id, raft_log_id_from_wire, raft_log_id_to_wire, vote_from_wire,
    vote_to_wire,
};
use crate::secret::PeerSecret;
use crate::ship;
use crate::snapshot::{SnapshotData, Snapshots};
use crate::types::{DiskId, NodeId, NodeInfo};
use futures::{Stream, StreamExt, TryStreamExt};
use hyper_util::rt::TokioIo;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{OptionalSend, RaftNetworkV2};
use parking_lot::Mutex;
use raftmq_proto::raft as wire;
use raftmq_proto::raft::raft_client::RaftClient;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::{Binary, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

/// Metadata key of the encoded `Caller`.
pub(crate) const CALLER_KEY: &str = "raftmq-peer-bin";

/// Largest payload of an entry. One that its followers refuse would stand in the way of all that come after it.
pub const PAYLOAD_BYTES_MAX: usize = 80 << 20;

/// Largest message that is taken from a peer: one entry, or several that together are smaller than that.
pub(crate) const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + (16 << 20);

/// Flow-control window of one stream, so that a round trip never waits for credit.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// Flow-control window of one connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Requests to one follower that wait for their answers. openraft's follower side holds at most 64.
const INFLIGHT_REQUESTS_MAX: usize = 64;

/// Bytes of entries to one follower that wait for their answers; one request may exceed it.
const INFLIGHT_BYTES_MAX: usize = 32 << 20;

/// After this long a silent connection is asked for a sign of life.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// A connection that gives none within this time is closed.
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits between attempts to reach a peer: each twice the one before, up to the last.
const BACKOFF_MS: [u64; 5] = [20, 40, 80, 160, 250];

/// Failures in a row after which it is told that a peer does not answer.
const FAILURES_TOLD: u32 = 4;

/// After the filling of a peer broke off, beside the waits above.
const FILL_PAUSE: Duration = Duration::from_secs(1);

/// Callers without the secret are logged so often.
const STRANGERS_EVERY: Duration = Duration::from_secs(10);

/// Says in every call who calls whom.
#[derive(Debug, Clone)]
pub struct PeerIdentity {
    /// `None` while it is not known who is called.
    caller: Option<MetadataValue<Binary>>,
    /// That the caller has the secret of the group, where there is one.
    proof: Option<MetadataValue<Binary>>,
}

impl Interceptor for PeerIdentity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(caller) = &self.caller {
            request.metadata_mut().insert_bin(CALLER_KEY, caller.clone());
        }
        PeerSecret::show(self.proof.as_ref(), request.metadata_mut());
        Ok(request)
    }
}

/// A connection to a member that says who calls whom.
pub type PeerChannel = InterceptedService<Channel, PeerIdentity>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    /// Log entries.
    Entries,
    /// Heartbeats and votes.
    Pulse,
    /// Rows and old entries for a member that lacks them.
    Fill,
    /// Whatever is not Raft.
    Other,
}

type Connections = HashMap<(NodeId, Lane), (NodeInfo, PeerChannel)>;

/// Connections of this node to its peers.
pub(crate) struct Network {
    cluster: String,
    group: String,
    node: NodeId,
    disk: DiskId,
    secret: PeerSecret,
    dial: Dial,
    /// For a connection to be made, and for an answer that an election waits for.
    connect_timeout: Duration,
    connections: Mutex<Connections>,
    /// What is known of each peer's answers, so that a change is logged once.
    answers: Mutex<HashMap<NodeId, Answers>>,
    /// Bytes of entries that each peer has acknowledged since this node started.
    delivered: Mutex<HashMap<NodeId, Arc<AtomicU64>>>,
    /// Entries below this are with each peer that is being filled, or were.
    filled: Mutex<HashMap<NodeId, Arc<AtomicU64>>>,
    /// When it was last told that somebody without the secret calls.
    strangers_told: Mutex<Option<Instant>>,
}

impl Network {
    pub(crate) fn new(config: &RaftConfig, node: NodeId, disk: DiskId) -> Network {
        Network {
            cluster: config.cluster.clone(),
            group: config.group.clone(),
            node,
            disk,
            secret: config.secret.clone(),
            dial: config.dial.clone(),
            connect_timeout: config.election_min() * 3 / 4,
            connections: Mutex::default(),
            answers: Mutex::default(),
            delivered: Mutex::default(),
            filled: Mutex::default(),
            strangers_told: Mutex::default(),
        }
    }

    /// A connection that is shared by every user of this peer but Raft itself.
    pub(crate) fn channel(&self, target: NodeId, info: &NodeInfo) -> Option<PeerChannel> {
        self.connection(target, info, Lane::Other)
    }

    /// Bytes of entries that a peer has acknowledged since this node started.
    pub(crate) fn delivered(&self, target: NodeId) -> Arc<AtomicU64> {
        self.delivered.lock().entry(target).or_default().clone()
    }

    /// Entries below this are with the peer once what it is being filled with is whole; 0 when it never was filled.
    pub(crate) fn filled(&self, target: NodeId) -> Arc<AtomicU64> {
        self.filled.lock().entry(target).or_default().clone()
    }

    /// Lets go of everything that concerns a node which is no member any more.
    pub(crate) fn keep(&self, is_member: impl Fn(NodeId) -> bool) {
        self.connections.lock().retain(|(id, _), _| is_member(*id));
        self.answers.lock().retain(|id, _| is_member(*id));
        self.delivered.lock().retain(|id, _| is_member(*id));
        self.filled.lock().retain(|id, _| is_member(*id));
    }

    fn connection(&self, target: NodeId, info: &NodeInfo, lane: Lane) -> Option<PeerChannel> {
        let mut connections = self.connections.lock();
        if let Some((known, channel)) = connections.get(&(target, lane))
            && known == info
        {
            return Some(channel.clone());
        }
        let channel = match self.endpoint(&info.addresses.peer) {
            Ok(endpoint) => self.connect(endpoint, &info.addresses.peer),
            Err(error) => {
                tracing::warn!(peer = %info.label, address = %info.addresses.peer, %error, "peer has no usable address");
                return None;
            }
        };
        let channel = InterceptedService::new(channel, self.identity(target, info.disk));
        connections.insert((target, lane), (info.clone(), channel.clone()));
        Some(channel)
    }

    /// A connection of its own to whoever answers at `address`, to ask who that is.
    pub(crate) fn stranger(&self, address: &str) -> Result<RaftClient<PeerChannel>, tonic::transport::Error> {
        let identity = PeerIdentity { caller: None, proof: self.secret.proof(&self.hello()) };
        let channel = self.connect(self.endpoint(address)?, address);
        Ok(RaftClient::new(InterceptedService::new(channel, identity)))
    }

    /// What a call that does not know whom it calls proves.
    pub(crate) fn hello(&self) -> Vec<u8> {
        format!("hello {}\0{}", self.cluster, self.group).into_bytes()
    }

    /// Whether a call comes from somebody who has the secret of the group, where one is wanted.
    pub(crate) fn proven(&self, metadata: &MetadataMap, text: &[u8]) -> Result<(), Status> {
        let checked = self.secret.check(metadata, text);
        let mut told = self.strangers_told.lock();
        if checked.is_err() && told.is_none_or(|at| at.elapsed() >= STRANGERS_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(target: "audit", "a call to the peer port without the secret of the cluster is refused");
        }
        checked
    }

    fn connect(&self, endpoint: Endpoint, address: &str) -> Channel {
        let Dial::With(dial) = &self.dial else { return endpoint.connect_lazy() };
        let (dial, address) = (dial.clone(), address.to_owned());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connecting = dial(address.clone());
            async move { Ok::<_, std::io::Error>(TokioIo::new(connecting.await?)) }
        }))
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, tonic::transport::Error> {
        Ok(Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    }

    fn identity(&self, to: NodeId, to_disk: DiskId) -> PeerIdentity {
        let caller = wire::Caller {
            cluster: self.cluster.clone(),
            group: self.group.clone(),
            from: self.node,
            from_disk: self.disk.to_bytes(),
            to,
            to_disk: to_disk.to_bytes(),
        };
        let caller = prost::Message::encode_to_vec(&caller);
        PeerIdentity { proof: self.secret.proof(&caller), caller: Some(MetadataValue::from_bytes(&caller)) }
    }

    /// A refusal means that somebody must look: it is logged whenever its text changes.
    fn note_refusal(&self, target: NodeId, status: &Status) {
        let mut answers = self.answers.lock();
        let refusal = &mut answers.entry(target).or_default().refusal;
        if refusal != status.message() {
            status.message().clone_into(refusal);
            tracing::warn!(peer = format_args!("{target:x}"), reason = status.message(), "a peer refuses our calls");
        }
    }

    fn note_failure(&self, target: NodeId, error: &RPCError<Types>) {
        let mut answers = self.answers.lock();
        let failures = &mut answers.entry(target).or_default().failures;
        *failures = failures.saturating_add(1);
        if *failures == FAILURES_TOLD {
            tracing::warn!(peer = format_args!("{target:x}"), %error, "a peer does not answer");
        }
    }

    fn note_success(&self, target: NodeId) {
        let mut answers = self.answers.lock();
        let failures = &mut answers.entry(target).or_default().failures;
        if std::mem::take(failures) >= FAILURES_TOLD {
            tracing::info!(peer = format_args!("{target:x}"), "a peer answers again");
        }
    }
}

/// What became of the calls to one peer.
#[derive(Debug, Default)]
struct Answers {
    refusal: String,
    /// In a row.
    failures: u32,
}

/// openraft's way to a client per peer.
pub(crate) struct Dialer {
    pub(crate) network: Arc<Network>,
    pub(crate) shipper: Arc<Shipper>,
}

/// What fills members that need entries which the log no longer has.
pub(crate) struct Shipper {
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) log: Log,
    pub(crate) pace: Arc<ship::Pace>,
    /// Bytes that were sent since the node started.
    pub(crate) sent_bytes: Arc<AtomicU64>,
}

impl RaftNetworkFactory<Types> for Dialer {
    type Network = PeerClient;

    async fn new_client(&mut self, target: NodeId, node: &NodeInfo) -> PeerClient {
        PeerClient::new(self, target, node, Purpose::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &NodeInfo) -> PeerClient {
        PeerClient::new(self, target, node, Purpose::Heartbeats)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &NodeInfo) -> PeerClient {
        PeerClient::new(self, target, node, Purpose::Fill)
    }
}

type Client = RaftClient<PeerChannel>;

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Entries,
    Heartbeats,
    Fill,
}

/// Sends Raft's messages to one peer.
pub(crate) struct PeerClient {
    network: Arc<Network>,
    shipper: Arc<Shipper>,
    target: NodeId,
    heartbeats: bool,
    /// `None` when the peer's address is unusable.
    entries: Option<Client>,
    pulse: Option<Client>,
    /// `None` also where nothing is to be filled.
    fill: Option<Client>,
}

impl PeerClient {
    fn new(dialer: &Dialer, target: NodeId, node: &NodeInfo, purpose: Purpose) -> PeerClient {
        let (network, shipper) = (dialer.network.clone(), dialer.shipper.clone());
        let client = |lane| {
            network
                .connection(target, node, lane)
                .map(|channel| Client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
        };
        let (entries, pulse) = (client(Lane::Entries), client(Lane::Pulse));
        let fill = (purpose == Purpose::Fill).then(|| client(Lane::Fill)).flatten();
        PeerClient { network, shipper, target, heartbeats: purpose == Purpose::Heartbeats, entries, pulse, fill }
    }

    fn pulse(&self) -> Result<Client, RPCError<Types>> {
        self.pulse.clone().ok_or_else(no_address)
    }

    /// The stream of one session: it ends at once when there is nothing to send.
    async fn open_pipeline<S>(&self, mut client: Client, mut input: S) -> Result<Pipeline<S>, RPCError<Types>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
    {
        let (outbound, requests) = mpsc::unbounded_channel();
        let mut pipeline = Pipeline {
            delivered: self.network.delivered(self.target),
            network: self.network.clone(),
            target: self.target,
            input: None,
            outbound: Some(outbound),
            replies: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            ended: false,
        };
        let Some(first) = input.next().await else {
            pipeline.ended = true;
            return Ok(pipeline);
        };
        pipeline.input = Some(input);
        pipeline.send(first);
        let opening = client.append(UnboundedReceiverStream::new(requests));
        pipeline.replies = Some(self.ask(self.network.connect_timeout * 5 / 4, opening).await?);
        Ok(pipeline)
    }

    async fn fill(
        &self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, SnapshotData>,
    ) -> Result<VoteOf<Types>, Status> {
        let client = self.fill.clone().ok_or_else(|| Status::unavailable("the peer has no usable address"))?;
        let taker = ship::Taker::reach(client).await.inspect_err(|status| {
            if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled) {
                self.network.note_refusal(self.target, status);
            }
        })?;
        let shipper = &self.shipper;
        let shipment = match snapshot.snapshot {
            SnapshotData::Shipment(shipment) => shipment,
            _ => shipper
                .snapshots
                .shipment(snapshot.meta.last_log_id.as_ref().map(from_raft_log_id))
                .await
                .map_err(|error| Status::internal(error.to_string()))?,
        };
        let (peer, transfer, upto) = (self.target, shipment.transfer, shipment.end);
        tracing::info!(
            peer = format_args!("{peer:x}"),
            transfer = format_args!("{transfer:x}"),
            first = shipment.first(),
            %upto,
            "a member that needs what the log no longer has is filled"
        );
        let send = ship::Send {
            vote,
            shipment: shipment.clone(),
            log: shipper.log.clone(),
            pace: shipper.pace.clone(),
            delivered: self.network.delivered(self.target),
            filled: self.network.filled(self.target),
            sent_bytes: shipper.sent_bytes.clone(),
        };
        let taking = shipment.taking();
        let before = send.delivered.load(Ordering::Relaxed);
        let filled = ship::send(&send, taker).await;
        match &filled {
            Ok(_) => {
                // Since the filling last broke off.
                let bytes = send.delivered.load(Ordering::Relaxed).saturating_sub(before);
                tracing::info!(peer = format_args!("{peer:x}"), %upto, bytes, "a member was filled");
                if taking.is_last() {
                    shipper.snapshots.drop_shipment(|current| current.transfer == transfer);
                }
            }
            Err(status) => {
                let why = describe(status);
                tracing::warn!(peer = format_args!("{peer:x}"), why, "the filling of a member broke off, and goes on");
                tokio::time::sleep(FILL_PAUSE).await;
            }
        }
        filled
    }

    fn failed(&self, status: &Status) -> RPCError<Types> {
        failed(&self.network, self.target, status)
    }

    async fn ask<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RPCError<Types>> {
        let answer = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(RPCError::Network(NetworkError::from_string(format!("no answer within {limit:?}")))),
        };
        match &answer {
            Ok(_) => self.network.note_success(self.target),
            Err(error) => self.network.note_failure(self.target, error),
        }
        answer
    }
}

fn no_address() -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string("the peer has no usable address"))
}

fn failed(network: &Network, target: NodeId, status: &Status) -> RPCError<Types> {
    match status.code() {
        Code::FailedPrecondition => {
            network.note_refusal(target, status);
            RPCError::Unreachable(Unreachable::from_string(status.message()))
        }
        Code::DeadlineExceeded | Code::Cancelled => RPCError::Network(NetworkError::from_string(describe(status))),
        _ => RPCError::Unreachable(Unreachable::from_string(describe(status))),
    }
}

/// The status with what lies beneath it, which names the address and the system's error.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn bad_answer(what: &str) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(format!("the peer's answer makes no sense: {what}")))
}

fn append_to_wire(request: AppendEntriesRequest<Types>) -> wire::AppendRequest {
    wire::AppendRequest {
        vote: Some(vote_to_wire(&request.vote)),
        previous: request.prev_log_id.as_ref().map(raft_log_id_to_wire),
        committed: request.leader_commit.as_ref().map(raft_log_id_to_wire),
        entries: request.entries.into_iter().map(entry_to_wire).collect(),
    }
}

fn append_reply(reply: wire::AppendReply) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
    use wire::append_reply::Result as Reply;
    match reply.result {
        Some(Reply::Matched(matched)) => Ok(Ok(matched.upto.map(raft_log_id_from_wire))),
        Some(Reply::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(raft_log_id_from_wire(id)))),
        Some(Reply::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote_from_wire(vote)))),
        None => Err(bad_answer("it says nothing of the entries")),
    }
}

fn vote_request(request: &VoteRequest<Types>) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(vote_to_wire(&request.vote)),
        last: request.last_log_id.as_ref().map(raft_log_id_to_wire),
        transfer: request.leadership_transfer,
    }
}

fn vote_reply(reply: wire::VoteReply) -> Result<VoteResponse<Types>, RPCError<Types>> {
    let vote = vote_from_wire(reply.vote.ok_or_else(|| bad_answer("it names no vote"))?);
    Ok(VoteResponse::new(vote, reply.last.map(raft_log_id_from_wire), reply.granted))
}

impl RaftNetworkV2<Types> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let mut client = self.pulse()?;
        let reply = self.ask(option.hard_ttl(), client.heartbeat(append_to_wire(request))).await?;
        append_reply(reply).map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.heartbeats {
                let client = self.pulse()?;
                let this = &*self;
                let limit = option.hard_ttl();
                let replies = input.then(move |request| {
                    let mut client = client.clone();
                    async move { append_reply(this.ask(limit, client.heartbeat(append_to_wire(request))).await?) }
                });
                return Ok(Box::pin(replies) as BoxStream<'s, _>);
            }
            let client = self.entries.clone().ok_or_else(no_address)?;
            // openraft pauses between attempts in its request stream alone, so the first request is taken before
            // the connection is tried; with the other order a peer that is down is tried without any pause.
            let opening = futures::stream::once(self.open_pipeline(client, input));
            Ok(Box::pin(opening.try_flatten()) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let mut client = self.pulse()?;
        vote_reply(self.ask(option.soft_ttl(), client.vote(vote_request(&request))).await?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let mut client = self.pulse()?;
        vote_reply(self.ask(option.soft_ttl(), client.pre_vote(vote_request(&request))).await?)
    }

    /// Fills the peer. Rows are copied once it is there, and again only when it is another leader that does it: an
    /// attempt that broke off is gone on with.
    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let filling = self.fill(vote, snapshot);
        tokio::select! {
            filled = filling => match filled {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                // Anything but unreachable would be tried again at once, and again.
                Err(status) => Err(StreamingError::Unreachable(Unreachable::from_string(describe(&status)))),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        use wire::transfer_leader_reply::Result as Reply;
        let mut client = self.pulse()?;
        let message = wire::TransferLeaderRequest {
            from: Some(vote_to_wire(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(raft_log_id_to_wire),
        };
        let reply = self.ask(option.soft_ttl(), client.transfer_leader(message)).await?;
        let id = |id: Option<wire::LogId>| -> Option<RaftLogId> { id.map(raft_log_id_from_wire) };
        match reply.result {
            Some(Reply::Accepted(_)) => Ok(Ok(())),
            Some(Reply::VoteChanged(votes)) => {
                let (Some(expected), Some(actual)) = (votes.expected, votes.actual) else {
                    return Err(bad_answer("it names no votes"));
                };
                let (expected, actual) = (vote_from_wire(expected), vote_from_wire(actual));
                Ok(Err(TransferLeaderError::VoteChanged { expected, actual }))
            }
            Some(Reply::NotFlushed(ids)) => {
                Ok(Err(TransferLeaderError::LogNotFlushed { expected: id(ids.expected), actual: id(ids.actual) }))
            }
            None => Err(bad_answer("it does not say whether it takes over")),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF_MS[BACKOFF_MS.len() - 1];
        let waits = BACKOFF_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(waits.map(Duration::from_millis)))
    }
}

/// Entries to one follower: requests go out while earlier ones wait for their answers, within bounds.
///
/// The requests come from a state that openraft shares with the stream that replaces this one, so they are polled
/// here alone and never by the connection: once this stream is dropped, nothing takes from them any more.
struct Pipeline<S> {
    network: Arc<Network>,
    target: NodeId,
    input: Option<S>,
    outbound: Option<mpsc::UnboundedSender<wire::AppendRequest>>,
    /// `None` when there was nothing to send.
    replies: Option<tonic::Streaming<wire::AppendReply>>,
    /// Bytes of each request that waits for its answer.
    waiting: VecDeque<usize>,
    waiting_bytes: usize,
    delivered: Arc<AtomicU64>,
    ended: bool,
}

impl<S> Pipeline<S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
{
    fn send(&mut self, request: AppendEntriesRequest<Types>) {
        let request = append_to_wire(request);
        let bytes = prost::Message::encoded_len(&request);
        self.waiting.push_back(bytes);
        self.waiting_bytes += bytes;
        if let Some(outbound) = &self.outbound {
            // The receiver is gone only when the connection is, which the replies will tell.
            let _ = outbound.send(request);
        }
    }

    fn send_what_fits(&mut self, context: &mut Context<'_>) {
        while self.waiting.len() < INFLIGHT_REQUESTS_MAX
            && (self.waiting.is_empty() || self.waiting_bytes < INFLIGHT_BYTES_MAX)
        {
            let Some(input) = &mut self.input else { return };
            match input.poll_next_unpin(context) {
                Poll::Ready(Some(request)) => self.send(request),
                Poll::Ready(None) => {
                    self.input = None;
                    self.outbound = None;
                }
                Poll::Pending => return,
            }
        }
    }
}

impl<S> Stream for Pipeline<S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
{
    type Item = Result<StreamAppendResult<Types>, RPCError<Types>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        this.send_what_fits(context);
        let Some(replies) = &mut this.replies else { return Poll::Ready(None) };
        let Poll::Ready(reply) = replies.poll_next_unpin(context) else {
            return Poll::Pending;
        };
        let item = match reply {
            Some(Ok(reply)) => {
                let bytes = this.waiting.pop_front().unwrap_or(0);
                this.waiting_bytes -= bytes;
                this.delivered.fetch_add(bytes as u64, Ordering::Relaxed);
                append_reply(reply)
            }
            Some(Err(status)) => Err(failed(&this.network, this.target, &status)),
            None if this.input.is_none() && this.waiting.is_empty() => {
                this.ended = true;
                return Poll::Ready(None);
            }
            // It stops. Anything but unreachable would be tried again at once, and again.
            None => Err(RPCError::Unreachable(Unreachable::from_string("the peer ended the stream of entries"))),
        };
        this.ended = !matches!(item, Ok(Ok(_)));
        Poll::Ready(Some(item))
    }
}
