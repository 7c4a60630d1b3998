//! SQL92 filters against three real brokers: who gets what, over which node, while the leader dies; and what is refused.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use raftmq_proto::rocketmq::messaging_service_client::MessagingServiceClient;
use raftmq_proto::rocketmq::{self as pb, pull_message_response, receive_message_response};
use raftmq_tests::client::{Consumer, Producer, duration, filter, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::load::resource;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, metadata::MetadataValue};

const TOPIC: &str = "orders";
const MESSAGES: usize = 4_000;
/// One message in so many is wanted.
const SELECTIVE: usize = 100;
const WANTED: &str = "sql price BETWEEN 100 AND 200 AND (region IN ('eu', 'us') OR TAGS LIKE 'vip%') AND note IS NULL";
const INVISIBLE: Duration = Duration::from_secs(30);

/// Message number `number`: most of them fail the filter, in all the ways there are.
fn order(number: usize) -> pb::Message {
    let wanted = number.is_multiple_of(SELECTIVE);
    let tag = if wanted && number.is_multiple_of(2 * SELECTIVE) { "vip-1" } else { "plain" };
    let mut order = message(TOPIC, &format!("m{number}"), Some(tag), Bytes::from(number.to_string()));
    let mut put = |key: &str, value: &str| _ = order.user_properties.insert(key.to_owned(), value.to_owned());
    match (wanted, number % 5) {
        (true, _) => {
            put("price", "150.50");
            put("region", if tag == "plain" { "eu" } else { "asia" });
        }
        (_, 1) => put("price", "150"),
        (_, 2) => {
            put("price", "99.9");
            put("region", "eu");
        }
        (_, 3) => {
            put("price", "dear");
            put("region", "us");
        }
        (_, 4) => {
            put("price", "120");
            put("region", "us");
            put("note", "");
        }
        _ => {}
    }
    order
}

async fn send(producer: &Producer, numbers: std::ops::Range<usize>) -> Result<()> {
    let numbers: Vec<_> = numbers.collect();
    for numbers in numbers.chunks(50) {
        producer.send_messages(TOPIC, numbers.iter().map(|number| order(*number)).collect()).await?;
    }
    Ok(())
}

fn signed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(9));
    request.metadata_mut().insert("x-mq-client-id", MetadataValue::from_static("filterer@1"));
    request
}

async fn stub(address: SocketAddr) -> Result<MessagingServiceClient<Channel>> {
    Ok(MessagingServiceClient::new(Endpoint::from_shared(format!("http://{address}"))?.connect().await?))
}

/// What a receive with this filter is told before anything else.
async fn told(address: SocketAddr, expression: &str) -> Result<pb::Status> {
    let request = pb::ReceiveMessageRequest {
        group: Some(resource("refused")),
        message_queue: Some(pb::MessageQueue { topic: Some(resource(TOPIC)), ..Default::default() }),
        filter_expression: Some(filter(expression)),
        batch_size: 1,
        invisible_duration: Some(duration(INVISIBLE)),
        long_polling_timeout: Some(duration(Duration::from_secs(5))),
        ..Default::default()
    };
    let mut stream = stub(address).await?.receive_message(signed(request)).await?.into_inner();
    let first = stream.message().await?.and_then(|part| part.content);
    let Some(receive_message_response::Content::Status(status)) = first else { bail!("no status, but {first:?}") };
    Ok(status)
}

