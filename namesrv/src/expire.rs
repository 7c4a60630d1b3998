//! Looks for nodes that have gone silent.

use crate::grpc::Shared;
use crate::route_table::Expired;
use std::time::Duration;

/// Looks every `every` until the task is dropped.
pub(crate) async fn run(shared: &Shared, every: Duration) {
    let mut last_ms = shared.now_ms();
    loop {
        tokio::time::sleep(every).await;
        let now_ms = shared.now_ms();
        let expired = shared.table().expire(last_ms, now_ms);
        last_ms = now_ms;
        for expired in expired {
            match expired {
                Expired::Dead { group: (cluster, broker_group), label, node } => {
                    tracing::warn!(cluster, broker_group, label, node, "broker node is silent and counts as dead");
                }
                Expired::Forgotten { group: (cluster, broker_group), label, node } => {
                    tracing::info!(cluster, broker_group, label, node, "broker node is silent and forgotten");
                }
            }
        }
    }
}
