//! The leader is cut off from the other two while clients still reach all three: it must stop acknowledging, the
//! others elect, and afterwards it follows.

use std::time::Duration;

use anyhow::Result;
use raftmq_tests::{
    cluster::{Cluster, LEADER_WITHIN, Options},
    invariant,
    netns::{self, Network},
    workload::{self, Workload},
};

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
    workload.fault(async || others.iter().try_for_each(|other| network.cut(leader, *other))).await?;
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
