//! What was done to a message, told later.

use super::timeline::check_activated;
use super::{Harness, Rules, START_MS};
use crate::machine::TICK_ROWS_MAX;
use crate::machine::trace::TRACE_ROWS_MAX;
use crate::machine::version::{NEIGHBOURS_STAY, TRACES};
use crate::store::trace::{self, What};
use crate::store::{ConsumerGroupId, TopicId, consumer_group, key, queue, topic, work};
use raft_store::{ReadState, State};
use raftmq_proto::command::{
    Ack, Activate, Append, AppendMessage, ChangeInvisible, DeleteTopic, Handle, Lease, PutTopic, Reply, Tick, Topic,
    Trim, Trimmed, command, reply,
};
use std::ops::ControlFlow;

/// Topic and queue number of each row, its first offset and the one behind its last.
pub(super) fn traces(state: &impl ReadState) -> Vec<(TopicId, u16, u64, u64)> {
    let mut rows = Vec::new();
    state
        .scan(key::RETENTION, b"t", &key::after(b"t"), &mut |key, value| {
            let (topic, number) = key::of_queue(&key[1..9]).expect("of a queue");
            if key.len() > 9 {
                let (_, first, count) = trace::parse(key, value).expect("a row");
                assert!((1..=trace::RUN_MAX).contains(&count));
                rows.push((topic, number, first, first + u64::from(count)));
            }
            ControlFlow::Continue(())
        })
        .expect("read");
    rows
}

/// `history t 0@7`: what was done to the message at offset 7 of queue 0, with seconds since the beginning.
pub(super) fn history(state: &State, words: &[&str]) -> String {
    let (number, offset) = words[2].split_once('@').expect("queue@offset");
    let (number, offset) = (number.parse().expect("a queue"), offset.parse().expect("an offset"));
    let id = TopicId(topic::topic(state, words[1]).expect("read").expect("exists").id);
    let seconds = |ms: u64| (ms - START_MS) / 1_000;
    if offset < queue::queue(state, id, number).expect("read").min {
        let trim = trace::queue_trim(state, id, number).expect("read").expect("it was trimmed");
        return format!("trimmed at {}s up to {}s", seconds(trim.at_ms), seconds(trim.horizon_ms));
    }
    let (events, more) = trace::history(state, id, number, offset).expect("read");
    assert!(!more);
    let mut shown = Vec::new();
    for event in events {
        let what = match event.what {
            What::Visible => "visible".to_owned(),
            What::Leased { client_id, renewed, until_ms } => {
                let renewed = if renewed { "at most " } else { "" };
                format!("leased to {client_id}, {renewed}until {}s", seconds(until_ms))
            }
            What::AskedAgain { until_ms } => format!("asked again until {}s", seconds(until_ms)),
            What::Confirmed => "confirmed".to_owned(),
            What::Extended { until_ms } => format!("extended until {}s", seconds(until_ms)),
            What::Acked => "acked".to_owned(),
            What::GivenBack => "given back".to_owned(),
            What::RanOut => "ran out".to_owned(),
            What::SessionEnded => "session ended".to_owned(),
            What::DeadLettered { offset } => format!("dead at {offset}"),
        };
        let group = match event.group {
            ConsumerGroupId(0) => String::new(),
            group => {
                let name = consumer_group::name(state, group).expect("read").unwrap_or("gone".to_owned());
                format!("{name} {}: ", event.attempt)
            }
        };
        shown.push(format!("{}s {group}{what}", seconds(event.at_ms)));
    }
    if shown.is_empty() { "nothing".to_owned() } else { shown.join("; ") }
}

