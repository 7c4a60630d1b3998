//! What this client offers of message types and consumer features, one scenario each. It has no recall, no push consumer,
//! no priorities and no change of an invisible duration: what fails is left alone until its lease ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rocketmq::conf::ProducerOption;
use rocketmq::model::message::{MessageBuilder, MessageView};
use rocketmq::model::transaction::{Transaction, TransactionResolution};
use rocketmq::{Producer, SimpleConsumer};
use serde_json::{json, Value};

use crate::common::{
    client_option, consumer, everything, numbered, producer, send_all, sequence_of, until, Failure, Task, PATIENCE,
};

/// Messages of a FIFO scenario belong to so many message groups in turn; the second of the first group fails once.
const MESSAGE_GROUPS: usize = 3;
const FAILS_ONCE: usize = MESSAGE_GROUPS;
const TOO_MANY_BYTES: usize = (4 << 20) + 1;
/// The shortest lease that brokers give.
const LEASE: Duration = Duration::from_secs(10);

/// Receives, notes and acknowledges what `note` does not want to fail, until it says that there is enough.
async fn receive_until(
    consumer: &SimpleConsumer,
    topic: &str,
    mut note: impl FnMut(&MessageView) -> Result<Verdict, Failure>,
) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let mut enough = false;
        for message in consumer.receive_with(topic, &everything(), 32, LEASE).await? {
            let verdict = note(&message)?;
            if verdict != Verdict::Fails {
                consumer.ack(&message).await?;
            }
            enough |= verdict == Verdict::Enough;
        }
        if enough {
            break;
        }
    }
    Ok(())
}

#[derive(PartialEq)]
enum Verdict {
    /// It is left alone, and comes again.
    Fails,
    /// It is acknowledged.
    More,
    /// It is acknowledged, and nothing else is waited for.
    Enough,
}

fn enough_if(enough: bool) -> Verdict {
    if enough {
        Verdict::Enough
    } else {
        Verdict::More
    }
}

fn now_ms() -> Result<i64, Failure> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// Messages come at their time and not before. The client sends whole seconds.
pub async fn delay(task: Task) -> Result<Value, Failure> {
    let consumer = consumer(&task.access, &task.topic, &task.group).await?;
    let producer = producer(&task.access, &task.topic).await?;
    let start = now_ms()? / 1000 + 3;
    let due = |sequence: usize| start + (sequence / 4) as i64;
    for sequence in 0..task.count {
        let builder = MessageBuilder::builder().set_delivery_timestamp(due(sequence));
        producer.send(numbered(builder, &task.topic, sequence).build()?).await?;
    }
    let (mut came, mut lateness, mut repeated, mut wrong) = (BTreeSet::new(), Vec::new(), 0, 0);
    receive_until(&consumer, &task.topic, |message| {
        let sequence = sequence_of(message)?;
        lateness.push(now_ms()? - due(sequence) * 1000);
        repeated += usize::from(!came.insert(sequence));
        wrong += usize::from(message.delivery_timestamp() != Some(due(sequence)));
        Ok(enough_if(came.len() >= task.count))
    })
    .await?;
    Ok(json!({
        "sent": task.count, "recalled": 0, "came": came.len(), "recalled_came": 0, "repeated": repeated,
        "wrong_time": wrong, "earliest_ms": lateness.iter().min(), "latest_ms": lateness.iter().max(),
    }))
}

