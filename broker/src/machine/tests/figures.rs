//! What the rules cost on RocksDB. Run by hand:
//! `cargo test --release -p raftmq-broker --lib figures -- --ignored --nocapture`

use super::{EntryAt, Rules, TABLES, TERM, encode_entry};
use crate::command::EncodedBatch;
use crate::metrics::consumers::{Limits, register};
use bytes::Bytes;
use prost::Message;
use raft_store::{LogIndex, State, StateOptions};
use raftmq_proto::command::{
    Ack, Append, AppendMessage, Batch, Command, Handle, Lease, PutTopic, Tick, Topic, command, reply,
};
use std::path::Path;
use std::time::Duration;

/// Time that this thread had a CPU: other work on the machine does not count.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    Duration::from_nanos(text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number"))
}

struct Node {
    state: State,
    index: u64,
    sequence: u64,
    now_ms: u64,
    machine: Rules,
    rules: Duration,
    write: Duration,
    bytes: usize,
}

impl Node {
    fn new(dir: &Path) -> Node {
        Node {
            state: State::open(&dir.join("state"), TABLES, &StateOptions::default()).expect("open"),
            index: 0,
            sequence: 0,
            now_ms: 1_700_000_000_000,
            machine: Rules::default(),
            rules: Duration::ZERO,
            write: Duration::ZERO,
            bytes: 0,
        }
    }

    fn apply(&mut self, kinds: Vec<command::Kind>) -> Vec<reply::Kind> {
        self.sequence += 1;
        let slots = kinds.iter().map(|kind| match kind {
            command::Kind::Append(append) => append.messages.len(),
            _ => 0,
        });
        let slots: usize = slots.sum();
        let commands = kinds.into_iter().map(|kind| Command { deadline_ms: 1 << 42, kind: Some(kind) }).collect();
        let batch = Batch {
            node: 1,
            boot: 1,
            sequence: self.sequence,
            settled: self.sequence - 1,
            slots: slots as u32,
            commands,
            version: 0,
        };
        let batch = EncodedBatch { batch: batch.encode_to_vec().into(), blobs: vec![Bytes::new(); slots] };
        let payload = encode_entry(self.now_ms, &[batch]).expect("small");
        self.index += 1;
        self.now_ms += 5;
        let begin = on_cpu();
        let mut rows = self.state.batch();
        let at = EntryAt { index: LogIndex(self.index), term: TERM };
        let mut outcome = self.machine.apply_payload(at, payload, &mut rows).expect("rows are sound");
        self.rules += on_cpu() - begin;
        self.bytes += rows.bytes();
        let begin = on_cpu();
        rows.write().expect("written");
        self.write += on_cpu() - begin;
        outcome.answers.remove(0).replies.into_iter().filter_map(|reply| reply.kind).collect()
    }

    fn figure(&mut self, what: &str, messages: usize) {
        let each = |time: Duration| time.as_nanos() as f64 / messages as f64 / 1_000.0;
        println!(
            "{what:<40} {:6.2} us rules, {:6.2} us write, {:5} bytes put, per message",
            each(self.rules),
            each(self.write),
            self.bytes / messages
        );
        (self.rules, self.write, self.bytes) = Default::default();
    }

    fn sends(&mut self, entries: usize, commands: usize, messages: usize) {
        for _ in 0..entries {
            let message = AppendMessage { tag_hash: 0, message_type: 1, body_bytes: 1_024, ..AppendMessage::default() };
            let append = command::Kind::Append(Append {
                topic: "topic-name".into(),
                messages: vec![message; messages],
                checks: None,
                ..Append::default()
            });
            self.apply(vec![append; commands]);
        }
        self.figure(&format!("send {messages} a call, {commands} calls an entry"), entries * commands * messages);
    }

