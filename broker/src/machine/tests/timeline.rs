//! Timelines as text: commands, and what was answered behind `=>`.
//!
//! Messages have names; `a/x` is message `a` with tag `x`, and `k.a` one of message group `k`. A receive shows each
//! message with its attempt, as in `a:2`. `a/x?5` has a property `n` of 5 beside its tag, for receives with
//! `sql=n>3~AND~n<9`, which ask again as long as they are told to; without anything to judge, they would wait. Handles go by the message's name: the newest, or `a#1`, the first one ever
//! issued. `delay t 10s a` sends `a` to be delivered 10 s from now, `half t a` sends it to be committed. `id=x` gives a
//! send its message id, `content=2` other content than the first; `lite=x` sends to the lite topic `x`, and
//! `lite c g t +x -y` says that client `c` receives `x` from now on, and `y` no longer.

use super::explain::{fate, timers, waits};
use super::lite::{lite_left, lite_shares, lite_topics, subscription_of, told};
use super::retention::assert_kept;
use super::trace::{history, traces};
use super::{Effect, Harness, Rules, START_MS, judged};
use crate::deliver::handle::message_id_hash;
use crate::filter::tag::{TagFilter, tag_hash};
use crate::store::half::{self, HalfState};
use crate::store::message::{Place, offset_at};
use crate::store::timer::{self, InLog};
use crate::store::{
    ConsumerGroupId, TopicId, consumer_group, fifo, lag, lite, progress, queue, retention, subscription, topic,
};
use raftmq_proto::command::{
    Ack, Activate, Append, AppendMessage, ChangeInvisible, Checked, CheckedMessage, Checks, ConfirmLeases,
    ConsumerGroup, DeadLetter, DeleteConsumerGroup, DeleteTopic, DropShare, EndSession, EndTransaction, Expire,
    Expired, Filter, Handle, Judgement, Lease, LeaseName, Property, PutConsumerGroup, PutOffset, PutSession,
    PutSetting, PutTopic, QueueOffset, Reappend, Reappended, Recall, Refusal, Reply, Reset, StoredMessage,
    Subscription, Tick, Topic, Trim, Trimmed, WaitingMessage, Waits, command, reply,
};
use std::collections::BTreeMap;

struct Timeline {
    harness: Harness,
    /// By log index and slot.
    names: BTreeMap<(u64, u32), String>,
    /// What SQL filters see, by log index and slot.
    stored: BTreeMap<(u64, u32), StoredMessage>,
    handles: BTreeMap<String, Vec<Handle>>,
    /// Messages that were sent to wait, with their delivery times.
    waiting: BTreeMap<String, (WaitingMessage, u64)>,
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
    if let Some(expression) = expression.strip_prefix("sql:") {
        return Some(Filter { tags: Vec::new(), sql: expression.replace('~', " ") });
    }
    Some(TagFilter::parse(&expression.replace('|', "||")).expect("good expression").to_command())
}

pub(super) fn option<'w>(words: &[&'w str], name: &str) -> Option<&'w str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// 0 for a send that is not remembered.
fn content_hash(words: &[&str]) -> u64 {
    let content = || option(words, "content").map_or(1, |value| value.parse().expect("a number"));
    option(words, "id").map_or(0, |_| content())
}

fn show(refusal: i32) -> String {
    match Refusal::try_from(refusal).expect("known refusal") {
        Refusal::Unspecified => "ok".to_owned(),
        other => other.as_str_name().to_lowercase(),
    }
}

