//! Snapshots: a hard-linked copy of the rows as of some applied entry, and putting such a copy in place.
//!
//! A copy is built from a state that was flushed with the log synced before it (rule I1), and says itself how far
//! it is: the applied id is read back from the copy, not assumed. It lives under `pins/` until nobody holds it.
//! Installing makes a new state folder, names it in the MANIFEST (the one commit point) and swaps it in behind
//! every [`State`] handle; what was received from a leader brings its own log along. [`crate::ship`] carries copies from
//! node to node.

use crate::flush::Flusher;
use crate::identity::Home;
use crate::log::Log;
use crate::machine::Versions;
use crate::raft_types::{SnapshotMeta, Types, from_raft_log_id, to_raft_log_id};
use crate::replica::{Applied, read_applied};
use crate::ship::{Received, Shipment};
use crate::state::{State, StateError, StateOptions};
use crate::types::LogId;
use openraft::RaftSnapshotBuilder;
use openraft::type_config::alias::SnapshotOf;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

/// What openraft calls a snapshot.
#[derive(Debug, Clone)]
pub enum SnapshotData {
    /// Rows of this node.
    Copy(Checkpoint),
    /// Rows of this node that are copied once a member is there to take them.
    Due,
    /// Rows and entries that members are sent.
    Shipment(Arc<Shipment>),
    /// Rows and entries that a leader sent.
    Received(Arc<Received>),
}

/// Builds and installs snapshots of one node's rows.
pub struct Snapshots {
    state: State,
    log: Log,
    machine_tables: &'static [&'static str],
    versions: Versions,
    options: StateOptions,
    flusher: Arc<Flusher>,
    home: Arc<Home>,
    next_pin: AtomicU64,
    current: Mutex<Option<SnapshotOf<Types, SnapshotData>>>,
    /// The node takes part in its group: a snapshot that is asked for is for a member.
    ships: AtomicBool,
    shipment: Mutex<Option<Arc<Shipment>>>,
    /// Held while one is made.
    shipping: tokio::sync::Mutex<()>,
}

