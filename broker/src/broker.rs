//! Builds the parts of a broker node, owns their tasks and the order in which they stop.

use crate::access::{self, Access};
use crate::admin::{AdminService, Traffic};
use crate::agreement::Agreement;
use crate::apply::{Applier, Origin, Outlets};
use crate::client::Registry;
use crate::client::streams::Streams;
use crate::client::{reconnect, relay};
use crate::clock::{ClusterClock, system_clock};
use crate::config::{BrokerConfig, FlushDiskType};
use crate::deliver::confirm::{self, Deliveries};
use crate::deliver::wait::Waiters;
use crate::forward::{FORWARD_MESSAGE_BYTES_MAX, ForwardService, Merger};
use crate::grpc;
use crate::live::Live;
use crate::machine::OPEN_TOPICS;
use crate::metrics::{self, Counters};
use crate::namesrv::Reporter;
use crate::propose::Proposer;
use crate::rate::Rates;
use crate::room::SendGate;
use crate::spans::{self, Tracer};
use crate::store;
use crate::task::{self, Builds, Paces, TrimsAsked, Uses};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use raft_store::{
    Dial, FlushMode, NodeAddresses, NodeId, PeerSecret, PeerStream, RaftConfig, RaftGroup, RuntimeMode, peer_server,
};
use raftmq_proto::forward::forward_server::ForwardServer;
use raftmq_proto::forward::{
    ClientsRequest, ClientsResponse, RelayRequest, RelayResponse, ReportRequest, ReportResponse,
};
use raftmq_server::cluster_tls::ClusterTlsFiles;
use raftmq_server::dial::Dialer;
use raftmq_server::listener::{BindError, Listener, ListenerOptions, Tls};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

/// Calls that are under way when a node stops have this long to end.
const DRAIN: Duration = Duration::from_secs(3);

/// What a node that stops has given to its clients is confirmed within this.
const CONFIRM: Duration = Duration::from_secs(1);

/// A port that is not free yet is tried again after this.
const RESERVE_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What every handler and task of a node shares.
pub struct Node {
    /// As read at start. What may change meanwhile is looked up in [`Node::settings`].
    pub config: Arc<BrokerConfig>,
    pub(crate) live: Live,
    /// The Raft group that this node is a member of.
    pub group: RaftGroup,
    /// The door to it.
    pub proposer: Proposer,
    /// Long polls that wait for messages.
    pub waiters: Waiters,
    /// Messages on their way to push consumers.
    pub(crate) deliveries: Deliveries,
    /// Who is alive.
    pub registry: Arc<Registry>,
    /// The clients' streams that end here.
    pub(crate) streams: Arc<Streams>,
    /// Room for what other members have for this node's clients.
    pub(crate) relays: relay::Room,
    /// Cluster time.
    pub clock: Arc<ClusterClock>,
    /// Whether there is room for messages.
    pub(crate) gate: Arc<SendGate>,
    /// How fast messages may be sent.
    pub(crate) rates: Arc<Rates>,
    /// Which versions of commands the members know.
    pub(crate) builds: Builds,
    /// How fast the disks of the group are.
    pub(crate) paces: Paces,
    /// What the logs of the group take of their disks.
    pub(crate) uses: Uses,
    /// Trims that the leader is asked for.
    pub(crate) trims_asked: TrimsAsked,
    /// Who may do what.
    pub(crate) access: Arc<Access>,
    /// What the name servers are told, and what they told about other broker groups.
    pub reporter: Reporter,
    /// What is counted for whoever asks.
    pub(crate) counters: Counters,
    /// Spans of what is traced.
    pub(crate) tracer: Tracer,
    /// When it started.
    pub(crate) started: Instant,
    /// Work that outlives the call that began it: long polls, client streams, messages given back.
    pub calls: TaskTracker,
    /// Cancelled when the node stops: long polls and client streams end.
    pub closing: CancellationToken,
    pub(crate) outlets: Arc<Outlets>,
}

impl Node {
    /// The configuration as it is in effect now.
    pub(crate) fn settings(&self) -> Arc<BrokerConfig> {
        self.live.now()
    }
}

