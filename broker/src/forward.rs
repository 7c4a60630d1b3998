//! Batches on their way into the log: from this node to the leader, and on the leader from all members into one
//! Raft entry.
//!
//! A follower streams its batches over the peer port. The leader's [`Merger`] puts everything that came while the
//! previous entries were being committed into the next entry, so that a lone batch leaves at once and a busy
//! leader writes few, large entries. Nothing is answered here: answers come with each node's own apply. Sends that a
//! full disk cannot take, and those that are too many (`rate.rs`), go into the log as refusals, without their messages.

use crate::clock::ClusterClock;
use crate::command::{EncodedBatch, encode_entry};
use crate::rate::Rates;
use crate::room::SendGate;
use crate::spans::{Span, Tracer};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message as _;
use raft_store::{Leadership, NodeId, PAYLOAD_BYTES_MAX, ProposeError, RaftGroup, Term};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Batch, Refusal, Refuse};
use raftmq_proto::forward::forward_client::ForwardClient;
use raftmq_proto::forward::forward_server::Forward;
use raftmq_proto::forward::{
    ClientsRequest, ClientsResponse, ForwardRequest, ForwardResponse, ForwardedBatch, RelayRequest, RelayResponse,
    ReportRequest, ReportResponse,
};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

/// Largest message on a forward stream: a batch's bytes, or one command with bodies at their limit.
pub const FORWARD_MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + (16 << 20);

/// Bytes of a batch in the log.
const BATCH_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - (1 << 20);

/// A leader counts the voters anew this often; the count only bounds whose clocks make a majority.
const COUNT_VOTERS_EVERY: Duration = Duration::from_secs(1);

/// Where this node's batches go.
pub(crate) enum Link {
    /// Nobody leads: batches wait and are sent again when somebody does.
    Nowhere,
    /// Somebody leads whose address this node has not learned yet: it heard of the leader before it had the entry that
    /// names the members. That changes without a word, so that such a link is broken from the start.
    Unknown,
    /// This node leads.
    Here { merger: Arc<Merger>, term: Term, refusals: u64, node: NodeId },
    /// Another node leads; dropping the guard ends the stream.
    There {
        batches: mpsc::UnboundedSender<ForwardRequest>,
        term: Term,
        node: u64,
        broken: CancellationToken,
        _stream: DropGuard,
    },
}

impl Link {
    /// A link to whom `leadership` names.
    pub(crate) fn open(group: &RaftGroup, merger: &Arc<Merger>, leadership: &Leadership) -> Link {
        let Some(leader) = leadership.leader else { return Link::Nowhere };
        if leader == group.node() {
            let (merger, term, refusals) = (merger.clone(), leadership.term, leadership.refusals);
            return Link::Here { merger, term, refusals, node: leader };
        }
        let Some(channel) = group.peer_channel(leader) else { return Link::Unknown };
        let (batches, outbound) = mpsc::unbounded_channel();
        let (broken, stop) = (CancellationToken::new(), CancellationToken::new());
        let (ended, stopped) = (broken.clone(), stop.clone());
        group.runtime().spawn(async move {
            let mut client = ForwardClient::new(channel)
                .max_decoding_message_size(FORWARD_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(FORWARD_MESSAGE_BYTES_MAX);
            let stream = client.forward(UnboundedReceiverStream::new(outbound));
            tokio::select! {
                () = stopped.cancelled() => {}
                outcome = stream => {
                    if let Err(status) = outcome {
                        tracing::debug!(leader, %status, "forward stream ended");
                    }
                }
            }
            ended.cancel();
        });
        Link::There { batches, term: leadership.term, node: group.node(), broken, _stream: stop.drop_guard() }
    }

    /// Sends a batch; one that is lost is sent again by the proposer on the next link.
    pub(crate) fn send(&self, batch: ForwardedBatch) {
        match self {
            Link::Nowhere | Link::Unknown => {}
            Link::Here { merger, term, refusals, node } => {
                merger.push(*term, *refusals, *node, vec![batch]);
            }
            Link::There { batches, term, node, .. } => {
                let request = ForwardRequest { node: *node, term: term.0, batches: vec![batch] };
                // A closed stream shows in `broken`.
                let _ = batches.send(request);
            }
        }
    }

    /// Returns when the stream to the leader has ended, or could not begin.
    pub(crate) async fn broken(&self) {
        match self {
            Link::There { broken, .. } => broken.cancelled().await,
            Link::Unknown => {}
            Link::Nowhere | Link::Here { .. } => std::future::pending().await,
        }
    }
}

/// Bounds of what a leader puts into one entry.
#[derive(Debug, Clone)]
pub struct MergeLimits {
    /// Bytes of one entry; a larger batch still travels alone.
    pub entry_bytes_max: usize,
    /// Entries proposed and not yet applied here; what comes meanwhile goes into the next one.
    pub entries_inflight_max: usize,
}

impl Default for MergeLimits {
    fn default() -> Self {
        MergeLimits { entry_bytes_max: 1 << 20, entries_inflight_max: 2 }
    }
}

/// A batch with the spans of its commands that are traced.
struct Queued {
    batch: EncodedBatch,
    spans: Vec<Span>,
}

/// An entry that was proposed and is not applied yet.
struct Underway {
    bytes: usize,
    spans: Vec<Span>,
}

/// What a leader holds of one term. Two nodes may lead in one term, one after the other (the later one has the
/// higher id), so a term that another node leads in is closed here for good.
#[derive(Default)]
struct Merging {
    term: Term,
    closed: bool,
    queue: VecDeque<Queued>,
    /// Bytes in the queue.
    queued_bytes: usize,
    /// The entries that were proposed and not yet applied.
    inflight: VecDeque<Underway>,
    /// Proposals of this node that came to nothing so far. Each time it grows, all is dropped here, and the members
    /// send again from where they are.
    refusals: u64,
    /// The last sequence taken from each boot of a node: what comes again meanwhile is in the queue or in the log.
    taken: HashMap<(NodeId, u64), u64>,
}

impl Merging {
    /// Drops what is queued: its nodes send it again, if not to this one.
    fn forget(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
        self.taken.clear();
    }

