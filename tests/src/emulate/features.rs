//! Message types and consumer features with an emulated client, one scenario each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use raftmq_proto::rocketmq as pb;
use serde_json::{Value, json};

use super::{
    consumer::{SimpleConsumer, View},
    producer::{Draft, Producer, now_ms},
    scenario::{PATIENCE, Seen, Task, input, until},
    session::Checker,
};

/// Messages of a FIFO scenario belong to so many message groups in turn; the second of the first group fails once.
const MESSAGE_GROUPS: u64 = 3;
const FAILS_ONCE: u64 = MESSAGE_GROUPS;
const PRIORITIES: u64 = 3;
const TOO_MANY_BYTES: usize = (4 << 20) + 1;
const TAG: &str = "official";

/// Receives, notes and acknowledges until `note` says that there is enough, or for as long as anybody has patience.
async fn receive_until(consumer: &SimpleConsumer, mut note: impl FnMut(&View) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut enough = false;
    while !enough && Instant::now() < deadline {
        for view in consumer.receive(32, Duration::from_secs(30)).await? {
            enough |= note(&view);
            consumer.ack(&view).await?;
        }
    }
    Ok(())
}

/// Messages come at their time and not before.
///
/// # Errors
///
/// A call failed.
pub async fn delay(task: Task) -> Result<Value> {
    let consumer = task.simple_consumer().await?;
    let producer = task.producer().await?;
    let start = now_ms() + 2000;
    let due = |sequence: u64| start + sequence as i64 * 100;
    for sequence in 0..task.count {
        producer.send(&Draft { delivery_ms: Some(due(sequence)), ..task.draft(sequence, TAG) }).await?;
    }
    let (mut came, mut lateness, mut repeated, mut wrong) = (BTreeSet::new(), Vec::new(), 0, 0);
    receive_until(&consumer, |view| {
        let sequence = view.sequence();
        lateness.push(now_ms() - due(sequence));
        repeated += u64::from(!came.insert(sequence));
        wrong += u64::from(view.delivery_ms() != Some(due(sequence)));
        came.len() as u64 >= task.count
    })
    .await?;
    Ok(json!({
        "sent": task.count, "recalled": 0, "came": came.len(), "recalled_came": 0, "repeated": repeated,
        "wrong_time": wrong, "earliest_ms": lateness.iter().min(), "latest_ms": lateness.iter().max(),
    }))
}

/// A third of the messages is committed, a third rolled back, a third left open: those may come only when the broker has
/// asked about them.
///
/// # Errors
///
/// A call failed.
pub async fn transaction(task: Task) -> Result<Value> {
    let consumer = task.simple_consumer().await?;
    let checked = Arc::new(AtomicU64::new(0));
    let counter = checked.clone();
    let checker: Checker = Arc::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        pb::TransactionResolution::Commit
    });
    let producer = Producer::start(task.habits, &task.access, &task.topic, Some(checker)).await?;
    for sequence in 0..task.count {
        let half = producer.send(&Draft { half: true, ..task.draft(sequence, TAG) }).await?;
        match sequence % 3 {
            0 => producer.end(&half, pb::TransactionResolution::Commit).await?,
            1 => producer.end(&half, pb::TransactionResolution::Rollback).await?,
            _ => {}
        }
    }
    let mut came: BTreeMap<u64, u64> = BTreeMap::new();
    let kind = |came: &BTreeMap<u64, u64>, kind| came.keys().filter(|sequence| **sequence % 3 == kind).count() as u64;
    let third = task.count / 3;
    receive_until(&consumer, |view| {
        *came.entry(view.sequence()).or_default() += 1;
        kind(&came, 0) >= third
    })
    .await?;
    Ok(json!({
        "sent": task.count, "committed_came": kind(&came, 0), "rolled_back_came": kind(&came, 1),
        "open_came": kind(&came, 2), "repeated": came.values().sum::<u64>() - came.len() as u64,
        "checked": checked.load(Ordering::Relaxed),
    }))
}

