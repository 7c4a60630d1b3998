//! The power of all three nodes goes at once, under load: what no fdatasync had reached is gone from every disk, and
//! nothing that was acknowledged is.

use std::time::Duration;

use anyhow::Result;
use raftmq_tests::{
    cluster::{Cluster, Options},
    power::{self, Build},
    workload::{self, Workload},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() -> Result<()> {
    let seeds = match std::env::var("RAFTMQ_SEED") {
        Ok(seed) => vec![seed.parse()?],
        Err(_) if std::env::var_os("RAFTMQ_LONG").is_some() => (0..20).collect(),
        Err(_) => vec![0, 1, 2],
    };
    let mut cluster = Cluster::start(Options { power_loss: true, ..Default::default() }).await?;
    for seed in seeds {
        println!("power loss: replay this cut with RAFTMQ_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let options = workload::Options { topic: format!("cut-{seed}"), hold: 32, ..Default::default() };
        cluster.create_topic(&options.topic, 8).await?;
        let workload = Workload::start(&cluster.access(0), options).await?;
        let delay = Duration::from_micros(random.random_range(0..20_000));
        workload
            .fault(async || {
                tokio::time::sleep(delay).await;
                cluster.kill_at_once(&[0, 1, 2])
            })
            .await?;
        for number in 0..3 {
            cluster.start_node(number)?;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        }
        workload.finish().await?.judge(&format!("power loss, seed {seed}"), &cluster).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn nothing_acknowledged_is_lost_on_slow_disks() -> Result<()> {
    power::all_at_once(Build::Shipped).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn a_vote_outlasts_a_power_loss() -> Result<()> {
    power::after_a_vote(Build::Shipped).await
}
