//! Random commands against a model that knows what clients were told.

use super::{Harness, dump, lasting};
use crate::command::Payload;
use crate::filter::tag::tag_hash;
use crate::store::{ConsumerGroupId, TopicId, consumer_group, progress, queue, subscription, topic};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use raft_store::State;
use raftmq_proto::command::{
    Ack, Append, AppendMessage, Batch, ChangeInvisible, ConsumerGroup, DeleteConsumerGroup, DeleteTopic, EndSession,
    Filter, Handle, Lease, PutConsumerGroup, PutSession, PutTopic, Refusal, Subscription, Tick, Topic, command, reply,
};
use std::collections::BTreeMap;

const TOPICS: [&str; 2] = ["t", "u"];
/// The second one's clients use no filters.
const GROUPS: [&str; 2] = ["g", "h"];
const RETRY_MAX: [u32; 2] = [2, 1];
const TAGS: [&str; 3] = ["", "x", "y"];
/// What a client of the first group subscribes to.
const FILTERS: [&str; 3] = ["x", "y", ""];

#[derive(Debug, Clone)]
enum Step {
    Send { topic: usize, tags: Vec<usize> },
    Receive { group: usize, topic: usize, client: usize, max: u32, invisible_ms: u64, renewed: bool, attempt: u8 },
    Ack { which: usize },
    Forge { which: usize, how: u8 },
    Hide { which: usize, invisible_ms: u64, suspend: bool },
    End { client: usize },
    Advance { ms: u64 },
    Tick,
    Repeat,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..2usize, proptest::collection::vec(0..3usize, 1..6)).prop_map(|(topic, tags)| Step::Send { topic, tags }),
        6 => (0..2usize, 0..2usize, 0..3usize, 1..9u32, 1..4u64, any::<bool>(), 0..4u8).prop_map(
            |(group, topic, client, max, invisible, renewed, attempt)| Step::Receive {
                group, topic, client, max, invisible_ms: invisible * 1_000, renewed, attempt
            }),
        5 => any::<usize>().prop_map(|which| Step::Ack { which }),
        1 => (any::<usize>(), 0..5u8).prop_map(|(which, how)| Step::Forge { which, how }),
        2 => (any::<usize>(), 0..4u64, any::<bool>())
            .prop_map(|(which, seconds, suspend)| Step::Hide { which, invisible_ms: seconds * 1_000, suspend }),
        1 => (0..3usize).prop_map(|client| Step::End { client }),
        3 => (0..3_000u64).prop_map(|ms| Step::Advance { ms }),
        3 => Just(Step::Tick),
        1 => Just(Step::Repeat),
    ];
    proptest::collection::vec(step, 1..120)
}

/// A message as one consumer group sees it.
#[derive(Debug, Clone, Default)]
struct Seen {
    acked: bool,
    dead: bool,
    /// Deliveries that ended and counted.
    ended: u32,
    /// The handle that counts, and when or with whom it ends.
    held: Option<(Handle, Held)>,
    /// Its queue's progress waits for it.
    fresh: bool,
    /// The deliveries under way ends without being counted.
    suspended: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Held {
    Until(u64),
    Renewed(usize, u64),
}

struct Message {
    topic: usize,
    tag: usize,
    queue: u16,
    offset: u64,
}

struct Model {
    harness: Harness,
    last: Option<Batch>,
    /// By log index and slot.
    places: BTreeMap<(u64, u32), usize>,
    messages: Vec<Message>,
    seen: Vec<[Seen; 2]>,
    /// Every handle that was issued: consumer group, message.
    handles: Vec<(Handle, usize, usize)>,
}

fn filter(group: usize, client: usize) -> Option<Filter> {
    let tags = if group == 0 { FILTERS[client] } else { "" };
    Some(Filter { tags: (!tags.is_empty()).then(|| tags.to_owned()).into_iter().collect() })
}

fn client(number: usize) -> String {
    format!("c{number}")
}

fn put_topic(name: &str, queues: u32) -> command::Kind {
    let topic = Topic {
        name: name.into(),
        read_queues: queues,
        write_queues: queues,
        permission: 6,
        message_types: vec![1],
        ..Topic::default()
    };
    command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false })
}

