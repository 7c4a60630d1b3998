//! How one node of a group is set up.

use crate::error::StartError;
use crate::secret::PeerSecret;
use crate::state::StateOptions;
use crate::types::NodeAddresses;
use futures::future::BoxFuture;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// A node as the configuration file lists it. The list only forms the group; afterwards the log's membership wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Name of the node: `n0`.
    pub label: String,
    /// `host:port` of its peer listener.
    pub address: String,
}

/// When a command counts as stored by a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlushMode {
    /// Once it is on disk: what was acknowledged survives the loss of power on every node at once.
    #[default]
    Sync,
    /// Once the operating system has it: what was acknowledged survives the death of processes, and of machines
    /// as long as a majority of them keeps running. Votes and memberships are on disk all the same.
    Async,
}

/// Where Raft's tasks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeMode {
    /// On a runtime of the group's own with this many threads, so that load on the service cannot starve
    /// heartbeats.
    Own {
        /// Threads of the runtime, at least 1.
        threads: usize,
    },
    /// On the runtime that starts the group, which also writes the log, a millisecond or a few after it is told to:
    /// for simulation, where time is the runtime's.
    Current,
}

/// A connection to a peer.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerStream for T {}

/// Makes the connection to a peer's address.
pub type Dialing = dyn Fn(String) -> BoxFuture<'static, io::Result<Box<dyn PeerStream>>> + Send + Sync;

/// How peers are reached.
#[derive(Clone, Default)]
pub enum Dial {
    /// By TCP, in plaintext.
    #[default]
    Tcp,
    /// As the caller of [`crate::RaftGroup::start`] does it: by TLS, or in a test.
    With(Arc<Dialing>),
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dial::Tcp => "Tcp",
            Dial::With(_) => "With(..)",
        })
    }
}

/// Everything a group needs to know. Times are in milliseconds.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the broker group.
    pub group: String,
    /// This node's name in `peers`.
    pub label: String,
    /// All nodes that form the group, this one included. Empty: a group of this node alone.
    pub peers: Vec<Peer>,
    /// Folder of identity and state.
    pub data_dir: PathBuf,
    /// Folder of the log where it is another than `data_dir`.
    pub log_dir: Option<PathBuf>,
    /// When a command counts as stored.
    pub flush: FlushMode,
    /// Between two heartbeats of a leader. Default 60.
    pub heartbeat_ms: u64,
    /// Shortest wait for a leader before an election. Default 200, above `heartbeat_ms`.
    pub election_ms_min: u64,
    /// Longest wait, and the lease of a leader. Default 350, above `election_ms_min`.
    pub election_ms_max: u64,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Bytes of recent entries kept in memory.
    pub tail_cache_bytes: usize,
    /// Bytes of the disk that the log leaves free for the rows; with fewer the disk counts as full.
    /// Default 256 MiB.
    pub disk_free_bytes_min: u64,
    /// Sizes of the state store.
    pub state: StateOptions,
    /// Bytes of rows after which they are flushed. Default 64 MiB; a quarter of the write buffers at most, for
    /// RocksDB needs more memory for a row than the row has bytes, and must not flush by itself.
    pub state_flush_bytes: usize,
    /// Time after which rows are flushed, however few. Default 20,000.
    pub state_flush_ms: u64,
    /// Bytes of proposals that may wait to be applied; beyond them a proposal is refused as overload.
    pub propose_bytes_max: usize,
    /// Bytes a second that this node, when it leads, sends at most to members that it fills with what the log no longer
    /// has, all of them together. Default 32 MiB.
    pub fill_bytes_per_second: u64,
    /// Where the other members, administrators and clients reach this node. An empty `peer` means the address
    /// of this node in `peers`.
    pub advertised: NodeAddresses,
    /// What members prove themselves with; by default nothing.
    pub secret: PeerSecret,
    /// Where Raft's tasks run.
    pub runtime: RuntimeMode,
    /// How peers are reached.
    pub dial: Dial,
}

