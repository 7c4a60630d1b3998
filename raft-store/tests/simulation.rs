//! A group of three in simulated time, on simulated disks and networks: nodes die and lose what was not synced,
//! connections hang and are cut, and whatever any node ever applied stays applied, the same everywhere.
//!
//! The seed fixes the faults and their moments; Raft's own waits are random. One seed is minutes of a group's life in
//! a second of ours. `RAFTMQ_SEEDS=from..until` names other seeds, `RAFTMQ_LONG=1` runs many.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use raft_store::disk::{Fault, MemoryDisk};
use raft_store::{
    Committed, Dial, LogIndex, Machine, Peer, PeerStream, RaftConfig, RaftGroup, Role, RuntimeMode, StateBatch,
    StateError, StateOptions, Table, peer_server,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;

const NODES: usize = 3;
const ENTRIES: Table = Table(0);

/// What all nodes of all times applied.
#[derive(Default)]
struct Applied {
    entries: BTreeMap<u64, Bytes>,
    /// How far each node is at the moment.
    upto: [u64; NODES],
    /// A second opinion on an entry, which must not be.
    conflict: Option<String>,
}

/// The one table.
const ROWS: &str = "entries";

/// Keeps every payload by its index, and tells the witness.
struct Witnessed {
    node: usize,
    applied: Arc<Mutex<Applied>>,
}

impl Machine for Witnessed {
    fn tables(&self) -> &'static [&'static str] {
        &[ROWS]
    }

    fn apply(&mut self, entry: &Committed, state: &mut StateBatch<'_>) -> Result<(), StateError> {
        let mut applied = self.applied.lock();
        let first = applied.entries.entry(entry.index.0).or_insert_with(|| entry.payload.clone());
        if *first != entry.payload {
            let (first, index) = (first.clone(), entry.index.0);
            applied.conflict =
                Some(format!("entry {index} was {first:?} and is {:?} on n{}", entry.payload, self.node));
        }
        state.put(ENTRIES, entry.index.0.to_be_bytes(), entry.payload.to_vec());
        Ok(())
    }

    fn applied(&mut self, index: LogIndex) {
        self.applied.lock().upto[self.node] = index.0;
    }

    fn restored(&mut self, index: LogIndex) {
        self.applied.lock().upto[self.node] = index.0;
    }
}

type Accepting = mpsc::UnboundedSender<io::Result<DuplexStream>>;

/// The network: who listens, and which ways hold back what is sent.
struct Network {
    listening: Mutex<HashMap<String, (usize, Accepting)>>,
    /// `true`: nothing passes from the first node to the second.
    blocked: watch::Sender<[[bool; NODES]; NODES]>,
    /// Bytes on their way, with the nodes at both ends.
    ways: Mutex<Vec<(usize, usize, JoinHandle<()>)>>,
    rng: Mutex<SmallRng>,
}

impl Network {
    fn delay(&self) -> Duration {
        // Mostly short, sometimes longer than a heartbeat.
        let mut rng = self.rng.lock();
        let longest = if rng.random_ratio(1, 50) { 100_000 } else { 2_000 };
        Duration::from_micros(rng.random_range(50..longest))
    }

    fn blocks(&self, from: usize, to: usize) -> bool {
        self.blocked.borrow()[from][to]
    }