/// A third of the messages is committed, a third rolled back, a third left open: those may come only when the broker has
/// asked about them.
pub async fn transaction(task: Task) -> Result<Value, Failure> {
    let consumer = consumer(&task.access, &task.topic, &task.group).await?;
    let checked = Arc::new(AtomicUsize::new(0));
    let counter = checked.clone();
    let mut option = ProducerOption::default();
    option.set_topics(vec![task.topic.as_str()]);
    let check = move |_: String, _: MessageView| {
        counter.fetch_add(1, Ordering::Relaxed);
        TransactionResolution::COMMIT
    };
    let mut producer = Producer::new_transaction_producer(option, client_option(&task.access), Box::new(check))?;
    producer.start().await?;
    for sequence in 0..task.count {
        let half = numbered(MessageBuilder::builder(), &task.topic, sequence).enable_transaction().build()?;
        let half = producer.send_transaction_message(half).await?;
        match sequence % 3 {
            0 => half.commit().await?,
            1 => half.rollback().await?,
            _ => {}
        }
    }
    let mut came: BTreeMap<usize, usize> = BTreeMap::new();
    let kind = |came: &BTreeMap<usize, usize>, kind| came.keys().filter(|sequence| **sequence % 3 == kind).count();
    let third = task.count / 3;
    receive_until(&consumer, &task.topic, |message| {
        *came.entry(sequence_of(message)?).or_default() += 1;
        Ok(enough_if(kind(&came, 0) >= third))
    })
    .await?;
    Ok(json!({
        "sent": task.count, "committed_came": kind(&came, 0), "rolled_back_came": kind(&came, 1),
        "open_came": kind(&came, 2), "repeated": came.values().sum::<usize>() - came.len(),
        "checked": checked.load(Ordering::Relaxed),
    }))
}

/// A producer that leaves its transactions open is asked about each of them. The half messages below `count` it commits
/// then, and as many others it rolls back.
pub async fn orphans(task: Task) -> Result<Value, Failure> {
    let consumer = consumer(&task.access, &task.topic, &task.group).await?;
    let count = task.count;
    let (asked, wrong) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(Mutex::new(Vec::new())));
    let (asking, odd) = (asked.clone(), wrong.clone());
    let mut option = ProducerOption::default();
    option.set_topics(vec![task.topic.as_str()]);
    let check = move |_: String, half: MessageView| {
        let sequence = sequence_of(&half).unwrap_or(usize::MAX);
        if !intact(&half) {
            odd.lock().expect("no holder panics").push(format!("{half:?}"));
        }
        asking.lock().expect("no holder panics").insert(sequence);
        if sequence < count {
            TransactionResolution::COMMIT
        } else {
            TransactionResolution::ROLLBACK
        }
    };
    let mut producer = Producer::new_transaction_producer(option, client_option(&task.access), Box::new(check))?;
    producer.start().await?;
    for sequence in 0..2 * count {
        let half = numbered(MessageBuilder::builder(), &task.topic, sequence).enable_transaction().build()?;
        producer.send_transaction_message(half).await?;
    }
    let (mut came, mut deliveries) = (BTreeSet::new(), 0);
    let mut note = |message: &MessageView| {
        deliveries += 1;
        came.insert(sequence_of(message)?);
        if message.delivery_attempt() != 1 || !intact(message) {
            wrong.lock().expect("no holder panics").push(format!("{message:?}"));
        }
        Ok::<_, Failure>(came.len())
    };
    receive_until(&consumer, &task.topic, |message| Ok(enough_if(note(message)? >= count))).await?;
    until(async || asked.lock().expect("no holder panics").len() >= 2 * count).await;
    // A poll more: what should not come would show.
    for message in consumer.receive_with(&task.topic, &everything(), 32, LEASE).await? {
        note(&message)?;
    }
    let distinct = came.range(..count).count();
    Ok(json!({
        "sent": count, "distinct": distinct, "foreign": came.len() - distinct, "deliveries": deliveries,
        "wrong": *wrong.lock().expect("no holder panics"), "asked": asked.lock().expect("no holder panics").len(),
    }))
}

fn intact(message: &MessageView) -> bool {
    let body = String::from_utf8_lossy(message.body());
    message.tag() == Some("official") && message.keys() == [format!("key-{body}")]
}

