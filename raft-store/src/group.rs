//! The handle of one group: start it, propose to it, ask who leads, stop it.

mod fill;
mod trim;

pub use fill::FillFigures;
pub use trim::{LogUse, SegmentUse};

use crate::bootstrap;
use crate::config::{FlushMode, Peer, RaftConfig, RuntimeMode};
use crate::disk::Disk;
use crate::error::{FlushError, ProposeError, ReadError, StartError, TransferError};
use crate::flush::Flusher;
use crate::halt::Halt;
use crate::identity::{Home, Identity};
use crate::lease_watch;
use crate::log::{Log, LogOptions, LogOwner, OpenError, Recovery, SyncMode, WriterMode};
use crate::log_store::LogStore;
use crate::machine::{Machine, Versions};
use crate::network::{Dialer, Network, PAYLOAD_BYTES_MAX, PeerChannel, Shipper};
use crate::raft_types::{Command, Outcome, RaftVote, Types, from_raft_log_id, from_raft_vote};
use crate::replica::{Replica, read_applied};
use crate::retirement;
use crate::runtime::OwnRuntime;
use crate::service::PeerServices;
use crate::ship::{Pace, Place, Receiver};
use crate::snapshot::Snapshots;
use crate::standing::Told;
use crate::state::{State, StateError};
use crate::status::{GroupStatus, Leadership, Member, Role, Shortage, SyncFigures};
use crate::types::{DiskId, LogId, LogIndex, NodeId, NodeInfo, Term};
use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, LinearizableReadError, RaftError};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{Instant as _, RaftMetrics, ReadPolicy, ServerState};
use parking_lot::Mutex;
use raftmq_proto::raft as wire;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a clean stop waits for a follower to be level before it hands leadership over.
const LEVEL_WAIT: Duration = Duration::from_millis(100);

/// The same when an administrator asks for it.
const LEVEL_WAIT_ON_REQUEST: Duration = Duration::from_secs(1);

/// How often is looked at what openraft does not announce.
const LOOK: Duration = Duration::from_millis(250);

type Raft = openraft::Raft<Types, Replica>;

/// What the tasks and services of one group share. It does not own the runtime they run on.
pub(crate) struct Shared {
    config: RaftConfig,
    home: Arc<Home>,
    info: NodeInfo,
    peers: Vec<Peer>,
    boot: u64,
    raft: Raft,
    disk: Arc<dyn Disk>,
    log: Log,
    state: State,
    versions: Versions,
    flusher: Arc<Flusher>,
    snapshots: Arc<Snapshots>,
    shipper: Arc<Shipper>,
    receiver: Receiver,
    network: Arc<Network>,
    halt: Halt,
    leadership: watch::Sender<Leadership>,
    /// The disk of the rows is full, and whether any disk is.
    rows_short: AtomicBool,
    short: watch::Sender<bool>,
    waiting: Mutex<Option<String>>,
    /// The leader that was last heard of, and when.
    heard: Mutex<Option<(NodeId, Instant)>>,
    /// What leaders said was committed.
    told: Mutex<Told>,
    losses: mpsc::Sender<NodeId>,
    proposals: Arc<Semaphore>,
    /// Held while the members change.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// The others have told that this node is no member any more.
    retired: watch::Sender<bool>,
    closing: AtomicBool,
    ended: AtomicBool,
}

impl Shared {
    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn identity(&self) -> &Identity {
        self.home.identity()
    }

    pub(crate) fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// The list of peers, in the order that every node agrees on.
    pub(crate) fn peers(&self) -> &[Peer] {
        &self.peers
    }

    pub(crate) fn wire_peers(&self) -> Vec<wire::Peer> {
        let to_wire = |peer: &Peer| wire::Peer { label: peer.label.clone(), address: peer.address.clone() };
        self.peers.iter().map(to_wire).collect()
    }

    pub(crate) fn election_min(&self) -> Duration {
        self.config.election_min()
    }

    pub(crate) fn election_max(&self) -> Duration {
        self.config.election_max()
    }

