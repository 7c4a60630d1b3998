//! A client that stays with one node and hears what it is told on its stream: an SDK's client would have a stream to
//! every node, and so would hide how nodes reach each other's clients.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use raftmq_proto::rocketmq::{self as pb, messaging_service_client::MessagingServiceClient};
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use crate::client::{CALL_TIMEOUT, duration, filter};
use crate::load::resource;

/// How often SDKs send a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The shortest long poll.
const POLL: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(300);

/// Such a client. Dropping it closes its connection without a word.
pub struct Session {
    /// As the node knows it.
    pub client_id: String,
    /// What it was told in answer to its settings.
    pub settings: pb::Settings,
    stub: MessagingServiceClient<Channel>,
    outgoing: mpsc::Sender<pb::TelemetryCommand>,
    incoming: Streaming<pb::TelemetryCommand>,
    beats: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

impl Session {
    /// A producer of these topics.
    ///
    /// # Errors
    ///
    /// The node cannot be reached, or refuses the settings.
    pub async fn producer(node: SocketAddr, topics: &[&str]) -> Result<Session> {
        let topics = topics.iter().map(|topic| resource(topic)).collect();
        let publishing = pb::Publishing { topics, ..pb::Publishing::default() };
        Session::open(node, pb::ClientType::Producer, pb::settings::PubSub::Publishing(publishing), None).await
    }

    /// A push consumer of one topic.
    ///
    /// # Errors
    ///
    /// As [`Session::producer`].
    pub async fn consumer(node: SocketAddr, group: &str, topic: &str) -> Result<Session> {
        let entry = pb::SubscriptionEntry { topic: Some(resource(topic)), expression: None };
        let subscription =
            pb::Subscription { group: Some(resource(group)), subscriptions: vec![entry], ..Default::default() };
        let subscription = pb::settings::PubSub::Subscription(subscription);
        Session::open(node, pb::ClientType::PushConsumer, subscription, Some(group)).await
    }

    /// A push consumer of lite topics of one topic.
    ///
    /// # Errors
    ///
    /// As [`Session::producer`].
    pub async fn lite_consumer(node: SocketAddr, group: &str, topic: &str) -> Result<Session> {
        let entry = pb::SubscriptionEntry { topic: Some(resource(topic)), expression: Some(filter("*")) };
        let subscription =
            pb::Subscription { group: Some(resource(group)), subscriptions: vec![entry], ..Default::default() };
        let subscription = pb::settings::PubSub::Subscription(subscription);
        Session::open(node, pb::ClientType::LitePushConsumer, subscription, Some(group)).await
    }

    async fn open(
        node: SocketAddr,
        kind: pb::ClientType,
        pub_sub: pb::settings::PubSub,
        group: Option<&str>,
    ) -> Result<Session> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let client_id = format!("session@{}@{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let endpoint = Endpoint::from_shared(format!("http://{node}"))?.connect_timeout(Duration::from_secs(1));
        let mut stub = MessagingServiceClient::new(endpoint.connect().await?);
        let (outgoing, commands) = mpsc::channel(4);
        let settings = pb::Settings {
            client_type: Some(kind as i32),
            request_timeout: Some(duration(CALL_TIMEOUT)),
            pub_sub: Some(pub_sub),
            ..pb::Settings::default()
        };
        let settings = pb::telemetry_command::Command::Settings(settings);
        outgoing.send(pb::TelemetryCommand { status: None, command: Some(settings) }).await?;
        let stream = signed(&client_id, tokio_stream::wrappers::ReceiverStream::new(commands));
        let incoming = stub.telemetry(stream).await?.into_inner();
        let beats = tokio::spawn(beat(stub.clone(), client_id.clone(), group.map(resource), kind));
        let settings = pb::Settings::default();
        let mut session = Session { client_id, settings, stub, outgoing, incoming, beats };
        match session.told(CALL_TIMEOUT).await? {
            Some(pb::telemetry_command::Command::Settings(settings)) => {
                session.settings = settings;
                Ok(session)
            }
            other => bail!("settings were answered with {other:?}"),
        }
    }

    /// The next command of the node; `None` when there is none within `limit`.
    ///
    /// # Errors
    ///
    /// The stream ended.
    pub async fn told(&mut self, limit: Duration) -> Result<Option<pb::telemetry_command::Command>> {
        let Ok(told) = tokio::time::timeout(limit, self.incoming.message()).await else { return Ok(None) };
        let told = told?.context("the stream ended")?;
        Ok(Some(told.command.context("a command without content")?))
    }

    /// The next half message that the node asks about within `limit`.
    ///
    /// # Errors
    ///
    /// There is none, or something else.
    pub async fn asked(&mut self, limit: Duration) -> Result<pb::RecoverOrphanedTransactionCommand> {
        match self.told(limit).await? {
            Some(pb::telemetry_command::Command::RecoverOrphanedTransactionCommand(asked)) => Ok(asked),
            other => bail!("not asked about a transaction within {limit:?}: {other:?}"),
        }
    }

