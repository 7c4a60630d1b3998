//! Readers that keep their own progress, and consumer groups that are moved while they consume. Real processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use raftmq_proto::rocketmq::messaging_service_client::MessagingServiceClient;
use raftmq_proto::rocketmq::{self as pb, pull_message_response::Content};
use raftmq_tests::client::{Consumer, Producer, duration};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::load::resource;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, metadata::MetadataValue};

const TOPIC: &str = "log";
const MESSAGES: usize = 60;

fn signed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(5));
    request.metadata_mut().insert("x-mq-client-id", MetadataValue::from_static("reader@1"));
    request
}

async fn stub(address: SocketAddr) -> Result<MessagingServiceClient<Channel>> {
    Ok(MessagingServiceClient::new(Endpoint::from_shared(format!("http://{address}"))?.connect().await?))
}

/// One pull: the code, the ids of the messages, and where to go on.
async fn pull(
    stub: &mut MessagingServiceClient<Channel>,
    queue: &pb::MessageQueue,
    offset: i64,
    wait: Duration,
) -> Result<(pb::Code, Vec<String>, i64)> {
    let request = pb::PullMessageRequest {
        group: Some(resource("readers")),
        message_queue: Some(queue.clone()),
        offset,
        batch_size: 7,
        filter_expression: None,
        long_polling_timeout: Some(duration(wait)),
    };
    let mut stream = stub.pull_message(signed(request)).await?.into_inner();
    let (mut code, mut ids, mut next) = (pb::Code::Unspecified, Vec::new(), offset);
    while let Some(part) = stream.message().await? {
        match part.content.context("a part says something")? {
            Content::Status(status) => code = status.code(),
            Content::Message(message) => {
                ids.push(message.system_properties.context("always there")?.message_id);
            }
            Content::NextOffset(offset) => next = offset,
        }
    }
    Ok((code, ids, next))
}

