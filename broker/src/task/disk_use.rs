//! What the logs of the group take of their disks, and the unlinking of what the group trimmed, on every node.

use crate::broker::Node;
use crate::store::retention;
use parking_lot::Mutex;
use raft_store::{LogIndex, NodeId, TrimError};
use raftmq_proto::forward::LogUse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A member's report counts for this long.
const REPORT_AGE_MAX: Duration = Duration::from_secs(4);
/// How often is looked at what was trimmed.
const LOOK: Duration = Duration::from_millis(500);
/// After a trim that came to nothing.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What a node knows of the disks of its group.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// This node has unlinked what lies below this entry.
    unlinked: AtomicU64,
    /// On the leader: what members said last, and when.
    members: Mutex<BTreeMap<NodeId, (LogUse, Instant)>>,
}

impl Uses {
    /// As this node reports it.
    pub(crate) fn own(&self, node: &Node) -> LogUse {
        let log = node.group.log_use();
        LogUse {
            log_bytes: log.bytes,
            disk_bytes: log.disk_bytes,
            free_bytes: log.free_bytes,
            trimmed: self.unlinked.load(Ordering::Relaxed),
        }
    }

    /// A member reported to this node, which leads.
    pub(crate) fn reported(&self, node: NodeId, log: Option<LogUse>) {
        if let Some(log) = log {
            self.members.lock().insert(node, (log, Instant::now()));
        }
    }

    /// What all members say whose reports are recent, this node among them.
    pub(super) fn all(&self, node: &Node) -> Vec<LogUse> {
        let own = self.own(node);
        let mut members = self.members.lock();
        members.retain(|_, (_, at)| at.elapsed() < REPORT_AGE_MAX);
        members.remove(&node.group.node());
        std::iter::once(own).chain(members.values().map(|(log, _)| *log)).collect()
    }
}

/// Unlinks segments of this node's log below what the group trimmed, until `stop`.
pub(crate) async fn unlink(node: Arc<Node>, stop: CancellationToken) {
    let unlinking = async {
        loop {
            let again = match retention::trimmed(&node.group.state()) {
                Ok(trimmed) => unlink_below(&node, trimmed.upto).await,
                Err(error) => {
                    tracing::error!(%error, "cannot read what was trimmed");
                    AGAIN_AFTER
                }
            };
            tokio::time::sleep(again).await;
        }
    };
    stop.run_until_cancelled(unlinking).await;
}

/// Gives when to look again.
async fn unlink_below(node: &Node, upto: u64) -> Duration {
    match node.group.trim(LogIndex(upto)).await {
        Ok(segments) => {
            node.uses.unlinked.store(upto, Ordering::Relaxed);
            if segments > 0 {
                let bytes = node.group.log_use().bytes;
                tracing::info!(segments, below = upto, log_bytes = bytes, "segments of the log were removed");
            }
            LOOK
        }
        // Rows say that it was trimmed once the batch is written; Raft counts it as applied a little later.
        Err(TrimError::NotApplied { .. }) => LOOK,
        // Nor is it told that they are removed: they would be counted again as too much.
        Err(TrimError::Held) => LOOK,
        Err(TrimError::Closed) => AGAIN_AFTER,
        Err(error @ TrimError::TimedOut(_)) => {
            tracing::warn!(%error, "segments of the log stay for now");
            AGAIN_AFTER
        }
    }
}
