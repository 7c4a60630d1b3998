//! The machine driven by its front door, without a runtime or a cluster: entries in, replies and rows out.

#![allow(clippy::panic)]

mod access;
mod bounds;
mod checksum;
mod explain;
mod fifo;
mod figures;
mod lite;
mod random;
mod repeats;
mod retention;
mod scrape;
mod single;
mod sql;
mod timeline;
mod trace;
mod version;
mod window;

use super::{Answer, Effect, EntryAt, Outcome, Rules, VERSION, slots_of};
use crate::command::{EncodedBatch, encode_entry};
use crate::deliver::judge::{self, Receive};
use crate::filter::sql::SqlFilter;
use crate::store::TABLES;
use crate::store::message::Place;
use bytes::Bytes;
use prost::Message;
use raft_store::{LogIndex, ReadState, State, Table, Term};
use raftmq_proto::command::{Activate, Batch, Command, Judgement, Reply, StoredMessage, command};
use std::ops::ControlFlow;

/// Rows of all tables.
type Dump = Vec<(&'static str, Vec<u8>, Vec<u8>)>;

fn dump(state: &impl ReadState) -> Dump {
    let mut rows = Vec::new();
    for (number, table) in TABLES.iter().enumerate() {
        state
            .scan(Table(number as u8), &[], &[], &mut |key, value| {
                rows.push((*table, key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .expect("rows are read");
    }
    rows
}

/// Rows without those that any entry may change: how far the machine came, what nodes sent, what was stored lately.
fn lasting(state: &impl ReadState) -> Dump {
    let mut rows = dump(state);
    rows.retain(|(table, key, _)| match *table {
        "node" | "sent" => false,
        "machine" => key != b"a" && key != b"m",
        "retention" => !key.starts_with(b"m"),
        _ => true,
    });
    rows
}

/// What the node of a client says for a receive with an SQL filter; `None` when it sees nothing to receive.
fn judged(
    state: &impl ReadState,
    (consumer_group, topic): (&str, &str),
    expression: &str,
    messages_max: u32,
    message: impl Fn(&Place) -> StoredMessage,
) -> Option<Judgement> {
    let filter = SqlFilter::parse(expression).expect("a good expression");
    let receive = Receive { consumer_group, topic, filter: &filter, messages_max };
    let mut judge = judge::judge(state, receive, 1).expect("rows are read")?;
    while let Some(place) = judge.next_place() {
        judge.judge(&place, Some(&message(&place)));
    }
    Some(judge.finish())
}

/// One machine with its log.
struct Harness {
    rules: Rules,
    state: State,
    log: Vec<Bytes>,
    sequence: u64,
    now_ms: u64,
    effects: Vec<Effect>,
    /// The version that begins with the first command.
    begins: Option<u32>,
}

/// Term of every entry.
const TERM: Term = Term(3);

/// Where the clock of a test begins.
const START_MS: u64 = 1_700_000_000_000;

fn apply(rules: &mut Rules, state: &State, log: &[Bytes], first: u64) -> Vec<Outcome> {
    let mut batch = state.batch();
    let outcomes = log
        .iter()
        .zip(first..)
        .map(|(payload, index)| {
            let at = EntryAt { index: LogIndex(index), term: TERM };
            rules.apply_payload(at, payload.clone(), &mut batch).expect("rows are sound")
        })
        .collect();
    batch.write().expect("memory takes it");
    outcomes
}

impl Harness {
    fn new() -> Harness {
        Harness {
            rules: Rules::default(),
            state: State::ordered(TABLES),
            log: Vec::new(),
            sequence: 0,
            now_ms: START_MS,
            effects: Vec::new(),
            begins: None,
        }
    }

    /// One whose first command finds the newest version active.
    fn activated() -> Harness {
        Harness { begins: Some(VERSION), ..Harness::new() }
    }

    fn apply_batches(&mut self, batches: &[Batch]) -> Vec<Answer> {
        let encoded: Vec<_> = batches
            .iter()
            .map(|batch| EncodedBatch {
                batch: batch.encode_to_vec().into(),
                blobs: vec![Bytes::new(); batch.slots as usize],
            })
            .collect();
        self.log.push(encode_entry(self.now_ms, &encoded).expect("small"));
        let index = self.log.len() as u64;
        let outcome = apply(&mut self.rules, &self.state, &self.log[self.log.len() - 1..], index).remove(0);
        self.effects = outcome.effects;
        outcome.answers
    }

    fn batch(&mut self, mut kinds: Vec<command::Kind>) -> Batch {
        if let Some(version) = self.begins.take() {
            kinds.insert(0, command::Kind::Activate(Activate { version }));
        }
        self.sequence += 1;
        let slots = kinds.iter().map(|kind| slots_of(kind) as u32);
        Batch {
            node: 1,
            boot: 1,
            sequence: self.sequence,
            settled: self.sequence - 1,
            slots: slots.sum(),
            commands: kinds.into_iter().map(|kind| Command { deadline_ms: 0, kind: Some(kind) }).collect(),
            version: 0,
        }
    }

    /// One command in an entry of its own.
    fn run(&mut self, kind: command::Kind) -> Reply {
        let batch = self.batch(vec![kind]);
        self.apply_batches(&[batch]).remove(0).replies.pop().expect("each command is answered")
    }

    /// The same log, applied in chunks of `chunk` entries, gives the same rows.
    fn assert_replays(&self, chunk: usize) {
        let state = State::ordered(TABLES);
        for (number, entries) in self.log.chunks(chunk).enumerate() {
            // As after a restart.
            apply(&mut Rules::default(), &state, entries, 1 + (number * chunk) as u64);
        }
        assert_eq!(dump(&state), dump(&self.state), "chunks of {chunk}");
    }
}
