//! The codes that clients of the public API tell their mistakes by, one by one over the wire, and what a topic takes that
//! is made on its first use.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use raftmq_proto::rocketmq::receive_message_response::Content;
use raftmq_proto::rocketmq::{self as pb, messaging_service_client::MessagingServiceClient};
use raftmq_tests::client::{CALL_TIMEOUT, Consumer, Producer, duration, filter, message};
use raftmq_tests::cluster::{Cluster, Options};
use raftmq_tests::load::resource;
use raftmq_tests::session::Session;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// The topic of all requests here; it takes NORMAL messages.
const TOPIC: &str = "fine";

const ID: (&str, &str) = ("x-mq-client-id", "codes");
const VERSION: (&str, &str) = ("x-mq-client-version", "5.1.2");

type Stub = MessagingServiceClient<Channel>;

async fn stub(node: SocketAddr) -> Result<Stub> {
    Ok(MessagingServiceClient::new(Endpoint::from_shared(format!("http://{node}"))?.connect().await?))
}

fn request<T>(message: T, headers: &[(&'static str, &'static str)], limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    for (name, value) in headers {
        request.metadata_mut().insert(*name, tonic::metadata::MetadataValue::from_static(value));
    }
    request
}

fn code(status: Option<pb::Status>) -> pb::Code {
    status.and_then(|status| pb::Code::try_from(status.code).ok()).unwrap_or_default()
}

fn system(message: &mut pb::Message) -> &mut pb::SystemProperties {
    message.system_properties.get_or_insert_default()
}

fn property(message: &mut pb::Message, key: &str, value: &str) {
    message.user_properties.insert(key.to_owned(), value.to_owned());
}

fn properties(message: &mut pb::Message, count: usize) {
    (0..count).for_each(|number| property(message, &format!("key-{number}"), "value"));
}

fn topic(message: &mut pb::Message, name: &str) {
    message.topic = Some(resource(name));
}

/// A change of a good message.
type Change = fn(&mut pb::Message);

/// What is done to a good message, and what it is answered with.
const SENDS: &[(&str, Change, pb::Code)] = &[
    ("nothing", |_| (), pb::Code::Ok),
    ("a blank key", |m| system(m).keys = vec!["  ".into()], pb::Code::IllegalMessageKey),
    (
        "a control character in a key",
        |m| system(m).keys = vec!["a".into(), "b\u{7}".into()],
        pb::Code::IllegalMessageKey,
    ),
    ("an empty key", |m| system(m).keys = vec![String::new()], pb::Code::Ok),
    ("a reserved property", |m| property(m, "TAGS", "a"), pb::Code::IllegalMessagePropertyKey),
    ("a control character in a property's key", |m| property(m, "a\u{1}", "b"), pb::Code::IllegalMessagePropertyKey),
    ("a control character in a property's value", |m| property(m, "a", "b\u{2}"), pb::Code::IllegalMessagePropertyKey),
    ("as many properties as allowed", |m| properties(m, 128), pb::Code::Ok),
    ("a property more", |m| properties(m, 129), pb::Code::MessagePropertiesTooLarge),
    ("as many bytes of properties as allowed", |m| property(m, "key", &"v".repeat(16_381)), pb::Code::Ok),
    ("a byte more", |m| property(m, "key", &"v".repeat(16_382)), pb::Code::MessagePropertiesTooLarge),
    (
        "a byte more with tag and keys",
        |m| {
            property(m, "key", &"v".repeat(16_379));
            system(m).tag = Some("t".into());
            system(m).keys = vec!["kk".into()];
        },
        pb::Code::MessagePropertiesTooLarge,
    ),
    ("a blank tag", |m| system(m).tag = Some(" ".into()), pb::Code::IllegalMessageTag),
    ("a control character in a tag", |m| system(m).tag = Some("a\n".into()), pb::Code::IllegalMessageTag),
    ("a blank id", |m| system(m).message_id = " ".into(), pb::Code::IllegalMessageId),
    ("a blank message group", |m| system(m).message_group = Some("  ".into()), pb::Code::IllegalMessageGroup),
    (
        "a control character in a message group",
        |m| system(m).message_group = Some("a\t".into()),
        pb::Code::IllegalMessageGroup,
    ),
    ("a long message group", |m| system(m).message_group = Some("g".repeat(64)), pb::Code::IllegalMessageGroup),
    (
        "the longest message group",
        |m| system(m).message_group = Some("g".repeat(63)),
        pb::Code::MessagePropertyConflictWithType,
    ),
    (
        "a delivery time",
        |m| system(m).delivery_timestamp = Some(std::time::SystemTime::now().into()),
        pb::Code::MessagePropertyConflictWithType,
    ),
    (
        "a transaction",
        |m| system(m).message_type = pb::MessageType::Transaction.into(),
        pb::Code::MessagePropertyConflictWithType,
    ),
    (
        "a transaction that is asked about late",
        |m| {
            system(m).message_type = pb::MessageType::Transaction.into();
            system(m).orphaned_transaction_recovery_duration = Some(duration(Duration::from_secs(3601)));
        },
        pb::Code::BadRequest,
    ),
    ("a priority", |m| system(m).priority = Some(1), pb::Code::MessagePropertyConflictWithType),
    ("a negative priority", |m| system(m).priority = Some(-1), pb::Code::BadRequest),
    ("a lite topic", |m| system(m).lite_topic = Some("a".into()), pb::Code::MessagePropertyConflictWithType),
    ("no topic", |m| m.topic = None, pb::Code::IllegalTopic),
    ("the longest topic", |m| topic(m, &"t".repeat(127)), pb::Code::TopicNotFound),
    ("a long topic", |m| topic(m, &"t".repeat(128)), pb::Code::IllegalTopic),
    ("a topic of the system", |m| topic(m, "rmq_sys_trace"), pb::Code::IllegalTopic),
];

