//! Timelines as text: commands, and what was answered behind `=>`.
//!
//! Messages have names; `a/x` is message `a` with tag `x`. A receive shows each message with its attempt, as in
//! `a:2`. Handles go by the message's name: the newest, or `a#1`, the first one ever issued.

use super::Harness;
use crate::filter::tag::{TagFilter, tag_hash};
use crate::store::{ConsumerGroupId, TopicId, consumer_group, lag, progress, queue, subscription, topic};
use raftmq_proto::command::{
    Ack, Append, AppendMessage, ChangeInvisible, ConsumerGroup, DeleteConsumerGroup, DeleteTopic, EndSession, Filter,
    Handle, Lease, PutConsumerGroup, PutSession, PutTopic, Refusal, Reply, Subscription, Tick, Topic, command, reply,
};
use std::collections::BTreeMap;

struct Timeline {
    harness: Harness,
    /// By log index and slot.
    names: BTreeMap<(u64, u32), String>,
    handles: BTreeMap<String, Vec<Handle>>,
}

fn ms(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().expect("a duration begins with a number");
    match unit {
        "ms" => number,
        "s" => number * 1_000,
        "m" => number * 60_000,
        "h" => number * 3_600_000,
        _ => panic!("unknown unit in {text}"),
    }
}

fn filter(expression: &str) -> Option<Filter> {
    Some(TagFilter::parse(&expression.replace('|', "||")).expect("good expression").to_command())
}

fn option<'w>(words: &[&'w str], name: &str) -> Option<&'w str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn show(refusal: i32) -> String {
    match Refusal::try_from(refusal).expect("known refusal") {
        Refusal::Unspecified => "ok".to_owned(),
        other => other.as_str_name().to_lowercase(),
    }
}

impl Timeline {
    fn new() -> Timeline {
        Timeline { harness: Harness::new(), names: BTreeMap::new(), handles: BTreeMap::new() }
    }

    fn handle(&self, name: &str) -> Handle {
        let (name, forged) = name.strip_suffix('!').map_or((name, false), |name| (name, true));
        let (name, at) = name.split_once('#').map_or((name, None), |(name, at)| (name, Some(at)));
        let all = &self.handles[name];
        let at = at.map_or(all.len(), |at| at.parse().expect("number of a handle"));
        let mut handle = all[at - 1];
        handle.nonce ^= u64::from(forged);
        handle
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        let number =
            |name: &str, default: u32| option(&words, name).map_or(default, |value| value.parse().expect("a number"));
        let has = |word: &str| words.contains(&word);
        match words[0] {
            "topic" => {
                let queues = number("queues", 1);
                let types = option(&words, "types").unwrap_or("1");
                let topic = Topic {
                    name: words[1].into(),
                    read_queues: queues,
                    write_queues: queues,
                    permission: number("perm", 6),
                    message_types: types.split(',').map(|t| t.parse().expect("a number")).collect(),
                    ..Topic::default()
                };
                let put = PutTopic { topic: Some(topic), create_only: has("create-only") };
                let reply = self.harness.run(command::Kind::PutTopic(put));
                match reply.kind {
                    Some(reply::Kind::Topic(topic)) => format!("version {}", topic.version),
                    _ => show(reply.refusal),
                }
            }
            "drop-topic" => self.simple(command::Kind::DeleteTopic(DeleteTopic { name: words[1].into() })),
            "group" => {
                let consumer_group = Some(ConsumerGroup {
                    name: words[1].into(),
                    consume_enable: !has("disabled"),
                    retry_max: number("retry", 16),
                    ..ConsumerGroup::default()
                });
                self.simple(command::Kind::PutConsumerGroup(PutConsumerGroup { consumer_group, create_only: false }))
            }
            "drop-group" => {
                self.simple(command::Kind::DeleteConsumerGroup(DeleteConsumerGroup { name: words[1].into() }))
            }
            "send" => self.send(&words),
            "receive" => self.receive(&words),
            "ack" => {
                let handles = words[3..].iter().map(|name| self.handle(name)).collect();
                let ack = Ack { consumer_group: words[1].into(), topic: words[2].into(), handles };
                match self.harness.run(command::Kind::Ack(ack)).kind {
                    Some(reply::Kind::Acked(acked)) => {
                        acked.refusals.into_iter().map(show).collect::<Vec<_>>().join(" ")
                    }
                    other => panic!("ack is answered with {other:?}"),
                }
            }
            "hide" => {
                let name = words[3].split('#').next().expect("a name");
                let change = ChangeInvisible {
                    consumer_group: words[1].into(),
                    topic: words[2].into(),
                    handle: Some(self.handle(words[3])),
                    invisible_ms: ms(words[4]),
                    suspend: has("suspend"),
                };
                let reply = self.harness.run(command::Kind::ChangeInvisible(change));
                if let Some(reply::Kind::Invisible(invisible)) = &reply.kind {
                    let handle = invisible.handle.expect("never empty");
                    self.handles.get_mut(name).expect("known").push(handle);
                }
                show(reply.refusal)
            }
            "session" => {
                let subscriptions = words[3..]
                    .iter()
                    .map(|word| {
                        let (topic, tags) = word.split_once('=').expect("topic=tags");
                        Subscription { topic: topic.into(), filter: filter(tags) }
                    })
                    .collect();
                self.simple(command::Kind::PutSession(PutSession {
                    client_id: words[1].into(),
                    consumer_group: words[2].into(),
                    subscriptions,
                    create_consumer_group: true,
                }))
            }
            "end" => self.simple(command::Kind::EndSession(EndSession { client_id: words[1].into() })),
            "tick" => loop {
                let reply = self.harness.run(command::Kind::Tick(Tick {}));
                if !matches!(&reply.kind, Some(reply::Kind::Ticked(ticked)) if ticked.more) {
                    break show(reply.refusal);
                }
            },
            "progress" => self.progress(words[1], words[2]),
            wait if wait.starts_with('+') => {
                self.harness.now_ms += ms(&wait[1..]);
                String::new()
            }
            other => panic!("unknown word {other}"),
        }
    }

