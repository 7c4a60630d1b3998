//! SQL filters: what is said of messages comes with the receive, and apply goes by it.

use super::timeline::check;
use super::{Effect, Harness, judged};
use crate::filter::sql::digest;
use crate::store::message::Place;
use raftmq_proto::command::{
    Append, AppendMessage, Filter, Judgement, Lease, Leased, Property, PutSession, PutTopic, Refusal, StoredMessage,
    Subscription, Topic, command, reply,
};

#[test]
fn a_receive_gets_what_its_expression_takes() {
    check(
        "topic t
         session c1 g t=sql:n>3
         send t a?1 b?5 c d?7 e/x?2
         receive c1 g t sql=n>3   => b:1 d:1
         progress g t             => 1/5/5 flying 2, retry 0 flying 0, lag 0+0+2
         receive c1 g t sql=n>3   => waits
         ack g t b; ack g t d
         progress g t             => 5/5/5 flying 0, retry 0 flying 0, lag 0+0+0
         receive c2 h t           => a:1 b:1 c:1 d:1 e:1",
    );
}

#[test]
fn retries_are_judged_too() {
    check(
        "topic t
         session c1 g t=sql:n>3
         send t a?5; receive c1 g t sql=n>3 => a:1
         receive c1 g t sql=n>3   => waits
         +30s; tick; receive c1 g t sql=n>3 => a:2
         session c1 g t=sql:n>9
         +30s; tick; receive c1 g t sql=n>9 => nothing
         receive c1 g t sql=n>9   => waits
         progress g t             => 1/1/1 flying 0, retry 0 flying 0, lag 0+0+0",
    );
}

#[test]
fn members_with_other_expressions_get_theirs() {
    check(
        "topic t
         session c1 g t=sql:n>3
         session c2 g t=sql:n<3
         session c3 g t=x
         send t a?1 b?5 c?3 d/x?3 e/y?3
         receive c1 g t sql=n>3   => b:1
         progress g t             => 1/5/5 flying 1, retry 2 flying 0, lag 0+2+1
         receive c1 g t sql=n>3   => waits
         receive c2 g t sql=n<3   => a:1
         receive c2 g t sql=n<3   => waits
         receive c3 g t tags=x    => d:1
         progress g t             => 1/5/5 flying 1, retry 0 flying 2, lag 0+0+3",
    );
}

#[test]
fn by_tag_nothing_is_skipped_that_an_expression_may_take() {
    check(
        "topic t
         session c1 g t=x
         session c2 g t=sql:n>3
         send t a/y?5 b/y?1 c/x?1
         receive c1 g t tags=x    => c:1
         progress g t             => 2/3/3 flying 1, retry 2 flying 0, lag 0+2+1
         receive c1 g t tags=x    => nothing
         receive c2 g t sql=n>3   => a:1
         receive c2 g t sql=n>3   => waits
         progress g t             => 2/3/3 flying 1, retry 0 flying 1, lag 0+0+2
         end c2; send t d/y?5; receive c1 g t tags=x => nothing
         progress g t             => 2/4/4 flying 1, retry 0 flying 1, lag 0+0+2",
    );
}

#[test]
fn message_groups_keep_their_order() {
    check(
        "topic t types=1,2 queues=2
         group g order=on
         session c1 g t=sql:n>3
         send t k.a?5 k.b?1 k.c?6 l.d?1 l.e?7
         receive c1 g t sql=n>3   => a:1 e:1
         receive c1 g t sql=n>3   => waits
         ack g t a; receive c1 g t sql=n>3 => c:1
         ack g t c; ack g t e; receive c1 g t sql=n>3 => waits",
    );
}

#[test]
fn a_new_group_starts_where_it_is_told() {
    check(
        "topic t queues=4
         send t a?5
         group g from=last
         +1s; receive c1 g t sql=n>3 => nothing
         send t b?5; receive c1 g t sql=n>3 => b:1
         receive c2 h t sql=n>3   => b:1 a:1
         receive c1 g t sql=n>3   => waits
         reset g t 0=0 1=0 2=0 3=0
         receive c1 g t sql=n>3   => b:1 a:1",
    );
}

fn stored(place: &Place) -> StoredMessage {
    let value = (place.log_index % 100 * 10 + u64::from(place.slot) % 10).to_string();
    StoredMessage { properties: vec![Property { key: "n".into(), value }], ..StoredMessage::default() }
}

fn with_messages(entries: usize) -> Harness {
    let mut harness = Harness::new();
    let topic = Topic {
        name: "t".into(),
        read_queues: 4,
        write_queues: 4,
        permission: 6,
        message_types: vec![1],
        ..Topic::default()
    };
    harness.run(command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false }));
    for _ in 0..entries {
        let message = AppendMessage { message_type: 1, body_bytes: 1, ..AppendMessage::default() };
        harness.run(command::Kind::Append(Append {
            topic: "t".into(),
            messages: vec![message; 10],
            checks: None,
            ..Append::default()
        }));
    }
    harness
}

