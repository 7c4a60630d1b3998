//! This node's side of the name servers: what it tells them, and what they told it about other broker groups.
//!
//! ```text
//! leadership, members, topics ─▶ Reporter ─┬─▶ name server 1    a task each: one that hangs delays no other
//!                                          └─▶ name server 2
//! routes of other broker groups ◀─ Routes ◀── both, merged; kept when they are gone
//! ```
//!
//! Nothing here is needed to serve this node's own group: name servers may be killed, wiped or unreachable.

mod owners;
mod routes;
mod server;
mod topics;

pub use owners::owners_of_new;
pub(crate) use owners::{Step, hosts_in, row_of, step};
pub use routes::{ForeignRoute, Routes};

use crate::broker::Node;
use crate::store;
use parking_lot::Mutex;
use raftmq_proto::digest::TopicDigest;
use raftmq_proto::namesrv::{Addresses, Member, Role, Topic};
use raftmq_proto::signature::Credentials;
use raftmq_server::dial::Dialer;
use server::Server;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use topics::TopicTable;

/// A node reports at least this often.
const PERIOD: Duration = Duration::from_secs(30);
/// How often the role is compared with what was reported last; leadership, members and topics come with a signal.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Reading all topics takes at most this part of the time: 1 of so many.
const SCAN_SHARE: u32 = 10;

/// What this node reports of itself.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeReport {
    /// `brokerClusterName`.
    pub cluster: String,
    /// `brokerName`.
    pub broker_group: String,
    /// `dLegerSelfId`.
    pub label: String,
    /// Raft id.
    pub node: u64,
    /// Increases with every start.
    pub boot: u64,
    /// Where it can be reached.
    pub addresses: Addresses,
    /// What it is in its term.
    pub role: Role,
    /// The Raft term it is in.
    pub term: u64,
    /// Raft id of the leader; 0 for none.
    pub leader: u64,
    /// Members of its group, by label; empty while it has none.
    pub members: Vec<Member>,
}

/// A report and the topics that go with it.
#[derive(Debug, Clone, PartialEq, Default)]
struct Snapshot {
    report: NodeReport,
    /// Log index as of which members and topics hold.
    version: u64,
    digest: TopicDigest,
    topic_count: u64,
}

/// What all tasks share.
struct Shared {
    addresses: Vec<String>,
    /// What calls are signed with.
    credentials: Option<Credentials>,
    dialer: Dialer,
    /// `None` until the node knows who it is.
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    topics: Mutex<TopicTable>,
    /// Names of those whose owners are not agreed on yet.
    open: watch::Sender<Vec<String>>,
    sequence: AtomicU64,
}

/// A handle to what is reported; cheap to clone.
#[derive(Clone)]
pub struct Reporter {
    shared: Arc<Shared>,
    routes: Routes,
}

impl Reporter {
    /// Reports to every one of `addresses` (`host:port`) once [`run`] is under way. Names are resolved whenever a
    /// connection is made, so they need not resolve now. Calls are signed when there are `credentials`.
    #[must_use]
    pub fn new(addresses: Vec<String>, credentials: Option<Credentials>, dialer: Dialer) -> Reporter {
        let shared = Shared {
            addresses,
            credentials,
            dialer,
            snapshot: watch::Sender::new(None),
            topics: Mutex::default(),
            open: watch::Sender::default(),
            sequence: AtomicU64::new(0),
        };
        Reporter { shared: Arc::new(shared), routes: Routes::default() }
    }

    /// Tells the name servers, at once when it differs from what they were told. `version` is a log index as of which
    /// the report holds.
    pub fn update(&self, report: NodeReport, version: u64) {
        let (digest, topic_count) = {
            let topics = self.shared.topics.lock();
            (topics.digest(), topics.len() as u64)
        };
        self.shared.snapshot.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|current| {
                (&current.report, current.digest, current.topic_count) == (&report, digest, topic_count)
            });
            if !same {
                *current = Some(Arc::new(Snapshot { report, version, digest, topic_count }));
            }
            !same
        });
    }

    /// Tells the name servers nothing more until the next [`Reporter::update`].
    fn fall_silent(&self) {
        self.shared.snapshot.send_if_modified(|current| current.take().is_some());
    }

    /// Takes the topics of this node's group; [`Reporter::update`] reports them.
    fn topics(&self, topics: &[Topic]) {
        self.shared.topics.lock().replace(topics);
        let open: Vec<String> = topics.iter().filter(|topic| topic.fifo_open).map(|topic| topic.name.clone()).collect();
        self.shared.open.send_if_modified(|before| {
            let changed = *before != open;
            *before = open;
            changed
        });
    }

    /// Topics of this node's group whose owners are not agreed on yet, by name, as last read.
    pub(crate) fn open_topics(&self) -> watch::Receiver<Vec<String>> {
        self.shared.open.subscribe()
    }

    /// Topics of this node's group, as last read.
    #[must_use]
    pub fn topic_count(&self) -> u64 {
        self.shared.topics.lock().len() as u64
    }

    /// The way to the other nodes of the cluster.
    #[must_use]
    pub fn dialer(&self) -> &Dialer {
        &self.shared.dialer
    }

    /// Routes of other broker groups.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.routes
    }
}

