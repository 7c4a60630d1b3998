//! Versions of commands: what begins them, what they switch, and what stops a build that does not know one.

use super::{Batch, EncodedBatch, EntryAt, Harness, Rules, State, TABLES, TERM, apply, dump, encode_entry};
use crate::machine::{KNOWN, TRIAL, TRIAL_COMMANDS, VERSION, VERSION_OLDEST};
use crate::store::machine;
use bytes::Bytes;
use prost::Message;
use raft_store::{LogIndex, StateError};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{
    Activate, Append, AppendMessage, Checks, ConsumerGroup, DeleteTopic, EndTransaction, PutConsumerGroup, PutTopic,
    Refusal, Reply, Tick, Topic, WaitingMessage, reply,
};

/// A build that knows the version after this one's.
fn newer() -> Rules {
    Rules::new(VERSION_OLDEST..=TRIAL)
}

fn activate(version: u32) -> Kind {
    Kind::Activate(Activate { version })
}

fn payload(batch: &Batch) -> Bytes {
    let encoded = EncodedBatch { batch: batch.encode_to_vec().into(), blobs: Vec::new() };
    encode_entry(7, &[encoded]).expect("small")
}

/// Why `rules` stop at an entry that they do not get past.
fn stops(rules: &mut Rules, state: &State, payload: Bytes) -> StateError {
    let before = dump(state);
    let at = EntryAt { index: LogIndex(100), term: TERM };
    let error = rules.apply_payload(at, payload, &mut state.batch()).expect_err("it must stop");
    // The rows of the entry are dropped with the batch.
    assert_eq!(dump(state), before);
    error
}

/// Commands that were counted since [`TRIAL`] is active.
fn counted(state: &State) -> u64 {
    machine::number_setting(state, TRIAL_COMMANDS, 0).expect("rows are read")
}

#[test]
fn a_version_begins_with_its_activation_and_stays() {
    let mut harness = Harness { rules: newer(), ..Harness::new() };
    let active = |harness: &Harness| machine::version(&harness.state).expect("rows are read");
    harness.run(Kind::Tick(Tick {}));
    assert_eq!((active(&harness), harness.rules.version()), (0, Some(0)));
    for (version, then) in [(VERSION, VERSION), (TRIAL, TRIAL), (VERSION, TRIAL), (0, TRIAL)] {
        harness.run(activate(version));
        assert_eq!((active(&harness), harness.rules.version()), (then, Some(then)), "after {version}");
    }
    // As after a restart, and as a member that is filled.
    let replayed = State::ordered(TABLES);
    for (entry, index) in harness.log.iter().zip(1..) {
        apply(&mut newer(), &replayed, std::slice::from_ref(entry), index);
    }
    assert_eq!(dump(&replayed), dump(&harness.state));
}

#[test]
fn what_is_new_waits_for_the_activation() {
    let mut harness = Harness { rules: newer(), ..Harness::new() };
    let batch = |harness: &mut Harness, version| Batch { version, ..harness.batch(vec![Kind::Tick(Tick {}); 2]) };
    for (version, expected) in [(0, 0), (TRIAL, 0)] {
        let batch = batch(&mut harness, version);
        harness.apply_batches(&[batch]);
        assert_eq!(counted(&harness.state), expected, "encoded by {version}, before");
    }
    // Within one entry: what stands before the activation is of the old version, what stands behind it of the new one.
    let before = batch(&mut harness, TRIAL);
    let activation = harness.batch(vec![activate(TRIAL)]);
    let behind = batch(&mut harness, TRIAL);
    harness.apply_batches(&[before, activation, behind]);
    assert_eq!(counted(&harness.state), 2);
    // One that was encoded before comes late.
    let late = batch(&mut harness, 0);
    harness.apply_batches(&[late]);
    assert_eq!(counted(&harness.state), 2);
    let batch = batch(&mut harness, TRIAL);
    harness.apply_batches(std::slice::from_ref(&batch));
    // A repeat counts once.
    harness.apply_batches(&[batch]);
    assert_eq!(counted(&harness.state), 4);
}

#[test]
fn a_build_that_does_not_know_a_version_stops_before_it_writes() {
    let mut harness = Harness::new();
    harness.run(Kind::Tick(Tick {}));
    let is_newer = |error: StateError| {
        let text = error.to_string();
        assert!(matches!(error, StateError::Version { active: TRIAL, known } if known == KNOWN), "{text}");
        for part in [format!("of version {TRIAL}"), format!("up to {VERSION}"), "upgrade this node".to_owned()] {
            assert!(text.contains(&part), "{text}");
        }
    };
    let activation = harness.batch(vec![Kind::Tick(Tick {}), activate(TRIAL)]);
    is_newer(stops(&mut harness.rules, &harness.state, payload(&activation)));
    let encoded_by = Batch { version: TRIAL, ..harness.batch(vec![Kind::Tick(Tick {})]) };
    is_newer(stops(&mut harness.rules, &harness.state, payload(&encoded_by)));

    // A newer build carries on from these rows, and this one cannot any more.
    apply(&mut newer(), &harness.state, &[payload(&activation)], 2);
    let any = harness.batch(Vec::new());
    is_newer(stops(&mut Rules::default(), &harness.state, payload(&any)));

    // A build that has forgotten how the old versions were.
    let mut forgetful = Rules::new(TRIAL + 1..=TRIAL + 2);
    let text = stops(&mut forgetful, &harness.state, payload(&any)).to_string();
    assert!(text.contains("the build that it had before"), "{text}");
}

