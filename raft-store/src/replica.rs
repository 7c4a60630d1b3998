//! The state machine adapter: committed entries become rows, a chunk at a time, never ahead of the local log.
//!
//! Rule I1: what is durable in the state is durable in the log. With `SYNC_FLUSH` a chunk waits for the local
//! log before its batch is written, because RocksDB may flush whenever it likes. With `ASYNC_FLUSH` apply waits
//! for nothing; there every flush of the state goes through [`Flusher`], which syncs the log first, and the write
//! buffers stand so far above our own flush trigger that RocksDB does not flush by itself.

use crate::flush::Flusher;
use crate::halt::Halt;
use crate::log::Log;
use crate::log_store::READ_BYTES_MAX;
use crate::machine::{Committed, Machine};
use crate::raft_types::{
    RaftLogId, SnapshotMeta, StoredMembership, Types, decode_stored, encode_stored, from_raft_log_id, to_raft_log_id,
};
use crate::snapshot::{SnapshotData, Snapshots};
use crate::state::{META, ReadState, State, StateError};
use crate::types::{LogId, LogIndex, Term};
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use raftmq_proto::raft as wire;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries in one batch of rows. Each is itself a batch of messages.
const CHUNK_ENTRIES_MAX: usize = 128;

/// A chunk of more bytes is handed to a thread that may block; up to here that would cost more than it spares.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// A follower applies up to so many entries, of so many bytes together, without letting anything else of the group go
/// first.
const AT_ONCE_ENTRIES_MAX: usize = 4;
const AT_ONCE_BYTES_MAX: usize = 16 << 10;

/// A node that starts says this often how far it is.
const SAY_EVERY: Duration = Duration::from_secs(3);

type Chunk = Vec<EntryResponder<Types>>;

/// Key of the row that names the last entry applied.
pub(crate) const APPLIED: &[u8] = b"applied";
const MEMBERSHIP: &[u8] = b"membership";

/// How far a state is, as its own rows say.
pub(crate) struct Applied {
    pub(crate) id: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

/// Reads how far `state` is.
pub(crate) fn read_applied(state: &State) -> Result<Applied, StateError> {
    let corrupt = |what: String| StateError::Corrupt { table: META, what };
    let id = state.get(state.meta(), APPLIED)?.map(|row| decode_applied(&row)).transpose()?;
    let membership = match state.get(state.meta(), MEMBERSHIP)? {
        Some(row) => decode_stored(&row).map_err(|error| corrupt(error.to_string()))?,
        None => StoredMembership::default(),
    };
    Ok(Applied { id, membership })
}

/// What the row at [`APPLIED`] says.
pub(crate) fn decode_applied(row: &[u8]) -> Result<LogId, StateError> {
    let id: wire::LogId =
        prost::Message::decode(row).map_err(|error| StateError::Corrupt { table: META, what: error.to_string() })?;
    Ok(crate::raft_types::log_id_from_wire(id))
}

/// What openraft applies to.
pub struct Replica {
    state: State,
    /// Locked by one at a time: by a chunk that is applied, wherever that happens.
    machine: Arc<Mutex<Box<dyn Machine>>>,
    log: Log,
    flusher: Arc<Flusher>,
    snapshots: Arc<Snapshots>,
    halt: Halt,
    applied: Option<RaftLogId>,
    membership: StoredMembership,
    /// While the entries are applied that were committed when the node stopped.
    replay: Option<Replay>,
}

/// How far a node is that starts.
struct Replay {
    began: Instant,
    said: Instant,
    from: u64,
    upto: u64,
}

impl Replay {
    /// What is to be applied; `None` when that is nothing.
    fn of(applied: Option<u64>, committed: Option<u64>) -> Option<Replay> {
        let (from, upto) = (applied.unwrap_or(0), committed?);
        let now = Instant::now();
        (from < upto).then(|| {
            tracing::info!(applied = from, committed = upto, entries = upto - from, "entries are applied again");
            Replay { began: now, said: now, from, upto }
        })
    }

    /// Says now and then how far it is; whether it is over.
    fn applied(&mut self, index: u64) -> bool {
        let (done, entries) = (index.saturating_sub(self.from), self.upto - self.from);
        let over = index >= self.upto;
        if over {
            tracing::info!(entries, took = ?self.began.elapsed(), "entries were applied again");
        } else if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            let percent = done * 100 / entries;
            tracing::info!(done, entries, percent, "entries are applied again");
        }
        over
    }
}

impl Replica {
    pub(crate) fn new(
        state: State,
        machine: Box<dyn Machine>,
        log: Log,
        flusher: Arc<Flusher>,
        snapshots: Arc<Snapshots>,
        halt: Halt,
    ) -> Result<Replica, StateError> {
        let applied = read_applied(&state)?;
        let replay = Replay::of(applied.id.map(|id| id.index), log.state().committed.map(|id| id.index));
        let replica = Replica {
            state,
            machine: Arc::new(Mutex::new(machine)),
            log,
            flusher,
            snapshots,
            halt,
            applied: applied.id.map(to_raft_log_id),
            membership: applied.membership,
            replay,
        };
        if let Some(id) = applied.id {
            replica.machine.lock().restored(LogIndex(id.index));
        }
        Ok(replica)
    }