    /// Says why the node is in no group; true when it is another reason than before.
    pub(crate) fn set_waiting(&self, why: Option<String>) -> bool {
        let mut waiting = self.waiting.lock();
        let changed = *waiting != why;
        *waiting = why;
        changed
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<Types> {
        // Cloned at once: holding the borrow could block the consensus task.
        self.raft.metrics().borrow_watched().clone()
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The newest version of commands that this node can apply.
    pub(crate) fn newest_version(&self) -> u32 {
        *self.versions.known.end()
    }

    /// The version of commands that is active in the group, as far as this node has applied.
    pub(crate) fn active_version(&self) -> Result<u32, StateError> {
        (self.versions.active)(&self.state)
    }

    pub(crate) fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    pub(crate) fn changing(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.changing.clone()
    }

    pub(crate) fn retired(&self) -> &watch::Sender<bool> {
        &self.retired
    }

    pub(crate) fn leads(&self) -> bool {
        self.leadership.borrow().leads
    }

    pub(crate) fn has_vote(&self) -> bool {
        let members = self.raft.server_metrics().borrow_watched().membership_config.clone();
        members.voter_ids().any(|id| id == self.identity().node)
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    pub(crate) fn member(&self, id: NodeId) -> Option<NodeInfo> {
        let members = self.raft.server_metrics().borrow_watched().membership_config.clone();
        members.get_node(&id).cloned()
    }

    pub(crate) fn member_disk(&self, id: NodeId) -> Option<DiskId> {
        self.member(id).map(|info| info.disk)
    }

    /// The member that stands for `label`.
    pub(crate) fn holder(&self, label: &str) -> Option<(NodeId, NodeInfo)> {
        let members = self.raft.server_metrics().borrow_watched().membership_config.clone();
        members.nodes().find(|(_, info)| info.label == label).map(|(id, info)| (*id, info.clone()))
    }

    /// Where the members answer each other.
    pub(crate) fn members_addresses(&self) -> Vec<String> {
        let members = self.raft.server_metrics().borrow_watched().membership_config.clone();
        members.nodes().map(|(_, info)| info.addresses.peer.clone()).collect()
    }

    /// Index of the last membership that this node has, and whether it is a member in it.
    pub(crate) fn own_membership(&self) -> (Option<u64>, bool) {
        let members = self.raft.server_metrics().borrow_watched().membership_config.clone();
        (members.log_id().as_ref().map(|id| id.index), members.get_node(&self.identity().node).is_some())
    }

    /// Label and address of each voter, by label.
    pub(crate) fn voters(&self) -> Vec<(String, String)> {
        let members = self.raft.server_metrics().borrow_watched().membership_config.clone();
        let infos = members.voter_ids().filter_map(|id| members.get_node(&id).cloned());
        let mut voters: Vec<_> = infos.map(|info| (info.label, info.addresses.peer)).collect();
        voters.sort();
        voters
    }

    /// This node's place among the voters without `lost`.
    pub(crate) fn rank_without(&self, lost: NodeId) -> u32 {
        let members = self.raft.server_metrics().borrow_watched().membership_config.clone();
        let mut voters: Vec<NodeId> = members.voter_ids().filter(|id| *id != lost).collect();
        voters.sort_unstable();
        let rank = voters.iter().position(|id| *id == self.identity().node).unwrap_or(voters.len());
        u32::try_from(rank).unwrap_or(u32::MAX)
    }

    /// A leader gave a sign of life, and said up to where entries are committed.
    pub(crate) fn heard(&self, from: NodeId, vote: &RaftVote, committed: Option<u64>) {
        if vote.committed && vote.leader_id.node_id == from {
            let now = Instant::now();
            *self.heard.lock() = Some((from, now));
            if let Some(committed) = committed {
                self.told.lock().said(committed, now);
            }
        }
    }

    /// Since any leader gave a sign of life.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.heard.lock().map(|(_, at)| at.elapsed())
    }

    pub(crate) fn last_heard(&self, leader: NodeId) -> Option<Instant> {
        self.heard.lock().filter(|(from, _)| *from == leader).map(|(_, at)| at)
    }

    /// The stream of entries from this node broke.
    pub(crate) fn lost(&self, from: NodeId) {
        // When the channel is full, an earlier loss is being looked into.
        let _ = self.losses.try_send(from);
    }

    /// Stopped, or about to, or storage failed: takes no proposals.
    pub(crate) fn closed(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.halt.reason().is_some()
    }

    /// Raft has stopped here, for whatever reason: peers are told so. Up to then a stopping node still votes for
    /// the one that it hands leadership to.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.halt.reason().is_some()
    }

    /// Keeps `leadership` at what openraft says.
    async fn watch_leadership(&self) {
        let mut server = self.raft.server_metrics();
        let mut data = self.raft.data_metrics();
        loop {
            let now = server.borrow_and_update().clone();
            let committed = data.borrow_and_update().local_committed;
            let is_leader = now.state == ServerState::Leader;
            let leads = is_leader && committed.is_some_and(|id| id.leader_id == now.vote.leader_id);
            let seen = |refusals| Leadership {
                term: Term(now.vote.leader_id.term),
                leader: now.current_leader,
                leads,
                refusals,
            };
            let changed = self.leadership.send_if_modified(|known| {
                let seen = seen(known.refusals);
                let changed = *known != seen;
                *known = seen;
                changed
            });
            if changed {
                self.log_leadership(seen(0));
            }
            let changed = if is_leader && !leads {
                tokio::select! {
                    changed = server.changed() => changed.is_ok(),
                    changed = data.changed() => changed.is_ok(),
                }
            } else {
                server.changed().await.is_ok()
            };
            if !changed {
                return;
            }
        }
    }

    fn log_leadership(&self, now: Leadership) {
        let term = now.term.0;
        match now.leader {
            Some(leader) if leader == self.identity().node && now.leads => tracing::info!(term, "this node leads"),
            Some(leader) if leader == self.identity().node => tracing::info!(term, "this node was elected"),
            Some(leader) => {
                let label = self.member(leader).map_or_else(|| format!("{leader:x}"), |info| info.label);
                tracing::info!(term, leader = label, "another node leads");
            }
            None => tracing::info!(term, "no leader is known"),
        }
    }

    /// Keeps `short` at what the disks say. Rows need little: they are short when half of what the log leaves them
    /// is gone.
    async fn watch_room(&self) {
        let rows = &self.config.data_dir;
        loop {
            let free = self.disk.free_bytes(rows);
            let rows_short = free.is_ok_and(|free| free < self.config.disk_free_bytes_min / 2);
            self.rows_short.store(rows_short, Ordering::Relaxed);
            let short = rows_short || self.log.space().full;
            self.short.send_if_modified(|known| std::mem::replace(known, short) != short);
            tokio::time::sleep(LOOK).await;
        }
    }

    fn shortage(&self) -> Option<Shortage> {
        let config = &self.config;
        let (folder, needed_bytes) = if self.log.space().full {
            (self.log.dir(), config.segment_bytes.saturating_add(config.disk_free_bytes_min))
        } else if self.rows_short.load(Ordering::Relaxed) {
            (config.data_dir.clone(), config.disk_free_bytes_min)
        } else {
            return None;
        };
        let free_bytes = self.disk.free_bytes(&folder).unwrap_or_default();
        Some(Shortage { folder: folder.display().to_string(), free_bytes, needed_bytes })
    }

    /// Stops the node when openraft has stopped by itself, in a panic or after a failure of storage.
    async fn watch_fatal(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            // Any question to the consensus task would do.
            if let Err(fatal) = self.raft.is_initialized().await {
                if !self.closing.load(Ordering::Relaxed) {
                    self.halt.stop(format!("raft stopped: {fatal}"));
                }
                return;
            }
        }
    }
}

