//! A thin producer and consumers that use routes, channels, deadlines and retries as the official SDKs do.
//!
//! One channel per distinct list of endpoints: it uses the first address that can be connected to and goes on to the
//! next when a connection is lost; a node that hangs is noticed only by its calls' deadlines, and then another queue's
//! list, rotated, is tried. A send is tried three times. Nothing here knows what a leader is.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use raftmq_proto::rocketmq::{self as pb, messaging_service_client::MessagingServiceClient};
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use crate::load::resource;

/// Deadline of every call but long polls, as in every SDK.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Shortest long poll of a server with default settings.
const POLL_MIN: Duration = Duration::from_secs(5);

/// How often a send is tried, as in every SDK.
pub const SEND_ATTEMPTS: usize = 3;

/// How often other calls of a producer are tried.
const ASK_ATTEMPTS: usize = 5;

/// How long a list of endpoints that failed is left alone while others work.
const ISOLATED: Duration = Duration::from_secs(10);

/// Who a client says it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `x-mq-client-id`.
    pub client_id: String,
    /// Consumer group; none for a producer.
    pub group: Option<String>,
    /// Kind of client.
    pub kind: pb::ClientType,
}

/// One list of endpoints and the channels to them.
struct Line {
    addresses: Vec<SocketAddr>,
    channels: Vec<Channel>,
    at: AtomicUsize,
    failed: Mutex<Option<Instant>>,
    telemetry: Mutex<Option<JoinHandle<()>>>,
}

impl Line {
    fn new(addresses: Vec<SocketAddr>) -> Result<Self> {
        let channels = addresses
            .iter()
            .map(|address| {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))?
                    .connect_timeout(Duration::from_secs(1))
                    .tcp_nodelay(true);
                Ok(endpoint.connect_lazy())
            })
            .collect::<Result<_>>()?;
        Ok(Self { addresses, channels, at: AtomicUsize::new(0), failed: Mutex::default(), telemetry: Mutex::default() })
    }

    fn channel(&self) -> (usize, Channel) {
        let at = self.at.load(Ordering::Relaxed) % self.channels.len();
        (at, self.channels[at].clone())
    }

    /// A call over the channel to address `at` failed in a way that is the connection's and not the call's.
    fn lost(&self, at: usize) {
        let next = (at + 1) % self.channels.len();
        let _ = self.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn isolate(&self) {
        *self.failed.lock().expect("no holder panics") = Some(Instant::now());
    }

    fn isolated(&self) -> bool {
        self.failed.lock().expect("no holder panics").is_some_and(|since| since.elapsed() < ISOLATED)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(telemetry) = self.telemetry.lock().expect("no holder panics").take() {
            telemetry.abort();
        }
    }
}

/// What producers and consumers have in common: identity, routes and channels.
pub struct Client {
    identity: Identity,
    settings: pb::Settings,
    access: Arc<Line>,
    lines: Mutex<HashMap<Vec<SocketAddr>, Arc<Line>>>,
    routes: Mutex<HashMap<String, Arc<Route>>>,
}

/// A topic's queues, each with the channels that lead to it.
pub struct Route {
    queues: Vec<(pb::MessageQueue, Arc<Line>)>,
    next: AtomicUsize,
    asked: Instant,
}

impl Route {
    /// The queues as they were answered.
    pub fn queues(&self) -> impl Iterator<Item = &pb::MessageQueue> {
        self.queues.iter().map(|(queue, _)| queue)
    }

    /// The next queue whose endpoints did not fail lately.
    fn take(&self) -> (&pb::MessageQueue, &Arc<Line>) {
        self.take_where(|_| true)
    }

    /// The same among those of broker group `broker`, which has the messages that were received from it.
    fn take_of(&self, broker: &str) -> (&pb::MessageQueue, &Arc<Line>) {
        self.take_where(|queue| broker_of(queue) == broker)
    }

