//! Lite topics: one message of each is out, in order, for whoever receives it; what nobody uses goes, and every number has
//! a bound.

use super::timeline::{check, option};
use super::{Effect, Harness, START_MS, dump};
use crate::store::lite::{self, LAPSE_MS};
use crate::store::{ConsumerGroupId, LiteLooks, TopicId, consumer_group, key, lease, lite_backlog, topic};
use raft_store::{ReadState, State};
use raftmq_proto::command::lite_start::At;
use raftmq_proto::command::{
    Ack, Append, AppendMessage, ChangeInvisible, DeleteConsumerGroup, DeleteTopic, EndSession, Handle, Lease,
    LiteStart, PutLiteSubscription, PutTopic, Refusal, Tick, Topic, command, reply,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;

/// `lite c g t +a -b take no-create start=first`.
pub(super) fn subscription_of(words: &[&str]) -> PutLiteSubscription {
    let named =
        |sign: char| words[4..].iter().filter_map(move |word| word.strip_prefix(sign)).map(str::to_owned).collect();
    let start = option(words, "start").map(|at| LiteStart {
        at: Some(match at.split_once(':') {
            None if at == "first" => At::First(true),
            None => At::Next(true),
            Some(("last", count)) => At::Last(count.parse().expect("a number")),
            Some((_, offset)) => At::Offset(offset.parse().expect("a number")),
        }),
    });
    PutLiteSubscription {
        client_id: words[1].into(),
        consumer_group: words[2].into(),
        topic: words[3].into(),
        add: named('+'),
        remove: named('-'),
        start,
        take_over: words.contains(&"take"),
        create_consumer_group: !words.contains(&"no-create"),
    }
}

/// What the node of a client says of a receive from a topic of LITE messages; nothing for other topics.
pub(super) fn lite_topics(state: &State, words: &[&str]) -> Vec<u64> {
    let Some(parent) = topic::topic(state, words[3]).expect("read") else { return Vec::new() };
    let Some(group) = consumer_group::consumer_group(state, words[2]).expect("read") else { return Vec::new() };
    let of = (ConsumerGroupId(group.id), TopicId(parent.id));
    let found = lite::candidates(state, words[1], of, 0, 1_000).expect("read");
    found.into_iter().map(|id| id.0).collect()
}

/// What a consumer group has left to do in all its lite topics: ready + waiting for another attempt + leased, in how many, and
/// for how long. `max=` is how many are looked at.
pub(super) fn lite_left(state: &State, now_ms: u64, words: &[&str]) -> String {
    let group = consumer_group::consumer_group(state, words[1]).expect("read").expect("exists");
    let max = option(words, "max").map_or(100, |max| max.parse().expect("a number"));
    let mut looks = LiteLooks::new(std::slice::from_ref(&group), max);
    let Some(share) = looks.share(state, &group).expect("read") else { return "none".to_owned() };
    let left = lite_backlog(state, &share.topics, ConsumerGroupId(group.id), &mut 1_000).expect("read");
    let (lag, oldest) = (left.0, left.1.expect("few"));
    assert_eq!((lag.put_aside, lag.expired, lag.dead_letters), (0, 0, 0));
    let age = |at: Option<u64>| at.map_or("none".to_owned(), |at| format!("{}s", (now_ms - at) / 1_000));
    let of = if share.more { "of more" } else { "of all" };
    let (open, ready) = (age(oldest.open_ms), age(oldest.ready_ms));
    format!("{}+{}+{} in {} {of}, {open} {ready}", lag.ready, lag.retry_waiting, lag.in_flight, share.topics.len())
}

/// How many lite topics of each consumer group are looked at for one answer about all of them, of `max=`.
pub(super) fn lite_shares(state: &State, words: &[&str]) -> String {
    let all = consumer_group::consumer_groups(state).expect("read");
    let mut looks = LiteLooks::new(&all, option(words, "max").map_or(100, |max| max.parse().expect("a number")));
    let shares = all.iter().filter_map(|group| Some((&group.name, looks.share(state, group).expect("read")?)));
    let shares: Vec<_> = shares
        .map(|(name, share)| format!("{name} {} of {}", share.topics.len(), if share.more { "more" } else { "all" }))
        .collect();
    shares.join(", ")
}

/// Who was told what of lite topics.
pub(super) fn told(effects: &[Effect]) -> String {
    let tell = |effect: &Effect| match effect {
        Effect::LiteReady { client_id, .. } => Some(format!("{client_id} ready")),
        Effect::LiteTaken { client_id, lite_topic, .. } => Some(format!("{client_id} lost {lite_topic}")),
        _ => None,
    };
    let mut told: Vec<_> = effects.iter().filter_map(tell).collect();
    told.sort();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

#[test]
fn one_message_of_a_lite_topic_is_out_and_others_go_on() {
    check(
        "topic t types=5
         lite c g t +a +b
         send t lite=a m n        => 0@0+2
         told                     => c ready
         send t lite=b x; send t lite=z u
         receive c g t            => m:1 x:1
         receive c g t            => nothing
         receive d g t            => nothing
         ack g t m                => ok
         told                     => c ready
         ack g t m                => ok
         receive c g t            => n:1
         hide g t n 0s            => ok
         receive c g t            => n:2
         hide g t n 5s suspend    => ok
         receive c g t            => nothing
         +5s; tick; receive c g t => n:2
         ack g t n#1              => invalid_handle
         ack g t n x              => ok ok
         receive c g t            => nothing
         lite c g t +z; receive c g t => u:1",
    );
}

#[test]
fn what_is_left_in_lite_topics_is_counted_for_the_topic_that_they_belong_to() {
    check(
        "topic t types=5; topic n
         lite c g t +a +b +empty; lite d h t +b
         lite-left g              => 0+0+0 in 0 of all, none none
         send t lite=a m n
         +5s; send t lite=b x; send t lite=nobody u
         lite-left g              => 3+0+0 in 2 of all, 5s 5s
         lite-left h              => 1+0+0 in 1 of all, 0s 0s
         receive c g t            => m:1 x:1
         lite-left g              => 1+0+2 in 2 of all, 5s 5s
         ack g t x; hide g t m 0s
         lite-left g              => 1+1+0 in 2 of all, 5s 5s
         receive c g t            => m:2
         ack g t m; receive c g t => n:1
         lite-left g              => 0+0+1 in 2 of all, 5s none
         lite c g t -a
         lite-left g              => 0+0+1 in 2 of all, 5s none
         session e k n=*; send n y; receive e k n
         lite-left k              => none
         drop-topic t; tick
         lite-left g              => none",
    );
}

#[test]
fn of_many_lite_topics_those_with_something_to_hand_out_are_counted_first() {
    check(
        "topic t types=5
         lite c g t +a +b +d +e
         send t lite=a m n; send t lite=b x; send t lite=d y; send t lite=e z
         receive c g t            => m:1 x:1 y:1 z:1
         ack g t m x
         lite-left g              => 1+0+2 in 4 of all, 0s 0s
         lite-left g max=4        => 1+0+2 in 4 of all, 0s 0s
         lite-left g max=3        => 1+0+2 in 3 of more, 0s 0s
         lite-left g max=1        => 1+0+0 in 1 of more, 0s 0s
         lite-left g max=0        => 0+0+0 in 0 of more, none none",
    );
}

#[test]
fn no_consumer_group_takes_what_others_need_of_an_answer() {
    check(
        "topic t types=5; topic n; group x; group gone bind=nowhere
         lite c f t +a +b; lite c g t +a +b +d +e; lite c h t +a +b +d +e
         send t lite=a m; send t lite=b m; send t lite=d m; send t lite=e m
         lite-shares max=100      => f 2 of all, g 4 of all, h 4 of all
         lite-shares max=12       => f 2 of all, g 3 of more, h 4 of all
         lite-shares max=4        => f 1 of more, g 1 of more, h 2 of more",
    );
}

#[test]
fn a_consumer_group_is_for_lite_topics_of_one_topic_or_for_other_messages() {
    check(
        "topic t types=5; topic u types=5; topic n
         topic both types=1,5     => invalid_argument
         topic n types=5          => invalid_argument
         topic t types=1          => invalid_argument
         group g bind=t; group h
         lite c g u +a            => lite_bound_elsewhere
         lite c h t +a            => lite_group_mismatch
         lite c g n +a            => lite_bound_elsewhere
         lite c g gone +a         => topic_not_found
         lite c k t +a no-create  => consumer_group_not_found
         lite c k t +a            => ok
         receive c k u            => lite_bound_elsewhere
         receive c g u            => lite_bound_elsewhere
         receive c h t            => lite_group_mismatch
         receive c g n            => lite_group_mismatch
         receive c h n            => nothing
         receive c g t            => nothing
         send t x                 => message_type_mismatch
         send n lite=a x          => message_type_mismatch
         send t lite=a$b x        => illegal_lite_topic",
    );
}

#[test]
fn clients_of_a_consumer_group_share_a_lite_topic_and_other_groups_have_their_own_progress() {
    check(
        "topic t types=5
         lite c g t +a; lite d g t +a; lite e h t +a
         send t lite=a m n
         told                     => c ready, d ready, e ready
         receive c g t            => m:1
         receive d g t            => nothing
         receive e h t            => m:1
         ack g t m#1
         receive d g t            => n:1
         lite d g t -a
         receive c g t            => nothing
         ack g t n                => ok
         lite c g t -a; lite e h t -a
         send t lite=a o
         told                     => nothing
         lite c g t +a
         receive c g t            => o:1",
    );
}

#[test]
fn an_exclusive_lite_topic_goes_to_the_newest_client() {
    check(
        "topic t types=5; group g bind=t model=Exclusive
         lite c g t +a take
         send t lite=a m
         lite d g t +a
         told                     => d lost a
         receive d g t            => nothing
         lite d g t +a take
         told                     => c lost a, d ready
         receive c g t            => nothing
         receive d g t            => m:1
         lite c g t +a
         told                     => c lost a
         lite d g t -a; lite c g t +a
         +30s; tick; receive c g t => m:2",
    );
}

#[test]
fn the_first_client_says_where_its_consumer_group_starts() {
    check(
        "topic t types=5
         send t lite=a m n o
         lite c g t +a start=next
         receive c g t            => nothing
         lite c h t +a start=last:1
         receive c h t            => o:1
         lite c k t +a start=at:1
         receive c k t            => n:1
         lite d k t +a start=first
         ack k t n                => ok
         receive d k t            => o:1
         +1s; group l bind=t from=last
         lite c l t +a
         +1s; send t lite=a p
         receive c l t            => p:1
         lite c m t +a
         receive c m t            => m:1",
    );
}

#[test]
fn a_failed_message_becomes_a_dead_letter_and_makes_way() {
    check(
        "topic t types=5; group g bind=t retry=1
         lite c g t +a
         send t lite=a m n
         receive c g t            => m:1
         +30s; tick
         told                     => c ready
         receive c g t            => m:2
         +30s; tick; receive c g t => n:1
         dead g t n               => ok
         dead g t n               => ok
         receive c g t            => nothing
         receive c r %DLQ%g       => m:1 n:1",
    );
}

#[test]
fn the_same_receive_gets_the_same_messages() {
    check(
        "topic t types=5
         lite c g t +a +b
         send t lite=a m n; send t lite=b x
         receive c g t attempt=1  => m:1 x:1
         receive c g t attempt=1  => m:1 x:1
         receive c g t attempt=2  => nothing
         ack g t m; receive c g t attempt=2 => n:1
         receive c g t attempt=1  => nothing
         ack g t x#1              => ok",
    );
}

#[test]
fn a_client_that_is_gone_receives_nothing_and_its_messages_go_to_others() {
    check(
        "topic t types=5
         lite c g t +a +b; lite d g t +a
         send t lite=a m; send t lite=b x
         receive c g t renewed=3h => m:1 x:1
         end c; +1ms; tick
         receive d g t            => m:2
         receive c g t            => nothing
         lite d g t +b
         receive d g t            => x:2",
    );
}

#[test]
fn what_a_client_receives_lapses_when_it_says_nothing() {
    check(
        "topic t types=5
         lite c g t +a; send t lite=a m
         +120s; lite c g t; tick
         +179s; tick; receive c g t max=1 => m:1
         ack g t m; send t lite=a n
         +1s; tick; receive c g t => nothing
         lite c g t +a; receive c g t => n:1",
    );
}

#[test]
fn lite_topics_that_nobody_uses_go() {
    check(
        "topic t types=5 lite-expiration=15
         lite c g t +a
         send t lite=a m; send t lite=b x
         +14m; lite c g t; tick; send t lite=b y
         +2m; lite c g t; tick
         lite-topics t            => 2
         receive c g t            => m:1
         +13m; lite c g t; tick
         lite-topics t            => 1
         receive c g t            => m:2
         end c; tick; +15m; tick
         lite-topics t            => 0
         ack g t m                => invalid_handle
         lite c g t +a; receive c g t => nothing
         send t lite=a o          => 0@0+1
         receive c g t            => o:1",
    );
}

#[test]
fn there_are_only_so_many() {
    check(
        "topic t types=5 lite-quota=2
         send t lite=a m; lite c g t +b
         send t lite=z m          => lite_topic_quota
         lite c g t +z            => lite_topic_quota
         send t lite=a n          => 0@1+1
         lite-topics t            => 2
         topic t types=5
         send t lite=z m          => 0@0+1
         group q bind=t lite-quota=0",
    );
    let mut harness = Harness::new();
    let topic = |name: &str| Topic {
        name: name.into(),
        read_queues: 1,
        write_queues: 1,
        permission: 6,
        message_types: vec![lite::LITE],
        ..Topic::default()
    };
    harness.run(command::Kind::PutTopic(PutTopic { topic: Some(topic("t")), create_only: false }));
    let mut add = |from: usize, count: usize| {
        let add = (from..from + count).map(|number| number.to_string()).collect();
        let put = PutLiteSubscription {
            client_id: "c".into(),
            consumer_group: "g".into(),
            topic: "t".into(),
            add,
            create_consumer_group: true,
            ..PutLiteSubscription::default()
        };
        harness.run(command::Kind::PutLiteSubscription(put)).refusal()
    };
    assert_eq!(add(0, 257), Refusal::InvalidArgument);
    for from in (0..2_300).step_by(230) {
        assert_eq!(add(from, 230), Refusal::Unspecified);
    }
    assert_eq!(add(0, 256), Refusal::Unspecified, "nothing new");
    assert_eq!(add(2_300, 1), Refusal::LiteSubscriptionQuota);
    // All of it goes in pieces when the client does, and the topic's rows with the topic.
    harness.run(command::Kind::EndSession(EndSession { client_id: "c".into(), term: 0 }));
    harness.run(command::Kind::DeleteTopic(DeleteTopic { name: "t".into() }));
    harness.run(command::Kind::DeleteConsumerGroup(DeleteConsumerGroup { name: "g".into() }));
    harness.now_ms += LAPSE_MS;
    settle(&mut harness);
    harness.now_ms += 1_000 * 86_400_000;
    settle(&mut harness);
    assert_nothing_left(&harness);
    harness.assert_replays(7);
}

fn settle(harness: &mut Harness) {
    for _ in 0..10_000 {
        let reply = harness.run(command::Kind::Tick(Tick {}));
        if !matches!(reply.kind, Some(reply::Kind::Ticked(ticked)) if ticked.more) {
            return;
        }
    }
    panic!("ticks come to no end");
}

fn assert_nothing_left(harness: &Harness) {
    let left: Vec<_> = dump(&harness.state)
        .into_iter()
        .filter(|(table, key, _)| match *table {
            "topic" | "consumer_group" | "session" => true,
            "queue" | "message" | "progress" | "subscription" | "flight" | "retry" => true,
            "machine" => key.first() == Some(&b'w'),
            _ => false,
        })
        .collect();
    assert_eq!(left, []);
}

/// What a lite topic should do: per consumer group one message out, in order.
#[derive(Default)]
struct Model {
    /// Messages sent to each lite topic, with their numbers.
    sent: BTreeMap<u8, Vec<u32>>,
    /// Of each consumer group and lite topic: messages that are finished.
    finished: BTreeMap<(u8, u8), usize>,
    /// What is out, with its handle and the end of its lease.
    out: BTreeMap<(u8, u8), (u32, Handle, u64)>,
    receives: BTreeSet<(u8, u8, u8)>,
    /// Consumer groups and lite topics that they received from.
    received: BTreeSet<(u8, u8)>,
}

/// The same numbers for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn byte(&mut self, below: u64) -> u8 {
        self.below(below) as u8
    }
}

