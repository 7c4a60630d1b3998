//! The table of keys: every row of the machine, its key and what it holds.
//!
//! Numbers in keys are big-endian, so that rows of one owner stand together and in order.
//!
//! | table | key | value | module |
//! | --- | --- | --- | --- |
//! | `machine` | `a` | applied index, cluster time, checksum | [`super::machine`] |
//! | | `i` | next id of a topic or consumer group | |
//! | | `l` | last lease id | |
//! | | `k` | secret of the nonces | |
//! | | `v` | version that was activated | |
//! | | `d` | low end of the deadlines | [`super::deadline`] |
//! | | `t` | low end of the timers | [`super::timer`] |
//! | | `c`, `f` | low ends of the checks, and of what is forgotten | [`super::half`] |
//! | | `e` | low end of the looks at lite topics and their clients | [`super::lite`] |
//! | | `r`, `j`, `m` | what was trimmed, the trim under way, the last mark | [`super::retention`] |
//! | | `s` name | a setting | [`super::machine`] |
//! | | `w` kind, subject | work that Tick continues | `work` |
//! | `node` | node | boot, settled and last sequence | [`super::node`] |
//! | | node, sequence | replies kept for a repeat | |
//! | `topic` | `n` name | topic | [`super::topic`] |
//! | | `i` topic | name | |
//! | | `l` name | lite topic | [`super::lite`] |
//! | | `c` topic | how many lite topics it has | |
//! | `consumer_group` | `n` name | consumer group | [`super::consumer_group`] |
//! | | `i` group | name | |
//! | | `t` group, topic | – : it consumed this topic | |
//! | | `l` group, lite topic | – : it consumed this lite topic | |
//! | `queue` | queue | first and next offset, last store time | [`super::queue`] |
//! | | queue number 65535 | turn of the queues of a topic | |
//! | `message` | queue, first offset | a run of messages: where they are in the log | [`super::message`] |
//! | `subscription` | topic, group | what is waiting in its retry index | [`super::subscription`] |
//! | `progress` | topic, group, queue number | cursor and messages in flight | [`super::progress`] |
//! | | topic, group, queue number, `o` | offset that a reader stored | |
//! | | topic, group, queue number, `v` | what the last reset made void | |
//! | | topic, group, 65535, `s` | time at which a new consumer group starts | |
//! | | topic, group, 65535, `x` | messages that retention took before they were consumed | [`super::retention`] |
//! | `flight` | topic, group, queue number, offset, lease | – : an unfinished part of a lease | [`super::progress`] |
//! | `retry` | topic, group, order | a message that is to be delivered again | [`super::retry`] |
//! | `lease` | group, lease | lease | [`super::lease`] |
//! | `deadline` | time in ms, group, lease | – | [`super::deadline`] |
//! | `receive` | group, digest of client and attempt id | lease | [`super::lease`] |
//! | `session` | `s` client, group | subscriptions | [`super::session`] |
//! | | `l` client, group, lease | – : a renewed lease | |
//! | | `f` group, topic name | filters of the live members | |
//! | | `v` client, group, topic | how many of its lite topics the client receives, and since when | [`super::lite`] |
//! | | `u` client, group, topic, lite topic | – : the client receives it | |
//! | | `r` lite topic, group, hash of client, client | – : the same one, found by the lite topic | |
//! | | `g` lite topic | consumer groups that receive it | |
//! | | `q` group, topic, lite topic | – : it has a message to hand out | |
//! | | `m` | how many `u` rows there are | |
//! | | `x` time in ms, subject | – : whether it is in use is looked at then | |
//! | `access` | `u` name | user | [`super::access`] |
//! | | `a` subject | access rules | |
//! | | `n` | how many users there are | |
//! | `timer` | `d` time in ms, topic, log index, slot | a message that waits for its delivery time | [`super::timer`] |
//! | | `l` log index, slot | the same one: it must stay in the log | |
//! | | `n` topic | how many wait | |
//! | `half` | `h` topic, log index, slot | half message | [`super::half`] |
//! | | `c` time in ms, topic, log index, slot | – : it is to be checked then | |
//! | | `w` topic, log index, slot | – : the leader is to check it now | |
//! | | `f` time in ms, topic, log index, slot | – : it was ended, and is forgotten then | |
//! | | `l` log index, slot | – : it must stay in the log | |
//! | | `n` topic | how many are not ended | |
//! | `retention` | `m` log index | cluster time before that entry | [`super::retention`] |
//! | | `p` log index, slot, keeper | – : what needs a body, except timers and half messages | |
//! | | `t` queue | the last trim that moved the queue's first offset | [`super::trace`] |
//! | | `t` queue, first offset, group, log index, attempt, kind | what was done to a run of messages | |
//! | `sent` | log index | what the entry stored, for those who send it again | [`super::sent`] |
//! | `fifo` | topic, group | messages put aside | [`super::fifo`] |
//! | | topic, group, queue number, reset, hash | a message group of which a message is out | |
//! | | the same, order | a message put aside behind it | |
//!
//! A queue is a u64: topic id × 65,536 + queue number.