impl Timeline {
    fn new(harness: Harness) -> Timeline {
        Timeline {
            harness,
            names: BTreeMap::new(),
            stored: BTreeMap::new(),
            handles: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
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
                    attributes: [
                        ("reserve", retention::RESERVE_TIME),
                        ("lite-expiration", lite::EXPIRATION),
                        ("lite-quota", lite::TOPIC_QUOTA),
                    ]
                    .into_iter()
                    .filter_map(|(word, key)| Some((key.to_owned(), option(&words, word)?.to_owned())))
                    .collect(),
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
                    attributes: [
                        ("from", consumer_group::START),
                        ("order", fifo::ORDER),
                        ("factor", consumer_group::PRIORITY_FACTOR),
                        ("bind", lite::BIND),
                        ("model", lite::MODEL),
                        ("lite-quota", lite::CLIENT_QUOTA),
                    ]
                    .into_iter()
                    .filter_map(|(word, key)| Some((key.to_owned(), option(&words, word)?.to_owned())))
                    .collect(),
                    ..ConsumerGroup::default()
                });
                self.simple(command::Kind::PutConsumerGroup(PutConsumerGroup { consumer_group, create_only: false }))
            }
            "drop-group" => {
                self.simple(command::Kind::DeleteConsumerGroup(DeleteConsumerGroup { name: words[1].into() }))
            }
            "lite" => self.simple(command::Kind::PutLiteSubscription(subscription_of(&words))),
            "fate" => fate(&self.harness.state, self.harness.now_ms, &words),
            "history" => history(&self.harness.state, &words),
            "traces" => traces(&self.harness.state).len().to_string(),
            "waits" => waits(&self.harness.state, self.harness.now_ms, &words),
            "timers" => timers(&self.harness.state, self.harness.now_ms, &words),
            "drop-share" => self.simple(command::Kind::DropShare(DropShare {
                consumer_group: words[1].into(),
                topic: words[2].into(),
            })),
            "told" => told(&self.harness.effects),
            "lite-topics" => {
                let state = &self.harness.state;
                let id = topic::topic(state, words[1]).expect("read").map_or(0, |topic| topic.id);
                lite::topics(state, TopicId(id)).expect("read").to_string()
            }
            "send" => self.send(&words),
            "delay" | "half" => self.send_to_wait(&words),
            "recall" => {
                let (message, delivery_ms) = self.waiting[words[1]].clone();
                self.simple(command::Kind::Recall(Recall { message: Some(message), delivery_ms }))
            }
            "commit" | "rollback" => {
                let message = Some(self.waiting[words[1]].0.clone());
                let end = EndTransaction { message, commit: words[0] == "commit" };
                self.simple(command::Kind::EndTransaction(end))
            }
            "set" => self.simple(command::Kind::PutSetting(PutSetting {
                key: words[1].into(),
                value: words[2].to_owned().into_bytes().into(),
            })),
            "again" => {
                let (mut repeats, mut others) = (0, 0);
                for effect in &self.harness.effects {
                    if let Effect::SentAgain { repeated, reused, .. } = effect {
                        repeats += repeated;
                        others += reused;
                    }
                }
                format!("{repeats} {others}")
            }
            "activate" => {
                let version = words[1].parse().expect("a version");
                self.simple(command::Kind::Activate(Activate { version }))
            }
            "restart" => {
                self.harness.rules = Rules::default();
                "ok".into()
            }
            "wanted" => {
                let wanted = half::wanted(&self.harness.state, 100).expect("read");
                let name = |(_, place): &(TopicId, InLog)| self.names[&(place.log_index, place.slot)].clone();
                let names: Vec<_> = wanted.iter().map(name).collect();
                if names.is_empty() { "none".into() } else { names.join(" ") }
            }
            "checked" => {
                let told = |name: &&&str| {
                    let message = Some(self.waiting[**name].0.clone());
                    CheckedMessage { message, sent: !has("unsent") }
                };
                let messages = words[1..].iter().filter(|word| **word != "unsent").collect::<Vec<_>>();
                let messages = messages.iter().map(told).collect();
                self.simple(command::Kind::Checked(Checked { messages }))
            }
            "waiting" => {
                let state = &self.harness.state;
                let id = TopicId(topic::topic(state, words[1]).expect("read").expect("exists").id);
                let timers = timer::waiting(state, id).expect("read");
                let open = half::open(state, id, InLog { log_index: 0, slot: 0 }, 100, 100, false).expect("read").rows;
                assert_eq!(open.len() as u64, half::waiting(state, id).expect("read"));
                let parked = open.iter().filter(|(_, half)| half.state == HalfState::Parked).count();
                format!("{timers} timers, {} halves, {parked} parked", open.len())
            }
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
            "confirm" => {
                let name = |name: &&str| {
                    let Handle { consumer_group_id, lease_id, .. } = self.handle(name);
                    LeaseName { consumer_group_id, lease_id }
                };
                let leases = words[1..].iter().map(name).collect();
                self.simple(command::Kind::ConfirmLeases(ConfirmLeases { leases, renew_max_ms: ms("3h") }))
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
            "end" => self.simple(command::Kind::EndSession(EndSession {
                client_id: words[1].into(),
                term: number("term", 0).into(),
            })),
            "tick" => loop {
                let reply = self.harness.run(command::Kind::Tick(Tick {}));
                if !matches!(&reply.kind, Some(reply::Kind::Ticked(ticked)) if ticked.more) {
                    break show(reply.refusal);
                }
            },
            "progress" => self.progress(words[1], words[2]),
            "lite-shares" => lite_shares(&self.harness.state, &words),
            "lite-left" => lite_left(&self.harness.state, self.harness.now_ms, &words),
            "reset" => {
                let queues = words[3..].iter().map(|word| {
                    let (queue, offset) = word.split_once('=').expect("queue=offset");
                    QueueOffset { queue: queue.parse().expect("a queue"), offset: offset.parse().expect("an offset") }
                });
                let reset = Reset { consumer_group: words[1].into(), topic: words[2].into(), queues: queues.collect() };
                let reply = self.harness.run(command::Kind::Reset(reset));
                let Some(reply::Kind::ResetDone(done)) = reply.kind else { return show(reply.refusal) };
                let queues: Vec<_> = done.queues.iter().map(|at| format!("{}={}", at.queue, at.offset)).collect();
                queues.join(" ")
            }
            "dead" => {
                let (consumer_group, topic) = (words[1].into(), words[2].into());
                let handle = Some(self.handle(words[3]));
                self.simple(command::Kind::DeadLetter(DeadLetter { consumer_group, topic, handle }))
            }
            "store" => self.simple(command::Kind::PutOffset(PutOffset {
                consumer_group: words[1].into(),
                topic: words[2].into(),
                queue: words[3].parse().expect("a queue"),
                offset: words[4].parse().expect("an offset"),
                create_consumer_group: has("create"),
            })),
            "stored" => {
                let state = &self.harness.state;
                let group = consumer_group::consumer_group(state, words[1]).expect("read").expect("exists");
                let topic = topic::topic(state, words[2]).expect("read").expect("exists");
                let number = words[3].parse().expect("a queue");
                let at = progress::stored_offset(state, TopicId(topic.id), ConsumerGroupId(group.id), number);
                at.expect("read").map_or("none".to_owned(), |at| at.to_string())
            }
            "at" => {
                let state = &self.harness.state;
                let id = TopicId(topic::topic(state, words[1]).expect("read").expect("exists").id);
                let time_ms = START_MS + ms(words[2]);
                let queue = queue::queue(state, id, 0).expect("read");
                offset_at(state, id, 0, &queue, time_ms).expect("read").to_string()
            }
            "trim" => self.trim(words[1], has("settle")),
            "move" => self.move_bodies(),
            "expire" => {
                let mut from_queue = 0;
                loop {
                    let expire = Expire { topic: words[1].into(), from_queue };
                    match self.harness.run(command::Kind::Expire(expire)).kind {
                        Some(reply::Kind::Expired(Expired { more: true, from_queue: next })) => from_queue = next,
                        Some(reply::Kind::Expired(_)) => break "ok".into(),
                        other => panic!("expire is answered with {other:?}"),
                    }
                }
            }
            "min" => {
                let state = &self.harness.state;
                let id = TopicId(topic::topic(state, words[1]).expect("read").expect("exists").id);
                queue::queue(state, id, 0).expect("read").min.to_string()
            }
            "expired" => {
                let state = &self.harness.state;
                let group = consumer_group::consumer_group(state, words[1]).expect("read").expect("exists");
                let topic = topic::topic(state, words[2]).expect("read").expect("exists");
                lag(state, &topic, ConsumerGroupId(group.id)).expect("read").expired.to_string()
            }
            wait if wait.starts_with('+') => {
                self.harness.now_ms += ms(&wait[1..]);
                String::new()
            }
            other => panic!("unknown word {other}"),
        }
    }

    /// Trims up to the entry of a message. Says where it ended.
    fn trim(&mut self, first_kept: &str, settle: bool) -> String {
        let (upto, _) = *self.names.iter().find(|(_, name)| *name == first_kept).expect("a message was sent").0;
        let trimmed = loop {
            match self.harness.run(command::Kind::Trim(Trim { upto, settle })).kind {
                Some(reply::Kind::Trimmed(Trimmed { held: true, .. })) if !settle => return "held".into(),
                Some(reply::Kind::Trimmed(Trimmed { more: true, .. })) => {}
                Some(reply::Kind::Trimmed(Trimmed { trimmed, .. })) => break trimmed,
                other => panic!("trim is answered with {other:?}"),
            }
        };
        assert_kept(&self.harness.state);
        if trimmed == upto {
            return "ok".into();
        }
        let held_by = self.names.range((trimmed, 0)..).next().map_or("nothing", |(_, name)| name);
        format!("up to {held_by}")
    }

    /// Appends everything again that holds up the trim.
    fn move_bodies(&mut self) -> String {
        let state = &self.harness.state;
        let trim = retention::trim(state).expect("read").expect("a trim is under way");
        let held = retention::held(state, &trim, 1_000).expect("read");
        let moved = held.iter().map(|held| Reappended {
            log_index: held.pin.log_index,
            slot: held.pin.slot,
            count: held.slots.len() as u32,
            keeper: held.pin.keeper.encode().into(),
        });
        let again = Reappend { moved: moved.collect() };
        assert_eq!(show(self.harness.run(command::Kind::Reappend(again)).refusal), "ok");
        let index = self.harness.log.len() as u64;
        let mut names = Vec::new();
        let slots = held.iter().flat_map(|held| held.slots.iter().map(|slot| (held.pin.log_index, *slot)));
        for (from, slot) in slots.zip(0..) {
            let name = self.names[&from].clone();
            self.names.insert((index, slot), name.clone());
            names.push(name);
        }
        names.join(" ")
    }

    fn simple(&mut self, kind: command::Kind) -> String {
        show(self.harness.run(kind).refusal)
    }

    fn send(&mut self, words: &[&str]) -> String {
        let lite_topic = option(words, "lite").unwrap_or_default();
        let message_type = match lite_topic {
            "" => option(words, "type").map_or(1, |value| value.parse().expect("a number")),
            _ => lite::LITE,
        };
        let lite_hash = if lite_topic.is_empty() { 0 } else { u64::from(tag_hash(lite_topic)) };
        let messages: Vec<_> = words[2..].iter().filter(|word| !word.contains('=')).collect();
        let number = |message: &str| message.split_once('?').map(|(_, number)| number.to_owned());
        let tag = |message: &str| {
            let (_, tag) = message.split_once('/')?;
            Some(tag.split('?').next().unwrap_or_default().to_owned())
        };
        let append = Append {
            topic: words[1].into(),
            messages: messages
                .iter()
                .map(|message| AppendMessage {
                    tag_hash: tag(message).map_or(0, |tag| tag_hash(&tag)),
                    message_type: if message.contains('.') { 2 } else { message_type },
                    body_bytes: 1,
                    message_group_hash: message
                        .split_once('.')
                        .map_or(lite_hash, |(group, _)| u64::from(tag_hash(group))),
                    lite_topic: lite_topic.to_owned(),
                    priority: option(words, "priority").map_or(0, |value| value.parse().expect("a number")),
                    message_id_hash: option(words, "id").map_or(0, message_id_hash),
                    content_hash: content_hash(words),
                    ..AppendMessage::default()
                })
                .collect(),
            checks: None,
            ..Append::default()
        };
        let reply = self.harness.run(command::Kind::Append(append));
        let index = self.harness.log.len() as u64;
        for (message, slot) in messages.iter().zip(0..) {
            let name = message.split(['/', '?']).next().expect("a name");
            let property = number(message).map(|value| Property { key: "n".into(), value });
            let properties = property.into_iter().collect();
            let stored = StoredMessage { tag: tag(message), properties, ..StoredMessage::default() };
            self.stored.insert((index, slot), stored);
            let name = name.split_once('.').map_or(name, |(_, name)| name);
            self.names.insert((index, slot), name.to_owned());
        }
        match reply.kind {
            Some(reply::Kind::Appended(at)) => format!("{}@{}+{}", at.queue, at.first_offset, at.count),
            Some(reply::Kind::AppendedApart(at)) => {
                let parts = at.parts.iter().map(|at| format!("{}@{}+{}", at.queue, at.first_offset, at.count));
                parts.collect::<Vec<_>>().join(" ")
            }
            _ => show(reply.refusal),
        }
    }

    fn send_to_wait(&mut self, words: &[&str]) -> String {
        let delay = words[0] == "delay";
        let names: Vec<&str> =
            words[2 + usize::from(delay)..].iter().filter(|word| !word.contains('=')).copied().collect();
        let delivery_ms = if delay { self.harness.now_ms + ms(words[2]) } else { 0 };
        let after_ms = option(words, "after").map_or(6_000, ms);
        let message = |name: &&str| AppendMessage {
            message_type: if delay { 3 } else { 4 },
            body_bytes: 1,
            message_id_hash: message_id_hash(option(words, "id").unwrap_or(name)),
            content_hash: content_hash(words),
            delivery_ms,
            check_after_ms: if delay { 0 } else { after_ms },
            ..AppendMessage::default()
        };
        let checks = Checks {
            producer: "p".into(),
            interval_ms: option(words, "every").map_or(30_000, ms),
            checks_max: option(words, "checks").map_or(15, |checks| checks.parse().expect("a number")),
            age_max_ms: option(words, "age").map_or(3_600_000, ms),
        };
        let topic: String = words[1].into();
        let append = Append {
            topic: topic.clone(),
            messages: names.iter().map(message).collect(),
            checks: (!delay).then_some(checks),
            ..Append::default()
        };
        let reply = self.harness.run(command::Kind::Append(append));
        let mut log_index = self.harness.log.len() as u64;
        for (name, slot) in names.iter().zip(0..) {
            let mut slot = slot;
            if let Some(reply::Kind::Appended(at)) = &reply.kind
                && at.waits() != Waits::Nothing
            {
                // One that is sent again is where it was.
                (log_index, slot) = (at.log_index, at.first_slot + slot);
            }
            self.names.entry((log_index, slot)).or_insert_with(|| (*name).to_owned());
            // The handle names the time at which the first one is due.
            let first = timer::due_ms(&self.harness.state, InLog { log_index, slot }).expect("read");
            let delivery_ms = first.unwrap_or(delivery_ms);
            let message_id_hash = message_id_hash(option(words, "id").unwrap_or(name));
            let message = WaitingMessage { topic: topic.clone(), log_index, slot, message_id_hash };
            self.waiting.insert((*name).to_owned(), (message, delivery_ms));
        }
        match reply.kind {
            Some(reply::Kind::Appended(at)) if at.waits() != Waits::Nothing => format!("waits {}", at.count),
            Some(reply::Kind::Appended(at)) => format!("{}@{}+{}", at.queue, at.first_offset, at.count),
            _ => show(reply.refusal),
        }
    }

    fn receive(&mut self, words: &[&str]) -> String {
        let Some(expression) = option(words, "sql") else { return self.receive_once(words, None) };
        for _ in 0..1_000 {
            let state = &self.harness.state;
            let stored = |place: &Place| self.stored.get(&(place.log_index, place.slot)).cloned().unwrap_or_default();
            let max = option(words, "max").map_or(32, |value| value.parse().expect("a number"));
            let of = (words[2], words[3]);
            let Some(judgement) = judged(state, of, &expression.replace('~', " "), max, stored) else {
                return "waits".to_owned();
            };
            let shown = self.receive_once(words, Some(judgement));
            if shown != "nothing more" {
                return shown;
            }
        }
        panic!("a look gets nowhere");
    }

    fn receive_once(&mut self, words: &[&str], judgement: Option<Judgement>) -> String {
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
            confirm_ms: option(words, "unless-confirmed").map_or(0, ms),
            judgement,
            lite_topics: lite_topics(&self.harness.state, words),
        };
        let reply: Reply = self.harness.run(command::Kind::Lease(lease));
        let (leases, more) = match reply.kind {
            Some(reply::Kind::Leased(leased)) => (vec![leased.clone()], leased.more),
            Some(reply::Kind::LeasedApart(leased)) => (leased.leases, leased.more),
            _ => return show(reply.refusal),
        };
        let mut shown = Vec::new();
        for (leased, message) in leases.iter().flat_map(|leased| leased.messages.iter().map(move |it| (leased, it))) {
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
        if more {
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
        if left.put_aside > 0 {
            shown.push(format!("aside {}", left.put_aside));
        }
        shown.join(", ")
    }
}

