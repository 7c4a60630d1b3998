//! What consumer groups have still to do in their topics, as far as one answer looks: every consumer group with a topic
//! costs some rows of each queue, and there may be a great many. What is beyond is counted, and is always the same: the
//! consumer groups whose names come last.

use super::counters::Received;
use crate::store::consumer_group::{consumed, consumer_groups};
use crate::store::topic::{self, is_internal};
use crate::store::{
    ConsumerGroupId, LITE_LOOKED_MAX, Lag, LiteLooks, Oldest, StateError, TopicId, backlog, lite_backlog, session,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use raft_store::ReadState;
use raftmq_proto::command::Topic;

/// What one answer looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Consumer groups with their topics, each a series of every metric here.
    pub(crate) shown: usize,
    /// Queues of those together: two rows each.
    pub(crate) queues: usize,
    /// Of those that hold something for their consumer group, in how many the oldest message is looked up: some five rows
    /// each.
    pub(crate) ages: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { shown: 20_000, queues: 200_000, ages: 100_000 }
    }
}

/// Counters that rows hold: older than this process.
pub(super) const OF_ROWS: [&str; 2] =
    ["rocketmq_send_to_dlq_messages_total", "rocketmq_consumer_expired_messages_total"];

#[derive(Default)]
struct Families {
    lags: Family<Received, Gauge>,
    lag_ms: Family<Received, Gauge>,
    queueing_ms: Family<Received, Gauge>,
    ready: Family<Received, Gauge>,
    in_flight: Family<Received, Gauge>,
    waiting: Family<Received, Gauge>,
    dead: Family<Received, Counter>,
    expired: Family<Received, Counter>,
    filters: Family<Received, Gauge>,
}

/// Registers it, at cluster time `now_ms`. The same on every member.
///
/// # Errors
/// When rows cannot be read.
pub(crate) fn register(
    state: &impl ReadState,
    now_ms: u64,
    limits: Limits,
    registry: &mut Registry,
) -> Result<(), StateError> {
    let groups = consumer_groups(state)?;
    super::scrape::gauge(registry, "rocketmq_consumer_group_number", "Consumer groups", groups.len());
    let families = Families::default();
    let mut left = limits;
    let mut looks = LiteLooks::new(&groups, LITE_LOOKED_MAX);
    let (mut leases, mut left_out, mut ages_left_out) = (0, 0_u64, 0_u64);
    for group in &groups {
        let group_id = ConsumerGroupId(group.id);
        for id in consumed(state, group_id, usize::MAX)? {
            if left.shown == 0 || left.queues == 0 {
                left_out += 1;
                continue;
            }
            let Some(topic) = named(state, id)? else { continue };
            let queues = topic.read_queues.max(topic.write_queues) as usize;
            if left.queues < queues {
                // Nor anything after it, so that it is always the last ones.
                left.queues = 0;
                left_out += 1;
                continue;
            }
            left.shown -= 1;
            left.queues -= queues;
            let (lag, oldest) = backlog(state, &topic, group_id, &mut left.ages)?;
            let labels = Received { topic: topic.name.clone(), consumer_group: group.name.clone() };
            ages_left_out += u64::from(oldest.is_none());
            families.add(&labels, &lag, oldest, now_ms);
            families.dead.get_or_create(&labels).inc_by(lag.dead_letters);
            families.expired.get_or_create(&labels).inc_by(lag.expired);
            let differing = session::filters(state, group_id, &topic.name)?.filters.len();
            set(&families.filters, &labels, differing as u64);
            leases += lag.in_flight;
        }
        // A series for all lite topics of a topic together.
        let Some(lite) = looks.share(state, group)? else { continue };
        if left.shown == 0 {
            left_out += 1;
            continue;
        }
        left.shown -= 1;
        let (lag, oldest) = lite_backlog(state, &lite.topics, group_id, &mut left.ages)?;
        let labels = Received { topic: lite.parent.name.clone(), consumer_group: group.name.clone() };
        ages_left_out += u64::from(oldest.is_none());
        families.add(&labels, &lag, oldest, now_ms);
        leases += lag.in_flight;
        left_out += u64::from(lite.more);
    }
    families.register(registry);
    let gauge = super::scrape::gauge;
    gauge(registry, "rocketmq_lease_active", "Messages that are leased, of all consumer groups", leases);
    let help = "Consumer groups with their topics beyond what is shown, or with lite topics beyond what is counted";
    gauge(registry, "rocketmq_consumer_left_out", help, left_out);
    let without = "Consumer groups with their topics that are shown without the age of their oldest messages";
    gauge(registry, "rocketmq_consumer_ages_left_out", without, ages_left_out);
    Ok(())
}

impl Families {
    fn add(&self, labels: &Received, lag: &Lag, oldest: Option<Oldest>, now_ms: u64) {
        if let Some(Oldest { ready_ms, open_ms }) = oldest {
            let age = |since_ms: Option<u64>| since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
            set(&self.lag_ms, labels, age(open_ms));
            set(&self.queueing_ms, labels, age(ready_ms));
        }
        set(&self.lags, labels, lag.messages());
        set(&self.ready, labels, lag.ready);
        set(&self.in_flight, labels, lag.in_flight);
        set(&self.waiting, labels, lag.retry_waiting + lag.put_aside);
    }

    fn register(self, registry: &mut Registry) {
        registry.register("rocketmq_consumer_lag_messages", "Messages that are not finished", self.lags);
        registry.register(
            "rocketmq_consumer_lag_latency",
            "Milliseconds since the oldest message became visible that is ready or leased",
            self.lag_ms,
        );
        registry.register(
            "rocketmq_consumer_queueing_latency",
            "Milliseconds since the oldest message became visible that was never handed out",
            self.queueing_ms,
        );
        registry.register("rocketmq_consumer_ready_messages", "Messages that were never handed out", self.ready);
        registry.register("rocketmq_consumer_inflight_messages", "Messages that are leased", self.in_flight);
        let waiting = "Messages that wait for another attempt or their turn";
        registry.register("rocketmq_pop_revive_lag", waiting, self.waiting);
        registry.register("rocketmq_send_to_dlq_messages", "Messages that became dead letters", self.dead);
        registry.register(
            "rocketmq_consumer_expired_messages",
            "Messages that retention took before they were consumed",
            self.expired,
        );
        let filters = "Filters among the members; more than 1 is a disagreement";
        registry.register("rocketmq_consumer_filters", filters, self.filters);
    }
}

/// A topic that people know, by its id.
fn named(state: &impl ReadState, id: TopicId) -> Result<Option<Topic>, StateError> {
    match topic::name(state, id)? {
        Some(name) if !is_internal(&name) => topic::topic(state, &name),
        _ => Ok(None),
    }
}

fn set(family: &Family<Received, Gauge>, labels: &Received, value: u64) {
    family.get_or_create(labels).set(i64::try_from(value).unwrap_or(i64::MAX));
}
