//! Work that only the leader does. It proposes and never writes; losing leadership ends it.

mod clock;
mod session;

use crate::broker::Node;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Members report their clients and clock to the leader this often.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Runs the leader's tasks whenever this node leads, until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut seen = node.group.leadership();
    loop {
        if seen.leads {
            tracing::info!(term = seen.term.0, "leads its broker group");
            node.registry.lead(seen.term);
            tokio::select! {
                () = stop.cancelled() => return,
                () = clock::run(&node) => {}
                () = session::run(&node) => {}
                leadership = node.group.leadership_changed(seen) => seen = leadership,
            }
        } else {
            node.registry.follow();
            tokio::select! {
                () = stop.cancelled() => return,
                () = session::report(&node) => {}
                leadership = node.group.leadership_changed(seen) => seen = leadership,
            }
        }
    }
}
