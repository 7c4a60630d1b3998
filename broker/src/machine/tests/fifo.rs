//! Message groups: one message of each is out, in order, whatever becomes of it; and what waits costs a bounded number
//! of rows per command.

use super::timeline::check;
use super::{Harness, dump, lasting};
use crate::filter::tag::tag_hash;
use crate::machine::OPEN_TOPICS;
use crate::store::{ConsumerGroupId, TopicId, consumer_group, fifo, topic};
use raftmq_proto::command::{
    Ack, Activate, Append, AppendMessage, DeleteTopic, FixOwners, Handle, Lease, Leased, PutTopic, QueueOffset,
    Refusal, Reply, Reset, Tick, Topic, command, reply,
};

#[test]
fn one_message_of_a_message_group_is_out() {
    check(
        "topic t types=1,2
         send t k.a k.b l.c x     => 0@0+4
         receive c g t            => a:1 c:1 x:1
         receive d g t            => nothing
         receive d h t            => a:1 c:1 x:1
         progress g t             => 0/4/4 flying 3, retry 0 flying 0, lag 0+0+3, aside 1
         ack g t a#1              => ok
         ack g t a#1              => ok
         receive d g t            => b:1
         send t k.d               => 0@4+1
         ack g t c#1 x#1          => ok ok
         receive c g t            => nothing
         ack g t b                => ok
         receive c g t            => d:1
         ack g t d                => ok
         progress g t             => 5/5/5 flying 0, retry 0 flying 0, lag 0+0+0",
    );
}

#[test]
fn a_failed_message_comes_before_its_successors_until_it_is_a_dead_letter() {
    check(
        "topic t types=2
         group g retry=2
         send t k.a k.b l.c; receive c g t => a:1 c:1
         ack g t c                => ok
         +30s; receive d g t      => nothing
         tick; receive d g t      => a:2
         hide g t a 0s suspend    => ok
         receive c g t            => a:2
         hide g t a 5s            => ok
         +5s; tick; receive d g t => a:3
         send t l.d; receive d g t => d:1
         +29999ms; tick; receive d g t => nothing
         +1ms; tick; receive e g t => b:1 d:2
         ack g t a b              => invalid_handle ok
         receive c g %DLQ%g       => a:1
         progress g t             => 4/4/4 flying 0, retry 0 flying 1, lag 0+0+1",
    );
}

#[test]
fn a_message_that_its_consumer_gives_up_makes_way() {
    check(
        "topic t types=2
         send t k.a k.b; receive c g t => a:1
         dead g t a!              => invalid_handle
         receive c g t            => nothing
         dead g t a               => ok
         dead g t a               => ok
         receive c g t            => b:1
         receive c g t            => nothing",
    );
}

#[test]
fn the_order_outlives_the_session() {
    check(
        "topic t types=2
         session c g t=*
         send t k.a k.b; receive c g t renewed=3h attempt=1 => a:1
         receive c g t renewed=3h attempt=1 => a:1
         receive d g t renewed=3h => nothing
         end c
         receive d g t renewed=3h => a:2
         ack g t a#1              => invalid_handle
         receive e g t            => nothing
         ack g t a                => ok
         receive e g t            => b:1",
    );
}

#[test]
fn a_parked_message_is_not_overtaken_and_one_that_nobody_wants_is_skipped() {
    check(
        "topic t types=2
         session c g t=x
         session d g t=y
         send t k.a/y k.b/x k.n/z k.c/x
         receive c g t tags=x     => nothing
         receive d g t tags=y     => a:1
         hide g t a 0s            => ok
         receive c g t tags=x     => nothing
         receive d g t tags=y     => a:2
         ack g t a                => ok
         receive d g t tags=y     => nothing
         receive c g t tags=x     => b:1
         ack g t b; receive c g t tags=x => c:1
         ack g t c
         progress g t             => 4/4/4 flying 0, retry 0 flying 0, lag 0+0+0",
    );
}