use super::{ConsumerGroupId, LeaseId, TopicId};
use raft_store::Table;

/// Tables of the machine, in the order of the constants below.
pub const TABLES: &[&str] = &[
    "machine",
    "node",
    "topic",
    "consumer_group",
    "queue",
    "message",
    "subscription",
    "progress",
    "flight",
    "retry",
    "lease",
    "deadline",
    "receive",
    "session",
    "access",
    "fifo",
    "timer",
    "half",
    "sent",
    "retention",
];

/// What concerns the machine as a whole.
pub const MACHINE: Table = Table(0);
/// Nodes and the replies kept for them.
pub const NODE: Table = Table(1);
/// Topics by name, and names by id.
pub const TOPIC: Table = Table(2);
/// Consumer groups by name, and names by id.
pub const CONSUMER_GROUP: Table = Table(3);
/// Queues.
pub const QUEUE: Table = Table(4);
/// The index of messages.
pub const MESSAGE: Table = Table(5);
/// A consumer group's share of a topic.
pub const SUBSCRIPTION: Table = Table(6);
/// A consumer group's progress in a queue.
pub const PROGRESS: Table = Table(7);
/// Unfinished parts of leases, by queue and offset.
pub const FLIGHT: Table = Table(8);
/// Messages to be delivered again.
pub const RETRY: Table = Table(9);
/// Leases.
pub const LEASE: Table = Table(10);
/// Leases by the time they end.
pub const DEADLINE: Table = Table(11);
/// Leases by the receive that asked for them.
pub const RECEIVE: Table = Table(12);
/// Sessions, their leases, their filters.
pub const SESSION: Table = Table(13);
/// Users and their access rules.
pub const ACCESS: Table = Table(14);
/// Message groups that a consumer group is at, and what waits behind their messages.
pub const FIFO: Table = Table(15);
/// Messages that wait for their delivery time.
pub const TIMER: Table = Table(16);
/// Half messages.
pub const HALF: Table = Table(17);
/// What was stored lately, by entry.
pub const SENT: Table = Table(18);
/// Times along the log, and what needs bodies in it.
pub const RETENTION: Table = Table(19);

/// Bits of the queue number in a queue's id.
const NUMBER_BITS: u32 = 16;
/// Queues of a topic are numbered below this.
pub const QUEUES_MAX: u32 = 0xffff;
/// Largest topic id that leaves room for the queue number.
pub const TOPIC_ID_MAX: u64 = u64::MAX >> NUMBER_BITS;

fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    let mut at = 0;
    for part in parts {
        key[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    debug_assert_eq!(at, N, "every key function states its length");
    key
}

fn concat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A client id within a key: its length first, so that no id is the beginning of another.
fn client(id: &str) -> Vec<u8> {
    let mut bytes = (id.len() as u64).to_be_bytes()[4..].to_vec();
    bytes.extend_from_slice(id.as_bytes());
    bytes
}

/// The smallest key above all keys that begin with `prefix`; empty (the end of the table) when there is none.
#[must_use]
pub fn after(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if last < 0xff {
            key.push(last + 1);
            break;
        }
    }
    key
}

/// `machine` row of one letter.
#[must_use]
pub fn machine(letter: u8) -> [u8; 1] {
    [letter]
}

/// `machine`: a setting.
#[must_use]
pub fn setting(name: &str) -> Vec<u8> {
    concat(&[b"s", name.as_bytes()])
}