fn receive(harness: &mut Harness, judgement: Judgement) -> Leased {
    let reply = harness.run(command::Kind::Lease(Lease {
        consumer_group: "g".into(),
        topic: "t".into(),
        client_id: "c".into(),
        messages_max: 32,
        invisible_ms: 30_000,
        create_consumer_group: true,
        judgement: Some(judgement),
        ..Lease::default()
    }));
    let Some(reply::Kind::Leased(leased)) = reply.kind else { panic!("not leased: {reply:?}") };
    leased
}

fn put_session(harness: &mut Harness, client: &str, expression: &str) -> Refusal {
    let filter = Some(Filter { tags: Vec::new(), sql: expression.into() });
    harness
        .run(command::Kind::PutSession(PutSession {
            client_id: client.into(),
            consumer_group: "g".into(),
            subscriptions: vec![Subscription { topic: "t".into(), filter }],
            create_consumer_group: true,
        }))
        .refusal()
}

#[test]
fn a_selective_filter_goes_through_many_messages_in_bounded_steps() {
    let mut harness = with_messages(2_000);
    put_session(&mut harness, "c", "n = 777");
    let (mut looks, mut found) = (0, 0);
    while let Some(judgement) = judged(&harness.state, ("g", "t"), "n = 777", 32, stored) {
        let messages: u32 = judgement.runs.iter().map(|run| run.count).sum();
        assert!(messages <= 1_024, "one look judges {messages} messages");
        assert!(prost::Message::encoded_len(&judgement) < 4_096, "a bit a message, and a row for each entry");
        found += receive(&mut harness, judgement).messages.len();
        looks += 1;
        assert!(looks < 60, "each look gets further");
    }
    assert_eq!(found, 20);
    assert!(looks >= 20, "{looks} looks for 20,000 messages");
    harness.assert_replays(7);
}

#[test]
fn what_was_said_long_ago_does_no_harm() {
    let mut harness = with_messages(300);
    put_session(&mut harness, "c", "n >= 0");
    assert!(judged(&harness.state, ("g", "t"), "n >= 0", 32, stored).is_some(), "the first one makes the rows");
    let first = judged(&harness.state, ("g", "t"), "n >= 0", 32, stored).expect("there are messages");
    receive(&mut harness, first);
    let old = judged(&harness.state, ("g", "t"), "n >= 0", 32, stored).expect("there are messages");
    let mut found = 0;
    // As many receives as were under way at once; nobody gets what another one got, and nobody is stuck.
    for _ in 0..5 {
        let leased = receive(&mut harness, old.clone());
        found += leased.messages.len();
        assert!(!leased.messages.is_empty() || leased.more);
    }
    assert!((128..=160).contains(&found), "{found} of what was judged once");
    // Of another filter nothing is known: its messages stay.
    let other = Judgement { filters: vec![digest("n < 0")], runs: Vec::new(), first_queue: 9 };
    let leased = receive(&mut harness, other);
    assert!(leased.messages.is_empty() && leased.more);
    while let Some(judgement) = judged(&harness.state, ("g", "t"), "n >= 0", 32, stored) {
        found += receive(&mut harness, judgement).messages.len();
    }
    assert_eq!(found, 3_000);
}

#[test]
fn disagreement_is_seen_once_per_change() {
    let mut harness = with_messages(1);
    let differ = |harness: &Harness| {
        harness.effects.iter().find_map(|effect| match effect {
            Effect::FiltersDiffer { filters, .. } => Some(*filters),
            _ => None,
        })
    };
    put_session(&mut harness, "a", "n = 1");
    assert_eq!(differ(&harness), None);
    put_session(&mut harness, "b", "n = 2");
    assert_eq!(differ(&harness), Some(2));
    put_session(&mut harness, "c", "n = 2");
    assert_eq!(differ(&harness), None, "nothing changed");
    put_session(&mut harness, "b", "n = 1");
    assert_eq!(differ(&harness), None, "still two");
    put_session(&mut harness, "c", "n = 1");
    assert_eq!(differ(&harness), Some(1));
}

#[test]
fn filters_of_a_group_are_bounded() {
    let mut harness = with_messages(1);
    for number in 0..32 {
        assert_eq!(put_session(&mut harness, &format!("c{number}"), &format!("n = {number}")), Refusal::Unspecified);
    }
    assert_eq!(put_session(&mut harness, "d", "n = 99"), Refusal::InvalidArgument);
    assert_eq!(put_session(&mut harness, "d", "n = 7"), Refusal::Unspecified);
    assert_eq!(put_session(&mut harness, "d", &"x".repeat(70_000)), Refusal::InvalidArgument);
}
