//! What Prometheus and health checks are told, against what clients did. Real processes.

#[path = "metrics/monitoring.rs"]
mod monitoring;
#[path = "metrics/otlp.rs"]
mod otlp;
#[path = "metrics/reference.rs"]
mod reference;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use raftmq_broker::machine::VERSION;
use raftmq_proto::rocketmq as pb;
use raftmq_tests::client::{Consumer, Producer, eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::oracle::message_id;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
const SENT: u64 = 90;
const BODY: usize = 100;
/// Topics of transactions and of delayed messages.
const HALVES: &str = "ledger";
const LATER: &str = "reminders";
/// The transaction that its producer does not end.
const BY_HAND: u64 = 5;

/// A page over HTTP/1: its status and its text.
async fn page(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.split(' ').nth(1).context("a head has a status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// The series of a page by what stands before the value; labels that are the same on all of a node are left out.
async fn series(address: SocketAddr) -> Result<BTreeMap<String, f64>> {
    let (status, text) = page(address, "/metrics").await?;
    ensure!(status == 200, "{status}: {text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| {
            let (name, labels) = name.trim_end_matches('}').split_once('{').unwrap_or((name, ""));
            let mut labels: Vec<&str> = labels
                .split(',')
                .filter(|label| label.split('=').next().is_none_or(|name| !reference::OF_NODE.contains(&name)))
                .collect();
            labels.sort_unstable();
            Ok((format!("{name}{{{}}}", labels.join(",")), value.parse()?))
        })
        .collect()
}

/// The sum over all nodes, as Prometheus makes it.
async fn sum(cluster: &Cluster, name: &str) -> Result<f64> {
    let mut sum = 0.0;
    for node in &cluster.nodes {
        sum += series(node.metrics).await?.get(name).copied().unwrap_or_default();
    }
    Ok(sum)
}

/// A transaction that is committed, one that is rolled back, one that is left open, one that `mqadmin` ends, and a message
/// for tomorrow.
async fn end_and_wait(cluster: &Cluster) -> Result<()> {
    cluster.put_topic(HALVES, 4, Some("TRANSACTION")).await?;
    cluster.put_topic(LATER, 4, Some("DELAY")).await?;
    let producer = Producer::new(&cluster.access(0), &[HALVES, LATER])?;
    for (number, commit) in [(1, Some(true)), (2, Some(false)), (3, None), (BY_HAND, None)] {
        let mut half = message(HALVES, &message_id(number), None, Bytes::from_static(b"half"));
        half.system_properties.get_or_insert_default().message_type = pb::MessageType::Transaction.into();
        let sent = producer.send_messages(HALVES, vec![half]).await?;
        let half = sent.entries.first().context("a message has an entry")?;
        if let Some(commit) = commit {
            // Said again it is no other transaction.
            for _ in 0..3 {
                producer.end(HALVES, half, commit).await?;
            }
        } else if number == BY_HAND {
            let ended = ["endTransaction", "-t", HALVES, "-i", &half.transaction_id, "-r", "rollback"];
            for _ in 0..2 {
                let output = cluster.mqadmin(&ended).await?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            // The producer, which is late, says the same.
            producer.end(HALVES, half, false).await?;
        }
    }
    let mut later = message(LATER, &message_id(4), None, Bytes::from_static(b"later"));
    let system = later.system_properties.get_or_insert_default();
    system.message_type = pb::MessageType::Delay.into();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let seconds = i64::try_from(now.as_secs())? + 80_000;
    system.delivery_timestamp = Some(prost_types::Timestamp { seconds, nanos: 0 });
    producer.send_messages(LATER, vec![later]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_what_clients_did_and_health_is_what_they_meet() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    // Since then it is told which word on a transaction was the first.
    cluster.activated(0, VERSION).await?;
    cluster.create_topic(TOPIC, 4).await?;
    for node in &cluster.nodes {
        eventually("every node is ready", LEADER_WITHIN, async || {
            page(node.metrics, "/readyz").await.is_ok_and(|(status, _)| status == 200)
        })
        .await?;
    }
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    let consumer = Consumer::new(&cluster.access(0), GROUP, TOPIC, "*", false)?;
    consumer.join(TOPIC).await;
    for number in 0..SENT {
        producer.send(TOPIC, &format!("M{number:015}"), None, Bytes::from(vec![7; BODY])).await?;
    }
    let mut deliveries = Vec::new();
    while (deliveries.len() as u64) < SENT / 2 {
        deliveries.extend(consumer.receive(TOPIC, 8, Duration::from_secs(300), Duration::from_secs(1)).await?);
    }
    for delivery in &deliveries[..10] {
        consumer.ack(delivery).await?;
    }
    let delivered = deliveries.len() as f64;
    end_and_wait(&cluster).await?;

    // Whatever node took a call counts it, and no other.
    let topic = format!("message_type=\"normal\",topic=\"{TOPIC}\"");
    ensure!(sum(&cluster, &format!("rocketmq_messages_in_total{{{topic}}}")).await? == SENT as f64);
    ensure!(sum(&cluster, &format!("rocketmq_throughput_in_total{{{topic}}}")).await? == (SENT * BODY as u64) as f64);
    ensure!(sum(&cluster, "rocketmq_message_size_count{message_type=\"normal\"}").await? == SENT as f64);
    let group = format!("consumer_group=\"{GROUP}\",topic=\"{TOPIC}\"");
    ensure!(sum(&cluster, &format!("rocketmq_messages_out_total{{{group}}}")).await? == delivered);
    let sends = "rocketmq_rpc_latency_count{protocol_type=\"grpc\",request_code=\"SendMessage\",response_code=\"OK\"}";
    // The halves and the message for tomorrow too.
    ensure!(sum(&cluster, sends).await? == (SENT + 5) as f64);

    for (name, value) in [
        ("rocketmq_commit_messages_total{topic=\"ledger\"}", 1.0),
        ("rocketmq_rollback_messages_total{topic=\"ledger\"}", 2.0),
        ("rocketmq_timer_enqueue_total{topic=\"reminders\"}", 1.0),
        ("rocketmq_proxy_up{proxy_mode=\"local\"}", 3.0),
        ("rocketmq_processor_watermark{processor=\"send\"}", 0.0),
    ] {
        let found = sum(&cluster, name).await?;
        ensure!(found == value, "{name}: {found}");
    }
    ensure!(sum(&cluster, "rocketmq_raft_election_total{}").await? >= 1.0);

    // What is the same on all members is said once.
    ensure!(sum(&cluster, "rocketmq_raft_is_leader{}").await? == 1.0);
    let lag = SENT as f64 - 10.0;
    eventually("the lag is that of the group", Duration::from_secs(5), async || {
        sum(&cluster, &format!("rocketmq_consumer_lag_messages{{{group}}}")).await.is_ok_and(|found| found == lag)
    })
    .await?;
    ensure!(sum(&cluster, &format!("rocketmq_consumer_inflight_messages{{{group}}}")).await? == delivered - 10.0);
    ensure!(sum(&cluster, &format!("rocketmq_consumer_filters{{{group}}}")).await? == 1.0);
    let leader = cluster.leader(0).await?;
    let found = series(cluster.nodes[leader].metrics).await?;
    for name in [
        "rocketmq_topic_number{}",
        "rocketmq_consumer_group_number{}",
        "rocketmq_client_connections{}",
        "rocketmq_storage_size{}",
        "rocketmq_raft_term{}",
        "rocketmq_raft_commit_index{}",
        "rocketmq_raft_fsyncs_total{}",
        "rocketmq_raft_fsync_seconds{quantile=\"0.99\"}",
        "rocketmq_lease_active{}",
    ] {
        ensure!(found.get(name).is_some_and(|value| *value > 0.0), "{name} in {:#?}", found.keys());
    }
    let lags = found.keys().filter(|name| name.starts_with("rocketmq_raft_peer_lag_entries{"));
    ensure!(lags.count() == 2);
    ensure!(found["rocketmq_half_messages{topic=\"ledger\"}"] == 1.0, "{found:?}");
    ensure!(found["rocketmq_timing_messages{topic=\"reminders\"}"] == 1.0, "{found:?}");
    ensure!(found["rocketmq_timer_dequeue_lag{}"] == 0.0 && found["rocketmq_timer_dequeue_latency{}"] == 0.0);
    // What was never handed out came after what is leased.
    let queueing = found[&format!("rocketmq_consumer_queueing_latency{{{group}}}")];
    let waits = found[&format!("rocketmq_consumer_lag_latency{{{group}}}")];
    ensure!(queueing > 0.0 && waits >= queueing, "{found:?}");
    let mut pages = Vec::new();
    for node in &cluster.nodes {
        pages.push(page(node.metrics, "/metrics").await?.1);
    }
    reference::check(&pages, leader)?;
    monitoring::check(&pages)?;

    // Without a majority the node that is left works and serves nobody.
    cluster.kill_at_once(&[(leader + 1) % 3, (leader + 2) % 3])?;
    let left = cluster.nodes[leader].metrics;
    eventually("readyz says that nobody is served", LEADER_WITHIN, async || {
        page(left, "/readyz").await.is_ok_and(|(status, text)| status == 503 && text.starts_with("no majority"))
    })
    .await?;
    ensure!(page(left, "/healthz").await?.0 == 200);
    ensure!(page(left, "/nothing").await?.0 == 404);
    for number in [(leader + 1) % 3, (leader + 2) % 3] {
        cluster.start_node(number)?;
    }
    eventually("readyz says that clients are served again", LEADER_WITHIN, async || {
        page(left, "/readyz").await.is_ok_and(|(status, _)| status == 200)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_stays_ready() -> Result<()> {
    let cluster = Cluster::start(Options { nodes: 1, ..Default::default() }).await?;
    let node = cluster.nodes[0].metrics;
    let ready = async || page(node, "/readyz").await.is_ok_and(|(status, _)| status == 200);
    eventually("the node is ready", LEADER_WITHIN, ready).await?;
    // For longer than a leader of several may go without an answer.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (status, text) = page(node, "/readyz").await?;
        ensure!(status == 200, "{status}: {text}");
    }
    Ok(())
}

/// Restarting nodes one by one, as a chart does, goes on when the one before is ready: it must have what the others
/// have acknowledged meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_is_ready_once_it_has_what_it_missed() -> Result<()> {
    const BODIES: u64 = 100;
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let leader = cluster.leader(0).await?;
    let away = (leader + 1) % 3;
    cluster.kill(away);
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    let body = Bytes::from(vec![7; 1 << 20]);
    for number in 0..BODIES {
        producer.send(TOPIC, &format!("M{number:015}"), None, body.clone()).await?;
    }
    let missed = cluster.status(leader).await?.committed_index.context("a leader has committed")?;
    cluster.start_node(away)?;
    let node = cluster.nodes[away].metrics;
    let mut reasons = Vec::new();
    eventually("the node is ready", LEADER_WITHIN + Duration::from_secs(30), async || {
        match page(node, "/readyz").await {
            Ok((200, text)) => text == "OK: follower\n",
            Ok((_, text)) => {
                reasons.push(text);
                false
            }
            Err(_) => false,
        }
    })
    .await?;
    let applied = cluster.status(away).await?.applied_index;
    ensure!(applied >= Some(missed), "ready with {applied:?} of {missed}");
    let behind = "committed entries are not applied yet";
    ensure!(reasons.iter().any(|reason| reason.contains(behind)), "nobody was told what it waits for: {reasons:?}");
    Ok(())
}