/// A change of a good receive.
type Ask = fn(&mut pb::ReceiveMessageRequest);

const RECEIVES: &[(&str, Ask, pb::Code)] = &[
    ("nothing", |_| (), pb::Code::MessageNotFound),
    ("a blank consumer group", |r| r.group = None, pb::Code::IllegalConsumerGroup),
    ("the longest consumer group", |r| r.group = Some(resource(&"g".repeat(120))), pb::Code::MessageNotFound),
    ("a long consumer group", |r| r.group = Some(resource(&"g".repeat(121))), pb::Code::IllegalConsumerGroup),
    ("a consumer group of the system", |r| r.group = Some(resource("CID_RMQ_SYS_a")), pb::Code::IllegalConsumerGroup),
    ("no tags", |r| r.filter_expression = Some(filter("||")), pb::Code::IllegalFilterExpression),
    ("SQL that is none", |r| r.filter_expression = Some(filter("sql a >")), pb::Code::IllegalFilterExpression),
    (
        "a short lease",
        |r| r.invisible_duration = Some(duration(Duration::from_millis(9_999))),
        pb::Code::IllegalInvisibleTime,
    ),
    (
        "a long lease",
        |r| r.invisible_duration = Some(duration(Duration::from_secs(12 * 3600 + 1))),
        pb::Code::IllegalInvisibleTime,
    ),
];

/// What a receive within `limit` is answered first; the time of the answer must be last.
async fn receive(
    stub: &mut Stub,
    ask: pb::ReceiveMessageRequest,
    headers: &[(&'static str, &'static str)],
    limit: Duration,
) -> Result<pb::Code> {
    let mut parts = stub.receive_message(request(ask, headers, limit)).await?.into_inner();
    let (mut first, mut last) = (None, None);
    while let Some(part) = parts.message().await? {
        let content = part.content.context("a part without content")?;
        first.get_or_insert_with(|| content.clone());
        last = Some(content);
    }
    ensure!(matches!(last, Some(Content::DeliveryTimestamp(_))), "the last part is {last:?}");
    match first {
        Some(Content::Status(status)) => Ok(code(Some(status))),
        other => anyhow::bail!("the first part is {other:?}"),
    }
}