    fn simple(&mut self, kind: command::Kind) -> String {
        show(self.harness.run(kind).refusal)
    }

    fn send(&mut self, words: &[&str]) -> String {
        let message_type = option(words, "type").map_or(1, |value| value.parse().expect("a number"));
        let messages: Vec<_> = words[2..].iter().filter(|word| !word.contains('=')).collect();
        let append = Append {
            topic: words[1].into(),
            messages: messages
                .iter()
                .map(|message| AppendMessage {
                    tag_hash: message.split_once('/').map_or(0, |(_, tag)| tag_hash(tag)),
                    message_type,
                    body_bytes: 1,
                })
                .collect(),
        };
        let reply = self.harness.run(command::Kind::Append(append));
        let index = self.harness.log.len() as u64;
        for (message, slot) in messages.iter().zip(0..) {
            let name = message.split('/').next().expect("a name");
            self.names.insert((index, slot), name.to_owned());
        }
        match reply.kind {
            Some(reply::Kind::Appended(at)) => format!("{}@{}+{}", at.queue, at.first_offset, at.count),
            _ => show(reply.refusal),
        }
    }

    fn receive(&mut self, words: &[&str]) -> String {
        let renewed = option(words, "renewed");
        let lease = Lease {
            client_id: words[1].into(),
            consumer_group: words[2].into(),
            topic: words[3].into(),
            filter: option(words, "tags").and_then(filter),
            messages_max: option(words, "max").map_or(32, |value| value.parse().expect("a number")),
            invisible_ms: if renewed.is_some() { 0 } else { ms(option(words, "for").unwrap_or("30s")) },
            renewed: renewed.is_some(),
            renew_max_ms: renewed.map_or(0, ms),
            nonce: 0x1234,
            attempt_id: option(words, "attempt").unwrap_or_default().into(),
            create_consumer_group: !words.contains(&"no-create"),
        };
        let reply: Reply = self.harness.run(command::Kind::Lease(lease));
        let Some(reply::Kind::Leased(leased)) = reply.kind else { return show(reply.refusal) };
        let mut shown = Vec::new();
        for message in &leased.messages {
            let name = self.names[&(message.log_index, message.slot)].clone();
            shown.push(format!("{name}:{}", message.attempt));
            self.handles.entry(name).or_default().push(Handle {
                consumer_group_id: leased.consumer_group_id,
                lease_id: leased.lease_id,
                item: message.item,
                nonce: leased.nonce,
            });
        }
        if shown.is_empty() {
            shown.push("nothing".into());
        }
        if leased.more {
            shown.push("more".into());
        }
        shown.join(" ")
    }

