//! Messages that wait, for their delivery time or for the end of their transaction, and messages that are sent again:
//! through the death of a leader and of all nodes at once. Real processes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use raftmq_proto::rocketmq::{self as pb};
use raftmq_tests::client::{Consumer, Producer, eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::oracle::message_id;

/// A message whose delivery died with a node comes again after this.
const LEASE: Duration = Duration::from_secs(12);
/// Whatever is there comes within this.
const COMES: Duration = Duration::from_secs(30);

async fn cluster_with(topic: &str, message_type: &str) -> Result<Cluster> {
    let mut cluster = Cluster::start(Options::default()).await?;
    let arguments = ["updateTopic", "-c", "RaftCluster", "-t", topic, "-r", "4", "-w", "4", "-a"];
    let kind = format!("+message.type={message_type}");
    let made = async || {
        let output = cluster.mqadmin(&[&arguments[..], &[&kind]].concat()).await;
        output.is_ok_and(|output| output.status.success())
    };
    eventually("mqadmin makes the topic", LEADER_WITHIN, made).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    Ok(cluster)
}

fn of_type(mut message: pb::Message, message_type: pb::MessageType) -> pb::Message {
    message.system_properties.get_or_insert_default().message_type = message_type.into();
    message
}

/// When each message came, by its id, and how often.
type Came = Arc<Mutex<BTreeMap<String, Vec<SystemTime>>>>;

/// Receives and acknowledges until it is dropped.
async fn consume(access: Vec<SocketAddr>, topic: &'static str, came: Came) -> Result<()> {
    let consumer = Consumer::new(&access, "those-who-wait", topic, "*", false)?;
    loop {
        match consumer.receive(topic, 32, LEASE, Duration::from_secs(5)).await {
            Ok(deliveries) => {
                let now = SystemTime::now();
                for delivery in &deliveries {
                    let mut came = came.lock().expect("no holder panics");
                    came.entry(delivery.message_id().to_owned()).or_default().push(now);
                }
                futures::future::join_all(deliveries.iter().map(|delivery| consumer.ack(delivery))).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// An acknowledgement may be lost with a node; then a message comes again, and not before its lease ends.
fn no_earlier_than_its_lease(id: &str, times: &[SystemTime]) -> Result<()> {
    for pair in times.windows(2) {
        let apart = pair[1].duration_since(pair[0]).unwrap_or_default();
        // The lease began when the server made it.
        ensure!(apart + Duration::from_secs(1) > LEASE, "{id} came again {apart:?} after it came");
    }
    Ok(())
}

/// Sends until it is stored.
async fn send(producer: &Producer, topic: &str, message: pb::Message) -> Result<pb::SendResultEntry> {
    let deadline = Instant::now() + LEADER_WITHIN;
    loop {
        match producer.send_messages(topic, vec![message.clone()]).await {
            Ok(mut sent) => return sent.entries.pop().context("an entry a message"),
            Err(failure) => ensure!(failure.last.may_pass() && Instant::now() < deadline, "{failure}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_messages_come_at_their_time_through_the_death_of_a_leader_and_of_all_nodes() -> Result<()> {
    const TOPIC: &str = "later";
    let mut cluster = cluster_with(TOPIC, "DELAY").await?;
    let access = cluster.access(0);
    let producer = Producer::new(&access, &[TOPIC])?;
    let came = Came::default();
    let readers: Vec<_> = (0..2).map(|_| tokio::spawn(consume(access.clone(), TOPIC, came.clone()))).collect();

    // From half a second to nine seconds from now; the leader dies after two, all nodes after five.
    let start = SystemTime::now();
    let at = |number: u64| start + Duration::from_millis(500 + 85 * number);
    let mut handles = BTreeMap::new();
    for number in 0..100 {
        let mut message = of_type(message(TOPIC, &message_id(number), None, "later".into()), pb::MessageType::Delay);
        message.system_properties.get_or_insert_default().delivery_timestamp = Some(at(number).into());
        let entry = send(&producer, TOPIC, message).await?;
        ensure!(!entry.recall_handle.is_empty() || at(number) < SystemTime::now(), "no recall handle: {entry:?}");
        handles.insert(number, entry.recall_handle);
    }
    let mut recalled = BTreeSet::new();
    let recall = async |number: u64| producer.recall(TOPIC, &handles[&number]).await;
    for number in (60..100).step_by(4) {
        recall(number).await?;
        recalled.insert(message_id(number));
    }
    recall(60).await.context("asked again, because the answer was lost")?;

    let until = |millis: u64| {
        let left = (start + Duration::from_millis(millis)).duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep(left)
    };
    until(2_000).await;
    let leader = cluster.leader(0).await?;
    cluster.kill(leader);
    let next = cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;
    ensure!(next != leader);
    cluster.start_node(leader)?;
    for number in (62..100).step_by(4) {
        recall(number).await.with_context(|| format!("recall of {number} by another leader"))?;
        recalled.insert(message_id(number));
    }
    until(5_000).await;
    cluster.kill_at_once(&[0, 1, 2])?;
    (0..3).try_for_each(|node| cluster.start_node(node))?;
    cluster.leader(0).await?;

    let wanted: BTreeSet<_> = (0..100).map(message_id).filter(|id| !recalled.contains(id)).collect();
    let all = async || {
        let came = came.lock().expect("no holder panics");
        wanted.iter().all(|id| came.contains_key(id))
    };
    eventually("all that was not recalled comes", COMES, all).await?;
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    let came = came.lock().expect("no holder panics");
    let mut latest = Duration::ZERO;
    for number in 0..100 {
        let (id, due) = (message_id(number), at(number));
        let times = came.get(&id).map(Vec::as_slice).unwrap_or_default();
        ensure!(times.is_empty() == recalled.contains(&id), "message {number} was recalled, and came: {times:?}");
        let Some(first) = times.first() else { continue };
        no_earlier_than_its_lease(&id, times)?;
        let late = first.duration_since(due).with_context(|| format!("message {number} came before its time"))?;
        latest = latest.max(late);
    }
    println!("the latest message came {latest:?} after its time; {} were recalled", recalled.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_ends_once_through_the_death_of_a_leader_and_of_all_nodes() -> Result<()> {
    const TOPIC: &str = "ledger";
    let mut cluster = cluster_with(TOPIC, "TRANSACTION").await?;
    let access = cluster.access(0);
    let producer = Producer::new(&access, &[TOPIC])?;
    let came = Came::default();
    let reader = tokio::spawn(consume(access.clone(), TOPIC, came.clone()));
    let mut halves = BTreeMap::new();
    for number in 0..60 {
        let half = of_type(message(TOPIC, &message_id(number), None, "half".into()), pb::MessageType::Transaction);
        halves.insert(number, send(&producer, TOPIC, half).await?);
    }
    // By what remains of a division by three: committed, rolled back, left open.
    let end = async |number: u64, commit: bool| producer.end(TOPIC, &halves[&number], commit).await;
    let end_all = async |numbers: std::ops::Range<u64>| -> Result<()> {
        for number in numbers.filter(|number| number % 3 < 2) {
            end(number, number % 3 == 0).await.with_context(|| format!("end of {number}"))?;
        }
        Ok(())
    };
    end_all(0..20).await?;
    let leader = cluster.leader(0).await?;
    cluster.kill(leader);
    end_all(15..40).await.context("with another leader")?;
    cluster.start_node(leader)?;
    cluster.kill_at_once(&[0, 1, 2])?;
    (0..3).try_for_each(|node| cluster.start_node(node))?;
    cluster.leader(0).await?;
    end_all(0..60).await.context("after all nodes were killed")?;

    // The first end counts.
    for (number, commit) in [(0, false), (1, true)] {
        let failure = end(number, commit).await.err().context("the other end of a transaction that was ended")?;
        ensure!(!failure.may_pass(), "{failure}");
    }
    let committed: BTreeSet<_> = (0..60).filter(|number| number % 3 == 0).map(message_id).collect();
    let all = async || committed.iter().all(|id| came.lock().expect("no holder panics").contains_key(id));
    eventually("what was committed comes", COMES, all).await?;
    // What was stored after all of it comes after all of it: nothing else is on its way.
    let last = of_type(message(TOPIC, &message_id(99), None, "half".into()), pb::MessageType::Transaction);
    let last = send(&producer, TOPIC, last).await?;
    producer.end(TOPIC, &last, true).await?;
    let end = async || came.lock().expect("no holder panics").contains_key(&message_id(99));
    eventually("the last one comes", COMES, end).await?;
    reader.abort();
    let came = came.lock().expect("no holder panics");
    for (id, times) in came.iter() {
        ensure!(committed.contains(id) || *id == message_id(99), "{id} was not committed, and came");
        no_earlier_than_its_lease(id, times)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_sent_again_is_stored_once() -> Result<()> {
    const TOPIC: &str = "again";
    let mut cluster = cluster_with(TOPIC, "NORMAL").await?;
    let access = cluster.access(0);
    let producer = Producer::new(&access, &[TOPIC])?;
    let numbered = |number: u64, body: &'static str| message(TOPIC, &message_id(number), Some("tag"), body.into());
    let mut offsets = BTreeMap::new();
    for number in 0..40 {
        offsets.insert(number, send(&producer, TOPIC, numbered(number, "body")).await?.offset);
    }
    let check = async |why: &str| -> Result<()> {
        for (number, offset) in &offsets {
            let again = send(&producer, TOPIC, numbered(*number, "body")).await?;
            ensure!(again.offset == *offset, "{why}: {number} was at {offset}, and is at {}", again.offset);
        }
        Ok(())
    };
    check("at once").await?;
    let leader = cluster.leader(0).await?;
    cluster.kill(leader);
    check("by another leader").await?;
    cluster.start_node(leader)?;
    cluster.kill_at_once(&[0, 1, 2])?;
    (0..3).try_for_each(|node| cluster.start_node(node))?;
    cluster.leader(0).await?;
    check("after all nodes were killed").await?;
    // The id of another message.
    send(&producer, TOPIC, numbered(7, "other body")).await?;

    let came = Came::default();
    let reader = tokio::spawn(consume(access.clone(), TOPIC, came.clone()));
    let total = || came.lock().expect("no holder panics").values().map(Vec::len).sum::<usize>();
    eventually("all come", COMES, async || total() >= 41).await?;
    send(&producer, TOPIC, numbered(99, "body")).await?;
    let end = async || came.lock().expect("no holder panics").contains_key(&message_id(99));
    eventually("the last one comes", COMES, end).await?;
    reader.abort();
    ensure!(total() == 42, "{} messages came, of 42", total());
    Ok(())
}

/// A delay level stands for another time each time that its message is sent: the first one counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_a_delay_level_is_stored_once() -> Result<()> {
    const TOPIC: &str = "levels";
    let cluster = cluster_with(TOPIC, "DELAY").await?;
    let access = cluster.access(0);
    let producers = access.iter().map(|node| Producer::new(&[*node], &[TOPIC])).collect::<Result<Vec<_>>>()?;
    let with_level = |number: u64, level: &str| {
        let mut message = message(TOPIC, &message_id(number), None, "level".into());
        message.user_properties.insert("DELAY".to_owned(), level.to_owned());
        message
    };
    // After 10 s and after 1 s; by each node, a second apart.
    let (mut far, mut near) = (BTreeSet::new(), BTreeSet::new());
    for producer in &producers {
        far.insert(send(producer, TOPIC, with_level(1, "3")).await?.recall_handle);
        near.insert(send(producer, TOPIC, with_level(2, "1")).await?.recall_handle);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    ensure!(far.len() == 1 && near.len() == 1, "a message that was sent again has another handle: {far:?} {near:?}");
    let handle = far.pop_first().context("it waits")?;
    ensure!(!handle.is_empty() && !near.contains(""), "what waits has a handle");
    producers[2].recall(TOPIC, &handle).await?;
    // The id of another message: it waits for longer.
    send(&producers[0], TOPIC, with_level(2, "2")).await?;
    send(&producers[1], TOPIC, with_level(3, "4")).await?;

    let came = Came::default();
    let reader = tokio::spawn(consume(access, TOPIC, came.clone()));
    // After 30 s, when everything else is due too.
    let end = async || came.lock().expect("no holder panics").contains_key(&message_id(3));
    eventually("the last one comes", COMES * 2, end).await?;
    reader.abort();
    let came = came.lock().expect("no holder panics");
    let counts: Vec<_> = came.iter().map(|(id, times)| (id.clone(), times.len())).collect();
    ensure!(counts == [(message_id(2), 2), (message_id(3), 1)], "what came, how often: {counts:?}");
    Ok(())
}