/// Each code where it applies, asked of one node; the topic must have nothing to receive. Returns how many messages were
/// stored.
pub async fn answered(cluster: &Cluster, number: usize) -> Result<u64> {
    let node = cluster.nodes[number].grpc;
    let mut stub = stub(node).await?;
    let of_client = [ID, VERSION];
    let mut stored = 0;
    for (what, change, expected) in SENDS {
        let mut message = message(TOPIC, &format!("{what} of node {number}"), None, Bytes::from_static(b"body"));
        change(&mut message);
        let send = request(pb::SendMessageRequest { messages: vec![message] }, &of_client, CALL_TIMEOUT);
        let answer = code(stub.send_message(send).await.context(*what)?.into_inner().status);
        ensure!(answer == *expected, "node {number}, {what}: {answer:?}, not {expected:?}");
        stored += u64::from(answer == pb::Code::Ok);
    }
    // Of a consumer group that comes after these messages.
    let good = pb::ReceiveMessageRequest {
        group: Some(resource("askers")),
        message_queue: Some(pb::MessageQueue { topic: Some(resource(TOPIC)), ..Default::default() }),
        filter_expression: Some(filter("none-has-this-tag")),
        batch_size: 1,
        invisible_duration: Some(duration(Duration::from_secs(10))),
        long_polling_timeout: Some(duration(Duration::from_secs(5))),
        ..Default::default()
    };
    let asked = RECEIVES.iter().map(|(what, change, expected)| {
        let (mut stub, mut ask) = (stub.clone(), good.clone());
        change(&mut ask);
        async move {
            let answer = receive(&mut stub, ask, &of_client, Duration::from_secs(8)).await.context(*what)?;
            ensure!(answer == *expected, "node {number}, {what}: {answer:?}, not {expected:?}");
            Ok(())
        }
    });
    // Those that are right wait for their time.
    futures::future::try_join_all(asked).await?;
    // A call that ends before the shortest poll does. The code is newer than the oldest clients.
    let hurried = [
        (vec![ID, VERSION], pb::Code::IllegalPollingTime),
        (vec![ID, ("x-mq-client-version", "5.0.2")], pb::Code::BadRequest),
        (vec![ID], pb::Code::BadRequest),
    ];
    for (headers, expected) in hurried {
        let answer = receive(&mut stub, good.clone(), &headers, Duration::from_secs(2)).await?;
        ensure!(answer == expected, "node {number}, in a hurry with {headers:?}: {answer:?}, not {expected:?}");
    }
    nobody(&mut stub).await.with_context(|| format!("node {number}, without a client id"))?;
    for kind in [pb::ClientType::Unspecified, pb::ClientType::PullConsumer] {
        let beat = pb::HeartbeatRequest { group: Some(resource("askers")), client_type: kind.into() };
        let answer = code(stub.heartbeat(request(beat, &of_client, CALL_TIMEOUT)).await?.into_inner().status);
        ensure!(answer == pb::Code::UnrecognizedClientType, "node {number}, a heartbeat of {kind:?}: {answer:?}");
    }
    stored += handles(node, &mut stub).await.with_context(|| format!("node {number}"))?;
    Ok(stored)
}