/// Two changes that were made of one row: until the version is active the second takes the first back, as it did when
/// the log was written; from then on it is refused.
#[test]
fn a_change_that_was_made_of_an_older_row_is_refused() {
    for (active, expected) in [(1, Refusal::Unspecified), (2, Refusal::ChangedMeanwhile)] {
        let mut harness = Harness::new();
        harness.run(activate(active));
        let topic = |row: Topic| Kind::PutTopic(PutTopic { topic: Some(row), create_only: false });
        let group = |row: ConsumerGroup| {
            Kind::PutConsumerGroup(PutConsumerGroup { consumer_group: Some(row), create_only: false })
        };
        let made = Topic { name: "t".into(), read_queues: 1, write_queues: 1, permission: 6, ..Topic::default() };
        let Some(reply::Kind::Topic(made)) = harness.run(topic(made)).kind else { unreachable!("it is made") };
        let begun = ConsumerGroup { name: "g".into(), ..ConsumerGroup::default() };
        let Some(reply::Kind::ConsumerGroup(begun)) = harness.run(group(begun)).kind else {
            unreachable!("it is made")
        };
        for expected in [Refusal::Unspecified, expected] {
            assert_eq!(harness.run(topic(made.clone())).refusal(), expected, "version {active}");
            assert_eq!(harness.run(group(begun.clone())).refusal(), expected, "version {active}");
        }
        // One that is gone, and one of the same name that has come since.
        harness.run(Kind::DeleteTopic(DeleteTopic { name: "t".into() }));
        assert_eq!(harness.run(topic(made.clone())).refusal(), expected, "version {active}");
        let anew = Topic { id: 0, version: 0, ..made.clone() };
        harness.run(topic(anew.clone()));
        assert_eq!(harness.run(topic(made)).refusal(), expected, "version {active}");
        assert_eq!(harness.run(topic(anew)).refusal(), Refusal::Unspecified, "made of none: whatever is there");
    }
}

#[test]
fn a_command_of_an_unknown_kind_stops_the_node() {
    let mut harness = Harness::new();
    let mut batch = harness.batch(vec![Kind::Tick(Tick {})]).encode_to_vec();
    // A command with a deadline and a field 1000.
    batch.extend_from_slice(&[(6 << 3) | 2, 5, 1 << 3, 1, 0xc2, 0x3e, 0]);
    let encoded = EncodedBatch { batch: batch.into(), blobs: Vec::new() };
    let error = stops(&mut harness.rules, &harness.state, encode_entry(7, &[encoded]).expect("small"));
    assert!(matches!(&error, StateError::Unreadable(what) if what.contains("of a kind")), "{error}");
    let format = stops(&mut harness.rules, &harness.state, Bytes::from_static(&[2, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert!(format.to_string().contains("format 2"), "{format}");
}

/// Whoever ends a transaction is told since version 4 whether nobody had before.
#[test]
fn the_first_word_on_a_transaction_is_told_from_those_after_it() {
    let mut harness = Harness::new();
    let topic = Topic { name: "t".into(), read_queues: 1, write_queues: 1, permission: 6, ..Topic::default() };
    let topic = Topic { message_types: vec![4], ..topic };
    harness.run(Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false }));
    let half = |harness: &mut Harness| {
        let message =
            AppendMessage { message_type: 4, body_bytes: 1, check_after_ms: 1_000, ..AppendMessage::default() };
        let checks = Some(Checks { checks_max: 1, interval_ms: 1_000, age_max_ms: 9_000, producer: "p".into() });
        let reply = harness.run(Kind::Append(Append {
            topic: "t".into(),
            messages: vec![message],
            checks,
            ..Append::default()
        }));
        let Some(reply::Kind::Appended(at)) = reply.kind else { panic!("not stored: {reply:?}") };
        let message =
            WaitingMessage { topic: "t".into(), log_index: at.log_index, slot: at.first_slot, ..Default::default() };
        move |commit| Kind::EndTransaction(EndTransaction { message: Some(message.clone()), commit })
    };
    let first = |reply: Reply| match reply.kind {
        Some(reply::Kind::Ended(ended)) => Some(ended.first),
        _ => None,
    };
    let end = half(&mut harness);
    assert_eq!([true, true].map(|commit| first(harness.run(end(commit)))), [None, None]);
    harness.run(activate(VERSION));
    assert_eq!(first(harness.run(end(true))), Some(false), "it was ended before the version began");
    for commit in [true, false] {
        let end = half(&mut harness);
        assert_eq!([commit; 3].map(|commit| first(harness.run(end(commit)))), [Some(true), Some(false), Some(false)]);
        let opposite = harness.run(end(!commit));
        assert!(opposite.refusal() != Refusal::Unspecified && opposite.kind.is_none(), "{opposite:?}");
    }
    harness.assert_replays(1);
}