#[test]
fn each_step_of_a_life_is_told() {
    check_activated(
        "topic t; group g retry=1
         send t a b c
         history t 0@0            => nothing
         receive A g t            => a:1 b:1 c:1
         +5s; ack g t c
         history t 0@2            => 0s g 1: leased to A, until 30s; 5s g 1: acked
         +25s; tick
         receive B g t max=1 renewed=3h unless-confirmed=10s => a:2
         +1s; confirm a
         +4s; hide g t a 60s; +1s; hide g t a 90s
         +60s; ack g t a
         history t 0@0            => 0s g 1: leased to A, until 30s; 30s g 1: ran out; 30s g 2: leased to B, at most until 40s; 31s g 2: confirmed; 35s g 2: extended until 95s; 36s g 2: extended until 126s; 96s g 2: acked
         receive C h t max=1      => a:1
         receive C g t            => b:2
         hide h t a 0s
         history t 0@0            => 0s g 1: leased to A, until 30s; 30s g 1: ran out; 30s g 2: leased to B, at most until 40s; 31s g 2: confirmed; 35s g 2: extended until 95s; 36s g 2: extended until 126s; 96s g 2: acked; 96s h 1: leased to C, until 126s; 96s h 1: given back
         +30s; tick
         history t 0@1            => 0s g 1: leased to A, until 30s; 30s g 1: ran out; 96s g 2: leased to C, until 126s; 126s g 2: ran out; 126s g 2: dead at 0
         drop-group g
         history t 0@2            => 0s gone 1: leased to A, until 30s; 5s gone 1: acked",
    );
}

#[test]
fn each_way_out_is_told_apart() {
    check_activated(
        "topic t types=1,3,4; group g
         session c g t=*
         send t a; receive c g t renewed=3h => a:1
         end c
         history t 0@0            => 0s g 1: leased to c, at most until 10800s; 0s g 1: session ended
         receive d g t attempt=1  => a:2
         +2s; receive d g t attempt=1 => a:2
         dead g t a
         history t 0@0            => 0s g 1: leased to c, at most until 10800s; 0s g 1: session ended; 0s g 2: leased to d, until 30s; 2s g 2: asked again until 32s; 2s g 2: dead at 0
         half t h; delay t 3s w
         +1s; commit h; +2s; tick
         history t 0@1            => 3s visible
         history t 0@2            => 5s visible
         receive d g %DLQ%g       => a:1
         history %DLQ%g 0@0       => 2s visible; 5s g 1: leased to d, until 35s",
    );
}

#[test]
fn neighbours_share_rows_and_go_with_their_messages() {
    check_activated(
        "topic t; group g
         send t a b c d e
         receive c g t            => a:1 b:1 c:1 d:1 e:1
         traces                   => 1
         ack g t c b a e; traces  => 3
         +10s; send t f
         trim f                   => held
         move; trim f             => ok
         history t 0@3            => trimmed at 10s up to 0s
         history t 0@5            => nothing
         traces                   => 0
         receive c g t            => f:1
         traces                   => 1
         drop-topic t; tick; tick; traces => 0",
    );
}

/// Sends, receives and acknowledges 200 messages, with one consumer group all at once, with another one by one.
fn handled(harness: &mut Harness) -> Vec<Reply> {
    handle(harness, 200, &[("whole", 200), ("single", 1)])
}

/// Sends so many messages in one entry; each consumer group receives and acknowledges so many of them at once.
fn handle(harness: &mut Harness, count: u32, consumer_groups: &[(&str, u32)]) -> Vec<Reply> {
    let message = AppendMessage { message_type: 1, body_bytes: 1, ..AppendMessage::default() };
    let append = Append { topic: "t".into(), messages: vec![message; count as usize], ..Append::default() };
    let mut replies = vec![harness.run(command::Kind::Append(append))];
    replies.extend(deal(harness, count, consumer_groups));
    replies
}

/// Each consumer group receives and acknowledges so many of so many messages at once.
fn deal(harness: &mut Harness, count: u32, consumer_groups: &[(&str, u32)]) -> Vec<Reply> {
    let mut replies = Vec::new();
    let receive = |consumer_group: &str, messages_max| {
        command::Kind::Lease(Lease {
            topic: "t".into(),
            consumer_group: consumer_group.into(),
            client_id: "c".into(),
            messages_max,
            invisible_ms: 60_000,
            nonce: 1,
            create_consumer_group: true,
            ..Lease::default()
        })
    };
    for (consumer_group, at_once) in consumer_groups.iter().copied() {
        for _ in 0..count / at_once {
            let reply = harness.run(receive(consumer_group, at_once));
            let Some(reply::Kind::Leased(leased)) = &reply.kind else { panic!("not leased: {reply:?}") };
            assert_eq!(leased.messages.len(), at_once as usize);
            let handle = |item| Handle {
                consumer_group_id: leased.consumer_group_id,
                lease_id: leased.lease_id,
                item,
                nonce: leased.nonce,
            };
            let handles = leased.messages.iter().map(|message| handle(message.item)).collect();
            let ack = Ack { topic: "t".into(), consumer_group: consumer_group.into(), handles };
            replies.extend([reply, harness.run(command::Kind::Ack(ack))]);
        }
    }
    replies
}

