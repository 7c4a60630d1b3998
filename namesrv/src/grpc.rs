//! The name server's RPCs: reports in, routes out. Requests and answers are bounded; long ones come in parts.

use crate::access::Access;
use crate::live::Live;
use crate::route_table::{Group, GroupName, Limits, Node, Refused, RouteTable, Taken, TopicsReport};
use parking_lot::{Mutex, MutexGuard};
use raftmq_proto::digest::TopicDigest;
use raftmq_proto::namesrv::name_server_server::NameServer;
use raftmq_proto::namesrv::{
    BrokerGroup, GetConfigRequest, GetConfigResponse, ListNodesRequest, ListNodesResponse, ListTopicsRequest,
    ListTopicsResponse, Node as WireNode, ReportRequest, ReportResponse, ReportTopicsRequest, ReportTopicsResponse,
    Role, RouteRequest, RouteResponse, Setting, TopicInGroup, TopicRoute, UpdateConfigRequest, UpdateConfigResponse,
};
use raftmq_server::listener::Peer;
use raftmq_server::logs::Limited;
use raftmq_server::settings::UpdateError;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// Topics in one request or one part of an answer.
const PART_TOPICS_MAX: usize = 1_000;
/// Silence between the parts of a topic table after which it is given up.
const PART_TIMEOUT: Duration = Duration::from_secs(10);

/// The table and the clock that it is read with.
pub(crate) struct Shared {
    started: Instant,
    table: Mutex<RouteTable>,
    scan_every: Mutex<Duration>,
    changed: Notify,
    refused: Limited,
}

impl Shared {
    pub(crate) fn new(table: RouteTable, scan_every: Duration) -> Shared {
        Shared {
            started: Instant::now(),
            table: Mutex::new(table),
            scan_every: Mutex::new(scan_every),
            changed: Notify::new(),
            refused: Limited::every(Duration::from_secs(10)),
        }
    }

    /// Goes by other settings from here on.
    pub(crate) fn set(&self, limits: Limits, scan_every: Duration) {
        self.table.lock().set_limits(limits);
        *self.scan_every.lock() = scan_every;
        self.changed.notify_one();
    }

    pub(crate) fn scan_every(&self) -> Duration {
        *self.scan_every.lock()
    }

    /// Returns when they are others.
    pub(crate) async fn settings_changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, RouteTable> {
        self.table.lock()
    }

    fn refuse(&self, refused: &Refused, peer: Option<Peer>) -> Status {
        let peer = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
        if let Some(suppressed) = self.refused.pass() {
            tracing::warn!(peer, suppressed, "report refused: {refused}");
        }
        match refused {
            Refused::Invalid(_) => Status::invalid_argument(refused.to_string()),
            Refused::Full { .. } => Status::resource_exhausted(refused.to_string()),
        }
    }
}

/// The service; cheap to clone.
#[derive(Clone)]
pub(crate) struct Service {
    shared: Arc<Shared>,
    /// What this name server was told.
    live: Arc<Live>,
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>, live: Live) -> Service {
        Service { shared, live: Arc::new(live) }
    }
}

