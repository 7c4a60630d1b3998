//! What the figures share that are held to a bound: the broker group that they are taken on, and how they stand beside
//! what is wanted of them.

use std::time::Duration;

use anyhow::Result;
use raftmq_tests::{
    cluster::{Cluster, LEADER_WITHIN, Options},
    load::{Figures, Target},
    usage::Usage,
};

use super::{CONNECTIONS, TOPIC};

/// Rows that were written, and what compaction makes of them, have reached the disk after this: they are flushed every
/// 20 s, however few there are.
const FLUSHED: Duration = Duration::from_secs(25);

/// A broker group of three with [`TOPIC`], for messages of one type where one is said, and a client of it.
pub(super) async fn start(message_type: Option<&str>, settings: Vec<(String, String)>) -> Result<(Cluster, Target)> {
    let mut cluster = Cluster::start(Options { segment_bytes: None, settings, ..Default::default() }).await?;
    cluster.leader(0).await?;
    cluster.put_topic(TOPIC, 8, message_type).await?;
    // The node that is asked for the route knows the topic.
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let target = Target::connect(cluster.nodes[0].grpc, TOPIC, CONNECTIONS).await?;
    Ok((cluster, target))
}

/// p99 without something that goes on beside what is measured, and with it.
pub(super) fn beside(without: &Figures, with: &Figures, ratio_max: f64) -> String {
    for figures in [without, with] {
        if figures.failures > 0 {
            eprintln!("{} calls failed: {}", figures.failures, figures.first_failure.as_deref().unwrap_or_default());
        }
    }
    let ratio = with.millis(0.99) / without.millis(0.99).max(1e-3);
    format!(
        "p99 {:.2} ms without, {:.2} ms with it: {ratio:.2} × (wanted ≤ {ratio_max}; of {} and {})",
        without.millis(0.99),
        with.millis(0.99),
        without.latency_us.len(),
        with.latency_us.len(),
    )
}

/// Waits until everything that was done has reached the disk: what goes on after it does not pay for what was before.
pub(super) async fn rest() {
    tokio::time::sleep(FLUSHED).await;
}

/// What each broker has written since it started, and holds in memory.
pub(super) struct Taken {
    brokers: Vec<Usage>,
}

impl Taken {
    pub(super) fn now(pids: &[u32]) -> Result<Self> {
        Ok(Self { brokers: pids.iter().map(|pid| Usage::of(*pid)).collect::<Result<_>>()? })
    }

    /// Once everything that was done has reached the disk.
    pub(super) async fn at_rest(pids: &[u32]) -> Result<Self> {
        rest().await;
        Self::now(pids)
    }

    /// Bytes that each broker wrote since `before`.
    pub(super) fn written_since(&self, before: &Self) -> Vec<f64> {
        let pairs = self.brokers.iter().zip(&before.brokers);
        pairs.map(|(after, before)| after.since(before).written_bytes as f64).collect()
    }

    /// By how many bytes the memory of each broker is more than it was.
    pub(super) fn grown_since(&self, before: &Self) -> Vec<f64> {
        let pairs = self.brokers.iter().zip(&before.brokers);
        pairs.map(|(after, before)| after.resident_bytes as f64 - before.resident_bytes as f64).collect()
    }
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