/// A simple consumer gets each message group in order, and one that failed before its successors.
pub async fn fifo(task: Task) -> Result<Value, Failure> {
    let consumer = consumer(&task.access, &task.topic, &task.group).await?;
    let producer = producer(&task.access, &task.topic).await?;
    for sequence in 0..task.count {
        let builder = MessageBuilder::builder().set_message_group(format!("group-{}", sequence % MESSAGE_GROUPS));
        producer.send(numbered(builder, &task.topic, sequence).build()?).await?;
    }
    let mut orders: [Vec<usize>; MESSAGE_GROUPS] = Default::default();
    let (mut ended, mut failed) = (BTreeSet::new(), false);
    receive_until(&consumer, &task.topic, |message| {
        let sequence = sequence_of(message)?;
        orders[sequence % MESSAGE_GROUPS].push(sequence);
        if sequence == FAILS_ONCE && !failed {
            failed = true;
            return Ok(Verdict::Fails);
        }
        ended.insert(sequence);
        Ok(enough_if(ended.len() >= task.count))
    })
    .await?;
    Ok(json!({ "sent": task.count, "orders": orders }))
}

/// Messages that nobody acknowledges come as often as their consumer group says, and then to its dead letter topic.
pub async fn dead_letter(task: Task) -> Result<Value, Failure> {
    let failing = consumer(&task.access, &task.topic, &task.group).await?;
    send_all(Arc::new(producer(&task.access, &task.topic).await?), &task.topic, task.count, 8).await?;
    println!("FAILING");
    let (dying, mut told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // The broker says when there is a dead letter topic; the client would not wait for it.
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = dying.send(());
    });
    let mut attempts: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
    while matches!(told.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
        for message in failing.receive_with(&task.topic, &everything(), 32, LEASE).await? {
            attempts.entry(sequence_of(&message)?).or_default().push(message.delivery_attempt());
        }
    }
    let (topic, group) = (format!("%DLQ%{}", task.group), format!("{}-dead", task.group));
    let letters = consumer(&task.access, &topic, &group).await?;
    let (mut came, mut deliveries, mut wrong) = (BTreeSet::new(), 0, Vec::new());
    receive_until(&letters, &topic, |message| {
        deliveries += 1;
        came.insert(sequence_of(message)?);
        if message.delivery_attempt() != 1 || message.tag() != Some("official") {
            wrong.push(format!("{message:?}"));
        }
        Ok(enough_if(came.len() >= task.count))
    })
    .await?;
    let distinct = came.iter().filter(|sequence| **sequence < task.count).count();
    Ok(json!({
        "sent": task.count, "distinct": distinct, "foreign": came.len() - distinct, "deliveries": deliveries,
        "wrong": wrong, "attempts": attempts,
    }))
}

/// What a call says that must not succeed; empty when it did.
fn refusal<T, E: std::fmt::Display>(outcome: Result<T, E>) -> String {
    outcome.err().map(|failure| failure.to_string()).unwrap_or_default()
}

/// A body of `count` bytes comes back as it was; one above the limit is refused, and nothing is stuck after it.
pub async fn largest(task: Task) -> Result<Value, Failure> {
    let consumer = consumer(&task.access, &task.topic, &task.group).await?;
    let producer = producer(&task.access, &task.topic).await?;
    let body = |length: usize| b"0123456789abcdef".iter().copied().cycle().take(length).collect::<Vec<u8>>();
    let message = |length| MessageBuilder::builder().set_topic(task.topic.as_str()).set_body(body(length)).build();
    let error = refusal(producer.send(message(TOO_MANY_BYTES)?).await);
    producer.send(message(task.count)?).await?;
    let (mut came, mut whole) = (0, false);
    receive_until(&consumer, &task.topic, |message| {
        came += 1;
        whole = message.body() == body(task.count);
        Ok(Verdict::Enough)
    })
    .await?;
    Ok(json!({ "came": came, "whole": whole, "error": error }))
}

/// A topic that does not exist is refused, and the producer goes on with one that does.
pub async fn unknown_topic(task: Task) -> Result<Value, Failure> {
    let producer = producer(&task.access, &task.topic).await?;
    let unknown = MessageBuilder::builder().set_topic(format!("{}-unknown", task.topic)).set_body(b"nobody".to_vec());
    let error = refusal(producer.send(unknown.build()?).await);
    let after = refusal(producer.send(numbered(MessageBuilder::builder(), &task.topic, 0).build()?).await);
    Ok(json!({ "error": error, "after": after }))
}
