//! Nodes of a group in one process, over real sockets, for tests of groups.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(missing_docs, reason = "tests are no library")]

use bytes::Bytes;
use raft_store::disk::{Disk, RealDisk};
use raft_store::{
    Committed, GroupStatus, LogIndex, Machine, MemberChange, MemberError, MembersChanged, Newcomer, Peer, ProposeError,
    RaftConfig, RaftGroup, ReadState, StartError, State, StateBatch, StateError, Table, Versions, peer_server,
};
use std::net::{SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_stream::wrappers::TcpListenerStream;

pub const PATIENCE: Duration = Duration::from_secs(15);

pub const ENTRIES: Table = Table(0);
pub const SUM: Table = Table(1);

/// Keeps every payload by its index, and a checksum of all in their order. A payload such as `version 7` activates that
/// version.
pub struct Ledger {
    pub applied: Arc<AtomicU64>,
    /// The newest version that it knows.
    pub knows: u32,
}

const VERSION: &[u8] = b"version";

impl Machine for Ledger {
    fn tables(&self) -> &'static [&'static str] {
        &["entries", "sum"]
    }

    fn versions(&self) -> Versions {
        let active = |state: &State| {
            let row = state.get(SUM, VERSION)?;
            Ok(row.map_or(0, |row| u32::from_be_bytes(row.try_into().expect("4 bytes"))))
        };
        Versions { known: 0..=self.knows, active }
    }

    fn apply(&mut self, entry: &Committed, state: &mut StateBatch<'_>) -> Result<(), StateError> {
        assert!(entry.payload != "panic", "asked to");
        let before = state.get(SUM, b"sum")?.map_or(0, |row| u32::from_be_bytes(row.try_into().expect("4 bytes")));
        if let Some(active) = entry.payload.strip_prefix(b"version ") {
            let active: u32 = std::str::from_utf8(active).ok().and_then(|text| text.parse().ok()).expect("a number");
            if active > self.knows {
                return Err(StateError::Version { active, known: 0..=self.knows });
            }
            state.put(SUM, VERSION, active.to_be_bytes());
        }
        state.put(ENTRIES, entry.index.0.to_be_bytes(), entry.payload.to_vec());
        state.put(SUM, *b"sum", crc32c::crc32c_append(before, &entry.payload).to_be_bytes());
        Ok(())
    }

    fn applied(&mut self, index: LogIndex) {
        self.applied.store(index.0, Ordering::SeqCst);
    }

    fn restored(&mut self, index: LogIndex) {
        self.applied.store(index.0, Ordering::SeqCst);
    }
}