    fn receives(&mut self, entries: usize, commands: usize, messages: u32, renewed: bool) {
        let mut received = 0;
        let mut handles = Vec::new();
        for entry in 0..entries {
            let leases = (0..commands)
                .map(|command| {
                    command::Kind::Lease(Lease {
                        consumer_group: "consumer-group".into(),
                        topic: "topic-name".into(),
                        client_id: format!("client-host@1234@{command}@abcdefgh"),
                        messages_max: messages,
                        invisible_ms: 30_000,
                        renewed,
                        renew_max_ms: 10_000_000,
                        nonce: 5,
                        attempt_id: if renewed { format!("{entry}-{command}") } else { String::new() },
                        create_consumer_group: true,
                        ..Lease::default()
                    })
                })
                .collect();
            for kind in self.apply(leases) {
                let reply::Kind::Leased(leased) = kind else { panic!("not leased: {kind:?}") };
                received += leased.messages.len();
                handles.extend(leased.messages.iter().map(|message| Handle {
                    consumer_group_id: leased.consumer_group_id,
                    lease_id: leased.lease_id,
                    item: message.item,
                    nonce: leased.nonce,
                }));
            }
            if entry % 64 == 63 {
                self.apply(vec![command::Kind::Tick(Tick {})]);
            }
        }
        assert_eq!(received, entries * commands * messages as usize, "the backlog is long enough");
        self.figure(&format!("receive {messages} a call, renewed {renewed}"), received);
        for handles in handles.chunks(64) {
            let acks = handles.iter().map(|handle| {
                command::Kind::Ack(Ack {
                    consumer_group: "consumer-group".into(),
                    topic: "topic-name".into(),
                    handles: vec![*handle],
                })
            });
            self.apply(acks.collect());
        }
        self.figure("ack 1 a call, 64 calls an entry", received);
    }
}

#[test]
#[ignore = "figures, not a verdict"]
fn figures() {
    let dir = tempfile::tempdir().expect("folder");
    let mut node = Node::new(dir.path());
    let topic = Topic {
        name: "topic-name".into(),
        read_queues: 8,
        write_queues: 8,
        permission: 6,
        message_types: vec![1],
        ..Topic::default()
    };
    node.apply(vec![command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false })]);
    for flushed in [false, true] {
        println!("rows flushed: {flushed}");
        node.sends(2_000, 1, 1);
        node.sends(2_000, 64, 1);
        node.sends(500, 256, 1);
        node.sends(500, 64, 16);
        if flushed {
            node.state.flush().expect("flush");
        }
        node.receives(200, 16, 32, false);
        node.receives(200, 16, 32, true);
        node.receives(2_000, 16, 1, false);
        node.receives(2_000, 1, 1, true);
    }
}

/// Of 100 consumer groups in 100 topics, with messages in each queue.
#[test]
#[ignore = "figures, not a verdict"]
fn figures_of_a_scrape() {
    const MANY: usize = 100;
    let dir = tempfile::tempdir().expect("folder");
    let mut node = Node::new(dir.path());
    for number in 0..MANY {
        let name = format!("topic-name-{number}");
        let topic = Topic { name: name.clone(), read_queues: 8, write_queues: 8, permission: 6, ..Topic::default() };
        let topic = Topic { message_types: vec![1], ..topic };
        node.apply(vec![command::Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false })]);
        let message = AppendMessage { message_type: 1, body_bytes: 1_024, ..AppendMessage::default() };
        for _ in 0..10 {
            let append = Append { topic: name.clone(), messages: vec![message.clone()], ..Append::default() };
            node.apply(vec![command::Kind::Append(append); 16]);
        }
    }
    for group in 0..MANY {
        for number in 0..MANY {
            let lease = Lease {
                consumer_group: format!("consumer-group-{group}"),
                topic: format!("topic-name-{number}"),
                client_id: "client-host@1234@1@abcdefgh".into(),
                messages_max: 1,
                invisible_ms: 30_000,
                create_consumer_group: true,
                ..Lease::default()
            };
            // In each queue.
            node.apply(vec![command::Kind::Lease(lease); 8]);
        }
    }
    for flushed in [false, true] {
        if flushed {
            node.state.flush().expect("flush");
        }
        for (what, limits) in [
            ("all", Limits { shown: usize::MAX, queues: usize::MAX, ages: usize::MAX }),
            ("no ages", Limits { shown: usize::MAX, queues: usize::MAX, ages: 0 }),
            ("as limited", Limits::default()),
        ] {
            let begin = on_cpu();
            let mut registry = prometheus_client::registry::Registry::default();
            register(&node.state, node.now_ms, limits, &mut registry).expect("read");
            let looked = on_cpu() - begin;
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            let told = on_cpu() - begin - looked;
            println!("flushed {flushed}, {what}: {looked:?} to look, {told:?} to tell, {} bytes", text.len());
        }
    }
}