/// Every call of somebody who does not say who it is.
async fn nobody(stub: &mut Stub) -> Result<()> {
    let expect = |rpc: &str, status: Option<pb::Status>| {
        let answer = code(status);
        ensure!(answer == pb::Code::ClientIdRequired, "{rpc}: {answer:?}");
        Ok(())
    };
    macro_rules! calls {
        ($($rpc:ident($message:ident)),* $(,)?) => {$(
            let answer = stub.$rpc(request(pb::$message::default(), &[VERSION], CALL_TIMEOUT)).await;
            expect(stringify!($rpc), answer.context(stringify!($rpc))?.into_inner().status)?;
        )*};
    }
    calls!(
        query_route(QueryRouteRequest),
        heartbeat(HeartbeatRequest),
        send_message(SendMessageRequest),
        query_assignment(QueryAssignmentRequest),
        ack_message(AckMessageRequest),
        forward_message_to_dead_letter_queue(ForwardMessageToDeadLetterQueueRequest),
        update_offset(UpdateOffsetRequest),
        get_offset(GetOffsetRequest),
        query_offset(QueryOffsetRequest),
        end_transaction(EndTransactionRequest),
        notify_client_termination(NotifyClientTerminationRequest),
        change_invisible_duration(ChangeInvisibleDurationRequest),
        recall_message(RecallMessageRequest),
        sync_lite_subscription(SyncLiteSubscriptionRequest),
    );
    let received =
        stub.receive_message(request(pb::ReceiveMessageRequest::default(), &[VERSION], CALL_TIMEOUT)).await?;
    match received.into_inner().message().await?.and_then(|part| part.content) {
        Some(Content::Status(status)) => expect("receive_message", Some(status))?,
        other => anyhow::bail!("receive_message: {other:?}"),
    }
    let pulled = stub.pull_message(request(pb::PullMessageRequest::default(), &[VERSION], CALL_TIMEOUT)).await?;
    match pulled.into_inner().message().await?.and_then(|part| part.content) {
        Some(pb::pull_message_response::Content::Status(status)) => expect("pull_message", Some(status))?,
        other => anyhow::bail!("pull_message: {other:?}"),
    }
    let commands = tokio_stream::iter([pb::TelemetryCommand::default()]);
    let mut told = stub.telemetry(request(commands, &[VERSION], CALL_TIMEOUT)).await?.into_inner();
    expect("telemetry", told.message().await?.and_then(|command| command.status))?;
    ensure!(told.message().await?.is_none(), "telemetry goes on");
    Ok(())
}

/// Handles, one good and one that is none, in one call and alone. Stores one message.
async fn handles(node: SocketAddr, stub: &mut Stub) -> Result<u64> {
    let group = format!("acknowledgers-{}", node.port());
    let consumer = Consumer::new(&[node], &group, TOPIC, "*", false)?;
    consumer.join(TOPIC).await;
    Producer::new(&[node], &[TOPIC])?.send(TOPIC, &group, None, Bytes::from_static(b"body")).await?;
    let mut received = Vec::new();
    for _ in 0..4 {
        received = consumer.receive(TOPIC, 1, Duration::from_secs(30), Duration::from_secs(5)).await?;
        if !received.is_empty() {
            break;
        }
    }
    let handle = received.first().context("nothing received")?.handle().to_owned();
    let entry = |handle: &str| pb::AckMessageEntry {
        message_id: group.clone(),
        receipt_handle: handle.to_owned(),
        lite_topic: None,
    };
    let (ok, invalid) = (pb::Code::Ok, pb::Code::InvalidReceiptHandle);
    let cases = [
        (vec![entry("none")], invalid, vec![invalid]),
        (vec![entry(&handle), entry("none")], pb::Code::MultipleResults, vec![ok, invalid]),
        (Vec::new(), pb::Code::BadRequest, Vec::new()),
    ];
    for (entries, expected, of_entries) in cases {
        let ack = pb::AckMessageRequest { group: Some(resource(&group)), topic: Some(resource(TOPIC)), entries };
        let answer = stub.ack_message(request(ack, &[ID, VERSION], CALL_TIMEOUT)).await?.into_inner();
        let codes: Vec<pb::Code> = answer.entries.into_iter().map(|entry| code(entry.status)).collect();
        let whole = code(answer.status);
        ensure!(whole == expected && codes == of_entries, "acknowledged with {whole:?} {codes:?}, not {expected:?}");
    }
    let change = pb::ChangeInvisibleDurationRequest {
        group: Some(resource(&group)),
        topic: Some(resource(TOPIC)),
        receipt_handle: "none".into(),
        invisible_duration: Some(duration(Duration::from_secs(10))),
        ..Default::default()
    };
    let answer = stub.change_invisible_duration(request(change, &[ID, VERSION], CALL_TIMEOUT)).await?.into_inner();
    ensure!(code(answer.status.clone()) == invalid, "a lease of nothing was changed: {answer:?}");
    // Some clients keep what they get here, whatever the code.
    ensure!(answer.receipt_handle == "none", "the handle became {:?}", answer.receipt_handle);
    let forward = pb::ForwardMessageToDeadLetterQueueRequest {
        group: Some(resource(&group)),
        topic: Some(resource(TOPIC)),
        receipt_handle: "none".into(),
        ..Default::default()
    };
    let forward = request(forward, &[ID, VERSION], CALL_TIMEOUT);
    let answer = code(stub.forward_message_to_dead_letter_queue(forward).await?.into_inner().status);
    ensure!(answer == invalid, "nothing was given up: {answer:?}");
    let end = pb::EndTransactionRequest {
        topic: Some(resource(TOPIC)),
        resolution: pb::TransactionResolution::Commit.into(),
        ..Default::default()
    };
    let answer = code(stub.end_transaction(request(end, &[ID, VERSION], CALL_TIMEOUT)).await?.into_inner().status);
    ensure!(answer == pb::Code::InvalidTransactionId, "a transaction without id was ended: {answer:?}");
    Ok(1)
}

