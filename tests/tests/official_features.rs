//! What each client offers of message types and consumer features, against real processes: one program for each feature,
//! the clients side by side, through the leader and both followers in turn.

use anyhow::{Context, Result, bail, ensure};
use futures::future::join_all;
use raftmq_tests::client::eventually;
use raftmq_tests::official::judge::{self, Recall};
use raftmq_tests::official::{Bench, Client, Needs, PATIENCE, Program, Transport};

/// A body may have so many bytes.
const BODY_MAX: u64 = 4 << 20;

/// What a message has beside its body, at most, where a client receives no more than 4 MiB in all.
const BESIDE_BODY: u64 = 4 << 10;

/// Deliveries of a message that always fails.
const ATTEMPTS: u64 = 2;

/// A feature's scenario and what it needs.
struct Feature {
    scenario: &'static str,
    count: u64,
    needs: Needs,
}

const fn feature(scenario: &'static str, count: u64, message_type: &'static str) -> Feature {
    let needs = Needs { queues: None, message_type: Some(message_type), ordered: false, retry_max: None };
    Feature { scenario, count, needs }
}

/// Pairs of transactions that a client leaves open: one that it commits when it is asked, and one that it rolls back.
const OPEN_TRANSACTIONS: u64 = 15;

/// Brokers that ask producers about their open transactions soon.
const ASKING: [(&str, &str); 2] = [("transactionTimeOut", "500"), ("transactionCheckInterval", "3000")];

/// Every feature that brokers have as they are; `orphans` needs [`ASKING`].
const FEATURES: [Feature; 8] = [
    feature("delay", 12, "DELAY"),
    feature("transaction", 12, "TRANSACTION"),
    Feature {
        scenario: "fifo",
        count: 15,
        needs: Needs { queues: None, message_type: Some("FIFO"), ordered: true, retry_max: None },
    },
    feature("fifo-simple", 15, "FIFO"),
    feature("priority", 12, "PRIORITY"),
    Feature {
        scenario: "dead-letter",
        count: 6,
        needs: Needs { queues: None, message_type: None, ordered: false, retry_max: Some(ATTEMPTS as u32 - 1) },
    },
    feature("largest", BODY_MAX, "NORMAL"),
    feature("unknown-topic", 1, "NORMAL"),
];

/// Whether a client has it at all.
fn offers(client: Client, scenario: &str) -> bool {
    match scenario {
        "fifo" | "priority" => client != Client::Rust,
        _ => true,
    }
}

/// What a client's own limits leave of the largest body: three receive no more than 4 MiB in all.
fn largest_body(client: Client) -> u64 {
    match client {
        Client::Java | Client::Go | Client::Python | Client::Cpp => BODY_MAX,
        Client::Node | Client::Rust | Client::CSharp => BODY_MAX - BESIDE_BODY,
    }
}

fn recall(client: Client) -> Recall {
    match client {
        Client::Java | Client::Node | Client::Go => Recall::Seen,
        Client::Python => Recall::Blind,
        Client::Rust | Client::Cpp | Client::CSharp => Recall::None,
    }
}

async fn check(bench: &Bench, client: Client, number: usize, feature: &Feature) -> Result<()> {
    let scenario = feature.scenario;
    let count = if scenario == "largest" { largest_body(client) } else { feature.count };
    let access = number % bench.accesses.len();
    let mut program = bench.run(client, scenario, access, Transport::Plain, count, feature.needs).await?;
    if scenario == "dead-letter" {
        dead_letters_are_stored(bench, &mut program, count).await?;
    }
    let result = program.result(PATIENCE).await?;
    let name = &program.name;
    match scenario {
        "delay" => judge::delay(name, count, recall(client), &result),
        "transaction" => judge::transaction(name, count, &result),
        "fifo" | "fifo-simple" => judge::fifo(name, count, &result),
        "priority" => judge::priority(name, count, &result),
        "dead-letter" => judge::dead_letter(name, count, ATTEMPTS, &result),
        "largest" => judge::largest(name, &result),
        "unknown-topic" => judge::unknown_topic(name, &result),
        other => bail!("no judge for {other}"),
    }
}

/// Tells the program when its dead letter topic has every message.
async fn dead_letters_are_stored(bench: &Bench, program: &mut Program, count: u64) -> Result<()> {
    program.line("FAILING", PATIENCE).await?;
    let words: Vec<&str> = program.name.split(' ').collect();
    let group = words.get(4).context("the consumer group is the fourth argument")?;
    let topic = format!("%DLQ%{group}");
    let stored = async || matches!(bench.cluster.stored(&topic).await, Ok(Some(stored)) if stored >= count);
    eventually("what always fails becomes a dead letter", PATIENCE, stored).await?;
    program.tell("dead").await
}

async fn check_all(bench: &Bench, client: Client) -> Vec<String> {
    let mut failures = Vec::new();
    for (number, feature) in FEATURES.iter().enumerate().filter(|(_, feature)| offers(client, feature.scenario)) {
        let outcome = check(bench, client, number, feature).await;
        failures.extend(outcome.err().map(|failure| format!("{client}, {}: {failure:#}", feature.scenario)));
    }
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_can_do_what_it_offers() -> Result<()> {
    let bench = Bench::start().await?;
    let failures = join_all(Client::EVERY.map(|client| check_all(&bench, client))).await.concat();
    ensure!(failures.is_empty(), "{}\n{}", failures.join("\n"), bench.cluster.log_tails(0));
    Ok(())
}

/// Transactions that producers leave open: each client is asked about all of them, in a form that it understands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_is_asked_about_its_open_transactions() -> Result<()> {
    let bench = Bench::start_with(&ASKING).await?;
    let needs = Needs { message_type: Some("TRANSACTION"), ..Needs::default() };
    for (access, over) in [(0, Transport::Tls), (1, Transport::Plain)] {
        let mut programs = Vec::new();
        for client in Client::EVERY {
            let transport = client.transport(over);
            programs.push(bench.run(client, "orphans", access, transport, OPEN_TRANSACTIONS, needs).await?);
        }
        bench.judge(programs, |name, result| judge::orphans(name, OPEN_TRANSACTIONS, result)).await?;
    }
    Ok(())
}
