//! The lite consumers of the official clients: each gets what it subscribes to, in order and nothing else, through the
//! death of the leader, which is the first address that most of them know. Real processes.

use anyhow::{Context, Result};
use raftmq_tests::official::{Bench, Client, PATIENCE, Program, Transport, judge};

/// Those that have lite consumers, and what they call them here.
const LITE: [(Client, &str); 5] = [
    (Client::Java, "lite"),
    (Client::Node, "lite"),
    (Client::Go, "lite"),
    (Client::Python, "lite"),
    (Client::Python, "lite-simple"),
];

/// Messages of each lite topic.
const MESSAGES: u64 = 20;

async fn start(bench: &Bench, client: Client, scenario: &str) -> Result<Program> {
    let topic = format!("{scenario}-{client}");
    bench.cluster.put_topic(&topic, 4, Some("LITE")).await?;
    // All members: a client tells the address that it was given, and no other, what it subscribes to.
    let mut addresses: Vec<String> = bench.accesses.iter().map(|(_, address)| address.to_string()).collect();
    if client == Client::Node {
        // It takes one address.
        addresses = addresses.split_off(2);
    }
    let access = addresses.join(";");
    // The consumer group makes itself, and is bound to the topic by that.
    let arguments = [scenario, &access, &topic, &format!("{topic}-group"), &MESSAGES.to_string()];
    Program::start(client, &arguments, bench.cluster.dir(), Transport::Plain).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_lite_consumer_gets_its_own_in_order_when_the_leader_dies() -> Result<()> {
    let mut bench = Bench::start().await?;
    let leader = bench.cluster.leader(0).await?;
    let mut programs = Vec::new();
    for (client, scenario) in LITE {
        programs.push(start(&bench, client, scenario).await?);
    }
    for program in &mut programs {
        program.line("HALF", PATIENCE).await.with_context(|| bench.cluster.log_tails(0))?;
    }
    bench.cluster.kill(leader);
    for program in &mut programs {
        program.tell("go").await?;
    }
    bench.judge(programs, |name, result| judge::lite(name, MESSAGES, result)).await
}
