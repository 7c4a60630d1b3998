//! How much one broker group holds: topics, queues, consumer groups, clients that wait, and a backlog of gigabytes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::{StreamExt, stream};
use raftmq_proto::admin as pb;
use raftmq_tests::{
    cluster::{Administration, Cluster, Options},
    load::{self, Pool, Target},
    usage::Usage,
};
use tokio_util::sync::CancellationToken;

use super::{CONNECTIONS, Column, Row, Run, TOPIC, pids, resident, thousands, voting};

/// Rows of metadata that are under way at once.
const UNDER_WAY: usize = 64;

/// Topics that one run of calls sends to, at most: as many requests are made before its clock starts.
const SENT_TO_MAX: usize = 32_768;

/// How long processor time is measured while nothing happens but waiting.
const WAIT: Duration = Duration::from_secs(10);

/// Seconds of a long poll, more than [`WAIT`] and what it takes to begin all of them.
const POLL_S: u32 = 60;

/// What the send rate may fall to as the backlog grows.
const BACKLOG_RATIO_MIN: f64 = 0.9;

/// Clients that connect at once.
const CONNECTING: usize = 128;

#[derive(Args, Clone)]
pub struct Sizes {
    /// Topics of `--only scale`
    #[arg(long, default_value_t = 100_000)]
    topics: usize,
    /// Queues of each of them
    #[arg(long, default_value_t = 10)]
    queues: u32,
    /// Consumer groups of `--only scale`
    #[arg(long, default_value_t = 10_000)]
    groups: usize,
    /// Clients that wait for messages in `--only scale`
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
    /// Gigabytes of bodies that nobody received in `--only backlog`
    #[arg(long, default_value_t = 10)]
    backlog_gb: u32,
    /// Delayed messages that become due in a second, in `--only delay`
    #[arg(long, default_value_t = 10_000)]
    pub(super) due_rate: u32,
    /// Delayed messages that become due at one instant, in `--only delay`
    #[arg(long, default_value_t = 1_000_000)]
    pub(super) due_at_once: usize,
    /// Message groups of `--only fifo`, one of which is poisoned
    #[arg(long, default_value_t = 10_000)]
    pub(super) message_groups: usize,
    /// Messages that filters go through in `--only filter`
    #[arg(long, default_value_t = 1_000_000)]
    pub(super) filtered: usize,
    /// Messages that the window of idempotent sends remembers in `--only window`
    #[arg(long, default_value_t = 900_000)]
    pub(super) window_messages: usize,
}

