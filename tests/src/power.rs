//! Runs in which the power goes. They are written so that a broker that breaks a promise of the log fails them, which
//! `tests/controls.rs` shows.
//!
//! Slow disks make the moment between a write and its sync long enough to be hit every time.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use raftmq_proto::admin::{TopicStatusRequest, TransferLeaderRequest};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    client::{Producer, eventually},
    cluster::{Cluster, LEADER_WITHIN, Options},
    invariant::{self, Verdict},
    oracle::message_id,
    relay::Direction,
    workload::{self, Workload},
};

/// See `raft-store/src/log/faults.rs`.
const BREAK_VARIABLE: &str = "RAFTMQ_TEST_BREAK";

/// See `raft-store/src/disk.rs`.
const SYNC_DELAY_VARIABLE: &str = "RAFTMQ_TEST_SYNC_DELAY_MS";

/// Breaks nothing of ours: RocksDB's syncs succeed and do nothing.
pub const ROCKSDB_SYNC_NOOP: &str = "rocksdb_sync_noop";

/// See `tests/disk-journal/src/lib.rs`.
const LIE_VARIABLE: &str = "RAFTMQ_TEST_JOURNAL_LIE";

/// What a leader says once it has taken messages out of the log.
pub const TRIMMED: &str = "the log of the broker group was trimmed";

/// Begins the error of a run that did not come to its power cut, and so says nothing.
pub const NOT_CUT: &str = "the power was not cut";

/// The broker that a run is made with.
#[derive(Debug, Clone, Copy)]
pub enum Build {
    /// What is shipped.
    Shipped,
    /// The one that can break promises, and what it breaks; nothing when empty.
    Control(&'static str),
}

impl Build {
    /// Bytes reach files only when they are synced.
    fn cut(self) -> Options {
        let (broker, broken) = match self {
            Build::Shipped => ("mqbroker", ""),
            Build::Control(broken) => ("mqbroker-faults", broken),
        };
        let environment = vec![
            setting(BREAK_VARIABLE, broken),
            setting(LIE_VARIABLE, if broken == ROCKSDB_SYNC_NOOP { "1" } else { "" }),
        ];
        Options { power_loss: true, broker, environment, ..Options::default() }
    }

