//! Batches that come again, come late or come from an earlier start of their node.

use super::{Harness, START_MS, dump, lasting};
use crate::store::node;
use raftmq_proto::command::{Append, AppendMessage, Batch, Command, PutTopic, Refusal, Refuse, Reply, Topic};
use raftmq_proto::command::{command, reply};

fn put_topic(name: &str) -> command::Kind {
    let topic = Topic {
        name: name.into(),
        read_queues: 4,
        write_queues: 4,
        permission: 6,
        message_types: vec![1],
        ..Topic::default()
    };
    command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false })
}

fn send(topic: &str, messages: usize) -> command::Kind {
    let message = AppendMessage { tag_hash: 0, message_type: 1, body_bytes: 10, ..AppendMessage::default() };
    command::Kind::Append(Append {
        topic: topic.into(),
        messages: vec![message; messages],
        checks: None,
        ..Append::default()
    })
}

fn batch(node: u64, boot: u64, sequence: u64, settled: u64, kinds: Vec<command::Kind>) -> Batch {
    let slots = kinds.iter().map(|kind| match kind {
        command::Kind::Append(append) => append.messages.len() as u32,
        _ => 0,
    });
    let slots = slots.sum();
    let commands = kinds.into_iter().map(|kind| Command { deadline_ms: 0, kind: Some(kind) }).collect();
    Batch { node, boot, sequence, settled, slots, commands, version: 0 }
}

fn refusals(replies: &[Reply]) -> Vec<Refusal> {
    replies.iter().map(|reply| reply.refusal()).collect()
}

fn appended(reply: &Reply) -> (u32, u64, u32) {
    match &reply.kind {
        Some(reply::Kind::Appended(at)) => (at.queue, at.first_offset, at.count),
        other => panic!("not stored: {other:?}"),
    }
}

#[test]
fn a_repeat_is_answered_with_the_first_replies_and_changes_nothing() {
    let mut harness = Harness::new();
    harness.apply_batches(&[batch(7, 1, 1, 0, vec![put_topic("t")])]);
    let sent = batch(7, 1, 2, 0, vec![send("t", 2), send("nothing", 1)]);
    let first = harness.apply_batches(std::slice::from_ref(&sent)).remove(0);
    assert!(!first.repeat);
    assert_eq!(refusals(&first.replies), [Refusal::Unspecified, Refusal::TopicNotFound]);
    let rows = lasting(&harness.state);
    let again = harness.apply_batches(&[sent.clone(), sent]);
    assert!(again.iter().all(|answer| answer.repeat && answer.replies == first.replies));
    assert_eq!(lasting(&harness.state), rows);
}

#[test]
fn a_send_that_was_refused_for_a_full_disk_stays_refused() {
    let mut harness = Harness::new();
    harness.apply_batches(&[batch(7, 1, 1, 0, vec![put_topic("t")])]);
    let refuse = Refuse { refusal: Refusal::DiskFull.into(), detail: "full".to_owned() };
    let first = harness.apply_batches(&[batch(7, 1, 2, 0, vec![command::Kind::Refuse(refuse)])]).remove(0);
    assert_eq!((refusals(&first.replies), first.replies[0].detail.as_str()), (vec![Refusal::DiskFull], "full"));
    // The next leader has room: the node sends what it sent, and hears what the others have heard already.
    let again = harness.apply_batches(&[batch(7, 1, 2, 0, vec![send("t", 2)])]).remove(0);
    assert!(again.repeat && again.replies == first.replies);
}

#[test]
fn settled_replies_go_and_late_repeats_store_nothing() {
    let mut harness = Harness::new();
    let batches: Vec<_> = (1..=4).map(|sequence| batch(7, 1, sequence, 0, vec![put_topic("t")])).collect();
    harness.apply_batches(&batches);
    harness.apply_batches(&[batch(7, 1, 5, 3, vec![send("t", 1)])]);
    let kept: Vec<_> = (1..=5).filter(|s| node::replies(&harness.state, 7, *s).expect("read").is_some()).collect();
    assert_eq!(kept, [4, 5]);
    let rows = lasting(&harness.state);
    let late = harness.apply_batches(&[batches[1].clone()]).remove(0);
    assert!(late.repeat && late.replies.is_empty());
    assert_eq!(lasting(&harness.state), rows);
}

