//! The leader is cut off from the other two while clients still reach all three: it must stop acknowledging, the
//! others elect, and afterwards it follows. And two partitions that must change nothing: a member that hears nobody
//! and can still ask for votes, and one that gets heartbeats and no entries.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use raftmq_tests::{
    client::Producer,
    cluster::{Cluster, LEADER_WITHIN, Options},
    invariant,
    netns::{self, Network},
    relay::Direction,
    workload::{self, Workload},
};

/// Many times the longest election wait, which is 350 ms.
const SILENCE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_on_the_minority_side() -> Result<()> {
    if let Some(reason) = netns::unavailable() {
        eprintln!("SKIPPED: no partition was made and nothing was proved: {reason}");
        return Ok(());
    }
    let network = Network::new(3)?;
    let mut cluster = Cluster::start(Options { hosts: network.hosts.clone(), ..Default::default() }).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;
    let leader = cluster.leader(0).await?;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let cut = || others.iter().try_for_each(|other| network.cut(leader, *other));
    workload.fault(async || workload.strike(cut)).await?;
    let elected = cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await;
    let went_on = workload.acknowledged(invariant::ACKNOWLEDGED_MIN, Duration::from_secs(40)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    others.iter().try_for_each(|other| network.heal(leader, *other))?;
    elected?;
    went_on?;
    let outcome = workload.finish().await?.judge("partition", &cluster).await;
    // The processes go before the network that they are in.
    drop(cluster);
    drop(network);
    outcome
}

/// Term and leader of the group.
async fn reign(cluster: &mut Cluster) -> Result<(usize, u64)> {
    let leader = cluster.leader(0).await?;
    Ok((leader, cluster.status(leader).await?.term))
}

/// How long ago the leader had an answer from another member.
async fn unheard(cluster: &Cluster, leader: usize, member: usize) -> Result<Duration> {
    let label = &cluster.nodes[member].label;
    let members = cluster.status(leader).await?.members;
    let of = members.into_iter().find(|member| member.label == *label).and_then(|member| member.last_ack_ms);
    Ok(Duration::from_millis(of.context("the leader does not say")?))
}

/// Raft's own rule would have the others follow the higher term of a candidate that they cannot need: with a pre-vote
/// it is refused before it has one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hears_nobody_takes_no_leader_down() -> Result<()> {
    let mut cluster = Cluster::start(Options { relayed: true, ..Default::default() }).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    let before = reign(&mut cluster).await?;
    let deaf = (before.0 + 1) % 3;
    let others = [before.0, (deaf + 1) % 3].map(|number| cluster.nodes[number].grpc);
    let workload = Workload::start(&others, options).await?;
    let relay = cluster.nodes[deaf].relays()?.peer.clone();
    workload
        .fault(async || {
            workload.strike(|| relay.lose(Direction::Inbound));
            tokio::time::sleep(SILENCE).await;
            Ok(())
        })
        .await?;
    let unheard = unheard(&cluster, before.0, deaf).await?;
    ensure!(unheard > SILENCE / 2, "the member answered its leader {unheard:?} ago");
    ensure!(reign(&mut cluster).await? == before, "{before:?} became {:?}", reign(&mut cluster).await?);
    relay.heal();
    let follows = async || cluster.status(deaf).await.is_ok_and(|status| status.role == "follower");
    raftmq_tests::client::eventually("the member follows again", LEADER_WITHIN, follows).await?;
    workload.goes_on(invariant::ACKNOWLEDGED_MIN, LEADER_WITHIN).await?;
    ensure!(reign(&mut cluster).await? == before, "{before:?} became {:?}", reign(&mut cluster).await?);
    workload.finish().await?.judge("a member that hears nobody", &cluster).await
}

/// Heartbeats have a connection of their own: one that is full of entries, or stands still, delays none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_gets_no_entries_still_has_its_leader() -> Result<()> {
    const MARK: &str = "the entry that does not arrive";
    let mut cluster = Cluster::start(Options { relayed: true, ..Default::default() }).await?;
    cluster.create_topic("marks", 1).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let before = reign(&mut cluster).await?;
    let starved = (before.0 + 1) % 3;
    let relay = cluster.nodes[starved].relays()?.peer.clone();
    let producer = Producer::new(&[cluster.nodes[before.0].grpc], &["marks"])?;
    relay.when(Direction::Inbound, MARK, || {});
    relay.heal_but_lose(Direction::Inbound, MARK);
    let since = Instant::now();
    let mut sent = 0;
    while since.elapsed() < SILENCE {
        producer.send("marks", &format!("{sent}"), None, MARK.into()).await?;
        sent += 1;
    }
    ensure!(relay.came(Direction::Inbound, MARK) > 0, "the entries did not come by the relay");
    let (ahead, behind) = (cluster.status(before.0).await?, cluster.status(starved).await?);
    ensure!(behind.applied_index < ahead.applied_index, "the member has all entries: nothing was held back");
    let unheard = unheard(&cluster, before.0, starved).await?;
    ensure!(unheard < SILENCE / 4, "it answered its leader's last heartbeat {unheard:?} ago");
    ensure!(reign(&mut cluster).await? == before, "{before:?} became {:?}", reign(&mut cluster).await?);
    relay.heal();
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let verdict = invariant::replicas_agree(&cluster, 0, 3).await;
    ensure!(verdict == invariant::Verdict::True, "replicas agree: {verdict}");
    Ok(())
}
