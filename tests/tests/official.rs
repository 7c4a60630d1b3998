//! Official clients, unchanged, against real processes: what they send comes once, what they leave comes again, and one
//! takes over from another. The access point is the leader or a follower; over TLS and without.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use raftmq_tests::official::{
    Bench, Client, Needs, Program, Transport,
    judge::{self, MARGIN, number},
};

/// A clean end hands its messages over within this.
const TAKEOVER_AFTER_TERMINATION: Duration = Duration::from_secs(1);

/// A death is noticed after 2.5 of the clients' heartbeat periods of 10 s.
const TAKEOVER_AFTER_DEATH: Duration = Duration::from_secs(25);

/// Brokers that see a push consumer at work have confirmed by now what it holds: from then on it is an attempt.
const CONFIRMED_AFTER: Duration = Duration::from_secs(2);

/// What a broker group's own retry policy lets a push consumer wait before the second attempt.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const EIGHT_QUEUES: Needs = Needs { queues: Some(8), message_type: None, ordered: false, retry_max: None };

async fn run_all(
    bench: &Bench,
    clients: &[Client],
    scenario: &str,
    access: usize,
    over: Transport,
    count: u64,
    needs: Needs,
) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for client in clients {
        programs.push(bench.run(*client, scenario, access, client.transport(over), count, needs).await?);
    }
    Ok(programs)
}