type Parts<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl NameServer for Service {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        Access::may_report(&request)?;
        let peer = Peer::of(&request);
        let report = request.into_inner();
        let now_ms = self.shared.now_ms();
        let (cluster, broker_group) = (report.cluster.clone(), report.broker_group.clone());
        let (label, node, role, term) = (report.label.clone(), report.node, report.role(), report.term);
        let (reported, before) = {
            let mut table = self.shared.table();
            let leader_term = |table: &RouteTable| {
                let group = table.groups(&cluster).find(|(name, _)| name.1 == broker_group);
                group.map_or(0, |(_, group)| group.leader_term)
            };
            let before = leader_term(&table);
            (table.report(report, now_ms), before)
        };
        let reported = reported.map_err(|refused| self.shared.refuse(&refused, peer))?;
        if reported.new_node {
            let from = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
            tracing::info!(cluster, broker_group, label, node, from, "broker node registered");
        }
        if role == Role::Leader && reported.leader_term > before {
            tracing::info!(cluster, broker_group, label, node, term, "broker group has a new leader");
        }
        Ok(Response::new(ReportResponse {
            want_topics: reported.want_topics,
            held_version: reported.held_version,
            held_digest: reported.held_digest.0,
            leader_term: reported.leader_term,
            age_ms: now_ms,
        }))
    }

    async fn report_topics(
        &self,
        request: Request<Streaming<ReportTopicsRequest>>,
    ) -> Result<Response<ReportTopicsResponse>, Status> {
        Access::may_report(&request)?;
        let peer = Peer::of(&request);
        let mut parts = request.into_inner();
        let mut whole = TopicsReport::default();
        let mut first = true;
        loop {
            let next = tokio::time::timeout(PART_TIMEOUT, parts.next()).await;
            let next = next.map_err(|_| Status::deadline_exceeded("the topic table stopped half way"))?;
            let Some(part) = next.transpose()? else { break };
            if std::mem::take(&mut first) {
                whole.cluster = part.cluster;
                whole.broker_group = part.broker_group;
                whole.node = part.node;
                whole.version = part.version;
                whole.digest = TopicDigest(part.digest);
                whole.base = part.base_digest.map(TopicDigest);
            }
            whole.put.extend(part.put);
            whole.removed.extend(part.removed);
            let limit = self.shared.table().limits().topics_max;
            if whole.put.len().max(whole.removed.len()) > limit {
                return Err(self.shared.refuse(&Refused::Full { what: "topics", limit, key: "topicsMax" }, peer));
            }
        }
        let taken = self.shared.table().put_topics(whole);
        let taken = taken.map_err(|refused| self.shared.refuse(&refused, peer))?;
        Ok(Response::new(ReportTopicsResponse { taken: taken == Taken::Yes, want_full: taken == Taken::WantFull }))
    }

    async fn route(&self, request: Request<RouteRequest>) -> Result<Response<RouteResponse>, Status> {
        let request = request.into_inner();
        if request.topics.len() > PART_TOPICS_MAX {
            return Err(Status::invalid_argument(format!(
                "{} topics in one request, the limit is {PART_TOPICS_MAX}",
                request.topics.len()
            )));
        }
        let age_ms = self.shared.now_ms();
        let table = self.shared.table();
        let stamp = table.stamp(&request.cluster, &request.except_broker_group);
        if stamp == request.known_stamp {
            return Ok(Response::new(RouteResponse { age_ms, stamp, unchanged: true, ..RouteResponse::default() }));
        }
        let except = request.except_broker_group.as_str();
        let topics = request.topics.iter().map(|topic| topic_route(&table, &request.cluster, topic, except));
        let topics = topics.filter(|route| !route.broker_groups.is_empty()).collect();
        let groups = table.groups(&request.cluster).filter(|(name, _)| name.1 != except);
        let broker_groups = groups.map(|(name, group)| to_broker_group(name, group)).collect();
        Ok(Response::new(RouteResponse { topics, broker_groups, age_ms, stamp, unchanged: false }))
    }

    type ListTopicsStream = Parts<ListTopicsResponse>;

    async fn list_topics(
        &self,
        request: Request<ListTopicsRequest>,
    ) -> Result<Response<Self::ListTopicsStream>, Status> {
        let cluster = request.into_inner().cluster;
        let shared = self.shared.clone();
        // Each part is read when the one before has been taken: a slow reader holds no lock and little memory.
        let parts = futures_parts(move |after: Option<String>| {
            let table = shared.table();
            let names = table.topic_names(&cluster, after.as_deref(), PART_TOPICS_MAX);
            let topics = names.iter().map(|name| topic_route(&table, &cluster, name, "")).collect();
            (names.last().cloned(), ListTopicsResponse { topics })
        });
        Ok(Response::new(Box::pin(parts)))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        let cluster = request.into_inner().cluster;
        let now_ms = self.shared.now_ms();
        let table = self.shared.table();
        let mut answer = ListNodesResponse::default();
        for (name, group) in table.groups(&cluster) {
            answer.broker_groups.push(to_broker_group(name, group));
            for node in group.nodes.values() {
                answer.nodes.push(to_node(group, node, table.alive(node, now_ms), now_ms));
            }
        }
        Ok(Response::new(answer))
    }

    async fn get_config(&self, _: Request<GetConfigRequest>) -> Result<Response<GetConfigResponse>, Status> {
        let settings = self.live.entries().into_iter().map(|entry| Setting {
            key: entry.key,
            value: entry.value,
            source: entry.source.unwrap_or_default(),
            unused: entry.unused,
        });
        Ok(Response::new(GetConfigResponse { settings: settings.collect() }))
    }

    async fn update_config(
        &self,
        request: Request<UpdateConfigRequest>,
    ) -> Result<Response<UpdateConfigResponse>, Status> {
        Access::may_administer(&request)?;
        let address = Peer::of(&request).map(|peer| peer.address.to_string()).unwrap_or_default();
        let UpdateConfigRequest { key, value } = request.into_inner();
        let updated = self.live.update(&self.shared, &key, &value);
        // What is refused may be a secret: such keys are read at start only.
        let value = updated.as_ref().map_or("", |_| value.as_str());
        let outcome = updated.as_ref().map_or_else(ToString::to_string, |_| "done".to_owned());
        tracing::info!(target: "audit", address, key, value, outcome, "setting changed");
        let updated = updated.map_err(|error| match error {
            UpdateError::NeedsRestart { .. } | UpdateError::Change(_) => Status::failed_precondition(error.to_string()),
            UpdateError::Unknown { .. } | UpdateError::Unused(_) | UpdateError::Value(_) => {
                Status::invalid_argument(error.to_string())
            }
        })?;
        Ok(Response::new(UpdateConfigResponse { before: updated.before, after: updated.after }))
    }
}

