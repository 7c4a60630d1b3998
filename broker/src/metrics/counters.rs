//! What is counted as it happens.

use super::latency::Recent;
use super::served::{Served, Serving};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use raftmq_proto::admin::CallLatency;
use raftmq_proto::command::{Ended, Reply, reply};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// RocketMQ's steps for the size of a message, in bytes.
const SIZES: [f64; 6] = [1024.0, 4096.0, 524_288.0, 1_048_576.0, 2_097_152.0, 4_194_304.0];

/// RocketMQ's steps for the time of a call, in ms, and two finer ones: a send takes less than its first.
const LATENCIES_MS: [f64; 9] = [0.5, 1.0, 3.0, 5.0, 10.0, 100.0, 1_000.0, 3_000.0, 10_000.0];

/// Who sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sent {
    topic: String,
    message_type: &'static str,
}

/// Something of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfTopic {
    pub(super) topic: String,
}

/// Who received.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Received {
    pub(super) topic: String,
    pub(super) consumer_group: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    message_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    protocol_type: &'static str,
    request_code: &'static str,
    response_code: &'static str,
}

/// Counters since this node started.
pub(crate) struct Counters {
    messages_in: Family<Sent, Counter>,
    bytes_in: Family<Sent, Counter>,
    sizes: Family<Kind, Histogram>,
    messages_out: Family<Received, Counter>,
    bytes_out: Family<Received, Counter>,
    commits: Family<OfTopic, Counter>,
    rollbacks: Family<OfTopic, Counter>,
    timers: Family<OfTopic, Counter>,
    calls: Family<Call, Histogram>,
    recent: Recent,
    served: Served,
    elections: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            messages_in: Family::default(),
            bytes_in: Family::default(),
            sizes: Family::new_with_constructor(|| Histogram::new(SIZES)),
            messages_out: Family::default(),
            bytes_out: Family::default(),
            commits: Family::default(),
            rollbacks: Family::default(),
            timers: Family::default(),
            calls: Family::new_with_constructor(|| Histogram::new(LATENCIES_MS)),
            recent: Recent::default(),
            served: Served::default(),
            elections: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// Messages of one type that were answered OK here.
    pub(crate) fn sent(&self, topic: &str, message_type: &'static str, bodies: impl Iterator<Item = u64>) {
        let labels = Sent { topic: topic.to_owned(), message_type };
        let sizes = self.sizes.get_or_create(&Kind { message_type });
        let (mut messages, mut bytes) = (0, 0);
        for body in bodies {
            // No body comes near 2^52.
            #[allow(clippy::cast_precision_loss)]
            sizes.observe(body as f64);
            (messages, bytes) = (messages + 1, bytes + body);
        }
        drop(sizes);
        self.messages_in.get_or_create(&labels).inc_by(messages);
        self.bytes_in.get_or_create(&labels).inc_by(bytes);
        if message_type == "delay" {
            self.timers.get_or_create(&OfTopic { topic: labels.topic }).inc_by(messages);
        }
    }

    /// Messages that a client of this node was given.
    pub(crate) fn received(&self, topic: &str, consumer_group: &str, messages: u64, bytes: u64) {
        let labels = Received { topic: topic.to_owned(), consumer_group: consumer_group.to_owned() };
        self.messages_out.get_or_create(&labels).inc_by(messages);
        self.bytes_out.get_or_create(&labels).inc_by(bytes);
    }

    /// A word on a transaction that came here, and what it was answered: the first one ended it, whoever said it. Others
    /// change nothing. Before commands had version 4 nobody says which was first, and each counts.
    pub(crate) fn ended(&self, topic: String, commit: bool, reply: &Reply) {
        if let Some(reply::Kind::Ended(Ended { first: false })) = reply.kind {
            return;
        }
        let ends = if commit { &self.commits } else { &self.rollbacks };
        ends.get_or_create(&OfTopic { topic }).inc();
    }

    /// This node was elected.
    pub(crate) fn elected(&self) {
        self.elections.fetch_add(1, Ordering::Relaxed);
    }

    /// A call is being served until what this gives is dropped.
    pub(crate) fn serves(&self, rpc: &str) -> Serving<'_> {
        self.served.begin(rpc)
    }

    /// A call that was answered.
    pub(crate) fn called(&self, rpc: &'static str, response_code: &'static str, took: Duration) {
        if response_code == "OK" {
            self.recent.called(rpc, took);
        }
        let labels = Call { protocol_type: "grpc", request_code: rpc, response_code };
        self.calls.get_or_create(&labels).observe(took.as_secs_f64() * 1_000.0);
    }

    /// How long calls took lately.
    pub(crate) fn recent(&self) -> Vec<CallLatency> {
        self.recent.look()
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("rocketmq_messages_in", "Messages answered OK", self.messages_in.clone());
        registry.register("rocketmq_throughput_in", "Bytes of their bodies", self.bytes_in.clone());
        registry.register("rocketmq_message_size", "Bytes of a body", self.sizes.clone());
        registry.register("rocketmq_messages_out", "Messages given to consumers", self.messages_out.clone());
        registry.register("rocketmq_throughput_out", "Bytes of their bodies", self.bytes_out.clone());
        registry.register(
            "rocketmq_rpc_latency",
            "Milliseconds from a call's arrival to its answer",
            self.calls.clone(),
        );
        registry.register("rocketmq_commit_messages", "Transactions that were committed", self.commits.clone());
        registry.register("rocketmq_rollback_messages", "Transactions that were rolled back", self.rollbacks.clone());
        registry.register("rocketmq_timer_enqueue", "Messages with a delivery time answered OK", self.timers.clone());
        let elections = ConstCounter::new(self.elections.load(Ordering::Relaxed));
        registry.register("rocketmq_raft_election", "Elections that this node won since it started", elections);
        self.served.register(registry);
    }
}
