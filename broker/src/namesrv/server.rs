//! One name server as this node sees it: reports to it, and whether it answers.

use super::{PERIOD, Shared, Snapshot, to_wire};
use crate::broker::Node;
use crate::clock::system_clock;
use crate::store;
use parking_lot::Mutex;
use raftmq_proto::digest::TopicDigest;
use raftmq_proto::namesrv::name_server_client::NameServerClient;
use raftmq_proto::namesrv::{
    ReportRequest, ReportResponse, ReportTopicsRequest, RouteRequest, RouteResponse, Topic, TopicChanges,
};
use raftmq_proto::signature::Credentials;
use raftmq_server::dial::Dialer;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// To connect, or for one answer; a whole topic table has ten times as long.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// After a failure, before the next report; doubled with each further one.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(500);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// A name server that lacks topics and asked another node for them is reported to again after this.
const LACKING_AFTER: Duration = Duration::from_secs(6);
/// A name server that failed this recently is not waited for.
const FAILED_LATELY: Duration = Duration::from_secs(10);
/// Topics in one message: as changes within a report, or as a part of a table.
const PART_TOPICS_MAX: usize = 1_000;
/// Changed topics that are sent as changes rather than as a whole table.
const CHANGES_MAX: usize = 4_000;

/// Signs calls where there is something to sign with.
#[derive(Clone)]
struct Signer(Option<Credentials>);

impl Interceptor for Signer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(credentials) = &self.0 {
            let signed = credentials.sign(request.metadata_mut(), system_clock());
            signed.map_err(|_| Status::invalid_argument("the accessKey is nothing that a header can hold"))?;
        }
        Ok(request)
    }
}

/// A name server.
pub(super) struct Server {
    address: String,
    client: NameServerClient<InterceptedService<Channel, Signer>>,
    failed: Mutex<Option<Instant>>,
    /// How long it had been up when it answered last, in ms.
    age_ms: AtomicU64,
    /// It may have lost what it was told: report at once.
    forgot: Notify,
}

/// Topics for a name server, read from the rows.
struct Table {
    version: u64,
    digest: TopicDigest,
    base: Option<TopicDigest>,
    put: Vec<Topic>,
    removed: Vec<String>,
}