impl Model {
    fn new() -> Model {
        let mut model = Model {
            harness: Harness::new(),
            last: None,
            places: BTreeMap::new(),
            messages: Vec::new(),
            seen: Vec::new(),
            handles: Vec::new(),
        };
        model.run(put_topic("t", 3));
        model.run(put_topic("u", 1));
        for (name, retry_max) in GROUPS.iter().zip(RETRY_MAX) {
            let row =
                ConsumerGroup { name: (*name).into(), consume_enable: true, retry_max, ..ConsumerGroup::default() };
            model.run(command::Kind::PutConsumerGroup(PutConsumerGroup {
                consumer_group: Some(row),
                create_only: false,
            }));
        }
        (0..2).for_each(|number| model.put_session(number));
        model
    }

    fn put_session(&mut self, number: usize) {
        let subscriptions =
            TOPICS.iter().map(|t| Subscription { topic: (*t).into(), filter: filter(0, number) }).collect();
        self.run(command::Kind::PutSession(PutSession {
            client_id: client(number),
            consumer_group: GROUPS[0].into(),
            subscriptions,
            create_consumer_group: false,
        }));
    }

    fn run(&mut self, kind: command::Kind) -> raftmq_proto::command::Reply {
        let batch = self.harness.batch(vec![kind]);
        self.last = Some(batch.clone());
        self.harness.apply_batches(&[batch]).remove(0).replies.remove(0)
    }