    /// The same in a broker group that was not `tried`, if there is another.
    fn take_untried(&self, tried: &[String]) -> (&pb::MessageQueue, &Arc<Line>) {
        self.take_where(|queue| !tried.iter().any(|name| name == broker_of(queue)))
    }

    fn take_where(&self, wanted: impl Fn(&pb::MessageQueue) -> bool) -> (&pb::MessageQueue, &Arc<Line>) {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let of = |offset: usize| &self.queues[(start + offset) % self.queues.len()];
        let all = || (0..self.queues.len()).map(of);
        let usable = all().find(|(queue, line)| wanted(queue) && !line.isolated());
        let chosen = usable
            .or_else(|| all().find(|(queue, _)| wanted(queue)))
            .or_else(|| all().find(|(_, line)| !line.isolated()))
            .unwrap_or(of(0));
        (&chosen.0, &chosen.1)
    }
}

fn broker_of(queue: &pb::MessageQueue) -> &str {
    queue.broker.as_ref().map(|broker| broker.name.as_str()).unwrap_or_default()
}

/// A call that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The answer has another code than OK.
    #[error("{0:?}: {1}")]
    Code(pb::Code, String),
    /// There was no answer: whether anything happened is unknown.
    #[error("gRPC {0:?}: {1}")]
    Transport(Code, String),
}

impl Failure {
    fn from_status(status: Option<&pb::Status>) -> Result<(), Self> {
        match status {
            Some(status) if status.code == pb::Code::Ok as i32 => Ok(()),
            Some(status) => {
                let code = pb::Code::try_from(status.code).unwrap_or(pb::Code::Unspecified);
                Err(Self::Code(code, status.message.clone()))
            }
            None => Err(Self::Code(pb::Code::Unspecified, "an answer without status".into())),
        }
    }

    /// Whether the same call may succeed later: nothing was wrong with the request itself.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Code(code, _) => *code as i32 >= 50_000 || *code == pb::Code::TooManyRequests,
            Self::Transport(..) => true,
        }
    }

    /// The answered code, when there was an answer.
    pub fn code(&self) -> Option<pb::Code> {
        match self {
            Self::Code(code, _) => Some(*code),
            Self::Transport(..) => None,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Transport(status.code(), status.message().to_string())
    }
}

impl Client {
    fn new(access: &[SocketAddr], identity: Identity, settings: pb::Settings) -> Result<Self> {
        ensure!(!access.is_empty(), "a client needs an access point");
        Ok(Self {
            identity,
            settings,
            access: Arc::new(Line::new(access.to_vec())?),
            lines: Mutex::default(),
            routes: Mutex::default(),
        })
    }

    fn request<T>(&self, message: T, timeout: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        self.sign(&mut request);
        request
    }

    fn sign<T>(&self, request: &mut Request<T>) {
        let metadata = request.metadata_mut();
        metadata.insert("x-mq-client-id", self.identity.client_id.parse().expect("client ids are ASCII"));
        metadata.insert("x-mq-language", tonic::metadata::MetadataValue::from_static("GO"));
        metadata.insert("x-mq-client-version", tonic::metadata::MetadataValue::from_static("5.1.2"));
        metadata.insert("x-mq-protocol", tonic::metadata::MetadataValue::from_static("v2"));
    }