impl Server {
    /// A name server at `host:port`. `None`, with a line in the log, when that is no address; nothing is resolved yet.
    pub(super) fn new(address: &str, credentials: Option<Credentials>, dialer: &Dialer) -> Option<Server> {
        let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                tracing::error!(address, %error, "namesrvAddr holds an address that cannot be used");
                return None;
            }
        };
        let endpoint = endpoint
            .connect_timeout(CALL_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let channel = dialer.channel(&endpoint, address);
        Some(Server {
            address: address.to_owned(),
            client: NameServerClient::with_interceptor(channel, Signer(credentials))
                .max_decoding_message_size(16 << 20),
            failed: Mutex::new(None),
            age_ms: AtomicU64::new(0),
            forgot: Notify::new(),
        })
    }

    /// It did not answer a moment ago.
    pub(super) fn failed_lately(&self) -> bool {
        self.failed.lock().is_some_and(|at| at.elapsed() < FAILED_LATELY)
    }

    /// Asks for routes.
    pub(super) async fn route(&self, request: RouteRequest, timeout: Duration) -> Option<RouteResponse> {
        let mut client = self.client.clone();
        match tokio::time::timeout(timeout, client.route(request)).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                if self.restarted(answer.age_ms) {
                    self.forgot.notify_one();
                }
                Some(answer)
            }
            Ok(Err(status)) => {
                tracing::debug!(address = self.address, %status, "name server did not answer with routes");
                *self.failed.lock() = Some(Instant::now());
                self.forgot.notify_one();
                None
            }
            Err(_) => {
                *self.failed.lock() = Some(Instant::now());
                None
            }
        }
    }

    /// Whether it has been started anew since its last answer.
    fn restarted(&self, age_ms: u64) -> bool {
        self.age_ms.swap(age_ms, Ordering::Relaxed) > age_ms
    }

    /// Reports at once on any change or when the name server was restarted, and every [`PERIOD`] otherwise. Runs until
    /// dropped.
    pub(super) async fn report(self: Arc<Self>, shared: Arc<Shared>, node: Arc<Node>) {
        let mut snapshots = shared.snapshot.subscribe();
        let mut held = None;
        let mut retry_after = RETRY_AFTER_MIN;
        let mut answered = None;
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let Some(snapshot) = snapshot else {
                if snapshots.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let outcome = self.report_once(&shared, &node, &snapshot, held).await;
            self.note(&outcome, &mut answered);
            match outcome {
                Ok(answer) => {
                    retry_after = RETRY_AFTER_MIN;
                    self.age_ms.store(answer.age_ms, Ordering::Relaxed);
                    held = Some(TopicDigest(answer.held_digest));
                    let complete = held == Some(snapshot.digest);
                    let wait = if complete { PERIOD } else { LACKING_AFTER };
                    tokio::select! {
                        changed = snapshots.changed() => if changed.is_err() { return },
                        () = self.forgot.notified() => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                Err(_) => {
                    held = None;
                    tokio::time::sleep(retry_after).await;
                    retry_after = (retry_after * 2).min(RETRY_AFTER_MAX);
                }
            }
        }
    }

    /// One line when it stops answering and one when it answers again.
    fn note(&self, outcome: &Result<ReportResponse, Status>, answered: &mut Option<bool>) {
        *self.failed.lock() = outcome.is_err().then(Instant::now);
        if answered.replace(outcome.is_ok()) == Some(outcome.is_ok()) {
            return;
        }
        match outcome {
            Ok(_) => tracing::info!(name_server = self.address, "registered at name server"),
            Err(status) => tracing::warn!(
                name_server = self.address,
                reason = status.message(),
                "name server does not take reports; this node serves without it and keeps trying"
            ),
        }
    }

    async fn report_once(
        &self,
        shared: &Shared,
        node: &Arc<Node>,
        snapshot: &Snapshot,
        held: Option<TopicDigest>,
    ) -> Result<ReportResponse, Status> {
        let changes = match held.filter(|held| *held != snapshot.digest) {
            Some(held) => changes_since(shared, node, held, PART_TOPICS_MAX).await?.map(|table| TopicChanges {
                base_digest: held.0,
                put: table.put,
                removed: table.removed,
            }),
            None => None,
        };
        let sequence = shared.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let request = to_request(snapshot, sequence, changes);
        let mut client = self.client.clone();
        let mut answer = timely(CALL_TIMEOUT, client.report(request)).await?.into_inner();
        if answer.want_topics {
            let taken = self.send_topics(shared, node, TopicDigest(answer.held_digest)).await?;
            if let Some(digest) = taken {
                answer.held_digest = digest.0;
            }
        }
        Ok(answer)
    }

    /// Sends what the name server lacks; the digest that it holds then.
    async fn send_topics(
        &self,
        shared: &Shared,
        node: &Arc<Node>,
        held: TopicDigest,
    ) -> Result<Option<TopicDigest>, Status> {
        if let Some(changes) = changes_since(shared, node, held, CHANGES_MAX).await? {
            let digest = changes.digest;
            let answer = self.send_table(node, changes).await?;
            if answer.taken {
                return Ok(Some(digest));
            }
        }
        let table = read(node, |state| {
            let writable = store::machine::is_writable(state)?;
            let topics = store::topic::topics(state)?.into_iter().map(|topic| to_wire(topic, writable));
            Ok((topics.collect(), Vec::new()))
        })
        .await?;
        let digest = table.digest;
        let answer = self.send_table(node, table).await?;
        Ok(answer.taken.then_some(digest))
    }

    async fn send_table(
        &self,
        node: &Node,
        table: Table,
    ) -> Result<raftmq_proto::namesrv::ReportTopicsResponse, Status> {
        let head = ReportTopicsRequest {
            cluster: node.config.cluster.clone(),
            broker_group: node.config.broker_group.clone(),
            node: node.group.node(),
            version: table.version,
            digest: table.digest.0,
            base_digest: table.base.map(|base| base.0),
            ..ReportTopicsRequest::default()
        };
        let mut parts = vec![head];
        let mut put = table.put.into_iter().peekable();
        while put.peek().is_some() {
            let part = put.by_ref().take(PART_TOPICS_MAX).collect();
            parts.push(ReportTopicsRequest { put: part, ..ReportTopicsRequest::default() });
        }
        if !table.removed.is_empty() {
            parts.push(ReportTopicsRequest { removed: table.removed, ..ReportTopicsRequest::default() });
        }
        let mut client = self.client.clone();
        let answer = timely(CALL_TIMEOUT * 10, client.report_topics(tokio_stream::iter(parts))).await?;
        Ok(answer.into_inner())
    }
}

async fn timely<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// What leads from the table with digest `base` to the present one; `None` when that is not known or too much.
async fn changes_since(
    shared: &Shared,
    node: &Arc<Node>,
    base: TopicDigest,
    max: usize,
) -> Result<Option<Table>, Status> {
    let (names, digest): (Option<BTreeSet<String>>, TopicDigest) = {
        let topics = shared.topics.lock();
        (topics.changed_since(base, max), topics.digest())
    };
    let Some(names) = names else { return Ok(None) };
    let table = read(node, move |state| {
        let (mut put, mut removed) = (Vec::new(), Vec::new());
        let writable = store::machine::is_writable(state)?;
        for name in names {
            match store::topic::topic(state, &name)? {
                Some(topic) => put.push(to_wire(topic, writable)),
                None => removed.push(name),
            }
        }
        Ok((put, removed))
    })
    .await?;
    Ok(Some(Table { digest, base: Some(base), ..table }))
}

type Rows = (Vec<Topic>, Vec<String>);

/// Reads topics off the async threads. The digest is that of what was put.
async fn read(
    node: &Arc<Node>,
    rows: impl FnOnce(&raft_store::State) -> Result<Rows, store::StateError> + Send + 'static,
) -> Result<Table, Status> {
    let node = node.clone();
    let read = tokio::task::spawn_blocking(move || {
        let version = node.group.status().applied.map_or(0, |applied| applied.index);
        let (put, removed) = rows(&node.group.state())?;
        let mut digest = TopicDigest::default();
        put.iter().for_each(|topic| digest.add(topic));
        Ok::<_, store::StateError>(Table { version, digest, base: None, put, removed })
    });
    match read.await {
        Ok(Ok(table)) => Ok(table),
        Ok(Err(error)) => Err(Status::internal(format!("topics cannot be read: {error}"))),
        Err(error) => Err(Status::internal(format!("reading topics failed: {error}"))),
    }
}

fn to_request(snapshot: &Snapshot, sequence: u64, changes: Option<TopicChanges>) -> ReportRequest {
    let report = &snapshot.report;
    ReportRequest {
        cluster: report.cluster.clone(),
        broker_group: report.broker_group.clone(),
        label: report.label.clone(),
        node: report.node,
        boot: report.boot,
        sequence,
        addresses: Some(report.addresses.clone()),
        role: report.role.into(),
        term: report.term,
        leader: report.leader,
        members: report.members.clone(),
        version: snapshot.version,
        digest: snapshot.digest.0,
        topic_count: snapshot.topic_count,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        period_ms: u64::try_from(PERIOD.as_millis()).unwrap_or(u64::MAX),
        changes,
    }
}
