//! How fast messages may be sent: by topic, by client and by user, each so many messages and bytes a second.
//!
//! The leader counts, because every send of the broker group passes it, whichever member its client called. What is too
//! much goes into the log as a refusal, without its messages. Whoever leads next begins to count anew. Nothing is looked
//! at while nothing is limited.

use crate::access::Access;
use crate::command::EncodedBatch;
use crate::forward::replace;
use parking_lot::{Mutex, RwLock};
use raft_store::State;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Append, Refusal, Refuse, Topic};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The attribute of a topic that limits its messages, as a number a second.
pub const MESSAGES: &str = "rate.messages";
/// The attribute of a topic that limits the bytes of their bodies, as a number a second.
pub const BYTES: &str = "rate.bytes";

/// Topics, clients or users of each kind that are counted at a time. With more, counting begins anew.
const METERS_MAX: usize = 65_536;

/// What may be sent in a second; 0 for any amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    /// Messages.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

impl Limit {
    /// Whether anything is limited.
    #[must_use]
    pub fn is_set(self) -> bool {
        self != Limit::default()
    }

    /// What a topic's attributes say.
    #[must_use]
    pub fn of_topic(topic: &Topic) -> Limit {
        let number = |key| topic.attributes.get(key).and_then(|value| parse(value)).unwrap_or_default();
        Limit { messages: number(MESSAGES), bytes: number(BYTES) }
    }
}

/// Reads a limit: a whole number from 1 on.
#[must_use]
pub fn parse(value: &str) -> Option<u64> {
    value.parse().ok().filter(|number| *number > 0)
}

/// What was sent in the present second, and what earlier ones have too much.
#[derive(Debug, Clone, Copy)]
struct Meter {
    since: Instant,
    sent: Limit,
}

impl Meter {
    fn new(now: Instant) -> Meter {
        Meter { since: now, sent: Limit::default() }
    }

    /// Lets whole seconds pass, each of which makes room for what the limit allows.
    fn pass(&mut self, now: Instant, limit: Limit) {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        if seconds == 0 {
            return;
        }
        self.since += Duration::from_secs(seconds);
        let left =
            |sent: u64, limit: u64| if limit == 0 { 0 } else { sent.saturating_sub(limit.saturating_mul(seconds)) };
        self.sent =
            Limit { messages: left(self.sent.messages, limit.messages), bytes: left(self.sent.bytes, limit.bytes) };
    }

    /// What there is too much of already. A send that begins below the limit is taken as a whole.
    fn over(&self, limit: Limit) -> Option<(&'static str, u64, u64)> {
        if limit.messages > 0 && self.sent.messages >= limit.messages {
            return Some(("messages", limit.messages, self.sent.messages));
        }
        (limit.bytes > 0 && self.sent.bytes >= limit.bytes).then_some(("bytes", limit.bytes, self.sent.bytes))
    }

    fn count(&mut self, messages: u64, bytes: u64) {
        self.sent.messages = self.sent.messages.saturating_add(messages);
        self.sent.bytes = self.sent.bytes.saturating_add(bytes);
    }
}

/// Who is limited.
#[derive(Debug, Clone, Copy)]
enum Whose {
    Topic,
    Client,
    User,
}

impl Whose {
    fn sentence(self, name: &str, (what, limit, sent): (&str, u64, u64)) -> String {
        let (who, remedy) = match self {
            Whose::Topic => (format!("topic {name} takes"), format!("mqadmin updateTopic -a +rate.{what}=…")),
            Whose::Client => (
                format!("client {name} may send"),
                format!("mqadmin updateBrokerConfig -k {} -v …", key("client", what)),
            ),
            Whose::User => (format!("user {name} may send"), format!("mqadmin updateUser --{}", key("", what))),
        };
        format!("{who} {limit} {what} a second, and {sent} were sent: send slower, or raise it ({remedy})")
    }
}

/// `clientRateBytes`, `rateMessages` and so on.
fn key(of: &str, what: &str) -> String {
    let rate = if of.is_empty() { "rate" } else { "Rate" };
    let what = if what == "bytes" { "Bytes" } else { "Messages" };
    format!("{of}{rate}{what}")
}