pub async fn measure(options: &Run, column: &mut Column) -> Result<()> {
    let sizes = &options.sizes;
    column.name = "RaftMQ ×3, SYNC_FLUSH, one group".into();
    let mut cluster = Cluster::start(Options { segment_bytes: None, ..Default::default() }).await?;
    cluster.create_topic(TOPIC, 8).await?;
    let pids = pids(&mut cluster);
    let target = Target::connect(cluster.nodes[0].grpc, TOPIC, CONNECTIONS).await?;
    let duration = Duration::from_secs(options.seconds);
    // What a process does once, it does before the clock starts.
    load::send(&target, &Pool::new(TOPIC, options.body, 1), 64, Duration::from_secs(1)).await?;
    // As many requests as there are for all topics: what the generator reads costs both the same.
    let requests = sizes.topics.min(SENT_TO_MAX);
    let pool = Pool::over(&[TOPIC.to_owned()], options.body, 1, requests);
    let before = Row::of(&pids, load::send(&target, &pool, 256, duration)).await?;
    column.put("8 queues: 1 message a call, 256 in flight", before.text());
    column.put("resident memory of each broker, 8 queues", resident(&pids)?);

    let topics: Vec<String> = (0..sizes.topics).map(|number| format!("topic-{number:06}")).collect();
    let clients = administration(&mut cluster).await?;
    let queues = Some(sizes.queues);
    let made = make(&clients, &topics, async |mut client, name| {
        let request = pb::PutTopicRequest { name, read_queues: queues, write_queues: queues, ..Default::default() };
        client.put_topic(request).await.map(drop)
    });
    let rate = made.await?;
    let all_queues = thousands(sizes.topics as f64 * f64::from(sizes.queues));
    column.put("topics, queues", format!("{}, {all_queues}", thousands(sizes.topics as f64)));
    column.put("topics made a second", thousands(rate));
    column.put("resident memory of each broker, all topics", resident(&pids)?);
    let pool = Pool::over(&topics[..requests], options.body, 1, requests);
    let after = Row::of(&pids, load::send(&target, &pool, 256, duration)).await?;
    let ratio = after.figures.rate() / before.figures.rate();
    column.put("all queues: 1 message a call, 256 in flight", format!("{}; {ratio:.2} of 8 queues", after.text()));
    column.put("resident memory of each broker, after sends to them", resident(&pids)?);

    let groups: Vec<String> = (0..sizes.groups).map(|number| format!("group-{number:05}")).collect();
    let made = make(&clients, &groups, async |mut client, name| {
        let request = pb::PutConsumerGroupRequest { name, ordered: Some(false), ..Default::default() };
        client.put_consumer_group(request).await.map(drop)
    });
    let rate = made.await?;
    column.put("consumer groups", thousands(sizes.groups as f64));
    column.put("consumer groups made a second", thousands(rate));
    column.put("resident memory of each broker, all consumer groups", resident(&pids)?);

    if sizes.clients > 0 {
        waiting(&mut cluster, sizes, &topics, &groups, &pids, column).await?;
    }
    column.put("a killed follower, from its start to following again", restart(&mut cluster).await?);
    Ok(())
}

/// Messages that nobody received heap up: the send rate and the memory as they do.
pub async fn backlog(options: &Run, column: &mut Column) -> Result<()> {
    const PARTS: u32 = 5;
    column.name = "RaftMQ ×3, SYNC_FLUSH, growing backlog".into();
    let mut cluster = Cluster::start(Options { segment_bytes: None, ..Default::default() }).await?;
    cluster.create_topic(TOPIC, 8).await?;
    let pids = pids(&mut cluster);
    let target = Target::connect(cluster.nodes[0].grpc, TOPIC, CONNECTIONS).await?;
    load::join_group(&target, "bench-backlog").await?;
    let (lone, many) = (Pool::new(TOPIC, options.body, 1), Pool::new(TOPIC, options.body, 16));
    let part_bytes = f64::from(options.sizes.backlog_gb) * 1e9 / f64::from(PARTS);
    load::send(&target, &lone, 64, Duration::from_secs(1)).await?;
    let (mut rates, mut memory) = (Vec::new(), Vec::new());
    for part in 0..=PARTS {
        let duration = Duration::from_secs(options.seconds);
        let figures = load::send(&target, &lone, 256, duration).await?;
        let mut bytes = figures.messages as f64 * options.body as f64;
        rates.push(figures.rate());
        memory.push(resident(&pids)?);
        eprintln!("{}: {part} of {PARTS}: {} /s", column.name, thousands(figures.rate()));
        while part < PARTS && bytes < part_bytes {
            let figures = load::send(&target, &many, 256, Duration::from_secs(1)).await?;
            bytes += figures.messages as f64 * options.body as f64;
        }
    }
    let parts = format!("{} GB in {PARTS} parts", options.sizes.backlog_gb);
    column.put("bodies that nobody received", parts);
    let texts: Vec<String> = rates.iter().map(|rate| thousands(*rate)).collect();
    column.put("1 message a call, 256 in flight, after each part", texts.join(" "));
    let (first, last) = (rates[0], rates[rates.len() - 1]);
    let least = rates.iter().copied().fold(first, f64::min);
    let text = format!("{:.2}, at least {:.2} (wanted ≥ {BACKLOG_RATIO_MIN})", last / first, least / first);
    column.put("the last of these beside the first", text);
    column.put("resident memory of each broker, after each part", memory.join(", "));
    let receivers = load::Receivers { group: "bench-backlog".into(), consumers: 32, batch: 32 };
    let row = Row::of(&pids, load::receive(&target, &receivers, Duration::from_secs(options.seconds))).await?;
    column.put("receive + ack from its beginning", row.text());
    column.put("a killed follower, from its start to following again", restart(&mut cluster).await?);
    Ok(())
}