#[test]
fn what_waits_for_a_member_that_is_gone_holds_nothing_up() {
    check(
        "topic t types=2
         session c g t=x
         session d g t=y
         send t k.a/y k.n/y k.b/x
         receive c g t tags=x     => nothing
         progress g t             => 3/3/3 flying 0, retry 1 flying 0, lag 0+1+0, aside 2
         end d
         receive c g t tags=x     => b:1
         progress g t             => 3/3/3 flying 0, retry 0 flying 1, lag 0+0+1",
    );
}

#[test]
fn a_reset_frees_the_message_groups() {
    check(
        "topic t types=2
         send t k.a k.b k.c; receive c g t => a:1
         reset g t 0=0            => 0=0
         receive d g t            => a:1
         ack g t a#1              => ok
         receive d g t            => nothing
         tick
         progress g t             => 0/3/3 flying 1, retry 0 flying 0, lag 0+0+1, aside 2
         reset g t 0=1            => 0=1
         tick; receive e g t      => b:1
         +30s; tick; receive e g t => b:2
         ack g t b; receive e g t => c:1
         ack g t c
         reset g t 0=3            => 0=3
         tick
         progress g t             => 3/3/3 flying 0, retry 0 flying 0, lag 0+0+0",
    );
}

#[test]
fn a_consumer_group_can_do_without_the_order() {
    check(
        "topic t types=2
         send t k.a k.b k.c; receive c h t => a:1
         group g order=off
         receive c g t max=2      => a:1 b:1
         ack g t a                => ok
         +30s; tick; receive c g t => b:2 c:1
         group g order=on
         send t k.d k.e; receive c g t => d:1
         receive c g t            => nothing
         group g order=off
         send t k.f; receive c g t => f:1
         ack g t d; receive c g t => e:1",
    );
}

#[test]
fn message_groups_stay_in_their_queues() {
    check(
        "topic t queues=4 types=1,2
         send t k.a l.b k.c m.d   => 1@0+1 2@0+1 1@1+1 0@0+1
         send t x y               => 0@1+2
         topic t queues=8 types=1,2 => version 2
         send t m.e k.f l.g       => 0@3+1 1@2+1 2@1+1
         topic t queues=3 types=1,2 => invalid_argument
         topic t queues=4 types=1,2 => version 3
         send t k.h z type=1      => 1@3+2
         receive c g t            => d:1 x:1 y:1 a:1 z:1 b:1
         topic n
         send n k.a               => message_type_mismatch
         topic f types=2
         send f a                 => message_type_mismatch
         send f a type=2          => invalid_argument",
    );
}

#[test]
fn dead_letters_of_a_message_group_come_in_any_order() {
    check(
        "topic t types=2
         group g retry=0
         send t k.a k.b; receive c g t => a:1
         +30s; tick; receive c g t => b:1
         +30s; tick; receive c g %DLQ%g => a:1 b:1",
    );
}

struct Fifo {
    harness: Harness,
}

