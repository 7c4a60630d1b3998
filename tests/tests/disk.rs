//! Disks that are full: sends are refused with a sentence that says why, everything else goes on, a node that is
//! killed comes back, and once there is room sends go on by themselves. Disks that are slow: leadership goes to a node
//! with a faster one, if there is any, and nobody stops. Nothing acknowledged is lost.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use raftmq_proto::rocketmq as pb;
use raftmq_tests::{
    client::{Consumer, Failure, Producer, eventually},
    cluster::{Cluster, LEADER_WITHIN, Options},
    invariant,
    small_disk::{self, SmallDisk},
    workload::{self, Workload},
};

/// Bytes of a segment: the log holds one, and two in reserve.
const SEGMENT: u64 = 16 << 20;
/// What messages leave free.
const KEEP_FREE: u64 = 40 << 20;
/// A disk that takes a few segments more than the log begins with.
const SMALL: u64 = 160 << 20;
/// A disk that takes everything that these tests send.
const LARGE: u64 = 1 << 30;

/// A cluster whose nodes live on disks of these sizes.
async fn start(sizes: [u64; 3]) -> Result<Option<(Vec<SmallDisk>, Cluster)>> {
    if let Some(reason) = small_disk::unavailable() {
        eprintln!("SKIPPED: no disk was filled and nothing was proved: {reason}");
        return Ok(None);
    }
    let options = Options {
        segment_bytes: Some(SEGMENT),
        settings: vec![("diskFreeBytesMin".into(), KEEP_FREE.to_string())],
        ..Default::default()
    };
    let mut cluster = Cluster::prepare(options).await?;
    let mut disks = Vec::new();
    for (node, bytes) in cluster.nodes.iter().zip(sizes) {
        let disk = SmallDisk::new(bytes)?;
        disk.stands_for(&node.data)?;
        disks.push(disk);
    }
    cluster.start_all().await?;
    Ok(Some((disks, cluster)))
}

/// Sends to `topic` until a send is refused for a full disk; gives the refusal.
async fn fill(producer: &Producer, topic: &str) -> Result<String> {
    let body = Bytes::from(vec![7; 256 << 10]);
    for round in 0..400 {
        let sends = (0..8).map(|number| {
            let (id, body) = (format!("filler-{round}-{number}"), body.clone());
            async move { producer.send(topic, &id, None, body).await }
        });
        for outcome in futures::future::join_all(sends).await {
            match outcome {
                Ok(_) => {}
                Err(refused) => match refused.last {
                    Failure::Code(pb::Code::TooManyRequests, why) => return Ok(why),
                    other => bail!("expected a refusal for a full disk, got {other}"),
                },
            }
        }
    }
    bail!("800 MiB were taken and no disk was full")
}

/// Fills the disks under a workload: the fault has struck with the first refusal, which this gives.
async fn full(workload: &Workload, producer: &Producer) -> Result<String> {
    let why = fill(producer, "filling").await?;
    workload.strike(|| ());
    Ok(why)
}

/// Sends go on by themselves. Those that came before the disk was full do not count.
async fn goes_on(workload: &Workload) -> Result<()> {
    workload.goes_on(invariant::ACKNOWLEDGED_MIN, Duration::from_secs(30)).await.context("with room again")
}

