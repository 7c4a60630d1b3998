//! The spans of one message that goes in at one follower, is committed by the leader and handed out by the other follower,
//! as a collector is sent them. Real processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value},
};
use raftmq_proto::rocketmq as pb;
use raftmq_tests::client::{CALL_TIMEOUT, duration, eventually, filter, message};
use raftmq_tests::cluster::{Cluster, Options};
use raftmq_tests::load::resource;
use raftmq_tests::session::Session;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
const SOON: Duration = Duration::from_secs(20);
/// The shortest long poll that nodes take.
const POLL: Duration = Duration::from_secs(5);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PRODUCER: &str = "b7ad6b7169203331";

/// A span, with the node that it is of.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    name: String,
    node: String,
    trace: String,
    id: String,
    parent: String,
    times: (u64, u64),
    said: BTreeMap<String, String>,
}

/// Keeps all spans.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Seen>>>,
}

impl Collector {
    fn seen(&self) -> Vec<Seen> {
        self.spans.lock().expect("nobody panics with it").clone()
    }

    fn one(&self, name: &str) -> Result<Seen> {
        let found: Vec<Seen> = self.seen().into_iter().filter(|span| span.name == name).collect();
        let [span] = found.as_slice() else { anyhow::bail!("{name}: {found:?}") };
        Ok(span.clone())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn said(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().filter_map(|said| Some((said.key, text(said.value?.value?)))).collect()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_node in request.into_inner().resource_spans {
            let resource = said(of_node.resource.ok_or_else(|| Status::invalid_argument("of whom?"))?.attributes);
            let node = resource.get("service.instance.id").cloned().unwrap_or_default();
            for span in of_node.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let seen = Seen {
                    name: span.name,
                    node: node.clone(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    times: (span.start_time_unix_nano, span.end_time_unix_nano),
                    said: said(span.attributes),
                };
                self.spans.lock().expect("nobody panics with it").push(seen);
            }
        }
        Ok(Response::new(ExportTraceServiceResponse { partial_success: None }))
    }
}

async fn cluster(ratio: &str, options: Options) -> Result<(Cluster, Collector)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let settings = vec![
        setting("tracesGrpcExporterTarget", &format!("http://{}", listener.local_addr()?)),
        setting("tracesSampledRatio", ratio),
    ];
    let collector = Collector::default();
    let served = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(served);
    Ok((Cluster::start(Options { settings, ..options }).await?, collector))
}