/// Bound ports of a node, in the order of `Addresses`.
pub struct Listeners {
    /// `grpcServerPort`.
    pub grpc: Listener,
    /// `listenPort`.
    pub admin: Listener,
    /// The own entry in `dLegerPeers`.
    pub peer: Listener,
    /// `metricsPromExporterPort`; `None` where nobody wants it, or another node of this machine has it.
    pub metrics: Option<Listener>,
    /// The way to the other nodes, with the certificate that these ports show them.
    pub dialer: Dialer,
}

impl Listeners {
    /// Binds every port that the configuration names, before any work is done.
    ///
    /// # Errors
    /// The port that is taken and its key, or a certificate that cannot be used.
    pub fn bind(config: &BrokerConfig) -> anyhow::Result<Listeners> {
        let tls = match &config.tls_files {
            Some((certificate, key)) => Tls::from_files(certificate, key)?,
            None => Tls::self_signed([config.addresses.host.clone(), "localhost".to_owned()])?,
        };
        let cluster = config.cluster_tls.clone().map(ClusterTlsFiles::load).transpose()?;
        let at = |port: u16| SocketAddr::new(config.addresses.bind, port);
        let clients = ListenerOptions::new("grpcServerPort").with_tls(tls).with_members(cluster.as_ref());
        let inside = |name| ListenerOptions::new(name).for_members(cluster.as_ref());
        Ok(Listeners {
            grpc: Listener::reserve(at(config.addresses.grpc_port), clients)?,
            admin: Listener::bind(at(config.addresses.admin_port), inside("listenPort"))?,
            peer: Listener::bind(at(config.addresses.peer_port), inside("dLegerPeers"))?,
            metrics: Self::bind_metrics(config)?,
            dialer: Dialer::new(cluster),
        })
    }

