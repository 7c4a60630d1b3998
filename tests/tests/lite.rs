//! Lite topics: what a client says that it receives is known to every node and to the next leader, messages of each come in
//! order, and what is refused says why. Real processes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use raftmq_proto::rocketmq::admin_client::AdminClient;
use raftmq_proto::rocketmq::receive_message_response::Content;
use raftmq_proto::rocketmq::settings::PubSub;
use raftmq_proto::rocketmq::telemetry_command::Command;
use raftmq_proto::rocketmq::{self as pb, LiteSubscriptionAction as Action};
use raftmq_tests::browser::Browser;
use raftmq_tests::client::{CALL_TIMEOUT, Producer, duration, eventually, filter, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::load::resource;
use raftmq_tests::oracle::message_id;
use raftmq_tests::session::Session;

const TOPIC: &str = "chats";
const GROUP: &str = "readers";
/// A message whose delivery or acknowledgement died with a node comes again after this.
const LEASE: Duration = Duration::from_secs(10);

async fn mqadmin(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    let output = cluster.mqadmin(arguments).await?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn cluster(exclusive: bool) -> Result<Cluster> {
    let mut cluster = Cluster::start(Options::default()).await?;
    let made = async || {
        let topic = ["updateTopic", "-c", "RaftCluster", "-t", TOPIC, "-a", "+message.type=LITE"];
        mqadmin(&cluster, &topic).await.is_ok()
    };
    eventually("mqadmin makes the topic", LEADER_WITHIN, made).await?;
    let model = if exclusive { "Exclusive" } else { "Shared" };
    let attributes = format!("+lite.bind.topic={TOPIC},+lite.sub.model={model},+lite.sub.client.quota=100");
    mqadmin(&cluster, &["updateSubGroup", "-c", "RaftCluster", "-g", GROUP, "--attributes", &attributes]).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    Ok(cluster)
}

async fn sync(session: &Session, group: &str, topic: &str, action: Action, names: &[String]) -> Result<pb::Code> {
    let request = session.request(pb::SyncLiteSubscriptionRequest {
        action: action.into(),
        topic: Some(resource(topic)),
        group: Some(resource(group)),
        lite_topic_set: names.to_vec(),
        version: None,
        offset_option: None,
    });
    let answer = session.stub().sync_lite_subscription(request).await?.into_inner();
    Ok(answer.status.context("an answer has a status")?.code())
}

/// Syncs until it is taken: for a while nobody leads.
async fn synced(session: &Session, action: Action, names: &[String]) -> Result<()> {
    let taken = async || matches!(sync(session, GROUP, TOPIC, action, names).await, Ok(pb::Code::Ok));
    eventually("what a client receives is taken", LEADER_WITHIN, taken).await
}

/// One receive: the code, and the messages.
async fn receive(
    session: &Session,
    group: &str,
    topic: &str,
    poll: Duration,
) -> Result<(pb::Code, Vec<pb::SystemProperties>)> {
    let mut request = session.request(pb::ReceiveMessageRequest {
        group: Some(resource(group)),
        message_queue: Some(pb::MessageQueue { topic: Some(resource(topic)), ..pb::MessageQueue::default() }),
        filter_expression: Some(filter("*")),
        batch_size: 32,
        invisible_duration: Some(duration(LEASE)),
        auto_renew: false,
        long_polling_timeout: Some(duration(poll)),
        attempt_id: None,
    });
    request.set_timeout(poll + CALL_TIMEOUT);
    let mut stream = session.stub().receive_message(request).await?.into_inner();
    let (mut code, mut messages) = (pb::Code::Unspecified, Vec::new());
    while let Some(part) = stream.message().await? {
        match part.content.context("a part says something")? {
            Content::Status(status) => code = status.code(),
            Content::Message(message) => messages.push(message.system_properties.context("always there")?),
            Content::DeliveryTimestamp(_) => {}
        }
    }
    Ok((code, messages))
}

async fn ack(session: &Session, system: &pb::SystemProperties) -> Result<pb::Code> {
    let request = session.request(pb::AckMessageRequest {
        group: Some(resource(GROUP)),
        topic: Some(resource(TOPIC)),
        entries: vec![pb::AckMessageEntry {
            message_id: system.message_id.clone(),
            receipt_handle: system.receipt_handle.clone().context("a delivered message has a handle")?,
            lite_topic: system.lite_topic.clone(),
        }],
    });
    Ok(session.stub().ack_message(request).await?.into_inner().status.context("always there")?.code())
}

fn lite(number: u64, lite_topic: &str) -> pb::Message {
    let mut message = message(TOPIC, &message_id(number), None, Bytes::from(number.to_string()));
    message.system_properties.get_or_insert_default().lite_topic = Some(lite_topic.to_owned());
    message
}

async fn send(producer: &Producer, message: pb::Message) -> Result<()> {
    let deadline = Instant::now() + LEADER_WITHIN;
    loop {
        match producer.send_messages(TOPIC, vec![message.clone()]).await {
            Ok(_) => return Ok(()),
            Err(failure) => ensure!(failure.last.may_pass() && Instant::now() < deadline, "{failure}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_lite_topic_comes_in_order_through_the_death_of_a_leader() -> Result<()> {
    const CHATS: u64 = 20;
    const EACH: u64 = 10;
    let mut cluster = cluster(false).await?;
    let leader = cluster.leader(0).await?;
    let node = (0..3).find(|node| *node != leader).context("three nodes")?;
    let access = cluster.access(0);
    let consumer = Session::lite_consumer(access[node], GROUP, TOPIC).await?;
    let Some(PubSub::Subscription(told)) = &consumer.settings.pub_sub else { bail!("settings are echoed") };
    ensure!((told.lite_subscription_quota, told.max_lite_topic_size) == (Some(100), Some(64)), "{told:?}");
    synced(&consumer, Action::CompleteAdd, &[]).await?;
    let names: Vec<String> = (0..CHATS).map(|number| format!("chat-{number}")).collect();
    synced(&consumer, Action::PartialAdd, &names).await?;

    // A poll that waits is woken by a message of a lite topic that its client receives.
    let producer = Producer::new(&access, &[TOPIC])?;
    let poll = receive(&consumer, GROUP, TOPIC, Duration::from_secs(20));
    let sent = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        send(&producer, lite(1_000_000, "nobody-reads-this")).await?;
        send(&producer, lite(1_000_001, "chat-0")).await
    };
    let asked = Instant::now();
    let (polled, sent) = tokio::join!(poll, sent);
    sent?;
    let (code, messages) = polled?;
    ensure!(code == pb::Code::Ok && messages.len() == 1, "{code:?} {messages:?}");
    ensure!(messages[0].lite_topic.as_deref() == Some("chat-0"), "{messages:?}");
    ensure!(asked.elapsed() < Duration::from_secs(10), "woken after {:?}", asked.elapsed());
    ensure!(ack(&consumer, &messages[0]).await? == pb::Code::Ok);

    let sending = async {
        for number in 0..EACH {
            for (chat, name) in (0..).zip(&names) {
                send(&producer, lite(chat * EACH + number, name)).await?;
            }
            if number == EACH / 2 {
                cluster.kill(leader);
            }
        }
        anyhow::Ok(())
    };
    let reading = async {
        let mut came: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let deadline = Instant::now() + Duration::from_secs(90);
        while came.values().map(Vec::len).sum::<usize>() < (CHATS * EACH) as usize {
            ensure!(Instant::now() < deadline, "came so far: {came:?}");
            let Ok((_, messages)) = receive(&consumer, GROUP, TOPIC, Duration::from_secs(5)).await else { continue };
            let mut at_once: Vec<_> = messages.iter().map(|system| system.lite_topic.clone()).collect();
            at_once.sort();
            at_once.dedup();
            ensure!(at_once.len() == messages.len(), "two of one lite topic at a time: {messages:?}");
            for system in &messages {
                let name = system.lite_topic.clone().context("a message of a lite topic says which")?;
                let ids = came.entry(name).or_default();
                // One whose acknowledgement was lost comes again.
                if ids.last() != Some(&system.message_id) {
                    ids.push(system.message_id.clone());
                }
            }
            for acked in futures::future::join_all(messages.iter().map(|system| ack(&consumer, system))).await {
                ensure!(!matches!(acked, Ok(pb::Code::InvalidReceiptHandle)), "a handle is not valid any more");
            }
        }
        Ok(came)
    };
    let (sent, came) = tokio::join!(sending, reading);
    sent?;
    let came = came?;
    for (chat, name) in (0..).zip(&names) {
        let expected: Vec<_> = (0..EACH).map(|number| message_id(chat * EACH + number)).collect();
        ensure!(came.get(name) == Some(&expected), "{name}: {:?}", came.get(name));
    }

    // The next leader knows what the client receives, and forgets it when the client ends.
    synced(&consumer, Action::CompleteAdd, &names[..1]).await?;
    send(&producer, lite(1_000_002, "chat-0")).await?;
    send(&producer, lite(1_000_003, "chat-1")).await?;
    let (_, messages) = receive(&consumer, GROUP, TOPIC, Duration::from_secs(5)).await?;
    let names: Vec<_> = messages.iter().map(|system| system.lite_topic.as_deref().unwrap_or_default()).collect();
    ensure!(names == ["chat-0"], "{names:?}");
    lag_is_told(&mut cluster, CHATS).await
}

/// One message is out and one waits, each in a lite topic of its own; what nobody subscribed to is nobody's.
async fn lag_is_told(cluster: &mut Cluster, lite_topics: u64) -> Result<()> {
    let output = cluster.mqadmin(&["consumerProgress", "-g", GROUP, "-o", "json"]).await?;
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!((&shown["diffTotal"], &shown["inflightTotal"]) == (&2.into(), &1.into()), "{shown}");
    let topic = &shown["queues"][0];
    ensure!((&topic["topic"], &topic["liteTopics"]) == (&TOPIC.into(), &lite_topics.into()), "{shown}");
    let leader = cluster.leader(0).await?;
    let mut asks = AdminClient::connect(format!("http://{}", cluster.nodes[leader].grpc)).await?;
    for topics in [Vec::new(), vec![resource(TOPIC)]] {
        let group = Some(resource(GROUP));
        let lite_topic = Some("chat-1".to_owned());
        let asked = pb::DescribeGroupAccumulationRequest { group, topics, lite_topic, ..Default::default() };
        let told = asks.describe_group_accumulation(asked).await?.into_inner();
        let all = told.accumulation.as_ref().context("a sum")?;
        ensure!((all.accumulation, all.inflight_messages, all.ready_messages) == (2, 1, 1), "{told:?}");
        ensure!(told.topic_accumulation.keys().eq([TOPIC]), "{told:?}");
        ensure!(told.lite_topic_accumulation["chat-1"].accumulation == 1, "{told:?}");
    }
    let metrics = Browser::new(cluster.nodes[leader].metrics).page("/metrics").await?.text;
    for (name, value) in [("lag", 2), ("inflight", 1), ("ready", 1)] {
        let name = format!("rocketmq_consumer_{name}_messages{{");
        let mut lines = metrics.lines().filter(|line| line.starts_with(&name) && line.contains(GROUP));
        let line = lines.next().with_context(|| format!("no {name} in {metrics}"))?;
        ensure!(line.contains(TOPIC) && line.ends_with(&format!(" {value}")) && lines.next().is_none(), "{line}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_lite_topic_changes_hands_and_what_is_wrong_is_told() -> Result<()> {
    let cluster = cluster(true).await?;
    mqadmin(&cluster, &["updateTopic", "-c", "RaftCluster", "-t", "plain"]).await?;
    mqadmin(&cluster, &["updateSubGroup", "-c", "RaftCluster", "-g", "others"]).await?;
    let access = cluster.access(0);
    let mut first = Session::lite_consumer(access[0], GROUP, TOPIC).await?;
    let second = Session::lite_consumer(access[1], GROUP, TOPIC).await?;
    let names = ["chat".to_owned()];
    synced(&first, Action::PartialAdd, &names).await?;
    synced(&second, Action::PartialAdd, &names).await?;
    match first.told(LEADER_WITHIN).await? {
        Some(Command::NotifyUnsubscribeLiteCommand(told)) if told.lite_topic == "chat" => {}
        other => bail!("the client that lost a lite topic is told {other:?}"),
    }
    let producer = Producer::new(&access, &[TOPIC])?;
    send(&producer, lite(1, "chat")).await?;
    let (code, messages) = receive(&first, GROUP, TOPIC, Duration::from_secs(5)).await?;
    ensure!(code == pb::Code::MessageNotFound && messages.is_empty(), "{code:?} {messages:?}");
    let (_, messages) = receive(&second, GROUP, TOPIC, Duration::from_secs(5)).await?;
    ensure!(messages.len() == 1, "{messages:?}");
    // It dies: its lease ends, and what it received is free.
    second.terminate().await?;
    synced(&first, Action::PartialAdd, &names).await?;
    let (_, messages) = receive(&first, GROUP, TOPIC, LEASE + Duration::from_secs(5)).await?;
    ensure!(messages.first().is_some_and(|system| system.delivery_attempt == Some(2)), "{messages:?}");

    let check = async |group: &str, topic: &str, names: &[&str], expected: pb::Code| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let code = sync(&first, group, topic, Action::PartialAdd, &names).await?;
        ensure!(code == expected, "{group} {topic} {names:?}: {code:?}");
        anyhow::Ok(())
    };
    check(GROUP, TOPIC, &["a b"], pb::Code::IllegalLiteTopic).await?;
    check(GROUP, TOPIC, &[&"a".repeat(65)], pb::Code::IllegalLiteTopic).await?;
    check(GROUP, "plain", &["a"], pb::Code::IllegalTopic).await?;
    check("others", TOPIC, &["a"], pb::Code::IllegalConsumerGroup).await?;
    check(GROUP, "unknown", &["a"], pb::Code::TopicNotFound).await?;
    let many: Vec<String> = (0..401).map(|number| number.to_string()).collect();
    let code = sync(&first, GROUP, TOPIC, Action::CompleteAdd, &many).await?;
    ensure!(code == pb::Code::LiteSubscriptionQuotaExceeded, "{code:?}");
    for (group, topic, expected) in
        [(GROUP, "plain", pb::Code::IllegalConsumerGroup), ("others", TOPIC, pb::Code::IllegalConsumerGroup)]
    {
        let (code, _) = receive(&first, group, topic, Duration::from_secs(5)).await?;
        ensure!(code == expected, "{group} {topic}: {code:?}");
    }
    let mut wrong = lite(2, "chat");
    wrong.system_properties.get_or_insert_default().lite_topic = None;
    let refused = producer.send_messages(TOPIC, vec![wrong]).await;
    let code = refused.err().and_then(|failure| failure.last.code());
    ensure!(code == Some(pb::Code::MessagePropertyConflictWithType), "{code:?}");
    Ok(())
}