    /// The same where elections wait longer than slow disks take for a vote.
    fn options(self) -> Options {
        let patient =
            [setting("raftElectionTimeoutMinMillis", "1000"), setting("raftElectionTimeoutMaxMillis", "1750")];
        Options { settings: patient.into(), ..self.cut() }
    }
}

/// Messages go soon after they were delivered, so that rows are flushed and the log is trimmed every other second: what
/// a trim removes from the log is in the rows alone.
pub fn trimming() -> Options {
    Options {
        power_loss: true,
        segment_bytes: Some(1 << 20),
        settings: vec![("fileReservedTime".into(), "0.005".into())],
        ..Options::default()
    }
}

fn setting(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// Cuts that are made where nobody asks for other ones: of each kind one.
pub const SEEDS: [u64; 3] = [0, 1, 2];

/// Under load the power of all three nodes goes, once for each seed. Every second disk keeps some of what was not synced,
/// and two of three cuts come while rows are flushed.
///
/// # Errors
///
/// Something that was acknowledged is lost, a node does not come back, or the replicas differ.
pub async fn at_any_moment(build: Build, seeds: &[u64]) -> Result<()> {
    let Options { segment_bytes, settings, .. } = trimming();
    let mut cluster = Cluster::start(Options { segment_bytes, settings, ..build.cut() }).await?;
    for seed in seeds {
        println!("power loss: replay this cut with RAFTMQ_SEED={seed}");
        let mut random = StdRng::seed_from_u64(*seed);
        let options = workload::Options { topic: format!("cut-{seed}"), hold: 32, ..Default::default() };
        cluster.create_topic(&options.topic, 8).await?;
        let workload = Workload::start(&cluster.access(0), options).await?;
        cluster.keep_unsynced((seed % 2 == 1).then_some(*seed));
        let delay = Duration::from_micros(random.random_range(0..20_000));
        if seed % 3 != 0 {
            next_flush(&cluster).await?;
        }
        workload
            .fault(async || {
                tokio::time::sleep(delay).await;
                workload.strike(|| cluster.kill_at_once(&[0, 1, 2]))
            })
            .await?;
        for number in 0..3 {
            cluster.start_node(number)?;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        }
        let outcome = workload.finish().await.with_context(|| cluster.log_tails(0))?;
        outcome.judge(&format!("power loss, seed {seed}"), &cluster).await?;
        if seed % 3 != 0 {
            let trimmed = (0..3).any(|number| cluster.log(number).contains(TRIMMED));
            ensure!(trimmed, "UNKNOWN: nothing was ever taken out of the log: the rows were not needed");
        }
    }
    Ok(())
}

/// Waits until some node has begun to flush its rows.
///
/// # Errors
///
/// None does within a minute.
pub async fn next_flush(cluster: &Cluster) -> Result<()> {
    let lines = || (0..cluster.nodes.len()).map(|number| cluster.journal(number).bytes()).sum::<u64>();
    let before = lines();
    let begun = async || lines() != before;
    let waited = eventually("rows are flushed", Duration::from_secs(60), begun).await;
    waited.with_context(|| format!("{NOT_CUT}\n{}", cluster.log_tails(0)))
}

fn set_sync_delay(cluster: &mut Cluster, number: usize, delay: Duration) {
    let environment = &mut cluster.nodes[number].environment;
    environment.retain(|(key, _)| key != SYNC_DELAY_VARIABLE);
    environment.push((SYNC_DELAY_VARIABLE.to_owned(), delay.as_millis().to_string()));
}

fn start(cluster: &mut Cluster) -> Result<()> {
    for number in 0..cluster.namesrvs.len() {
        cluster.start_namesrv(number)?;
    }
    (0..cluster.nodes.len()).try_for_each(|number| cluster.start_node(number))
}

/// The followers' disks are slow, and differently so. Under load the power of all three nodes goes, just when the
/// slowest of them has made its rows durable; the followers come back first and elect without the old leader. So each
/// acknowledged message must be durable on one of them, and no row without its entry.
///
/// # Errors
///
/// Something that was acknowledged is lost, a node does not come back, or the replicas differ.
pub async fn all_at_once(build: Build) -> Result<()> {
    let mut cluster = Cluster::prepare(build.options()).await?;
    let (leader, slow, slowest) = (0, 1, 2);
    set_sync_delay(&mut cluster, slow, Duration::from_millis(60));
    set_sync_delay(&mut cluster, slowest, Duration::from_millis(300));
    start(&mut cluster)?;
    let deadline = Instant::now() + LEADER_WITHIN;
    loop {
        let elected = cluster.leader(0).await?;
        if elected == leader {
            break;
        }
        ensure!(Instant::now() < deadline, "node {elected} leads, not node {leader}\n{}", cluster.log_tails(0));
        let request = TransferLeaderRequest { label: cluster.nodes[leader].label.clone(), ..Default::default() };
        // One with a slow disk may be handing over by itself: whoever leads then is seen in the next round.
        let _ = cluster.admin_client(elected).await?.transfer_leader(request).await;
    }
    let options = workload::Options { topic: "cut".into(), hold: 8, ..Default::default() };
    cluster.create_topic(&options.topic, 8).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;
    workload
        .fault(async || {
            let before = flushes(&cluster.nodes[slowest].data)?;
            let flushed = async || flushes(&cluster.nodes[slowest].data).is_ok_and(|flushes| flushes != before);
            let waited = eventually("the rows of the slowest are flushed", Duration::from_secs(40), flushed).await;
            waited.with_context(|| format!("{NOT_CUT}\n{}", cluster.log_tails(0)))?;
            workload.strike(|| cluster.kill_at_once(&[0, 1, 2]))
        })
        .await?;
    for follower in [slow, slowest] {
        set_sync_delay(&mut cluster, follower, Duration::ZERO);
        cluster.start_node(follower)?;
    }
    cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;
    cluster.start_node(leader)?;
    let outcome = workload.finish().await.with_context(|| cluster.log_tails(0))?;
    outcome.judge("power loss on slow disks", &cluster).await
}

/// Under load the power of all three nodes goes, after messages were taken out of the log and while rows are flushed: what
/// their nodes know of them is in RocksDB's files alone, and must be on the disks.
///
/// # Errors
///
/// Something that was acknowledged is lost, a node does not come back, or the replicas differ.
pub async fn after_a_trim(build: Build) -> Result<()> {
    let built = build.options();
    let settings = [trimming().settings, built.settings].concat();
    let mut cluster = Cluster::start(Options { settings, segment_bytes: trimming().segment_bytes, ..built }).await?;
    let options = workload::Options { topic: "trimmed".into(), hold: 8, ..Default::default() };
    cluster.create_topic(&options.topic, 8).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;
    let trimmed = async || (0..3).any(|number| cluster.log(number).contains(TRIMMED));
    let waited = eventually("the log is trimmed", Duration::from_secs(90), trimmed).await;
    waited.with_context(|| format!("{NOT_CUT}\n{}", cluster.log_tails(0)))?;
    // The members purge what the leader has trimmed one by one.
    for _ in 0..2 {
        next_flush(&cluster).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    workload.fault(async || workload.strike(|| cluster.kill_at_once(&[0, 1, 2]))).await?;
    (0..3).try_for_each(|number| cluster.start_node(number))?;
    cluster.leader(0).await?;
    let outcome = workload.finish().await.with_context(|| cluster.log_tails(0))?;
    outcome.judge("power loss after a trim", &cluster).await
}

/// What changes when RocksDB has made rows durable: the files that name its tables.
fn flushes(data: &Path) -> Result<Vec<(String, u64)>> {
    let mut manifests = Vec::new();
    for state in fs::read_dir(data)? {
        let state = state?;
        if !state.file_name().to_string_lossy().starts_with("state-") {
            continue;
        }
        for file in fs::read_dir(state.path())? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            if name.starts_with("MANIFEST") {
                manifests.push((name, file.metadata()?.len()));
            }
        }
    }
    manifests.sort();
    Ok(manifests)
}

/// A leader hangs, another member is elected, and the power of the one whose vote elected it goes in that moment. It
/// comes back while only the first leader, which has heard of nothing, reaches it: it must remember whom it has voted
/// for, else what it acknowledges together with the first leader is overwritten by the second.
///
/// This is the one way in which a forgotten vote loses something. When all nodes lose their power at once none does,
/// since each entry that a vote made possible stands behind it in the same log.
///
/// # Errors
///
/// Something that was acknowledged is lost, a node stops, or the replicas differ.
pub async fn after_a_vote(build: Build) -> Result<()> {
    let mut cluster = Cluster::prepare(Options { relayed: true, ..build.options() }).await?;
    for number in 0..3 {
        set_sync_delay(&mut cluster, number, Duration::from_millis(250));
    }
    start(&mut cluster)?;
    let topic = "voted";
    cluster.create_topic(topic, 1).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let first = cluster.leader(0).await?;
    let hearing = cluster.nodes[first].relays()?.peer.clone();
    hearing.lose(Direction::Inbound);
    cluster.pause(first)?;
    let followers = [(first + 1) % 3, (first + 2) % 3];
    let (second, voter) = elected(&cluster, followers).await?;
    cluster.kill(voter);
    cluster.pause(second)?;
    println!("node {first} led, {voter} voted for {second} and lost its power");
    set_sync_delay(&mut cluster, voter, Duration::ZERO);
    cluster.start_node(voter)?;
    let answers = async || cluster.status(voter).await.is_ok();
    eventually("the voter is back", LEADER_WITHIN, answers).await?;
    cluster.resume(first)?;
    let acknowledged = send_until_acknowledged(&cluster, first, topic).await?;
    cluster.pause(first)?;
    hearing.heal();
    cluster.resume(second)?;
    let leads = cluster.leader_other_than(0, Some(first), LEADER_WITHIN).await?;
    cluster.resume(first)?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let request = TopicStatusRequest { name: topic.to_owned(), stale: false };
    let status = cluster.admin_client(leads).await?.topic_status(request).await?.into_inner();
    let stored: u64 = status.queues.iter().map(|queue| queue.max_offset).sum();
    println!("{acknowledged} message acknowledged, {stored} stored");
    ensure!(stored >= acknowledged, "a message was acknowledged and is not stored\n{}", cluster.log_tails(0));
    let verdict = invariant::replicas_agree(&cluster, 0, 3).await;
    ensure!(verdict == Verdict::True, "replicas agree: {verdict}\n{}", cluster.log_tails(0));
    Ok(())
}

/// The follower that leads as soon as it does, and the other.
async fn elected(cluster: &Cluster, followers: [usize; 2]) -> Result<(usize, usize)> {
    let deadline = Instant::now() + LEADER_WITHIN;
    while Instant::now() < deadline {
        let [one, two] = followers;
        let leads = async |number| cluster.status(number).await.is_ok_and(|status| status.role == "leader");
        match futures::join!(leads(one), leads(two)) {
            (true, _) => return Ok((one, two)),
            (_, true) => return Ok((two, one)),
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
    anyhow::bail!("no follower was elected within {LEADER_WITHIN:?}\n{}", cluster.log_tails(0))
}

async fn send_until_acknowledged(cluster: &Cluster, number: usize, topic: &str) -> Result<u64> {
    let deadline = Instant::now() + LEADER_WITHIN * 2;
    let producer = Producer::new(&[cluster.nodes[number].grpc], &[topic])?;
    for sequence in 1.. {
        match producer.send(topic, &message_id(sequence), None, "body".into()).await {
            Ok(_) => return Ok(1),
            Err(failure) => {
                ensure!(Instant::now() < deadline, "nothing is acknowledged: {failure}\n{}", cluster.log_tails(0));
            }
        }
    }
    Ok(0)
}