    /// Forgets what was taken: it came to nothing.
    fn refused(&mut self, refusals: u64) {
        *self = Merging { term: self.term, closed: self.closed, refusals, ..Merging::default() };
    }
}

/// The leader's queue of batches from all members.
pub struct Merger {
    limits: MergeLimits,
    clock: Arc<ClusterClock>,
    gate: Arc<SendGate>,
    rates: Arc<Rates>,
    tracer: Tracer,
    merging: Mutex<Merging>,
    changed: Notify,
    /// Grows when proposals came to nothing: the streams end, and the members send again.
    refused: watch::Sender<u64>,
}

impl Merger {
    /// A merger that takes nothing until this node leads.
    #[must_use]
    pub(crate) fn new(
        limits: MergeLimits,
        clock: Arc<ClusterClock>,
        gate: Arc<SendGate>,
        rates: Arc<Rates>,
        tracer: Tracer,
    ) -> Merger {
        let refused = watch::channel(0).0;
        Merger { limits, clock, gate, rates, tracer, merging: Mutex::default(), changed: Notify::new(), refused }
    }

    /// Takes batches from a node that knows this one to lead in `term`, which may be earlier than this node's own
    /// tasks know it, and knows of `refusals`. One that was taken already is passed over. False when the sender has to
    /// begin again: this node leads no more, or dropped what it had, or something is missing.
    pub(crate) fn push(&self, term: Term, refusals: u64, node: NodeId, batches: Vec<ForwardedBatch>) -> bool {
        {
            let mut merging = self.merging.lock();
            if term > merging.term {
                *merging = Merging { term, refusals: merging.refusals, ..Merging::default() };
            } else if term < merging.term || merging.closed {
                return false;
            }
            if refusals > merging.refusals {
                merging.refused(refusals);
            } else if refusals < merging.refusals {
                return false;
            }
            for batch in batches {
                let merging = &mut *merging;
                let taken = merging.taken.entry((node, batch.boot)).or_insert(batch.sequence.saturating_sub(1));
                if batch.sequence > *taken + 1 {
                    return false;
                }
                if batch.sequence == *taken + 1 {
                    *taken = batch.sequence;
                    let spans = self.tracer.taken(&batch.traceparents);
                    let batch = EncodedBatch { batch: batch.batch, blobs: batch.blobs };
                    merging.queued_bytes += bytes_of(&batch);
                    merging.queue.push_back(Queued { batch, spans });
                }
            }
        }
        self.changed.notify_one();
        true
    }

    /// Proposals that came to nothing so far, as far as this merger knows.
    fn refusals(&self) -> u64 {
        self.merging.lock().refusals
    }