    fn progress(&self, group: &str, topic: &str) -> String {
        let state = &self.harness.state;
        let group = consumer_group::consumer_group(state, group).expect("read").expect("exists");
        let topic = topic::topic(state, topic).expect("read").expect("exists");
        let (group, id) = (ConsumerGroupId(group.id), TopicId(topic.id));
        let mut shown = Vec::new();
        for number in 0..topic.read_queues as u16 {
            let at = progress::progress(state, id, group, number).expect("read");
            let next = queue::queue(state, id, number).expect("read").next;
            shown.push(format!("{}/{}/{next} flying {}", at.progress, at.cursor, at.in_flight));
        }
        let retry = subscription::subscription(state, id, group).expect("read").unwrap_or_default();
        shown.push(format!("retry {} flying {}", retry.retry_waiting, retry.retry_in_flight));
        let left = lag(state, &topic, group).expect("read");
        shown.push(format!("lag {}+{}+{}", left.ready, left.retry_waiting, left.in_flight));
        shown.join(", ")
    }
}

/// Runs the lines and compares with what they say was answered; then replays the log.
fn check(script: &str) {
    let mut timeline = Timeline::new();
    let mut said = Vec::new();
    let mut shown = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (steps, expected) = line.split_once("=>").map_or((line, ""), |(steps, said)| (steps, said));
        let mut answer = String::new();
        for step in steps.split(';').map(str::trim).filter(|step| !step.is_empty()) {
            answer = timeline.run(step);
        }
        let wanted = if expected.is_empty() { "" } else { answer.as_str() };
        said.push(format!("{} => {}", steps.trim(), expected.trim()));
        shown.push(format!("{} => {}", steps.trim(), wanted));
    }
    pretty(&shown, &said);
    for chunk in [1, 3, 1_000] {
        timeline.harness.assert_replays(chunk);
    }
}

#[track_caller]
fn pretty(shown: &[String], said: &[String]) {
    assert!(shown == said, "answered:\n{}\n\nexpected:\n{}", shown.join("\n"), said.join("\n"));
}

#[test]
fn a_message_comes_back_when_its_lease_ends_and_not_before() {
    check(
        "topic t
         send t a b c            => 0@0+3
         receive c1 g t          => a:1 b:1 c:1
         ack g t b               => ok
         receive c2 g t          => nothing
         progress g t            => 0/3/3 flying 2, retry 0 flying 0, lag 0+0+2
         +29999ms; tick; receive c2 g t => nothing
         +1ms; tick; receive c2 g t => a:2 c:2
         progress g t            => 3/3/3 flying 0, retry 0 flying 2, lag 0+0+2
         ack g t a#1             => invalid_handle
         ack g t a c             => ok ok
         ack g t a c             => ok ok
         +1h; tick; receive c1 g t => nothing
         progress g t            => 3/3/3 flying 0, retry 0 flying 0, lag 0+0+0",
    );
}

#[test]
fn a_lease_ends_with_a_tick_only() {
    check(
        "topic t
         send t a; receive c1 g t => a:1
         +1h; receive c2 g t     => nothing
         ack g t a               => ok
         tick; receive c2 g t    => nothing",
    );
}

#[test]
fn an_acknowledged_message_is_finished_for_its_group_alone() {
    check(
        "topic t
         send t a b; receive c1 g t max=1 => a:1
         ack g t a               => ok
         receive c1 g t          => b:1
         receive c1 h t          => a:1 b:1
         ack g t a               => invalid_handle
         ack h t a               => ok
         ack g t b#1             => ok",
    );
}

