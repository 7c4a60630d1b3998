//! Batches on their way into the log: from this node to the leader, and on the leader from all members into one
//! Raft entry.
//!
//! A follower streams its batches over the peer port. The leader's [`Merger`] puts everything that came while the
//! previous entries were being committed into the next entry, so that a lone batch leaves at once and a busy
//! leader writes few, large entries. Nothing is answered here: answers come with each node's own apply. Sends that a
//! full disk cannot take go into the log as refusals, without their messages.

use crate::clock::ClusterClock;
use crate::command::{EncodedBatch, encode_entry};
use crate::room::SendGate;
use parking_lot::Mutex;
use prost::Message as _;
use raft_store::{Leadership, NodeId, ProposeError, RaftGroup, Term};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Batch, Refusal, Refuse};
use raftmq_proto::forward::forward_client::ForwardClient;
use raftmq_proto::forward::forward_server::Forward;
use raftmq_proto::forward::{ForwardRequest, ForwardResponse, ForwardedBatch, ReportRequest, ReportResponse};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};

/// Largest message on a forward stream: a batch's bytes, or one command with bodies at their limit.
pub const FORWARD_MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A leader counts the voters anew this often; the count only bounds whose clocks make a majority.
const COUNT_VOTERS_EVERY: Duration = Duration::from_secs(1);

/// Where this node's batches go.
pub(crate) enum Link {
    /// Nobody leads: batches wait and are sent again when somebody does.
    Nowhere,
    /// This node leads.
    Here(Arc<Merger>, Term),
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
            return Link::Here(merger.clone(), leadership.term);
        }
        let Some(channel) = group.peer_channel(leader) else { return Link::Nowhere };
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
            Link::Nowhere => {}
            Link::Here(merger, term) => {
                merger.push(*term, std::iter::once(batch));
            }
            Link::There { batches, term, node, .. } => {
                let request = ForwardRequest { node: *node, term: term.0, batches: vec![batch] };
                // A closed stream shows in `broken`.
                let _ = batches.send(request);
            }
        }
    }

    /// Returns when the stream to the leader has ended.
    pub(crate) async fn broken(&self) {
        match self {
            Link::There { broken, .. } => broken.cancelled().await,
            Link::Nowhere | Link::Here(..) => std::future::pending().await,
        }
    }
}

/// Bounds of what a leader puts into one entry.
#[derive(Debug, Clone)]
pub struct MergeLimits {
    /// Bytes of one entry; a larger batch still travels alone.
    pub entry_bytes_max: usize,
    /// Entries proposed and not yet applied here; what comes meanwhile goes into the next one.
    pub entries_inflight_max: u64,
}

impl Default for MergeLimits {
    fn default() -> Self {
        MergeLimits { entry_bytes_max: 1 << 20, entries_inflight_max: 2 }
    }
}

/// What a leader holds of one term. Two nodes may lead in one term, one after the other (the later one has the
/// higher id), so a term that another node leads in is closed here for good.
#[derive(Default)]
struct Merging {
    term: Term,
    closed: bool,
    queue: VecDeque<EncodedBatch>,
    /// Entries that were proposed and not yet applied.
    inflight: u64,
}

/// The leader's queue of batches from all members.
pub struct Merger {
    limits: MergeLimits,
    clock: Arc<ClusterClock>,
    gate: Arc<SendGate>,
    merging: Mutex<Merging>,
    changed: Notify,
    /// Grows when proposals came to nothing: the streams end, and the members send again.
    refusals: watch::Sender<u64>,
}

impl Merger {
    /// A merger that takes nothing until this node leads.
    #[must_use]
    pub(crate) fn new(limits: MergeLimits, clock: Arc<ClusterClock>, gate: Arc<SendGate>) -> Merger {
        let refusals = watch::channel(0).0;
        Merger { limits, clock, gate, merging: Mutex::default(), changed: Notify::new(), refusals }
    }

    /// Takes batches from a node that knows this one to lead in `term`, which may be earlier than this node's own
    /// tasks know it. False when it leads no more.
    pub(crate) fn push(&self, term: Term, batches: impl Iterator<Item = ForwardedBatch>) -> bool {
        {
            let mut merging = self.merging.lock();
            if term > merging.term {
                *merging = Merging { term, ..Merging::default() };
            } else if term < merging.term || merging.closed {
                return false;
            }
            merging.queue.extend(batches.map(|batch| EncodedBatch { batch: batch.batch, blobs: batch.blobs }));
        }
        self.changed.notify_one();
        true
    }

    /// Entries of `term` were applied here.
    pub(crate) fn applied(&self, term: Term, entries: u64) {
        {
            let mut merging = self.merging.lock();
            if merging.term != term {
                return;
            }
            merging.inflight = merging.inflight.saturating_sub(entries);
        }
        self.changed.notify_one();
    }

    /// Another leadership than before.
    fn turn(&self, leadership: &Leadership, node: NodeId) {
        let mut merging = self.merging.lock();
        if leadership.term > merging.term {
            *merging = Merging { term: leadership.term, ..Merging::default() };
        }
        match leadership.leader {
            Some(leader) if leader == node => self.clock.lead(),
            Some(_) => {
                merging.closed = true;
                merging.queue.clear();
                self.clock.follow();
            }
            None => self.clock.follow(),
        }
        self.gate.forget();
    }