/// Runs the lines and compares with what they say was answered; then replays the log.
pub(super) fn check(script: &str) {
    // No version takes back what earlier ones say.
    check_with(Harness::new(), script);
    check_activated(script);
}

/// The same for what there is in the newest version only.
#[track_caller]
pub(super) fn check_activated(script: &str) {
    check_with(Harness::activated(), script);
}

/// The same, and what it led to.
#[track_caller]
pub(super) fn check_with(harness: Harness, script: &str) -> Harness {
    let mut timeline = Timeline::new(harness);
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
    timeline.harness
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
fn a_leader_of_another_term_ends_no_session() {
    check(
        "topic t
         send t a; receive c1 g t renewed=3h => a:1
         end c1 term=2           => deadline_passed
         receive c2 g t          => nothing
         end c1 term=3           => ok
         receive c2 g t          => a:2",
    );
}

#[test]
fn what_may_not_have_reached_its_client_comes_back_soon_and_does_not_count() {
    check(
        "topic t
         send t a b c; receive c1 g t max=1 renewed=3h unless-confirmed=20s => a:1
         receive c1 g t max=1 renewed=3h unless-confirmed=20s => b:1
         receive c1 g t max=1 renewed=3h unless-confirmed=20s => c:1
         +10s; confirm b; ack g t c => ok
         +9s; tick; receive c2 g t => nothing
         +1s; tick; receive c2 g t for=1s => a:1
         ack g t a#1             => invalid_handle
         +1s; tick; receive c2 g t => a:2
         +2h; tick; receive c3 g t => a:3
         ack g t b               => ok",
    );
}

#[test]
fn a_receive_asked_again_is_waited_for_again() {
    check(
        "topic t
         send t a; receive c1 g t renewed=3h unless-confirmed=20s attempt=x => a:1
         confirm a; +15s; receive c1 g t renewed=3h unless-confirmed=20s attempt=x => a:1
         +19s; tick; receive c2 g t => nothing
         +1s; tick; receive c2 g t => a:1
         ack g t a; send t b; receive c1 g t renewed=3h unless-confirmed=20s attempt=y => b:1
         receive c1 g t renewed=3h attempt=y => b:1
         +2h; tick; receive c2 g t => nothing
         +1h; tick; receive c2 g t => b:2",
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
         send m a type=2         => invalid_argument
         send m a type=5         => message_type_mismatch
         topic l types=1,5       => invalid_argument
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

#[test]
fn a_reset_makes_leases_and_retries_void() {
    check(
        "topic t
         send t a b c d e
         receive c g t max=3     => a:1 b:1 c:1
         hide g t c 0s           => ok
         receive c g t max=1 attempt=x => c:2
         hide g t c 0s           => ok
         reset g t 0=1           => 0=1
         progress g t            => 1/1/5 flying 2, retry 0 flying 0, lag 4+0+2
         hide g t b 60s          => invalid_handle
         ack g t b               => ok
         receive c g t           => b:1 c:1 d:1 e:1
         +30s; tick
         receive c g t           => b:2 c:2 d:2 e:2
         ack g t b c d e         => ok ok ok ok
         +1h; tick; receive c g t => nothing
         progress g t            => 5/5/5 flying 0, retry 0 flying 0, lag 0+0+0
         reset g t 0=99          => 0=5
         reset g t 1=0           => invalid_argument
         reset nobody t 0=0      => consumer_group_not_found
         reset g u 0=0           => topic_not_found",
    );
}

#[test]
fn a_reset_forward_finishes_what_was_passed() {
    check(
        "topic t queues=2
         send t a; send t b; send t c; send t d
         receive c g t           => a:1 c:1 b:1 d:1
         hide g t a 0s; hide g t b 0s => ok
         reset g t 0=2           => 0=2
         progress g t            => 2/2/2 flying 1, 1/2/2 flying 1, retry 1 flying 0, lag 0+1+2
         +30s; tick; receive c g t => b:2 d:2
         ack g t b d             => ok ok
         send t e; receive c g t => e:1
         ack g t e               => ok
         progress g t            => 3/3/3 flying 0, 2/2/2 flying 0, retry 0 flying 0, lag 0+0+0",
    );
}

#[test]
fn a_repeat_after_a_reset_is_a_new_receive() {
    check(
        "topic t
         send t a; receive c g t attempt=x => a:1
         receive c g t attempt=x => a:1
         reset g t 0=0           => 0=0
         receive c g t attempt=x => a:1
         ack g t a#3             => ok
         +1h; tick; receive c g t => nothing",
    );
}

#[test]
fn new_groups_start_where_their_attribute_says() {
    check(
        "topic t
         group first from=first
         group last from=last
         group later from=1700000010000
         send t a; send t b
         +10s; send t c; send t d
         +10s; receive x last t  => nothing
         progress last t         => 4/4/4 flying 0, retry 0 flying 0, lag 0+0+0
         send t e; receive x last t => e:1
         receive x later t       => c:1 d:1 e:1
         receive x first t max=2 => a:1 b:1
         at t 0s                 => 0
         at t 1s                 => 2
         at t 10s                => 2
         at t 11s                => 4
         at t 1h                 => 5",
    );
}

#[test]
fn stored_offsets_and_leases_do_not_know_each_other() {
    check(
        "topic t
         send t a b c
         store g t 0 2           => consumer_group_not_found
         store g t 0 2 create    => ok
         stored g t 0            => 2
         receive c g t max=1     => a:1
         store g t 0 1           => ok
         stored g t 0            => 1
         progress g t            => 0/1/3 flying 1, retry 0 flying 0, lag 2+0+1
         store g t 0 4           => offset_out_of_range
         store g t 1 0           => invalid_argument
         store g u 0 0           => topic_not_found
         store h t 0 3 create; drop-group h; tick; store h t 0 0 create; stored h t 0 => 0
         drop-topic t; tick; topic t; stored g t 0 => none",
    );
}

#[test]
fn a_message_given_up_is_a_dead_letter_at_once() {
    check(
        "topic t
         send t a b; receive c g t => a:1 b:1
         dead g t a#1!           => invalid_handle
         dead h t a              => invalid_handle
         dead g t a              => ok
         dead g t a              => ok
         ack g t a               => ok
         hide g t b 0s           => ok
         dead g t b              => invalid_handle
         receive c g t           => b:2
         receive d h %DLQ%g      => a:1
         ack h %DLQ%g a          => ok
         +1h; tick; receive c g t => b:3
         receive d h %DLQ%g      => nothing
         reset g t 0=0           => 0=0
         dead g t b              => ok
         receive d h %DLQ%g      => nothing",
    );
}

#[test]
fn a_message_comes_when_its_time_has_come_and_not_before() {
    check(
        "topic t types=1,3
         delay t 10s a b         => waits 2
         delay t 5s c            => waits 1
         send t d                => 0@0+1
         waiting t               => 3 timers, 0 halves, 0 parked
         receive c g t           => d:1
         +4999ms; tick; receive c g t => nothing
         +1ms; tick; receive c g t => c:1
         +4999ms; tick; receive c g t => nothing
         +1ms; tick; receive c g t => a:1 b:1
         waiting t               => 0 timers, 0 halves, 0 parked
         +1h; tick; receive c g t max=1 => d:2
         delay t 0s e            => 0@4+1",
    );
}

#[test]
fn a_recall_wins_or_loses() {
    check(
        "topic t types=3
         delay t 10s a b c       => waits 3
         recall b                => ok
         recall b                => ok
         waiting t               => 2 timers, 0 halves, 0 parked
         +10s; recall a          => ok
         tick; receive c g t     => c:1
         recall c                => timer_not_found
         recall b                => timer_not_found
         waiting t               => 0 timers, 0 halves, 0 parked
         drop-topic t; recall c  => topic_not_found",
    );
}

#[test]
fn what_waits_goes_with_its_topic() {
    check(
        "topic t types=3,4; topic u types=3
         delay t 10s a b; delay u 10s c; half t d => waits 1
         drop-topic t; topic t types=3,4; tick; tick
         waiting t               => 0 timers, 0 halves, 0 parked
         waiting u               => 1 timers, 0 halves, 0 parked
         commit d                => half_message_not_found
         recall a                => timer_not_found
         +10s; tick; receive c g t => nothing
         receive c g u           => c:1
         +1h; tick; wanted       => none",
    );
}

#[test]
fn a_half_message_comes_once_it_is_committed() {
    check(
        "topic t types=1,4
         half t a b c            => waits 3
         receive c1 g t          => nothing
         waiting t               => 0 timers, 3 halves, 0 parked
         commit b                => ok
         receive c1 g t          => b:1
         rollback a              => ok
         commit a                => already_rolled_back
         rollback a              => ok
         rollback b              => already_committed
         commit b                => ok
         receive c2 g t          => nothing
         waiting t               => 0 timers, 1 halves, 0 parked
         +9m; tick; commit b     => ok
         +1m; tick; commit b     => half_message_not_found
         commit a                => half_message_not_found",
    );
}

#[test]
fn who_says_nothing_is_asked_until_nobody_is_asked_any_more() {
    check(
        "topic t types=4
         half t a after=6s every=30s checks=2
         half t b after=1m every=30s checks=2 age=2m
         +5s; tick; wanted       => none
         +1s; tick; wanted       => a
         tick; wanted            => a
         checked a               => ok
         wanted                  => none
         +30s; tick; wanted      => a
         checked a unsent        => ok
         +30s; tick; wanted      => a b
         checked a; checked b unsent; wanted => none
         +30s; tick; wanted      => b
         waiting t               => 0 timers, 2 halves, 1 parked
         checked b unsent; +30s; tick; wanted => none
         waiting t               => 0 timers, 2 halves, 2 parked
         +24h; tick; commit a    => ok
         rollback b              => ok
         receive c g t           => a:1
         waiting t               => 0 timers, 0 halves, 0 parked",
    );
}

#[test]
fn who_cannot_be_asked_is_parked_at_its_age_and_not_an_interval_later() {
    check(
        "topic t types=4
         half t a after=6s every=30s checks=9 age=40s
         +6s; tick; wanted       => a
         checked a unsent        => ok
         +30s; tick; wanted      => a
         checked a unsent; wanted => none
         +3s; tick; wanted       => none
         waiting t               => 0 timers, 1 halves, 0 parked
         +1s; tick; wanted       => none
         waiting t               => 0 timers, 1 halves, 1 parked
         rollback a              => ok
         commit a                => already_rolled_back
         half t b after=6s every=30s checks=9 age=40s
         +6s; tick; +1m; checked b unsent; tick; wanted => none
         +1s; tick; waiting t    => 0 timers, 1 halves, 1 parked",
    );
}

#[test]
fn a_deleted_topic_leaves_nothing_to_check() {
    check(
        "topic t types=4; half t a b after=6s; +6s; tick; wanted => a b
         drop-topic t; tick; tick; wanted => none
         topic t types=4; half t c after=6s; +6s; tick; wanted => c
         checked a; wanted       => c",
    );
}

#[test]
fn a_message_that_was_ended_is_not_asked_about() {
    check(
        "topic t types=4
         half t a b after=6s
         commit a; +6s; tick; wanted => b
         rollback b; checked b; wanted => none
         +10m; tick; wanted      => none",
    );
}

#[test]
fn the_highest_priority_comes_first() {
    check(
        "topic t types=6 queues=4
         group g; group h factor=0
         send t type=6 priority=0 a b => 0@0+2
         send t type=6 priority=2 c => 2@0+1
         send t type=6 priority=9 d => 3@0+1
         send t type=6 priority=1 e => 1@0+1
         receive c1 g t max=2    => d:1 c:1
         send t type=6 priority=3 f
         receive c1 g t          => f:1 e:1 a:1 b:1",
    );
}

#[test]
fn what_is_sent_again_is_stored_once() {
    check(
        "topic t queues=2; topic u
         send t id=a a        => 0@0+1
         again                => 0 0
         send t id=a a        => 0@0+1
         again                => 1 0
         send t id=b b        => 1@0+1
         send t id=a a2       => 0@0+1
         send u id=a c        => 0@0+1
         send t id=a content=2 d => 0@1+1
         again                => 0 1
         send t id=a content=2 d => 0@1+1
         send t id=e e e      => 1@1+1 1@1+1
         send t f             => 0@2+1
         send t f             => 1@2+1",
    );
}

#[test]
fn the_window_ends_by_time_and_by_count() {
    check(
        "topic t
         send t id=a a            => 0@0+1
         +599999ms; send t id=a a => 0@0+1
         +1ms; send t id=a a      => 0@1+1
         send t id=a a            => 0@1+1
         set idempotence.window.ms 1000
         +1s; send t id=a a       => 0@2+1
         set idempotence.messages.max 2
         send t id=b b            => 0@3+1
         send t id=c c            => 0@4+1
         restart
         send t id=a a            => 0@5+1
         send t id=c c            => 0@4+1
         drop-topic t; topic t
         send t id=c c            => 0@0+1
         set idempotence.window.ms 0
         send t id=c c            => 0@1+1",
    );
}

#[test]
fn a_message_that_waits_is_sent_again() {
    check(
        "topic t types=1,3,4; group g
         delay t 10s id=a a      => waits 1
         half t id=b b           => waits 1
         +5s; delay t 5s id=a x  => waits 1
         half t id=b y           => waits 1
         receive c1 g t          =>
         restart
         commit y                => ok
         half t id=b z           => waits 1
         commit z                => ok
         receive c1 g t          => b:1
         +5s; tick; receive c1 g t => a:1
         +1h; tick; wanted       => none",
    );
}

/// A level is another time each time that the message is sent.
#[test]
fn a_message_that_waits_for_as_long_as_a_level_says_is_stored_once() {
    check(
        "topic t types=1,3
         delay t 10s id=a a      => waits 1
         +4s; delay t 10s id=a x => waits 1
         again                   => 1 0
         waiting t               => 1 timers, 0 halves, 0 parked
         +6s; tick; receive c g t => a:1
         ack g t a
         +4s; tick; receive c g t => nothing
         delay t 10s id=b b      => waits 1
         +4s; delay t 10s id=b y => waits 1
         recall y                => ok
         recall b                => ok
         waiting t               => 0 timers, 0 halves, 0 parked
         +10s; tick; receive c g t => nothing
         delay t 10s id=b z      => waits 1
         waiting t               => 0 timers, 0 halves, 0 parked",
    );
}

#[test]
fn a_share_that_is_dropped_leaves_nothing_and_begins_anew() {
    check(
        "topic t types=1,2; session c g t=x
         send t k.a/x k.b/x y/z
         drop-share g t           => still_subscribed
         receive c g t tags=x     => a:1
         end c
         drop-share g gone        => topic_not_found
         drop-share gone t        => consumer_group_not_found
         drop-share g t           => still_subscribed
         ack g t a                => ok
         receive d g t            => b:1
         hide g t b 0s
         drop-share g t           => ok
         drop-share g t           => ok
         receive c g t            => a:1 y:1
         ack g t a y              => ok ok
         receive c g t            => b:1
         ack g t b
         progress g t             => 3/3/3 flying 0, retry 0 flying 0, lag 0+0+0",
    );
}