impl Fifo {
    fn new(queues: u32) -> Fifo {
        let mut harness = Harness::new();
        let topic = Topic {
            name: "t".into(),
            read_queues: queues,
            write_queues: queues,
            permission: 6,
            message_types: vec![2],
            ..Topic::default()
        };
        harness.run(command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false }));
        Fifo { harness }
    }

    fn send(&mut self, groups: impl Iterator<Item = u64>) {
        let messages = groups.map(|group| AppendMessage {
            message_type: 2,
            message_group_hash: u64::from(tag_hash(&group.to_string())),
            ..AppendMessage::default()
        });
        let append = Append { topic: "t".into(), messages: messages.collect(), checks: None, ..Append::default() };
        assert_eq!(self.harness.run(command::Kind::Append(append)).refusal(), Refusal::Unspecified);
    }

    /// A receive, and the rows that it changed.
    fn receive(&mut self, max: u32) -> (Leased, usize) {
        let before = lasting(&self.harness.state);
        let reply = self.harness.run(command::Kind::Lease(Lease {
            consumer_group: "g".into(),
            topic: "t".into(),
            client_id: "c".into(),
            messages_max: max,
            invisible_ms: 30_000,
            nonce: 3,
            create_consumer_group: true,
            ..Lease::default()
        }));
        let Some(reply::Kind::Leased(leased)) = reply.kind else { panic!("not leased: {reply:?}") };
        let after = lasting(&self.harness.state);
        let before: std::collections::BTreeSet<_> = before.into_iter().collect();
        let after: std::collections::BTreeSet<_> = after.into_iter().collect();
        (leased, after.symmetric_difference(&before).count())
    }

    fn ack(&mut self, leased: &Leased) {
        let handles = leased.messages.iter().map(|message| Handle {
            consumer_group_id: leased.consumer_group_id,
            lease_id: leased.lease_id,
            item: message.item,
            nonce: leased.nonce,
        });
        let ack = Ack { consumer_group: "g".into(), topic: "t".into(), handles: handles.collect() };
        self.harness.run(command::Kind::Ack(ack));
    }

    fn put_aside(&self) -> u64 {
        let topic = topic::topic(&self.harness.state, "t").expect("read").expect("exists");
        let group = consumer_group::consumer_group(&self.harness.state, "g").expect("read").expect("exists");
        fifo::put_aside(&self.harness.state, TopicId(topic.id), ConsumerGroupId(group.id)).expect("read")
    }

    fn rows(&self, table: &str) -> usize {
        dump(&self.harness.state).iter().filter(|(of, ..)| *of == table).count()
    }

    /// Ticks until nothing is left; returns how often.
    fn tick(&mut self) -> usize {
        for ticks in 1.. {
            let reply = self.harness.run(command::Kind::Tick(Tick {}));
            if !matches!(reply.kind, Some(reply::Kind::Ticked(ticked)) if ticked.more) {
                return ticks;
            }
        }
        0
    }
}

#[test]
fn a_long_message_group_is_passed_in_bounded_steps() {
    let mut fifo = Fifo::new(1);
    (0..10).for_each(|_| fifo.send(std::iter::repeat_n(7, 1_000)));
    fifo.send(1..=20);
    let mut looks = 0;
    let mut found = Vec::new();
    loop {
        let (leased, rows) = fifo.receive(32);
        assert!(rows <= 1_200, "a receive changes a bounded number of rows, not {rows}");
        looks += 1;
        found.extend(leased.messages.iter().map(|message| message.offset));
        if !leased.more {
            break;
        }
    }
    assert!((10..30).contains(&looks), "{looks} looks");
    assert_eq!(found.len(), 20, "the first of the long one, and all others: {found:?}");
    assert_eq!(fifo.put_aside(), 9_999 + 1);
    // A reset leaves the rows to Tick.
    let queues = vec![QueueOffset { queue: 0, offset: 0 }];
    fifo.harness.run(command::Kind::Reset(Reset { consumer_group: "g".into(), topic: "t".into(), queues }));
    assert!(fifo.tick() >= 10);
    assert_eq!((fifo.put_aside(), fifo.rows("fifo")), (0, 0));
    fifo.harness.assert_replays(9);
}

#[test]
fn what_is_put_aside_comes_out_whole_and_in_order() {
    let mut fifo = Fifo::new(3);
    for round in 0..40u64 {
        fifo.send((0..25).map(|number| (number * 7 + round * number) % 10));
    }
    let mut last = std::collections::BTreeMap::new();
    let mut delivered = 0;
    loop {
        let (leased, _) = fifo.receive(32);
        if leased.messages.is_empty() && !leased.more {
            break;
        }
        // Within a queue, the messages of a message group come by their offsets: by entry and slot.
        for message in &leased.messages {
            let at = (message.log_index, message.slot);
            let round = message.log_index - 2;
            let number = u64::from(message.slot);
            let before = last.insert((number * 7 + round * number) % 10, at);
            assert!(before < Some(at), "{before:?} then {at:?}");
        }
        delivered += leased.messages.len();
        fifo.ack(&leased);
    }
    assert_eq!(delivered, 1_000);
    assert_eq!((fifo.put_aside(), fifo.rows("fifo"), fifo.rows("retry"), fifo.rows("lease")), (0, 0, 0, 0));
}