    /// The next entry's batches of the leader of `term`, unless enough entries are under way.
    fn take(&self, term: Term) -> Vec<EncodedBatch> {
        let mut merging = self.merging.lock();
        if merging.term != term || merging.inflight >= self.limits.entries_inflight_max {
            return Vec::new();
        }
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(next) = merging.queue.front() {
            let size = next.batch.len() + next.blobs.iter().map(bytes::Bytes::len).sum::<usize>();
            if !batches.is_empty() && bytes + size > self.limits.entry_bytes_max {
                break;
            }
            bytes += size;
            batches.extend(merging.queue.pop_front());
        }
        if !batches.is_empty() {
            merging.inflight += 1;
        }
        batches
    }

    /// Proposes entries while this node leads, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, group: RaftGroup, stop: CancellationToken) {
        let mut seen = group.leadership();
        self.turn(&seen, group.node());
        let (mut voters, mut counted) = (voters(&group), Instant::now());
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
                            (voters, counted) = (self::voters(&group), Instant::now());
                        }
                        if leadership.refusals != seen.refusals {
                            // What was refused will not be applied, so it cannot be waited for.
                            self.merging.lock().inflight = 0;
                            self.refusals.send_replace(leadership.refusals);
                        }
                        seen = leadership;
                    }
                }
                continue;
            }
            if counted.elapsed() > COUNT_VOTERS_EVERY {
                (voters, counted) = (self::voters(&group), Instant::now());
            }
            let batches = match self.gate.decide(&group) {
                Some(why) => batches.into_iter().map(|batch| refuse_sends(batch, &why)).collect(),
                None => batches,
            };
            let payload = match encode_entry(self.clock.stamp(voters), &batches) {
                Ok(payload) => payload,
                Err(error) => {
                    // A batch is bounded far below what an entry takes, so nothing that a client sent gets here.
                    tracing::error!(%error, "batches do not fit into an entry");
                    continue;
                }
            };
            while let Err(error) = group.propose(payload.clone()).await {
                match error {
                    // Nothing is lost: their nodes send the batches again to the next leader.
                    ProposeError::NotLeader { .. } | ProposeError::Closed => break,
                    ProposeError::Overloaded { .. } => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        }
    }
}

/// Puts a refusal in the place of each command that stores messages, whose blobs are left out.
fn refuse_sends(encoded: EncodedBatch, why: &str) -> EncodedBatch {
    let Ok(mut batch) = Batch::decode(encoded.batch.clone()) else {
        // The machine passes over it.
        return encoded;
    };
    for command in &mut batch.commands {
        if matches!(command.kind, Some(Kind::Append(_))) {
            let refuse = Refuse { refusal: Refusal::DiskFull.into(), detail: why.to_owned() };
            command.kind = Some(Kind::Refuse(refuse));
        }
    }
    // Nothing but messages has blobs.
    batch.slots = 0;
    EncodedBatch { batch: batch.encode_to_vec().into(), blobs: Vec::new() }
}

/// Members with a vote.
pub(crate) fn voters(group: &RaftGroup) -> usize {
    group.members().iter().filter(|member| member.voter).count()
}

/// Takes members' batches and reports on the peer port.
pub struct ForwardService {
    merger: Arc<Merger>,
    reports: Arc<dyn Fn(ReportRequest) -> Result<ReportResponse, Status> + Send + Sync>,
}

impl ForwardService {
    /// A service that hands batches to `merger` and reports to `reports`.
    pub fn new(
        merger: Arc<Merger>,
        reports: impl Fn(ReportRequest) -> Result<ReportResponse, Status> + Send + Sync + 'static,
    ) -> ForwardService {
        ForwardService { merger, reports: Arc::new(reports) }
    }
}

#[tonic::async_trait]
impl Forward for ForwardService {
    async fn forward(&self, request: Request<Streaming<ForwardRequest>>) -> Result<Response<ForwardResponse>, Status> {
        let mut refusals = self.merger.refusals.subscribe();
        refusals.mark_unchanged();
        let mut requests = request.into_inner();
        let take = async {
            while let Some(request) = requests.message().await? {
                if !self.merger.push(Term(request.term), request.batches.into_iter()) {
                    return Err(Status::failed_precondition("this node does not lead in the sender's term"));
                }
            }
            Ok(())
        };
        tokio::select! {
            outcome = take => outcome?,
            _ = refusals.changed() => {}
        }
        Ok(Response::new(ForwardResponse {}))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        (self.reports)(request.into_inner()).map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::{EncodedBatch, encode_entry, refuse_sends};
    use crate::command::Payload;
    use bytes::Bytes;
    use prost::Message as _;
    use raftmq_proto::command::command::Kind;
    use raftmq_proto::command::{Append, AppendMessage, Batch, Command, Refusal, Refuse, Tick};

    #[test]
    fn a_batch_of_a_full_disk_has_refusals_for_its_sends_and_no_message() {
        let command = |kind| Command { deadline_ms: 7, kind: Some(kind) };
        let append = Append { topic: "t".to_owned(), messages: vec![AppendMessage::default(); 2] };
        let commands = vec![command(Kind::Append(append)), command(Kind::Tick(Tick {}))];
        let batch = Batch { node: 1, boot: 2, sequence: 3, settled: 0, slots: 2, commands };
        let blobs = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let refused = refuse_sends(EncodedBatch { batch: batch.encode_to_vec().into(), blobs }, "full");
        let payload = Payload::parse(encode_entry(9, &[refused]).expect("small")).expect("well formed");
        assert_eq!(payload.slots(), 0);
        let entry = payload.entry().expect("slots are counted right");
        let refuse = Refuse { refusal: Refusal::DiskFull.into(), detail: "full".to_owned() };
        let commands = vec![command(Kind::Refuse(refuse)), command(Kind::Tick(Tick {}))];
        assert_eq!(entry.batches, [Batch { slots: 0, commands, ..batch }]);
    }
}
