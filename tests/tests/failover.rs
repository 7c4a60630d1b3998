//! Nodes die, hang and come back under load: nothing acknowledged is lost, nothing is delivered early, and handles
//! from before the fault acknowledge after it. Real processes, real signals.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use raftmq_broker::machine::VERSION;
use raftmq_proto::admin::{GroupStatusResponse, PutTopicRequest};
use raftmq_tests::{
    client::{Consumer, Producer, eventually},
    cluster::{Cluster, LEADER_WITHIN, Options},
    invariant,
    oracle::message_id,
    workload::{self, Workload},
};

async fn start() -> Result<(Cluster, Workload)> {
    let mut cluster = Cluster::start(Options::default()).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;
    Ok((cluster, workload))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed() -> Result<()> {
    let (mut cluster, workload) = start().await?;
    let leader = cluster.leader(0).await?;
    workload
        .fault(async || {
            workload.strike(|| cluster.kill(leader));
            Ok(())
        })
        .await?;
    workload.acknowledged(invariant::ACKNOWLEDGED_MIN, LEADER_WITHIN).await?;
    cluster.start_node(leader)?;
    let outcome = workload.finish().await?;
    ensure!(outcome.gap < Duration::from_secs(3), "sends stood still for {:?}", outcome.gap);
    outcome.judge("leader killed", &cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_killed() -> Result<()> {
    let (mut cluster, workload) = start().await?;
    let leader = cluster.leader(0).await?;
    let follower = (leader + 1) % 3;
    workload
        .fault(async || {
            workload.strike(|| cluster.kill(follower));
            Ok(())
        })
        .await?;
    workload.acknowledged(invariant::ACKNOWLEDGED_MIN, LEADER_WITHIN).await?;
    cluster.start_node(follower)?;
    workload.finish().await?.judge("follower killed", &cluster).await
}

/// How far an election has come.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// A candidate has voted for itself, and nobody leads yet.
    Candidate,
    /// A successor leads, and its first entry is not committed yet.
    Unconfirmed,
}

impl Stage {
    /// Whether `status` is of a node at this stage of an election after `term`.
    fn is_seen(self, status: &GroupStatusResponse, term: u64) -> bool {
        let first = status.terms.iter().find(|start| (start.term, start.node) == (status.term, status.node));
        status.term > term
            && match self {
                Stage::Candidate => status.role == "candidate",
                Stage::Unconfirmed => {
                    status.role == "leader"
                        && first.is_none_or(|first| Some(first.first_index) > status.committed_index)
                }
            }
    }
}

/// Waits until one of `nodes` is at this stage of an election after `term`; its number and what it said.
async fn election(
    cluster: &Cluster,
    nodes: [usize; 2],
    stage: Stage,
    term: u64,
) -> Result<(usize, GroupStatusResponse)> {
    let deadline = Instant::now() + LEADER_WITHIN;
    while Instant::now() < deadline {
        for number in nodes {
            if let Ok(status) = cluster.status(number).await
                && stage.is_seen(&status, term)
            {
                return Ok((number, status));
            }
        }
    }
    bail!("UNKNOWN: nobody was seen as {stage:?}\n{}", cluster.log_tails(0))
}

/// The leader dies, and in the election that follows whoever has come furthest: a candidate that nobody has elected yet,
/// then a successor that leads and has committed nothing. One node is left each time, which must wait for a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_during_an_election() -> Result<()> {
    // A vote and a first entry must be synced: that takes long enough to be met, and less than a candidate waits for an
    // answer, which is 150 ms.
    const SYNC: Duration = Duration::from_millis(80);
    let mut cluster = Cluster::start(Options { slow_disks: true, ..Options::default() }).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;
    for stage in [Stage::Candidate, Stage::Unconfirmed] {
        cluster.has_all_so_far(0, LEADER_WITHIN).await?;
        let first = cluster.leader(0).await?;
        let term = cluster.status(first).await?.term;
        let others = [(first + 1) % 3, (first + 2) % 3];
        let (second, seen) = workload
            .fault(async || {
                others.iter().try_for_each(|number| cluster.delay_syncs(*number, SYNC))?;
                cluster.kill(first);
                let (second, seen) = election(&cluster, others, stage, term).await?;
                workload.strike(|| cluster.kill(second));
                (0..3).try_for_each(|number| cluster.delay_syncs(number, Duration::ZERO))?;
                cluster.start_node(first)?;
                Ok((second, seen))
            })
            .await?;
        let third = cluster.leader_other_than(0, Some(second), LEADER_WITHIN).await?;
        let status = cluster.status(third).await?;
        let elected = status.terms.iter().any(|start| (start.term, start.node) == (seen.term, seen.node));
        println!(
            "node {first} led in term {term}, node {second} was a {} in term {}, node {third} leads in term {}",
            seen.role, seen.term, status.term
        );
        ensure!(status.term > term, "term {term} was followed by {}", status.term);
        ensure!(!elected || matches!(stage, Stage::Unconfirmed), "UNKNOWN: the candidate was elected before it died");
        workload.goes_on(invariant::ACKNOWLEDGED_MIN, LEADER_WITHIN).await?;
        cluster.start_node(second)?;
    }
    workload.finish().await?.judge("leader killed during election", &cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_are_killed() -> Result<()> {
    let (mut cluster, workload) = start().await?;
    workload.fault(async || workload.strike(|| cluster.kill_at_once(&[0, 1, 2]))).await?;
    for number in 0..3 {
        cluster.start_node(number)?;
    }
    workload.finish().await?.judge("all three killed", &cluster).await
}

/// A leader that hangs is deposed; when it goes on it must not believe that it still leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_paused() -> Result<()> {
    let (mut cluster, workload) = start().await?;
    let leader = cluster.leader(0).await?;
    workload.fault(async || workload.strike(|| cluster.pause(leader))).await?;
    let successor = cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.resume(leader)?;
    successor?;
    workload.finish().await?.judge("leader paused", &cluster).await
}

/// Two nodes of three have the data; one of them is wiped and comes back under its label while the other is down. The
/// third, which slept through it all, and the empty one are a majority by number. They must not elect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_gives_no_vote() -> Result<()> {
    let (mut cluster, workload) = start().await?;
    let leader = cluster.leader(0).await?;
    let (wiped, stale) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.kill(stale);
    workload.fault(async || workload.strike(|| cluster.kill_at_once(&[leader, wiped]))).await?;
    cluster.wipe(wiped)?;
    cluster.start_node(wiped)?;
    cluster.start_node(stale)?;
    let elected = cluster.leader_other_than(0, None, Duration::from_secs(6)).await;
    ensure!(elected.is_err(), "a node without the data was elected");
    ensure!(cluster.log(wiped).contains("replacePeer"), "the empty node does not say how to admit it");
    // It stays out until someone admits it; the two that have their disks are enough.
    cluster.kill(wiped);
    cluster.start_node(leader)?;
    cluster.leader(0).await?;
    workload.finish().await?.judge_replicas("wiped member", &cluster, 2).await
}

/// `mqadmin updateTopic` says OK and the node that said it dies in that instant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_created_exists() -> Result<()> {
    let rounds = if std::env::var_os("RAFTMQ_LONG").is_some() { 100 } else { 10 };
    let mut cluster = Cluster::start(Options::default()).await?;
    for round in 0..rounds {
        let leader = cluster.leader(0).await?;
        let name = format!("created-{round}");
        cluster.create_topic_at(leader, &name, 4).await?;
        cluster.kill(leader);
        let producer = Producer::new(&cluster.access(0), &[])?;
        let successor = cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;
        let mut admin = cluster.admin_client(successor).await?;
        let request = raftmq_proto::admin::TopicRouteRequest { name: name.clone() };
        let route = admin.topic_route(request).await.with_context(|| format!("round {round}"))?.into_inner();
        let topic =
            route.broker_groups.first().and_then(|group| group.topic.as_ref()).context("no topic in the route")?;
        ensure!(topic.name == name && topic.write_queues == 4, "round {round}: {topic:?}");
        producer.send(&name, "first", None, "first".into()).await.with_context(|| format!("round {round}"))?;
        cluster.start_node(leader)?;
        // The next round may kill any node: two others must be able to elect.
        cluster.caught_up(0, Duration::from_secs(20)).await?;
    }
    Ok(())
}