const GROUPS: u64 = 2;
const CLIENTS: u64 = 3;
const LITE_TOPICS: u64 = 4;

struct Run {
    harness: Harness,
    model: Model,
    random: Random,
    /// Where each message is: log index and slot.
    places: BTreeMap<(u64, u32), u32>,
    next: u32,
}

impl Run {
    fn send(&mut self) {
        let names: Vec<u8> = (0..1 + self.random.below(3)).map(|_| self.random.byte(LITE_TOPICS)).collect();
        let message = |name: &u8| AppendMessage {
            message_type: lite::LITE,
            body_bytes: 1,
            message_group_hash: 1 + u64::from(*name),
            lite_topic: format!("l{name}"),
            ..AppendMessage::default()
        };
        let messages = names.iter().map(message).collect();
        let append = Append { topic: "t".into(), messages, ..Append::default() };
        assert_eq!(self.harness.run(command::Kind::Append(append)).refusal(), Refusal::Unspecified);
        let index = self.harness.log.len() as u64;
        for (name, slot) in names.into_iter().zip(0..) {
            self.places.insert((index, slot), self.next);
            self.model.sent.entry(name).or_default().push(self.next);
            self.next += 1;
        }
    }

    fn subscribe(&mut self) {
        let (group, client) = (self.random.byte(GROUPS), self.random.byte(CLIENTS));
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for name in 0..LITE_TOPICS as u8 {
            match self.random.below(4) {
                0 => {
                    add.push(format!("l{name}"));
                    self.model.receives.insert((group, client, name));
                }
                1 => {
                    remove.push(format!("l{name}"));
                    self.model.receives.remove(&(group, client, name));
                }
                _ => {}
            }
        }
        let put = PutLiteSubscription {
            client_id: format!("c{client}"),
            consumer_group: format!("g{group}"),
            topic: "t".into(),
            add,
            remove,
            create_consumer_group: true,
            ..PutLiteSubscription::default()
        };
        assert_eq!(self.harness.run(command::Kind::PutLiteSubscription(put)).refusal(), Refusal::Unspecified);
    }