fn with_topic(mut harness: Harness) -> Harness {
    let topic = Topic {
        name: "t".into(),
        read_queues: 1,
        write_queues: 1,
        permission: 6,
        message_types: vec![1],
        ..Topic::default()
    };
    harness.run(command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false }));
    harness
}

#[test]
fn what_was_done_goes_in_pieces_that_a_trim_may_do_at_once() {
    let mut harness = with_topic(Harness::activated());
    let rounds = 3 * TRACE_ROWS_MAX / (2 * (4 + 200));
    for _ in 0..rounds {
        handled(&mut harness);
    }
    // 4 runs of 64 and 8 of a rest, and one by one: leased and acknowledged.
    assert_eq!(traces(&harness.state).len(), rounds * 2 * (4 + 200));
    harness.now_ms += 1_000;
    let upto = harness.log.len() as u64 + 1;
    handled(&mut harness);
    let mut pieces = 0;
    loop {
        let before = traces(&harness.state).len();
        let reply = harness.run(command::Kind::Trim(Trim { upto, settle: true }));
        let after = traces(&harness.state).len();
        assert!(before - after <= TRACE_ROWS_MAX, "{} rows at once", before - after);
        super::retention::assert_kept(&harness.state);
        pieces += 1;
        match reply.kind {
            Some(reply::Kind::Trimmed(Trimmed { more: true, .. })) if pieces < 20 => {}
            Some(reply::Kind::Trimmed(Trimmed { more: false, .. })) => break,
            other => panic!("a trim does not end: {other:?}"),
        }
    }
    assert!(pieces >= 3, "{pieces} pieces");
    let id = TopicId(topic::topic(&harness.state, "t").expect("read").expect("exists").id);
    assert_eq!(queue::queue(&harness.state, id, 0).expect("read").min, 200 * rounds as u64);
    let (events, _) = trace::history(&harness.state, id, 0, 200 * rounds as u64).expect("read");
    assert_eq!(events.len(), 4, "{events:?}");
    harness.assert_replays(7);
}

#[test]
fn a_run_to_which_more_was_done_than_a_trim_removes_at_once_goes_all_the_same() {
    let mut harness = with_topic(Harness::activated());
    let groups = ["a", "b", "c"].map(|group| (group, 1));
    handle(&mut harness, 1_000, &groups);
    let all = traces(&harness.state).len();
    assert!(all == 6_000 && all > TRACE_ROWS_MAX);
    harness.now_ms += 1_000;
    let upto = harness.log.len() as u64 + 1;
    handle(&mut harness, 1, &groups);
    let mut trim = || harness.run(command::Kind::Trim(Trim { upto, settle: true }));
    let more = |reply: Reply| match reply.kind {
        Some(reply::Kind::Trimmed(trimmed)) => trimmed.more,
        other => panic!("not trimmed: {other:?}"),
    };
    assert!(more(trim()));
    let pieces = (0..10).take_while(|_| more(trim())).count();
    assert!(pieces < 10, "a trim does not end");
    super::retention::assert_kept(&harness.state);
    assert_eq!(traces(&harness.state).len(), 6, "those of the message that stays");
    harness.assert_replays(500);
}