/// Receives so many messages at one node, and acknowledges them there.
async fn received_and_acknowledged(node: SocketAddr, messages: usize) -> Result<()> {
    let consumer = Session::consumer(node, GROUP, TOPIC).await?;
    let mut left = messages;
    while left > 0 {
        let mut request = consumer.request(pb::ReceiveMessageRequest {
            group: Some(resource(GROUP)),
            message_queue: Some(pb::MessageQueue { topic: Some(resource(TOPIC)), ..pb::MessageQueue::default() }),
            filter_expression: Some(filter("*")),
            batch_size: 32,
            invisible_duration: Some(duration(Duration::from_secs(300))),
            auto_renew: true,
            long_polling_timeout: Some(duration(POLL)),
            attempt_id: None,
        });
        request.set_timeout(POLL + CALL_TIMEOUT);
        let mut stream = consumer.stub().receive_message(request).await?.into_inner();
        let mut entries = Vec::new();
        while let Some(part) = stream.message().await? {
            if let Some(pb::receive_message_response::Content::Message(message)) = part.content {
                let of = message.system_properties.context("a message has system properties")?;
                entries.push(pb::AckMessageEntry {
                    message_id: of.message_id,
                    receipt_handle: of.receipt_handle.context("a message has a handle")?,
                    lite_topic: None,
                });
            }
        }
        if entries.is_empty() {
            continue;
        }
        left -= entries.len();
        let (group, topic) = (Some(resource(GROUP)), Some(resource(TOPIC)));
        let request = consumer.request(pb::AckMessageRequest { group, topic, entries });
        let status = consumer.stub().ack_message(request).await?.into_inner().status;
        ensure!(status.as_ref().is_some_and(|status| status.code() == pb::Code::Ok), "{status:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_traced_message_has_spans_of_every_node_that_it_meets() -> Result<()> {
    let (mut cluster, collector) = cluster("0", Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let leader = cluster.leader(0).await?;
    let (sends, receives) = ((leader + 1) % 3, (leader + 2) % 3);
    let node = |number: usize| format!("RaftCluster/RaftNode00/n{number}");

    let producer = Session::producer(cluster.nodes[sends].grpc, &[TOPIC]).await?;
    let send = async |id: &str, trace_context: Option<String>| {
        let mut sent = message(TOPIC, id, None, "of one trace".into());
        sent.system_properties.get_or_insert_default().trace_context = trace_context;
        producer.send(sent).await.map(drop)
    };
    send("M000000000000001", None).await?;
    send("M000000000000002", Some(format!("00-{TRACE}-{PRODUCER}-00"))).await?;
    send("M000000000000003", Some(format!("00-{TRACE}-{PRODUCER}-01"))).await?;
    tokio::time::timeout(SOON, received_and_acknowledged(cluster.nodes[receives].grpc, 3)).await??;

    let wanted = ["SendMessage", "propose", "commit", "ReceiveMessage", "AckMessage"];
    eventually("the collector has all spans", SOON, async || collector.seen().len() >= wanted.len()).await?;
    let [send, propose, commit, receive, ack] = wanted.map(|name| collector.one(name));
    let (send, propose, commit, receive, ack) = (send?, propose?, commit?, receive?, ack?);
    ensure!(collector.seen().iter().all(|span| span.trace == TRACE), "{:?}", collector.seen());
    ensure!(send.node == node(sends) && send.parent == PRODUCER, "{send:?}");
    ensure!(send.said["messaging.message.id"] == "M000000000000003", "{send:?}");
    ensure!(propose.node == node(sends) && propose.parent == send.id, "{propose:?}");
    ensure!(commit.node == node(leader) && commit.parent == propose.id, "{commit:?}");
    ensure!(receive.node == node(receives) && receive.parent == PRODUCER, "{receive:?}");
    ensure!(receive.said["messaging.consumer.group.name"] == GROUP && receive.said["rocketmq.attempt"] == "1");
    ensure!(ack.node == node(receives) && ack.parent == PRODUCER, "{ack:?}");
    // One machine, one clock: each begins within the one that it is within.
    let spans = [send, propose, commit];
    ensure!(spans.is_sorted_by_key(|span| span.times.0), "{spans:?}");
    ensure!(spans.iter().all(|span| span.times.0 < span.times.1), "{spans:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_sends_without_a_context_is_traced() -> Result<()> {
    let (mut cluster, collector) = cluster("1", Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let leader = cluster.leader(0).await?;
    let producer = Session::producer(cluster.nodes[leader].grpc, &[TOPIC]).await?;
    producer.send(message(TOPIC, "M000000000000001", None, "of its own trace".into())).await?;
    eventually("the collector has all spans", SOON, async || collector.seen().len() >= 3).await?;
    let (send, propose, commit) = (collector.one("SendMessage")?, collector.one("propose")?, collector.one("commit")?);
    ensure!(
        send.parent.is_empty() && propose.parent == send.id && commit.parent == propose.id,
        "{:?}",
        collector.seen()
    );
    ensure!(commit.trace == send.trace && propose.trace == send.trace);
    Ok(())
}

/// A message comes to a node whose broker group does not keep its message group: what becomes of it there is within the
/// span of the send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_handed_over_is_traced_within_the_send() -> Result<()> {
    const SENDS: u64 = 8;
    let (mut cluster, collector) = cluster("0", Options { groups: 2, nodes: 1, ..Default::default() }).await?;
    let called = cluster.leader(0).await?;
    cluster.leader(1).await?;
    let make = ["updateTopic", "-c", "RaftCluster", "-t", TOPIC, "-r", "4", "-w", "4", "-a", "+message.type=FIFO"];
    eventually("mqadmin makes a FIFO topic", SOON, async || {
        cluster.mqadmin(&make).await.is_ok_and(|output| output.status.success())
    })
    .await?;
    let producer = Session::producer(cluster.nodes[called].grpc, &[TOPIC]).await?;
    let trace = |number: u64| format!("{number:032x}");
    for number in 1..=SENDS {
        let mut sent = message(TOPIC, &format!("M{number:015}"), None, "in order".into());
        let system = sent.system_properties.get_or_insert_default();
        system.message_group = Some(format!("account-{number}"));
        system.message_type = pb::MessageType::Fifo.into();
        system.trace_context = Some(format!("00-{}-{PRODUCER}-01", trace(number)));
        // The node may not have heard yet of the other broker group.
        eventually("it is stored", SOON, async || producer.send(sent.clone()).await.is_ok()).await?;
    }
    let of = |trace: &str| collector.seen().into_iter().filter(|span| span.trace == trace).collect::<Vec<_>>();
    let stored = |spans: &[Seen]| spans.iter().any(|span| span.name == "commit");
    let all = async || (1..=SENDS).all(|number| stored(&of(&trace(number))));
    eventually("the collector has all spans", SOON, all).await?;
    let mut handed_over = 0;
    for number in 1..=SENDS {
        let spans = of(&trace(number));
        let commit = spans.iter().find(|span| span.name == "commit").context("it was stored")?;
        let above = |span: &Seen| spans.iter().find(|other| other.id == span.parent).cloned();
        let propose = above(commit).context("a commit is within a proposal")?;
        let send = above(&propose).context("a proposal is within a send")?;
        ensure!((propose.name.as_str(), send.name.as_str()) == ("propose", "SendMessage"), "{spans:#?}");
        ensure!(send.said["messaging.message.id"] == format!("M{number:015}"), "{send:?}");
        let first = match above(&send) {
            Some(first) => {
                handed_over += 1;
                ensure!(first.name == "SendMessage" && first.node != send.node, "{spans:#?}");
                ensure!(first.times.0 <= send.times.0, "{spans:#?}");
                first
            }
            None => send,
        };
        ensure!(first.parent == PRODUCER && first.node == "RaftCluster/RaftNode00/n0", "{spans:#?}");
        // Tried again it may have more of them, none of which is beside the sends.
        let beside = spans.iter().filter(|span| span.name == "SendMessage" && span.parent == PRODUCER);
        ensure!(beside.clone().all(|span| span.node == first.node), "{spans:#?}");
    }
    ensure!(0 < handed_over && handed_over < SENDS, "{handed_over} of {SENDS} message groups are the other's");
    Ok(())
}