struct Owner {
    shared: Arc<Shared>,
    handle: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Last, so that the tasks are told before their runtime ends.
    runtime: OwnRuntime,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop.cancel();
        if self.shared.config.runtime == RuntimeMode::Current && !self.shared.closing.load(Ordering::Relaxed) {
            // The runtime is not ours and goes on; Raft's tasks must not.
            let raft = self.shared.raft.clone();
            self.handle.spawn(async move { raft.shutdown().await });
        }
    }
}

/// A node of a group; cheap to clone. The last clone that is dropped ends the node as a crash would; use
/// [`RaftGroup::stop`] to end it well.
#[derive(Clone)]
pub struct RaftGroup {
    owner: Arc<Owner>,
}

impl RaftGroup {
    /// Opens the node's folder, replays what was committed, and takes part in the group.
    ///
    /// Returns before the group has formed or a leader is known: the services must stand on the peer listener
    /// (on [`RaftGroup::runtime`]) for the nodes to find one another. [`GroupStatus::waiting`] says what a node
    /// outside of a group waits for.
    ///
    /// # Errors
    /// [`StartError`], whose text says what to do.
    pub async fn start(
        config: RaftConfig,
        disk: Arc<dyn Disk>,
        machine: impl Machine,
    ) -> Result<(RaftGroup, PeerServices), StartError> {
        config.check()?;
        let (handle, runtime) = match config.runtime {
            RuntimeMode::Own { threads } => {
                OwnRuntime::start(threads).map_err(|error| StartError::Raft(format!("no runtime: {error}")))?
            }
            RuntimeMode::Current => (Handle::current(), OwnRuntime::none()),
        };
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let opening = {
            let (handle, tasks, stop) = (handle.clone(), tasks.clone(), stop.clone());
            handle.clone().spawn(async move {
                let opened = handle
                    .spawn_blocking(move || Opened::open(config, disk, Box::new(machine)))
                    .await
                    .map_err(|error| StartError::Raft(error.to_string()))??;
                opened.assemble(&tasks, &stop).await
            })
        };
        let shared = opening.await.map_err(|error| StartError::Raft(error.to_string()))??;
        let services = PeerServices::new(shared.clone());
        Ok((RaftGroup { owner: Arc::new(Owner { shared, handle, tasks, stop, runtime }) }, services))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// Proposes an entry. Returns once Raft has taken it; what becomes of it is seen when it is applied, or in
    /// [`Leadership::refusals`] and changes of leadership.
    ///
    /// # Errors
    /// [`ProposeError`]: nothing was proposed.
    pub async fn propose(&self, payload: Bytes) -> Result<(), ProposeError> {
        let shared = self.shared();
        if shared.closed() {
            return Err(ProposeError::Closed);
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: payload.len(), limit_bytes: PAYLOAD_BYTES_MAX });
        }
        let known = *shared.leadership.borrow();
        let node = shared.identity().node;
        if !known.leads {
            return Err(ProposeError::NotLeader { leader: known.leader.filter(|leader| *leader != node) });
        }
        let limit_bytes = shared.config.propose_bytes_max;
        let wanted = u32::try_from(payload.len().min(limit_bytes)).unwrap_or(u32::MAX);
        let permit = shared
            .proposals
            .clone()
            .try_acquire_many_owned(wanted)
            .map_err(|_| ProposeError::Overloaded { limit_bytes })?;
        let leadership = shared.leadership.clone();
        let outcome = Outcome::new(move |carried_out| {
            drop(permit);
            if !carried_out {
                leadership.send_modify(|known| known.refusals += 1);
            }
        });
        shared
            .raft
            .write(Command::new(payload))
            .responder(outcome)
            .with_leader(LeaderId { term: known.term.0, node_id: node })
            .await
            .map_err(|_| ProposeError::Closed)
    }

    /// Who leads, as this node knows it.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        *self.shared().leadership.borrow()
    }

    /// Waits until leadership is not `seen`, and gives what it is then.
    pub async fn leadership_changed(&self, seen: Leadership) -> Leadership {
        let mut watched = self.shared().leadership.subscribe();
        // Copied out at once: what is lent would keep the future from moving between threads.
        match watched.wait_for(|now| *now != seen).await.map(|now| *now) {
            Ok(now) => now,
            // The sender lives as long as this handle.
            Err(_) => std::future::pending().await,
        }
    }

    /// Log index of the membership that [`RaftGroup::members`] gives; 0 when there is none.
    #[must_use]
    pub fn membership(&self) -> LogIndex {
        LogIndex(self.shared().own_membership().0.unwrap_or(0))
    }

    /// Waits until the membership is not `seen`, and gives what it is then.
    pub async fn membership_changed(&self, seen: LogIndex) -> LogIndex {
        let mut metrics = self.shared().raft.server_metrics();
        loop {
            metrics.borrow_and_update();
            let now = self.membership();
            if now != seen {
                return now;
            }
            if metrics.changed().await.is_err() {
                // Raft has stopped: nothing will change.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until this node has a vote in its group: it formed one, found itself in one, or was admitted and has
    /// caught up.
    pub async fn voting(&self) {
        self.until_vote(true).await;
    }

    /// Waits until this node has no vote: it was removed, or is about to be.
    pub async fn parted(&self) {
        self.until_vote(false).await;
    }

    /// Whether the others have told this node that it is no member any more.
    #[must_use]
    pub fn removed(&self) -> bool {
        *self.shared().retired.borrow()
    }

    async fn until_vote(&self, wanted: bool) {
        let shared = self.shared();
        let mut metrics = shared.raft.server_metrics();
        let mut retired = shared.retired.subscribe();
        loop {
            metrics.borrow_and_update();
            let out = *retired.borrow_and_update();
            if (shared.has_vote() && !out) == wanted {
                return;
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() {
                    // Raft has stopped: nothing will change.
                    std::future::pending::<()>().await;
                },
                // The sender lives as long as this handle.
                _ = retired.changed() => {}
            }
        }
    }

    /// This node's Raft id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared().identity().node
    }

    /// This node's disk.
    #[must_use]
    pub fn disk(&self) -> DiskId {
        self.shared().identity().disk
    }

    /// Increases with every start of this node.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.shared().boot
    }

    /// The rows. A handle to them keeps their folder in use: drop it before the node is started again in the
    /// same process.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared().state.clone()
    }

    /// Payload of the entry at `index`; `None` when it is not in the log, or not any more.
    ///
    /// An entry that is not in memory is read from disk by a thread that nobody else waits for.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn payload(&self, index: LogIndex) -> io::Result<Option<Bytes>> {
        let log = &self.shared().log;
        if log.is_in_memory(index.0) {
            return log.payload(index);
        }
        let log = log.clone();
        tokio::task::spawn_blocking(move || log.payload(index)).await?
    }

    /// A disk of this node is full: what can wait must be refused, while the log's reserve lasts for what cannot.
    #[must_use]
    pub fn shortage(&self) -> Option<Shortage> {
        self.shared().shortage()
    }

    /// How long syncs of this node's log take.
    #[must_use]
    pub fn sync_figures(&self) -> SyncFigures {
        let log = self.shared().log.state();
        SyncFigures { count: log.fsync.count, total: log.fsync.total, waiting: log.oldest_waiting }
    }

    /// Waits until [`RaftGroup::shortage`] comes or goes.
    pub async fn shortage_changed(&self) {
        let mut short = self.shared().short.subscribe();
        if short.changed().await.is_err() {
            // The sender lives as long as this handle.
            std::future::pending::<()>().await;
        }
    }

    /// The runtime on which the peer listener is to be served, so that load elsewhere cannot delay a heartbeat.
    #[must_use]
    pub fn runtime(&self) -> Handle {
        self.owner.handle.clone()
    }

    /// The members, by label.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        members(&self.shared().metrics())
    }

    /// Those of them with a vote, and those who will have one when the voters change at the moment.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.members().into_iter().filter(|member| member.voter).map(|member| member.id).collect()
    }

    /// Everything an operator wants to know of this node.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let shared = self.shared();
        let metrics = shared.metrics();
        let log = shared.log.state();
        let identity = shared.identity();
        let applied = metrics.last_applied.as_ref().map(from_raft_log_id);
        GroupStatus {
            cluster: identity.cluster.clone(),
            group: identity.group.clone(),
            node: identity.node,
            label: identity.label.clone(),
            boot: shared.boot,
            role: match (&metrics.running_state, metrics.state) {
                (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
                _ if *shared.retired.borrow() => Role::Removed,
                (_, ServerState::Learner) => Role::Learner,
                (_, ServerState::Follower) => Role::Follower,
                (_, ServerState::Candidate) => Role::Candidate,
                (_, ServerState::Leader) => Role::Leader,
            },
            term: Term(metrics.current_term),
            leader: metrics.current_leader,
            vote: from_raft_vote(&metrics.vote),
            last: log.last.map(|id| LogIndex(id.index)),
            durable: log.durable.map(LogIndex),
            committed: metrics.local_committed.as_ref().map(from_raft_log_id),
            applied,
            standing: shared.told.lock().standing(applied.map(|id| id.index), Instant::now()),
            purged: log.purged,
            members: members(&metrics),
            quorum_ack: metrics.last_quorum_acked.map(|at| at.elapsed()),
            fsync_p50: log.fsync.p50,
            fsync_p99: log.fsync.p99,
            fsync_max: log.fsync.max,
            oldest_unsynced: log.oldest_waiting,
            log_segments: log.segments,
            log_bytes: log.bytes,
            shortage: shared.shortage(),
            waiting: shared.waiting.lock().clone(),
            halted: shared.halt.reason(),
        }
    }

    /// The first entry of each leader in this node's log, oldest first, whether it is committed or not; of the oldest
    /// leader the first one that the log still knows of.
    #[must_use]
    pub fn terms(&self) -> Vec<LogId> {
        let log = &self.shared().log;
        let mut ids = log.key_log_ids(log.visible().start..u64::MAX);
        // The last id of all is that of an entry which need not be a first one.
        ids.dedup_by_key(|id| (id.term, id.node));
        ids
    }

    /// Returns once this node has applied everything that was acknowledged before the call. Leader only.
    ///
    /// # Errors
    /// [`ReadError`]: nothing is promised.
    pub async fn read_barrier(&self) -> Result<LogIndex, ReadError> {
        let shared = self.shared();
        let limit = 2 * shared.election_max();
        match tokio::time::timeout(limit, shared.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Ok(Ok(read)) => Ok(LogIndex(read.index())),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Err(ReadError::NotLeader { leader: to.leader_id })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)))) => {
                Err(ReadError::NoMajority(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Closed),
            Err(_) => Err(ReadError::NoMajority(format!("not within {limit:?}"))),
        }
    }

    /// Hands leadership to `to`, or to the voter that is most level with this node.
    ///
    /// Nothing is handed over before that voter has all that this node has, which is waited for up to a second:
    /// an attempt that fails cannot be called off and stops proposals until it times out.
    ///
    /// # Errors
    /// [`TransferError`]: this node may still lead.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        self.transfer_within(LEVEL_WAIT_ON_REQUEST, to).await
    }

    async fn transfer_within(&self, wait: Duration, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let shared = self.shared();
        let node = shared.identity().node;
        let deadline = Instant::now() + wait;
        let target = loop {
            let metrics = shared.metrics();
            if metrics.running_state.is_err() {
                return Err(TransferError::Closed);
            }
            if metrics.state != ServerState::Leader {
                let leader = metrics.current_leader.filter(|leader| *leader != node);
                return Err(TransferError::NotLeader { leader });
            }
            let members = members(&metrics);
            let wanted = |member: &&Member| to.is_none_or(|to| to == member.id);
            let mut voters = members.iter().filter(|member| member.voter && member.id != node).filter(wanted);
            let Some(first) = voters.next() else {
                return Err(to.map_or(TransferError::NobodyLevel, TransferError::NotVoter));
            };
            // The most level one, and of those the one heard of last.
            let freshness = |member: &Member| std::cmp::Reverse(member.last_ack.unwrap_or(Duration::MAX));
            let best = voters.fold(first, |best, other| {
                if (other.matched, freshness(other)) > (best.matched, freshness(best)) { other } else { best }
            });
            if best.matched.is_some() && best.matched.map(|index| index.0) >= metrics.last_log_index {
                break best.id;
            }
            if Instant::now() >= deadline {
                return Err(TransferError::NobodyLevel);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        shared.raft.trigger().transfer_leader(target).await.map_err(|_| TransferError::Closed)?;
        let mut watched = shared.leadership.subscribe();
        let taken_over = watched.wait_for(|now| now.leader.is_some_and(|leader| leader != node));
        match tokio::time::timeout(2 * shared.election_max(), taken_over).await {
            Ok(Ok(now)) => Ok(now.leader.unwrap_or(target)),
            Ok(Err(_)) => Err(TransferError::Closed),
            Err(_) => Err(TransferError::TimedOut(target)),
        }
    }

    /// A connection to a member for services other than Raft; it is made at the first call, and tells the other
    /// side who calls, for its [`crate::PeerGuard`]. `None` for a node that is no member, or has no address.
    ///
    /// Call it on the runtime that is to drive the connection.
    #[must_use]
    pub fn peer_channel(&self, node: NodeId) -> Option<PeerChannel> {
        let info = self.shared().member(node)?;
        self.shared().network.channel(node, &info)
    }

    /// The rows of this node were found to be wrong. It stops as after a failure of storage, and its next start fills
    /// an empty state from the log, or refuses when the log does not reach back far enough.
    pub fn distrust_rows(&self, why: &str) {
        let shared = self.shared().clone();
        let why = why.to_owned();
        self.owner.handle.spawn_blocking(move || {
            if shared.halt.reason().is_some() {
                return;
            }
            match shared.home.set_state(shared.home.state_number() + 1, None) {
                Ok(()) => shared.halt.stop(format!(
                    "the rows of this node cannot be trusted: {why}; start it again, and it fills them anew from its log"
                )),
                Err(error) => shared.halt.stop(format!(
                    "the rows of this node cannot be trusted: {why}; and the next start will use them again, because \
                     the MANIFEST could not be replaced: {error}"
                )),
            }
        });
    }

    /// Resolves once storage has failed, with the reason. Nothing is acknowledged after it: the process must end.
    pub async fn halted(&self) -> Arc<str> {
        self.shared().halt.stopped().await
    }

    /// Writes the rows of everything that was applied so far to disk, so that the next start replays nothing of it. The
    /// index of the last entry of which that is true.
    ///
    /// # Errors
    /// [`FlushError`]. When the disk fails, the node stops.
    pub async fn flush_rows(&self) -> Result<LogIndex, FlushError> {
        let shared = self.shared().clone();
        if shared.closed() {
            return Err(FlushError::Closed);
        }
        if !shared.flusher.has_room() {
            return Err(FlushError::NoRoom);
        }
        let applied = self.status().applied.map_or(0, |id| id.index);
        // By a task of its own: a flush that was begun must not end half way, with rows ahead of the log, because its
        // caller goes away.
        let flushing = self.runtime().spawn(async move {
            shared.flusher.flush().await.map_err(|error| {
                shared.halt.stop(format!("the rows could not be flushed: {error}"));
                FlushError::Rows(error.to_string())
            })
        });
        flushing.await.unwrap_or(Err(FlushError::Closed))?;
        Ok(LogIndex(applied))
    }

    /// Ends the node well: takes no more proposals, hands leadership over when it leads, writes the rows and
    /// syncs the log. Does nothing the second time.
    pub async fn stop(&self) {
        let shared = self.shared().clone();
        if shared.closing.swap(true, Ordering::Relaxed) {
            return;
        }
        if shared.leadership.borrow().leads {
            match self.transfer_within(LEVEL_WAIT, None).await {
                Ok(to) => tracing::info!(to = format_args!("{to:x}"), "handed leadership over"),
                // A group of one has nobody to take over; otherwise the others hold an election.
                Err(error) => tracing::info!(%error, "stopping without handing leadership over"),
            }
        }
        self.owner.stop.cancel();
        let stopping = self.owner.handle.spawn(async move {
            shared.ended.store(true, Ordering::Relaxed);
            let since = Instant::now();
            if let Err(error) = shared.raft.shutdown().await {
                tracing::warn!(%error, "raft did not end well");
            }
            if shared.halt.reason().is_none() {
                if !shared.flusher.has_room() {
                    tracing::error!("no room to flush the rows; the next start replays more of the log");
                } else if let Err(error) = shared.flusher.flush().await {
                    tracing::error!(%error, "the rows were not flushed; the next start replays more of the log");
                }
            }
            let flushed = since.elapsed();
            let log = shared.log.clone();
            match tokio::task::spawn_blocking(move || log.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the log was not closed well"),
                Err(error) => tracing::error!(%error, "the log was not closed well"),
            }
            tracing::info!(?flushed, closed = ?since.elapsed(), "raft store is closed");
        });
        if let Err(error) = stopping.await {
            tracing::error!(%error, "the group did not end well");
        }
        self.owner.tasks.close();
        self.owner.tasks.wait().await;
    }

    /// Ends all that still runs on the group's own runtime, and waits for it; without [`RaftGroup::stop`] before it,
    /// as a crash would. A process that leaves while a thread still closes RocksDB is aborted by it, so this comes
    /// before the end of one. Does nothing when the runtime is the caller's.
    pub async fn end(&self) {
        self.owner.stop.cancel();
        self.owner.runtime.end().await;
    }
}

pub(crate) fn members(metrics: &RaftMetrics<Types>) -> Vec<Member> {
    let membership = metrics.membership_config.membership();
    // While the voters change, those to come: who is about to go is no place to send anybody to.
    let voters = membership.get_joint_config().last();
    let mut members: Vec<Member> = membership
        .nodes()
        .map(|(id, info)| {
            let matched = if *id == metrics.id {
                // A leader's own log is level with itself.
                metrics.replication.as_ref().and(metrics.last_log_index)
            } else {
                metrics.replication.as_ref().and_then(|known| known.get(id)?.as_ref().map(|matched| matched.index))
            };
            let lag = metrics.replication.as_ref().map(|_| {
                let next = metrics.last_log_index.map_or(0, |index| index + 1);
                next.saturating_sub(matched.map_or(0, |index| index + 1))
            });
            let last_ack = metrics.heartbeat.as_ref().and_then(|known| Some((*known.get(id)?)?.elapsed()));
            Member {
                id: *id,
                label: info.label.clone(),
                addresses: info.addresses.clone(),
                voter: voters.is_some_and(|voters| voters.contains(id)),
                matched: matched.map(LogIndex),
                lag,
                last_ack,
            }
        })
        .collect();
    members.sort_by(|one, other| (&one.label, one.id).cmp(&(&other.label, other.id)));
    members
}

/// What was found on disk.
struct Opened {
    config: RaftConfig,
    home: Arc<Home>,
    disk: Arc<dyn Disk>,
    log: Log,
    recovery: Recovery,
    state: State,
    tables: &'static [&'static str],
    versions: Versions,
    log_options: LogOptions,
    owner: LogOwner,
    machine: Box<dyn Machine>,
}

