//! What was done to a message is told the same by every node, and by those that are left when the leader was killed. Real
//! processes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use raftmq_broker::machine::VERSION;
use raftmq_proto::admin::{ExplainMessageRequest, MessageEvent};
use raftmq_tests::client::{Consumer, Delivery, Producer, eventually};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::oracle::message_id;
use serde_json::Value;

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
/// As short as a lease of these tests may be, and what comes of its end within this.
const LEASE: Duration = Duration::from_secs(10);
const ENDS_WITHIN: Duration = Duration::from_secs(25);

/// Receives until there are two, in the order of their offsets.
async fn receive_two(consumer: &Consumer) -> Result<Vec<Delivery>> {
    let mut received = Vec::new();
    eventually("both messages come", ENDS_WITHIN, async || {
        received.extend(consumer.receive(TOPIC, 2, LEASE, Duration::from_secs(5)).await.unwrap_or_default());
        received.len() == 2
    })
    .await?;
    received.sort_by_key(Delivery::place);
    Ok(received)
}

/// What a node tells of the message that was delivered.
async fn told(cluster: &Cluster, number: usize, of: &Delivery) -> Result<Vec<MessageEvent>> {
    let (_, queue, offset) = of.place();
    let request = ExplainMessageRequest {
        topic: TOPIC.to_owned(),
        queue: Some(u32::try_from(queue)?),
        offset: u64::try_from(offset)?,
        ..ExplainMessageRequest::default()
    };
    Ok(cluster.admin_client(number).await?.explain_message(request).await?.into_inner().events)
}

/// Events as `LEASED a 1`, in their order; each has a time and an entry, and neither goes back.
fn in_short(events: &[MessageEvent], clients: &[(&str, &str)]) -> Result<Vec<String>> {
    ensure!(
        events.is_sorted_by_key(|event| (event.log_index, event.at_ms)) && events.iter().all(|event| event.at_ms > 0),
        "{events:?}"
    );
    let short = |event: &MessageEvent| {
        let client = clients.iter().find(|(id, _)| *id == event.client_id).map_or("", |(_, name)| name);
        let words = [event.event.clone(), client.to_owned(), event.attempt.to_string()];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    };
    Ok(events.iter().map(short).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_tells_what_was_done_to_a_message() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 1).await?;
    cluster.activated(0, VERSION).await?;
    cluster.put_consumer_group(GROUP, false, Some(1)).await?;
    let consumer = || Consumer::new(&cluster.access(0), GROUP, TOPIC, "*", false);
    let (a, b) = (consumer()?, consumer()?);
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    for number in [1, 2] {
        let sent = producer.send(TOPIC, &message_id(number), None, "x".into()).await;
        ensure!(sent.is_ok(), "message {number} was not sent");
    }

    // One never acknowledges; the other one prolongs its lease of the first message, and keeps the second until it ends.
    let first = receive_two(&a).await?;
    let second = receive_two(&b).await?;
    let handle = b.change_invisible(&second[0], Duration::from_secs(40)).await?;
    let again = second[0].with_handle(handle);
    let handle = b.change_invisible(&again, Duration::from_secs(60)).await?;
    b.ack_handle(&again, &handle).await?;
    let leader = cluster.leader(0).await?;
    eventually("the second message is a dead letter", ENDS_WITHIN, async || {
        let events = told(&cluster, leader, &second[1]).await.unwrap_or_default();
        events.last().is_some_and(|event| event.event == "DEAD_LETTERED")
    })
    .await?;

    let clients = [(a.client().id(), "a"), (b.client().id(), "b")];
    let expected = [
        vec!["STORED 0", "LEASED a 1", "RAN_OUT 1", "LEASED b 2", "EXTENDED 2", "EXTENDED 2", "ACKNOWLEDGED 2"],
        vec!["STORED 0", "LEASED a 1", "RAN_OUT 1", "LEASED b 2", "RAN_OUT 2", "DEAD_LETTERED 2"],
    ];
    let mut histories = Vec::new();
    for (message, expected) in second.iter().zip(&expected) {
        let events = told(&cluster, leader, message).await?;
        ensure!(in_short(&events, &clients)? == *expected, "{events:?}");
        histories.push(events);
    }
    ensure!(first.iter().map(Delivery::place).eq(second.iter().map(Delivery::place)));
    all_tell(&cluster, &[0, 1, 2], &second, &histories).await?;

    cluster.kill(leader);
    let left: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;
    all_tell(&cluster, &left, &second, &histories).await?;
    shown_by_mqadmin(&cluster, b.client().id()).await?;

    // It reads its log again, and what it writes from it is the same.
    cluster.start_node(leader)?;
    cluster.has_all_so_far(0, LEADER_WITHIN).await?;
    all_tell(&cluster, &[leader], &second, &histories).await
}

async fn all_tell(
    cluster: &Cluster,
    nodes: &[usize],
    messages: &[Delivery],
    histories: &[Vec<MessageEvent>],
) -> Result<()> {
    for number in nodes {
        for (message, history) in messages.iter().zip(histories) {
            let events = told(cluster, *number, message).await?;
            ensure!(events == *history, "node {number}: {events:?} is not {history:?}");
        }
    }
    Ok(())
}

async fn shown_by_mqadmin(cluster: &Cluster, last_client: &str) -> Result<()> {
    let id = message_id(2);
    let output = cluster.mqadmin(&["explainMsg", "-t", TOPIC, "-i", &id]).await?;
    let text = String::from_utf8(output.stdout)?;
    for part in ["STORED in queue 0", "RAN_OUT", &format!("LEASED to {last_client}"), "DEAD_LETTERED", "(attempt 2)"] {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    let output = cluster.mqadmin(&["queryMsgTraceById", "-t", TOPIC, "-i", &id, "-o", "json"]).await?;
    let rows: Value = serde_json::from_slice(&output.stdout)?;
    let events = rows[0]["events"].as_array().with_context(|| format!("no events in {rows}"))?;
    ensure!(events.len() == 6 && events[3]["clientId"] == last_client, "{rows}");
    // Of one that never was, no node says that it was trimmed.
    let output = cluster.mqadmin(&["explainMsg", "-t", TOPIC, "--queueId", "0", "--offset", "7"]).await?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && text.contains("no broker group has a message"), "{text}");
    Ok(())
}
