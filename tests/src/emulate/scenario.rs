//! The scenarios that the programs around the official clients have, with an emulated client.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufRead,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use raftmq_proto::rocketmq as pb;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Habits,
    consumer::{Listener, PushConsumer, SimpleConsumer, View, intact},
    features,
    producer::{Draft, Producer},
};

/// How long a scenario waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

const SEND_IN_FLIGHT: u64 = 64;
const TAG: &str = "official";
/// How long a simple consumer's receive waits.
const WAIT: Duration = Duration::from_secs(5);
/// In `carry`, a send goes out this long after the last was answered.
const PAUSE: Duration = Duration::from_millis(20);

/// What a program was asked to do.
#[derive(Clone)]
pub struct Task {
    /// Of the client.
    pub habits: &'static Habits,
    /// Access point.
    pub access: String,
    /// Topic.
    pub topic: String,
    /// Consumer group.
    pub group: String,
    /// Number of messages, or of bytes.
    pub count: u64,
}

impl Task {
    /// A producer of the topic.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn producer(&self) -> Result<Producer> {
        Producer::start(self.habits, &self.access, &self.topic, None).await
    }

    /// A simple consumer of the topic.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn simple_consumer(&self) -> Result<SimpleConsumer> {
        SimpleConsumer::start(self.habits, &self.access, &self.topic, &self.group, WAIT).await
    }

    /// A push consumer of the topic.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub async fn push_consumer(
        &self,
        expression: &str,
        listener: impl Fn(&View) -> bool + Send + Sync + 'static,
    ) -> Result<PushConsumer> {
        let listener: Listener = Arc::new(listener);
        PushConsumer::start(self.habits, &self.access, &self.topic, &self.group, expression, listener).await
    }

    /// The message whose body is its sequence number.
    pub fn draft(&self, sequence: u64, tag: &'static str) -> Draft {
        let body = sequence.to_string().into_bytes();
        Draft { topic: self.topic.clone(), body, sequence: Some((sequence, tag)), ..Default::default() }
    }

    /// Sends every message, several at a time.
    ///
    /// # Errors
    ///
    /// One of them fails.
    pub async fn send_all(&self) -> Result<()> {
        let producer = self.producer().await?;
        let next = AtomicU64::new(0);
        let send = async || {
            let mut ids = Vec::new();
            loop {
                let sequence = next.fetch_add(1, Ordering::Relaxed);
                if sequence >= self.count {
                    return Ok::<_, anyhow::Error>(ids);
                }
                ids.push(producer.send(&self.draft(sequence, TAG)).await?.message_id().to_string());
            }
        };
        let ids = futures::future::try_join_all((0..SEND_IN_FLIGHT).map(|_| send())).await?.concat();
        ensure!(ids.iter().collect::<BTreeSet<_>>().len() as u64 == self.count, "two sends have one message id");
        producer.close().await;
        Ok(())
    }
}

/// Runs a scenario by name.
///
/// # Errors
///
/// There is none of this name, or it fails.
pub async fn run(scenario: &str, task: Task) -> Result<Value> {
    match scenario {
        "send" => task.send_all().await.map(|()| json!({ "sent": task.count })),
        "roundtrip" => roundtrip(task).await,
        "push" => push(task, "*", TAG).await,
        "filter" => push(task, "wanted || also", "wanted").await,
        "redelivery" => come_back(task, Duration::from_secs(10), None).await,
        "invisible" => come_back(task, Duration::from_secs(120), Some(Duration::from_secs(5))).await,
        "retry" => retry(task).await,
        "hold" => hold(task).await,
        "take" => take(task).await,
        "carry" => carry(task).await,
        "delay" => features::delay(task).await,
        "transaction" => features::transaction(task).await,
        "orphans" => features::orphans(task).await,
        "fifo" => features::fifo(task).await,
        "fifo-simple" => features::fifo_simple(task).await,
        "priority" => features::priority(task).await,
        "dead-letter" => features::dead_letter(task).await,
        "largest" => features::largest(task).await,
        "unknown-topic" => features::unknown_topic(task).await,
        other => bail!("no scenario is called {other}"),
    }
}