    fn ids(&self, group: usize, topic: usize) -> (TopicId, ConsumerGroupId) {
        let topic = topic::topic(&self.harness.state, TOPICS[topic]).expect("read").expect("exists");
        let group = consumer_group::consumer_group(&self.harness.state, GROUPS[group]).expect("read").expect("exists");
        (TopicId(topic.id), ConsumerGroupId(group.id))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { topic, tags } => self.send(topic, &tags),
            Step::Receive { group, topic, client, max, invisible_ms, renewed, attempt } => {
                self.receive(group, topic, client, max, invisible_ms, renewed, attempt);
            }
            Step::Ack { which } => self.ack(which),
            Step::Forge { which, how } => self.forge(which, how),
            Step::Hide { which, invisible_ms, suspend } => self.hide(which, invisible_ms, suspend),
            Step::End { client: number } => {
                self.run(command::Kind::EndSession(EndSession { client_id: client(number) }));
                self.give_back(|held, _| matches!(held, Held::Renewed(client, _) if *client == number));
                if number < 2 {
                    self.put_session(number);
                }
            }
            Step::Advance { ms } => self.harness.now_ms += ms,
            Step::Tick => self.tick(),
            Step::Repeat => {
                let rows = lasting(&self.harness.state);
                let batch = self.last.clone().expect("the set-up sent batches");
                assert!(self.harness.apply_batches(&[batch]).remove(0).repeat);
                assert_eq!(lasting(&self.harness.state), rows, "a repeat changes nothing");
            }
        }
    }

    fn send(&mut self, topic: usize, tags: &[usize]) {
        let messages = tags.iter().map(|tag| AppendMessage {
            tag_hash: if *tag == 0 { 0 } else { tag_hash(TAGS[*tag]) },
            message_type: 1,
            body_bytes: 1,
        });
        let append = Append { topic: TOPICS[topic].into(), messages: messages.collect() };
        let reply = self.run(command::Kind::Append(append));
        let Some(reply::Kind::Appended(at)) = reply.kind else { panic!("not stored: {reply:?}") };
        for (slot, tag) in tags.iter().enumerate() {
            self.places.insert((self.harness.log.len() as u64, slot as u32), self.messages.len());
            self.messages.push(Message {
                topic,
                tag: *tag,
                queue: at.queue as u16,
                offset: at.first_offset + slot as u64,
            });
            self.seen.push(Default::default());
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn receive(
        &mut self,
        group: usize,
        topic: usize,
        number: usize,
        max: u32,
        invisible_ms: u64,
        renewed: bool,
        attempt: u8,
    ) -> usize {
        let (topic_id, group_id) = self.ids(group, topic);
        let cursors: Vec<_> = (0..3)
            .map(|queue| progress::progress(&self.harness.state, topic_id, group_id, queue).expect("read").cursor)
            .collect();
        let reply = self.run(command::Kind::Lease(Lease {
            consumer_group: GROUPS[group].into(),
            topic: TOPICS[topic].into(),
            client_id: client(number),
            filter: filter(group, number),
            messages_max: max,
            invisible_ms: if renewed { 0 } else { invisible_ms },
            renewed,
            renew_max_ms: if renewed { 7_000 } else { 0 },
            nonce: 99,
            attempt_id: if attempt == 0 { String::new() } else { attempt.to_string() },
            create_consumer_group: false,
        }));
        let Some(reply::Kind::Leased(leased)) = reply.kind else { panic!("not leased: {reply:?}") };
        assert!(leased.messages.len() <= max.max(8) as usize);
        for message in &leased.messages {
            let at = self.places[&(message.log_index, message.slot)];
            let (place, seen) = (&self.messages[at], &mut self.seen[at][group]);
            assert_eq!((place.topic, u32::from(place.queue), place.offset), (topic, message.queue, message.offset));
            let handle = Handle {
                consumer_group_id: leased.consumer_group_id,
                lease_id: leased.lease_id,
                item: message.item,
                nonce: leased.nonce,
            };
            let held = if renewed {
                Held::Renewed(number, self.harness.now_ms + 7_000)
            } else {
                Held::Until(leased.deadline_ms)
            };
            assert!(!seen.acked && !seen.dead, "finished messages do not come back");
            assert_eq!(message.attempt, seen.ended + 1);
            assert!(message.attempt <= RETRY_MAX[group] + 1);
            let wanted = if group == 0 { FILTERS[number] } else { "" };
            assert!(wanted.is_empty() || wanted == TAGS[place.tag], "the filter holds");
            match &mut seen.held {
                // The same receive asked again.
                Some((known, until)) => {
                    assert_eq!(known, &handle, "nobody else gets a message while its lease is valid");
                    assert!(attempt > 0);
                    if !matches!(until, Held::Renewed(..)) {
                        *until = held;
                    }
                }
                None => {
                    seen.held = Some((handle, held));
                    seen.fresh = message.offset >= cursors[message.queue as usize];
                    seen.suspended = false;
                    self.handles.push((handle, group, at));
                }
            }
        }
        leased.messages.len()
    }

    fn ack_command(&mut self, group: usize, topic: usize, handle: Handle) -> Refusal {
        let ack = Ack { consumer_group: GROUPS[group].into(), topic: TOPICS[topic].into(), handles: vec![handle] };
        match self.run(command::Kind::Ack(ack)).kind {
            Some(reply::Kind::Acked(acked)) => Refusal::try_from(acked.refusals[0]).expect("known"),
            other => panic!("not acked: {other:?}"),
        }
    }

    fn ack(&mut self, which: usize) {
        let Some((handle, group, at)) = self.pick(which) else { return };
        let topic = self.messages[at].topic;
        let before = lasting(&self.harness.state);
        let refusal = self.ack_command(group, topic, handle);
        let seen = &mut self.seen[at][group];
        if seen.held.as_ref().is_some_and(|(valid, _)| *valid == handle) {
            assert_eq!(refusal, Refusal::Unspecified, "a valid handle acknowledges");
            seen.held = None;
            seen.acked = true;
        } else {
            assert_eq!(lasting(&self.harness.state), before, "other handles change nothing");
            assert!(refusal == Refusal::InvalidHandle || seen.acked);
        }
    }

    fn forge(&mut self, which: usize, how: u8) {
        let Some((mut handle, mut group, at)) = self.pick(which) else { return };
        let mut topic = self.messages[at].topic;
        match how {
            0 => handle.nonce ^= 1,
            1 => handle.lease_id += 1 << 20,
            2 => handle.item += 1_000,
            3 => group = 1 - group,
            _ => topic = 1 - topic,
        }
        let before = lasting(&self.harness.state);
        let refusal = self.ack_command(group, topic, handle);
        assert_eq!(lasting(&self.harness.state), before, "a forged handle changes nothing");
        // A lease whose items were all acknowledged left no row that knows its topic.
        assert!(refusal == Refusal::InvalidHandle || how == 4);
        let change = ChangeInvisible {
            consumer_group: GROUPS[group].into(),
            topic: TOPICS[topic].into(),
            handle: Some(handle),
            invisible_ms: 0,
            suspend: false,
        };
        assert_eq!(self.run(command::Kind::ChangeInvisible(change)).refusal(), Refusal::InvalidHandle);
        assert_eq!(lasting(&self.harness.state), before, "a forged handle changes nothing");
    }

    fn hide(&mut self, which: usize, invisible_ms: u64, suspend: bool) {
        let Some((handle, group, at)) = self.pick(which) else { return };
        let before = lasting(&self.harness.state);
        let reply = self.run(command::Kind::ChangeInvisible(ChangeInvisible {
            consumer_group: GROUPS[group].into(),
            topic: TOPICS[self.messages[at].topic].into(),
            handle: Some(handle),
            invisible_ms,
            suspend,
        }));
        let now_ms = self.harness.now_ms;
        let seen = &mut self.seen[at][group];
        if seen.held.as_ref().is_none_or(|(valid, _)| *valid != handle) {
            assert_eq!(reply.refusal(), Refusal::InvalidHandle);
            assert_eq!(lasting(&self.harness.state), before, "other handles change nothing");
            return;
        }
        let Some(reply::Kind::Invisible(invisible)) = reply.kind else { panic!("not changed: {reply:?}") };
        let handle = invisible.handle.expect("never empty");
        seen.suspended = suspend;
        if invisible_ms == 0 {
            give_back(seen, RETRY_MAX[group]);
        } else {
            seen.held = Some((handle, Held::Until(now_ms + invisible_ms)));
            self.handles.push((handle, group, at));
        }
    }

    fn tick(&mut self) {
        loop {
            let reply = self.run(command::Kind::Tick(Tick {}));
            if !matches!(reply.kind, Some(reply::Kind::Ticked(ticked)) if ticked.more) {
                break;
            }
        }
        self.give_back(|held, now_ms| match held {
            Held::Until(at_ms) | Held::Renewed(_, at_ms) => *at_ms <= now_ms,
        });
    }

    fn give_back(&mut self, ends: impl Fn(&Held, u64) -> bool) {
        let now_ms = self.harness.now_ms;
        for seen in &mut self.seen {
            for (seen, retry_max) in seen.iter_mut().zip(RETRY_MAX) {
                if seen.held.as_ref().is_some_and(|(_, held)| ends(held, now_ms)) {
                    give_back(seen, retry_max);
                }
            }
        }
    }

    fn pick(&self, which: usize) -> Option<(Handle, usize, usize)> {
        (!self.handles.is_empty()).then(|| self.handles[which % self.handles.len()])
    }

    /// Progress and counts are right.
    fn check(&self) {
        for group in 0..2 {
            for topic in 0..2 {
                let (topic_id, group_id) = self.ids(group, topic);
                let of_topic = || self.messages.iter().zip(&self.seen).filter(|(message, _)| message.topic == topic);
                for number in 0..3 {
                    let found = progress::progress(&self.harness.state, topic_id, group_id, number).expect("read");
                    let flying: Vec<_> = of_topic()
                        .filter(|(m, seen)| m.queue == number && seen[group].held.is_some() && seen[group].fresh)
                        .map(|(m, _)| m.offset)
                        .collect();
                    let lowest = flying.iter().min().copied().unwrap_or(found.cursor);
                    assert_eq!((found.progress, found.in_flight), (lowest, flying.len() as u64));
                    assert!(found.progress <= found.cursor);
                }
                let retry = subscription::subscription(&self.harness.state, topic_id, group_id).expect("read");
                let flying = of_topic().filter(|(_, s)| s[group].held.is_some() && !s[group].fresh).count();
                let dead = of_topic().filter(|(_, s)| s[group].dead).count();
                let retry = retry.unwrap_or_default();
                assert_eq!((retry.retry_in_flight, retry.dead_letters), (flying as u64, dead as u64));
            }
        }
    }

    /// Everything comes out in the end.
    fn drain(&mut self) {
        self.harness.now_ms += 36_000_000;
        self.tick();
        for group in 0..2 {
            for topic in 0..2 {
                while self.receive(group, topic, 2, 256, 1_000, false, 0) > 0 {
                    let open: Vec<_> = self.seen.iter().filter_map(|s| Some(s[group].held.as_ref()?.0)).collect();
                    for handle in open {
                        let which = self.handles.iter().position(|(known, ..)| *known == handle).expect("issued");
                        self.ack(which);
                    }
                }
            }
        }
        for (message, seen) in self.messages.iter().zip(&self.seen) {
            for (group, seen) in seen.iter().enumerate() {
                // Nobody in the first group subscribes to messages without a tag while the third client is away.
                let may_be_skipped = group == 0 && message.tag == 0;
                assert!(seen.acked || seen.dead || may_be_skipped, "lost: {seen:?}");
            }
        }
        for group in 0..2 {
            let dead = self.seen.iter().filter(|seen| seen[group].dead).count() as u64;
            let name = topic::dead_letter_name(GROUPS[group]);
            let stored = topic::topic(&self.harness.state, &name)
                .expect("read")
                .map_or(0, |topic| queue::queue(&self.harness.state, TopicId(topic.id), 0).expect("read").next);
            assert_eq!(stored, dead);
        }
    }
}

fn give_back(seen: &mut Seen, retry_max: u32) {
    seen.held = None;
    seen.ended += u32::from(!seen.suspended);
    seen.dead = seen.ended > retry_max;
    seen.fresh = false;
}

/// Commands that need not make sense.
fn any_command() -> impl Strategy<Value = command::Kind> {
    let name = || prop_oneof![Just(String::from("t")), Just("g".into()), Just("%DLQ%g".into()), Just(String::new())];
    let handle =
        || {
            (0..6u64, any::<u64>(), 0..3u32, any::<u64>()).prop_map(|(consumer_group_id, lease_id, item, nonce)| {
                Handle { consumer_group_id, lease_id, item, nonce }
            })
        };
    prop_oneof![
        (name(), 0..4u32, any::<u32>(), 0..8u32).prop_map(|(name, queues, write_queues, permission)| {
            let write_queues = if write_queues % 4 == 0 { write_queues } else { queues };
            let topic = Topic {
                name,
                read_queues: queues,
                write_queues,
                permission,
                message_types: vec![1],
                ..Topic::default()
            };
            command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false })
        }),
        name().prop_map(|name| command::Kind::DeleteTopic(DeleteTopic { name })),
        name().prop_map(|name| command::Kind::DeleteConsumerGroup(DeleteConsumerGroup { name })),
        (name(), 0..4usize, 0..3i32).prop_map(|(topic, messages, message_type)| {
            let message = AppendMessage { tag_hash: 5, message_type, body_bytes: u32::MAX };
            command::Kind::Append(Append { topic, messages: vec![message; messages] })
        }),
        (name(), name(), any::<u32>(), any::<u64>(), any::<bool>(), any::<u64>()).prop_map(
            |(topic, consumer_group, messages_max, invisible_ms, renewed, renew_max_ms)| {
                command::Kind::Lease(Lease {
                    topic,
                    consumer_group,
                    messages_max,
                    invisible_ms: invisible_ms >> 20,
                    renewed,
                    renew_max_ms,
                    client_id: "c".into(),
                    create_consumer_group: true,
                    ..Lease::default()
                })
            }
        ),
        (name(), name(), proptest::collection::vec(handle(), 0..3))
            .prop_map(|(topic, consumer_group, handles)| command::Kind::Ack(Ack { topic, consumer_group, handles })),
        (name(), name(), proptest::option::of(handle()), any::<u64>()).prop_map(
            |(topic, consumer_group, handle, invisible_ms)| {
                command::Kind::ChangeInvisible(ChangeInvisible {
                    topic,
                    consumer_group,
                    handle,
                    invisible_ms,
                    suspend: false,
                })
            }
        ),
        (name(), name()).prop_map(|(client_id, consumer_group)| command::Kind::PutSession(PutSession {
            client_id,
            consumer_group,
            create_consumer_group: true,
            ..PutSession::default()
        })),
        name().prop_map(|client_id| command::Kind::EndSession(EndSession { client_id })),
        Just(command::Kind::Tick(Tick {})),
    ]
}