    /// Entries of `term` were applied here.
    pub(crate) fn applied(&self, term: Term, entries: u64) {
        {
            let mut merging = self.merging.lock();
            if merging.term != term {
                return;
            }
            for _ in 0..entries {
                let Some(entry) = merging.inflight.pop_front() else { break };
                entry.spans.into_iter().for_each(|span| self.tracer.end(span));
            }
        }
        self.changed.notify_one();
    }

    /// Another leadership than before.
    fn turn(&self, leadership: &Leadership, node: NodeId) {
        let mut merging = self.merging.lock();
        if leadership.term > merging.term {
            *merging = Merging { term: leadership.term, refusals: merging.refusals, ..Merging::default() };
        }
        match leadership.leader {
            Some(leader) if leader == node => self.clock.lead(),
            Some(_) => {
                merging.closed = true;
                merging.forget();
                self.clock.follow();
            }
            None => self.clock.follow(),
        }
        self.gate.forget();
    }

    /// The next entry's batches of the leader of `term`, unless enough entries are under way.
    fn take(&self, term: Term) -> Vec<EncodedBatch> {
        let mut merging = self.merging.lock();
        if merging.term != term || merging.inflight.len() >= self.limits.entries_inflight_max {
            return Vec::new();
        }
        // A first entry leaves at once. A further one is as large as the one before it, or waits for its end: entries
        // cost the same whatever is in them, and small ones would not become fewer by hurrying.
        if merging
            .inflight
            .back()
            .is_some_and(|last| merging.queued_bytes < last.bytes.min(self.limits.entry_bytes_max))
        {
            return Vec::new();
        }
        let (mut batches, mut bytes, mut spans) = (Vec::new(), 0, Vec::new());
        while let Some(next) = merging.queue.front() {
            let size = bytes_of(&next.batch);
            if !batches.is_empty() && bytes + size > self.limits.entry_bytes_max {
                break;
            }
            bytes += size;
            let Some(mut next) = merging.queue.pop_front() else { break };
            spans.append(&mut next.spans);
            batches.push(next.batch);
        }
        if !batches.is_empty() {
            merging.queued_bytes -= bytes;
            merging.inflight.push_back(Underway { bytes, spans });
        }
        batches
    }

    /// Proposes entries while this node leads, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, group: RaftGroup, stop: CancellationToken) {
        let mut seen = group.leadership();
        self.turn(&seen, group.node());
        let (mut voters, mut counted) = (group.voters().len(), Instant::now());
        loop {
            // Until its first own entry is committed and it knows the time a leader may not propose; what comes
            // meanwhile waits.
            let ready = seen.leads && self.clock.ready(voters);
            let batches = if ready { self.take(seen.term) } else { Vec::new() };
            if batches.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.changed.notified() => {}
                    () = self.clock.heard(), if seen.leads && !ready => {}
                    leadership = group.leadership_changed(seen) => {
                        if (leadership.term, leadership.leader) != (seen.term, seen.leader) {
                            self.turn(&leadership, group.node());
                            (voters, counted) = (group.voters().len(), Instant::now());
                        }
                        if leadership.refusals != seen.refusals {
                            {
                                let mut merging = self.merging.lock();
                                if leadership.refusals > merging.refusals {
                                    merging.refused(leadership.refusals);
                                }
                            }
                            self.refused.send_replace(leadership.refusals);
                        }
                        seen = leadership;
                    }
                }
                continue;
            }
            if counted.elapsed() > COUNT_VOTERS_EVERY {
                (voters, counted) = (group.voters().len(), Instant::now());
            }
            let full = self.gate.decide(&group);
            let taken = |batch| self.rates.admit(fitting(batch, full.as_deref()), || group.state());
            let batches: Vec<_> = batches.into_iter().map(taken).collect();
            let payload = match encode_entry(self.clock.stamp(voters), &batches) {
                Ok(payload) => payload,
                Err(error) => {
                    tracing::error!(%error, "batches do not fit into an entry");
                    self.dropped();
                    continue;
                }
            };
            while let Err(error) = group.propose(payload.clone()).await {
                match error {
                    ProposeError::Overloaded { .. } => tokio::time::sleep(Duration::from_millis(1)).await,
                    // Nothing is lost: their nodes send the batches again, mostly to the next leader.
                    ProposeError::NotLeader { .. } | ProposeError::Closed | ProposeError::TooLarge { .. } => {
                        self.dropped();
                        break;
                    }
                }
            }
        }
    }

    /// An entry was not proposed: its batches, and what came after them, may come again.
    fn dropped(&self) {
        let mut merging = self.merging.lock();
        merging.inflight.pop_back();
        merging.forget();
    }
}

