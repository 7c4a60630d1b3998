//! The proposer: the only door to Raft. It batches the commands of this node's clients, hands the batches to the
//! leader, and answers each client when this node's own apply reaches its command.
//!
//! ```text
//! submit ─► queue ─► batch (node, boot, sequence) ─► leader's merger ─► Raft entry ─► apply here ─► answer
//!                      └── kept until answered; sent again, unchanged, to every new leader
//! ```
//!
//! A batch that was sent twice is carried out once: the machine answers a repeat with its first replies. So a
//! leader that dies, a stream that breaks or a reply that is lost leaves no unknown outcome behind.

use crate::clock::ClusterClock;
use crate::forward::{Link, Merger};
use crate::machine::{Answer, VERSION, version_of};
use crate::spans::{self, Context, Kind as SpanKind, Span, Tracer};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use raft_store::{NodeId, RaftGroup};
use raftmq_proto::command::{Batch, Command, Reply, command::Kind};
use raftmq_proto::forward::ForwardedBatch;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bytes counted for a command beside what it says and its blobs.
const COMMAND_BYTES: usize = 256;
/// A stream to the leader that broke is opened again after this.
const RECONNECT_AFTER: Duration = Duration::from_millis(20);
/// The same on a node that was removed from its group, which refuses it.
const RECONNECT_REMOVED_AFTER: Duration = Duration::from_secs(1);
/// Batches that nobody answered for this long are sent again. Elections and broken streams resend at once; this
/// is for a leader that took a batch and dropped it.
const RESEND_AFTER: Duration = Duration::from_secs(2);

/// Bounds of what this node keeps between a client and an answer.
#[derive(Debug, Clone)]
pub struct ProposeLimits {
    /// Bytes of commands and bodies between a client and its answer; more are refused as busy.
    pub inflight_bytes_max: usize,
    /// Bytes of blobs in one batch; one larger command still travels alone.
    pub batch_bytes_max: usize,
    /// Commands in one batch.
    pub batch_commands_max: usize,
    /// Batches under way at once; what comes meanwhile goes into the next one.
    pub batches_inflight_max: usize,
}

impl Default for ProposeLimits {
    fn default() -> Self {
        ProposeLimits {
            inflight_bytes_max: 64 << 20,
            batch_bytes_max: 512 << 10,
            batch_commands_max: 1024,
            batches_inflight_max: 2,
        }
    }
}

/// Why a command got no reply.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The node holds as much unanswered work as it may.
    #[error("busy: {value} bytes of unanswered requests, the limit is {limit}; raise {key} or send slower")]
    Overloaded {
        /// The limit, in bytes.
        limit: usize,
        /// What would be held with this command, in bytes.
        value: usize,
        /// The configuration key that changes the limit.
        key: &'static str,
    },
    /// The client's deadline passed before the command was applied; it is refused if it arrives later.
    #[error("not committed before the deadline of the request; the group may have no leader at the moment")]
    Deadline,
    /// Members of the group run builds that do not know this command.
    #[error(
        "not before every member of the broker group runs a build that knows version {needed} of commands, {active} is \
         active: upgrade the members that mqadmin haStatus shows behind"
    )]
    Version {
        /// The version that brings the command.
        needed: u32,
        /// The active one.
        active: u32,
    },
    /// The node stops.
    #[error("this node is shutting down")]
    Closed,
}

/// A group that has just been formed, or upgraded, begins its version within this.
const ACTIVATION_MAX: Duration = Duration::from_secs(3);

struct Pending {
    command: Command,
    blobs: Vec<Bytes>,
    bytes: usize,
    answer: oneshot::Sender<Reply>,
    /// The span of the call that it is of, when that is traced.
    trace: Option<Context>,
}

/// A batch that has been sent and not answered.
struct Unsettled {
    batch: ForwardedBatch,
    answers: Vec<oneshot::Sender<Reply>>,
    bytes: usize,
    /// Of its commands that are traced.
    spans: Vec<Span>,
}