proptest! {
    #[test]
    fn clients_are_told_the_truth(steps in steps()) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            model.check();
        }
        model.drain();
        model.check();
        for chunk in [1, 7, 10_000] {
            model.harness.assert_replays(chunk);
        }
    }

    #[test]
    fn no_command_breaks_the_machine(
        entries in proptest::collection::vec(
            (proptest::collection::vec(any_command(), 0..5), 0..4u64, 0..5u64, any::<u64>()), 0..40),
    ) {
        let mut harness = Harness::new();
        for (kinds, boot, settled, step) in entries {
            let mut batch = harness.batch(kinds);
            batch.boot = boot;
            batch.settled = settled.wrapping_mul(step);
            batch.sequence = batch.sequence.wrapping_mul(settled | 1);
            harness.now_ms = harness.now_ms.wrapping_add(step >> 24);
            harness.apply_batches(&[batch]);
        }
        harness.assert_replays(1);
        harness.assert_replays(9);
    }

    #[test]
    fn garbage_in_the_log_is_passed_over(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut payload = vec![crate::command::FORMAT];
        payload.extend_from_slice(&bytes);
        let state = State::ordered(crate::store::TABLES);
        let garbage = Payload::parse(payload.clone().into()).and_then(|payload| payload.entry()).is_err();
        let outcome = super::apply(&state, &[payload.into()], 1).remove(0);
        assert_eq!(outcome.unreadable.is_some(), garbage);
        assert_eq!(dump(&state).len(), 1);
    }
}