fn bytes_of(batch: &EncodedBatch) -> usize {
    batch.batch.len() + batch.blobs.iter().map(bytes::Bytes::len).sum::<usize>()
}

/// A batch as it may go into the log: without its sends when a disk is `full`, without anything when it is larger than
/// what members take from one another, which no request of a client leads to.
fn fitting(batch: EncodedBatch, full: Option<&str>) -> EncodedBatch {
    let bytes = bytes_of(&batch);
    if bytes > BATCH_BYTES_MAX {
        let why = format!("the request takes {bytes} bytes in the log, the limit is {BATCH_BYTES_MAX}");
        return replace(batch, |_| Some(Refuse { refusal: Refusal::InvalidArgument.into(), detail: why.clone() }));
    }
    let Some(why) = full else { return batch };
    replace(batch, |kind| {
        let refuse = || Refuse { refusal: Refusal::DiskFull.into(), detail: why.to_owned() };
        matches!(kind, Kind::Append(_)).then(refuse)
    })
}

/// Puts refusals in the place of some commands, and leaves out their blobs.
pub(crate) fn replace(encoded: EncodedBatch, mut by: impl FnMut(&Kind) -> Option<Refuse>) -> EncodedBatch {
    let Ok(mut batch) = Batch::decode(encoded.batch.clone()) else {
        // The machine passes over it.
        return encoded;
    };
    let refused: Vec<_> = batch.commands.iter().map(|command| command.kind.as_ref().and_then(&mut by)).collect();
    if refused.iter().all(Option::is_none) {
        return encoded;
    }
    let mut blobs = encoded.blobs.into_iter();
    let mut kept = Vec::new();
    for (command, refused) in batch.commands.iter_mut().zip(refused) {
        let slots = command.kind.as_ref().map_or(0, crate::machine::slots_of);
        let own = blobs.by_ref().take(slots);
        match refused {
            Some(refuse) => {
                own.for_each(drop);
                command.kind = Some(Kind::Refuse(refuse));
            }
            None => kept.extend(own),
        }
    }
    batch.slots = u32::try_from(kept.len()).unwrap_or(u32::MAX);
    EncodedBatch { batch: batch.encode_to_vec().into(), blobs: kept }
}

type Relayed = BoxFuture<'static, Result<RelayResponse, Status>>;

/// Takes members' batches and reports, and what they have for this node's clients, on the peer port.
pub struct ForwardService {
    merger: Arc<Merger>,
    reports: Arc<dyn Fn(ReportRequest) -> Result<ReportResponse, Status> + Send + Sync>,
    relays: Arc<dyn Fn(RelayRequest) -> Relayed + Send + Sync>,
    clients: Arc<dyn Fn(ClientsRequest) -> Result<ClientsResponse, Status> + Send + Sync>,
}

impl ForwardService {
    /// A service that hands batches to `merger`, reports to `reports`, what is for clients to `relays`, and has
    /// `clients` say who is connected.
    pub fn new(
        merger: Arc<Merger>,
        reports: impl Fn(ReportRequest) -> Result<ReportResponse, Status> + Send + Sync + 'static,
        relays: impl Fn(RelayRequest) -> Relayed + Send + Sync + 'static,
        clients: impl Fn(ClientsRequest) -> Result<ClientsResponse, Status> + Send + Sync + 'static,
    ) -> ForwardService {
        let (reports, relays, clients) = (Arc::new(reports), Arc::new(relays), Arc::new(clients));
        ForwardService { merger, reports, relays, clients }
    }
}

#[tonic::async_trait]
impl Forward for ForwardService {
    async fn forward(&self, request: Request<Streaming<ForwardRequest>>) -> Result<Response<ForwardResponse>, Status> {
        let mut refused = self.merger.refused.subscribe();
        refused.mark_unchanged();
        let refusals = self.merger.refusals();
        let mut requests = request.into_inner();
        let take = async {
            while let Some(request) = requests.message().await? {
                if !self.merger.push(Term(request.term), refusals, request.node, request.batches) {
                    return Err(Status::failed_precondition("send again: not the leader, or it dropped what it had"));
                }
            }
            Ok(())
        };
        tokio::select! {
            outcome = take => outcome?,
            _ = refused.changed() => {}
        }
        Ok(Response::new(ForwardResponse {}))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        (self.reports)(request.into_inner()).map(Response::new)
    }