    /// Makes one call over a line. A client-side timer ends it also when the server does not. An address that refuses
    /// the connection costs nothing: a channel goes on to its next address before it fails a call.
    async fn call<M: Clone, A, F: Future<Output = Result<A, Status>>>(
        &self,
        line: &Line,
        timeout: Duration,
        message: M,
        call: impl Fn(MessagingServiceClient<Channel>, Request<M>) -> F,
    ) -> Result<A, Failure> {
        let mut refused = 0;
        loop {
            let (at, channel) = line.channel();
            let stub = MessagingServiceClient::new(channel).max_decoding_message_size(64 << 20);
            let request = self.request(message.clone(), timeout);
            return match tokio::time::timeout(timeout, call(stub, request)).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(status)) => {
                    // A hung node answers nothing: the deadline says nothing about the connection.
                    if connection_lost(&status) {
                        line.lost(at);
                    }
                    refused += 1;
                    if connection_refused(&status) && refused < line.channels.len() {
                        continue;
                    }
                    Err(status.into())
                }
                Err(_) => Err(Failure::Transport(Code::DeadlineExceeded, format!("no answer within {timeout:?}"))),
            };
        }
    }

    /// The route of a topic, asked for anew when it is older than 30 s.
    ///
    /// # Errors
    ///
    /// No address of the access point answers with a route.
    pub async fn route(&self, topic: &str) -> Result<Arc<Route>, Failure> {
        if let Some(route) = self.routes.lock().expect("no holder panics").get(topic)
            && route.asked.elapsed() < Duration::from_secs(30)
        {
            return Ok(route.clone());
        }
        let mut last = None;
        for _ in 0..SEND_ATTEMPTS.max(self.access.addresses.len()) {
            match self.query_route(topic).await {
                Ok(route) => {
                    let route = Arc::new(route);
                    self.routes.lock().expect("no holder panics").insert(topic.to_string(), route.clone());
                    return Ok(route);
                }
                Err(failure @ Failure::Code(..)) => return Err(failure),
                Err(failure) => last = Some(failure),
            }
        }
        // An SDK whose refresh fails goes on with what it knows.
        if let Some(route) = self.routes.lock().expect("no holder panics").get(topic) {
            return Ok(route.clone());
        }
        Err(last.unwrap_or(Failure::Transport(Code::Unknown, "not tried".into())))
    }

    async fn query_route(&self, topic: &str) -> Result<Route, Failure> {
        let addresses = self.access.addresses.iter();
        let addresses =
            addresses.map(|address| pb::Address { host: address.ip().to_string(), port: address.port().into() });
        let endpoints = pb::Endpoints { scheme: pb::AddressScheme::IPv4 as i32, addresses: addresses.collect() };
        let request = pb::QueryRouteRequest { topic: Some(resource(topic)), endpoints: Some(endpoints) };
        let answer = self
            .call(&self.access, CALL_TIMEOUT, request, async |mut stub, request| stub.query_route(request).await)
            .await?
            .into_inner();
        Failure::from_status(answer.status.as_ref())?;
        let mut queues = Vec::new();
        for queue in answer.message_queues {
            let line = self
                .line(&queue)
                .map_err(|failure| Failure::Code(pb::Code::Unspecified, format!("unusable route: {failure:#}")))?;
            queues.push((queue, line));
        }
        if queues.is_empty() {
            return Err(Failure::Code(pb::Code::Unspecified, "a route without queues".into()));
        }
        let start = rand::random::<u16>().into();
        Ok(Route { queues, next: AtomicUsize::new(start), asked: Instant::now() })
    }

    fn line(&self, queue: &pb::MessageQueue) -> Result<Arc<Line>> {
        let endpoints = queue.broker.as_ref().and_then(|broker| broker.endpoints.as_ref());
        let endpoints = endpoints.context("a queue without endpoints")?;
        let addresses: Vec<SocketAddr> = endpoints
            .addresses
            .iter()
            .map(|address| Ok(format!("{}:{}", address.host, address.port).parse()?))
            .collect::<Result<_>>()?;
        let mut lines = self.lines.lock().expect("no holder panics");
        if let Some(line) = lines.get(&addresses) {
            return Ok(line.clone());
        }
        let line = Arc::new(Line::new(addresses.clone())?);
        lines.insert(addresses, line.clone());
        *line.telemetry.lock().expect("no holder panics") = Some(self.telemetry(&line));
        Ok(line)
    }

    /// Keeps settings known at a line's current address for as long as the line lives, and sends heartbeats.
    fn telemetry(&self, line: &Arc<Line>) -> JoinHandle<()> {
        let line = Arc::downgrade(line);
        let identity = self.identity.clone();
        let settings = self.settings.clone();
        let signed = |identity: &Identity, request: &mut Request<()>| {
            let metadata = request.metadata_mut();
            metadata.insert("x-mq-client-id", identity.client_id.parse().expect("client ids are ASCII"));
            metadata.insert("x-mq-language", tonic::metadata::MetadataValue::from_static("GO"));
            metadata.insert("x-mq-client-version", tonic::metadata::MetadataValue::from_static("5.1.2"));
        };
        tokio::spawn(async move {
            loop {
                let Some(held) = line.upgrade() else { return };
                let (_, channel) = held.channel();
                drop(held);
                let mut stub = MessagingServiceClient::new(channel);
                let (commands, outgoing) = mpsc::channel(4);
                let command = pb::TelemetryCommand {
                    status: None,
                    command: Some(pb::telemetry_command::Command::Settings(settings.clone())),
                };
                let _ = commands.send(command).await;
                let mut metadata = Request::new(());
                signed(&identity, &mut metadata);
                let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(outgoing));
                *request.metadata_mut() = metadata.metadata().clone();
                if let Ok(answer) = stub.telemetry(request).await {
                    let mut incoming = answer.into_inner();
                    let mut beats = tokio::time::interval(Duration::from_secs(10));
                    loop {
                        tokio::select! {
                            command = incoming.message() => match command {
                                Ok(Some(_)) => {}
                                Ok(None) | Err(_) => break,
                            },
                            _ = beats.tick() => {
                                let beat = pb::HeartbeatRequest {
                                    group: identity.group.as_deref().map(resource),
                                    client_type: identity.kind as i32,
                                };
                                let mut request = Request::new(beat);
                                *request.metadata_mut() = metadata.metadata().clone();
                                request.set_timeout(CALL_TIMEOUT);
                                let mut stub = stub.clone();
                                tokio::spawn(async move { drop(stub.heartbeat(request).await) });
                            }
                        }
                    }
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })
    }

    /// What the client calls itself.
    pub fn id(&self) -> &str {
        &self.identity.client_id
    }

    /// Tells every node this client used that it is gone.
    pub async fn terminate(&self) {
        let lines: Vec<Arc<Line>> = self.lines.lock().expect("no holder panics").values().cloned().collect();
        for line in lines {
            if let Some(telemetry) = line.telemetry.lock().expect("no holder panics").take() {
                telemetry.abort();
            }
            let request = pb::NotifyClientTerminationRequest { group: self.identity.group.as_deref().map(resource) };
            let call = async |mut stub: MessagingServiceClient<Channel>, request| {
                stub.notify_client_termination(request).await
            };
            let _ = self.call(&line, CALL_TIMEOUT, request, call).await;
        }
    }
}