/// `machine`: work that Tick continues.
#[must_use]
pub fn work(kind: u8, subject: &[u8]) -> Vec<u8> {
    concat(&[b"w", &[kind], subject])
}

/// `node`: a node.
#[must_use]
pub fn node(node: u64) -> [u8; 8] {
    node.to_be_bytes()
}

/// `node`: replies of a batch.
#[must_use]
pub fn replies(node: u64, sequence: u64) -> [u8; 16] {
    join(&[&node.to_be_bytes(), &sequence.to_be_bytes()])
}

/// `topic` and `consumer_group`: by name.
#[must_use]
pub fn name(name: &str) -> Vec<u8> {
    concat(&[b"n", name.as_bytes()])
}

/// `topic` and `consumer_group`: the name of an id.
#[must_use]
pub fn id(id: u64) -> [u8; 9] {
    join(&[b"i", &id.to_be_bytes()])
}

/// `consumer_group`: a topic that the consumer group has rows for.
#[must_use]
pub fn consumed(group: ConsumerGroupId, topic: TopicId) -> [u8; 17] {
    join(&[b"t", &group.0.to_be_bytes(), &topic.0.to_be_bytes()])
}

/// `consumer_group`: a lite topic that the consumer group has rows for.
#[must_use]
pub fn consumed_lite(group: ConsumerGroupId, topic: TopicId) -> [u8; 17] {
    join(&[b"l", &group.0.to_be_bytes(), &topic.0.to_be_bytes()])
}

/// `topic`: a lite topic, by the name of its row; prefix of several by the beginning of it.
#[must_use]
pub fn lite_topic(name: &str) -> Vec<u8> {
    concat(&[b"l", name.as_bytes()])
}

/// `topic`: how many lite topics a topic has.
#[must_use]
pub fn lite_topic_count(topic: TopicId) -> [u8; 9] {
    join(&[b"c", &topic.0.to_be_bytes()])
}

/// `queue`: a queue.
#[must_use]
pub fn queue(topic: TopicId, number: u16) -> [u8; 8] {
    ((topic.0 << NUMBER_BITS) | u64::from(number)).to_be_bytes()
}

/// `queue`: whose turn it is among the queues of a topic.
#[must_use]
pub fn turn(topic: TopicId) -> [u8; 8] {
    queue(topic, u16::MAX)
}

/// Topic of a `queue` row.
#[must_use]
pub fn topic_of_queue(key: &[u8]) -> Option<TopicId> {
    Some(TopicId(u64::from_be_bytes(key.try_into().ok()?) >> NUMBER_BITS))
}

/// Topic and number of a `queue` row; `None` for the row that says whose turn it is.
#[must_use]
pub fn of_queue(key: &[u8]) -> Option<(TopicId, u16)> {
    let queue = u64::from_be_bytes(key.try_into().ok()?);
    let number = (queue & u64::from(u16::MAX)) as u16;
    (number != u16::MAX).then_some((TopicId(queue >> NUMBER_BITS), number))
}

/// Prefix of all `queue` and `message` rows of a topic.
#[must_use]
pub fn queues(topic: TopicId) -> [u8; 6] {
    let mut prefix = [0; 6];
    prefix.copy_from_slice(&queue(topic, 0)[..6]);
    prefix
}

/// `message`: the run that begins at `first`.
#[must_use]
pub fn message(topic: TopicId, number: u16, first: u64) -> [u8; 16] {
    join(&[&queue(topic, number), &first.to_be_bytes()])
}

/// `subscription`: a consumer group's share of a topic. Prefix of its `progress`, `flight` and `retry` rows.
#[must_use]
pub fn subscription(topic: TopicId, group: ConsumerGroupId) -> [u8; 16] {
    join(&[&topic.0.to_be_bytes(), &group.0.to_be_bytes()])
}

/// `progress`: progress in a queue. Prefix of its `flight` rows.
#[must_use]
pub fn progress(topic: TopicId, group: ConsumerGroupId, number: u16) -> [u8; 18] {
    join(&[&topic.0.to_be_bytes(), &group.0.to_be_bytes(), &number.to_be_bytes()])
}

/// `progress`: the offset that a reader of its own progress stored.
#[must_use]
pub fn stored_offset(topic: TopicId, group: ConsumerGroupId, number: u16) -> [u8; 19] {
    join(&[&progress(topic, group, number), b"o"])
}

