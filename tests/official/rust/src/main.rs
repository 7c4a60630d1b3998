//! The official Rust client (`rocketmq` 5.0.0) against a running cluster: `official-rust SCENARIO ACCESS TOPIC GROUP COUNT`.
//! The last line on stdout is `RESULT` and a JSON object; `tests/tests/official*.rs` judge it.

mod apart;
mod carry;
mod common;
mod features;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{consumer, everything, producer, send_all, Failure, Task};

/// Every message that was sent comes exactly once to a group whose members acknowledge it.
async fn roundtrip(access: &str, topic: &str, group: &str, count: usize) -> Result<serde_json::Value, Failure> {
    let started = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let ack_failures = Arc::new(AtomicUsize::new(0));
    let mut receivers = Vec::new();
    for _ in 0..2 {
        let consumer = Arc::new(consumer(access, topic, group).await?);
        for _ in 0..4 {
            let (consumer, stop, seen, topic, ack_failures) =
                (consumer.clone(), stop.clone(), seen.clone(), topic.to_string(), ack_failures.clone());
            receivers.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let messages = consumer.receive_with(&topic, &everything(), 32, Duration::from_secs(30)).await?;
                    for message in messages {
                        let body = String::from_utf8(message.body().to_vec())?;
                        *seen.lock().expect("no holder panics").entry(body).or_default() += 1;
                        if consumer.ack(&message).await.is_err() {
                            ack_failures.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                Ok::<(), Failure>(())
            }));
        }
    }
    let producer = Arc::new(producer(access, topic).await?);
    send_all(producer.clone(), topic, count, 64).await?;
    let sent_after = started.elapsed();
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline && seen.lock().expect("no holder panics").len() < count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let received_after = started.elapsed();
    // One more poll of every receiver ends before this loop does: a duplicate in the making would show.
    stop.store(true, Ordering::Relaxed);
    for receiver in receivers {
        receiver.await??;
    }
    let seen = seen.lock().expect("no holder panics");
    let distinct = (0..count).filter(|sequence| seen.contains_key(&sequence.to_string())).count();
    let deliveries: usize = seen.values().sum();
    Ok(serde_json::json!({
        "sent": count, "distinct": distinct, "foreign": seen.len() - distinct, "deliveries": deliveries,
        "ack_failures": ack_failures.load(Ordering::Relaxed),
        "sent_ms": sent_after.as_millis() as u64, "received_ms": received_after.as_millis() as u64,
    }))
}

/// Messages that nobody acknowledges come back as attempt 2 after their invisible time and not before.
async fn redelivery(access: &str, topic: &str, group: &str, count: usize) -> Result<serde_json::Value, Failure> {
    let invisible = Duration::from_secs(10);
    let consumer = consumer(access, topic, group).await?;
    let producer = Arc::new(producer(access, topic).await?);
    send_all(producer, topic, count, 8).await?;
    let mut first: HashMap<String, (Instant, i32)> = HashMap::new();
    let mut gaps = Vec::new();
    let mut attempts = Vec::new();
    let mut repeated = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while gaps.len() < count && Instant::now() < deadline {
        let called = Instant::now();
        let messages = consumer.receive_with(topic, &everything(), 32, invisible).await?;
        for message in messages {
            let body = String::from_utf8(message.body().to_vec())?;
            match first.get(&body) {
                None => {
                    first.insert(body, (called, message.delivery_attempt()));
                }
                Some((leased, 1)) if message.delivery_attempt() == 2 => {
                    gaps.push(leased.elapsed().as_millis() as u64);
                    attempts.push(message.delivery_attempt());
                    consumer.ack(&message).await?;
                }
                Some(_) => repeated += 1,
            }
        }
    }
    Ok(serde_json::json!({
        "sent": count, "first": first.len(), "second": gaps.len(), "repeated": repeated, "attempts": attempts,
        "min_gap_ms": gaps.iter().min(), "max_gap_ms": gaps.iter().max(), "invisible_ms": invisible.as_millis() as u64,
    }))
}

/// Receives messages and acknowledges none of them, until the process is killed in the middle of a poll.
async fn hold(access: &str, topic: &str, group: &str) -> Result<serde_json::Value, Failure> {
    let consumer = consumer(access, topic, group).await?;
    println!("READY");
    let mut held = 0;
    loop {
        let messages = consumer.receive_with(topic, &everything(), 32, Duration::from_secs(10)).await?;
        held += messages.len();
        if !messages.is_empty() {
            println!("HELD {held}");
        }
    }
}

/// Acknowledges every message at once until it has `count` deliveries; tells the attempt of each.
async fn take(access: &str, topic: &str, group: &str, count: usize) -> Result<serde_json::Value, Failure> {
    let consumer = consumer(access, topic, group).await?;
    println!("READY");
    let mut seen: HashMap<(String, i32), usize> = HashMap::new();
    let mut deliveries = 0;
    while deliveries < count {
        for message in consumer.receive_with(topic, &everything(), 32, Duration::from_secs(30)).await? {
            let attempt = message.delivery_attempt();
            *seen.entry((String::from_utf8(message.body().to_vec())?, attempt)).or_default() += 1;
            consumer.ack(&message).await?;
            println!("TOOK {attempt}");
            deliveries += 1;
        }
    }
    Ok(serde_json::json!({ "distinct": seen.len(), "deliveries": deliveries }))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, access, topic, group, count] = arguments.as_slice() else {
        return Err("usage: official-rust SCENARIO ACCESS TOPIC GROUP COUNT".into());
    };
    let count = count.parse()?;
    let task = Task { access: access.clone(), topic: topic.clone(), group: group.clone(), count };
    let result = match scenario.as_str() {
        "roundtrip" => roundtrip(access, topic, group, count).await?,
        "redelivery" => redelivery(access, topic, group, count).await?,
        "send" => {
            send_all(Arc::new(producer(access, topic).await?), topic, count, 8).await?;
            serde_json::json!({ "sent": count })
        }
        "hold" => hold(access, topic, group).await?,
        "take" => take(access, topic, group, count).await?,
        "carry" => carry::carry(task).await?,
        "fifo-apart" => apart::fifo_apart(task).await?,
        "delay" => features::delay(task).await?,
        "transaction" => features::transaction(task).await?,
        "orphans" => features::orphans(task).await?,
        "fifo-simple" => features::fifo(task).await?,
        "dead-letter" => features::dead_letter(task).await?,
        "largest" => features::largest(task).await?,
        "unknown-topic" => features::unknown_topic(task).await?,
        other => return Err(format!("no scenario is called {other}").into()),
    };
    println!("RESULT {result}");
    // The client's own tasks need not end first.
    std::process::exit(0)
}
