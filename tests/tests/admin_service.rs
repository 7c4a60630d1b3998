//! The public Admin service: what administrators see of topics, consumer groups, messages and clients, and what clients
//! answer when they are told something through a node that does not hold their stream. Real processes.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use raftmq_proto::rocketmq::{self as pb, admin_client::AdminClient, telemetry_command::Command};
use raftmq_proto::signature::Credentials;
use raftmq_tests::client::{Consumer, Producer, eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::load::resource;
use raftmq_tests::oracle::message_id;
use raftmq_tests::session::Session;
use tonic::transport::{Channel, Endpoint};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
const SOON: Duration = Duration::from_secs(5);

async fn admin(node: SocketAddr) -> Result<AdminClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{node}"))?.timeout(Duration::from_secs(10));
    Ok(AdminClient::new(endpoint.connect().await?))
}

fn code(status: Option<pb::Status>) -> pb::Code {
    status.map_or(pb::Code::Unspecified, |status| status.code())
}

fn ok(status: &Option<pb::Status>) -> Result<()> {
    ensure!(code(status.clone()) == pb::Code::Ok, "{status:?}");
    Ok(())
}

/// The leader and another node.
async fn roles(cluster: &mut Cluster) -> Result<(usize, usize)> {
    let leader = cluster.leader(0).await?;
    Ok((leader, (leader + 1) % 3))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_and_answer_through_any_node() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let (leader, near) = roles(&mut cluster).await?;
    let far = (leader + 2) % 3;
    let mut consumer = Session::consumer(cluster.nodes[near].grpc, GROUP, TOPIC).await?;
    let mut asks = admin(cluster.nodes[far].grpc).await?;
    let ask =
        |client_id: &str| pb::PrintThreadStackTraceRequest { client_id: client_id.to_owned(), ..Default::default() };

    // It answers what it was asked; what it says to other questions is no answer.
    let id = consumer.client_id.clone();
    let answering = async {
        let Some(Command::PrintThreadStackTraceCommand(asked)) = consumer.told(SOON).await? else {
            anyhow::bail!("not asked");
        };
        let trace = |nonce: &str, text: &str| {
            let thread_stack_trace = Some(text.to_owned());
            Command::ThreadStackTrace(pb::ThreadStackTrace { nonce: nonce.to_owned(), thread_stack_trace })
        };
        consumer.say(pb::Code::Ok, trace("another question", "wrong")).await?;
        consumer.say(pb::Code::Ok, trace(&asked.nonce, "main: waits")).await
    };
    let (answer, answered) = tokio::join!(asks.print_thread_stack_trace(ask(&id)), answering);
    answered?;
    let answer = answer?.into_inner();
    ok(&answer.status)?;
    ensure!(answer.thread_stack_trace.as_deref() == Some("main: waits"), "{answer:?}");

    // One that says nothing, and one that nobody knows.
    let silent = asks.print_thread_stack_trace(ask(&id)).await?.into_inner();
    ensure!(code(silent.status.clone()) == pb::Code::ProxyTimeout, "{silent:?}");
    ensure!(matches!(consumer.told(SOON).await?, Some(Command::PrintThreadStackTraceCommand(_))));
    let unknown = asks.print_thread_stack_trace(ask("nobody")).await?.into_inner();
    ensure!(code(unknown.status.clone()) == pb::Code::NotFound, "{unknown:?}");

    // A consumer processes a message, and what it says of it comes back.
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    producer.send(TOPIC, &message_id(1), Some("paid"), "body".into()).await?;
    let verify = |message_id: String| pb::VerifyMessageRequest {
        client_id: id.clone(),
        group: Some(resource(GROUP)),
        topic: Some(resource(TOPIC)),
        message_id,
        ..Default::default()
    };
    let answering = async {
        let Some(Command::VerifyMessageCommand(asked)) = consumer.told(SOON).await? else {
            anyhow::bail!("no message to process");
        };
        let shown = asked.message.context("a message")?;
        let system = shown.system_properties.context("system properties")?;
        ensure!(shown.body == "body" && system.message_id == message_id(1) && system.queue_offset == Some(0));
        let said = Command::VerifyMessageResult(pb::VerifyMessageResult { nonce: asked.nonce });
        consumer.say(pb::Code::FailedToConsumeMessage, said).await
    };
    let (answer, answered) = tokio::join!(asks.verify_message(verify(message_id(1))), answering);
    answered?;
    let answer = answer?.into_inner();
    ensure!(code(answer.status.clone()) == pb::Code::FailedToConsumeMessage, "{answer:?}");
    let missing = asks.verify_message(verify("no such id".to_owned())).await?.into_inner();
    ensure!(code(missing.status.clone()) == pb::Code::MessageNotFound, "{missing:?}");

    let running =
        pb::GetConsumerRunningInfoRequest { group: Some(resource(GROUP)), client_id: id.clone(), ..Default::default() };
    let running = asks.get_consumer_running_info(running).await?.into_inner();
    ok(&running.status)?;
    let known = running.consumer_running_info.context("what is known of a consumer")?;
    ensure!(known.properties.get("PROP_CLIENT_ID") == Some(&id), "{known:?}");
    ensure!(known.subscriptions.contains_key(TOPIC), "{known:?}");

    // Who is connected, seen from a node that nobody is connected to.
    let clients = asks
        .list_consumer_connection(pb::ListConsumerConnectionRequest {
            group: Some(resource(GROUP)),
            topic: Some(resource(TOPIC)),
            ..Default::default()
        })
        .await?
        .into_inner();
    ok(&clients.status)?;
    let [client] = clients.client_info.as_slice() else { anyhow::bail!("one client: {clients:?}") };
    ensure!((client.client_id.as_str(), client.language.as_str()) == (id.as_str(), "GO"), "{client:?}");
    ensure!(client.egress_ip.starts_with("127.0.0.1:") && client.version == "5.1.2", "{client:?}");
    let listed = asks.list_subscription(pb::ListSubscriptionRequest::default()).await?.into_inner();
    ok(&listed.status)?;
    let [subscription] = listed.subscription_info.as_slice() else { anyhow::bail!("one share: {listed:?}") };
    ensure!(subscription.online && subscription.subscription_consistency, "{subscription:?}");
    ensure!(subscription.expression.as_ref().is_some_and(|expression| expression.expression == "*"));
    let described = pb::DescribeSubscriptionRequest { group: Some(resource(GROUP)), ..Default::default() };
    let described = asks.describe_subscription(described).await?.into_inner();
    ensure!(described.client_subscription_info.len() == 1, "{described:?}");

    // A client that is gone is not connected, and cannot be told anything.
    drop(consumer);
    let gone = async || {
        let request = pb::ListConsumerConnectionRequest { group: Some(resource(GROUP)), ..Default::default() };
        let answer = asks.clone().list_consumer_connection(request).await;
        answer.is_ok_and(|answer| answer.into_inner().client_info.is_empty())
    };
    eventually("it is not listed any more", SOON, gone).await?;
    let gone = asks.print_thread_stack_trace(ask(&id)).await?.into_inner();
    ensure!(code(gone.status.clone()) == pb::Code::NotFound, "{gone:?}");
    Ok(())
}