/// Parts of an answer until `next` returns no place to go on from.
fn futures_parts<T: Send + 'static>(
    next: impl FnMut(Option<String>) -> (Option<String>, T) + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let mut next = next;
    let mut after = Some(None);
    tokio_stream::iter(std::iter::from_fn(move || {
        let (last, part) = next(after.take()?);
        after = Some(Some(last?));
        Some(Ok(part))
    }))
}

fn topic_route(table: &RouteTable, cluster: &str, topic: &str, except: &str) -> TopicRoute {
    let hosts = table.hosts(cluster, topic).filter(|(name, _, _)| name.1 != except);
    let broker_groups = hosts.map(|(name, _, topic)| TopicInGroup {
        cluster: name.0.clone(),
        broker_group: name.1.clone(),
        topic: Some(topic.clone()),
    });
    TopicRoute { topic: topic.to_owned(), broker_groups: broker_groups.collect() }
}

fn to_broker_group(name: &GroupName, group: &Group) -> BrokerGroup {
    BrokerGroup {
        cluster: name.0.clone(),
        name: name.1.clone(),
        term: group.leader_term,
        leader: group.leader,
        version: group.version,
        members: group.members.clone(),
        topic_count: group.topic_count() as u64,
        topics_known: group.topics_known(),
    }
}

fn to_node(group: &Group, node: &Node, alive: bool, now_ms: u64) -> WireNode {
    let report = &node.report;
    // A leader that was deposed and does not know it is a follower to everybody else.
    let role = match report.role() {
        Role::Leader if group.leader != report.node => Role::Follower,
        Role::Follower if group.leader == report.node => Role::Leader,
        role => role,
    };
    WireNode {
        cluster: report.cluster.clone(),
        broker_group: report.broker_group.clone(),
        label: report.label.clone(),
        node: report.node,
        addresses: report.addresses.clone(),
        role: role.into(),
        term: report.term,
        boot: report.boot,
        program: report.program.clone(),
        silent_ms: now_ms.saturating_sub(node.reported_ms),
        alive,
    }
}
