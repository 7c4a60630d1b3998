//! What became of one message, as the rows say it at every step of its life.

use super::timeline::check;
use crate::deliver::handle::message_id_hash;
use crate::store::explain::{self, Fate, Waits};
use crate::store::{TopicId, consumer_group, timer, topic};
use raft_store::State;

fn id_of(state: &State, name: &str) -> TopicId {
    TopicId(topic::topic(state, name).expect("read").expect("exists").id)
}

/// `fate g t 0@7`: what became of the message at offset 7 of queue 0 with a consumer group.
pub(super) fn fate(state: &State, now_ms: u64, words: &[&str]) -> String {
    let (queue, offset) = words[3].split_once('@').expect("queue@offset");
    let (queue, offset) = (queue.parse().expect("a queue"), offset.parse().expect("an offset"));
    let found = explain::explain(state, id_of(state, words[2]), queue, offset).expect("read");
    let Some(explain::Explained { place, fates, .. }) = found else { return "gone".to_owned() };
    assert_eq!(place.offset, offset);
    let group = consumer_group::consumer_group(state, words[1]).expect("read").map_or(0, |row| row.id);
    let fate = fates.into_iter().find(|(known, _)| known.0 == group);
    match fate.map(|(_, fate)| fate) {
        None => "nothing".to_owned(),
        Some(Fate::Leased { client_id, attempt, since_ms, until_ms, renewed }) => {
            let renewed = if renewed { " renewed" } else { "" };
            format!(
                "leased to {client_id}, attempt {attempt}, {} s ago, {} s left{renewed}",
                (now_ms - since_ms) / 1_000,
                (until_ms - now_ms) / 1_000
            )
        }
        Some(Fate::Waiting { attempt }) => format!("waits for {attempt}"),
        Some(Fate::DeadLettered { at_ms, offset }) => format!("dead at {offset}, {} s ago", (now_ms - at_ms) / 1_000),
        Some(other) => format!("{other:?}").to_lowercase(),
    }
}

/// `waits t id`: what waits outside of the queues with a message id.
pub(super) fn waits(state: &State, now_ms: u64, words: &[&str]) -> String {
    let (found, more) = explain::waits(state, id_of(state, words[1]), message_id_hash(words[2])).expect("read");
    assert!(!more);
    let show = |waits: &Waits| match waits {
        Waits::Delivery { at_ms, recalled: false } => format!("due in {} s", (at_ms - now_ms) / 1_000),
        Waits::Delivery { recalled: true, .. } => "recalled".to_owned(),
        Waits::Transaction { state, checks, .. } => format!("{state:?} {checks}").to_lowercase(),
    };
    if found.is_empty() { "nothing".to_owned() } else { found.iter().map(show).collect::<Vec<_>>().join(", ") }
}

/// `timers t 2 5`: seconds until messages of a topic (`*` for all) are due, two on a page, after a look at five rows at
/// most; pages are separated by `|`.
pub(super) fn timers(state: &State, now_ms: u64, words: &[&str]) -> String {
    let topic = (words[1] != "*").then(|| id_of(state, words[1]));
    let [rows_max, looks_max] = [2, 3].map(|place| words[place].parse().expect("a number"));
    let (mut from, mut pages) = (timer::Point::at(0), Vec::new());
    loop {
        let page = timer::page(state, from, u64::MAX - 1, topic, rows_max, looks_max).expect("read");
        assert!(page.rows.len() <= rows_max);
        let due = page.rows.iter().map(|due| format!("{}", (due.at_ms - now_ms) / 1_000));
        pages.push(due.collect::<Vec<_>>().join(" "));
        match page.next {
            // As whoever asks again names it.
            Some(next) => from = timer::Point::parse(&next.to_string()).expect("it reads back"),
            None => return pages.join("|"),
        }
    }
}

#[test]
fn timers_are_listed_by_their_time_page_after_page() {
    check(
        "topic t types=1,3; topic u types=1,3
         delay t 30s a; delay u 10s b; delay t 20s c; delay t 40s d; delay u 50s e
         timers * 2 100           => 10 20|30 40|50
         timers * 3 100           => 10 20 30|40 50
         timers t 100 100         => 20 30 40
         timers t 100 1           => |20|30|40|
         timers t 1 2             => 20|30|40|
         recall c
         timers * 9 9             => 10 30 40 50
         +10s; tick
         timers * 9 9             => 20 30 40",
    );
}

#[test]
fn a_message_is_explained_at_every_step() {
    check(
        "topic t types=1,2; group g retry=1
         send t k.a k.b x         => 0@0+3
         fate g t 0@0             => nothing
         receive c g t            => a:1 x:1
         fate g t 0@0             => leased to c, attempt 1, 0 s ago, 30 s left
         fate g t 0@1             => behind
         +5s
         fate g t 0@2             => leased to c, attempt 1, 5 s ago, 25 s left
         ack g t x
         fate g t 0@2             => finished
         +25s; tick
         fate g t 0@0             => waits for 2
         send t y
         fate g t 0@3             => ready
         fate g t 0@4             => gone
         receive d g t renewed=3h max=1 => a:2
         fate g t 0@0             => leased to d, attempt 2, 0 s ago, 10800 s left renewed
         dead g t a; +2s
         fate g t 0@0             => dead at 0, 2 s ago
         fate g t 0@1             => waits for 1
         receive c g t            => b:1 y:1
         hide g t b 60s
         fate g t 0@1             => leased to c, attempt 1, 0 s ago, 60 s left
         ack g t b y
         fate g t 0@1             => finished
         reset g t 0=1
         fate g t 0@1             => ready
         fate g t 0@0             => dead at 0, 2 s ago",
    );
}

#[test]
fn what_waits_says_for_what() {
    check(
        "topic t types=1,3,4
         delay t 10s a
         half t h
         waits t a                => due in 10 s
         waits t h                => pending 0
         waits t other            => nothing
         recall a; waits t a      => recalled
         +6s; tick; checked h
         waits t h                => pending 1
         commit h; waits t h      => committed 1
         +10s; tick; waits t a    => nothing",
    );
}
