//! What is too long for one command is done in pieces, and what a receive looks at is bounded.

use super::{Harness, Rules, START_MS, TABLES, apply, dump};
use crate::filter::FilterRow;
use crate::filter::tag::{TagFilter, tag_hash};
use crate::machine::{Effect, TICK_ROWS_MAX};
use crate::store::{ConsumerGroupId, TopicId, available, consumer_group, due, progress, topic};
use raft_store::{State, StateOptions};
use raftmq_proto::command::{
    Ack, Append, AppendMessage, DeleteConsumerGroup, DeleteTopic, EndSession, Filter, Handle, Lease, Leased,
    PutSession, PutTopic, Subscription, Tick, Topic, command, reply,
};

fn with_topic() -> Harness {
    let mut harness = Harness::new();
    let topic = Topic {
        name: "t".into(),
        read_queues: 3,
        write_queues: 3,
        permission: 6,
        message_types: vec![1],
        ..Topic::default()
    };
    harness.run(command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false }));
    harness
}

fn send(harness: &mut Harness, messages: usize, tag: &str) {
    let tag_hash = if tag.is_empty() { 0 } else { tag_hash(tag) };
    let message = AppendMessage { tag_hash, message_type: 1, body_bytes: 1, ..AppendMessage::default() };
    harness.run(command::Kind::Append(Append {
        topic: "t".into(),
        messages: vec![message; messages],
        checks: None,
        ..Append::default()
    }));
}

fn receive(harness: &mut Harness, client: &str, tags: &[&str], max: u32, renewed: bool) -> Leased {
    let reply = harness.run(command::Kind::Lease(Lease {
        consumer_group: "g".into(),
        topic: "t".into(),
        client_id: client.into(),
        filter: Some(Filter { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..Filter::default() }),
        messages_max: max,
        invisible_ms: 30_000,
        renewed,
        renew_max_ms: 3_600_000,
        nonce: 3,
        attempt_id: format!("{}", harness.log.len()),
        create_consumer_group: true,
        confirm_ms: 0,
        judgement: None,
        lite_topics: Vec::new(),
    }));
    match reply.kind {
        Some(reply::Kind::Leased(leased)) => leased,
        other => panic!("not leased: {other:?}"),
    }
}

/// Ticks until nothing is left; returns how many it took.
fn tick(harness: &mut Harness) -> usize {
    for ticks in 1.. {
        let before = dump(&harness.state);
        let reply = harness.run(command::Kind::Tick(Tick {}));
        let touched = before.len().abs_diff(dump(&harness.state).len());
        assert!(touched <= 4 * TICK_ROWS_MAX, "a Tick is bounded, not {touched} rows");
        let Some(reply::Kind::Ticked(ticked)) = reply.kind else { panic!("not ticked: {reply:?}") };
        assert_eq!(harness.effects.contains(&Effect::Due { at_ms: 0 }), ticked.more);
        if !ticked.more {
            return ticks;
        }
    }
    0
}

fn rows(harness: &Harness) -> Vec<(&'static str, usize)> {
    let all = dump(&harness.state);
    TABLES
        .iter()
        .map(|table| (*table, all.iter().filter(|(of, ..)| of == table).count()))
        .filter(|(table, count)| *count > 0 && !["machine", "node", "retention"].contains(table))
        .collect()
}

fn busy() -> Harness {
    let mut harness = with_topic();
    for _ in 0..2_500 {
        send(&mut harness, 1, "");
    }
    for _ in 0..1_200 {
        receive(&mut harness, "c", &[], 1, true);
    }
    for _ in 0..300 {
        receive(&mut harness, "d", &[], 1, false);
    }
    harness
}