    async fn relay(&self, request: Request<RelayRequest>) -> Result<Response<RelayResponse>, Status> {
        (self.relays)(request.into_inner()).await.map(Response::new)
    }

    async fn clients(&self, request: Request<ClientsRequest>) -> Result<Response<ClientsResponse>, Status> {
        (self.clients)(request.into_inner()).map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        ClusterClock, EncodedBatch, Link, MergeLimits, Merger, Rates, SendGate, Tracer, encode_entry, fitting,
    };
    use crate::access::{Access, AccessConfig};
    use crate::command::Payload;
    use crate::rate::Limit;
    use bytes::Bytes;
    use futures::FutureExt as _;
    use prost::Message as _;
    use raft_store::{
        Committed, Leadership, LogIndex, Machine, Peer, RaftConfig, RaftGroup, StateBatch, StateError, Term,
    };
    use raftmq_proto::command::command::Kind;
    use raftmq_proto::command::{Append, AppendMessage, Batch, Command, Refusal, Refuse, Tick};
    use std::sync::Arc;

    struct NoRows;

    impl Machine for NoRows {
        fn tables(&self) -> &'static [&'static str] {
            &[]
        }

        fn apply(&mut self, _: &Committed, _: &mut StateBatch<'_>) -> Result<(), StateError> {
            Ok(())
        }

        fn applied(&mut self, _: LogIndex) {}

        fn restored(&mut self, _: LogIndex) {}
    }

    /// As a member is that formed its group with others a moment ago: a heartbeat tells it who leads, and the entry that
    /// says where that one is comes later. Nothing would tell it then to look again, so that the link has to.
    #[tokio::test]
    async fn a_link_to_a_leader_whose_address_is_not_known_yet_is_opened_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let peer = |label: &str, address: &str| Peer { label: label.to_owned(), address: address.to_owned() };
        let config = RaftConfig {
            peers: vec![peer("n0", "127.0.0.1:1"), peer("n1", "127.0.0.1:2")],
            segment_bytes: 1 << 20,
            ..RaftConfig::new("cluster", "group", "n0", folder.path().to_path_buf())
        };
        let (group, _) = RaftGroup::start(config, raft_store::disk::from_env(), NoRows).await.expect("starts");
        let clock = Arc::new(ClusterClock::new(|| 0));
        let rates = Rates::new(Limit::default(), Arc::new(Access::new(AccessConfig::default())));
        let merger = Merger::new(
            MergeLimits::default(),
            clock,
            Arc::new(SendGate::default()),
            Arc::new(rates),
            Tracer::default(),
        );
        let merger = Arc::new(merger);
        let open = |leader| {
            let leadership = Leadership { term: Term(1), leader, ..Leadership::default() };
            Link::open(&group, &merger, &leadership).broken().now_or_never()
        };
        assert_eq!(open(Some(group.node() + 1)), Some(()), "it says that it is broken");
        assert_eq!(open(Some(group.node())), None);
        assert_eq!(open(None), None, "whoever wins an election is told of");
        group.stop().await;
    }

    #[test]
    fn a_batch_of_a_full_disk_has_refusals_for_its_sends_and_no_message() {
        let command = |kind| Command { deadline_ms: 7, kind: Some(kind) };
        let append = Append {
            topic: "t".to_owned(),
            messages: vec![AppendMessage::default(); 2],
            checks: None,
            ..Append::default()
        };
        let commands = vec![command(Kind::Append(append)), command(Kind::Tick(Tick {}))];
        let batch = Batch { node: 1, boot: 2, sequence: 3, settled: 0, slots: 2, commands, version: 0 };
        let blobs = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let refused = fitting(EncodedBatch { batch: batch.encode_to_vec().into(), blobs }, Some("full"));
        let payload = Payload::parse(encode_entry(9, &[refused]).expect("small")).expect("well formed");
        assert_eq!(payload.slots(), 0);
        let entry = payload.entry().expect("slots are counted right");
        let refuse = Refuse { refusal: Refusal::DiskFull.into(), detail: "full".to_owned() };
        let commands = vec![command(Kind::Refuse(refuse)), command(Kind::Tick(Tick {}))];
        assert_eq!(entry.batches, [Batch { slots: 0, commands, ..batch }]);
    }
}