/// Simple and push consumers get `count` messages once each, through each access point in turn, both with and without TLS.
async fn exactly_once(count: u64, accesses: usize) -> Result<()> {
    let bench = Bench::start().await?;
    for access in 0..accesses {
        let [simple, push] = match access % 2 {
            0 => [Transport::Tls, Transport::Plain],
            _ => [Transport::Plain, Transport::Tls],
        };
        let clients = Client::OFFICIAL;
        let programs = run_all(&bench, &clients, "roundtrip", access, simple, count, EIGHT_QUEUES).await?;
        bench.judge(programs, |name, result| judge::once(name, count, result)).await?;
        let clients = Client::PUSHING;
        let programs = run_all(&bench, &clients, "push", access, push, count, EIGHT_QUEUES).await?;
        bench.judge(programs, |name, result| judge::once(name, count, result)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_gets_each_message_once() -> Result<()> {
    exactly_once(1_000, 2).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn each_client_gets_each_of_ten_thousand_once() -> Result<()> {
    exactly_once(10_000, 3).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_gets_again_what_it_leaves() -> Result<()> {
    let bench = Bench::start().await?;
    let none = Needs::default();
    let mut programs = run_all(&bench, &Client::OFFICIAL, "redelivery", 0, Transport::Plain, 30, none).await?;
    programs.extend(run_all(&bench, &Client::OFFICIAL, "redelivery", 1, Transport::Tls, 30, none).await?);
    bench.judge(programs, |name, result| judge::redelivery(name, 30, result)).await?;
    let programs = run_all(&bench, &Client::PUSHING, "invisible", 1, Transport::Plain, 10, none).await?;
    bench.judge(programs, |name, result| judge::redelivery(name, 10, result)).await?;
    // Each client waits as long as the policy says that it was given, in the form that it understands.
    let programs = run_all(&bench, &Client::PUSHING, "retry", 1, Transport::Tls, 10, none).await?;
    bench.judge(programs, |name, result| judge::again(name, 10, RETRY_AFTER, result)).await?;
    let mut programs = run_all(&bench, &Client::PUSHING, "filter", 1, Transport::Plain, 50, none).await?;
    let by_expression = [Client::Java, Client::Node, Client::Go];
    programs.extend(run_all(&bench, &by_expression, "sql", 1, Transport::Plain, 50, none).await?);
    bench.judge(programs, |name, result| judge::once(name, 50, result)).await
}

/// One program that holds messages and one of the same consumer group that takes what it left.
struct Pair {
    name: String,
    holder: Program,
    taker: Program,
}

impl Pair {
    /// Starts the holder, has `held` messages sent, waits until it holds them, and starts the taker.
    async fn start(bench: &Bench, client: Client, access: usize, held: u64) -> Result<Self> {
        let patience = Duration::from_secs(60);
        let (place, address) = &bench.accesses[access];
        let topic = format!("left-{client}-{place}");
        bench.cluster.put_topic(&topic, 4, None).await?;
        let (address, group, count) = (address.to_string(), format!("{topic}-group"), held.to_string());
        let run = async |scenario: &str| {
            let arguments = [scenario, &address, &topic, &group, &count];
            Program::start(client, &arguments, bench.cluster.dir(), client.transport(Transport::Tls)).await
        };
        let mut holder = run("hold").await?;
        run("send").await?.result(patience).await?;
        while holder.line("HELD", patience).await?.parse::<u64>()? < held {}
        let mut taker = run("take").await?;
        taker.line("READY", patience).await?;
        Ok(Self { name: format!("{client} through the {place}"), holder, taker })
    }

    /// Waits until the taker has all, in one of `attempts`, within `bound` of `ended`.
    async fn taken(mut self, held: u64, attempts: &[u64], ended: Instant, bound: Duration) -> Result<()> {
        self.taker.line("TAKEN", Duration::from_secs(100)).await?;
        let took = ended.elapsed();
        let result = self.taker.result(Duration::from_secs(60)).await?;
        let name = self.name;
        println!("take over in {name}: {took:?} {result}");
        ensure!(number(&result, "distinct") == held && number(&result, "deliveries") == held, "{name}: {result}");
        let came: Vec<u64> = serde_json::from_value(result["attempts"].clone())?;
        ensure!(came.iter().all(|attempt| attempts.contains(attempt)), "{name}: {result}");
        ensure!(took <= bound, "{name}: the takeover took {took:?}, more than {bound:?}");
        Ok(())
    }
}

/// A push consumer holds messages and dies; another member of its group finishes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn another_push_consumer_takes_over_from_a_dead_one() -> Result<()> {
    let bench = Bench::start().await?;
    let held = 20;
    let mut pairs = Vec::new();
    for (number, client) in Client::PUSHING.into_iter().enumerate() {
        pairs.push(Pair::start(&bench, client, number % 3, held).await?);
    }
    // What the last one holds counts as delivered only now, see `CONFIRMED_AFTER`.
    tokio::time::sleep(CONFIRMED_AFTER).await;
    for pair in &mut pairs {
        pair.holder.kill().await?;
    }
    let ended = Instant::now();
    let taken = pairs.into_iter().map(|pair| pair.taken(held, &[2], ended, TAKEOVER_AFTER_DEATH + MARGIN));
    for outcome in futures::future::join_all(taken).await {
        outcome.with_context(|| bench.cluster.log_tails(0))?;
    }
    Ok(())
}

/// A push consumer of the Python client says that it goes; another member of its group finishes what it held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_push_consumer_takes_over_from_one_that_ends() -> Result<()> {
    let bench = Bench::start().await?;
    let held = 20;
    let mut pair = Pair::start(&bench, Client::Python, 1, held).await?;
    pair.holder.tell("end").await?;
    // The client takes its time before it tells the brokers, and tells them last.
    pair.holder.line("ENDED", Duration::from_secs(60)).await?;
    // A delivery counts as an attempt once the brokers are sure that the client has it, which it may not have been for long.
    let taken = pair.taken(held, &[1, 2], Instant::now(), TAKEOVER_AFTER_TERMINATION + MARGIN).await;
    taken.with_context(|| bench.cluster.log_tails(0))
}

/// The official Rust client has simple consumers only, whose leases end by their own time and not with their client.
/// One is killed in the middle of a poll: what it held comes back when its leases end and not before, and what is
/// sent afterwards goes to the other at once, past the poll of the dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_simple_consumer_takes_over() -> Result<()> {
    let bench = Bench::start().await?;
    for access in 0..bench.accesses.len() {
        simple_takeover(&bench, access).await.with_context(|| bench.cluster.log_tails(0))?;
    }
    Ok(())
}

async fn simple_takeover(bench: &Bench, access: usize) -> Result<()> {
    let (held, late) = (20, 5);
    let lease = Duration::from_secs(10);
    let (name, address) = &bench.accesses[access];
    let (topic, group) = (format!("simply-taken-{name}"), format!("simple-takers-{name}"));
    bench.cluster.put_topic(&topic, 4, None).await?;
    let (address, patience) = (address.to_string(), Duration::from_secs(60));
    let run = async |scenario: &str, count: u64| {
        let arguments = [scenario, &address, &topic, &group, &count.to_string()];
        Program::start(Client::Rust, &arguments, bench.cluster.dir(), Transport::Plain).await
    };
    let mut holder = run("hold", held).await?;
    holder.line("READY", patience).await?;
    let leased_after = Instant::now();
    run("send", held).await?.result(patience).await?;
    while holder.line("HELD", patience).await?.parse::<u64>()? < held {}
    let leased_before = Instant::now();
    holder.kill().await?;
    let mut taker = run("take", held + late).await?;
    taker.line("READY", patience).await?;
    run("send", late).await?.result(patience).await?;
    let sent = Instant::now();
    for _ in 0..late {
        ensure!(taker.line("TOOK", patience).await? == "1", "{name}: what was sent last is no first attempt");
    }
    let late_took = sent.elapsed();
    ensure!(taker.line("TOOK", patience).await? == "2", "{name}: what the dead held is no second attempt");
    let first = leased_after.elapsed();
    let result = taker.result(patience).await?;
    let last = leased_before.elapsed();
    println!("take over from a simple consumer through the {name}: {late_took:?}, {first:?} to {last:?}: {result}");
    // Each once: the late ones have other attempts than the held ones with the same bodies.
    ensure!(number(&result, "distinct") == held + late, "{name}: {result}");
    ensure!(late_took <= TAKEOVER_AFTER_TERMINATION + MARGIN, "{name}: new messages took {late_took:?}");
    ensure!(first >= lease, "{name}: what the dead held came back after {first:?}");
    ensure!(last <= lease + MARGIN, "{name}: what the dead held came back only after {last:?}");
    Ok(())
}