/// A topic is made by three administrators at the same time, each through another node and with another setting: one of
/// them makes it, and the others change it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_thrice_at_once_has_what_each_gave_it() -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    cluster.activated(0, VERSION).await?;
    let nodes = cluster.administrations(Duration::from_secs(10))?;
    let given = [("rate.messages", "1000"), ("rate.bytes", "100000"), ("reserve.time", "12h")];
    for round in 0..10 {
        let name = format!("thrice-{round}");
        let puts = nodes.iter().zip(given).map(|(node, (key, value))| {
            let attributes = [(key.to_owned(), value.to_owned())].into();
            let request = PutTopicRequest { name: name.clone(), attributes, ..Default::default() };
            let mut node = node.clone();
            async move { node.put_topic(request).await }
        });
        for outcome in futures::future::join_all(puts).await {
            outcome.with_context(|| format!("round {round}"))?;
        }
        // Nothing to change: the answer has the whole row.
        let request = PutTopicRequest { name: name.clone(), ..Default::default() };
        let topic = nodes[round % 3].clone().put_topic(request).await?.into_inner().topic.context("no topic")?;
        let all = given.iter().all(|(key, value)| topic.attributes.get(*key).is_some_and(|is| is == value));
        ensure!(all, "round {round}: {topic:?}");
    }
    Ok(())
}