fn names_all(why: &str) -> Result<()> {
    for part in ["disk", "full", "bytes are free in", "sends need", "diskFreeBytesMin", "free space"] {
        ensure!(why.contains(part), "{part:?} is not in: {why}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_refuse_sends_and_nothing_else() -> Result<()> {
    let Some((disks, mut cluster)) = start([SMALL; 3]).await? else { return Ok(()) };
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    cluster.create_topic("filling", 8).await?;
    let access = cluster.access(0);
    let other = Consumer::new(&access, "auditors", &options.topic, "*", false)?;
    other.join(&options.topic).await;
    let workload = Workload::start(&access, options.clone()).await?;
    let producer = Producer::new(&access, &["filling"])?;
    let why = workload.fault(async || full(&workload, &producer).await).await?;
    names_all(&why)?;

    // Receives, acknowledgements, changes of leases, topics.
    let taken = other.receive(&options.topic, 16, Duration::from_secs(60), Duration::from_secs(5)).await?;
    ensure!(taken.len() >= 2, "only {} of many messages were received", taken.len());
    let changed = other.change_invisible(&taken[0], Duration::from_secs(90)).await?;
    other.ack_handle(&taken[0], &changed).await?;
    for delivery in &taken[1..] {
        other.ack(delivery).await?;
    }
    cluster.create_topic("made-on-a-full-disk", 4).await?;

    // Elections, and a start on a full disk, twice.
    for _ in 0..2 {
        let leader = cluster.leader(0).await?;
        cluster.kill(leader);
        cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;
        cluster.start_node(leader)?;
        cluster.caught_up(0, Duration::from_secs(30)).await?;
    }
    let before = workload.oracle.acknowledged();
    let refused = producer.send("filling", "still-full", None, Bytes::from_static(b"x")).await;
    let code = refused.as_ref().err().and_then(|refused| refused.last.code());
    ensure!(code == Some(pb::Code::TooManyRequests), "after an election on full disks: {refused:?}");
    let more = other.receive(&options.topic, 16, Duration::from_secs(60), Duration::from_secs(5)).await?;
    for delivery in &more {
        other.ack(delivery).await?;
    }
    for number in 0..3 {
        let trouble = cluster.status(number).await?.trouble;
        ensure!(trouble.contains("disk is full"), "node {number} says of its trouble: {trouble:?}");
    }

    let after = workload.oracle.acknowledged();
    ensure!(before == after, "{} sends were taken while the disks were full", after - before);
    for disk in &disks {
        disk.resize(LARGE)?;
    }
    goes_on(&workload).await?;
    let outcome = workload.finish().await?.judge("full disks", &cluster).await;
    ensure!((0..3).all(|number| !cluster.log(number).contains("panicked")), "a node panicked");
    // The processes go before their disks.
    drop(cluster);
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_full_disk_is_named_and_can_be_left_out() -> Result<()> {
    let Some((disks, mut cluster)) = start([LARGE, LARGE, SMALL]).await? else { return Ok(()) };
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    cluster.create_topic("filling", 8).await?;
    let access = cluster.access(0);
    // The node with the full disk follows: it is its report that counts.
    if cluster.leader(0).await? == 2 {
        cluster.kill(2);
        cluster.leader_other_than(0, Some(2), LEADER_WITHIN).await?;
        cluster.start_node(2)?;
        cluster.caught_up(0, Duration::from_secs(20)).await?;
    }
    let workload = Workload::start(&access, options).await?;
    let producer = Producer::new(&access, &["filling"])?;
    let why = workload.fault(async || full(&workload, &producer).await).await?;
    names_all(&why)?;
    ensure!(why.contains("node n2"), "the refusal names another node: {why}");
    // Stopped, it does not count, and the others go on.
    cluster.stop(2, Duration::from_secs(20))?;
    let taken = async || producer.send("filling", "without-n2", None, Bytes::from_static(b"x")).await.is_ok();
    eventually("sends go on without the node", Duration::from_secs(20), taken).await?;
    disks[2].resize(LARGE)?;
    cluster.start_node(2)?;
    let well =
        async || cluster.status(2).await.is_ok_and(|status| status.role == "follower" && status.trouble.is_empty());
    eventually("the node has room again", Duration::from_secs(30), well).await?;
    goes_on(&workload).await?;
    let outcome = workload.finish().await?.judge("one full disk", &cluster).await;
    drop(cluster);
    outcome
}

/// Somebody else takes the last byte of every disk: the log has its reserve, and rows that cannot be flushed stay in
/// memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_fill_the_disks() -> Result<()> {
    let Some((disks, mut cluster)) = start([SMALL; 3]).await? else { return Ok(()) };
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    cluster.create_topic("filling", 8).await?;
    let access = cluster.access(0);
    let workload = Workload::start(&access, options).await?;
    let producer = Producer::new(&access, &["filling"])?;
    let fillers = workload
        .fault(async || workload.strike(|| disks.iter().map(|disk| disk.fill(0)).collect::<Result<Vec<_>>>()))
        .await?;
    let refused = async || {
        let outcome = producer.send("filling", "not-this-one", None, Bytes::from_static(b"x")).await;
        outcome.is_err_and(|refused| refused.last.code() == Some(pb::Code::TooManyRequests))
    };
    eventually("sends are refused", Duration::from_secs(20), refused).await?;
    // Rows are flushed after 20 s at the latest, if they can be.
    let put_off = async || (0..3).all(|number| cluster.log(number).contains("no room to flush the rows"));
    eventually("flushes are put off", Duration::from_secs(40), put_off).await?;
    for number in 0..3 {
        ensure!(cluster.process(number).is_some_and(|process| process.runs()), "node {number} ended");
    }
    for filler in fillers {
        std::fs::remove_file(filler)?;
    }
    goes_on(&workload).await?;
    let outcome = workload.finish().await?.judge("disks filled by others", &cluster).await;
    drop(cluster);
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_slow_disk_hands_over_and_keeps_leadership_among_equals() -> Result<()> {
    const SLOW: Duration = Duration::from_millis(300);
    let options = Options {
        slow_disks: true,
        settings: vec![
            ("slowDiskMillis".into(), "100".into()),
            ("slowDiskHandoverIntervalMillis".into(), "2000".into()),
        ],
        ..Default::default()
    };
    let mut cluster = Cluster::start(options).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;
    let slow = cluster.leader(0).await?;
    workload.fault(async || workload.strike(|| cluster.delay_syncs(slow, SLOW))).await?;
    let successor = cluster.leader_other_than(0, Some(slow), LEADER_WITHIN).await?;
    ensure!(cluster.log(slow).contains("slowDiskMillis"), "leadership was lost and not handed over");
    // It follows on as well as it can.
    workload.acknowledged(invariant::ACKNOWLEDGED_MIN, Duration::from_secs(30)).await?;
    for number in 0..3 {
        cluster.delay_syncs(number, SLOW)?;
    }
    let noticed = async || cluster.log(successor).contains("this node's disk is slow");
    eventually("the leader notices that its disk is slow as well", Duration::from_secs(30), noticed).await?;
    let term = cluster.status(successor).await?.term;
    // Several looks, and more than the time for which a new leader keeps leadership in any case.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let status = cluster.status(successor).await?;
    ensure!((status.role.as_str(), status.term) == ("leader", term), "leadership moved among equals: {status:?}");
    for number in 0..3 {
        ensure!(cluster.process(number).is_some_and(|process| process.runs()), "node {number} ended");
        cluster.delay_syncs(number, Duration::ZERO)?;
    }
    workload.finish().await?.judge("slow disk", &cluster).await
}