/// An answer's status as an error, if it is one.
///
/// # Errors
///
/// It is not OK.
pub(crate) fn checked(status: Option<&pb::Status>) -> Result<(), Failure> {
    Failure::from_status(status)
}

/// The call failed in a way that is the connection's and not its own.
fn connection_lost(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
}

/// Nobody listens there: the call was never sent.
pub(crate) fn connection_refused(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = error.source();
    }
    false
}

fn settings(identity: &Identity, pub_sub: pb::settings::PubSub) -> pb::Settings {
    pb::Settings {
        client_type: Some(identity.kind as i32),
        request_timeout: Some(duration(CALL_TIMEOUT)),
        pub_sub: Some(pub_sub),
        user_agent: Some(pb::Ua {
            language: pb::Language::Golang as i32,
            version: "5.1.2".into(),
            platform: "test".into(),
            hostname: "test".into(),
        }),
        ..Default::default()
    }
}

/// As the wire has it.
pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 }
}

fn client_id(kind: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{kind}@{}@{number}@{:08x}", std::process::id(), rand::random::<u32>())
}

/// Sends messages.
pub struct Producer {
    client: Client,
}

/// A message that was stored.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The first one's, in its queue.
    pub offset: i64,
    /// Calls that were made for it.
    pub calls: usize,
    /// What the server said of each message.
    pub entries: Vec<pb::SendResultEntry>,
}