    fn bind_metrics(config: &BrokerConfig) -> Result<Option<Listener>, BindError> {
        let Some(wanted) = &config.metrics else { return Ok(None) };
        let options = ListenerOptions::new("metricsPromExporterPort").with_http1();
        match Listener::bind(SocketAddr::new(config.addresses.bind, wanted.port), options) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if wanted.may_fail => {
                tracing::warn!(
                    "{error}; without it nobody can ask this node for metrics or its health; 0 turns it off"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Node {
    /// Whether a topic that is made is open until the broker groups have agreed who keeps its message groups: where there
    /// are name servers, which others may be known by.
    pub(crate) fn makes_open_topics(&self) -> bool {
        self.proposer.version() >= OPEN_TOPICS && !self.config.name_servers.is_empty()
    }
}

/// A running broker node.
pub struct Broker {
    /// What its parts share.
    pub node: Arc<Node>,
    /// Ends the proposer, the tasks and the peer port.
    rest: CancellationToken,
    door_tasks: TaskTracker,
    rest_tasks: TaskTracker,
}

impl Broker {
    /// Starts a node on listeners that are bound already. It returns when peers and administrators are answered.
    /// Clients are refused their connections while the node has no vote in its group: they go on to another member,
    /// where a node that is none, or is being filled, would let each of their calls run into its deadline.
    ///
    /// # Errors
    /// What is wrong with the store, the identity or the certificate, and what to do about it.
    pub async fn start(config: BrokerConfig, listeners: Listeners) -> anyhow::Result<Broker> {
        let config = Arc::new(config);
        // Before anything is opened: with a file that cannot be used the program does not start.
        let figures_to = config.export.as_ref().map(metrics::Export::connect).transpose()?;
        let spans_to = config.traces.as_ref().map(spans::TraceConfig::connect).transpose()?.flatten();
        let clock = Arc::new(ClusterClock::new(system_clock));
        let (tracer, spans) = config.traces.as_ref().map(Tracer::new).unzip();
        let tracer = tracer.unwrap_or_default();
        let proposer = Proposer::new(config.propose.clone(), clock.clone(), tracer.clone());
        let gate = Arc::new(SendGate::default());
        let waiters = Waiters::new(config.grpc.long_polls_max);
        let streams: Arc<Streams> = Arc::default();
        let access = Arc::new(Access::new(config.access.clone()));
        let rates = Arc::new(Rates::new(config.grpc.client_rate, access.clone()));
        let merger =
            Arc::new(Merger::new(config.merge.clone(), clock.clone(), gate.clone(), rates.clone(), tracer.clone()));
        let registry = Arc::<Registry>::default();
        let outlets = Arc::new(Outlets {
            origin: OnceLock::new(),
            proposer: proposer.clone(),
            merger: merger.clone(),
            clock: clock.clone(),
            gate: gate.clone(),
            waiters: waiters.clone(),
            streams: streams.clone(),
            registry: registry.clone(),
            access: access.clone(),
            due: Notify::new(),
            catalog_changed: Notify::new(),
            check_wanted: Notify::new(),
            agreement: Agreement::default(),
            traffic: Traffic::default(),
            consequences: Mutex::default(),
            follows: Notify::new(),
        });
        let applier = Applier::new(config.versions.clone(), outlets.clone());
        let (group, peers) =
            RaftGroup::start(raft_config(&config, &listeners.dialer), raft_store::disk::from_env(), applier).await?;
        proposer.encode_by(store::machine::version(&group.state())?);
        outlets.origin.get_or_init(|| Origin { node: group.node(), boot: group.boot() });

        let reporter =
            Reporter::new(config.name_servers.clone(), config.access.inner.clone(), listeners.dialer.clone());
        let (calls, closing, rest) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let node = Arc::new(Node {
            live: Live::new(config.clone()),
            config,
            group,
            proposer,
            waiters,
            deliveries: Deliveries::default(),
            registry,
            streams,
            relays: relay::Room::default(),
            clock,
            gate,
            rates,
            builds: Builds::default(),
            paces: Paces::default(),
            uses: Uses::default(),
            trims_asked: TrimsAsked::default(),
            access,
            reporter,
            counters: Counters::default(),
            tracer,
            started: Instant::now(),
            calls,
            closing,
            outlets,
        });
        let (door_tasks, rest_tasks) = (TaskTracker::new(), TaskTracker::new());

        // Raft's own runtime serves the peers, so that clients' load never starves a heartbeat.
        let forward =
            ForwardServer::new(ForwardService::new(merger.clone(), reports(&node), relays(&node), clients(&node)))
                .max_decoding_message_size(FORWARD_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(FORWARD_MESSAGE_BYTES_MAX);
        let forward = InterceptedService::new(forward, peers.guard);
        let peer_routes = Routes::new(peers.raft).add_service(forward);
        let peer_server = serve(listeners.peer, peer_server(), peer_routes, rest.clone());
        rest_tasks.spawn_on(peer_server, &node.group.runtime());

        // Beside what feeds it and what it feeds: a change of thread costs more than what it does.
        rest_tasks.spawn_on(merger.run(node.group.clone(), rest.clone()), &node.group.runtime());
        rest_tasks.spawn(node.proposer.clone().run(node.group.clone(), node.outlets.merger.clone(), rest.clone()));
        rest_tasks.spawn(node.outlets.clone().follow(rest.clone()));
        rest_tasks.spawn(task::run(node.clone(), rest.clone()));
        rest_tasks.spawn(task::unlink(node.clone(), rest.clone()));
        rest_tasks.spawn(crate::namesrv::run(node.clone(), rest.clone()));
        rest_tasks.spawn(confirm::run(node.clone(), rest.clone()));
        rest_tasks.spawn(reconnect::run(node.clone(), rest.clone()));
        rest_tasks.spawn(access::bootstrap::run(node.clone(), rest.clone()));

        if let Some((wanted, to)) = node.config.export.clone().zip(figures_to) {
            rest_tasks.spawn(metrics::export(node.clone(), wanted, to, rest.clone()));
        }
        if let Some((config, spans)) = node.config.traces.clone().zip(spans) {
            rest_tasks.spawn(spans::run(node.clone(), (config, spans_to), spans, rest.clone()));
        }
        if let Some(listener) = listeners.metrics {
            let server = Server::builder().accept_http1(true);
            rest_tasks.spawn(serve(listener, server, metrics::routes(node.clone()), rest.clone()));
        }
        door_tasks.spawn(serve_clients(node.clone(), listeners.grpc));
        door_tasks.spawn(serve(listeners.admin, door(), AdminService::routes(node.clone()), node.closing.clone()));
        Ok(Broker { node, rest, door_tasks, rest_tasks })
    }

    /// Refuses new work, lets what is under way end, hands leadership over, and closes the store.
    pub async fn stop(self) {
        self.node.closing.cancel();
        self.door_tasks.close();
        self.node.calls.close();
        let drained = async { tokio::join!(self.door_tasks.wait(), self.node.calls.wait()) };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::info!("calls still under way after {} s are cut", DRAIN.as_secs());
        }
        confirm::finish(&self.node, CONFIRM).await;
        self.node.group.stop().await;
        self.rest.cancel();
        self.rest_tasks.close();
        if tokio::time::timeout(DRAIN, self.rest_tasks.wait()).await.is_err() {
            tracing::warn!("tasks still running after {} s are abandoned", DRAIN.as_secs());
        }
        self.node.group.end().await;
    }

    /// Returns the reason when storage failed: nothing may be acknowledged after it, and the process must end.
    pub async fn halted(&self) -> String {
        self.node.group.halted().await.to_string()
    }
}

/// Processors that this process may use.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads of Raft's runtime: consensus is one task, and its neighbours (streams of entries, apply) are few.
pub(crate) fn raft_threads() -> usize {
    (processors() / 2).clamp(1, 4)
}

fn raft_config(config: &BrokerConfig, dialer: &Dialer) -> RaftConfig {
    let address = |port: u16| format!("{}:{port}", config.addresses.host);
    let (heartbeat_ms, election_ms_min, election_ms_max) = config.raft_ms;
    RaftConfig {
        peers: config
            .peers
            .iter()
            .map(|peer| raft_store::Peer { label: peer.label.clone(), address: peer.address.clone() })
            .collect(),
        log_dir: config.log_dir.clone(),
        flush: match config.flush {
            FlushDiskType::Sync => FlushMode::Sync,
            FlushDiskType::Async => FlushMode::Async,
        },
        heartbeat_ms,
        election_ms_min,
        election_ms_max,
        segment_bytes: config.segment_bytes,
        disk_free_bytes_min: config.disk_free_bytes_min,
        fill_bytes_per_second: config.fill_bytes_per_second,
        advertised: NodeAddresses {
            peer: config.addresses.peer.clone(),
            admin: address(config.addresses.admin_port),
            grpc: address(config.addresses.grpc_port),
        },
        secret: PeerSecret::new(
            config.access.inner.as_ref().map(|inner| inner.secret_key.clone()),
            config.access.authentication,
        ),
        runtime: RuntimeMode::Own { threads: raft_threads() },
        dial: dial_peers(dialer),
        ..RaftConfig::new(&config.cluster, &config.broker_group, &config.label, config.store_dir.clone())
    }
}

fn dial_peers(dialer: &Dialer) -> Dial {
    if !dialer.speaks_tls() {
        return Dial::Tcp;
    }
    let dialer = dialer.clone();
    Dial::With(Arc::new(move |address| {
        let dialer = dialer.clone();
        Box::pin(async move { Ok(Box::new(dialer.connect(&address).await?) as Box<dyn PeerStream>) })
    }))
}

/// Takes members' reports while this node leads.
fn reports(
    node: &Arc<Node>,
) -> impl Fn(ReportRequest) -> Result<ReportResponse, tonic::Status> + Send + Sync + 'static {
    let node = Arc::downgrade(node);
    move |report| {
        let node = node.upgrade().ok_or_else(|| tonic::Status::unavailable("this node stops"))?;
        let leadership = node.group.leadership();
        if leadership.leader != Some(node.group.node()) {
            return Err(tonic::Status::failed_precondition("this node does not lead"));
        }
        let members = node.group.members();
        let has_vote = |id: NodeId| members.iter().any(|member| member.id == id && member.voter);
        let clients_kept = node.registry.reported(report.node, report.clients);
        // What a learner has on its clock and on its disk stands in nobody's way.
        if has_vote(report.node) {
            node.clock.keep(has_vote);
            node.clock.reported(report.node, report.clock_ms);
            node.paces.reported(report.node, Duration::from_micros(report.sync_us));
            node.gate.reported(report.node, report.shortage);
        }
        // A learner applies the same entries.
        node.builds.reported(report.node, report.version);
        node.uses.reported(report.node, report.log);
        let deviates_from = task::agreement::judge(&node, &members, report.node, report.marks);
        let sends_refused = node.gate.decide(&node.group).map(|why| why.to_string()).unwrap_or_default();
        Ok(ReportResponse { time_ms: node.clock.known(), sends_refused, deviates_from, clients_kept })
    }
}

/// Takes what other members have for this node's clients.
fn relays(
    node: &Arc<Node>,
) -> impl Fn(RelayRequest) -> BoxFuture<'static, Result<RelayResponse, tonic::Status>> + Send + Sync + 'static {
    let node = Arc::downgrade(node);
    move |request| {
        let node = node.upgrade();
        Box::pin(async move {
            let node = node.ok_or_else(|| tonic::Status::unavailable("this node stops"))?;
            relay::relayed(&node, request).await
        })
    }
}

/// Says which clients are connected to this node.
fn clients(
    node: &Arc<Node>,
) -> impl Fn(ClientsRequest) -> Result<ClientsResponse, tonic::Status> + Send + Sync + 'static {
    let node = Arc::downgrade(node);
    move |wanted| {
        let node = node.upgrade().ok_or_else(|| tonic::Status::unavailable("this node stops"))?;
        Ok(relay::connected_here(&node, &wanted))
    }
}

/// Serves clients whenever this node has a vote, until it stops.
async fn serve_clients(node: Arc<Node>, mut listener: Listener) {
    let (address, options) = (listener.address(), listener.options().clone());
    loop {
        if node.closing.clone().run_until_cancelled_owned(node.group.voting()).await.is_none() {
            return;
        }
        let open = node.closing.child_token();
        let serving = serve(listener, door(), grpc::routes(node.clone(), open.clone()), open.clone());
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            () = &mut serving => return,
            () = node.group.parted() => {}
        }
        tracing::warn!(
            "this node has no vote any more: it takes no more calls of clients, who go on to the other members"
        );
        open.cancel();
        if tokio::time::timeout(DRAIN, serving).await.is_err() {
            tracing::info!("calls still under way after {} s are left to their deadlines", DRAIN.as_secs());
        }
        // Kept, and refusing connections, in case it is given a vote again.
        let Some(kept) = node.closing.run_until_cancelled(reserve(address, &options)).await else { return };
        listener = kept;
    }
}

/// Takes a port that was served a moment ago: it is free once its last connections are.
async fn reserve(address: SocketAddr, options: &ListenerOptions) -> Listener {
    let mut told = false;
    loop {
        match Listener::reserve(address, options.clone()) {
            Ok(listener) => return listener,
            Err(error) if !told => tracing::debug!(%error, "the port is tried again"),
            Err(_) => {}
        }
        told = true;
        tokio::time::sleep(RESERVE_AGAIN_AFTER).await;
    }
}

/// How the public and the admin port are served.
fn door() -> Server {
    Server::builder()
        .initial_stream_window_size(Some(4 << 20))
        .initial_connection_window_size(Some(16 << 20))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(Some(4096))
}

/// Serves routes on a listener until `stop`.
async fn serve(listener: Listener, mut server: Server, routes: Routes, stop: CancellationToken) {
    let incoming = match listener.incoming() {
        Ok(incoming) => incoming,
        Err(error) => {
            tracing::error!(%error, "a listener failed");
            return;
        }
    };
    let served = server.add_routes(routes).serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "a listener failed");
    }
}