/// `progress`: what the last reset of a queue made void.
#[must_use]
pub fn void(topic: TopicId, group: ConsumerGroupId, number: u16) -> [u8; 19] {
    join(&[&progress(topic, group, number), b"v"])
}

/// `progress`: where a consumer group starts in queues that it never received from.
#[must_use]
pub fn start(topic: TopicId, group: ConsumerGroupId) -> [u8; 19] {
    join(&[&progress(topic, group, u16::MAX), b"s"])
}

/// `progress`: how many messages retention took from a consumer group before they were consumed.
#[must_use]
pub fn expired(topic: TopicId, group: ConsumerGroupId) -> [u8; 19] {
    join(&[&progress(topic, group, u16::MAX), b"x"])
}

/// `fifo`: message groups of a queue, since the reset of this number.
#[must_use]
pub fn message_groups(topic: TopicId, group: ConsumerGroupId, number: u16, resets: u32) -> [u8; 22] {
    join(&[&progress(topic, group, number), &resets.to_be_bytes()])
}

/// Topic and consumer group of a key that begins with them.
#[must_use]
pub fn owners(prefix: &[u8; 22]) -> (TopicId, ConsumerGroupId) {
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&prefix[at..at + 8]);
        u64::from_be_bytes(bytes)
    };
    (TopicId(number(0)), ConsumerGroupId(number(8)))
}

/// `fifo`: a message group. `prefix` is that of its queue.
#[must_use]
pub fn message_group(prefix: &[u8; 22], hash: u64) -> [u8; 30] {
    join(&[prefix, &hash.to_be_bytes()])
}

/// `fifo`: a message put aside in a message group.
#[must_use]
pub fn put_aside(message_group: &[u8; 30], order: u64) -> [u8; 38] {
    join(&[message_group, &order.to_be_bytes()])
}

/// `flight`: an unfinished part of a lease.
#[must_use]
pub fn flight(topic: TopicId, group: ConsumerGroupId, number: u16, offset: u64, lease: LeaseId) -> [u8; 34] {
    join(&[&progress(topic, group, number), &offset.to_be_bytes(), &lease.0.to_be_bytes()])
}

/// `retry`: a message to be delivered again.
#[must_use]
pub fn retry(topic: TopicId, group: ConsumerGroupId, order: u64) -> [u8; 24] {
    join(&[&subscription(topic, group), &order.to_be_bytes()])
}

/// `lease`: a lease.
#[must_use]
pub fn lease(group: ConsumerGroupId, lease: LeaseId) -> [u8; 16] {
    join(&[&group.0.to_be_bytes(), &lease.0.to_be_bytes()])
}

/// `deadline`: the end of a lease.
#[must_use]
pub fn deadline(at_ms: u64, group: ConsumerGroupId, id: LeaseId) -> [u8; 24] {
    join(&[&at_ms.to_be_bytes(), &lease(group, id)])
}

/// `receive`: what a receive with an attempt id was answered.
#[must_use]
pub fn receive(group: ConsumerGroupId, digest: u64) -> [u8; 16] {
    join(&[&group.0.to_be_bytes(), &digest.to_be_bytes()])
}

/// `session`: all sessions.
pub const SESSIONS: &[u8] = b"s";

/// `session`: prefix of a client's sessions.
#[must_use]
pub fn sessions(client_id: &str) -> Vec<u8> {
    concat(&[SESSIONS, &client(client_id)])
}

/// `session`: a client's session in a consumer group.
#[must_use]
pub fn session(client_id: &str, group: ConsumerGroupId) -> Vec<u8> {
    concat(&[SESSIONS, &client(client_id), &group.0.to_be_bytes()])
}

/// `session`: prefix of a client's renewed leases.
#[must_use]
pub fn client_leases(client_id: &str) -> Vec<u8> {
    concat(&[b"l", &client(client_id)])
}

/// `session`: a client's renewed lease.
#[must_use]
pub fn client_lease(client_id: &str, group: ConsumerGroupId, id: LeaseId) -> Vec<u8> {
    concat(&[b"l", &client(client_id), &lease(group, id)])
}

/// `session`: prefix of a consumer group's filters.
#[must_use]
pub fn group_filters(group: ConsumerGroupId) -> [u8; 9] {
    join(&[b"f", &group.0.to_be_bytes()])
}

