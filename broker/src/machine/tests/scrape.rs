//! What consumer groups have still to do, as metrics tell it, and what is cut where there are many.

use super::{Harness, START_MS};
use crate::metrics::consumers::{Limits, register};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use raft_store::ReadState;
use raftmq_proto::command::{Append, AppendMessage, Lease, PutTopic, Topic, command};
use std::collections::BTreeMap;

const QUEUES: u32 = 4;

/// The series by name and labels.
fn shown(state: &impl ReadState, now_ms: u64, limits: Limits) -> BTreeMap<String, u64> {
    let mut registry = Registry::default();
    register(state, now_ms, limits, &mut registry).expect("rows are read");
    let mut text = String::new();
    encode(&mut text, &registry).expect("it is text");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.trim_start_matches("rocketmq_").to_owned(), value.parse().expect("a number")))
        .collect()
}

/// Two topics with a message in each queue, sent one after the other in a second; three consumer groups that have
/// received the first of them, two seconds later.
fn harness() -> Harness {
    let mut harness = Harness::activated();
    for name in ["t", "u"] {
        let topic =
            Topic { name: name.into(), read_queues: QUEUES, write_queues: QUEUES, permission: 6, ..Topic::default() };
        let topic = Topic { message_types: vec![1], ..topic };
        harness.run(command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false }));
        for _ in 0..QUEUES {
            let message = AppendMessage { message_type: 1, body_bytes: 1, ..AppendMessage::default() };
            harness.run(command::Kind::Append(Append {
                topic: name.into(),
                messages: vec![message],
                ..Append::default()
            }));
            harness.now_ms += 250;
        }
    }
    for consumer_group in ["a", "b", "c"] {
        for topic in ["t", "u"] {
            harness.run(command::Kind::Lease(Lease {
                topic: topic.into(),
                consumer_group: consumer_group.into(),
                client_id: "c".into(),
                messages_max: 1,
                invisible_ms: 60_000,
                nonce: 1,
                create_consumer_group: true,
                ..Lease::default()
            }));
        }
    }
    assert_eq!(harness.now_ms, START_MS + 2_000);
    harness
}

fn of(name: &str, consumer_group: &str, topic: &str) -> String {
    format!("{name}{{topic=\"{topic}\",consumer_group=\"{consumer_group}\"}}")
}

#[test]
fn lag_and_age_are_those_of_the_rows() {
    let harness = harness();
    let now_ms = START_MS + 10_000;
    let found = shown(&harness.state, now_ms, Limits::default());
    for (consumer_group, (topic, began)) in [("a", ("t", 0)), ("c", ("t", 0)), ("b", ("u", 1_000))] {
        let value = |name: &str| found[&of(name, consumer_group, topic)];
        assert_eq!((value("consumer_lag_messages"), value("consumer_inflight_messages")), (4, 1));
        assert_eq!(value("consumer_ready_messages"), 3);
        let ages = (value("consumer_lag_latency"), value("consumer_queueing_latency"));
        assert!(ages.0 <= 10_000 - began && ages.0 >= ages.1 && ages.1 >= 10_000 - began - 750, "{ages:?}");
    }
    // Which queue was received from nobody says, so one of both ages is that of the oldest message.
    let oldest = found[&of("consumer_lag_latency", "a", "t")];
    assert_eq!(oldest, 10_000, "the oldest message is open, leased or not");
    let counts = ["consumer_group_number", "lease_active", "consumer_left_out", "consumer_ages_left_out"];
    assert_eq!(counts.map(|name| found[name]), [3, 6, 0, 0]);
}

#[test]
fn what_is_beyond_the_limits_is_counted_and_always_the_same() {
    let harness = harness();
    let all = Limits::default();
    let look = |limits| {
        let found = shown(&harness.state, START_MS + 10_000, limits);
        let pairs = |name: &str| {
            let begins = format!("{name}{{");
            found.keys().filter(|key| key.starts_with(&begins)).count() as u64
        };
        let of_each = ["consumer_lag_messages", "consumer_lag_latency", "consumer_queueing_latency"].map(pairs);
        assert!(found.contains_key(&of("consumer_lag_messages", "a", "t")), "the first is always shown");
        (of_each, found["consumer_left_out"], found["consumer_ages_left_out"])
    };
    assert_eq!(look(all), ([6, 6, 6], 0, 0));
    assert_eq!(look(Limits { shown: 4, ..all }), ([4, 4, 4], 2, 0));
    assert_eq!(look(Limits { queues: 6 * QUEUES as usize, ..all }), ([6, 6, 6], 0, 0));
    assert_eq!(look(Limits { queues: 6 * QUEUES as usize - 1, ..all }), ([5, 5, 5], 1, 0));
    assert_eq!(look(Limits { queues: 2 * QUEUES as usize + 1, ..all }), ([2, 2, 2], 4, 0));
    assert_eq!(look(Limits { ages: 6 * QUEUES as usize, ..all }), ([6, 6, 6], 0, 0));
    assert_eq!(look(Limits { ages: 2 * QUEUES as usize + 1, ..all }), ([6, 2, 2], 0, 4));
    assert_eq!(look(Limits { ages: 0, ..all }), ([6, 0, 0], 0, 6));
}