#[test]
fn a_message_is_delivered_retry_max_plus_one_times_then_it_is_a_dead_letter() {
    check(
        "topic t
         group g retry=2
         send t a
         receive c g t           => a:1
         +30s; tick; receive c g t => a:2
         +30s; tick; receive c g t => a:3
         +30s; tick; receive c g t => nothing
         progress g t            => 1/1/1 flying 0, retry 0 flying 0, lag 0+0+0
         receive d h %DLQ%g      => a:1
         +30s; tick; receive d h %DLQ%g => a:2
         ack h %DLQ%g a          => ok
         send %DLQ%g b           => 0@1+1
         receive d h %DLQ%g      => b:1",
    );
}

#[test]
fn a_changed_invisible_duration_supersedes_the_handle() {
    check(
        "topic t
         send t a b; receive c g t => a:1 b:1
         hide g t a 60s          => ok
         ack g t a#1             => invalid_handle
         hide g t a#1 1s         => invalid_handle
         +30s; tick; receive c g t => b:2
         progress g t            => 0/2/2 flying 1, retry 0 flying 1, lag 0+0+2
         +30s; tick; receive c g t => a:2 b:3
         ack g t a#2             => invalid_handle
         ack g t a b             => ok ok
         hide g t a 1s           => invalid_handle
         +1h; tick; receive c g t => nothing",
    );
}

#[test]
fn a_message_made_visible_at_once() {
    check(
        "topic t
         send t a; receive c g t => a:1
         hide g t a 0s           => ok
         ack g t a               => invalid_handle
         receive c g t           => a:2
         hide g t a 0s suspend   => ok
         receive c g t           => a:2
         hide g t a 5s suspend   => ok
         +5s; tick; receive c g t => a:2
         hide g t a 5s suspend   => ok
         hide g t a 5s           => ok
         +5s; tick; receive c g t => a:3",
    );
}

#[test]
fn forged_and_foreign_handles_acknowledge_nothing() {
    check(
        "topic t
         topic u
         send t a; receive c g t => a:1
         receive c h t           => a:1
         ack g t a#1!            => invalid_handle
         ack g t a#2             => invalid_handle
         ack h t a#1             => invalid_handle
         ack g u a#1             => invalid_handle
         ack nobody t a#1        => invalid_handle
         ack g nothing a#1       => invalid_handle
         hide g t a#1! 0s        => invalid_handle
         progress g t            => 0/1/1 flying 1, retry 0 flying 0, lag 0+0+1
         ack g t a#1             => ok
         ack g t a#1!            => invalid_handle",
    );
}

#[test]
fn the_same_receive_asked_again_gets_the_same_lease() {
    check(
        "topic t
         send t a b c; receive c1 g t max=2 attempt=x => a:1 b:1
         receive c1 g t max=2 attempt=x => a:1 b:1
         receive c2 g t max=2 attempt=x => c:1
         ack g t a#1             => ok
         +20s; receive c1 g t max=2 attempt=x => b:1
         +20s; tick; receive c1 g t max=2 attempt=y => c:2
         +10s; tick; receive c1 g t max=2 attempt=x => b:2
         ack g t b; receive c1 g t attempt=x => nothing",
    );
}

#[test]
fn renewed_leases_live_as_long_as_the_session() {
    check(
        "topic t
         session c1 g t=*
         send t a b c; receive c1 g t max=2 renewed=3h => a:1 b:1
         receive c2 g t renewed=3h => c:1
         +1h; tick; receive c3 g t => nothing
         ack g t a               => ok
         end c1; receive c3 g t  => b:2
         ack g t b#1             => invalid_handle
         +2h; tick; receive c3 g t => b:3 c:2",
    );
}

#[test]
fn a_client_that_comes_back_keeps_its_new_leases() {
    check(
        "topic t
         send t a; receive c1 g t renewed=3h => a:1
         end c1; receive c1 g t renewed=3h => a:2
         tick; receive c2 g t    => nothing
         end c1; end c1; receive c2 g t => a:3",
    );
}

