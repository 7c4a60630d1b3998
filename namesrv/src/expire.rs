//! Looks for nodes that have gone silent.

use crate::grpc::Shared;
use crate::route_table::Expired;

/// Looks every `scanNotActiveBrokerInterval` until the task is dropped.
pub(crate) async fn run(shared: &Shared) {
    let mut last_ms = shared.now_ms();
    loop {
        tokio::select! {
            () = tokio::time::sleep(shared.scan_every()) => {}
            () = shared.settings_changed() => {}
        }
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