/// Reads every queue from `from` to its end over one node; the ids in order, and where each queue ends.
async fn read_all(
    address: SocketAddr,
    queues: &[pb::MessageQueue],
    from: &mut BTreeMap<i32, i64>,
) -> Result<Vec<String>> {
    let mut stub = stub(address).await?;
    let mut read = Vec::new();
    for queue in queues {
        let at = from.entry(queue.id).or_default();
        loop {
            let (code, ids, next) = pull(&mut stub, queue, *at, Duration::ZERO).await?;
            ensure!(next >= *at, "an offset goes back from {at} to {next}");
            ensure!(next - *at == ids.len() as i64, "{} messages, but the offset goes from {at} to {next}", ids.len());
            *at = next;
            if code == pb::Code::MessageNotFound {
                break;
            }
            ensure!(code == pb::Code::Ok, "a pull is answered with {code:?}");
            read.extend(ids);
        }
    }
    Ok(read)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_on_through_the_death_of_a_leader_and_groups_can_be_moved() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 2).await?;
    let access = cluster.access(0);
    let producer = Producer::new(&access, &[TOPIC])?;
    let mut sent = Vec::new();
    for number in 0..MESSAGES / 2 {
        sent.push(format!("m{number}"));
        producer.send(TOPIC, &sent[number], None, Bytes::from_static(b"body")).await?;
    }
    let route = producer.client().route(TOPIC).await?;
    let queues: Vec<_> = route.queues().cloned().collect();

    // Two readers, each of which reads everything, over different nodes, through the death of the leader.
    let leader = cluster.leader(0).await?;
    let (near, far) = (access[(leader + 1) % 3], access[(leader + 2) % 3]);
    let (mut first, mut second) = (BTreeMap::new(), BTreeMap::new());
    let mut read = read_all(access[leader], &queues, &mut first).await?;
    let mut read_too = read_all(near, &queues, &mut second).await?;
    // A reader that waits is woken by the next message.
    let waiting = {
        let (queue, at) = (queues[0].clone(), first[&queues[0].id]);
        let mut stub = stub(near).await?;
        tokio::spawn(async move { pull(&mut stub, &queue, at, Duration::from_secs(4)).await })
    };
    cluster.kill(leader);
    cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;
    for number in MESSAGES / 2..MESSAGES {
        sent.push(format!("m{number}"));
        producer.send(TOPIC, &sent[number], None, Bytes::from_static(b"body")).await?;
    }
    let (code, ids, _) = waiting.await??;
    ensure!(code == pb::Code::Ok && !ids.is_empty(), "a reader that waits is answered with {code:?}");
    let mut stub_of_far = stub(far).await?;
    for queue in &queues {
        let request = pb::QueryOffsetRequest {
            message_queue: Some(queue.clone()),
            query_offset_policy: pb::QueryOffsetPolicy::End.into(),
            timestamp: None,
        };
        stub_of_far.query_offset(signed(request)).await?;
    }
    read.extend(read_all(far, &queues, &mut first).await?);
    read_too.extend(read_all(far, &queues, &mut second).await?);
    for (reader, mut read) in [("first", read), ("second", read_too)] {
        ensure!(sent.iter().all(|id| read.contains(id)), "the {reader} reader misses messages: {read:?}");
        read.sort_unstable();
        read.dedup();
        ensure!(read.len() == MESSAGES, "the {reader} reader has {} messages", read.len());
    }

    // Offsets: stored here, read there, and the nearest for one that does not exist.
    let group = Some(resource("readers"));
    let end = first[&queues[0].id];
    let update = pb::UpdateOffsetRequest { group: group.clone(), message_queue: Some(queues[0].clone()), offset: end };
    let status = stub(near).await?.update_offset(signed(update)).await?.into_inner().status.context("a status")?;
    ensure!(status.code() == pb::Code::Ok, "{status:?}");
    let get = pb::GetOffsetRequest { group, message_queue: Some(queues[0].clone()) };
    let got = stub_of_far.get_offset(signed(get)).await?.into_inner();
    ensure!(got.offset == end, "{got:?}, not {end}");
    let beyond = pull(&mut stub_of_far, &queues[0], end + 5, Duration::ZERO).await?;
    ensure!(beyond == (pb::Code::IllegalOffset, Vec::new(), end), "{beyond:?}");

    // A consumer group that has consumed everything is moved to the beginning while it consumes.
    let consumer = Consumer::new(&access, "movers", TOPIC, "*", false)?;
    consume(&consumer, MESSAGES).await?;
    let moved = cluster.mqadmin(&["resetOffsetByTime", "-g", "movers", "-t", TOPIC, "-s", "0"]).await?;
    ensure!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    consume(&consumer, MESSAGES).await?;

    // One message is given up, and consumed as a dead letter.
    producer.send(TOPIC, "poison", None, Bytes::from_static(b"body")).await?;
    let delivery = received(&consumer, TOPIC).await?;
    let forward = pb::ForwardMessageToDeadLetterQueueRequest {
        group: Some(resource("movers")),
        topic: Some(resource(TOPIC)),
        receipt_handle: delivery.handle().to_owned(),
        message_id: delivery.message_id().to_owned(),
        ..Default::default()
    };
    let answer = stub_of_far.forward_message_to_dead_letter_queue(signed(forward)).await?.into_inner();
    ensure!(answer.status.as_ref().is_some_and(|status| status.code() == pb::Code::Ok), "{answer:?}");
    let undertaker = Consumer::new(&access, "undertakers", "%DLQ%movers", "*", false)?;
    let dead = received(&undertaker, "%DLQ%movers").await?;
    ensure!(dead.message_id() == "poison" && dead.attempt() == 1, "{dead:?}");
    undertaker.ack(&dead).await?;
    Ok(())
}

/// Receives and acknowledges so many messages, each for the first time.
async fn consume(consumer: &Consumer, messages: usize) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < messages {
        let deliveries = consumer.receive(TOPIC, 16, Duration::from_secs(30), Duration::from_secs(5)).await;
        for delivery in deliveries.unwrap_or_default() {
            ensure!(seen.insert(delivery.message_id().to_owned()), "{} comes twice", delivery.message_id());
            ensure!(delivery.attempt() == 1, "{} has attempt {}", delivery.message_id(), delivery.attempt());
            consumer.ack(&delivery).await?;
        }
    }
    Ok(())
}

/// The next message of a topic.
async fn received(consumer: &Consumer, topic: &str) -> Result<raftmq_tests::client::Delivery> {
    loop {
        let deliveries = consumer.receive(topic, 1, Duration::from_secs(30), Duration::from_secs(5)).await;
        if let Some(delivery) = deliveries.unwrap_or_default().pop() {
            return Ok(delivery);
        }
    }
}
