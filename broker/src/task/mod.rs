//! Work that only the leader does. It proposes and never writes; losing leadership ends it.

mod activate;
pub(crate) mod agreement;
mod clock;
mod disk_use;
mod owners;
mod reappend;
mod retention;
mod session;
mod settings;
mod slow_disk;
mod transaction_check;

pub use slow_disk::SlowDiskLimits;

pub(crate) use activate::Builds;
pub(crate) use disk_use::{Uses, unlink};
pub(crate) use retention::{Asked as TrimsAsked, Outcome as TrimOutcome};
pub(crate) use slow_disk::Paces;

use crate::broker::Node;
use raft_store::Leadership;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Members report their clients and clock to the leader this often.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Runs the leader's tasks whenever this node leads, until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut seen = node.group.leadership();
    // Leadership may come back within a term, by no election.
    let mut elected = None;
    loop {
        if seen.leads {
            tracing::info!(term = seen.term.0, "leads its broker group");
            if elected.replace(seen.term) != Some(seen.term) {
                node.counters.elected();
            }
            node.registry.lead(seen.term);
            tokio::select! {
                () = stop.cancelled() => return,
                () = clock::run(&node) => {}
                () = session::run(&node, seen.term) => {}
                () = settings::run(&node) => {}
                () = activate::run(&node) => {}
                () = transaction_check::run(&node) => {}
                () = retention::run(&node) => {}
                () = owners::run(&node) => {}
                leadership = turned(&node, seen) => seen = leadership,
            }
        } else {
            node.registry.follow();
            tokio::select! {
                () = stop.cancelled() => return,
                () = session::report(&node) => {}
                leadership = turned(&node, seen) => seen = leadership,
            }
        }
    }
}

/// Waits for another leader or term. Proposals that came to nothing change nothing here.
async fn turned(node: &Node, seen: Leadership) -> Leadership {
    let mut last = seen;
    loop {
        last = node.group.leadership_changed(last).await;
        if (last.term, last.leader, last.leads) != (seen.term, seen.leader, seen.leads) {
            return last;
        }
    }
}