    /// Carries bytes one way, late, and not at all while the way is blocked.
    async fn carry(
        self: Arc<Self>,
        from: usize,
        to: usize,
        mut one: ReadHalf<DuplexStream>,
        mut other: WriteHalf<DuplexStream>,
    ) {
        let mut blocked = self.blocked.subscribe();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok(read) = one.read(&mut buffer).await else { return };
            tokio::time::sleep(self.delay()).await;
            if blocked.wait_for(|blocked| !blocked[from][to]).await.is_err() || read == 0 {
                return;
            }
            if other.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    async fn dial(self: Arc<Self>, from: usize, address: String) -> io::Result<DuplexStream> {
        tokio::time::sleep(self.delay()).await;
        let listening = self.listening.lock().get(&address).cloned();
        let Some((to, accepting)) = listening else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        if self.blocks(from, to) || self.blocks(to, from) {
            // A handshake that is never answered.
            std::future::pending::<()>().await;
        }
        let (here, near) = tokio::io::duplex(64 << 10);
        let (far, there) = tokio::io::duplex(64 << 10);
        let (near_reads, near_writes) = tokio::io::split(near);
        let (far_reads, far_writes) = tokio::io::split(far);
        let there_way = tokio::spawn(self.clone().carry(from, to, near_reads, far_writes));
        let back_way = tokio::spawn(self.clone().carry(to, from, far_reads, near_writes));
        let mut ways = self.ways.lock();
        ways.retain(|(_, _, way)| !way.is_finished());
        ways.extend([(from, to, there_way), (to, from, back_way)]);
        accepting.send(Ok(there)).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(here)
    }

    /// Ends every connection of a node, and takes no new ones.
    fn cut(&self, node: usize) {
        self.listening.lock().retain(|_, (number, _)| *number != node);
        self.ways.lock().retain(|(from, to, way)| {
            let ends = *from == node || *to == node;
            if ends {
                way.abort();
            }
            !ends
        });
    }
}

struct Running {
    group: RaftGroup,
    server: JoinHandle<()>,
}

struct World {
    seed: u64,
    rng: SmallRng,
    network: Arc<Network>,
    disks: Vec<MemoryDisk>,
    nodes: Vec<Option<Running>>,
    applied: Arc<Mutex<Applied>>,
    proposed: u64,
}

fn address(node: usize) -> String {
    format!("n{node}:40911")
}

impl World {
    async fn start(seed: u64) -> World {
        let network = Arc::new(Network {
            listening: Mutex::default(),
            blocked: watch::Sender::default(),
            ways: Mutex::default(),
            rng: Mutex::new(SmallRng::seed_from_u64(seed ^ 0xD1CE)),
        });
        let mut world = World {
            seed,
            rng: SmallRng::seed_from_u64(seed),
            network,
            disks: (0..NODES).map(|_| MemoryDisk::new()).collect(),
            nodes: (0..NODES).map(|_| None).collect(),
            applied: Arc::default(),
            proposed: 0,
        };
        for node in 0..NODES {
            world.start_node(node).await;
        }
        world
    }

    async fn start_node(&mut self, node: usize) {
        let label = format!("n{node}");
        let mut config = RaftConfig::new("cluster", "broker-a", &label, PathBuf::from("/nowhere").join(&label));
        config.peers = (0..NODES).map(|peer| Peer { label: format!("n{peer}"), address: address(peer) }).collect();
        config.segment_bytes = 64 << 10;
        config.disk_free_bytes_min = 0;
        config.state = StateOptions { in_memory: true, ..StateOptions::default() };
        config.runtime = RuntimeMode::Current;
        let network = self.network.clone();
        config.dial = Dial::With(Arc::new(move |address| {
            let dialled = network.clone().dial(node, address);
            async move { Ok(Box::new(dialled.await?) as Box<dyn PeerStream>) }.boxed()
        }));
        let machine = Witnessed { node, applied: self.applied.clone() };
        self.applied.lock().upto[node] = 0;
        let disk = Arc::new(self.disks[node].clone());
        let (group, services) = match RaftGroup::start(config, disk, machine).await {
            Ok(started) => started,
            Err(error) => panic!("seed {}: n{node} does not start: {error}", self.seed),
        };
        let (accepting, accepted) = mpsc::unbounded_channel();
        self.network.listening.lock().insert(address(node), (node, accepting));
        let server = tokio::spawn(async move {
            let incoming = UnboundedReceiverStream::new(accepted);
            let served = peer_server().add_service(services.raft).serve_with_incoming(incoming).await;
            served.expect("serves");
        });
        self.nodes[node] = Some(Running { group, server });
    }