#[test]
fn a_later_boot_replaces_an_earlier_one() {
    let mut harness = Harness::new();
    harness.apply_batches(&[batch(7, 1, 1, 0, vec![put_topic("t")]), batch(7, 1, 2, 0, vec![send("t", 1)])]);
    // The same sequence of another boot, or of another node, is another batch.
    let others = harness.apply_batches(&[
        batch(8, 1, 1, 0, vec![send("t", 1)]),
        batch(7, 2, 1, 0, vec![send("t", 1)]),
        batch(7, 1, 3, 0, vec![send("t", 1)]),
    ]);
    assert_eq!(
        others.iter().map(|answer| refusals(&answer.replies)[0]).collect::<Vec<_>>(),
        [Refusal::Unspecified, Refusal::Unspecified, Refusal::StaleBoot]
    );
    assert!(others.iter().all(|answer| !answer.repeat));
    assert!(node::replies(&harness.state, 7, 2).expect("read").is_none());
    assert_eq!(node::node(&harness.state, 7).expect("read"), Some(node::Node { boot: 2, settled: 0, last: 1 }));
}

#[test]
fn a_batch_waits_for_the_one_before_it() {
    let mut harness = Harness::new();
    let batches: Vec<_> = [vec![put_topic("t")], vec![send("t", 1)], vec![send("t", 2)]].into_iter().zip(1..).collect();
    let batches: Vec<_> = batches.into_iter().map(|(kinds, sequence)| batch(7, 1, sequence, 0, kinds)).collect();
    harness.apply_batches(&batches[..1]);
    let rows = lasting(&harness.state);
    // The second is lost on its way.
    assert!(harness.apply_batches(&batches[2..]).is_empty());
    assert_eq!(lasting(&harness.state), rows);
    // Its node sends both again.
    let answers = harness.apply_batches(&batches[1..]);
    assert!(answers.iter().all(|answer| !answer.repeat));
    let places: Vec<_> = answers.iter().map(|answer| appended(&answer.replies[0])).collect();
    assert_eq!(places, [(0, 0, 1), (0, 1, 2)]);
    // The same goes for a node that starts anew.
    assert!(harness.apply_batches(&[batch(7, 2, 2, 0, vec![send("t", 1)])]).is_empty());
    assert!(harness.apply_batches(&batches[1..2]).remove(0).repeat, "the earlier start is remembered");
}

#[test]
fn a_command_past_its_deadline_is_refused() {
    let mut harness = Harness::new();
    let mut batch = batch(7, 1, 1, 0, vec![put_topic("t"), put_topic("u")]);
    batch.commands[0].deadline_ms = START_MS;
    batch.commands[1].deadline_ms = START_MS - 1;
    let answer = harness.apply_batches(&[batch]).remove(0);
    assert_eq!(refusals(&answer.replies), [Refusal::Unspecified, Refusal::DeadlinePassed]);
    // Time never goes back, whatever an entry says.
    harness.now_ms -= 5_000;
    let mut late = super::repeats::batch(7, 1, 2, 0, vec![put_topic("v")]);
    late.commands[0].deadline_ms = START_MS - 1;
    assert_eq!(refusals(&harness.apply_batches(&[late]).remove(0).replies), [Refusal::DeadlinePassed]);
}

#[test]
fn messages_of_one_entry_share_runs_and_slots_are_counted_through_all_batches() {
    let mut harness = Harness::new();
    harness.apply_batches(&[batch(7, 1, 1, 0, vec![put_topic("t"), put_topic("u")])]);
    let answers = harness.apply_batches(&[
        batch(7, 1, 2, 0, vec![send("t", 2), send("none", 3), send("t", 1)]),
        batch(7, 1, 1, 0, vec![put_topic("t"), put_topic("u")]),
        batch(8, 1, 1, 0, vec![send("u", 1), send("t", 1)]),
    ]);
    assert_eq!(appended(&answers[0].replies[0]), (0, 0, 2));
    assert_eq!(appended(&answers[0].replies[2]), (0, 2, 1));
    assert_eq!(appended(&answers[2].replies[0]), (0, 0, 1));
    assert_eq!(appended(&answers[2].replies[1]), (0, 3, 1));
    let topic = crate::store::topic::topic(&harness.state, "t").expect("read").expect("exists");
    let places =
        crate::store::message::places(&harness.state, crate::store::TopicId(topic.id), 0, 0, 10).expect("read");
    assert_eq!(places.iter().map(|place| place.slot).collect::<Vec<_>>(), [0, 1, 5, 7]);
    let runs = dump(&harness.state).into_iter().filter(|(table, _, _)| *table == "message").count();
    assert_eq!(runs, 2, "one for each topic");
}

#[test]
fn a_batch_cannot_use_slots_that_it_has_not() {
    let mut harness = Harness::new();
    harness.apply_batches(&[batch(7, 1, 1, 0, vec![put_topic("t")])]);
    let mut short = batch(7, 1, 2, 0, vec![send("t", 1), send("t", 2), send("t", 1)]);
    short.slots = 2;
    let answer = harness.apply_batches(&[short]).remove(0);
    assert_eq!(refusals(&answer.replies), [Refusal::Unspecified, Refusal::InvalidArgument, Refusal::InvalidArgument]);
}