/// Takes messages until all of `expected` came, each once and for the first time; `on_each` hears of each.
async fn take(
    consumer: &Consumer,
    expected: &BTreeSet<String>,
    mut on_each: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let mut seen = BTreeSet::new();
    let deadline = Instant::now() + Duration::from_secs(90);
    while seen.len() < expected.len() {
        ensure!(Instant::now() < deadline, "{} of {} messages came", seen.len(), expected.len());
        // Failures are those of the node that was killed.
        let deliveries = consumer.receive(TOPIC, 8, INVISIBLE, Duration::from_secs(5)).await.unwrap_or_default();
        for delivery in deliveries {
            let id = delivery.message_id().to_owned();
            ensure!(expected.contains(&id), "{id} does not match");
            ensure!(seen.insert(id) && delivery.attempt() == 1, "{} comes twice", delivery.message_id());
            on_each(seen.len())?;
            consumer.ack(&delivery).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expressions_choose_on_the_server_through_the_death_of_a_leader() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let access = cluster.access(0);
    let producer = Producer::new(&access, &[TOPIC])?;

    // A bad expression is refused with its place; over a follower, too.
    let leader = cluster.leader(0).await?;
    for number in [leader, (leader + 1) % 3] {
        for (expression, place) in [
            ("sql price > ", "line 1, column 9"),
            ("sql price = 1 AND\n  region > 'eu'", "line 2, column 12"),
            ("sql ", "line 1, column 1"),
        ] {
            let status = told(access[number], expression).await?;
            ensure!(status.code() == pb::Code::IllegalFilterExpression, "{expression}: {status:?}");
            ensure!(status.message.contains(place), "{expression}: {status:?}");
        }
        let long = format!("sql a = '{}'", "x".repeat(20_000));
        let status = told(access[number], &long).await?;
        ensure!(status.code() == pb::Code::IllegalFilterExpression, "{status:?}");
        ensure!(status.message.contains("16384") && status.message.contains("filterExpressionBytesMax"), "{status:?}");
    }

    let expected: BTreeSet<String> = (0..MESSAGES).step_by(SELECTIVE).map(|number| format!("m{number}")).collect();
    send(&producer, 0..MESSAGES).await?;

    // Consumers at all nodes, while the leader dies.
    let consumer = Consumer::new(&access, "choosers", TOPIC, WANTED, false)?;
    take(&consumer, &expected, |seen| {
        if seen == expected.len() / 3 {
            cluster.kill(leader);
        }
        Ok(())
    })
    .await?;
    let new = cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;

    // What waits is woken by the first message that matches, and not before.
    let near = [access[new]];
    let waiting = {
        let consumer = Consumer::new(&near, "choosers", TOPIC, WANTED, false)?;
        tokio::spawn(async move {
            loop {
                let got = consumer.receive(TOPIC, 8, INVISIBLE, Duration::from_secs(8)).await?;
                if let Some(delivery) = got.first() {
                    consumer.ack(delivery).await?;
                    return anyhow::Ok((got.len(), delivery.message_id().to_owned(), Instant::now()));
                }
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    send(&producer, MESSAGES + 1..MESSAGES + 20).await?;
    ensure!(!waiting.is_finished(), "nothing that was sent matches");
    let sent = Instant::now();
    send(&producer, MESSAGES + SELECTIVE..MESSAGES + SELECTIVE + 1).await?;
    let (count, id, at) = waiting.await??;
    ensure!(count == 1 && id == format!("m{}", MESSAGES + SELECTIVE), "{count} messages, {id}");
    ensure!(at - sent < Duration::from_secs(3), "woken after {:?}", at - sent);

    // Nothing is left over: what does not match is finished for the consumer group.
    let progress = ["consumerProgress", "-g", "choosers", "-t", TOPIC];
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let shown = String::from_utf8(cluster.mqadmin(&progress).await?.stdout)?;
        if shown.contains("Consume Diff Total: 0") {
            break;
        }
        ensure!(Instant::now() < deadline, "{shown}");
        consumer.receive(TOPIC, 1, INVISIBLE, Duration::from_secs(5)).await.ok();
    }

    // A member with another filter is told of, and gets its own.
    let other = Consumer::new(&near, "choosers", TOPIC, "sql price = 99.9", false)?;
    other.receive(TOPIC, 1, INVISIBLE, Duration::from_secs(5)).await?;
    let shown = String::from_utf8(cluster.mqadmin(&progress).await?.stdout)?;
    ensure!(shown.contains(&format!("Members filter topic {TOPIC} in 2 ways")), "{shown}");
    ensure!(cluster.log(new).contains("members of a consumer group filter a topic differently"), "nothing is logged");
    send(&producer, MESSAGES + SELECTIVE + 2..MESSAGES + SELECTIVE + 3).await?;
    let got = other.receive(TOPIC, 8, INVISIBLE, Duration::from_secs(8)).await?;
    ensure!(got.len() == 1 && got[0].message_id() == format!("m{}", MESSAGES + SELECTIVE + 2), "{got:?}");
    other.ack(&got[0]).await?;
    Ok(())
}

/// A reader of its own progress sees what matches, and goes past what does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_filter_by_expression() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 1).await?;
    let access = cluster.access(0);
    let producer = Producer::new(&access, &[TOPIC])?;
    send(&producer, 0..2 * SELECTIVE + 5).await?;
    let route = producer.client().route(TOPIC).await?;
    let queue = route.queues().next().context("a queue")?.clone();
    let mut stub = stub(access[(cluster.leader(0).await? + 1) % 3]).await?;
    let (mut ids, mut offset) = (Vec::new(), 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    while offset < 2 * SELECTIVE as i64 + 5 {
        ensure!(Instant::now() < deadline, "the reader stands at {offset}");
        let request = pb::PullMessageRequest {
            group: Some(resource("readers")),
            message_queue: Some(queue.clone()),
            offset,
            batch_size: 2,
            filter_expression: Some(filter(WANTED)),
            long_polling_timeout: None,
        };
        let mut stream = stub.pull_message(signed(request)).await?.into_inner();
        while let Some(part) = stream.message().await? {
            match part.content.context("a part says something")? {
                pull_message_response::Content::Status(status) => {
                    let code = status.code();
                    ensure!(matches!(code, pb::Code::Ok | pb::Code::MessageNotFound), "{status:?}");
                }
                pull_message_response::Content::Message(message) => {
                    ids.push(message.system_properties.context("always there")?.message_id);
                }
                pull_message_response::Content::NextOffset(next) => offset = next,
            }
        }
    }
    ensure!(ids == ["m0", &format!("m{SELECTIVE}"), &format!("m{}", 2 * SELECTIVE)], "{ids:?}");
    Ok(())
}