/// A producer that leaves its transactions open is asked about each of them. The half messages below `count` it commits
/// then, and as many others it rolls back.
///
/// # Errors
///
/// A call failed.
pub async fn orphans(task: Task) -> Result<Value> {
    let (seen, asked) = (Arc::new(Mutex::new(Seen::default())), Arc::new(Mutex::new(BTreeSet::new())));
    let noting = seen.clone();
    let listener = move |view: &View| {
        noting.lock().expect("no holder panics").note(view, TAG);
        true
    };
    let consumer = task.push_consumer("*", listener).await?;
    let (noting, asking, count) = (seen.clone(), asked.clone(), task.count);
    let checker: Checker = Arc::new(move |half| {
        noting.lock().expect("no holder panics").note_half(half, TAG);
        let sequence = std::str::from_utf8(&half.body).ok().and_then(|body| body.parse().ok()).unwrap_or(u64::MAX);
        asking.lock().expect("no holder panics").insert(sequence);
        if sequence < count { pb::TransactionResolution::Commit } else { pb::TransactionResolution::Rollback }
    });
    let producer = Producer::start(task.habits, &task.access, &task.topic, Some(checker)).await?;
    for sequence in 0..2 * count {
        producer.send(&Draft { half: true, ..task.draft(sequence, TAG) }).await?;
    }
    until(|| {
        asked.lock().expect("no holder panics").len() as u64 >= 2 * count
            && seen.lock().expect("no holder panics").distinct() >= count
    })
    .await;
    // It ends its polls first: what was to be rolled back would show.
    consumer.close().await;
    let mut result = seen.lock().expect("no holder panics").result(count);
    result["asked"] = json!(asked.lock().expect("no holder panics").len());
    Ok(result)
}

/// What came of each message group, in the order in which it came.
#[derive(Default)]
struct Orders {
    came: [Vec<u64>; MESSAGE_GROUPS as usize],
    ended: BTreeSet<u64>,
    failed: bool,
}

impl Orders {
    /// Whether the message is finished now.
    fn note(&mut self, view: &View) -> bool {
        let sequence = view.sequence();
        self.came[(sequence % MESSAGE_GROUPS) as usize].push(sequence);
        if sequence == FAILS_ONCE && !self.failed {
            self.failed = true;
            return false;
        }
        self.ended.insert(sequence)
    }

    fn whole(&self, count: u64) -> bool {
        self.ended.len() as u64 >= count
    }
}

async fn send_in_order(task: &Task) -> Result<()> {
    let producer = task.producer().await?;
    for sequence in 0..task.count {
        let message_group = Some(format!("group-{}", sequence % MESSAGE_GROUPS));
        producer.send(&Draft { message_group, ..task.draft(sequence, TAG) }).await?;
    }
    Ok(())
}

/// A push consumer gets each message group in order, and one that failed before its successors.
///
/// # Errors
///
/// A call failed.
pub async fn fifo(task: Task) -> Result<Value> {
    let orders = Arc::new(Mutex::new(Orders::default()));
    let noting = orders.clone();
    let listener = move |view: &View| noting.lock().expect("no holder panics").note(view);
    let _consumer = task.push_consumer("*", listener).await?;
    send_in_order(&task).await?;
    until(|| orders.lock().expect("no holder panics").whole(task.count)).await;
    let orders = orders.lock().expect("no holder panics");
    Ok(json!({ "sent": task.count, "orders": orders.came }))
}