#[test]
fn a_poisoned_message_group_takes_one_row_a_message() {
    let mut fifo = Fifo::new(8);
    fifo.send(0..1_000);
    let poisoned = fifo.receive(1).0;
    let mut finished = 1;
    for _ in 0..5 {
        while finished % 1_000 != 0 {
            let (leased, _) = fifo.receive(32);
            let of_poisoned = leased.messages.iter().any(|m| m.slot == poisoned.messages[0].slot);
            assert!(!leased.messages.is_empty() && !of_poisoned, "the others go on");
            finished += leased.messages.len();
            fifo.ack(&leased);
        }
        assert_eq!(fifo.rows("lease"), 1);
        fifo.send(0..1_000);
        // The poisoned one is put aside once a round.
        finished += 1;
    }
    fifo.ack(&poisoned);
    let mut left = 0;
    loop {
        let (leased, _) = fifo.receive(32);
        if leased.messages.is_empty() && !leased.more {
            break;
        }
        left += leased.messages.len();
        fifo.ack(&leased);
    }
    assert_eq!(left, 1_000 + 4);
    assert_eq!(fifo.rows("fifo"), 0);
}

/// An open topic takes no message of a message group, and changes hands only by what was decided on its present table.
#[test]
fn an_open_topic_keeps_nothing_until_its_owners_are_settled() {
    let mut harness = Harness::new();
    let owners = |names: &str| names.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let put = || {
        let topic = Topic {
            name: "t".to_owned(),
            read_queues: 4,
            write_queues: 4,
            permission: 6,
            message_types: vec![1, 2],
            fifo_open: true,
            ..Topic::default()
        };
        command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false })
    };
    let append = |hash: u64| {
        let message_type = if hash == 0 { 1 } else { 2 };
        let message = AppendMessage { message_type, message_group_hash: hash, ..AppendMessage::default() };
        let messages = vec![message];
        command::Kind::Append(Append { topic: "t".into(), messages, broker_group: "B".into(), ..Append::default() })
    };
    let row = |reply: Reply| match reply.kind {
        Some(reply::Kind::Topic(row)) => row,
        other => panic!("{other:?}"),
    };
    // Before the version begins, a topic is made as ever.
    assert!(!row(harness.run(put())).fifo_open);
    harness.run(command::Kind::DeleteTopic(DeleteTopic { name: "t".to_owned() }));
    harness.run(command::Kind::Activate(Activate { version: OPEN_TOPICS }));
    let made = row(harness.run(put()));
    assert!(made.fifo_open);
    assert!(row(harness.run(put())).fifo_open, "another change settles nothing");
    let refused = harness.run(append(7));
    assert_eq!(refused.refusal(), Refusal::NotOwner);
    assert!(refused.detail.contains("not agreed yet"), "{}", refused.detail);
    assert_eq!(harness.run(append(0)).refusal(), Refusal::Unspecified, "others are taken");

    let fix = |id: u64, from: &str, to: &str, settle: bool| {
        let (from, to) = (owners(from), owners(to));
        command::Kind::FixOwners(FixOwners { topic: "t".to_owned(), id, from, to, settle })
    };
    // Of another incarnation, and of another table.
    for late in [fix(made.id - 1, "", "A", true), fix(made.id, "A", "", true)] {
        let row = row(harness.run(late));
        assert!(row.fifo_open && row.fifo_owners.is_empty() && row.version == 2);
    }
    assert_eq!(harness.run(fix(made.id, "", "A A", true)).refusal(), Refusal::InvalidArgument);
    let taken = row(harness.run(fix(made.id, "", "A", false)));
    assert!(taken.fifo_open && taken.fifo_owners == owners("A") && taken.version == 3);
    assert!(row(harness.run(fix(made.id, "", "", true))).fifo_open, "it was decided before A's table was taken");
    let settled = row(harness.run(fix(made.id, "A", "A B", true)));
    assert!(!settled.fifo_open && settled.fifo_owners == owners("A B"));
    assert_eq!(row(harness.run(fix(made.id, "A B", "", true))), settled, "what is settled stays");
    assert_eq!(harness.run(append(7)).refusal(), Refusal::NotOwner, "A keeps it");
    assert_eq!(harness.run(append(1_023)).refusal(), Refusal::Unspecified);
    let unknown = FixOwners { topic: "u".to_owned(), ..FixOwners::default() };
    assert_eq!(harness.run(command::Kind::FixOwners(unknown)).refusal(), Refusal::TopicNotFound);
    harness.assert_replays(1);
}