/// What openraft is built on, before it is.
struct Parts {
    config: RaftConfig,
    home: Arc<Home>,
    disk: Arc<dyn Disk>,
    log: Log,
    recovery: Recovery,
    state: State,
    versions: Versions,
    halt: Halt,
    flusher: Arc<Flusher>,
    snapshots: Arc<Snapshots>,
    receiver: Receiver,
    replica: Replica,
    store: LogStore,
}

/// Opens the storage of a node as openraft sees it, for the library's own conformance suite. The suite applies
/// entries that it never appended, so apply does not wait for the log here.
///
/// # Errors
/// As [`RaftGroup::start`].
#[doc(hidden)]
pub fn open_storage(
    config: RaftConfig,
    disk: Arc<dyn Disk>,
    machine: impl Machine,
) -> Result<(LogStore, Replica), StartError> {
    let parts = Opened::open(config, disk, Box::new(machine))?.parts(false)?;
    Ok((parts.store, parts.replica))
}

impl Opened {
    fn open(config: RaftConfig, disk: Arc<dyn Disk>, machine: Box<dyn Machine>) -> Result<Opened, StartError> {
        let log_dir = config.log_dir.as_ref().unwrap_or(&config.data_dir);
        let home = Home::open(disk.clone(), &config.data_dir, log_dir, &config.cluster, &config.group, &config.label)?;
        let sync = match config.flush {
            FlushMode::Sync => SyncMode::Every,
            FlushMode::Async => SyncMode::Votes,
        };
        let options = LogOptions {
            segment_bytes: config.segment_bytes,
            sync,
            tail_cache_bytes: config.tail_cache_bytes,
            keep_free_bytes: config.disk_free_bytes_min,
            writer: match config.runtime {
                RuntimeMode::Own { .. } => WriterMode::Thread,
                RuntimeMode::Current => WriterMode::Inline,
            },
            ..LogOptions::default()
        };
        let owner = LogOwner { group: config.group.clone(), disk_id: home.identity().disk.0 };
        let path = home.log_path();
        let (log, recovery) =
            Log::open(disk.clone(), &path, owner.clone(), options.clone()).map_err(|error| log_error(path, error))?;
        let path = home.state_path(home.state_number());
        let state = State::open(&path, machine.tables(), &config.state)?;
        let versions = machine.versions();
        versions.check(&state)?;
        check_state(&state, &log, home.installed()).map_err(|what| StartError::Corrupt { path, what })?;
        // RocksDB syncs what is in its folder. That there is such a folder is for us to make durable, before anything
        // that its rows stand for is purged from the log.
        if !folder_stays_unsynced() {
            let path = &config.data_dir;
            let failed = |source| StartError::Io { what: "sync the data folder", path: path.clone(), source };
            disk.sync_dir(path).map_err(failed)?;
        }
        let tables = machine.tables();
        // Boots are numbered by it, also once another log has taken the place of this one.
        let log_options = LogOptions { number_after: recovery.first_segment_number, ..options };
        Ok(Opened {
            config,
            home: Arc::new(home),
            disk,
            log,
            recovery,
            state,
            tables,
            versions,
            log_options,
            owner,
            machine,
        })
    }

