//! Message groups through the death of a leader, and while queues are added and taken away: what is stored of each is in
//! order, one message of it is out at a time, a failed one comes before its successors, and one that nobody finishes holds
//! up its own group alone. Real processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use raftmq_proto::admin::{ConsumerProgressRequest, TopicStatusRequest};
use raftmq_proto::rocketmq::{self as pb};
use raftmq_tests::client::{Consumer, Delivery, Producer, eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::oracle::{message_id, sequence_of};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const TOPIC: &str = "ordered";
const CONSUMERS: &str = "in-order";
const MESSAGE_GROUPS: usize = 120;
/// Messages of each message group, two a call.
const MESSAGES: usize = 24;
const CALLS: usize = MESSAGE_GROUPS * MESSAGES / 2;
const SENDERS: usize = 8;
/// That the topic is made with.
const QUEUES: u16 = 4;
/// Nobody finishes its first message until the end.
const POISONED: usize = 7;
/// One delivery in so many fails, and comes back soon.
const FAILS_ONE_IN: usize = 40;
const LEASE: Duration = Duration::from_secs(10);
const COMES_BACK: Duration = Duration::from_millis(200);

/// The newest message of a message group that anybody was given.
#[derive(Debug, Clone)]
struct Newest {
    queue: i32,
    offset: i64,
    number: u64,
    attempt: i32,
    /// It may be finished: its acknowledgement was sent.
    acknowledging: bool,
}

/// What consumers saw, by message group.
#[derive(Default)]
struct Watch {
    newest: BTreeMap<usize, Newest>,
    deliveries: usize,
    failures: usize,
}

fn id(message_group: usize, number: usize) -> String {
    message_id((message_group * 1_000_000 + number) as u64)
}

impl Watch {
    /// Judges a delivery; its message group.
    fn see(&mut self, delivery: &Delivery) -> Result<usize> {
        let sequence = sequence_of(delivery.message_id()).context("nobody sent this message")?;
        let (group, number) = ((sequence / 1_000_000) as usize, sequence % 1_000_000);
        let properties = delivery.message.system_properties.as_ref().context("always there")?;
        ensure!(properties.message_group.as_deref() == Some(&*format!("account-{group}")), "{properties:?}");
        ensure!(properties.message_type == i32::from(pb::MessageType::Fifo), "{properties:?}");
        let (_, queue, offset) = delivery.place();
        let seen = Newest { queue, offset, number, attempt: delivery.attempt(), acknowledging: false };
        self.deliveries += 1;
        if let Some(known) = self.newest.get(&group) {
            ensure!(known.queue == queue, "{seen:?} is in another queue than {known:?}");
            if known.offset == offset {
                ensure!(seen.attempt > known.attempt, "{seen:?} is delivered again as {known:?}");
            } else {
                ensure!(known.acknowledging, "{seen:?} is out while {known:?} is");
                ensure!(known.offset < offset, "{seen:?} comes after {known:?}");
                // A call that was sent twice, because its answer was lost, is stored once.
                ensure!(number == known.number + 1, "{seen:?} comes after {known:?}");
            }
        } else {
            ensure!(number == 0, "{seen:?} comes first");
        }
        self.newest.insert(group, seen);
        Ok(group)
    }

    fn acknowledging(&mut self, group: usize) {
        if let Some(newest) = self.newest.get_mut(&group) {
            newest.acknowledging = true;
        }
    }

    fn finished(&self) -> usize {
        let last = |newest: &&Newest| newest.number as usize == MESSAGES - 1 && newest.acknowledging;
        self.newest.values().filter(last).count()
    }
}

/// Each call takes one of `calls`.
async fn send(
    access: Vec<SocketAddr>,
    groups: Vec<usize>,
    sent: Arc<AtomicUsize>,
    calls: Arc<Semaphore>,
) -> Result<()> {
    let producer = Producer::new(&access, &[TOPIC])?;
    for number in (0..MESSAGES).step_by(2) {
        for group in &groups {
            calls.acquire().await?.forget();
            let messages = (number..number + 2).map(|number| {
                let mut message = message(TOPIC, &id(*group, number), None, "in order".into());
                if let Some(system) = &mut message.system_properties {
                    system.message_group = Some(format!("account-{group}"));
                    system.message_type = pb::MessageType::Fifo.into();
                }
                message
            });
            let messages: Vec<_> = messages.collect();
            // A producer that keeps an order does not go on before it knows.
            let deadline = Instant::now() + LEADER_WITHIN;
            while let Err(failure) = producer.send_messages(TOPIC, messages.clone()).await {
                ensure!(failure.last.may_pass() && Instant::now() < deadline, "{failure}");
            }
            sent.fetch_add(2, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Each message group is sent by one of them.
fn start_senders(access: &[SocketAddr], sent: &Arc<AtomicUsize>, calls: &Arc<Semaphore>) -> JoinSet<Result<()>> {
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let groups = (0..MESSAGE_GROUPS).filter(|group| group % SENDERS == sender).collect();
        senders.spawn(send(access.to_vec(), groups, sent.clone(), calls.clone()));
    }
    senders
}

fn start_consumers(
    access: &[SocketAddr],
    watch: &Arc<Mutex<Watch>>,
    held: &Arc<Mutex<Option<Held>>>,
) -> JoinSet<Result<()>> {
    let mut consumers = JoinSet::new();
    for _ in 0..4 {
        consumers.spawn(consume(access.to_vec(), watch.clone(), held.clone()));
    }
    consumers
}

async fn consume(access: Vec<SocketAddr>, watch: Arc<Mutex<Watch>>, held: Arc<Mutex<Option<Held>>>) -> Result<()> {
    let consumer = Consumer::new(&access, CONSUMERS, TOPIC, "*", false)?;
    loop {
        let received = consumer.receive(TOPIC, 32, LEASE, Duration::from_secs(5)).await;
        let Ok(deliveries) = received else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut work = Vec::new();
        for delivery in &deliveries {
            let mut watch = watch.lock().expect("no holder panics");
            let group = watch.see(delivery)?;
            let poisoned = group == POISONED && sequence_of(delivery.message_id()) == Some(7_000_000);
            let fails = !poisoned && delivery.attempt() == 1 && watch.deliveries.is_multiple_of(FAILS_ONE_IN);
            watch.failures += usize::from(fails);
            if !poisoned && !fails {
                watch.acknowledging(group);
            }
            let (consumer, held) = (&consumer, &held);
            work.push(async move {
                if poisoned {
                    let handle = consumer.change_invisible(delivery, Duration::from_secs(300)).await;
                    if let Ok(handle) = handle {
                        *held.lock().expect("no holder panics") = Some(Held { delivery: delivery.clone(), handle });
                    }
                } else if fails {
                    // When that fails as well, the lease ends by itself.
                    let _ = consumer.change_invisible(delivery, COMES_BACK).await;
                } else {
                    // One that is not acknowledged comes again, with no other of its message group between.
                    let _ = consumer.ack(delivery).await;
                }
            });
        }
        futures::future::join_all(work).await;
    }
}

/// The poisoned message.
struct Held {
    delivery: Delivery,
    handle: String,
}

/// Fails as soon as a task does.
async fn check(tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.try_join_next() {
        ended.context("a task panicked")??;
    }
    Ok(())
}

/// Makes the topic, or changes the number of its queues. What `mqadmin` said where it was refused.
async fn put_topic(cluster: &Cluster, queues: u16) -> Result<Result<(), String>> {
    let queues = queues.to_string();
    let arguments = ["updateTopic", "-c", "RaftCluster", "-t", TOPIC, "-r", &queues, "-w", &queues];
    let output = cluster.mqadmin(&[&arguments[..], &["-a", "+message.type=FIFO"]].concat()).await?;
    let said = || [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    Ok(if output.status.success() { Ok(()) } else { Err(said()) })
}

/// A cluster with the topic.
async fn with_topic() -> Result<Cluster> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.leader(0).await?;
    let made = async || put_topic(&cluster, QUEUES).await.is_ok_and(|made| made.is_ok());
    eventually("mqadmin makes a FIFO topic", LEADER_WITHIN, made).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    Ok(cluster)
}

/// Finishes the poisoned message, and waits until all message groups are.
async fn release(
    access: &[SocketAddr],
    (watch, held): (&Mutex<Watch>, &Mutex<Option<Held>>),
    consumers: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let first = held.lock().expect("no holder panics").take().context("the poisoned message is held")?;
    let consumer = Consumer::new(access, CONSUMERS, TOPIC, "*", false)?;
    watch.lock().expect("no holder panics").acknowledging(POISONED);
    consumer.ack_handle(&first.delivery, &first.handle).await?;
    let finished = || watch.lock().expect("no holder panics").finished();
    let all = async || check(consumers).await.is_err() || finished() == MESSAGE_GROUPS;
    eventually("the poisoned message group goes on", LEASE + Duration::from_secs(10), all).await?;
    check(consumers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_groups_keep_their_order_through_the_death_of_a_leader() -> Result<()> {
    let mut cluster = with_topic().await?;
    let leader = cluster.leader(0).await?;
    let access = cluster.access(0);
    let producer = Producer::new(&access, &[TOPIC])?;
    let refused = producer.send(TOPIC, "S1", None, "not in order".into()).await.err().context("a NORMAL message")?;
    ensure!(refused.last.code() == Some(pb::Code::MessagePropertyConflictWithType), "{refused}");

    let (watch, held) = (Arc::new(Mutex::new(Watch::default())), Arc::new(Mutex::new(None)));
    let (sent, calls) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(CALLS)));
    let mut senders = start_senders(&access, &sent, &calls);
    let mut consumers = start_consumers(&access, &watch, &held);
    let third = async || sent.load(Ordering::Relaxed) > MESSAGE_GROUPS * MESSAGES / 3;
    eventually("a third is sent", Duration::from_secs(30), third).await?;
    cluster.kill(leader);
    let killed = Instant::now();
    while let Some(ended) = senders.join_next().await {
        ended.context("a sender panicked")??;
        check(&mut consumers).await?;
    }
    cluster.start_node(leader)?;

    // All but the poisoned message group come to their end.
    let seen = || watch.lock().expect("no holder panics");
    let limit = Instant::now() + LEASE + Duration::from_secs(20);
    while seen().finished() < MESSAGE_GROUPS - 1 {
        check(&mut consumers).await?;
        if Instant::now() > limit {
            let watch = seen();
            let open: Vec<_> = watch.newest.values().filter(|n| n.number as usize != MESSAGES - 1).collect();
            bail!("{} of {MESSAGE_GROUPS} message groups came to their end; not {open:?}", watch.finished());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("all but one message group finished {:?} after the kill", killed.elapsed());
    let poisoned = seen().newest.get(&POISONED).cloned().context("its first message was delivered")?;
    ensure!(poisoned.number == 0 && !poisoned.acknowledging, "{poisoned:?}");

    // What waits behind the poisoned message is not consumed.
    let leads = cluster.leader(0).await?;
    let request = ConsumerProgressRequest { consumer_group: CONSUMERS.to_owned(), ..Default::default() };
    let waits = async |at_least: u64| -> Result<u64> {
        let mut admin = cluster.admin_client(leads).await?;
        let mut parts = admin.consumer_progress(request.clone()).await?.into_inner();
        let mut waiting = 0;
        while let Some(part) = parts.message().await? {
            let rows = part.queues.iter().filter(|row| row.topic == TOPIC);
            waiting += rows.map(|row| row.broker_offset - row.progress + row.retrying).sum::<u64>();
        }
        ensure!(waiting >= at_least, "only {waiting} messages are said to wait");
        Ok(waiting)
    };
    waits(MESSAGES as u64 - 1).await?;

    release(&access, (&watch, &held), &mut consumers).await?;
    let none = async || waits(0).await.is_ok_and(|waiting| waiting == 0);
    eventually("everything is consumed", LEASE + Duration::from_secs(10), none).await?;
    let (deliveries, failures) = {
        let watch = seen();
        (watch.deliveries, watch.failures)
    };
    println!("{} sent, {deliveries} deliveries, {failures} failed on purpose", sent.load(Ordering::Relaxed));
    ensure!(failures >= 10, "only {failures} deliveries failed");
    Ok(())
}

/// Whatever becomes of the number of queues, message groups stay in those that the topic was made with, and in order; fewer
/// are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_groups_keep_their_order_while_queues_come_and_go() -> Result<()> {
    const STEPS: [u16; 6] = [8, 4, 16, 5, 4, 12];
    let mut cluster = with_topic().await?;
    let access = cluster.access(0);
    let (watch, held) = (Arc::new(Mutex::new(Watch::default())), Arc::new(Mutex::new(None)));
    // So many of the calls are made in each step, while the number of queues changes.
    let share = CALLS / STEPS.len();
    let (sent, calls) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let mut senders = start_senders(&access, &sent, &calls);
    let mut consumers = start_consumers(&access, &watch, &held);
    for (step, queues) in (1..).zip(STEPS) {
        calls.add_permits(share);
        let half = async || sent.load(Ordering::Relaxed) > (2 * step - 1) * share;
        eventually("half of the step is sent", LEADER_WITHIN, half).await?;
        if step == 3 {
            // The new leader knows no more of the queues than its rows say.
            let leader = cluster.leader(0).await?;
            cluster.kill(leader);
            cluster.start_node(leader)?;
        }
        let put = async || put_topic(&cluster, queues).await.is_ok_and(|put| put.is_ok());
        eventually("the number of queues changes", LEADER_WITHIN, put).await?;
        let refused =
            put_topic(&cluster, QUEUES - 1).await?.err().context("fewer queues than message groups are in")?;
        ensure!(refused.contains("keeps its message groups in 4 queues"), "{refused}");
        check(&mut consumers).await?;
    }
    while let Some(ended) = senders.join_next().await {
        ended.context("a sender panicked")??;
        check(&mut consumers).await?;
    }
    let finished = || watch.lock().expect("no holder panics").finished();
    let others = async || check(&mut consumers).await.is_err() || finished() == MESSAGE_GROUPS - 1;
    eventually("all but the poisoned message group end", LEASE + Duration::from_secs(20), others).await?;
    check(&mut consumers).await?;
    release(&access, (&watch, &held), &mut consumers).await?;

    let leader = cluster.leader(0).await?;
    let request = TopicStatusRequest { name: TOPIC.to_owned(), ..Default::default() };
    let status = cluster.admin_client(leader).await?.topic_status(request).await?.into_inner();
    let stored: Vec<u64> = status.queues.iter().map(|queue| queue.max_offset).collect();
    let (old, added) = stored.split_at(QUEUES.into());
    ensure!(old.iter().sum::<u64>() == (MESSAGE_GROUPS * MESSAGES) as u64, "{stored:?}");
    ensure!(old.iter().all(|messages| *messages > 0) && added.iter().all(|messages| *messages == 0), "{stored:?}");
    ensure!(added.len() == 8, "{stored:?}");
    Ok(())
}
