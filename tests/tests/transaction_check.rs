//! Transactions that their producers leave open: who is asked about them, by which node, and what becomes of those that
//! nobody answers for. Real processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use raftmq_proto::admin::PutTopicRequest;
use raftmq_proto::rocketmq as pb;
use raftmq_tests::client::{Consumer, eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::oracle::message_id;
use raftmq_tests::session::Session;

const TOPIC: &str = "ledger";
/// First check and pause between two, as the clusters of these tests have them.
const FIRST_MS: u64 = 300;
const EVERY_MS: u64 = 1_000;
/// A check that is due is written within this.
const SOON: Duration = Duration::from_secs(6);
/// Long enough for several checks.
const A_WHILE: Duration = Duration::from_secs(3);

async fn cluster(options: Options, checks_max: u32, age_ms: u64) -> Result<Cluster> {
    let setting = |key: &str, value: u64| (key.to_owned(), value.to_string());
    let settings = vec![
        setting("transactionTimeOut", FIRST_MS),
        setting("transactionCheckInterval", EVERY_MS),
        setting("transactionCheckMax", checks_max.into()),
        setting("transactionMaxAge", age_ms),
    ];
    let mut cluster = Cluster::start(Options { settings, ..options }).await?;
    let leader = cluster.leader(0).await?;
    let topic = PutTopicRequest {
        name: TOPIC.to_owned(),
        attributes: [("message.type".to_owned(), "TRANSACTION".to_owned())].into(),
        ..PutTopicRequest::default()
    };
    cluster.admin_client(leader).await?.put_topic(topic).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    Ok(cluster)
}

fn half(number: u64) -> pb::Message {
    let mut half = message(TOPIC, &message_id(number), Some("paid"), format!("body of {number}").into());
    half.user_properties.insert("colour".to_owned(), "blue".to_owned());
    let system = half.system_properties.get_or_insert_default();
    system.message_type = pb::MessageType::Transaction.into();
    system.keys = vec![format!("key-{number}")];
    half
}

/// It is shown as it was sent, in a form that SDKs take.
fn shown_as_sent(asked: &pb::RecoverOrphanedTransactionCommand, number: u64, sent: &pb::SendResultEntry) -> Result<()> {
    let message = asked.message.clone().context("a message")?;
    let system = message.system_properties.context("system properties")?;
    ensure!(asked.transaction_id == sent.transaction_id, "{} is not {}", asked.transaction_id, sent.transaction_id);
    ensure!(message.topic.is_some_and(|topic| topic.name == TOPIC && topic.resource_namespace.is_empty()));
    ensure!(message.body == format!("body of {number}"));
    ensure!(message.user_properties.get("colour").is_some_and(|colour| colour == "blue"));
    ensure!(system.message_id == message_id(number) && system.tag() == "paid");
    ensure!(system.keys == [format!("key-{number}")]);
    ensure!(system.message_type() == pb::MessageType::Transaction);
    ensure!(system.receipt_handle.is_none() && system.born_timestamp.is_some() && system.store_timestamp.is_some());
    ensure!(system.body_digest.is_some_and(|digest| digest.checksum.len() == 32));
    Ok(())
}

/// How often each message was delivered.
type Came = Arc<Mutex<BTreeMap<String, usize>>>;

async fn consume(access: Vec<SocketAddr>, came: Came) -> Result<()> {
    let consumer = Consumer::new(&access, "readers-of-the-ledger", TOPIC, "*", false)?;
    loop {
        match consumer.receive(TOPIC, 32, Duration::from_secs(20), Duration::from_secs(5)).await {
            Ok(deliveries) => {
                for delivery in &deliveries {
                    let mut came = came.lock().expect("no holder panics");
                    *came.entry(delivery.message_id().to_owned()).or_default() += 1;
                }
                futures::future::join_all(deliveries.iter().map(|delivery| consumer.ack(delivery))).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn comes(came: &Came, number: u64) -> Result<()> {
    let come = async || came.lock().expect("no holder panics").contains_key(&message_id(number));
    eventually(&format!("message {number} comes"), Duration::from_secs(15), come).await
}

/// A leader and the others.
async fn roles(cluster: &mut Cluster) -> Result<(usize, usize, usize)> {
    let leader = cluster.leader(0).await?;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    Ok((leader, others[0], others[1]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sent_it_is_asked_first_and_then_another_producer_wherever_their_streams_end() -> Result<()> {
    let mut cluster = cluster(Options::default(), 100, 3_600_000).await?;
    let came = Came::default();
    let reader = tokio::spawn(consume(cluster.access(0), came.clone()));
    let (leader, near, far) = roles(&mut cluster).await?;
    let at = |node: usize| cluster.nodes[node].grpc;
    let mut sender = Session::producer(at(near), &[TOPIC]).await?;
    let mut other = Session::producer(at(far), &["something-else", TOPIC]).await?;
    let mut stranger = Session::producer(at(leader), &["something-else"]).await?;

    // One that says nothing is asked again, and no earlier than the interval.
    let sent = sender.send(half(1)).await?;
    let first = sender.asked(SOON).await?;
    shown_as_sent(&first, 1, &sent)?;
    let asked = Instant::now();
    let again = sender.asked(SOON).await?;
    ensure!(again == first, "{again:?} is not {first:?}");
    let apart = asked.elapsed();
    ensure!(apart >= Duration::from_millis(EVERY_MS * 8 / 10), "asked again after {apart:?}");
    sender.answer(&first, true).await?;
    comes(&came, 1).await?;

    let sent = sender.send(half(2)).await?;
    let asked = sender.asked(SOON).await?;
    shown_as_sent(&asked, 2, &sent)?;
    sender.answer(&asked, false).await?;
    ensure!(sender.told(A_WHILE).await?.is_none(), "asked about a transaction that it ended");
    ensure!(other.told(Duration::from_millis(10)).await?.is_none(), "asked though the sender is there");

    // The sender goes, once without a word and once with one.
    let left = [sender.send(half(3)).await?, sender.send(half(4)).await?];
    drop(sender);
    let mut asked = [other.asked(SOON).await?, other.asked(SOON).await?];
    asked.sort_by_key(|asked| asked.message.as_ref().map(|message| message.body.clone()));
    shown_as_sent(&asked[0], 3, &left[0])?;
    shown_as_sent(&asked[1], 4, &left[1])?;
    other.answer(&asked[0], true).await?;
    other.answer(&asked[1], false).await?;
    let mut third = Session::producer(at(leader), &[TOPIC]).await?;
    let sent = third.send(half(5)).await?;
    third.terminate().await?;
    let asked = other.asked(SOON).await?;
    shown_as_sent(&asked, 5, &sent)?;
    other.answer(&asked, true).await?;
    ensure!(third.told(Duration::from_millis(10)).await?.is_none(), "asked after it said that it ends");
    comes(&came, 3).await?;
    comes(&came, 5).await?;
    ensure!(stranger.told(Duration::from_millis(10)).await?.is_none(), "asked about a topic that it does not name");

    let listed = cluster.mqadmin(&["listHalfMessages", "-o", "json"]).await?;
    ensure!(String::from_utf8_lossy(&listed.stdout).trim() == "[]", "{listed:?}");
    reader.abort();
    let came = came.lock().expect("no holder panics");
    let expected: BTreeMap<_, _> = [1, 3, 5].map(|number| (message_id(number), 1)).into();
    ensure!(*came == expected, "{came:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_ended_once_though_the_leader_dies_between_question_and_answer() -> Result<()> {
    let mut cluster = cluster(Options::default(), 100, 3_600_000).await?;
    let came = Came::default();
    let reader = tokio::spawn(consume(cluster.access(0), came.clone()));
    let (leader, near, _) = roles(&mut cluster).await?;
    let mut sender = Session::producer(cluster.nodes[near].grpc, &[TOPIC]).await?;
    sender.send(half(1)).await?;
    sender.send(half(2)).await?;
    let mut questions = [sender.asked(SOON).await?, sender.asked(SOON).await?];
    questions.sort_by_key(|asked| asked.message.as_ref().map(|message| message.body.clone()));
    cluster.kill(leader);
    // One is answered while nobody leads, the other only when the next leader has asked again.
    let deadline = Instant::now() + LEADER_WITHIN;
    while let Err(error) = sender.answer(&questions[0], true).await {
        ensure!(Instant::now() < deadline, "{error:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;
    let deadline = Instant::now() + LEADER_WITHIN;
    let again = loop {
        let asked = sender.asked(SOON).await.context("another leader goes on asking")?;
        if asked == questions[1] {
            break asked;
        }
        ensure!(asked == questions[0] && Instant::now() < deadline, "{asked:?}");
    };
    sender.answer(&again, true).await?;
    cluster.start_node(leader)?;
    comes(&came, 1).await?;
    comes(&came, 2).await?;
    // What was on its way comes before this ends.
    while sender.told(A_WHILE).await?.is_some() {
        ensure!(Instant::now() < deadline + SOON, "it is asked on and on");
    }
    reader.abort();
    let came = came.lock().expect("no holder panics");
    ensure!(*came == [1, 2].map(|number| (message_id(number), 1)).into(), "{came:?}");
    Ok(())
}

/// What `mqadmin listHalfMessages` says: message id → (transaction id, checks, state).
async fn listed(cluster: &Cluster, more: &[&str]) -> Result<BTreeMap<String, (String, u64, String)>> {
    let output = cluster.mqadmin(&[&["listHalfMessages", "-t", TOPIC, "-o", "json"], more].concat()).await?;
    ensure!(output.status.success(), "{output:?}");
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let row = |row: &serde_json::Value| {
        let checks = row["checks"].as_u64().unwrap_or(u64::MAX);
        (text(row, "messageId"), (text(row, "transactionId"), checks, text(row, "state")))
    };
    Ok(rows.as_array().context("a list")?.iter().map(row).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_answers_for_is_parked_and_ended_by_hand() -> Result<()> {
    const CHECKS_MAX: u32 = 2;
    let mut cluster = cluster(Options::default(), CHECKS_MAX, 8_000).await?;
    let came = Came::default();
    let reader = tokio::spawn(consume(cluster.access(0), came.clone()));
    let (_, near, _) = roles(&mut cluster).await?;
    let start = Instant::now();
    let mut silent = Session::producer(cluster.nodes[near].grpc, &[TOPIC]).await?;
    silent.send(half(1)).await?;
    for _ in 0..CHECKS_MAX {
        silent.asked(SOON).await?;
    }
    ensure!(silent.told(A_WHILE).await?.is_none(), "asked more than {CHECKS_MAX} times");
    let asked = listed(&cluster, &["--parked"]).await?;
    ensure!(asked.get(&message_id(1)).is_some_and(|(_, checks, state)| *checks == 2 && state == "PARKED"), "{asked:?}");

    // Nobody at all to ask: it waits for its age, and no check is counted.
    silent.send(half(2)).await?;
    silent.send(half(3)).await?;
    let sent = Instant::now();
    drop(silent);
    let pending = listed(&cluster, &[]).await?;
    let is = |rows: &BTreeMap<_, (String, u64, String)>, number: u64, state: &str| {
        rows.get(&message_id(number)).is_some_and(|(_, checks, is)| *checks == 0 && is == state)
    };
    ensure!(is(&pending, 2, "PENDING") && is(&pending, 3, "PENDING"), "{pending:?} after {:?}", start.elapsed());
    let parked = async || listed(&cluster, &["--parked"]).await.is_ok_and(|rows| rows.len() == 3);
    eventually("all are parked", Duration::from_secs(15), parked).await?;
    let after = sent.elapsed();
    ensure!(after > Duration::from_secs(7), "parked {after:?} after they were sent");
    cluster.kill_at_once(&[0, 1, 2])?;
    (0..3).try_for_each(|node| cluster.start_node(node))?;
    cluster.leader(0).await?;
    let rows = listed(&cluster, &["--parked"]).await?;
    ensure!(rows.len() == 3 && is(&rows, 2, "PARKED") && is(&rows, 3, "PARKED"), "{rows:?}");
    // A new producer of the topic is not asked about them.
    let mut late = Session::producer(cluster.nodes[near].grpc, &[TOPIC]).await?;
    ensure!(late.told(A_WHILE).await?.is_none(), "asked about a parked transaction");

    let end = async |number: u64, resolution: &str| {
        let id = &rows[&message_id(number)].0;
        cluster.mqadmin(&["endTransaction", "-t", TOPIC, "-i", id, "-r", resolution]).await
    };
    for (number, resolution, works) in
        [(1, "rollback", true), (2, "commit", true), (2, "commit", true), (2, "rollback", false), (1, "commit", false)]
    {
        let output = end(number, resolution).await?;
        ensure!(output.status.success() == works, "{resolution} of {number}: {output:?}");
    }
    comes(&came, 2).await?;
    let unknown = cluster.mqadmin(&["endTransaction", "-t", TOPIC, "-i", "nonsense", "-r", "commit"]).await?;
    ensure!(!unknown.status.success(), "{unknown:?}");
    let left = listed(&cluster, &[]).await?;
    ensure!(left.keys().eq([&message_id(3)]), "{left:?}");
    reader.abort();
    let came = came.lock().expect("no holder panics");
    ensure!(*came == [(message_id(2), 1)].into(), "{came:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_its_producer_does_not_read_is_put_to_another() -> Result<()> {
    let mut cluster = cluster(Options::default(), 1, 3_600_000).await?;
    let (_, near, far) = roles(&mut cluster).await?;
    let sender = Session::producer(cluster.nodes[near].grpc, &[TOPIC]).await?;
    // More than fits into the windows of a stream that nobody reads.
    let body = vec![b'x'; 3 << 20];
    let sent = sender.send(pb::Message { body: body.clone().into(), ..half(1) }).await?;
    // Only one question is ever put, and it was not put to the sender.
    tokio::time::sleep(A_WHILE).await;
    ensure!(listed(&cluster, &[]).await?.get(&message_id(1)).is_some_and(|(_, checks, _)| *checks == 0));
    let mut other = Session::producer(cluster.nodes[far].grpc, &[TOPIC]).await?;
    let asked = other.asked(SOON + SOON).await.context("the other producer")?;
    ensure!(asked.transaction_id == sent.transaction_id && asked.message.as_ref().is_some_and(|m| m.body == body));
    other.answer(&asked, true).await?;
    Ok(())
}