pub(super) async fn administration(cluster: &mut Cluster) -> Result<Vec<Administration>> {
    let leader = cluster.leader(0).await?;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(cluster.admin_client(leader).await?);
    }
    Ok(clients)
}

/// Makes a row of each name, and says how many a second.
pub(super) async fn make(
    clients: &[Administration],
    names: &[String],
    put: impl AsyncFn(Administration, String) -> Result<(), tonic::Status>,
) -> Result<f64> {
    let started = Instant::now();
    let mut told = started;
    let mut made = stream::iter(names.iter().enumerate())
        .map(|(number, name)| put(clients[number % clients.len()].clone(), name.clone()))
        .buffer_unordered(UNDER_WAY);
    let mut count = 0;
    while let Some(outcome) = made.next().await {
        outcome.with_context(|| format!("after {count} of {}", names.len()))?;
        count += 1;
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            eprintln!("{count} of {} made", names.len());
        }
    }
    Ok(count as f64 / started.elapsed().as_secs_f64().max(1e-9))
}

/// Clients with nothing to receive: what their waiting costs.
async fn waiting(
    cluster: &mut Cluster,
    sizes: &Sizes,
    topics: &[String],
    groups: &[String],
    pids: &[u32],
    column: &mut Column,
) -> Result<()> {
    ensure!(!topics.is_empty() && !groups.is_empty(), "clients wait in a group for messages of a topic");
    let access = cluster.access(0);
    let (over, waits) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    let started = Instant::now();
    for number in 0..sizes.clients {
        // From the end: nothing was sent to these.
        let topic = topics[topics.len() - 1 - number % topics.len()].clone();
        let group = groups[number % groups.len()].clone();
        let (node, over, count) = (access[number % access.len()], over.clone(), waits.clone());
        clients
            .spawn(async move { load::wait_for_messages(node, (&topic, &group), number, POLL_S, &over, &count).await });
        while number as u64 > waits.load(Ordering::Relaxed) + CONNECTING as u64 {
            if let Some(ended) = clients.try_join_next() {
                ended??;
            }
            ensure!(started.elapsed() < Duration::from_secs(60), "the clients do not connect");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    while waits.load(Ordering::Relaxed) < sizes.clients as u64 {
        ensure!(started.elapsed() < Duration::from_secs(60), "the clients do not connect");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let connected = started.elapsed();
    // What made their sessions, and the flush of those and of all rows before, is over.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let all = || pids.iter().map(|pid| Usage::of(*pid)).collect::<Result<Vec<Usage>>>();
    let before = all()?;
    tokio::time::sleep(WAIT).await;
    let part = |(after, before): (&Usage, &Usage)| {
        format!("{:.1}", after.since(before).cpu.as_secs_f64() / WAIT.as_secs_f64() * 100.0)
    };
    let parts: Vec<String> = all()?.iter().zip(&before).map(part).collect();
    let count = thousands(sizes.clients as f64);
    column.put("clients that wait, each with a connection", format!("{count} (in {:.1} s)", connected.as_secs_f64()));
    column.put("processor time of each broker meanwhile, of one core", format!("{} %", parts.join(" / ")));
    column.put("resident memory of each broker, all clients waiting", resident(pids)?);
    over.cancel();
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}

/// Kills a follower, starts it again and takes the time until it is level with its leader.
async fn restart(cluster: &mut Cluster) -> Result<String> {
    let leader = cluster.leader(0).await?;
    let follower = (0..3).find(|number| *number != leader).context("three nodes")?;
    cluster.kill(follower);
    let started = Instant::now();
    cluster.start_node(follower)?;
    voting(cluster, follower).await?;
    Ok(format!("{:.2} s", started.elapsed().as_secs_f64()))
}