    fn receive(&mut self) {
        let (group, client) = (self.random.byte(GROUPS), self.random.byte(CLIENTS));
        let (group_name, client_id) = (format!("g{group}"), format!("c{client}"));
        let wanted: Vec<u8> = (0..LITE_TOPICS as u8)
            .filter(|name| self.model.receives.contains(&(group, client, *name)))
            .filter(|name| !self.model.out.contains_key(&(group, *name)))
            .filter(|name| self.waits(group, *name))
            .collect();
        let max = 1 + self.random.below(3) as u32;
        let lite_topics = lite_topics(&self.harness.state, &["receive", &client_id, &group_name, "t"]);
        if consumer_group::consumer_group(&self.harness.state, &group_name).expect("read").is_some() {
            assert_eq!(lite_topics.len(), wanted.len(), "who is ready: {wanted:?}");
        }
        let invisible_ms = 1_000 + self.random.below(20_000);
        let lease = Lease {
            consumer_group: group_name,
            topic: "t".into(),
            client_id,
            messages_max: max,
            invisible_ms,
            nonce: 7,
            lite_topics,
            create_consumer_group: true,
            ..Lease::default()
        };
        let Some(reply::Kind::LeasedApart(leased)) = self.harness.run(command::Kind::Lease(lease)).kind else {
            panic!("a receive is answered")
        };
        assert_eq!(leased.leases.len(), wanted.len().min(max as usize));
        for lease in leased.leases {
            assert_eq!(lease.messages.len(), 1);
            let message = self.places[&(lease.messages[0].log_index, lease.messages[0].slot)];
            let name = *wanted
                .iter()
                .find(|name| self.model.sent[*name][self.finished(group, **name)] == message)
                .expect("the next one of a lite topic that the client receives");
            let handle = Handle {
                consumer_group_id: lease.consumer_group_id,
                lease_id: lease.lease_id,
                item: lease.messages[0].item,
                nonce: lease.nonce,
            };
            let ends = self.harness.now_ms + invisible_ms;
            assert!(self.model.out.insert((group, name), (message, handle, ends)).is_none());
            self.model.received.insert((group, name));
        }
    }