/// A send that was not answered OK in any attempt.
#[derive(Debug, Clone, thiserror::Error)]
#[error("not sent in {calls} calls: {last}")]
pub struct NotSent {
    /// Calls that were made for it; it may be stored all the same.
    pub calls: usize,
    /// What the last one said.
    pub last: Failure,
}

impl Producer {
    /// A producer for `topics` whose access point is `access`.
    ///
    /// # Errors
    ///
    /// `access` is empty.
    pub fn new(access: &[SocketAddr], topics: &[&str]) -> Result<Self> {
        let identity = Identity { client_id: client_id("producer"), group: None, kind: pb::ClientType::Producer };
        let publishing =
            pb::Publishing { topics: topics.iter().map(|topic| resource(topic)).collect(), ..Default::default() };
        let settings = settings(&identity, pb::settings::PubSub::Publishing(publishing));
        Ok(Self { client: Client::new(access, identity, settings)? })
    }

    /// What it shares with consumers.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends one NORMAL message as an SDK does: up to [`SEND_ATTEMPTS`] calls, each over another queue's endpoints.
    ///
    /// # Errors
    ///
    /// No call was answered OK.
    pub async fn send(&self, topic: &str, message_id: &str, tag: Option<&str>, body: Bytes) -> Result<Sent, NotSent> {
        let message = message(topic, message_id, tag, body);
        self.send_messages(topic, vec![message]).await
    }

    /// As [`Producer::send`] for messages made by the caller, which go in one call.
    ///
    /// # Errors
    ///
    /// No call was answered OK.
    pub async fn send_messages(&self, topic: &str, messages: Vec<pb::Message>) -> Result<Sent, NotSent> {
        let mut calls = 0;
        let mut tried = Vec::new();
        loop {
            calls += 1;
            let outcome = async {
                let route = self.client.route(topic).await?;
                let (queue, line) = route.take_untried(&tried);
                tried.push(broker_of(queue).to_string());
                let mut messages = messages.clone();
                for message in &mut messages {
                    if let Some(properties) = &mut message.system_properties {
                        properties.queue_id = queue.id;
                    }
                }
                let count = messages.len();
                let request = pb::SendMessageRequest { messages };
                let call = async |mut stub: MessagingServiceClient<Channel>, request| stub.send_message(request).await;
                let answer = self.client.call(line, CALL_TIMEOUT, request, call).await;
                let answer = match answer {
                    Ok(answer) => answer.into_inner(),
                    Err(failure) => {
                        line.isolate();
                        return Err(failure);
                    }
                };
                Failure::from_status(answer.status.as_ref())?;
                if answer.entries.len() != count {
                    let text = format!("{} entries for {count} messages", answer.entries.len());
                    return Err(Failure::Code(pb::Code::Unspecified, text));
                }
                Ok(answer.entries)
            };
            match outcome.await {
                Ok(entries) => {
                    let offset = entries.first().map_or(-1, |entry| entry.offset);
                    return Ok(Sent { offset, calls, entries });
                }
                Err(last) if calls >= SEND_ATTEMPTS => return Err(NotSent { calls, last }),
                // What the client did wrong does not get better.
                Err(last @ Failure::Code(code, _)) if (40_000..42_900).contains(&(code as i32)) => {
                    return Err(NotSent { calls, last });
                }
                Err(Failure::Code(pb::Code::TooManyRequests, _)) => {
                    tokio::time::sleep(Duration::from_millis(10 << calls)).await;
                }
                Err(_) => {}
            }
        }
    }
}