/// What `session` is told of a topic's route.
pub async fn route(session: &Session, node: SocketAddr, name: &str) -> Result<pb::QueryRouteResponse> {
    let address = pb::Address { host: node.ip().to_string(), port: node.port().into() };
    let endpoints = pb::Endpoints { scheme: pb::AddressScheme::IPv4.into(), addresses: vec![address] };
    let query = pb::QueryRouteRequest { topic: Some(resource(name)), endpoints: Some(endpoints) };
    Ok(session.stub().query_route(session.request(query)).await?.into_inner())
}

/// A topic is made by the route query of a producer, and by a send, of a client that has not said what it is as well; not
/// by what a consumer asks. It takes the four types that RocketMQ mixes in one topic. PRIORITY and LITE have topics of
/// their own: clients that know neither would fail on a route that names them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_on_its_first_use_takes_four_types() -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    let node = cluster.nodes[1].grpc;
    let consumer = Session::consumer(node, "askers", "asked-for").await?;
    let answer = route(&consumer, node, "asked-for").await?;
    ensure!(code(answer.status.clone()) == pb::Code::TopicNotFound, "a consumer's query: {answer:?}");
    ensure!(cluster.stored("asked-for").await?.is_none(), "a consumer's query made a topic");

    let producer = Session::producer(node, &["announced"]).await?;
    let answer = route(&producer, node, "announced").await?;
    ensure!(code(answer.status.clone()) == pb::Code::Ok && !answer.message_queues.is_empty(), "{answer:?}");
    let mixed = [pb::MessageType::Normal, pb::MessageType::Fifo, pb::MessageType::Delay, pb::MessageType::Transaction];
    for queue in &answer.message_queues {
        let types: Vec<pb::MessageType> = queue.accept_message_types().collect();
        ensure!(types == mixed, "queue {} takes {types:?}", queue.id);
    }
    let mut stub = stub(node).await?;
    let sends: [(&str, Change, pb::Code); 6] = [
        ("NORMAL", |_| (), pb::Code::Ok),
        ("FIFO", |m| system(m).message_group = Some("a".into()), pb::Code::Ok),
        ("DELAY", |m| system(m).delivery_timestamp = Some(std::time::SystemTime::now().into()), pb::Code::Ok),
        ("TRANSACTION", |m| system(m).message_type = pb::MessageType::Transaction.into(), pb::Code::Ok),
        ("PRIORITY", |m| system(m).priority = Some(1), pb::Code::MessagePropertyConflictWithType),
        ("LITE", |m| system(m).lite_topic = Some("a".into()), pb::Code::MessagePropertyConflictWithType),
    ];
    for (kind, change, expected) in sends {
        for name in ["announced", "sent-to"] {
            let mut message = message(name, kind, None, Bytes::from_static(b"body"));
            change(&mut message);
            let send = request(pb::SendMessageRequest { messages: vec![message] }, &[ID, VERSION], CALL_TIMEOUT);
            let answer = stub.send_message(send).await?.into_inner();
            ensure!(code(answer.status.clone()) == expected, "{kind} to {name}: {answer:?}");
        }
    }
    Ok(())
}