#[test]
fn tags_that_a_live_member_wants_wait_for_it() {
    check(
        "topic t
         session c1 g t=x
         session c2 g t=y
         send t a/x b/y c/z d e/x
         receive c1 g t tags=x   => a:1 e:1
         progress g t            => 0/5/5 flying 2, retry 1 flying 0, lag 0+1+2
         receive c1 g t tags=x   => nothing
         receive c2 g t tags=y   => b:1
         +30s; tick; receive c2 g t tags=y => b:2
         receive c1 g t tags=x   => a:2 e:2
         receive c3 h t          => a:1 b:1 c:1 d:1 e:1",
    );
}

#[test]
fn tags_that_nobody_wants_are_skipped() {
    check(
        "topic t
         session c1 g t=x
         session c2 g t=y
         end c2
         send t a/y b/x; receive c1 g t tags=x => b:1
         session c2 g t=y
         receive c2 g t tags=y   => nothing
         progress g t            => 1/2/2 flying 1, retry 0 flying 0, lag 0+0+1",
    );
}

#[test]
fn what_nobody_wants_any_more_leaves_the_retry_index() {
    check(
        "topic t
         session c1 g t=x
         session c2 g t=y
         send t a/y; receive c1 g t tags=x => nothing
         progress g t            => 1/1/1 flying 0, retry 1 flying 0, lag 0+1+0
         end c2
         session c2 g t=x
         receive c2 g t tags=x   => nothing
         send t b/x; receive c2 g t tags=x => b:1
         receive c1 g t tags=z   => nothing
         progress g t            => 1/2/2 flying 1, retry 0 flying 0, lag 0+0+1",
    );
}

#[test]
fn retries_and_fresh_messages_share_a_batch() {
    check(
        "topic t
         send t a b c d e f g h i j
         receive c g t           => a:1 b:1 c:1 d:1 e:1 f:1 g:1 h:1 i:1 j:1
         send t k l m n o p
         +30s; tick
         receive c g t max=5     => a:2 b:2 c:2 d:2 k:1
         receive c g t max=5     => e:2 f:2 g:2 h:2 l:1
         receive c g t max=10    => i:2 j:2 m:1 n:1 o:1 p:1",
    );
}

#[test]
fn topics_and_groups_created_again_inherit_nothing() {
    check(
        "topic t
         topic t                 => version 2
         topic t create-only     => version 2
         send t a b; receive c g t max=1 => a:1
         drop-topic t            => ok
         drop-topic t            => topic_not_found
         send t c                => topic_not_found
         receive c g t           => topic_not_found
         topic t                 => version 1
         ack g t a               => invalid_handle
         receive c g t           => nothing
         send t d                => 0@0+1
         receive c g t           => d:1
         drop-group g            => ok
         receive c g t no-create => consumer_group_not_found
         receive c g t           => d:1
         ack g t d#1             => invalid_handle
         +1h; tick; receive c g t => d:2",
    );
}

#[test]
fn types_and_permissions() {
    check(
        "topic t types=1
         send t a type=2         => message_type_mismatch
         topic m types=1,2,3,4
         send m a type=2         => not_supported
         send m a type=3         => not_supported
         send m a                => 0@0+1
         topic f types=2
         send f a                => message_type_mismatch
         topic w perm=2
         topic r perm=4
         send r a                => not_writable
         receive c g w           => not_readable
         send w a                => 0@0+1
         topic none queues=0     => invalid_argument
         topic many queues=65536 => invalid_argument
         topic odd perm=9        => invalid_argument
         group off disabled
         receive c off t         => consumer_group_disabled
         receive c g t max=0     => invalid_argument
         receive c g t for=0s    => invalid_argument
         send %DLQ%x a           => topic_not_found",
    );
}

#[test]
fn queues_take_turns() {
    check(
        "topic t queues=3
         send t a => 0@0+1
         send t b => 1@0+1
         send t c => 2@0+1
         send t d => 0@1+1
         topic t queues=2
         send t e => 0@2+1
         send t f => 1@1+1",
    );
}