#[derive(Default)]
struct Batches {
    next_sequence: u64,
    unsettled: BTreeMap<u64, Unsettled>,
    last_progress: Option<Instant>,
}

/// What is not in a batch yet.
#[derive(Default)]
struct Queue {
    commands: VecDeque<Pending>,
    bytes: usize,
    /// With so many bytes another batch may leave.
    wanted_bytes: usize,
}

struct Inner {
    limits: ProposeLimits,
    clock: Arc<ClusterClock>,
    tracer: Tracer,
    inflight_bytes: AtomicUsize,
    /// What batches are encoded by.
    version: watch::Sender<u32>,
    queue: Mutex<Queue>,
    queued: Notify,
    batches: Mutex<Batches>,
    settled: Notify,
    closed: CancellationToken,
}

/// A handle to the proposer of this node; cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    inner: Arc<Inner>,
}

impl Proposer {
    /// A proposer that queues until [`Proposer::run`] is given a group.
    #[must_use]
    pub(crate) fn new(limits: ProposeLimits, clock: Arc<ClusterClock>, tracer: Tracer) -> Proposer {
        Proposer {
            inner: Arc::new(Inner {
                limits,
                clock,
                tracer,
                inflight_bytes: AtomicUsize::new(0),
                version: watch::Sender::new(0),
                queue: Mutex::default(),
                queued: Notify::new(),
                batches: Mutex::default(),
                settled: Notify::new(),
                closed: CancellationToken::new(),
            }),
        }
    }