/// Waits until `condition` holds, and gives up after [`PATIENCE`].
pub async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lines that the test writes to stdin.
///
/// They are read on a thread of their own: nothing may wait for it when the program ends.
pub fn input() -> mpsc::UnboundedReceiver<String> {
    let (lines, read) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    read
}

/// What consumers got: deliveries by body, and what was not as it was sent.
#[derive(Default)]
pub struct Seen {
    bodies: BTreeMap<u64, u64>,
    wrong: Vec<String>,
}

impl Seen {
    /// Notes a delivery.
    pub fn note(&mut self, view: &View, tag: &str) {
        *self.bodies.entry(view.sequence()).or_default() += 1;
        if view.attempt() != 1 || !view.intact(tag) {
            self.wrong.push(format!("{:?}", view.message));
        }
    }

    /// Notes a half message that its producer was asked about, if it is not as it was sent.
    pub fn note_half(&mut self, half: &pb::Message, tag: &str) {
        if !intact(half, tag) {
            self.wrong.push(format!("{half:?}"));
        }
    }

    /// Different messages.
    pub fn distinct(&self) -> u64 {
        self.bodies.len() as u64
    }

    /// As it is judged.
    pub fn result(&self, sent: u64) -> Value {
        let distinct = self.bodies.range(..sent).count() as u64;
        let deliveries: u64 = self.bodies.values().sum();
        let wrong: Vec<_> = self.wrong.iter().take(3).collect();
        json!({
            "sent": sent, "distinct": distinct, "foreign": self.distinct() - distinct, "deliveries": deliveries,
            "wrong": wrong,
        })
    }
}

/// Two simple consumers with four receives each get and acknowledge all.
async fn roundtrip(task: Task) -> Result<Value> {
    let (seen, failures) = (Arc::new(Mutex::new(Seen::default())), Arc::new(Mutex::new(Vec::new())));
    let stop = Arc::new(AtomicBool::new(false));
    let consumers = [Arc::new(task.simple_consumer().await?), Arc::new(task.simple_consumer().await?)];
    let receivers: Vec<_> = (0..8)
        .map(|number| {
            let consumer = consumers[number % 2].clone();
            let (seen, failures, stop) = (seen.clone(), failures.clone(), stop.clone());
            tokio::spawn(async move {
                let receive = async || {
                    while !stop.load(Ordering::Relaxed) {
                        for view in consumer.receive(32, Duration::from_secs(30)).await? {
                            seen.lock().expect("no holder panics").note(&view, TAG);
                            consumer.ack(&view).await?;
                        }
                    }
                    Ok::<_, anyhow::Error>(())
                };
                if let Err(failure) = receive().await {
                    failures.lock().expect("no holder panics").push(failure.to_string());
                }
            })
        })
        .collect();
    task.send_all().await?;
    until(|| seen.lock().expect("no holder panics").distinct() >= task.count).await;
    // Each ends its poll first: a duplicate in the making would show.
    stop.store(true, Ordering::Relaxed);
    for receiver in receivers {
        receiver.await?;
    }
    for consumer in consumers {
        consumer.close().await;
    }
    let mut result = seen.lock().expect("no holder panics").result(task.count);
    result["failures"] = json!(*failures.lock().expect("no holder panics"));
    Ok(result)
}

/// A push consumer that asked for `expression` gets what has this tag and finishes it; where only one of several tags was
/// asked for, as many messages have another.
async fn push(task: Task, expression: &str, tag: &'static str) -> Result<Value> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let noting = seen.clone();
    let consumer = task.push_consumer(expression, move |view| {
        noting.lock().expect("no holder panics").note(view, tag);
        true
    });
    let consumer = consumer.await?;
    if tag == TAG {
        task.send_all().await?;
    } else {
        let producer = task.producer().await?;
        for sequence in 0..task.count {
            producer.send(&task.draft(sequence, tag)).await?;
            producer.send(&task.draft(task.count + sequence, "other")).await?;
        }
    }
    until(|| seen.lock().expect("no holder panics").distinct() >= task.count).await;
    consumer.close().await;
    let seen = seen.lock().expect("no holder panics");
    Ok(seen.result(task.count))
}