    /// Answers on the stream.
    ///
    /// # Errors
    ///
    /// The stream ended.
    pub async fn say(&self, code: pb::Code, command: pb::telemetry_command::Command) -> Result<()> {
        let status = Some(pb::Status { code: code.into(), message: "said by a test".to_owned() });
        Ok(self.outgoing.send(pb::TelemetryCommand { status, command: Some(command) }).await?)
    }

    /// The node's messaging service.
    pub fn stub(&self) -> MessagingServiceClient<Channel> {
        self.stub.clone()
    }

    /// A request of this client.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = signed(&self.client_id, message);
        request.set_timeout(CALL_TIMEOUT);
        request
    }

    /// Sends a message once.
    ///
    /// # Errors
    ///
    /// It was not stored.
    pub async fn send(&self, message: pb::Message) -> Result<pb::SendResultEntry> {
        let request = self.request(pb::SendMessageRequest { messages: vec![message] });
        let mut answer = self.stub().send_message(request).await?.into_inner();
        ok(answer.status)?;
        answer.entries.pop().context("an entry a message")
    }

    /// Ends the transaction that the node asked about.
    ///
    /// # Errors
    ///
    /// The answer is not OK.
    pub async fn answer(&self, asked: &pb::RecoverOrphanedTransactionCommand, commit: bool) -> Result<()> {
        let message = asked.message.as_ref().context("a check shows its message")?;
        let system = message.system_properties.as_ref().context("a message has system properties")?;
        let resolution = if commit { pb::TransactionResolution::Commit } else { pb::TransactionResolution::Rollback };
        let request = self.request(pb::EndTransactionRequest {
            topic: message.topic.clone(),
            message_id: system.message_id.clone(),
            transaction_id: asked.transaction_id.clone(),
            resolution: resolution.into(),
            source: pb::TransactionSource::SourceServerCheck.into(),
            trace_context: String::new(),
        });
        ok(self.stub().end_transaction(request).await?.into_inner().status)
    }

    /// The next message of a topic, leased for longer than a test takes.
    ///
    /// # Errors
    ///
    /// None comes within `limit`, or a receive fails.
    pub async fn next(&self, group: &str, topic: &str, limit: Duration) -> Result<pb::Message> {
        let deadline = Instant::now() + limit;
        loop {
            let mut request = self.request(pb::ReceiveMessageRequest {
                group: Some(resource(group)),
                message_queue: Some(pb::MessageQueue { topic: Some(resource(topic)), ..pb::MessageQueue::default() }),
                filter_expression: Some(filter("*")),
                batch_size: 1,
                invisible_duration: Some(duration(LEASE)),
                auto_renew: false,
                long_polling_timeout: Some(duration(POLL)),
                attempt_id: None,
            });
            request.set_timeout(POLL + CALL_TIMEOUT);
            let mut stream = self.stub().receive_message(request).await?.into_inner();
            while let Some(part) = stream.message().await? {
                if let Some(pb::receive_message_response::Content::Message(message)) = part.content {
                    return Ok(message);
                }
            }
            ensure!(Instant::now() < deadline, "no message of {topic} comes to {group}");
        }
    }

    /// Has a message that was received become a dead letter.
    ///
    /// # Errors
    ///
    /// The answer is not OK.
    pub async fn give_up(&self, group: &str, message: &pb::Message) -> Result<()> {
        let system = message.system_properties.as_ref().context("a message has system properties")?;
        let request = self.request(pb::ForwardMessageToDeadLetterQueueRequest {
            group: Some(resource(group)),
            topic: message.topic.clone(),
            receipt_handle: system.receipt_handle.clone().context("a delivered message has a handle")?,
            message_id: system.message_id.clone(),
            delivery_attempt: 1,
            max_delivery_attempts: 1,
            lite_topic: system.lite_topic.clone(),
        });
        ok(self.stub().forward_message_to_dead_letter_queue(request).await?.into_inner().status)
    }

    /// Says that this client ends.
    ///
    /// # Errors
    ///
    /// The answer is not OK.
    pub async fn terminate(&self) -> Result<()> {
        let request = self.request(pb::NotifyClientTerminationRequest { group: None });
        ok(self.stub().notify_client_termination(request).await?.into_inner().status)
    }
}

fn ok(status: Option<pb::Status>) -> Result<()> {
    let status = status.context("an answer without status")?;
    ensure!(status.code == pb::Code::Ok as i32, "{status:?}");
    Ok(())
}

fn signed<T>(client_id: &str, message: T) -> Request<T> {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-mq-client-id", client_id.parse().expect("client ids are ASCII"));
    metadata.insert("x-mq-language", MetadataValue::from_static("GO"));
    metadata.insert("x-mq-client-version", MetadataValue::from_static("5.1.2"));
    Request::from_parts(metadata, tonic::Extensions::default(), message)
}

async fn beat(
    mut stub: MessagingServiceClient<Channel>,
    client_id: String,
    group: Option<pb::Resource>,
    kind: pb::ClientType,
) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let mut request = signed(&client_id, pb::HeartbeatRequest { group: group.clone(), client_type: kind as i32 });
        request.set_timeout(CALL_TIMEOUT);
        // An SDK logs a failure and goes on.
        let _ = stub.heartbeat(request).await;
    }
}