    /// What openraft is built on. `apply_waits`: rows wait until the log is durable up to them.
    fn parts(self, apply_waits: bool) -> Result<Parts, StartError> {
        let Opened { config, home, disk, log, recovery, state, tables, versions, log_options, owner, machine } = self;
        let receiver = Receiver::new(Place { home: home.clone(), owner, log: log_options }, tables);
        let halt = Halt::new();
        let flusher = Arc::new(Flusher::new(
            state.clone(),
            log.clone(),
            disk.clone(),
            apply_waits,
            config.state_flush_bytes,
            Duration::from_millis(config.state_flush_ms),
        ));
        let snapshots = Arc::new(Snapshots::new(
            state.clone(),
            log.clone(),
            tables,
            versions.clone(),
            config.state.clone(),
            flusher.clone(),
            home.clone(),
        ));
        let replica =
            Replica::new(state.clone(), machine, log.clone(), flusher.clone(), snapshots.clone(), halt.clone())?;
        let store = LogStore::new(log.clone(), halt.clone(), config.election_min());
        Ok(Parts {
            config,
            home,
            disk,
            log,
            recovery,
            state,
            versions,
            halt,
            flusher,
            snapshots,
            receiver,
            replica,
            store,
        })
    }

    async fn assemble(self, tasks: &TaskTracker, stop: &CancellationToken) -> Result<Arc<Shared>, StartError> {
        let apply_waits = self.config.flush == FlushMode::Sync;
        let Parts {
            config,
            home,
            disk,
            log,
            recovery,
            state,
            versions,
            halt,
            flusher,
            snapshots,
            receiver,
            replica,
            store,
        } = self.parts(apply_waits)?;
        if config.runtime == RuntimeMode::Current {
            tasks.spawn(stop.clone().run_until_cancelled_owned(write_by_and_by(log.clone())));
        }
        let identity = home.identity().clone();
        let addresses = config.addresses();
        let info = NodeInfo { label: config.label.clone(), disk: identity.disk, addresses };
        let network = Arc::new(Network::new(&config, identity.node, identity.disk));
        let raft_config = Arc::new(config.raft()?);
        let shipper = Arc::new(Shipper {
            snapshots: snapshots.clone(),
            log: log.clone(),
            pace: Arc::new(Pace::new(config.fill_bytes_per_second)),
            sent_bytes: Arc::default(),
        });
        let dialer = Dialer { network: network.clone(), shipper: shipper.clone() };
        let raft = Raft::build(identity.node, raft_config, dialer, store, replica).await.map_err(|fatal| {
            // What stopped the replay says more than what followed from it.
            StartError::Raft(match (halt.reason(), fatal) {
                (Some(reason), _) => reason.to_string(),
                (None, Fatal::StorageError(error)) => error.to_string(),
                (None, other) => other.to_string(),
            })
        })?;
        // Made at a start with a purged log, to say that the rows are durable; nobody is sent it.
        snapshots.ship();
        raft.run();
        let (losses, lost) = mpsc::channel(4);
        let shared = Arc::new(Shared {
            peers: config.sorted_peers(),
            boot: recovery.first_segment_number,
            raft,
            disk,
            log,
            state,
            versions,
            flusher,
            snapshots,
            shipper,
            receiver,
            network,
            halt,
            leadership: watch::Sender::new(Leadership::default()),
            rows_short: AtomicBool::new(false),
            short: watch::Sender::new(false),
            waiting: Mutex::new(None),
            heard: Mutex::new(None),
            told: Mutex::default(),
            losses,
            proposals: Arc::new(Semaphore::new(config.propose_bytes_max)),
            changing: Arc::default(),
            retired: watch::Sender::new(false),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            home,
            info,
            config,
        });
        tracing::info!(
            node = format_args!("{:x}", identity.node),
            disk = %identity.disk,
            label = identity.label,
            boot = shared.boot,
            last = recovery.last.map(tracing::field::display),
            cut_bytes = recovery.cut_bytes,
            "raft store is open"
        );
        shared.spawn_tasks(tasks, stop, lost);
        Ok(shared)
    }
}