    /// Cluster time as this node knows it, in ms since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.inner.clock.now()
    }

    /// The version of commands that is active, as far as this node has applied. Whoever proposes what is new in a
    /// version asks for it first: other members may not know that version before.
    #[must_use]
    pub fn version(&self) -> u32 {
        *self.inner.version.borrow()
    }

    /// Whether the version that brings this command is active.
    fn has_begun(&self, kind: &Kind) -> Result<(), SubmitError> {
        let active = self.version();
        // Once the newest one is, commands need not be looked through.
        if active >= VERSION {
            return Ok(());
        }
        let needed = version_of(kind);
        if needed > active { Err(SubmitError::Version { needed, active }) } else { Ok(()) }
    }

    /// This node has applied entries by this version, which is active from now on. True when it was another before.
    pub(crate) fn encode_by(&self, version: u32) -> bool {
        self.inner.version.send_replace(version) != version
    }

    /// Carries out a command with its message blobs, and returns its reply once this node has applied it: it is
    /// then on disk on a majority and visible in this node's state.
    ///
    /// # Errors
    /// [`SubmitError::Overloaded`] at once when the node holds too many bytes; [`SubmitError::Deadline`] when the
    /// deadline passed first. A command that no leader has put into the log by then is refused by every replica; one
    /// that is in the log of a leader without its majority may still be committed.
    pub async fn submit(&self, kind: Kind, blobs: Vec<Bytes>, deadline: Option<Instant>) -> Result<Reply, SubmitError> {
        if let Some(deadline) = deadline
            && self.inner.clock.known().is_none()
        {
            // It could not say when it is too late, and might be carried out after the client was told that it is.
            let told = tokio::time::timeout_at(deadline, self.inner.clock.told_once());
            told.await.map_err(|_| SubmitError::Deadline)?;
        }
        if let Err(SubmitError::Version { needed, .. }) = self.has_begun(&kind) {
            let mut active = self.inner.version.subscribe();
            // What is refused here was proposed to nobody.
            let _ = tokio::time::timeout(ACTIVATION_MAX, active.wait_for(|active| *active >= needed)).await;
        }
        let reply = self.enqueue(kind, blobs, deadline)?;
        let outcome = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, reply).await.map_err(|_| SubmitError::Deadline)?,
            None => reply.await,
        };
        outcome.map_err(|_| SubmitError::Closed)
    }

    /// As [`Proposer::submit`], for callers that must learn of a reply that comes after the deadline. The channel
    /// closes without a reply when the node stops.
    ///
    /// # Errors
    /// [`SubmitError::Overloaded`], [`SubmitError::Version`] and [`SubmitError::Closed`].
    pub fn enqueue(
        &self,
        kind: Kind,
        blobs: Vec<Bytes>,
        deadline: Option<Instant>,
    ) -> Result<oneshot::Receiver<Reply>, SubmitError> {
        let inner = &*self.inner;
        if inner.closed.is_cancelled() {
            return Err(SubmitError::Closed);
        }
        self.has_begun(&kind)?;
        let bytes = blobs.iter().map(Bytes::len).sum::<usize>() + kind.encoded_len() + COMMAND_BYTES;
        inner.take(bytes)?;
        // A node that was not told the time yet cannot name a deadline in it.
        let deadline_ms = deadline.zip(inner.clock.known()).map_or(0, |(deadline, now)| {
            let left = deadline.saturating_duration_since(Instant::now());
            now + u64::try_from(left.as_millis()).unwrap_or(u64::from(u32::MAX))
        });
        let (answer, reply) = oneshot::channel();
        let command = Command { deadline_ms, kind: Some(kind) };
        let trace = if inner.tracer.is_on() { spans::current() } else { None };
        let enough = {
            let mut queue = inner.queue.lock();
            queue.bytes += bytes;
            queue.commands.push_back(Pending { command, blobs, bytes, answer, trace });
            queue.bytes >= queue.wanted_bytes
        };
        if enough {
            inner.queued.notify_one();
        }
        Ok(reply)
    }

    /// Whether nobody waits for a reply of this node.
    pub(crate) fn is_idle(&self) -> bool {
        self.inner.inflight_bytes.load(Ordering::Relaxed) == 0
    }

    /// Gives the replies that this node's apply produced to the waiting clients.
    pub(crate) fn answer(&self, answers: impl Iterator<Item = Answer>) {
        let mut given = Vec::new();
        {
            let mut batches = self.inner.batches.lock();
            for answer in answers {
                if let Some(unsettled) = batches.unsettled.remove(&answer.sequence) {
                    given.push((unsettled, answer.replies));
                }
            }
            if given.is_empty() {
                return;
            }
            batches.last_progress = Some(Instant::now());
        }
        self.inner.settled.notify_one();
        for (unsettled, replies) in given {
            unsettled.spans.into_iter().for_each(|span| self.inner.tracer.end(span));
            self.inner.inflight_bytes.fetch_sub(unsettled.bytes, Ordering::Relaxed);
            for (answer, reply) in unsettled.answers.into_iter().zip(replies) {
                // A client that has gone away needs no reply.
                let _ = answer.send(reply);
            }
        }
    }

    /// Sends batches to whoever leads, until `stop`.
    pub(crate) async fn run(self, group: RaftGroup, merger: Arc<Merger>, stop: CancellationToken) {
        let inner = &*self.inner;
        let mut seen = group.leadership();
        let mut link = Link::open(&group, &merger, &seen);
        loop {
            if inner.may_leave()
                && let Some(batch) = inner.next_batch(group.node(), group.boot())
            {
                link.send(batch);
                continue;
            }
            let resend = tokio::select! {
                () = stop.cancelled() => break,
                () = inner.queued.notified() => false,
                () = inner.settled.notified() => false,
                leadership = group.leadership_changed(seen) => {
                    seen = leadership;
                    link = Link::open(&group, &merger, &seen);
                    true
                }
                () = link.broken() => {
                    let pause = if group.removed() { RECONNECT_REMOVED_AFTER } else { RECONNECT_AFTER };
                    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    seen = group.leadership();
                    link = Link::open(&group, &merger, &seen);
                    true
                }
                () = inner.stalled() => true,
            };
            if resend {
                inner.resend(&link);
            }
        }
        inner.close();
    }
}