/// The same with a simple consumer, which lets a message fail by making it visible soon.
///
/// # Errors
///
/// A call failed.
pub async fn fifo_simple(task: Task) -> Result<Value> {
    let consumer = task.simple_consumer().await?;
    send_in_order(&task).await?;
    let mut orders = Orders::default();
    let deadline = Instant::now() + PATIENCE;
    while !orders.whole(task.count) && Instant::now() < deadline {
        for view in consumer.receive(32, Duration::from_secs(30)).await? {
            if orders.note(&view) {
                consumer.ack(&view).await?;
            } else {
                consumer.change_invisible(&view, Duration::from_secs(1)).await?;
            }
        }
    }
    Ok(json!({ "sent": task.count, "orders": orders.came }))
}

/// Of messages that wait, those of the highest priority come first.
///
/// # Errors
///
/// A call failed.
pub async fn priority(task: Task) -> Result<Value> {
    let producer = task.producer().await?;
    for sequence in 0..task.count {
        let priority = Some((sequence % PRIORITIES) as i32);
        producer.send(&Draft { priority, ..task.draft(sequence, TAG) }).await?;
    }
    let mut came = Vec::new();
    receive_until(&task.simple_consumer().await?, |view| {
        came.push(view.sequence() % PRIORITIES);
        came.len() as u64 >= task.count
    })
    .await?;
    Ok(json!({ "sent": task.count, "priorities": came }))
}

/// Messages that always fail come as often as their consumer group says, and then to its dead letter topic.
///
/// # Errors
///
/// A call failed.
pub async fn dead_letter(task: Task) -> Result<Value> {
    let attempts: Arc<Mutex<BTreeMap<u64, Vec<i32>>>> = Arc::default();
    let noting = attempts.clone();
    let failing = move |view: &View| {
        noting.lock().expect("no holder panics").entry(view.sequence()).or_default().push(view.attempt());
        false
    };
    let _consumer = task.push_consumer("*", failing).await?;
    task.send_all().await?;
    // The broker says when there is a dead letter topic; a client would not wait for it.
    println!("FAILING");
    input().recv().await.context("stdin ended")?;
    let dead = Task { topic: format!("%DLQ%{}", task.group), group: format!("{}-dead", task.group), ..task.clone() };
    let mut letters = Seen::default();
    receive_until(&dead.simple_consumer().await?, |view| {
        letters.note(view, TAG);
        letters.distinct() >= task.count
    })
    .await?;
    let mut result = letters.result(task.count);
    result["attempts"] = json!(*attempts.lock().expect("no holder panics"));
    Ok(result)
}

/// What a call says that must not succeed; empty when it did.
fn refusal<T>(outcome: Result<T>) -> String {
    outcome.err().map(|failure| format!("{failure:#}")).unwrap_or_default()
}

/// A body of `count` bytes comes back as it was; one above the limit is refused, and nothing is stuck after it.
///
/// # Errors
///
/// A call failed.
pub async fn largest(task: Task) -> Result<Value> {
    let consumer = task.simple_consumer().await?;
    let producer = task.producer().await?;
    let body = |length: usize| b"0123456789abcdef".iter().copied().cycle().take(length).collect::<Vec<u8>>();
    let draft = |length| Draft { topic: task.topic.clone(), body: body(length), ..Default::default() };
    let error = refusal(producer.send(&draft(TOO_MANY_BYTES)).await);
    let length = usize::try_from(task.count)?;
    producer.send(&draft(length)).await?;
    let (mut came, mut whole) = (0, false);
    receive_until(&consumer, |view| {
        came += 1;
        whole = view.message.body == body(length);
        true
    })
    .await?;
    Ok(json!({ "came": came, "whole": whole, "error": error }))
}

/// A topic that does not exist is refused, and the producer goes on with one that does.
///
/// # Errors
///
/// A client does not start.
pub async fn unknown_topic(task: Task) -> Result<Value> {
    let producer = task.producer().await?;
    let unknown = Draft { topic: format!("{}-unknown", task.topic), body: b"nobody".to_vec(), ..Default::default() };
    let error = refusal(producer.send(&unknown).await);
    let after = refusal(producer.send(&task.draft(0, TAG)).await);
    Ok(json!({ "error": error, "after": after }))
}
