//! Sending and consuming through whatever happens to the brokers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rocketmq::model::message::MessageBuilder;
use serde_json::{json, Value};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::common::{consumer, everything, numbered, producer, sequence_of, until, Failure, Task};

/// A send goes out this long after the last was answered.
const PAUSE: Duration = Duration::from_millis(20);

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

struct State {
    sent: BTreeSet<usize>,
    seen: BTreeMap<usize, usize>,
    failed: usize,
    writes: Gap,
    reads: Gap,
}

impl State {
    fn so_far(&self) -> Value {
        json!({
            "sent": self.sent.len(), "came": self.seen.len(), "failed": self.failed,
            "send_gap_ms": self.writes.longest().as_millis() as u64,
            "read_gap_ms": self.reads.longest().as_millis() as u64,
        })
    }

    fn missing(&self) -> usize {
        self.sent.iter().filter(|sequence| !self.seen.contains_key(sequence)).count()
    }
}

/// Sends and consumes without a pause, says UNDER_LOAD once `count` went through, and then answers each line on stdin
/// with how far it is: after "mark" the gaps count anew, and "end" ends the sends. What was answered OK must come; a
/// send may fail, which is told.
pub async fn carry(task: Task) -> Result<Value, Failure> {
    let state =
        State { sent: BTreeSet::new(), seen: BTreeMap::new(), failed: 0, writes: Gap::new(), reads: Gap::new() };
    let state = Arc::new(Mutex::new(state));
    let consumer = Arc::new(consumer(&task.access, &task.topic, &task.group).await?);
    for _ in 0..4 {
        let (consumer, state, topic) = (consumer.clone(), state.clone(), task.topic.clone());
        tokio::spawn(async move {
            loop {
                match consumer.receive_with(&topic, &everything(), 32, Duration::from_secs(10)).await {
                    Ok(messages) => {
                        for message in messages {
                            if let Ok(sequence) = sequence_of(&message) {
                                let mut state = state.lock().expect("no holder panics");
                                *state.seen.entry(sequence).or_default() += 1;
                                state.reads.event();
                            }
                            if let Err(failure) = consumer.ack(&message).await {
                                eprintln!("ack: {failure}");
                            }
                        }
                    }
                    Err(failure) => {
                        eprintln!("receive: {failure}");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
    }
    let producer = Arc::new(producer(&task.access, &task.topic).await?);
    let (next, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut senders = Vec::new();
    for _ in 0..4 {
        let (producer, state, topic) = (producer.clone(), state.clone(), task.topic.clone());
        let (next, stop) = (next.clone(), stop.clone());
        senders.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let sequence = next.fetch_add(1, Ordering::Relaxed);
                let message = numbered(MessageBuilder::builder(), &topic, sequence).build()?;
                let outcome = producer.send(message).await;
                {
                    let mut state = state.lock().expect("no holder panics");
                    match outcome {
                        Ok(_) => {
                            state.sent.insert(sequence);
                            state.writes.event();
                        }
                        Err(failure) => {
                            state.failed += 1;
                            eprintln!("send: {failure}");
                        }
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
            Ok::<(), Failure>(())
        }));
    }
    until(|| async {
        let state = state.lock().expect("no holder panics");
        state.sent.len() >= task.count && state.seen.len() >= task.count
    })
    .await;
    println!("UNDER_LOAD");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(word) = lines.next_line().await? {
        if word == "end" {
            break;
        }
        let mut state = state.lock().expect("no holder panics");
        println!("SO_FAR {}", state.so_far());
        if word == "mark" {
            (state.writes, state.reads) = (Gap::new(), Gap::new());
        }
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await??;
    }
    until(|| async { state.lock().expect("no holder panics").missing() == 0 }).await;
    let state = state.lock().expect("no holder panics");
    let mut result = state.so_far();
    result["missing"] = state.missing().into();
    result["deliveries"] = state.seen.values().sum::<usize>().into();
    Ok(result)
}