impl Shared {
    fn spawn_tasks(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken, lost: mpsc::Receiver<NodeId>) {
        let shared = self.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { bootstrap::run(&shared).await }));
        let shared = self.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { shared.watch_fatal().await }));
        let shared = self.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { shared.watch_room().await }));
        let shared = self.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { lease_watch::run(&shared, lost).await }));
        let shared = self.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { shared.tidy_fills().await }));
        let shared = self.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { retirement::run(&shared).await }));
        let shared = self.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            let error = shared.flusher.run().await;
            shared.halt.stop(format!("the rows could not be flushed: {error}"));
        }));
        // Ends with Raft: it must still tell who took over when the others have been told to stop.
        let shared = self.clone();
        tasks.spawn(async move { shared.watch_leadership().await });
    }
}

/// Whether a test wants to see what happens when the folder of the rows is lost.
fn folder_stays_unsynced() -> bool {
    #[cfg(feature = "test-faults")]
    let broken = crate::log::faults::state_folder_unsynced();
    #[cfg(not(feature = "test-faults"))]
    let broken = false;
    broken
}

/// Writes a log that has no thread of its own. What is queued waits, mostly a little: a crash may come first.
async fn write_by_and_by(log: Log) {
    loop {
        let longest_ms = if rand::random_ratio(1, 20) { 60 } else { 4 };
        tokio::time::sleep(Duration::from_millis(rand::random_range(1..longest_ms))).await;
        log.run_pending();
    }
}