    async fn apply_chunk(&mut self, chunk: Chunk, bytes: usize) -> io::Result<()> {
        let Some((last, _)) = chunk.last() else {
            return Ok(());
        };
        let last = last.log_id;
        if self.flusher.waits_for_log() && !gate_is_broken() {
            self.log.wait_durable(last.index).await?;
        }
        // What the other members wait for goes out first: a leader has only just told its connections what is
        // committed, and a member whose client waits for the answer cannot apply it before it knows. A follower only
        // has to say that it heard of it; while there is much to apply, also what else it has on disk.
        let leads = chunk.iter().any(|(_, responder)| responder.is_some());
        if leads || chunk.len() > AT_ONCE_ENTRIES_MAX || bytes > AT_ONCE_BYTES_MAX {
            tokio::task::yield_now().await;
        }
        let flusher = self.flusher.clone();
        let _open = flusher.write_gate().await;
        let (state, machine) = (self.state.clone(), self.machine.clone());
        let (chunk, written) = if bytes > INLINE_BYTES_MAX {
            tokio::task::spawn_blocking(move || write_or_catch(&state, &machine, chunk)).await?
        } else {
            write_or_catch(&state, &machine, chunk)
        };
        let Written { bytes: row_bytes, membership } = written.map_err(|error| {
            self.halt.stop(format!("entries up to {} could not be applied: {error}", from_raft_log_id(&last)));
            io::Error::other(error)
        })?;
        self.applied = Some(last);
        if self.replay.as_mut().is_some_and(|replay| replay.applied(last.index)) {
            self.replay = None;
        }
        if let Some(membership) = membership {
            self.membership = membership;
        }
        self.flusher.wrote(row_bytes);
        for (_, responder) in chunk {
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }
}

/// What the rows of a chunk came to.
struct Written {
    bytes: usize,
    /// The last membership among the entries.
    membership: Option<StoredMembership>,
}

/// Gives the chunk back: whoever waits for its entries is told by the caller. A machine that panics must end the
/// node: otherwise it would lead on without applying anything.
fn write_or_catch(
    state: &State,
    machine: &Mutex<Box<dyn Machine>>,
    chunk: Chunk,
) -> (Chunk, Result<Written, StateError>) {
    let written = std::panic::catch_unwind(AssertUnwindSafe(|| write_chunk(state, machine.lock().as_mut(), &chunk)))
        .unwrap_or_else(|_| Err(StateError::Io("the state machine panicked".to_owned())));
    (chunk, written)
}

/// Writes the rows of a chunk as one batch and tells the machine.
fn write_chunk(
    state: &State,
    machine: &mut dyn Machine,
    chunk: &[EntryResponder<Types>],
) -> Result<Written, StateError> {
    let mut batch = state.batch();
    let mut applied = None;
    let mut membership = None;
    for (entry, _) in chunk {
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(command) => {
                let entry = Committed {
                    index: LogIndex(entry.log_id.index),
                    term: Term(entry.log_id.leader_id.term),
                    payload: command.payload.clone(),
                };
                machine.apply(&entry, &mut batch)?;
            }
            EntryPayload::Membership(members) => {
                membership = Some(StoredMembership::new(Some(entry.log_id), members.clone()));
            }
        }
        applied = Some(entry.log_id);
    }
    let Some(applied) = applied else {
        return Ok(Written { bytes: 0, membership });
    };
    let id = crate::raft_types::raft_log_id_to_wire(&applied);
    batch.put(state.meta(), APPLIED, prost::Message::encode_to_vec(&id));
    if let Some(membership) = &membership {
        batch.put(state.meta(), MEMBERSHIP, encode_stored(membership));
    }
    let bytes = batch.bytes();
    batch.write()?;
    machine.applied(LogIndex(applied.index));
    Ok(Written { bytes, membership })
}

/// Whether a test wants to see what happens without rule I1.
fn gate_is_broken() -> bool {
    #[cfg(feature = "test-faults")]
    let broken = crate::log::faults::apply_before_sync();
    #[cfg(not(feature = "test-faults"))]
    let broken = false;
    broken
}

impl RaftStateMachine<Types> for Replica {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Arc<Snapshots>;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while let Some(item) = entries.try_next().await? {
            if let EntryPayload::Normal(command) = &item.0.payload {
                bytes += command.payload.len();
            }
            chunk.push(item);
            if bytes >= READ_BYTES_MAX || chunk.len() >= CHUNK_ENTRIES_MAX {
                self.apply_chunk(std::mem::take(&mut chunk), bytes).await?;
                bytes = 0;
            }
        }
        self.apply_chunk(chunk, bytes).await
    }

    async fn get_snapshot_builder(&mut self) -> Arc<Snapshots> {
        self.snapshots.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let snapshots = self.snapshots.clone();
        let meta = meta.clone();
        let installing = tokio::task::spawn_blocking(move || snapshots.install(&meta, &snapshot));
        let installed = installing.await?.inspect_err(|error| {
            self.halt.stop(format!("a snapshot could not be installed: {error}"));
        })?;
        self.applied = installed.id.map(to_raft_log_id);
        self.replay = None;
        self.membership = installed.membership;
        self.machine.lock().restored(LogIndex(installed.id.map_or(0, |id| id.index)));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, SnapshotData>>, io::Error> {
        let now = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        Ok(self.snapshots.current(now))
    }
}