    fn finished(&self, group: u8, name: u8) -> usize {
        self.model.finished.get(&(group, name)).copied().unwrap_or_default()
    }

    fn waits(&self, group: u8, name: u8) -> bool {
        self.model.sent.get(&name).is_some_and(|sent| sent.len() > self.finished(group, name))
    }

    fn settle_one(&mut self) {
        let at = self.random.below(1 + self.model.out.len() as u64) as usize;
        let Some((&(group, name), &(_, handle, _))) = self.model.out.iter().nth(at) else { return };
        let (consumer_group, topic) = (format!("g{group}"), "t".to_owned());
        if self.random.below(3) == 0 {
            let change = ChangeInvisible { consumer_group, topic, handle: Some(handle), ..ChangeInvisible::default() };
            assert_eq!(self.harness.run(command::Kind::ChangeInvisible(change)).refusal(), Refusal::Unspecified);
        } else {
            let ack = Ack { consumer_group, topic, handles: vec![handle] };
            let Some(reply::Kind::Acked(acked)) = self.harness.run(command::Kind::Ack(ack)).kind else {
                panic!("an ack is answered")
            };
            assert_eq!(acked.refusals, [i32::from(Refusal::Unspecified)]);
            *self.model.finished.entry((group, name)).or_default() += 1;
        }
        self.model.out.remove(&(group, name));
    }

