//! Tells clients when the voters of the broker group changed: those that understand it connect anew, and so spread over
//! the members that there are now. Routes tell all clients the same, when they ask for them next.

use crate::broker::Node;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Watches the members until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut seen = node.group.membership();
    let mut known = node.group.voters();
    while let Some(changed) = stop.run_until_cancelled(node.group.membership_changed(seen)).await {
        seen = changed;
        let voters = node.group.voters();
        if voters != known {
            known = voters;
            node.streams.regrouped();
        }
    }
}