/// What is limited, and what was sent.
pub(crate) struct Rates {
    client: RwLock<Limit>,
    access: Arc<Access>,
    topics: RwLock<HashMap<String, Limit>>,
    meters: Mutex<[HashMap<String, Meter>; 3]>,
}

impl Rates {
    /// With the limit of every client.
    pub(crate) fn new(client: Limit, access: Arc<Access>) -> Rates {
        Rates { client: RwLock::new(client), access, topics: RwLock::default(), meters: Mutex::default() }
    }

    /// Takes another limit of every client.
    pub(crate) fn limit_clients(&self, limit: Limit) {
        *self.client.write() = limit;
    }

    /// Takes the topics as they are now.
    pub(crate) fn topics(&self, topics: &[Topic]) {
        let limits = topics.iter().map(|topic| (topic.name.clone(), Limit::of_topic(topic)));
        *self.topics.write() = limits.filter(|(_, limit)| limit.is_set()).collect();
    }

    /// On the leader: a batch with refusals in the place of sends that are too much.
    pub(crate) fn admit(&self, batch: EncodedBatch, state: impl Fn() -> State) -> EncodedBatch {
        let (topics, client) = (self.topics.read(), *self.client.read());
        if topics.is_empty() && !client.is_set() && !self.access.limits_users(&state) {
            return batch;
        }
        let now = Instant::now();
        let mut meters = self.meters.lock();
        replace(batch, |kind| {
            let Kind::Append(append) = kind else { return None };
            let mut limits = Vec::with_capacity(3);
            limits.extend(topics.get(&append.topic).map(|limit| (Whose::Topic, &append.topic, *limit)));
            if client.is_set() && !append.client_id.is_empty() {
                limits.push((Whose::Client, &append.client_id, client));
            }
            if !append.user.is_empty() {
                limits.push((Whose::User, &append.user, self.access.limit_of(&append.user, &state)));
            }
            let detail = count(&mut meters, &limits, append, now)?;
            Some(Refuse { refusal: Refusal::RateLimited.into(), detail })
        })
    }
}