/// `session`: filters of a consumer group's live members for a topic.
#[must_use]
pub fn filters(group: ConsumerGroupId, topic: &str) -> Vec<u8> {
    concat(&[&group_filters(group), topic.as_bytes()])
}

/// `session`: all that receives lite topics; those of one client with [`lite_clients_of`].
pub const LITE_CLIENTS: u8 = b'v';

/// `session`: how many subscriptions to lite topics there are.
pub const LITE_SUBSCRIPTION_COUNT: &[u8] = b"m";

/// `session`: prefix of what a client receives of lite topics.
#[must_use]
pub fn lite_clients_of(client_id: &str) -> Vec<u8> {
    concat(&[&[LITE_CLIENTS], &client(client_id)])
}

/// `session`: a client that receives lite topics of a topic.
#[must_use]
pub fn lite_client(client_id: &str, group: ConsumerGroupId, topic: TopicId) -> Vec<u8> {
    concat(&[&lite_clients_of(client_id), &group.0.to_be_bytes(), &topic.0.to_be_bytes()])
}

/// `session`: prefix of the lite topics of a topic that a client receives.
#[must_use]
pub fn lite_subscriptions(client_id: &str, group: ConsumerGroupId, topic: TopicId) -> Vec<u8> {
    concat(&[b"u", &client(client_id), &group.0.to_be_bytes(), &topic.0.to_be_bytes()])
}

/// `session`: a lite topic that a client receives.
#[must_use]
pub fn lite_subscription(client_id: &str, group: ConsumerGroupId, topic: TopicId, lite: TopicId) -> Vec<u8> {
    concat(&[&lite_subscriptions(client_id, group, topic), &lite.0.to_be_bytes()])
}

/// `session`: prefix of the clients of a consumer group that receive a lite topic.
#[must_use]
pub fn lite_members(lite: TopicId, group: ConsumerGroupId) -> [u8; 17] {
    join(&[b"r", &lite.0.to_be_bytes(), &group.0.to_be_bytes()])
}

/// `session`: a client that receives a lite topic.
#[must_use]
pub fn lite_member(lite: TopicId, group: ConsumerGroupId, client_id: &str) -> Vec<u8> {
    let hash = xxhash_rust::xxh3::xxh3_64(client_id.as_bytes());
    concat(&[&lite_members(lite, group), &hash.to_be_bytes(), client_id.as_bytes()])
}

/// `session`: consumer groups that receive a lite topic.
#[must_use]
pub fn lite_groups(lite: TopicId) -> [u8; 9] {
    join(&[b"g", &lite.0.to_be_bytes()])
}

/// `session`: prefix of the lite topics of a consumer group that have a message to hand out.
#[must_use]
pub fn lite_ready_of_group(group: ConsumerGroupId) -> [u8; 9] {
    join(&[b"q", &group.0.to_be_bytes()])
}

/// `session`: prefix of the lite topics of a topic that have a message to hand out to a consumer group.
#[must_use]
pub fn lite_ready_of(group: ConsumerGroupId, topic: TopicId) -> [u8; 17] {
    join(&[&lite_ready_of_group(group), &topic.0.to_be_bytes()])
}

/// `session`: a lite topic that has a message to hand out to a consumer group.
#[must_use]
pub fn lite_ready(group: ConsumerGroupId, topic: TopicId, lite: TopicId) -> [u8; 25] {
    join(&[&lite_ready_of(group, topic), &lite.0.to_be_bytes()])
}

/// `session`: what is looked at, at a time.
#[must_use]
pub fn lite_due(at_ms: u64, subject: &[u8]) -> Vec<u8> {
    concat(&[b"x", &at_ms.to_be_bytes(), subject])
}

/// `timer` and `half`: a message that waits, at a time.
#[must_use]
pub fn waiting_at(letter: u8, at_ms: u64, topic: TopicId, log_index: u64, slot: u32) -> [u8; 29] {
    join(&[&[letter], &at_ms.to_be_bytes(), &waiting(b'h', topic, log_index, slot)[1..]])
}

/// `half`: a message that waits, by topic.
#[must_use]
pub fn waiting(letter: u8, topic: TopicId, log_index: u64, slot: u32) -> [u8; 21] {
    join(&[&[letter], &topic.0.to_be_bytes(), &log_index.to_be_bytes(), &slot.to_be_bytes()])
}