impl Inner {
    fn take(&self, bytes: usize) -> Result<(), SubmitError> {
        let limit = self.limits.inflight_bytes_max;
        let held = self.inflight_bytes.fetch_add(bytes, Ordering::Relaxed);
        if held + bytes > limit && held > 0 {
            self.inflight_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(SubmitError::Overloaded { limit, value: held + bytes, key: "requestInflightBytesMax" });
        }
        Ok(())
    }

    /// Whether another batch may leave: a first one at once, a further one when it is as large as the one before it.
    /// Batches cost the same whatever is in them, and small ones would not become fewer by hurrying.
    fn may_leave(&self) -> bool {
        let wanted_bytes = {
            let batches = self.batches.lock();
            match batches.unsettled.values().next_back() {
                None => 1,
                Some(_) if batches.unsettled.len() >= self.limits.batches_inflight_max => usize::MAX,
                Some(last) => last.bytes.min(self.limits.batch_bytes_max),
            }
        };
        let mut queue = self.queue.lock();
        queue.wanted_bytes = wanted_bytes;
        queue.bytes >= wanted_bytes
    }

    /// Drains the queue into one batch and keeps it until it is answered.
    fn next_batch(&self, node: NodeId, boot: u64) -> Option<ForwardedBatch> {
        let (mut commands, mut blobs, mut answers, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut spans = Vec::new();
        {
            let mut queue = self.queue.lock();
            while let Some(next) = queue.commands.front() {
                if !commands.is_empty()
                    && (bytes + next.bytes > self.limits.batch_bytes_max
                        || commands.len() >= self.limits.batch_commands_max)
                {
                    break;
                }
                let Some(next) = queue.commands.pop_front() else { break };
                queue.bytes -= next.bytes;
                bytes += next.bytes;
                commands.push(next.command);
                blobs.extend(next.blobs);
                answers.push(next.answer);
                spans.extend(next.trace.map(|call| Span::within(call, "propose", SpanKind::Internal)));
            }
        }
        if commands.is_empty() {
            return None;
        }
        let mut batches = self.batches.lock();
        batches.next_sequence += 1;
        let sequence = batches.next_sequence;
        if batches.unsettled.is_empty() {
            batches.last_progress = Some(Instant::now());
        }
        let settled = batches.unsettled.keys().next().map_or(sequence, |oldest| *oldest) - 1;
        let slots = u32::try_from(blobs.len()).expect("a batch has fewer blobs than bytes, and those are bounded");
        let version = Some(*self.version.borrow()).filter(|version| *version > 1).unwrap_or(0);
        let batch = Batch { node, boot, sequence, settled, slots, commands, version };
        let traceparents = spans.iter().map(|span: &Span| span.context.to_string()).collect();
        let batch = ForwardedBatch { batch: batch.encode_to_vec().into(), blobs, boot, sequence, traceparents };
        batches.unsettled.insert(sequence, Unsettled { batch: batch.clone(), answers, bytes, spans });
        Some(batch)
    }

    fn resend(&self, link: &Link) {
        let mut batches = self.batches.lock();
        batches.last_progress = Some(Instant::now());
        for unsettled in batches.unsettled.values() {
            link.send(unsettled.batch.clone());
        }
    }

    /// Returns once batches have waited too long for any answer.
    async fn stalled(&self) {
        loop {
            let waited = {
                let batches = self.batches.lock();
                if batches.unsettled.is_empty() { None } else { batches.last_progress.map(|since| since.elapsed()) }
            };
            match waited {
                Some(waited) if waited >= RESEND_AFTER => return,
                waited => tokio::time::sleep(RESEND_AFTER.saturating_sub(waited.unwrap_or_default())).await,
            }
        }
    }

    /// Answers nobody any more: dropped channels tell every waiting client that the node stops.
    fn close(&self) {
        self.closed.cancel();
        *self.queue.lock() = Queue::default();
        self.batches.lock().unsettled.clear();
    }
}