/// Where the pieces of a trim end, before the last one, and how much is told of the first two messages that stay then.
/// Messages are stored `batch` at a time, and `whole` consumer groups took many at once.
fn pieces(version: u32, batch: usize, whole: usize) -> Vec<(u64, [usize; 2])> {
    let mut harness = with_topic(Harness { begins: Some(version), ..Harness::new() });
    let message = AppendMessage { message_type: 1, body_bytes: 1, ..AppendMessage::default() };
    let append = Append { topic: "t".into(), messages: vec![message; batch], ..Append::default() };
    let count = 12 * trace::RUN_MAX;
    (0..count as usize / batch).for_each(|_| drop(harness.run(command::Kind::Append(append.clone()))));
    let mut groups = vec![("whole", trace::RUN_MAX), ("more", trace::RUN_MAX)];
    groups.truncate(whole);
    groups.extend([("a", 1), ("b", 1), ("c", 1)]);
    deal(&mut harness, count, &groups);
    assert!(traces(&harness.state).len() > TRACE_ROWS_MAX);
    harness.now_ms += 1_000;
    let upto = harness.log.len() as u64 + 1;
    handle(&mut harness, 1, &[("a", 1)]);
    let id = TopicId(topic::topic(&harness.state, "t").expect("read").expect("exists").id);
    let mut ends = Vec::new();
    for _ in 0..10 {
        let reply = harness.run(command::Kind::Trim(Trim { upto, settle: true }));
        super::retention::assert_kept(&harness.state);
        let min = queue::queue(&harness.state, id, 0).expect("read").min;
        let Some(reply::Kind::Trimmed(Trimmed { more, .. })) = reply.kind else { panic!("not trimmed: {reply:?}") };
        if !more {
            break;
        }
        let events = |offset| trace::history(&harness.state, id, 0, offset).expect("read").0.len();
        ends.push((min, [events(min), events(min + 1)]));
    }
    assert_eq!(queue::queue(&harness.state, id, 0).expect("read").min, u64::from(count));
    assert_eq!(traces(&harness.state).len(), 2);
    harness.assert_replays(500);
    ends
}

/// A piece of a trim ends amid neighbours that share a row: those that stay for the moment lose nothing by it.
#[test]
fn neighbours_that_stay_until_the_next_piece_of_a_trim_are_still_told_of() {
    // Between two messages, amid what was done to one, and amid messages that were stored together.
    for (batch, whole) in [(1, 1), (1, 2), (16, 1), (16, 2)] {
        let ends = pieces(NEIGHBOURS_STAY, batch, whole);
        assert!(
            ends.iter().any(|(end, _)| end % u64::from(trace::RUN_MAX) != 0),
            "no piece ends within a row: {ends:?}"
        );
        // Leased and acknowledged, by each of the consumer groups.
        let all = 2 * (whole + 3);
        assert!(ends.iter().all(|(_, events)| *events == [all, all]), "{batch} at a time: {ends:?}");
    }
    // Before the version they were not told of what they shared.
    assert!(pieces(NEIGHBOURS_STAY - 1, 1, 1).iter().any(|(_, events)| *events == [6, 6]));
}

/// Rows that all tell of the same neighbours, more than a piece removes: it gets on all the same.
#[test]
fn a_piece_of_a_trim_gets_on_where_every_row_tells_of_neighbours_that_stay() {
    let mut harness = with_topic(Harness::activated());
    let message = AppendMessage { message_type: 1, body_bytes: 1, ..AppendMessage::default() };
    let append = Append { topic: "t".into(), messages: vec![message], ..Append::default() };
    (0..2).for_each(|_| drop(harness.run(command::Kind::Append(append.clone()))));
    let names: Vec<String> = (0..=TRACE_ROWS_MAX / 2).map(|number| format!("g{number}")).collect();
    let both: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 2)).collect();
    deal(&mut harness, 2, &both);
    deal(&mut harness, 2, &[("single", 1)]);
    assert_eq!(traces(&harness.state).len(), TRACE_ROWS_MAX + 2 + 4);
    harness.now_ms += 1_000;
    let upto = harness.log.len() as u64 + 1;
    handle(&mut harness, 1, &[("single", 1)]);
    let mut trim = || harness.run(command::Kind::Trim(Trim { upto, settle: true }));
    let more = |reply: Reply| match reply.kind {
        Some(reply::Kind::Trimmed(trimmed)) => trimmed.more,
        other => panic!("not trimmed: {other:?}"),
    };
    let pieces = (0..10).take_while(|_| more(trim())).count();
    assert!((1..10).contains(&pieces), "{pieces} pieces");
    assert_eq!(traces(&harness.state).len(), 2);
    harness.assert_replays(500);
}