fn log_error(path: PathBuf, error: OpenError) -> StartError {
    match error {
        OpenError::Io(source) => StartError::Io { what: "open the log", path, source },
        OpenError::Foreign { .. } => StartError::Foreign {
            path,
            what: error.to_string(),
            todo: "give the node the log folder that belongs to its data folder".to_owned(),
        },
        OpenError::Corrupt { .. } => StartError::Corrupt { path, what: error.to_string() },
    }
}

/// Whether the rows are those of a prefix of the log: never ahead of it, never behind what was purged from it,
/// never of another branch. Says what is wrong.
fn check_state(state: &State, log: &Log, installed: Option<LogId>) -> Result<(), String> {
    let applied = read_applied(state).map_err(|error| error.to_string())?.id;
    let ends = log.state();
    let Some(applied) = applied else {
        return match ends.purged {
            Some(purged) => Err(format!("the rows are gone, and entries up to {purged} are no longer in the log")),
            None => Ok(()),
        };
    };
    if ends.purged.is_some_and(|purged| applied.index < purged.index) {
        return Err(format!("the rows end at {applied}, and later entries are no longer in the log"));
    }
    let last = ends.last.or(ends.purged);
    if last.is_none_or(|last| applied.index > last.index) {
        // The purge that follows the installation of a snapshot had not reached the disk.
        return if installed == Some(applied) {
            Ok(())
        } else {
            Err(format!("the rows end at {applied}, the log ends before it: entries were lost that had been synced"))
        };
    }
    match log.log_id(applied.index) {
        Some(id) if id == applied => Ok(()),
        Some(id) => Err(format!("the rows end at {applied}, where the log has {id}")),
        None => Err(format!("the rows end at {applied}, which the log does not have")),
    }
}
