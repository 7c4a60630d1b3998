//! Retention with real processes: a group that is sent several times what it may keep stays small, on disk and in
//! memory, while consumers go on and nodes are killed; and what is still to be delivered stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use raftmq_proto::rocketmq as pb;
use raftmq_tests::client::{Consumer, Producer, eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::invariant::{self, Verdict};

/// Bytes of a segment.
const SEGMENT: u64 = 2 << 20;
/// What the log may have.
const KEPT: u64 = 16 << 20;
/// What a node's log takes at most: the segment that is written, two in reserve, and what is sent until a trim is over.
const LOG_MAX: u64 = KEPT + 16 * SEGMENT;
/// Bytes of a body.
const BODY: usize = 16 << 10;
/// Messages of a phase: 20 MiB.
const PHASE: u64 = 1_280;
/// Sends under way.
const TOGETHER: u64 = 16;
const TOPIC: &str = "flood";
const LATER: &str = "later";
const LEASE: Duration = Duration::from_secs(12);

/// How often each message came.
type Came = Arc<Mutex<BTreeMap<String, u64>>>;

/// Receives and acknowledges until it is dropped.
async fn consume(access: Vec<SocketAddr>, group: &'static str, topic: &'static str, came: Came) -> Result<()> {
    let consumer = Consumer::new(&access, group, topic, "*", false)?;
    loop {
        match consumer.receive(topic, 32, LEASE, Duration::from_secs(5)).await {
            Ok(deliveries) => {
                for delivery in &deliveries {
                    *came.lock().expect("no holder panics").entry(delivery.message_id().to_owned()).or_default() += 1;
                }
                futures::future::join_all(deliveries.iter().map(|delivery| consumer.ack(delivery))).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Bytes of the files below a folder whose names end so.
fn bytes_below(folder: &Path, end: &str) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(kind) if kind.is_dir() => bytes_below(&entry.path(), end),
        Ok(kind) if entry.path().to_string_lossy().ends_with(end) => kind.len(),
        _ => 0,
    });
    bytes.sum()
}

fn number(phase: u64, number: u64) -> String {
    format!("{phase}-{number:05}")
}

/// Sends a phase's messages until each is stored; about 6 MB a second, so that a slow machine keeps up with itself.
async fn flood(cluster: &Cluster, producer: &Producer, phase: u64) -> Result<u64> {
    let body = Bytes::from(vec![b'x'; BODY]);
    let mut largest = 0;
    for first in (0..PHASE).step_by(TOGETHER as usize) {
        let sends = (first..first + TOGETHER).map(|at| {
            let (id, body) = (number(phase, at), body.clone());
            async move {
                let deadline = Instant::now() + LEADER_WITHIN;
                loop {
                    match producer.send(TOPIC, &id, None, body.clone()).await {
                        Ok(_) => return Ok(()),
                        Err(failure) => ensure!(failure.last.may_pass() && Instant::now() < deadline, "{failure}"),
                    }
                }
            }
        });
        for sent in futures::future::join_all(sends).await {
            sent?;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        for node in &cluster.nodes {
            largest = largest.max(bytes_below(&node.data, ".seg"));
        }
    }
    Ok(largest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_stays_small_while_nodes_die_and_what_is_to_be_delivered_stays() -> Result<()> {
    let options = Options {
        segment_bytes: Some(SEGMENT),
        settings: vec![("fileReservedSize".into(), KEPT.to_string())],
        ..Default::default()
    };
    let mut cluster = Cluster::start(options).await?;
    for (topic, kind) in [(TOPIC, "NORMAL"), (LATER, "DELAY")] {
        let kind = format!("+message.type={kind}");
        let arguments = ["updateTopic", "-c", "RaftCluster", "-t", topic, "-r", "4", "-w", "4", "-a", &kind];
        let made = async || cluster.mqadmin(&arguments).await.is_ok_and(|output| output.status.success());
        eventually("mqadmin makes the topic", LEADER_WITHIN, made).await?;
    }
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let access = cluster.access(0);
    let producer = Producer::new(&access, &[TOPIC, LATER])?;
    let (came, late) = (Came::default(), Came::default());
    let readers = [
        tokio::spawn(consume(access.clone(), "readers", TOPIC, came.clone())),
        tokio::spawn(consume(access.clone(), "readers", TOPIC, came.clone())),
        tokio::spawn(consume(access.clone(), "patient", LATER, late.clone())),
    ];
    // A consumer group that is there, and falls behind.
    let behind = Consumer::new(&access, "behind", TOPIC, "*", false)?;
    producer.send(TOPIC, "first", None, "x".into()).await?;
    let first = async || {
        let taken = behind.receive(TOPIC, 1, LEASE, Duration::from_secs(5)).await.unwrap_or_default();
        futures::future::join_all(taken.iter().map(|delivery| behind.ack(delivery))).await;
        !taken.is_empty()
    };
    eventually("the first message comes", LEADER_WITHIN, first).await?;

    // Due after everything that was sent with them is gone.
    let due = SystemTime::now() + Duration::from_secs(45);
    for at in 0..20 {
        let mut message = message(LATER, &number(9, at), None, "later".into());
        let system = message.system_properties.get_or_insert_default();
        system.message_type = pb::MessageType::Delay.into();
        system.delivery_timestamp = Some(due.into());
        producer.send_messages(LATER, vec![message]).await?;
    }

    let mut largest = flood(&cluster, &producer, 0).await?;
    let resident: Vec<_> =
        (0..3).map(|node| cluster.usage(node).map(|usage| usage.resident_bytes)).collect::<Result<_>>()?;
    let leader = cluster.leader(0).await?;
    cluster.kill(leader);
    cluster.start_node(leader)?;
    largest = largest.max(flood(&cluster, &producer, 1).await?);
    cluster.kill_at_once(&[0, 1, 2])?;
    (0..3).try_for_each(|node| cluster.start_node(node))?;
    cluster.leader(0).await?;
    largest = largest.max(flood(&cluster, &producer, 2).await?);
    ensure!(largest <= LOG_MAX, "a log took {largest} bytes, {LOG_MAX} are enough");
    let small = async || cluster.nodes.iter().all(|node| bytes_below(&node.data, ".seg") <= KEPT + 4 * SEGMENT);
    eventually("every log is as small as it should be", Duration::from_secs(30), small).await?;
    let all: u64 = cluster.nodes.iter().map(|node| bytes_below(&node.data, "")).max().unwrap_or_default();
    ensure!(all <= LOG_MAX + (64 << 20), "a node takes {all} bytes of disk");
    for (node, before) in resident.iter().enumerate() {
        let now = cluster.usage(node)?.resident_bytes;
        println!("node {node}: {} MiB resident after 20 MiB, {} MiB after 60", before >> 20, now >> 20);
        ensure!(now <= before + (96 << 20), "node {node} grew from {before} to {now} bytes");
    }

    // Everything came to those who kept up.
    let sent: BTreeSet<_> = (0..3).flat_map(|phase| (0..PHASE).map(move |at| number(phase, at))).collect();
    let missing = || {
        let came = came.lock().expect("no holder panics");
        sent.iter().filter(|id| !came.contains_key(*id)).cloned().collect::<Vec<_>>()
    };
    let complete = async || missing().is_empty();
    if eventually("all messages come", Duration::from_secs(40), complete).await.is_err() {
        let missing = missing();
        anyhow::bail!("{} messages never came, the first is {:?}", missing.len(), missing.first());
    }
    // What waited came, although the entries that it came with are gone, and at its time.
    let waited = async || late.lock().expect("no holder panics").len() == 20;
    eventually("delayed messages come", Duration::from_secs(60), waited).await?;
    ensure!(SystemTime::now() >= due, "delayed messages came before their time");

    // Who fell behind goes on at the oldest message that is kept, and misses none from there on.
    let rest = Came::default();
    let reader = tokio::spawn(consume(access.clone(), "behind", TOPIC, rest.clone()));
    let newest = number(2, PHASE - 1);
    let done = async || rest.lock().expect("no holder panics").contains_key(&newest);
    eventually("the newest message comes", Duration::from_secs(60), done).await?;
    let settled = async || {
        let before = rest.lock().expect("no holder panics").len();
        tokio::time::sleep(Duration::from_secs(1)).await;
        rest.lock().expect("no holder panics").len() == before
    };
    eventually("all of them have come", Duration::from_secs(60), settled).await?;
    reader.abort();
    let rest = rest.lock().expect("no holder panics").clone();
    ensure!(rest.len() < sent.len(), "nothing was taken");
    // Half of what the log keeps is inside retention, whichever way the files fell.
    let inside = KEPT / 2 / (BODY as u64 + 512);
    for at in PHASE - inside..PHASE {
        ensure!(rest.contains_key(&number(2, at)), "message {at} of {PHASE} was inside retention and is lost");
    }
    let told = (0..3).any(|node| cluster.log(node).contains("that this consumer group had not consumed"));
    ensure!(told, "nobody was told that a consumer group missed messages");
    readers.iter().for_each(tokio::task::JoinHandle::abort);

    // A member that is away is waited for a little, and then passed over; when it is back, it is filled, and the same.
    let leader = cluster.leader(0).await?;
    let away = (leader + 1) % 3;
    cluster.kill(away);
    flood(&cluster, &producer, 3).await?;
    let name = format!("node {} lacks entries that go now", cluster.nodes[away].label);
    let says = async || cluster.log(leader).contains(&name);
    if let Err(error) = eventually(&format!("the leader says: {name}"), Duration::from_secs(45), says).await {
        return Err(error.context(cluster.log_tails(0)));
    }
    let others = [leader, (away + 1) % 3];
    let is_small = |node: usize| bytes_below(&cluster.nodes[node].data, ".seg") <= KEPT + 4 * SEGMENT;
    let small = async || others.into_iter().filter(|node| *node != away).all(is_small);
    eventually("the logs of the others shrink", Duration::from_secs(45), small).await?;
    cluster.start_node(away)?;
    cluster.caught_up(0, Duration::from_secs(60)).await.context("the member that was away is filled")?;
    ensure!(cluster.log(away).contains("a leader fills this node"), "it caught up from the log");
    let small = async || cluster.nodes.iter().all(|node| bytes_below(&node.data, ".seg") <= KEPT + 4 * SEGMENT);
    eventually("every log is small", Duration::from_secs(30), small).await?;
    match invariant::replicas_agree(&cluster, 0, 3).await {
        Verdict::True => {}
        other => anyhow::bail!("{other:?}"),
    }
    Ok(())
}
