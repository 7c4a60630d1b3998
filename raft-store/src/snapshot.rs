//! Snapshots: a hard-linked copy of the rows as of some applied entry, and putting such a copy in place.
//!
//! A copy is built from a state that was flushed with the log synced before it (rule I1), and says itself how far
//! it is: the applied id is read back from the copy, not assumed. It lives under `pins/` until nobody holds it.
//! Installing makes a new state folder, names it in the MANIFEST (the one commit point) and swaps it in behind
//! every [`State`] handle. Between nodes the log does all the catching up for now: nothing is purged from it.

use crate::flush::Flusher;
use crate::identity::Home;
use crate::raft_types::{SnapshotMeta, Types, from_raft_log_id, to_raft_log_id};
use crate::replica::{Applied, read_applied};
use crate::state::{State, StateError, StateOptions};
use openraft::RaftSnapshotBuilder;
use openraft::type_config::alias::SnapshotOf;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A copy of the rows on disk. Its folder goes when the last handle does.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pinned: Arc<Pinned>,
}

#[derive(Debug)]
struct Pinned {
    path: PathBuf,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an old checkpoint stays until the next start");
        }
    }
}

impl Checkpoint {
    fn new(path: PathBuf) -> Checkpoint {
        Checkpoint { pinned: Arc::new(Pinned { path }) }
    }

    /// Folder of the copy.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.pinned.path
    }
}

/// Builds and installs snapshots of one node's rows.
pub struct Snapshots {
    state: State,
    machine_tables: &'static [&'static str],
    options: StateOptions,
    flusher: Arc<Flusher>,
    home: Arc<Home>,
    next_pin: AtomicU64,
    current: Mutex<Option<SnapshotOf<Types, Checkpoint>>>,
}

impl Snapshots {
    pub(crate) fn new(
        state: State,
        machine_tables: &'static [&'static str],
        options: StateOptions,
        flusher: Arc<Flusher>,
        home: Arc<Home>,
    ) -> Snapshots {
        Snapshots {
            state,
            machine_tables,
            options,
            flusher,
            home,
            next_pin: AtomicU64::new(1),
            current: Mutex::new(None),
        }
    }

    /// The latest snapshot built or installed since the start; the same copy each time it is asked for.
    pub(crate) fn current(&self) -> Option<SnapshotOf<Types, Checkpoint>> {
        self.current.lock().clone()
    }

    /// Gives up the latest snapshot, and with it the files that only it still holds.
    pub(crate) fn forget(&self) {
        *self.current.lock() = None;
    }

    async fn build(&self) -> Result<SnapshotOf<Types, Checkpoint>, StateError> {
        let pins = self.home.pins();
        std::fs::create_dir_all(&pins).map_err(|error| failed("create", &pins, &error))?;
        let path = pins.join(self.next_pin.fetch_add(1, Ordering::Relaxed).to_string());
        let tables = self.machine_tables;
        let (checkpoint, applied) = self
            .flusher
            .quiet(move |state| {
                state.checkpoint(&path)?;
                let checkpoint = Checkpoint::new(path);
                let applied = read_applied(&State::open_read_only(checkpoint.path(), tables)?)?;
                Ok((checkpoint, applied))
            })
            .await?;
        let meta = SnapshotMeta { last_log_id: applied.id.map(to_raft_log_id), last_membership: applied.membership };
        let snapshot = SnapshotOf::<Types, Checkpoint> { meta, snapshot: checkpoint };
        *self.current.lock() = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Puts the rows of `checkpoint` in the place of the present ones.
    pub(crate) fn install(&self, meta: &SnapshotMeta, checkpoint: &Checkpoint) -> io::Result<Applied> {
        let number = self.home.state_number() + 1;
        let target = self.home.state_path(number);
        link_folder(checkpoint.path(), &target)?;
        let state = State::open(&target, self.machine_tables, &self.options).map_err(io::Error::other)?;
        let applied = read_applied(&state).map_err(io::Error::other)?;
        let expected = meta.last_log_id.as_ref().map(from_raft_log_id);
        if applied.id != expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the snapshot says it ends at {expected:?}, its rows end at {:?}", applied.id),
            ));
        }
        self.home.set_state(number, applied.id)?;
        self.state.replace(&state);
        let kept = SnapshotOf::<Types, Checkpoint> { meta: meta.clone(), snapshot: checkpoint.clone() };
        *self.current.lock() = Some(kept);
        Ok(applied)
    }
}

impl RaftSnapshotBuilder<Types> for Arc<Snapshots> {
    type SnapshotData = Checkpoint;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Checkpoint>, io::Error> {
        self.build().await.map_err(io::Error::other)
    }
}

/// Makes `target` a copy of the files of `source` that may be written to: tables, which never change, are linked.
fn link_folder(source: &Path, target: &Path) -> io::Result<()> {
    if target.exists() {
        // Left by an installation that never reached the MANIFEST.
        std::fs::remove_dir_all(target)?;
    }
    std::fs::create_dir_all(target)?;
    for entry in std::fs::read_dir(source)? {
        let from = entry?.path();
        let Some(name) = from.file_name() else { continue };
        let to = target.join(name);
        let linked =
            from.extension().is_some_and(|extension| extension == "sst") && std::fs::hard_link(&from, &to).is_ok();
        if !linked {
            std::fs::copy(&from, &to)?;
            std::fs::File::open(&to)?.sync_all()?;
        }
    }
    std::fs::File::open(target)?.sync_all()?;
    if let Some(parent) = target.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn failed(what: &str, path: &Path, error: &io::Error) -> StateError {
    StateError::Io(format!("could not {what} {}: {error}", path.display()))
}
