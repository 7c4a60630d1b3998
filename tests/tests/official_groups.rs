//! Official clients and message groups that two broker groups of three keep, with TLS inside the cluster and nothing
//! else let in: one broker group goes down and comes back, and what each client gets of every message group is in order
//! and complete. What a node hands over to the other broker group goes over TLS. Real processes.

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use raftmq_tests::client::eventually;
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::official::{Client, PATIENCE, Program, Transport, judge};

/// Messages that a client sends before one broker group is down, and again while it is.
const MESSAGES: u64 = 36;

async fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::prepare(Options { certificates: true, groups: 2, ..Default::default() }).await?;
    let nodes: Vec<usize> = (0..cluster.nodes.len()).collect();
    cluster.set(&[0, 1], &nodes, "tls.server.mode = enforcing\nautoCreateTopicEnable = false")?;
    cluster.start_all().await?;
    ensure!(!cluster.mqadmin(&["clusterList"]).await?.status.success(), "who shows no certificate is let in");
    cluster.tools_speak_tls = true;
    Ok(cluster)
}

/// Starts a client on a topic of its own that both broker groups have; its first address is in the one that stays.
async fn start(cluster: &Cluster, client: Client) -> Result<Program> {
    let topic = format!("apart-{client}");
    let making = ["updateTopic", "-c", "RaftCluster", "-t", &topic, "-r", "4", "-w", "4", "-a", "+message.type=FIFO"];
    eventually("the topic is made in both", LEADER_WITHIN, async || {
        cluster.mqadmin(&making).await.is_ok_and(|output| output.status.success())
    })
    .await?;
    let access = cluster.access(0)[0].to_string();
    let arguments = ["fifo-apart", &access, &topic, &format!("{topic}-group"), &MESSAGES.to_string()];
    Program::start(client, &arguments, cluster.dir(), Transport::Plain).await
}

async fn in_order_apart(clients: &[Client]) -> Result<()> {
    let mut cluster = cluster().await?;
    let mut programs = Vec::new();
    for client in clients {
        programs.push(start(&cluster, *client).await?);
    }
    for program in &mut programs {
        program.line("HALF", PATIENCE).await.with_context(|| cluster.log_tails(0))?;
    }
    cluster.kill_at_once(&cluster.members(1))?;
    for program in &mut programs {
        program.tell("down").await?;
    }
    for program in &mut programs {
        let held: u64 = program.line("HELD", PATIENCE).await.with_context(|| cluster.log_tails(0))?.parse()?;
        ensure!((1..MESSAGES).contains(&held), "{}: {held} of {MESSAGES} were refused", program.name);
    }
    for number in cluster.members(1) {
        cluster.start_node(number)?;
    }
    cluster.leader(1).await?;
    for program in &mut programs {
        program.tell("back").await?;
    }
    let results = join_all(programs.iter_mut().map(|program| program.result(PATIENCE))).await;
    for (program, result) in programs.iter().zip(results) {
        let result = result.with_context(|| cluster.log_tails(0))?;
        judge::apart(&program.name, 2 * MESSAGES, &result)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_has_message_groups_in_order_in_two_broker_groups_one_of_which_goes_down() -> Result<()> {
    in_order_apart(&Client::OFFICIAL).await
}
