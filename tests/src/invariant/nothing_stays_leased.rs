//! What was acknowledged is leased to nobody: without this, an acknowledgement that was answered OK and forgotten would
//! show only when its lease ends, long after the run.

use std::time::{Duration, Instant};

use raftmq_proto::admin::ConsumerProgressRequest;

use super::Verdict;
use crate::cluster::Cluster;

/// Waits until no message of a topic is leased to a consumer group whose consumers have stopped. Leases whose messages
/// nobody got, because the answer was lost, end within `limit`; those that outlast it were acknowledged.
pub async fn nothing_stays_leased(
    cluster: &Cluster,
    group: usize,
    consumer_group: &str,
    topic: &str,
    limit: Duration,
) -> Verdict {
    let deadline = Instant::now() + limit;
    loop {
        let last = match leased(cluster, group, consumer_group, topic).await {
            Ok(0) => return Verdict::True,
            Ok(leased) if Instant::now() > deadline => {
                return Verdict::False(vec![format!("{leased} messages are leased that nobody holds")]);
            }
            Ok(leased) => format!("{leased} messages are leased"),
            Err(failure) => format!("{failure:#}"),
        };
        if Instant::now() > deadline {
            return Verdict::Unknown(last);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Messages of a topic that are leased to members of a consumer group.
///
/// # Errors
///
/// No node of the broker group says so.
pub async fn leased(cluster: &Cluster, group: usize, consumer_group: &str, topic: &str) -> anyhow::Result<u64> {
    let mut last = anyhow::anyhow!("no node runs");
    for number in cluster.running(group) {
        let request =
            ConsumerProgressRequest { consumer_group: consumer_group.into(), topic: topic.into(), stale: false };
        let ask = async {
            let mut parts = cluster.admin_client(number).await?.consumer_progress(request).await?.into_inner();
            let mut leased = 0;
            while let Some(part) = parts.message().await? {
                leased += part.queues.iter().map(|queue| queue.in_flight).sum::<u64>();
            }
            Ok(leased)
        };
        match ask.await {
            Ok(leased) => return Ok(leased),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}