/// Reports and asks for routes until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let reporter = &node.reporter;
    let shared = &reporter.shared;
    let mut tasks = JoinSet::new();
    let servers: Vec<Arc<Server>> = shared
        .addresses
        .iter()
        .filter_map(|address| Server::new(address, shared.credentials.clone(), &shared.dialer).map(Arc::new))
        .collect();
    for server in &servers {
        tasks.spawn(server.clone().report(shared.clone(), node.clone()));
    }
    if !servers.is_empty() {
        let names = shared.clone();
        let (cluster, broker_group) = (node.config.cluster.clone(), node.config.broker_group.clone());
        let routes = reporter.routes.clone();
        routes.start(cluster, broker_group, servers);
        tasks.spawn(async move { routes.refresh(move || names.topics.lock().names()).await });
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = watch_node(&node) => {}
    }
    tasks.shutdown().await;
}

/// Keeps the report up to date. Runs until dropped.
async fn watch_node(node: &Arc<Node>) {
    let mut seen = node.group.leadership();
    let mut members = node.group.membership();
    let mut scan = true;
    loop {
        if node.group.removed() {
            // What it knows of its group is of the past.
            node.reporter.fall_silent();
        } else if scan {
            scan = false;
            let reader = node.clone();
            let started = tokio::time::Instant::now();
            let read = tokio::task::spawn_blocking(move || {
                let version = version(&reader);
                let state = reader.group.state();
                let rows = store::topic::topics(&state);
                (version, rows.and_then(|rows| Ok((rows, store::machine::is_writable(&state)?))))
            });
            match read.await {
                Ok((version, Ok((topics, writable)))) => {
                    node.rates.topics(&topics);
                    let topics: Vec<Topic> = topics.into_iter().map(|topic| to_wire(topic, writable)).collect();
                    node.reporter.topics(&topics);
                    node.reporter.update(report(node), version);
                }
                Ok((_, Err(error))) => tracing::error!(%error, "topics cannot be read, name servers keep the old ones"),
                Err(error) => tracing::error!(%error, "reading topics for the name servers failed"),
            }
            // With 100,000 topics a scan takes a while: changes that follow closely share one.
            tokio::time::sleep(started.elapsed() * SCAN_SHARE).await;
        } else {
            node.reporter.update(report(node), version(node));
        }
        tokio::select! {
            () = node.outlets.catalog_changed.notified() => scan = true,
            leadership = node.group.leadership_changed(seen) => seen = leadership,
            changed = node.group.membership_changed(members) => members = changed,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Log index as of which topics and members hold. Members hold as soon as they are in the log.
fn version(node: &Node) -> u64 {
    let applied = node.group.status().applied.map_or(0, |applied| applied.index);
    applied.max(node.group.membership().0)
}

fn report(node: &Node) -> NodeReport {
    let leadership = node.group.leadership();
    let own = node.group.node();
    let mut members: Vec<Member> = node
        .group
        .members()
        .into_iter()
        .map(|member| Member {
            node: member.id,
            label: member.label,
            addresses: Some(Addresses {
                grpc: member.addresses.grpc,
                admin: member.addresses.admin,
                peer: member.addresses.peer,
            }),
            voter: member.voter,
            serves: member.voter,
        })
        .collect();
    members.sort_by(|a, b| (&a.label, a.node).cmp(&(&b.label, b.node)));
    let voter = members.iter().any(|member| member.node == own && member.voter);
    let role = match (leadership.leads, voter || members.is_empty()) {
        (true, _) => Role::Leader,
        (false, true) => Role::Follower,
        (false, false) => Role::Learner,
    };
    let addresses = &node.config.addresses;
    let address = |port: u16| format!("{}:{port}", addresses.host);
    NodeReport {
        cluster: node.config.cluster.clone(),
        broker_group: node.config.broker_group.clone(),
        label: node.config.label.clone(),
        node: own,
        boot: node.group.boot(),
        addresses: Addresses {
            grpc: address(addresses.grpc_port),
            admin: address(addresses.admin_port),
            peer: addresses.peer.clone(),
        },
        role,
        term: leadership.term.0,
        leader: leadership.leader.unwrap_or(0),
        members,
    }
}

/// A topic as routes carry it; `writable`: producers are led to this broker group.
fn to_wire(topic: raftmq_proto::command::Topic, writable: bool) -> Topic {
    let mut message_types = topic.message_types;
    message_types.sort_unstable();
    Topic {
        name: topic.name,
        read_queues: topic.read_queues,
        write_queues: topic.write_queues,
        permission: store::topic::shown_permission(topic.permission, writable),
        message_types,
        ordered: topic.ordered,
        id: topic.id,
        version: topic.version,
        fifo_owners: topic.fifo_owners,
        fifo_open: topic.fifo_open,
    }
}