/// What a consumer saw of messages that come twice.
#[derive(Default)]
struct Again {
    first: BTreeMap<u64, Instant>,
    gaps: BTreeMap<u64, u128>,
    repeated: u64,
}

impl Again {
    /// Whether this is its second coming; `since` is when its first began.
    fn second(&mut self, view: &View, since: Instant) -> bool {
        let sequence = view.sequence();
        let began = self.first.get(&sequence).copied();
        match (view.attempt(), began) {
            (1, None) => {
                self.first.insert(sequence, since);
                return false;
            }
            (2, Some(began)) if !self.gaps.contains_key(&sequence) => {
                self.gaps.insert(sequence, began.elapsed().as_millis());
                return true;
            }
            _ => self.repeated += 1,
        }
        false
    }

    fn result(&self, sent: u64) -> Value {
        json!({
            "sent": sent, "first": self.first.len(), "second": self.gaps.len(), "repeated": self.repeated,
            "min_gap_ms": self.gaps.values().min().map(|gap| *gap as u64),
            "max_gap_ms": self.gaps.values().max().map(|gap| *gap as u64),
        })
    }
}

/// Messages that a simple consumer leaves come back when their lease ends, or when it was last told to.
async fn come_back(task: Task, received_for: Duration, changed_to: Option<Duration>) -> Result<Value> {
    let consumer = task.simple_consumer().await?;
    task.send_all().await?;
    let mut again = Again::default();
    let deadline = Instant::now() + PATIENCE;
    while (again.gaps.len() as u64) < task.count && Instant::now() < deadline {
        let called = Instant::now();
        for view in consumer.receive(32, received_for).await? {
            let since = if changed_to.is_some() { Instant::now() } else { called };
            if again.second(&view, since) {
                consumer.ack(&view).await?;
            } else if let Some(last) = changed_to {
                consumer.change_invisible(&view, Duration::from_secs(300)).await?;
                consumer.change_invisible(&view, last).await?;
            }
        }
    }
    consumer.close().await;
    let mut result = again.result(task.count);
    result["invisible_ms"] = json!(changed_to.unwrap_or(received_for).as_millis() as u64);
    Ok(result)
}

/// Messages that a push consumer fails once come back to it as attempt 2.
async fn retry(task: Task) -> Result<Value> {
    let again = Arc::new(Mutex::new(Again::default()));
    let noting = again.clone();
    let fails_once = move |view: &View| noting.lock().expect("no holder panics").second(view, Instant::now());
    let consumer = task.push_consumer("*", fails_once).await?;
    task.send_all().await?;
    until(|| again.lock().expect("no holder panics").gaps.len() as u64 >= task.count).await;
    consumer.close().await;
    let again = again.lock().expect("no holder panics");
    Ok(again.result(task.count))
}

/// A push consumer that holds `count` messages until its process is killed.
async fn hold(task: Task) -> Result<Value> {
    let held = AtomicU64::new(0);
    let holding = move |_: &View| {
        println!("HELD {}", held.fetch_add(1, Ordering::Relaxed) + 1);
        loop {
            std::thread::park();
        }
    };
    let _consumer = task.push_consumer("*", holding).await?;
    input().recv().await.context("stdin ended")?;
    Ok(json!({}))
}

