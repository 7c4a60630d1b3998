//! Message groups that two broker groups keep, one of which is down for a while.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::MessageBuilder;
use rocketmq::Producer;
use serde_json::{json, Value};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::common::{consumer, numbered, producer, sequence_of, until, Failure, Task, PATIENCE};

const MESSAGE_GROUPS: usize = 12;

/// Whether the tag of a message is the one that the consumer subscribes to: of the messages of a message group the second
/// of each three has another one.
fn wanted(sequence: &usize) -> bool {
    sequence / MESSAGE_GROUPS % 3 != 1
}

type Orders = Arc<Mutex<Vec<Vec<usize>>>>;

async fn send(producer: &Producer, topic: &str, sequence: usize) -> Result<(), Failure> {
    let builder = MessageBuilder::builder().set_message_group(format!("group-{}", sequence % MESSAGE_GROUPS));
    let tag = if wanted(&sequence) { "official" } else { "other" };
    producer.send(numbered(builder, topic, sequence).set_tag(tag).build()?).await?;
    Ok(())
}

async fn send_until_taken(producer: &Producer, topic: &str, sequence: usize) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(failure) = send(producer, topic, sequence).await {
        eprintln!("{failure}");
        if Instant::now() > deadline {
            return Err(failure);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn receive(task: &Task, orders: &Orders) -> Result<(), Failure> {
    let consumer = consumer(&task.access, &task.topic, &task.group).await?;
    let (topic, orders) = (task.topic.clone(), orders.clone());
    let filter = FilterExpression::new(FilterType::Tag, "official");
    tokio::spawn(async move {
        loop {
            let outcome = async {
                for message in consumer.receive_with(&topic, &filter, 32, Duration::from_secs(10)).await? {
                    let sequence = sequence_of(&message)?;
                    orders.lock().expect("no holder panics")[sequence % MESSAGE_GROUPS].push(sequence);
                    consumer.ack(&message).await?;
                }
                Ok::<(), Failure>(())
            };
            if let Err(failure) = outcome.await {
                // A queue of the broker group that is down, and it is another one's turn.
                eprintln!("{failure}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    Ok(())
}

/// Sends `count` messages before and `count` while one broker group is down, until the test says that it is back: a
/// message that is refused, and those that follow it in its message group, are sent then.
pub async fn fifo_apart(task: Task) -> Result<Value, Failure> {
    let orders: Orders = Arc::new(Mutex::new(vec![Vec::new(); MESSAGE_GROUPS]));
    receive(&task, &orders).await?;
    let producer = Arc::new(producer(&task.access, &task.topic).await?);
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    for sequence in 0..task.count {
        send_until_taken(&producer, &task.topic, sequence).await?;
    }
    println!("HALF");
    input.next_line().await?;
    // Clients wait seconds for a node that is down, so that the message groups are sent at the same time.
    let mut senders = tokio::task::JoinSet::new();
    for first in task.count..task.count + MESSAGE_GROUPS {
        let (producer, topic) = (producer.clone(), task.topic.clone());
        senders.spawn(async move {
            let mut rest: Vec<usize> = (first..2 * task.count).step_by(MESSAGE_GROUPS).collect();
            while let Some(sequence) = rest.first() {
                if let Err(failure) = send(&producer, &topic, *sequence).await {
                    eprintln!("{failure}");
                    break;
                }
                rest.remove(0);
            }
            rest
        });
    }
    let mut held: Vec<usize> = senders.join_all().await.concat();
    held.sort_unstable();
    println!("HELD {}", held.len());
    input.next_line().await?;
    for sequence in &held {
        send_until_taken(&producer, &task.topic, *sequence).await?;
    }
    let came = || orders.lock().expect("no holder panics").iter().flatten().collect::<BTreeSet<_>>().len();
    let all = (0..2 * task.count).filter(wanted).count();
    until(async || came() >= all).await;
    let orders = orders.lock().expect("no holder panics").clone();
    Ok(json!({ "sent": 2 * task.count, "held": held.len(), "orders": orders }))
}
