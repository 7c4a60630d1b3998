//! Retention: what goes, what stays until its own time is over, and what readers and consumers notice.

use super::timeline::check;
use super::{Harness, START_MS};
use crate::machine::TICK_ROWS_MAX;
use crate::store::retention::{mark_by_time, mark_from, mark_upto, trimmed};
use crate::store::{half, key, lease, message, queue, retry, timer, topic};
use raft_store::{ReadState, Table};
use raftmq_proto::command::{Append, AppendMessage, PutTopic, Tick, Topic, Trim, Trimmed, command, reply};
use std::ops::ControlFlow;

/// Nothing that may still be delivered has its body in an entry that was trimmed.
pub(super) fn assert_kept(state: &impl ReadState) {
    let upto = trimmed(state).expect("read").upto;
    let rows = |table: Table, prefix: &[u8]| {
        let mut rows = Vec::new();
        state
            .scan(table, prefix, &key::after(prefix), &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .expect("read");
        rows
    };
    for topic in topic::topics(state).expect("read") {
        let id = crate::store::TopicId(topic.id);
        for number in 0..topic.read_queues as u16 {
            let queue = queue::queue(state, id, number).expect("read");
            let mut at = queue.min;
            while at < queue.next {
                let run = message::run(state, id, number, at).expect("read").expect("runs touch");
                assert!(run.log_index >= upto, "{} queue {number} offset {at}: {run:?} is below {upto}", topic.name);
                at = run.end();
            }
            assert!(message::run_of(state, id, number, queue.min.wrapping_sub(1)).expect("read").is_none());
        }
    }
    for (topic, number, first, end) in super::trace::traces(state) {
        let min = queue::queue(state, topic, number).expect("read").min;
        assert!(end > min, "{topic:?} queue {number} is told of {first}..{end}, below {min}");
    }
    for (key, value) in rows(key::LEASE, &[]) {
        let (.., lease) = lease::parse(&key, &value).expect("a lease");
        if topic::name(state, lease.topic).expect("read").is_some() {
            assert!(lease.open_parts().all(|part| part.first.log_index >= upto), "{lease:?} is below {upto}");
        }
    }
    for (key, value) in rows(key::RETRY, &[]) {
        let retry = retry::Retry::decode(&value).expect("a retry");
        let topic = crate::store::TopicId(u64::from_be_bytes(key[..8].try_into().expect("it begins with its topic")));
        if topic::name(state, topic).expect("read").is_none() {
            // The rows of a topic that is gone go by themselves.
            continue;
        }
        let grouped = retry.place.group != 0;
        assert!(retry.place.log_index >= upto || grouped, "{key:?} {retry:?} is below {upto}");
    }
    for (key, value) in rows(key::TIMER, b"d") {
        let due = timer::parse(&key, &value).expect("a timer");
        assert!(due.timer.recalled || due.body().log_index >= upto, "{due:?} is below {upto}");
    }
    for (key, value) in rows(key::HALF, b"h") {
        let body = half::body_of(&key, &value).expect("a half message");
        let kept = state.get(key::HALF, &key::in_log(body.log_index, body.slot)).expect("read").is_some();
        assert!(!kept || body.log_index >= upto, "{body:?} is below {upto}");
    }
}

#[test]
fn messages_go_with_their_entries_and_are_counted() {
    check(
        "topic t
         group g
         send t a b
         receive c g t max=1     => a:1
         ack g t a               => ok
         +1s; send t c
         +1s; send t d
         trim d                  => ok
         min t                   => 3
         expired g t             => 2
         progress g t            => 3/3/4 flying 0, retry 0 flying 0, lag 1+0+0
         receive c g t           => d:1
         receive c h t           => d:1
         expired h t             => 0
         trim d                  => ok
         expired g t             => 2",
    );
}

#[test]
fn a_time_is_looked_up_among_what_is_left() {
    check(
        "topic t
         send t a; +10s; send t b; +10s; send t c; +10s; send t d
         trim c                  => ok
         at t 0s                 => 2
         at t 20s                => 2
         at t 21s                => 3
         reset g t 0=0           => consumer_group_not_found
         group g; reset g t 0=0  => 0=2
         store g t 0 1           => ok
         receive c g t           => c:1 d:1",
    );
}

#[test]
fn delayed_messages_and_open_transactions_hold_a_trim_until_they_are_appended_again() {
    for again in [true, false] {
        let (held, after) = if again {
            ("move => late half\n trim b => ok", "recall late2 => ok")
        } else {
            ("trim b settle => up to late", "recall late2 => ok")
        };
        check(&format!(
            "topic t types=1,3,4
             delay t 1h late late2   => waits 2
             recall late2            => ok
             half t half             => waits 1
             +1s; send t a
             +1s; send t b
             trim b                  => held
             {held}
             min t                   => 1
             waiting t               => 1 timers, 1 halves, 0 parked
             {after}
             receive c g t           => b:1
             +59m; tick; receive c g t => b:2
             commit half             => ok
             commit half             => ok
             rollback half           => already_committed
             receive c g t           => half:1
             +58s; tick; receive c g t => b:3 half:2 late:1
             recall late             => timer_not_found"
        ));
    }
}

#[test]
fn age_counts_from_visibility() {
    check(
        "topic t types=1,3
         delay t 2h late         => waits 1
         +1s; send t a
         +1h; send t b
         +1h; tick; +1s; send t c
         +10m; send t d
         trim b                  => held
         move                    => late
         trim b                  => ok
         receive c g t           => b:1 late:1 c:1 d:1
         trim d                  => held
         move                    => b c
         trim d                  => ok
         min t                   => 4
         expired g t             => 0
         +30s; tick; receive c g t => b:2 late:2 c:2 d:2",
    );
}

#[test]
fn a_lease_from_before_keeps_its_messages_until_it_is_over() {
    check(
        "topic t
         send t a b; +1s; send t x
         receive c g t for=1h    => a:1 b:1 x:1
         ack g t a               => ok
         +1s; send t d
         trim d                  => held
         hide g t x 2h           => ok
         move                    => a b x
         trim d                  => ok
         ack g t b               => ok
         +2h; tick; receive e g t => x:2 d:1
         trim d                  => ok
         expired g t             => 0",
    );
}

#[test]
fn a_retry_has_an_age_of_its_own() {
    check(
        "topic t
         send t a; +1s; send t b
         receive c g t           => a:1 b:1
         ack g t b               => ok
         +30s; tick; send t d
         +1s; send t e
         trim d                  => held
         trim d settle           => up to a
         receive c g t max=1     => a:2
         +30s; tick
         +1h; send t f; +1s; send t h
         trim h                  => ok
         receive c g t           => h:1
         expired g t             => 4
         progress g t            => 5/6/6 flying 1, retry 0 flying 0, lag 0+0+1",
    );
}

#[test]
fn a_dead_letter_has_an_age_of_its_own() {
    check(
        "topic t
         group g retry=0
         send t a; receive c g t => a:1
         +1s; send t b; +1s; send t d
         +30s; tick
         trim d                  => held
         move                    => a
         trim d                  => ok
         receive c h %DLQ%g      => a:1
         +1h; send t e; +1s; send t f
         trim f                  => held
         move                    => a
         trim f                  => ok
         min %DLQ%g              => 1
         +1h; tick; receive c h %DLQ%g => a:2",
    );
}

#[test]
fn messages_behind_others_of_their_message_group_go_with_their_entries() {
    check(
        "topic t types=2
         send t k.a k.b k.c; receive c g t => a:1
         +1s; send t k.d
         +1s; send t k.e
         trim d                  => held
         move                    => a
         trim d                  => ok
         receive c g t           => nothing
         ack g t a               => ok
         receive c g t           => d:1
         expired g t             => 2",
    );
}

#[test]
fn a_trim_that_a_restart_interrupts_goes_on() {
    check(
        "topic t types=1,3
         delay t 1h late         => waits 1
         +1s; send t a; +1s; send t b
         trim b                  => held
         restart
         move                    => late
         restart
         trim b                  => ok
         min t                   => 1",
    );
}

#[test]
fn a_topics_own_age_hides_its_messages_at_once() {
    check(
        "set retention.ms 7200000
         topic t reserve=3h      => invalid_argument
         topic t reserve=soon    => invalid_argument
         topic t reserve=30m     => version 1
         topic u                 => version 1
         send t a; send u x; +20m; send t b
         receive c g t max=1 for=5s => a:1
         ack g t a               => ok
         expire t                => ok
         min t                   => 0
         +10m; expire t          => ok
         min t                   => 1
         receive c h t           => b:1
         +20m; expire t; expire u => ok
         min t                   => 2
         min u                   => 0
         expired g t             => 1
         receive c g t           => nothing",
    );
}

fn send(harness: &mut Harness, messages: usize) {
    let message = AppendMessage { message_type: 1, body_bytes: 1, ..AppendMessage::default() };
    harness.run(command::Kind::Append(Append {
        topic: "t".into(),
        messages: vec![message; messages],
        checks: None,
        ..Append::default()
    }));
}

#[test]
fn a_trim_of_many_rows_is_done_in_pieces() {
    let mut harness = Harness::new();
    let topic = Topic {
        name: "t".into(),
        read_queues: 1_500,
        write_queues: 1_500,
        permission: 6,
        message_types: vec![1],
        ..Topic::default()
    };
    harness.run(command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false }));
    for _ in 0..4_000 {
        send(&mut harness, 2);
        harness.now_ms += 1_000;
    }
    let upto = harness.log.len() as u64;
    let mut pieces = 0;
    loop {
        let before = super::dump(&harness.state).len();
        let reply = harness.run(command::Kind::Trim(Trim { upto, settle: false }));
        let touched = before.saturating_sub(super::dump(&harness.state).len());
        assert!(touched <= TICK_ROWS_MAX + 10, "a piece is bounded, not {touched} rows");
        pieces += 1;
        match reply.kind {
            Some(reply::Kind::Trimmed(Trimmed { more: true, held: false, .. })) => {}
            Some(reply::Kind::Trimmed(Trimmed { more: false, trimmed, .. })) => {
                assert_eq!(trimmed, upto);
                break;
            }
            other => panic!("not trimmed: {other:?}"),
        }
    }
    assert!(pieces > 8, "{pieces} pieces");
    assert_kept(&harness.state);
    harness.assert_replays(500);
}

