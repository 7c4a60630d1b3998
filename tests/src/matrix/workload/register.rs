//! Settings of a topic and of a consumer group, each a register: changed and read through any node.
//!
//! What is promised: a change is answered once it is committed and applied on the node that was asked, it leaves alone
//! what it does not name, and a question without `stale` is answered by rows that have whatever was acknowledged before it,
//! on every node. Together: each setting is a linearizable register. Two settings of one topic are two registers.
//! Questions with `stale` promise nothing of that and are not asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use raftmq_proto::admin as pb;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Kind, Report, Running, Scene};
use crate::cluster::{Administration, Cluster};
use crate::invariant::Verdict;
use crate::matrix::linear::{Operation, Value, linearizable};
use crate::matrix::tally::{Crew, Least, Phase, Shared};

pub(super) const ROW: (&str, &str, &str) = (
    "register",
    "two attributes of one topic and two of one consumer group are changed and read through all nodes, several clients at \
     a time",
    "each attribute is a linearizable register; a change without an answer may have happened",
);

const LEAST: Least = Least { before: 150, during: 10, after: 150 };
/// Of the topic, then of the consumer group; all of them take any number.
const REGISTERS: [&str; 4] = ["rate.messages", "rate.bytes", "consume.from", "lite.sub.client.quota"];
const OF_TOPIC: usize = 2;
const WRITERS_EACH: usize = 2;
/// Attributes that limit nothing: no message is sent here.
const BASE: Value = 1_000_000;
const PAUSE_MS: std::ops::Range<u64> = 2..40;

struct Log {
    zero: Instant,
    next: AtomicU64,
    registers: [Mutex<Vec<Operation>>; REGISTERS.len()],
}

impl Log {
    fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    fn push(&self, register: usize, operation: Operation) {
        self.registers[register].lock().expect("no holder panics").push(operation);
    }
}

pub(super) struct Registers {
    crew: Crew,
    log: Arc<Log>,
}

/// One client, which asks all nodes.
struct Client {
    nodes: Vec<Administration>,
    log: Arc<Log>,
    shared: Arc<Shared>,
    random: StdRng,
}

impl Registers {
    pub(super) fn start(scene: &Scene, seed: u64) -> Result<Self> {
        let log = Log { zero: Instant::now(), next: AtomicU64::new(BASE + 1), registers: Default::default() };
        let mut registers = Self { crew: Crew::default(), log: Arc::new(log) };
        let client = |number: usize, registers: &Self| Client {
            nodes: scene.administrations.clone(),
            log: registers.log.clone(),
            shared: registers.crew.shared.clone(),
            random: StdRng::seed_from_u64(seed ^ number as u64),
        };
        for number in 0..REGISTERS.len() * WRITERS_EACH {
            let writer = client(number, &registers);
            registers.crew.sender(writer.write(number % REGISTERS.len()));
        }
        for number in 0..scene.administrations.len() {
            let reader = client(100 + number, &registers);
            registers.crew.sender(reader.read());
        }
        Ok(registers)
    }
}

impl Client {
    async fn pause(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(PAUSE_MS))).await;
    }

    fn any_node(&mut self) -> Administration {
        self.nodes[self.random.random_range(0..self.nodes.len())].clone()
    }

    async fn write(mut self, register: usize) {
        while self.shared.sends() {
            let value = self.log.next.fetch_add(1, Ordering::Relaxed);
            let attributes = [(REGISTERS[register].to_owned(), value.to_string())].into();
            let mut node = self.any_node();
            self.shared.tally.begin();
            let called = self.log.now();
            let outcome = if register < OF_TOPIC {
                let name = Kind::Register.topic();
                let request = pb::PutTopicRequest { name, attributes, ..Default::default() };
                node.put_topic(request).await.map(drop)
            } else {
                let name = Kind::Register.consumers();
                let request = pb::PutConsumerGroupRequest { name, attributes, ..Default::default() };
                node.put_consumer_group(request).await.map(drop)
            };
            let answered = outcome.is_ok().then(|| self.log.now());
            self.log.push(register, Operation { writes: true, value, called, answered });
            if answered.is_some() {
                self.shared.tally.done();
            }
            self.pause().await;
        }
    }

    async fn read(mut self) {
        while self.shared.sends() {
            let mut node = self.any_node();
            let of_topic = self.random.random();
            self.shared.tally.begin();
            let called = self.log.now();
            let attributes = if of_topic { topic(&mut node).await } else { consumer_group(&mut node).await };
            let answered = Some(self.log.now());
            if let Ok(attributes) = attributes {
                let registers = if of_topic { 0..OF_TOPIC } else { OF_TOPIC..REGISTERS.len() };
                for register in registers {
                    // What is no number was written by nobody.
                    let read = attributes.get(REGISTERS[register]).map(|text| text.parse().unwrap_or(Value::MAX));
                    let value = read.unwrap_or(0);
                    self.log.push(register, Operation { writes: false, value, called, answered });
                }
                self.shared.tally.done();
            }
            self.pause().await;
        }
    }
}

type Attributes = std::collections::BTreeMap<String, String>;

async fn topic(node: &mut Administration) -> Result<Attributes> {
    let mut parts = node.list_topics(pb::ListTopicsRequest { stale: false }).await?.into_inner();
    let name = Kind::Register.topic();
    while let Some(part) = parts.message().await? {
        if let Some(topic) = part.topics.into_iter().find(|topic| topic.name == name) {
            return Ok(topic.attributes.into_iter().collect());
        }
    }
    anyhow::bail!("topic {name} is not in the list")
}

async fn consumer_group(node: &mut Administration) -> Result<Attributes> {
    let request = pb::GetConsumerGroupRequest { name: Kind::Register.consumers(), stale: false };
    let answer = node.get_consumer_group(request).await?.into_inner();
    Ok(answer.consumer_group.context("an answer without a consumer group")?.attributes.into_iter().collect())
}

#[tonic::async_trait(?Send)]
impl Running for Registers {
    async fn covered(&self, phase: Phase, limit: Duration) -> Result<()> {
        self.crew.shared.tally.reaches(phase, LEAST, limit).await
    }

    fn mark(&self, phase: Phase) {
        self.crew.shared.tally.mark(phase);
    }

    async fn finish(mut self: Box<Self>, _cluster: &Cluster) -> Result<Report> {
        self.crew.end_senders().await?;
        let mut verdicts = vec![("coverage", self.crew.shared.tally.coverage(LEAST))];
        let (mut answered, mut unknown) = (0, 0);
        for (name, register) in REGISTERS.into_iter().zip(&self.log.registers) {
            let history = std::mem::take(&mut *register.lock().expect("no holder panics"));
            answered += history.iter().filter(|operation| operation.answered.is_some()).count();
            unknown += history.iter().filter(|operation| operation.answered.is_none()).count();
            verdicts.push((name, linearizable(&history)));
            let writes = history.iter().filter(|operation| operation.writes && operation.answered.is_some()).count();
            if writes < 20 {
                verdicts.push((name, Verdict::Unknown(format!("{writes} changes were answered"))));
            }
        }
        let tally = &self.crew.shared.tally;
        Ok(Report { verdicts, summary: format!("{answered} answers, {unknown} changes without one; {tally}") })
    }
}
