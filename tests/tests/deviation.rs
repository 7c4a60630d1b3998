//! A member whose rows are not what its group's log leads to is found out, stops, and fills its rows anew: a follower,
//! and a node that leads with them. Real processes, and rows that are changed on disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use raft_store::{State, StateOptions, Table};
use raftmq_broker::store::TABLES;
use raftmq_tests::client::{Consumer, Producer, eventually};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::invariant::{self, Verdict};
use raftmq_tests::oracle::message_id;

const TOPIC: &str = "deviation";
/// Marks are compared each second.
const FOUND_WITHIN: Duration = Duration::from_secs(20);

/// The state folder that a stopped node uses.
fn state_folder(cluster: &Cluster, number: usize) -> Result<PathBuf> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(cluster.data(number))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("state-")) {
            folders.push(path);
        }
    }
    ensure!(folders.len() == 1, "a stopped node has one state folder, this one {folders:?}");
    folders.pop().context("there is one")
}

/// Moves the next offset of every queue of a stopped node.
fn damage(cluster: &Cluster, number: usize) -> Result<()> {
    let state = State::open(&state_folder(cluster, number)?, TABLES, &StateOptions::default())?;
    let queues = TABLES.iter().position(|name| *name == "queue").context("there is a table of queues")?;
    let mut rows = Vec::new();
    state.visit_all(&mut |table, key, value| {
        if table == "queue" && value.len() == 24 {
            rows.push((key.to_vec(), value.to_vec()));
        }
    })?;
    ensure!(!rows.is_empty(), "there are queues");
    let mut batch = state.batch();
    for (key, mut value) in rows {
        // The low byte of the next offset.
        value[15] = value[15].wrapping_add(7);
        batch.put(Table(u8::try_from(queues)?), key, value);
    }
    batch.write()?;
    state.flush()?;
    Ok(())
}

/// Sends with these numbers, each acknowledged: an entry for almost each of them.
async fn send(cluster: &Cluster, numbers: std::ops::Range<u64>) -> Result<()> {
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    let sends = stream::iter(numbers).map(|number| {
        let producer = &producer;
        async move {
            let mut sent = Err(anyhow::anyhow!("never tried"));
            // A node that stops takes calls with it; the same id is stored once.
            for _ in 0..20 {
                match producer.send(TOPIC, &message_id(number), None, Bytes::from_static(b"body")).await {
                    Ok(_) => return Ok(()),
                    Err(failure) => sent = Err(anyhow::anyhow!("{failure:?}")),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            sent
        }
    });
    sends.buffer_unordered(2).collect::<Vec<_>>().await.into_iter().collect()
}

async fn distrusted_and_filled_anew(cluster: &mut Cluster, number: usize) -> Result<()> {
    let ended = cluster.process(number).context("the node was started")?.ended(FOUND_WITHIN);
    let log = cluster.log(number);
    let tail = log.lines().rev().take(20).collect::<Vec<_>>().join("\n");
    let status = ended.with_context(|| format!("the node goes on with wrong rows:\n{tail}"))?;
    ensure!(!status.success(), "a node that stops for a reason says so by its exit status");
    ensure!(log.contains("the rows of this node cannot be trusted"), "the log says why:\n{tail}");
    cluster.kill(number);
    cluster.start_node(number)?;
    cluster.caught_up(0, LEADER_WITHIN).await
}

async fn all_is_there(cluster: &Cluster, count: u64) -> Result<()> {
    let consumer = Consumer::new(&cluster.access(0), "readers", TOPIC, "*", false)?;
    let mut missing: BTreeSet<String> = (0..count).map(message_id).collect();
    eventually("every message comes once", Duration::from_secs(60), async || {
        if let Ok(deliveries) = consumer.receive(TOPIC, 32, Duration::from_secs(60), Duration::from_secs(3)).await {
            for delivery in deliveries {
                missing.remove(delivery.message_id());
                // The lease is long: one that is not acknowledged does not come again here.
                let _ = consumer.ack(&delivery).await;
            }
        }
        missing.is_empty()
    })
    .await
    .with_context(|| format!("{} are missing", missing.len()))?;
    match invariant::replicas_agree(cluster, 0, 3).await {
        Verdict::True => Ok(()),
        other => anyhow::bail!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_other_rows_stops_and_is_filled_anew() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    send(&cluster, 0..100).await?;
    let follower = (cluster.leader(0).await? + 1) % 3;
    cluster.stop(follower, LEADER_WITHIN)?;
    damage(&cluster, follower)?;
    cluster.start_node(follower)?;
    send(&cluster, 100..500).await?;
    distrusted_and_filled_anew(&mut cluster, follower).await?;
    send(&cluster, 500..600).await?;
    all_is_there(&cluster, 600).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_other_rows_stops_and_another_takes_over() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    send(&cluster, 0..100).await?;
    let wrong = cluster.leader(0).await?;
    cluster.stop(wrong, LEADER_WITHIN)?;
    damage(&cluster, wrong)?;
    cluster.start_node(wrong)?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    // The others make way for it.
    let label = cluster.status(wrong).await?.label;
    eventually("the damaged node leads", LEADER_WITHIN, async || {
        let elect = ["electMaster", "-c", "RaftCluster", "-b", &label];
        let _ = cluster.mqadmin(&elect).await;
        cluster.status(wrong).await.is_ok_and(|status| status.role == "leader")
    })
    .await?;
    send(&cluster, 100..500).await?;
    distrusted_and_filled_anew(&mut cluster, wrong).await?;
    send(&cluster, 500..600).await?;
    all_is_there(&cluster, 600).await
}