#[test]
fn a_deleted_topic_goes_piece_by_piece() {
    let mut harness = busy();
    harness.run(command::Kind::DeleteTopic(DeleteTopic { name: "t".into() }));
    assert_eq!(due::earliest(&harness.state, 0).expect("read"), Some(0));
    assert!(tick(&mut harness) > 3);
    // Its leases go when they end.
    harness.run(command::Kind::EndSession(EndSession { client_id: "c".into(), term: 0 }));
    harness.now_ms += 4_000_000;
    tick(&mut harness);
    assert_eq!(rows(&harness), [("consumer_group", 2)]);
    harness.assert_replays(50);
}

#[test]
fn a_deleted_consumer_group_goes_piece_by_piece() {
    let mut harness = busy();
    harness.now_ms += 31_000;
    tick(&mut harness);
    harness.run(command::Kind::DeleteConsumerGroup(DeleteConsumerGroup { name: "g".into() }));
    assert!(tick(&mut harness) > 2);
    harness.run(command::Kind::EndSession(EndSession { client_id: "c".into(), term: 0 }));
    harness.now_ms += 4_000_000;
    tick(&mut harness);
    assert_eq!(rows(&harness), [("topic", 2), ("queue", 4), ("message", 2_500)]);
    harness.assert_replays(50);
}

#[test]
fn a_consumer_group_with_many_topics_goes_too() {
    let mut harness = Harness::new();
    for number in 0..200 {
        let topic = Topic {
            name: format!("t{number}"),
            read_queues: 1,
            write_queues: 1,
            permission: 6,
            message_types: vec![1],
            ..Topic::default()
        };
        harness.run(command::Kind::PutTopic(PutTopic { topic: Some(topic.clone()), create_only: false }));
        let lease = Lease {
            consumer_group: "g".into(),
            topic: topic.name,
            client_id: "c".into(),
            messages_max: 1,
            invisible_ms: 1,
            create_consumer_group: true,
            ..Lease::default()
        };
        harness.run(command::Kind::Lease(lease));
    }
    harness.run(command::Kind::DeleteConsumerGroup(DeleteConsumerGroup { name: "g".into() }));
    tick(&mut harness);
    assert_eq!(rows(&harness), [("topic", 400)]);
}

#[test]
fn leases_that_end_together_are_taken_back_in_pieces() {
    let mut harness = with_topic();
    send(&mut harness, 3_000, "");
    let mut leased = 0;
    while leased < 3_000 {
        leased += receive(&mut harness, "c", &[], 256, false).messages.len();
    }
    assert_eq!(due::earliest(&harness.state, START_MS + 29_999).expect("read"), None);
    assert_eq!(due::earliest(&harness.state, START_MS + 90_000).expect("read"), Some(START_MS + 30_000));
    harness.now_ms += 30_000;
    assert!(tick(&mut harness) >= 4);
    let again = receive(&mut harness, "c", &[], 256, false);
    assert!(again.messages.iter().all(|message| message.attempt == 2) && again.messages.len() == 256);
}

#[test]
fn the_leases_of_an_ended_session_are_taken_back_in_pieces() {
    let mut harness = busy();
    harness.run(command::Kind::EndSession(EndSession { client_id: "c".into(), term: 0 }));
    assert!(harness.effects.contains(&Effect::Due { at_ms: 0 }));
    // It comes back before all is done, and keeps what it gets now.
    let new = receive(&mut harness, "c", &[], 256, true).messages.len();
    tick(&mut harness);
    let mut others = 0;
    loop {
        let leased = receive(&mut harness, "e", &[], 256, false).messages.len();
        if leased == 0 {
            break;
        }
        others += leased;
    }
    assert_eq!(new + others + 300, 2_500);
}

