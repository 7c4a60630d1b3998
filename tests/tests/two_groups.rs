//! Two groups of three nodes serve one topic, and go on serving what they can while one of them is down.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use raftmq_tests::{
    client::Producer,
    cluster::{Cluster, Options},
    invariant,
    workload::{self, Workload},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_group_is_down() -> Result<()> {
    let mut cluster = Cluster::start(Options { groups: 2, ..Default::default() }).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 4).await?;
    let mut access = cluster.access(0);
    access.extend(cluster.access(1));
    // Every group is told of the other's queues by the name servers.
    let route = async || {
        let producer = Producer::new(&access, &[&options.topic])?;
        let route = producer.client().route(&options.topic).await?;
        let groups: BTreeSet<String> =
            route.queues().filter_map(|queue| Some(queue.broker.as_ref()?.name.clone())).collect();
        Ok::<_, anyhow::Error>(groups.len())
    };
    raftmq_tests::client::eventually("routes name both groups", Duration::from_secs(40), async || {
        route().await.is_ok_and(|groups| groups == 2)
    })
    .await?;
    // What the survivor is sent on its own is not the workload's to receive.
    cluster.create_topic("alone", 4).await?;
    let workload = Workload::start(&access, options).await?;
    workload.fault(async || workload.strike(|| cluster.kill_at_once(&cluster.members(1)))).await?;
    workload.acknowledged(invariant::ACKNOWLEDGED_MIN, Duration::from_secs(60)).await?;
    workload.delivers(invariant::ACKNOWLEDGED_MIN, Duration::from_secs(60)).await?;
    let survivor = Producer::new(&cluster.access(0), &["alone"])?;
    let sent = survivor.send("alone", "alone", None, "alone".into()).await;
    ensure!(sent.is_ok(), "a new client is not served by the group that is up: {sent:?}");
    for number in cluster.members(1) {
        cluster.start_node(number)?;
    }
    cluster.leader(1).await?;
    workload.finish().await?.judge("two groups", &cluster).await
}
