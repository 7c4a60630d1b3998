//! What producers and consumers of an emulated client have in common: channels to lists of addresses, a telemetry stream
//! and heartbeats on each, settings, and routes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use raftmq_proto::rocketmq::{
    self as pb, messaging_service_client::MessagingServiceClient, telemetry_command::Command,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use super::{Habits, REQUEST_TIMEOUT};
pub use crate::client::Failure;
use crate::{client, load::resource};

const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
const FIRST_HEARTBEAT: Duration = Duration::from_secs(1);
const ROUTE_EVERY: Duration = Duration::from_secs(30);

/// The largest message of a call: a body of 4 MiB and what is beside it.
type Stub = MessagingServiceClient<Channel>;

/// What a half message's producer answers when it is asked about it.
pub type Checker = Arc<dyn Fn(&pb::Message) -> pb::TransactionResolution + Send + Sync>;

/// A list of addresses and the channels to them; one is in use, and gives way to the next when its connection fails.
pub struct Link {
    endpoints: pb::Endpoints,
    channels: Vec<Channel>,
    at: AtomicUsize,
    /// A send failed here, and no heartbeat succeeded since.
    isolated: Mutex<bool>,
}

impl Link {
    fn new(endpoints: pb::Endpoints, habits: &Habits) -> Result<Self> {
        let used = if habits.first_address_only { 1 } else { endpoints.addresses.len() };
        ensure!(used > 0, "a list without addresses");
        let channels = endpoints.addresses[..used].iter().map(|address| {
            let mut endpoint = Endpoint::from_shared(format!("http://{}:{}", address.host, address.port))?
                .connect_timeout(Duration::from_secs(1))
                .tcp_nodelay(true);
            if let Some(every) = habits.keep_alive {
                let patience = Duration::from_secs(3);
                endpoint =
                    endpoint.http2_keep_alive_interval(every).keep_alive_timeout(patience).keep_alive_while_idle(true);
            }
            Ok(endpoint.connect_lazy())
        });
        let channels = channels.collect::<Result<_>>()?;
        Ok(Self { endpoints, channels, at: AtomicUsize::new(0), isolated: Mutex::new(false) })
    }

    /// No send goes here while there is another link, until a heartbeat succeeds.
    pub fn isolate(&self) {
        *self.isolated.lock().expect("no holder panics") = true;
    }

    /// Whether sends avoid it.
    pub fn is_isolated(&self) -> bool {
        *self.isolated.lock().expect("no holder panics")
    }
}

/// A queue of a route, and the link to its broker.
pub type Queue = (pb::MessageQueue, Arc<Link>);

/// A client that started.
pub struct Session {
    /// What it does otherwise than others.
    pub habits: &'static Habits,
    /// Its consumer group; none for a producer.
    pub group: Option<String>,
    kind: pb::ClientType,
    client_id: String,
    own: pb::Settings,
    access: Arc<Link>,
    links: Mutex<HashMap<String, Arc<Link>>>,
    routes: Mutex<HashMap<String, (Instant, Arc<Vec<Queue>>)>>,
    settings: watch::Sender<Option<pb::Settings>>,
    checker: Option<Checker>,
    next_queue: AtomicUsize,
}

/// Who a session is for.
pub struct Role {
    /// Kind of client.
    pub kind: pb::ClientType,
    /// Consumer group; none for a producer.
    pub group: Option<String>,
    /// What goes into its settings.
    pub pub_sub: pb::settings::PubSub,
    /// What it says about half messages that it left open.
    pub checker: Option<Checker>,
}