impl RaftConfig {
    /// The defaults for a node called `label` of `group` in `cluster`, alone in its group until `peers` are set.
    #[must_use]
    pub fn new(cluster: &str, group: &str, label: &str, data_dir: PathBuf) -> RaftConfig {
        RaftConfig {
            cluster: cluster.to_owned(),
            group: group.to_owned(),
            label: label.to_owned(),
            peers: Vec::new(),
            data_dir,
            log_dir: None,
            flush: FlushMode::Sync,
            heartbeat_ms: 60,
            election_ms_min: 200,
            election_ms_max: 350,
            segment_bytes: 512 << 20,
            tail_cache_bytes: 64 << 20,
            disk_free_bytes_min: 256 << 20,
            state: StateOptions::default(),
            state_flush_bytes: 64 << 20,
            state_flush_ms: 20_000,
            propose_bytes_max: 64 << 20,
            fill_bytes_per_second: 32 << 20,
            advertised: NodeAddresses::default(),
            secret: PeerSecret::default(),
            runtime: RuntimeMode::Own { threads: 2 },
            dial: Dial::Tcp,
        }
    }

    /// Checks what can be checked without touching anything.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let refuse = |text: String| Err(StartError::Config(text));
        if self.cluster.is_empty() || self.group.is_empty() || self.label.is_empty() {
            return refuse("cluster, broker group and the node's label must have names".to_owned());
        }
        if !(self.heartbeat_ms > 0
            && self.heartbeat_ms < self.election_ms_min
            && self.election_ms_min < self.election_ms_max)
        {
            return refuse(format!(
                "heartbeat ({} ms), shortest ({} ms) and longest election wait ({} ms) must increase in this order",
                self.heartbeat_ms, self.election_ms_min, self.election_ms_max
            ));
        }
        if self.flush == FlushMode::Async && self.state_flush_bytes > self.state.write_buffer_bytes / 4 {
            return refuse(format!(
                "state flush trigger ({} bytes) must be at most a quarter of a write buffer ({} bytes)",
                self.state_flush_bytes, self.state.write_buffer_bytes
            ));
        }
        if self.fill_bytes_per_second == 0 {
            return refuse("members are filled at 0 bytes a second, which never ends".to_owned());
        }
        let mut labels: Vec<_> = self.peers.iter().map(|peer| peer.label.as_str()).collect();
        labels.sort_unstable();
        if labels.windows(2).any(|pair| pair[0] == pair[1]) {
            return refuse("two peers have the same label".to_owned());
        }
        if !self.peers.is_empty() && self.own_peer().is_none() {
            return refuse(format!("the list of peers does not name this node, {}", self.label));
        }
        if self.peers.len() > 1 && self.peers.iter().any(|peer| peer.address.is_empty()) {
            return refuse("a peer has no address".to_owned());
        }
        if self.runtime == (RuntimeMode::Own { threads: 0 }) {
            return refuse("the runtime needs at least one thread".to_owned());
        }
        Ok(())
    }

    pub(crate) fn own_peer(&self) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.label == self.label)
    }

    /// Peers in the order that every node agrees on.
    pub(crate) fn sorted_peers(&self) -> Vec<Peer> {
        let mut peers = self.peers.clone();
        peers.sort();
        peers
    }

    /// Where this node is reached, with `peer` filled in from the list.
    pub(crate) fn addresses(&self) -> NodeAddresses {
        let mut addresses = self.advertised.clone();
        if addresses.peer.is_empty()
            && let Some(own) = self.own_peer()
        {
            addresses.peer.clone_from(&own.address);
        }
        addresses
    }

    pub(crate) fn election_max(&self) -> Duration {
        Duration::from_millis(self.election_ms_max)
    }

    pub(crate) fn election_min(&self) -> Duration {
        Duration::from_millis(self.election_ms_min)
    }

    /// openraft's settings; `raft-and-storage.md` of the project's reference says why each has its value.
    pub(crate) fn raft(&self) -> Result<openraft::Config, StartError> {
        openraft::Config {
            cluster_name: format!("{}/{}", self.cluster, self.group),
            heartbeat_interval: self.heartbeat_ms,
            heartbeat_min_interval: Some(0),
            election_timeout_min: self.election_ms_min,
            election_timeout_max: self.election_ms_max,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            quorum_loss_probe_interval: Some(2 * self.election_ms_max),
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            max_payload_entries: 1024,
            max_append_entries: Some(4096),
            api_batch_capacity: 4096,
            api_batch_linger_ms: 0,
            api_channel_size: Some(1024),
            replication_lag_threshold: 1000,
            allow_log_reversion: Some(false),
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|error| StartError::Config(error.to_string()))
    }
}
