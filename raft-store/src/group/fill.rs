//! Filling members that need entries which the log no longer has, as this node takes part in it. See [`crate::ship`].

use super::{RaftGroup, Shared};
use crate::ship;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often is looked at what is left of transfers.
const LOOK: Duration = Duration::from_secs(5);

/// What this node sent and took of fillings since it started. Bytes of files and entries, without what went along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FillFigures {
    /// Sent to members.
    pub sent_bytes: u64,
    /// Taken from leaders, and kept.
    pub taken_bytes: u64,
}

impl RaftGroup {
    /// What this node sent and took of fillings since it started.
    #[must_use]
    pub fn fill_figures(&self) -> FillFigures {
        let shared = self.shared();
        FillFigures {
            sent_bytes: shared.shipper.sent_bytes.load(Ordering::Relaxed),
            taken_bytes: shared.receiver.taken_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    /// Deletes what transfers left that nobody goes on with.
    pub(super) async fn tidy_fills(&self) {
        loop {
            ship::tidy(&self.snapshots, self.log.space().full);
            if let Some(applied) = self.metrics().last_applied {
                self.receiver.tidy(applied.index).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