    fn wait(&mut self) {
        self.harness.now_ms += self.random.below(8_000);
        let now_ms = self.harness.now_ms;
        // Nobody forgets what a client receives while it says so.
        for (group, client) in (0..GROUPS).flat_map(|group| (0..CLIENTS).map(move |client| (group, client))) {
            let put = PutLiteSubscription {
                client_id: format!("c{client}"),
                consumer_group: format!("g{group}"),
                topic: "t".into(),
                create_consumer_group: true,
                ..PutLiteSubscription::default()
            };
            self.harness.run(command::Kind::PutLiteSubscription(put));
        }
        settle(&mut self.harness);
        self.model.out.retain(|_, (_, _, ends)| *ends > now_ms);
    }

    fn assert_rows_agree(&self) {
        let state = &self.harness.state;
        let mut count = 0;
        state
            .scan(key::SESSION, b"u", &key::after(b"u"), &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })
            .expect("read");
        assert_eq!(count, self.model.receives.len());
        assert_eq!(lite::subscription_count(state).expect("read"), count as u64);
        for group in 0..GROUPS as u8 {
            self.assert_left(group);
        }
    }

    /// What is told of all lite topics of a consumer group is what is left to do in those that concern it.
    fn assert_left(&self, group: u8) {
        let state = &self.harness.state;
        let Some(row) = consumer_group::consumer_group(state, &format!("g{group}")).expect("read") else { return };
        let mut looks = LiteLooks::new(std::slice::from_ref(&row), 100);
        let share = looks.share(state, &row).expect("read").expect("it is bound");
        let (lag, _) = lite_backlog(state, &share.topics, ConsumerGroupId(row.id), &mut 0).expect("read");
        let concerns = |name: u8| {
            let receives = (0..CLIENTS as u8).any(|client| self.model.receives.contains(&(group, client, name)));
            receives || self.model.received.contains(&(group, name))
        };
        let sent = |name: u8| self.model.sent.get(&name).map_or(0, Vec::len);
        let names = (0..LITE_TOPICS as u8).filter(|name| concerns(*name));
        let left: usize = names.map(|name| sent(name) - self.finished(group, name)).sum();
        assert_eq!(lag.messages(), left as u64, "{lag:?}");
        assert_eq!(lag.in_flight, self.model.out.keys().filter(|(of, _)| *of == group).count() as u64);
        assert!(!share.more);
    }
}