    /// Kills a node. With its power it loses what was not synced, and of each thing that was not the seed decides.
    async fn kill(&mut self, node: usize, power_too: bool) {
        let Some(Running { group, server }) = self.nodes[node].take() else { return };
        let disk = &self.disks[node];
        disk.fail_at(disk.calls(), Fault::Halt);
        self.network.cut(node);
        server.abort();
        let keeps = self.rng.random_range(0..4_u64);
        let salt = self.rng.random::<u64>();
        let after = if power_too {
            disk.after_power_loss(&|unsynced| {
                let name = format!("{salt} {unsynced:?}");
                xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % 4 < keeps
            })
        } else {
            disk.after_kill()
        };
        self.disks[node] = after;
        group.end().await;
    }

    fn running(&self) -> Vec<usize> {
        (0..NODES).filter(|node| self.nodes[*node].is_some()).collect()
    }

    fn group(&self, node: usize) -> &RaftGroup {
        &self.nodes[node].as_ref().expect("the node runs").group
    }

    /// Proposes to every node that thinks it leads: two may, and only one can be right.
    async fn propose(&mut self) {
        for node in self.running() {
            if self.group(node).leadership().leads {
                self.proposed += 1;
                let payload = Bytes::from(format!("{} through n{node}", self.proposed));
                // What becomes of it is seen when it is applied.
                let _ = self.group(node).propose(payload).await;
            }
        }
    }

    /// Nodes agree, and none stopped for a reason of its own.
    fn check(&self) {
        let conflict = self.applied.lock().conflict.clone();
        assert!(conflict.is_none(), "seed {}: {}", self.seed, conflict.unwrap_or_default());
        for node in self.running() {
            let halted = self.group(node).status().halted;
            assert!(halted.is_none(), "seed {}: n{node} stopped: {halted:?}", self.seed);
        }
    }

    fn heal(&self) {
        self.network.blocked.send_replace(Default::default());
    }