#[test]
fn a_look_is_bounded_and_goes_on() {
    let mut harness = with_topic();
    for (client, tag) in [("c", "x"), ("d", "y")] {
        let filter = Some(Filter { tags: vec![tag.into()], ..Filter::default() });
        harness.run(command::Kind::PutSession(PutSession {
            client_id: client.into(),
            consumer_group: "g".into(),
            subscriptions: vec![Subscription { topic: "t".into(), filter }],
            create_consumer_group: true,
        }));
    }
    send(&mut harness, 5_000, "y");
    send(&mut harness, 10, "x");
    let wants = |tag| FilterRow::Tags(TagFilter::parse(tag).expect("good expression").set());
    let mut looks = 0;
    let mut found = 0;
    while available(&harness.state, "g", "t", &wants("x")).expect("read") {
        let leased = receive(&mut harness, "c", &["x"], 32, false);
        found += leased.messages.len();
        looks += 1;
        assert!(looks < 20, "each look gets further");
    }
    assert_eq!(found, 10);
    assert!(looks >= 5);
    // What was put aside is there for the other member, and costs this one no further look.
    let mut found = 0;
    while available(&harness.state, "g", "t", &wants("y")).expect("read") {
        found += receive(&mut harness, "d", &["y"], 256, false).messages.len();
    }
    assert_eq!(found, 5_000);
    assert!(!available(&harness.state, "g", "t", &wants("*")).expect("read"));
    assert!(available(&harness.state, "new", "t", &wants("*")).expect("read"));
    assert!(!available(&harness.state, "new", "nothing", &wants("*")).expect("read"));
}

#[test]
fn maps_are_stored_in_their_order() {
    let mut harness = Harness::new();
    let topic = Topic {
        name: "t".into(),
        read_queues: 1,
        write_queues: 1,
        attributes: (0..50).map(|number| (format!("key{number}"), number.to_string())).collect(),
        ..Topic::default()
    };
    harness.run(command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false }));
    harness.assert_replays(1);
}

#[test]
fn rocksdb_holds_the_same_rows() {
    let mut harness = busy();
    harness.now_ms += 31_000;
    tick(&mut harness);
    let dir = tempfile::tempdir().expect("folder");
    let state = State::open(&dir.path().join("state"), TABLES, &StateOptions::default()).expect("open");
    for (number, entries) in harness.log.chunks(100).enumerate() {
        apply(&mut Rules::default(), &state, entries, 1 + (number * 100) as u64);
        if number % 7 == 0 {
            state.flush().expect("flush");
        }
    }
    assert_eq!(dump(&state), dump(&harness.state));
}

#[test]
fn progress_waits_for_one_message_however_far_the_cursor_goes() {
    let mut harness = with_topic();
    send(&mut harness, 6_000, "");
    let at = |harness: &Harness| {
        let topic = topic::topic(&harness.state, "t").expect("read").expect("exists");
        let group = consumer_group::consumer_group(&harness.state, "g").expect("read").expect("exists");
        let found = progress::progress(&harness.state, TopicId(topic.id), ConsumerGroupId(group.id), 0).expect("read");
        (found.progress, found.cursor, found.in_flight)
    };
    let ack = |harness: &mut Harness, leased: &Leased| {
        let handles = leased.messages.iter().map(|message| Handle {
            consumer_group_id: leased.consumer_group_id,
            lease_id: leased.lease_id,
            item: message.item,
            nonce: leased.nonce,
        });
        let ack = Ack { consumer_group: "g".into(), topic: "t".into(), handles: handles.collect() };
        harness.run(command::Kind::Ack(ack));
    };
    let finished = receive(&mut harness, "c", &[], 100, false);
    ack(&mut harness, &finished);
    let first = receive(&mut harness, "c", &[], 1, false);
    let mut open = Vec::new();
    for round in 0..20u64 {
        let leased = receive(&mut harness, "d", &[], 200, false);
        if round % 10 == 9 {
            open.push(leased)
        } else {
            ack(&mut harness, &leased)
        }
        let cursor = 101 + 200 * (round + 1);
        assert_eq!(at(&harness), (100, cursor, 1 + 200 * open.len() as u64));
    }
    ack(&mut harness, &first);
    assert_eq!(at(&harness), (101 + 200 * 9, 4_101, 400));
    ack(&mut harness, &open[1]);
    assert_eq!(at(&harness), (101 + 200 * 9, 4_101, 200));
    ack(&mut harness, &open[0]);
    assert_eq!(at(&harness), (4_101, 4_101, 0));
}