impl Snapshots {
    pub(crate) fn new(
        state: State,
        log: Log,
        machine_tables: &'static [&'static str],
        versions: Versions,
        options: StateOptions,
        flusher: Arc<Flusher>,
        home: Arc<Home>,
    ) -> Snapshots {
        Snapshots {
            state,
            log,
            machine_tables,
            versions,
            options,
            flusher,
            home,
            next_pin: AtomicU64::new(1),
            current: Mutex::new(None),
            ships: AtomicBool::new(false),
            shipment: Mutex::new(None),
            shipping: tokio::sync::Mutex::default(),
        }
    }

    /// From now on a snapshot that is asked for is for a member.
    pub(crate) fn ship(&self) {
        self.forget();
        self.ships.store(true, Ordering::Relaxed);
    }

    /// A snapshot for whoever asks; `now` is how far the rows are. For a member: what is being shipped, the same each
    /// time, or else one that will be as of `now` or later. Otherwise the latest built or installed since the start.
    pub(crate) fn current(&self, now: SnapshotMeta) -> Option<SnapshotOf<Types, SnapshotData>> {
        if !self.ships.load(Ordering::Relaxed) {
            return self.current.lock().clone();
        }
        Some(match self.shipment.lock().clone() {
            Some(shipment) => {
                SnapshotOf::<Types, _> { meta: shipment.meta.clone(), snapshot: SnapshotData::Shipment(shipment) }
            }
            None => SnapshotOf::<Types, _> { meta: now, snapshot: SnapshotData::Due },
        })
    }

    /// What is shipped to members, as of `least` or later. It is made when there is none.
    pub(crate) async fn shipment(&self, least: Option<LogId>) -> Result<Arc<Shipment>, StateError> {
        let _one = self.shipping.lock().await;
        let enough = |shipment: &Arc<Shipment>| least.is_none_or(|least| shipment.end.index >= least.index);
        if let Some(shipment) = self.shipment.lock().clone().filter(enough) {
            return Ok(shipment);
        }
        // A flush that fails would stop the node.
        if !self.flusher.has_room() {
            return Err(StateError::Io("there is no room to flush the rows".to_owned()));
        }
        let pin = self.log.pin();
        let (checkpoint, applied) = self.copy().await?;
        let end = applied.id.filter(|end| least.is_none_or(|least| end.index >= least.index));
        let end = end.ok_or_else(|| StateError::Io(format!("the copy of the rows ends at {:?}", applied.id)))?;
        let meta = SnapshotMeta { last_log_id: Some(to_raft_log_id(end)), last_membership: applied.membership };
        let path = checkpoint.path().to_path_buf();
        let shipment =
            Shipment::new(meta, end, checkpoint, pin).map_err(|error| failed("list the files of", &path, &error))?;
        let shipment = Arc::new(shipment);
        *self.shipment.lock() = Some(shipment.clone());
        Ok(shipment)
    }

    /// Gives up what is shipped if `when`; what is under way is not disturbed. True when it did.
    pub(crate) fn drop_shipment(&self, when: impl FnOnce(&Shipment) -> bool) -> bool {
        let mut shipment = self.shipment.lock();
        let dropped = shipment.take_if(|shipment| when(shipment));
        drop(shipment);
        // Deletes the folder, if nobody is being sent it.
        dropped.is_some()
    }

    /// Gives up the latest snapshot, and with it the files that only it still holds.
    pub(crate) fn forget(&self) {
        *self.current.lock() = None;
    }

    async fn build(&self) -> Result<SnapshotOf<Types, SnapshotData>, StateError> {
        let (checkpoint, applied) = self.copy().await?;
        let meta = SnapshotMeta { last_log_id: applied.id.map(to_raft_log_id), last_membership: applied.membership };
        let snapshot = SnapshotOf::<Types, SnapshotData> { meta, snapshot: SnapshotData::Copy(checkpoint) };
        *self.current.lock() = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Copies the rows.
    async fn copy(&self) -> Result<(Checkpoint, Applied), StateError> {
        let pins = self.home.pins();
        std::fs::create_dir_all(&pins).map_err(|error| failed("create", &pins, &error))?;
        let path = pins.join(self.next_pin.fetch_add(1, Ordering::Relaxed).to_string());
        let tables = self.machine_tables;
        self.flusher
            .quiet(move |state| {
                state.checkpoint(&path)?;
                let checkpoint = Checkpoint::new(path);
                let applied = read_applied(&State::open_read_only(checkpoint.path(), tables)?)?;
                Ok((checkpoint, applied))
            })
            .await
    }

    /// Puts the rows of `snapshot` in the place of the present ones, and its log in the place of the present one where
    /// it has one.
    pub(crate) fn install(&self, meta: &SnapshotMeta, snapshot: &SnapshotData) -> io::Result<Applied> {
        match snapshot {
            SnapshotData::Copy(checkpoint) => {
                let (number, state, applied) = self.open_copy(meta, checkpoint.path())?;
                self.home.set_state(number, applied.id)?;
                self.state.replace(&state);
                let kept = SnapshotOf::<Types, SnapshotData> { meta: meta.clone(), snapshot: snapshot.clone() };
                *self.current.lock() = Some(kept);
                Ok(applied)
            }
            SnapshotData::Received(received) => {
                let applied = received.with(|staging| {
                    let (number, state, applied) = self.open_copy(meta, &staging.folder())?;
                    staging.take_the_place_of(&self.log)?;
                    self.home.set_world(number, staging.log_name(), applied.id)?;
                    // Rows that are visible find their entries.
                    self.log.replace(staging.log());
                    self.state.replace(&state);
                    Ok(applied)
                })?;
                received.installed();
                Ok(applied)
            }
            SnapshotData::Due | SnapshotData::Shipment(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "what is for another member is not installed here"))
            }
        }
    }

    /// Opens a copy of the rows at `source` in the state folder that comes next.
    fn open_copy(&self, meta: &SnapshotMeta, source: &Path) -> io::Result<(u64, State, Applied)> {
        let number = self.home.state_number() + 1;
        let target = self.home.state_path(number);
        link_folder(source, &target)?;
        let state = State::open(&target, self.machine_tables, &self.options).map_err(io::Error::other)?;
        self.versions.check(&state).map_err(io::Error::other)?;
        let applied = read_applied(&state).map_err(io::Error::other)?;
        let expected = meta.last_log_id.as_ref().map(from_raft_log_id);
        if applied.id != expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the snapshot says it ends at {expected:?}, its rows end at {:?}", applied.id),
            ));
        }
        Ok((number, state, applied))
    }
}

impl RaftSnapshotBuilder<Types> for Arc<Snapshots> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, SnapshotData>, io::Error> {
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