/// Whatever becomes of the number of queues, a message group stays in the queue that it began in. Fewer queues than that are
/// refused, and so is what would bring message groups back to fewer.
#[test]
fn message_groups_stay_in_their_queues_while_others_come_and_go() {
    check(
        "topic t types=2 queues=2
         send t k.a l.b m.c n.d   => 1@0+1 0@0+3
         receive c g t            => b:1 c:1 d:1 a:1
         topic t types=2 queues=5 => version 2
         send t k.e l.f m.g n.h o.i p.j => 1@1+1 0@3+3 1@2+2
         receive c g t            => i:1 j:1
         ack g t a                => ok
         receive d g t            => e:1
         topic t types=2 queues=1 => invalid_argument
         topic t types=1 queues=1 => version 3
         topic t types=2 queues=1 => invalid_argument
         topic t types=1 queues=5 => version 4
         send t x                 => 0@6+1
         topic t types=1,2 queues=2 => version 5
         topic t types=1,2 queues=3 => version 6
         send t y; send t z1 z2   => 2@0+2
         send t k.k l.l           => 1@5+1 0@7+1
         ack g t b c d e          => ok ok ok ok
         receive d g t            => f:1 g:1 h:1 x:1 y:1 k:1 z1:1 z2:1
         topic t types=1,2 queues=2 => version 7
         ack g t f                => ok
         receive d g t            => l:1
         progress g t             => 6/8/8 flying 1, 2/6/6 flying 4, retry 0 flying 3, lag 0+0+8",
    );
}

/// A topic that broker groups A and B share stays theirs, and takes from each what its owner was sent.
#[test]
fn message_groups_stay_with_the_broker_groups_that_the_topic_was_made_for() {
    let mut harness = Harness::new();
    let put = |owners: &[&str]| {
        let topic = Topic {
            name: "t".to_owned(),
            read_queues: 4,
            write_queues: 4,
            permission: 6,
            message_types: vec![1, 2],
            fifo_owners: owners.iter().map(|owner| (*owner).to_owned()).collect(),
            ..Topic::default()
        };
        command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false })
    };
    for (owners, part) in [(vec!["A", "B", "A"], "A is to keep"), (vec![""], "no name"), (vec!["A"; 257], "257")] {
        let refused = harness.run(put(&owners));
        assert_eq!(refused.refusal(), Refusal::InvalidArgument);
        assert!(refused.detail.contains(part), "{}", refused.detail);
    }
    let owners = |reply: Reply| match reply.kind {
        Some(reply::Kind::Topic(row)) => row.fifo_owners,
        other => panic!("{other:?}"),
    };
    assert_eq!(owners(harness.run(put(&["A", "B"]))), ["A", "B"]);
    assert_eq!(owners(harness.run(put(&["B", "A", "C"]))), ["A", "B"]);
    let append = |broker_group: &str, hash: u64| {
        let message_type = if hash == 0 { 1 } else { 2 };
        let message = AppendMessage { message_type, message_group_hash: hash, ..AppendMessage::default() };
        let append = Append {
            topic: "t".into(),
            messages: vec![message],
            broker_group: broker_group.into(),
            ..Append::default()
        };
        command::Kind::Append(append)
    };
    for (broker_group, hash, expected) in [
        ("A", 511, Refusal::Unspecified),
        ("B", 512, Refusal::Unspecified),
        ("B", 511, Refusal::NotOwner),
        ("A", 512, Refusal::NotOwner),
        ("", 512, Refusal::NotOwner),
        // Only message groups are kept.
        ("", 0, Refusal::Unspecified),
    ] {
        assert_eq!(harness.run(append(broker_group, hash)).refusal(), expected, "slot {hash} sent to {broker_group}");
    }
    // Made anew, it may go elsewhere.
    harness.run(command::Kind::DeleteTopic(DeleteTopic { name: "t".to_owned() }));
    assert!(owners(harness.run(put(&[]))).is_empty());
    assert_eq!(harness.run(append("B", 511)).refusal(), Refusal::Unspecified);
    harness.assert_replays(1);
}