/// `timer` and `half`: messages of one letter up to and including a time end before this key.
#[must_use]
pub fn waiting_until(letter: u8, at_ms: u64) -> [u8; 9] {
    join(&[&[letter], &at_ms.saturating_add(1).to_be_bytes()])
}

/// `timer` and `half`: a message that must stay in the log.
#[must_use]
pub fn in_log(log_index: u64, slot: u32) -> [u8; 13] {
    join(&[b"l", &log_index.to_be_bytes(), &slot.to_be_bytes()])
}

/// `timer` and `half`: how many wait in a topic.
#[must_use]
pub fn waiting_count(topic: TopicId) -> [u8; 9] {
    join(&[b"n", &topic.0.to_be_bytes()])
}

/// `sent`: what an entry stored.
#[must_use]
pub fn sent(log_index: u64) -> [u8; 8] {
    log_index.to_be_bytes()
}

/// `retention`: the time before an entry.
#[must_use]
pub fn mark(log_index: u64) -> [u8; 9] {
    join(&[b"m", &log_index.to_be_bytes()])
}

/// `retention`: what needs the body at a slot of an entry.
#[must_use]
pub fn pin(log_index: u64, slot: u32, keeper: &[u8]) -> Vec<u8> {
    concat(&[b"p", &log_index.to_be_bytes(), &slot.to_be_bytes(), keeper])
}

/// `retention`: prefix of what was done to messages of a topic.
#[must_use]
pub fn topic_traces(topic: TopicId) -> [u8; 7] {
    join(&[b"t", &queues(topic)])
}

/// `retention`: the last trim that moved the first offset of a queue.
#[must_use]
pub fn queue_trim(topic: TopicId, number: u16) -> [u8; 9] {
    join(&[b"t", &queue(topic, number)])
}

/// `retention`: prefix of what was done to runs that begin at `first`.
#[must_use]
pub fn traces(topic: TopicId, number: u16, first: u64) -> [u8; 17] {
    join(&[&queue_trim(topic, number), &first.to_be_bytes()])
}

/// `retention`: what was done to a run that begins at `first`: by whom, in which entry, phase of it and attempt, and what.
#[must_use]
pub fn trace(
    topic: TopicId,
    number: u16,
    first: u64,
    group: ConsumerGroupId,
    (index, phase, attempt, kind): (u64, u32, u32, u8),
) -> [u8; 42] {
    let (traces, group, index) = (traces(topic, number, first), group.0.to_be_bytes(), index.to_be_bytes());
    join(&[&traces, &group, &index, &phase.to_be_bytes(), &attempt.to_be_bytes(), &[kind]])
}

/// `access`: all users.
pub const USERS: &[u8] = b"u";
/// `access`: all access rules.
pub const ACLS: &[u8] = b"a";
/// `access`: how many users there are.
pub const USER_COUNT: &[u8] = b"n";

/// `access`: a user.
#[must_use]
pub fn user(name: &str) -> Vec<u8> {
    concat(&[USERS, name.as_bytes()])
}

/// `access`: the access rules of a subject.
#[must_use]
pub fn acl(subject: &str) -> Vec<u8> {
    concat(&[ACLS, subject.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::{ConsumerGroupId, LeaseId, TopicId, after, flight, progress, queue, queues, session, sessions, turn};

    #[test]
    fn keys_of_one_owner_stand_together() {
        let (topic, group) = (TopicId(3), ConsumerGroupId(9));
        assert!(queue(topic, 0) < queue(topic, 7) && queue(topic, 7) < turn(topic));
        assert!(turn(topic) < queue(TopicId(4), 0));
        assert!(turn(topic).starts_with(&queues(topic)) && !queue(TopicId(4), 0).starts_with(&queues(topic)));
        assert!(flight(topic, group, 2, 5, LeaseId(1)).starts_with(&progress(topic, group, 2)));
        assert!(!session("ab", group).starts_with(&sessions("a")));
    }

    #[test]
    fn after_a_prefix() {
        assert_eq!(after(&[1, 2]), [1, 3]);
        assert_eq!(after(&[1, 0xff]), [2]);
        assert!(after(&[0xff, 0xff]).is_empty());
    }
}
