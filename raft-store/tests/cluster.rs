//! Three nodes in one process, over real sockets: they form a group, replicate, lose a leader, come back.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use raft_store::disk::{Disk, DiskFile, DiskLock, MemoryDisk, OpenMode, RealDisk};
use raft_store::{
    Committed, FlushMode, GroupStatus, LogIndex, Machine, Peer, ProposeError, RaftConfig, RaftGroup, ReadState, Role,
    StartError, State, StateBatch, StateError, Table, peer_server,
};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_stream::wrappers::TcpListenerStream;

const PATIENCE: Duration = Duration::from_secs(15);

const ENTRIES: Table = Table(0);
const SUM: Table = Table(1);

/// Keeps every payload by its index, and a checksum of all in their order.
struct Ledger {
    applied: Arc<AtomicU64>,
}

impl Machine for Ledger {
    fn tables(&self) -> &'static [&'static str] {
        &["entries", "sum"]
    }

    fn apply(&mut self, entry: &Committed, state: &mut StateBatch<'_>) -> Result<(), StateError> {
        assert!(entry.payload != "panic", "asked to");
        let before = state.get(SUM, b"sum")?.map_or(0, |row| u32::from_be_bytes(row.try_into().expect("4 bytes")));
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
fn dump(state: &State) -> Vec<(usize, Vec<u8>, Vec<u8>)> {
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

fn payloads(state: &State) -> Vec<Vec<u8>> {
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
struct Node {
    config: RaftConfig,
    address: SocketAddr,
    disk: Arc<dyn Disk>,
    group: Option<RaftGroup>,
    applied: Arc<AtomicU64>,
}

impl Node {
    fn group(&self) -> &RaftGroup {
        self.group.as_ref().expect("the node is started")
    }

    fn status(&self) -> GroupStatus {
        self.group().status()
    }

    async fn try_start(&mut self) -> Result<(), StartError> {
        let machine = Ledger { applied: self.applied.clone() };
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

    async fn start(&mut self) {
        if let Err(error) = self.try_start().await {
            panic!("{}: {error}", self.config.label);
        }
    }

    /// Ends the node as the death of its process would: its sockets reset, nothing is handed over.
    async fn crash(&mut self) {
        if let Some(group) = self.group.take() {
            group.end().await;
        }
    }

    async fn stop(&mut self) {
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

fn bind(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) if Instant::now() > deadline => panic!("{address}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

struct Cluster {
    nodes: Vec<Node>,
    folder: TempDir,
}

impl Cluster {
    fn new(size: usize, change: impl Fn(&mut RaftConfig)) -> Cluster {
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
                Node { config, address, disk: Arc::new(RealDisk), group: None, applied: Arc::default() }
            })
            .collect();
        Cluster { nodes, folder }
    }

    async fn started(size: usize) -> Cluster {
        let mut cluster = Cluster::new(size, |_| {});
        cluster.start().await;
        cluster
    }

    async fn start(&mut self) {
        for node in &mut self.nodes {
            node.start().await;
        }
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.group.is_some())
    }

    async fn leader(&self) -> usize {
        let found = || self.running().find(|(_, node)| node.group().leadership().leads).map(|(number, _)| number);
        until("a leader", || found().is_some()).await;
        found().expect("found before")
    }

    /// Proposes `texts` in their order, through whoever leads, until all are in the rows of a leader.
    async fn propose(&self, texts: &[String]) {
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
    async fn level(&self) -> Vec<(usize, Vec<u8>, Vec<u8>)> {
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
    async fn has(&self, texts: &[String]) {
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

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn texts(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_group_and_apply_the_same() {
    let cluster = Cluster::started(3).await;
    let texts = texts("first", 500);
    cluster.propose(&texts).await;
    cluster.has(&texts).await;

    let leader = cluster.leader().await;
    let status = cluster.nodes[leader].status();
    assert_eq!(status.role, Role::Leader);
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| member.voter && member.matched.is_some()), "{:?}", status.members);
    assert_eq!(status.waiting, None);
    let follower = (leader + 1) % 3;
    let refused = cluster.nodes[follower].group().propose(Bytes::from_static(b"no")).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(cluster.nodes[leader].group().node()) }));
    assert!(cluster.nodes[follower].group().read_barrier().await.is_err());
    // The body of an entry is read from the log of any node.
    let last = status.last.expect("entries");
    let payload = cluster.nodes[follower].group().payload(last).await.expect("readable");
    assert_eq!(payload.as_deref(), Some(&b"first-499"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_one_leads_at_once_and_keeps_its_rows() {
    let mut cluster = Cluster::new(1, |config| config.peers = Vec::new());
    cluster.start().await;
    let texts = texts("alone", 50);
    cluster.propose(&texts).await;
    cluster.has(&texts).await;
    let boot = cluster.nodes[0].group().boot();
    cluster.nodes[0].crash().await;
    cluster.nodes[0].start().await;
    cluster.has(&texts).await;
    assert!(cluster.nodes[0].group().boot() > boot);
    cluster.nodes[0].stop().await;
    cluster.nodes[0].start().await;
    cluster.has(&texts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_followed_by_another_and_catches_up_later() {
    let mut cluster = Cluster::started(3).await;
    let mut all = texts("before", 100);
    cluster.propose(&all).await;
    cluster.has(&all).await;
    let mut gaps = Vec::new();
    for round in 0..3 {
        let leader = cluster.leader().await;
        let term = cluster.nodes[leader].group().leadership().term;
        let since = Instant::now();
        cluster.nodes[leader].crash().await;
        let next = cluster.leader().await;
        gaps.push(since.elapsed());
        assert_ne!(next, leader);
        assert!(cluster.nodes[next].group().leadership().term > term);
        let more = texts(&format!("round-{round}"), 50);
        cluster.propose(&more).await;
        all.extend(more);
        cluster.has(&all).await;
        cluster.nodes[leader].start().await;
        cluster.has(&all).await;
    }
    eprintln!("leaderless for {gaps:?}");
    // Typical is the longest election wait and a little; the bound leaves room for a busy machine.
    gaps.sort();
    assert!(gaps[1] < Duration::from_millis(1500), "leaderless for {gaps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request_and_at_a_clean_stop() {
    let mut cluster = Cluster::started(3).await;
    let texts = texts("text", 20);
    cluster.propose(&texts).await;
    let leader = cluster.leader().await;
    let target = (leader + 1) % 3;
    let target_id = cluster.nodes[target].group().node();
    let since = Instant::now();
    let taken = cluster.nodes[leader].group().transfer_leadership(Some(target_id)).await;
    assert_eq!(taken, Ok(target_id));
    until("the target to lead", || cluster.nodes[target].group().leadership().leads).await;
    eprintln!("transfer took {:?}", since.elapsed());
    cluster.has(&texts).await;

    let since = Instant::now();
    cluster.nodes[target].stop().await;
    let stopped = since.elapsed();
    cluster.leader().await;
    eprintln!("clean stop took {stopped:?}, the next leader was there after {:?}", since.elapsed());
    cluster.has(&texts).await;
    cluster.nodes[target].start().await;
    cluster.has(&texts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_applied_is_there_after_all_nodes_crashed() {
    for flush in [FlushMode::Sync, FlushMode::Async] {
        let mut cluster = Cluster::new(3, |config| {
            config.flush = flush;
            config.state_flush_bytes = 16 << 10;
            config.state_flush_ms = 50;
        });
        cluster.start().await;
        let texts = texts("kept", 2000);
        cluster.propose(&texts).await;
        cluster.has(&texts).await;
        let rows = cluster.level().await;
        for node in &mut cluster.nodes {
            node.crash().await;
        }
        cluster.start().await;
        cluster.has(&texts).await;
        let ledger = |rows: Vec<(usize, Vec<u8>, Vec<u8>)>| -> Vec<_> {
            rows.into_iter().filter(|(table, ..)| *table < 2).collect()
        };
        assert!(ledger(cluster.level().await) == ledger(rows), "replay gives other rows ({flush:?})");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_stays_out_of_its_group() {
    let mut cluster = Cluster::started(3).await;
    let texts = texts("text", 20);
    cluster.propose(&texts).await;
    cluster.has(&texts).await;
    // The first label is the one that would form a group.
    cluster.nodes[0].crash().await;
    let folder = cluster.folder.path().join("n0");
    let aside = cluster.folder.path().join("aside");
    std::fs::rename(&folder, &aside).expect("put aside");
    cluster.nodes[0].start().await;
    until("the wiped node to see why", || {
        cluster.nodes[0].status().waiting.is_some_and(|why| why.contains("mqadmin replacePeer"))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let status = cluster.nodes[0].status();
    assert_eq!((status.last, status.leader, status.role), (None, None, Role::Learner), "{status:?}");
    let waiting = status.waiting.expect("it waits");
    assert!(waiting.contains(&format!("--node {:x}", status.node)), "{waiting}");
    eprintln!("{waiting}");
    let leader = cluster.leader().await;
    assert_ne!(leader, 0);

    // With its own folder it is a member again.
    cluster.nodes[0].crash().await;
    std::fs::remove_dir_all(&folder).expect("removed");
    std::fs::rename(&aside, &folder).expect("put back");
    cluster.nodes[0].start().await;
    cluster.has(&texts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_and_peers_of_others_are_refused() {
    let mut cluster = Cluster::new(1, |config| config.peers = Vec::new());
    cluster.start().await;
    until("a leader", || cluster.nodes[0].group().leadership().leads).await;
    let Err(error) = cluster.nodes[0].try_start().await else { panic!("two processes in one folder") };
    assert!(matches!(error, StartError::Locked { .. }), "{error}");
    cluster.nodes[0].stop().await;
    let own = cluster.nodes[0].config.clone();
    for (change, what) in [
        (RaftConfig { cluster: "other".to_owned(), ..own.clone() }, "brokerClusterName"),
        (RaftConfig { group: "other".to_owned(), ..own.clone() }, "brokerName"),
        (RaftConfig { label: "other".to_owned(), ..own.clone() }, "label"),
    ] {
        cluster.nodes[0].config = change;
        let error = cluster.nodes[0].try_start().await.expect_err("a foreign folder");
        assert!(matches!(&error, StartError::Foreign { .. }) && error.to_string().contains(what), "{error}");
    }
    cluster.nodes[0].config = own;
    cluster.start().await;

    // Two nodes whose lists differ do not form a group, and say so.
    let mut cluster = Cluster::new(2, |_| {});
    let list = &mut cluster.nodes[1].config.peers;
    list.push(Peer { label: "n2".to_owned(), address: "127.0.0.1:1".to_owned() });
    cluster.start().await;
    until("n0 to see the other list", || {
        cluster.nodes[0].status().waiting.is_some_and(|why| why.contains("another list of peers"))
    })
    .await;
    assert_eq!(cluster.nodes[0].status().last, None);
}

/// A disk whose syncs can be held up, and fail once they are given up.
#[derive(Debug, Clone)]
struct StallingDisk {
    inner: MemoryDisk,
    stalled: Arc<AtomicBool>,
    given_up: Arc<AtomicBool>,
}

#[derive(Debug)]
struct StallingFile {
    inner: Arc<dyn DiskFile>,
    disk: StallingDisk,
}

impl Disk for StallingDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(StallingFile { inner: self.inner.open(path, mode)?, disk: self.clone() }))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list_dirs(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_bytes(dir)
    }
    fn total_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.inner.total_bytes(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.inner.lock(path)
    }
}

impl DiskFile for StallingFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.inner.preallocate(bytes)
    }
    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.inner.write_at(offset, parts)
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }
    fn sync_data(&self) -> io::Result<()> {
        while self.disk.stalled.load(Ordering::SeqCst) {
            if self.disk.given_up.load(Ordering::SeqCst) {
                return Err(io::Error::other("the power is gone"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.inner.sync_data()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }
}

/// Rule I1: two peers commit while the third cannot sync; its rows must not get ahead of its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_never_ahead_of_the_local_log() {
    let mut cluster = Cluster::new(3, |config| {
        config.segment_bytes = 1 << 20;
        // Flushed at every chance, so that rows that should not be there would be on disk.
        config.state_flush_bytes = 1;
        config.state_flush_ms = 10;
    });
    let disk = StallingDisk { inner: MemoryDisk::new(), stalled: Arc::default(), given_up: Arc::default() };
    cluster.nodes[2].disk = Arc::new(disk.clone());
    cluster.start().await;
    if cluster.leader().await == 2 {
        let to = cluster.nodes[0].group().node();
        cluster.nodes[2].group().transfer_leadership(Some(to)).await.expect("hands over");
    }
    let mut all = texts("synced", 50);
    cluster.propose(&all).await;
    cluster.has(&all).await;

    disk.stalled.store(true, Ordering::SeqCst);
    let before = cluster.nodes[2].applied.load(Ordering::SeqCst);
    let more = texts("unsynced", 50);
    cluster.propose(&more).await;
    all.extend(more);
    let leader = cluster.leader().await;
    let state = cluster.nodes[leader].group().state();
    until("two of three to commit", || payloads(&state).len() == all.len()).await;
    let last = cluster.nodes[leader].status().last;
    until("the stalled node to have all entries", || cluster.nodes[2].status().last == last).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(cluster.nodes[2].applied.load(Ordering::SeqCst) <= before + 1, "applied what it had not synced");

    // The power goes: nothing that was not synced is left of the log, and of the rows all that was written.
    let survived = disk.inner.after_power_loss(&|_| false);
    disk.given_up.store(true, Ordering::SeqCst);
    cluster.nodes[2].crash().await;
    cluster.nodes[2].disk = Arc::new(survived);
    cluster.nodes[2].start().await;
    let status = cluster.nodes[2].status();
    assert_eq!(status.purged, None);
    cluster.has(&all).await;
    assert_eq!(cluster.nodes[2].status().purged, None);
}

/// The test above would notice if the rows did not wait.
#[cfg(feature = "test-faults")]
#[test]
fn without_the_gate_rows_get_ahead() {
    let output = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "rows_are_never_ahead_of_the_local_log"])
        .env(raft_store::log::faults::BREAK_VARIABLE, "apply_unsynced")
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("applied what it had not synced"), "{said}");
}

/// A node whose log cannot be written stops, and says so; the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_node() {
    let mut cluster = Cluster::new(3, |config| config.segment_bytes = 1 << 20);
    let disk = StallingDisk { inner: MemoryDisk::new(), stalled: Arc::default(), given_up: Arc::default() };
    cluster.nodes[1].disk = Arc::new(disk.clone());
    cluster.start().await;
    let mut all = texts("good", 20);
    cluster.propose(&all).await;
    cluster.has(&all).await;
    disk.given_up.store(true, Ordering::SeqCst);
    disk.stalled.store(true, Ordering::SeqCst);
    let victim = cluster.nodes[1].group().clone();
    // Whatever it is that is written next fails.
    let halted = tokio::spawn(async move { victim.halted().await });
    let more = texts("after", 20);
    let since = Instant::now();
    while !halted.is_finished() {
        assert!(since.elapsed() < PATIENCE, "the node does not stop");
        if let Some((_, node)) =
            cluster.running().find(|(number, node)| *number != 1 && node.group().leadership().leads)
        {
            let _ = node.group().propose(Bytes::from_static(b"poke")).await;
        } else {
            let _ = cluster.nodes[1].group().propose(Bytes::from_static(b"poke")).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reason = halted.await.expect("resolves");
    assert!(reason.contains("power is gone"), "{reason}");
    assert_eq!(cluster.nodes[1].group().propose(Bytes::from_static(b"no")).await, Err(ProposeError::Closed));
    cluster.nodes[1].crash().await;
    cluster.propose(&more).await;
    all.extend(more);
    let all: Vec<_> = all.into_iter().map(String::into_bytes).collect();
    let leader = cluster.leader().await;
    let state = cluster.nodes[leader].group().state();
    let kept = || payloads(&state).into_iter().filter(|payload| payload != b"poke").collect::<Vec<_>>();
    until("the texts", || kept().len() >= all.len()).await;
    assert!(kept() == all);
    cluster.level().await;
}

/// A node whose machine panics stops, instead of leading on without applying anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_panics_stops_the_node() {
    let mut cluster = Cluster::new(1, |config| config.peers = Vec::new());
    cluster.start().await;
    cluster.propose(&["panic".to_owned()]).await;
    let reason = tokio::time::timeout(PATIENCE, cluster.nodes[0].group().halted()).await.expect("it stops");
    assert!(reason.contains("panicked"), "{reason}");
    cluster.nodes[0].crash().await;
    // The entry is still there. Whether it is carried out before the start is over or, once a leader finds it
    // committed, after it, depends on whether the commit point had been written down.
    let reason = match cluster.nodes[0].try_start().await {
        Ok(()) => {
            let halted = tokio::time::timeout(PATIENCE, cluster.nodes[0].group().halted()).await;
            halted.expect("it stops again").to_string()
        }
        Err(error) => error.to_string(),
    };
    assert!(reason.contains("panicked"), "{reason}");
}

/// What is applied everywhere is trimmed everywhere: its files go, and nodes that crash afterwards go on from the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimmed_nodes_restart_replicate_and_elect() {
    for flush in [FlushMode::Sync, FlushMode::Async] {
        let mut cluster = Cluster::new(3, |config| {
            config.flush = flush;
            config.segment_bytes = 1 << 20;
            config.tail_cache_bytes = 256 << 10;
        });
        cluster.start().await;
        let mut all = Vec::new();
        for round in 0..3 {
            let big: Vec<String> =
                (0..200).map(|number| format!("{round}-{number}-{}", "x".repeat(16 << 10))).collect();
            cluster.propose(&big).await;
            all.extend(big);
            cluster.has(&all).await;
            let upto = LogIndex(cluster.nodes[0].status().applied.expect("applied").index - 20);
            for node in &cluster.nodes {
                let group = node.group();
                let before = group.log_use();
                assert!(group.trim(LogIndex(0)).await.expect("nothing to do") == 0);
                assert!(group.trim(LogIndex(u64::MAX)).await.is_err(), "what was not applied stays");
                assert!(group.trim(upto).await.expect("trimmed") > 1, "round {round}");
                let after = group.log_use();
                assert!(after.bytes < before.bytes && after.first > before.first, "{before:?} {after:?}");
                assert!(after.sealed.first().is_none_or(|file| file.end > upto), "{after:?}");
                assert!(group.payload(upto).await.expect("readable").is_some());
                assert_eq!(group.payload(LogIndex(2)).await.expect("readable"), None);
            }
            if round == 1 {
                for node in &mut cluster.nodes {
                    node.crash().await;
                }
                cluster.start().await;
            } else {
                let leader = cluster.leader().await;
                cluster.nodes[leader].crash().await;
                let more = texts(&format!("without-{round}"), 20);
                cluster.propose(&more).await;
                all.extend(more);
                cluster.nodes[leader].start().await;
            }
            cluster.has(&all).await;
        }
        for node in &mut cluster.nodes {
            node.stop().await;
        }
        cluster.start().await;
        cluster.has(&all).await;
    }
}

/// A follower that was away for more than what is kept in memory gets the entries from the leader's files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_catches_up_from_the_log_on_disk() {
    let mut cluster = Cluster::new(3, |config| {
        config.tail_cache_bytes = 256 << 10;
        config.segment_bytes = 2 << 20;
    });
    cluster.start().await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.nodes[away].crash().await;
    let big: Vec<String> = (0..400).map(|number| format!("{number}-{}", "x".repeat(32 << 10))).collect();
    cluster.propose(&big).await;
    cluster.has(&big).await;
    let since = Instant::now();
    cluster.nodes[away].start().await;
    cluster.has(&big).await;
    eprintln!("caught up {} MiB in {:?}", (400 * 32) >> 10, since.elapsed());
}
