//! Tells clients when the voters of the broker group changed: those that understand it connect anew, and so spread over
//! the members that there are now. Routes tell all clients the same, when they ask for them next.

use crate::broker::Node;
use raft_store::{NodeId, RaftGroup};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Watches the members until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut seen = node.group.membership();
    let mut known = voters(&node.group);
    while let Some(changed) = stop.run_until_cancelled(node.group.membership_changed(seen)).await {
        seen = changed;
        let voters = voters(&node.group);
        if voters != known {
            known = voters;
            node.streams.regrouped();
        }
    }
}

fn voters(group: &RaftGroup) -> BTreeSet<NodeId> {
    group.members().into_iter().filter(|member| member.voter).map(|member| member.id).collect()
}