/// A push consumer that finishes `count` messages: what another member of its group left.
async fn take(task: Task) -> Result<Value> {
    let taken = Arc::new(Mutex::new((BTreeMap::new(), 0)));
    let noting = taken.clone();
    let consumer = task.push_consumer("*", move |view| {
        let mut taken = noting.lock().expect("no holder panics");
        taken.0.insert(view.sequence(), view.attempt());
        taken.1 += 1;
        true
    });
    let consumer = consumer.await?;
    println!("READY");
    let deadline = Instant::now() + Duration::from_secs(90);
    while (taken.lock().expect("no holder panics").0.len() as u64) < task.count && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("TAKEN");
    consumer.close().await;
    let taken = taken.lock().expect("no holder panics");
    let attempts: BTreeSet<_> = taken.0.values().collect();
    Ok(json!({ "distinct": taken.0.len(), "deliveries": taken.1, "attempts": attempts }))
}

/// The longest time between two of many events, the time since the last one included.
struct Gap {
    last: Instant,
    longest: Duration,
}

impl Gap {
    fn new() -> Self {
        Self { last: Instant::now(), longest: Duration::ZERO }
    }

    fn event(&mut self) {
        *self = Self { last: Instant::now(), longest: self.longest() };
    }

    fn longest(&self) -> Duration {
        self.longest.max(self.last.elapsed())
    }
}

struct Carried {
    sent: BTreeSet<u64>,
    seen: Seen,
    failed: u64,
    writes: Gap,
    reads: Gap,
}

impl Carried {
    fn so_far(&self) -> Value {
        json!({
            "sent": self.sent.len(), "came": self.seen.distinct(), "failed": self.failed,
            "send_gap_ms": self.writes.longest().as_millis() as u64,
            "read_gap_ms": self.reads.longest().as_millis() as u64,
        })
    }

    fn missing(&self) -> usize {
        self.sent.iter().filter(|sequence| !self.seen.bodies.contains_key(sequence)).count()
    }
}

/// Sends and consumes without a pause, says UNDER_LOAD once `count` went through, and then answers each line on stdin
/// with how far it is: after "mark" the gaps count anew, and "end" ends the sends. What was answered OK must come; a
/// send may fail, which is told.
async fn carry(task: Task) -> Result<Value> {
    let (seen, sent) = (Seen::default(), BTreeSet::new());
    let carried = Carried { sent, seen, failed: 0, writes: Gap::new(), reads: Gap::new() };
    let carried = Arc::new(Mutex::new(carried));
    let noting = carried.clone();
    let consumer = task.push_consumer("*", move |view| {
        let mut carried = noting.lock().expect("no holder panics");
        carried.seen.note(view, TAG);
        carried.reads.event();
        true
    });
    let _consumer = consumer.await?;
    let producer = Arc::new(task.producer().await?);
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let send = |_| {
        let (task, producer, carried) = (task.clone(), producer.clone(), carried.clone());
        let (next, stop) = (next.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let sequence = next.fetch_add(1, Ordering::Relaxed);
                let outcome = producer.send(&task.draft(sequence, TAG)).await;
                {
                    let mut carried = carried.lock().expect("no holder panics");
                    match outcome {
                        Ok(_) => {
                            carried.sent.insert(sequence);
                            carried.writes.event();
                        }
                        Err(failure) => {
                            carried.failed += 1;
                            eprintln!("send: {failure:#}");
                        }
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        })
    };
    let senders: Vec<_> = (0..4).map(send).collect();
    until(|| {
        let carried = carried.lock().expect("no holder panics");
        carried.sent.len() as u64 >= task.count && carried.seen.distinct() >= task.count
    })
    .await;
    println!("UNDER_LOAD");
    let mut input = input();
    while let Some(word) = input.recv().await.filter(|word| word != "end") {
        let mut carried = carried.lock().expect("no holder panics");
        println!("SO_FAR {}", carried.so_far());
        if word == "mark" {
            (carried.writes, carried.reads) = (Gap::new(), Gap::new());
        }
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await?;
    }
    until(|| carried.lock().expect("no holder panics").missing() == 0).await;
    let carried = carried.lock().expect("no holder panics");
    let mut result = carried.so_far();
    result["missing"] = json!(carried.missing());
    result["deliveries"] = json!(carried.seen.bodies.values().sum::<u64>());
    Ok(result)
}