impl Session {
    /// Opens a session at the access point, waits for settings as this client does, and asks for the routes of `topics`.
    ///
    /// # Errors
    ///
    /// The access point is no list of addresses, or a topic has no route.
    pub async fn start(habits: &'static Habits, access: &str, role: Role, topics: &[&str]) -> Result<Arc<Self>> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let addresses = access.split([';', ',']).map(|address| {
            let (host, port) = address.rsplit_once(':').context("an address has a port")?;
            Ok(pb::Address { host: host.to_string(), port: port.parse()? })
        });
        let endpoints =
            pb::Endpoints { scheme: pb::AddressScheme::IPv4.into(), addresses: addresses.collect::<Result<_>>()? };
        let own = pb::Settings {
            client_type: Some(role.kind.into()),
            access_point: Some(endpoints.clone()),
            request_timeout: Some(client::duration(REQUEST_TIMEOUT)),
            pub_sub: Some(role.pub_sub),
            user_agent: Some(pb::Ua {
                language: habits.agent.into(),
                version: habits.version.into(),
                platform: "test".into(),
                hostname: "localhost".into(),
            }),
            ..Default::default()
        };
        let session = Arc::new(Self {
            habits,
            group: role.group,
            kind: role.kind,
            client_id: (habits.client_id)(NUMBER.fetch_add(1, Ordering::Relaxed)),
            own,
            access: Arc::new(Link::new(endpoints, habits)?),
            links: Mutex::default(),
            routes: Mutex::default(),
            settings: watch::Sender::new(None),
            checker: role.checker,
            next_queue: AtomicUsize::new(0),
        });
        session.keep(&session.access);
        let mut known = session.settings.subscribe();
        let settled = known.wait_for(Option::is_some);
        match habits.settings_within {
            Some(limit) => drop(tokio::time::timeout(limit, settled).await),
            None => drop(settled.await?),
        }
        for topic in topics {
            session.route(topic).await?;
        }
        Ok(session)
    }

    /// Telemetry and heartbeats over a link, for as long as the session lives.
    fn keep(self: &Arc<Self>, link: &Arc<Link>) {
        let (session, kept) = (Arc::downgrade(self), link.clone());
        tokio::spawn(async move {
            while let Some(session) = session.upgrade() {
                if let Err(failure) = session.listen(&kept).await {
                    eprintln!("telemetry: {failure}");
                }
                let Some(again) = session.habits.telemetry_again else { return };
                drop(session);
                tokio::time::sleep(again).await;
            }
        });
        let (session, kept) = (Arc::downgrade(self), link.clone());
        tokio::spawn(async move {
            tokio::time::sleep(FIRST_HEARTBEAT).await;
            while let Some(session) = session.upgrade() {
                let group = session.group.as_deref().map(resource);
                let request = pb::HeartbeatRequest { group, client_type: session.kind.into() };
                let call = async |mut stub: Stub, request| stub.heartbeat(request).await;
                let answer = session.call(&kept, REQUEST_TIMEOUT, request, call).await;
                if answer.is_ok_and(|answer| client::checked(answer.into_inner().status.as_ref()).is_ok()) {
                    *kept.isolated.lock().expect("no holder panics") = false;
                }
                drop(session);
                tokio::time::sleep(HEARTBEAT_EVERY).await;
            }
        });
    }

    /// One telemetry stream until it ends.
    async fn listen(self: &Arc<Self>, link: &Link) -> Result<(), Failure> {
        let (commands, outgoing) = mpsc::channel(4);
        let first = pb::TelemetryCommand { status: None, command: Some(Command::Settings(self.own.clone())) };
        let _ = commands.send(first).await;
        let channel = link.channels[link.at.load(Ordering::Relaxed)].clone();
        let request = self.request(ReceiverStream::new(outgoing), self.habits.telemetry_for);
        let opened = self.stub(channel).telemetry(request).await;
        let mut incoming = opened
            .inspect_err(|_| {
                let _ = link.at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| link.after(at));
            })?
            .into_inner();
        while let Some(command) = incoming.message().await? {
            match command.command {
                Some(Command::Settings(settings)) => self.settle(command.status.as_ref(), settings)?,
                Some(Command::RecoverOrphanedTransactionCommand(asked)) => self.recover(link, asked).await?,
                _ => {}
            }
        }
        Ok(())
    }

    fn settle(&self, status: Option<&pb::Status>, settings: pb::Settings) -> Result<(), Failure> {
        client::checked(status)?;
        self.settings.send_replace(Some(settings));
        Ok(())
    }

    async fn recover(&self, link: &Link, asked: pb::RecoverOrphanedTransactionCommand) -> Result<(), Failure> {
        let (Some(checker), Some(message)) = (&self.checker, asked.message) else { return Ok(()) };
        let request = pb::EndTransactionRequest {
            message_id: message.system_properties.clone().unwrap_or_default().message_id,
            resolution: checker(&message).into(),
            topic: message.topic,
            transaction_id: asked.transaction_id,
            source: pb::TransactionSource::SourceServerCheck.into(),
            trace_context: String::new(),
        };
        let call = async |mut stub: Stub, request| stub.end_transaction(request).await;
        let answer = self.call(link, REQUEST_TIMEOUT, request, call).await?;
        client::checked(answer.into_inner().status.as_ref())
    }

    /// What the broker said last, or what this client told it.
    pub fn settings(&self) -> pb::Settings {
        self.settings.borrow().clone().unwrap_or_else(|| self.own.clone())
    }

    fn stub(&self, channel: Channel) -> Stub {
        MessagingServiceClient::new(channel)
            .max_decoding_message_size(self.habits.receive_bytes_max)
            .max_encoding_message_size(usize::MAX)
    }

    fn request<T>(&self, message: T, timeout: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        let metadata = request.metadata_mut();
        let mut put = |name: &'static str, value: &str| {
            metadata.insert(name, MetadataValue::try_from(value).expect("what a client says of itself is ASCII"));
        };
        put("x-mq-client-id", &self.client_id);
        put("x-mq-language", self.habits.language);
        put("x-mq-client-version", self.habits.version);
        put("x-mq-namespace", "");
        put("x-mq-request-id", &format!("{:032x}", rand::random::<u128>()));
        if let Some((name, value)) = self.habits.protocol {
            put(name, value);
        }
        request
    }

    /// Makes one call over a link. Where nobody listens at an address, the next is tried first.
    ///
    /// # Errors
    ///
    /// There is no answer.
    pub async fn call<M: Clone, A>(
        &self,
        link: &Link,
        timeout: Duration,
        message: M,
        call: impl AsyncFn(Stub, Request<M>) -> Result<A, Status>,
    ) -> Result<A, Failure> {
        let mut tried = 0;
        loop {
            let at = link.at.load(Ordering::Relaxed);
            let stub = self.stub(link.channels[at].clone());
            tried += 1;
            match tokio::time::timeout(timeout, call(stub, self.request(message.clone(), timeout))).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => {
                    // A deadline that passed moves nothing: the connection may be good.
                    if matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Internal)
                    {
                        let next = link.after(at).unwrap_or(at);
                        let _ = link.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
                    }
                    if !(client::connection_refused(&status) && tried < link.channels.len()) {
                        return Err(status.into());
                    }
                }
                Err(_) => {
                    let text = format!("no answer within {timeout:?}");
                    return Err(Failure::Transport(tonic::Code::DeadlineExceeded, text));
                }
            }
        }
    }

    /// A topic's queues at masters, asked for anew when they are older than 30 s; the old ones if that fails.
    ///
    /// # Errors
    ///
    /// The topic has no route, or one that such a client takes for a mistake.
    pub async fn route(self: &Arc<Self>, topic: &str) -> Result<Arc<Vec<Queue>>, Failure> {
        let known = self.routes.lock().expect("no holder panics").get(topic).cloned();
        if let Some((asked, queues)) = &known
            && asked.elapsed() < ROUTE_EVERY
        {
            return Ok(queues.clone());
        }
        match (self.query_route(topic).await, known) {
            (Ok(queues), _) => {
                let queues = Arc::new(queues);
                let kept = (Instant::now(), queues.clone());
                self.routes.lock().expect("no holder panics").insert(topic.to_string(), kept);
                Ok(queues)
            }
            (Err(Failure::Transport(..)), Some((_, queues))) => Ok(queues),
            (Err(failure), _) => Err(failure),
        }
    }

    async fn query_route(self: &Arc<Self>, topic: &str) -> Result<Vec<Queue>, Failure> {
        let endpoints = Some(self.access.endpoints.clone());
        let request = pb::QueryRouteRequest { topic: Some(resource(topic)), endpoints };
        let call = async |mut stub: Stub, request| stub.query_route(request).await;
        let mut tries = 0;
        let answer = loop {
            tries += 1;
            match self.call(&self.access, REQUEST_TIMEOUT, request.clone(), call).await {
                Ok(answer) => break answer.into_inner(),
                Err(failure) if tries >= 3 => return Err(failure),
                // A client looks for its route at whatever broker it knows.
                Err(_) => {
                    if let Some(answer) = self.query_elsewhere(&request).await {
                        break answer;
                    }
                }
            }
        };
        client::checked(answer.status.as_ref())?;
        let unusable = |what: &str| Failure::Code(pb::Code::Unspecified, format!("unusable route: {what}"));
        let masters =
            answer.message_queues.into_iter().filter(|queue| queue.broker.as_ref().is_some_and(|b| b.id == 0));
        let mut queues = Vec::new();
        for queue in masters {
            if queue.topic.as_ref().is_none_or(|named| named.name != topic) {
                return Err(unusable("it names another topic"));
            }
            let link = self.link(&queue).map_err(|failure| unusable(&format!("{failure:#}")))?;
            queues.push((queue, link));
        }
        if queues.is_empty() { Err(unusable("no master")) } else { Ok(queues) }
    }

    async fn query_elsewhere(&self, request: &pb::QueryRouteRequest) -> Option<pb::QueryRouteResponse> {
        let links: Vec<_> = self.links.lock().expect("no holder panics").values().cloned().collect();
        for link in links {
            let call = async |mut stub: Stub, request| stub.query_route(request).await;
            if let Ok(answer) = self.call(&link, REQUEST_TIMEOUT, request.clone(), call).await {
                return Some(answer.into_inner());
            }
        }
        None
    }

    /// The link to a queue's broker. A list of addresses that is new gets a session of its own.
    ///
    /// # Errors
    ///
    /// The queue has no usable addresses.
    pub fn link(self: &Arc<Self>, queue: &pb::MessageQueue) -> Result<Arc<Link>> {
        let endpoints = queue.broker.as_ref().and_then(|broker| broker.endpoints.clone()).context("no endpoints")?;
        let domain = endpoints.scheme() == pb::AddressScheme::DomainName;
        ensure!(!domain || endpoints.addresses.len() == 1, "several domain names");
        let name = format!("{endpoints:?}");
        let mut links = self.links.lock().expect("no holder panics");
        if let Some(link) = links.get(&name) {
            return Ok(link.clone());
        }
        let link = Arc::new(Link::new(endpoints, self.habits)?);
        links.insert(name, link.clone());
        drop(links);
        self.keep(&link);
        Ok(link)
    }

    /// The queues that a consumer is assigned, asked from the access point if it is one of the topic's brokers.
    ///
    /// # Errors
    ///
    /// The call failed.
    pub async fn assignments(self: &Arc<Self>, topic: &str) -> Result<Vec<Queue>, Failure> {
        let route = self.route(topic).await?;
        let access = route.iter().find(|(_, link)| link.endpoints == self.access.endpoints);
        let asked = access.or_else(|| self.turn(&route)).map_or(&self.access, |(_, link)| link);
        let request = pb::QueryAssignmentRequest {
            topic: Some(resource(topic)),
            group: self.group.as_deref().map(resource),
            endpoints: Some(self.access.endpoints.clone()),
        };
        let call = async |mut stub: Stub, request| stub.query_assignment(request).await;
        let answer = self.call(asked, REQUEST_TIMEOUT, request, call).await?.into_inner();
        client::checked(answer.status.as_ref())?;
        let mut queues = Vec::new();
        for queue in answer.assignments.into_iter().filter_map(|assignment| assignment.message_queue) {
            let failure = |error: anyhow::Error| Failure::Code(pb::Code::Unspecified, format!("{error:#}"));
            let link = self.link(&queue).map_err(failure)?;
            queues.push((queue, link));
        }
        Ok(queues)
    }

    /// The next of some queues.
    pub fn turn<'q>(&self, queues: &'q [Queue]) -> Option<&'q Queue> {
        let number = self.next_queue.fetch_add(1, Ordering::Relaxed);
        queues.get(number % queues.len().max(1))
    }

    /// Says to every broker that it goes, if this client does.
    pub async fn terminate(&self) {
        if !self.habits.terminates {
            return;
        }
        let links: Vec<_> = self.links.lock().expect("no holder panics").values().cloned().collect();
        for link in links {
            let request = pb::NotifyClientTerminationRequest { group: self.group.as_deref().map(resource) };
            let call = async |mut stub: Stub, request| stub.notify_client_termination(request).await;
            if let Err(failure) = self.call(&link, REQUEST_TIMEOUT, request, call).await {
                eprintln!("termination: {failure}");
            }
        }
    }
}

impl Link {
    fn after(&self, at: usize) -> Option<usize> {
        Some((at + 1) % self.channels.len())
    }
}