/// Name servers are told everything by heartbeats and nobody waits for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn name_servers_die() -> Result<()> {
    let (mut cluster, workload) = start().await?;
    workload
        .fault(async || {
            workload.strike(|| (0..2).for_each(|number| cluster.kill_namesrv(number)));
            Ok(())
        })
        .await?;
    workload.acknowledged(invariant::ACKNOWLEDGED_MIN, LEADER_WITHIN).await?;
    workload.delivers(invariant::ACKNOWLEDGED_MIN, LEADER_WITHIN).await?;
    let newcomer = Producer::new(&cluster.access(0), &["orders"])?;
    newcomer.client().route("orders").await.context("a client that starts without name servers")?;
    cluster.start_namesrv(1)?;
    let seen = async || {
        let output = cluster.mqadmin(&["clusterList", "-o", "json"]).await;
        output.is_ok_and(|output| {
            output.status.success() && String::from_utf8_lossy(&output.stdout).matches("RaftNode00").count() >= 3
        })
    };
    eventually("a restarted name server knows the brokers", Duration::from_secs(45), seen).await?;
    let leader = cluster.leader(0).await?;
    let rows = cluster.mqadmin(&["clusterList", "-o", "json"]).await?.stdout;
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&rows).context("clusterList prints JSON")?;
    for (number, node) in cluster.nodes.iter().enumerate() {
        let address = node.admin.to_string();
        let row = rows.iter().find(|row| row["addr"] == address.as_str());
        let row = row.with_context(|| format!("clusterList has no #Addr {address}: {rows:?}"))?;
        ensure!((row["brokerId"] == 0) == (number == leader), "#BID is 0 for the leader alone: {rows:?}");
    }
    workload.finish().await?.judge("name servers killed", &cluster).await
}

/// Handles that acknowledge nothing: changed, cut, of another consumer group, superseded. Each is refused by the code that
/// tells a client to give up; another one would have it try for ever. The message stays leased where it was, comes back
/// when its lease ends, and its own handle acknowledges it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_that_are_not_valid_acknowledge_nothing() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic("forged", 4).await?;
    let access = cluster.access(0);
    let producer = Producer::new(&access, &["forged"])?;
    let consumer = Consumer::new(&access, "owners", "forged", "*", false)?;
    let stranger = Consumer::new(&access, "strangers", "forged", "*", false)?;
    let wait = Duration::from_secs(5);
    let lease = Duration::from_secs(10);
    for consumer in [&consumer, &stranger] {
        consumer.join("forged").await;
    }
    producer.send("forged", &message_id(1), None, "body".into()).await?;
    let first = consumer.receive("forged", 1, lease, wait).await?.pop().context("nothing received")?;
    let wrong = invariant::forgeries(&consumer, &stranger, &first).await;
    ensure!(wrong.is_empty(), "these were not refused as what they are: {wrong:?}");
    ensure!(invariant::leased(&cluster, 0, "owners", "forged").await? == 1, "the message is not leased any more");
    // It is still leased, and comes back.
    let second = loop {
        ensure!(
            first.received.elapsed() < Duration::from_secs(20),
            "the message did not come back: it was acknowledged"
        );
        if let Some(second) = consumer.receive("forged", 1, lease, wait).await?.pop() {
            break second;
        }
    };
    ensure!(second.place() == first.place(), "it came back from {:?}, not {:?}", second.place(), first.place());
    ensure!(second.attempt() == 2 && second.received.duration_since(first.called) >= lease, "it came back early");
    invariant::refused(consumer.ack(&first).await).context("the handle of the lease before")?;
    // A changed lease supersedes the handle it was changed with; a failover in between changes nothing.
    let changed = consumer.change_invisible(&second, Duration::from_secs(60)).await?;
    let leader = cluster.leader(0).await?;
    cluster.kill(leader);
    cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;
    invariant::refused(consumer.ack(&second).await).context("the handle from before the change")?;
    ensure!(invariant::leased(&cluster, 0, "owners", "forged").await? == 1, "the message is not leased any more");
    consumer.ack_handle(&second, &changed).await?;
    ensure!(consumer.receive("forged", 1, lease, wait).await?.is_empty(), "an acknowledged message came back");
    Ok(())
}