/// Counts a send for all that limit it, unless one of them says why not.
fn count(
    meters: &mut [HashMap<String, Meter>; 3],
    limits: &[(Whose, &String, Limit)],
    append: &Append,
    now: Instant,
) -> Option<String> {
    for (whose, name, limit) in limits {
        let meters = &mut meters[*whose as usize];
        if meters.len() >= METERS_MAX && !meters.contains_key(*name) {
            meters.retain(|_, meter| now.saturating_duration_since(meter.since) < Duration::from_secs(1));
            if meters.len() >= METERS_MAX {
                meters.clear();
            }
        }
        let meter = meters.entry((*name).clone()).or_insert_with(|| Meter::new(now));
        meter.pass(now, *limit);
        if let Some(over) = meter.over(*limit) {
            return Some(whose.sentence(name, over));
        }
    }
    let messages = append.messages.len() as u64;
    let bytes = append.messages.iter().map(|message| u64::from(message.body_bytes)).sum();
    for (whose, name, _) in limits {
        if let Some(meter) = meters[*whose as usize].get_mut(*name) {
            meter.count(messages, bytes);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AccessConfig;
    use crate::command::{Payload, encode_entry};
    use crate::store::TABLES;
    use bytes::Bytes;
    use prost::Message as _;
    use raftmq_proto::command::{AppendMessage, Batch, Command};

    fn rates(client: Limit) -> Rates {
        Rates::new(client, Arc::new(Access::new(AccessConfig::default())))
    }

    fn topic(name: &str, attributes: &[(&str, &str)]) -> Topic {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Topic { name: name.to_owned(), attributes, ..Topic::default() }
    }

    /// What becomes of sends of one message of so many bytes each, in one batch: `ok`, or why not.
    fn send(rates: &Rates, sends: &[(&str, &str, u32)]) -> Vec<String> {
        let command = |(topic, client_id, body_bytes): &(&str, &str, u32)| {
            let message = AppendMessage { body_bytes: *body_bytes, ..AppendMessage::default() };
            let (topic, client_id) = ((*topic).to_owned(), (*client_id).to_owned());
            let append = Append { topic, client_id, messages: vec![message], ..Append::default() };
            Command { deadline_ms: 0, kind: Some(Kind::Append(append)) }
        };
        let commands: Vec<_> = sends.iter().map(command).collect();
        let slots = u32::try_from(commands.len()).expect("few");
        let batch = Batch { node: 1, boot: 1, sequence: 1, settled: 0, slots, commands, version: 0 };
        let blobs = (0..sends.len()).map(|at| Bytes::from(format!("body {at}"))).collect();
        let admitted =
            rates.admit(EncodedBatch { batch: batch.encode_to_vec().into(), blobs }, || State::ordered(TABLES));
        let payload = Payload::parse(encode_entry(9, &[admitted]).expect("small")).expect("well formed");
        let entry = payload.entry().expect("slots are counted right");
        let commands = entry.batches.into_iter().flat_map(|batch| batch.commands);
        commands
            .map(|command| match command.kind {
                Some(Kind::Append(_)) => "ok".to_owned(),
                Some(Kind::Refuse(refuse)) => refuse.detail,
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_takes_so_many_messages_a_second() {
        let rates = rates(Limit::default());
        assert_eq!(send(&rates, &[("t", "", 1); 5]), ["ok"; 5], "nothing is limited");
        rates.topics(&[topic("t", &[(MESSAGES, "3")]), topic("u", &[]), topic("v", &[(BYTES, "x")])]);
        let sent = send(&rates, &[("t", "", 1), ("t", "", 1), ("u", "", 1), ("t", "", 1), ("t", "", 1), ("v", "", 1)]);
        assert_eq!(sent[..4], ["ok"; 4]);
        assert_eq!(
            sent[4],
            "topic t takes 3 messages a second, and 3 were sent: send slower, or raise it (mqadmin updateTopic -a \
             +rate.messages=…)"
        );
        assert_eq!(sent[5], "ok", "a limit that is no number limits nothing");
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(send(&rates, &[("t", "", 1)])[0].contains("3 were sent"));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(send(&rates, &[("t", "", 1); 3]), ["ok"; 3]);
        // What was not sent in an earlier second is not saved up.
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(send(&rates, &[("t", "", 1); 5]).iter().filter(|outcome| *outcome == "ok").count(), 3);
        rates.topics(&[topic("t", &[])]);
        assert_eq!(send(&rates, &[("t", "", 1)]), ["ok"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_larger_than_the_limit_is_taken_and_paid_for() {
        let rates = rates(Limit::default());
        rates.topics(&[topic("t", &[(BYTES, "100")])]);
        assert_eq!(send(&rates, &[("t", "", 250)]), ["ok"]);
        for _ in 0..2 {
            assert!(send(&rates, &[("t", "", 1)])[0].contains("takes 100 bytes a second"));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(send(&rates, &[("t", "", 1)]), ["ok"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_send_counts_for_nobody_when_one_of_its_limits_is_reached() {
        let rates = rates(Limit { messages: 2, bytes: 0 });
        rates.topics(&[topic("t", &[(MESSAGES, "3")])]);
        assert_eq!(send(&rates, &[("t", "a", 1), ("t", "a", 1)]), ["ok"; 2]);
        let refused = send(&rates, &[("t", "a", 1), ("t", "a", 1)]);
        assert!(
            refused.iter().all(|why| why.starts_with("client a may send 2") && why.contains("-k clientRateMessages"))
        );
        assert_eq!(send(&rates, &[("t", "b", 1)]), ["ok"], "the topic has one left");
        assert!(send(&rates, &[("t", "b", 1)])[0].starts_with("topic t takes 3"));
        assert_eq!(send(&rates, &[("u", "b", 1)]), ["ok"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_counted_is_bounded() {
        let rates = rates(Limit { messages: 1, bytes: 0 });
        let names: Vec<String> = (0..=METERS_MAX).map(|number| format!("client-{number}")).collect();
        for chunk in names.chunks(1_024) {
            let sends: Vec<_> = chunk.iter().map(|name| ("t", name.as_str(), 1)).collect();
            assert!(send(&rates, &sends).iter().all(|outcome| outcome == "ok"));
        }
        assert!(rates.meters.lock()[Whose::Client as usize].len() <= METERS_MAX);
    }
}