#[test]
fn marks_tell_the_time_along_the_log() {
    let mut harness = Harness::new();
    for _ in 0..1_000 {
        harness.run(command::Kind::Tick(Tick {}));
        harness.now_ms += 100;
    }
    let state = &harness.state;
    let last = mark_upto(state, u64::MAX).expect("read").expect("made");
    for ago_s in [0, 1, 17, 50, 99] {
        let time_ms = START_MS + (99 - ago_s) * 1_000;
        let mark = mark_by_time(state, time_ms).expect("read").expect("made");
        assert!(mark.time_ms <= time_ms);
        if mark != last {
            let next = mark_from(state, mark.index + 1).expect("read").expect("another");
            assert!(next.time_ms > time_ms, "{mark:?} is not the last one");
        }
        assert_eq!(mark_upto(state, mark.index).expect("read"), Some(mark));
    }
    assert_eq!(mark_by_time(state, 0).expect("read").map(|mark| mark.index), Some(1));
    // Without the clock, entries count.
    let before = harness.log.len() as u64;
    for _ in 0..600 {
        harness.run(command::Kind::Tick(Tick {}));
    }
    let marks = std::iter::successors(mark_from(&harness.state, before + 2).expect("read"), |mark| {
        mark_from(&harness.state, mark.index + 1).expect("read")
    });
    assert_eq!(marks.count(), 2);
}
