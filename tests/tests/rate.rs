//! How fast clients may send: the limit of a topic holds for the whole broker group, whichever member is called, and what
//! is refused is not stored; the limit of clients is each client's own. Real processes.

use std::time::Instant;

use anyhow::{Result, ensure};
use raftmq_tests::client::{eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::oracle::message_id;
use raftmq_tests::session::Session;

const TOPIC: &str = "slow";
/// Messages a second.
const LIMIT: u64 = 5;
const CLIENT_LIMIT: u64 = 25;

/// Sends so many at once by each of the clients: how many were stored, and why others were not.
async fn send(clients: &[Session], topic: &str, each: u64, first: u64) -> (u64, Vec<String>) {
    let sends = clients.iter().enumerate().flat_map(|(number, client)| {
        (0..each).map(move |at| {
            let id = message_id(first + number as u64 * each + at);
            client.send(message(topic, &id, None, "soon".into()))
        })
    });
    let outcomes = futures::future::join_all(sends).await;
    let refused: Vec<String> =
        outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).map(ToString::to_string).collect();
    (outcomes.len() as u64 - refused.len() as u64, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_are_as_fast_as_they_may_be() -> Result<()> {
    let settings = vec![("clientRateMessages".to_owned(), CLIENT_LIMIT.to_string())];
    let mut cluster = Cluster::start(Options { settings, ..Options::default() }).await?;
    cluster.leader(0).await?;
    let attributes = async |cluster: &Cluster, attributes: &str| {
        let arguments = ["updateTopic", "-c", "RaftCluster", "-t", TOPIC, "-a", attributes];
        cluster.mqadmin(&arguments).await.is_ok_and(|output| output.status.success())
    };
    let limited = async || attributes(&cluster, &format!("+rate.messages={LIMIT}")).await;
    eventually("mqadmin limits the topic", LEADER_WITHIN, limited).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let mut clients = Vec::new();
    for number in cluster.members(0) {
        clients.push(Session::producer(cluster.nodes[number].grpc, &[TOPIC]).await?);
    }

    // The leader reads the limit a moment after it is stored.
    let mut first = 0;
    let mut stored = 0;
    eventually("the limit holds", LEADER_WITHIN, async || {
        let (taken, refused) = send(&clients, TOPIC, 4, first).await;
        first += 100;
        stored += taken;
        !refused.is_empty()
    })
    .await?;
    let begun = Instant::now();
    for _ in 0..3 {
        let (taken, refused) = send(&clients, TOPIC, 20, first).await;
        first += 100;
        stored += taken;
        let seconds = begun.elapsed().as_secs() + 2;
        ensure!(taken <= LIMIT * seconds, "{taken} of one topic in {seconds} s");
        let said = format!(" {LIMIT} messages a second");
        let own = format!(" {CLIENT_LIMIT} messages a second");
        ensure!(refused.iter().all(|why| why.contains(&said) || why.contains(&own)), "{refused:?}");
        ensure!(refused.iter().any(|why| why.contains(&said)), "{refused:?}");
    }
    ensure!(cluster.stored(TOPIC).await? == Some(stored), "what was refused is stored: {stored} were answered OK");

    let unlimited = async || attributes(&cluster, "-rate.messages").await;
    eventually("mqadmin takes the limit away", LEADER_WITHIN, unlimited).await?;
    // One client is held back by its own limit; the others are not.
    eventually("only clients are limited", LEADER_WITHIN, async || {
        let (taken, refused) = send(&clients[..1], TOPIC, 2 * CLIENT_LIMIT, first).await;
        let (others, held_back) = send(&clients[1..], TOPIC, 2, first + 100).await;
        first += 200;
        let own = refused.iter().all(|why| why.contains(&format!("client {} may send", clients[0].client_id)));
        taken >= 1 && !refused.is_empty() && own && others == 4 && held_back.is_empty()
    })
    .await?;
    Ok(())
}