/// What was done in a topic that is gone goes in pieces, each after a restart.
#[test]
fn what_was_done_in_a_topic_that_is_gone_goes_on_going_after_a_restart() {
    let mut harness = with_topic(Harness::activated());
    let rounds = 3 * TICK_ROWS_MAX / (2 * (4 + 200)) + 1;
    for _ in 0..rounds {
        handled(&mut harness);
    }
    let all = traces(&harness.state).len();
    assert!(all > 3 * TICK_ROWS_MAX);
    harness.run(command::Kind::DeleteTopic(DeleteTopic { name: "t".into() }));
    // Another one of the same name keeps its own.
    harness = with_topic(harness);
    handled(&mut harness);
    let id = TopicId(topic::topic(&harness.state, "t").expect("read").expect("exists").id);
    let own = |state: &State| traces(state).iter().filter(|(topic, ..)| *topic == id).count();
    assert_eq!(own(&harness.state), 2 * (4 + 200));
    let (mut left, mut pieces) = (all, 0);
    for _ in 0..100 {
        harness.rules = Rules::default();
        harness.run(command::Kind::Tick(Tick {}));
        let now = traces(&harness.state).len() - own(&harness.state);
        assert!(left - now <= TICK_ROWS_MAX, "{} rows at once", left - now);
        pieces += usize::from(now < left);
        left = now;
    }
    assert_eq!((left, own(&harness.state)), (0, 2 * (4 + 200)));
    assert!(pieces > 3, "{pieces} pieces");
    assert!(work::first(&harness.state).expect("read").is_none(), "nothing is left to do");
    harness.assert_replays(1);
}

/// What is delivered again without another attempt, in one entry: each delivery is told, and in its order.
#[test]
fn deliveries_of_one_attempt_in_one_entry_are_told_apart() {
    let mut harness = with_topic(Harness::activated());
    let message = AppendMessage { message_type: 1, body_bytes: 1, ..AppendMessage::default() };
    let append = Append { topic: "t".into(), messages: vec![message; 2], ..Append::default() };
    harness.run(command::Kind::Append(append));
    let receive = |client_id: &str| {
        command::Kind::Lease(Lease {
            topic: "t".into(),
            consumer_group: "g".into(),
            client_id: client_id.into(),
            messages_max: 2,
            invisible_ms: 60_000,
            nonce: 1,
            create_consumer_group: true,
            ..Lease::default()
        })
    };
    let reply = harness.run(receive("a"));
    let Some(reply::Kind::Leased(leased)) = reply.kind else { panic!("not leased: {reply:?}") };
    let give_back = |item| {
        let (consumer_group_id, lease_id, nonce) = (leased.consumer_group_id, leased.lease_id, leased.nonce);
        command::Kind::ChangeInvisible(ChangeInvisible {
            consumer_group: "g".into(),
            topic: "t".into(),
            handle: Some(Handle { consumer_group_id, lease_id, item, nonce }),
            invisible_ms: 0,
            suspend: true,
        })
    };
    let batch = harness.batch(vec![give_back(0), give_back(1), receive("b")]);
    harness.apply_batches(&[batch]);
    assert_eq!(traces(&harness.state).len(), 3, "both messages share each row");
    for place in ["0@0", "0@1"] {
        assert_eq!(
            history(&harness.state, &["history", "t", place]),
            "0s g 1: leased to a, until 60s; 0s g 1: given back; 0s g 1: leased to b, until 60s"
        );
    }
    harness.assert_replays(2);
}

#[test]
fn no_row_before_the_version_and_the_same_answers_in_it() {
    let mut old = with_topic(Harness::new());
    let mut new = with_topic(Harness::new());
    assert_eq!(handled(&mut old), handled(&mut new));
    assert_eq!(traces(&new.state), []);
    old.run(command::Kind::Tick(Tick {}));
    new.run(command::Kind::Activate(Activate { version: TRACES }));
    assert_eq!(handled(&mut old), handled(&mut new));
    assert_eq!(traces(&old.state), []);
    assert_eq!(traces(&new.state).len(), 2 * (4 + 200));
}