impl Producer {
    /// Commits a half message, or rolls it back; tried again when the server or the way to it failed.
    ///
    /// # Errors
    ///
    /// The answer is not OK, or there is none.
    pub async fn end(&self, topic: &str, half: &pb::SendResultEntry, commit: bool) -> Result<(), Failure> {
        let resolution = if commit { pb::TransactionResolution::Commit } else { pb::TransactionResolution::Rollback };
        let request = pb::EndTransactionRequest {
            topic: Some(resource(topic)),
            message_id: half.message_id.clone(),
            transaction_id: half.transaction_id.clone(),
            resolution: resolution.into(),
            source: pb::TransactionSource::SourceClient.into(),
            trace_context: String::new(),
        };
        let call =
            |mut stub: MessagingServiceClient<Channel>, request| async move { stub.end_transaction(request).await };
        self.ask_again(topic, ASK_ATTEMPTS, || request.clone(), call, |answer| answer.status).await
    }

    /// Takes a message back before its delivery time; tried again when the server or the way to it failed.
    ///
    /// # Errors
    ///
    /// The answer is not OK, or there is none.
    pub async fn recall(&self, topic: &str, recall_handle: &str) -> Result<(), Failure> {
        self.recall_within(topic, recall_handle, ASK_ATTEMPTS).await
    }

    /// As [`Producer::recall`] in at most `calls` calls: after a call that was not answered, a refusal of the next one
    /// says nothing about the first.
    ///
    /// # Errors
    ///
    /// As [`Producer::recall`].
    pub async fn recall_within(&self, topic: &str, recall_handle: &str, calls: usize) -> Result<(), Failure> {
        let request =
            pb::RecallMessageRequest { topic: Some(resource(topic)), recall_handle: recall_handle.to_owned() };
        let call =
            |mut stub: MessagingServiceClient<Channel>, request| async move { stub.recall_message(request).await };
        self.ask_again(topic, calls, || request.clone(), call, |answer| answer.status).await
    }

    async fn ask_again<M: Clone, A, F: Future<Output = Result<tonic::Response<A>, Status>>>(
        &self,
        topic: &str,
        calls: usize,
        request: impl Fn() -> M,
        call: impl Fn(MessagingServiceClient<Channel>, Request<M>) -> F,
        status: impl Fn(A) -> Option<pb::Status>,
    ) -> Result<(), Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = async {
                let route = self.client.route(topic).await?;
                let (_, line) = route.take();
                let answer = self.client.call(line, CALL_TIMEOUT, request(), &call).await;
                let answer = answer.inspect_err(|_| line.isolate())?;
                Failure::from_status(status(answer.into_inner()).as_ref())
            };
            match outcome.await {
                Ok(()) => return Ok(()),
                Err(failure) if tries >= calls || !failure.may_pass() => return Err(failure),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// A NORMAL message.
pub fn message(topic: &str, message_id: &str, tag: Option<&str>, body: Bytes) -> pb::Message {
    pb::Message {
        topic: Some(resource(topic)),
        user_properties: Default::default(),
        system_properties: Some(pb::SystemProperties {
            tag: tag.map(str::to_string),
            message_id: message_id.to_string(),
            message_type: pb::MessageType::Normal as i32,
            body_encoding: pb::Encoding::Identity as i32,
            born_timestamp: Some(std::time::SystemTime::now().into()),
            born_host: "test".into(),
            ..Default::default()
        }),
        body,
    }
}

/// Receives, acknowledges, and changes leases.
pub struct Consumer {
    client: Client,
    group: String,
    expression: String,
    auto_renew: bool,
}

/// A message in a client's hands.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// As it was received.
    pub message: pb::Message,
    /// Just before the receive call that brought it.
    pub called: Instant,
    /// Just after.
    pub received: Instant,
    /// Name of the broker group that the queue asked belongs to.
    pub broker: String,
    /// Of the lease; the server's choice when auto-renewed.
    pub invisible: Duration,
}

impl Delivery {
    fn properties(&self) -> &pb::SystemProperties {
        static NONE: std::sync::LazyLock<pb::SystemProperties> = std::sync::LazyLock::new(Default::default);
        self.message.system_properties.as_ref().unwrap_or(&NONE)
    }

    /// The sender's id of it.
    pub fn message_id(&self) -> &str {
        &self.properties().message_id
    }