    /// The node that elected the next leader loses power in that moment, and comes back where it hears of the one before,
    /// but not of the one that it elected.
    async fn lose_a_voter(&mut self) {
        self.heal();
        let Some(before) = self.running().into_iter().find(|node| self.group(*node).leadership().leads) else { return };
        self.kill(before, true).await;
        for _ in 0..20_000 {
            tokio::time::sleep(Duration::from_micros(100)).await;
            let elected = self.running().into_iter().find(|node| self.group(*node).status().role == Role::Leader);
            let Some(elected) = elected else { continue };
            for voter in self.running() {
                if voter != elected {
                    self.kill(voter, true).await;
                }
            }
            self.network.blocked.send_modify(|blocked| {
                for from in blocked.iter_mut() {
                    from[elected] = true;
                }
                blocked[elected] = [true; NODES];
            });
            break;
        }
        for node in 0..NODES {
            if self.nodes[node].is_none() {
                self.start_node(node).await;
            }
        }
        // Long enough for another election, and for entries of its leader.
        for _ in 0..100 {
            self.propose().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.heal();
    }

    async fn fault(&mut self) {
        let node = self.rng.random_range(0..NODES);
        let other = (node + self.rng.random_range(1..NODES)) % NODES;
        match self.rng.random_range(0..12) {
            0..=2 => {
                let power_too = self.rng.random();
                self.kill(node, power_too).await;
            }
            3 => {
                for node in self.running() {
                    self.kill(node, true).await;
                }
            }
            4 | 5 => {
                // Everybody in the moment in which something was acknowledged, and the leader stays away for a while.
                let leads = self.running().into_iter().find(|node| self.group(*node).leadership().leads);
                let before = self.applied.lock().entries.len();
                self.propose().await;
                for _ in 0..500 {
                    tokio::time::sleep(Duration::from_micros(100)).await;
                    if self.applied.lock().entries.len() > before {
                        break;
                    }
                }
                for node in self.running() {
                    self.kill(node, true).await;
                }
                self.heal();
                for node in (0..NODES).filter(|node| Some(*node) != leads) {
                    self.start_node(node).await;
                }
                return;
            }
            6 => {
                // One node hears nobody and is heard by nobody.
                self.network.blocked.send_modify(|blocked| {
                    for from in blocked.iter_mut() {
                        from[node] = true;
                    }
                    blocked[node] = [true; NODES];
                });
            }
            7 | 8 => {
                // One way only.
                self.network.blocked.send_modify(|blocked| blocked[node][other] = true);
            }
            9 => self.lose_a_voter().await,
            _ => self.heal(),
        }
        for node in 0..NODES {
            if self.nodes[node].is_none() && self.rng.random_ratio(1, 2) {
                self.start_node(node).await;
            }
        }
    }

    /// Ends all faults, and waits until everything that was ever applied, and something new, is applied everywhere.
    async fn settle(&mut self) {
        self.heal();
        for node in 0..NODES {
            if self.nodes[node].is_none() {
                self.start_node(node).await;
            }
        }
        let before: HashSet<u64> = self.applied.lock().entries.keys().copied().collect();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.propose().await;
            self.check();
            tokio::time::sleep(Duration::from_millis(20)).await;
            let applied = self.applied.lock();
            let last = applied.entries.keys().next_back().copied().unwrap_or_default();
            let newer = applied.entries.keys().any(|index| !before.contains(index));
            let lowest = applied.upto.iter().copied().min().unwrap_or_default();
            if newer && before.iter().all(|index| *index <= lowest) && lowest + 64 > last {
                break;
            }
            assert!(Instant::now() < deadline, "seed {}: stuck at {:?} of {last}", self.seed, applied.upto);
        }
        for node in 0..NODES {
            // Each node's own rows, entry by entry.
            let state = self.group(node).state();
            let applied = self.applied.lock();
            let mut rows = BTreeMap::new();
            let visited = state.visit_all(&mut |table, key, value| {
                if table == ROWS {
                    rows.insert(u64::from_be_bytes(key.try_into().expect("8 bytes")), value.to_vec());
                }
            });
            visited.expect("rows in memory are read");
            for (index, payload) in applied.entries.range(..=applied.upto[node]) {
                let row = rows.get(index).map(Vec::as_slice);
                assert_eq!(row, Some(&payload[..]), "seed {}: n{node} lacks entry {index}", self.seed);
            }
        }
    }
}

async fn live(seed: u64) -> (usize, u64) {
    let mut world = World::start(seed).await;
    for _ in 0..40 {
        let until = Instant::now() + Duration::from_millis(world.rng.random_range(20..1_500));
        while Instant::now() < until {
            world.propose().await;
            world.check();
            let pause = world.rng.random_range(1..30);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        world.fault().await;
    }
    world.settle().await;
    for node in 0..NODES {
        world.kill(node, false).await;
    }
    let applied = world.applied.lock();
    (applied.entries.len(), world.proposed)
}

fn seeds() -> Range<u64> {
    let named = std::env::var("RAFTMQ_SEEDS").ok().and_then(|named| {
        let (from, until) = named.split_once("..")?;
        Some(from.parse().ok()?..until.parse().ok()?)
    });
    named.unwrap_or(if std::env::var_os("RAFTMQ_LONG").is_some() { 0..500 } else { 0..12 })
}

#[test]
fn what_was_applied_once_stays_applied_everywhere() {
    let (mut entries, mut proposed) = (0, 0);
    for seed in seeds() {
        println!("seed {seed}");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        let (applied, of) = runtime.block_on(live(seed));
        entries += applied;
        proposed += of;
    }
    println!("{entries} entries were applied, {proposed} proposed");
    // Less would prove nothing.
    assert!(entries > 200 * seeds().count(), "only {entries} entries were applied");
}