fn run(seed: u64, steps: usize) -> Run {
    let topic = Topic {
        name: "t".into(),
        read_queues: 1,
        write_queues: 1,
        permission: 6,
        message_types: vec![lite::LITE],
        ..Topic::default()
    };
    let mut run = Run {
        harness: Harness::new(),
        model: Model::default(),
        random: Random(seed),
        places: BTreeMap::new(),
        next: 0,
    };
    run.harness.run(command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false }));
    for _ in 0..steps {
        match run.random.below(10) {
            0 | 1 => run.send(),
            2 => run.subscribe(),
            3..=5 => run.receive(),
            6..=8 => run.settle_one(),
            _ => run.wait(),
        }
        run.assert_rows_agree();
    }
    run
}

#[test]
fn whatever_happens_each_lite_topic_stays_in_order() {
    for seed in 0..40 {
        let mut run = run(seed, 400);
        // Everybody receives everything: nothing is lost.
        for group in 0..GROUPS as u8 {
            for name in 0..LITE_TOPICS as u8 {
                run.model.receives.insert((group, 0, name));
            }
            let put = PutLiteSubscription {
                client_id: "c0".into(),
                consumer_group: format!("g{group}"),
                topic: "t".into(),
                add: (0..LITE_TOPICS).map(|name| format!("l{name}")).collect(),
                create_consumer_group: true,
                ..PutLiteSubscription::default()
            };
            run.harness.run(command::Kind::PutLiteSubscription(put));
        }
        let mut left: VecDeque<()> = VecDeque::new();
        for _ in 0..20_000 {
            let all = (0..GROUPS as u8).flat_map(|group| (0..LITE_TOPICS as u8).map(move |name| (group, name)));
            left = all.filter(|(group, name)| run.waits(*group, *name)).map(|_| ()).collect();
            if left.is_empty() {
                break;
            }
            run.receive();
            run.settle_one();
        }
        assert!(left.is_empty(), "seed {seed}: messages are left");
        assert_eq!(leases_open(&run.harness.state), 0);
        run.harness.assert_replays(1 + seed as usize % 5);
        assert!(run.harness.now_ms >= START_MS);
    }
}

fn leases_open(state: &State) -> usize {
    let mut open = 0;
    state
        .scan(key::LEASE, &[], &[], &mut |key, value| {
            open += lease::parse(key, value).expect("a lease").2.open();
            ControlFlow::Continue(())
        })
        .expect("read");
    open
}