/// Every row of every table, the store's own included.
pub fn dump(state: &State) -> Vec<(usize, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for table in 0..state.tables().len() {
        let handle = Table(u8::try_from(table).expect("few tables"));
        state
            .scan(handle, &[], &[], &mut |key, value| {
                rows.push((table, key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .expect("scan");
    }
    rows
}

pub fn payloads(state: &State) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    state
        .scan(ENTRIES, &[], &[], &mut |_, value| {
            all.push(value.to_vec());
            ControlFlow::Continue(())
        })
        .expect("scan");
    all
}

/// A node that can be started, stopped well, and crashed.
pub struct Node {
    pub config: RaftConfig,
    pub address: SocketAddr,
    pub disk: Arc<dyn Disk>,
    pub group: Option<RaftGroup>,
    pub applied: Arc<AtomicU64>,
    /// The newest version that its machine knows at its next start.
    pub knows: u32,
}

impl Node {
    pub fn group(&self) -> &RaftGroup {
        self.group.as_ref().expect("the node is started")
    }

    pub fn status(&self) -> GroupStatus {
        self.group().status()
    }

    pub async fn try_start(&mut self) -> Result<(), StartError> {
        let machine = Ledger { applied: self.applied.clone(), knows: self.knows };
        let (group, services) = RaftGroup::start(self.config.clone(), self.disk.clone(), machine).await?;
        let listener = bind(self.address);
        let runtime = group.runtime();
        runtime.spawn(async move {
            listener.set_nonblocking(true).expect("non-blocking");
            let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
            peer_server()
                .add_service(services.raft)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("serves");
        });
        self.group = Some(group);
        Ok(())
    }

    pub async fn start(&mut self) {
        if let Err(error) = self.try_start().await {
            panic!("{}: {error}", self.config.label);
        }
    }

    /// Ends the node as the death of its process would: its sockets reset, nothing is handed over.
    pub async fn crash(&mut self) {
        if let Some(group) = self.group.take() {
            group.end().await;
        }
    }

    pub async fn stop(&mut self) {
        if let Some(group) = self.group.take() {
            group.stop().await;
            group.end().await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The tests' process must not leave while a thread still closes RocksDB.
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.crash()));
    }
}

pub fn bind(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) if Instant::now() > deadline => panic!("{address}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub folder: TempDir,
}

impl Cluster {
    pub fn new(size: usize, change: impl Fn(&mut RaftConfig)) -> Cluster {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let folder = tempfile::tempdir().expect("folder");
        let addresses: Vec<SocketAddr> = (0..size)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("free port"))
            .collect::<Vec<_>>()
            .iter()
            .map(|listener| listener.local_addr().expect("address"))
            .collect();
        let peers: Vec<Peer> = addresses
            .iter()
            .enumerate()
            .map(|(number, address)| Peer { label: format!("n{number}"), address: address.to_string() })
            .collect();
        let nodes = addresses
            .into_iter()
            .enumerate()
            .map(|(number, address)| {
                let label = format!("n{number}");
                let mut config = RaftConfig::new("cluster", "broker-a", &label, folder.path().join(&label));
                config.peers = peers.clone();
                config.segment_bytes = 4 << 20;
                config.election_ms_min = 250;
                config.election_ms_max = 450;
                change(&mut config);
                Node { config, address, disk: Arc::new(RealDisk), group: None, applied: Arc::default(), knows: 7 }
            })
            .collect();
        Cluster { nodes, folder }
    }

    pub async fn started(size: usize) -> Cluster {
        let mut cluster = Cluster::new(size, |_| {});
        cluster.start().await;
        cluster
    }

    pub async fn start(&mut self) {
        for node in &mut self.nodes {
            node.start().await;
        }
    }

    pub fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.group.is_some())
    }

    pub async fn leader(&self) -> usize {
        let found = || self.running().find(|(_, node)| node.group().leadership().leads).map(|(number, _)| number);
        until("a leader", || found().is_some()).await;
        found().expect("found before")
    }

    /// Proposes `texts` in their order, through whoever leads, until all are in the rows of a leader.
    pub async fn propose(&self, texts: &[String]) {
        for text in texts {
            let deadline = Instant::now() + PATIENCE;
            loop {
                assert!(Instant::now() < deadline, "{text} is not taken");
                let leader = self.leader().await;
                match self.nodes[leader].group().propose(Bytes::from(text.clone())).await {
                    Ok(()) => break,
                    Err(ProposeError::NotLeader { .. } | ProposeError::Overloaded { .. }) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Waits until every running node has applied what the leader has, and compares their rows.
    pub async fn level(&self) -> Vec<(usize, Vec<u8>, Vec<u8>)> {
        // Proposals are taken before they are in the log: nothing is proposed here, so the end stays where it is.
        until("all nodes to be level", || {
            let Some((_, leader)) = self.running().find(|(_, node)| node.group().leadership().leads) else {
                return false;
            };
            let last = leader.status().last.map(|last| last.0);
            self.running().all(|(_, node)| node.status().applied.map(|applied| applied.index) == last)
        })
        .await;
        let leader = self.leader().await;
        self.nodes[leader].group().read_barrier().await.expect("the leader reads");
        let expected = dump(&self.nodes[leader].group().state());
        for (number, node) in self.running() {
            assert!(dump(&node.group().state()) == expected, "n{number} has other rows than n{leader}");
        }
        expected
    }

    /// Waits until every running node has these texts, and compares their rows.
    pub async fn has(&self, texts: &[String]) {
        let leader = self.leader().await;
        let state = self.nodes[leader].group().state();
        until("all texts to be applied", || payloads(&state).len() >= texts.len()).await;
        drop(state);
        self.level().await;
        let leader = self.leader().await;
        let stored = payloads(&self.nodes[leader].group().state());
        let wanted: Vec<Vec<u8>> = texts.iter().map(|text| text.clone().into_bytes()).collect();
        assert!(stored == wanted, "{} payloads are not the {} proposed in their order", stored.len(), wanted.len());
    }
}

pub async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn texts(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

/// What admits a node that is started.
pub fn newcomer(node: &Node) -> Newcomer {
    let status = node.status();
    let disk = node.group().disk();
    Newcomer { label: status.label, node: status.node, disk, address: node.address.to_string() }
}

impl Cluster {
    /// Has members changed by whoever leads, until it is done.
    pub async fn change(&self, change: &MemberChange) -> MembersChanged {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader().await;
            match self.nodes[leader].group().change_members(change.clone(), |_| {}).await {
                Ok(done) => return done,
                Err(MemberError::Refused(why)) => panic!("{change:?}: {why}"),
                Err(error) => assert!(Instant::now() < deadline, "{change:?}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Labels of all members, which must be voters.
    pub async fn voters(&self) -> Vec<String> {
        let leader = self.leader().await;
        let members = self.nodes[leader].group().members();
        assert!(members.iter().all(|member| member.voter), "{members:?}");
        members.into_iter().map(|member| member.label).collect()
    }
}
