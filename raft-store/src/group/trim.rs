//! Trim: gives back the disk of entries that nobody needs any more, on this node.
//!
//! ```text
//! rows flushed beyond the trim → Raft's log starts after it → that is durable → whole segments below it are unlinked
//! ```
//! Rule I2: the log is never purged ahead of the durable rows, so that a restart replays from what is there. A crash
//! anywhere in between leaves files that the next trim unlinks.

use super::RaftGroup;
use crate::error::TrimError;
use crate::log::SegmentSummary;
use crate::types::LogIndex;
use openraft::async_runtime::WatchReceiver;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A flush of the rows, and a purge that a slow follower holds up, have this long; then the trim is tried again later.
const STEP_WAIT: Duration = Duration::from_secs(30);

/// How often is looked at how far Raft is with it.
const LOOK: Duration = Duration::from_millis(20);

/// What a node's log takes of its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogUse {
    /// Bytes of the log, without segments in reserve.
    pub bytes: u64,
    /// Index of the oldest entry that is there; of the next one when there is none.
    pub first: LogIndex,
    /// Bytes of the file system that the log is in, and of them those that may still be used.
    pub disk_bytes: u64,
    /// See above.
    pub free_bytes: u64,
    /// Files of the log that nothing is added to any more, the oldest first.
    pub sealed: Vec<SegmentUse>,
}

/// A file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentUse {
    /// The first entry behind those that it holds.
    pub end: LogIndex,
    /// Its bytes.
    pub bytes: u64,
}

impl RaftGroup {
    /// Unlinks the files of this node's log all of whose entries are below `upto`, and returns how many there were. The
    /// caller knows that no member needs those entries and that no row names their payloads.
    ///
    /// Everything below `upto` must have been applied here. Rows are flushed when there is anything to unlink. One trim
    /// at a time.
    ///
    /// # Errors
    /// [`TrimError`]: it can be tried again later, unless the group is closed.
    pub async fn trim(&self, upto: LogIndex) -> Result<usize, TrimError> {
        let shared = self.shared();
        let is_below = |segment: &SegmentSummary| segment.sealed && segment.entries.end <= upto.0;
        let Some(last) = upto.0.checked_sub(1).filter(|_| shared.log.segments().first().is_some_and(is_below)) else {
            return Ok(0);
        };
        // What is shipped to a member is not even purged: it goes on after the copy from what is in the log.
        if shared.log.pinned().is_some() {
            return Err(TrimError::Held);
        }
        if shared.log.state().purged.is_none_or(|purged| purged.index < last) {
            let applied = shared.metrics().last_applied.map_or(0, |id| id.index);
            if applied < last {
                return Err(TrimError::NotApplied { upto, applied: LogIndex(applied) });
            }
            // A flush that fails would stop the node.
            if !shared.flusher.has_room() {
                return Err(TrimError::TimedOut("there is no room to flush the rows"));
            }
            shared.raft.trigger().snapshot().await.map_err(|_| TrimError::Closed)?;
            self.until(|metrics| metrics.snapshot.as_ref().is_some_and(|id| id.index >= last), "rows were not flushed")
                .await?;
            // What it was built for is that the rows are durable; nobody is sent it.
            shared.snapshots.forget();
            shared.raft.trigger().purge_log(last).await.map_err(|_| TrimError::Closed)?;
            self.until(
                |metrics| metrics.purged.as_ref().is_some_and(|id| id.index >= last),
                "a follower is still being sent these entries",
            )
            .await?;
        }
        let (done, synced) = oneshot::channel();
        shared.log.sync(Box::new(move |result| {
            // The receiver is gone only when the group is being torn down.
            let _ = done.send(result);
        }));
        match synced.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(TrimError::Closed),
        }
        let log = shared.log.clone();
        let trimmed = tokio::task::spawn_blocking(move || log.trim(upto.0)).await;
        match trimmed {
            Ok(Ok(segments)) => Ok(segments),
            Ok(Err(error)) => {
                shared.halt.stop(format!("a segment of the log could not be removed: {error}"));
                Err(TrimError::Closed)
            }
            Err(_) => Err(TrimError::Closed),
        }
    }

    async fn until(
        &self,
        reached: impl Fn(&openraft::RaftMetrics<crate::raft_types::Types>) -> bool,
        what: &'static str,
    ) -> Result<(), TrimError> {
        let shared = self.shared();
        let end = Instant::now() + STEP_WAIT;
        while !reached(&shared.raft.metrics().borrow_watched().clone()) {
            if shared.closed() {
                return Err(TrimError::Closed);
            }
            if Instant::now() >= end {
                return Err(TrimError::TimedOut(what));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// What this node's log takes of its disk.
    #[must_use]
    pub fn log_use(&self) -> LogUse {
        let shared = self.shared();
        let segments = shared.log.segments();
        let next = shared.log.state().last.map_or(0, |last| last.index + 1);
        LogUse {
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            first: LogIndex(segments.first().map_or(next, |segment| segment.entries.start)),
            disk_bytes: shared.disk.total_bytes(&shared.log.dir()).unwrap_or_default(),
            free_bytes: shared.disk.free_bytes(&shared.log.dir()).unwrap_or_default(),
            sealed: segments
                .iter()
                .filter(|segment| segment.sealed)
                .map(|segment| SegmentUse { end: LogIndex(segment.entries.end), bytes: segment.bytes })
                .collect(),
        }
    }
}