fn query(search: Option<pb::list_message_request::SearchKey>) -> pb::ListMessageRequest {
    pb::ListMessageRequest { topic: Some(resource(TOPIC)), search_key: search, ..Default::default() }
}

/// Ids of all that a query finds, in as many answers as it takes.
async fn found(asks: &mut AdminClient<Channel>, mut query: pb::ListMessageRequest) -> Result<(Vec<String>, usize)> {
    let (mut ids, mut answers) = (Vec::new(), 0);
    loop {
        let answer = asks.query_message(query.clone()).await?.into_inner();
        ok(&answer.status)?;
        answers += 1;
        let id = |message: &pb::Message| message.system_properties.as_ref().map(|system| system.message_id.clone());
        ids.extend(answer.messages.iter().filter_map(id));
        if answer.scroll_id.is_empty() {
            ids.sort();
            return Ok((ids, answers));
        }
        query.scroll_id = Some(answer.scroll_id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_found_by_id_by_key_and_by_time() -> Result<()> {
    use pb::list_message_request::SearchKey;
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let (_, near) = roles(&mut cluster).await?;
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    let send = async |numbers: std::ops::Range<u64>| -> Result<()> {
        for number in numbers {
            let mut message = message(TOPIC, &message_id(number), None, format!("body {number}").into());
            let system = message.system_properties.get_or_insert_default();
            system.keys = vec![format!("order-{}", number % 10), format!("customer-{number}")];
            producer.send_messages(TOPIC, vec![message]).await?;
        }
        Ok(())
    };
    send(0..50).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let middle = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    send(50..100).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let mut asks = admin(cluster.nodes[near].grpc).await?;
    let ids = |numbers: &mut dyn Iterator<Item = u64>| {
        let mut ids: Vec<_> = numbers.map(message_id).collect();
        ids.sort();
        ids
    };

    let (by_id, _) = found(&mut asks, query(Some(SearchKey::MessageId(message_id(42))))).await?;
    ensure!(by_id == [message_id(42)], "{by_id:?}");
    let (by_key, _) = found(&mut asks, query(Some(SearchKey::MessageKey("order-7".to_owned())))).await?;
    ensure!(by_key == ids(&mut (0..100).filter(|number| number % 10 == 7)), "{by_key:?}");
    let unknown = asks.query_message(query(Some(SearchKey::MessageKey("customer".to_owned())))).await?.into_inner();
    ensure!(code(unknown.status.clone()) == pb::Code::MessageNotFound, "{unknown:?}");

    // By time, in pieces that each say where to go on.
    let before = pb::ListMessageRequest { end_timestamp: Some(middle.into()), max_message_nums: 7, ..query(None) };
    let (early, answers) = found(&mut asks, before).await?;
    ensure!(early == ids(&mut (0..50)) && answers >= 8, "{answers} answers: {early:?}");
    let after = pb::ListMessageRequest { begin_timestamp: Some(middle.into()), ..query(None) };
    let (late, _) = found(&mut asks, after.clone()).await?;
    ensure!(late == ids(&mut (50..100)), "{late:?}");
    let mut of_one_queue = 0;
    for queue in 0..4 {
        of_one_queue +=
            found(&mut asks, pb::ListMessageRequest { queue_id: Some(queue), ..query(None) }).await?.0.len();
    }
    ensure!(of_one_queue == 100, "{of_one_queue}");
    let wrong = pb::ListMessageRequest { scroll_id: Some("x".to_owned()), ..query(None) };
    let wrong = asks.query_message(wrong).await?.into_inner();
    ensure!(code(wrong.status.clone()) == pb::Code::BadRequest, "{wrong:?}");
    let elsewhere = pb::ListMessageRequest { topic: Some(resource("nowhere")), ..query(None) };
    let elsewhere = asks.query_message(elsewhere).await?.into_inner();
    ensure!(code(elsewhere.status.clone()) == pb::Code::TopicNotFound, "{elsewhere:?}");
    Ok(())
}

/// By what a consumer would subscribe with: tags, or SQL92 over properties.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_found_by_a_subscription() -> Result<()> {
    use pb::list_message_request::SearchKey;
    const MESSAGES: u64 = 600;
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let (_, near) = roles(&mut cluster).await?;
    let mut asks = admin(cluster.nodes[near].grpc).await?;
    let by = |text: &str| query(Some(SearchKey::Subscription(text.to_owned())));
    let none = asks.query_message(by("price = 1")).await?.into_inner();
    ensure!(code(none.status.clone()) == pb::Code::MessageNotFound, "{none:?}");

    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    let order = |number: u64| {
        let tag = ["vip", "plain", "late-1"][usize::try_from(number % 3).unwrap_or_default()];
        let mut order = message(TOPIC, &message_id(number), (!number.is_multiple_of(4)).then_some(tag), "body".into());
        order.user_properties.insert("price".to_owned(), number.to_string());
        order
    };
    for numbers in (0..MESSAGES).collect::<Vec<_>>().chunks(16) {
        producer.send_messages(TOPIC, numbers.iter().map(|number| order(*number)).collect()).await?;
    }
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let tagged = |number: u64, tag: u64| !number.is_multiple_of(4) && number % 3 == tag;
    let ids = |wanted: &dyn Fn(u64) -> bool| {
        let mut ids: Vec<_> = (0..MESSAGES).filter(|number| wanted(*number)).map(message_id).collect();
        ids.sort();
        ids
    };
    for (text, expected) in [
        ("*", ids(&|_| true)),
        ("vip", ids(&|number| tagged(number, 0))),
        ("vip || late-1", ids(&|number| tagged(number, 0) || tagged(number, 2))),
        ("price BETWEEN 100 AND 199", ids(&|number| (100..200).contains(&number))),
        ("TAGS = 'plain' AND price >= 300", ids(&|number| tagged(number, 1) && number >= 300)),
        ("TAGS IS NULL", ids(&|number| number.is_multiple_of(4))),
    ] {
        // In pieces: each goes on where the one before stopped, and all of them together find each message once.
        let pieces = pb::ListMessageRequest { max_message_nums: 7, ..by(text) };
        let (ids, answers) = found(&mut asks, pieces).await?;
        ensure!(ids == expected && answers >= expected.len() / 7, "{text}: {answers} answers with {ids:?}");
    }
    let nobodys = asks.query_message(by("price > 600")).await?.into_inner();
    ensure!(code(nobodys.status.clone()) == pb::Code::MessageNotFound, "{nobodys:?}");
    for (wrong, place) in [("price >", "at line 1, column 8"), ("price = 1 AND\n(note = 2", "at line 2, column 10")] {
        let refused = asks.query_message(by(wrong)).await?.into_inner();
        let status = refused.status.context("a status")?;
        ensure!(status.code() == pb::Code::IllegalFilterExpression && status.message.contains(place), "{status:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_topics_and_groups_are_and_where_groups_stand() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let (_, near) = roles(&mut cluster).await?;
    let mut asks = admin(cluster.nodes[near].grpc).await?;

    let sent = asks
        .admin_send_message(pb::AdminSendMessageRequest {
            topic: Some(resource(TOPIC)),
            key: Some("by-hand".to_owned()),
            body: "hello".into(),
            ..Default::default()
        })
        .await?
        .into_inner();
    ok(&sent.status)?;
    let by_key = query(Some(pb::list_message_request::SearchKey::MessageKey("by-hand".to_owned())));
    ensure!(found(&mut asks, by_key).await?.0 == [sent.message_id.clone()], "{sent:?}");

    let topic = pb::DescribeTopicStatusRequest { topic: Some(resource(TOPIC)), ..Default::default() };
    let topic = asks.describe_topic_status(topic).await?.into_inner();
    ok(&topic.status)?;
    ensure!(topic.create_timestamp.is_some() && topic.tags.get("write.queues").is_some_and(|queues| queues == "4"));

    // Nine more messages: the group takes some and finishes part of them.
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    for number in 1..10 {
        producer.send(TOPIC, &message_id(number), None, "body".into()).await?;
    }
    let accumulated = pb::DescribeGroupAccumulationRequest { group: Some(resource(GROUP)), ..Default::default() };
    let none = asks.describe_group_accumulation(accumulated.clone()).await?.into_inner();
    ensure!(code(none.status.clone()) == pb::Code::ConsumerGroupNotFound, "{none:?}");
    let consumer = Consumer::new(&cluster.access(0), GROUP, TOPIC, "*", false)?;
    let mut taken = Vec::new();
    while taken.len() < 6 {
        taken.extend(consumer.receive(TOPIC, 2, Duration::from_secs(60), SOON).await?);
    }
    for delivery in &taken[..4] {
        consumer.ack(delivery).await?;
    }
    let counted = asks.describe_group_accumulation(accumulated.clone()).await?.into_inner();
    ok(&counted.status)?;
    let total = counted.accumulation.context("a sum")?;
    let (in_flight, ready) = (taken.len() as i64 - 4, 10 - taken.len() as i64);
    ensure!((total.inflight_messages, total.ready_messages) == (in_flight, ready), "{total:?}");
    ensure!(total.accumulation == in_flight + ready && total.last_consume_timestamp > 0, "{total:?}");
    ensure!(counted.topic_accumulation.keys().eq([TOPIC]), "{:?}", counted.topic_accumulation);
    let span =
        pb::QueryTimeSpanRequest { group: Some(resource(GROUP)), topics: vec![resource(TOPIC)], ..Default::default() };
    let span = asks.query_time_span(span).await?.into_inner();
    ok(&span.status)?;
    ensure!(span.queue_time_span_list.len() == 4, "{span:?}");
    let whole = |span: &pb::query_time_span_response::QueueTimeSpan| {
        span.min_timestamp > 0 && span.min_timestamp <= span.max_timestamp
    };
    ensure!(span.queue_time_span_list.iter().filter(|span| whole(span)).count() >= 3, "{span:?}");

    // All comes again after a reset to before it.
    let reset = pb::ResetGroupOffsetRequest {
        group: Some(resource(GROUP)),
        topic: Some(resource(TOPIC)),
        reset_timestamp: Some((SystemTime::now() - Duration::from_secs(3600)).into()),
        ..Default::default()
    };
    ok(&asks.reset_group_offset(reset.clone()).await?.into_inner().status)?;
    let moved = asks.describe_group_accumulation(accumulated).await?.into_inner();
    ensure!(moved.accumulation.as_ref().is_some_and(|sum| sum.ready_messages == 10), "{moved:?}");
    let mut again = 0;
    while again < 10 {
        for delivery in consumer.receive(TOPIC, 10, Duration::from_secs(60), SOON).await? {
            consumer.ack(&delivery).await?;
            again += 1;
        }
    }
    let nowhere = pb::ResetGroupOffsetRequest { topic: Some(resource("nowhere")), ..reset };
    let nowhere = asks.reset_group_offset(nowhere).await?.into_inner();
    ensure!(code(nowhere.status.clone()) == pb::Code::TopicNotFound, "{nowhere:?}");

    let figures = asks.get_proxy_runtime_stats(pb::GetProxyRuntimeStatsRequest {}).await?.into_inner();
    ok(&figures.status)?;
    ensure!(figures.proxy_name == cluster.nodes[near].label && !figures.version.is_empty(), "{figures:?}");
    let level = pb::change_log_level_request::Level::Debug.into();
    let remark = asks.change_log_level(pb::ChangeLogLevelRequest { level }).await?.into_inner().remark;
    ensure!(remark.contains("debug"), "{remark}");
    let _ = asks.query_message(pb::ListMessageRequest::default()).await?;
    let noisy = async || cluster.log(near).contains(" DEBUG ");
    eventually("it logs more", SOON, noisy).await?;
    let route = pb::GetTopicRouteRequest { topic: Some(resource(TOPIC)), ..Default::default() };
    let route = asks.get_topic_route(route).await?.into_inner();
    ok(&route.status)?;
    let route: serde_json::Value = serde_json::from_str(&route.topic_route_data)?;
    let addresses = route["brokerDatas"][0]["brokerAddrs"].as_object().map_or(0, serde_json::Map::len);
    ensure!(route["queueDatas"][0]["brokerName"] == "RaftNode00" && addresses == 3, "{route}");

    // A share of a topic is deleted once nobody subscribes to it, and then begins anew.
    let delete = |group: &str| pb::DeleteSubscriptionRequest {
        topic: Some(resource(TOPIC)),
        group: Some(resource(group)),
        ..Default::default()
    };
    let refused = asks.delete_subscription(delete(GROUP)).await?.into_inner();
    ensure!(code(refused.status.clone()) == pb::Code::PreconditionFailed, "{refused:?}");
    let unknown = asks.delete_subscription(delete("unknown")).await?.into_inner();
    ensure!(code(unknown.status.clone()) == pb::Code::ConsumerGroupNotFound, "{unknown:?}");
    // What was with a client when the consumer group was reset still is.
    for delivery in &taken[4..] {
        consumer.ack(delivery).await?;
    }
    consumer.client().terminate().await;
    ok(&asks.delete_subscription(delete(GROUP)).await?.into_inner().status)?;
    let accumulated = pb::DescribeGroupAccumulationRequest {
        group: Some(resource(GROUP)),
        topics: vec![resource(TOPIC)],
        ..Default::default()
    };
    let anew = asks.describe_group_accumulation(accumulated).await?.into_inner();
    ensure!(anew.accumulation.as_ref().is_some_and(|sum| sum.ready_messages == 10), "{anew:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_administers_without_being_an_administrator() -> Result<()> {
    let root = Credentials { access_key: "root".to_owned(), secret_key: "s3cret-of-root".to_owned() };
    let mut cluster = Cluster::start(Options { administrator: Some(root.clone()), ..Options::default() }).await?;
    let (_, near) = roles(&mut cluster).await?;
    let alice = Credentials { access_key: "alice".to_owned(), secret_key: "s3cret-of-alice".to_owned() };
    let made = async || {
        let arguments = ["createUser", "-c", "RaftCluster", "-u", "alice", "-p", &alice.secret_key];
        cluster.mqadmin(&arguments).await.is_ok_and(|output| output.status.success())
    };
    eventually("mqadmin makes a user", LEADER_WITHIN, made).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let mut asks = admin(cluster.nodes[near].grpc).await?;
    let mut ask = async |keys: Option<&Credentials>| -> Result<pb::Code> {
        let mut request = tonic::Request::new(pb::GetProxyRuntimeStatsRequest {});
        if let Some(keys) = keys {
            keys.sign(request.metadata_mut(), 1_700_000_000_000)?;
        }
        Ok(code(asks.get_proxy_runtime_stats(request).await?.into_inner().status))
    };
    ensure!(ask(None).await? == pb::Code::Unauthorized);
    ensure!(ask(Some(&alice)).await? == pb::Code::Forbidden);
    ensure!(
        ask(Some(&Credentials { secret_key: "wrong".to_owned(), ..root.clone() })).await? == pb::Code::Unauthorized
    );
    ensure!(ask(Some(&root)).await? == pb::Code::Ok);
    Ok(())
}