    /// What acknowledges it.
    pub fn handle(&self) -> &str {
        self.properties().receipt_handle.as_deref().unwrap_or_default()
    }

    /// The same with the handle that a change of its lease gave.
    #[must_use]
    pub fn with_handle(&self, handle: String) -> Self {
        let mut changed = self.clone();
        changed.message.system_properties.get_or_insert_default().receipt_handle = Some(handle);
        changed
    }

    /// 1 for the first delivery.
    pub fn attempt(&self) -> i32 {
        self.properties().delivery_attempt.unwrap_or_default()
    }

    /// Where it is stored: broker group, queue, offset.
    pub fn place(&self) -> (String, i32, i64) {
        (self.broker.clone(), self.properties().queue_id, self.properties().queue_offset.unwrap_or(-1))
    }

    /// Its topic.
    pub fn topic(&self) -> &str {
        self.message.topic.as_ref().map(|topic| topic.name.as_str()).unwrap_or_default()
    }
}

impl Consumer {
    /// A simple consumer, or one that asks for auto-renewal as push consumers do.
    ///
    /// # Errors
    ///
    /// `access` is empty.
    pub fn new(access: &[SocketAddr], group: &str, topic: &str, expression: &str, auto_renew: bool) -> Result<Self> {
        let kind = if auto_renew { pb::ClientType::PushConsumer } else { pb::ClientType::SimpleConsumer };
        let identity = Identity { client_id: client_id("consumer"), group: Some(group.to_string()), kind };
        let subscription = pb::Subscription {
            group: Some(resource(group)),
            subscriptions: vec![pb::SubscriptionEntry {
                topic: Some(resource(topic)),
                expression: Some(filter(expression)),
            }],
            ..Default::default()
        };
        let settings = settings(&identity, pb::settings::PubSub::Subscription(subscription));
        let client = Client::new(access, identity, settings)?;
        Ok(Self { client, group: group.to_string(), expression: expression.to_string(), auto_renew })
    }

    /// What it shares with producers.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Makes the consumer group known by a receive that is broken off: from then on it exists, whatever the broker's
    /// rule for new groups is. There must be nothing to receive yet.
    pub async fn join(&self, topic: &str) {
        let receive = self.receive(topic, 1, Duration::from_secs(10), POLL_MIN);
        let _ = tokio::time::timeout(Duration::from_millis(300), receive).await;
    }

    /// One receive from the topic's next queue: up to `batch` messages, waiting up to `wait` for the first.
    ///
    /// # Errors
    ///
    /// The call failed, or was answered with another code than OK or MESSAGE_NOT_FOUND.
    pub async fn receive(
        &self,
        topic: &str,
        batch: i32,
        invisible: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>, Failure> {
        let route = self.client.route(topic).await?;
        let (queue, line) = route.take();
        let request = pb::ReceiveMessageRequest {
            group: Some(resource(&self.group)),
            message_queue: Some(queue.clone()),
            filter_expression: Some(filter(&self.expression)),
            batch_size: batch,
            invisible_duration: (!self.auto_renew).then(|| duration(invisible)),
            auto_renew: self.auto_renew,
            long_polling_timeout: Some(duration(wait)),
            attempt_id: None,
        };
        // A poll shorter than the server's minimum is made as long as that.
        let timeout = wait.max(POLL_MIN) + CALL_TIMEOUT;
        let called = Instant::now();
        let parts = self
            .client
            .call(line, timeout, request, async |mut stub, request| {
                let mut stream = stub.receive_message(request).await?.into_inner();
                let mut parts = Vec::new();
                while let Some(part) = stream.message().await? {
                    parts.push(part);
                }
                Ok(parts)
            })
            .await;
        let parts = match parts {
            Ok(parts) => parts,
            Err(failure) => {
                line.isolate();
                return Err(failure);
            }
        };
        let received = Instant::now();
        let broker = broker_of(queue).to_string();
        let mut deliveries = Vec::new();
        for part in parts {
            match part.content {
                Some(pb::receive_message_response::Content::Status(status))
                    if status.code == pb::Code::MessageNotFound as i32 => {}
                Some(pb::receive_message_response::Content::Status(status)) => Failure::from_status(Some(&status))?,
                Some(pb::receive_message_response::Content::Message(message)) => {
                    deliveries.push(Delivery { message, called, received, broker: broker.clone(), invisible });
                }
                Some(pb::receive_message_response::Content::DeliveryTimestamp(_)) | None => {}
            }
        }
        Ok(deliveries)
    }

    /// Acknowledges one message; tried again when the server or the way to it failed, as SDKs do for
    /// push consumers.
    ///
    /// # Errors
    ///
    /// The entry's code is not OK, or no try was answered.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), Failure> {
        self.ack_handle(delivery, delivery.handle()).await
    }

