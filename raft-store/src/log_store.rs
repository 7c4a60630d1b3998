//! What openraft asks of a log store, answered by our [`Log`].
//!
//! Appends return as soon as the entries are readable and report through their callback once they are durable;
//! a vote is durable when `save_vote` returns. The commit point rides along with the next frame.

use crate::halt::Halt;
use crate::log::{Entry, Log};
use crate::raft_types::{
    RaftEntry, RaftLogId, RaftVote, Types, from_log_entry, from_raft_log_id, from_raft_vote, to_log_entry,
    to_raft_log_id, to_raft_vote,
};
use crate::types::LogId;
use futures::stream::{self, Stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::alias::EntryOf;
use openraft::{OptionalSend, RaftLogReader};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Bytes of entries that go to a follower in one message, and that apply holds at once.
pub(crate) const READ_BYTES_MAX: usize = 1 << 20;

/// openraft's view of the log; cheap to clone, every clone reads what any has appended.
#[derive(Clone)]
pub struct LogStore {
    log: Log,
    halt: Halt,
    /// A candidate waits so long for a vote.
    vote_within: Duration,
}

impl LogStore {
    pub(crate) fn new(log: Log, halt: Halt, vote_within: Duration) -> LogStore {
        LogStore { log, halt, vote_within }
    }

    /// Entries from `start`, at least one where there is one, at most [`READ_BYTES_MAX`] of them or one.
    async fn read(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        if self.log.is_in_memory(start) {
            return self.log.read(start..end, READ_BYTES_MAX);
        }
        // The disk may take its time; the consensus task and the heartbeats share this runtime.
        let log = self.log.clone();
        tokio::task::spawn_blocking(move || log.read(start..end, READ_BYTES_MAX)).await.map_err(io::Error::other)?
    }

    /// The part of `range` that the log can hold, as `start..end`.
    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let visible = self.log.visible();
        (start.max(visible.start), end.min(visible.end))
    }
}

fn to_raft(entry: Entry) -> io::Result<RaftEntry> {
    from_log_entry(entry).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn hole(start: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log has no entry {start} where it must have one"))
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (mut start, end) = self.bounds(&range);
        let mut all = Vec::new();
        while start < end {
            let entries = self.read(start, end).await?;
            if entries.is_empty() {
                return Err(hole(start));
            }
            start += entries.len() as u64;
            for entry in entries {
                all.push(to_raft(entry)?);
            }
        }
        Ok(all)
    }

    /// Reads as the consumer goes, so that a long stretch to apply is never in memory as a whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<EntryOf<Types>, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = self.bounds(&range);
        let unread = (self.clone(), start, VecDeque::<Entry>::new());
        stream::try_unfold(unread, move |(store, mut start, mut read)| async move {
            if read.is_empty() {
                if start >= end {
                    return Ok(None);
                }
                read = store.read(start, end).await?.into();
                if read.is_empty() {
                    return Err(hole(start));
                }
                start += read.len() as u64;
            }
            let Some(entry) = read.pop_front() else {
                return Ok(None);
            };
            Ok(Some((to_raft(entry)?, (store, start, read))))
        })
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.log.state().vote.map(to_raft_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end).await?.into_iter().map(to_raft).collect()
    }

    /// The last id of each leader, which is what openraft's log id list keeps.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<RaftLogId>) -> Result<Vec<RaftLogId>, io::Error> {
        let firsts = self.log.key_log_ids(range.start().index..range.end().index + 1);
        Ok(lasts(&firsts).into_iter().map(to_raft_log_id).collect())
    }
}

/// The last id of each leader, out of the first of each and the last of all.
fn lasts(firsts: &[LogId]) -> Vec<LogId> {
    let leader = |id: &LogId| (id.term, id.node);
    let changes = firsts.windows(2).filter(|pair| leader(&pair[0]) != leader(&pair[1]));
    let before_changes = changes.map(|pair| LogId { index: pair[1].index - 1, ..pair[0] });
    before_changes.chain(firsts.last().copied()).collect()
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(to_raft_log_id),
            last_log_id: state.last.or(state.purged).map(to_raft_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let (done, durable) = oneshot::channel();
        self.log.save_vote(
            from_raft_vote(vote),
            Box::new(move |result| {
                // The receiver is gone only when the group is being torn down.
                let _ = done.send(result);
            }),
        );
        let asked = Instant::now();
        let result = durable.await.unwrap_or_else(|_| Err(closed()));
        let took = asked.elapsed();
        if took > self.vote_within {
            tracing::warn!(
                ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                candidates_wait_ms = u64::try_from(self.vote_within.as_millis()).unwrap_or(u64::MAX),
                "the disk took longer to sync a vote than a candidate waits for it: a group that needs this vote stays \
                 without a leader; raise raftElectionTimeoutMinMillis and raftElectionTimeoutMaxMillis, or mend the disk"
            );
        }
        result.inspect_err(|error| self.halt.stop(format!("a vote could not be written: {error}")))
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log.note_committed(from_raft_log_id(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        let state = self.log.state();
        // What was purged had been applied: there is nothing to replay up to it.
        let beyond =
            state.committed.filter(|committed| state.purged.is_none_or(|purged| committed.index > purged.index));
        Ok(beyond.map(to_raft_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(to_log_entry).collect();
        let halt = self.halt.clone();
        self.log.append(
            entries,
            Box::new(move |result| {
                if let Err(error) = &result {
                    halt.stop(format!("the log could not be written: {error}"));
                }
                callback.io_completed(result);
            }),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> Result<(), io::Error> {
        if last_log_id.as_ref().is_some_and(|last| last.index + 1 >= self.log.visible().end) {
            // Nothing stands after it.
            return Ok(());
        }
        self.log.truncate_after(last_log_id.as_ref().map(from_raft_log_id))
    }

    async fn purge(&mut self, log_id: RaftLogId) -> Result<(), io::Error> {
        self.log.purge_upto(from_raft_log_id(&log_id))
    }
}

fn closed() -> io::Error {
    io::Error::other("the log is closed")
}
