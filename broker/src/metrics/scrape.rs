//! What is looked up when somebody asks: the group's state, its rows, the disk, the clients.

use super::consumers;
use super::counters::OfTopic;
use crate::broker::Node;
use crate::store::{StateError, TopicId, half, retention, timer, topic};
use prometheus_client::encoding::prometheus_protobuf::{self, prometheus_data_model::MetricFamily};
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use raft_store::{GroupStatus, State};
use std::borrow::Cow;
use std::sync::atomic::AtomicU64;

/// Series of topics with messages that wait.
const TOPICS_MAX: usize = 20_000;

/// Timers that are overdue and counted.
const OVERDUE_MAX: usize = 10_000;

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPeer {
    peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Producers {
    language: String,
    version: String,
    protocol_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Consumers {
    consumer_group: String,
    language: String,
    version: String,
    protocol_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Proxy {
    proxy_mode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Quantile {
    quantile: &'static str,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    #[error("rows cannot be read: {0}")]
    Rows(#[from] StateError),
    #[error("figures cannot be written: {0}")]
    Text(#[from] std::fmt::Error),
}

/// Everything, in the text format of Prometheus.
pub(super) fn text(node: &Node) -> Result<String, ScrapeError> {
    let mut text = String::new();
    encode(&mut text, &registry(node)?)?;
    Ok(text)
}

/// The same, as messages.
pub(super) fn families(node: &Node) -> Result<Vec<MetricFamily>, ScrapeError> {
    Ok(prometheus_protobuf::encode(&registry(node)?)?)
}

/// The one place that says which figures there are.
fn registry(node: &Node) -> Result<Registry, ScrapeError> {
    let label = |name: &'static str, value: &str| (Cow::Borrowed(name), Cow::Owned(value.to_owned()));
    let labels = [
        label("cluster", &node.config.cluster),
        label("node_type", "broker"),
        label("node_id", &node.config.label),
        label("broker_group", &node.config.broker_group),
    ];
    let mut registry = Registry::with_labels(labels.into_iter());
    node.counters.register(&mut registry);
    let status = node.group.status();
    group(node, &status, &mut registry);
    clients(node, &mut registry);
    if node.group.leadership().leads {
        rows(&node.group.state(), node, &mut registry)?;
    }
    Ok(registry)
}

pub(super) fn gauge(registry: &mut Registry, name: &str, help: &str, value: impl TryInto<i64>) {
    registry.register(name, help, ConstGauge::new(value.try_into().unwrap_or(i64::MAX)));
}

/// Who is there.
fn clients(node: &Node, registry: &mut Registry) {
    gauge(registry, "rocketmq_client_connections", "Clients that this node hears of", node.registry.count());
    let (producers, consumers): (Family<Producers, Gauge>, Family<Consumers, Gauge>) =
        (Family::default(), Family::default());
    for ((consumer_group, language, version), count) in node.streams.tally(&node.registry) {
        let (count, protocol_type) = (i64::try_from(count).unwrap_or(i64::MAX), "grpc");
        if consumer_group.is_empty() {
            producers.get_or_create(&Producers { language, version, protocol_type }).set(count);
        } else {
            consumers.get_or_create(&Consumers { consumer_group, language, version, protocol_type }).set(count);
        }
    }
    registry.register("rocketmq_producer_connections", "Producers with a stream to this node", producers);
    registry.register("rocketmq_consumer_connections", "Consumers with a stream to this node", consumers);
}

/// What Raft and the log say.
fn group(node: &Node, status: &GroupStatus, registry: &mut Registry) {
    let leads = node.group.leadership().leads;
    let serves = super::readiness(status, node.closing.is_cancelled()).is_ok();
    // What cannot be read is said elsewhere.
    let writable = crate::store::machine::is_writable(&node.group.state()).unwrap_or(true);
    gauge(
        registry,
        "rocketmq_broker_permission",
        "6 while this node serves clients, 4 while producers are led past its broker group, else 0",
        match (serves, writable) {
            (true, true) => 6,
            (true, false) => 4,
            (false, _) => 0,
        },
    );
    let proxy: Family<Proxy, Gauge> = Family::default();
    proxy.get_or_create(&Proxy { proxy_mode: "local" }).set(i64::from(serves));
    registry.register("rocketmq_proxy_up", "1 while this node serves clients, which need no proxy", proxy);
    gauge(registry, "rocketmq_raft_term", "The latest term that this node knows of", status.term.0);
    gauge(registry, "rocketmq_raft_is_leader", "1 while this node leads", i64::from(leads));
    let index = |id: Option<raft_store::LogId>| id.map_or(0, |id| id.index);
    gauge(registry, "rocketmq_raft_commit_index", "Last entry known to be committed", index(status.committed));
    gauge(registry, "rocketmq_raft_applied_index", "Last entry applied", index(status.applied));
    let peers: Family<OfPeer, Gauge> = Family::default();
    for member in status.members.iter().filter(|member| member.id != status.node) {
        if let Some(lag) = member.lag {
            let labels = OfPeer { peer: member.label.clone() };
            peers.get_or_create(&labels).set(i64::try_from(lag).unwrap_or(i64::MAX));
        }
    }
    registry.register("rocketmq_raft_peer_lag_entries", "Entries that a member lacks, as the leader knows", peers);

    let syncs = node.group.sync_figures();
    registry.register("rocketmq_raft_fsyncs", "Syncs of the log", ConstCounter::new(syncs.count));
    registry.register(
        "rocketmq_raft_fsync_spent_seconds",
        "Seconds that they took together",
        ConstCounter::new(syncs.total.as_secs_f64()),
    );
    let recent: Family<Quantile, Seconds> = Family::default();
    for (quantile, took) in [("0.5", status.fsync_p50), ("0.99", status.fsync_p99), ("1", status.fsync_max)] {
        recent.get_or_create(&Quantile { quantile }).set(took.as_secs_f64());
    }
    registry.register("rocketmq_raft_fsync_seconds", "How long recent syncs of the log took", recent);

    gauge(registry, "rocketmq_storage_size", "Bytes of log files on disk", status.log_bytes);
    let folder = node.config.log_dir.as_deref().unwrap_or(&node.config.store_dir);
    let used = Seconds::default();
    used.set(crate::admin::disk_used_ratio(folder));
    registry.register("rocketmq_storage_disk_used_ratio", "Part of the log's disk that is in use, 0 to 1", used);
    let refused = i64::from(node.gate.decide(&node.group).is_some());
    gauge(registry, "rocketmq_storage_sends_refused", "1 while sends are refused for want of room", refused);
}

/// What the rows say; the same on every member.
fn rows(state: &State, node: &Node, registry: &mut Registry) -> Result<(), StateError> {
    gauge(registry, "rocketmq_topic_number", "Topics", node.reporter.topic_count());
    let now_ms = node.clock.now();
    consumers::register(state, now_ms, consumers::Limits::default(), registry)?;
    waits(state, registry, now_ms)
}

/// Messages that are in no queue yet, and those that are about to leave it.
fn waits(state: &State, registry: &mut Registry, now_ms: u64) -> Result<(), StateError> {
    let (halves, timed): (Family<OfTopic, Gauge>, Family<OfTopic, Gauge>) = (Family::default(), Family::default());
    for topic in topic::topics(state)?.into_iter().take(TOPICS_MAX) {
        let labels = OfTopic { topic: topic.name.clone() };
        for (family, count) in
            [(&halves, half::waiting(state, TopicId(topic.id))?), (&timed, timer::waiting(state, TopicId(topic.id))?)]
        {
            if count > 0 {
                family.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }
    registry.register("rocketmq_half_messages", "Transactional messages that nobody has ended", halves);
    registry.register("rocketmq_timing_messages", "Messages that wait for their delivery time", timed);
    let overdue = timer::due(state, now_ms, OVERDUE_MAX)?;
    let overdue: Vec<u64> = overdue.iter().filter(|due| !due.timer.recalled).map(|due| due.at_ms).collect();
    let late = "Messages whose delivery time is over and that wait";
    gauge(registry, "rocketmq_timer_dequeue_lag", late, overdue.len());
    let late_ms = overdue.first().map_or(0, |at_ms| now_ms.saturating_sub(*at_ms));
    gauge(registry, "rocketmq_timer_dequeue_latency", "Milliseconds by which the first of them is late", late_ms);
    let reserve_ms = retention::kept_since_ms(state)?.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
    gauge(
        registry,
        "rocketmq_storage_message_reserve_time",
        "Milliseconds that the oldest entries are kept",
        reserve_ms,
    );
    Ok(())
}