    /// As [`Consumer::ack`] with any handle, sent to the broker group that delivered the message.
    ///
    /// # Errors
    ///
    /// As [`Consumer::ack`].
    pub async fn ack_handle(&self, delivery: &Delivery, handle: &str) -> Result<(), Failure> {
        let topic = delivery.topic();
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = async {
                let route = self.client.route(topic).await?;
                let (_, line) = route.take_of(&delivery.broker);
                let request = pb::AckMessageRequest {
                    group: Some(resource(&self.group)),
                    topic: Some(resource(topic)),
                    entries: vec![pb::AckMessageEntry {
                        message_id: delivery.message_id().to_string(),
                        receipt_handle: handle.to_string(),
                        lite_topic: None,
                    }],
                };
                let call = async |mut stub: MessagingServiceClient<Channel>, request| stub.ack_message(request).await;
                let answer = self.client.call(line, CALL_TIMEOUT, request, call).await;
                let answer = match answer {
                    Ok(answer) => answer.into_inner(),
                    Err(failure) => {
                        line.isolate();
                        return Err(failure);
                    }
                };
                match answer.entries.first() {
                    Some(entry) => Failure::from_status(entry.status.as_ref()),
                    None => Failure::from_status(answer.status.as_ref()),
                }
            };
            match outcome.await {
                Ok(()) => return Ok(()),
                Err(failure) if tries >= 5 || !failure.may_pass() => return Err(failure),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Sets when an unacknowledged message comes back, counted from now, and returns the handle that replaces the old.
    ///
    /// # Errors
    ///
    /// The answer is not OK, or there is none.
    pub async fn change_invisible(&self, delivery: &Delivery, invisible: Duration) -> Result<String, Failure> {
        let route = self.client.route(delivery.topic()).await?;
        let (_, line) = route.take_of(&delivery.broker);
        let request = pb::ChangeInvisibleDurationRequest {
            group: Some(resource(&self.group)),
            topic: Some(resource(delivery.topic())),
            receipt_handle: delivery.handle().to_string(),
            invisible_duration: Some(duration(invisible)),
            message_id: delivery.message_id().to_string(),
            lite_topic: None,
            suspend: None,
        };
        let answer = self
            .client
            .call(line, CALL_TIMEOUT, request, async |mut stub, request| stub.change_invisible_duration(request).await)
            .await?
            .into_inner();
        Failure::from_status(answer.status.as_ref())?;
        Ok(answer.receipt_handle)
    }
}

/// Tags, or SQL92 behind the word `sql`.
pub fn filter(expression: &str) -> pb::FilterExpression {
    let (kind, text) = match expression.strip_prefix("sql ") {
        Some(text) => (pb::FilterType::Sql, text),
        None => (pb::FilterType::Tag, expression),
    };
    pb::FilterExpression { r#type: kind.into(), expression: text.to_string() }
}

/// Repeats `attempt` until it says yes.
///
/// # Errors
///
/// It did not within `limit`.
pub async fn eventually(what: &str, limit: Duration, mut attempt: impl AsyncFnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !attempt().await {
        if Instant::now() > deadline {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
